"""Which words drive an edit: those of the target prompt that the source prompt has not, and those of the source that go.

A word is what stands between spaces, and of scripts without spaces each character; case and the punctuation around it do not count.
Words are told by their index, which is what a backbone maps to its tokens.
"""

import difflib
import re
import string
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # kana and Han
_WORD = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")
_ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True)
class Change:
    """Indices of the words that change: `source` go, `target` come."""

    source: tuple[int, ...]
    target: tuple[int, ...]


def pieces(text: str) -> list[str]:
    """A prompt's words as they are written."""
    return _WORD.findall(text)


def split(text: str) -> list[str]:
    """A prompt's words as they are compared."""
    return [w.strip(string.punctuation).lower() or w for w in pieces(text)]


def changed(source: str, target: str, named: Sequence[str] = ()) -> Change:
    """Compare two prompts. An article counts only where nothing else changes.

    named: words or phrases of the target that drive the edit, in place of those that differ; in the source then what stood in their
    place does. Of a word that occurs twice the occurrence that differs is meant; where the comparison cannot tell, all are, with a
    warning. Raises ValueError for a named word that the target has not.
    """
    before, after = split(source), split(target)
    opcodes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    gone = [i for kind, a, b, _, _ in opcodes if kind != "equal" for i in range(a, b)]
    new = [j for kind, _, _, c, d in opcodes if kind != "equal" for j in range(c, d)]
    if named:
        meant = {j for phrase in named for j in _found(phrase, after, new)}
        stood = {a + j - c for kind, a, b, c, d in opcodes if kind == "equal" for j in meant if c <= j < d}
        stood |= {i for kind, a, b, c, d in opcodes if kind == "replace" and meant & set(range(c, d)) for i in range(a, b)}
        return Change(_telling(sorted(stood), before), tuple(sorted(meant)))
    return Change(_telling(gone, before), _telling(new, after))


def _telling(indices: list[int], words: list[str]) -> tuple[int, ...]:
    return tuple(i for i in indices if words[i] not in _ARTICLES) or tuple(indices)


def told(change: Change, source: str) -> Change:
    """The change; warns where no word of the target drives the edit."""
    if not change.target:
        lost = " ".join(pieces(source)[i] for i in change.source)
        why = f"the target only leaves out {lost!r}" if lost else "the prompts differ in no word"
        warnings.warn(f"{why}: no word of the target drives the edit; name one with --words", stacklevel=2)
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
    spans = []
    for word in _WORD.finditer(text):
        inner = word.group().strip(string.punctuation) or word.group()  # a comma after a word is not the word
        begin = word.start() + word.group().index(inner)
        spans.append((begin, begin + len(inner)))
    chosen = [spans[i] for i in indices if i < len(spans)]
    offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping
    return tuple(t for t, (a, b) in enumerate(offsets) if b > a and any(a < d and b > c for c, d in chosen) and text[a:b].strip())
