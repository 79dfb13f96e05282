"""`holdfast edit`: one edit of a clip. Its flags are made from EditTask."""

import time
from typing import Any

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
    with report_errors():
        settings, words = parse_pairs(values.pop("settings")), tuple(values.pop("words"))
        task = EditTask(**values, settings=settings, words=words)
        progress = saved_progress(task)
    with print_resume_hint(progress.can_resume), report_errors():
        if only_check:
            check_task(task, as_json)
        else:
            run_task(task, resume, as_json)


set_signature(edit, task_parameters(), SWITCHES)


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


def run_task(task: EditTask, resume: bool, as_json: bool) -> None:
    """Run an edit, save it, and print its manifest or a summary."""
    from ..pipeline.validation import validate

    validated = validate(task)  # before imports that take seconds: a mistake is reported at once
    from ..base.files import as_json as to_json
    from ..pipeline import run

    with show_progress(quiet=as_json) as report:
        result = run.edit(task, resume=resume, on_progress=report, validated=validated)
        result.save(on_progress=report)
    if as_json:
        print(to_json(result.manifest))
    else:
        print_summary(result.manifest)


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
