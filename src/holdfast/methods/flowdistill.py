"""Score distillation smoothed along optical flow: our reading of the abstract of arXiv:2406.04888v3, not the paper's.

D = e(z_t, target) - e(x_t, source);  G = D averaged with its neighbours warped here by the source's flow, where seen
z <- z - eta { G + keep 2 (1 - M)(z - x) + consistency dL/dclean },  M a soft map of where D has been large,
L = mean over frames of 1 - cos(phi_i, mean phi), phi the clean estimate's mean over space, its network's slope left out
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from ..base.schema import Range, Share, setting
from ..models.vision.latent_flow import LatentFlow, latent_flow
from ..sampling import maths
from ..sampling.distillation import DistillationConfig, draw_samples
from ..sampling.field import EditInputs, Step, VelocityField, initial_state

NEEDS: set[str] = set()
ONLY_WITH = {"memory": "keep"}  # settings that need another one
Weight = Annotated[float, Range(0, None)]


@dataclass(frozen=True)
class Config(DistillationConfig):
    """None of these values is published; they are what measured well (docs/distillation.md)."""

    flow: Annotated[float, Range(0, 0.5)] = setting(
        0.165, "weight of either neighbour's gradient; 0: off"
    )
    keep: Weight = setting(0.1, "weight of the content preservation loss; 0: off")
    memory: Share = setting(0.9, "of the map M: how much of it an iteration leaves as it was")
    consistency: Weight = setting(0.05, "weight of the global consistency loss; 0: off")


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    source = given.source
    z, state = initial_state(start, source)
    # the source's flow, once: its motion is to be kept, and it is cleaner than an edit's
    moving = cfg.flow > 0 and source.shape[2] > 1
    along = latent_flow(given.pixels.frames(), given.pixels.stride).to(source) if moving else None
    where = state.get("map")
    for i, draw in draw_samples(field, given, cfg, start):
        wanted = draw.noise(z, given.tgt, "tgt")
        change = wanted - draw.noise(source, given.src, "src")
        where = update_change_map(where, change, cfg.memory)
        step = smooth_along_flow(change, along, cfg.flow) if along else change
        if cfg.keep:
            step = step + cfg.keep * 2 * (1 - where) * (z - source)
        if cfg.consistency:
            clean = (maths.add_noise(z, draw.sigma, draw.eps) - draw.sigma * wanted) / (1 - draw.sigma)
            step = step + cfg.consistency * consistency_gradient(clean)
        z = z - cfg.size(z) * given.inside(step)
        yield Step("edit", i + 1, cfg.steps, z, {"map": where})


def smooth_along_flow(change: Tensor, along: LatentFlow, side: float) -> Tensor:
    """Every frame's change with those of its neighbours, moved here along the flow, as far as they are seen.

    change: b c f h w. The weights are 1 - 2 side and twice side, of what there is; a place without any weight, which
    side = 1/2 makes, keeps its own.
    """
    total, weight = (1 - 2 * side) * change, 1 - 2 * side
    for moved, seen in (along.from_previous(change), along.from_next(change)):
        total = total + side * maths.apply_mask(seen, moved)
        weight = weight + side * seen
    return torch.where(weight > 0, total / weight, change)


def update_change_map(where: Tensor | None, change: Tensor, memory: float) -> Tensor:
    """M, b 1 f h w in [0, 1]: a running mean over iterations of where the change is large."""
    now = maths.contrast_map(change, "abs")
    return now if where is None else memory * where + (1 - memory) * now


@torch.enable_grad()
def consistency_gradient(clean: Tensor) -> Tensor:
    """The gradient of L in the clean estimate b c f h w, times the cells of a frame: how far its frames are apart as
    a whole.
    """
    # a sum's last bit depends on how its input lies, which a resumed run does not remember
    clean = clean.detach().contiguous().requires_grad_()
    pooled = clean.mean((3, 4)).transpose(1, 2)  # b f c
    together = pooled.mean(1, keepdim=True)
    loss = (1 - functional.cosine_similarity(pooled, together, dim=2)).mean()
    return torch.autograd.grad(loss, clean)[0] * clean[0, 0, 0].numel()
