"""A worker: a process that holds one loaded backbone and does one job after another. It knows nothing of Ray."""

import gc
import json
import os
import platform
import time
import warnings
from pathlib import Path
from typing import Any

from ..base.notices import Notice
from ..models.placement import Placements
from .record import NO_BACKBONE, RECORD_NAME, Outcome


class JobInterrupt(KeyboardInterrupt):
    """The driver stops the job, which then saves its latents."""


class Worker:
    """At most one `run` at a time. The other methods may be called meanwhile, from another thread."""

    def __init__(self, threads: int):
        self.threads = threads
        self.loaded: tuple | None = None  # identity of the backbone
        self.backbone: Any = None
        self.output: str | None = None  # of the running job
        self.cancelled: str | None = None
        self.stopping = False

    def describe(self, folder: str, run: str) -> dict[str, Any]:
        """Return this worker's version and process, and whether it sees the folder that the driver writes to.

        run: the token that batch.json in this folder must contain.
        """
        from .. import __version__

        return {
            "version": __version__,
            "seen": _has_token(Path(folder) / RECORD_NAME, run),
            "node": platform.node(),
            "pid": os.getpid(),
        }

    def ping(self) -> None:
        """Show that the worker lives."""

    def run(self, task: dict[str, Any], backbone_key: tuple) -> Outcome:
        """Do a job. An error fails this job only: the worker continues with the next one."""
        import torch

        from . import rows

        # Per thread: the number of threads changes the last bits of some models' values.
        torch.set_num_threads(self.threads)
        begin, self.output = time.perf_counter(), task["output"]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Notice)  # the manifest contains them
                self._do(task, backbone_key)
        except KeyboardInterrupt:
            return Outcome("stopped")
        except Exception as error:  # a bug in one job must not end the worker
            return rows.failed_outcome(error)
        finally:
            self.output = None
        return Outcome("done", round(time.perf_counter() - begin, 3))

    def _do(self, task: dict[str, Any], backbone_key: tuple) -> None:
        """Do an edit with its backbone, or put another editor's change back into its source, which needs none."""
        from ..conform.task import KeepTask
        from ..pipeline import jobs, loading
        from ..pipeline.task import EditTask
        from . import keep_rows

        if backbone_key == NO_BACKBONE:
            keep_rows.run_job(KeepTask.from_dict(task), self._report)
        else:
            edit = EditTask.from_dict(task)
            placements = loading.choose_placements(edit)
            jobs.run_job(edit, self._load(backbone_key, placements), self._report)

    def stop(self) -> None:
        """End the running job and any later one at its next step, with its latents saved."""
        self.stopping = True

    def cancel(self, output: str) -> None:
        """End only the job with this output, at its next step."""
        self.cancelled = output

    def _report(self, *_: object) -> None:
        if self.stopping or self.cancelled == self.output:
            raise JobInterrupt

    def _load(self, backbone_key: tuple, placements: Placements) -> Any:
        """Return the backbone of a job. Another one is released before this one is loaded."""
        from ..models import registry

        name, weights, _, device, dtype = backbone_key
        arguments = (name, weights, device, dtype)
        wanted = (registry.weights_identity(name, weights), *arguments, placements)
        if self.loaded != wanted:
            self.loaded = self.backbone = None
            gc.collect()
            self.backbone = registry.load_backbone(*arguments, placements)
            self.loaded = wanted
        return self.backbone


def _has_token(file: Path, run: str) -> bool:
    try:
        return json.loads(file.read_text()).get("run") == run
    except (OSError, ValueError):
        return False
