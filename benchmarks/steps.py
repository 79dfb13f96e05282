"""Measure what fewer evaluations cost in quality: `python benchmarks/steps.py run --out FILE [--parts ...]`.

Scenes of two actors, one of which is edited (colour, shape, material in turn) by `shapeworld-wan` with its exact mask;
every method holds the latents outside the mask. Parts:
steps: 25, 15, 10 and 6 steps, with Euler and UniPC. own: those with the method's own solver. others: methods without
that choice. unmasked: without a mask. guidance: intervals, and the negative branch at every n-th step. region: edits
with every token evaluated. caches: diffusers' step caches.
One line of JSON is appended per edit: whether it succeeded and its error against the true edited clip, both after
pixels outside the mask are restored; evaluations, also in those of the whole latent; and how far the latent is from
that of the edit it is compared with. A run that stops resumes where it was. `python benchmarks/steps.py tables --rows
FILE` prints Markdown (steps_tables.py).

Settings are chosen on tuning scenes (--start 500000), and reported on others (--start 0).
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import steps_caches
import steps_tables
import torch
from torch import Tensor

from holdfast.bench import provenance
from holdfast.models import registry
from holdfast.models.base import Backbone
from holdfast.pipeline import in_memory
from holdfast.pipeline.events import EditFinished
from holdfast.pipeline.loop import LoopJob
from holdfast.pipeline.task import EditTask
from holdfast.shapeworld.evaluate import FIRST_TUNING_SEED, seeds_with_two_actors
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import SceneEdit, sample_edit
from holdfast.shapeworld.truth import actor_mask, judge

BACKBONE = "shapeworld-wan"
KINDS = ("colour", "shape", "material")
HELD = {"flowanchor": {"mask_velocity": True}}  # its mask holds no latents otherwise
# of each method: its own solver and another one, and the steps that are measured with each
SOLVERS: dict[str, dict[str, tuple[int, ...]]] = {
    "flowanchor": {"euler": (25, 15, 10, 6), "unipc": (10, 6)},
    "flowedit": {"euler": (25, 15, 10, 6), "unipc": (10, 6)},
    "wanedit": {"unipc": (25, 15, 10, 6), "euler": (10, 6)},
}
OTHERS = ("flowalign", "dfvedit", "sdedit", "uniedit")
COMPARED = ({"solver": "euler", "steps": 25}, {"solver": "euler", "steps": 15})  # of flowanchor
GUIDANCE: tuple[dict[str, Any], ...] = (
    {"guidance_interval": "0.3:1"},
    {"negative_every": 2},
    {"negative_every": 3},
)
CACHES = {"fbc": (0.3, 0.4), "mag": (0.06, 0.12, 0.24)}  # thresholds; diffusers' are .05, .06


@dataclass(frozen=True)
class Variant:
    """One way of editing. compared_with: the settings of the edit that its latent is compared with; None: of no edit.

    is_complete: this edit and not the other one evaluates everything, so that errors are shares of its change.
    """

    part: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    compared_with: dict[str, Any] | None = None
    is_complete: bool = False

    @property
    def name(self) -> str:
        pairs = (f"{name}={value}" for name, value in self.settings.items())
        return " ".join([self.part, self.method, *pairs])


def list_variants(parts: Sequence[str]) -> list[Variant]:
    """List the variants of the parts."""
    found = {
        "own": partial(_solver_variants, is_own=True),
        "steps": _solver_variants,
        "others": _other_variants,
        "unmasked": _unmasked_variants,
        "guidance": _guidance_variants,
        "region": _region_variants,
        "caches": _cache_variants,
    }
    return [variant for part in parts for variant in found[part]()]


def _solver_variants(is_own: bool = False) -> Iterator[Variant]:
    """Yield the steps of each method with each solver. is_own: with the solver of its paper alone."""
    for method, solvers in SOLVERS.items():
        for solver in list(solvers)[: 1 if is_own else None]:
            for steps in solvers[solver]:
                full = {"solver": next(iter(solvers)), "steps": 25}
                own = {"solver": solver, "steps": steps}
                yield Variant("steps", method, own, None if own == full else full)


def _other_variants() -> Iterator[Variant]:
    for method in OTHERS:
        yield from _fewer_steps(method, {})


def _unmasked_variants() -> Iterator[Variant]:
    yield from _fewer_steps("flowedit", {"mask": "none"})


def _fewer_steps(method: str, settings: dict[str, Any]) -> Iterator[Variant]:
    full = {"steps": 25} | settings
    yield Variant("steps", method, full)
    for steps in (15, 10):
        yield Variant("steps", method, {"steps": steps} | settings, full)


def _guidance_variants() -> Iterator[Variant]:
    for full in COMPARED:
        for settings in GUIDANCE:
            yield Variant("guidance", "flowanchor", full | settings, full)


def _region_variants() -> Iterator[Variant]:
    for full in COMPARED:
        yield Variant("region", "flowanchor", full | {"region": "off"}, full, is_complete=True)


def _cache_variants() -> Iterator[Variant]:
    full = {"solver": "euler", "steps": 25}
    for kind, thresholds in CACHES.items():
        for threshold in thresholds:
            yield Variant("caches", "flowanchor", full | {"cache": f"{kind} {threshold}"}, full)


@dataclass(frozen=True)
class Scene:
    """A scene, its edit, and what all its variants share."""

    seed: int
    edit: SceneEdit
    source: Tensor  # f 3 H W
    mask: Tensor  # f 1 H W, 0 or 1


def make_scene(seed: int) -> Scene:
    edit = sample_edit(seed, KINDS[seed % len(KINDS)], "several")
    frames = edit.source.frames
    mask = actor_mask(edit, frames)[:, None]
    return Scene(seed, edit, render([edit.source], frames)[0], mask)


class Runner:
    """Edits one scene after another. It keeps the latents that other variants of the scene are compared with."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self._latents: dict[tuple, Tensor] = {}
        self._scene: Scene | None = None

    def measure(self, scene: Scene, variant: Variant) -> dict[str, Any]:
        """Return one row."""
        if self._scene is not scene:
            self._scene = scene
            self._latents.clear()
        begin = time.perf_counter()
        job, finished, dense = self.edit(scene, variant.method, variant.settings)
        seconds = time.perf_counter() - begin
        row = {"evaluations": finished.evaluations, "dense": dense}
        row |= {"seconds": seconds} | self._score(scene, job, finished.z)
        if variant.compared_with is not None:
            row["difference"] = self._compare(scene, variant, finished.z)
        return row

    def edit(
        self, scene: Scene, method: str, settings: Mapping[str, Any]
    ) -> tuple[LoopJob, EditFinished, float]:
        """Return the job, its end, and what it cost in evaluations of the whole latent."""
        own = dict(settings)
        cached, has_mask = own.pop("cache", None), own.pop("mask", "") != "none"
        task = EditTask(
            input="",
            output="",
            source_prompt=scene.edit.source.caption(),
            target_prompt=scene.edit.target.caption(),
            method=method,
            settings=HELD.get(method, {}) | own,
            seed=scene.seed,
            window=0,
        )
        mask = list(scene.mask[:, 0].bool().numpy()) if has_mask else None
        job = in_memory.plan_job(task, self.backbone, scene.source, mask)
        if cached:
            finished, dense = steps_caches.run_cached(job, self.backbone, cached)
        else:
            finished = in_memory.finish_loop(job, self.backbone)
            dense = finished.dense_equivalents
        self._latents[method, *settings.items()] = finished.z
        return job, finished, dense

    @torch.no_grad()
    def _score(self, scene: Scene, job: LoopJob, z: Tensor) -> dict[str, Any]:
        """Return success and errors of the delivered clip, which is the source outside the mask."""
        edited = torch.stack(list(job.plan.fit.to_clip(self.backbone.decode(z))))
        delivered = edited
        if job.mask is not None:
            delivered = scene.mask * edited + (1 - scene.mask) * scene.source
        found = judge(scene.edit, delivered)
        return {
            "success": found["success"],
            "delivered": found["psnr"],
            "inside": found["psnr_inside"],
            "source": found["psnr_source"],
        }

    def _compare(self, scene: Scene, variant: Variant, z: Tensor) -> float:
        """Return the distance of two latents, as a share of what the complete edit changes."""
        assert variant.compared_with is not None
        key = (variant.method, *variant.compared_with.items())
        if key not in self._latents:
            self.edit(scene, variant.method, variant.compared_with)
        other, clean = self._latents[key], self.backbone.encode(scene.source)
        complete = z if variant.is_complete else other
        return ((z - other).norm() / (complete - clean).norm()).item()


def run(options: argparse.Namespace) -> None:
    """Measure what is not in the file yet, scene after scene."""
    torch.set_num_threads(1)
    out = Path(options.out)
    done = {(row["variant"], row["seed"]) for row in steps_tables.read_rows(out)}
    weights = registry.identify(BACKBONE)
    origin = {"commit": provenance.commit(), "weights": weights and weights["identity"]}
    runner = Runner(registry.load_backbone(BACKBONE))
    variants = list_variants(options.parts)
    end = time.perf_counter() + 60 * options.minutes
    for seed in seeds_with_two_actors(options.start, options.count):
        left = [v for v in variants if (v.name, seed) not in done]
        scene = make_scene(seed) if left else None
        for variant in left:
            if time.perf_counter() > end:
                return
            assert scene is not None
            row = {"variant": variant.name, "part": variant.part, "method": variant.method}
            row |= {"settings": variant.settings, "seed": seed, "kind": scene.edit.kind}
            with out.open("a") as file:
                print(json.dumps(row | runner.measure(scene, variant) | origin), file=file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    measure = commands.add_parser("run", help="append rows to a file")
    measure.add_argument("--out", required=True)
    measure.add_argument("--parts", nargs="*", default=["steps", "guidance", "region", "others"])
    measure.add_argument(
        "--start", type=int, default=0, help=f"first seed; {FIRST_TUNING_SEED} to choose settings"
    )
    measure.add_argument("--count", type=int, default=40, help="scenes")
    measure.add_argument("--minutes", type=float, default=1e6, help="stop after these")
    measure.set_defaults(call=run)
    tables = commands.add_parser("tables", help="print the tables of a file of rows")
    tables.add_argument("--rows", nargs="+", required=True)
    tables.set_defaults(call=lambda options: steps_tables.print_tables(options.rows))
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
