"""Measure what a step costs beyond its evaluations, as ratios in one run: `python benchmarks/core_speed.py`.

Each line compares the mechanism of today with what it replaced, at the size of an 832x480 clip of 81 frames where the
mechanism depends on the size. On a machine without a GPU, a host that waits stands in for one that computes.
"""

import hashlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from holdfast import load_backbone
from holdfast.base.files import write_tensors
from holdfast.models.attention import maps
from holdfast.models.attention.refinement import (
    LogitRefinement,
    MaskRows,
    WordColumns,
    refine_attention,
)
from holdfast.models.base import Prompt
from holdfast.pipeline.progress import BackgroundSaver, SavedProgress
from holdfast.sampling import noise, tuning
from holdfast.sampling.adapters import enable_for_target, find_layers, mount_adapters
from holdfast.sampling.distillation import group_by_expert
from holdfast.sampling.field import Step
from holdfast.sampling.noise import keyed_integer, keyed_noise

LATENT = (1, 16, 21, 60, 104)  # of 81 frames of 832x480 in Wan's VAE
INVERTED = 25  # latents that a method keeps when it inverts 25 steps
DEVICE_SECONDS = 0.5  # of a step on a GPU, while the host has nothing to do


@dataclass(frozen=True)
class Line:
    what: str
    before: float
    after: float
    unit: str

    def __str__(self) -> str:
        ratio = self.before / self.after if self.after else float("inf")
        numbers = f"{self.before:>10.4g} {self.after:>10.4g} {self.unit:<10}"
        return f"{self.what:<58} {numbers} {ratio:>8.1f}"


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the shortest time of some work."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def cast_of_keys() -> Line:
    """Keys in bfloat16, in the blocks of queries of SVD's first level on a CPU."""
    q, k = (torch.randn(1, 5, n, 64).bfloat16() for n in (48, 9216))

    def cast_in_each_block() -> None:
        size = maps.rows_per_block(q.shape[2], 14 * 5 * k.shape[2])
        for rows in q.split(size, dim=2):
            edited, source = ((rows.float() @ k.float().mT).softmax(-1) for _ in range(2))
            (edited - source).abs().sum(-1).mean(1)

    def cast_once() -> None:
        keys = k.float().mT
        size = maps.rows_per_block(q.shape[2], 14 * 5 * k.shape[2])
        for rows in q.split(size, dim=2):
            edited, source = ((rows.float() @ keys).softmax(-1) for _ in range(2))
            (edited - source).abs().sum(-1).mean(1)

    return Line(
        "attention distance: keys cast once", seconds(cast_in_each_block), seconds(cast_once), "s"
    )


def blocks_of_queries() -> Line:
    """The number of blocks, which is the number of launches of each operation on a GPU."""
    per_row = 14 * 5 * 9216
    counts = [
        -(-9216 // maps.rows_per_block(9216, per_row, torch.device(name)))
        for name in ("cpu", "cuda")
    ]
    return Line("attention distance of SVD: blocks of queries on a GPU", *counts, "blocks")


def rows_of_the_mask() -> Line:
    """FlowAnchor's refinement of one layer: the rows of the mask found again, or kept."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 12, n, 128, generator=generator) for n in (7800, 512, 512))
    inside = torch.rand(7800, generator=generator) < 0.1
    options, words = LogitRefinement(0.3, 0.3, 512), WordColumns.join([4])
    rows = MaskRows.split(inside)
    found = seconds(lambda: MaskRows.split(inside), 20)
    layer = seconds(lambda: refine_attention(q, k, v, rows, words, options), 2)
    return Line("FlowAnchor, one layer on a CPU: rows found or kept", layer + found, layer, "s")


def waiting_for_noise() -> Line:
    """What the loop waits for noise while a device computes."""
    like = torch.zeros(LATENT)
    ahead = noise.NoiseAhead(noise._draw_noise)

    def wait_in_steps() -> float:
        waited = 0.0
        for step in range(6):
            begin = time.perf_counter()
            ahead.take(noise.NoiseKey(LATENT, 0, step, 0))
            waited += (time.perf_counter() - begin) * (step > 0)
            time.sleep(DEVICE_SECONDS)
        return waited / 5

    keyed_noise(like, 0, 0)
    direct = wait_in_steps()
    with ahead.run():
        return Line("noise of 832x480x81: the loop waits in a step", direct, wait_in_steps(), "s")


def noise_on_a_cpu() -> Line:
    """A step of the embedded model with the noise drawn before it, or in a thread during it."""
    backbone = load_backbone("shapeworld-wan")
    z = backbone.encode(torch.rand(13, 3, 64, 64))
    conditioning = backbone.condition(Prompt("a red ball"))
    ahead = noise.NoiseAhead(noise._draw_noise)

    def run_steps() -> None:
        for step in range(10):
            ahead.take(noise.NoiseKey(tuple(z.shape), 0, step, 0))
            backbone.velocity(z, 0.7, conditioning, branch="src+")

    direct = seconds(run_steps)
    with ahead.run():
        return Line(
            "10 steps on a CPU: noise in a thread, which is off there",
            direct,
            seconds(run_steps),
            "s",
        )


def save_as_before(path: Path, step: Step) -> None:
    """Clone, hash and write every tensor, as saving did in the loop's own thread."""
    tensors = {"z": step.z} | step.state
    tensors = {name: value.contiguous().clone().cpu() for name, value in tensors.items()}
    digest = hashlib.blake2b(digest_size=16)
    for value in tensors.values():
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    write_tensors(path, tensors, {"digest": digest.hexdigest()})


def saving_of_progress(folder: Path) -> list[Line]:
    """A state of 25 inverted latents that grows by one: what the loop waits, and what is done in all."""
    state = {f"inverted{i}": torch.randn(LATENT) for i in range(INVERTED)}
    earlier = Step("invert", 24, 25, state["inverted0"], dict(list(state.items())[:-1]))
    step = Step("invert", 25, 25, state["inverted1"], state)
    before = seconds(lambda: save_as_before(folder / "old.safetensors", step))
    progress, saver = SavedProgress(folder / "new.latents.safetensors", "key"), BackgroundSaver()
    progress.save(earlier)
    begin = time.perf_counter()
    saver.start(progress, step)
    waited = time.perf_counter() - begin
    saver.close()
    in_all = time.perf_counter() - begin
    return [
        Line("save 25 latents, one of them new: the loop waits", before, waited, "s"),
        Line("save 25 latents, one of them new: work in all", before, in_all, "s"),
    ]


def gradients() -> list[Line]:
    """Motion tuning of the embedded model: what is kept for the backward pass, and the time of an iteration."""
    backbone = load_backbone("shapeworld-svd")
    clip = torch.rand(14, 3, 64, 64)
    z, condition = backbone.encode(clip), backbone.condition(Prompt(image=clip[0]))
    network = backbone.network
    paths = find_layers(network, backbone.attention_hooks.layers, "published")
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept, times = [], []
    with mount_adapters(network, paths, 4, 0) as adapters:
        field = enable_for_target(backbone.field, adapters)
        weights |= {p.untyped_storage().data_ptr() for p in adapters.parameters()}
        for tuning.MIN_CHECKPOINTED in (10**9, 0):
            saved: dict[int, torch.Tensor] = {}

            def keep(x: torch.Tensor, saved: dict[int, torch.Tensor] = saved) -> torch.Tensor:
                saved[x.untyped_storage().data_ptr()] = x
                return x

            hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x)
            with torch.enable_grad(), tuning.checkpoint_gradients(network), hooks:
                loss = tuning.v_loss(field, z, torch.randn_like(z), 0.5, condition)
            sizes = [x.untyped_storage().nbytes() for n, x in saved.items() if n not in weights]
            kept.append(sum(sizes) / 2**20)
            del loss
            run = lambda: tuning._compute_gradients(field, adapters, (z, condition), 0, 0)  # noqa: E731
            times.append(seconds(run))
    return [
        Line("tuning: activations kept for the backward pass", *kept, "MB"),
        Line("tuning: an iteration (the price of that)", *times, "s"),
    ]


def changes_of_experts() -> Line:
    """Score distillation with Wan2.2 14B: 200 iterations, whose levels are shifted by 5."""
    drawn = [keyed_integer(0, i, 50, 949) / 1000 for i in range(200)]
    shifted = [5 * t / (1 + 4 * t) for t in drawn]

    def count(sigmas: list[float]) -> int:
        return sum((a < 0.875) != (b < 0.875) for a, b in itertools.pairwise(sigmas))

    grouped = group_by_expert(shifted, 0.875, 50)
    return Line(
        "score distillation: changes of experts in 200 iterations",
        count(shifted),
        count(grouped),
        "changes",
    )


@torch.no_grad()
def main() -> None:
    print(f"{'':<58} {'before':>10} {'after':>10} {'':<10} {'ratio':>8}")
    lines = [cast_of_keys, blocks_of_queries, rows_of_the_mask, waiting_for_noise, noise_on_a_cpu]
    for measure in (*lines, changes_of_experts):
        print(measure(), flush=True)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as folder:
        for line in (*saving_of_progress(Path(folder)), *gradients()):
            print(line, flush=True)


if __name__ == "__main__":
    main()
