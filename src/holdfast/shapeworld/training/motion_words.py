"""Train a text-to-video model on the words of motion, after it has learned to make clips.

One word says in which direction an actor moves, and no single frame shows it. The attention over words comes from the
frame model and does not read that word, and its gradient is small next to that of the appearance. The model is
therefore first trained to predict, in every cell of a single frame, how the nearest actor moves. It then learns to use
this word on clips with one clean frame: the frame shows where an actor is, and only the words say where it goes.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..rendering import nearest_actor
from ..scenes import Scene
from .clip_encoders import text_states
from .loop import Budget, Optimiser, Stage, device
from .pools import draw_batch
from .text import ATTRIBUTES, IGNORED, new_clip_tokenizer, tokenize
from .unets import (
    CLIPS_BATCH,
    POOLS,
    T2V_SHARES,
    SharedParts,
    draw_length,
    measure_unet_binding,
    noise_loss,
    signal_and_noise,
)

if TYPE_CHECKING:
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

MOTION = {name: ATTRIBUTES[name] for name in ("direction", "verb", "pan")}
FRAMES_SHARE = 0.12  # of the stage's time, at the start: single frames; then clips
FRAMES_BATCH = 40
ONE_ACTOR_SHARE = 0.6  # of the steps: scenes of one actor, whose cells all have the same label
LABEL_WEIGHT_FRAMES, LABEL_WEIGHT_CLIPS = (
    3.0,
    0.3,
)  # of the label loss, relative to the denoising loss
CLEAN_FRAME_SHARE = 0.5  # of the steps on clips: one frame has no noise


def cross_attention_layers(unet: nn.Module) -> "list[Transformer2DModel]":
    """Return the layers that attend to the words, in the network's order."""
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    return [m for m in unet.modules() if type(m) is Transformer2DModel]


@contextmanager
def record_outputs(layers: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect each layer's output of its last call inside the block, (n f) c h w."""
    outputs: list[Tensor] = [torch.empty(0)] * len(layers)

    def record(i: int) -> Callable[..., None]:
        return lambda _layer, _inputs, output: outputs.__setitem__(i, output[0])

    handles = [layer.register_forward_hook(record(i)) for i, layer in enumerate(layers)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def new_motion_heads(unet: nn.Module) -> nn.ModuleList:
    """Return a linear head for each layer that attends to the words. They are discarded at the end."""
    torch.manual_seed(8)
    count = sum(map(len, MOTION.values()))
    return nn.ModuleList(
        nn.Linear(m.config["in_channels"], count) for m in cross_attention_layers(unet)
    )


def motion_labels(scenes: list[Scene | None], times: list[range], size: tuple[int, int]) -> Tensor:
    """Return how the actor nearest to each cell moves, n f h w by the names of MOTION; IGNORED without a scene."""
    table = torch.full((len(scenes), len(times[0]), *size, len(MOTION)), IGNORED)
    for i, scene in enumerate(scenes):
        if scene is not None:
            words = [vars(actor) | {"pan": scene.pan} for actor in scene.actors]
            rows = [[values.index(w[n]) for n, values in MOTION.items()] for w in words]
            table[i] = torch.tensor(rows)[nearest_actor(scene, times[i], size)]
    return table


def motion_label_loss(
    heads: nn.ModuleList, outputs: list[Tensor], scenes: list[Scene | None], times: list[range]
) -> Tensor:
    """Return the cross-entropy of MOTION over every cell of the layers' outputs, summed over its names."""
    total, sizes = torch.zeros((), device=outputs[0].device), {}
    for head, output in zip(heads, outputs, strict=True):
        x = output.float().permute(0, 2, 3, 1)
        size = (x.shape[1], x.shape[2])
        if size not in sizes:
            sizes[size] = motion_labels(scenes, times, size).flatten(0, 3).to(x.device)
        logits = head(functional.layer_norm(x, x.shape[-1:])).flatten(0, 2)
        parts = logits.split([len(values) for values in MOTION.values()], 1)
        for part, column in zip(parts, sizes[size].unbind(1), strict=True):
            # The mean of a batch whose captions are all dropped would not be a number.
            loss = functional.cross_entropy(part, column, ignore_index=IGNORED, reduction="sum")
            total = total + loss / (column != IGNORED).sum().clamp(min=1)
    return total / len(outputs)


def clean_frame_loss(unet: nn.Module, z: Tensor, words: Tensor, at: list[int]) -> Tensor:
    """Return `noise_loss` at the highest timestep of all frames but one, which has no noise. z: n c f h w.

    at: the clean frame of each clip. The other frames are noise alone, x = s noise; as noised from the clean z,
    their noise is (x - a z) / s.
    """
    table = signal_and_noise()
    last = len(table[0]) - 1
    a, s = (values[last] for values in table)
    noise = torch.randn(z.shape).to(z)
    is_clean = functional.one_hot(torch.tensor(at), z.shape[2]).bool().to(z.device)
    is_clean = is_clean[:, None, :, None, None]
    x = torch.where(is_clean, z, s * noise)
    t = torch.full((len(z),), last, device=z.device)
    with torch.autocast(z.device.type, torch.bfloat16):
        prediction = unet(x, t, words).sample
    error = (prediction.float() - (noise - a / s * z)).square().masked_fill(is_clean, 0)
    return error.mean() * z.shape[2] / (z.shape[2] - 1) / a**2


def train_motion(
    common: SharedParts, text_encoder: nn.Module, unet: nn.Module, budget: Budget
) -> nn.Module:
    """Train a clip model that has learned everything except its words of motion."""
    pools, empty = {f: common.pool(f) for f in POOLS}, tokenize(new_clip_tokenizer(), [""])
    one_actor = {f: pool.with_actor_count(1) for f, pool in pools.items()}
    heads = new_motion_heads(unet)
    parts = nn.ModuleDict({"unet": unet, "tellers": heads}).to(device()).eval()
    optimiser = Optimiser(parts, lr=4e-4, matrix_lr=0.006)
    stage = Stage(parts, optimiser, common.folder, "motion", decay=0.998)
    with record_outputs(cross_attention_layers(unet)) as outputs:
        for i in stage.steps(budget):
            rng = random.Random(f"motion/{i}")
            help_weight = 1 - stage.share  # falls to 0, so that the model ends at its own task
            single = stage.share < FRAMES_SHARE
            frames, length = (1, 13) if single else draw_length(rng, T2V_SHARES)
            chosen = one_actor if rng.random() < ONE_ACTOR_SHARE * help_weight else pools
            batch = draw_batch(chosen[length], rng, FRAMES_BATCH if single else CLIPS_BATCH, empty)
            starts = [rng.randrange(length) if single else 0 for _ in batch.scenes]
            times = [range(start, start + frames) for start in starts]
            z = torch.stack([c[list(t)] for c, t in zip(batch.latents, times, strict=True)])
            z = z.transpose(1, 2)
            with torch.no_grad():
                words = text_states(text_encoder, batch.ids, batch.mask)
            if frames > 1 and rng.random() < CLEAN_FRAME_SHARE * help_weight:
                at = [rng.randrange(frames) for _ in starts]
                loss, name = clean_frame_loss(unet, z, words, at), "given"
            else:
                loss, name = noise_loss(unet, z, words), "loss"
            label_loss = motion_label_loss(heads, outputs, batch.scenes, times)
            weight = LABEL_WEIGHT_FRAMES if single else LABEL_WEIGHT_CLIPS
            stage.descend(loss + weight * help_weight * label_loss)
            stage.log({"frames": frames, name: loss.detach(), "tell": label_loss.detach()}, 20)
            if i % 500 == 0:
                stage.log(measure_unet_binding(unet, common, text_encoder, 5))
    return unet
