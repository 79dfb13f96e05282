"""Compare the method `holdfast` with others: `python benchmarks/own_method.py run --out FILE [--parts ...]`.

Scenes of two actors, one of which is edited (colour, shape, material in turn) with its exact mask. Parts:
confirm: `holdfast` by default, and every other method that holds the mask, each at its own strength. others: four of
them, for other models (--backbone). search: settings
of `holdfast`. rough: the methods of `confirm` that the mask steers, with masks that are worse than the exact one; the
clip that is delivered is restored outside the mask that the method had. sensitivity: FlowAnchor's settings.
One line of JSON is appended per edit: success and error against the exact result, of the clip as the method leaves it
(raw) and as it is delivered. A run that stops continues where it was. `python benchmarks/own_method.py tables --rows
FILE` prints Markdown, with differences to the first variant, scene by scene.

Settings are chosen on scenes from --start 500000 on. Reported scenes are from 300000 on, where nobody looked before.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from steps import Runner, Scene, make_scene
from steps_tables import read_rows
from tables import format_differences, format_interval, print_header, print_row
from torch import Tensor

from holdfast.bench import provenance
from holdfast.bench.rough_masks import WAYPOINTS, draw_scribble
from holdfast.media.masks import MaskShape
from holdfast.models import registry
from holdfast.shapeworld.evaluate import seeds_with_two_actors
from holdfast.shapeworld.truth import judge

PRINTED: dict[str, Any] = {"mask_velocity": False, "region": "off"}  # FlowAnchor, as in the paper
HELD: dict[str, Any] = {"mask_velocity": True}
KINDS = ("colour", "material", "shape")


@dataclass(frozen=True)
class Variant:
    """One way of editing. mask: the mask that the method has, a name of SHAPES or "scribble"."""

    part: str
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    mask: str = "exact"

    @property
    def name(self) -> str:
        pairs = (f"{name}={value}" for name, value in self.settings.items())
        return " ".join(
            [self.part, self.method, *pairs, *([self.mask] if self.part == "rough" else [])]
        )


def list_variants(parts: Sequence[str]) -> list[Variant]:
    makers = {
        "confirm": _confirm,
        "others": _others,
        "search": _search,
        "rough": _rough,
        "sensitivity": _sensitivity,
    }
    return [variant for part in parts for variant in makers[part]()]


def _confirm() -> Iterator[Variant]:
    yield Variant("confirm", "holdfast")
    yield Variant("confirm", "flowanchor", PRINTED)
    yield Variant("confirm", "flowanchor", HELD)
    for method in ("flowedit", "wanedit", "flowalign", "dfvedit"):
        yield Variant("confirm", method)


def _others() -> Iterator[Variant]:
    for method in ("holdfast", "flowedit", "flowanchor", "wanedit"):
        yield Variant("others", method, PRINTED if method == "flowanchor" else {})


def _search() -> Iterator[Variant]:
    yield Variant("search", "holdfast")
    for settings in (
        {"contrast_guidance": 0.0, "target_guidance": 3.0},
        {"contrast_guidance": 0.5},
        {"contrast_guidance": 1.5},
        {"strength": 0.58},
        {"strength": 0.75},
        {"strength": 0.92},
        {"steps": 10},
        {"steps": 25},
        {"beta_text": 0.0, "beta_video": 0.0},
        {"region": "off"},
        {"solver": "unipc"},
    ):
        yield Variant("search", "holdfast", settings)


def _rough() -> Iterator[Variant]:
    for method, settings in (("holdfast", {}), ("flowanchor", PRINTED), ("wanedit", {})):
        for mask in (*SHAPES, "scribble"):
            yield Variant("rough", method, settings, mask)


def _sensitivity() -> Iterator[Variant]:
    yield Variant("sensitivity", "flowanchor", PRINTED)
    for beta in (0.1, 0.5):
        yield Variant(
            "sensitivity", "flowanchor", PRINTED | {"beta_text": beta, "beta_video": beta}
        )
    for gamma in (0.0, 0.5, 1.5):
        yield Variant("sensitivity", "flowanchor", PRINTED | {"gamma": gamma})
    for tau in (0.4, 0.8):
        yield Variant("sensitivity", "flowanchor", PRINTED | {"tau": tau})


SHAPES = {
    "exact": MaskShape(),
    "box": MaskShape(outline="box"),
    "hull": MaskShape(outline="hull"),
    "grow4": MaskShape(grow=4),
}


def roughen(scene: Scene, kind: str) -> Tensor:
    """Return the mask of a scene as a person would draw it, f 1 H W: in one of SHAPES, or as a scribble."""
    waypoints = np.random.default_rng(scene.seed).random((WAYPOINTS, 2))
    frames = [
        SHAPES[kind].apply(frame) if kind in SHAPES else draw_scribble(frame, waypoints)
        for frame in scene.mask[:, 0].bool().numpy()
    ]
    return torch.from_numpy(np.stack(frames))[:, None].float()


def measure(runner: Runner, scene: Scene, variant: Variant) -> dict[str, Any]:
    """Return one row."""
    seen = replace(scene, mask=roughen(scene, variant.mask))
    begin = time.perf_counter()
    job, finished, dense = runner.edit(seen, variant.method, variant.settings)
    row: dict[str, Any] = {"cost": dense, "seconds": time.perf_counter() - begin}
    with torch.no_grad():
        raw = torch.stack(list(job.plan.fit.to_clip(runner.backbone.decode(finished.z))))
    delivered = seen.mask * raw + (1 - seen.mask) * scene.source
    for name, clip in (("raw", raw), ("delivered", delivered)):
        found = judge(scene.edit, clip)
        row |= {f"{name} success": found["success"], f"{name} dB": found["psnr"]}
        row[f"{name} outside dB"] = found["psnr_outside"]
    return row


def run(options: argparse.Namespace) -> None:
    """Measure what is not in the file yet, scene after scene."""
    torch.set_num_threads(1)
    out = Path(options.out)
    done = {(row["backbone"], row["variant"], row["seed"]) for row in read_rows(out)}
    weights = registry.identify(options.backbone)
    origin = {"commit": provenance.commit(), "weights": weights and weights["identity"]}
    runner = Runner(registry.load_backbone(options.backbone))
    variants = list_variants(options.parts)
    end = time.perf_counter() + 60 * options.minutes
    for seed in seeds_with_two_actors(options.start, options.count):
        left = [v for v in variants if (options.backbone, v.name, seed) not in done]
        scene = make_scene(seed) if left else None
        for variant in left:
            if time.perf_counter() > end:
                return
            assert scene is not None
            row = {"backbone": options.backbone, "part": variant.part, "variant": variant.name}
            row |= {"seed": seed, "kind": scene.edit.kind} | measure(runner, scene, variant)
            with out.open("a") as file:
                print(json.dumps(row | origin), file=file)


MEASURED = ("delivered success", "delivered dB", "raw success", "raw dB", "raw outside dB")
COMPARED = ("delivered success", "delivered dB")


def print_tables(options: argparse.Namespace) -> None:
    """Print a table of each backbone and part."""
    rows = [row for path in options.rows for row in read_rows(Path(path))]
    for backbone, part in dict.fromkeys((row["backbone"], row["part"]) for row in rows):
        chosen = [row for row in rows if (row["backbone"], row["part"]) == (backbone, part)]
        origins = sorted({f"commit {row['commit']}, weights {row['weights']}" for row in chosen})
        print(f"\n{backbone}, {part}: {'; '.join(origins)}\n")
        _print_part(chosen)


def _print_part(rows: Sequence[dict[str, Any]]) -> None:
    by_variant: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        by_variant.setdefault(row["variant"], {})[row["seed"]] = row
    paired = [f"{name}, paired" for name in COMPARED]
    print_header("variant", "scenes", "cost", *MEASURED, *KINDS, *paired)
    first = next(iter(by_variant.values()))
    for name, found in by_variant.items():
        own = list(found.values())
        cells = [format_interval([row[metric] for row in own]) for metric in MEASURED]
        for kind in KINDS:
            of_kind = [row["delivered success"] for row in own if row["kind"] == kind]
            cells.append(f"{sum(of_kind)} of {len(of_kind)}")
        shared = sorted(found.keys() & first.keys())
        differences = ["–"] * len(COMPARED)
        if found is not first:
            differences = format_differences(
                [found[seed] for seed in shared], [first[seed] for seed in shared], COMPARED
            )
        cost = sum(row["cost"] for row in own) / len(own)
        print_row(name.partition(" ")[2], len(own), f"{cost:.1f}", *cells, *differences)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    measuring = commands.add_parser("run", help="append rows to a file")
    measuring.add_argument("--out", required=True)
    measuring.add_argument("--parts", nargs="*", default=["confirm"])
    measuring.add_argument("--backbone", default="shapeworld-wan")
    measuring.add_argument("--start", type=int, default=300_000, help="first seed")
    measuring.add_argument("--count", type=int, default=100, help="scenes")
    measuring.add_argument("--minutes", type=float, default=1e6, help="stop after these")
    measuring.set_defaults(call=run)
    tables = commands.add_parser("tables", help="print the tables of files of rows")
    tables.add_argument("--rows", nargs="+", required=True)
    tables.set_defaults(call=print_tables)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
