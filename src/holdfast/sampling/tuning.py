"""Motion tuning (I2VEdit, arXiv:2405.16537): low-rank adapters learn the motion of one clip.

They are fitted to the velocity by EDM's loss, whose weight cancels. Noise levels are drawn as in "simple diffusion"
(Hoogeboom et al., arXiv:2301.11093): its cosine schedule, shifted at the noisy end as for a side of 32 over 64, and not
shifted at the clean end.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from .field import VelocityField
from .noise import add_noise, keyed_integer, keyed_noise

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .adapters import Adapters

_SHIFTS = (2 * math.log(32 / 64), 0.0)  # of the schedule: at the noisy end, at the clean end
_DATA_STD = 0.5
_EDM_SIGMAS = (700.0, 0.002)  # the ends of s
MIN_CHECKPOINTED = 10**8  # parameters of a network whose activations may not fit into memory
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # what AdamW remembers of each parameter


def v_loss(
    field: VelocityField, clean: Tensor, eps: Tensor, sigma: float, conditioning: Any
) -> Tensor:
    """Return `|v - v*|^2` of the network's own v-prediction at noise level sigma, mean over the latent; differentiable.

    With s = sigma / (1 - sigma), `v* = (eps - s clean) / sqrt(1 + s^2)`. EDM's weight of the clean estimate's error,
    (1 + s^2) / s^2, makes exactly this loss. In terms of the velocity it is a factor of (1 - sigma)^2 + sigma^2.
    clean, eps: 1 c f h w.
    """
    z = add_noise(clean, sigma, eps)
    velocity = field.velocity(z, sigma, conditioning, branch="tgt+")
    error = (velocity - (eps - clean)).square().mean()
    return ((1 - sigma) ** 2 + sigma**2) * error


def sigma_at(share: float) -> float:
    """Return the noise level at a share of the interpolated cosine schedule: 0 is its noisy end, 1 its clean end."""
    noisy, clean = (_cosine_log_snr(share, shift) for shift in _SHIFTS)
    s = math.exp(-((1 - share) * noisy + share * clean) / 2) * _DATA_STD
    return s / (1 + s)


def _cosine_log_snr(share: float, shift: float) -> float:
    """Return the log of the signal's over the noise's power, by a cosine schedule shifted between the same ends."""
    first, last = (math.atan(s / _DATA_STD * math.exp(shift / 2)) for s in _EDM_SIGMAS)
    return -2 * math.log(math.tan(first + share * (last - first))) + shift


# Return what is active around the network while an iteration at a noise level runs, its backward pass included.
Surround: TypeAlias = Callable[[float], contextlib.AbstractContextManager[None]]


def leave_network(sigma: float) -> contextlib.AbstractContextManager[None]:
    """Change nothing during an iteration at noise level sigma."""
    return contextlib.nullcontext()


@dataclass(frozen=True)
class TuningOptions:
    """How adapters are fitted: AdamW at a constant learning rate."""

    steps: int
    learning_rate: float
    seed: int


def tune_adapters(
    field: VelocityField,
    adapters: Adapters,
    clip: tuple[Tensor, Any],
    options: TuningOptions,
    state: Mapping[str, Tensor],
    done: int = 0,
    surround: Surround = leave_network,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Fit adapters to one clip, in the target's evaluations.

    Yields after each iteration its number, from 1 on, and what is needed to resume: the adapters and, until the last
    iteration, the optimizer's moments. clip: its clean latent, 1 c f h w, and its conditioning. state, done: what was
    yielded last, when a run resumes. surround: what is active while an iteration's loss and its gradients are computed.
    """
    import torch

    parameters, steps = adapters.parameters(), options.steps
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=1e-2)
    if done:
        adapters.load(state)
    if 0 < done < steps:
        _restore_moments(optimizer, parameters, state)
    for i in range(done, steps):
        gradients = _compute_gradients(field, adapters, clip, options.seed, i, surround)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        moments = _copy_moments(optimizer, parameters) if i + 1 < steps else {}
        yield i + 1, adapters.tensors() | moments


def _compute_gradients(
    field: VelocityField,
    adapters: Adapters,
    clip: tuple[Tensor, Any],
    seed: int,
    i: int,
    surround: Surround = leave_network,
) -> tuple[Tensor, ...]:
    """Return the gradients of iteration i's loss in the adapters' weights."""
    import torch

    clean, conditioning = clip
    sigma = sigma_at(keyed_integer(seed, i, 0, 2**24) / 2**24)
    eps = keyed_noise(clean, seed, i, repeat=1)
    with surround(sigma), torch.enable_grad(), checkpoint_gradients(adapters.network):
        loss = v_loss(field, clean, eps, sigma, conditioning)
        adapters.enable(True)  # the backward pass computes checkpointed blocks again
        try:
            return torch.autograd.grad(loss, adapters.parameters())
        finally:
            adapters.enable(False)


@contextlib.contextmanager
def checkpoint_gradients(network: Any) -> Iterator[None]:
    """Compute the blocks of a large diffusers network again in the backward pass, inside the block.

    Their activations are not kept then: less memory, for one more forward pass. A small network fits as it is.
    """
    from diffusers import ModelMixin  # pyright: ignore[reportPrivateImportUsage]  # exported on use

    if (
        not isinstance(network, ModelMixin)
        or network.is_gradient_checkpointing
        or network.num_parameters() < MIN_CHECKPOINTED
    ):
        yield
        return
    if not network._supports_gradient_checkpointing:
        with _checkpoint_modules(network, _list_block_kinds()):
            yield
        return
    network.enable_gradient_checkpointing()
    try:
        with _checkpoint_modules(network, _list_block_kinds()[:1]):
            yield
    finally:
        network.disable_gradient_checkpointing()


def _list_block_kinds() -> tuple[type, ...]:
    """Return the classes of a U-Net's blocks. The switch of diffusers leaves out the first: blocks over time of SVD.

    3D U-Nets have no switch.
    """
    from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer

    return TemporalBasicTransformerBlock, BasicTransformerBlock, ResnetBlock2D, TemporalConvLayer


@contextlib.contextmanager
def _checkpoint_modules(network: Any, kinds: tuple[type, ...]) -> Iterator[None]:
    """Compute a network's modules of some classes again in the backward pass, inside the block."""
    from torch.utils.checkpoint import checkpoint

    blocks = [m for m in network.modules() if isinstance(m, kinds)]
    # A hook of another library may stand in a module's own attributes.
    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


def _copy_moments(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> dict[str, Tensor]:
    moments = {}
    for number, parameter in enumerate(parameters):
        for name in _MOMENTS:
            moments[f"adam.{number}.{name}"] = optimizer.state[parameter][name].clone()
    return moments


def _restore_moments(
    optimizer: torch.optim.Optimizer, parameters: list[Tensor], state: Mapping[str, Tensor]
) -> None:
    for number, parameter in enumerate(parameters):
        moments = {name: state[f"adam.{number}.{name}"].clone() for name in _MOMENTS}
        optimizer.state[parameter] = moments
