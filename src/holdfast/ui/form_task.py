"""Build an EditTask from the page's form: the clip, the mask in all its forms, and the changed settings."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from .. import methods
from ..base.errors import InputNotFoundError, UserError
from ..base.files import atomic_write
from ..base.schema import list_settings
from ..media import masks, overlays, previews, video
from ..media.video import CODECS
from ..models import registry
from ..pipeline import loop, track_mask
from ..pipeline import run as editing
from ..pipeline.task import EditTask
from ..pipeline.track_mask import MaskTask
from ..pipeline.validation import ValidatedTask, validate
from . import path_checks, storage, widgets
from .queue import RunQueue

NO_MASK, AUTO, BOX, BRUSH, FILE = "none", "automatic", "box", "brush", "file"
MASK_SOURCES = (NO_MASK, AUTO, BOX, BRUSH, FILE)


@dataclass(frozen=True)
class FormValues:
    """The values of the form.

    fields: of EditTask, as the widgets hold them. settings: those that the user changed.
    mask_source: one of MASK_SOURCES. box, file, marks: the mask for that source; marks are painted pictures by frame.
    follow: track a box or a painted picture through the clip.
    """

    clip: str
    fields: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    mask_source: str = NO_MASK
    box: str = ""
    file: str | None = None
    marks: Mapping[int, str] = field(default_factory=dict)
    follow: bool = True


def open_clip(upload: str | None, path: str, queue: RunQueue, what: str = "clip") -> video.Clip:
    """Return a clip of the form. Raise UserError as the command line does. what: its name in messages."""
    name, limits = path.strip() or upload or "", queue.limits
    if not name:
        raise UserError(f"there is no {what}", "upload one, or type its path")
    check_paths(queue, {what: name})
    if not Path(name).exists():
        raise InputNotFoundError(f"there is no file {name}")
    storage.touch(name)
    clip = video.probe(name)
    if clip.frames > limits.max_frames:
        raise UserError(
            f"{Path(name).name} has {clip.frames} frames, but this page takes {limits.max_frames}",
            "cut it, or have the page started with a higher --max-frames",
        )
    return clip


def check_paths(queue: RunQueue, values: Mapping[str, Any]) -> None:
    """Raise UserError where a page that accepts remote connections would open a file outside its folder."""
    if not queue.limits.allows_paths:
        path_checks.check_inside_folder(values, queue.root)


def describe_clip(clip: video.Clip) -> str:
    """Return a line on a clip: size, length, rate and audio."""
    width, height = clip.size
    seconds = float(clip.frames / clip.rate) if clip.rate else 0
    count = clip.audio_tracks
    audio = f", {count} audio track{'s' * (count > 1)}" if count else ", no audio"
    rate = float(Fraction(clip.rate))
    return f"{width}x{height}, {clip.frames} frames, {rate:.4g} a second ({seconds:.1f} s){audio}"


def build_task(form: FormValues, queue: RunQueue) -> EditTask:
    """Return the task of a form. Raise UserError for a wrong value, as EditTask does, and for a wrong mask."""
    schema = list_settings(EditTask)
    values = {name: widgets.parse_value(schema[name], value) for name, value in form.fields.items()}
    values = {name: value for name, value in values.items() if value is not None}
    settings = {name: value for name, value in form.settings.items() if value not in ("", None)}
    values |= {"settings": settings, "strength": settings.pop("strength", None)}
    options = mask_options(form)
    check_paths(queue, values | {"input": form.clip, "mask": options})  # before any file is opened
    if options and form.follow and form.mask_source in (BOX, BRUSH):
        options = [track_form_mask(form.clip, options, queue)]
    is_still = form.mask_source == BRUSH and not form.follow
    mask = options[0].partition("=")[2] if is_still else next(iter(options), None)
    task = EditTask(input=form.clip, output="", mask=mask or None, **values)
    check_paths(queue, task.to_dict())
    return task


def mask_options(form: FormValues) -> list[str]:
    """Return the mask as `--mask` and `--brush` take it. Raise UserError where it is missing."""
    if form.mask_source == NO_MASK:
        return []
    if form.mask_source == AUTO:
        return ["auto"]
    if form.mask_source == FILE:
        if not form.file:
            raise UserError("there is no mask", "upload one, or choose another kind of mask")
        return [form.file]
    if form.mask_source == BOX:
        if not masks.BOX.fullmatch(form.box):
            raise UserError(
                f"the box is {form.box.strip() or 'empty'}",
                "type the box as x,y,width,height in pixels of the clip",
            )
        return [form.box.strip()]
    if not form.marks:
        raise UserError("nothing is painted", "paint the area to edit, on any frame of the clip")
    return [f"{frame}={path}" for frame, path in sorted(form.marks.items())]


def track_form_mask(clip: str, options: list[str], queue: RunQueue) -> str:
    """Return a mask file of boxes or pictures tracked through the clip. It is made once for the same options."""
    parts = [clip, *(path.partition("=")[2] or path for path in options)]
    for part in parts:
        storage.touch(part)
    stamps = [str(Path(part).stat().st_mtime_ns) for part in parts if Path(part).exists()]
    key = hashlib.sha256("\n".join([*parts, *options, *stamps]).encode()).hexdigest()[:16]
    path = queue.uploads / f"mask-{key}.mkv"
    if not path.exists():
        is_box = masks.BOX.fullmatch(options[0]) is not None
        boxes, brushes = (tuple(options), ()) if is_box else ((), tuple(options))
        task = MaskTask(clip, str(path), boxes=boxes, brushes=brushes)
        track_mask.make_mask(task, _ignore_progress)
    return str(path)


def _ignore_progress(stage: str, done: int, count: int) -> None:
    """Do nothing: the page does not show the progress of a mask."""


def save_brush_mask(editor: Mapping[str, Any] | None, queue: RunQueue) -> str | None:
    """Return the file of what was painted, white on black, or None where nothing was painted."""
    layers = [np.asarray(layer) for layer in (editor or {}).get("layers", [])]
    alphas = [layer[..., 3] > 0 for layer in layers if layer.ndim == 3 and layer.shape[2] == 4]
    painted = np.logical_or.reduce(alphas) if alphas else np.zeros((1, 1), bool)
    if not painted.any():
        return None
    from PIL import Image

    key = hashlib.sha256(np.packbits(painted).tobytes()).hexdigest()[:16]
    path = queue.uploads / f"brush-{key}.png"
    with atomic_write(path) as part:
        Image.fromarray(painted.astype(np.uint8) * 255).save(part)
    return str(path)


def suffix_for_codec(codec: str) -> str:
    """Return the suffix of a container for a codec: MP4 where it can hold the codec."""
    suffixes = CODECS[codec].suffixes if codec in CODECS else (".mp4",)
    return ".mp4" if ".mp4" in suffixes else suffixes[0]


def read_display_frame(clip: video.Clip, index: int, queue: RunQueue) -> ndarray:
    """Return a frame of a clip at display size, uint8 H W 3."""
    return queue.proxies.read(clip, min(max(0, int(index)), clip.frames - 1))


def render_mask_clip(task: EditTask, queue: RunQueue) -> str:
    """Return the file of a small clip with the mask over the source. Raise UserError where there is no mask."""
    if task.mask is None:
        raise UserError("there is no mask to show", "choose a kind of mask first")
    inputs = validate(task)
    inside = find_auto_mask(task, queue) if task.mask == "auto" else read_mask(task, inputs)
    frames = islice(video.read(inputs.clip), inputs.part.start, inputs.part.stop)
    tinted = (overlays.draw_mask(*pair) for pair in zip(frames, inside, strict=False))
    path = queue.uploads / f"mask-shown-{task.latent_key()}.mp4"
    rate = float(inputs.clip.rate)
    with atomic_write(path) as part:
        part.write_bytes(previews.encode_preview([tinted], inputs.clip.size, rate))
    return str(path)


def read_mask(task: EditTask, inputs: ValidatedTask) -> Iterator[ndarray]:
    """Yield the frames of a task's mask. Any size and polarity is allowed: the user looks at it."""
    return loop.open_task_mask(task, inputs.clip, inputs.part, allow_any=True).frames()


def find_auto_mask(task: EditTask, queue: RunQueue) -> Iterator[ndarray]:
    """Run an edit up to its automatic mask and return it. Raise UserError where another edit uses the model."""
    if not queue.model_lock.acquire(blocking=False):
        raise UserError(
            "the model is busy with another edit", "wait for it, or choose another kind of mask"
        )
    try:
        backbone = queue.backbone(task)
        shown = replace(task, allow_any_mask=True)
        return track_mask.find_auto_mask(
            editing.open_session(shown, backbone), backbone, _ignore_progress
        )
    finally:
        queue.model_lock.release()


def compatible_methods(backbone: str) -> list[str]:
    """Return the methods that run on a backbone."""
    return methods.list_compatible(registry.find_spec(backbone).capabilities)
