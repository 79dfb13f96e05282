"""FlowAnchor's two claims on held-out scenes with exact truth: `python benchmarks/claims.py`, or a part with --only.

places: scenes of two or three actors, of which one is edited (colour, shape, material in turn). Per method: error
against the true edited clip, inside and outside what the true edit changes, share of the change that falls outside,
success: as the model leaves the clip; and the error once more as it is delivered, where a mask holds the source's
pixels outside. Wan-Edit + mask and FlowAnchor are given the edited actor's mask. lengths: scenes of one actor from 1
latent frame on. Mean magnitude of the edit's signal and success with and without AMM. open: what the paper leaves
open, each choice against the default, on scenes that are not reported. Prints Markdown.
"""

import argparse
import dataclasses
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from holdfast import registry, walk
from holdfast.backbones.base import Backbone
from holdfast.shapeworld.render import render
from holdfast.shapeworld.scenes import Edit, sample_edit
from holdfast.shapeworld.truth import actor_mask, judge
from holdfast.task import EditTask

KINDS = ("colour", "shape", "material")
LENGTHS = (1, 5, 13, 25, 49, 73)  # trained at 13 frames most of the time, at 25 at the most
FIGURES = {
    "psnr": "error against truth, dB",
    "psnr_inside": "inside",
    "psnr_outside": "outside",
    "outside_share": "share of the change outside",
    "success": "success",
    "delivered": "delivered, dB",
    "delivered_outside": "outside",
}


@dataclass(frozen=True)
class Row:
    """A method as the tables name it."""

    name: str
    method: str
    sees_mask: bool = False
    settings: dict = field(default_factory=dict)


MAIN = (
    Row("FlowEdit", "flowedit"),
    Row("Wan-Edit + mask", "wanedit", True),
    Row("FlowAnchor", "flowanchor", True),
)
OTHERS = (
    Row("FlowDirector, 2 noises", "flowdirector", False, {"n_avg": 2, "worse": 1}),
    Row("without TTM", "flowanchor", True, {"beta_text": 0.0}),
    Row("without STM", "flowanchor", True, {"beta_video": 0.0}),
    Row("without AMM", "flowanchor", True, {"gamma": 0.0}),
)
OPEN = (
    {},
    {"tau_by": "step"},
    {"contrast": "abs"},
    {"text_range": "prompt"},
    {"padding": "kept"},
    {"statistics": "mean"},
    {"cut": True},
)


def job(backbone: Backbone, edit: Edit, row: Row, seed: int) -> walk.Job:
    frames = edit.source.frames
    task = EditTask(
        input="",
        output="",
        source=edit.source.caption(),
        target=edit.target.caption(),
        method=row.method,
        settings=row.settings,
        seed=seed,
        window=0,
    )
    mask = actor_mask(edit, frames).bool().numpy() if row.sees_mask else None
    return walk.job(task, backbone, render([edit.source], frames)[0], mask)


def delivered(edit: Edit, result: Tensor, sees_mask: bool) -> dict[str, float]:
    """The error after the composite of pixels that an edit with a mask ends with; equal frames count as 100 dB."""
    if sees_mask:
        mask = actor_mask(edit, len(result))[:, None]
        source = render([edit.source], len(result))[0]
        result = mask * result + (1 - mask) * source
    figures = judge(edit, result)
    outside = min(100.0, figures["psnr_outside"])
    return {"delivered": figures["psnr"], "delivered_outside": outside}


def measured(backbone: Backbone, row: Row, seed: int) -> dict:
    edit = sample_edit(seed, KINDS[seed % len(KINDS)], "several")
    result = walk.edited(job(backbone, edit, row, seed), backbone)
    return judge(edit, result) | delivered(edit, result, row.sees_mask)


@dataclass(frozen=True)
class Mean:
    value: float
    error: float  # standard error

    def text(self, form: str = ".3g") -> str:
        return f"{self.value:{form}} ± {self.error:.2g}"


def mean(values: list[float]) -> Mean:
    tensor = torch.tensor([float(v) for v in values])
    error = (tensor.std() / len(values) ** 0.5).item() if len(values) > 1 else 0.0
    return Mean(tensor.mean().item(), error)


def head(*columns: str) -> None:
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def line(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def summarised(rows: list[dict]) -> list[str]:
    return [mean([row[figure] for row in rows]).text() for figure in FIGURES]


def places(backbone: Backbone, start: int, count: int, others: int) -> dict[str, list[dict]]:
    head("method", "scenes", *FIGURES.values())
    found = {}
    for rows, scenes in ((MAIN, count), (OTHERS, others)):
        for row in rows:
            seeds = range(start, start + scenes)
            found[row.name] = [measured(backbone, row, seed) for seed in seeds]
            line(row.name, scenes, *summarised(found[row.name]))
    return found


def paired(found: dict[str, list[dict]], first: str, second: str, figure: str) -> None:
    """The difference over the scenes that both have."""
    pairs = zip(found[first], found[second], strict=False)
    difference = mean([a[figure] - b[figure] for a, b in pairs])
    said = f"{difference.value:+.2f} ± {difference.error:.2f}"
    print(f"\n{first} over {second}, {figure}, scene by scene: {said}.")


class Listening:
    """A backbone that adds up the magnitude of what FlowAnchor's difference of guided velocities comes to."""

    def __init__(self, inner: Backbone, guidance: dict[str, float]):
        self.inner, self.guidance = inner, guidance
        self.last: dict[str, Tensor] = {}
        self.sizes: list[float] = []

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def velocity(self, z, sigma, condition, *, branch, frames=None):
        velocity = self.inner.velocity(z, sigma, condition, branch=branch, frames=frames)
        self.last[branch] = velocity
        ends = "src+" if self.guidance["src"] == 1 else "src-"  # FlowAnchor asks the source last
        if branch == ends:
            difference = self._guided("tgt") - self._guided("src")
            self.sizes.append(difference.abs().mean().item())
        return velocity

    def _guided(self, side: str) -> Tensor:
        positive, scale = self.last[f"{side}+"], self.guidance[side]
        if scale == 1:
            return positive
        negative = self.last[f"{side}-"]
        return negative + scale * (positive - negative)


def resized(edit: Edit, frames: int) -> Edit:
    source, target = (dataclasses.replace(s, frames=frames) for s in (edit.source, edit.target))
    return dataclasses.replace(edit, source=source, target=target)


def lengths(backbone: Backbone, start: int, count: int) -> None:
    head(
        "frames",
        "latent frames",
        "signal",
        "gain of AMM",
        "success",
        "success without AMM",
        "PSNR to truth",
        "without AMM",
    )
    for frames in LENGTHS:
        sizes, results = [], {1.0: [], 0.0: []}
        for seed in range(start, start + count):
            edit = resized(sample_edit(seed, "colour"), frames)
            for gamma, figures in results.items():
                made = job(backbone, edit, Row("", "flowanchor", True, {"gamma": gamma}), seed)
                cfg = made.plan.cfg
                guidance = {"src": cfg.source_guidance, "tgt": cfg.target_guidance}
                field = Listening(backbone, guidance)
                figures.append(judge(edit, walk.edited(made, field)))
                sizes += [] if gamma else field.sizes
        latent = backbone.grid.latent_frames(frames)
        gain = 1 + math.log(latent) / math.log(cfg.base_frames)  # at gamma = 1
        cells = [f"{mean(sizes).value:.4f}", f"up to {gain:.2f}"]
        for figure in ("success", "psnr"):
            cells += [mean([row[figure] for row in results[g]]).text(".2f") for g in results]
        line(frames, latent, *cells)


def choices(backbone: Backbone, count: int) -> None:
    head("setting", *FIGURES.values())
    for settings in OPEN:
        row = Row("", "flowanchor", True, settings)
        seeds = range(500_000, 500_000 + count)
        figures = [measured(backbone, row, seed) for seed in seeds]
        name = ", ".join(f"`{k}={v}`" for k, v in settings.items()) or "defaults"
        line(name, *summarised(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument(
        "--others", type=int, default=20, help="scenes for FlowDirector and ablations"
    )
    parser.add_argument("--lengths-count", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=["places", "lengths", "open"])
    parser.add_argument(
        "--start", type=int, default=0, help="first seed; from 500000 on to choose settings"
    )
    options = parser.parse_args()
    backbone = registry.load_backbone("shapeworld-wan")
    if "places" in options.only:
        found = places(backbone, options.start, options.count, options.others)
        for figure in ("psnr", "delivered"):
            paired(found, "FlowAnchor", "FlowEdit", figure)
        for figure in ("psnr_outside", "delivered_outside"):
            paired(found, "FlowAnchor", "Wan-Edit + mask", figure)
        for other in OTHERS:
            for figure in ("psnr", "delivered", "outside_share"):
                paired(found, "FlowAnchor", other.name, figure)
    if "open" in options.only:
        choices(backbone, options.others)
    if "lengths" in options.only:
        lengths(backbone, options.start, options.lengths_count)


if __name__ == "__main__":
    main()
