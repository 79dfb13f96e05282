"""The manifest of a result: the task, the plan with its reasons, and what the edit cost."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from ..media.video import Clip
from ..models import identity, registry
from ..models.base import Backbone
from ..models.checkpoint import Checkpoint
from . import agreement
from .events import EditFinished
from .planning import Plan

PACKAGES = ("holdfast", "torch", "diffusers", "transformers", "av")  # whose versions are named


def make_manifest(
    plan: Plan, clip: Clip, backbone: Backbone, finished: EditFinished | None
) -> dict[str, Any]:
    """Return what a manifest says before the result is written. finished: None where no loop was needed."""
    task = plan.task
    return {
        "output": task.output,
        "task": task.to_dict(),
        "method": plan.method.__name__.rpartition(".")[2],
        "backbone": backbone.name,
        "seed": task.seed,
        "settings": plan.settings(),
        "frames": clip.frames,
        "rate": str(clip.rate),
        "size": list(clip.size),
        "audio_tracks": clip.audio_tracks,
        "source": {
            "notes": list(clip.notes),
            "variable_rate": clip.has_variable_rate,
            "bits": clip.bits,
            **_describe_sampling(clip),
        },
        "device": {
            "type": backbone.device.type,
            "dtype": str(backbone.dtype).removeprefix("torch."),
        },
        "weights": identify_weights(plan, backbone),
        "plan": plan.describe(),
        "evaluations": finished.evaluations if finished else 0,
        "dense_equivalents": finished.dense_equivalents if finished else 0,
        "reused_evaluations": finished.reused_evaluations if finished else 0,
        "guide_evaluations": finished.image_model_evaluations if finished else 0,
        **_describe_agreement(backbone, finished),
        "versions": _list_versions(),
    }


def _describe_sampling(clip: Clip) -> dict[str, Any]:
    """Return how many frames the source has, and the numbers of those that were edited, where they are not all."""
    if clip.sampling is None:
        return {}
    return {"frames": clip.sampling.source_frames, "sampled": list(clip.sampling.frames)}


def _list_versions() -> dict[str, str]:
    versions = {name: metadata.version(name) for name in PACKAGES}
    return versions | {"python": platform.python_version()}


def _describe_agreement(backbone: Backbone, finished: EditFinished | None) -> dict[str, Any]:
    """Return the model's own verdict of the result; None where it was not asked."""
    entry = None
    if finished and finished.agreement is not None:
        measured = backbone.calibration.agreement
        entry = agreement.judge(finished.agreement, measured, finished.is_in_domain).describe()
    return {
        "agreement": entry,
        "agreement_evaluations": finished.judge_evaluations if finished else 0,
    }


def identify_weights(plan: Plan, backbone: Backbone) -> dict[str, Any]:
    """Return which files the edit's models were loaded from; None for a model that the caller built."""
    weights: dict[str, Any] = {"backbone": backbone.weights}
    for use, helper in (("guide", plan.image_model), ("first_frame", plan.first_frame_model)):
        if helper.name:
            weights[use] = registry.identify(helper.name, helper.weights)
    if plan.control.network:
        weights["controlnet"] = identity.identify(Checkpoint(Path(plan.control.network)), ())
    return weights
