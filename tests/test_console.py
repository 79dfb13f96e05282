"""Progress where there is no terminal: a line when a stage ends, and now and then while it lasts."""

from holdfast import console
from holdfast.console import Lines, duration


def test_a_stage_that_ends_is_a_line_and_a_long_one_says_what_is_left(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    said = []
    report = Lines(said.append)
    clock[0] = 3.0
    report("load", 1, 1)
    for done in range(1, 5):
        clock[0] += 6.0
        report("edit", done, 4)
    assert said == [
        "load: 1 of 1, 3.0 s",
        # the second step comes 6 s after the first was told, the third 12 s: 18 s for three of four
        "edit: 3 of 4, about 6.0 s left",
        "edit: 4 of 4, 24 s",
    ]


def test_times_are_told_as_people_say_them():
    spoken = [duration(seconds) for seconds in (3.21, 45, 600, 7200)]
    assert spoken == ["3.2 s", "45 s", "10 min", "2.0 h"]


def test_json_gets_no_progress(capsys):
    with console.shown_progress(quiet=True) as report:
        report("edit", 1, 1)
    assert capsys.readouterr() == ("", "")
