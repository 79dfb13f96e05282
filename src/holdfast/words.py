"""Which words drive an edit: those of the target prompt that the source prompt has not, and those of the source that go.

A word is what stands between spaces; case and the punctuation around it do not count. Words are told by their index, which is what a
backbone maps to its tokens.
"""

import difflib
import string
import warnings
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """Indices of the words that change: `source` go, `target` come."""

    source: tuple[int, ...]
    target: tuple[int, ...]


def split(text: str) -> list[str]:
    """A prompt's words as they are compared."""
    return [w.strip(string.punctuation).lower() or w for w in text.split()]


def changed(source: str, target: str, named: Sequence[str] = ()) -> Change:
    """Compare two prompts. named: words or phrases of the target that drive the edit, in place of those that differ.

    Of a word that occurs twice the occurrence that differs is meant; where the comparison cannot tell, all are, with a warning.
    Raises ValueError for a named word that the target has not.
    """
    before, after = split(source), split(target)
    gone: list[int] = []
    new: list[int] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind != "equal":
            gone += range(a, b)
            new += range(c, d)
    if named:
        return Change(tuple(gone), tuple(sorted({i for phrase in named for i in _found(phrase, after, new)})))
    return Change(tuple(gone), tuple(new))


def told(change: Change, source: str) -> Change:
    """The change; warns where the target only loses words, since then no word of it drives the edit."""
    if change.source and not change.target:
        lost = " ".join(source.split()[i] for i in change.source)
        warnings.warn(f"the target only leaves out {lost!r}: no word of it drives the edit; name one with --words", stacklevel=2)
    return change


def _found(phrase: str, words: list[str], new: list[int]) -> list[int]:
    wanted = split(phrase)
    starts = [i for i in range(len(words) - len(wanted) + 1) if wanted and words[i : i + len(wanted)] == wanted]
    if not starts:
        raise ValueError(f"{phrase!r} is not in the target prompt; its words are: {', '.join(dict.fromkeys(words))}")
    meant = [i for i in starts if set(range(i, i + len(wanted))) & set(new)] or starts
    if len(meant) > 1:
        warnings.warn(f"{phrase!r} occurs {len(meant)} times in the target prompt; all of them are meant", stacklevel=3)
    return [j for i in meant for j in range(i, i + len(wanted))]


def tokens(tokenizer, text: str, indices: Sequence[int]) -> tuple[int, ...]:
    """Positions of all sub-word tokens of some words of a text, by the tokenizer's own offsets."""
    spans, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        spans.append((at, at + len(word)))
        at += len(word)
    chosen = [spans[i] for i in indices if i < len(spans)]
    offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping
    return tuple(t for t, (a, b) in enumerate(offsets) if b > a and any(a < d and b > c for c, d in chosen) and text[a:b].strip())
