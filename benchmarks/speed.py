"""What an edit costs: methods with latents held outside a mask, against a plain loop of four dense calls a step.

    python benchmarks/speed.py [--model shapeworld-wan] [--shares 0.05 0.1 0.2 0.4 1] [--lengths 1 2 4] [--json F]
    python benchmarks/speed.py --model wan2.1-1.3b --size 832x480 --frames 41 --lengths 1     (a GPU)

The plain loop evaluates src+, src-, tgt+ and tgt- one after another and takes an Euler step: what the authors' own
code does. Each method runs with region=off and region=mask, and once more with another target prompt, where it finds
the source's evaluations of the first edit. All take turns in one run, each figure is the fastest of its repeats, and
ratios are against the plain loop of the same clip. Published models have random weights here: time does not depend on
them. --layers shortens a published model; its whole needs a GPU.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from packed import make_region, one_layer

from holdfast import methods
from holdfast.base.memory import PeakMemory
from holdfast.models import registry
from holdfast.models.base import Backbone, Conditioning, Prompt
from holdfast.models.source_store import SourceStore
from holdfast.pipeline.metering import EvaluationMeter
from holdfast.sampling.field import EditInputs
from holdfast.sampling.noise import add_noise, keyed_noise

METHODS = {"flowedit": {}, "wanedit": {}, "flowanchor": {"mask_velocity": True}}
GUIDANCE = {"source_guidance": 5.0, "target_guidance": 12.0}  # of four evaluations a step
FREE = {"source_guidance": 1.0, "target_guidance": 3.0}  # of three


@dataclass
class Cost:
    """What one way to edit took."""

    seconds: float
    evaluations: int
    dense_equivalents: float
    peak_mb: float | None


def load(name: str, layers: int, device: torch.device) -> tuple[Backbone, list[Conditioning]]:
    """Return a backbone with conditionings of a source and two targets."""
    if registry.find_spec(name).download_gb:
        backbone = one_layer(device, layers, name)
        texts = torch.randn(4, 1, 512, 4096, device=device)
        words = {"edit_tokens": (2,), "token_count": 6}
        return backbone, [Conditioning(text, texts[3], **words) for text in texts[:3]]
    backbone = registry.load_backbone(name, None, device.type)
    prompts = (("a red ball", ()), ("a blue ball", (1,)), ("a green ball", (1,)))
    return backbone, [backbone.condition(Prompt(text, words=words)) for text, words in prompts]


def plain_loop(backbone: Backbone, inputs: EditInputs, steps: int) -> None:
    """FlowEdit as its authors run it: four evaluations of everything, one after another."""
    x, z = inputs.latent, inputs.latent
    sigmas = backbone.sigmas(steps)
    for i in range(steps):
        sigma = sigmas[i]
        x_sigma = add_noise(x, sigma, keyed_noise(x, inputs.seed, i))
        v = {
            branch: backbone.velocity(
                x_sigma if branch[0] == "s" else x_sigma + (z - x),
                sigma,
                inputs.source if branch[0] == "s" else inputs.target,
                branch=branch,
            )
            for branch in ("src+", "src-", "tgt+", "tgt-")
        }
        source = v["src-"] + 5 * (v["src+"] - v["src-"])
        target = v["tgt-"] + 12 * (v["tgt+"] - v["tgt-"])
        z = z + (sigmas[i + 1] - sigma) * inputs.apply_mask(target - source)


def run_method(
    backbone: Backbone, inputs: EditInputs, steps: int, name: str, **settings: object
) -> EvaluationMeter:
    """Run a method, and return the count of its evaluations."""
    meter = EvaluationMeter()
    field = meter.wrap(backbone.field)
    if backbone.source_store:
        backbone.source_store.begin_edit()
        field = backbone.source_store.wrap(field)
    method = methods.load(name)
    config = method.Config(steps=steps, strength=1.0, **settings)
    for _ in method.edit(field, inputs, config):
        pass
    return meter


def time_cost(call: Callable[[], EvaluationMeter | None], device: torch.device) -> Cost:
    """Return what a call takes."""
    memory = PeakMemory()
    with memory:
        begin = time.perf_counter()
        meter = call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    counts = (meter.evaluations, meter.dense_equivalents) if meter else (0, 0.0)
    return Cost(seconds, *counts, memory.megabytes(str(device)))


def measure_clip(
    backbone: Backbone, inputs: EditInputs, other: Conditioning, args: argparse.Namespace
) -> list[dict]:
    """Return a row for each way to edit one clip with one mask."""
    device, rows = backbone.device, []
    plain = [
        time_cost(lambda: plain_loop(backbone, inputs, args.steps), device)
        for _ in range(args.repeats)
    ]
    best = min(cost.seconds for cost in plain)
    rows.append({"way": "plain loop", "ratio": 1.0, "seconds": best, "peak_mb": plain[0].peak_mb})
    for name in args.methods:
        own = METHODS[name]
        for guidance, label in ((GUIDANCE, "4 branches"), (FREE, "3 branches")):
            settings = own | guidance
            for region in ("off", "mask"):
                for is_second in (False, True):
                    costs = [
                        measure_edit(
                            backbone,
                            inputs,
                            other if is_second else None,
                            args,
                            name,
                            settings | {"region": region},
                        )
                        for _ in range(args.repeats)
                    ]
                    cost = min(costs, key=lambda one: one.seconds)
                    rows.append(
                        {
                            "way": f"{name}, {label}, region={region}"
                            + (", second edit" if is_second else ""),
                            "ratio": best / cost.seconds,
                            "seconds": cost.seconds,
                            "evaluations": cost.evaluations,
                            "dense_equivalents": round(cost.dense_equivalents, 2),
                            "peak_mb": cost.peak_mb,
                        }
                    )
    return rows


def measure_edit(
    backbone: Backbone,
    inputs: EditInputs,
    other: Conditioning | None,
    args: argparse.Namespace,
    name: str,
    settings: dict,
) -> Cost:
    """Return the cost of an edit; with `other`, of the same with another target after it."""
    if other is None:
        return time_cost(
            lambda: run_method(backbone, inputs, args.steps, name, **settings), backbone.device
        )
    backbone.source_store = SourceStore(backbone)
    try:
        run_method(backbone, inputs, args.steps, name, **settings)
        second = replace(inputs, target=other)
        return time_cost(
            lambda: run_method(backbone, second, args.steps, name, **settings), backbone.device
        )
    finally:
        backbone.source_store = None


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="shapeworld-wan")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--layers", type=int, default=30, help="of a published model")
    parser.add_argument("--size", default="", help="WxH; default: what the model was trained on")
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.4, 1.0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone, (source, target, other) = load(args.model, args.layers, device)
    clip_format = backbone.clip_format
    side = round(clip_format.train_pixels**0.5)
    width, height = map(int, args.size.split("x")) if args.size else (side, side)
    print(
        f"{args.model}, {width}x{height}, {args.steps} steps, {device}, {args.threads} threads, "
        f"torch {torch.__version__}"
    )
    found = []
    for length in args.lengths:
        frames = clip_format.round_up_frames(args.frames * length)
        _, down, across = clip_format.stride
        shape = (clip_format.count_latent_frames(frames), height // down, width // across)
        channels = backbone.parts["transformer"].config["in_channels"]
        latent = torch.randn(1, channels, *shape, device=device)
        for share in args.shares:
            region = make_region(shape, share)
            mask = region.to(device, torch.float32)
            inputs = EditInputs(latent, source, target, mask)
            rows = measure_clip(backbone, inputs, other, args)
            print(f"\n{frames} frames, mask {region.float().mean().item():.1%} of the cells")
            for row in rows:
                cost = row.get("dense_equivalents", 4 * args.steps)
                memory = row["peak_mb"]
                print(
                    f"{row['way']:58} {row['ratio']:5.2f} times as fast, {row['seconds']:8.3f} s, "
                    f"cost {cost:6.2f}, peak {'-' if memory is None else f'{memory:.0f} MB'}",
                    flush=True,
                )
                found.append(row | {"frames": frames, "share": region.float().mean().item()})
    if args.json:
        args.json.write_text(json.dumps({"arguments": vars(args) | {"json": ""}, "rows": found}))


if __name__ == "__main__":
    main()
