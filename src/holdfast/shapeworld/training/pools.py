"""Encoded training clips, made once and kept, and the measure of how well a model binds attributes to actors."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..scenes import Scene, sample_scene
from .loop import draw_training_scenes, render_clips, save_atomically
from .text import IGNORED, attribute_labels, tokenize

TUNING = 500_000  # held-out scenes from here on choose settings; those below are only for reported figures
PROBES = 48  # scenes that the measure of binding looks at


@dataclass(frozen=True)
class Pool:
    """Latents of one clip length with what their captions say; the first dimension counts clips."""

    latents: Tensor  # half precision, on the CPU
    scenes: list[Scene]
    ids: Tensor  # n LENGTH
    mask: Tensor
    labels: Tensor  # n LENGTH attributes: labels for the text encoder

    def with_actor_count(self, count: int) -> "Pool":
        """Its clips of so many actors."""
        at = [i for i, scene in enumerate(self.scenes) if len(scene.actors) == count]
        words = self.ids[at], self.mask[at], self.labels[at]
        return Pool(self.latents[at], [self.scenes[i] for i in at], *words)


def build_pool(
    encode: Callable[[Tensor], Tensor], folder: Path, frames: int, count: int, batch: int = 32
) -> Tensor:
    """Latents of `count` training clips. encode takes n f 3 H W in [-1, 1]."""
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
    return draw_training_scenes(count, f"pool/{frames}")


def add_captions(latents: Tensor, scenes: list[Scene], tokenizer) -> Pool:
    ids, mask = tokenize(tokenizer, [s.caption() for s in scenes])
    causal = tokenizer.bos_token_id is not None
    return Pool(latents, scenes, ids, mask, attribute_labels(scenes, int(causal), causal).to(ids))


@dataclass(frozen=True)
class Batch:
    """One step's clips and words. A caption that is dropped is empty and tells nothing."""

    latents: Tensor
    ids: Tensor
    mask: Tensor
    labels: Tensor
    scenes: list[Scene | None]  # None where the caption is dropped


def draw_batch(
    pool: Pool, rng: random.Random, count: int, empty: tuple[Tensor, Tensor], drop: float = 0.1
) -> Batch:
    """Random clips of a pool. empty: ids and mask of the empty caption, 1 LENGTH."""
    chosen = [rng.randrange(len(pool.latents)) for _ in range(count)]
    gone = torch.tensor([rng.random() < drop for _ in range(count)], device=pool.ids.device)[
        :, None
    ]
    ids, mask = (
        torch.where(gone, empty[0], pool.ids[chosen]),
        torch.where(gone, empty[1], pool.mask[chosen]),
    )
    told = pool.labels[chosen].masked_fill(gone[..., None], IGNORED)
    named = [
        None if g else pool.scenes[i] for i, g in zip(chosen, gone[:, 0].tolist(), strict=True)
    ]
    return Batch(pool.latents[chosen].to(pool.ids.device).float(), ids, mask, told, named)


def swap_attribute(scene: Scene, name: str) -> Scene:
    """A scene of two actors with one attribute exchanged between them."""
    a, b = scene.actors
    values = getattr(a, name), getattr(b, name)
    return replace(scene, actors=(replace(a, **{name: values[1]}), replace(b, **{name: values[0]})))


def binding_probes(name: str) -> list[Scene]:
    """Held-out scenes of two actors that differ in an attribute."""
    found, seed = [], TUNING
    while len(found) < PROBES:
        scene = sample_scene(seed, "several")
        if len({getattr(a, name) for a in scene.actors}) == 2 == len(scene.actors):
            found.append(scene)
        seed += 1
    return found


@torch.no_grad()
def measure_binding(errors: Callable[[list[Scene], list[str]], Tensor]) -> dict[str, float]:
    """Share of probes whose error is lower under the right caption than under one with an attribute exchanged.

    errors(scenes, captions): one error a scene, at one noise level and with the same noise at every call.
    """
    shares = {}
    for name in ("colour", "shape"):
        scenes = binding_probes(name)
        right = errors(scenes, [s.caption() for s in scenes])
        wrong = errors(scenes, [swap_attribute(s, name).caption() for s in scenes])
        shares[f"bound_{name}"] = (right < wrong).float().mean().item()
    return shares
