"""Which run the page displays: a refresh may begin before a click and end after it."""

import pytest

from holdfast.conform.task import KeepTask
from holdfast.pipeline.task import EditTask
from holdfast.ui.page import Page
from holdfast.ui.queue import RunQueue
from holdfast.ui.runs import DONE, RUNNING, WAITING, Run


@pytest.fixture
def desk(tmp_path):
    made = RunQueue(tmp_path / "page")
    yield made
    made.runs_by_name.clear()  # runs that no worker has
    made.close()


def add_run(desk, task, name, status):
    folder = desk.folder / f"20261129-101010-000000-{name}"
    folder.mkdir()
    desk.runs_by_name[folder.name] = run = Run(folder, task, status=status)
    return run


TASKS = {"edit": EditTask("clip.mkv", "edited.mp4", "a", "b"), "keep": KeepTask("a", "b", "c")}


@pytest.fixture(params=TASKS)
def case(request, desk):
    """A tab, another page's run that it displays, and one that was just submitted on it."""
    task, page = TASKS[request.param], Page(desk)
    desk.model_lock.acquire()  # no worker takes the run that waits
    other = add_run(desk, task, "other", RUNNING)
    own = add_run(desk, task, "own", WAITING)
    yield page if request.param == "edit" else page.keep, other, own
    desk.model_lock.release()


def displayed(tab, *state):
    shown = dict(zip(tab._refresh_outputs(), tab._refresh(*state), strict=True))
    return shown[tab.displayed], shown[tab.status]


def test_a_refresh_that_ends_after_a_submission_does_not_undo_its_choice(case):
    """It read the earlier choice. What it displays may be out of date until the next refresh, not longer."""
    tab, other, own = case
    stale, _ = displayed(tab, None, other.name, "")
    assert stale == other.name
    assert tab.chosen not in tab._refresh_outputs()
    name, status = displayed(tab, own.name, stale, f"{other.name} {RUNNING}")
    assert name == own.name
    assert "1 ahead" in status


def test_another_page_s_run_stays_displayed_when_it_ends_until_one_is_chosen(case):
    tab, other, own = case
    name, _ = displayed(tab, None, None, "")
    assert name == other.name
    other.status = DONE
    assert displayed(tab, None, name, "") == (other.name, "<b>Done</b>")
    assert displayed(tab, own.name, name, "")[0] == own.name
