"""Run metrics over two clips in one pass: frames of one size and length, a mask, a true result."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, repeat

import numpy as np

from . import masks, metrics, video
from .metrics.base import Metric, Moment, Subject, Tools
from .registry import Missing
from .shapeworld.scenes import Edit


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
    edit: Edit | None = None


def compare(pair: Pair, tools: Tools, only: list[str] | None = None) -> tuple[dict[str, float], dict[str, str]]:
    """Figures of a pair of files, and what was left out and why. See `measure`.

    An edited or true clip of another size is resized to the source's; of another length, only the frames that all have count: both
    with a warning. Raises ValueError for files that cannot be read.
    """
    source = video.probe(pair.source)
    others = [(what, video.probe(path)) for what, path in (("edited", pair.edited), ("true", pair.truth)) if path]
    length = min(source.frames, *(c.frames for _, c in others))
    for what, clip in others:
        if clip.frames != source.frames:
            warnings.warn(
                f"the {what} clip has {clip.frames} frames, the source {source.frames}; the first {length} are compared", stacklevel=2
            )
        if clip.size != source.size:
            sizes = ["{}x{}".format(*s) for s in (clip.size, source.size)]
            warnings.warn(f"the {what} clip is {sizes[0]}, the source {sizes[1]}; it is resized", stacklevel=2)
    mask = masks.bind(pair.mask, source, range(source.frames)) if pair.mask else None
    width, height = source.size
    texts = (pair.source_text, pair.target_text, pair.local_text)
    subject = Subject((height, width), *texts, masked=mask is not None, truthful=bool(pair.truth), edit=pair.edit)
    clips = [c for _, c in others]
    streams = [_sized(c, source.size) for c in (source, *clips)]
    return measure(subject, tools, _together(streams, mask, bool(pair.truth)), only)


def _together(streams: list[Iterator], mask: masks.Mask | None, truthful: bool) -> Iterator[tuple]:
    source, edited = streams[:2]
    truths = streams[2] if truthful else repeat(None)
    insides = mask.frames() if mask else repeat(None)
    yield from zip(source, edited, insides, truths, strict=False)  # the shortest one says how many


def _sized(clip: video.Clip, size: tuple[int, int]) -> Iterator[np.ndarray]:
    import cv2

    for frame in video.read(clip):
        array = frame.astype(np.float32) / np.iinfo(frame.dtype).max
        yield array if clip.size == size else cv2.resize(array, size, interpolation=cv2.INTER_CUBIC).clip(0, 1)


def measure(
    subject: Subject, tools: Tools, moments: Iterable[tuple], only: Iterable[str] | None = None
) -> tuple[dict[str, float], dict[str, str]]:
    """Figures of one pair of clips, in one pass, and what was left out and why.

    moments: (source, edited, mask or None, truth or None) a frame, arrays H W 3 float32 in [0, 1] and H W boolean.
    only: names of metrics (default: all that the subject allows). A metric that misses its weights, a package or an input is
    left out with its reason. Raises ValueError where there is no frame.
    """
    chosen, left_out = _ready(subject, tools, only)
    moment = None
    for moment in _moments(moments, tools):
        for metric, stride in chosen:
            if moment.index % stride == 0:
                metric.add(moment)
    if moment is None:
        raise ValueError("there is no frame to measure")
    figures: dict[str, float] = {}
    for metric, stride in chosen:
        figures |= {name + (f" every {stride} frames" if stride > 1 else ""): value for name, value in metric.figures().items()}
    return figures, left_out


def _ready(subject: Subject, tools: Tools, only: Iterable[str] | None) -> tuple[list[tuple[Metric, int]], dict[str, str]]:
    chosen, left_out = [], {}
    for name in metrics.names() if only is None else only:
        module = metrics.module(name)
        absent = module.NEEDS - subject.known()
        if absent:
            left_out[name] = f"needs {' and '.join(sorted(absent))}"
            continue
        try:
            chosen.append((module.Measure(subject, tools), 1 if module.EVERY_FRAME else tools.options.stride))
        except Missing as error:
            left_out[name] = str(error)
    return chosen, left_out


def _moments(items: Iterable[tuple], tools: Tools) -> Iterator[Moment]:
    last = None
    for index, (source, edited, mask, truth) in zip(count(), items, strict=False):
        moment = Moment(index, source, edited, tools)
        moment.mask, moment.truth, moment.previous = mask, truth, last
        if last is not None:
            last.previous = None  # or every frame of the clip would be kept
        yield moment
        last = moment
