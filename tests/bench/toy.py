"""An edit that takes milliseconds: it scales a clip's brightness. The runner around it is the real one."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from holdfast.base.files import write_json
from holdfast.bench import datasets, plan, runner
from holdfast.media import video
from holdfast.metrics.base import MetricModels
from holdfast.models import registry
from holdfast.pipeline import run as pipeline_run

# Of the brightness that stays, less 0.05 a step.
SHARE = {"flowedit": 0.5, "sdedit": 0.8}
METRICS = ["truth", "masked_psnr"]


class Result:
    """A finished edit, as `pipeline.run.edit` returns it."""

    def __init__(self, task):
        self.task = task
        self.clip = video.probe(task.input)
        self.manifest = {
            "task": task.to_dict(),
            "frames": self.clip.frames,
            "seconds": {"load": 5.0, "edit": 1.0},
            "evaluations": 1,
            "peak_memory_mb": 1.0,
            "preservation": {},
        }

    def save(self) -> None:
        share = SHARE[self.task.method] - 0.05 * int(self.task.settings.get("steps", 0))
        frames = ((share * frame).astype(np.uint8) for frame in video.read(self.clip))
        video.write(self.task.output, self.clip, frames, self.task.codec)
        if self.task.raw:  # brighter than the result, so that a measurement tells them apart
            frames = ((frame // 2 + 100).astype(np.uint8) for frame in video.read(self.clip))
            video.write(self.task.raw, self.clip, frames, self.task.codec)
        write_json(Path(self.task.output + ".json"), self.manifest)


def edit(task, backbone, judge_result):
    assert backbone.name == task.backbone
    return Result(task)


def load_backbone(name, *_):
    return SimpleNamespace(name=name, device="a toy")


def install(monkeypatch) -> None:
    monkeypatch.setattr(pipeline_run, "edit", edit)
    monkeypatch.setattr(registry, "load_backbone", load_backbone)


def bench(folder, limit):
    variants = tuple(plan.Variant(method, "shapeworld-wan") for method in SHARE)
    cases = tuple(datasets.load("shapeworld", folder / "data", limit))
    made = runner.Benchmark(
        plan.BenchmarkPlan("shapeworld", variants, cases), folder, MetricModels(), METRICS
    )
    made.initialize("the command")
    return made


def run(folder: Path, limit: int) -> None:
    """A whole run with the toy, for a process of its own."""
    pipeline_run.edit = edit
    registry.load_backbone = load_backbone
    counts = bench(folder, limit).run()
    (folder / "counts.json").write_text(json.dumps(counts))
