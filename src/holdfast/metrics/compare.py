"""Run metrics over two clips in one pass: from files, or from frames of one size and length."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy import ndarray

from .. import metrics
from ..base.errors import MissingDependencyError, UserError
from ..base.notices import warn_user
from ..media import masks, video
from .base import FramePair, Judge, Metric, MetricModels, PairInfo

MetricValues = dict[str, float]  # by name
SkipReasons = dict[str, str]  # metric: why it was skipped
Frames = tuple[ndarray, ndarray, ndarray | None, ndarray | None]  # source, edited, mask, truth


@dataclass(frozen=True)
class ClipPair:
    """The files of a source and an edited clip, and what is known about them. Empty: unknown."""

    source: str
    edited: str
    mask: str | None = None
    truth: str | None = None
    source_prompt: str = ""
    target_prompt: str = ""
    object_prompt: str = ""
    judge: Judge | None = None
    frames: tuple[int, ...] = ()  # the source's that the edited clip has; empty: all


def compare_files(
    pair: ClipPair, models: MetricModels, names: Iterable[str] | None = None
) -> tuple[MetricValues, SkipReasons]:
    """Measure a pair of files. Return the values and the reasons for skipped metrics. See `compare_frames`.

    An edited or true clip of another size is resized to the source's; if lengths differ, only the first frames that
    all clips have are compared. A notice reports both. Raise UserError for files that cannot be read.
    """
    source = video.probe(pair.source)
    edited = video.probe(pair.edited)
    truth = video.probe(pair.truth) if pair.truth else None
    if pair.frames:
        source = video.sample(source, range(source.frames), pair.frames)
        edited = video.sample_alike(edited, source)
        truth = video.sample_alike(truth, source) if truth else None
    _note_differences(source, edited, truth)
    mask = (
        masks.open_mask(pair.mask, source, range(source.frames), allow_any=True)
        if pair.mask
        else None
    )
    width, height = source.size
    info = PairInfo(
        size=(height, width),
        source_prompt=pair.source_prompt,
        target_prompt=pair.target_prompt,
        object_prompt=pair.object_prompt,
        has_mask=mask is not None,
        has_truth=truth is not None,
        judge=pair.judge,
    )
    frames = zip(  # ends with the shortest
        _read_frames(source, source.size),
        _read_frames(edited, source.size),
        mask.frames() if mask else repeat(None),
        _read_frames(truth, source.size) if truth else repeat(None),
        strict=False,
    )
    return compare_frames(info, models, frames, names)


def _note_differences(source: video.Clip, edited: video.Clip, truth: video.Clip | None) -> None:
    others = {"edited": edited}
    if truth:
        others["true"] = truth
    length = min(source.frames, *(clip.frames for clip in others.values()))
    for role, clip in others.items():
        if clip.frames != source.frames:
            warn_user(
                f"the {role} clip has {clip.frames} frames, the source {source.frames}; "
                f"the first {length} are compared"
            )
        if clip.size != source.size:
            sizes = f"{_size_text(clip)}, the source {_size_text(source)}"
            warn_user(f"the {role} clip is {sizes}; it is resized")


def _size_text(clip: video.Clip) -> str:
    width, height = clip.size
    return f"{width}x{height}"


def _read_frames(clip: video.Clip, size: tuple[int, int]) -> Iterator[ndarray]:
    """Yield the frames as H W 3 float32 in [0, 1], resized to a width and height."""
    import cv2

    for frame in video.read(clip):
        array = frame.astype(np.float32) / np.iinfo(frame.dtype).max
        if clip.size != size:
            array = cv2.resize(array, size, interpolation=cv2.INTER_CUBIC).clip(0, 1)
        yield array


def compare_frames(
    info: PairInfo,
    models: MetricModels,
    frames: Iterable[Frames],
    names: Iterable[str] | None = None,
) -> tuple[MetricValues, SkipReasons]:
    """Measure the frames of a pair of clips in one pass. Return the values and the reasons for skipped metrics.

    frames: (source, edited, mask or None, truth or None) a frame, arrays H W 3 float32 in [0, 1] and H W boolean.
    names: of metrics (default: all). A metric whose weights, package or input is missing is skipped. Raise UserError
    if there is no frame.
    """
    selected, skipped = _prepare(info, models, names)
    pair = None
    for pair in _pairs(frames, models):
        for one in selected:
            if pair.index % one.stride == 0:
                one.metric.add(pair)
    if pair is None:
        raise UserError("there is no frame to measure")
    values: MetricValues = {}
    for one in selected:
        suffix = f" every {one.stride} frames" if one.stride > 1 else ""
        for name, value in one.metric.values().items():
            values[name + suffix] = value
    return values, skipped


@dataclass(frozen=True)
class _Selected:
    """A metric that uses every stride-th frame."""

    metric: Metric
    stride: int


def _prepare(
    info: PairInfo, models: MetricModels, names: Iterable[str] | None
) -> tuple[list[_Selected], SkipReasons]:
    selected: list[_Selected] = []
    skipped: SkipReasons = {}
    for name in metrics.names() if names is None else names:
        facts = metrics.find(name)
        missing = facts.requires - info.available_inputs()
        if missing:
            skipped[name] = f"needs {' and '.join(sorted(missing))}"
            continue
        stride = 1 if facts.every_frame else models.options.stride
        try:
            selected.append(_Selected(facts.metric(info, models), stride))
        except MissingDependencyError as error:
            skipped[name] = str(error)
    return selected, skipped


def _pairs(frames: Iterable[Frames], models: MetricModels) -> Iterator[FramePair]:
    previous = None
    for index, (source, edited, mask, truth) in enumerate(frames):
        pair = FramePair(index, source, edited, models)
        pair.optional_mask = mask
        pair.optional_truth = truth
        pair.previous = previous
        if previous is not None:
            previous.previous = None  # or every frame of the clip would stay in memory
        yield pair
        previous = pair
