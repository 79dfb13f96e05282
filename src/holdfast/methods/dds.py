"""Delta denoising score, DDS (arXiv:2304.07090): descend along the target's predicted noise less the source's.

z <- z - eta [eps^w(z_t, target) - eps^w(x_t, source)], one level t and one noise for both
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ..sampling.distillation import DistillationConfig, draw_samples
from ..sampling.field import EditInputs, Step, VelocityField, initial_state

NEEDS: set[str] = set()


@dataclass(frozen=True)
class Config(DistillationConfig):
    """The authors' values."""


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    source = given.source
    z, _ = initial_state(start, source)
    for i, draw in draw_samples(field, given, cfg, start):
        wanted = draw.noise(z, given.tgt, "tgt")
        known = draw.noise(source, given.src, "src")
        z = z - cfg.size(z) * given.inside(wanted - known)
        yield Step("edit", i + 1, cfg.steps, z)
