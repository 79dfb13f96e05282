"""`holdfast demo`: an edit whose true result is known."""

import time
from pathlib import Path
from typing import Annotated

import typer

from .console import print_table, report_errors, show_progress

SCENE = "Number of the scene (a seed). Scenes below 1000000 are not in the training data."
KIND = "What changes: colour, shape, material, backdrop, add or remove."
SCENES = "Which scenes: single, several, crossing, fast or long."
BACKBONE = "An embedded model (see: holdfast list backbones)."
MASK = "Whether the edit gets the mask of the edited actor; a backdrop has none."


def demo(
    scene: Annotated[int, typer.Option(help=SCENE)] = 3,
    kind: Annotated[str, typer.Option(help=KIND)] = "colour",
    scenes: Annotated[str, typer.Option(help=SCENES)] = "several",
    method: Annotated[str, typer.Option(help="The editing method.")] = "flowedit",
    backbone: Annotated[str, typer.Option(help=BACKBONE)] = "shapeworld-wan",
    with_mask: Annotated[bool, typer.Option("--with-mask/--without-mask", help=MASK)] = True,
    output: Annotated[Path, typer.Option("-o", "--output", help="Output folder.")] = Path("demo"),
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Edit a synthetic clip with an embedded model, and compare with the true result."""
    with report_errors():
        from ..base.files import as_json
        from ..shapeworld.demo import run_demo
        from ..shapeworld.scenes import sample_edit

        change = sample_edit(scene, kind, scenes)
        with show_progress(quiet=json) as progress:
            begin = time.perf_counter()
            manifest = run_demo(change, method, output, with_mask, progress, backbone)
            seconds = time.perf_counter() - begin
        if json:
            print(as_json(manifest))
        else:
            print_demo(manifest, seconds, output)


def print_demo(manifest: dict, seconds: float, output: Path) -> None:
    from rich.console import Console

    task = manifest["task"]
    title = f"{task['source_prompt']}\n-> {task['target_prompt']}"
    print_table((), list(demo_rows(manifest, seconds).items()), title=title)
    Console().print(
        f"See {output}/strip.png and {output}/side-by-side.mp4 (source, edited, truth). "
        f"The clip is {output}/edited.mp4."
    )


def demo_rows(manifest: dict, seconds: float) -> dict[str, str]:
    """Return the table of a demo: label and value."""
    from ..pipeline import agreement, summary

    truth, kept = manifest["truth"], manifest["preservation"]
    rows = {
        "error against the true result": f"{truth['psnr']:.1f} dB "
        f"(the unedited source: {truth['psnr_source']:.1f} dB)",
        "inside / outside the true change": f"{truth['psnr_inside']:.1f} / "
        f"{truth['psnr_outside']:.1f} dB",
        "change outside the edit": f"{truth['outside_share']:.1%} of all change",
        "edit succeeded": "yes" if truth["success"] else "no",
        "pixels changed": f"{kept['changed_share']:.1%}",
        "kept": summary.describe_preservation(manifest),
    }
    if manifest["agreement"]:
        rows["judged by the model"] = agreement.describe_agreement(manifest["agreement"])
    rows |= {
        f"seconds: {summary.stage_name(stage)}": f"{value:.2f}"
        for stage, value in manifest["seconds"].items()
    }
    rows["seconds in all"] = f"{seconds:.1f}"
    if manifest["peak_memory_mb"] is not None:
        rows["peak memory"] = f"{manifest['peak_memory_mb']:.0f} MB"
    return rows
