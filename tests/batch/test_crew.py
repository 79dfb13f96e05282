"""The driver's view of workers that die, fall silent, hang or do not see the folder: with a clock that a test moves."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from holdfast import __version__
from holdfast.base.errors import UserError
from holdfast.batch import worker_pool
from holdfast.batch.record import Job, Outcome
from holdfast.batch.worker_pool import WorkerDeath, WorkerPool
from holdfast.pipeline.task import EditTask


class RayError(Exception):
    pass


class OutOfMemory(RayError):
    pass


class TaskError(RayError):
    def __init__(self, cause):
        super().__init__(f"remote traceback of {cause!r}")
        self.cause = cause


@dataclass(eq=False)
class Call:
    """A call under way: its answer, or the error that it ends with."""

    name: str
    arguments: tuple
    answer: object = None
    ended: bool = False

    def end(self, answer=None) -> None:
        self.answer, self.ended = answer, True


@dataclass(eq=False)
class Actor:
    """A worker that does what a test says: `silent` answers nothing, `dead` answers with Ray's error, `fading` starts
    and is dead then.
    """

    seen: bool = True
    version: str = __version__
    state: str = "well"
    reason: str = "the actor died"  # of Ray's error
    calls: list[Call] = field(default_factory=list)

    def __getattr__(self, name: str):
        return SimpleNamespace(remote=lambda *arguments: self.call(name, arguments))

    def call(self, name: str, arguments: tuple) -> Call:
        call = Call(name, arguments)
        self.calls.append(call)
        if self.state == "dead":
            call.end(RayError(self.reason))
        elif self.state in ("well", "fading") and name == "describe":
            seen = {"version": self.version, "seen": self.seen}
            call.end({**seen, "node": "there", "pid": 1})
        elif self.state == "fading":
            call.end(RayError("the actor died"))
        elif self.state == "well" and name == "ping":
            call.end()
        return call

    def last(self, name: str) -> Call:
        return [call for call in self.calls if call.name == name][-1]

    def count(self, name: str) -> int:
        return sum(call.name == name for call in self.calls)


class Ray:
    """What the crew uses of Ray. actors: handed out in turn."""

    exceptions = SimpleNamespace(
        RayError=RayError, OutOfMemoryError=OutOfMemory, RayTaskError=TaskError
    )

    def __init__(self, *actors: Actor):
        self.actors, self.killed = list(actors), []

    def remote(self, _cls):
        made = SimpleNamespace(remote=lambda _threads: self.actors.pop(0))
        return SimpleNamespace(options=lambda **_: made)

    def wait(self, calls, num_returns=1, timeout=None):
        return [call for call in calls if call.ended][:num_returns], []

    def get(self, call):
        if isinstance(call.answer, Exception):
            raise call.answer
        return call.answer

    def kill(self, actor) -> None:
        self.killed.append(actor)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def job(line: int = 1) -> Job:
    return Job(line, EditTask(f"{line}.mp4", f"/out/{line}.mp4"))


@pytest.fixture
def hired(monkeypatch):
    """hired(actor, ..., timeout=) is a crew of those, its Ray and its clock."""
    monkeypatch.setattr(worker_pool.time, "sleep", lambda _: None)

    def make(*actors: Actor, size: int | None = None, timeout: float | None = None):
        ray, clock = Ray(*actors), Clock()
        worker = {"threads": 1, "gpus": 0.0}
        made = WorkerPool(ray, size or len(actors), worker, ("/out", "run"), timeout, clock)
        made.scale_up(made.size)
        return made, ray, clock

    return make


def look(made: WorkerPool, clock: Clock, seconds: float = 0.0) -> list:
    """What has settled after so many seconds, with a look every five."""
    found = made.wait_any(0)
    for _ in range(int(seconds // 5)):
        clock.now += 5
        found += made.wait_any(0)
    return found


def test_a_job_begins_once_its_worker_has_shown_that_it_lives(hired):
    made, _, clock = hired(actor := Actor())
    assert look(made, clock) == []
    (hand,) = made.idle()
    given = job()
    made.assign(hand, given)
    assert (given.attempts, actor.count("run")) == (0, 0)
    look(made, clock)
    assert (given.attempts, given.status, given.node) == (1, "running", "there")
    actor.last("run").end(Outcome("done", 2.5))
    ((_, ended, outcome),) = look(made, clock)
    assert (ended, outcome.seconds) == (given, 2.5)
    assert made.idle() == [hand]


def test_a_worker_that_died_while_it_was_idle_costs_no_attempt(hired):
    made, ray, clock = hired(first := Actor(), Actor(), size=1)
    look(made, clock)
    (hand,) = made.idle()
    first.state = "dead"
    given = job()
    made.assign(hand, given)
    ((_, lost, outcome),) = look(made, clock)
    assert (lost, outcome.had_begun, given.attempts) == (given, False, 0)
    assert ray.killed == [first]
    made.scale_up(1)
    look(made, clock)
    made.assign(made.idle()[0], given)
    look(made, clock)
    assert given.attempts == 1


def test_a_worker_that_dies_idle_is_replaced_before_it_is_given_anything(hired):
    made, ray, clock = hired(first := Actor(), Actor(), size=1)
    look(made, clock)
    first.state = "dead"
    assert look(made, clock, 10) == []
    assert ray.killed == [first]
    assert made.workers == []


def test_a_worker_whose_heart_stops_is_replaced_and_its_job_tried_again(hired):
    made, ray, clock = hired(first := Actor())
    look(made, clock)
    made.assign(made.idle()[0], given := job())
    look(made, clock)
    first.state = "silent"
    assert look(made, clock, worker_pool.SILENCE_LIMIT - 10) == []
    ((_, lost, outcome),) = look(made, clock, 20)
    assert lost == given
    assert isinstance(outcome, WorkerDeath)
    assert outcome.had_begun
    assert outcome.sentence.startswith("the worker did not answer for 1")
    assert ray.killed == [first]


def test_a_long_step_of_a_worker_that_answers_is_waited_for(hired):
    made, ray, clock = hired(actor := Actor())
    look(made, clock)
    made.assign(made.idle()[0], job())
    assert look(made, clock, 20 * worker_pool.SILENCE_LIMIT) == []
    assert ray.killed == []
    assert actor.count("ping") > 100


def test_a_driver_that_stood_still_does_not_take_that_for_silence(hired):
    made, ray, clock = hired(actor := Actor())
    look(made, clock)
    made.assign(made.idle()[0], job())
    look(made, clock)
    actor.state = "silent"
    look(made, clock, 10)
    clock.now += 3600
    assert look(made, clock) == []
    assert ray.killed == []


def test_a_job_over_its_time_is_asked_to_save_and_fails_with_a_sentence(hired):
    made, ray, clock = hired(actor := Actor(), timeout=30)
    look(made, clock)
    made.assign(made.idle()[0], given := job())
    look(made, clock)
    assert look(made, clock, 25) == []
    assert actor.count("cancel") == 0
    look(made, clock, 10)
    assert actor.last("cancel").arguments == (given.task.output,)
    assert actor.count("cancel") == 1
    actor.last("run").end(Outcome("stopped"))
    ((_, late, outcome),) = look(made, clock)
    assert (late, outcome.status, outcome.code) == (given, "failed", 1)
    assert outcome.sentence.startswith("it took longer than the timeout of 30 s: its latents are")
    assert made.idle()  # with its backbone still warm
    assert ray.killed == []
    made.assign(made.idle()[0], job(2))
    look(made, clock)
    actor.last("run").end(Outcome("stopped"))  # the next one is not late
    assert look(made, clock)[0][2].status == "stopped"


def test_a_job_that_hangs_is_ended_with_its_worker(hired):
    made, ray, clock = hired(actor := Actor(), timeout=30)
    look(made, clock)
    made.assign(made.idle()[0], job())
    look(made, clock)
    ((_, _, outcome),) = look(made, clock, 30 + worker_pool.TIMEOUT_GRACE + 5)
    assert outcome.status == "failed"
    assert "no step ended within 60 s more" in outcome.sentence
    assert ray.killed == [actor]


def test_stopping_waits_for_a_step_of_any_length_and_not_for_a_dead_worker(hired, monkeypatch):
    made, _, clock = hired(slow := Actor(), gone := Actor())
    look(made, clock)
    for line, hand in enumerate(made.idle(), 1):
        made.assign(hand, job(line))
    look(made, clock)
    gone.state = "silent"
    looks = iter(range(1000))

    def sleep_through(calls, **how):
        clock.now += 2.5
        if next(looks) == 500:
            slow.last("run").end(Outcome("stopped"))
        return Ray.wait(made.ray, calls, **how)

    monkeypatch.setattr(made.ray, "wait", sleep_through)
    with pytest.warns(UserWarning, match="2 running jobs will be saved at the end of a step"):
        found = {ended.line: outcome for _, ended, outcome in made.stop()}
    assert found[1].status == "stopped"
    assert "did not answer" in found[2].sentence
    assert clock.now > 1000  # far longer than any wait of ours
    assert slow.count("stop") == 1


def test_a_slow_file_system_is_waited_for_with_a_word(hired):
    made, ray, clock = hired(actor := Actor(seen=False))
    look(made, clock)
    with pytest.warns(UserWarning, match="there does not see /out yet; waiting for up to 120 s"):
        look(made, clock, 60)
    assert made.idle() == []
    actor.seen = True
    look(made, clock, 10)
    assert len(made.idle()) == 1
    assert ray.killed == []


def test_a_worker_that_never_sees_the_folder_does_not_end_the_batch(hired):
    made, ray, clock = hired(Actor(), bad := Actor(seen=False))
    with (
        pytest.warns(UserWarning, match="yet"),
        pytest.warns(UserWarning, match="The batch continues with 1 of its workers"),
    ):
        look(made, clock, worker_pool.FOLDER_TIMEOUT + 5)
    assert ray.killed == [bad]
    made.scale_up(2)
    assert len(made.workers) == 1  # not another one on that machine
    alone, _, clock = hired(Actor(seen=False))
    with (
        pytest.warns(UserWarning, match="yet"),
        pytest.raises(UserError, match=r"there does not see /out after 1.. s: put clips"),
    ):
        look(alone, clock, worker_pool.FOLDER_TIMEOUT + 5)


def test_a_worker_of_another_version_is_left_out_and_alone_it_ends_the_batch(hired):
    made, _, clock = hired(Actor(), Actor(version="0.0.0"))
    with pytest.warns(UserWarning, match=r"has holdfast 0\.0\.0"):
        look(made, clock)
    assert len(made.workers) == 1
    alone, _, clock = hired(Actor(version="0.0.0"))
    with pytest.raises(UserError, match="install the same version on every machine"):
        look(alone, clock)


@pytest.mark.parametrize(
    "reason",
    [
        "died in its creation task\nAttributeError: Can't get attribute 'Worker._load' on <module "
        "'holdfast.batch.worker' from '/src/holdfast/batch/worker.py'>",
        "died in its creation task\nModuleNotFoundError: No module named 'holdfast.batch'",
    ],
)
def test_a_worker_that_cannot_load_our_class_has_another_version(reason, hired):
    alone, _, clock = hired(Actor(state="dead", reason=reason))
    with pytest.raises(UserError, match=r"another version of holdfast, and this is .*: install"):
        look(alone, clock)


def test_workers_that_do_not_start_are_given_up(hired):
    made, _, clock = hired(
        *(Actor(state="dead") for _ in range(worker_pool.MAX_FAILED_STARTS)), size=1
    )
    for _ in range(worker_pool.MAX_FAILED_STARTS - 1):
        look(made, clock)
        made.scale_up(1)
    with pytest.raises(UserError, match=r"workers failed to start \(the actor died\)"):
        look(made, clock)


def test_workers_that_die_before_any_job_begins_are_given_up(hired):
    made, _, clock = hired(
        *(Actor(state="fading") for _ in range(worker_pool.MAX_FAILED_STARTS)), size=1
    )

    def hire_and_lose():
        made.scale_up(1)
        look(made, clock)
        look(made, clock, 10)

    for _ in range(worker_pool.MAX_FAILED_STARTS - 1):
        hire_and_lose()
    with pytest.raises(UserError, match="workers failed to start"):
        hire_and_lose()


def test_what_ray_says_of_a_job_is_understood(hired):
    made, ray, clock = hired(actor := Actor())
    look(made, clock)
    (hand,) = made.idle()
    made.assign(hand, job())
    look(made, clock)
    actor.last("run").end(TaskError(KeyError("bug")))
    ((_, _, outcome),) = look(made, clock)
    assert outcome.sentence == "KeyError: 'bug'"
    assert "remote traceback" in outcome.traceback
    made.assign(hand, job())
    look(made, clock)
    actor.last("run").end(OutOfMemory("killed"))
    ((_, _, outcome),) = look(made, clock)
    assert outcome == WorkerDeath("killed", out_of_memory=True)
    assert ray.killed == [actor]
