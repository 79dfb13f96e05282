"""I2VEdit (arXiv:2405.16537): one edited frame, carried through the clip by an image-to-video model.

tune: low-rank adapters on the layers over time learn the clip's motion (Eq. 4)
invert: EDM inversion of the clip, its flat areas perturbed a little (Eq. 5), without adapters
edit: denoise from there under the edited frame, the source's attention of the paired inversion step at hand: over space
      blended by how far attention moved, out = (1 - M) A0 V + M A V; over time replaced in early steps
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attended

from .. import attention, diffusion, inversion, sarp, tuning
from ..attention import matching
from ..attention.door import Site
from ..backbones.base import Prompt
from ..settings import (
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
)
from ..step import Field, Given, Step, left, opened, resumed

NEEDS = {"image", "spatial_attention", "temporal_attention"}
FITTED = ("tune", "rank", "rate", "targets")  # settings that what is fitted to the clip depends on


@dataclass(frozen=True)
class Config:
    """The paper's values, and where it is silent those of its released configuration."""

    steps: Steps = 25
    strength: Share = 1.0
    guidance: Guidance = (1.0, 2.0)  # from the first frame to the last
    tune: Count = 250  # iterations of motion tuning; 0: none
    rank: Annotated[int, Range(1, 256)] = 32
    rate: Number = 5e-4
    # which layers over time are tuned: their self-attention, as the paper says, or all, as released
    targets: Literal["attention", "published"] = "attention"
    sarp: Number = 0.005  # alpha, the size of the perturbation; 0: none
    matching: bool = True  # over space
    low: Share = (
        0.35  # the threshold of the first frame; a query that moved further is the edit's alone
    )
    high: Share = 0.35  # towards which it goes, frame by frame
    # when the source's attention over time stands in (b1, b2): by what is edited; or never
    motion: Literal["local", "style", "shape", "none"] = "local"
    shift: Shift = None  # of the grid of levels; None: the backbone's own
    grid: LevelGrid = "own"  # of levels, by name
    timesteps: Timesteps = "exact"  # what the model is told

    __post_init__ = check


def edit(field: Field, given: Given, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    fit = tuning.Fit(cfg.tune, cfg.rate, given.seed)
    tunes = cfg.tune and round(cfg.strength * cfg.steps)  # else no target call is made
    paths = tuning.targets(field.network, field.door.sites, cfg.targets) if tunes else []
    with contextlib.ExitStack() as stack:
        tuned, state = field, start.state if start else {}
        if paths:
            mounting = tuning.mounted(field.network, paths, cfg.rank, given.seed)
            adapters = stack.enter_context(mounting)
            tuned = tuning.Tuned(field, adapters)
            if given.adapters and start is None:
                state = given.adapters
                adapters.load(state)
            elif start is None or start.stage == "tune":
                clip, begun = (given.source, given.src), start.index if start else 0
                for i, found in tuning.tuned(tuned, adapters, clip, fit, state, begun):
                    yield Step("tune", i, cfg.tune, given.source, found)
                state = adapters.tensors()
            else:
                adapters.load(state)
        kept = {name: value for name, value in state.items() if _of_adapters(name)}
        yield from refined(field, tuned, given, cfg, start, kept)


def _of_adapters(name: str) -> bool:
    return name.endswith((".down", ".up"))


def refined(
    field: Field,
    tuned: Field,
    given: Given,
    cfg: Config,
    start: Step | None,
    kept: dict[str, Tensor],
) -> Iterator[Step]:
    """Inversion and editing. kept: what every step's state holds besides the inverted latents."""
    field, levels, first = opened(field, given, cfg)
    rising = inversion.ascending(levels)
    walked = cfg.steps - first  # from the clean end up
    begun = start if start and start.stage != "tune" else None
    source, src = perturbed(given, cfg)
    z, state = resumed(begun, (1 - rising[0]) * source)
    state = kept | state
    state.setdefault("inverted0", (1 - rising[0]) * source)
    for i in left(begun, "invert", 0, walked):
        velocity = field.velocity(z, rising[i], src, branch="src+")
        z = z + (rising[i + 1] - rising[i]) * velocity
        state = inversion.remembered(state, i + 1, z)
        yield Step("invert", i + 1, walked, z, state)
    for j in left(begun, "edit", first, cfg.steps):
        paired = cfg.steps - 1 - j  # the inversion step that this one undoes
        known = (state[f"inverted{paired}"], rising[paired])
        with matched(field, tuned, known, src, given, cfg, j):
            velocity = diffusion.guided(tuned, z, levels[j], given.tgt, "tgt", cfg.guidance)
        z = z + (levels[j + 1] - levels[j]) * velocity
        # outside a mask: the clip as it was at this level, in the end itself
        rest = state[f"inverted{paired}"] if paired else given.source
        z = given.held(z, rest)
        state = inversion.forgotten(state, paired + 1)
        yield Step("edit", j + 1, cfg.steps, z, state)


def perturbed(given: Given, cfg: Config) -> tuple[Tensor, object]:
    """The clip's latent and its first frame's condition, where it is flat perturbed a little."""
    if not cfg.sarp:
        return given.source, given.src
    frames = torch.stack(list(given.pixels.frames())).to(given.source) * 2 - 1
    # one draw for the clip, so that its first frame and the condition stay the same picture
    eps = diffusion.noise(frames.transpose(0, 1)[None], given.seed, 0)[0].transpose(0, 1)
    frames = sarp.perturbed(frames, eps, scale=cfg.sarp) / 2 + 0.5
    src = given.pixels.condition(Prompt(image=frames[0]))
    return given.pixels.encode(frames), src


def matched(
    field: Field,
    tuned: Field,
    known: tuple[Tensor, float],
    src,
    given: Given,
    cfg: Config,
    step: int,
) -> contextlib.AbstractContextManager[None]:
    """Have the source's attention at hand in the target's calls: recomputed at the paired step, not stored."""
    pair = matching.PRESETS.get(cfg.motion, (0.0, 0.0))
    axes = {"spatial": cfg.matching, "temporal": step < int(pair[1] * cfg.steps)}
    if not any(axes.values()):
        return contextlib.nullcontext()

    def wanted(site: Site) -> bool:
        return site.kind == "self" and axes[site.axis]

    z, sigma = known
    with attention.record(field, wanted, lambda site, q, k, v: (q, k)) as seen:
        field.velocity(z, sigma, src, branch="src+")
    coarse = matching.coarse(seen)

    def rule(site: Site, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        q0, k0 = seen[replace(site, branch="src+")]
        if site.axis == "spatial":
            bound = thresholds_of(site, cfg).to(q.device)
            within = None if given.mask is None else site.covered(given.mask)
            return matching.blended(q, k, v, q0, k0, bound, within)
        if matching.replaces(site, step, cfg.steps, pair, coarse):
            return attended(q0, k0, v)
        return None

    return attention.edit(tuned, rule, lambda site: site.branch == "tgt+" and wanted(site))


def thresholds_of(site: Site, cfg: Config) -> Tensor:
    """The threshold of each query of a spatial layer, B 1: its batch runs over frames."""
    return matching.thresholds((cfg.low, cfg.high), len(site.frames))[:, None]
