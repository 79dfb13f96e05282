"""Measure the embedded checkpoint on held-out scenes: `python -m holdfast.shapeworld.evaluate`.

Prints one table: reconstruction by the VAE, how often generated clips match their caption, and how often edits succeed.
Seeds count from 0 (from 500000 with --tuning, for choosing settings without looking at the scenes that are reported).
"""

import itertools
import json
import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from .. import diffusion, registry
from ..backbones.base import Backbone
from ..task import configure
from .render import SIZE, render
from .scenes import COLOURS, DIRECTIONS, FRAMES, MATERIALS, SHAPES, Edit, Scene, sample, sample_edit
from .truth import judge, psnr

TUNING = 500_000
LOOK = (0, 4, 8, 12)  # frames that the fit looks at


def reconstruction(backbone: Backbone, seeds: range, name: str) -> float:
    """Mean PSNR in dB of decode(encode(clip))."""
    values = []
    for seed in seeds:
        clip = render([sample(seed, name)])[0]
        values.append(psnr(torch.cat(list(backbone.decode(backbone.encode(clip)))), clip))
    return sum(values) / len(values)


def generate(backbone: Backbone, caption: str, seed: int, steps: int = 30, guidance: float = 3.0) -> Tensor:
    """A clip from a caption alone, f 3 H W: Euler from noise at the model's own grid."""
    z = diffusion.noise(backbone.encode(torch.zeros(FRAMES, 3, *SIZE)), seed, 0)
    condition, levels = backbone.condition(caption), backbone.levels(steps)
    for sigma, sigma_next in itertools.pairwise(levels):
        z = z + (sigma_next - sigma) * diffusion.guided(backbone, z, sigma, condition, "tgt", guidance)
    return torch.cat(list(backbone.decode(z)))


def errors(scenes: list[Scene], looked: Tensor) -> list[float]:
    """Mean squared error of each scene's rendering to the frames looked at, f 3 H W."""
    chunks = [render(scenes[i : i + 16], LOOK, tuple(looked.shape[-2:])) for i in range(0, len(scenes), 16)]
    return (torch.cat(chunks) - looked).square().flatten(1).mean(1).tolist()


def centred(scene: Scene, index: int, x: float, y: float, size: float) -> Scene:
    """The scene with one actor at (x, y) in the middle of the clip."""
    actor = scene.actors[index]
    (vx, vy), half = actor.velocity, (FRAMES - 1) / 2
    moved = replace(actor, x=x - vx * half, y=y - vy * half, size=size)
    return replace(scene, actors=(*scene.actors[:index], moved, *scene.actors[index + 1 :]))


def middle(scene: Scene, index: int) -> tuple[float, float, float]:
    actor = scene.actors[index]
    (vx, vy), half = actor.velocity, (FRAMES - 1) / 2
    return actor.x + vx * half, actor.y + vy * half, actor.size


def best(scenes: list[Scene], looked: Tensor) -> tuple[float, Scene]:
    values = errors(scenes, looked)
    lowest = min(range(len(values)), key=values.__getitem__)
    return values[lowest], scenes[lowest]


def placed(scene: Scene, index: int, looked: Tensor) -> Scene:
    """Find where one actor is by trying a grid of places, at half size."""
    looked = functional.avg_pool2d(looked, 2)
    grid = [0.12 + 0.76 * i / 11 for i in range(12)]
    return best([centred(scene, index, x, y, 0.2) for x in grid for y in grid], looked)[1]


def refined(scene: Scene, index: int, looked: Tensor, reach: float) -> tuple[float, Scene]:
    x, y, size = middle(scene, index)
    near = [(x + a * reach, y + b * reach, size + c * 0.015) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
    return best([centred(scene, index, *place) for place in near], looked)


def fitted(scene: Scene, looked: Tensor) -> tuple[float, Scene]:
    """A scene's places and sizes fitted to a clip: each actor alone, then again beside the others, then finely."""
    count = len(scene.actors)
    alone = tuple(placed(replace(scene, actors=(a,)), 0, looked).actors[0] for a in scene.actors)
    scene = replace(scene, actors=alone)
    for i in range(count if count > 1 else 0):
        scene = placed(scene, i, looked)
    for i in range(count):
        scene = refined(scene, i, looked, 0.035)[1]
    for i in range(count):
        error, scene = settled(scene, i, looked)
    return error, scene


def settled(scene: Scene, index: int, looked: Tensor) -> tuple[float, Scene]:
    """The last two refinements, which the caption's program and every rival get alike."""
    return refined(refined(scene, index, looked, 0.02)[1], index, looked, 0.01)


def matches(clip: Tensor, scene: Scene) -> dict[str, bool]:
    """Whether a clip shows what a scene's caption says, by nearest re-rendering.

    The caption's own program is fitted to the clip first (place and size are not in the caption). An attribute holds if no
    other value of it, in any actor, re-renders closer, with the place free to adjust.
    """
    looked = clip[list(LOOK)]
    own, fit = fitted(scene, looked)
    holds = {}
    for name, values in {"shape": SHAPES, "colour": COLOURS, "material": MATERIALS, "direction": tuple(DIRECTIONS)}.items():
        rivals = []
        for i, actor in enumerate(fit.actors):
            for value in values:
                if value != getattr(actor, name):
                    changed = replace(fit, actors=(*fit.actors[:i], replace(actor, **{name: value}), *fit.actors[i + 1 :]))
                    near = centred(changed, i, *middle(fit, i))
                    rivals.append(settled(near, i, looked)[0])
                    if name == "direction":  # a wrong motion is not found near the best fit of another
                        rivals.append(settled(placed(near, i, looked), i, looked)[0])
        holds[name] = own < min(rivals)
    return holds


def captions(backbone: Backbone, seeds: list[int], actors: int) -> dict[str, float]:
    """Shares of generated clips whose attributes hold; "caption" is colour, shape and motion together."""
    counts: dict[str, int] = {}
    for seed in seeds:
        scene = sample(seed, "single" if actors == 1 else "several")
        holds = matches(generate(backbone, scene.caption(), seed), scene)
        holds["caption"] = holds["colour"] and holds["shape"] and holds["direction"]
        counts = {k: counts.get(k, 0) + v for k, v in holds.items()}
    return {k: v / len(seeds) for k, v in counts.items()}


def edited(backbone: Backbone, edit: Edit, method: str, settings: dict, seed: int) -> Tensor:
    """An edit without files: encode, walk, decode; f 3 H W."""
    module = registry.method(method)
    cfg, _ = configure(module.Config, backbone.prefers, None, settings)
    source = backbone.encode(render([edit.source])[0])
    src, tgt = backbone.condition(edit.source.caption()), backbone.condition(edit.target.caption())
    z = source
    for step in module.edit(backbone, source, src, tgt, cfg, seed=seed):
        z = step.z
    return torch.cat(list(backbone.decode(z)))


def edit_success(
    backbone: Backbone, seeds: list[int], kind: str, name: str, method: str = "flowedit", settings: dict | None = None
) -> dict[str, float]:
    """Success share and mean gain in dB towards the truth over the unedited source, with its standard error."""
    gains, wins, psnrs = [], 0, []
    for seed in seeds:
        edit = sample_edit(seed, kind, name)
        figures = judge(edit, edited(backbone, edit, method, settings or {}, seed))
        wins += figures["success"]
        gains.append(figures["psnr"] - figures["psnr_source"])
        psnrs.append(figures["psnr"])
    mean = sum(gains) / len(gains)
    spread = math.sqrt(sum((g - mean) ** 2 for g in gains) / max(1, len(gains) - 1) / len(gains))
    return {"success": wins / len(gains), "gain": mean, "error": spread, "psnr": sum(psnrs) / len(psnrs)}


def pairs(start: int, count: int) -> list[int]:
    """Seeds whose scene of the set `several` has two actors; some have three."""
    seeds = (s for s in itertools.count(start) if len(sample(s, "several").actors) == 2)
    return list(itertools.islice(seeds, count))


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="scenes for each figure")
    parser.add_argument("--only", nargs="*", default=["vae", "captions", "edits"])
    parser.add_argument("--weights", default=None, help="a checkpoint folder; default: the embedded one")
    parser.add_argument("--method", default="flowedit")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the method, key=value")
    parser.add_argument("--kinds", nargs="*", default=["colour", "shape", "material", "backdrop"])
    parser.add_argument("--tuning", action="store_true", help="other scenes than the ones that are reported")
    options = parser.parse_args()
    backbone = registry.load_backbone("shapeworld-wan", options.weights)
    seeds = range(TUNING, TUNING + options.count) if options.tuning else range(options.count)
    settings = dict(pair.split("=", 1) for pair in options.set)

    def show(figure: str, values: object) -> None:
        print(json.dumps({"figure": figure, "scenes": options.count, "value": values}), flush=True)

    if "vae" in options.only:
        for name in ("single", "several", "fast"):
            show(f"vae psnr, {name}", round(reconstruction(backbone, seeds, name), 2))
    if "captions" in options.only:
        for actors in (1, 2):
            chosen = list(seeds) if actors == 1 else pairs(seeds.start, options.count)
            show(f"captions, {actors} actor(s)", captions(backbone, chosen, actors))
    if "edits" in options.only:
        for kind in options.kinds:
            show(f"{options.method} {kind}, single", edit_success(backbone, list(seeds), kind, "single", options.method, settings))
        two = pairs(seeds.start, options.count)
        show(f"{options.method} colour, two actors", edit_success(backbone, two, "colour", "several", options.method, settings))


if __name__ == "__main__":
    main()
