"""The settings of I2VEdit, and what it needs of a model."""

from dataclasses import dataclass
from typing import Annotated, Literal

from ...base.schema import (
    Count,
    Guidance,
    LevelGrid,
    Number,
    Range,
    Share,
    Shift,
    Steps,
    Timesteps,
    check,
    setting,
)

NEEDS = {"image", "spatial_attention", "temporal_attention"}
# settings that what is fitted to the clip depends on
FITTED = ("tune", "rank", "rate", "targets", "variant")
LONG = "clips"
ONLY_WITH = dict.fromkeys(("rank", "rate", "targets"), "tune")  # settings that need another one
ONLY_WITH |= dict.fromkeys(("low", "high"), "matching")


@dataclass(frozen=True)
class Config:
    """The paper's values, and where it is silent those of its released configuration."""

    steps: Steps = 25
    strength: Share = 1.0
    guidance: Guidance = setting((1.0, 2.0), "from the first frame to the last")
    tune: Count = setting(250, "iterations of motion tuning, for each clip; 0: none")
    rank: Annotated[int, Range(1, 256)] = 32
    rate: Number = 5e-4
    targets: Literal["attention", "published"] = setting(
        "attention",
        "which layers over time are tuned: their self-attention, as the paper says, or "
        "all, as released",
    )
    sarp: Number = setting(0.005, "alpha, the size of the perturbation; 0: none")
    matching: bool = setting(True, "over space")
    low: Share = setting(
        0.35, "the threshold of the first frame; a query that moved further is the edit's alone"
    )
    high: Share = setting(0.35, "towards which it goes, frame by frame")
    motion: Literal["local", "style", "shape", "none"] = setting(
        "local",
        "when the source's attention over time stands in (b1, b2): by what is edited; or never",
    )
    interval: bool = setting(
        True, "later clips look at the first one too; doubles their evaluations"
    )
    variant: Literal["clean", "released"] = setting(
        "clean",
        "clean: conditions as the model was trained; released: as in the authors' code "
        "(docs/i2vedit.md)",
    )
    shift: Shift = setting(None, "of the grid of levels; None: the backbone's own")
    grid: LevelGrid = setting("own", "of levels, by name")
    timesteps: Timesteps = setting("exact", "what the model is told")

    __post_init__ = check


def longer(cfg: Config) -> str:
    """How the clips of a long one see each other, for the plan."""
    if not cfg.interval:
        return "later clips do not look at the first one"
    return (
        "later clips look at the first one, which is run again beside them: twice their evaluations"
    )
