"""The tokens of a prompt, and which of them are a word's: what methods need that edit attention maps word by word."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of a prompt as a text encoder reads them, without padding.

    ids: with the marks of begin and end. words: what stands between spaces. positions: those of each word's tokens;
    none for a word that was cut off.
    """

    ids: tuple[int, ...]
    words: tuple[str, ...]
    positions: tuple[tuple[int, ...], ...]


def locate_tokens(tokenizer: Any, text: str, length: int) -> PromptTokens:
    """Return the tokens of a cleaned prompt, by the tokenizer's offsets. length: the most that the encoder reads."""
    encoded = tokenizer(text, truncation=True, max_length=length, return_offsets_mapping=True)
    words = text.split(" ")
    found: list[list[int]] = [[] for _ in words]
    starts = [sum(len(word) + 1 for word in words[:i]) for i in range(len(words) + 1)]
    for position, (first, end) in enumerate(encoded.offset_mapping):
        if not text[first:end].strip():
            continue  # a mark
        first += len(text[first:end]) - len(text[first:end].lstrip())  # some keep the space before
        word = next(i for i in range(len(words)) if first < starts[i + 1])
        found[word].append(position)
    return PromptTokens(tuple(encoded.input_ids), tuple(words), tuple(map(tuple, found)))
