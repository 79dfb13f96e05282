"""Measure the parts of score distillation on scenes with exact truth: `python benchmarks/distillation.py PART`.

table: DDS, then the parts of ASSD one by one, then those of the flow-smoothed descent. A third each of the scenes has
two or three actors, crossing actors, and one fast actor; one attribute of one actor is edited. Metrics against the true
edited clip, means with 95 % intervals, and paired differences of each line to the line that it adds a part to. curve:
the same metrics after fewer iterations. search: one setting at a time, on tuning scenes, as differences to the
defaults. drift: what flowdistill's global consistency does alone, in 25 iterations, to a clip whose halves are from
edits of two seeds. still: how far equal prompts move a clip. cost: network evaluations, and the share of the time
spent on everything else. Prints Markdown.
"""

import argparse
import copy
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from tables import format_differences, format_intervals, print_header, print_row
from torch import Tensor

from holdfast import methods
from holdfast.base.schema import configure
from holdfast.methods import flowdistill
from holdfast.models import registry
from holdfast.models.base import Backbone, Conditioning, Prompt
from holdfast.pipeline import in_memory, loop
from holdfast.pipeline.task import EditTask
from holdfast.sampling.distillation import NoiseSample, draw_samples
from holdfast.sampling.field import EditInputs
from holdfast.sampling.noise import keyed_noise
from holdfast.shapeworld.evaluate import (
    FIRST_TUNING_SEED,
    ModelChoice,
    load_cached,
    measure_seeds,
    run_edit,
)
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import SceneEdit, sample_edit
from holdfast.shapeworld.truth import exact_warp_error, judge, psnr

SETS, KINDS = ("several", "crossing", "fast"), ("colour", "shape", "material")
METRICS = {
    "psnr": "error against truth, dB",
    "psnr_inside": "inside the edit",
    "psnr_outside": "outside",
    "outside_share": "contamination",
    "warp": "warp error x 1000, exact flow",
    "sharpness": "sharpness / truth's",
    "consistency": "neighbouring frames, dB",
    "success": "success",
}
ALONG = "+ smoothing along flow"
OFF = {"smoothing": 0.0, "smoothing_mask": "off", "fusion": 0.0, "joint": 0.0}
NONE = {"flow": 0.0, "preservation": 0.0}


@dataclass(frozen=True)
class Variant:
    """A line of the table: a method with some of its parts. over: the line that it adds a part to."""

    name: str
    method: str
    settings: dict = field(default_factory=dict)
    over: str = ""


def part_variants(
    name: str, method: str, off: dict, added: dict[str, tuple[str, ...]]
) -> list[Variant]:
    """Return variants that enable a method's parts one after another: their settings take the defaults."""
    rows, left, last = [], dict(off), name
    for what, settings in added.items():
        left = {k: v for k, v in left.items() if k not in settings}
        rows.append(Variant(what, method, dict(left), last))
        last = what
    return rows


VARIANTS = [
    Variant("DDS", "dds"),
    *part_variants(
        "DDS",
        "assd",
        OFF,
        {
            "+ sliding window": ("smoothing",),
            "+ adaptive mask": ("smoothing_mask",),
            "+ attention fusion": ("fusion",),
            "+ joint guidance (ASSD)": ("joint",),
        },
    ),
    *part_variants(
        "DDS",
        "flowdistill",
        NONE,
        {
            ALONG: ("flow",),
            "+ content preservation (flowdistill)": ("preservation",),
        },
    ),
]


def make_edit(seed: int) -> SceneEdit:
    """Return a scene's edit: sets alternate, and within each the kinds."""
    return sample_edit(seed, KINDS[seed // len(SETS) % len(KINDS)], SETS[seed % len(SETS)])


def sharpness(clip: Tensor) -> float:
    """Return the mean absolute difference to the next row and column."""
    return sum(clip.diff(dim=d).abs().mean().item() for d in (-1, -2))


def measure_edit(backbone: Backbone, seed: int, method: str, settings: dict) -> dict:
    edit = make_edit(seed)
    result = run_edit(backbone, edit, method, settings, seed)
    truth = render([edit.target])[0]
    between = (result.diff(dim=0) - truth.diff(dim=0)).square().mean().item()
    frames = [f.permute(1, 2, 0).numpy() for f in result]
    return judge(edit, result) | {
        "warp": exact_warp_error(edit.target, frames),
        "sharpness": sharpness(result) / sharpness(truth),
        "consistency": -10 * math.log10(max(between, 1e-10)),
    }


def measure_variants(backbone: Backbone, seed: int, asked: list[tuple[str, dict]]) -> list[dict]:
    """Measure all variants on one scene. They share the source's velocities, iteration by iteration."""
    known = cache_source_velocities(backbone)
    plain = [settings.get("fusion", 0.8) == 0 or name != "assd" for name, settings in asked]
    return [
        # fusion looks into the source's calls
        measure_edit(known if bare else backbone, seed, name, settings)
        for (name, settings), bare in zip(asked, plain, strict=True)
    ]


def cache_source_velocities(backbone: Backbone) -> Backbone:
    """Return a backbone that evaluates each velocity of the source once."""
    known, made = copy.copy(backbone), {}

    def velocity(z, sigma, condition, *, branch, frames=None):
        key = sigma, branch, frames
        if branch.startswith("src") and key in made and torch.equal(made[key][0], z):
            return made[key][1]
        found = backbone.velocity(z, sigma, condition, branch=branch, frames=frames)
        if branch.startswith("src"):
            made[key] = z, found
        return found

    known.velocity = velocity
    return known


MeasureScenes = Callable[..., list[dict]]  # (method, settings[, iterations])


def print_table(measure_scene_variants: Callable, settings: dict, only: list[str]) -> None:
    chosen = [row for row in VARIANTS if not only or any(word in row.name for word in only)]
    asked = [(row.method, {**settings, **row.settings}) for row in chosen]
    scenes = measure_scene_variants(asked)
    found = {row.name: [scene[n] for scene in scenes] for n, row in enumerate(chosen)}
    print_header("", "scenes", *METRICS.values())
    for row in chosen:
        print_row(row.name, len(found[row.name]), *format_intervals(found[row.name], METRICS))
    print_header("what a part changes, scene by scene", *METRICS.values())
    for row in chosen:
        if row.over in found:
            print_row(row.name, *format_differences(found[row.name], found[row.over], METRICS))
    for name in SETS:
        print_header(f"{name} alone", *METRICS.values())
        alone = {key: rows[SETS.index(name) :: len(SETS)] for key, rows in found.items()}
        for row in chosen:
            print_row(row.name, *format_intervals(alone[row.name], METRICS))
        for other in (
            "+ sliding window",
            "+ adaptive mask",
        ):  # the fixed window, and as ASSD has it
            if {ALONG, other} <= alone.keys():
                print_row(
                    f"{ALONG}, less {other}",
                    *format_differences(alone[ALONG], alone[other], METRICS),
                )


CURVE = (10, 25, 50, 100, 200)


def scale_to_iterations(backbone: str, method: str, settings: dict, steps: int | None) -> dict:
    """Return settings for a number of iterations, with the rate scaled so that the total step length is unchanged."""
    if steps is None:
        return settings
    cfg = configure_method(backbone, method, settings)
    return {**settings, "steps": steps, "learning_rate": cfg.learning_rate * cfg.steps / steps}


def configure_method(backbone: str, method: str, settings: dict):
    """Return the method's Config with the settings that the backbone recommends."""
    config = methods.load(method).Config
    return configure(config, registry.describe_backbone(backbone).recommended, None, settings)[0]


def print_curve(measure_scenes: MeasureScenes, settings: dict, methods: list[str]) -> None:
    for name in methods:
        print_header(f"{name}, iterations", *METRICS.values())
        for steps in CURVE:
            print_row(steps, *format_intervals(measure_scenes(name, settings, steps), METRICS))


SEARCH_VALUES = {
    "dds": {
        "guidance": (1.5, 2.0, 3.0, 4.0),
        "timestep_min": (50, 200),
        "timestep_max": (700, 949),
    },
    "assd": {
        "smoothing": (0.0, 0.08, 0.165),
        "smooth_target": ("prediction", "residual"),
        "smoothing_mask": ("text", "printed", "off"),
        "tau": (0.05, 0.2),
        "fusion": (0.0, 0.4, 0.8),
        "fused_layers": (1, 3, 5),
        "joint": (0.0, 0.5, 1.0),
        "key_frame_stride": (2, 4, 8),
    },
    "flowdistill": {
        "flow": (0.0, 0.165, 0.33),
        "preservation": (0.0, 0.03, 0.1, 0.3),
        "consistency": (0.0, 50.0, 150.0),
    },
}


def print_search(
    measure_scenes: MeasureScenes, settings: dict, methods: list[str], backbone: str
) -> None:
    """Print the paired differences to the defaults, one setting at a time."""
    for name in methods:
        cfg = configure_method(backbone, name, settings)
        print_header(f"{name}, setting", "value", *METRICS.values())
        base = measure_scenes(name, settings)
        print_row("the defaults", "", *format_intervals(base, METRICS))
        for setting, values in SEARCH_VALUES[name].items():
            for value in values:
                if value != getattr(cfg, setting):
                    rows = measure_scenes(name, {**settings, setting: value})
                    print_row(setting, value, *format_differences(rows, base, METRICS))


DRIFT = {"method": "sdedit", "settings": {"strength": 0.6}}  # its seeds differ visibly
DRIFT_SEEDS = 1000  # from one half's seed to the other's
DRIFT_METRICS = {
    "own": "spread of its own features",
    "image": "spread of an image model's features",
    "kept": "change that all frames share",
    "psnr": "error against truth, dB",
}


def make_drift(backbone: Backbone, edit: SceneEdit, seed: int) -> Tensor:
    """Return the latent of a clip whose halves are from edits of two seeds."""
    frames = render([edit.source])[0]
    words = {"source_prompt": edit.source.caption(), "target_prompt": edit.target.caption()}
    tasks = [EditTask("", "", **words, **DRIFT, seed=seed + k * DRIFT_SEEDS) for k in (0, 1)]
    jobs = [in_memory.plan_job(task, backbone, frames) for task in tasks]
    first, second = (in_memory.edit_latent(job, backbone) for job in jobs)
    half = first.shape[2] // 2
    return torch.cat((first[:, :, :half], second[:, :, half:]), 2)


def measure_consistency(backbone: Backbone, seed: int, weight: float) -> dict:
    """Return how much the loss alone changes a drifting clip: shares of what was there, and dB."""
    edit = make_edit(seed)
    source = backbone.encode(render([edit.source])[0])
    with torch.no_grad():
        drift = make_drift(backbone, edit, seed)
        prompt = backbone.condition(Prompt(edit.target.caption()))
        inputs = EditInputs(source, None, prompt, seed=seed)
        cfg = configure_method(backbone.name, "flowdistill", {"steps": 25, "learning_rate": 0.32})
        z = drift
        for _, sample in draw_samples(backbone.field, inputs, cfg, None):
            gradient = flowdistill.consistency_gradient(sample, z, inputs)
            z = z - cfg.step_size(z) * weight * gradient
        before, after = (measure_spread(backbone, clip, inputs, edit) for clip in (drift, z))
    shares = {name: after[name] / before[name] for name in ("own", "image", "kept")}
    return shares | {"psnr": after["psnr"] - before["psnr"]}


def measure_spread(backbone: Backbone, z: Tensor, inputs: EditInputs, edit: SceneEdit) -> dict:
    """Return the spread of both models' features at a noise that no iteration draws, and the error."""
    sigma = backbone.sigmas(1000)[1000 - 250]
    eps = keyed_noise(z, inputs.seed, step=10**6)
    own = NoiseSample(backbone.field, sigma, eps, 1.0)
    image = load_cached(ModelChoice(backbone.image_model))
    other = own.for_model(image.field, 1.0, range(z.shape[2]))
    image_prompt = image.condition(Prompt(edit.target.caption()))

    def features(sample: NoiseSample, prompt: Conditioning) -> list[Tensor]:
        clips = z, inputs.latent
        return [flowdistill.frame_features(sample, clip, prompt) for clip in clips]

    edited, source = features(own, inputs.target)
    clip = torch.cat(list(backbone.decode(z)))
    return {
        "own": float(flowdistill.feature_spread(edited, source)),
        "image": float(flowdistill.feature_spread(*features(other, image_prompt))),
        "kept": float((edited - source).mean(2).norm()),
        "psnr": psnr(clip, render([edit.target])[0]),
    }


def print_consistency(model: ModelChoice, seeds: range, weight: float) -> None:
    rows = []
    for seed in seeds:
        rows += measure_seeds(measure_consistency, model, [seed], (weight,))
        print(seed, rows[-1], file=sys.stderr, flush=True)
    print_header("consistency", "scenes", *DRIFT_METRICS.values())
    print_row(f"{weight:g}", len(rows), *format_intervals(rows, DRIFT_METRICS))


def measure_drift(backbone: Backbone, seed: int, method: str, settings: dict) -> dict:
    """Return how far equal prompts move a clip's latents, relative to their norm."""
    scene = make_edit(seed).source
    asked = {"method": method, "settings": settings, "seed": seed}
    task = EditTask("", "", source_prompt=scene.caption(), target_prompt=scene.caption(), **asked)
    (frames,) = render([scene])
    *_, done = loop.run_loop(in_memory.plan_job(task, backbone, frames), backbone)
    clean = backbone.encode(frames)
    return {"moved": (done.z - clean).norm().item() / clean.norm().item()}


def print_drift(
    model: ModelChoice, seeds: range, options: argparse.Namespace, settings: dict
) -> None:
    print_header("equal prompts", "scenes", "latents moved, of their size")
    for name in options.methods:
        chosen = scale_to_iterations(options.backbone, name, settings, options.steps)
        rows = measure_seeds(measure_drift, model, seeds, (name, chosen), options.workers)
        print_row(name, len(rows), *format_intervals(rows, ["moved"]))


def print_cost(backbone: Backbone, settings: dict) -> None:
    """Print, for one clip and one run, the network evaluations and the time outside the networks."""
    print_header(
        "method", "iterations", "evaluations", "of the image model", "seconds", "not the networks'"
    )
    edit = make_edit(FIRST_TUNING_SEED)
    for name in ("dds", "assd", "flowdistill"):
        spent = 0.0
        real = type(backbone).velocity

        def velocity_with_timer(self, *args, real=real, **kwargs):
            nonlocal spent
            begin = time.perf_counter()
            result = real(self, *args, **kwargs)
            spent += time.perf_counter() - begin
            return result

        type(backbone).velocity = velocity_with_timer
        try:
            task = EditTask(
                input="",
                output="",
                source_prompt=edit.source.caption(),
                target_prompt=edit.target.caption(),
                method=name,
                settings=settings,
            )
            job = in_memory.plan_job(task, backbone, render([edit.source])[0])
            for event in loop.run_loop(job, backbone):
                if event.stage != "edit":  # the texts, the clip and the second model are there now
                    begin, spent = time.perf_counter(), 0.0
            seconds = time.perf_counter() - begin
        finally:
            type(backbone).velocity = real
        print_row(
            name,
            job.plan.config.steps,
            event.evaluations,
            event.image_model_evaluations,
            f"{seconds:.1f}",
            f"{1 - spent / seconds:.1%}",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["table", "curve", "search", "drift", "still", "cost"])
    parser.add_argument("--backbone", default="shapeworld-t2v")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--scenes", type=int, default=60, help="a multiple of three")
    parser.add_argument("--methods", nargs="*", default=["dds", "assd", "flowdistill"])
    parser.add_argument("--steps", type=int, help="iterations, at the same rate times iterations")
    parser.add_argument("--only", nargs="*", default=[], help="rows of the table, by their words")
    parser.add_argument("--set", nargs="*", default=[], help="settings of all, key=value")
    parser.add_argument("--tuning", action="store_true", help="other scenes than those reported")
    parser.add_argument("--weight", type=float, default=150.0, help="of the consistency, for drift")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    settings = dict(pair.split("=", 1) for pair in options.set)
    model = ModelChoice(options.backbone, options.weights)
    start = FIRST_TUNING_SEED if options.tuning or options.what == "search" else 0
    start -= start % len(SETS)
    seeds = range(start, start + options.scenes)

    def measure_scenes(method: str, chosen: dict, steps: int | None = options.steps) -> list[dict]:
        chosen = scale_to_iterations(options.backbone, method, chosen, steps)
        return measure_seeds(measure_edit, model, seeds, (method, chosen), options.workers)

    def measure_scene_variants(asked: list[tuple[str, dict]]) -> list[list[dict]]:
        rows = [
            (n, scale_to_iterations(options.backbone, n, chosen, options.steps))
            for n, chosen in asked
        ]
        return measure_seeds(measure_variants, model, seeds, (rows,), options.workers)

    if options.what == "cost":
        print_cost(registry.load_backbone(*(options.backbone, options.weights)), settings)
    elif options.what == "drift":
        print_consistency(model, seeds, options.weight)
    elif options.what == "still":
        print_drift(model, seeds, options, settings)
    elif options.what == "table":
        print_table(measure_scene_variants, settings, options.only)
    elif options.what == "curve":
        print_curve(measure_scenes, settings, options.methods)
    else:
        print_search(measure_scenes, settings, options.methods, options.backbone)


if __name__ == "__main__":
    main()
