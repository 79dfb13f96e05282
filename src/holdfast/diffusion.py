"""The pure mathematics that every method shares: noise, straight-line noising, guidance, noise levels, UniPC.

Throughout `z = (1 - sigma) * clean + sigma * noise` and `velocity = noise - clean`, with sigma in [0, 1].
Latents are `b c f h w`.
"""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor


def noise(like: Tensor, seed: int, step: int, repeat: int = 0, first_frame: int = 0) -> Tensor:
    """Standard normal noise of the shape, type and device of `like`, keyed by what it is for.

    Each latent frame is drawn by itself on the CPU from (seed, step, repeat, absolute frame), so that the same seed gives
    the same noise whatever the window, batch order, resume point or device. The only place where noise is drawn.
    """
    b, c, f, h, w = like.shape
    frames = []
    for frame in range(first_frame, first_frame + f):
        key = hashlib.blake2b(f"{seed}/{step}/{repeat}/{frame}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
        frames.append(torch.randn(b, c, 1, h, w, generator=generator))
    return torch.cat(frames, dim=2).to(like)


def noised(clean: Tensor, sigma: float, eps: Tensor) -> Tensor:
    """The point at level sigma on the straight line from a clean latent to noise."""
    return (1 - sigma) * clean + sigma * eps


def guided(field, z: Tensor, sigma: float, condition, side: str, scale: float) -> Tensor:
    """Classifier-free guidance, `v- + scale (v+ - v-)`, of side "src" or "tgt". At scale 1 the negative is not evaluated."""
    positive = field.velocity(z, sigma, condition, branch=f"{side}+")
    if scale == 1:
        return positive
    negative = field.velocity(z, sigma, condition, branch=f"{side}-")
    return negative + scale * (positive - negative)


def shifted(levels: Tensor, shift: float) -> Tensor:
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

    def step(self, z: Tensor, velocity: Tensor, sigma: float, sigma_next: float, last: bool) -> tuple[Tensor, "UniPC"]:
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
        return {"state": self.state, "levels": torch.tensor(self.levels, dtype=torch.float64), **named}

    @classmethod
    def from_dict(cls, saved: dict[str, Tensor]) -> "UniPC":
        levels = tuple(saved["levels"].tolist()) if saved else ()
        return cls(saved.get("state"), tuple(saved[f"clean{i}"] for i in range(len(levels))), levels)

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
        rho_old = (b1 - b2) / (1 - ratio)  # solves rho_old + rho_new = b1, ratio rho_old + rho_new = b2
        rho_new = b1 - rho_old
        return z - (1 - sigma) * _b(start, sigma) * (rho_old * (older[0] - x0) / ratio + rho_new * (clean - x0))

    def _ratio(self, sigma: float) -> float:
        start = _half_log_snr(self.levels[0])
        return (_half_log_snr(self.levels[1]) - start) / (_half_log_snr(sigma) - start)


def _half_log_snr(sigma: float) -> float:
    return math.inf if sigma == 0 else math.log1p(-sigma) - math.log(sigma)


def _b(start: float, end: float) -> float:
    """B(h) = exp(-h) - 1 of the step from one level to another."""
    return math.expm1(_half_log_snr(start) - _half_log_snr(end))


def _targets(hh: float) -> tuple[float, float]:
    """The two right-hand sides of the order conditions, `k! phi_(k+1)(hh) hh / B`."""
    b = math.expm1(hh)
    phi2 = b / hh - 1
    phi3 = phi2 / hh - 0.5
    return phi2 / b, 2 * phi3 / b
