"""`holdfast mask`: a mask from marks on a few frames, and a clip to look at."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from .console import exit_codes, screen, shown_progress

if TYPE_CHECKING:
    from ..pipeline.track_mask import MaskTask

OUTPUT = "The mask: .mkv, .mp4, .mov or a folder, without loss; what `edit --mask` takes."
BOX = "A box around the thing, [N=]x,y,w,h in pixels, on frame N (else 0); may be repeated."
POINTS = 'Points, "[N=]x,y x,y !x,y": inside the thing, with ! beside it; may be repeated.'
BRUSH = "A picture painted bright where the thing is, [N=]FILE; may be repeated."
WORDS = "Words for the thing, [N=]TEXT, found by a detector; with --auto those that drive the edit."
EXACT = "Take boxes and painted pictures as they are, not tightened to edges."
PREVIEW = "The clip with the mask over it; by default beside the mask (mask.preview.mp4)."
WITH = "grabcut: optical flow and colours, no weights. sam2: SAM 2, if its weights are here."
WEIGHTS = "A folder or hub id of SAM 2's weights; with --auto, of the model's."
DETECTOR = "A folder or hub id of the detector's weights, for --words."
AUTO = "Write the mask that `edit --mask auto` would use, from --source and --target."


def mask(
    clip: Annotated[str, typer.Argument(help="The clip.", metavar="CLIP")],
    output: Annotated[str, typer.Option("-o", "--output", help=OUTPUT)] = "mask.mkv",
    box: Annotated[list[str], typer.Option(help=BOX)] = [],  # noqa: B006
    points: Annotated[list[str], typer.Option(help=POINTS)] = [],  # noqa: B006
    brush: Annotated[list[str], typer.Option(help=BRUSH)] = [],  # noqa: B006
    words: Annotated[list[str], typer.Option(help=WORDS)] = [],  # noqa: B006
    exact: Annotated[bool, typer.Option("--exact", help=EXACT)] = False,
    frames: Annotated[str | None, typer.Option(help="Only frames A:B; others are empty.")] = None,
    preview: Annotated[str | None, typer.Option(help=PREVIEW)] = None,
    by: Annotated[Literal["grabcut", "sam2"], typer.Option("--with", help=WITH)] = "grabcut",
    weights: Annotated[str | None, typer.Option(help=WEIGHTS)] = None,
    detector: Annotated[str | None, typer.Option(help=DETECTOR)] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")] = (
        "auto"
    ),
    auto: Annotated[bool, typer.Option("--auto", help=AUTO)] = False,
    source: Annotated[str, typer.Option(help="For --auto: describes the clip.")] = "",
    target: Annotated[str, typer.Option(help="For --auto: describes the wanted clip.")] = "",
    backbone: Annotated[str, typer.Option(help="For --auto: the model.")] = "wan2.1-1.3b",
    seed: Annotated[int, typer.Option(help="For --auto: that of the edit.")] = 0,
    json: Annotated[
        bool, typer.Option("--json", help="Print the manifest as JSON, alone.")
    ] = False,
) -> None:
    """Make a mask: mark the thing on one frame or on several, and it is carried through the clip, both ways."""
    with exit_codes():
        from ..base.files import as_json
        from ..pipeline import track_mask
        from ..pipeline.task import EditTask

        marks = {"boxes": tuple(box), "points": tuple(points), "brushes": tuple(brush)}
        asked = {"words": tuple(words), "frames": frames, "weights": weights, "device": device}
        own = {"exact": exact, "preview": preview, "tracker": by, "detector": detector}
        by_hand = track_mask.MaskTask(clip, output, **marks, **asked, **own)
        tell(by_hand, auto, bool(source or target))
        with shown_progress(quiet=json) as report:
            if auto:
                words_of = {"source": source, "target": target, "backbone": backbone, "seed": seed}
                task = EditTask(clip, "", **words_of, **asked, mask="auto")
                manifest = track_mask.make_auto_mask(task, output, preview, report)
            else:
                manifest = track_mask.make_mask(by_hand, report)
        if json:
            print(as_json(manifest))
            return
        wrote = escape(f"{manifest['output']}; look at it: {manifest['preview']}")
        screen.print(f"[green]wrote[/] {wrote}", highlight=False, soft_wrap=True)


def tell(asked: "MaskTask", auto: bool, prompts: bool) -> None:
    """Note what has no effect."""
    from ..base.notices import note

    marked = asked.boxes or asked.points or asked.brushes
    if auto and (marked or asked.exact or asked.detector or asked.tracker != "grabcut"):
        note("--auto looks by itself: marks, --exact, --with and --detector do nothing")
    if prompts and not auto:
        note("--source and --target have no effect without --auto")
