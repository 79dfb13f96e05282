"""Tune-A-Video (Wu et al., arXiv:2212.11565): an image model is inflated to a clip, tuned on it, and edits it.

Inflated, self-attention of frame i reads two frames, Q = W_q z_i and K, V = W_kv [z_0 ; z_{i-1}] (Eq. 3), frame 0
twice itself; attention over time follows each feed-forward; group norms run over the clip. Tuned are W_q of self- and
cross-attention and the attention over time, on |eps - eps_theta(z_t, t, source prompt)|^2 (Eq. 2). The clip is inverted
by DDIM with the empty prompt, and sampled with the target prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from ..base.schema import Count, Field, Guidance, TuningRate, settings_class
from ..sampling import ddim
from ..sampling.field import EditInputs, Step, VelocityField, choose_timesteps
from ..sampling.noise import keyed_noise
from .base import MethodInfo

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention import Layer
    from ..sampling.adapters import Adapters
    from ..sampling.tuned_layers import TunedLayer
    from ..sampling.tuning import Gradients

METHOD = MethodInfo(
    gradient_iterations="tuning_steps",
    requires=frozenset({"text_attention", "spatial_attention", "clip_norms"}),
    fits_adapters=("tuning_steps", "learning_rate", "variant"),
    fits_to_prompt=True,
    unused_unless={"learning_rate": "tuning_steps", "variant": "tuning_steps"},
    draws_noise="tuning_steps",
)
CLIP_NORM = 1.0  # of the gradients


@settings_class
class Config(ddim.DDIMConfig):
    """The authors' values."""

    inversion_prompt: Literal["source", "negative"] = Field(
        default="negative",
        description="the prompt of the inversion; negative: the negative prompt, which is empty by default",
    )
    target_guidance: Guidance = Field(
        default=12.5, description="guidance scale of the target prompt"
    )
    tuning_steps: Count = Field(default=500, description="iterations of tuning; 0: none")
    learning_rate: TuningRate = Field(default=3e-5, description="learning rate of tuning")
    variant: Literal["paper", "released"] = Field(
        default="released",
        description="how attention over time begins. paper: without effect; released: the bias of its output is drawn, "
        "as in the authors' code",
    )


def edit(
    field: VelocityField, inputs: EditInputs, config: Config, resume: Step | None = None
) -> Iterator[Step]:
    if not round(config.strength * config.steps):
        return
    field = choose_timesteps(field, config)
    # Planned before the tuning, so that settings that do not fit are refused before it.
    levels, guidance = ddim.plan_levels(field, inputs, config), config.target_guidance
    with inflate(field):
        if config.tuning_steps:
            yield from tune_and_edit(field, inputs, config, levels, resume)
        else:
            yield from ddim.edit_inverted(field, inputs, config, levels, guidance, resume)


def tune_and_edit(
    field: VelocityField,
    inputs: EditInputs,
    config: Config,
    levels: ddim.Levels,
    resume: Step | None,
) -> Iterator[Step]:
    """Tune the inflated network, and edit with it."""
    from ..sampling.adapters import mount_layers
    from ..sampling.tuning import TuningOptions, tune

    options = TuningOptions(config.tuning_steps, config.learning_rate, inputs.seed, CLIP_NORM)
    layers = make_layers(field, config, inputs.seed)
    with mount_layers(field.get_network(), layers) as adapters:
        adapters.enable(True)
        yield from tune(adapters, noise_gradients(field, adapters, inputs), options, inputs, resume)
        kept, guidance = adapters.tensors(), config.target_guidance
        yield from ddim.edit_inverted(field, inputs, config, levels, guidance, resume, kept)


@contextlib.contextmanager
def inflate(field: VelocityField) -> Iterator[None]:
    """Let frames read the first and the previous one in self-attention, and group norms run over the clip."""
    from ..models.attention.frames import attend_to_frames, frame_sources

    def read_two_frames(layer: Layer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        sources = frame_sources("first+previous", len(layer.frames))
        return attend_to_frames(layer, q, k, v, sources)

    def is_spatial_self(layer: Layer) -> bool:
        return layer.kind == "self" and layer.axis == "spatial"

    hooks = field.get_attention_hooks()
    with field.normalize_over_clip(), hooks.use_rule(read_two_frames, is_spatial_self):
        yield


def make_layers(field: VelocityField, config: Config, seed: int) -> dict[str, TunedLayer]:
    """Return the layers that are tuned, by path: queries, and the attention over time after each block."""
    from ..sampling.tuned_layers import AppendedAttention, FullWeight

    network, hooks = field.get_network(), field.get_attention_hooks()
    layers: dict[str, TunedLayer] = {}
    for layer in hooks.layers:
        query = network.get_submodule(f"{layer.path}.to_q")
        layers[f"{layer.path}.to_q"] = FullWeight(query)
        if layer.kind == "self":
            block = layer.path.rpartition(".")[0]
            attention: Any = network.get_submodule(layer.path)
            appended = AppendedAttention(
                network.get_submodule(block),
                (attention.query_dim, attention.heads),
                lambda: len(hooks.running_call.frames),
            )
            appended.initialise(f"{seed}/{block}", draws_bias=config.variant == "released")
            layers[block] = appended
    return layers


def noise_gradients(field: VelocityField, adapters: Adapters, inputs: EditInputs) -> Gradients:
    """Return the gradients of |eps - eps_theta|^2 in the adapters' weights, as a function of the iteration."""
    from ..sampling.tuning import differentiate, draw_training_sigma, predict_clip

    x, hooks = inputs.latent, (field.attention_hooks, field.feature_hooks)

    def compute(i: int) -> tuple[Tensor, ...]:
        eps = keyed_noise(x, inputs.seed, i, repeat=1)
        sigma = draw_training_sigma(field, inputs.seed, i)

        def loss() -> Tensor:
            predicted, true = predict_clip(field, x, eps, sigma, inputs.source)
            return (predicted - true).square().mean()

        return differentiate(adapters, loss, hooks)

    return compute
