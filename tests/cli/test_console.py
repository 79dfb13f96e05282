"""Progress where there is no terminal: a line when a stage ends, and now and then while it lasts."""

import pickle

import pytest
import typer

from holdfast.base.errors import MissingDependencyError, UserError, install_remedy
from holdfast.cli import console
from holdfast.cli.console import BAD_INPUT, CANCELLED, MISSING, ProgressLines, format_duration


def test_a_stage_that_ends_is_a_line_and_a_long_one_says_what_is_left(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    said = []
    report = ProgressLines(said.append)
    clock[0] = 3.0
    report("load", 1, 1)
    for done in range(1, 5):
        clock[0] += 6.0
        report("edit", done, 4)
    assert said == [
        "load the model: 1 of 1, 3.0 s",
        # the second step comes 6 s after the first was told, the third 12 s: 18 s for three of four
        "edit: 3 of 4, about 6.0 s left",
        "edit: 4 of 4, 24 s",
    ]


def test_times_are_told_as_people_say_them():
    spoken = [format_duration(seconds) for seconds in (3.21, 45, 600, 7200)]
    assert spoken == ["3.2 s", "45 s", "10 min", "2.0 h"]


def test_json_gets_no_progress(capsys):
    with console.show_progress(quiet=True) as report:
        report("edit", 1, 1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [(UserError("a is 1", "give 2"), BAD_INPUT), (MissingDependencyError("no", "get it"), MISSING)],
)
def test_an_error_of_ours_ends_with_its_exit_code(error, code, capsys):
    with pytest.raises(typer.Exit) as ended, console.report_errors():
        raise error
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize("error", [ValueError("math domain error"), AssertionError()])
def test_any_other_error_is_a_bug_and_keeps_its_traceback(error):
    with pytest.raises(type(error)), console.report_errors():
        raise error


def test_what_is_missing_and_how_to_get_it_are_apart():
    missing = MissingDependencyError("the page needs Gradio", install_remedy("ui"))
    error = pickle.loads(pickle.dumps(missing))
    assert (error.cause, error.remedy) == (missing.cause, missing.remedy)
    assert str(error) == (
        "the page needs Gradio; in a checkout of Holdfast, get it with: "
        "pip install -c constraints.txt -e '.[ui]'"
    )


def test_a_user_error_keeps_cause_and_remedy_apart():
    error = pickle.loads(pickle.dumps(UserError("mask.png is 2x2", "use a mask of 4x4")))
    assert (error.cause, error.remedy) == ("mask.png is 2x2", "use a mask of 4x4")
    assert str(error) == "mask.png is 2x2: use a mask of 4x4"


def interrupt_inside_torch():
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("trying to pop from empty mode stack")


def test_an_interrupt_that_a_library_turns_into_its_own_error_is_a_stop():
    with pytest.raises(typer.Exit) as ended, console.report_errors():
        interrupt_inside_torch()
    assert ended.value.exit_code == CANCELLED
