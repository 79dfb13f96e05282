"""Rows that put another editor's change back into its source: they need no backbone, and have no progress to resume."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__
from ..base.errors import UserError
from ..base.files import parse_json, write_json
from ..conform.task import KeepTask
from ..pipeline.events import ProgressCallback
from ..pipeline.locks import OutputLock, lock_output
from ..pipeline.output_paths import manifest_path, parse_output
from ..pipeline.task import file_stamp

POLL_SECONDS = 0.5  # between two attempts to lock an output that another run writes
INPUTS = ("source", "edited", "mask", "detector")
PATHS = ("source", "edited", "output", "preview")

Resolve = Callable[[str, str], str]  # the full path of a text, and the field that it is for


def is_keep_row(row: dict[str, Any]) -> bool:
    """Return whether a row names an edited clip: it is a KeepTask, and an EditTask otherwise."""
    return "edited" in row


def resolve_paths(
    row: dict[str, Any], folder: Path, default_output: str, resolve: Resolve
) -> dict[str, Any]:
    """Return the row with full paths. Values that are not text are left for KeepTask to refuse.

    folder: for the outputs. default_output: of a row that names none.
    """
    row = dict(row)
    for key in INPUTS:
        if isinstance(row.get(key), str):
            row[key] = resolve(row[key], key)
    if isinstance(row.get("brushes"), str):  # KeepTask takes one text for a list, too
        row["brushes"] = [row["brushes"]]
    if isinstance(row.get("brushes"), list):
        row["brushes"] = [
            _resolve_brush(text, resolve) if isinstance(text, str) else text
            for text in row["brushes"]
        ]
    row["output"] = row.get("output") or default_output
    for key in ("output", "preview"):
        if row.get(key) and isinstance(row[key], str):
            row[key] = str(Path(folder.absolute(), parse_output(row[key])))
    return row


def _resolve_brush(text: str, resolve: Resolve) -> str:
    """Resolve the path in [N=]FILE."""
    number, mark, path = text.partition("=")
    return f"{number}={resolve(path, 'brushes')}" if mark else resolve(text, "brushes")


def hash_inputs(task: KeepTask) -> str:
    """Return a hash of all that a result depends on: the task's fields, the files that it reads, and the release.

    Files count by their names, sizes and times, wherever they lie.
    """
    fields = {k: v for k, v in task.to_dict().items() if k not in (*PATHS, "brushes")}
    if task.mask and Path(task.mask).exists():
        del fields["mask"]  # the stamps have it; a box has no file
    marked = [text.rpartition("=")[0] for text in task.brushes]  # the frames of the brushes
    stamps = [file_stamp(name) for name in task.input_files]
    data = [fields, marked, stamps, __version__.split(".")[:2]]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def finished_manifest(task: KeepTask) -> dict[str, Any] | None:
    """Return the manifest of a task's finished result, without reading any clip.

    None where there is no result, where an input has changed since, or where the manifest describes another file.
    """
    output = parse_output(task.output)
    try:
        manifest = parse_json(manifest_path(output).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("key") != hash_inputs(task):
        return None
    has_preview = not task.preview or Path(task.preview).exists()
    return manifest if has_preview and manifest.get("stamp") == file_stamp(output) else None


def check(task: KeepTask) -> None:
    """Raise UserError for missing inputs and outputs that cannot be written, without reading a clip."""
    from ..conform import run
    from ..pipeline.output_paths import check_output_path

    run.check_files(task.input_files)
    check_output_path(task.output, task.input_files)
    if task.preview:
        check_output_path(task.preview, [*task.input_files, task.output])


def run_job(task: KeepTask, on_progress: ProgressCallback) -> dict[str, Any]:
    """Put a change back into its source, write the result and return its manifest.

    A result that is already finished is left untouched, and another run that makes it is waited for. on_progress:
    called with (stage, done, count); what it raises stops the job.
    """
    lock = _wait_for_lock(task, on_progress)
    try:
        return finished_manifest(task) or _make(task, on_progress)
    finally:
        lock.release()


def _make(task: KeepTask, on_progress: ProgressCallback) -> dict[str, Any]:
    from ..conform import run, writer

    key, output = hash_inputs(task), parse_output(task.output)
    kept = run.keep(task, on_progress)
    manifest = writer.write(kept, output, on_progress)
    if task.preview:
        writer.write_preview(kept, parse_output(task.preview))
    # Written last: a job that was killed before has no key, and is done again.
    manifest |= {"key": key, "stamp": file_stamp(output)}
    write_json(manifest_path(output), manifest)
    return manifest


def _wait_for_lock(task: KeepTask, on_progress: ProgressCallback) -> OutputLock:
    """Lock the task's manifest as soon as no other batch holds its lock. The writer locks the output itself."""
    while True:
        try:
            with lock_output(manifest_path(parse_output(task.output))) as lock:
                return lock
        except UserError:  # another run makes it
            on_progress("wait", 0, 1)
            time.sleep(POLL_SECONDS)
