"""Measure an embedded checkpoint on held-out scenes: `python -m holdfast.shapeworld.evaluate`.

Prints one table: reconstruction by the VAE, how often generated clips (of an image model: frames) match their caption,
and how often edits succeed. Of a model that goes on from an image: how often its clip is nearer to the true one than
the first frame repeated, and, with the source's inverted latents, nearer to the true edited clip than the source.
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
from torch.nn import functional

from .. import diffusion, inversion, registry, walk
from ..backbones.base import Backbone, Condition, Prompt
from ..diffusion import Scale
from ..task import EditTask
from .render import SIZE, render, variants
from .scenes import (
    COLOURS,
    DIRECTIONS,
    FRAMES,
    MATERIALS,
    SETS,
    SHAPES,
    Edit,
    Scene,
    edits,
    sample,
    sample_edit,
)
from .truth import judge, psnr

TUNING = 500_000
LOOK = (0, 4, 8, 12)  # frames that the judge of captions looks at
CHUNK = 16  # scenes rendered at once: more of them fall out of the processor's cache
ATTRIBUTES = {
    "shape": SHAPES,
    "colour": COLOURS,
    "material": MATERIALS,
    "direction": tuple(DIRECTIONS),
}


def reconstruction(backbone: Backbone, seed: int, name: str) -> float:
    """PSNR in dB of decode(encode(clip))."""
    clip = render([sample(seed, name)])[0]
    return psnr(torch.cat(list(backbone.decode(backbone.encode(clip)))), clip)


@torch.no_grad()
def generate(
    backbone: Backbone, prompt: Prompt, seed: int, frames: int = FRAMES, steps: int = 30
) -> Tensor:
    """A clip from a prompt alone, f 3 H W: Euler from noise at the model's own grid, guidance as it prefers."""
    z = diffusion.noise(backbone.encode(torch.zeros(frames, 3, *SIZE)), seed, 0)
    levels = backbone.levels(steps)
    # as large as a clip of variance 1 is when it is noised to the first level
    start = z * math.hypot(1 - levels[0], levels[0])
    scale = backbone.prefers["target_guidance"]
    return denoised(backbone, start, levels, backbone.condition(prompt), scale)


def denoised(
    backbone: Backbone, z: Tensor, levels: Sequence[float], condition: Condition, scale: Scale
) -> Tensor:
    """The clip that a noisy latent becomes, f 3 H W."""
    for sigma, sigma_next in itertools.pairwise(levels):
        velocity = diffusion.guided(backbone, z, sigma, condition, "tgt", scale)
        z = z + (sigma_next - sigma) * velocity
    return torch.cat(list(backbone.decode(z)))


def nearer(result: Tensor, other: Tensor, truth: Tensor) -> dict[str, float | bool]:
    """Whether a clip is nearer to the truth than another, and by how much in dB."""
    gain = psnr(result, truth) - psnr(other, truth)
    return {"nearer": gain > 0, "gain": gain, "psnr": psnr(result, truth)}


@torch.no_grad()
def continued(backbone: Backbone, seed: int) -> dict:
    """A clip made from the true first frame alone, against that frame repeated."""
    truth = render([sample(seed, "single")])[0]
    result = generate(backbone, Prompt(image=truth[0]), seed)
    return nearer(result, truth[:1].expand_as(truth), truth)


@torch.no_grad()
def carried(backbone: Backbone, seed: int) -> dict:
    """The source's inverted latents denoised from the true edited first frame, against the source.

    Both ways go unguided: guidance adds what the way up did not take (0.5 dB worse, of 40 tuning scenes).
    """
    kinds = ("colour", "shape", "material")
    edit = sample_edit(seed, kinds[seed % len(kinds)], "single")
    source, target = render([edit.source, edit.target])
    levels = backbone.levels(backbone.prefers["steps"])
    known, wanted = (backbone.condition(Prompt(image=clip[0])) for clip in (source, target))
    rising = inversion.ascending(levels)
    *_, z = inversion.euler(backbone, backbone.encode(source), known, rising)
    return nearer(denoised(backbone, z, levels, wanted, 1.0), source, target)


def times(looked: Tensor) -> tuple[int, ...]:
    """Which frames the judge looks at; a single frame shows actors where they are in the middle of their clip."""
    return LOOK if len(looked) > 1 else (FRAMES // 2,)


def errors(scenes: list[Scene], index: int, looked: Tensor) -> list[float]:
    """Mean squared error of each scene's rendering to the frames looked at, f 3 H W. The scenes differ in one actor
    alone.
    """
    size = tuple(looked.shape[-2:])
    found = []
    for i in range(0, len(scenes), CHUNK):
        pictures = variants(scenes[i : i + CHUNK], index, times(looked), size)
        found += (pictures - looked).square().flatten(1).mean(1).tolist()
    return found


def centred(scene: Scene, index: int, x: float, y: float, size: float) -> Scene:
    """The scene with one actor at (x, y) in the middle of the clip."""
    actor = scene.actors[index]
    (vx, vy), half = actor.velocity, (FRAMES - 1) / 2
    moved = replace(actor, x=x - vx * half, y=y - vy * half, size=size)
    return replace(scene, actors=(*scene.actors[:index], moved, *scene.actors[index + 1 :]))


def middle(scene: Scene, index: int) -> tuple[float, float, float]:
    """Where an actor is in the middle of the clip, and its size."""
    actor = scene.actors[index]
    (vx, vy), half = actor.velocity, (FRAMES - 1) / 2
    return actor.x + vx * half, actor.y + vy * half, actor.size


def best(scenes: list[Scene], index: int, looked: Tensor) -> tuple[float, Scene]:
    values = errors(scenes, index, looked)
    lowest = min(range(len(values)), key=values.__getitem__)
    return values[lowest], scenes[lowest]


def placed(scene: Scene, index: int, looked: Tensor) -> Scene:
    """Find where one actor is by trying a grid of places, at half size."""
    looked = functional.avg_pool2d(looked, 2)
    places = [0.12 + 0.76 * i / 11 for i in range(12)]
    tried = [centred(scene, index, x, y, 0.2) for x, y in itertools.product(places, places)]
    return best(tried, index, looked)[1]


def nudged(scene: Scene, index: int, looked: Tensor, reach: float) -> tuple[float, Scene]:
    """The best of the places around an actor's own."""
    x, y, size = middle(scene, index)
    tried = []
    for a, b, c in itertools.product((-1, 0, 1), repeat=3):
        tried.append(centred(scene, index, x + a * reach, y + b * reach, size + c * 0.015))
    return best(tried, index, looked)


def settled(scene: Scene, index: int, looked: Tensor) -> tuple[float, Scene]:
    """The last two nudges, which the caption's program and every rival get alike."""
    near = nudged(scene, index, looked, 0.02)[1]
    return nudged(near, index, looked, 0.01)


def matched(scene: Scene, looked: Tensor) -> tuple[float, Scene]:
    """A scene's places and sizes brought to a clip: each actor alone, then again beside the others, then finely."""
    count = len(scene.actors)
    alone = [placed(replace(scene, actors=(a,)), 0, looked).actors[0] for a in scene.actors]
    scene = replace(scene, actors=tuple(alone))
    for i in range(count if count > 1 else 0):
        scene = placed(scene, i, looked)
    for i in range(count):
        scene = nudged(scene, i, looked, 0.035)[1]
    for i in range(count):
        error, scene = settled(scene, i, looked)
    return error, scene


def rivals(scene: Scene, name: str) -> list[tuple[int, Scene]]:
    """Every scene in which one actor has another value of an attribute, with that actor's
    index; it stays where it is.
    """
    found = []
    for i, actor in enumerate(scene.actors):
        for value in ATTRIBUTES[name]:
            if value != getattr(actor, name):
                other = replace(actor, **{name: value})
                actors = (*scene.actors[:i], other, *scene.actors[i + 1 :])
                changed = replace(scene, actors=actors)
                found.append((i, centred(changed, i, *middle(scene, i))))
    return found


def matches(clip: Tensor, scene: Scene) -> dict[str, bool]:
    """Whether a clip shows what a scene's caption says, by nearest re-rendering.

    The caption's own program is brought to the clip first (place and size are not in the caption). An attribute holds
    if no other value of it, in any actor, re-renders closer, with the place free to adjust.
    """
    looked = clip[list(LOOK)] if len(clip) > 1 else clip
    own, match = matched(scene, looked)
    holds = {"direction": True} if len(clip) == 1 else {}  # one frame shows no motion
    for name in ATTRIBUTES.keys() - holds:
        nearest = math.inf
        for i, rival in rivals(match, name):
            nearest = min(nearest, settled(rival, i, looked)[0])
            if name == "direction":  # a wrong motion is not found near the best match of another
                nearest = min(nearest, settled(placed(rival, i, looked), i, looked)[0])
        holds[name] = own < nearest
    holds["caption"] = holds["colour"] and holds["shape"] and holds["direction"]
    return holds


def added(edit: Edit, result: Tensor) -> bool:
    """Whether a clip shows the thing that an edit adds, wherever that is: words do not say the place.

    With it at the place and of the size that fit best, the scene is nearer than without it, and than with it in any
    other shape or colour.
    """
    looked, i = result[list(LOOK)], edit.actor
    near = nudged(placed(edit.target, i, looked), i, looked, 0.035)[1]
    own, match = settled(near, i, looked)
    others = [rival for name in ("shape", "colour") for j, rival in rivals(match, name) if j == i]
    nearest = min(settled(rival, i, looked)[0] for rival in others)
    return own < min(nearest, *errors([edit.source], 0, looked))


def caption(backbone: Backbone, seed: int, actors: int) -> dict[str, bool]:
    """Which attributes of a generated clip hold; "caption" is colour, shape and motion together, "frame" colour and
    shape of its middle frame alone.
    """
    scene = sample(seed, "single" if actors == 1 else "several")
    moving = {"temporal_attention", "joint_attention"} & backbone.carries
    frames = FRAMES if moving else 1
    clip = generate(backbone, Prompt(scene.caption()), seed, frames)
    holds = matches(clip, scene)
    frame = matches(clip[[frames // 2]], scene) if moving else holds
    return holds | {"frame": frame["caption"]}


def edited(backbone: Backbone, edit: Edit, method: str, settings: dict, seed: int) -> Tensor:
    """An edit without files, f 3 H W."""
    task = EditTask(
        input="",
        output="",
        source=edit.source.caption(),
        target=edit.target.caption(),
        method=method,
        settings=settings,
        seed=seed,
    )
    return walk.edited(walk.job(task, backbone, render([edit.source])[0]), backbone)


def edit_figures(
    backbone: Backbone, seed: int, kind: str, name: str, method: str, settings: dict
) -> dict:
    """Success, and the gain in dB towards the truth over the unedited source, of the edit of one seed. Of `add` also
    whether the thing is there at any place.
    """
    edit = sample_edit(seed, kind, name)
    result = edited(backbone, edit, method, settings, seed)
    figures = judge(edit, result)
    gain = figures["psnr"] - figures["psnr_source"]
    found = {"success": figures["success"], "gain": gain, "psnr": figures["psnr"]}
    return found | ({"anywhere": added(edit, result)} if kind == "add" else {})


def summary(rows: list[dict]) -> dict[str, float]:
    """Each figure's mean over scenes with the half width of its 95 % interval under `NAME +-`."""
    result = {}
    for name in rows[0]:
        values = torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)
        spread = values.std().item() if len(rows) > 1 else 0.0
        result[name] = values.mean().item()
        result[f"{name} +-"] = 1.96 * spread / math.sqrt(len(rows))
    return {k: round(v, 4) for k, v in result.items()}


def pairs(start: int, count: int) -> list[int]:
    """Seeds whose scene of the set `several` has two actors; some have three."""
    seeds = (s for s in itertools.count(start) if len(sample(s, "several").actors) == 2)
    return list(itertools.islice(seeds, count))


def editable(start: int, count: int, kind: str, name: str) -> list[int]:
    """Seeds whose scene takes an edit of a kind; some have no room to add an actor."""
    seeds = (s for s in itertools.count(start) if edits(sample(s, name), kind, s))
    return list(itertools.islice(seeds, count))


@dataclass(frozen=True)
class Model:
    """Which model to measure: as its name and folder go to another process."""

    name: str
    weights: str | None = None


@functools.cache
def loaded(model: Model) -> Backbone:
    """The backbone of this process."""
    torch.set_num_threads(1)  # so that a figure does not depend on how many scenes run at once
    return registry.load_backbone(model.name, model.weights)


def one(measure: Callable, model: Model, seed: int, arguments: tuple) -> dict | float:
    return measure(loaded(model), seed, *arguments)


def over(
    measure: Callable, model: Model, seeds: Iterable[int], arguments: tuple = (), workers: int = 1
) -> list:
    """What `measure(backbone, seed, *arguments)` gives for every seed, some at a time."""
    task = functools.partial(one, measure, model, arguments=arguments)
    if workers == 1:
        return [task(seed) for seed in seeds]
    import multiprocessing

    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(task, seeds))


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
    model = Model(options.backbone, options.weights)
    start = TUNING if options.tuning else 0
    seeds, two = range(start, start + options.count), pairs(start, options.count)
    settings = dict(pair.split("=", 1) for pair in options.set)

    def show(figure: str, measure: Callable, seeds: Iterable[int], *arguments) -> None:
        rows = over(measure, model, seeds, arguments, options.workers)
        rows = [row if isinstance(row, dict) else {"value": row} for row in rows]
        line = {"figure": figure, "scenes": len(rows)} | summary(rows)
        print(json.dumps(line), flush=True)

    if "vae" in options.only:
        for name in SETS:
            show(f"vae psnr, {name}", reconstruction, seeds, name)
    carries = registry.backbones()[options.backbone].MODELS[options.backbone].carries
    if "images" in options.only and "image" in carries:
        show("from the true first frame, nearer than it repeated", continued, seeds)
        show("edited first frame and inverted latents, nearer than the source", carried, seeds)
    if "text" not in carries:
        return
    if "captions" in options.only:
        show("captions, 1 actor", caption, seeds, 1)
        show("captions, 2 actors", caption, two, 2)
    if "edits" in options.only:
        chosen = (options.method, settings)
        for kind in options.kinds:
            name = "single" if kind != "remove" else "several"
            seeds = editable(start, options.count, kind, name)
            show(f"{options.method} {kind}, {name}", edit_figures, seeds, kind, name, *chosen)
        if "colour" in options.kinds:
            figure = f"{options.method} colour, two actors"
            show(figure, edit_figures, two, "colour", "several", *chosen)


if __name__ == "__main__":
    main()
