"""The difference between two prompts: the words that drive an edit.

They are the words of the target prompt that the source prompt does not have, and the words of the source prompt that
the target prompt drops. A word stands between spaces and punctuation; in scripts without spaces, each character is a
word (`prompts.py`). Words are identified by their index, which a backbone maps to its tokens.
"""

import difflib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import UserError
from .notices import warn_user
from .prompts import fold, locate_words

NO_WORD = "no word drives the edit, and --mask auto needs one: name some with --words"
LONG = 400  # words; a full comparison of longer prompts takes minutes
_ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True)
class Change:
    """Indices of the words that change: those dropped from the source prompt, those new in the target prompt."""

    source: tuple[int, ...]
    target: tuple[int, ...]


def written_words(text: str) -> list[str]:
    """Return the words of a prompt as they are written."""
    return [text[first:end] for first, end in locate_words(text)]


def folded_words(text: str) -> list[str]:
    """Return the words of a prompt in the form for comparison."""
    return [fold(word) for word in written_words(text)]


def compare_prompts(source: str, target: str, named: Sequence[str] = ()) -> Change:
    """Compare two prompts, and return the words that change. An article counts only if nothing else changes.

    named: words or phrases of the target prompt that drive the edit, instead of the words that differ. In the source
    prompt, the words in their place count then. If a word occurs several times, the occurrence that differs counts; if
    the comparison cannot decide, all of them do, with a notice. Raise UserError for a named word that the target prompt
    does not have.
    """
    before, after = folded_words(source), folded_words(target)
    runs = _align_words(before, after)
    gone, new = set(), set()
    for run in runs:
        if not run.equal:
            gone.update(run.before)
            new.update(run.after)
    if not named:
        return Change(_drop_function_words(gone, before), _drop_function_words(new, after))
    meant = set()
    for phrase in named:
        meant.update(_find_phrase(phrase, after, new))
    stood = _in_place_of(meant, runs)
    return Change(_drop_function_words(stood, before), tuple(sorted(meant)))


@dataclass(frozen=True)
class Run:
    """Words of two prompts in the same place: equal words, or words that replace others."""

    before: range
    after: range
    equal: bool


def _align_words(before: list[str], after: list[str]) -> list[Run]:
    if max(len(before), len(after)) > LONG:
        return _align_ends(before, after)
    opcodes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return [Run(range(a, b), range(c, d), kind == "equal") for kind, a, b, c, d in opcodes]


def _align_ends(before: list[str], after: list[str]) -> list[Run]:
    """Align the equal beginnings and ends of two texts, and the part between them, in linear time."""
    least = min(len(before), len(after))
    same = [a == b for a, b in zip(before, after, strict=False)]
    head = same.index(False) if False in same else least
    tail = 0
    while tail < least - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    ends = (len(before) - tail, len(after) - tail)
    inner = (before[head : ends[0]], after[head : ends[1]])
    middle = [Run(range(head, ends[0]), range(head, ends[1]), False)]
    if max(map(len, inner)) <= LONG:
        middle = [_shift_run(run, head) for run in _align_words(*inner)]
    first = Run(range(head), range(head), True)
    last = Run(range(ends[0], len(before)), range(ends[1], len(after)), True)
    return [first, *middle, last]


def _shift_run(run: Run, by: int) -> Run:
    before, after = (range(r.start + by, r.stop + by) for r in (run.before, run.after))
    return Run(before, after, run.equal)


def _in_place_of(meant: set[int], runs: list[Run]) -> set[int]:
    """Return the source words in the place of some target words."""
    stood = set()
    for run in runs:
        here = meant.intersection(run.after)
        if run.equal:
            stood.update(run.before[run.after.index(j)] for j in here)
        elif here:
            stood.update(run.before)
    return stood


def _drop_function_words(indices: set[int], words: list[str]) -> tuple[int, ...]:
    """Return indices without those of articles, unless only articles remain."""
    ordered = sorted(indices)
    return tuple(i for i in ordered if words[i] not in _ARTICLES) or tuple(ordered)


def warn_about_change(change: Change, source: str) -> Change:
    """Return the change. Warn the user if no word of the target prompt drives the edit."""
    if not change.target:
        written = written_words(source)
        lost = " ".join(written[i] for i in change.source)
        why = f"the target only leaves out {lost!r}" if lost else "the prompts differ in no word"
        warn_user(f"{why}: no word of the target drives the edit; name one with --words")
    return change


def _find_phrase(phrase: str, words: list[str], new: set[int]) -> list[int]:
    """Return the indices of a phrase in the target prompt: of its new occurrences, or of all if none is new."""
    wanted = folded_words(phrase)
    if len(wanted) > LONG:
        raise UserError(f"a phrase of --words has {len(wanted)} words", f"use at most {LONG} words")
    last = len(words) - len(wanted)
    starts = [i for i in range(last + 1) if wanted and words[i : i + len(wanted)] == wanted]
    if not starts:
        known = ", ".join(dict.fromkeys(words))
        raise UserError(
            f"{phrase!r} is not in the target prompt", f"choose from its words: {known}"
        )
    ordered, size = sorted(new), len(wanted)
    meant = [i for i in starts if bisect_left(ordered, i) < bisect_left(ordered, i + size)]
    meant = meant or starts
    if len(meant) > 1:
        warn_user(
            f"{phrase!r} occurs {len(meant)} times in the target prompt: all occurrences count"
        )
    found, end = [], 0
    for i in meant:
        found.extend(range(max(i, end), i + size))  # occurrences may overlap
        end = i + size
    return found


def token_positions(tokenizer, text: str, indices: Sequence[int]) -> tuple[int, ...]:
    """Return the positions of all tokens of some words of a text, by the tokenizer's offsets."""
    spans = locate_words(text)
    chosen = sorted(spans[i] for i in indices if i < len(spans))
    starts = [start for start, _ in chosen]
    offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping
    found = []
    for position, (first, end) in enumerate(offsets):
        real = end > first and text[first:end].strip()
        before = bisect_left(starts, end)  # number of words that begin before the token ends
        if real and before and first < chosen[before - 1][1]:
            found.append(position)
    return tuple(found)
