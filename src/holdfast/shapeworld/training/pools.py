"""Encode training clips once, draw batches of them, and measure how well a model binds attributes to actors."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..scenes import FIRST_TUNING_SEED, Scene, sample_scene
from .loop import draw_training_scenes, render_clips, save_atomically
from .text import IGNORED, attribute_labels, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBES = 48  # scenes that binding is measured on


@dataclass(frozen=True)
class Pool:
    """Latents of clips of one length, with their captions and labels. The first dimension counts clips."""

    latents: Tensor  # half precision, on the CPU
    scenes: list[Scene]
    ids: Tensor  # n LENGTH
    mask: Tensor
    labels: Tensor  # n LENGTH attributes: what the text encoder learns to predict

    def with_actor_count(self, count: int) -> "Pool":
        """Return the clips with this number of actors."""
        indices = [i for i, scene in enumerate(self.scenes) if len(scene.actors) == count]
        texts = self.ids[indices], self.mask[indices], self.labels[indices]
        return Pool(self.latents[indices], [self.scenes[i] for i in indices], *texts)


def build_pool(
    encode: Callable[[Tensor], Tensor], folder: Path, frames: int, count: int, batch: int = 32
) -> Tensor:
    """Return the latents of `count` training clips, encoded once and saved. encode takes n f 3 H W in [-1, 1]."""
    file = folder / f"pool-{frames}.pt"
    if file.exists():
        return torch.load(file, weights_only=True)
    scenes, parts = pool_scenes(frames, count), []
    for i in range(0, count, batch):
        with torch.no_grad():
            parts.append(encode(render_clips(scenes[i : i + batch], frames)).half().cpu())
    save_atomically(file, torch.cat(parts))
    return torch.load(file, weights_only=True)


def pool_scenes(frames: int, count: int) -> list[Scene]:
    """Draw the scenes of the pool of clips of this length."""
    return draw_training_scenes(count, f"pool/{frames}")


def add_captions(
    latents: Tensor, scenes: list[Scene], tokenizer: "PreTrainedTokenizerBase"
) -> Pool:
    """Return a pool of latents with the tokens and labels of their scenes' captions."""
    ids, mask = tokenize(tokenizer, [s.caption() for s in scenes])
    causal = tokenizer.bos_token_id is not None
    return Pool(latents, scenes, ids, mask, attribute_labels(scenes, int(causal), causal).to(ids))


@dataclass(frozen=True)
class Batch:
    """The clips and captions of one step. A dropped caption is empty and has no labels."""

    latents: Tensor
    ids: Tensor
    mask: Tensor
    labels: Tensor
    scenes: list[Scene | None]  # None for a dropped caption


def draw_batch(
    pool: Pool, rng: random.Random, count: int, empty: tuple[Tensor, Tensor], drop: float = 0.1
) -> Batch:
    """Draw random clips of a pool.

    empty: ids and mask of the empty caption, 1 LENGTH. drop: probability that a caption is dropped.
    """
    chosen = [rng.randrange(len(pool.latents)) for _ in range(count)]
    flags = [rng.random() < drop for _ in range(count)]
    dropped = torch.tensor(flags, device=pool.ids.device)[:, None]
    ids = torch.where(dropped, empty[0], pool.ids[chosen])
    mask = torch.where(dropped, empty[1], pool.mask[chosen])
    labels = pool.labels[chosen].masked_fill(dropped[..., None], IGNORED)
    scenes = [None if flag else pool.scenes[i] for i, flag in zip(chosen, flags, strict=True)]
    return Batch(pool.latents[chosen].to(pool.ids.device).float(), ids, mask, labels, scenes)


def swap_attribute(scene: Scene, name: str) -> Scene:
    """Return a scene of two actors with one attribute swapped between them."""
    a, b = scene.actors
    values = getattr(a, name), getattr(b, name)
    return replace(scene, actors=(replace(a, **{name: values[1]}), replace(b, **{name: values[0]})))


def binding_probes(name: str) -> list[Scene]:
    """Return held-out scenes of two actors that differ in an attribute."""
    scenes, seed = [], FIRST_TUNING_SEED
    while len(scenes) < PROBES:
        scene = sample_scene(seed, "several")
        if len({getattr(a, name) for a in scene.actors}) == 2 == len(scene.actors):
            scenes.append(scene)
        seed += 1
    return scenes


@torch.no_grad()
def measure_binding(errors: Callable[[list[Scene], list[str]], Tensor]) -> dict[str, float]:
    """Return the share of probes whose error is lower under the right caption than under one with a swapped attribute.

    errors(scenes, captions): one error per scene, at one noise level and with the same noise in every call.
    """
    shares = {}
    for name in ("colour", "shape"):
        scenes = binding_probes(name)
        right = errors(scenes, [s.caption() for s in scenes])
        wrong = errors(scenes, [swap_attribute(s, name).caption() for s in scenes])
        shares[f"bound_{name}"] = (right < wrong).float().mean().item()
    return shares
