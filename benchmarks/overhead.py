"""Measure the overhead of a step beyond its network evaluations: `python benchmarks/overhead.py`.

Run each method once, saving included, and time every evaluation. Print the seconds of the evaluations alone and of
everything else in the same run. Target: everything else under 2 %.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from holdfast import load_backbone, methods
from holdfast.models.base import Prompt
from holdfast.pipeline.metering import EvaluationMeter
from holdfast.pipeline.progress import SavedProgress
from holdfast.sampling.field import EditInputs, VelocityField
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import sample_edit

STEPS, FRAMES = 20, 13


@dataclass(frozen=True)
class Cost:
    seconds: float
    bare: float  # of the evaluations alone
    evaluations: int


class EvaluationTimer:
    """The seconds of a field's evaluations. On a CPU: on a GPU it would be the time to launch them."""

    def __init__(self):
        self.seconds = 0.0

    def wrap(self, field: VelocityField) -> VelocityField:
        def velocities(sigma, evaluations, frames=None):
            begin = time.perf_counter()
            found = field.velocities(sigma, evaluations, frames)
            self.seconds += time.perf_counter() - begin
            return found

        return replace(field, velocities=velocities)


@torch.no_grad()
def measure(backbone, name: str, given: EditInputs) -> Cost:
    module, timer, meter = methods.load(name), EvaluationTimer(), EvaluationMeter()
    field = meter.wrap(timer.wrap(backbone.field))
    cfg = module.Config(steps=STEPS, strength=1.0)
    with tempfile.TemporaryDirectory() as folder:
        store = SavedProgress(Path(folder) / "latents.safetensors", "benchmark")
        begin = time.perf_counter()
        for step in module.edit(field, given, cfg):  # noqa: B007
            pass
        store.save(step)
        seconds = time.perf_counter() - begin
    return Cost(seconds, timer.seconds, meter.evaluations)


def main() -> None:
    backbone = load_backbone("shapeworld-wan")
    edit = sample_edit(0, "colour")
    source = backbone.encode(render([edit.source], FRAMES)[0])
    captions = (edit.source.caption(), edit.target.caption())
    given = EditInputs(source, *(backbone.condition(Prompt(text)) for text in captions))
    print(f"{'method':<12} {'evaluations':>11} {'bare s':>8} {'other s':>8} {'overhead':>9}")
    for name in methods.list_compatible(backbone.capabilities):
        measure(backbone, name, given)  # warm up
        cost = measure(backbone, name, given)
        other = cost.seconds - cost.bare
        figures = f"{cost.bare:>8.3f} {other:>8.3f} {other / cost.bare:>8.2%}"
        print(f"{name:<12} {cost.evaluations:>11} {figures}")


if __name__ == "__main__":
    main()
