"""VMC (Jeong et al., arXiv:2312.00845): attention over time is tuned on how the noise changes from frame to frame.

With d eps_n = eps_{n+1} - eps_n of the noise, and the same of the predicted noise, the loss is the mean over n of
1 - cos(d eps_n, d eps_theta,n) (Eq. 10). Tuned are W_q, W_k and W_v of attention over time in the blocks of a video
model. The clip is inverted by DDIM with the empty prompt, and sampled with the target prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ..base.schema import Count, Field, Guidance, Steps, TuningRate, settings_class
from ..sampling import ddim
from ..sampling.field import EditInputs, Step, VelocityField, choose_timesteps
from ..sampling.noise import keyed_noise
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..sampling.adapters import Adapters
    from ..sampling.tuned_layers import TunedLayer
    from ..sampling.tuning import Gradients

METHOD = MethodInfo(
    gradient_iterations="tuning_steps",
    requires=frozenset({"text_attention", "temporal_attention"}),
    fits_adapters=("tuning_steps", "learning_rate", "variant"),
    fits_to_prompt=True,
    unused_unless={"learning_rate": "tuning_steps", "variant": "tuning_steps"},
    draws_noise="tuning_steps",
)
CLIP_NORM = 1.0  # of the gradients


@settings_class
class Config(ddim.DDIMConfig):
    """The authors' values."""

    steps: Steps = Field(default=75, description="number of steps of the noise schedule")
    inversion_steps: Steps = Field(
        default=75,
        description="steps of the whole schedule in which the clip is inverted; at least `steps`",
    )
    inversion_prompt: Literal["source", "negative"] = Field(
        default="negative",
        description="the prompt of the inversion; negative: the negative prompt, which is empty by default",
    )
    target_guidance: Guidance = Field(
        default=9.0, description="guidance scale of the target prompt"
    )
    tuning_steps: Count = Field(default=400, description="iterations of tuning; 0: none")
    learning_rate: TuningRate = Field(default=1e-4, description="learning rate of tuning")
    variant: Literal["paper", "released"] = Field(
        default="released",
        description="what the cosine compares. paper: the change of each frame as one vector; released: the absolute "
        "changes of each latent cell, as a vector over the frames",
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    from ..sampling.adapters import mount_layers
    from ..sampling.tuning import TuningOptions, tune

    if not round(config.strength * config.steps):
        return
    field = choose_timesteps(field, config)
    # Planned before the tuning, so that settings that do not fit are refused before it.
    levels, guidance = ddim.plan_levels(field, inputs, config), config.target_guidance
    if not config.tuning_steps or inputs.latent.shape[2] == 1:  # one frame has no motion to learn
        yield from ddim.edit_inverted(field, inputs, config, levels, guidance, resume)
        return
    options = TuningOptions(config.tuning_steps, config.learning_rate, inputs.seed, CLIP_NORM)
    with mount_layers(field.get_network(), make_layers(field)) as adapters:
        adapters.enable(True)
        gradients = motion_gradients(field, adapters, inputs, config.variant)
        yield from tune(adapters, gradients, options, inputs, resume)
        kept = adapters.tensors()
        yield from ddim.edit_inverted(field, inputs, config, levels, guidance, resume, kept)


def make_layers(field: VelocityField) -> dict[str, TunedLayer]:
    """Return the layers that are tuned, by path: q, k and v over time in the blocks, not before the first of them."""
    from ..sampling.tuned_layers import FullWeight

    network, layers = field.get_network(), {}
    for layer in field.get_attention_hooks().layers:
        if layer.axis == "temporal" and layer.section != "block":
            for name in ("to_q", "to_k", "to_v"):
                path = f"{layer.path}.{name}"
                layers[path] = FullWeight(network.get_submodule(path))
    return layers


def motion_loss(predicted: Tensor, true: Tensor, variant: str) -> Tensor:
    """Return the mean of 1 - cos between the changes of predicted and true noise, 1 c f h w, from frame to frame."""
    from torch.nn import functional

    changes = [noise[:, :, 1:] - noise[:, :, :-1] for noise in (predicted, true)]
    if variant == "released":
        changes = [change.abs() for change in changes]
    else:
        changes = [change.transpose(1, 2).flatten(2) for change in changes]  # 1 f-1 (c h w)
    return 1 - functional.cosine_similarity(*changes, dim=2).mean()


def motion_gradients(
    field: VelocityField, adapters: Adapters, inputs: EditInputs, variant: str
) -> Gradients:
    """Return the gradients of `motion_loss` in the adapters' weights, as a function of the iteration."""
    from ..sampling.tuning import differentiate, draw_training_sigma, predict_clip

    x, field = inputs.latent, replace(field, prediction="epsilon")

    def compute(i: int) -> tuple[Tensor, ...]:
        eps = keyed_noise(x, inputs.seed, i, repeat=1)
        sigma = draw_training_sigma(field, inputs.seed, i)

        def loss() -> Tensor:
            return motion_loss(*predict_clip(field, x, eps, sigma, inputs.source), variant)

        return differentiate(adapters, loss)

    return compute
