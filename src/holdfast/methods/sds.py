"""Score distillation sampling, SDS (DreamFusion, arXiv:2209.14988), from the source on: DDS without its source branch.

z <- z - eta [eps^w(z_t, target) - eps]. What DDS subtracts stays in: the edit blurs. A baseline.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..sampling.distillation import Descent, draws
from ..sampling.field import Field, Given, Step, resumed

NEEDS: set[str] = set()


@dataclass(frozen=True)
class Config(Descent):
    """The values of DDS's authors, who compare with it."""


def edit(field: Field, given: Given, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    z, _ = resumed(start, given.source)
    for i, draw in draws(field, given, cfg, start):
        wanted = draw.noise(z, given.tgt, "tgt")
        z = z - cfg.size(z) * given.inside(wanted - draw.eps)
        yield Step("edit", i + 1, cfg.steps, z)
