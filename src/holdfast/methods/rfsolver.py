"""RF-Solver-Edit (Wang et al., arXiv:2411.04746): invert with a second-order solver, sample with the target prompt, share features.

In the first `inject` sampling steps the self-attention of the later layers takes the values V of the source at the same level. They
are not kept from the inversion: its latents at those few levels are, and the source is run there again; V is held for one step.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from .. import attention, diffusion, inversion
from ..run import Step, resumed

NEEDS = {"text", "joint_attention"}


@dataclass(frozen=True)
class Config:
    """The authors' values for video (HunyuanVideo, single-stream blocks 21 to 39 of 40); on Wan the later layers' self-attention."""

    steps: int = 25  # each way; two evaluations a step
    strength: float = 1.0  # the share of the levels that is inverted and sampled again
    inject: int = 2  # sampling steps that share V
    depth: float = 0.5  # layers from this share of all on
    target_guidance: float = 6.0  # their model's embedded guidance; silent for Wan
    shift: float | None = None  # of the grid of levels; the authors' is 7; None: the backbone's own


def edit(field, source: Tensor, src, tgt, cfg: Config, *, mask=None, seed=0, start=None) -> Iterator[Step]:
    if not 0 <= cfg.depth <= 1:
        raise ValueError(f"depth is a share of the layers, 0 to 1, not {cfg.depth}")
    levels = field.levels(cfg.steps, cfg.shift)
    first = cfg.steps - round(cfg.strength * cfg.steps)
    up = list(reversed(levels[first:]))  # from clean to noisy
    count = 2 * (len(up) - 1)
    z, begin, kept = resumed(start, source, 0)
    for i in range(begin, count):
        if i < count // 2:
            z = inversion.midpoint(lambda x, s: field.velocity(x, s, src, branch="src+"), z, up[i], up[i + 1])
            if mask is not None or i + 1 > count // 2 - cfg.inject:
                kept = inversion.keep(kept, i + 1, z)
        else:
            back = count - i  # index in `up` of the level that this step leaves
            shared = inversion.kept(kept, source, back) if back > count // 2 - cfg.inject else None
            z = sampled(field, z, shared, (up[back], up[back - 1]), (src, tgt), cfg)
            if mask is not None:
                z = mask * z + (1 - mask) * inversion.kept(kept, source, back - 1)
            kept = inversion.drop(kept, back)
        yield Step(i + 1, count, z, kept)


def sampled(field, z: Tensor, inverted: Tensor | None, step: tuple[float, float], conditions: tuple, cfg: Config) -> Tensor:
    """One midpoint step down with the target prompt; with an inverted latent, on the source's values at the step's start."""
    src, tgt = conditions
    first_layer = round(cfg.depth * field.door.layers)  # depth 1: none

    def where(site: attention.Site) -> bool:
        return site.kind == "self" and site.layer >= first_layer

    def velocity(x: Tensor, sigma: float) -> Tensor:
        return diffusion.guided(field, x, sigma, tgt, "tgt", cfg.target_guidance)

    if inverted is None:
        return inversion.midpoint(velocity, z, *step)
    values: dict[tuple[int, int], Tensor] = {}  # by layer and window

    def look(site: attention.Site, q: Tensor, k: Tensor, v: Tensor) -> None:
        values[site.layer, site.first] = v

    def share(site: attention.Site, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, values[site.layer, site.first])

    with attention.edit(field, look, where):
        field.velocity(inverted, step[0], src, branch="src+")
    with attention.edit(field, share, where):
        return inversion.midpoint(velocity, z, *step)
