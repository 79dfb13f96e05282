"""Measure how Gaussian inverted latents are (I2VEdit, arXiv:2405.16537, Table 2): `python benchmarks/normality.py`.

Each clip is a held-out scene whose backdrop is one constant colour, drawn at random. It is inverted by explicit Euler
steps without perturbation, and with noise of every alpha where frames are smooth (SARP), everywhere else (NSARP) and in
the latent (LRP): by the image-to-video model, and by the image model with the scene's caption and with an empty prompt.
The figure is the Anderson-Darling statistic of the inverted latent's numbers; 0.75 is what 5 % of Gaussian samples of
independent numbers exceed. Clips are appended to --rows FILE, and a stopped run resumes. Prints Markdown.
"""

import argparse
import itertools
import json
import random
from pathlib import Path

import torch
from tables import format_differences, format_intervals, print_header, print_row
from torch import Tensor

from holdfast.bench.provenance import commit
from holdfast.methods import i2vedit
from holdfast.methods.i2vedit import conditions
from holdfast.models import registry
from holdfast.models.base import Backbone, Conditioning, Prompt
from holdfast.models.svd.adapter import ImageConditioning
from holdfast.sampling import inversion
from holdfast.sampling.field import EditInputs, Pixels
from holdfast.sampling.perturbation import perturbed_source
from holdfast.shapeworld.evaluate import ModelChoice, load_cached
from holdfast.shapeworld.rendering import render_with_coverage
from holdfast.shapeworld.scenes import Scene, sample_edit

ALPHAS = (5e-5, 5e-4, 5e-3, 2e-2, 1e-1)
AREAS = {"SARP": "smooth", "NSARP": "edges", "LRP": "latent"}
NONE = "none"
WAYS = {"svd": "shapeworld-svd", "sd": "shapeworld-sd", "sd, no text": "shapeworld-sd"}


def list_settings() -> dict[str, dict]:
    """Return the perturbations by the name of their column."""
    pairs = itertools.product(AREAS.items(), ALPHAS)
    noisy = {
        f"{name} {alpha:g}": {"sarp": alpha, "sarp_area": area} for (name, area), alpha in pairs
    }
    return {NONE: {"sarp": 0.0}} | noisy


def anderson_darling(values: Tensor) -> float:
    """Return the Anderson-Darling statistic of numbers against a Gaussian of their own mean and deviation.

    `A^2 = -n - sum_i (2i - 1) / n (log F(x_i) + log(1 - F(x_{n+1-i})))`, with the numbers in ascending order.
    """
    x = values.double().flatten().sort().values
    x = (x - x.mean()) / x.std()
    n = len(x)
    weights = (2 * torch.arange(1, n + 1, dtype=torch.float64) - 1) / n
    logs = torch.special.log_ndtr(x) + torch.special.log_ndtr(-x.flip(0))
    return (-n - (weights * logs).sum()).item()


def make_clip(seed: int, frames: int) -> tuple[Scene, Tensor]:
    """Return a held-out scene and its frames, f 3 H W, on a backdrop of one random colour."""
    scene = sample_edit(seed, "colour", "single").source
    pixels, shares = render_with_coverage([scene], frames)
    actors = shares[0].sum(0)[:, None]
    drawn = random.Random(seed)
    colour = torch.tensor([drawn.random() for _ in range(3)])[:, None, None]
    clip = torch.where(actors > 0, pixels[0], colour)
    return scene, clip


def invert(backbone: Backbone, clip: Tensor, text: str, steps: int) -> Tensor:
    """Return the inverted latents of a clip with every perturbation, b c f h w, in one batch."""
    codec = (backbone.encode, backbone.decode, backbone.condition, backbone.clip_format.stride)
    reads_image = "image" in backbone.capabilities
    source = backbone.condition(Prompt(image=clip[0]) if reads_image else Prompt(text=text))
    inputs = EditInputs(backbone.encode(clip), source, source, pixels=Pixels(lambda: clip, *codec))
    latents, images = [], []
    for settings in list_settings().values():
        config = i2vedit.Config(**settings)
        if reads_image:
            latent, conditioning = conditions.inversion_inputs(inputs, config)
            images.append(conditioning.positive)
        else:
            latent = perturbed_source(inputs, config)
        latents.append(latent)
    if images:  # each variant is conditioned on its own first frame
        joined = ImageConditioning(*(torch.cat(parts) for parts in zip(*images, strict=True)))
        source = Conditioning(joined, joined)
    sigmas = inversion.inversion_sigmas(backbone.sigmas(steps))
    *_, noisy = inversion.invert_by_euler(backbone.field, torch.cat(latents), source, sigmas)
    return noisy


@torch.no_grad()
def measure(way: str, seed: int, frames: int, steps: int) -> dict[str, float]:
    """Return the statistic of a clip for every perturbation."""
    backbone = load_cached(ModelChoice(WAYS[way]))
    scene, clip = make_clip(seed, frames)
    noisy = invert(backbone, clip, scene.caption() if way == "sd" else "", steps)
    return dict(zip(list_settings(), map(anderson_darling, noisy), strict=True))


def print_table(found: dict[tuple[str, int], dict[str, float]], clips: int) -> None:
    names = list(list_settings())
    rows = {way: [found[way, seed] for seed in range(clips)] for way in WAYS}
    print_header(f"statistic, {clips} clips", *WAYS)
    for name in names:
        print_row(name, *(format_intervals(rows[way], [name])[0] for way in WAYS))
    print_header(f"less {NONE}, clip by clip", *WAYS)
    for name in names[1:]:
        plain = {way: [{name: row[NONE]} for row in rows[way]] for way in WAYS}
        print_row(name, *(format_differences(rows[w], plain[w], [name])[0] for w in WAYS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="file for the results")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--frames", type=int, default=13)
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    found = {}
    if options.rows.exists():
        for line in options.rows.read_text().splitlines():
            row = json.loads(line)
            if (row["frames"], row["steps"]) == (options.frames, options.steps):
                found[row["way"], row["clip"]] = row["found"]
    origin = {
        "commit": commit(),
        "weights": {name: registry.weights_identity(name) for name in WAYS.values()},
    }
    with options.rows.open("a") as file:
        for seed, way in itertools.product(range(options.clips), WAYS):
            if (way, seed) not in found:
                found[way, seed] = measure(way, seed, options.frames, options.steps)
                row = {"way": way, "clip": seed, "frames": options.frames, "steps": options.steps}
                row |= {"found": found[way, seed]} | origin
                print(json.dumps(row), file=file, flush=True)
    print_table(found, options.clips)


if __name__ == "__main__":
    main()
