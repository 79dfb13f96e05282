"""The settings of the methods whose attention follows the trajectories of optical flow (FLATTEN, arXiv:2310.05922)."""

from typing import Literal, TypeAlias

from ..base.schema import Field, settings_class
from .ddim import DDIMConfig

FlowName: TypeAlias = Literal["dis", "sharp_dis", "raft"]


@settings_class
class TrajectoryConfig(DDIMConfig):
    """What FLATTEN and the methods on its code have in common."""

    inversion_timestep: Literal["next", "current"] = Field(
        default="current",
        description="the timestep that the network is given in an inversion step: that of the level it goes to, or "
        "that of the level at which the latent is, as in the authors' version of diffusers",
    )
    old_qk: bool = Field(
        default=False,
        description="queries and keys of the attention along trajectories are those of the layer, in place of the "
        "output of the attention over all frames",
    )
    posterior: Literal["sample", "mode"] = Field(
        default="sample", description="the latent that is inverted: drawn by the VAE, or its mode"
    )
    flow: FlowName = Field(
        default="dis",
        description="what computes the optical flow; the authors' is raft, which needs torchvision and its weights",
    )
