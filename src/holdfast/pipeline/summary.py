"""The outcome of an edit in a few lines: for the command line, the page and a notebook."""

from collections.abc import Mapping
from typing import Any

from . import agreement

PROMISED_LUMA_DB = 50  # of luma outside the edit, at the default quality (docs/kept.md)
# What users read for the stages of an edit; a manifest has the names on the left.
STAGE_NAMES = {
    "read": "read the clip",
    "load": "load the model",
    "guide": "load the image model",
    "condition": "encode the prompts",
    "encode": "encode the clip",
    "compare with training": "compare with the training data",
    "first frame": "make the first frame",
    "mask": "find the mask",
    "tune": "learn the motion",
    "judge": "score the result",
    "decode and write": "write the clip",
    "check": "check the file",
}


def stage_name(stage: str) -> str:
    """Return the name of a stage that users read."""
    return STAGE_NAMES.get(stage, stage)


def summary_lines(manifest: Mapping[str, Any]) -> list[str]:
    """Say whether the edit worked, what it preserved, how the clip was fitted, and what it cost.

    manifest: with `preservation`. Where the clip is written already, its preservation is that of the file.
    """
    score = manifest.get("agreement")  # a manifest of an earlier version has none
    lines = [agreement.describe_agreement(score)] if score else []
    lines += describe_sampling(manifest.get("source", {}))
    lines += [f"kept: {describe_preservation(manifest)}", manifest["plan"]["fit"]["reason"]]
    return [*lines, "; ".join(_cost_parts(manifest))]


def describe_sampling(source: Mapping[str, Any]) -> list[str]:
    """Say which frames of the source a result holds, where it does not hold all of them."""
    numbers = source.get("sampled")
    if not numbers:
        return []
    shown = ", ".join(map(str, numbers if len(numbers) < 7 else [*numbers[:3], "...", numbers[-1]]))
    return [
        f"frames: {len(numbers)} of {source['frames']} ({shown}), each at its own time, without sound"
    ]


def _cost_parts(manifest: Mapping[str, Any]) -> list[str]:
    seconds = manifest.get("seconds", {})
    parts = [f"{stage_name(stage)} {value:.1f}" for stage, value in seconds.items()]
    costs = [f"seconds: {', '.join(parts)}"] if parts else []
    judging = manifest.get("agreement_evaluations")
    more = f" and {judging} to score the result" if judging else ""
    costs.append(
        f"{manifest['evaluations']} evaluations of the network{_describe_cost(manifest)}{more}"
    )
    if manifest.get("peak_memory_mb") is not None:
        costs.append(f"{manifest['peak_memory_mb']:.0f} MB")
    return costs


def describe_preservation(manifest: Mapping[str, Any]) -> str:
    """Say what is preserved outside the edit: in the written file, or in the frames before they are encoded."""
    file, frames = manifest.get("delivered"), manifest["preservation"]
    changed = f"{frames['changed_share']:.1%} of the pixels changed"
    if frames["psnr_outside"] is None:
        reason = _why_unprotected(manifest)
        return f"{reason}: {changed}, the clip is {frames['psnr']} dB from its source"
    where = "outside the mask" if manifest["task"]["mask"] else "in the frames that were not edited"
    if file:
        return f"{where} {_describe_file(file)}; {changed}"
    is_exact = frames["max_abs_outside"] == 0
    value = "every pixel equals the source" if is_exact else f"{frames['psnr_outside']} dB"
    return f"{where} {value}; {changed}"


def _describe_cost(manifest: Mapping[str, Any]) -> str:
    """Say what evaluations cost less than those of the whole latent, and how many an earlier edit saved."""
    cost, reused = manifest.get("dense_equivalents"), manifest.get("reused_evaluations")
    saved = []
    if cost is not None and cost < manifest["evaluations"]:
        saved.append(f"the cost of {cost:.0f}: the target runs inside the mask only")
    if reused:
        saved.append(f"{reused} more were kept from an earlier edit of this clip")
    return f" ({'; '.join(saved)})" if saved else ""


def _why_unprotected(manifest: Mapping[str, Any]) -> str:
    if manifest["task"]["mask"]:
        return "the mask covers everything, so the whole clip may change"
    return "no mask, so the whole clip may change (a box, a mask or auto protects the rest)"


def _describe_file(file: Mapping[str, Any]) -> str:
    """Say what a written file preserves outside the edit. A lossy codec rounds, a lossless one does not."""
    if file["samples_equal_outside"]:
        return "every sample of the file equals the source"
    luma, rgb = file["luma_psnr_outside"], file["psnr_outside"]
    if file.get("max_abs_outside") == 0:
        return "every pixel of the file equals the source"
    if luma is None:
        return f"the file is {rgb} dB from the source in RGB (its pixel format is another)"
    reached = "at least" if luma >= PROMISED_LUMA_DB else "less than"
    return (
        f"the file is {luma} dB from the source in luma ({reached} the {PROMISED_LUMA_DB} that the default "
        f"quality is made for), which is the codec's rounding; {rgb} dB in RGB, which includes chroma: "
        "a file may store it once for four pixels, across the mask's edge"
    )


def next_steps(manifest: Mapping[str, Any]) -> list[str]:
    """Suggest what to do next, in the words of the command line."""
    steps = [f"open {manifest['output']}"]
    score, task = manifest["agreement"], manifest["task"]
    if score and score["words"] in (agreement.NOT, agreement.WEAKLY):
        steps.append(_suggest_strength(manifest))
    if not task["mask"] and manifest["evaluations"]:
        steps.append("if more changed than you meant, give --mask x,y,w,h, a file, or --mask auto")
    return steps


def _suggest_strength(manifest: Mapping[str, Any]) -> str:
    strength = manifest["settings"].get("strength", {}).get("value")
    if strength is None or strength >= 0.95:
        return "if the edit is too weak, try other methods and seeds with holdfast sheet"
    higher = min(0.95, round(strength + 0.1, 2))
    return (
        f"if the edit is too weak, raise --strength (it was {strength:g}, try {higher:g}), "
        "or try several with holdfast sheet"
    )
