"""Put another editor's change back into its source, and compare a pair of clips."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from ..base.errors import InputNotFoundError, UserError
from ..base.notices import collect_notices, warn_user
from ..media import masks, video
from ..pipeline.api import ScratchFolder
from ..pipeline.events import ProgressCallback
from ..pipeline.output_paths import check_disk_space, check_output_path, parse_output
from ..pipeline.track_mask import MaskTask, make_mask
from . import writer
from .analysis import Options
from .blending import usual_band
from .comparison import MIN_AREA, Comparison, check_share, compare_clips
from .kept_clip import KeptClip
from .pictures import Size, resize
from .report import make_report
from .task import KeepTask

POOR_FIT = 16.0  # grey levels


def ignore_progress(stage: str, done: int, count: int) -> None:
    """Take a report of progress and do nothing with it."""


@dataclass(frozen=True)
class ValidatedPair:
    """Two clips that can be read, and the files that are written."""

    source: video.Clip
    edited: video.Clip


def validate(task: KeepTask) -> ValidatedPair:
    """Read both clips, and check the task's files. Raise UserError for what cannot work, before any work."""
    check_files(task.input_files)
    source, edited = video.probe(task.source), video.probe(task.edited)
    box = masks.parse_box(task.mask or "")
    if box:
        masks.box_mask(box, source.size)
    if task.output:
        path = parse_output(task.output)
        check_output_path(path, task.input_files)
        codec = writer.pick_codec(task.codec, path, source)
        video.check_output(path, source, codec, task.crf)
        check_disk_space(path, source, codec)
    if task.preview:
        if (
            task.output
            and parse_output(task.preview).absolute() == parse_output(task.output).absolute()
        ):
            raise UserError(
                f"the result and its preview are both {task.output}", "give another --preview"
            )
        check_output_path(task.preview, [*task.input_files, task.output])
        video.check_output(parse_output(task.preview), source)
    return ValidatedPair(source, edited)


def check_files(names: Iterable[str]) -> None:
    """Raise InputNotFoundError for an input that does not exist, UserError for one that is not a regular file."""
    for name in names:
        if masks.parse_box(name):
            continue
        if not Path(name).exists():
            raise InputNotFoundError(f"there is no file {name}")
        video.check_regular_file(Path(name))


def keep(task: KeepTask, on_progress: ProgressCallback = ignore_progress) -> KeptClip:
    """Put the change of an edited clip back into its source. Save the result with `KeptClip.save`.

    Raise UserError for clips that do not belong together, and where most of the picture changed (unless task.whole).
    """
    pair = validate(task)
    scratch = ScratchFolder()
    with collect_notices() as notices:
        user_masks = find_user_masks(task, pair.source, scratch.path, on_progress)
        comparison = compare_pair(task, pair, scratch.path, user_masks, on_progress)
        replaces = user_masks is not None and task.mask_use == "replace"
        if not replaces and not task.whole:
            check_share(comparison)
        report = make_report(comparison)
        if replaces or task.whole:
            what = "The whole picture is taken" if task.whole else "The given mask is taken"
            report["sentence"] += f" {what} from the edited clip."
        warn_about(task, comparison, replaces)
    band = usual_band(pair.source.size, comparison.calibration.exact.quiet, task.grow, task.feather)
    result = KeptClip(task, comparison, report, band, task.whole)
    result.user_masks = user_masks if replaces else None
    result.scratch, result.notices = scratch, notices
    for notice in notices:
        warn_user(notice)
    return result


def compare_pair(
    task: KeepTask,
    pair: ValidatedPair,
    folder: Path,
    user_masks: Callable[[], Iterator[ndarray]] | None,
    on_progress: ProgressCallback,
) -> Comparison:
    """Compare the clips of a task. user_masks: where the change may be, at the source's size."""
    pixels = pair.source.size[0] * pair.source.size[1]
    area = MIN_AREA if task.min_area is None else task.min_area / pixels

    def limits(size: Size) -> Iterator[ndarray]:
        assert user_masks is not None
        return (resize(m.astype("uint8") * 255, size) > 0 for m in user_masks())

    is_limit = user_masks is not None and task.mask_use == "limit"
    return compare_clips(
        pair.source,
        pair.edited,
        folder,
        on_progress,
        Options(area, task.soft),
        task.ending == "hold",
        not task.whole,
        limits if is_limit else None,
    )


def find_user_masks(
    task: KeepTask, source: video.Clip, folder: Path, on_progress: ProgressCallback
) -> Callable[[], Iterator[ndarray]] | None:
    """Return a function that yields the user's masks, boolean H W, one a frame of the source; None without any."""
    file = task.mask
    if task.brushes or task.words:
        file = str(folder / "marks.mkv")
        marks = MaskTask(
            task.source, file, brushes=task.brushes, words=task.words, detector=task.detector
        )
        make_mask(marks, on_progress)
    if file is None:
        return None
    shape = masks.MaskShape(invert=task.invert_mask)
    return masks.open_mask(file, source, range(source.frames), shape).frames


def warn_about(task: KeepTask, comparison: Comparison, replaces: bool) -> None:
    """Give notices of what a user should know about a result."""
    timing = comparison.alignment.timing
    if not comparison.changed_frames and not replaces and not task.whole:
        warn_user(
            "nothing changed that stands out from the editor's noise: the result is the source"
        )
    if not timing.is_determined and comparison.edited.frames > 1:
        warn_user("too little moves to tell when the edited frames belong: equal times are assumed")
    missing = int(np.isnan(comparison.positions).sum())
    if missing:
        warn_user(
            f"the edited clip does not show {missing} of the source's {comparison.source.frames} frames: "
            "they stay as they are"
            + ("" if task.ending == "hold" else " (--ending hold repeats the nearest edited frame)")
        )
    level = comparison.calibration.exact.quiet
    if level > POOR_FIT and not task.whole:
        warn_user(
            f"outside the change the aligned clips still differ by {level:.0f} grey levels: "
            "check the picture of the mask"
        )
    warn_unused(task)


def warn_unused(task: KeepTask) -> None:
    """Give a notice for each option that has no effect."""
    has_mask = bool(task.mask or task.brushes or task.words)
    unused = {
        "--mask-use": task.mask_use != "limit" and not has_mask,
        "--invert-mask": task.invert_mask and not has_mask,
        "--detector": task.detector is not None and not task.words,
        "--crf": task.crf is not None
        and task.codec in ("lossless", "lossless-rgb", "ffv1", "prores"),
        "--min-area": task.min_area is not None and has_mask and task.mask_use == "replace",
    }
    for name in (name for name, is_unused in unused.items() if is_unused):
        warn_user(f"{name} has no effect here")


def compare(
    source: str | Path, edited: str | Path, on_progress: ProgressCallback = ignore_progress
) -> dict[str, Any]:
    """Return the report of what an editor changed in a clip, and what else.

    Raise UserError for clips that do not belong together.
    """
    task = KeepTask(str(source), str(edited))
    pair = validate(task)
    scratch = ScratchFolder()
    try:
        return make_report(compare_pair(task, pair, scratch.path, None, on_progress))
    finally:
        scratch.remove()
