"""Run an edit from its task to its file exactly once: for a batch, or any program that runs many edits."""

import time
from typing import TYPE_CHECKING

from .. import __version__
from ..base.errors import UserError
from ..base.notices import warn_user
from .events import ProgressCallback
from .locks import OutputLock, lock_output
from .manifest import read_manifest
from .output_paths import manifest_path, parse_output
from .progress import saved_progress
from .task import OUTPUT_FIELDS, EditTask, file_stamp

if TYPE_CHECKING:
    from ..models.base import Backbone

POLL_SECONDS = 0.5  # between two attempts to lock an output that another run writes


def finished_manifest(task: EditTask) -> dict | None:
    """Return the manifest of a task's finished result, without reading any clip.

    None where there is no result, where an input has changed since, or where the manifest describes another file.
    """
    output = parse_output(task.output)
    manifest = read_manifest(manifest_path(output))
    wanted, written = task.to_dict(), manifest.get("task", {})
    is_same = all(written.get(name, ...) == wanted[name] for name in OUTPUT_FIELDS)
    if not is_same or manifest.get("key") != task.latent_key():
        return None
    # An exact result is what any memory asks for; a result of tiles or shorter windows only what the same one does.
    memory = manifest.get("plan", {}).get("memory", {})
    if memory.get("changes_numbers") and written.get("memory") != task.memory:
        return None
    is_whole = manifest.get("stamp") == file_stamp(output) and _has_raw(task, manifest)
    return manifest if is_whole else None


def _has_raw(task: EditTask, manifest: dict) -> bool:
    """Return whether the raw clip that the task wants is the one that belongs to the result."""
    if not task.raw:
        return True
    raw = parse_output(task.raw)
    return raw.exists() and manifest.get("raw", {}).get("stamp") == file_stamp(raw)


def run_job(
    task: EditTask, backbone: "Backbone | None" = None, on_progress: ProgressCallback | None = None
) -> dict:
    """Edit a clip, save the result and return its manifest.

    A result that is already finished is left untouched, another run that writes it is waited for, and saved progress
    of this task is resumed.

    backbone: a loaded one; by default the task's is loaded. on_progress: called with (stage, done, count); what it
    raises stops the edit, whose progress is saved. Raises as `run.edit` and `Result.save` do.
    """
    from . import run

    lock = _wait_for_lock(task, on_progress)
    try:
        manifest = finished_manifest(task)
        if manifest is None:
            _warn_about_older_result(task)
            resume = saved_progress(task).choose_resume()
            # In a batch the score is not read clip by clip, so its evaluations are saved.
            result = run.edit(
                task, backbone, resume=resume, on_progress=on_progress, judge_result=False
            )
            result.save(on_progress=on_progress)
            manifest = result.manifest
    finally:
        lock.release()
    return manifest


def _warn_about_older_result(task: EditTask) -> None:
    """Warn where the output is a result of another release, whose key does not tell whether it is this task's."""
    output = parse_output(task.output)
    made_by = read_manifest(manifest_path(output)).get("versions", {}).get("holdfast", __version__)
    if made_by.split(".")[:2] != __version__.split(".")[:2]:
        warn_user(f"{output} was made by Holdfast {made_by}: it is edited again")


def _wait_for_lock(task: EditTask, on_progress: ProgressCallback | None) -> OutputLock:
    """Lock the task's output as soon as no other run holds its lock."""
    while True:
        try:
            with lock_output(task.output) as lock:
                return lock
        except UserError:  # another run writes it
            if on_progress:
                on_progress("wait", 0, 1)
            time.sleep(POLL_SECONDS)
