"""One job: an edit from a task to its file, done once. For whoever runs many of them: a batch, the page."""

import time
from collections.abc import Callable

from ..base.errors import UserError
from .locks import OutputLock, lock_output
from .manifest import read_manifest
from .output_paths import manifest_path, parse_output, saved_progress
from .task import OUTPUT_FIELDS, EditTask, file_stamp

Report = Callable[[str, int, int], None]  # stage, done, count
POLL_SECONDS = 0.5  # seconds between two looks whether another run has ended


def finished_manifest(task: EditTask) -> dict | None:
    """The manifest of a finished result of this very task. None where there is none, where its inputs have changed
    since, or where the file is not the one that the manifest was written for. Cheap: no clip is read.
    """
    output = parse_output(task.output)
    manifest = read_manifest(manifest_path(output))
    wanted = task.to_dict()
    written = manifest.get("task", {})
    same = all(written.get(name, ...) == wanted[name] for name in OUTPUT_FIELDS)
    if not same or manifest.get("key") != task.latent_key() or manifest.get("stamp") != file_stamp(output):
        return None
    return manifest


def run_job(task: EditTask, backbone=None, report: Report | None = None) -> dict:
    """Edit and save, from the latents that a stopped run of this task left, if there are any. Returns the manifest. A
    job that is done is left as it is; another run that works on it is waited for.

    backbone: one that is loaded already; else the task's is loaded. report: told (stage, done, count) as it goes; what
    it raises stops the edit, with its latents saved. Raises as `editing.edit` and `Result.save` do.
    """
    from . import run

    claim = _wait_for_lock(task, report)
    try:
        manifest = finished_manifest(task)
        if manifest is None:
            resume = saved_progress(task).can_resume()
            # Nobody reads a sentence for each of a thousand clips: the evaluations are saved.
            result = run.edit(task, backbone, resume=resume, on_progress=report, judge_result=False)
            result.save(report=report)
            manifest = result.manifest
    finally:
        claim.release()
    return manifest


def _wait_for_lock(task: EditTask, report: Report | None) -> OutputLock:
    """A claim on the task's output, as soon as nobody else has one."""
    while True:
        try:
            with lock_output(task.output) as claim:
                return claim
        except UserError:  # another run makes it
            if report:
                report("wait", 0, 1)
            time.sleep(POLL_SECONDS)
