"""Run metrics over two clips in one pass: frames of one size and length, a mask, a true result."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy import ndarray

from .. import metrics
from ..base.errors import MissingDependencyError, UserError
from ..base.notices import warn_user
from ..media import masks, video
from .base import Judge, Metric, Moment, Subject, Tools

Figures = dict[str, float]  # by name
Reasons = dict[str, str]  # why a metric was left out, by its name


@dataclass(frozen=True)
class Pair:
    """A source file, an edited one and what is known about them. Empty: not known."""

    source: str
    edited: str
    mask: str | None = None
    truth: str | None = None
    source_text: str = ""
    target_text: str = ""
    local_text: str = ""
    judge: Judge | None = None


def compare(pair: Pair, tools: Tools, only: list[str] | None = None) -> tuple[Figures, Reasons]:
    """Figures of a pair of files, and what was left out and why. See `measure`.

    An edited or true clip of another size is resized to the source's; of another length, only the frames that all have
    count: both with a note. Raises ValueError for files that cannot be read.
    """
    source = video.probe(pair.source)
    edited = video.probe(pair.edited)
    truth = video.probe(pair.truth) if pair.truth else None
    _tell_of_differences(source, edited, truth)
    mask = (
        masks.open_mask(pair.mask, source, range(source.frames), allow_any=True) if pair.mask else None
    )
    width, height = source.size
    subject = Subject(
        size=(height, width),
        source_text=pair.source_text,
        target_text=pair.target_text,
        local_text=pair.local_text,
        masked=mask is not None,
        truthful=truth is not None,
        judge=pair.judge,
    )
    frames = zip(  # the shortest one says how many
        _sized(source, source.size),
        _sized(edited, source.size),
        mask.frames() if mask else repeat(None),
        _sized(truth, source.size) if truth else repeat(None),
        strict=False,
    )
    return measure(subject, tools, frames, only)


def _tell_of_differences(source: video.Clip, edited: video.Clip, truth: video.Clip | None) -> None:
    others = {"edited": edited}
    if truth:
        others["true"] = truth
    length = min(source.frames, *(clip.frames for clip in others.values()))
    for what, clip in others.items():
        if clip.frames != source.frames:
            warn_user(
                f"the {what} clip has {clip.frames} frames, the source {source.frames}; "
                f"the first {length} are compared"
            )
        if clip.size != source.size:
            sizes = f"{_size_text(clip)}, the source {_size_text(source)}"
            warn_user(f"the {what} clip is {sizes}; it is resized")


def _size_text(clip: video.Clip) -> str:
    width, height = clip.size
    return f"{width}x{height}"


def _sized(clip: video.Clip, size: tuple[int, int]) -> Iterator[ndarray]:
    """Frames as H W 3 float32 in [0, 1] of a width and height."""
    import cv2

    for frame in video.read(clip):
        array = frame.astype(np.float32) / np.iinfo(frame.dtype).max
        if clip.size != size:
            array = cv2.resize(array, size, interpolation=cv2.INTER_CUBIC).clip(0, 1)
        yield array


def measure(
    subject: Subject, tools: Tools, moments: Iterable[tuple], only: Iterable[str] | None = None
) -> tuple[Figures, Reasons]:
    """Figures of one pair of clips, in one pass, and what was left out and why.

    moments: (source, edited, mask or None, truth or None) a frame, arrays H W 3 float32 in [0, 1] and H W boolean.
    only: names of metrics (default: all that the subject allows). A metric that misses its weights, a package or an
    input is left out with its reason. Raises ValueError where there is no frame.
    """
    chosen, left_out = _ready(subject, tools, only)
    moment = None
    for moment in _moments(moments, tools):
        for one in chosen:
            if moment.index % one.stride == 0:
                one.metric.add(moment)
    if moment is None:
        raise UserError("there is no frame to measure")
    figures: Figures = {}
    for one in chosen:
        every = f" every {one.stride} frames" if one.stride > 1 else ""
        for name, value in one.metric.figures().items():
            figures[name + every] = value
    return figures, left_out


@dataclass(frozen=True)
class _Chosen:
    """A metric that looks at every stride-th frame."""

    metric: Metric
    stride: int


def _ready(
    subject: Subject, tools: Tools, only: Iterable[str] | None
) -> tuple[list[_Chosen], Reasons]:
    chosen: list[_Chosen] = []
    left_out: Reasons = {}
    for name in metrics.names() if only is None else only:
        module = metrics.module(name)
        absent = module.NEEDS - subject.known()
        if absent:
            left_out[name] = f"needs {' and '.join(sorted(absent))}"
            continue
        stride = 1 if module.EVERY_FRAME else tools.options.stride
        try:
            chosen.append(_Chosen(module.Measure(subject, tools), stride))
        except MissingDependencyError as error:
            left_out[name] = str(error)
    return chosen, left_out


def _moments(items: Iterable[tuple], tools: Tools) -> Iterator[Moment]:
    last = None
    for index, (source, edited, mask, truth) in enumerate(items):
        moment = Moment(index, source, edited, tools)
        moment.mask = mask
        moment.truth = truth
        moment.previous = last
        if last is not None:
            last.previous = None  # or every frame of the clip would be kept
        yield moment
        last = moment
