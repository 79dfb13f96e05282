"""What the page says in words: which words differ, how far a run is, what an edit will cost, what a result kept."""

import time
from collections.abc import Iterable
from html import escape

from .. import summary, words
from ..cleaning import clean_prompt
from ..console import duration
from ..forecast import Forecast, lines
from ..prompts import locate_words
from .desk import DONE, FAILED, RUNNING, STOPPED, WAITING, Desk, Run

COUNTED = ("decode and write", "check", "edit", "invert", "tune")  # stages with a pace of their own


def marked(source: str, target: str) -> str:
    """Both prompts as HTML, with the words that differ marked."""
    if not (source.strip() and target.strip()):
        return ""
    source, target = clean_prompt(source), clean_prompt(target)
    change = words.changed(source, target)
    lines = (_marked(source, change.source, "del"), _marked(target, change.target, "ins"))
    return "".join(f"<div>{line}</div>" for line in lines)


def _marked(text: str, indices: tuple[int, ...], tag: str) -> str:
    parts, end = [], 0
    places = locate_words(text)
    for first, stop in (places[i] for i in indices):
        parts += [escape(text[end:first]), f"<{tag}>{escape(text[first:stop])}</{tag}>"]
        end = stop
    return "".join(parts) + escape(text[end:])


def status(run: Run | None, desk: Desk) -> str:
    """How far a run is, as HTML."""
    if run is None:
        return ""
    if run.status == WAITING:
        ahead = desk.ahead(run)
        return f"<b>Waiting</b>: {ahead} before it" if ahead else "<b>Waiting</b>"
    if run.status == STOPPED:
        return "<b>Stopped</b>; what was done is saved: go on with Resume"
    if run.status == FAILED:
        return f"<b>It did not work:</b> {escape(run.said)}"
    if run.status == DONE:
        return "<b>Done</b>"
    return f"{_bar(run)}{_notes(run.notes)}"


def _bar(run: Run) -> str:
    count, left = max(run.count, 1), run.left()
    pace = f", about {duration(left)} left of this" if left and run.stage in COUNTED else ""
    said = f"<b>{escape(run.stage.capitalize())}</b>: {run.done} of {count}{pace}"
    return f'{said}<progress value="{run.done}" max="{count}"></progress>'


def _notes(notes: list[str]) -> str:
    return "".join(f"<div>note: {escape(text)}</div>" for text in notes)


def queued(desk: Desk) -> str:
    """What runs and what waits, as HTML."""
    busy = [run for run in reversed(desk.runs()) if run.status in (RUNNING, WAITING)]
    lines = [f"<li>{escape(title(run))}: {run.status}</li>" for run in busy]
    return f"<b>Queue</b><ol>{''.join(lines)}</ol>" if lines else ""


def title(run: Run) -> str:
    return f"{run.task.source} → {run.task.target}" if run.task.target else run.name


def costs(said: Forecast, notes: Iterable[str] = ()) -> str:
    """A forecast as Markdown."""
    return "\n".join([*(f"- {line}" for line in lines(said)), noted(notes)])


def noted(notes: Iterable[str]) -> str:
    """Notes as Markdown."""
    return "\n".join(f"- note: {text}" for text in notes)


def figures(run: Run) -> str:
    """What a finished run came to, as Markdown."""
    manifest = run.manifest()
    if manifest is None:
        return ""
    notes = [f"note: {text}" for text in manifest["notes"]]
    return "\n".join(f"- {line.strip()}" for line in [*summary.lines(manifest), *notes])


def when(run: Run) -> str:
    """When a run was asked for."""
    day, hour = run.name.split("-")[:2]
    return time.strftime("%d %b %H:%M", time.strptime(day + hour, "%Y%m%d%H%M%S"))
