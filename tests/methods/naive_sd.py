"""Stable Diffusion as the inflated networks of the papers have it: DDIM by its equations, and patched modules.

The network is that of a tiny adapter. Frames of a clip are its batch.
"""

import contextlib
import math
from typing import Any

from torch import Tensor
from torch.nn import functional

from holdfast.models.noise_schedule import NoiseSchedule

from .. import tiny

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def make_backbone() -> Any:
    """A tiny adapter with the scheduler of Stable Diffusion."""
    made: Any = tiny.ADAPTERS["sd"]()
    made.schedule = NoiseSchedule.from_config(SCHEDULER | {"_class_name": "DDIMScheduler"})
    made.clean_sigma = made.schedule.clean_sigma
    return made


def make_scheduler() -> Any:
    import diffusers

    module: Any = diffusers
    return module.DDIMScheduler.from_config(SCHEDULER)


def list_timesteps(scheduler: Any, steps: int) -> list[int]:
    scheduler.set_timesteps(steps)
    return scheduler.timesteps.tolist()


def abar(scheduler: Any, t: int) -> Tensor:
    return scheduler.alphas_cumprod[t] if t >= 0 else scheduler.final_alpha_cumprod


def move(scheduler: Any, x: Tensor, eps: Tensor, t: int, t_next: int) -> Tensor:
    """The DDIM step from t to t_next, up or down."""
    a, a_next = abar(scheduler, t), abar(scheduler, t_next)
    x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
    return a_next**0.5 * x0 + (1 - a_next) ** 0.5 * eps


def attention_modules(network: Any) -> dict[str, Any]:
    """Self-attention layers by path."""
    return {name: m for name, m in network.named_modules() if name.endswith("attn1")}


def normalize_over_clip(norm: Any, x: Tensor) -> Tensor:
    """A group norm of frames f c h w whose mean and variance are those of the clip."""
    clip = x.transpose(0, 1)[None]  # 1 c f h w
    normed = functional.group_norm(clip, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return normed[0].transpose(0, 1)


def heads_of(module: Any, x: Tensor) -> Tensor:
    """f N (heads d) as f heads N d."""
    return x.unflatten(2, (module.heads, -1)).transpose(1, 2)


@contextlib.contextmanager
def patch_forwards(forwards: dict):
    """Replace the forward functions of modules inside the block."""
    own = {module: module.forward for module in forwards}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, forward in own.items():
            module.forward = forward


def clip_norm_forwards(network: Any) -> dict:
    """The forward functions of the norms that run over the clip."""
    norms = [network.conv_norm_out]
    for module in network.modules():
        if type(module).__name__ == "ResnetBlock2D":
            norms += [module.norm1, module.norm2]
    return {norm: lambda x, norm=norm: normalize_over_clip(norm, x) for norm in norms}


def predict(network: Any, x: Tensor, t: int, text: Tensor) -> Tensor:
    """The prediction at x, 1 c f h w, with all frames in one batch."""
    frames = x[0].transpose(0, 1)
    out = network(frames, t, text.expand(len(frames), -1, -1)).sample
    return out.transpose(0, 1)[None]


def scale_of(sigma: float) -> float:
    """z / x at a noise level."""
    return math.hypot(1 - sigma, sigma)
