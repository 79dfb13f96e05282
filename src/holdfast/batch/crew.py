"""The workers of a batch, as the driver sees them: hired, heard, given jobs, given up."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..base.errors import UserError
from ..base.exit_codes import FAILED
from ..base.notices import warn_user
from .record import Job, Outcome
from .worker import Worker

TICK = 0.5  # seconds between two looks at the workers
BEAT = 5.0  # seconds between two pulses of a worker
SILENT_FOR = 120.0  # seconds without a pulse: the process or its machine hangs. Steps may be longer: they do not count
SEEN_WITHIN = 120.0  # seconds until another machine's file is surely seen; NFS keeps names for 60
SLOW = 10.0  # seconds until the user learns of that wait
GRACE = 60.0  # seconds in which a job over its time may come to the end of a step, and save
STARTS = 3  # so many workers in a row that do not start, and none will


@dataclass(eq=False)
class Hand:
    """A worker, as the driver sees it. Times are the crew's clock."""

    actor: Any
    introduction: Any = None  # references of calls that are under way, None where there is none
    pulse: Any = None
    reference: Any = None  # of its job
    ready: bool = False
    job: Job | None = None  # given to it; it begins with the next pulse
    kind: tuple | None = None  # of its last job
    node: str = ""
    pid: int = 0
    heard: float = 0.0  # when it last answered
    silence: float = 0.0  # seconds that it has not answered for, while the driver was listening
    unseen: float | None = None  # since when it has not seen the batch's folder
    slow: bool = False  # the user knows of that
    begun: float = 0.0  # when its job began
    cancelled: float | None = None  # when its job was asked to end


@dataclass(frozen=True)
class Dead:
    """What came of a job whose worker is gone."""

    sentence: str
    memory: bool = False  # it was ended because memory ran out
    begun: bool = True  # False: the job had not begun, and lost nothing


Settled = tuple[Hand, Job, Outcome | Dead]


class Crew:
    """So many workers, of which a dead one is replaced."""

    def __init__(
        self,
        ray,
        size: int,
        worker: dict[str, Any],
        meeting: tuple[str, str],
        timeout: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """worker: its threads (of torch) and gpus. meeting: the batch's folder, and the run's own word, which a worker
        has to find there. timeout: seconds that a job may take.
        """
        self.ray, self.size, self.meeting = ray, size, meeting
        self.timeout, self.clock, self.looked = timeout, clock, clock()
        self.hands: list[Hand] = []
        self.stillborn = 0  # workers in a row that died before their first job began
        self.threads = worker["threads"]
        # From the start of its process: libraries read it when they are imported. Who waits does not use up a core,
        # for there may be more threads than cores.
        variables = {"OMP_NUM_THREADS": str(self.threads), "OMP_WAIT_POLICY": "passive"}
        self.make = ray.remote(Worker).options(
            num_cpus=1,
            num_gpus=worker["gpus"],
            max_concurrency=2,
            max_restarts=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": variables},
        )

    def fill(self, wanted: int) -> None:
        """Hire, where there are fewer than wanted, at most `size`."""
        while len(self.hands) < min(wanted, self.size):
            self.hands.append(Hand(self.make.remote(self.threads)))

    def idle(self) -> list[Hand]:
        return [hand for hand in self.hands if hand.ready and hand.job is None]

    def busy(self) -> list[Hand]:
        return [hand for hand in self.hands if hand.job]

    def give(self, hand: Hand, job: Job) -> None:
        """Give a job to a worker. It begins once the worker has shown that it lives, so that one that died while it
        waited costs the job no attempt.
        """
        hand.job, hand.kind, hand.cancelled = job, job.kind, None
        hand.pulse = hand.pulse or hand.actor.pulse.remote()

    def dismiss(self, hand: Hand) -> None:
        """End a worker; another takes its place at the next `fill`."""
        self.hands.remove(hand)
        self.ray.kill(hand.actor)

    def settled(self, seconds: float) -> list[Settled]:
        """Wait at most so long for something to happen. Each worker whose job has ended, with the job and what came of
        it. Raises UserError where no worker can start or sees the batch's files.
        """
        self._ask()
        finished = self._wait_for_calls(seconds)
        self._listen()
        found = []
        for hand in list(self.hands):
            if hand.introduction in finished:
                self._introduce(hand)
            if hand.pulse in finished:
                found += self._hear(hand)
            if hand.reference in finished:
                found.append(self._end(hand, self._outcome(hand)))
        return found + self._give_up_silent() + self._give_up_late()

    def _ask(self) -> None:
        """Send the calls that are due."""
        for hand in self.hands:
            due = self.clock() - hand.heard >= BEAT
            if not hand.ready and hand.introduction is None and (due or not hand.node):
                hand.introduction = hand.actor.ready.remote(*self.meeting)
            elif hand.ready and hand.pulse is None and due:
                hand.pulse = hand.actor.pulse.remote()

    def _wait_for_calls(self, seconds: float) -> list[Any]:
        """References of calls that have come to an end, after waiting for the first of them."""
        calls = [(hand.introduction, hand.pulse, hand.reference) for hand in self.hands]
        open_calls = [call for three in calls for call in three if call is not None]
        if not open_calls:
            time.sleep(seconds)
            return []
        self.ray.wait(open_calls, timeout=seconds)
        return self.ray.wait(open_calls, num_returns=len(open_calls), timeout=0)[0]

    def _listen(self) -> None:
        """Count silence. A gap in which the driver itself stood still is nobody's."""
        gap, self.looked = self.clock() - self.looked, self.clock()
        for hand in self.hands:
            waits = hand.pulse is not None or (hand.node and hand.introduction is not None)
            hand.silence = hand.silence + min(gap, 2 * BEAT) if waits else 0.0

    def _introduce(self, hand: Hand) -> None:
        """A worker has said what it sees, or did not start."""
        from .. import __version__

        reference, hand.introduction = hand.introduction, None
        try:
            found = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self.dismiss(hand)
            self._count_stillborn(_first(error))
            return
        hand.node, hand.pid, hand.heard, hand.silence = (
            found["node"], found["pid"], self.clock(), 0.0,
        )  # fmt: skip
        if found["version"] != __version__:
            self.dismiss(hand)
            self._refuse(
                f"a worker on {hand.node} has holdfast {found['version']}, and this is {__version__}",
                "install the same on every machine",
            )
        elif found["seen"]:
            hand.ready = True
        else:
            self._await_folder(hand)

    def _count_stillborn(self, said: str) -> None:
        self.stillborn += 1
        if self.stillborn >= STARTS:
            self._refuse(f"no worker starts ({said})", "is holdfast installed on every machine?")

    def _await_folder(self, hand: Hand) -> None:
        """A file system may be slow to show what another machine wrote: ask again for a while."""
        hand.unseen = self.clock() if hand.unseen is None else hand.unseen
        waited, folder = self.clock() - hand.unseen, self.meeting[0]
        if waited >= SEEN_WITHIN:
            self.dismiss(hand)
            self._refuse(
                f"{hand.node} does not see {folder} after {waited:.0f} s",
                "clips and results have to lie in folders that all machines of the cluster share",
            )
        elif waited >= SLOW and not hand.slow:
            hand.slow = True
            warn_user(f"{hand.node} does not see {folder} yet; it has {SEEN_WITHIN:.0f} s to do so")

    def _refuse(self, cause: str, remedy: str) -> None:
        """Do with one worker less; with none there is no batch."""
        self.size, self.stillborn = self.size - 1, 0
        if self.size < 1:
            raise UserError(cause, remedy)
        warn_user(f"{cause}: {remedy}. The batch runs on with {self.size} of its workers")

    def _hear(self, hand: Hand) -> list[Settled]:
        """A pulse has come back: the worker lives, and begins with what it was given; or it is dead."""
        reference, hand.pulse = hand.pulse, None
        try:
            self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            if hand.reference is not None:  # what became of its job is said by the job's own call
                return []
            self.dismiss(hand)
            lost = Dead(_first(error), begun=False)
            if not hand.begun:
                self._count_stillborn(lost.sentence)
            return [self._end(hand, lost)] if hand.job else []
        hand.heard, hand.silence = self.clock(), 0.0
        if hand.job and hand.reference is None:
            self._begin(hand)
        return []

    def _begin(self, hand: Hand) -> None:
        job, hand.begun, self.stillborn = hand.job, self.clock(), 0
        job.status, job.attempts = "running", job.attempts + 1
        job.node, job.pid = hand.node, hand.pid
        hand.reference = hand.actor.run.remote(job.task.to_dict(), job.kind)

    def _end(self, hand: Hand, outcome: Outcome | Dead) -> Settled:
        job, hand.job, hand.reference = hand.job, None, None
        return hand, job, outcome

    def _outcome(self, hand: Hand) -> Outcome | Dead:
        errors = self.ray.exceptions
        try:
            outcome = self.ray.get(hand.reference)
        except errors.OutOfMemoryError as error:
            outcome = Dead(_first(error), memory=True)
        except (
            errors.RayTaskError
        ) as error:  # the worker's own bug, or an answer that cannot be sent
            said = f"{type(error.cause).__name__}: {error.cause}"
            return Outcome("failed", sentence=said, code=FAILED, traceback=str(error))
        except errors.RayError as error:
            outcome = Dead(_first(error))
        if isinstance(outcome, Dead):
            self.dismiss(hand)
        elif outcome.status == "stopped" and hand.cancelled is not None:
            return self._timeout_outcome(
                "its latents are saved, and with a longer one it resumes from them"
            )
        return outcome

    def _give_up_silent(self) -> list[Settled]:
        """Workers that have not answered for too long are replaced; their jobs are tried again."""
        found = []
        for hand in [hand for hand in self.hands if hand.silence >= SILENT_FOR]:
            self.dismiss(hand)
            if hand.job:
                said = f"nothing was heard from it for {hand.silence:.0f} s"
                found.append(self._end(hand, Dead(said, begun=hand.reference is not None)))
        return found

    def _give_up_late(self) -> list[Settled]:
        """End jobs that are over their time: at their next step, or where that does not come, with their worker."""
        found, now = [], self.clock()
        for hand in [hand for hand in self.hands if hand.reference is not None]:
            if self.timeout is None or now - hand.begun < self.timeout:
                continue
            if hand.cancelled is None:
                hand.cancelled = now
                hand.actor.cancel.remote(hand.job.task.output)
            elif now - hand.cancelled >= GRACE:
                self.dismiss(hand)
                said = f"no step ended within {GRACE:.0f} s more, so its worker was ended"
                found.append(self._end(hand, self._timeout_outcome(said)))
        return found

    def _timeout_outcome(self, said: str) -> Outcome:
        sentence = f"it took longer than the timeout of {self.timeout:g} s: {said}"
        return Outcome("failed", sentence=sentence, code=FAILED)

    def stop(self) -> Iterator[Settled]:
        """Let every job under way save its latents, however long its step takes, and wait for it as long as its worker
        lives. What came of each.
        """
        self.hands = [hand for hand in self.hands if hand.reference is not None]
        if self.hands:
            count = len(self.hands)
            warn_user(
                f"{count} under way will be saved at the end of a step; Ctrl-C again ends them now"
            )
        for hand in self.hands:
            hand.actor.stop.remote()
        while self.busy():
            yield from self.settled(TICK)


def _first(error: Exception) -> str:
    """The first line of what Ray says, without its colours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].split("\x1b")[0]
