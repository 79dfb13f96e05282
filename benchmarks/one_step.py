"""Measure how wrong one prediction of the clean clip is, over noise levels: `python benchmarks/one_step.py`.

The reason for ASSD's joint guidance (arXiv:2406.04888v2, Fig. 5): the one-step estimate `z_t - sigma v` of a video
model is bad at high noise, and an image model's is not. Here both models estimate the same noisy latents of held-out
scenes, from their captions. error: squared error of the estimated latent, in dB below the clean latent's variance.
contrast: the estimate's standard deviation over the clean latent's; a blurred estimate has less. Scenes are appended to
--rows, and a stopped run resumes. Prints one JSON line for each timestep, and writes a plot with --plot. The image
model needs the video model's latents.
"""

import argparse
import itertools
import json
import math
from pathlib import Path

import torch
from distillation import make_edit

from holdfast.base.intervals import Estimate, estimate
from holdfast.bench import provenance
from holdfast.models import registry
from holdfast.models.base import Backbone, Prompt
from holdfast.sampling.distillation import SCHEDULE_STEPS
from holdfast.sampling.guidance import guided_velocity
from holdfast.sampling.noise import add_noise, keyed_noise
from holdfast.shapeworld.evaluate import ModelChoice, load_cached
from holdfast.shapeworld.rendering import render

TIMESTEPS = (50, 250, 500, 750, 950)  # of 1000, as the paper counts
NAMES = {"error": "error, dB below the variance", "contrast": "contrast / the clip's"}
KINDS = ("video", "image", "image less video")


@torch.no_grad()
def measure_scene(
    video: Backbone, seed: int, image_model: ModelChoice, guidance: float
) -> dict[str, float]:
    """Return each model's figures on one scene, by "KIND/FIGURE/TIMESTEP"."""
    image = load_cached(image_model)
    scene = make_edit(seed).source
    clean = video.encode(render([scene])[0])
    eps = keyed_noise(clean, seed, 0)
    found = {}
    for (kind, model), t in itertools.product(
        zip(KINDS[:2], (video, image), strict=True), TIMESTEPS
    ):
        sigma = model.sigmas(SCHEDULE_STEPS)[SCHEDULE_STEPS - t]
        z = add_noise(clean, sigma, eps)
        caption = model.condition(Prompt(scene.caption()))
        v = guided_velocity(model.field, z, sigma, caption, "src", guidance)
        estimated = z - sigma * v
        found[f"{kind}/error/{t}"] = 10 * math.log10(
            clean.var().item() / (estimated - clean).square().mean().item()
        )
        found[f"{kind}/contrast/{t}"] = (estimated.std() / clean.std()).item()
    return found


def summarise(scenes: list[dict[str, float]], kind: str, figure: str, t: int) -> Estimate:
    """Estimate a figure of a model at a timestep, or the paired difference of both models."""
    if kind in KINDS[:2]:
        values = [scene[f"{kind}/{figure}/{t}"] for scene in scenes]
    else:
        values = [scene[f"image/{figure}/{t}"] - scene[f"video/{figure}/{t}"] for scene in scenes]
    found = estimate(values)
    assert found is not None
    return found


def print_rows(scenes: list[dict[str, float]], facts: dict) -> None:
    for kind, t in itertools.product(KINDS, TIMESTEPS):
        row: dict[str, object] = {"model": kind, "timestep": t, "scenes": len(scenes)}
        for figure in NAMES:
            found = summarise(scenes, kind, figure, t)
            row[figure] = round(found.mean, 3)
            row[f"{figure} 95 %"] = [round(found.low, 3), round(found.high, 3)]
        print(json.dumps(row | facts), flush=True)


def write_plot(scenes: list[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((8, 3.2), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(NAMES)), NAMES.items(), strict=True):
        for kind in KINDS[:2]:
            found = [summarise(scenes, kind, name, t) for t in TIMESTEPS]
            (line,) = axes.plot(TIMESTEPS, [f.mean for f in found], label=f"{kind} model")
            low, high = [f.low for f in found], [f.high for f in found]
            axes.fill_between(TIMESTEPS, low, high, alpha=0.2, color=line.get_color())
        axes.set(xlabel="timestep of the noise, of 1000", ylabel=label)
        axes.legend()
    figure.savefig(path, dpi=120)


def read_rows(path: Path) -> dict[int, dict[str, float]]:
    """Return the scenes that an earlier run measured, by seed."""
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(map(json.loads, lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="shapeworld-t2v")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--image-model", default="shapeworld-sd")
    parser.add_argument("--image-weights", default=None)
    parser.add_argument("--guidance", type=float, default=1.0, help="of both models")
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--rows", type=Path, required=True, help="file for the scenes' figures")
    parser.add_argument("--plot", type=Path, help="file for the plot")
    options = parser.parse_args()
    models = (
        ModelChoice(options.backbone, options.weights),
        ModelChoice(options.image_model, options.image_weights),
    )
    known = read_rows(options.rows)
    with options.rows.open("a") as file:
        for seed in range(options.scenes):
            if seed not in known:
                video = load_cached(models[0])
                known[seed] = measure_scene(video, seed, models[1], options.guidance)
                print(json.dumps([seed, known[seed]]), file=file, flush=True)
    scenes = [known[seed] for seed in range(options.scenes)]
    weights = [registry.weights_identity(model.name, model.weights) for model in models]
    facts = {"guidance": options.guidance, "weights": weights, "commit": provenance.commit()}
    print_rows(scenes, facts)
    if options.plot:
        write_plot(scenes, options.plot)


if __name__ == "__main__":
    main()
