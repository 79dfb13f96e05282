"""Notes: in an edit they are events of it, whatever else runs beside it; elsewhere they are warnings."""

import threading
import warnings

import pytest

from holdfast.base.notices import Notice, warn_user, with_notices
from holdfast.pipeline.task import EditTask


def noting(name, count=3, fail=False):
    for i in range(count):
        warn_user(f"{name} {i}")
        yield i
    if fail:
        warn_user(f"{name} last")
        raise ValueError("wrong")


def test_a_note_comes_before_the_event_that_gave_it_and_before_an_error():
    found = []

    def told(events):
        for event in events:
            found.append(event)

    with pytest.raises(ValueError, match="wrong"):
        told(with_notices(noting("a", 2, fail=True), str))
    assert found == ["a 0", 0, "a 1", 1, "a last"]


def test_elsewhere_a_note_is_a_warning():
    with pytest.warns(Notice, match="alone"):
        warn_user("alone")


def test_a_warning_names_the_line_of_the_caller_and_not_one_of_this_package():
    with pytest.warns(Notice, match="source is now called") as caught:
        EditTask(input="a.mp4", output="b.mp4", source="a ball")
    assert caught[0].filename == __file__


def test_runs_beside_each_other_keep_their_notes_apart_and_leave_the_filters():
    before, found = list(warnings.filters), {}

    def run(name):
        found[name] = [e for e in with_notices(noting(name, 200), str) if isinstance(e, str)]

    threads = [threading.Thread(target=run, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, notes in found.items():
        assert notes == [f"{name} {i}" for i in range(200)]
    assert list(warnings.filters) == before


def test_a_generator_that_waits_changes_nothing_for_others():
    running = with_notices(noting("a"), str)
    next(running)
    with pytest.warns(Notice, match="outside"):
        warn_user("outside")
    running.close()


def test_a_librarys_warning_passes_as_it_is():
    def events():
        warnings.warn("of theirs", RuntimeWarning, stacklevel=1)
        yield 1

    with pytest.warns(RuntimeWarning, match="of theirs"):
        assert list(with_notices(events(), str)) == [1]
