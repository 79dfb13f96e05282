"""Two Ray nodes on this machine, and the command line beside them; all of it gone when the block ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from tests.patience import HANG, PATIENCE

# A password of its own, and nothing of what a user of this machine has set.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    "OMP_NUM_THREADS": "1",
}
BEGIN = """
import sys
from ray.cluster_utils import Cluster
nodes = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = nodes.add_node(num_cpus=1)
(raylet,) = second.all_processes["raylet"]
print(nodes.address, raylet.process.pid, flush=True)
for line in sys.stdin:
    if line == "remove\\n":
        nodes.remove_node(second, allow_graceful=False)
        print("removed", flush=True)
nodes.shutdown()
"""


class Nodes:
    """The cluster's own process, which is told what to do with its nodes."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", BEGIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | ENVIRONMENT,
            text=True,
        )
        self.address, pid = self.process.stdout.readline().split()
        self.second = int(
            pid
        )  # the process of the second node whose children the workers there are

    def remove(self) -> None:
        self.process.stdin.write("remove\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "removed\n"

    def end(self) -> None:
        everybody = psutil.Process(self.process.pid).children(recursive=True)
        self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20 * PATIENCE)
        self.process.stdout.close()
        _, left = psutil.wait_procs(everybody, timeout=10 * PATIENCE)
        for process in left:
            process.kill()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def cluster() -> Iterator[Nodes]:
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.end()


class Driver:
    """A running `holdfast batch`."""

    def __init__(self, jobs: Path, folder: Path, *options: str):
        self.folder = folder
        command = [sys.executable, "-m", "holdfast.cli", "batch", str(jobs), "-o", str(folder)]
        self.process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | ENVIRONMENT,
            text=True,
            start_new_session=True,
        )

    def rows(self) -> list[dict]:
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.folder / "batch.json").read_text())["rows"]
        return []

    def once(self, wanted: Callable[[list[dict]], bool], seconds: float = HANG) -> list[dict]:
        """The rows as soon as they are as wanted."""
        until = time.monotonic() + seconds
        while not wanted(rows := self.rows()):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until, rows
            time.sleep(0.02)
        return rows

    def signal(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = HANG) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        out, error = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, error


def below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)
