"""Runs of the page that take a clip that was edited elsewhere: put its change back into the source, or compare both."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base.files import atomic_write, write_json
from ..base.notices import collect_notices
from ..conform.task import KeepTask
from ..media import masks, previews, video
from ..media.images import to_8_bit
from ..pipeline.output_paths import manifest_path, mask_picture_path
from .pictures import read_frames
from .runs import COMPARE, SIDE_BY_SIDE, STRIP, Run

if TYPE_CHECKING:
    from ..conform.kept_clip import KeptClip

MASK_CLIP = "change-over-source.mp4"  # in a run's folder
REPORT = "report"  # the output of a comparison: its manifest alone is written
CLIP_FIELDS = ("source", "edited", "mask")


def files_of(task: KeepTask) -> dict[str, str]:
    """Return the files of a task that may have been uploaded, by field; painted pictures as brush-1, brush-2 ..."""
    paths = {name: getattr(task, name) for name in CLIP_FIELDS}
    paths |= {f"brush-{i}": _brush_file(text) for i, text in enumerate(task.brushes, 1)}
    return {name: path for name, path in paths.items() if path and _is_file(path)}


def _is_file(text: str) -> bool:
    return masks.parse_box(text) is None and Path(text).is_file()


def _brush_file(text: str) -> str:
    return text.partition("=")[2] or text


def replace_files(task: KeepTask, keep: Callable[[str, str], str]) -> KeepTask:
    """Return a task with other files. keep: takes a field and its file, and returns the file to use instead."""
    kept = {field: keep(field, path) for field, path in files_of(task).items()}
    brushes = tuple(
        text.removesuffix(_brush_file(text)) + kept.get(f"brush-{i}", _brush_file(text))
        for i, text in enumerate(task.brushes, 1)
    )
    fields = {name: kept[name] for name in CLIP_FIELDS if name in kept}
    return replace(task, brushes=brushes, **fields)


def make_run(task: KeepTask, folder: Path, is_comparison: bool = False) -> Run:
    """Return a run whose files are in a folder. Raise UserError for a source that cannot be read."""
    if is_comparison:
        return Run(folder, replace(task, output=str(folder / REPORT)), is_comparison=True)
    stem = "".join(c if c.isalnum() else "-" for c in Path(task.edited).stem)[:40]
    output = folder / f"{stem}-kept{choose_suffix(task)}"
    return Run(folder, replace(task, output=str(output), preview=str(folder / MASK_CLIP)))


def choose_suffix(task: KeepTask) -> str:
    """Return the suffix of a container that holds the task's codec: MP4 where it can."""
    codec = task.codec
    if codec == "lossless":  # which codec that is depends on the source's samples
        codec = video.pick_codec(codec, ".mkv", video.probe(task.source))
    suffixes = video.CODECS[codec].suffixes if codec in video.CODECS else (".mp4",)
    return ".mp4" if ".mp4" in suffixes else suffixes[0]


def validate(run: Run) -> None:
    """Raise UserError for clips or files that cannot work, before the run is queued."""
    from ..conform import run as conforming

    assert isinstance(run.task, KeepTask)
    with collect_notices():
        conforming.validate(_without_output(run.task) if run.kind == COMPARE else run.task)


def _without_output(task: KeepTask) -> KeepTask:
    return replace(task, output="", preview=None)


def perform(run: Run) -> Callable[[], None]:
    """Perform a run and write its result. Return a function that writes its pictures for the page."""
    assert isinstance(run.task, KeepTask)
    return _compare(run, run.task) if run.kind == COMPARE else _keep(run, run.task)


def _keep(run: Run, task: KeepTask) -> Callable[[], None]:
    from ..conform import run as conforming

    with collect_notices():  # the manifest keeps them
        kept = conforming.keep(task, run.report_progress)
        kept.save(on_progress=run.report_progress)
    return partial(write_pictures, run, kept)


def write_pictures(run: Run, kept: "KeptClip") -> None:
    """Write the source with the change marked, a clip of it next to the result, and a strip of both."""
    from ..conform.writer import write_preview

    marked = run.folder / MASK_CLIP
    write_preview(kept, marked)
    clips = [map(to_8_bit, video.read(video.probe(path))) for path in (marked, run.output)]
    with atomic_write(run.folder / SIDE_BY_SIDE) as part:
        part.write_bytes(previews.encode_preview(clips, kept.clip.size, float(kept.clip.rate)))
    shutil.copyfile(mask_picture_path(run.output), run.folder / STRIP)


def _compare(run: Run, task: KeepTask) -> Callable[[], None]:
    from ..conform import run as conforming

    with collect_notices() as notices:
        report = conforming.compare(task.source, task.edited, run.report_progress)
    manifest: dict[str, Any] = {"task": task.to_dict(), "frames": report["source"]["frames"]}
    write_json(manifest_path(run.output), manifest | {"report": report, "notes": notices})
    return partial(write_strip, run, task)


def write_strip(run: Run, task: KeepTask) -> None:
    """Write a strip of frames of the source and of the edited clip, at the source's size."""
    import cv2

    clips = {"source": video.probe(task.source), "edited": video.probe(task.edited)}
    size = clips["source"].size
    columns = min(5, *(clip.frames for clip in clips.values()))
    rows: dict[str, list[np.ndarray]] = {}
    for name, clip in clips.items():
        frames = read_frames(clip, previews.sample_indices(clip.frames, columns))
        rows[name] = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    with atomic_write(run.folder / STRIP) as part:
        previews.draw_strip(rows, previews.MAX_WIDTH / columns / size[0]).save(part)
