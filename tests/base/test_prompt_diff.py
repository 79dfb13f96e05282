"""The words that drive an edit, and their tokens."""

import difflib
import time
import warnings

import pytest

from holdfast.base import prompt_diff
from holdfast.models.base import Prompt
from tests.patience import PATIENCE


@pytest.mark.parametrize(
    ("source", "target", "gone", "new"),
    [
        ("a red ball on a lawn", "a blue ball on a lawn", [1], [1]),
        (
            "A silver jeep, on a road.",
            "a red jeep on a road",
            [1],
            [1],
        ),  # case and punctuation do not count
        ("a ball", "a ball with a hat", [], [2, 4]),
        ("a red ball and a red box", "a red ball and a green box", [5], [5]),  # the second of two
        (
            "a cat runs",
            "two dogs run",
            [1, 2],
            [0, 1, 2],
        ),  # an article says nothing where something else does
        ("a red ball", "an orange ball", [1], [1]),
        ("the ball", "a ball", [0], [0]),
        ("一只红色的球", "一只蓝色的球", [2], [2]),
        ("a ball", "a ball", [], []),
    ],
)
def test_words_that_differ(source, target, gone, new):
    assert prompt_diff.compare_prompts(source, target) == prompt_diff.Change(
        tuple(gone), tuple(new)
    )


def test_a_target_that_only_loses_words_warns():
    change = prompt_diff.compare_prompts("a red ball", "a ball")
    assert change == prompt_diff.Change((1,), ())
    with pytest.warns(UserWarning, match="only leaves out 'red'"):
        prompt_diff.warn_about_change(change, "a red ball")
    with pytest.warns(UserWarning, match="differ in no word"):
        prompt_diff.warn_about_change(
            prompt_diff.compare_prompts("a red ball", "A red ball!"), "a red ball"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prompt_diff.warn_about_change(
            prompt_diff.compare_prompts("a red ball", "a ball", ["ball"]), "a red ball"
        ).target == (1,)


def test_named_words_and_phrases():
    change = prompt_diff.compare_prompts(
        "a red ball over a lake", "a blue ball over a lake", ["blue ball", "Lake"]
    )
    assert change == prompt_diff.Change((1, 2, 5), (1, 2, 5))
    change = prompt_diff.compare_prompts("a ball on a lawn", "a big ball on the lawn", ["big ball"])
    assert change == prompt_diff.Change(
        (1,), (1, 2)
    )  # where the named words stand in the source, not what else changed
    with pytest.raises(
        ValueError, match="'cube' is not in the target prompt: choose from its words: a, ball"
    ):
        prompt_diff.compare_prompts("a", "a ball", ["cube"])
    with pytest.raises(ValueError, match="not in the target"):
        prompt_diff.compare_prompts("a", "a ball", [" "])


def test_a_word_that_occurs_twice_is_the_one_that_differs_or_both_with_a_warning():
    assert prompt_diff.compare_prompts(
        "a red box and a red ball", "a red box and a green box", ["box"]
    ).target == (6,)
    with pytest.warns(UserWarning, match="'box' occurs 2 times"):
        assert prompt_diff.compare_prompts(
            "a box and a box", "a box and a box", ["box"]
        ).target == (1, 4)


def test_long_prompts_are_compared_quickly_and_well_where_little_changes(monkeypatch):
    """The quadratic comparison never sees more than a short text."""
    compared, matcher = [], difflib.SequenceMatcher
    monkeypatch.setattr(
        difflib,
        "SequenceMatcher",
        lambda junk, a, b, **k: compared.append(max(len(a), len(b))) or matcher(junk, a, b, **k),
    )
    text = ["the red ball and the blue box roll over the lawn"] * 300  # 3,300 words
    source = " ".join(text)
    text[150] = "the red ball and the green box roll over the lawn"
    change = prompt_diff.compare_prompts(source, " ".join(text))
    assert change == prompt_diff.Change((1655,), (1655,))
    inside = prompt_diff.compare_prompts(f"{source} one {source}", f"{source} two {source}")
    assert inside == prompt_diff.Change((3300,), (3300,))
    every = prompt_diff.compare_prompts(source, " ".join(reversed(source.split())))
    assert len(every.target) > 1000  # nothing is known but that they differ
    assert max(compared) <= prompt_diff.LONG


def test_a_phrase_without_end_is_refused_at_once():
    text = "a ball " * 30_000
    began = time.process_time()
    with pytest.raises(ValueError, match="has 60000 words: use at most 400 words"):
        prompt_diff.compare_prompts("a", text, [text])
    with pytest.warns(UserWarning, match="occurs"):
        prompt_diff.compare_prompts("a", text, ["a ball " * 200])
    assert time.process_time() - began < 5 * PATIENCE  # CPU seconds


def test_a_phrase_that_begins_within_itself_is_meant_once():
    with pytest.warns(UserWarning, match="occurs 2 times"):
        assert prompt_diff.compare_prompts("", "x a b a b a", ["a b a"]).target == (1, 2, 3, 4, 5)


def test_what_begins_and_ends_alike_is_the_same_by_both_ways(monkeypatch):
    pairs = [
        ("a red ball on a lawn", "a blue ball on a lawn"),
        ("a ball", "a ball with a hat"),
        ("one two three four", "one four"),
        ("a b a b", "a b"),
        ("same", "same"),
        ("", "new"),
    ]
    ordinary = [prompt_diff.compare_prompts(*pair) for pair in pairs]
    monkeypatch.setattr(prompt_diff, "LONG", 0)
    assert [prompt_diff.compare_prompts(*pair) for pair in pairs] == ordinary


def test_tokens_are_all_the_sub_words_of_a_word(shapeworld):
    tokenizer = shapeworld.tokenizer
    text = "a striped red ball, zyx  moves"
    every = [prompt_diff.token_positions(tokenizer, text, [i]) for i in range(6)]
    ids = tokenizer(text).input_ids
    assert [len(t) for t in every][:3] == [1, 1, 1]
    assert len(every[4]) > 2  # spelled in letters
    assert tokenizer.decode([ids[t] for t in every[3]]) == "ball"  # without its comma
    flat = [t for ts in every for t in ts]
    assert flat == sorted(flat)
    assert len(set(flat)) == len(flat)
    assert tokenizer.eos_token_id not in {ids[t] for t in flat}
    assert tokenizer.decode([ids[t] for t in every[2]]) == "red"
    assert prompt_diff.token_positions(tokenizer, text, [2, 4]) == every[2] + every[4]


def test_a_condition_carries_its_words_and_its_length(shapeworld):
    condition = shapeworld.condition(Prompt("a plain red ball", words=(2,)))
    ids = shapeworld.tokenizer("a plain red ball").input_ids
    assert condition.token_count == len(ids)
    assert [shapeworld.tokenizer.decode([ids[t]]) for t in condition.edit_tokens] == ["red"]
    assert shapeworld.condition(Prompt("a plain red ball")).edit_tokens == ()
