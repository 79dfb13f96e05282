"""A worker: a process that holds one warm backbone and does one job after the other. Nothing of Ray is in it."""

import gc
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from .record import NAME

PATIENCE = 20.0  # seconds until a file that another machine wrote is surely seen


class Stopped(KeyboardInterrupt):
    """Whoever started the batch stops it: the job saves its latents."""


class Worker:
    """At most one `run` at a time; `stop` and `ready` may come meanwhile, from another thread."""

    def __init__(self, threads: int):
        self.threads = threads
        self.loaded: tuple | None = None  # what the backbone is
        self.backbone = None
        self.stopping = False

    def ready(self, folder: str, run: str) -> dict[str, Any]:
        """Which Holdfast is here, and whether the batch's folder is the one that the driver writes to."""
        from .. import __version__

        until = time.monotonic() + PATIENCE
        while not (seen := _sees(Path(folder) / NAME, run)) and time.monotonic() < until:
            time.sleep(0.5)
        here = {"node": platform.node(), "pid": os.getpid()}
        return {"version": __version__, "seen": seen, **here}

    def run(self, task: dict[str, Any], kind: tuple) -> float | None:
        """Do a job. Returns its seconds; None where it was stopped. Raises as `jobs.perform` does."""
        import torch

        from .. import jobs
        from ..task import EditTask

        # Of this thread: how many there are changes the last bits of some models' numbers.
        torch.set_num_threads(self.threads)
        begin = time.perf_counter()
        try:
            jobs.perform(EditTask.from_dict(task), self._warm(kind), self._report)
        except KeyboardInterrupt:
            return None
        return round(time.perf_counter() - begin, 3)

    def stop(self) -> None:
        self.stopping = True

    def _report(self, *_) -> None:
        if self.stopping:
            raise Stopped

    def _warm(self, kind: tuple):
        """The one warm backbone: the last one goes before another is loaded."""
        from .. import registry

        name, weights, _, device, dtype = kind
        asked = (name, weights, device, dtype)
        if self.loaded != asked:
            self.loaded = self.backbone = None
            gc.collect()
            self.backbone = registry.load_backbone(*asked)
            self.loaded = asked
        return self.backbone


def _sees(file: Path, run: str) -> bool:
    try:
        return json.loads(file.read_text()).get("run") == run
    except (OSError, ValueError):
        return False
