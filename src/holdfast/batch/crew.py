"""Ray: a session on this machine or in a cluster, and the workers in it. The only place that knows of Ray."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import Missing, UserError
from .record import Job
from .worker import Worker

OBJECTS = 80 * 2**20  # bytes that Ray sets aside for results, of which ours are a number each
STOP_WITHIN = 120.0  # seconds until a job that is stopped has saved its latents
REACHED_WITHIN = 10.0  # seconds
STARTS = 3  # so many workers in a row that do not start, and none will
# Read by Ray when it is imported and when it starts: nothing is reported to its makers, its lines about dead workers
# do not go to our standard output, and a worker without a GPU of its own sees what the machine has.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SCHEDULER_EVENTS": "0",
}


@contextlib.contextmanager
def session(address: str | None, workers: int | None) -> Iterator[Any]:
    """The module ray, connected. address: of a cluster to which this machine belongs; None starts one for this run, on
    this machine alone, that ends with it. Raises Missing without the package, ValueError where no cluster answers.
    """
    if address and address.startswith("ray://"):
        raise UserError(
            f"{address} is for Ray's client; run this on a machine of the cluster, with --ray auto"
        )
    fresh = {} if address else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with _environment(QUIET | fresh), _same_signals():
        ray = _imported()
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address:
            _connect(ray, address, how)
        else:
            how |= {"include_dashboard": False, "object_store_memory": OBJECTS}
            ray.init("local", num_cpus=max(workers or 1, os.cpu_count() or 1), **how)
    try:
        yield ray
    finally:
        ray.shutdown()


def _imported():
    try:
        import ray
    except ImportError as error:
        raise Missing("batch needs ray; get it with: pip install 'holdfast[batch]'") from error
    return ray


def _connect(ray, address: str, how: dict[str, Any]) -> None:
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), REACHED_WITHIN).close()  # Ray asks for ever
        ray.init(address, **how)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = str(error).strip().splitlines()[0]
        raise UserError(
            f"no Ray cluster can be joined at {address} ({said}); "
            "start one with: ray start --head, and run this on one of its machines"
        ) from error


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """These variables for the block; what the user has set stays."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _same_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; it is to stop a batch as Ctrl-C does."""
    ours = threading.current_thread() is threading.main_thread()  # the only one that may say
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if ours and before is not None:
            signal.signal(signal.SIGTERM, before)


@dataclass(eq=False)
class Hand:
    """A worker, as the driver sees it."""

    actor: Any
    reference: Any  # of the one call that is under way; None: it waits for a job
    ready: bool = False
    job: Job | None = None
    kind: tuple | None = None  # of its last job
    node: str = ""
    pid: int = 0


@dataclass(frozen=True)
class Dead:
    """What came of a job whose worker is gone."""

    sentence: str
    memory: bool = False  # it was ended because memory ran out


class Crew:
    """So many workers, of which a dead one is replaced."""

    def __init__(self, ray, size: int, threads: int, gpus: float, meeting: tuple[str, str]):
        """threads: of torch, in each. gpus: that each is given. meeting: the batch's folder, and the run's own word,
        which a worker has to find there.
        """
        self.ray, self.size, self.meeting = ray, size, meeting
        self.hands: list[Hand] = []
        self.stillborn = 0  # workers in a row that did not start
        # From the start of its process: libraries read it when they are imported. Who waits does not use up a core,
        # for there may be more threads than cores.
        variables = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        self.make = ray.remote(Worker).options(
            num_cpus=1,
            num_gpus=gpus,
            max_concurrency=2,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": variables},
        )
        self.threads = threads

    def fill(self, wanted: int) -> None:
        """Hire, where there are fewer than wanted, at most `size`."""
        while len(self.hands) < min(wanted, self.size):
            actor = self.make.remote(self.threads)
            self.hands.append(Hand(actor, actor.ready.remote(*self.meeting)))

    def idle(self) -> list[Hand]:
        return [hand for hand in self.hands if hand.ready and hand.reference is None]

    def busy(self) -> list[Hand]:
        return [hand for hand in self.hands if hand.job]

    def give(self, hand: Hand, job: Job) -> None:
        hand.job, hand.kind = job, job.kind
        job.node, job.pid = hand.node, hand.pid
        hand.reference = hand.actor.run.remote(job.task.to_dict(), job.kind)

    def dismiss(self, hand: Hand) -> None:
        """End a worker; another takes its place at the next `fill`."""
        self.hands.remove(hand)
        self.ray.kill(hand.actor)

    def settled(self, seconds: float) -> list[tuple[Hand, Job, Any]]:
        """Wait at most so long for one to finish. Each that has, with its job and what came of it: seconds, None (it
        was stopped), Dead, or the exception. Raises ValueError where workers cannot start or see other files.
        """
        underway = {hand.reference: hand for hand in self.hands if hand.reference}
        if not underway:
            time.sleep(seconds)
            return []
        finished, _ = self.ray.wait(list(underway), timeout=seconds)
        found = []
        for reference in finished:
            hand = underway[reference]
            hand.reference, job, hand.job = None, hand.job, None
            if hand.ready:
                found.append((hand, job, self._outcome(reference, hand)))
            else:
                self._introduced(reference, hand)
        return found

    def _outcome(self, reference, hand: Hand) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            return error.cause
        except errors.OutOfMemoryError as error:
            outcome = Dead(_first(error), memory=True)
        except errors.RayError as error:
            outcome = Dead(_first(error))
        self.dismiss(hand)
        return outcome

    def _introduced(self, reference, hand: Hand) -> None:
        """A new worker has said what it sees, or did not start."""
        from .. import __version__

        try:
            found = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self.dismiss(hand)
            self.stillborn += 1
            if self.stillborn >= STARTS:
                raise UserError(
                    f"no worker starts; is holdfast installed on every machine? ({_first(error)})"
                ) from error
            return
        if found["version"] != __version__:
            raise UserError(
                f"a worker on {found['node']} has holdfast {found['version']}, and this is {__version__}: "
                "install the same on every machine"
            )
        if not found["seen"]:
            raise UserError(
                f"{found['node']} does not see {self.meeting[0]}: clips and results have to lie in folders that all "
                "machines of the cluster share"
            )
        hand.ready, hand.node, hand.pid, self.stillborn = True, found["node"], found["pid"], 0

    def stop(self) -> None:
        """Let every job under way save its latents, and wait for it."""
        self.hands = self.busy()
        for hand in self.hands:
            hand.actor.stop.remote()
        references = [hand.reference for hand in self.hands]
        if references:
            self.ray.wait(references, num_returns=len(references), timeout=STOP_WITHIN)


def _first(error: Exception) -> str:
    """The first line of what Ray says, without its colours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].split("\x1b")[0]
