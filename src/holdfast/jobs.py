"""One job: an edit from a task to its file, done once. For whoever runs many of them: a batch, the page."""

import json
from pathlib import Path

from .places import manifest_path, named, store_of
from .task import WRITTEN, EditTask, stamp


def done(task: EditTask) -> dict | None:
    """The manifest of a finished result of this very task. None where there is none, where its inputs have changed
    since, or where the file is not the one that the manifest was written for. Cheap: no clip is read.
    """
    output = named(task.output)
    manifest = _read(manifest_path(output))
    wanted = task.to_dict()
    written = manifest.get("task", {})
    same = all(written.get(name, ...) == wanted[name] for name in WRITTEN)
    if not same or manifest.get("key") != task.key() or manifest.get("stamp") != stamp(output):
        return None
    return manifest


def _read(path: Path) -> dict:
    """A manifest; empty where there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("task"), dict) else {}


def perform(task: EditTask, backbone=None, report=None) -> dict:
    """Edit and save, from the latents that a stopped run of this task left, if there are any. Returns the manifest.

    backbone: one that is loaded already; else the task's is loaded. report: told (stage, done, count) as it goes; what
    it raises stops the edit, with its latents saved. Raises as `editing.edit` and `Result.save` do.
    """
    from . import editing

    resume = store_of(task).holds()
    result = editing.edit(task, backbone, resume=resume, report=report)
    result.save(report=report)
    return result.manifest
