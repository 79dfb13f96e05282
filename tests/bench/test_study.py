"""Votes to win rates and strengths, on counts whose answer is known."""

import json
import math

import numpy as np
import pytest

from holdfast.bench import first_places, tally


def cast(wins, question="alignment", person="a"):
    """{("x", "y"): (times x won, times y won)} as votes, each about a clip of its own."""
    made = []
    for (x, y), (first, second) in wins.items():
        for n in range(first + second):
            choice = "left" if n < first else "right"
            made.append(tally.Vote(question, x, y, choice, person, f"{x}{y}{n}"))
    return made


def test_two_methods_have_the_log_odds_between_them():
    table = tally.win_table(cast({("x", "y"): (30, 10)}), ["x", "y"])
    assert np.diff(tally.bradley_terry(table, prior=0))[0] == pytest.approx(-math.log(3))
    assert list(tally.win_rates(table)) == [0.75, 0.25]


def test_strengths_that_made_the_counts_are_found():
    strengths = np.log([4.0, 2.0, 1.0])
    chance = 1 / (1 + np.exp(strengths[None] - strengths[:, None]))
    table = 600 * chance * (1 - np.eye(3))
    found = tally.bradley_terry(table, prior=0)
    assert found - found.mean() == pytest.approx(strengths - strengths.mean(), abs=1e-6)


def test_neither_counts_half_for_both_and_who_never_lost_is_finite():
    table = tally.win_table([tally.Vote("q", "x", "y", "neither", "a")], ["x", "y"])
    assert table.tolist() == [[0, 0.5], [0.5, 0]]
    always = tally.bradley_terry(tally.win_table(cast({("x", "y"): (5, 0)}), ["x", "y"]))
    assert np.isfinite(always).all()
    assert always[0] > always[1]


def test_many_people_who_agree_do_not_make_few_clips_certain():
    agreed = [v for p in range(30) for v in cast({("x", "y"): (3, 1)}, person=str(p))]
    ranked = tally.tally(agreed)["alignment"]
    assert list(ranked) == ["x", "y"]
    found = ranked["x"]["win_rate"]
    assert found.mean == 0.75
    assert found.low < 0.5 < 0.95 < found.high  # as four clips, not as 120 answers
    assert ranked["x"]["strength"].low < 0 < ranked["x"]["strength"].high


def test_the_interval_is_as_wide_as_people_and_clips_make_it():
    """Independent answers of 30 people about 30 clips: about as wide as the binomial's, and no narrower."""
    rng = np.random.default_rng(0)
    votes = [
        tally.Vote("q", "x", "y", "left" if rng.random() < 0.6 else "right", str(p), str(c))
        for p in range(30)
        for c in range(30)
    ]
    found = tally.tally(votes)["q"]["x"]["win_rate"]
    width = found.high - found.low
    assert 2 * 1.96 * np.sqrt(0.24 / 900) * 0.9 < width < 2 * 1.96 * np.sqrt(0.24 / 900) * 2
    alone = tally.tally(cast({("x", "y"): (18, 6)}))["alignment"]["x"]["win_rate"]
    assert alone.low < 0.75 < alone.high
    assert tally.count_people_and_clips(votes) == (30, 30)


def test_where_all_agree_a_rate_is_as_sure_as_there_are_clips_and_a_strength_has_no_interval():
    votes = [v for p in "abc" for v in cast({("x", "y"): (5, 0)}, person=p)]
    found = tally.tally(votes)["alignment"]["x"]
    assert found["win_rate"].high == 1
    assert found["win_rate"].low == pytest.approx(0.4385, abs=1e-3)  # Wilson, 3 of 3
    assert not found["strength"].has_interval


def places(wins, person="a"):
    """{"x": times x was the best of x, y and z} as votes, each about a clip of its own."""
    names = [name for name, count in wins.items() for _ in range(count)]
    return [
        tally.FirstPlace("motion", name, ("x", "y", "z"), person, f"c{i}")
        for i, name in enumerate(names)
    ]


def test_shares_of_first_places_are_those_of_all_answers_and_a_method_never_chosen_has_one():
    votes = places({"x": 9, "y": 3}) + places({"x": 6, "y": 6}, "b")
    ranked = first_places.tally(votes)
    assert set(ranked) == {"all", "motion"}
    shares = {name: values["share"] for name, values in ranked["motion"].items()}
    assert list(shares) == ["x", "y", "z"]
    assert {name: share.mean for name, share in shares.items()} == {"x": 0.625, "y": 0.375, "z": 0}
    assert {share.n for share in shares.values()} == {24}
    assert shares["x"].low < 0.625 < shares["x"].high
    assert 0 < shares["z"].high < 1  # as sure as the number of people and clips


def test_many_people_who_agree_do_not_make_few_first_places_certain():
    votes = [vote for p in range(29) for vote in places({"x": 3, "y": 1}, str(p))]
    votes += places(
        {"x": 4}, "another"
    )  # or people would have no spread, and the interval be Wilson's
    found = first_places.tally(votes)["motion"]["x"]["share"]
    assert found.mean == pytest.approx(91 / 120)
    assert found.low < 0.5 < 0.95 < found.high  # as four clips, not as 120 answers


BEST_KEY = {
    "study": "s",
    "form": "best",
    "questions": ["motion"],
    "trials": [{"id": 0, "case": "c", "results": {"A": "y", "B": "x", "C": "z"}}],
}


def test_a_letter_stands_for_the_variant_that_was_shown_under_it(tmp_path):
    (tmp_path / "key.json").write_text(json.dumps(BEST_KEY))

    def read(choice):
        answer = {"trial": 0, "question": "motion", "choice": choice}
        text = json.dumps({"study": "s", "person": "p", "answers": [answer]})
        (tmp_path / "answers.json").write_text(text)
        return tally.read_votes(tmp_path / "key.json", [tmp_path / "answers.json"])

    assert read("B") == [tally.FirstPlace("motion", "x", ("y", "x", "z"), "p", "c")]
    for wrong in ("D", "left", "neither", ["A"], None):
        with pytest.raises(ValueError, match="does not fit the study"):
            read(wrong)


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
        tally.read_votes(tmp_path / "key.json", [tmp_path / "answers.json"])


@pytest.mark.parametrize(
    "change",
    [
        {"questions": None},
        {"study": None},
        {"trials": [{"id": 0, "left": "x"}]},
        {"trials": [5]},
        {"trials": [{"id": 0, "results": {"A": 1}}]},
        {"trials": [{"id": 0, "results": ["A"]}]},
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
    with pytest.raises(ValueError, match=r"key\.json is not the key of a study"):
        tally.read_votes(tmp_path / "key.json", [tmp_path / "answers.json"])


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
    assert [v.choice for v in tally.read_votes(tmp_path / "key.json", files)] == ["right", "left"]
