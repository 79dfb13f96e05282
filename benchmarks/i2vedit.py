"""Measure I2VEdit part by part on held-out scenes with exact truth: `python benchmarks/i2vedit.py PART`.

table: neither tuning nor matching, each alone, and both; the first frame is the true edited one. Metrics against the
true edited clip, and motion: the mean distance in pixels of the result's optical flow from the exact one. tuning: the
same after 0, 50, 100 and 250 iterations. inversion: how far inverted and denoised latents are from the source's, over
10, 25 and 50 steps; and how Gaussian the inverted latents are with and without the perturbation of flat areas, on clips
with a constant backdrop. stages: seconds and evaluations of one clip. clips: metrics of three segments in a row, with
attention to the first one also while tuning, only after it, and without; scenes are appended to --rows FILE, and a
stopped run resumes. memory: memory at the end of each of ten segments. Prints Markdown.
"""

import argparse
import dataclasses
import itertools
import json
import time
from pathlib import Path

import psutil
import torch
from tables import format_differences, format_interval, format_intervals, print_header, print_row
from torch import Tensor

from holdfast.media.optical_flow import sharp_dis
from holdfast.methods import i2vedit
from holdfast.methods.i2vedit import conditions
from holdfast.models import registry
from holdfast.models.base import Backbone, Prompt
from holdfast.pipeline import in_memory, loop
from holdfast.pipeline.task import EditTask
from holdfast.sampling import inversion
from holdfast.sampling.field import EditInputs, Pixels, Step
from holdfast.shapeworld.evaluate import ModelChoice, load_cached, measure_seeds
from holdfast.shapeworld.rendering import exact_flow, render
from holdfast.shapeworld.scenes import Scene, SceneEdit, sample_edit
from holdfast.shapeworld.truth import judge

KINDS, SETS = ("colour", "shape", "material"), ("single", "several")
METRICS = {
    "psnr": "error against truth, dB",
    "psnr_inside": "inside the edit",
    "psnr_outside": "outside",
    "outside_share": "contamination",
    "motion": "motion error, pixels",
    "success": "success",
}
OFF = {"matching": False, "motion": "none"}
VARIANTS = {
    "neither": {"tuning_steps": 0} | OFF,
    "matching": {"tuning_steps": 0},
    "tuning": OFF,
    "both": {},
}

# of the later segments; the first row's first segment serves all rows
LATER = {
    "attend, while tuned too": {},
    "attend, tuned alone": {"attend_in_tuning": False},
    "do not attend": {"attend_first_segment": False},
}


def make_edit(seed: int) -> SceneEdit:
    return sample_edit(seed, KINDS[seed // len(SETS) % len(KINDS)], SETS[seed % len(SETS)])


def make_job(backbone: Backbone, seed: int, settings: dict, clips: int = 1) -> loop.LoopJob:
    source, target = (
        play_back_and_forth(c, clips) for c in render(list(scenes_of(make_edit(seed))))
    )
    asked = {"method": "i2vedit", "settings": settings, "first_frame": "given", "seed": seed}
    asked["window"] = (len(source) - 1) // clips + 1
    return in_memory.plan_job(EditTask("", "", **asked), backbone, source, first_frame=target[0])


def scenes_of(edit: SceneEdit) -> tuple[Scene, Scene]:
    return edit.source, edit.target


def play_back_and_forth(clip: Tensor, times: int) -> Tensor:
    """Play a clip forwards and backwards in turn. Each part starts with the last frame of the one before."""
    parts = [clip.flip(0)[1:] if n % 2 else clip[1:] for n in range(times)]
    return torch.cat((clip[:1], *parts))


def motion_error(result: Tensor, edit: SceneEdit) -> float:
    """Return the mean distance in pixels of the flow of a clip, f 3 H W, from that of the true edited clip."""
    frames = [frame.permute(1, 2, 0).contiguous().numpy() for frame in result]
    exact = exact_flow(edit.target, len(frames), tuple(result.shape[-2:])).permute(0, 2, 3, 1)
    found = [torch.from_numpy(sharp_dis(*pair)) for pair in itertools.pairwise(frames)]
    return (torch.stack(found) - exact).norm(dim=-1).mean().item()


def measure_edit(backbone: Backbone, seed: int, settings: dict) -> dict:
    result = in_memory.edit_frames(make_job(backbone, seed, settings), backbone)
    edit = make_edit(seed)
    return judge(edit, result) | {"motion": motion_error(result, edit)}


@torch.no_grad()
def measure_clips(
    backbone: Backbone, seed: int, settings: dict, clips: int
) -> dict[str, list[dict]]:
    """Measure each of several segments in a row, for each way in which later ones see the first."""
    first, found = None, {}
    for name, chosen in LATER.items():
        job = make_job(backbone, seed, settings | chosen, clips)
        for event in loop.run_loop(dataclasses.replace(job, resume=first), backbone):
            if first is None and is_end_of_first(event, clips):
                first = event
        result = torch.stack(list(job.plan.fit.to_clip(backbone.decode(event.z))))
        found[name] = judge_segments(result, make_edit(seed), clips)
    return found


def is_end_of_first(event: object, clips: int) -> bool:
    if not isinstance(event, Step):
        return False
    return event.stage == "edit" and event.index == event.count // clips


def judge_segments(result: Tensor, edit: SceneEdit, clips: int) -> list[dict]:
    each = (len(result) - 1) // clips
    found = []
    for n in range(clips):
        part = result[n * each : (n + 1) * each + 1]
        part = part.flip(0) if n % 2 else part  # then it is the scene again
        found.append(judge(edit, part) | {"motion": motion_error(part, edit)})
    return found


def measure_drift(
    model: ModelChoice, settings: dict, clips: int, scenes: int, rows: Path
) -> list[dict]:
    """Return each scene's results, measured or read from the file."""
    known = [json.loads(text) for text in rows.read_text().splitlines()] if rows.exists() else []
    found = {row["scene"]: row["found"] for row in known}
    with rows.open("a") as file:
        for seed in range(scenes):
            if seed not in found:
                found[seed] = measure_clips(load_cached(model), seed, settings, clips)
                row = {"scene": seed, "settings": settings, "found": found[seed]}
                print(json.dumps(row), file=file, flush=True)
    return [found[seed] for seed in range(scenes)]


def print_drift(scenes: list[dict], clips: int) -> None:
    print_header("later segments", "segment", "scenes", *METRICS.values())
    for n, name in itertools.product(range(clips), LATER):
        if n or name == next(iter(LATER)):
            rows = [scene[name][n] for scene in scenes]
            print_row(name, n + 1, len(rows), *format_intervals(rows, METRICS))
    print_header("scene by scene", "segment", *METRICS.values())
    for n, (name, other) in itertools.product(range(1, clips), itertools.combinations(LATER, 2)):
        pair = ([scene[which][n] for scene in scenes] for which in (name, other))
        print_row(f"{name}, less {other}", n + 1, *format_differences(*pair, METRICS))


def print_memory(backbone: Backbone, settings: dict, clips: int = 10) -> None:
    """Print the memory of the process, and of the state between steps, at the end of each segment."""
    print_header("clip", "process, MB", "kept between steps, MB")
    for step in loop.run_loop(make_job(backbone, 0, settings, clips), backbone):
        if not isinstance(step, Step) or step.stage != "edit":
            continue
        if step.index % (step.count // clips) == 0:
            kept = sum(tensor.nbytes for tensor in step.state.values()) / 1e6
            process = psutil.Process().memory_info().rss / 1e6
            print_row(step.index * clips // step.count, f"{process:.0f}", f"{kept:.2f}")


def print_table(measure_scenes, rows: dict[str, dict], against: str) -> None:
    print_header("", "scenes", *METRICS.values())
    found = {}
    for name, settings in rows.items():
        found[name] = measure_scenes(settings)
        print_row(name, len(found[name]), *format_intervals(found[name], METRICS))
    print_header(f"against {against}, scene by scene", *METRICS.values())
    for name in rows:
        if name != against:
            print_row(name, *format_differences(found[name], found[against], METRICS))


def invert_and_denoise(
    backbone: Backbone, clip: Tensor, steps: int, sarp: float
) -> tuple[Tensor, ...]:
    """Return a clip's latent, its inversion scaled to unit noise, and the latent denoised from it."""
    source, src = backbone.encode(clip), backbone.condition(Prompt(image=clip[0]))
    ways = (backbone.encode, backbone.decode, backbone.condition, backbone.clip_format.stride)
    given = EditInputs(source, src, src, pixels=Pixels(lambda: clip, *ways))
    source, src = conditions.inversion_inputs(given, i2vedit.Config(sarp=sarp))
    levels = backbone.sigmas(steps)
    *_, noisy = inversion.invert_by_euler(
        backbone.field, source, src, inversion.inversion_sigmas(levels)
    )
    z = noisy
    for sigma, sigma_next in itertools.pairwise(levels):
        velocity = backbone.velocity(z, sigma, src, branch="src+")
        z = z + (sigma_next - sigma) * velocity
    return source, noisy / levels[0], z


@torch.no_grad()
def print_inversions(backbone: Backbone, count: int) -> None:
    print_header("steps", "scenes", "root mean square of what comes back less the source's latents")
    for steps in (10, 25, 50):
        values = []
        for seed in range(count):
            source, _, z = invert_and_denoise(
                backbone, render([make_edit(seed).source])[0], steps, 0.0
            )
            values.append((z - source).square().mean().sqrt().item())
        print_row(steps, count, format_interval(values))
    print_header(
        "perturbation", "scenes", "deviation", "excess kurtosis", "correlation of neighbours"
    )
    for sarp in (0.0, 0.005):
        rows = []
        for seed in range(count):
            clip = render([make_edit(seed).source])[0]
            clip[:, :, :32] = 0.2  # the upper half is exactly flat
            *_, noisy, _ = invert_and_denoise(backbone, clip, 25, sarp)
            flat = noisy[:, :, :, :4]
            beside = (flat[..., 1:] * flat[..., :-1]).mean() / flat.square().mean()
            kurtosis = (flat / flat.std()).pow(4).mean() - 3
            rows.append((flat.std().item(), kurtosis.item(), beside.item()))
        print_row(sarp, count, *(format_interval(column) for column in zip(*rows, strict=True)))


def print_stages(backbone: Backbone, settings: dict) -> None:
    print_header("stage", "seconds")
    begun, spent = time.perf_counter(), {}
    for event in loop.run_loop(make_job(backbone, 0, settings), backbone):
        now = time.perf_counter()
        spent[event.stage] = spent.get(event.stage, 0.0) + now - begun
        begun = now
    for name, seconds in spent.items():
        print_row(name, f"{seconds:.1f}")
    print(f"\n{event.evaluations} evaluations, those of tuning with their gradients included")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "what", choices=["table", "tuning", "inversion", "stages", "clips", "memory"]
    )
    parser.add_argument("--backbone", default="shapeworld-svd")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--set", nargs="*", default=[], help="settings of all, key=value")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=Path, default=Path("clips.jsonl"), help="file for clips")
    options = parser.parse_args()
    settings = dict(pair.split("=", 1) for pair in options.set)
    model = ModelChoice(options.backbone, options.weights)

    def measure_scenes(chosen: dict) -> list[dict]:
        return measure_seeds(
            measure_edit, model, range(options.scenes), (settings | chosen,), options.workers
        )

    if options.what == "table":
        print_table(measure_scenes, VARIANTS, "both")
    elif options.what == "tuning":
        print_table(measure_scenes, {str(n): {"tuning_steps": n} for n in (0, 50, 100, 250)}, "0")
    elif options.what == "clips":
        print_drift(measure_drift(model, settings, 3, options.scenes, options.rows), 3)
    else:
        backbone = registry.load_backbone(model.name, model.weights)
        if options.what == "inversion":
            print_inversions(backbone, options.scenes)
        elif options.what == "memory":
            print_memory(backbone, settings)
        else:
            print_stages(backbone, settings)


if __name__ == "__main__":
    main()
