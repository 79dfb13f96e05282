"""What the page says in words: which words differ, how far a run is, what an edit will cost, what a result kept.

Prompts, file names and notes come from whoever uses the page, so all of it goes through `Wording` or `escape`.
"""

import time
from collections.abc import Iterable
from html import escape

from ..base import prompt_diff
from ..base.exit_codes import duration
from ..base.prompts import clean_prompt, locate_words
from ..pipeline import summary
from ..pipeline.estimate import Forecast, lines
from .desk import Desk
from .messages import Wording
from .runs import FAILED, RUNNING, STOPPED, WAITING, Run
from .storage import Usage

COUNTED = ("decode and write", "check", "edit", "invert", "tune")  # stages with a pace of their own


def marked(source: str, target: str) -> str:
    """Both prompts as HTML, with the words that differ marked."""
    if not (source.strip() and target.strip()):
        return ""
    source, target = clean_prompt(source), clean_prompt(target)
    change = prompt_diff.changed(source, target)
    lines = (_marked(source, change.source, "del"), _marked(target, change.target, "ins"))
    return "".join(f"<div>{line}</div>" for line in lines)


def _marked(text: str, indices: tuple[int, ...], tag: str) -> str:
    parts, end = [], 0
    places = locate_words(text)
    for first, stop in (places[i] for i in indices):
        parts += [escape(text[end:first]), f"<{tag}>{escape(text[first:stop])}</{tag}>"]
        end = stop
    return "".join(parts) + escape(text[end:])


def status(run: Run | None, desk: Desk, wording: Wording) -> str:
    """How far a run is, as HTML."""
    if run is None:
        return ""
    if run.status == RUNNING:
        return f"{_bar(run)}{_notes(run.notes, wording)}"
    return f"{_state(run, desk, wording)}{_notes(run.notes, wording)}"


def _state(run: Run, desk: Desk, wording: Wording) -> str:
    if run.status == WAITING:
        ahead = desk.ahead(run)
        return f"<b>Waiting</b>: {ahead} before it" if ahead else "<b>Waiting</b>"
    if run.status == STOPPED and not run.started:
        return "<b>Stopped</b> before it began, so nothing of it is done; Resume queues it again"
    if run.status == STOPPED:
        return "<b>Stopped</b>; what was done is saved: go on with Resume"
    if run.status == FAILED:
        return f"<b>It did not work:</b> {wording.text(run.said)}"
    return "<b>Done</b>"


def elsewhere(run: Run | None, wording: Wording) -> str:
    """How far the run is that is on while another is shown."""
    if run is None:
        return ""
    return f"<b>Now running:</b> {wording.text(title(run))}<br>{_bar(run)}"


def _bar(run: Run) -> str:
    count, left = max(run.count, 1), run.left()
    pace = f", about {duration(left)} left of this" if left and run.stage in COUNTED else ""
    stage = escape(run.stage.capitalize()) or "Begin"
    said = f"<b>{stage}</b>: {run.done} of {count}{pace}"
    return f'{said}<progress value="{run.done}" max="{count}"></progress>'


def _notes(notes: list[str], wording: Wording) -> str:
    return "".join(f"<div>note: {wording.text(text)}</div>" for text in notes)


def queued(desk: Desk, wording: Wording) -> str:
    """What runs and what waits, as HTML."""
    lines = [f"<li>{wording.text(title(run))}: {run.status}</li>" for run in desk.queue()]
    return f"<b>Queue</b><ol>{''.join(lines)}</ol>" if lines else ""


def title(run: Run) -> str:
    return (
        f"{run.task.source_prompt} → {run.task.target_prompt}"
        if run.task.target_prompt
        else run.name
    )


def entitled(run: Run, wording: Wording) -> str:
    """A past run in a line, as HTML."""
    task = run.task
    return f"<b>{when(run)}</b> {wording.text(f'{title(run)} ({task.method}, {task.backbone})')}"


def costs(said: Forecast, notes: Iterable[str], wording: Wording) -> str:
    """A forecast as HTML."""
    return wording.listed([*lines(said), *(f"note: {text}" for text in notes)])


def noted(notes: Iterable[str], wording: Wording) -> str:
    """Notes as HTML."""
    return wording.listed([f"note: {text}" for text in notes])


def figures(run: Run, wording: Wording) -> str:
    """What a finished run came to, as HTML."""
    manifest = run.manifest()
    if manifest is None:
        return ""
    notes = [f"note: {text}" for text in manifest["notes"]]
    return wording.listed([*(line.strip() for line in summary.lines(manifest)), *notes])


def stored(usage: Usage, limit: float) -> str:
    """What lies in the page's folder, as HTML. limit: gigabytes of uploads."""
    runs, uploads, free = map(_size, (usage.runs, usage.uploads, usage.free))
    said = f"Runs {runs}; uploads and masks {uploads} of {limit:g} GB; {free} free on the disk"
    full = " <b>Remove runs that are no longer needed.</b>" if usage.free < usage.runs / 10 else ""
    return f"<small>{said}.{full}</small>"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def when(run: Run) -> str:
    """When a run was asked for."""
    day, hour = run.name.split("-")[:2]
    return time.strftime("%d %b %H:%M", time.strptime(day + hour, "%Y%m%d%H%M%S"))
