"""What an edit came to, in a few lines: for the command line and for a notebook."""


def lines(manifest: dict) -> list[str]:
    """How the clip was fitted, what was kept and what it took. The manifest has `preservation`; where the clip was
    written already, what was kept is said of the file.
    """
    measured = manifest["preservation"]
    said = [
        manifest["plan"]["fit"]["reason"],
        f"kept: {kept_outside(manifest)}; whole clip {measured['psnr']} dB; "
        f"{measured['changed_share']:.1%} of the pixels changed",
    ]
    seconds = ", ".join(f"{k} {v:.1f}" for k, v in manifest.get("seconds", {}).items())
    took = [f"seconds: {seconds}"] if seconds else []
    took.append(f"{manifest['evaluations']} evaluations")
    if manifest.get("peak_memory_mb") is not None:
        took.append(f"{manifest['peak_memory_mb']:.0f} MB")
    return [*said, "; ".join(took)]


def kept_outside(manifest: dict) -> str:
    """What is kept where nothing was to change: of the file that was written, or of the frames before."""
    file = manifest.get("delivered")
    if file and file["samples_equal_outside"]:
        return "outside the edit every sample of the file is the source's"
    figure = (file or manifest["preservation"])["psnr_outside"]
    if figure is not None and file:
        return f"outside the edit {figure} dB in the file"
    if figure is not None:
        exact = manifest["preservation"]["max_abs_outside"] == 0
        return "outside the edit every pixel is the source's" if exact else f"outside {figure} dB"
    if manifest["task"]["mask"]:
        return "the mask covers everything, so nothing was held exactly"
    return "no mask, so nothing was held exactly"
