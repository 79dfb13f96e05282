"""The workers of a batch, as the driver sees them: started, pinged, given jobs, and replaced when they die."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..base.errors import UserError
from ..base.exit_codes import FAILED
from ..base.notices import warn_user
from .record import NO_BACKBONE, Job, Outcome
from .worker import Worker

POLL_INTERVAL = 0.5  # seconds between two looks at the workers
PING_INTERVAL = 5.0  # seconds between two pings of a worker
SILENCE_LIMIT = 120.0  # seconds without an answer to a ping: the process or its machine hangs; steps may take longer
FOLDER_TIMEOUT = (
    120.0  # seconds until another machine's file must be visible; NFS caches names for 60
)
FOLDER_NOTICE = 10.0  # seconds until a notice reports that wait
TIMEOUT_GRACE = (
    60.0  # seconds in which a job over its timeout may reach the end of a step, and save
)
MAX_FAILED_STARTS = (
    3  # after so many consecutive workers that fail to start, no further one is tried
)
# How Ray reports a class of this version that another version of holdfast cannot load.
OTHER_VERSION = re.compile(r"Can't get attribute .*holdfast|No module named 'holdfast\.")


@dataclass(eq=False)
class WorkerHandle:
    """A worker as the driver sees it. Times are those of the pool's clock."""

    actor: Any
    describe_call: Any = None  # Ray references of open calls; None if there is none
    ping_call: Any = None
    job_call: Any = None
    is_ready: bool = False
    job: Job | None = None  # assigned; it starts with the next answer to a ping
    backbone_key: tuple | None = None  # of its last job that needed one
    node: str = ""
    pid: int = 0
    last_answer: float = 0.0
    silent_seconds: float = 0.0  # without an answer, while the driver was listening
    folder_missing_since: float | None = None
    is_wait_noted: bool = False  # a notice has reported the wait for the folder
    job_start: float = 0.0
    cancel_time: float | None = None  # when its job was cancelled


@dataclass(frozen=True)
class WorkerDeath:
    """The outcome of a job whose worker died."""

    sentence: str
    out_of_memory: bool = False
    had_begun: bool = True  # False: the job had not started, and lost nothing


Ended = tuple[WorkerHandle, Job, Outcome | WorkerDeath]


class WorkerPool:
    """A fixed number of workers; a dead one is replaced."""

    def __init__(
        self,
        ray: Any,
        size: int,
        worker: dict[str, Any],
        rendezvous: tuple[str, str],
        timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """worker: its torch `threads` and `gpus`. rendezvous: the batch's folder, and the run's token, which a worker
        must find there. timeout: seconds that a job may take.
        """
        self.ray, self.size, self.rendezvous = ray, size, rendezvous
        self.timeout, self.clock, self.last_look = timeout, clock, clock()
        self.workers: list[WorkerHandle] = []
        self.failed_starts = 0  # consecutive workers that died before their first job started
        self.threads = worker["threads"]
        # Set before the process starts, because libraries read them on import. Passive waiting frees the cores: there
        # may be more threads than cores.
        variables = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "passive"}
        self.actor_class = ray.remote(Worker).options(
            num_cpus=1,
            num_gpus=worker["gpus"],
            max_concurrency=2,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": variables},
        )

    def scale_up(self, wanted: int) -> None:
        """Start workers up to `wanted`, at most `size`."""
        while len(self.workers) < min(wanted, self.size):
            self.workers.append(WorkerHandle(self.actor_class.remote(self.threads)))

    def idle(self) -> list[WorkerHandle]:
        return [worker for worker in self.workers if worker.is_ready and worker.job is None]

    def busy(self) -> list[WorkerHandle]:
        return [worker for worker in self.workers if worker.job]

    def assign(self, worker: WorkerHandle, job: Job) -> None:
        """Assign a job. It starts once the worker answers a ping, so that a worker that died idle costs no attempt."""
        worker.job, worker.cancel_time = job, None
        worker.backbone_key = job.backbone_key or worker.backbone_key  # it stays loaded
        worker.ping_call = worker.ping_call or worker.actor.ping.remote()

    def remove(self, worker: WorkerHandle) -> None:
        """Kill a worker. The next `scale_up` replaces it."""
        self.workers.remove(worker)
        self.ray.kill(worker.actor)

    def wait_any(self, seconds: float) -> list[Ended]:
        """Wait up to `seconds` for an event. Return each worker whose job ended, with the job and its outcome.

        Raise UserError if no worker can start or see the batch's files.
        """
        self._send_calls()
        finished = self._wait_for_calls(seconds)
        self._count_silence()
        ended = []
        for worker in list(self.workers):
            if worker.describe_call in finished:
                self._check_worker(worker)
            if worker.ping_call in finished:
                ended += self._handle_ping(worker)
            if worker.job_call in finished:
                ended.append(self._end_job(worker, self._job_outcome(worker)))
        return ended + self._remove_silent() + self._end_overdue()

    def _send_calls(self) -> None:
        """Send the calls that are due."""
        for worker in self.workers:
            is_due = self.clock() - worker.last_answer >= PING_INTERVAL
            if not worker.is_ready and worker.describe_call is None and (is_due or not worker.node):
                worker.describe_call = worker.actor.describe.remote(*self.rendezvous)
            elif worker.is_ready and worker.ping_call is None and is_due:
                worker.ping_call = worker.actor.ping.remote()

    def _wait_for_calls(self, seconds: float) -> list[Any]:
        """Wait for the first call to finish, and return the references of all finished calls."""
        calls = [(one.describe_call, one.ping_call, one.job_call) for one in self.workers]
        open_calls = [call for three in calls for call in three if call is not None]
        if not open_calls:
            time.sleep(seconds)
            return []
        self.ray.wait(open_calls, timeout=seconds)
        return self.ray.wait(open_calls, num_returns=len(open_calls), timeout=0)[0]

    def _count_silence(self) -> None:
        """Add up silence. A gap in which the driver itself was suspended counts for no worker."""
        gap, self.last_look = self.clock() - self.last_look, self.clock()
        for worker in self.workers:
            is_asked = worker.ping_call is not None or (
                worker.node and worker.describe_call is not None
            )
            worker.silent_seconds = (
                worker.silent_seconds + min(gap, 2 * PING_INTERVAL) if is_asked else 0.0
            )

    def _check_worker(self, worker: WorkerHandle) -> None:
        """Read a worker's description: it started with our version and sees the folder, or it is removed."""
        reference, worker.describe_call = worker.describe_call, None
        try:
            description = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self.remove(worker)
            if OTHER_VERSION.search(str(error)):
                self._refuse_version("a worker has another version of holdfast")
            else:
                self._count_failed_start(_first_line(error))
            return
        worker.node, worker.pid = description["node"], description["pid"]
        worker.last_answer, worker.silent_seconds = self.clock(), 0.0
        if description["version"] != __version__:
            self.remove(worker)
            self._refuse_version(f"a worker on {worker.node} has holdfast {description['version']}")
        elif description["seen"]:
            worker.is_ready = True
        else:
            self._wait_for_folder(worker)

    def _refuse_version(self, finding: str) -> None:
        self._shrink(
            f"{finding}, and this is {__version__}", "install the same version on every machine"
        )

    def _count_failed_start(self, reason: str) -> None:
        self.failed_starts += 1
        if self.failed_starts >= MAX_FAILED_STARTS:
            self._shrink(
                f"workers failed to start ({reason})",
                f"check that holdfast {__version__} is installed on every machine",
            )

    def _wait_for_folder(self, worker: WorkerHandle) -> None:
        """Retry for a while: a network file system may be slow to show what another machine wrote."""
        if worker.folder_missing_since is None:
            worker.folder_missing_since = self.clock()
        waited, folder = self.clock() - worker.folder_missing_since, self.rendezvous[0]
        if waited >= FOLDER_TIMEOUT:
            self.remove(worker)
            self._shrink(
                f"{worker.node} does not see {folder} after {waited:.0f} s",
                "put clips and results into folders that all machines of the cluster share",
            )
        elif waited >= FOLDER_NOTICE and not worker.is_wait_noted:
            worker.is_wait_noted = True
            warn_user(
                f"{worker.node} does not see {folder} yet; waiting for up to {FOLDER_TIMEOUT:.0f} s"
            )

    def _shrink(self, cause: str, remedy: str) -> None:
        """Continue with one worker less. Raise UserError if none remains."""
        self.size, self.failed_starts = self.size - 1, 0
        if self.size < 1:
            raise UserError(cause, remedy)
        warn_user(f"{cause}: {remedy}. The batch continues with {self.size} of its workers")

    def _handle_ping(self, worker: WorkerHandle) -> list[Ended]:
        """Handle the answer to a ping: the worker lives and starts its assigned job, or it is dead."""
        reference, worker.ping_call = worker.ping_call, None
        try:
            self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            if worker.job_call is not None:  # the job's own call reports the outcome
                return []
            self.remove(worker)
            death = WorkerDeath(_first_line(error), had_begun=False)
            if not worker.job_start:
                self._count_failed_start(death.sentence)
            return [self._end_job(worker, death)] if worker.job else []
        worker.last_answer, worker.silent_seconds = self.clock(), 0.0
        if worker.job and worker.job_call is None:
            self._start_job(worker, worker.job)
        return []

    def _start_job(self, worker: WorkerHandle, job: Job) -> None:
        worker.job_start, self.failed_starts = self.clock(), 0
        job.status, job.attempts = "running", job.attempts + 1
        job.node, job.pid = worker.node, worker.pid
        worker.job_call = worker.actor.run.remote(job.valid_task.to_dict(), job.backbone_key)

    def _end_job(self, worker: WorkerHandle, outcome: Outcome | WorkerDeath) -> Ended:
        job, worker.job, worker.job_call = worker.job, None, None
        assert job is not None
        return worker, job, outcome

    def _job_outcome(self, worker: WorkerHandle) -> Outcome | WorkerDeath:
        errors = self.ray.exceptions
        try:
            outcome = self.ray.get(worker.job_call)
        except errors.OutOfMemoryError as error:
            outcome = WorkerDeath(_first_line(error), out_of_memory=True)
        except (
            errors.RayTaskError
        ) as error:  # a bug of the worker, or an answer that cannot be sent
            sentence = f"{type(error.cause).__name__}: {error.cause}"
            return Outcome("failed", sentence=sentence, code=FAILED, traceback=str(error))
        except errors.RayError as error:
            outcome = WorkerDeath(_first_line(error))
        if isinstance(outcome, WorkerDeath):
            self.remove(worker)
        elif outcome.status == "stopped" and worker.cancel_time is not None:
            return self._timeout_outcome(_timeout_advice(worker.job))
        return outcome

    def _remove_silent(self) -> list[Ended]:
        """Remove workers that have not answered for too long. Their jobs are retried."""
        ended = []
        for worker in [one for one in self.workers if one.silent_seconds >= SILENCE_LIMIT]:
            self.remove(worker)
            if worker.job:
                sentence = f"the worker did not answer for {worker.silent_seconds:.0f} s"
                death = WorkerDeath(sentence, had_begun=worker.job_call is not None)
                ended.append(self._end_job(worker, death))
        return ended

    def _end_overdue(self) -> list[Ended]:
        """Cancel jobs over their timeout at their next step; if no step ends in time, kill the worker."""
        ended, now = [], self.clock()
        for worker in [one for one in self.workers if one.job_call is not None]:
            if self.timeout is None or worker.job is None or now - worker.job_start < self.timeout:
                continue
            if worker.cancel_time is None:
                worker.cancel_time = now
                worker.actor.cancel.remote(worker.job.output)
            elif now - worker.cancel_time >= TIMEOUT_GRACE:
                self.remove(worker)
                reason = (
                    f"no step ended within {TIMEOUT_GRACE:.0f} s more, so its worker was killed"
                )
                ended.append(self._end_job(worker, self._timeout_outcome(reason)))
        return ended

    def _timeout_outcome(self, reason: str) -> Outcome:
        sentence = f"it took longer than the timeout of {self.timeout:g} s: {reason}"
        return Outcome("failed", sentence=sentence, code=FAILED)

    def stop(self) -> Iterator[Ended]:
        """Let every running job save its latents, and wait as long as its worker lives. Yield the outcomes.

        A step may take long, so there is no time limit.
        """
        self.workers = [worker for worker in self.workers if worker.job_call is not None]
        if self.workers:
            count = len(self.workers)
            warn_user(
                f"{count} running jobs will be saved at the end of a step; Ctrl-C again ends them now"
            )
        for worker in self.workers:
            worker.actor.stop.remote()
        while self.busy():
            yield from self.wait_any(POLL_INTERVAL)


def _timeout_advice(job: Job | None) -> str:
    if job and job.backbone_key == NO_BACKBONE:
        return "it starts again with a longer timeout"
    return "its latents are saved, and it resumes from them with a longer timeout"


def _first_line(error: Exception) -> str:
    """Return the first line of Ray's message, without its colours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].split("\x1b")[0]
