"""`holdfast mask`: a mask from marks on a few frames, and a clip to check it with."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .console import print_wrote, report_errors, show_progress

if TYPE_CHECKING:
    from ..pipeline.track_mask import MaskTask

OUTPUT = "The mask: .mkv, .mp4, .mov or a folder, lossless; give it to edit --mask."
BOX = "A box around the object, [N=]x,y,w,h in pixels, on frame N (default 0); may be repeated."
POINTS = 'Points, "[N=]x,y x,y !x,y": in the object, with ! outside it; may be repeated.'
BRUSH = "A picture that is white where the object is, [N=]FILE; may be repeated."
WORDS = "Words for the object, [N=]TEXT, found by a detector; with --auto the words of the edit."
REFINE = "Tighten boxes and painted pictures to the edges of the object, or take them as they are."
FRAMES = "Limit to frames A to B-1, A:B; the mask is empty elsewhere."
PREVIEW = "The clip with the mask over it (default: next to the mask, mask.preview.mp4)."
TRACKER = "grabcut: optical flow and colours, no weights. sam2: SAM 2, if its weights are here."
WEIGHTS = "A folder or hub id of SAM 2's weights; with --auto, of the model's."
DETECTOR = "A folder or hub id of the detector's weights, for --words."
AUTO = "Write the mask that edit --mask auto would use, from the two prompts."
SOURCE = "With --auto: prompt that describes the clip."
TARGET = "With --auto: prompt that describes the edited clip."
JSON = "Print the manifest as JSON on standard output, and nothing else there."


def mask(
    clip: Annotated[str, typer.Argument(help="The clip.", metavar="CLIP")],
    output: Annotated[str, typer.Option("-o", "--output", help=OUTPUT)] = "mask.mkv",
    box: Annotated[list[str], typer.Option(help=BOX)] = [],  # noqa: B006
    points: Annotated[list[str], typer.Option(help=POINTS)] = [],  # noqa: B006
    brush: Annotated[list[str], typer.Option(help=BRUSH)] = [],  # noqa: B006
    words: Annotated[list[str], typer.Option(help=WORDS)] = [],  # noqa: B006
    refine: Annotated[bool, typer.Option("--refine/--no-refine", help=REFINE)] = True,
    frames: Annotated[str | None, typer.Option(help=FRAMES)] = None,
    preview: Annotated[str | None, typer.Option(help=PREVIEW)] = None,
    tracker: Annotated[Literal["grabcut", "sam2"], typer.Option(help=TRACKER)] = "grabcut",
    weights: Annotated[str | None, typer.Option(help=WEIGHTS)] = None,
    detector: Annotated[str | None, typer.Option(help=DETECTOR)] = None,
    device: Annotated[str, typer.Option(help="Where to compute.")] = "auto",
    auto: Annotated[bool, typer.Option("--auto", help=AUTO)] = False,
    source_prompt: Annotated[str, typer.Option("-s", "--source-prompt", help=SOURCE)] = "",
    target_prompt: Annotated[str, typer.Option("-t", "--target-prompt", help=TARGET)] = "",
    backbone: Annotated[str, typer.Option(help="With --auto: the model.")] = "wan2.1-1.3b",
    seed: Annotated[int, typer.Option(help="With --auto: the seed of the edit.")] = 0,
    json: Annotated[bool, typer.Option("--json", help=JSON)] = False,
) -> None:
    """Make a mask: mark the object on one or several frames; it is tracked forwards and backwards through the clip."""
    with report_errors():
        from ..base.files import as_json
        from ..pipeline import track_mask

        common = {"words": tuple(words), "frames": frames, "weights": weights, "device": device}
        marks = {"boxes": tuple(box), "points": tuple(points), "brushes": tuple(brush)}
        tracking = {
            "exact": not refine,
            "preview": preview,
            "tracker": tracker,
            "detector": detector,
        }
        task = track_mask.MaskTask(clip, output, **marks, **common, **tracking)
        warn_unused(task, auto, bool(source_prompt or target_prompt))
        prompts = {"source_prompt": source_prompt, "target_prompt": target_prompt}
        with show_progress(quiet=json) as report:
            if auto:
                edit = make_edit_task(clip, prompts | common | {"backbone": backbone, "seed": seed})
                manifest = track_mask.make_auto_mask(edit, output, preview, report)
            else:
                manifest = track_mask.make_mask(task, report)
        if json:
            print(as_json(manifest))
        else:
            print_wrote(f"{manifest['output']}; check it with {manifest['preview']}")


def make_edit_task(clip: str, values: dict[str, Any]) -> Any:
    """Return the edit whose automatic mask is asked for."""
    from ..pipeline.task import EditTask

    return EditTask(input=clip, output="", mask="auto", **values)


def warn_unused(task: "MaskTask", auto: bool, has_prompts: bool) -> None:
    """Warn the user of flags that have no effect."""
    from ..base.notices import warn_user

    is_marked = task.boxes or task.points or task.brushes
    if auto and (is_marked or task.exact or task.detector or task.tracker != "grabcut"):
        warn_user("marks, --no-refine, --tracker and --detector have no effect with --auto")
    if has_prompts and not auto:
        warn_user("--source-prompt and --target-prompt have no effect without --auto")
