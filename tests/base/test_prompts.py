"""Prompts typed in different programs: what is written otherwise and says the same."""

import unicodedata

import pytest

from holdfast.base import prompt_diff, prompts
from holdfast.pipeline.task import EditTask

SAME = {
    "quotes": ("a \u201cquiet\u201d caf\u00e9", 'a "quiet" caf\u00e9'),
    "other quotes": ("\u00aba\u00bb \u300cred\u300d ball", "a red \u2039ball\u203a"),
    "no quotes": ("a \u2018quiet\u2019 lake", "a quiet lake"),
    "apostrophes": ("the man's dog", "the man\u2019s dog"),
    "more apostrophes": ("the man\u02bcs dog", "the man\uff07s dog"),
    "primes": ("the man\u2032s dog", "the man\u00b4s dog"),
    "combined": ("a caf\u00e9", "a cafe\u0301"),
    "kana": ("\u304c\u304e", "\u304b\u3099\u304d\u3099"),
    "half width": ("\uff76\uff9e", "\u30ac"),
    "full width": ("a \uff52\uff45\uff44 ball", "a red ball"),
    "ligature": ("a \ufb01re", "a fire"),
    "spaces": ("a red\u00a0ball", "a\u2003red\u202fball"),
    "wide space": ("a\u3000red ball", "a red ball\u2028"),
    "not seen": ("a r\u200bed\u00ad ba\u2060ll", "\ufeffa red ball\u200e"),
    "alone and not seen": ("a \u200b red ball", "a red ball"),
    "hyphens": ("a red-haired man", "a red\u2010haired man"),
    "more hyphens": ("a red\u2011haired man", "a red\u2013haired man"),
    "no hyphen": ("a red-haired man", "a red haired man"),
    "dashes": ("a ball \u2014 red", "a ball - red"),
    "a dash less": ("a ball \u2014 red", "a ball red"),
    "commas": ("red,blue and green", "red, blue\uff0c and green\u3002"),
    "upside down": ("\u00bfa red ball?", "a red ball\u061f"),
    "ellipsis": ("a red ball\u2026", "a red ball..."),
    "brackets": ("(a) [red] {ball}", "a \uff08red\uff09 \u3010ball\u3011"),
    "case": ("STRASSE", "stra\u00dfe"),
    "Greek case": ("\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c2"),
    "dotted": ("\u2022 a red ball", "* a red ball"),
    "Han": ("\u4e00\u53ea\u7ea2\u7403\u3002", "\u4e00\u53ea\uff0c\u7ea2\u7403"),
    "emoji form": ("a \u2764 balloon", "a \u2764\ufe0f balloon"),
}
OTHER = {
    "an accent": ("resume", "r\u00e9sum\u00e9"),
    "a number": ("1.5 balls", "15 balls"),
    "an emoji": ("a \U0001f525 ball", "a \u2744 ball"),
    "a skin": ("\U0001f44d\U0001f3fd", "\U0001f44d\U0001f3fe"),
    "a letter": ("a cat", "a bat"),
}


@pytest.mark.parametrize("case", SAME)
def test_forms_of_the_same_words_drive_no_edit(case):
    one, other = SAME[case]
    assert prompt_diff.compare_prompts(one, other) == prompt_diff.Change((), ())
    assert EditTask("a", "b", one, other).changes_nothing
    with_red = prompt_diff.compare_prompts(f"{one} red", f"{other} blue")
    assert [prompt_diff.written_words(f"{other} blue")[i] for i in with_red.target] == ["blue"]


@pytest.mark.parametrize("case", OTHER)
def test_other_words_do(case):
    assert prompt_diff.compare_prompts(*OTHER[case]).target
    assert not EditTask("a", "b", *OTHER[case]).changes_nothing


def test_no_punctuation_mark_and_no_quote_of_unicode_is_a_word():
    marks = [c for c in map(chr, range(0x11000)) if unicodedata.category(c)[0] == "P"]
    assert len(marks) > 500
    for mark in marks:
        assert prompt_diff.folded_words(f"a {mark} red{mark} {mark}ball{mark}") == [
            "a",
            "red",
            "ball",
        ], mark


def test_named_words_are_found_in_whatever_form_they_are_typed():
    target = "a man\u2019s caf\u00e9 by the \u201cred-haired\u201d \ufb01re"
    assert prompt_diff.compare_prompts("", target, ["CAFE\u0301"]).target == (2,)
    assert prompt_diff.compare_prompts("", target, ["man's"]).target == (1,)
    assert prompt_diff.compare_prompts("", target, ["red\u2011haired fire"]).target == (5, 6, 7)


def test_a_word_stands_without_its_punctuation():
    text = "\u201cquiet\u201d 3.5 m, cafe\u0301!"
    found = [text[first:end] for first, end in prompts.locate_words(text)]
    assert found == ["quiet", "3.5", "m", "cafe\u0301"]
    assert prompts.clean_prompt(text).endswith("caf\u00e9!")


def test_ornamental_quotes_and_the_two_turkish_letters_drive_no_edit():
    for one, other in (
        ("a \u275dred\u275e hat", "a red hat"),
        ("\u275bball\u275c", "'ball'"),
        ("\u0130stanbul", "istanbul"),
        ("ISTANBUL", "\u0131stanbul"),
    ):
        assert prompt_diff.compare_prompts(one, other) == prompt_diff.Change((), ())
