"""A prompt as text: where its words stand, how a word is compared, and the form that goes to a tokenizer.

Two programs write the same sentence with other characters: curly quotes, an accent as a character of its own, a hyphen
that does not break, a space of another width. None of these is a difference in meaning, so none of them is compared.
"""

import functools
import html
import re
import unicodedata

APOSTROPHES = "'`\u00b4\u02b9\u02bb\u02bc\u02bd\u02c8\u2018\u2019\u201b\u2032\u275b\u275c\uff07"
SYMBOLS = (
    "$+<=>^|~\u2044\u2212\u275d\u275e\u275f\u2760\u2800"  # of category S, but used as punctuation
)
INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # letters and marks that are never seen
VOICED = "\u3099\u309a\uff9e\uff9f"  # of kana, as characters of their own
BETWEEN_DIGITS = ".,:\u066b\u066c\u2024"


class _Classes(dict):
    """One letter for the class of each character, looked up once: for str.translate."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _class_of(chr(code))
        return found


def _class_of(character: str) -> str:
    """w letter or picture, n digit, u a word of its own, m mark, i not seen, a apostrophe, d between digits, or a space
    for what parts words.
    """
    category = unicodedata.category(character)
    if character in INVISIBLE or category == "Cf" or _selects_a_variant(character):
        return "i"
    if character in APOSTROPHES:
        return "a"
    if character in BETWEEN_DIGITS:
        return "d"
    if character in VOICED or category[0] == "M" or "\U0001f3fb" <= character <= "\U0001f3ff":
        return "m"
    if character in SYMBOLS or category[0] in "PZ" or category in ("Cc", "Sk"):
        return " "
    if category[0] == "N":
        return "n"
    return "u" if _is_unspaced(character) else "w"


def _selects_a_variant(character: str) -> bool:
    return "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef"


def _is_unspaced(character: str) -> bool:
    """Whether it is kana or Han, which are written without spaces: each is taken for a word."""
    ranges = (
        "\u3040\u30ff",
        "\u3400\u9fff",
        "\uf900\ufaff",
        "\uff66\uff9d",
        "\U00020000\U0003ffff",
    )
    return any(first <= character <= last for first, last in ranges)


_CLASSES = _Classes()
# A letter or digit, then more of them; an apostrophe, or what stands between digits, only within.
_WORD = re.compile("u[mi]*|[wn](?:[wnmi]|a(?=i*[wn])|(?<=n)d(?=n))*")
_DROPPED = re.compile(f"[{re.escape(APOSTROPHES)}]")


def locate_words(text: str) -> list[tuple[int, int]]:
    """Return where each word stands, (first, end), without the punctuation around it and between its parts."""
    return [match.span() for match in _WORD.finditer(text.translate(_CLASSES))]


@functools.lru_cache(maxsize=4096)  # a prompt says the same words again
def fold(word: str) -> str:
    """Return a word as it is compared: compatible characters as one, without case, apostrophes and what is not seen."""
    plain = _DROPPED.sub("", word)
    plain = "".join(c for c in plain if _CLASSES[ord(c)] != "i")
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", plain).casefold())
    folded = folded.replace("i\u0307", "i").replace("\u0131", "i")  # Turkish has two of them
    return _DROPPED.sub("", folded)


def clean_prompt(text: str) -> str:
    """Return a prompt as a model reads it: its encoding repaired (NFC), HTML entities resolved twice, single spaces.

    The authors of CLIP and of Wan do so before their tokenizers. Words are counted and tokens are placed in this text
    alone, so that both agree. Apply it once: a text that names an entity three times over changes each time.
    """
    import ftfy

    resolved = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", resolved).strip()


def are_same_prompts(one: str, other: str) -> bool:
    """Return whether two prompts have the same words: punctuation, case and the ways to write a letter do not count."""
    first, second = (
        [fold(text[a:b]) for a, b in locate_words(text)] for text in map(clean_prompt, (one, other))
    )
    return first == second
