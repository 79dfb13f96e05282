"""The command line: edit, demo, frame, metrics, bench, list, doctor. The flags of `edit` are made from EditTask."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..base import names
from ..base.errors import UserError
from ..pipeline import agreement, summary
from ..pipeline.output_paths import saved_progress
from ..pipeline.task import EditTask
from .batch import batch
from .bench import bench
from .console import exit_codes, going_on, screen, settings_of, shown_progress
from .convert import convert
from .mask import mask
from .options import dressed, task_parameters
from .sheet import sheet
from .ui import ui

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Edit a clip by words. Outside the mask, what you did not name holds fast.",
)
app.add_typer(bench, name="bench")
app.command()(batch)
app.command()(convert)
app.command()(mask)
app.command()(sheet)
app.command()(ui)


def edit(**values: Any) -> None:
    """Edit a clip by two prompts: one that describes it, one that describes the wanted clip."""
    resume, as_json, only_check = (values.pop(name) for name in ("resume", "json", "check"))
    with exit_codes():
        settings, words = settings_of(values.pop("settings")), tuple(values.pop("words"))
        task = EditTask(**values, settings=settings, words=words)
        store = saved_progress(task)
    with going_on(store.can_resume), exit_codes():
        if only_check:
            check_task(task, as_json)
        else:
            run_task(task, resume, as_json)


def check_task(task: EditTask, as_json: bool) -> None:
    from ..pipeline.validation import validate

    known = validate(task)
    begin = time.perf_counter()  # libraries are loaded too: an edit does that again
    from ..base.files import as_json as to_json
    from ..models import registry
    from ..pipeline import estimate

    backbone = registry.load_backbone(task.backbone, task.weights, task.device, task.dtype)
    said = estimate.estimate_edit(task, known, backbone, time.perf_counter() - begin)
    if as_json:
        print(to_json(dataclasses.asdict(said)))
        return
    for line in estimate.estimate_lines(said):
        screen.print(escape(line), highlight=False, soft_wrap=True)


def run_task(task: EditTask, resume: bool, as_json: bool) -> None:
    from ..pipeline.validation import validate

    known = validate(task)  # first, for what follows imports torch, and that takes seconds
    from ..base.files import as_json as to_json
    from ..pipeline import run

    with shown_progress(quiet=as_json) as report:
        result = run.edit(task, resume=resume, on_progress=report, validated=known)
        result.save(report=report)
    if as_json:
        print(to_json(result.manifest))
    else:
        summarise(result.manifest)


def summarise(manifest: dict) -> None:
    output = escape(manifest["output"])
    screen.print(f"[green]wrote[/] {output} (and {output}.json)", highlight=False, soft_wrap=True)
    for line in summary.summary_lines(manifest):
        screen.print(f"  {escape(line)}", highlight=False, soft_wrap=True)
    for step in summary.next_steps(manifest):
        screen.print(f"next: {escape(step)}", highlight=False, soft_wrap=True)


EDIT_FLAGS = {
    "check": "Say what the edit would do, take and keep, and stop.",
    "resume": "Go on from the latents that a stopped run saved.",
    "json": "Print the manifest as JSON on standard output, and nothing else there.",
}
app.command()(dressed(edit, task_parameters(), EDIT_FLAGS))


@app.command()
def demo(
    scene: Annotated[
        int,
        typer.Option(help="Number of the scene (a seed; held out from training below 1000000)."),
    ] = 3,
    kind: Annotated[
        str, typer.Option(help="colour, shape, material, backdrop, add or remove.")
    ] = "colour",
    difficulty: Annotated[
        str, typer.Option("--set-of", help="single, several, crossing, fast or long.")
    ] = "several",
    method: Annotated[str, typer.Option(help="The editing method.")] = "flowedit",
    backbone: Annotated[
        str, typer.Option(help="An embedded model (see: holdfast list backbones).")
    ] = "shapeworld-wan",
    with_mask: Annotated[
        bool,
        typer.Option(
            "--with-mask/--without-mask",
            help="Give the edited actor's mask; a backdrop has none.",
        ),
    ] = True,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for what it makes.")
    ] = Path("demo"),
    json: Annotated[
        bool, typer.Option("--json", help="Print the manifest as JSON on standard output.")
    ] = False,
) -> None:
    """Edit a clip of the synthetic world, where the true result is known, on the embedded model."""
    with exit_codes():
        from ..base.files import as_json
        from ..shapeworld.demo import run_demo as run_demo
        from ..shapeworld.scenes import sample_edit

        change = sample_edit(scene, kind, difficulty)
        with shown_progress(quiet=json) as progress:
            begin = time.perf_counter()
            manifest = run_demo(change, method, output, with_mask, progress, backbone)
            seconds = time.perf_counter() - begin
        if json:
            print(as_json(manifest))
            return
        show_demo(manifest, seconds, output)


def show_demo(manifest: dict, seconds: float, output: Path) -> None:
    truth, kept = manifest["truth"], manifest["preservation"]
    table = Table(
        title=f"{manifest['task']['source']}\n-> {manifest['task']['target']}",
        show_header=False,
        title_justify="left",
    )
    table.add_row(
        "error against the true result",
        f"{truth['psnr']:.1f} dB (the unedited source: {truth['psnr_source']:.1f} dB)",
    )
    table.add_row(
        "inside / outside the true change",
        f"{truth['psnr_inside']:.1f} / {truth['psnr_outside']:.1f} dB",
    )
    table.add_row("change outside the edit", f"{truth['outside_share']:.1%} of all change")
    table.add_row("edit succeeded", "yes" if truth["success"] else "no")
    table.add_row("pixels changed", f"{kept['changed_share']:.1%}")
    table.add_row("kept", summary.describe_preservation(manifest))
    if manifest["agreement"]:
        table.add_row("by itself", agreement.describe_agreement(manifest["agreement"]))
    for stage, value in manifest["seconds"].items():
        table.add_row(f"seconds: {stage}", f"{value:.2f}")
    table.add_row("seconds in all", f"{seconds:.1f}")
    if manifest["peak_memory_mb"] is not None:
        table.add_row("peak memory", f"{manifest['peak_memory_mb']:.0f} MB")
    out = Console()
    out.print(table)
    out.print(
        f"Look at {output}/strip.png and {output}/side-by-side.mp4 (source, edited, truth); "
        f"the clip is {output}/edited.mp4"
    )


@app.command()
def frame(
    clip: Annotated[str, typer.Argument(help="The clip.", metavar="CLIP")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The image; png keeps every pixel.")
    ] = Path("first.png"),
    at: Annotated[int, typer.Option(help="Which frame, from 0; negative counts from the end.")] = 0,
) -> None:
    """Write the frame that an image editor is to edit, for --first-frame."""
    from itertools import islice

    from ..base.files import whole
    from ..base.notices import note
    from ..media import image_writing, images, video

    with exit_codes():
        known = video.probe(clip)
        where = at + known.frames if at < 0 else at
        if not 0 <= where < known.frames:
            raise UserError(f"{clip} has {known.frames} frames; there is none at {at}")
        images.check_output_path(output)
        if output.exists() and output.samefile(clip):
            raise UserError(f"the frame would replace {output}; give another --output")
        (array,) = islice(video.read(known), where, where + 1)
        if known.bits > 8 and output.suffix.lower() not in image_writing.SIXTEEN_BIT:
            note(
                f"{output.name} holds 8 of the clip's {known.bits} bits a channel; write .png or .tif"
            )
        source = known.files[where] if known.files else None
        with whole(output) as part:
            image_writing.write_image(part, array, source, opaque=True)
        screen.print(f"[green]wrote[/] {escape(str(output))}", highlight=False, soft_wrap=True)


@app.command("metrics")
def measure(
    source: Annotated[str, typer.Argument(help="The clip before the edit.")],
    edited: Annotated[str, typer.Argument(help="The clip after it.")],
    mask: Annotated[
        str | None, typer.Option(help="Where the edit was to show; bright is inside.")
    ] = None,
    truth: Annotated[str | None, typer.Option(help="The true result, where it is known.")] = None,
    target: Annotated[str, typer.Option(help="The prompt that describes the wanted clip.")] = "",
    source_text: Annotated[
        str, typer.Option("--source", help="The prompt that describes the clip before.")
    ] = "",
    local: Annotated[str, typer.Option(help="The words of the edited thing alone.")] = "",
    only: Annotated[
        str, typer.Option(help="Names of metrics with commas, or all (see: holdfast list metrics).")
    ] = "all",
    settings: Annotated[
        list[str], typer.Option("--set", help="An option, key=value, such as clip=FOLDER.")
    ] = [],  # noqa: B006
    json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """Measure an edited clip against its source. Every figure's name says which variant it is."""
    from ..base.files import as_json
    from ..metrics import better
    from ..metrics.compare import Pair, compare
    from .bench import measuring

    with exit_codes():
        tools, chosen = measuring(only, settings)
        pair = Pair(source, edited, mask, truth, source_text, target, local)
        figures, left_out = compare(pair, tools, chosen)
        if json:
            print(as_json({"figures": figures, "left_out": left_out}))
            return
        table = Table("figure", "value", "better")
        for name, value in figures.items():
            table.add_row(name, f"{value:.4g}", better(name))
        Console().print(table)
        for name, reason in left_out.items():
            screen.print(f"left out: {name}: {escape(reason)}", highlight=False, soft_wrap=True)


@app.command("list")
def list_names(
    what: Annotated[
        str,
        typer.Argument(
            help="methods, backbones, pairs of both, metrics, datasets; or a method: its settings."
        ),
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List what there is, and what each needs."""
    from ..base.files import as_json
    from .listing import COMMAND
    from .listing import lists as all_lists

    with exit_codes():
        lists = all_lists()
        if not what:
            raise UserError(f"say what to list: {', '.join(lists)}")
        rows = lists[names.choose(what, lists, "list")]()
        if json:
            print(as_json(rows))
            return
        commands = {name: row.pop(COMMAND) for name, row in rows.items() if COMMAND in row}
        table = Table()
        table.add_column("name", no_wrap=True)
        for column in next(iter(rows.values())):
            table.add_column(column, overflow="fold")
        for name, row in rows.items():
            cells = (", ".join(v) if isinstance(v, list) else str(v) for v in row.values())
            table.add_row(name, *map(escape, cells))
        out = Console()
        out.print(table)
        for (
            name,
            text,
        ) in commands.items():  # below the table: a command that a cell breaks cannot be copied
            if text:
                out.print(f"{name}: {escape(text)}", highlight=False, soft_wrap=True)


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """What is installed, which weights are here, what the device can run, and how to get what is missing."""
    from ..base.files import as_json
    from .doctor import report

    with exit_codes():
        found = report()
        if json:
            print(as_json(found))
            return
        out = Console()
        for title, rows in found.items():
            out.print(f"[bold]{escape(title)}[/]")
            width = max(map(len, rows), default=0)
            for (
                name,
                value,
            ) in rows.items():  # in no table: a command that a cell breaks cannot be copied
                out.print(
                    f"  {name:{width}}  {escape(str(value))}", highlight=False, soft_wrap=True
                )


def main() -> None:
    # OpenMP's threads wait for one another without rest: on a machine that has other work, an edit took half as long
    # again. So short a spin costs nothing on one that is idle. torch reads this when it is imported.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    app()


if __name__ == "__main__":
    main()
