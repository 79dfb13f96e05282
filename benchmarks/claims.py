"""Test FlowAnchor's two claims on held-out scenes with exact truth: `python benchmarks/claims.py [--only PART...]`.

places: scenes of two or three actors, one of which is edited (colour, shape, material in turn). Per method: error
against the true edited clip, inside and outside the region that the true edit changes; share of the change that falls
outside; success of the model's own output; and the error of the delivered clip, in which a mask restores the source's
pixels outside. Then paired differences between methods. Wan-Edit + mask and FlowAnchor get the edited actor's mask.
lengths: scenes of one actor from 1 latent frame on: mean magnitude of the edit's signal, and success with and without
AMM. open: the choices that the paper leaves open, each against the default, on tuning scenes.
Prints Markdown: means with their 95 % intervals.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from tables import format_differences, format_intervals, print_header, print_row
from torch import Tensor

from holdfast.models.base import Backbone, BackboneWrapper
from holdfast.pipeline import in_memory, loop
from holdfast.pipeline.task import EditTask
from holdfast.shapeworld.evaluate import FIRST_TUNING_SEED, ModelChoice, measure_seeds
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import SceneEdit, sample_edit
from holdfast.shapeworld.truth import actor_mask, judge

KINDS = ("colour", "shape", "material")
LENGTHS = (1, 5, 13, 25, 49, 73)  # trained at 13 frames most of the time, at 25 at the most
METRICS = {
    "psnr": "error against truth, dB",
    "psnr_inside": "inside",
    "psnr_outside": "outside",
    "outside_share": "share of the change outside",
    "success": "success",
    "delivered": "delivered, dB",
    "delivered_outside": "outside",
}


@dataclass(frozen=True)
class Variant:
    """A method and its name in the tables."""

    name: str
    method: str
    sees_mask: bool = False
    settings: dict = field(default_factory=dict)


MAIN = (
    Variant("FlowEdit", "flowedit"),
    Variant("Wan-Edit + mask", "wanedit", True),
    Variant("FlowAnchor", "flowanchor", True),
)
OTHERS = (
    Variant("FlowDirector, 2 noises", "flowdirector", False, {"n_avg": 2, "n_worst": 1}),
    Variant("without TTM", "flowanchor", True, {"beta_text": 0.0}),
    Variant("without STM", "flowanchor", True, {"beta_video": 0.0}),
    Variant("without AMM", "flowanchor", True, {"gamma": 0.0}),
)
OPEN = (
    {},
    {"tau_by": "step"},
    {"contrast": "abs"},
    {"text_range": "prompt"},
    {"padding": "kept"},
    {"statistics": "mean"},
    {"mask_velocity": True},
)


def make_job(backbone: Backbone, edit: SceneEdit, variant: Variant, seed: int) -> loop.LoopJob:
    frames = edit.source.frames
    task = EditTask(
        input="",
        output="",
        source_prompt=edit.source.caption(),
        target_prompt=edit.target.caption(),
        method=variant.method,
        settings=variant.settings,
        seed=seed,
        window=0,
    )
    mask = actor_mask(edit, frames).bool().numpy() if variant.sees_mask else None
    return in_memory.plan_job(task, backbone, render([edit.source], frames)[0], mask)


def measure_delivered(edit: SceneEdit, result: Tensor, sees_mask: bool) -> dict[str, float]:
    """Return the error after pixels outside the mask are restored, as an edit with a mask does; at most 100 dB."""
    if sees_mask:
        mask = actor_mask(edit, len(result))[:, None]
        source = render([edit.source], len(result))[0]
        result = mask * result + (1 - mask) * source
    figures = judge(edit, result)
    outside = min(100.0, figures["psnr_outside"])
    return {"delivered": figures["psnr"], "delivered_outside": outside}


def measure_edit(backbone: Backbone, seed: int, variant: Variant) -> dict:
    edit = sample_edit(seed, KINDS[seed % len(KINDS)], "several")
    result = in_memory.edit_frames(make_job(backbone, edit, variant, seed), backbone)
    return judge(edit, result) | measure_delivered(edit, result, variant.sees_mask)


MeasureScenes = Callable[..., list[dict]]  # (measure, first seed, scenes, *arguments)


def print_places(measure_scenes: MeasureScenes, start: int, count: int, others: int) -> None:
    print_header("method", "scenes", *METRICS.values())
    found = {}
    for rows, scenes in ((MAIN, count), (OTHERS, others)):
        for variant in rows:
            found[variant.name] = measure_scenes(measure_edit, start, scenes, variant)
            print_row(variant.name, scenes, *format_intervals(found[variant.name], METRICS))
    print_header("FlowAnchor minus", "scenes", *METRICS.values())
    for name, rows in found.items():
        if name != "FlowAnchor":
            own = found["FlowAnchor"][: len(rows)]
            print_row(name, len(rows), *format_differences(own, rows, METRICS))


class SignalMeter(BackboneWrapper):
    """A backbone that records the mean magnitude of FlowAnchor's difference of guided velocities."""

    def __init__(self, inner: Backbone, guidance: dict[str, float]):
        super().__init__(inner)
        self.guidance = guidance
        self.last: dict[str, Tensor] = {}
        self.sizes: list[float] = []

    def velocities(self, sigma, evaluations, frames=None):
        found = self.inner.velocities(sigma, evaluations, frames)
        for evaluation, velocity in zip(evaluations, found, strict=True):
            self.last[evaluation.branch] = velocity
        difference = self._guided_velocity("tgt") - self._guided_velocity("src")
        self.sizes.append(difference.abs().mean().item())
        return found

    def _guided_velocity(self, side: str) -> Tensor:
        positive, scale = self.last[f"{side}+"], self.guidance[side]
        if scale == 1:
            return positive
        negative = self.last[f"{side}-"]
        return negative + scale * (positive - negative)


def set_length(edit: SceneEdit, frames: int) -> SceneEdit:
    source, target = (dataclasses.replace(s, frames=frames) for s in (edit.source, edit.target))
    return dataclasses.replace(edit, source=source, target=target)


def measure_length(backbone: Backbone, seed: int, frames: int) -> dict:
    """Measure one scene at a length: the signal, and the result with and without AMM."""
    edit, found = set_length(sample_edit(seed, "colour"), frames), {}
    for name, gamma in (("", 1.0), (" without AMM", 0.0)):
        made = make_job(backbone, edit, Variant("", "flowanchor", True, {"gamma": gamma}), seed)
        cfg = made.plan.config
        field = SignalMeter(backbone, {"src": cfg.source_guidance, "tgt": cfg.target_guidance})
        figures = judge(edit, in_memory.edit_frames(made, field))
        found |= {f"success{name}": figures["success"], f"PSNR to truth{name}": figures["psnr"]}
        found["signal"] = sum(field.sizes) / len(field.sizes)  # the last one's: before AMM
    latent = backbone.clip_format.count_latent_frames(frames)
    gain = 1 + math.log(latent) / math.log(cfg.base_frames)  # at gamma = 1
    return found | {"latent frames": latent, "gain of AMM": gain}


KNOWN = ("latent frames", "gain of AMM")  # one for all scenes of a length
OUTCOMES = (
    "signal",
    "success",
    "success without AMM",
    "PSNR to truth",
    "PSNR to truth without AMM",
)


def print_lengths(measure_scenes: MeasureScenes, start: int, count: int) -> None:
    print_header("frames", "scenes", *KNOWN, *OUTCOMES)
    for frames in LENGTHS:
        rows = measure_scenes(measure_length, start, count, frames)
        known = (f"{rows[0][name]:.3g}" for name in KNOWN)
        print_row(frames, count, *known, *format_intervals(rows, OUTCOMES))


def print_choices(measure_scenes: MeasureScenes, count: int) -> None:
    print_header("setting", *METRICS.values())
    for settings in OPEN:
        variant = Variant("", "flowanchor", True, settings)
        name = ", ".join(f"`{k}={v}`" for k, v in settings.items()) or "defaults"
        print_row(
            name,
            *format_intervals(
                measure_scenes(measure_edit, FIRST_TUNING_SEED, count, variant), METRICS
            ),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument(
        "--others", type=int, default=40, help="scenes for FlowDirector, ablations and choices"
    )
    parser.add_argument("--lengths-count", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=["places", "lengths", "open"])
    parser.add_argument(
        "--start",
        type=int,
        default=0,
        help=f"first seed; from {FIRST_TUNING_SEED} on to choose settings",
    )
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    model = ModelChoice("shapeworld-wan")

    def measure_scenes(measure: Callable, start: int, count: int, *arguments: object) -> list[dict]:
        return measure_seeds(
            measure, model, range(start, start + count), arguments, options.workers
        )

    if "places" in options.only:
        print_places(measure_scenes, options.start, options.count, options.others)
    if "open" in options.only:
        print_choices(measure_scenes, options.others)
    if "lengths" in options.only:
        print_lengths(measure_scenes, options.start, options.lengths_count)


if __name__ == "__main__":
    main()
