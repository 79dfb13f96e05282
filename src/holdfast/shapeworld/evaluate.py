"""Measure an embedded checkpoint on held-out scenes: `python -m holdfast.shapeworld.evaluate`.

Prints one table: reconstruction by the VAE, how often generated clips (of an image model: frames) match their caption,
and how often edits succeed. Of a model that goes on from an image: how often its clip is nearer to the true one than
the first frame repeated, how often one drawn from all that may follow that frame is, and, with the source's inverted
latents, how often its clip is nearer to the true edited clip than the source.
Seeds count from 0 (from 500000 with --tuning, for choosing settings without looking at the scenes that are reported).
"""

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..base.intervals import estimate
from ..models import registry
from ..models.base import Backbone, Conditioning, Prompt
from ..pipeline import loop
from ..pipeline.task import EditTask
from ..sampling import inversion, maths
from ..sampling.maths import GuidanceScale
from .caption_check import check_caption, is_object_added
from .rendering import SIZE, render
from .scenes import (
    FRAMES,
    SCENE_SETS,
    SceneEdit,
    list_edits,
    possible_directions,
    sample_edit,
    sample_scene,
)
from .truth import judge, psnr

FIRST_TUNING_SEED = 500_000
CARRIED_STEPS, CARRIED_TO = 50, 0.85  # of the inversion; chosen on 24 tuning scenes


def reconstruction_psnr(backbone: Backbone, seed: int, name: str) -> float:
    """PSNR in dB of decode(encode(clip))."""
    clip = render([sample_scene(seed, name)])[0]
    return psnr(torch.cat(list(backbone.decode(backbone.encode(clip)))), clip)


@torch.no_grad()
def generate(
    backbone: Backbone, prompt: Prompt, seed: int, frames: int = FRAMES, steps: int = 30
) -> Tensor:
    """A clip from a prompt alone, f 3 H W: Euler from noise at the model's own grid, guidance as it prefers."""
    z = maths.keyed_noise(backbone.encode(torch.zeros(frames, 3, *SIZE)), seed, 0)
    levels = backbone.sigmas(steps)
    # as large as a clip of variance 1 is when it is noised to the first level
    start = z * math.hypot(1 - levels[0], levels[0])
    scale = backbone.recommended["target_guidance"]
    return denoise(backbone, start, levels, backbone.condition(prompt), scale)


def denoise(
    backbone: Backbone, z: Tensor, levels: Sequence[float], condition: Conditioning, scale: GuidanceScale
) -> Tensor:
    """The clip that a noisy latent becomes, f 3 H W."""
    for sigma, sigma_next in itertools.pairwise(levels):
        velocity = maths.guided_velocity(backbone, z, sigma, condition, "tgt", scale)
        z = z + (sigma_next - sigma) * velocity
    return torch.cat(list(backbone.decode(z)))


def compare_with_truth(result: Tensor, other: Tensor, truth: Tensor) -> dict[str, float | bool]:
    """Whether a clip is nearer to the truth than another, and by how much in dB."""
    gain = psnr(result, truth) - psnr(other, truth)
    return {"nearer": gain > 0, "gain": gain, "psnr": psnr(result, truth)}


@torch.no_grad()
def score_continuation(backbone: Backbone, seed: int) -> dict:
    """A clip made from the true first frame alone, against that frame repeated."""
    truth = render([sample_scene(seed, "single")])[0]
    result = generate(backbone, Prompt(image=truth[0]), seed)
    return compare_with_truth(result, truth[:1].expand_as(truth), truth)


def continuation_chance(_backbone: Backbone, seed: int) -> dict[str, float]:
    """How `continued` would turn out for one who knows this world but for the direction, which no first frame shows:
    the chance that a clip drawn from all that may follow is nearer.
    """
    scene = sample_scene(seed, "single")
    ways = [replace(a, direction=way) for a in scene.actors for way in possible_directions(a)]
    truth, *clips = render([scene] + [replace(scene, actors=(a,)) for a in ways])
    still = psnr(truth[:1].expand_as(truth), truth)
    return {"nearer": sum(psnr(clip, truth) > still for clip in clips) / len(clips)}


@torch.no_grad()
def score_first_frame_edit(backbone: Backbone, seed: int) -> dict:
    """The source's inverted latents denoised from the true edited first frame, against the source.

    They are inverted as far as they still tell how things move (docs/shapeworld.md), at steps so short that the way
    down finds back. Both ways go unguided: guidance adds what the way up did not take (0.5 dB worse, of 40 tuning
    scenes).
    """
    kinds = ("colour", "shape", "material")
    edit = sample_edit(seed, kinds[seed % len(kinds)], "single")
    source, target = render([edit.source, edit.target])
    levels = [sigma for sigma in backbone.sigmas(CARRIED_STEPS) if sigma <= CARRIED_TO]
    known, wanted = (backbone.condition(Prompt(image=clip[0])) for clip in (source, target))
    rising = inversion.inversion_sigmas(levels)
    *_, z = inversion.invert_by_euler(backbone, backbone.encode(source), known, rising)
    return compare_with_truth(denoise(backbone, z, levels, wanted, 1.0), source, target)


def score_caption(backbone: Backbone, seed: int, actors: int) -> dict[str, bool]:
    """Which attributes of a generated clip hold; "caption" is colour, shape and motion together, "frame" colour and
    shape of its middle frame alone.
    """
    scene = sample_scene(seed, "single" if actors == 1 else "several")
    moving = {"temporal_attention", "joint_attention"} & backbone.capabilities
    frames = FRAMES if moving else 1
    clip = generate(backbone, Prompt(scene.caption()), seed, frames)
    holds = check_caption(clip, scene)
    frame = check_caption(clip[[frames // 2]], scene) if moving else holds
    return holds | {"frame": frame["caption"]}


def run_edit(backbone: Backbone, edit: SceneEdit, method: str, settings: dict, seed: int) -> Tensor:
    """An edit without files, f 3 H W."""
    task = EditTask(
        input="",
        output="",
        source_prompt=edit.source.caption(),
        target_prompt=edit.target.caption(),
        method=method,
        settings=settings,
        seed=seed,
    )
    return loop.edit_frames(loop.plan_job(task, backbone, render([edit.source])[0]), backbone)


def score_edit(
    backbone: Backbone, seed: int, kind: str, name: str, method: str, settings: dict
) -> dict:
    """Success, and the gain in dB towards the truth over the unedited source, of the edit of one seed. Of `add` also
    whether the thing is there at any place.
    """
    edit = sample_edit(seed, kind, name)
    result = run_edit(backbone, edit, method, settings, seed)
    figures = judge(edit, result)
    gain = figures["psnr"] - figures["psnr_source"]
    found = {"success": figures["success"], "gain": gain, "psnr": figures["psnr"]}
    return found | ({"anywhere": is_object_added(edit, result)} if kind == "add" else {})


def summarise(rows: list[dict]) -> dict[str, float | list[float]]:
    """Each figure's mean over scenes, with its 95 % interval under `NAME 95 %`. A figure that is True or False has a
    rate; of one scene there is no interval.
    """
    result: dict[str, float | list[float]] = {}
    for name, first in rows[0].items():
        found = estimate([float(row[name]) for row in rows], isinstance(first, bool))
        if found is None:
            continue
        result[name] = round(found.mean, 4)
        if found.has_interval:
            result[f"{name} 95 %"] = [round(found.low, 4), round(found.high, 4)]
    return result


def seeds_with_two_actors(start: int, count: int) -> list[int]:
    """Seeds whose scene of the set `several` has two actors; some have three."""
    seeds = (s for s in itertools.count(start) if len(sample_scene(s, "several").actors) == 2)
    return list(itertools.islice(seeds, count))


def seeds_with_edit(start: int, count: int, kind: str, name: str) -> list[int]:
    """Seeds whose scene takes an edit of a kind; some have no room to add an actor."""
    seeds = (s for s in itertools.count(start) if list_edits(sample_scene(s, name), kind, s))
    return list(itertools.islice(seeds, count))


@dataclass(frozen=True)
class ModelChoice:
    """Which model to measure: as its name and folder go to another process."""

    name: str
    weights: str | None = None


@functools.cache
def load_cached(model: ModelChoice) -> Backbone:
    """The backbone of this process."""
    torch.set_num_threads(1)  # so that a figure does not depend on how many scenes run at once
    return registry.load_backbone(model.name, model.weights)


def measure_seed(measure: Callable, model: ModelChoice, seed: int, arguments: tuple) -> dict | float:
    return measure(load_cached(model), seed, *arguments)


def measure_seeds(
    measure: Callable, model: ModelChoice, seeds: Iterable[int], arguments: tuple = (), workers: int = 1
) -> list:
    """What `measure(backbone, seed, *arguments)` gives for every seed, some at a time."""
    task = functools.partial(measure_seed, measure, model, arguments=arguments)
    if workers == 1:
        return [task(seed) for seed in seeds]
    import multiprocessing

    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(pool.to_grid(task, seeds))


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="shapeworld-wan")
    parser.add_argument("--count", type=int, default=100, help="scenes for each figure")
    parser.add_argument("--only", nargs="*", default=["vae", "captions", "edits", "images"])
    parser.add_argument(
        "--weights", default=None, help="a checkpoint folder; default: the embedded one"
    )
    parser.add_argument("--method", default="flowedit")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the method, key=value")
    parser.add_argument("--kinds", nargs="*", default=["colour", "shape", "material", "backdrop"])
    parser.add_argument("--tuning", action="store_true", help="other scenes than the ones reported")
    parser.add_argument("--workers", type=int, default=2, help="scenes at once")
    measure_all(parser.parse_args())


def measure_all(options) -> None:
    """Print a line for each figure as it is done."""
    model = ModelChoice(options.backbone, options.weights)
    start = FIRST_TUNING_SEED if options.tuning else 0
    seeds, two = range(start, start + options.count), seeds_with_two_actors(start, options.count)
    settings = dict(pair.split("=", 1) for pair in options.set)

    def show(figure: str, measure: Callable, seeds: Iterable[int], *arguments) -> None:
        rows = measure_seeds(measure, model, seeds, arguments, options.workers)
        rows = [row if isinstance(row, dict) else {"value": row} for row in rows]
        line = {"figure": figure, "scenes": len(rows)} | summarise(rows)
        print(json.dumps(line), flush=True)

    if "vae" in options.only:
        for name in SCENE_SETS:
            show(f"vae psnr, {name}", reconstruction_psnr, seeds, name)
    carries = registry.specs()[options.backbone].capabilities
    if "images" in options.only and "image" in carries:
        show("from the true first frame, nearer than it repeated", score_continuation, seeds)
        show("the same, drawn from all clips that may follow it", continuation_chance, seeds)
        show("edited first frame and inverted latents, nearer than the source", score_first_frame_edit, seeds)
    if "text" not in carries:
        return
    if "captions" in options.only:
        show("captions, 1 actor", score_caption, seeds, 1)
        show("captions, 2 actors", score_caption, two, 2)
    if "edits" in options.only:
        chosen = (options.method, settings)
        for kind in options.kinds:
            name = "single" if kind != "remove" else "several"
            seeds = seeds_with_edit(start, options.count, kind, name)
            show(f"{options.method} {kind}, {name}", score_edit, seeds, kind, name, *chosen)
        if "colour" in options.kinds:
            figure = f"{options.method} colour, two actors"
            show(figure, score_edit, two, "colour", "several", *chosen)


if __name__ == "__main__":
    main()
