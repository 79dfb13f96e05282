"""What a metric is, and what it is given: one frame after another of a source and an edited clip."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from ..media.optical_flow import FlowFunction, dis, sharp_dis
from ._batches import Later
from ._embed import Clip, Dino

CAP = 100.0  # dB: where a frame is equal its PSNR counts as this, so that a mean over frames and clips exists
# Who knows the truth of a clip in another way than as a file: all edited frames, H W 3 float32, to figures by name.
Judge = Callable[[list[ndarray]], dict[str, float]]


@dataclass(frozen=True)
class Options:
    """What changes a metric's number. Each value in use is part of the figure's name."""

    clip: str = "openai/clip-vit-large-patch14"  # folder or hub id of a CLIPModel
    dino: str = "facebook/dinov2-base"  # folder or hub id of a Dinov2Model, for local_dino
    structure: str = "facebook/dino-vitb8"  # folder or hub id of a ViTModel, for structure_distance
    lpips: str = "alex"  # alex, vgg or squeeze
    flow: str = (
        "dis"  # dis and sharp_dis (OpenCV's), or raft (torchvision's), as most papers have it
    )
    warp_flow: str = "source"  # whose flow warp_error follows: source or edited
    warp_norm: str = "squared"  # squared or absolute
    tracks: int = 16  # motion_fidelity follows tracks x tracks points
    stride: int = 1  # metrics of single frames look at every stride-th (FiVE-Bench: 8)

    def __post_init__(self):
        choices = {
            "flow": ("dis", "sharp_dis", "raft"),
            "lpips": ("alex", "vgg", "squeeze"),
            "warp_flow": ("source", "edited"),
            "warp_norm": ("squared", "absolute"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"{name} is {' or '.join(known)}, not {value!r}")
        if not 1 <= self.tracks <= 64:
            raise UserError(f"tracks is between 1 and 64 points a side, not {self.tracks}")
        if self.stride < 1:
            raise UserError(f"stride is 1 or more, not {self.stride}")


@dataclass(frozen=True)
class Subject:
    """What is compared, besides the frames. Empty texts are not known."""

    size: tuple[int, int]  # height, width
    source_text: str = ""
    target_text: str = ""
    local_text: str = ""  # only the edited thing: "a red jeep"
    masked: bool = False  # whether frames come with a mask
    truthful: bool = False  # whether frames come with the true result
    judge: Judge | None = None

    def known(self) -> set[str]:
        """What of a metric's NEEDS there is."""
        has = {
            "source_text": self.source_text,
            "target_text": self.target_text,
            "local_text": self.local_text,
            "judge": self.judge,
            "mask": self.masked,
            "truth": self.truthful,
        }
        return {name for name, value in has.items() if value}


class Tools:
    """The networks and the flow that metrics share, each loaded when one first asks for it.

    flow: a function of two frames in place of the one that the options name. device: where networks run; None: on the
    GPU where there is one. Raises Missing.
    """

    def __init__(
        self,
        options: Options | None = None,
        flow: FlowFunction | None = None,
        device: str | None = None,
    ):
        self.options = options or Options()
        self._flow, self._device = flow, device

    @cached_property
    def device(self) -> str:
        import torch

        return self._device or ("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def flow(self) -> FlowFunction:
        known = self._flow or {"dis": dis, "sharp_dis": sharp_dis}.get(self.options.flow)
        if known:
            return known
        from ..models.vision.raft import load_raft

        return load_raft(device=self.device)

    @cached_property
    def clip(self) -> Clip:
        return Clip(self.options.clip, self.device)

    @cached_property
    def dino(self) -> Dino:
        return Dino(self.options.dino, "dino", self.device)

    @cached_property
    def structure(self) -> Dino:
        return Dino(self.options.structure, "structure", self.device)


def short(place: str) -> str:
    """How a network is named in a figure: the last part of its folder or hub id."""
    return Path(place).name


class Moment:
    """One frame of both clips and the one before it. What several metrics need is worked out once.

    source, edited, truth: H W 3 float32 in [0, 1]; mask: H W boolean, True inside.
    """

    def __init__(self, index: int, source: ndarray, edited: ndarray, tools: Tools):
        self.index = index
        self.source = source
        self.edited = edited
        self.tools = tools
        self.mask: ndarray | None = None
        self.truth: ndarray | None = None
        self.previous: Moment | None = None

    @cached_property
    def embedding(self) -> Later:
        """CLIP's unit embedding of the edited frame."""
        return self.tools.clip.embed(self.edited)

    @cached_property
    def source_flow(self) -> ndarray:
        """From the previous frame of the source to this one."""
        return self.tools.flow(self.previous.source, self.source)

    @cached_property
    def source_flow_back(self) -> ndarray:
        return self.tools.flow(self.source, self.previous.source)

    @cached_property
    def edited_flow(self) -> ndarray:
        return self.tools.flow(self.previous.edited, self.edited)

    @cached_property
    def edited_flow_back(self) -> ndarray:
        return self.tools.flow(self.edited, self.previous.edited)

    @cached_property
    def box(self) -> tuple[slice, slice] | None:
        """Rows and columns of the mask's bounding box; None where it is empty."""
        rows = np.flatnonzero(self.mask.any(1))
        columns = np.flatnonzero(self.mask.any(0))
        if not len(rows):
            return None
        return _from_first_to_last(rows), _from_first_to_last(columns)


def _from_first_to_last(places: ndarray) -> slice:
    return slice(int(places[0]), int(places[-1]) + 1)


class Metric(ABC):
    """Takes frames in order; then says its figures, each with its variant in its name: `name@variant/network`.

    A module of a metric has NEEDS (of "mask", "truth", "judge", "source_text", "target_text", "local_text"), BETTER
    ("higher" or "lower", by the figure's first name), EVERY_FRAME (False: `stride` may skip frames) and its final class
    `Measure`. A figure that cannot be formed (one frame has no next one, a full mask has no outside) is NaN.
    """

    @abstractmethod
    def __init__(self, subject: Subject, tools: Tools): ...

    @abstractmethod
    def add(self, moment: Moment) -> None: ...

    @abstractmethod
    def figures(self) -> dict[str, float]: ...


def mean(values: list[float]) -> float:
    """The mean of the values that exist; NaN where none does."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan


def psnr(square: float) -> float:
    """PSNR of a mean squared error of values in [0, 1]: -10 log10(square); infinite where nothing differs."""
    return math.inf if square == 0 else -10 * float(np.log10(square))


def capped(square: float) -> float:
    """PSNR of a mean squared error, at most CAP."""
    return CAP if square <= 10 ** (-CAP / 10) else psnr(square)
