"""Count how often an edit evaluates its networks, before it runs.

They are counted on the family's embedded model, which is evaluated as often and takes seconds.
"""

import dataclasses
import functools
import json
import threading
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..base.notices import Notice
from ..media import fitting
from ..media.clip_format import ClipFormat
from ..models import registry
from ..models.base import Backbone
from . import in_memory
from .dry_run import DryRunBackbone
from .planning import Plan
from .task import EditTask

COUNTED_LENGTHS = (3, 5)  # latent frames of the clips that are counted: one window, and several
COUNTED_SIDE = 64  # pixels


class EvaluationCount(NamedTuple):
    """How often networks are evaluated.

    evaluations: of the backbone; with_gradient: those of them that need a gradient; image_model: of a second model;
    in_region: those of the backbone that run inside the mask only. Where iterations may end early, all are counted.
    """

    evaluations: int
    with_gradient: int
    image_model: int
    in_region: int = 0

    def with_iterations(self, iterations: int) -> "EvaluationCount":
        """Return the count of a method that was counted with one iteration of its evaluations with a gradient."""
        more = (iterations - 1) * self.with_gradient
        return self._replace(
            evaluations=self.evaluations + more, with_gradient=self.with_gradient + more
        )

    def in_windows(self, shares: Sequence[float]) -> tuple["EvaluationCount", float]:
        """Return the count where the mask covers a share of each window's tokens, and its cost.

        In a window without any, nothing runs for the mask. The cost is in evaluations of the whole latent.
        """
        each = self.in_region / len(shares)
        evaluations = self.evaluations - round(each * sum(share == 0 for share in shares))
        cost = self.evaluations - each * sum(1 - share for share in shares)
        return self._replace(evaluations=evaluations), round(cost, 1)


def count_evaluations(plan: Plan, backbone: Backbone | None = None) -> EvaluationCount | None:
    """Count how often an edit evaluates its networks; None where its family has no embedded model.

    backbone: the loaded one, which may be that embedded model.
    """
    _, family = registry.choose_backbone(plan.task.backbone)
    embedded = [name for name, spec in family.specs.items() if not spec.download_gb]
    if not embedded:
        return None
    is_loaded = backbone is not None and backbone.name == embedded[0]
    model = backbone if backbone and is_loaded else _load_embedded(embedded[0])
    settings = {k: v for k, v in dataclasses.asdict(plan.config).items() if v is not None}
    repeated = plan.method.METHOD.gradient_iterations
    iterations = settings[repeated] if repeated else 1
    if iterations > 1:
        settings[repeated] = 1  # a gradient takes long, even on the embedded model
    arguments = (model, plan.task.method, json.dumps(settings), _mask_kind(plan.task))
    one, _ = count_on_embedded(*arguments, has_many_windows=False)
    if plan.windows.count == 1:
        return one.with_iterations(iterations)
    many, windows = count_on_embedded(*arguments, has_many_windows=True)
    factor = (plan.windows.count - 1) / (windows - 1)
    counts = (round(a + factor * (b - a)) for a, b in zip(one, many, strict=True))
    return EvaluationCount(*counts).with_iterations(iterations)


def _mask_kind(task: EditTask) -> str:
    return "auto" if task.mask == "auto" else "given" if task.mask else ""


@functools.lru_cache(maxsize=1)
def _load_embedded(name: str) -> Backbone:
    return registry.load_backbone(name, None, "cpu")


_count_lock = threading.Lock()


def count_on_embedded(
    backbone: Backbone, method: str, settings: str, mask: str, has_many_windows: bool
) -> tuple[EvaluationCount, int]:
    """Count the evaluations of a very small clip on an embedded model. Return them and the number of windows.

    settings: of the method, as JSON. mask: "auto", "given" or "". Threads take turns, because they share the model.
    """
    with _count_lock:
        return _count_uncontended(backbone, method, settings, mask, has_many_windows)


@functools.lru_cache(maxsize=16)
def _count_uncontended(
    backbone: Backbone, method: str, settings: str, mask: str, has_many_windows: bool
) -> tuple[EvaluationCount, int]:
    clip_format = backbone.clip_format
    lengths = [
        clip_format.round_up_frames((count - 1) * clip_format.stride[0] + 1)
        for count in COUNTED_LENGTHS
    ]
    frames = torch.zeros(lengths[has_many_windows], 3, COUNTED_SIDE, COUNTED_SIDE)
    first_frame = frames[0] if "image" in backbone.capabilities else None
    task = EditTask(
        "",
        "",
        "a red ball",
        "a blue ball",
        method=method,
        settings=json.loads(settings),
        window=lengths[0],
        mask="auto" if mask == "auto" else None,
        allow_any_mask=True,  # of a black clip the mask may be anything
        first_frame=None if first_frame is None else "given",
    )
    inside = None
    if mask == "given":
        left = np.zeros((COUNTED_SIDE, COUNTED_SIDE), bool)
        left[:, : COUNTED_SIDE // 2] = True  # a half of the tokens
        inside = [left] * len(frames)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Notice)
        job = in_memory.plan_job(task, backbone, frames, inside, first_frame)
        size = (COUNTED_SIDE, COUNTED_SIDE)
        fit = fitting.Fit(len(frames), size, len(frames), _smallest_size(clip_format), "")
        job = dataclasses.replace(job, plan=dataclasses.replace(job.plan, fit=fit))
        dry = DryRunBackbone(backbone)
        finished = in_memory.finish_loop(job, dry)
    count = EvaluationCount(
        finished.evaluations,
        dry.gradient_evaluations,
        finished.image_model_evaluations,
        in_region=round(2 * (finished.evaluations - finished.dense_equivalents)),
    )
    return count, job.plan.windows.count


def _smallest_size(clip_format: ClipFormat) -> tuple[int, int]:
    """Return a small legal size: a few cells of the network's coarsest layer."""
    height, width = clip_format.size_multiple
    return max(16, 2 * height), max(16, 2 * width)
