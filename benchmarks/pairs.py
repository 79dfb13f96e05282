"""Measure each method on each embedded model: `python benchmarks/pairs.py --rows FILE`.

One actor of a held-out scene is recoloured, with the settings that the backbone recommends for each method. Wan-Edit
and FlowAnchor, which need a mask, get the actor's; an image-to-video model gets the true edited first frame. Score
distillation runs 50 iterations, with the rate scaled so that the total step length is unchanged. Success is that of the
model's own output. Results are appended to FILE, and a stopped run resumes. Prints Markdown: successes, and the mean
gain in dB towards the truth over the unedited source.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from distillation import scale_to_iterations
from tables import print_header, print_row

from holdfast import methods
from holdfast.models import registry
from holdfast.models.base import Backbone
from holdfast.pipeline import in_memory
from holdfast.pipeline.task import EditTask
from holdfast.shapeworld.evaluate import ModelChoice, load_cached
from holdfast.shapeworld.rendering import render
from holdfast.shapeworld.scenes import sample_edit
from holdfast.shapeworld.truth import actor_mask, judge

MODELS = ("shapeworld-t2v", "shapeworld-sd", "shapeworld-svd", "shapeworld-wan")
MASKED = ("wanedit", "flowanchor")
DISTILLING, ITERATIONS = ("assd", "dds", "flowdistill", "sds"), 50


def can_run(method: str, name: str) -> bool:
    """Return whether a model has the capabilities that a method requires."""
    return registry.specs()[name].capabilities >= methods.load(method).METHOD.requires


def measure(backbone: Backbone, seed: int, method: str) -> dict[str, float]:
    edit = sample_edit(seed, "colour", "single")
    source, target = render([edit.source, edit.target])
    words = {"source_prompt": edit.source.caption(), "target_prompt": edit.target.caption()}
    few = ITERATIONS if method in DISTILLING else None
    settings = scale_to_iterations(backbone.name, method, {}, few)
    task = EditTask("", "", method=method, seed=seed, settings=settings, **words)
    mask = actor_mask(edit, len(source)).bool().numpy() if method in MASKED else None
    first = target[0] if "image" in backbone.capabilities else None
    began = time.process_time()
    result = in_memory.edit_frames(
        in_memory.plan_job(task, backbone, source, mask, first), backbone
    )
    figures = judge(edit, result)
    gain = figures["psnr"] - figures["psnr_source"]
    success = float(figures["success"])
    return {"success": success, "gain": gain, "seconds": time.process_time() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="scenes, from seed 0 on")
    parser.add_argument("--rows", type=Path, required=True, help="file for the results")
    parser.add_argument("--backbones", nargs="*", default=MODELS)
    parser.add_argument("--methods", nargs="*", default=methods.names())
    options = parser.parse_args()
    results = {}
    if options.rows.exists():
        for text in options.rows.read_text().splitlines():
            *key, figures = json.loads(text)
            results[tuple(key)] = figures
    pairs = [(m, b) for b in options.backbones for m in options.methods if can_run(m, b)]
    with options.rows.open("a") as file:
        for seed in range(options.count):  # scene by scene, so that every pair has something soon
            for method, name in pairs:
                if (method, name, seed) not in results:
                    results[method, name, seed] = measure(
                        load_cached(ModelChoice(name)), seed, method
                    )
                    row = [method, name, seed, results[method, name, seed]]
                    print(json.dumps(row), file=file, flush=True)
    print_header("", *(f"`{name}`" for name in options.backbones))
    for method in options.methods:
        cells = []
        for name in options.backbones:
            rows = [
                results[method, name, s] for s in range(options.count) if (method, name) in pairs
            ]
            cells.append(format_cell(rows))
        print_row(f"`{method}`", *cells)


def format_cell(rows: list[dict[str, float]]) -> str:
    if not rows:
        return "–"
    share = sum(row["success"] for row in rows)
    gain = statistics.fmean(row["gain"] for row in rows)
    return f"{share:.0f} of {len(rows)}, {gain:+.1f} dB"


if __name__ == "__main__":
    main()
