"""`holdfast edit`: one edit of a clip. Its flags are made from EditTask."""

import contextlib
import inspect
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..pipeline.mask_areas import parse_flags
from ..pipeline.progress import saved_progress
from ..pipeline.task import EditTask
from .console import (
    parse_pairs,
    print_line,
    print_resume_hint,
    print_wrote,
    report_errors,
    show_progress,
)
from .options import set_signature, task_parameters

SWITCHES = {
    "check": "Report what the edit would do, how long it would take and what it would keep, and stop.",
    "resume": "Resume a stopped run from its saved progress.",
    "json": "Print the manifest as JSON on standard output, and nothing else there.",
}


def edit(**values: Any) -> None:
    """Edit a clip: a source prompt describes it, a target prompt describes the edited clip."""
    resume, as_json, only_check = (values.pop(name) for name in ("resume", "json", "check"))
    explain = values.pop("explain")
    with report_errors():
        settings, words = parse_pairs(values.pop("settings")), tuple(values.pop("words"))
        mask = parse_flags(values.pop("mask"))
        task = EditTask(**values, settings=settings, words=words, mask=mask)
        progress = saved_progress(task)
    with print_resume_hint(progress.can_resume), report_errors():
        if only_check:
            check_task(task, as_json)
        else:
            run_task(task, resume, as_json, explain)


EXPLAIN = "Folder for pictures of what the method computed on its way: attention, masks, maps."
EXPLAIN_PARAMETER = inspect.Parameter(
    "explain",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[Path | None, typer.Option("--explain", help=EXPLAIN)],
)
set_signature(edit, [*task_parameters(), EXPLAIN_PARAMETER], SWITCHES)


def check_task(task: EditTask, as_json: bool) -> None:
    """Print what an edit would do and cost."""
    from ..pipeline.validation import validate

    validated = validate(task)
    begin = time.perf_counter()  # the time to import libraries counts: an edit imports them too
    from ..base.files import as_json as to_json
    from ..pipeline import estimate
    from ..pipeline.loading import load_for_task

    backbone = load_for_task(task, validated)
    cost = estimate.estimate_edit(task, validated, backbone, time.perf_counter() - begin)
    if as_json:
        print(to_json(cost.to_dict()))
        return
    for line in estimate.estimate_lines(cost):
        print_line(line)


def run_task(task: EditTask, resume: bool, as_json: bool, explain: Path | None = None) -> None:
    """Run an edit, save it, and print its manifest or a summary. explain: a folder for pictures of the method."""
    from ..pipeline.validation import validate

    validated = validate(task)  # before imports that take seconds: a mistake is reported at once
    from ..base.files import as_json as to_json
    from ..pipeline import explaining
    from ..sampling import observing

    if explain:
        explaining.check_explainable(task, explain)
    from ..pipeline import run

    observe = observing.observe_edit if explain else contextlib.nullcontext
    with show_progress(quiet=as_json) as report, observe() as observations:
        result = run.edit(task, resume=resume, on_progress=report, validated=validated)
        result.save(on_progress=report)
    if explain:
        strips = explaining.write_strips(
            explain, observations or {}, result.clip, result.edited.part
        )
        print_strips(strips, explain)
    if as_json:
        print(to_json(result.manifest))
    else:
        print_summary(result.manifest)


def print_strips(strips: list[Path], folder: Path) -> None:
    for path in strips:
        print_wrote(str(path))
    if not strips:
        print_line(f"nothing to explain in {folder}: no step computed what the method can show")


def print_summary(manifest: dict) -> None:
    from ..pipeline import summary

    output = manifest["output"]
    print_wrote(f"{output} (and {output}.json)")
    if raw := manifest.get("raw"):
        print_wrote(f"{raw['output']} (the clip as the method left it)")
    for line in summary.summary_lines(manifest):
        print_line(f"  {line}")
    for step in summary.next_steps(manifest):
        print_line(f"next: {step}")
