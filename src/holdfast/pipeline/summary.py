"""What an edit came to, in a few lines: for the command line and for a notebook."""

from . import agreement

PROMISED_LUMA_DB = 50  # dB of luma outside the edit, at the default quality (docs/kept.md)
# What people call the stages of an edit; the manifest has the names on the left.
STAGE_NAMES = {
    "read": "read the clip",
    "load": "load the model",
    "guide": "load the second model",
    "condition": "read the prompts",
    "encode": "encode the clip",
    "compare with training": "compare with training",
    "first frame": "make the first frame",
    "mask": "find the mask",
    "tune": "learn the motion",
    "judge": "judge the result",
    "decode and write": "write the clip",
    "check": "check the file",
}


def stage_name(stage: str) -> str:
    """A stage as people call it."""
    return STAGE_NAMES.get(stage, stage)


def summary_lines(manifest: dict) -> list[str]:
    """Whether the edit worked, what was kept, how the clip was fitted and what it took. The manifest has
    `preservation`; where the clip was written already, what was kept is said of the file.
    """
    judged = manifest.get("agreement")  # an earlier version's manifest has none
    said = [agreement.describe_agreement(judged)] if judged else []
    said += [f"kept: {describe_preservation(manifest)}", manifest["plan"]["fit"]["reason"]]
    seconds = ", ".join(f"{stage_name(k)} {v:.1f}" for k, v in manifest.get("seconds", {}).items())
    took = [f"seconds: {seconds}"] if seconds else []
    judging = manifest.get("agreement_evaluations")
    more = f" and {judging} to judge the result" if judging else ""
    took.append(f"{manifest['evaluations']} evaluations of the network{more}")
    if manifest.get("peak_memory_mb") is not None:
        took.append(f"{manifest['peak_memory_mb']:.0f} MB")
    return [*said, "; ".join(took)]


def describe_preservation(manifest: dict) -> str:
    """What is kept where nothing was to change: of the file that was written, or of the frames before."""
    file, measured = manifest.get("delivered"), manifest["preservation"]
    changed = f"{measured['changed_share']:.1%} of the pixels changed"
    if measured["psnr_outside"] is None:
        return f"{_why_unprotected(manifest)}: {changed}, the clip is {measured['psnr']} dB from its source"
    where = "outside the mask" if manifest["task"]["mask"] else "in the frames that were not edited"
    if file:
        return f"{where} {_describe_file(file)}; {changed}"
    exact = measured["max_abs_outside"] == 0
    figure = "every pixel is the source's" if exact else f"{measured['psnr_outside']} dB"
    return f"{where} {figure}; {changed}"


def _why_unprotected(manifest: dict) -> str:
    """Why nothing was held."""
    if manifest["task"]["mask"]:
        return "the mask covers everything, so the whole clip may change"
    return "no mask, so the whole clip may change (a box, a mask or auto holds the rest)"


def _describe_file(file: dict) -> str:
    """What a written file keeps outside the edit. Its codec rounds; without loss it does not."""
    if file["samples_equal_outside"]:
        return "every sample of the file is the source's"
    luma, rgb = file["luma_psnr_outside"], file["psnr_outside"]
    if file.get("max_abs_outside") == 0:
        return "every pixel of the file is the source's"
    if luma is None:
        return f"the file is {rgb} dB from the source in RGB (its samples are laid out otherwise)"
    reached = "at least" if luma >= PROMISED_LUMA_DB else "less than"
    return (
        f"the file is {luma} dB from the source in luma ({reached} the {PROMISED_LUMA_DB} that the default "
        f"quality is made for), which is the codec's rounding; {rgb} dB in RGB, where colour counts "
        "too, which a file may store once for four pixels, across the mask's edge"
    )


def next_steps(manifest: dict) -> list[str]:
    """What to do now, in the command line's words."""
    steps = [f"open {manifest['output']}"]
    judged, task = manifest["agreement"], manifest["task"]
    if judged and judged["words"] in (agreement.NOT, agreement.WEAKLY):
        steps.append(_suggest_strength(manifest))
    if not task["mask"] and manifest["evaluations"]:
        steps.append("if more changed than you named, give --mask x,y,w,h, a file, or --mask auto")
    return steps


def _suggest_strength(manifest: dict) -> str:
    now = manifest["settings"].get("strength", {}).get("value")
    if now is None or now >= 0.95:
        return "if the edit is too weak, try other methods and seeds with holdfast sheet"
    more = min(0.95, round(now + 0.1, 2))
    return (
        f"if the edit is too weak, raise --strength (it was {now:g}, try {more:g}), "
        "or try several with holdfast sheet"
    )
