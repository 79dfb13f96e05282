"""Score distillation sampling, SDS (DreamFusion, arXiv:2209.14988), from the source on: DDS without its source branch.

z <- z - eta [eps^w(z_t, target) - eps]. What DDS subtracts stays in: the edit blurs. A baseline.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..sampling.distillation import DistillationConfig, draw_samples
from ..sampling.field import EditInputs, Step, VelocityField, initial_state

NEEDS: set[str] = set()


@dataclass(frozen=True)
class Config(DistillationConfig):
    """The values of DDS's authors, who compare with it."""


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    z, _ = initial_state(start, given.source)
    for i, draw in draw_samples(field, given, cfg, start):
        wanted = draw.noise(z, given.tgt, "tgt")
        z = z - cfg.size(z) * given.inside(wanted - draw.eps)
        yield Step("edit", i + 1, cfg.steps, z)
