"""A worker: a process that holds one warm backbone and does one job after the other. Nothing of Ray is in it."""

import gc
import json
import os
import platform
import time
import warnings
from pathlib import Path
from typing import Any

from ..base.notices import Notice
from .record import NAME, Outcome


class Stopped(KeyboardInterrupt):
    """Whoever started the batch stops it: the job saves its latents."""


class Worker:
    """At most one `run` at a time; the others may come meanwhile, from another thread."""

    def __init__(self, threads: int):
        self.threads = threads
        self.loaded: tuple | None = None  # what the backbone is
        self.backbone = None
        self.output: str | None = None  # of the job that is under way
        self.cancelled: str | None = None
        self.stopping = False

    def ready(self, folder: str, run: str) -> dict[str, Any]:
        """Which Holdfast is here, and whether the batch's folder is the one that the driver writes to."""
        from .. import __version__

        seen = _sees(Path(folder) / NAME, run)
        return {
            "version": __version__,
            "seen": seen,
            "node": platform.node(),
            "pid": os.getpid(),
        }

    def pulse(self) -> None:
        """Answer: that is all that is asked."""

    def run(self, task: dict[str, Any], kind: tuple) -> Outcome:
        """Do a job. Whatever goes wrong in it is its own failure: the worker lives on for the next."""
        import torch

        from ..pipeline import jobs
        from ..pipeline.task import EditTask
        from . import rows

        # Of this thread: how many there are changes the last bits of some models' numbers.
        torch.set_num_threads(self.threads)
        begin, self.output = time.perf_counter(), task["output"]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Notice)  # the manifest holds them
                jobs.run_job(EditTask.from_dict(task), self._warm(kind), self._report)
        except KeyboardInterrupt:
            return Outcome("stopped")
        except Exception as error:  # the one place where a job's bug ends
            return rows.failure(error)
        finally:
            self.output = None
        return Outcome("done", round(time.perf_counter() - begin, 3))

    def stop(self) -> None:
        """End the job under way, and any other, at its next step, with its latents saved."""
        self.stopping = True

    def cancel(self, output: str) -> None:
        """End the job of this output alone."""
        self.cancelled = output

    def _report(self, *_) -> None:
        if self.stopping or self.cancelled == self.output:
            raise Stopped

    def _warm(self, kind: tuple):
        """The one warm backbone: the last one goes before another is loaded."""
        from ..models import registry

        name, weights, _, device, dtype = kind
        asked = (name, weights, device, dtype)
        wanted = (registry.weights_identity(name, weights), *asked)
        if self.loaded != wanted:
            self.loaded = self.backbone = None
            gc.collect()
            self.backbone = registry.load_backbone(*asked)
            self.loaded = wanted
        return self.backbone


def _sees(file: Path, run: str) -> bool:
    try:
        return json.loads(file.read_text()).get("run") == run
    except (OSError, ValueError):
        return False
