"""The pure mathematics that every method shares: noise, straight-line noising, guidance, noise levels, UniPC.

Throughout `z = (1 - sigma) * clean + sigma * noise` and `velocity = noise - clean`, with sigma in [0, 1].
Latents are `b c f h w`.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..base.errors import UserError


def keyed_noise(like: Tensor, seed: int, step: int, repeat: int = 0) -> Tensor:
    """Standard normal noise of the shape, type and device of `like`, keyed by what it is for.

    Each latent frame is drawn by itself on the CPU from (seed, step, repeat, frame of the edited clip): the same seed
    gives the same noise whatever the window, batch order, resume point or device. Noise is drawn nowhere else.
    """
    b, c, f, h, w = like.shape
    frames = []
    for frame in range(f):
        key = hashlib.blake2b(f"{seed}/{step}/{repeat}/{frame}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
        frames.append(torch.randn(b, c, 1, h, w, generator=generator))
    return torch.cat(frames, dim=2).to(like)


def keyed_integer(seed: int, step: int, low: int, high: int) -> int:
    """A whole number in [low, high), evenly, keyed like noise is: the level of an iteration that visits them at
    random.
    """
    key = hashlib.blake2b(f"{seed}/{step}/level".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
    return int(torch.randint(low, high, (), generator=generator))


def add_noise(clean: Tensor, sigma: float, eps: Tensor) -> Tensor:
    """The point at level sigma on the straight line from a clean latent to noise."""
    return (1 - sigma) * clean + sigma * eps


def apply_mask(mask: Tensor, change: Tensor) -> Tensor:
    """Return a change times a mask in [0, 1]; exactly 0 where the mask is 0, whatever the change is there.

    0 times infinity is not a number, and what a model makes of places that are not edited does not matter.
    """
    return torch.where(mask == 0, torch.zeros_like(change), mask * change)


def blend_by_mask(mask: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Return `mask * inside + (1 - mask) * outside`; exactly one of the two where the mask is 1 or 0."""
    mixed = torch.where(mask == 1, inside, mask * inside + (1 - mask) * outside)
    return torch.where(mask == 0, outside, mixed)


GuidanceScale = float | tuple[float, float] | Tensor


def predict_noise(z: Tensor, sigma: float, velocity: Tensor) -> Tensor:
    """The noise in z at level sigma as the model's velocity there has it: `z + (1 - sigma) velocity`."""
    return z + (1 - sigma) * velocity


def guided_velocity(
    field,
    z: Tensor,
    sigma: float,
    condition,
    side: str,
    scale: GuidanceScale,
    frames: Sequence[int] | None = None,
) -> Tensor:
    """Classifier-free guidance, `v- + scale (v+ - v-)`, of side "src" or "tgt".

    scale: a number; at 1 the negative is not evaluated. Or one a frame: a tensor of f numbers, or the first frame's
    and the last one's, evenly in between. frames: which ones of the clip z holds; None: all.
    """
    positive = field.velocity(z, sigma, condition, branch=f"{side}+", frames=frames)
    if isinstance(scale, (int, float)) and scale == 1:
        return positive
    negative = field.velocity(z, sigma, condition, branch=f"{side}-", frames=frames)
    return negative + scale_per_frame(scale, z) * (positive - negative)


def scale_per_frame(scale: GuidanceScale, z: Tensor) -> float | Tensor:
    """A guidance scale as it multiplies a latent b c f h w: a number as it is, one a frame as 1 1 f 1 1."""
    if isinstance(scale, (int, float)):
        return scale
    if isinstance(scale, tuple):
        scale = torch.linspace(*scale, z.shape[2])
    return scale.to(z).view(1, 1, -1, 1, 1)


def normalize_range(values: Tensor, least: float = 1e-12, top: float = 1.0) -> Tensor:
    """Each sample's values scaled to [0, top] over all its elements. least: added to the range, so that 0 / 0 is 0."""
    dims = tuple(range(1, values.dim()))
    low, high = values.amin(dims, keepdim=True), values.amax(dims, keepdim=True)
    return top * (values - low) / (high - low + least)


def contrast_map(difference: Tensor, kind: str, least: float = 1e-12, top: float = 1.0) -> Tensor:
    """Where a difference of velocities b c f h w is large, b 1 f h w in [0, 1]: its mean over channels, "signed" or
    "abs".
    """
    mean = (difference if kind == "signed" else difference.abs()).mean(1, keepdim=True)
    return normalize_range(mean, least, top)


def flow_sigmas(name: str, steps: int, shift: float, own: str) -> Tensor:
    """Rectified-flow noise levels by the name of their grid, from noisy to 0: steps + 1, float64.

    wan: evenly from 0.999 down to 0, then the shift, as Wan's authors have it. euler: as diffusers' FlowMatchEuler has
    it, whose ends are shifted before the even spacing and again after it. own: the grid of that name for this model.
    """
    name = own if name == "own" else name
    if name == "wan":
        return shift_sigmas(torch.from_numpy(np.linspace(0.999, 0.0, steps + 1)), shift)
    if name == "euler":
        ends = shift_sigmas(torch.tensor([1.0, 0.001], dtype=torch.float64), shift)
        even = torch.from_numpy(np.linspace(ends[0].item(), ends[1].item(), steps))
        return torch.cat((shift_sigmas(even, shift), torch.zeros(1, dtype=torch.float64)))
    raise UserError(f"this model has no grid of levels called {name!r}; there are: own, wan, euler")


def shift_sigmas(levels: Tensor, shift: float) -> Tensor:
    """Move noise levels towards the noisy end: `shift s / (1 + (shift - 1) s)`."""
    return shift * levels / (1 + (shift - 1) * levels)


@dataclass(frozen=True)
class UniPC:
    """What the multistep solver remembers between two steps. `clean` holds the newest prediction first.

    UniPC of order two (Zhao et al., arXiv:2302.04867, B2 variant, corrector on) in data prediction, on rectified-flow
    levels. Written in increments, so that a velocity of zero returns the state bit for bit.
    """

    state: Tensor | None = None  # where the last prediction step started from
    clean: tuple[Tensor, ...] = ()  # up to two predicted clean latents
    levels: tuple[float, ...] = ()  # and the levels they were predicted at

    def step(
        self, z: Tensor, velocity: Tensor, sigma: float, sigma_next: float, last: bool
    ) -> tuple[Tensor, "UniPC"]:
        """One corrector and one predictor step from sigma to sigma_next. `last`: the final step is of first order."""
        clean = z - sigma * velocity
        if self.state is not None:
            z = self._correct(clean, sigma)
        known, levels = (clean, *self.clean)[:2], (sigma, *self.levels)[:2]
        memory = UniPC(z, known, levels)
        return memory._predict(sigma_next, 1 if last else len(known)), memory

    def to_dict(self) -> dict[str, Tensor]:
        """As named tensors, for saving."""
        named = {f"clean{i}": c for i, c in enumerate(self.clean)}
        return {
            "state": self.state,
            "levels": torch.tensor(self.levels, dtype=torch.float64),
            **named,
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Tensor]) -> "UniPC":
        levels = tuple(saved["levels"].tolist()) if saved else ()
        return cls(
            saved.get("state"), tuple(saved[f"clean{i}"] for i in range(len(levels))), levels
        )

    def _predict(self, sigma: float, order: int) -> Tensor:
        (x0, *older), start = self.clean, self.levels[0]
        z = self.state + (1 - sigma / start) * (x0 - self.state)
        if order == 2:
            slope = (older[0] - x0) / self._ratio(sigma)
            z = z - (1 - sigma) * _b(start, sigma) * 0.5 * slope
        return z

    def _correct(self, clean: Tensor, sigma: float) -> Tensor:
        (x0, *older), start = self.clean, self.levels[0]
        z = self.state + (1 - sigma / start) * (x0 - self.state)
        if not older:
            return z - (1 - sigma) * _b(start, sigma) * 0.5 * (clean - x0)
        ratio, h = self._ratio(sigma), _half_log_snr(sigma) - _half_log_snr(start)
        b1, b2 = _targets(-h)
        # solves rho_old + rho_new = b1, ratio rho_old + rho_new = b2
        rho_old = (b1 - b2) / (1 - ratio)
        rho_new = b1 - rho_old
        return z - (1 - sigma) * _b(start, sigma) * (
            rho_old * (older[0] - x0) / ratio + rho_new * (clean - x0)
        )

    def _ratio(self, sigma: float) -> float:
        start = _half_log_snr(self.levels[0])
        return (_half_log_snr(self.levels[1]) - start) / (_half_log_snr(sigma) - start)


def _half_log_snr(sigma: float) -> float:
    """lambda = log((1 - sigma) / sigma); infinite at a clean latent, and -infinite in pure noise.

    From pure noise every step is UniPC's in the limit: B is -1, and a prediction that was made there says nothing of
    the slope at a later level, so the step after it is of first order too.
    """
    if sigma == 0:
        return math.inf
    return -math.inf if sigma == 1 else math.log1p(-sigma) - math.log(sigma)


def _b(start: float, end: float) -> float:
    """B(h) = exp(-h) - 1 of the step from one level to another."""
    return math.expm1(_half_log_snr(start) - _half_log_snr(end))


def _targets(hh: float) -> tuple[float, float]:
    """The two right-hand sides of the order conditions, `k! phi_(k+1)(hh) hh / B`."""
    b = math.expm1(hh)
    phi2 = b / hh - 1
    phi3 = phi2 / hh - 0.5
    return phi2 / b, 2 * phi3 / b
