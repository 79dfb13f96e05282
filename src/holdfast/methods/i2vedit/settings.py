"""The settings of I2VEdit."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ...base.schema import Count, Guidance, Number, Range, Share, Steps, setting
from ...sampling.settings import SamplingConfig


@dataclass(frozen=True)
class Config(SamplingConfig):
    """The paper's values. Where it is silent, those of the released configuration."""

    steps: Steps = setting(25, "number of steps of the noise schedule, in each direction")
    strength: Share = setting(1.0, "share of the schedule that is inverted and denoised again")
    guidance: Guidance = setting((1.0, 2.0), "guidance scale, from the first frame to the last")
    tuning_steps: Count = setting(250, "iterations of motion tuning per segment; 0: none")
    rank: Annotated[int, Range(1, 256)] = setting(32, "rank of the adapters")
    learning_rate: Number = setting(5e-4, "learning rate of motion tuning")
    tuned_layers: Literal["attention", "published"] = setting(
        "attention",
        "temporal layers that are tuned: their self-attention, as the paper says, or "
        "all, as released",
    )
    sarp: Number = setting(0.005, "alpha: size of the perturbation of flat areas; 0: none")
    matching: bool = setting(True, "blend the source's attention over space")
    threshold_first: Share = setting(
        0.35,
        "threshold of the first frame; a query whose attention moved further takes the edit's alone",
    )
    threshold_last: Share = setting(0.35, "the threshold changes towards this, frame by frame")
    motion: Literal["local", "style", "shape", "none"] = setting(
        "local",
        "the kind of edit, which decides in which steps the source's attention over time is used "
        "(b1, b2); none: in no step",
    )
    attend_first_segment: bool = setting(
        True, "later segments attend to the first one too; doubles their evaluations"
    )
    variant: Literal["clean", "released"] = setting(
        "clean",
        "clean: conditioned as the model was trained; released: as in the authors' code "
        "(docs/i2vedit.md)",
    )
