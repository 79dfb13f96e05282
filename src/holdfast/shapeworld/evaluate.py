"""Measure an embedded checkpoint on held-out scenes: `python -m holdfast.shapeworld.evaluate`.

Print one JSON line per measurement: the VAE's reconstruction, how often generated clips (frames, for an image model)
match their caption, and how often edits succeed. For an image-to-video model: how often its clip is nearer to the true
clip than the first frame repeated; how often a clip drawn from all possible continuations of that frame is; and how
often an edit from the true edited first frame and the source's inverted latents is nearer to the true edited clip than
the source is. Seeds start at 0, or at 500000 with --tuning, so that settings are chosen on other scenes than the
reported ones.
"""

import argparse
import functools
import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..base.intervals import estimate
from ..models import registry
from ..models.base import Backbone, Conditioning, Prompt
from ..pipeline import in_memory
from ..pipeline.task import EditTask
from ..sampling import inversion
from ..sampling.guidance import GuidanceScale, guided_velocity
from ..sampling.noise import keyed_noise
from .caption_check import check_caption, is_object_added
from .rendering import SIZE, render
from .scenes import (
    FIRST_TUNING_SEED,
    FRAMES,
    SCENE_SETS,
    SceneEdit,
    list_edits,
    possible_directions,
    sample_edit,
    sample_scene,
)
from .truth import judge, psnr

Measurement = dict[str, float | bool]
INVERSION_STEPS, INVERSION_SIGMA = 50, 0.85  # chosen on 24 tuning scenes


def reconstruction_psnr(backbone: Backbone, seed: int, name: str) -> float:
    """Return the PSNR in dB of decode(encode(clip)) on the scene of a seed."""
    clip = render([sample_scene(seed, name)])[0]
    return psnr(torch.cat(list(backbone.decode(backbone.encode(clip)))), clip)


@torch.no_grad()
def generate(
    backbone: Backbone, prompt: Prompt, seed: int, frames: int = FRAMES, steps: int = 30
) -> Tensor:
    """Generate a clip from a prompt, f 3 H W: Euler steps from noise, with the model's own schedule and guidance."""
    z = keyed_noise(backbone.encode(torch.zeros(frames, 3, *SIZE)), seed, 0)
    sigmas = backbone.sigmas(steps)
    # the standard deviation of a clip of variance 1 at the first noise level
    start = z * math.hypot(1 - sigmas[0], sigmas[0])
    scale = backbone.recommended["target_guidance"]
    return denoise(backbone, start, sigmas, backbone.condition(prompt), scale)


def denoise(
    backbone: Backbone,
    z: Tensor,
    sigmas: Sequence[float],
    conditioning: Conditioning,
    scale: GuidanceScale,
) -> Tensor:
    """Denoise a latent with Euler steps and decode it to a clip, f 3 H W."""
    for sigma, sigma_next in itertools.pairwise(sigmas):
        velocity = guided_velocity(backbone.field, z, sigma, conditioning, "tgt", scale)
        z = z + (sigma_next - sigma) * velocity
    return torch.cat(list(backbone.decode(z)))


def compare_with_truth(result: Tensor, other: Tensor, truth: Tensor) -> Measurement:
    """Return whether a clip is nearer to the truth than another, and by how much in dB."""
    gain = psnr(result, truth) - psnr(other, truth)
    return {"nearer": gain > 0, "gain": gain, "psnr": psnr(result, truth)}


@torch.no_grad()
def score_continuation(backbone: Backbone, seed: int) -> Measurement:
    """Compare a clip generated from the true first frame with that frame repeated."""
    truth = render([sample_scene(seed, "single")])[0]
    result = generate(backbone, Prompt(image=truth[0]), seed)
    return compare_with_truth(result, truth[:1].expand_as(truth), truth)


def continuation_chance(_backbone: Backbone, seed: int) -> dict[str, float]:
    """Return the chance that a clip drawn from all possible continuations is nearer to the truth than the first frame.

    This is the best that `score_continuation` can expect: a first frame does not show the direction.
    """
    scene = sample_scene(seed, "single")
    actors = [replace(a, direction=d) for a in scene.actors for d in possible_directions(a)]
    truth, *clips = render([scene] + [replace(scene, actors=(a,)) for a in actors])
    repeated = psnr(truth[:1].expand_as(truth), truth)
    return {"nearer": sum(psnr(clip, truth) > repeated for clip in clips) / len(clips)}


@torch.no_grad()
def score_first_frame_edit(backbone: Backbone, seed: int) -> Measurement:
    """Denoise the source's inverted latents from the true edited first frame, and compare the clip with the source.

    The inversion stops where the latents still hold the motion (docs/shapeworld.md), and its steps are short enough to
    be reversed. Neither direction uses guidance: it would add what the inversion did not remove (0.5 dB worse, on 40
    tuning scenes).
    """
    kinds = ("colour", "shape", "material")
    edit = sample_edit(seed, kinds[seed % len(kinds)], "single")
    source, target = render([edit.source, edit.target])
    sigmas = [sigma for sigma in backbone.sigmas(INVERSION_STEPS) if sigma <= INVERSION_SIGMA]
    of_source, of_target = (backbone.condition(Prompt(image=clip[0])) for clip in (source, target))
    ascending = inversion.inversion_sigmas(sigmas)
    *_, z = inversion.invert_by_euler(backbone.field, backbone.encode(source), of_source, ascending)
    return compare_with_truth(denoise(backbone, z, sigmas, of_target, 1.0), source, target)


def score_caption(backbone: Backbone, seed: int, actors: int) -> dict[str, bool]:
    """Return which attributes of the caption a generated clip shows.

    "caption" is colour, shape and direction together, "frame" is colour and shape in the middle frame alone.
    """
    scene = sample_scene(seed, "single" if actors == 1 else "several")
    makes_clips = {"temporal_attention", "joint_attention"} & backbone.capabilities
    frames = FRAMES if makes_clips else 1
    clip = generate(backbone, Prompt(scene.caption()), seed, frames)
    holds = check_caption(clip, scene)
    frame = check_caption(clip[[frames // 2]], scene) if makes_clips else holds
    return holds | {"frame": frame["caption"]}


def run_edit(backbone: Backbone, edit: SceneEdit, method: str, settings: dict, seed: int) -> Tensor:
    """Run an edit in memory and return the edited clip, f 3 H W."""
    task = EditTask(
        input="",
        output="",
        source_prompt=edit.source.caption(),
        target_prompt=edit.target.caption(),
        method=method,
        settings=settings,
        seed=seed,
    )
    return in_memory.edit_frames(
        in_memory.plan_job(task, backbone, render([edit.source])[0]), backbone
    )


def score_edit(
    backbone: Backbone, seed: int, kind: str, name: str, method: str, settings: dict
) -> dict:
    """Return the success of the edit of one seed, and its gain in dB towards the truth over the unedited source.

    For "add", also return whether the object is there at any position.
    """
    edit = sample_edit(seed, kind, name)
    result = run_edit(backbone, edit, method, settings, seed)
    metrics = judge(edit, result)
    gain = metrics["psnr"] - metrics["psnr_source"]
    scores = {"success": metrics["success"], "gain": gain, "psnr": metrics["psnr"]}
    return scores | ({"anywhere": is_object_added(edit, result)} if kind == "add" else {})


def summarise(rows: list[dict]) -> dict[str, float | list[float]]:
    """Return each metric's mean over scenes, and its 95 % interval under `NAME 95 %`.

    A boolean metric gives a rate. A single scene gives no interval.
    """
    result: dict[str, float | list[float]] = {}
    for name, first in rows[0].items():
        mean = estimate([float(row[name]) for row in rows], isinstance(first, bool))
        if mean is None:
            continue
        result[name] = round(mean.mean, 4)
        if mean.has_interval:
            result[f"{name} 95 %"] = [round(mean.low, 4), round(mean.high, 4)]
    return result


def seeds_with_two_actors(start: int, count: int) -> list[int]:
    """Return seeds whose scene of the set "several" has two actors; the others have three."""
    seeds = (s for s in itertools.count(start) if len(sample_scene(s, "several").actors) == 2)
    return list(itertools.islice(seeds, count))


def seeds_with_edit(start: int, count: int, kind: str, name: str) -> list[int]:
    """Return seeds whose scene allows an edit of a kind; some scenes have no room for another actor."""
    seeds = (s for s in itertools.count(start) if list_edits(sample_scene(s, name), kind, s))
    return list(itertools.islice(seeds, count))


@dataclass(frozen=True)
class ModelChoice:
    """The name and folder of the model to measure, as another process takes them."""

    name: str
    weights: str | None = None


@functools.cache
def load_cached(model: ModelChoice) -> Backbone:
    """Return this process's backbone."""
    torch.set_num_threads(1)  # results must not depend on the number of workers
    return registry.load_backbone(model.name, model.weights)


def measure_seed(
    measure: Callable[..., Any], model: ModelChoice, seed: int, arguments: tuple[Any, ...]
) -> Any:
    """Return `measure(backbone, seed, *arguments)`."""
    return measure(load_cached(model), seed, *arguments)


def measure_seeds(
    measure: Callable[..., Any],
    model: ModelChoice,
    seeds: Iterable[int],
    arguments: tuple[Any, ...] = (),
    workers: int = 1,
) -> list[Any]:
    """Return `measure(backbone, seed, *arguments)` for every seed, computed in this many processes."""
    task = functools.partial(measure_seed, measure, model, arguments=arguments)
    if workers == 1:
        return [task(seed) for seed in seeds]
    import multiprocessing

    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(task, seeds))


def main() -> None:
    """Measure the model that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="shapeworld-wan")
    parser.add_argument("--count", type=int, default=100, help="scenes for each measurement")
    parser.add_argument("--only", nargs="*", default=["vae", "captions", "edits", "images"])
    parser.add_argument(
        "--weights", default=None, help="a checkpoint folder; default: the embedded one"
    )
    parser.add_argument("--method", default="flowedit")
    parser.add_argument("--set", nargs="*", default=[], help="the method's settings, key=value")
    parser.add_argument("--kinds", nargs="*", default=["colour", "shape", "material", "backdrop"])
    parser.add_argument(
        "--tuning", action="store_true", help="use other scenes than the reported ones"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="processes; each measures one scene at a time"
    )
    measure_all(parser.parse_args())


@dataclass(frozen=True)
class Reporter:
    """Measures a model on many scenes, and prints a JSON line for each measurement."""

    model: ModelChoice
    workers: int

    def print_row(
        self, figure: str, measure: Callable[..., Any], seeds: Iterable[int], *arguments: Any
    ) -> None:
        """Print the mean of `measure(backbone, seed, *arguments)` over the seeds, under the name `figure`."""
        rows = measure_seeds(measure, self.model, seeds, arguments, self.workers)
        rows = [row if isinstance(row, dict) else {"value": row} for row in rows]
        line = {"figure": figure, "scenes": len(rows)} | summarise(rows)
        print(json.dumps(line), flush=True)


def measure_all(options: argparse.Namespace) -> None:
    """Print a line for each measurement as soon as it is done."""
    reporter = Reporter(ModelChoice(options.backbone, options.weights), options.workers)
    start = FIRST_TUNING_SEED if options.tuning else 0
    seeds = range(start, start + options.count)
    two_actors = seeds_with_two_actors(start, options.count)
    capabilities = registry.specs()[reporter.model.name].capabilities
    if "vae" in options.only:
        for name in SCENE_SETS:
            reporter.print_row(f"vae psnr, {name}", reconstruction_psnr, seeds, name)
    if "images" in options.only and "image" in capabilities:
        measure_image_model(reporter, seeds)
    if "captions" in options.only and "text" in capabilities:
        reporter.print_row("captions, 1 actor", score_caption, seeds, 1)
        reporter.print_row("captions, 2 actors", score_caption, two_actors, 2)
    if "edits" in options.only and "text" in capabilities:
        measure_edits(reporter, options, start, two_actors)


def measure_image_model(reporter: Reporter, seeds: Iterable[int]) -> None:
    """Print the measurements of an image-to-video model."""
    reporter.print_row(
        "from the true first frame, nearer than it repeated", score_continuation, seeds
    )
    reporter.print_row(
        "the same, drawn from all clips that may follow it", continuation_chance, seeds
    )
    reporter.print_row(
        "edited first frame and inverted latents, nearer than the source",
        score_first_frame_edit,
        seeds,
    )


def measure_edits(
    reporter: Reporter, options: argparse.Namespace, start: int, two_actors: Sequence[int]
) -> None:
    """Print the success of edits of each kind."""
    settings = dict(pair.split("=", 1) for pair in options.set)
    method = options.method
    for kind in options.kinds:
        name = "single" if kind != "remove" else "several"
        seeds = seeds_with_edit(start, options.count, kind, name)
        arguments = (kind, name, method, settings)
        reporter.print_row(f"{method} {kind}, {name}", score_edit, seeds, *arguments)
    if "colour" in options.kinds:
        arguments = ("colour", "several", method, settings)
        reporter.print_row(f"{method} colour, two actors", score_edit, two_actors, *arguments)


if __name__ == "__main__":
    main()
