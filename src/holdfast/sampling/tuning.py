"""Tuning: adapters are fitted to one clip by AdamW. A method gives the gradients of each iteration's loss.

Noise predictors are fitted to what they predict (`predict_clip`). Motion tuning (I2VEdit, arXiv:2405.16537) fits
low-rank adapters to the velocity by EDM's loss, whose weight cancels. Its noise levels are drawn as in "simple
diffusion" (Hoogeboom et al., arXiv:2301.11093): its cosine schedule, shifted at the noisy end as for a side of 32 over
64, and not shifted at the clean end.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from .field import EditInputs, Step, VelocityField
from .noise import add_noise, keyed_integer, keyed_noise, predict_noise

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..models.attention.hooks import LayerHooks
    from .adapters import Adapters

_SHIFTS = (2 * math.log(32 / 64), 0.0)  # of the schedule: at the noisy end, at the clean end
_DATA_STD = 0.5
_EDM_SIGMAS = (700.0, 0.002)  # the ends of s
MIN_CHECKPOINTED = 10**8  # parameters of a network whose activations may not fit into memory
_Context: TypeAlias = contextlib.AbstractContextManager[None]
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


def predict_clip(
    field: VelocityField,
    clean: Tensor,
    eps: Tensor,
    sigma: float,
    conditioning: Any,
    frames: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what the network predicts of a noised clip, and what is true: noise or v, 1 c f h w; differentiable.

    frames: those of the clip that the latent holds; None: all.
    """
    z = add_noise(clean, sigma, eps)
    velocity = field.velocity(z, sigma, conditioning, branch="src+", frames=frames)
    found = predict_noise(z, sigma, velocity), z - sigma * velocity
    predicted, true = (
        _as_predicted(field.prediction, sigma, *pair) for pair in (found, (eps, clean))
    )
    return predicted, true


def _as_predicted(prediction: str, sigma: float, eps: Tensor, clean: Tensor) -> Tensor:
    """Return what a model of a kind would predict of noise and a clean latent: eps, or v = a eps - s clean."""
    if prediction == "epsilon":
        return eps
    if prediction == "velocity":
        return eps - clean
    return ((1 - sigma) * eps - sigma * clean) / math.hypot(1 - sigma, sigma)


def draw_training_sigma(field: VelocityField, seed: int, i: int) -> float:
    """Return the noise level of iteration i: that of any of the model's timesteps, each as likely."""
    sigmas = field.training_sigmas() or field.sigmas(1000)[:-1]
    return sigmas[keyed_integer(seed, i, 0, len(sigmas))]


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
Surround: TypeAlias = Callable[[float], _Context]


def leave_network(sigma: float) -> _Context:
    """Change nothing during an iteration at noise level sigma."""
    return contextlib.nullcontext()


@dataclass(frozen=True)
class TuningOptions:
    """How adapters are fitted: AdamW at a constant learning rate.

    clip_norm: the norm that the gradients of all weights together are scaled down to, if it is larger; None: no limit.
    """

    steps: int
    learning_rate: float
    seed: int
    clip_norm: float | None = None


# Return the gradients of an iteration's loss, one for each parameter; None leaves that parameter as it is.
Gradients: TypeAlias = "Callable[[int], Sequence[Tensor | None]]"


def fit_adapters(
    adapters: Adapters,
    compute_gradients: Gradients,
    options: TuningOptions,
    state: Mapping[str, Tensor],
    done: int = 0,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Fit adapters to one clip.

    Yields after each iteration its number, from 1 on, and what is needed to resume: the adapters and, until the last
    iteration, the optimizer's moments. state, done: what was yielded last, when a run resumes.
    """
    import torch

    parameters, steps = adapters.parameters(), options.steps
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=1e-2)
    if done:
        adapters.load(state)
    if 0 < done < steps:
        _restore_moments(optimizer, parameters, state)
    for i in range(done, steps):
        for parameter, gradient in zip(parameters, compute_gradients(i), strict=True):
            parameter.grad = gradient
        if options.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        moments = _copy_moments(optimizer, parameters) if i + 1 < steps else {}
        yield i + 1, adapters.tensors() | moments


def tune(
    adapters: Adapters,
    compute_gradients: Gradients,
    options: TuningOptions,
    inputs: EditInputs,
    resume: Step | None,
    kept: Adapters | None = None,
) -> Iterator[Step]:
    """Fit adapters in the stage "tune", or load those of an earlier run or of a resumed one.

    kept: those of the adapters that are used afterwards; None: all. The others are not saved for another run.
    """
    steps, kept = options.steps, kept or adapters
    if inputs.adapters and resume is None:
        kept.load(inputs.adapters)
    elif resume is None or resume.stage == "tune":
        state, done = (resume.state, resume.index) if resume else ({}, 0)
        for i, saved in fit_adapters(adapters, compute_gradients, options, state, done):
            fitted = kept.tensors() if i == steps else {}
            yield Step("tune", i, steps, inputs.latent, saved, fitted)
    else:
        kept.load(resume.state)


def differentiate(
    adapters: Adapters, compute_loss: Callable[[], Tensor], hooks: Sequence[LayerHooks | None] = ()
) -> tuple[Tensor, ...]:
    """Return the gradients of a loss in the adapters' weights. They are enabled during the backward pass.

    A large network's blocks are computed again in the backward pass. hooks: those whose rules are active then.
    """
    import torch

    is_enabled = adapters.is_enabled
    with torch.enable_grad(), checkpoint_gradients(adapters.network, hooks):
        loss = compute_loss()
        adapters.enable(True)  # the backward pass computes checkpointed blocks again
        try:
            return torch.autograd.grad(loss, adapters.parameters())
        finally:
            adapters.enable(is_enabled)


def tune_adapters(
    field: VelocityField,
    adapters: Adapters,
    clip: tuple[Tensor, Any],
    options: TuningOptions,
    state: Mapping[str, Tensor],
    done: int = 0,
    surround: Surround = leave_network,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Fit adapters to one clip by `v_loss`, in the target's evaluations; yields as `fit_adapters` does.

    clip: its clean latent, 1 c f h w, and its conditioning. surround: what is active while an iteration's loss and its
    gradients are computed.
    """

    def compute_gradients(i: int) -> tuple[Tensor, ...]:
        return _compute_gradients(field, adapters, clip, options.seed, i, surround)

    yield from fit_adapters(adapters, compute_gradients, options, state, done)


def _compute_gradients(
    field: VelocityField,
    adapters: Adapters,
    clip: tuple[Tensor, Any],
    seed: int,
    i: int,
    surround: Surround = leave_network,
) -> tuple[Tensor, ...]:
    """Return the gradients of iteration i's loss in the adapters' weights."""
    clean, conditioning = clip
    sigma = sigma_at(keyed_integer(seed, i, 0, 2**24) / 2**24)
    eps = keyed_noise(clean, seed, i, repeat=1)
    with surround(sigma):
        return differentiate(adapters, lambda: v_loss(field, clean, eps, sigma, conditioning))


@contextlib.contextmanager
def checkpoint_gradients(network: Any, hooks: Sequence[LayerHooks | None] = ()) -> Iterator[None]:
    """Compute the blocks of a large diffusers network again in the backward pass, inside the block.

    Their activations are not kept then: less memory, for one more forward pass. A small network fits as it is. hooks:
    those that need to know in the second pass which evaluation the block belongs to.
    """
    from diffusers import ModelMixin  # pyright: ignore[reportPrivateImportUsage]  # exported on use

    if (
        not isinstance(network, ModelMixin)
        or network.is_gradient_checkpointing
        or network.num_parameters() < MIN_CHECKPOINTED
    ):
        yield
        return
    checkpoint = functools.partial(_checkpoint, tuple(h for h in hooks if h is not None))
    if not network._supports_gradient_checkpointing:
        with _checkpoint_modules(network, _list_block_kinds(), checkpoint):
            yield
        return
    network.enable_gradient_checkpointing(checkpoint)
    try:
        with _checkpoint_modules(network, _list_block_kinds()[:1], checkpoint):
            yield
    finally:
        network.disable_gradient_checkpointing()


def _checkpoint(
    hooks: Sequence[LayerHooks], run: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Run a block without keeping its activations. Its second pass belongs to the same evaluation, for the hooks."""
    from torch.utils.checkpoint import checkpoint

    calls = [(own, own.call) for own in hooks if own.call is not None]

    @contextlib.contextmanager
    def restore_calls() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for own, call in calls:
                stack.enter_context(own.use_call(call))
            yield

    def make_contexts() -> tuple[_Context, _Context]:
        return contextlib.nullcontext(), restore_calls()

    return checkpoint(run, *args, use_reentrant=False, context_fn=make_contexts, **kwargs)


def _list_block_kinds() -> tuple[type, ...]:
    """Return the classes of a U-Net's blocks. The switch of diffusers leaves out the first: blocks over time of SVD.

    3D U-Nets have no switch.
    """
    from diffusers.models.attention import BasicTransformerBlock, TemporalBasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D, TemporalConvLayer

    return TemporalBasicTransformerBlock, BasicTransformerBlock, ResnetBlock2D, TemporalConvLayer


@contextlib.contextmanager
def _checkpoint_modules(
    network: Any, kinds: tuple[type, ...], checkpoint: Callable[..., Any]
) -> Iterator[None]:
    """Compute a network's modules of some classes again in the backward pass, inside the block."""
    blocks = [m for m in network.modules() if isinstance(m, kinds)]
    # A hook of another library may stand in a module's own attributes.
    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = functools.partial(checkpoint, block.forward)
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del block.forward
            if forward is not None:
                block.forward = forward


def _copy_moments(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> dict[str, Tensor]:
    """Return the moments of each parameter that has had a gradient."""
    moments = {}
    for number, parameter in enumerate(parameters):
        for name, value in optimizer.state.get(parameter, {}).items():
            moments[f"adam.{number}.{name}"] = value.clone()
    return moments


def _restore_moments(
    optimizer: torch.optim.Optimizer, parameters: list[Tensor], state: Mapping[str, Tensor]
) -> None:
    for number, parameter in enumerate(parameters):
        names = {name: f"adam.{number}.{name}" for name in _MOMENTS}
        if names["step"] in state:
            moments = {name: state[n].clone() for name, n in names.items()}
            optimizer.state[parameter] = moments | {"step": moments["step"].cpu()}
