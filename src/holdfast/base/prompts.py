"""Prompts as text: the positions of words, the comparison of words, and the form that goes to a tokenizer.

Two programs may write the same sentence with different characters: curly quotes, an accent as a separate character, a
non-breaking hyphen, a space of another width. None of these changes the meaning, so the comparison ignores them.
"""

import functools
import html
import re
import unicodedata

APOSTROPHES = "'`\u00b4\u02b9\u02bb\u02bc\u02bd\u02c8\u2018\u2019\u201b\u2032\u275b\u275c\uff07"
SYMBOLS = (
    "$+<=>^|~\u2044\u2212\u275d\u275e\u275f\u2760\u2800"  # of category S, but used as punctuation
)
INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # letters and marks without a glyph
VOICED = "\u3099\u309a\uff9e\uff9f"  # marks of kana, as separate characters
BETWEEN_DIGITS = ".,:\u066b\u066c\u2024"


class _Classes(dict):
    """The class of each character as one letter, computed once, for str.translate."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _class_of(chr(code))
        return found


def _class_of(character: str) -> str:
    """Return the class of a character: w letter or picture, n digit, u a word by itself, m mark, i invisible,
    a apostrophe, d punctuation inside numbers, space for a separator.
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
    """Return whether a character is kana or Han. They are written without spaces: each one counts as a word."""
    ranges = (
        "\u3040\u30ff",
        "\u3400\u9fff",
        "\uf900\ufaff",
        "\uff66\uff9d",
        "\U00020000\U0003ffff",
    )
    return any(first <= character <= last for first, last in ranges)


_CLASSES = _Classes()
# Letters and digits. An apostrophe, or punctuation of numbers, only inside.
_WORD = re.compile("u[mi]*|[wn](?:[wnmi]|a(?=i*[wn])|(?<=n)d(?=n))*")
_DROPPED = re.compile(f"[{re.escape(APOSTROPHES)}]")


def locate_words(text: str) -> list[tuple[int, int]]:
    """Return the span (start, end) of each word, without the punctuation around it."""
    return [match.span() for match in _WORD.finditer(text.translate(_CLASSES))]


@functools.lru_cache(maxsize=4096)  # prompts repeat their words
def fold(word: str) -> str:
    """Return a word for comparison: characters unified (NFKC); no case, apostrophes or invisible characters."""
    plain = _DROPPED.sub("", word)
    plain = "".join(c for c in plain if _CLASSES[ord(c)] != "i")
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", plain).casefold())
    folded = folded.replace("i\u0307", "i").replace("\u0131", "i")  # Turkish has two letters i
    return _DROPPED.sub("", folded)


def clean_prompt(text: str) -> str:
    """Return a prompt as a model reads it: its encoding repaired (NFC), HTML entities resolved twice, single spaces.

    The authors of CLIP and of Wan do the same before their tokenizers. Words are counted and tokens are located in this
    text only, so that both agree. Apply it once: a text with a triply escaped entity changes each time.
    """
    import ftfy

    resolved = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", resolved).strip()


def are_same_prompts(one: str, other: str) -> bool:
    """Return whether two prompts have the same words. Punctuation, case and variants of a letter do not count."""
    first, second = (
        [fold(text[a:b]) for a, b in locate_words(text)] for text in map(clean_prompt, (one, other))
    )
    return first == second
