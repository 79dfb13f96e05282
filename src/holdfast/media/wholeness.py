"""Whether a file is as long as its own structure says: a copy that broke off is not, whatever its header counts."""

from pathlib import Path
from typing import BinaryIO

SEGMENT = b"\x18\x53\x80\x67"  # Matroska's: the whole clip
RIFF = b"RIFF"  # of AVI, which may have several one after the other
EBML = b"\x1a\x45\xdf\xa3"


def is_complete(path: Path) -> bool | None:
    """Whether an AVI or Matroska file is whole; None where a file does not say (others, and live recordings)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        end = _end_of_riff(file, size) if head == RIFF else None
        if head == EBML:
            end = _end_of_segment(file)
    return None if end is None else end <= size


def _end_of_riff(file: BinaryIO, size: int) -> int | None:
    """Where the last chunk ends that begins within the file; None where a recorder never came to write its length."""
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


def _end_of_segment(file: BinaryIO) -> int | None:
    """None where the length was not known when it was written."""
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
    return first + file.read(_width(first) - 1)


def _width(first: bytes) -> int:
    """How many bytes a number of EBML has: as many as zeros before its first one, and one."""
    return 9 - first[0].bit_length() if first and first[0] else 1


def _read_length(file: BinaryIO) -> int | None:
    first = file.read(1)
    width = _width(first)
    whole = int.from_bytes(first + file.read(width - 1), "big")
    number = whole & ((1 << 7 * width) - 1)
    return None if number == (1 << 7 * width) - 1 else number
