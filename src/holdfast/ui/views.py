"""HTML for the page: prompt differences, the progress of runs, estimates, results, storage.

Prompts, file names and notes come from the page's users, so all of them pass through `MessageFormatter` or `escape`.
"""

import time
from collections.abc import Iterable
from html import escape
from pathlib import Path

from ..base import prompt_diff
from ..base.exit_codes import format_duration
from ..base.prompts import clean_prompt, locate_words
from ..pipeline import summary
from ..pipeline.estimate import Estimate, estimate_lines
from ..pipeline.task import EditTask
from .messages import MessageFormatter
from .queue import RunQueue
from .runs import COMPARE, EDIT, FAILED, RUNNING, STOPPED, WAITING, Run
from .storage import Usage

TIMED_STAGES = (
    "decode and write",
    "check",
    "edit",
    "invert",
    "tune",
    "compare",
    "write",
)  # with a steady pace


def render_differences(source: str, target: str) -> str:
    """Return both prompts with the words that differ marked."""
    if not (source.strip() and target.strip()):
        return ""
    source, target = clean_prompt(source), clean_prompt(target)
    change = prompt_diff.compare_prompts(source, target)
    rows = (
        _mark_words(source, change.source, "del"),
        _mark_words(target, change.target, "ins"),
    )
    return "".join(f"<div>{row}</div>" for row in rows)


def _mark_words(text: str, indices: tuple[int, ...], tag: str) -> str:
    parts: list[str] = []
    end, places = 0, locate_words(text)
    for first, stop in (places[i] for i in indices):
        parts += [escape(text[end:first]), f"<{tag}>{escape(text[first:stop])}</{tag}>"]
        end = stop
    return "".join(parts) + escape(text[end:])


def render_status(run: Run | None, queue: RunQueue, formatter: MessageFormatter) -> str:
    """Return a run's status, its progress and its notes."""
    if run is None:
        return ""
    notes = "".join(f"<div>note: {formatter.to_html(text)}</div>" for text in run.notes)
    if run.status == RUNNING:
        return f"{_render_progress(run)}{notes}"
    return f"{_render_state(run, queue, formatter)}{notes}"


def _render_state(run: Run, queue: RunQueue, formatter: MessageFormatter) -> str:
    if run.status == WAITING:
        ahead = queue.count_ahead(run)
        return f"<b>Queued</b>, {ahead} ahead" if ahead else "<b>Queued</b>"
    if run.status == STOPPED and not run.was_started:
        return f"<b>Stopped</b> before it began. {_resume_hint(run, 'queue it again')}"
    if run.status == STOPPED and run.kind != EDIT:
        return f"<b>Stopped</b>. {_resume_hint(run, 'begin again')}"
    if run.status == STOPPED:
        return "<b>Stopped</b>. Progress is saved; press Resume to continue."
    if run.status == FAILED:
        return f"<b>Failed:</b> {formatter.to_html(run.message)}"
    return "<b>Done</b>"


def _resume_hint(run: Run, aim: str) -> str:
    button = {EDIT: "Resume", COMPARE: "Compare"}.get(run.kind, "Put the change back")
    return f"Press {button} to {aim}."


def render_running(run: Run | None, formatter: MessageFormatter) -> str:
    """Return the progress of the current run while another one is displayed."""
    if run is None:
        return ""
    return f"<b>Now running:</b> {formatter.to_html(run_title(run))}<br>{_render_progress(run)}"


def _render_progress(run: Run) -> str:
    count, left = max(run.count, 1), run.seconds_left()
    is_timed = left and run.stage in TIMED_STAGES
    pace = f", about {format_duration(left)} left for this step" if left and is_timed else ""
    stage = escape(run.stage.capitalize()) or "Begin"
    text = f"<b>{stage}</b>: {run.done} of {count}{pace}"
    return f'{text}<progress value="{run.done}" max="{count}"></progress>'


def render_queue(queue: RunQueue, formatter: MessageFormatter) -> str:
    """Return a list of the current run and the waiting ones."""
    items = [
        f"<li>{formatter.to_html(run_title(run))}: {run.status}</li>" for run in queue.active_runs()
    ]
    return f"<b>Queue</b><ol>{''.join(items)}</ol>" if items else ""


def run_title(run: Run) -> str:
    """Return a run's prompts, or its clips; its name where it has no target prompt. This is text, not HTML."""
    if not isinstance(run.task, EditTask):
        source, edited = Path(run.task.source).name, Path(run.task.edited).name
        verb = "compared with" if run.kind == COMPARE else "put back into"
        return f"{edited} {verb} {source}"
    if run.task.target_prompt:
        return f"{run.task.source_prompt} → {run.task.target_prompt}"
    return run.name


def render_title(run: Run, formatter: MessageFormatter) -> str:
    """Return a line on a past run."""
    task = run.task
    means = f" ({task.method}, {task.backbone})" if isinstance(task, EditTask) else ""
    return f"<b>{format_start(run)}</b> {formatter.to_html(run_title(run) + means)}"


def render_caption(run: Run) -> str:
    """Return a line on a past run for the gallery. This is text, not HTML."""
    means = f" ({run.task.method})" if isinstance(run.task, EditTask) else ""
    return f"{format_start(run)}: {run_title(run)}{means}"


def render_estimate(estimate: Estimate, notes: Iterable[str], formatter: MessageFormatter) -> str:
    """Return an estimate and its notes as a list."""
    return formatter.list_html([*estimate_lines(estimate), *(f"note: {text}" for text in notes)])


def render_notes(notes: Iterable[str], formatter: MessageFormatter) -> str:
    """Return notes as a list."""
    return formatter.list_html([f"note: {text}" for text in notes])


def render_summary(run: Run, formatter: MessageFormatter) -> str:
    """Return the summary of a finished run as a list."""
    manifest = run.manifest()
    if manifest is None:
        return ""
    notes = [f"note: {text}" for text in manifest["notes"]]
    return formatter.list_html(
        [*(line.strip() for line in summary.summary_lines(manifest)), *notes]
    )


def render_usage(usage: Usage, limit: float) -> str:
    """Return the usage of the page's folder. limit: gigabytes of uploads."""
    runs, uploads, free = map(_format_size, (usage.runs, usage.uploads, usage.free))
    text = f"Runs {runs}; uploads and masks {uploads} of {limit:g} GB; {free} free on the disk"
    advice = (
        " <b>Remove runs that are no longer needed.</b>" if usage.free < usage.runs / 10 else ""
    )
    return f"<small>{text}.{advice}</small>"


def _format_size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def path_if_exists(path: Path) -> str | None:
    """Return the path of a run's picture, or None where a full disk prevented it."""
    return str(path) if path.exists() else None


def format_start(run: Run) -> str:
    """Return the day and time at which a run was submitted."""
    day, hour = run.name.split("-")[:2]
    return time.strftime("%d %b %H:%M", time.strptime(day + hour, "%Y%m%d%H%M%S"))
