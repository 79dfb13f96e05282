"""Measure the peak memory of a method at the size of published weights, on a CPU, with random weights.

    python benchmarks/edit_memory.py tokenflow --backbone sd1.5 --frames 8 --size 512x512 [--folder DIR]

One step of each stage runs: a tuning step where the method has one, two inversion steps, an editing step. The peak is
the kernel's high-water mark of this process (VmHWM), reset before each stage, weights and interpreter included. The
weights have the published names and shapes, in float32; with --folder they are written once and used again.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import torch

from holdfast import methods
from holdfast.base.memory import PeakMemory
from holdfast.cli.doctor import parse_size
from holdfast.models import random_weights, registry
from holdfast.models.base import Backbone, Prompt
from holdfast.sampling.field import EditInputs, Pixels

SHORT = {"steps": 2, "inversion_steps": 2, "tuning_steps": 1, "null_iterations": 2}


def make_inputs(backbone: Backbone, frames: int, size: tuple[int, int]) -> EditInputs:
    """Return inputs of random numbers: a clip, its latent and, for a model of images, a first frame."""
    width, height = size
    time_stride, rows, columns = backbone.clip_format.stride
    generator = torch.Generator().manual_seed(0)
    clip = torch.rand(frames, 3, height, width, generator=generator)
    shape = (1, 4, (frames - 1) // time_stride + 1, height // rows, width // columns)
    latent = torch.randn(shape, generator=generator)
    image = clip[0] if "image" in backbone.capabilities else None
    source, target = (
        backbone.condition(Prompt(text, "", words, image))
        for text, words in (("a red ball", (1,)), ("a blue ball", (1,)))
    )
    mask = torch.zeros(1, 1, *shape[2:])
    mask[..., : shape[-1] // 2] = 1
    pixels = Pixels(
        lambda: iter(clip), backbone.encode, backbone.decode, backbone.condition, (1, 8, 8)
    )
    return EditInputs(
        latent,
        source,
        target,
        mask,
        pixels=pixels,
        first_frame=image,
        segments=((0, shape[2]),),
    )


def measure(method: str, backbone: Backbone, inputs: EditInputs, settings: dict) -> list[dict]:
    """Run a method until its first editing step and return the peak in MB and the seconds of each stage."""
    module = methods.load(method)
    known = {field.name for field in dataclasses.fields(module.Config)}
    config = module.Config(**{k: v for k, v in (SHORT | settings).items() if k in known})
    rows: list[dict] = []
    steps = iter(module.edit(backbone.field, inputs, config))
    while not rows or rows[-1]["stage"] != "edit":
        begin = time.perf_counter()
        with PeakMemory() as peak, torch.no_grad():
            step = next(steps, None)
        if step is None:
            break
        seconds = round(time.perf_counter() - begin)
        rows.append({"stage": step.stage, "mb": peak.megabytes("cpu"), "seconds": seconds})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method")
    parser.add_argument("--backbone", default="sd1.5")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--folder", help="where the random weights are, or are written")
    parser.add_argument("--set", nargs="*", default=[], help="NAME=VALUE in JSON")
    given = parser.parse_args()
    settings = {name: json.loads(value) for name, _, value in (s.partition("=") for s in given.set)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(given.folder or scratch) / given.backbone
        if not (folder / "model_index.json").is_file():
            random_weights.write_model(
                random_weights.describe_model(given.backbone), folder, "float32"
            )
        backbone = registry.load_backbone(given.backbone, str(folder), "cpu", "float32")
        inputs = make_inputs(backbone, given.frames, parse_size(given.size))
        rows = measure(given.method, backbone, inputs, settings)
    most = max(row["mb"] or 0 for row in rows)
    print(json.dumps({"method": given.method, "backbone": given.backbone, "peak_mb": most}))


if __name__ == "__main__":
    main()
