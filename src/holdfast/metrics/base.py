"""The contract of a metric, and its input: the frames of a source and an edited clip, one pair after another."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy import ndarray
from pydantic import Field

from ..base.schema import Range, settings_class
from ..media.optical_flow import FlowFunction, dis, sharp_dis
from ._batching import Deferred
from ._embedders import ClipEmbedder, DinoEmbedder

MAX_PSNR_DB = 100.0  # equal frames count as this, so that means over frames and clips are finite

# Compares all edited frames (H W 3 float32) with a scene that is known as a program: values by name.
Judge = Callable[[list[ndarray]], dict[str, float]]
Direction = Literal["higher", "lower"]
LpipsNetwork = Literal["alex", "vgg", "squeeze"]
Requirement = Literal["mask", "truth", "judge", "source_prompt", "target_prompt", "object_prompt"]


@settings_class
class MetricOptions:
    """Options that change a metric's value. The option that was used is part of the value's name."""

    clip: str = Field(
        default="openai/clip-vit-large-patch14", description="folder or hub id of a CLIPModel"
    )
    dino: str = Field(
        default="facebook/dinov2-base",
        description="folder or hub id of a Dinov2Model, for local_dino",
    )
    structure: str = Field(
        default="facebook/dino-vitb8",
        description="folder or hub id of a ViTModel, for structure_distance",
    )
    lpips: LpipsNetwork = Field(default="alex", description="network of lpips")
    flow: Literal["dis", "sharp_dis", "raft"] = Field(
        default="dis",
        description="optical flow: OpenCV's DIS, a sharper DIS, or torchvision's RAFT, which most papers use",
    )
    warp_flow: Literal["source", "edited"] = Field(
        default="source", description="the clip whose flow warp_error follows"
    )
    warp_norm: Literal["squared", "absolute"] = Field(
        default="squared", description="how warp_error measures a difference"
    )
    tracks: Annotated[int, Range(1, 64)] = Field(
        default=16, description="motion_fidelity follows tracks x tracks points"
    )
    stride: Annotated[int, Range(1)] = Field(
        default=1,
        description="metrics of single frames use every stride-th frame (FiVE-Bench: 8)",
    )


@dataclass(frozen=True)
class PairInfo:
    """What is known of a pair of clips besides its frames. An empty prompt is unknown."""

    size: tuple[int, int]  # height, width
    source_prompt: str = ""
    target_prompt: str = ""
    object_prompt: str = ""  # describes the edited object alone: "a red jeep"
    has_mask: bool = False  # every frame comes with a mask
    has_truth: bool = False  # every frame comes with the true result
    judge: Judge | None = None

    def available_inputs(self) -> set[str]:
        """Return the requirements of metrics that this pair meets."""
        values = {
            "source_prompt": self.source_prompt,
            "target_prompt": self.target_prompt,
            "object_prompt": self.object_prompt,
            "judge": self.judge,
            "mask": self.has_mask,
            "truth": self.has_truth,
        }
        return {name for name, value in values.items() if value}


class MetricModels:
    """The networks and the flow that metrics share, each loaded on first use.

    flow: a function of two frames that replaces the flow of the options. device: where networks run; None: on the GPU
    if there is one. Attributes raise MissingDependencyError if weights or a package are missing.
    """

    def __init__(
        self,
        options: MetricOptions | None = None,
        flow: FlowFunction | None = None,
        device: str | None = None,
    ):
        self.options = options or MetricOptions()
        self._flow, self._device = flow, device

    @cached_property
    def device(self) -> str:
        import torch

        return self._device or ("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def flow(self) -> FlowFunction:
        flow = self._flow or {"dis": dis, "sharp_dis": sharp_dis}.get(self.options.flow)
        if flow:
            return flow
        from ..models.vision.raft import load_raft

        return load_raft(device=self.device)

    @property
    def flow_name(self) -> str:
        return getattr(self.flow, "__name__", type(self.flow).__name__)

    @cached_property
    def clip(self) -> ClipEmbedder:
        return ClipEmbedder(self.options.clip, self.device)

    @cached_property
    def dino(self) -> DinoEmbedder:
        return DinoEmbedder(self.options.dino, "dino", self.device)

    @cached_property
    def structure(self) -> DinoEmbedder:
        return DinoEmbedder(self.options.structure, "structure", self.device)


def short_name(location: str) -> str:
    """Return the name of a network in a value's name: the last part of its folder or hub id."""
    return Path(location).name


class FramePair:
    """One frame of both clips and the pair before it. Results that several metrics need are computed once.

    source, edited, truth: H W 3 float32 in [0, 1]; mask: H W boolean, True inside.
    """

    def __init__(self, index: int, source: ndarray, edited: ndarray, models: MetricModels):
        self.index = index
        self.source = source
        self.edited = edited
        self.models = models
        self.optional_mask: ndarray | None = None
        self.optional_truth: ndarray | None = None
        self.previous: FramePair | None = None

    @property
    def mask(self) -> ndarray:
        assert self.optional_mask is not None, "a metric without `mask` in its requirements uses it"
        return self.optional_mask

    @property
    def truth(self) -> ndarray:
        assert self.optional_truth is not None, (
            "a metric without `truth` in its requirements uses it"
        )
        return self.optional_truth

    @property
    def _before(self) -> "FramePair":
        assert self.previous is not None, "the first frame has no flow from a previous one"
        return self.previous

    @cached_property
    def embedding(self) -> Deferred[ndarray]:
        """CLIP's unit embedding of the edited frame, d."""
        return self.models.clip.embed(self.edited)

    @cached_property
    def source_flow(self) -> ndarray:
        """Flow from the previous frame of the source to this one, H W 2 in pixels."""
        return self.models.flow(self._before.source, self.source)

    @cached_property
    def source_flow_back(self) -> ndarray:
        return self.models.flow(self.source, self._before.source)

    @cached_property
    def edited_flow(self) -> ndarray:
        return self.models.flow(self._before.edited, self.edited)

    @cached_property
    def edited_flow_back(self) -> ndarray:
        return self.models.flow(self.edited, self._before.edited)

    @cached_property
    def mask_box(self) -> tuple[slice, slice] | None:
        """Rows and columns of the mask's bounding box; None if the mask is empty."""
        rows = np.flatnonzero(self.mask.any(1))
        columns = np.flatnonzero(self.mask.any(0))
        if not len(rows):
            return None
        return _span(rows), _span(columns)


def _span(indices: ndarray) -> slice:
    """Return the slice from the first to the last of sorted indices."""
    return slice(int(indices[0]), int(indices[-1]) + 1)


class Metric(ABC):
    """Accumulates pairs of frames in order, then returns its values by name: `name@variant/network`.

    A value that is undefined for a clip is NaN: one frame has no next one, a full mask has no outside.
    """

    @abstractmethod
    def __init__(self, info: PairInfo, models: MetricModels): ...

    @abstractmethod
    def add(self, pair: FramePair) -> None: ...

    @abstractmethod
    def values(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class MetricInfo:
    """The facts about a metric: every metric's module has one, as METRIC."""

    metric: type[Metric]
    directions: Mapping[str, Direction]  # by base name: which values are better
    requires: frozenset[Requirement] = frozenset()
    rates: frozenset[str] = frozenset()  # base names of values that are 0 or 1 for a clip
    every_frame: bool = True  # False: the option `stride` may skip frames


def nanmean(values: list[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    defined = [v for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else math.nan


def psnr(squared_error: float) -> float:
    """Return the PSNR of a mean squared error of values in [0, 1]: -10 log10(error); infinite for 0."""
    return math.inf if squared_error == 0 else -10 * float(np.log10(squared_error))


def capped_psnr(squared_error: float) -> float:
    """Return the PSNR of a mean squared error, at most MAX_PSNR_DB."""
    return MAX_PSNR_DB if squared_error <= 10 ** (-MAX_PSNR_DB / 10) else psnr(squared_error)
