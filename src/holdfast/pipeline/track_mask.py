"""A mask made from marks on a few frames, or found by an edit's words: written as a clip, with one to look at."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy import ndarray

from ..base.errors import InputNotFoundError, UserError
from ..base.files import whole, write_json
from ..base.notices import note
from ..media import marks as anchors
from ..media import masks, overlays, video
from ..media.marks import Marks
from .output_paths import check_output_path, manifest_path, parse_output
from .task import EditTask, parse_frame_range

if TYPE_CHECKING:
    from ..models.base import Backbone
    from .run import EditSession

Report = Callable[[str, int, int], None]  # stage, done, count
LOSSLESS = {".mkv", ".mp4", ".mov", ".m4v", ".png", ""}
LEFT, SPREAD = 0.1, 3.0  # of its area where it was marked: less is lost, more has spread


@dataclass(frozen=True)
class MaskTask:
    """What to mask, and where that is written. boxes, points, brushes and words: texts as `anchors.parsed` takes them,
    those of words "[N=]TEXT".
    """

    input: str
    output: str
    boxes: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    brushes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    exact: bool = False
    frames: str | None = None
    preview: str | None = None
    by: Literal["grabcut", "sam2"] = "grabcut"
    weights: str | None = None
    detector: str | None = None
    device: str = "auto"


@dataclass(frozen=True)
class MaskOutput:
    """A clip, and the two files that are made of it."""

    clip: video.Clip
    part: range
    output: Path
    preview: Path

    @property
    def output_clip(self) -> video.Clip:
        """The clip's size and times, and nothing else of it."""
        even = not any(side % 2 for side in self.clip.size)
        return video.Clip(
            self.clip.path,
            self.clip.size,
            self.clip.rate,
            self.clip.time_base,
            self.clip.times,
            self.clip.durations,
            pixel_format="yuv420p" if even else "yuv444p",
        )


def check_paths(
    source: str, output: str, preview: str | None, frames: str | None, also: tuple[str, ...] = ()
) -> MaskOutput:
    """Raises ValueError for a clip that cannot be read and for places that cannot be written. also: other files that
    the mask is made from.
    """
    for name in (source, *also):
        if not Path(name).exists():
            raise InputNotFoundError(f"there is no file {name}")
    path = parse_output(output)
    beside = parse_output(preview) if preview else path.with_name(f"{path.stem}.preview.mp4")
    if beside == path:
        raise UserError(f"the mask and its preview are both {path}; give another --preview")
    if path.suffix.lower() not in LOSSLESS:
        raise UserError(f"cannot write {path} without loss: use .mkv, .mp4, .mov or a folder")
    for place in (path, beside):
        check_output_path(place, (source, *also))
    clip = video.probe(source)
    place = MaskOutput(clip, parse_frame_range(frames, clip.frames), path, beside)
    video.check_output(path, place.output_clip, "lossless")
    video.check_output(beside, place.output_clip)
    return place


def make_mask(task: MaskTask, report: Report) -> dict:
    """Make a mask from marks. Returns what is written beside it as JSON.

    Raises ValueError for bad input, Missing where weights are not here.
    """
    place = check_paths(task.input, task.output, task.preview, task.frames, _brush_files(task))
    marks = collect_marks(task, place.clip)
    if task.by == "sam2":
        from ..models.vision import sam2

        model = sam2.load(task.weights, task.device)
        found = {n: model.anchor(anchors.at(place.clip, n), marks[n]) for n in sorted(marks)}
        using = model.followers()
    else:
        if task.weights:
            note("--weights has no effect with --tracker grabcut, which needs none")
        found = {n: anchors.segment_marks(anchors.at(place.clip, n), marks[n]) for n in sorted(marks)}
        using = None
    from ..media.propagation import propagate

    carried_masks = propagate(place.clip, found, place.part, using)
    manifest = write_mask(place, carried_masks, {n: float(m.mean()) for n, m in found.items()}, report)
    return _said(place, manifest | {"by": task.by, "exact": task.exact})


def _brush_files(task: MaskTask) -> tuple[str, ...]:
    return tuple(anchors.split_frame_number(text)[1] for text in task.brushes)


def collect_marks(task: MaskTask, clip: video.Clip) -> dict[int, Marks]:
    """The marks of a task by frame. Raises ValueError for what is no mark, and where there is none."""
    found: dict[int, Marks] = {}
    kinds = (("box", task.boxes), ("points", task.points), ("brush", task.brushes))
    for kind, texts in kinds:
        for text in texts:
            frame, marks = anchors.parse_marks(text, clip, kind)
            found[frame] = found.get(frame, Marks()) + marks
    if task.words:
        from ..models.vision import grounding

        for text in task.words:
            frame, words = anchors.split_frame_number(text)
            boxes = grounding.find_boxes(anchors.at(clip, frame), words, task.detector, task.device)
            found[frame] = found.get(frame, Marks()) + Marks(boxes=boxes)
    if not found:
        raise UserError("say what to mask: --box, --points, --brush, --words or --auto")
    lacking = [n for n, m in found.items() if not (m.boxes or m.points or m.brush is not None)]
    if lacking:
        raise UserError(f"frame {lacking[0]} has only points beside the thing; mark one inside")
    return {n: replace(marks, exact=task.exact) for n, marks in found.items()}


def make_auto_mask(task: EditTask, output: str, preview: str | None, report: Report) -> dict:
    """Write the mask that `edit --mask auto` would use. task: with the mask "auto" and no output."""
    from ..models import registry
    from . import run as editing

    place = check_paths(task.input, output, preview, task.frames)
    edit = editing.open_session(
        replace(task, allow_any_mask=True), None
    )  # it is written, to be looked at
    report("read", 1, 1)
    backbone = registry.load_backbone(task.backbone, task.weights, task.device, task.dtype)
    report("load", 1, 1)
    found = find_auto_mask(edit, backbone, report)
    return _said(place, write_mask(place, found, {}, report) | {"by": "auto", "task": task.to_dict()})


def find_auto_mask(edit: "EditSession", backbone: "Backbone", report: Report) -> Iterator[ndarray]:
    """The walk of an edit, up to where its mask is found: one boolean H W for each frame of the part."""
    from . import loop

    job = loop.LoopJob(
        edit.plan,
        frames=edit.frames,
        make_auto_mask=lambda cells: edit.use_auto_mask(backbone.clip_format, cells),
        first_frame=edit.first_frame,
    )
    with contextlib.closing(loop.run_loop(job, backbone)) as events:
        for event in events:
            if isinstance(event, loop.Progress):
                report(event.stage, event.done, event.count)
            if isinstance(event, loop.AutoMaskFound):
                return edit.use_auto_mask(backbone.clip_format, event.cells)()
    raise UserError("no mask was found: the prompts are equal")


def write_mask(
    place: MaskOutput, found: Iterator[ndarray], marks: dict[int, float], report: Report
) -> dict:
    """Write masks of the part, and then the clip with them over it. marks: their areas where they were marked, as a
    share of the frame, by frame. Returns what can be said of them.
    """
    shares: list[float] = []
    video.write(place.output, place.output_clip, _frames(place, found, shares, report), "lossless")
    with whole(place.preview) as part:
        video.write(part, place.output_clip, _previews(place, report))
    return {
        "output": str(place.output),
        "preview": str(place.preview),
        "frames": place.clip.frames,
        "size": list(place.clip.size),
        "part": [place.part.start, place.part.stop],
        "marked": sorted(marks),
        "shares": [round(share, 5) for share in shares],
        "notes": mask_warnings(shares, place.part, marks),
    }


def _frames(
    place: MaskOutput, found: Iterator[ndarray], shares: list[float], report: Report
) -> Iterator[ndarray]:
    """The whole clip's masks as pictures: black outside the part."""
    for i in range(place.clip.frames):
        inside = next(found) if i in place.part else np.zeros(place.clip.size[::-1], bool)
        if i in place.part:
            shares.append(float(inside.mean()))
        yield np.repeat(inside[..., None], 3, axis=2) * np.uint8(255)
        report("mask", i + 1, place.clip.frames)


def _previews(place: MaskOutput, report: Report) -> Iterator[ndarray]:
    pairs = zip(video.read(place.clip), video.read(video.probe(place.output)), strict=True)
    for i, (frame, mask) in enumerate(pairs):
        yield overlays.draw_mask(frame, masks.threshold(mask, place.clip.size))
        report("preview", i + 1, place.clip.frames)


def mask_warnings(shares: list[float], part: range, marks: dict[int, float]) -> list[str]:
    """What is wrong with masks, by their share of each frame. marks: that of the frames where they were marked."""
    if not any(shares):
        return ["the mask is empty: nothing would change; mark the thing, or give more points"]
    if min(shares) == 1:
        return ["the mask is full: all may change; points beside the thing (!x,y) take away"]
    said = []
    if not all(shares):
        empty = [n for n, share in zip(part, shares, strict=True) if not share]
        said.append(
            f"the mask is empty on {len(empty)} of {len(shares)} frames, first on {empty[0]}"
        )
    for first, share in sorted(marks.items()):
        until = min((n for n in marks if n > first), default=part.stop)
        run = [(n, shares[n - part.start]) for n in range(first + 1, until) if n in part]
        said += _runs(run, first, share)
    return said


def _runs(run: list[tuple[int, float]], first: int, share: float) -> list[str]:
    """Of the frames that follow a mark: whether the thing is lost, or has spread, up to the next mark or the end."""
    said = []
    lost = next((n for n, area in run if area < LEFT * share), None)
    if lost is not None and run[-1][1] < LEFT * share:
        said.append(
            f"the mask of frame {first} is lost from frame {lost} on; if the thing is still there, "
            f"mark it again: --box {lost}=x,y,w,h"
        )
    wide = next((n for n, area in run if area > SPREAD * share), None)
    if wide is not None:
        said.append(
            f"from frame {wide} on the mask is {SPREAD:g} times what was marked on frame {first}: "
            f"look at the preview; --box {wide}=x,y,w,h mends it"
        )
    return said


def _said(place: MaskOutput, manifest: dict) -> dict:
    for text in manifest["notes"]:
        note(text)
    write_json(manifest_path(place.output), manifest)
    return manifest
