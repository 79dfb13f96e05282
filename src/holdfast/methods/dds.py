"""Delta denoising score, DDS (arXiv:2304.07090): descend along the target's predicted noise less the source's.

z <- z - eta [eps^w(z_t, target) - eps^w(x_t, source)], one level t and one noise for both
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..sampling.distillation import Descent, draws
from ..sampling.field import Field, Given, Step, resumed

NEEDS: set[str] = set()


@dataclass(frozen=True)
class Config(Descent):
    """The authors' values."""


def edit(field: Field, given: Given, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    source = given.source
    z, _ = resumed(start, source)
    for i, draw in draws(field, given, cfg, start):
        wanted = draw.noise(z, given.tgt, "tgt")
        known = draw.noise(source, given.src, "src")
        z = z - cfg.size(z) * given.inside(wanted - known)
        yield Step("edit", i + 1, cfg.steps, z)
