"""FlowAnchor (arXiv:2604.22586): FlowEdit whose target is anchored, in space by refined cross-attention, in strength
by its own signal.

Each step: V_tgt with spatial-aware attention refinement (SAR, Eqs. 6-9) while sigma >= tau, V_src plain, dV = V_tgt -
V_src, dV <- (1 + g C) dV with adaptive magnitude modulation (AMM, Eqs. 10-12), Euler. The mask steers attention; it
cuts the signal only if asked to.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from ..base.notices import warn_user
from ..base.schema import (
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
from ..models import attention
from ..models.attention.refinement import LogitRefinement, refine_attention
from ..sampling import maths
from ..sampling.field import EditInputs, Step, VelocityField, initial_state, opened, remaining_steps

NEEDS = {"text_attention"}
UNMASKED = "no SAR"  # what tables of results add to its name where it sees no mask
ONLY_WITH = dict.fromkeys(("base_frames", "contrast"), "gamma")  # settings that need another one


@dataclass(frozen=True)
class Config:
    """The paper's values where it speaks; where it is silent the comment says so, and docs/flowanchor.md what was
    measured.
    """

    steps: Steps = setting(25, "T")
    strength: Share = setting(0.92, "n_max / T: the first two of 25 are skipped")
    beta_text: Share = setting(0.3, "b1, text-token modulation (TTM)")
    beta_video: Share = setting(0.3, "b2, spatio-temporal modulation (STM)")
    tau: Share = setting(0.6, "SAR while sigma (or the step) is at least this")
    tau_by: Literal["level", "step"] = setting(
        "level", "sigma >= tau, or steps left >= tau T. The paper's text allows both"
    )
    gamma: Number = setting(1.0, "of AMM")
    base_frames: Annotated[int, Range(2, 10000)] = setting(21, "F0, in latent frames")
    contrast: Literal["signed", "abs"] = setting(
        "signed", "C from the signed mean over channels (the paper), or the mean magnitude"
    )
    text_range: Literal["all", "prompt"] = setting(
        "all", "row extremes over all text tokens, padding too, or over the prompt's. Silent"
    )
    padding: Literal["other", "kept"] = setting(
        "other", "padding is pushed down as other words are, or kept as it is. Silent"
    )
    statistics: Literal["head", "mean"] = setting(
        "head", "extremes of each head, or of the heads' mean. Silent"
    )
    cut: bool = setting(
        False, "also keep latents outside the mask at the source's, which the paper does not"
    )
    source_guidance: Guidance = setting(5.0, "silent; Wan-Edit's")
    target_guidance: Guidance = setting(12.0, "silent; Wan-Edit's")
    shift: Shift = setting(None, "silent; of the grid of levels; None: the backbone's own")
    grid: LevelGrid = setting("own", "silent; of levels, by name")
    timesteps: Timesteps = setting("whole", "silent; what the model is told. Wan-Edit's")

    __post_init__ = check


def edit(field: VelocityField, given: EditInputs, cfg: Config, start: Step | None = None) -> Iterator[Step]:
    if given.mask is None:
        warn_user("without a mask the target's attention is not refined; give one, or --mask auto")
    elif not given.mask.any():
        return  # nothing is to be edited
    field, levels, first = opened(field, given, cfg)
    source = given.source
    # gF = gamma log F / log F0
    gain = cfg.gamma * math.log(source.shape[2]) / math.log(cfg.base_frames)
    refinement = prepare_refinement(field, given, cfg)
    z, _ = initial_state(start, source)
    for i in remaining_steps(start, "edit", first, cfg.steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        noisy = maths.add_noise(source, sigma, maths.keyed_noise(source, given.seed, i))
        coupled = noisy + (z - source)
        early = sigma >= cfg.tau if cfg.tau_by == "level" else cfg.steps - i >= cfg.tau * cfg.steps
        with refinement() if early else contextlib.nullcontext():
            v_target = maths.guided_velocity(field, coupled, sigma, given.tgt, "tgt", cfg.target_guidance)
        v_source = maths.guided_velocity(field, noisy, sigma, given.src, "src", cfg.source_guidance)
        change = modulate_magnitude(v_target - v_source, gain, cfg.contrast)
        z = z + (sigma_next - sigma) * (given.inside(change) if cfg.cut else change)
        yield Step("edit", i + 1, cfg.steps, z)


def modulate_magnitude(difference: Tensor, gain: float, contrast: str) -> Tensor:
    """AMM (Eqs. 10-12, 23-29): (1 + gF C) dV, C = dV's mean over channels, scaled to [0, 1] over the sample.
    difference: b c f h w.
    """
    return (1 + maths.contrast_map(difference, contrast, 1e-7, gain)) * difference


def prepare_refinement(field: VelocityField, given: EditInputs, cfg: Config):
    """What opens SAR for an evaluation: nothing where there is no mask, no word or no strength to it."""
    refines = cfg.beta_text or cfg.beta_video
    if given.mask is None or not given.tgt.edit_tokens or not refines:
        return contextlib.nullcontext
    rule = RefinementRule(given.mask, given.tgt, cfg)
    return lambda: attention.use_rule(field, rule, RefinementRule.where)


class RefinementRule:
    """SAR as an attention rule: of all cross-attention layers, in the target's conditional calls."""

    def __init__(self, mask: Tensor, tgt, cfg: Config):
        self.mask, self.tgt, self.cfg = mask, tgt, cfg
        self.known: dict[tuple, Tensor] = {}  # a mask's tokens, by frames and grid

    @staticmethod
    def where(site: attention.Layer) -> bool:
        return site.kind == "cross" and site.branch == "tgt+"

    def __call__(self, site: attention.Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        columns = site.key_positions(self.tgt.edit_tokens, q.device)
        how = LogitRefinement(
            self.cfg.beta_text,
            self.cfg.beta_video,
            key_end=site.text_span[1] if self.cfg.text_range == "all" else site.text_span[0] + self.tgt.token_count,
            exempt_keys=self._kept(site, k),
            statistics=self.cfg.statistics,
            key_begin=site.text_span[0],
        )
        # The equations' extremes of a column run over all frames: one clip, also where the frames are in the batch.
        batch, heads, tokens, dim = q.shape
        joined = q.transpose(0, 1).reshape(1, heads, batch * tokens, dim)
        inside = self._inside(site).flatten()
        output = refine_attention(joined, k[:1], v[:1], inside, columns, how)
        return output.view(heads, batch, tokens, dim).transpose(0, 1)

    def _inside(self, site: attention.Layer) -> Tensor:
        """The site's tokens that the mask covers, B N boolean."""
        key = (site.frames, site.token_grid, site.axis)
        if key not in self.known:
            self.known[key] = site.tokens_in_mask(self.mask)
        return self.known[key]

    def _kept(self, site: attention.Layer, k: Tensor) -> Tensor | None:
        """Keys that are left alone, L boolean: what is no text, and the padding if it is asked for."""
        position = torch.arange(k.shape[2], device=k.device)
        end = site.text_span[0] + self.tgt.token_count if self.cfg.padding == "kept" else site.text_span[1]
        kept = (position < site.text_span[0]) | (position >= end)
        return kept if kept.any() else None
