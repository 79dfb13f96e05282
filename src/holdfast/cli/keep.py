"""`holdfast keep`: another editor's change put back into its source. `holdfast compare`: the report alone."""

from typing import Annotated, Any

import typer

from ..conform.task import KeepTask
from .console import print_line, print_wrote, report_errors, show_progress
from .options import set_signature, task_parameters

JSON = "Print the manifest as JSON on standard output, and nothing else there."


def keep(**values: Any) -> None:
    """Put only the change of an edited clip, from any editor, back into its source."""
    as_json = values.pop("json")
    with report_errors():
        task = KeepTask.from_dict(
            values | {name: tuple(values[name]) for name in ("brushes", "words")}
        )
        from ..base.files import as_json as to_json
        from ..conform import run, writer
        from ..pipeline.output_paths import parse_output

        with show_progress(quiet=as_json) as report:
            result = run.keep(task, report)
            manifest = writer.write(result, parse_output(task.output), report)
            if task.preview:
                writer.write_preview(result, parse_output(task.preview))
        if as_json:
            print(to_json(manifest))
            return
        print_wrote(f"{task.output} (and {task.output}.json; the mask: {manifest['mask_picture']})")
        print_line(f"  {manifest['report']['sentence']}")
        print_line(f"  {writer.describe_delivery(manifest)}")


set_signature(keep, task_parameters(KeepTask, needed=("output",)), {"json": JSON})


def compare(
    source: Annotated[str, typer.Argument(help="The clip before the edit.")],
    edited: Annotated[str, typer.Argument(help="The edited clip, from any editor.")],
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Report what an editor changed in a clip, and what else: time, size, colours, noise, flicker."""
    with report_errors():
        from ..base.files import as_json
        from ..conform import run

        with show_progress(quiet=json) as progress:
            report = run.compare(source, edited, progress)
        if json:
            print(as_json(report))
            return
        from ..conform.report import report_lines

        print_line(report["sentence"])
        for line in report_lines(report):
            print_line(f"  {line}")
