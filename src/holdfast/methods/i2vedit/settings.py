"""The settings of I2VEdit."""

from typing import Annotated, Literal

from ...base.errors import UserError
from ...base.schema import Count, Field, Guidance, Range, Share, Steps, TuningRate, settings_class
from ...sampling.perturbation import Alpha, PerturbedConfig

# (b1, b2) by the kind of edit: the shares of the steps at which the two stages end
STAGES = {"local": (0.5, 0.8), "style": (0.8, 0.9), "shape": (0.4, 0.5), "none": (0.0, 0.0)}
SHARE = r"(0?\.\d+|[01](\.0*)?)"
Motion = Annotated[
    str,
    Field(
        pattern=rf"^({'|'.join(STAGES)}|{SHARE}:{SHARE})$",
        json_schema_extra={"noun": f"{', '.join(STAGES)} or two shares of the steps, as 0.4:0.8"},
    ),
]


@settings_class
class Config(PerturbedConfig):
    """The paper's values. Where it states none, those of the released configuration."""

    steps: Steps = Field(
        default=25, description="number of steps of the noise schedule, in each direction"
    )
    strength: Share = Field(
        default=1.0, description="share of the schedule that is inverted and denoised again"
    )
    guidance: Guidance = Field(
        default=(1.0, 2.0), description="guidance scale, from the first frame to the last"
    )
    tuning_steps: Count = Field(
        default=250, description="iterations of motion tuning per segment; 0: none"
    )
    rank: Annotated[int, Range(1, 256)] = Field(default=32, description="rank of the adapters")
    learning_rate: TuningRate = Field(default=5e-4, description="learning rate of motion tuning")
    tuned_layers: Literal["attention", "published"] = Field(
        default="attention",
        description="temporal layers that are tuned: their self-attention, as the paper says, or "
        "all, as released",
    )
    sarp: Alpha = Field(
        default=0.005,
        description="alpha: size of the noise that is added before the inversion, to frames in [-1, 1] or to the "
        "latent; 0: none",
    )
    matching: bool = Field(default=True, description="blend the source's attention over space")
    threshold_first: Share = Field(
        default=0.35,
        description="threshold of the first frame; a query whose attention moved further takes the edit's alone",
    )
    threshold_last: Share = Field(
        default=0.35, description="the threshold changes towards this, frame by frame"
    )
    motion: Motion = Field(
        default="local",
        description="the kind of edit, which decides in which steps the source's attention over time is used: in all "
        "layers up to b1, in coarse ones up to b2. local: 0.5:0.8; style: 0.8:0.9; shape: 0.4:0.5; none: in no step; "
        "or B1:B2, shares of the steps",
    )
    attend_first_segment: bool = Field(
        default=True,
        description="later segments attend to the first one too; doubles their evaluations",
    )
    attend_in_tuning: bool = Field(
        default=True,
        description="later segments attend to the first one while they are tuned, as in the paper's Eq. 3; "
        "evaluates the first segment once per iteration",
    )
    variant: Literal["clean", "released"] = Field(
        default="clean",
        description="clean: conditioned as the model was trained; released: as in the authors' code "
        "(docs/i2vedit.md)",
    )

    def __post_init__(self) -> None:
        first, second = self.stages
        if first > second:
            raise UserError(
                f"motion is {self.motion}",
                "put the smaller share first: no stage ends before the one before it",
            )

    @property
    def stages(self) -> tuple[float, float]:
        """The shares of the steps (b1, b2) at which the two stages of the source's temporal attention end."""
        if self.motion in STAGES:
            return STAGES[self.motion]
        first, second = self.motion.split(":")
        return float(first), float(second)
