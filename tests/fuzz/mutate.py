"""How files, records and texts are broken. Everything is drawn from a `random.Random`, so that a seed says it all."""

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = [0, 1, -1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, -(2**31), 2**32 - 1]
VALUES: list[Any] = [
    None, True, -1, 0, 1e308, float("nan"), 2**63, 10**400, "", "x", "../../etc", "\0", "\ud800",
    [], {}, [[]], [None, None], {"a": {}}, "9" * 5000, "1:2", -0.5,
]  # fmt: skip
TEXTS = [
    "", " ", "a", "none", "nan", "inf", "-1", "0", "1e999", "9" * 400, "\n", "\x1b[2J", "[/red]",
    "é" * 300, "漢字" * 50, "\udcff", "🦊" * 70, "a ball" * 400, "%s%n", "{0}", "--", "-", "=", ":",
    "1:2:3", ",,,", "0,0,0,0", "/", ".", "..", "~", "*", "a\tb", "\u202e", "\u0000"[:0] + "\x07",
]  # fmt: skip


def broken(data: bytes, draw: Random) -> bytes:
    """Bytes with one to four things wrong."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        data = draw.choice(BREAKS)(data, draw)
    return data


def _flipped(data: bytes, draw: Random) -> bytes:
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 8, 64))):
        if out:
            out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    return bytes(out)


def _cut(data: bytes, draw: Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _without(data: bytes, draw: Random) -> bytes:
    a, b = _span(data, draw)
    return data[:a] + data[b:]


def _twice(data: bytes, draw: Random) -> bytes:
    a, b = _span(data, draw)
    return data[:b] + data[a:b] + data[b:]


def _zeroed(data: bytes, draw: Random) -> bytes:
    a, b = _span(data, draw)
    return data[:a] + bytes(b - a) + data[b:]


def _noise(data: bytes, draw: Random) -> bytes:
    a, _ = _span(data, draw)
    return data[:a] + draw.randbytes(draw.choice((1, 4, 200))) + data[a:]


def _number(data: bytes, draw: Random) -> bytes:
    """A number of a header that lies."""
    size = draw.choice((1, 2, 4, 8))
    at = draw.randrange(len(data) + 1)
    at = min(at, 64) if draw.random() < 0.3 else at
    value = draw.choice(NUMBERS) % 256**size
    return data[:at] + value.to_bytes(size, draw.choice(("big", "little"))) + data[at + size :]


def _nothing(data: bytes, draw: Random) -> bytes:
    return draw.choice((b"", b"\0", b"\xff" * 64, b"{}", b"[]", b"null", b"\xef\xbb\xbf" + data))


BREAKS: list[Callable[[bytes, Random], bytes]] = [
    _flipped, _flipped, _cut, _without, _twice, _zeroed, _noise, _number, _number, _number, _nothing,
]  # fmt: skip


def _span(data: bytes, draw: Random) -> tuple[int, int]:
    a = draw.randrange(len(data) + 1)
    return a, min(len(data), a + draw.choice((1, 4, 16, 256, 4096)))


def broken_json(data: bytes, draw: Random) -> bytes:
    """JSON that still is some, with a value or a key that nobody expects; now and then none at all."""
    if draw.random() < 0.2:
        return broken(data, draw)
    record = json.loads(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        record = _changed(record, draw)
    text = json.dumps(record)
    if draw.random() < 0.03:
        text = "[" * 100_000 + text
    return text.encode()


def _changed(record: Any, draw: Random) -> Any:
    inside = isinstance(record, dict | list) and len(record)
    if not inside or draw.random() < 0.1:
        # a copy: a case must not change what the next one is drawn from
        return copy.deepcopy(draw.choice(VALUES))
    key = draw.choice(list(record)) if isinstance(record, dict) else draw.randrange(len(record))
    if draw.random() < 0.15:
        del record[key]
    elif draw.random() < 0.1 and isinstance(record, dict):
        record[draw.choice(("extra", "", "key", key.upper()))] = record[key]
    else:
        record[key] = _changed(record[key], draw)
    return record


def broken_tensors(data: bytes, draw: Random) -> bytes:
    """A safetensors file with a header that says something else, or other bytes."""
    if draw.random() < 0.4:
        return broken(data, draw)
    size = int.from_bytes(data[:8], "little")
    header = broken_json(data[8 : 8 + size], draw)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def broken_text(text: str, draw: Random) -> str:
    if draw.random() < 0.5:
        return draw.choice(TEXTS)
    at = draw.randrange(len(text) + 1)
    return text[:at] + draw.choice(TEXTS) + text[at:]
