"""Find out whether a file is as long as its own structure says.

A copy that broke off is shorter, whatever its header counts.
"""

from pathlib import Path
from typing import BinaryIO

EBML = b"\x1a\x45\xdf\xa3"  # the first bytes of a Matroska file
SEGMENT = b"\x18\x53\x80\x67"  # Matroska's element that holds the whole clip
RIFF = b"RIFF"  # AVI's chunk; a file may hold several, one after the other


def is_complete(path: Path) -> bool | None:
    """Return whether an AVI or Matroska file is complete.

    Return None where the file does not say: other containers, and live recordings.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        end = _riff_end(file, size) if head == RIFF else None
        if head == EBML:
            end = _segment_end(file)
    return None if end is None else end <= size


def _riff_end(file: BinaryIO, size: int) -> int | None:
    """Return the offset at which the last chunk that begins within the file ends.

    Return None where the recorder stopped before it wrote a chunk's length.
    """
    end = 0
    while end + 8 <= size:
        file.seek(end)
        kind, length = file.read(4), int.from_bytes(file.read(4), "little")
        if kind != RIFF:
            break
        if length == 0:
            return None
        end += 8 + length + length % 2
    return end - 1 if end == size + 1 else end  # the last byte of padding may be absent


def _segment_end(file: BinaryIO) -> int | None:
    """Return the offset at which the segment ends, or None where its length was not known when it was written."""
    _read_id(file)
    header = _read_length(file)
    if header is None:
        return None
    file.seek(header, 1)
    if _read_id(file) != SEGMENT:
        return None
    length = _read_length(file)
    return None if length is None else file.tell() + length


def _read_id(file: BinaryIO) -> bytes:
    first = file.read(1)
    return first + file.read(_vint_width(first) - 1)


def _vint_width(first: bytes) -> int:
    """Return how many bytes an EBML number has, from its first byte: the leading zero bits, plus one."""
    return 9 - first[0].bit_length() if first and first[0] else 1


def _read_length(file: BinaryIO) -> int | None:
    first = file.read(1)
    width = _vint_width(first)
    value = int.from_bytes(first + file.read(width - 1), "big")
    unknown = (1 << 7 * width) - 1
    length = value & unknown
    return None if length == unknown else length
