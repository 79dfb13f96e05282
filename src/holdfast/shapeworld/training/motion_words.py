"""What teaches a clip model its words of motion, once it makes clips.

One word says where an actor goes, and no frame shows it: the attention over words that came from the frame model does
not look there, and what would teach it is lost beside the looks. So the model is first made to say, in every cell of a
single frame, how the actor nearest to it moves. What it then reads it learns to use on clips of which one frame is
given: where an actor is, that frame shows; where it goes, only the words say.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

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

MOTION = {name: ATTRIBUTES[name] for name in ("direction", "verb", "pan")}
FRAMES_SHARE = 0.12  # of the stage's time: single frames, then clips
FRAMES_BATCH = 40
ALONE = 0.6  # of the steps: scenes of one actor, whose cells all mean the same
TELL_FRAMES, TELL_CLIPS = 3.0, 0.3  # weight of what the cells say beside the denoising
GIVEN = 0.5  # of the clips' steps: one frame is given


def cross_attention_layers(unet: nn.Module) -> list[nn.Module]:
    """The layers that look at the words, in the network's order."""
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    return [m for m in unet.modules() if type(m) is Transformer2DModel]


@contextmanager
def record_outputs(layers: list[nn.Module]) -> Iterator[list[Tensor]]:
    """What each layer put out at its last call, (n f) c h w."""
    found: list[Tensor] = [torch.empty(0)] * len(layers)

    def keep(i: int):
        return lambda _layer, _given, out: found.__setitem__(i, out[0])

    handles = [layer.register_forward_hook(keep(i)) for i, layer in enumerate(layers)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def new_motion_heads(unet: nn.Module) -> nn.ModuleList:
    """A linear head for each of those layers; thrown away at the end."""
    torch.manual_seed(8)
    count = sum(map(len, MOTION.values()))
    return nn.ModuleList(nn.Linear(m.config.in_channels, count) for m in cross_attention_layers(unet))


def motion_labels(scenes: list[Scene | None], times: list[range], size: tuple[int, int]) -> Tensor:
    """How the actor nearest to each cell moves, n f h w by the names of MOTION; untold where there is no scene."""
    found = torch.full((len(scenes), len(times[0]), *size, len(MOTION)), IGNORED)
    for i, scene in enumerate(scenes):
        if scene is not None:
            said = [vars(actor) | {"pan": scene.pan} for actor in scene.actors]
            moves = [[values.index(s[n]) for n, values in MOTION.items()] for s in said]
            found[i] = torch.tensor(moves)[nearest_actor(scene, times[i], size)]
    return found


def motion_label_loss(
    tellers: nn.ModuleList, found: list[Tensor], scenes: list[Scene | None], times: list[range]
) -> Tensor:
    """Cross-entropy of MOTION from every cell that the layers put out, summed over its names."""
    total, sizes = torch.zeros((), device=found[0].device), {}
    for head, out in zip(tellers, found, strict=True):
        x = out.float().permute(0, 2, 3, 1)
        size = (x.shape[1], x.shape[2])
        if size not in sizes:
            sizes[size] = motion_labels(scenes, times, size).flatten(0, 3).to(x.device)
        said = head(functional.layer_norm(x, x.shape[-1:])).flatten(0, 2)
        parts = said.split([len(values) for values in MOTION.values()], 1)
        for part, wanted in zip(parts, sizes[size].unbind(1), strict=True):
            # a batch whose captions are all dropped tells nothing, and its mean is not a number
            told = functional.cross_entropy(part, wanted, ignore_index=IGNORED, reduction="sum")
            total = total + told / (wanted != IGNORED).sum().clamp(min=1)
    return total / len(found)


def clean_frame_loss(unet: nn.Module, z: Tensor, words: Tensor, at: list[int]) -> Tensor:
    """`noise_loss` at the highest timestep of all frames but one, which is given without noise. z: n c f h w.

    The other frames hold noise alone, x = s noise: as a clip of the clean z they hold the noise (x - a z) / s.
    """
    table = signal_and_noise()
    last = len(table[0]) - 1
    a, s = (levels[last] for levels in table)
    noise = torch.randn(z.shape).to(z)
    given = functional.one_hot(torch.tensor(at), z.shape[2]).bool().to(z.device)
    given = given[:, None, :, None, None]
    x = torch.where(given, z, s * noise)
    t = torch.full((len(z),), last, device=z.device)
    with torch.autocast(z.device.type, torch.bfloat16):
        found = unet(x, t, words).sample
    error = (found.float() - (noise - a / s * z)).square().masked_fill(given, 0)
    return error.mean() * z.shape[2] / (z.shape[2] - 1) / a**2


def train_motion(
    common: SharedParts, text_encoder: nn.Module, unet: nn.Module, budget: Budget
) -> nn.Module:
    """Go on from a clip model that has learned all but its words of motion."""
    pools, empty = {f: common.pool(f) for f in POOLS}, tokenize(new_clip_tokenizer(), [""])
    alone = {f: pool.with_actor_count(1) for f, pool in pools.items()}
    parts = nn.ModuleDict({"unet": unet, "tellers": new_motion_heads(unet)}).to(device()).eval()
    optimiser = Optimiser(parts, lr=4e-4, matrix_lr=0.006)
    run = Stage(parts, optimiser, common.folder, "motion", decay=0.998)
    with record_outputs(cross_attention_layers(unet)) as found:
        for i in run.steps(budget):
            rng = random.Random(f"motion/{i}")
            left = 1 - run.share  # all that helps falls to none: the model ends at its own task
            single = run.share < FRAMES_SHARE
            frames, length = (1, 13) if single else draw_length(rng, T2V_SHARES)
            chosen = alone if rng.random() < ALONE * left else pools
            batch = draw_batch(chosen[length], rng, FRAMES_BATCH if single else CLIPS_BATCH, empty)
            starts = [rng.randrange(length) if single else 0 for _ in batch.scenes]
            times = [range(start, start + frames) for start in starts]
            z = torch.stack([c[list(t)] for c, t in zip(batch.latents, times, strict=True)])
            z = z.transpose(1, 2)
            with torch.no_grad():
                words = text_states(text_encoder, batch.ids, batch.mask)
            if frames > 1 and rng.random() < GIVEN * left:
                at = [rng.randrange(frames) for _ in starts]
                loss, name = clean_frame_loss(unet, z, words, at), "given"
            else:
                loss, name = noise_loss(unet, z, words), "loss"
            tell = motion_label_loss(parts["tellers"], found, batch.scenes, times)
            run.descend(loss + (TELL_FRAMES if single else TELL_CLIPS) * left * tell)
            run.log({"frames": frames, name: loss.detach(), "tell": tell.detach()}, 20)
            if i % 500 == 0:
                run.log(measure_unet_binding(unet, common, text_encoder, 5))
    return unet
