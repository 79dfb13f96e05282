"""From what the page holds to an EditTask: the clip, the mask in all its ways, the settings that somebody changed."""

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
from ..base.files import whole
from ..base.schema import list_settings
from ..media import masks, overlaid, showing, video
from ..media.video import CODECS
from ..models import registry
from ..pipeline import loop, run, track_mask
from ..pipeline.task import EditTask
from ..pipeline.track_mask import MaskTask
from ..pipeline.validation import Taken, taken
from . import fence, storage, widgets
from .desk import Desk

NO_MASK, AUTO, BOX, BRUSH, FILE = "none", "automatic", "box", "brush", "file"
WAYS = (NO_MASK, AUTO, BOX, BRUSH, FILE)


@dataclass(frozen=True)
class Asked:
    """What stands on the page."""

    clip: str
    fields: Mapping[str, Any]  # of EditTask, as the widgets hold them
    settings: Mapping[str, Any] = field(default_factory=dict)  # that somebody changed
    way: str = NO_MASK
    box: str = ""
    file: str | None = None
    marks: Mapping[int, str] = field(default_factory=dict)  # painted pictures by their frame
    follow: bool = True  # a box or a painted picture is carried through the clip


def clip_of(upload: str | None, path: str, desk: Desk) -> video.Clip:
    """The clip that is meant. Raises ValueError with the sentence that the command line gives."""
    named, limits = path.strip() or upload or "", desk.limits
    if not named:
        raise UserError("give a clip: upload one, or type its path")
    check(desk, {"input": named})
    if not Path(named).exists():
        raise InputNotFoundError(f"there is no file {named}")
    storage.touch(named)
    clip = video.probe(named)
    if clip.frames > limits.frames:
        raise UserError(
            f"{Path(named).name} has {clip.frames} frames, and this page takes {limits.frames}",
            "cut it, or have the page started with a higher --max-frames",
        )
    return clip


def check(desk: Desk, values: Mapping[str, Any]) -> None:
    """Raise UserError where a page that other machines reach is to open a file that is not in its folder."""
    if not desk.limits.anywhere:
        fence.check_inside(values, desk.root)


def described(clip: video.Clip) -> str:
    """A clip in a line."""
    width, height = clip.size
    seconds = float(clip.frames / clip.rate) if clip.rate else 0
    sound = f", {clip.audio} audio track{'s' * (clip.audio > 1)}" if clip.audio else ", no sound"
    rate = float(Fraction(clip.rate))
    return f"{width}x{height}, {clip.frames} frames, {rate:.4g} a second ({seconds:.1f} s){sound}"


def task_of(asked: Asked, desk: Desk) -> EditTask:
    """The task that is asked for. Raises ValueError as EditTask and the marks do."""
    known = list_settings(EditTask)
    values = {name: widgets.given(known[name], value) for name, value in asked.fields.items()}
    values = {name: value for name, value in values.items() if value is not None}
    settings = {name: value for name, value in asked.settings.items() if value not in ("", None)}
    values |= {"settings": settings, "strength": settings.pop("strength", None)}
    texts = mask_of(asked)
    check(desk, values | {"input": asked.clip, "mask": texts})  # before anything is opened
    if texts and asked.follow and asked.way in (BOX, BRUSH):
        texts = [followed(asked.clip, texts, desk)]
    mask = texts[0].partition("=")[2] if asked.way == BRUSH and not asked.follow else None
    task = EditTask(input=asked.clip, output="", mask=mask or next(iter(texts), None), **values)
    check(desk, task.to_dict())
    return task


def mask_of(asked: Asked) -> list[str]:
    """What says where the mask is, as `--mask` and `--brush` take it. Raises UserError where it is not given."""
    if asked.way == NO_MASK:
        return []
    if asked.way == AUTO:
        return ["auto"]
    if asked.way == FILE:
        if not asked.file:
            raise UserError("there is no mask", "upload one, or choose another way to give it")
        return [asked.file]
    if asked.way == BOX:
        if not masks.BOX.fullmatch(asked.box):
            wanted = "type the box as x,y,width,height in pixels of the clip"
            raise UserError(f"the box is {asked.box.strip() or 'empty'}", wanted)
        return [asked.box.strip()]
    if not asked.marks:
        raise UserError(
            "nothing is painted", "paint over what is to change, on any frame of the clip"
        )
    return [f"{frame}={path}" for frame, path in sorted(asked.marks.items())]


def followed(name: str, texts: list[str], desk: Desk) -> str:
    """A mask file of marks that are carried through the clip; made once for the same marks."""
    told = [name, *(path.partition("=")[2] or path for path in texts)]
    for path in told:
        storage.touch(path)
    stamps = [str(Path(path).stat().st_mtime_ns) for path in told if Path(path).exists()]
    key = hashlib.sha256("\n".join([*told, *texts, *stamps]).encode()).hexdigest()[:16]
    path = desk.uploads / f"mask-{key}.mkv"
    if not path.exists():
        kind = "boxes" if masks.BOX.fullmatch(texts[0]) else "brushes"
        track_mask.made(MaskTask(name, str(path), **{kind: tuple(texts)}), _unheard)
    return str(path)


def _unheard(stage: str, done: int, count: int) -> None:
    """Nobody watches how far a mask is."""


def painted(editor: Mapping[str, Any] | None, desk: Desk) -> str | None:
    """What was painted over a frame as a picture's file, white inside; None where nothing was."""
    layers = [np.asarray(layer) for layer in (editor or {}).get("layers", [])]
    alphas = [layer[..., 3] > 0 for layer in layers if layer.ndim == 3 and layer.shape[2] == 4]
    inside = np.logical_or.reduce(alphas) if alphas else np.zeros((1, 1), bool)
    if not inside.any():
        return None
    from PIL import Image

    key = hashlib.sha256(np.packbits(inside).tobytes()).hexdigest()[:16]
    path = desk.uploads / f"brush-{key}.png"
    with whole(path) as part:
        Image.fromarray(inside.astype(np.uint8) * 255).save(part)
    return str(path)


def ending_of(codec: str) -> str:
    """Return the container that takes a codec, MP4 where it does."""
    suffixes = CODECS[codec].suffixes if codec in CODECS else (".mp4",)
    return ".mp4" if ".mp4" in suffixes else suffixes[0]


def frame_of(clip: video.Clip, at: int, desk: Desk) -> ndarray:
    """A frame of a clip as the page shows it, uint8 H W 3."""
    return desk.proxies.read(clip, min(max(0, int(at)), clip.frames - 1))


def shown_mask(task: EditTask, desk: Desk) -> str:
    """The mask over the clip, as a small clip that every browser plays; a file's name."""
    if task.mask is None:
        raise UserError("there is no mask to show", "choose how to give one")
    known = taken(task)
    inside = found_mask(task, desk) if task.mask == "auto" else bound(task, known)
    frames = islice(video.read(known.clip), known.part.start, known.part.stop)
    tinted = (overlaid.overlay(*pair) for pair in zip(frames, inside, strict=False))
    path = desk.uploads / f"mask-shown-{task.key()}.mp4"
    with whole(path) as part:
        part.write_bytes(showing.small([tinted], known.clip.size, float(known.clip.rate)))
    return str(path)


def bound(task: EditTask, known: Taken) -> Iterator[ndarray]:
    return loop.bind_mask(task, known.clip, known.part, allow_any=True).frames()  # it is looked at


def found_mask(task: EditTask, desk: Desk) -> Iterator[ndarray]:
    """The mask that the words find: an edit up to there. Raises UserError where another edit has the model."""
    if not desk.using.acquire(blocking=False):
        raise UserError(
            "the model is busy with another edit", "wait for it, or give the mask in another way"
        )
    try:
        backbone = desk.backbone(task)
        looked_at = replace(task, allow_any_mask=True)
        return track_mask.located(run.opened(looked_at, backbone), backbone, _unheard)
    finally:
        desk.using.release()


def fitting(backbone: str) -> list[str]:
    """The methods that a backbone carries."""
    module = registry.backbones()[backbone]
    return methods.list_compatible(module.MODELS[backbone].carries)
