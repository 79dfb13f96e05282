"""Votes to win rates and strengths, on counts whose answer is known."""

import json
import math

import numpy as np
import pytest

from holdfast.bench import study


def cast(wins, question="alignment", person="a"):
    """{("x", "y"): (times x won, times y won)} as votes."""
    made = []
    for (x, y), (first, second) in wins.items():
        made += [study.Vote(question, x, y, "left", person)] * first + [
            study.Vote(question, x, y, "right", person)
        ] * second
    return made


def test_two_methods_have_the_log_odds_between_them():
    table = study.wins(cast({("x", "y"): (30, 10)}), ["x", "y"])
    assert np.diff(study.bradley_terry(table, prior=0))[0] == pytest.approx(-math.log(3))
    assert list(study.rate(table)) == [0.75, 0.25]


def test_strengths_that_made_the_counts_are_found():
    strengths = np.log([4.0, 2.0, 1.0])
    chance = 1 / (1 + np.exp(strengths[None] - strengths[:, None]))
    table = 600 * chance * (1 - np.eye(3))
    found = study.bradley_terry(table, prior=0)
    assert found - found.mean() == pytest.approx(strengths - strengths.mean(), abs=1e-6)


def test_neither_counts_half_for_both_and_who_never_lost_is_finite():
    table = study.wins([study.Vote("q", "x", "y", "neither", "a")], ["x", "y"])
    assert table.tolist() == [[0, 0.5], [0.5, 0]]
    always = study.bradley_terry(study.wins(cast({("x", "y"): (5, 0)}), ["x", "y"]))
    assert np.isfinite(always).all()
    assert always[0] > always[1]


def test_the_interval_is_over_people_where_there_are_several():
    agreed = [v for p in "abcdef" for v in cast({("x", "y"): (3, 1)}, person=p)]
    ranked = study.tally(agreed)["alignment"]
    assert list(ranked) == ["x", "y"]
    assert ranked["x"]["win_rate"].mean == 0.75
    assert (
        ranked["x"]["win_rate"].low == ranked["x"]["win_rate"].high == 0.75
    )  # all people answered alike
    alone = study.tally(cast({("x", "y"): (18, 6)}))["alignment"]["x"]["win_rate"]
    assert alone.low < 0.75 < alone.high


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON: it is nested too deeply"),
        ({"study": "other", "answers": []}, "holds no answers"),
        (
            {"study": "s", "answers": [{"trial": 5, "question": "alignment", "choice": "left"}]},
            "does not fit",
        ),
        (
            {"study": "s", "answers": [{"trial": 0, "question": "beauty", "choice": "left"}]},
            "does not fit",
        ),
        (
            {"study": "s", "answers": [{"trial": 0, "question": "alignment", "choice": "both"}]},
            "does not fit",
        ),
        (
            {
                "study": "s",
                "answers": [{"trial": 0, "question": "alignment", "choice": "left"}] * 2,
            },
            "does not fit",
        ),
        ({"study": "s", "answers": []}, "no answers to count"),
        ({"study": "s", "answers": [5]}, "does not fit"),
        (
            {"study": "s", "answers": [{"trial": [], "question": "alignment", "choice": "left"}]},
            "does not fit",
        ),
    ],
)
def test_answer_files_that_are_wrong_are_refused(tmp_path, answers, message):
    key = {
        "study": "s",
        "questions": ["alignment"],
        "trials": [{"id": 0, "case": "c", "left": "x", "right": "y"}],
    }
    (tmp_path / "key.json").write_text(json.dumps(key))
    (tmp_path / "answers.json").write_text(
        answers if isinstance(answers, str) else json.dumps(answers)
    )
    with pytest.raises(ValueError, match=message):
        study.votes(tmp_path / "key.json", [tmp_path / "answers.json"])


@pytest.mark.parametrize(
    "change",
    [
        {"questions": None},
        {"study": None},
        {"trials": [{"id": 0, "left": "x"}]},
        {"trials": [5]},
        {"trials": None},
    ],
)
def test_a_key_that_lacks_something_is_refused(change, tmp_path):
    trials = [{"id": 0, "case": "c", "left": "x", "right": "y"}]
    key = {"study": "s", "questions": ["alignment"], "trials": trials} | change
    (tmp_path / "key.json").write_text(json.dumps({k: v for k, v in key.items() if v is not None}))
    answer = {"trial": 0, "question": "alignment", "choice": "left"}
    answers = {"study": key["study"], "answers": [answer]}
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    with pytest.raises(ValueError, match=r"key\.json is no key of a study"):
        study.votes(tmp_path / "key.json", [tmp_path / "answers.json"])


def test_who_saved_twice_is_counted_once_with_the_later_file(tmp_path):
    key = {
        "study": "s",
        "questions": ["alignment"],
        "trials": [{"id": 0, "case": "c", "left": "x", "right": "y"}],
    }
    (tmp_path / "key.json").write_text(json.dumps(key))
    files = []
    for i, (person, choice) in enumerate((("p", "left"), ("q", "left"), ("p", "right"))):
        files.append(tmp_path / f"{i}.json")
        answer = {"trial": 0, "question": "alignment", "choice": choice}
        files[-1].write_text(json.dumps({"study": "s", "person": person, "answers": [answer]}))
    assert [v.choice for v in study.votes(tmp_path / "key.json", files)] == ["right", "left"]
