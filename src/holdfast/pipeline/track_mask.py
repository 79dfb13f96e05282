"""Make a mask clip from marks on a few frames, or from an edit's prompts, and a preview clip to check it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy import ndarray

from ..base.errors import InputNotFoundError, UserError
from ..base.files import atomic_write, write_json
from ..base.notices import warn_user
from ..media import marks as marking
from ..media import masks, overlays, video
from ..media.frame_access import read_frame
from ..media.marks import Marks
from ..media.propagation import TrackerFactory, propagate
from .events import ProgressCallback
from .output_paths import check_output_path, manifest_path, parse_output
from .task import EditTask, parse_frame_range

if TYPE_CHECKING:
    from ..models.base import Backbone
    from .run import EditSession

Manifest = dict[str, Any]
LOSSLESS_SUFFIXES = {".mkv", ".mp4", ".mov", ".m4v", ".png", ""}
# A mask with less than the first share of its marked area is lost; with more than the second factor it has spread.
LOST_SHARE, SPREAD_FACTOR = 0.1, 3.0


@dataclass(frozen=True)
class MaskTask:
    """What to mask, and where to write it.

    boxes, points, brushes: texts that `marks.parse_marks` accepts; words: texts "[N=]TEXT" for the detector.
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
    tracker: Literal["grabcut", "sam2"] = "grabcut"
    weights: str | None = None
    detector: str | None = None
    device: str = "auto"


@dataclass(frozen=True)
class MaskOutput:
    """A clip, the part of it that is masked, and the two files to write."""

    clip: video.Clip
    part: range
    output: Path
    preview: Path

    @property
    def output_clip(self) -> video.Clip:
        """The size and times of the clip, without its audio and metadata."""
        is_even = not any(side % 2 for side in self.clip.size)
        return video.Clip(
            self.clip.path,
            self.clip.size,
            self.clip.rate,
            self.clip.time_base,
            self.clip.times,
            self.clip.durations,
            pixel_format="yuv420p" if is_even else "yuv444p",
        )


def check_paths(
    source: str, output: str, preview: str | None, frames: str | None, others: tuple[str, ...] = ()
) -> MaskOutput:
    """Return the clip and its output files, once they are checked.

    others: further files that the mask is made from. Raise UserError if an input does not exist or cannot be read, and
    if an output cannot be written.
    """
    for name in (source, *others):
        if not Path(name).exists():
            raise InputNotFoundError(f"there is no file {name}")
    path = parse_output(output)
    preview_path = parse_output(preview) if preview else path.with_name(f"{path.stem}.preview.mp4")
    if preview_path == path:
        raise UserError(f"the mask and its preview are both {path}", "give another --preview")
    if path.suffix.lower() not in LOSSLESS_SUFFIXES:
        raise UserError(f"cannot write {path} without loss", "use .mkv, .mp4, .mov or a folder")
    for file in (path, preview_path):
        check_output_path(file, (source, *others))
    clip = video.probe(source)
    target = MaskOutput(clip, parse_frame_range(frames, clip.frames), path, preview_path)
    video.check_output(path, target.output_clip, "lossless")
    video.check_output(preview_path, target.output_clip)
    return target


def make_mask(task: MaskTask, on_progress: ProgressCallback) -> Manifest:
    """Make a mask from marks, write it, and return its manifest.

    Raise UserError for bad input, and MissingDependencyError if weights are not there.
    """
    target = check_paths(task.input, task.output, task.preview, task.frames, _brush_files(task))
    marks = collect_marks(task, target.clip)
    anchors, tracker = _segment(task, target.clip, marks)
    tracked = propagate(target.clip, anchors, target.part, tracker)
    areas = {n: float(mask.mean()) for n, mask in anchors.items()}
    manifest = write_mask(target, tracked, areas, on_progress)
    return _finish(target, manifest | {"by": task.tracker, "exact": task.exact})


def _segment(
    task: MaskTask, clip: video.Clip, marks: dict[int, Marks]
) -> tuple[dict[int, ndarray], TrackerFactory | None]:
    """Return the masks of the marked frames, and the tracker for the others."""
    numbers = sorted(marks)
    if task.tracker == "sam2":
        from ..models.vision import sam2

        model = sam2.load(task.weights, task.device)
        anchors = {n: model.segment(read_frame(clip, n), marks[n]) for n in numbers}
        return anchors, model.tracker_factory()
    if task.weights:
        warn_user("--weights has no effect with --tracker grabcut, which needs none")
    return {n: marking.segment_marks(read_frame(clip, n), marks[n]) for n in numbers}, None


def _brush_files(task: MaskTask) -> tuple[str, ...]:
    return tuple(marking.split_frame_number(text)[1] for text in task.brushes)


def collect_marks(task: MaskTask, clip: video.Clip) -> dict[int, Marks]:
    """Return the marks of a task by frame.

    Raise UserError if there is none, if a text is no mark, and if a frame has only negative points.
    """
    by_frame: dict[int, Marks] = {}
    kinds = (("box", task.boxes), ("points", task.points), ("brush", task.brushes))
    for kind, texts in kinds:
        for text in texts:
            frame, marks = marking.parse_marks(text, clip, kind)
            by_frame[frame] = by_frame.get(frame, Marks()) + marks
    for frame, marks in _find_words(task, clip):
        by_frame[frame] = by_frame.get(frame, Marks()) + marks
    if not by_frame:
        raise UserError("nothing is marked", "use --box, --points, --brush, --words or --auto")
    for frame, marks in by_frame.items():
        if not (marks.boxes or marks.points or marks.brush is not None):
            raise UserError(
                f"frame {frame} has only negative points", "add a point inside the object"
            )
    return {n: replace(marks, is_exact=task.exact) for n, marks in by_frame.items()}


def _find_words(task: MaskTask, clip: video.Clip) -> Iterator[tuple[int, Marks]]:
    """Yield the frame and the boxes of each of a task's texts, by the detector."""
    for text in task.words:
        from ..models.vision import grounding

        frame, words = marking.split_frame_number(text)
        boxes = grounding.find_boxes(read_frame(clip, frame), words, task.detector, task.device)
        yield frame, Marks(boxes=boxes)


def make_auto_mask(
    task: EditTask, output: str, preview: str | None, on_progress: ProgressCallback
) -> Manifest:
    """Write the mask that `edit --mask auto` would use, and return its manifest.

    task: with the mask "auto" and no output.
    """
    from ..models import registry
    from . import run

    target = check_paths(task.input, output, preview, task.frames)
    # An empty or full mask is written too, so that the user can see it.
    edit = run.open_session(replace(task, allow_any_mask=True), None)
    on_progress("read", 1, 1)
    backbone = registry.load_backbone(task.backbone, task.weights, task.device, task.dtype)
    on_progress("load", 1, 1)
    masks_of_part = find_auto_mask(edit, backbone, on_progress)
    manifest = write_mask(target, masks_of_part, {}, on_progress)
    return _finish(target, manifest | {"by": "auto", "task": task.to_dict()})


def find_auto_mask(
    edit: "EditSession", backbone: "Backbone", on_progress: ProgressCallback
) -> Iterator[ndarray]:
    """Run an edit until its mask is found, and yield one boolean H W for each frame of the part."""
    from . import events, loop

    job = loop.LoopJob(
        edit.plan,
        frames=edit.frames,
        make_auto_mask=lambda cells: edit.use_auto_mask(backbone.clip_format, cells),
        first_frame=edit.first_frame,
    )
    with contextlib.closing(loop.run_loop(job, backbone)) as stream:
        for event in stream:
            if isinstance(event, events.Progress):
                on_progress(event.stage, event.done, event.count)
            if isinstance(event, events.AutoMaskFound):
                return iter(edit.use_auto_mask(backbone.clip_format, event.cells)())
    raise UserError("no mask was found, because the prompts are equal", "change the target prompt")


def write_mask(
    target: MaskOutput,
    masks_of_part: Iterator[ndarray],
    areas: dict[int, float],
    on_progress: ProgressCallback,
) -> Manifest:
    """Write the masks of the part, then a preview of the clip with the masks over it, and return the manifest.

    areas: the masks' share of the frame on the marked frames.
    """
    shares: list[float] = []
    pictures = _mask_pictures(target, masks_of_part, shares, on_progress)
    video.write(target.output, target.output_clip, pictures, "lossless")
    with atomic_write(target.preview) as temporary:
        video.write(temporary, target.output_clip, _preview_frames(target, on_progress))
    return {
        "output": str(target.output),
        "preview": str(target.preview),
        "frames": target.clip.frames,
        "size": list(target.clip.size),
        "part": [target.part.start, target.part.stop],
        "marked": sorted(areas),
        "shares": [round(share, 5) for share in shares],
        "notes": mask_warnings(shares, target.part, areas),
    }


def _mask_pictures(
    target: MaskOutput,
    masks_of_part: Iterator[ndarray],
    shares: list[float],
    on_progress: ProgressCallback,
) -> Iterator[ndarray]:
    """Yield the whole clip's masks as pictures, black outside the part, and append each share of the frame."""
    for i in range(target.clip.frames):
        mask = next(masks_of_part) if i in target.part else np.zeros(target.clip.size[::-1], bool)
        if i in target.part:
            shares.append(float(mask.mean()))
        yield np.repeat(mask[..., None], 3, axis=2) * np.uint8(255)
        on_progress("mask", i + 1, target.clip.frames)


def _preview_frames(target: MaskOutput, on_progress: ProgressCallback) -> Iterator[ndarray]:
    pairs = zip(video.read(target.clip), video.read(video.probe(target.output)), strict=True)
    for i, (frame, mask) in enumerate(pairs):
        yield overlays.draw_mask(frame, masks.threshold(mask, target.clip.size))
        on_progress("preview", i + 1, target.clip.frames)


def mask_warnings(shares: list[float], part: range, areas: dict[int, float]) -> list[str]:
    """Return what is probably wrong with masks.

    shares: the masks' share of each frame of the part; areas: their share on the marked frames.
    """
    if not any(shares):
        return [
            "the mask is empty, so nothing would change: mark the whole object with some background around it, "
            "or give more points"
        ]
    if min(shares) == 1:
        return ["the mask is full, so every pixel may change: add negative points (!x,y)"]
    warnings = []
    if not all(shares):
        empty = [n for n, share in zip(part, shares, strict=True) if not share]
        warnings.append(
            f"the mask is empty on {len(empty)} of {len(shares)} frames, first on {empty[0]}"
        )
    for first, share in sorted(areas.items()):
        if not share:
            warnings.append(
                f"no object was found in the mark on frame {first}: mark the whole object, "
                f"with some background around it"
            )
            continue
        stop = min((n for n in areas if n > first), default=part.stop)
        tracked = [(n, shares[n - part.start]) for n in range(first + 1, stop) if n in part]
        warnings += _tracking_warnings(tracked, first, share)
    return warnings


def _tracking_warnings(
    tracked: list[tuple[int, float]], first: int, marked_share: float
) -> list[str]:
    """Return whether the object is lost, or has spread, between a marked frame and the next one or the end.

    tracked: frame numbers and the masks' share of the frame.
    """
    warnings = []
    lost = next((n for n, share in tracked if share < LOST_SHARE * marked_share), None)
    if lost is not None and tracked[-1][1] < LOST_SHARE * marked_share:
        warnings.append(
            f"the mask of frame {first} is lost from frame {lost} on: if the object is still there, "
            f"mark it again with --box {lost}=x,y,w,h"
        )
    wide = next((n for n, share in tracked if share > SPREAD_FACTOR * marked_share), None)
    if wide is not None:
        warnings.append(
            f"from frame {wide} on the mask is {SPREAD_FACTOR:g} times what was marked on frame {first}: "
            f"check the preview, and if it is wrong, mark the object again with --box {wide}=x,y,w,h"
        )
    return warnings


def _finish(target: MaskOutput, manifest: Manifest) -> Manifest:
    """Issue a manifest's notices, write it, and return it."""
    for text in manifest["notes"]:
        warn_user(text)
    write_json(manifest_path(target.output), manifest)
    return manifest
