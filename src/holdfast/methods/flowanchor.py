"""FlowAnchor (arXiv:2604.22586): FlowEdit whose target is anchored, in space by refined cross-attention, in strength by its own signal.

Each step: V_tgt with spatial-aware attention refinement (SAR, Eqs. 6-9) while sigma >= tau, V_src plain, dV = V_tgt - V_src,
dV <- (1 + g C) dV with adaptive magnitude modulation (AMM, Eqs. 10-12), Euler. The mask steers attention; it cuts the signal only
if asked to.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .. import attention, diffusion
from ..run import Step, resumed

NEEDS = {"text", "text_attention"}
CHOICES = {
    "tau_by": ("level", "step"),
    "contrast": ("signed", "abs"),
    "text_range": ("all", "prompt"),
    "padding": ("other", "kept"),
    "statistics": ("head", "mean"),
}


@dataclass(frozen=True)
class Config:
    """The paper's values where it speaks; where it is silent the comment says so, and docs/flowanchor.md what was measured."""

    steps: int = 25  # T
    strength: float = 0.92  # n_max / T: the first two of 25 are skipped
    beta_text: float = 0.3  # b1, text-token modulation (TTM)
    beta_video: float = 0.3  # b2, spatio-temporal modulation (STM)
    tau: float = 0.6  # SAR while sigma (or the step) is at least this
    tau_by: str = "level"  # level: sigma >= tau; step: steps left >= tau T. The paper's text allows both
    gamma: float = 1.0  # of AMM
    base_frames: int = 21  # F0, in latent frames
    contrast: str = "signed"  # C from the signed mean over channels (the paper), or abs: from the mean magnitude
    text_range: str = "all"  # row extremes over all text tokens, padding too, or prompt: over the prompt's. Silent
    padding: str = "other"  # padding is pushed down as other words are, or kept as it is. Silent
    statistics: str = "head"  # extremes of each head, or mean: of the heads' mean. Silent
    cut: bool = False  # also keep latents outside the mask at the source's, which the paper does not
    source_guidance: float = 5.0  # silent; Wan-Edit's
    target_guidance: float = 12.0  # silent; Wan-Edit's
    shift: float | None = None  # silent; of the grid of levels; None: the backbone's own


def edit(field, source: Tensor, src, tgt, cfg: Config, *, mask=None, seed=0, start=None) -> Iterator[Step]:
    check(cfg)
    levels = field.levels(cfg.steps, cfg.shift)
    first = cfg.steps - round(cfg.strength * cfg.steps)
    gain = cfg.gamma * math.log(source.shape[2]) / math.log(cfg.base_frames)  # gF = gamma log F / log F0
    anchor = Anchor(mask, tgt, cfg) if mask is not None and tgt.words and (cfg.beta_text or cfg.beta_video) else None
    if mask is None:
        warnings.warn("without a mask the target's attention is not refined; give one, or --mask auto", stacklevel=2)
    elif not mask.any():
        return  # nothing is to be edited
    z, begin, _ = resumed(start, source, first)
    for i in range(begin, cfg.steps):
        sigma, sigma_next = levels[i], levels[i + 1]
        noisy = diffusion.noised(source, sigma, diffusion.noise(source, seed, i))
        refine = anchor and (sigma >= cfg.tau if cfg.tau_by == "level" else cfg.steps - i >= cfg.tau * cfg.steps)
        with attention.edit(field, anchor, Anchor.where) if refine else contextlib.nullcontext():
            v_target = diffusion.guided(field, noisy + (z - source), sigma, tgt, "tgt", cfg.target_guidance)
        v_source = diffusion.guided(field, noisy, sigma, src, "src", cfg.source_guidance)
        difference = modulated(v_target - v_source, gain, cfg.contrast)
        z = z + (sigma_next - sigma) * (mask * difference if cfg.cut and mask is not None else difference)
        yield Step(i + 1, cfg.steps, z, {})


def check(cfg: Config) -> None:
    for name, known in CHOICES.items():
        if getattr(cfg, name) not in known:
            raise ValueError(f"{name} is {' or '.join(known)}, not {getattr(cfg, name)!r}")
    for name in ("beta_text", "beta_video"):
        if not 0 <= getattr(cfg, name) <= 1:
            raise ValueError(f"{name} is between 0 and 1, not {getattr(cfg, name)}")
    if cfg.base_frames < 2:
        raise ValueError(f"base_frames is 2 or more, not {cfg.base_frames}")


def modulated(difference: Tensor, gain: float, contrast: str) -> Tensor:
    """AMM (Eqs. 10-12, 23-29): (1 + gF C) dV, C = dV's mean over channels, scaled to [0, 1] over the sample. difference: b c f h w."""
    mean = (difference if contrast == "signed" else difference.abs()).mean(1, keepdim=True)  # b 1 f h w
    low, high = mean.amin((2, 3, 4), keepdim=True), mean.amax((2, 3, 4), keepdim=True)
    return (1 + gain * (mean - low) / (high - low + 1e-7)) * difference


class Anchor:
    """SAR as an attention rule: of all cross-attention layers, in the target's conditional calls."""

    def __init__(self, mask: Tensor, tgt, cfg: Config):
        self.mask, self.cfg = mask, cfg
        self.known: dict[tuple, Tensor] = {}
        self.words, self.length = torch.tensor(tgt.words, device=mask.device), tgt.length

    @staticmethod
    def where(site: attention.Site) -> bool:
        return site.kind == "cross" and site.branch == "tgt+"

    def inside(self, site: attention.Site) -> Tensor:
        """The site's tokens that the mask covers, N boolean; a token is one latent frame deep."""
        if (site.first, site.grid) not in self.known:
            part = self.mask[:, :, site.first : site.first + site.grid[0]]  # 1 1 f h w
            self.known[site.first, site.grid] = functional.adaptive_max_pool3d(part.float(), site.grid).flatten() > 0
        return self.known[site.first, site.grid]

    def __call__(self, site: attention.Site, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        inside = self.inside(site)
        length = k.shape[2] if self.cfg.text_range == "all" else self.length
        kept = torch.arange(k.shape[2], device=k.device) >= self.length if self.cfg.padding == "kept" else None
        return refined(q, k, v, inside, self.words, Refinement(self.cfg.beta_text, self.cfg.beta_video, length, kept, self.cfg.statistics))


@dataclass(frozen=True)
class Refinement:
    """How SAR changes logits. length: text tokens that row extremes see; kept: L boolean, columns that TTM leaves alone."""

    beta_text: float
    beta_video: float
    length: int
    kept: Tensor | None = None
    statistics: str = "head"


def refined(q: Tensor, k: Tensor, v: Tensor, inside: Tensor, target: Tensor, how: Refinement) -> Tensor:
    """Attention with SAR's logits, exactly, without ever holding them: q b h N d; k, v b h L d; inside N boolean; target: columns J.

    TTM and STM are linear in the logit A_ij for a given row and column, so softmax over text sees
      row inside:   (1-b1) A_ij                          j not in J
                    (1-b1)(1-b2) A_ij + r_i + b2 max_j   j in J,   r_i = (1-b2) b1 Amax_i - b1 Amin_i
                    A_ij - b1 Amin_i                     j kept
      row outside:  A_ij, and for j in J (1-b2) A_ij + b2 min_j
    (b1 Amin_i, common to an inside row, is taken off). That is plain attention on scaled keys with a term of the row and one of the
    column, which ride along as extra dimensions: one fused call for inside and one for outside rows, in blocks. Beforehand the
    extremes are gathered: of inside rows over text (Amax_i, Amin_i), of the columns J alone over all rows (max_j, min_j, after TTM).
    """
    b1, b2 = how.beta_text, how.beta_video
    rows_in, rows_out = inside.nonzero().flatten(), (~inside).nonzero().flatten()
    (bottom, top), (lowest, highest) = _extremes(q, k, (rows_in, rows_out), target, how)
    columns = torch.zeros(k.shape[2], dtype=torch.bool, device=k.device)
    columns[target] = True
    kept = torch.zeros_like(columns) if how.kept is None else how.kept & ~columns
    slope_in = torch.where(columns, (1 - b1) * (1 - b2), torch.where(kept, 1.0, 1 - b1))
    slope_out = torch.where(columns, 1 - b2, 1.0)
    output = torch.empty_like(q)
    _attend(output, q, v, rows_in, Keys(k, slope_in, target, b2 * highest, kept), (1 - b2) * b1 * top - b1 * bottom, -b1 * bottom)
    none = top.new_zeros(())
    _attend(output, q, v, rows_out, Keys(k, slope_out, target, b2 * lowest, kept), none, none)
    return output


def _extremes(q: Tensor, k: Tensor, rows: tuple[Tensor, Tensor], target: Tensor, how: Refinement) -> tuple[tuple, tuple]:
    """(least, most) of each inside row over text, b h n 1, and of each column J over all rows after TTM, b h J; in blocks of rows."""
    rows_in, rows_out = rows
    of_rows, of_columns = [], []
    for block in _blocks(rows_in, q.shape[1] * (k.shape[2] + q.shape[3])):
        logits = _logits(q, k, block, how)
        bottom, top = logits[..., : how.length].aminmax(dim=-1, keepdim=True)
        of_rows.append((bottom, top))
        of_columns.append(((1 - how.beta_text) * logits[..., target] + how.beta_text * top).aminmax(dim=2))
    for block in _blocks(rows_out, q.shape[1] * (len(target) + q.shape[3])):
        of_columns.append(_logits(q, k[:, :, target], block, how).aminmax(dim=2))
    none = q.new_zeros(q.shape[0], 1, 0, 1, dtype=torch.float32)
    row_extremes = tuple(torch.cat(x, 2) for x in zip(*of_rows, strict=True)) or (none, none)
    lowest, highest = zip(*of_columns, strict=True)
    return row_extremes, (torch.stack(lowest).amin(0), torch.stack(highest).amax(0))


def _blocks(rows: Tensor, numbers: int) -> tuple[Tensor, ...]:
    return tuple(r for r in rows.split(attention.blocks(len(rows), numbers)) if len(r))


def _logits(q: Tensor, k: Tensor, rows: Tensor, how: Refinement) -> Tensor:
    """Pre-softmax logits of some rows, b h n L (h = 1 for statistics of the heads' mean), in float32."""
    logits = (q[:, :, rows].float() * q.shape[-1] ** -0.5) @ k.float().mT
    return logits.mean(1, keepdim=True) if how.statistics == "mean" else logits


@dataclass(frozen=True)
class Keys:
    """Keys as SAR sees them: k b h L d scaled by slope (L); `column` b h J added to the columns J; row terms to J and to kept ones."""

    k: Tensor
    slope: Tensor
    target: Tensor  # positions of the columns J
    column: Tensor
    kept: Tensor  # L boolean


def _attend(output: Tensor, q: Tensor, v: Tensor, rows: Tensor, keys: Keys, row_target: Tensor, row_kept: Tensor) -> None:
    """Write the rows' attention into `output`. Terms ride as 8 dimensions more, each split in two so that bfloat16 keeps them."""
    b, h, length, d = keys.k.shape
    root = d**0.5  # attention divides by it
    extra = torch.zeros(b, h, length, 8, device=q.device)
    extra[:, :, keys.target, 0:2] = 1
    extra[:, :, keys.kept, 2:4] = 1
    extra[:, :, keys.target, 4:6] = torch.stack(_halves(root * keys.column.expand(b, h, -1), q.dtype), -1)
    k = torch.cat((keys.k.float() * keys.slope[:, None], extra), -1).to(q.dtype)
    v = functional.pad(v, (0, 8))
    for at in _blocks(torch.arange(len(rows), device=rows.device), h * (d + 8)):
        terms = [t.expand(b, h, len(rows), 1)[:, :, at] if t.dim() else t.expand(b, h, len(at), 1) for t in (row_target, row_kept)]
        halves = [half for t in terms for half in _halves(root * t, q.dtype)]
        ones, zeros = torch.ones_like(halves[0]), torch.zeros_like(halves[0])
        wide = torch.cat((q[:, :, rows[at]], *(x.to(q.dtype) for x in (*halves, ones, ones, zeros, zeros))), -1)
        output[:, :, rows[at]] = functional.scaled_dot_product_attention(wide, k, v, scale=1 / root)[..., :d]


def _halves(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A number as the sum of two that the dtype can hold."""
    high = x.to(dtype).float()
    return high, x - high
