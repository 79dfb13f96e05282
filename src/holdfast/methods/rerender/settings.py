"""The settings of Rerender A Video, with the paper's values."""

from typing import Literal

from ...base.errors import UserError
from ...base.schema import Field, Number, ScheduleName, Share, Steps, settings_class
from ...sampling.from_noise import FromNoiseConfig


@settings_class
class Config(FromNoiseConfig):
    steps: Steps = Field(default=20, description="T: number of DDIM steps of each key frame")
    strength: Share = Field(
        default=0.95, description="share of the schedule in which a key frame is sampled again"
    )
    schedule: ScheduleName = Field(
        default="ddim", description="how the noise levels are spaced; the authors' is ddim"
    )
    target_guidance: Number = Field(default=7.5, description="guidance scale of the target prompt")
    interval: Steps = Field(default=10, description="K: frames from a key frame to the next")
    attention: Literal["decoder", "loose", "own"] = Field(
        default="decoder",
        description="where self-attention reads the first key frame and the one before: in the U-Net's decoder; loose: "
        "there, in layers with fewer than 1280 channels; own: nowhere",
    )
    warp_reference: Literal["first", "previous"] = Field(
        default="first",
        description="j: the key frame whose clean estimate is warped in early steps; the paper prefers the first, the "
        "released code takes the one before",
    )
    warp_end: Share = Field(
        default=0.1, description="share of the steps in which the clean estimate is warped; 0: none"
    )
    fusion_start: Share = Field(
        default=0.5, description="share of the steps after which pixel-aware fusion begins"
    )
    fusion_end: Share = Field(default=0.8, description="share of the steps at which it ends")
    fusion_strength: Share = Field(
        default=0.5,
        description="w: how much of the fused picture counts where it is visible; 1: all of it (the paper's equation), "
        "0: no fusion",
    )
    noise_strength: Share = Field(
        default=0.9,
        description="of the noise that the latent itself keeps in the fusion: max(1 - w, this sqrt(1 - w^2))",
    )
    colour_start: Share = Field(
        default=1.0,
        description="share of the steps after which the clean estimate gets the first key frame's mean and deviation "
        "(AdaIN); the paper: 0.8; 1: never, as in the released code unless a configuration asks for it",
    )
    propagation: Literal["ebsynth", "flow"] = Field(
        default="ebsynth",
        description="how frames between key frames are made: by patch synthesis (as the method ebsynth), or warped "
        "along the flow and blended",
    )
    optical_flow: Literal["sharp_dis", "dis"] = Field(
        default="sharp_dis", description="how the flow between frames is estimated"
    )

    def __post_init__(self) -> None:
        if self.fusion_start > self.fusion_end:
            raise UserError(
                f"fusion_start is {self.fusion_start:g}, after fusion_end {self.fusion_end:g}",
                "let the fusion begin before it ends",
            )


UNUSED_UNLESS = {
    "warp_reference": "warp_end",
    "fusion_start": "fusion_strength",
    "fusion_end": "fusion_strength",
    "noise_strength": "fusion_strength",
}
