"""What a file holds next to its picture: sound, subtitles, data, a cover."""

from dataclasses import dataclass
from fractions import Fraction

from av.stream import Disposition

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


@dataclass(frozen=True)
class Track:
    """A track next to the picture. kind: audio, subtitle, data, attachment, video or cover."""

    index: int  # in the file
    kind: str
    codec: str  # FFmpeg's name; where it has none, what the file calls it
    number: int  # among those of its kind, from 1
    start: Fraction | None = None  # seconds
    is_decodable: bool = True

    def __str__(self) -> str:
        return f"{self.kind} track {self.number} ({self.codec})"


def list_tracks(container, picture) -> tuple[Track, ...]:
    """All tracks of a container but the picture."""
    tracks: list[Track] = []
    for stream in container.streams:
        if stream.index == picture.index or is_timecode(stream) or _is_chapters(stream, container):
            continue
        kind = _kind_of(stream)
        number = 1 + sum(track.kind == kind for track in tracks)
        start = None if stream.start_time is None else stream.start_time * stream.time_base
        known = stream.codec_context is not None
        tracks.append(Track(stream.index, kind, _codec_of(stream), number, start, known))
    return tuple(tracks)


def is_timecode(stream) -> bool:
    """Whether a track holds nothing but the time of day of the first frame, which the picture's track says too."""
    return stream.type == "data" and "timecode" in stream.metadata


def _is_chapters(stream, container) -> bool:
    """Whether a track of a QuickTime file holds the titles of its chapters, which are carried over for themselves."""
    count = len(container.chapters())
    return stream.type == "data" and stream.codec_context is None and stream.frames == count > 0


def _kind_of(stream) -> str:
    if stream.type == "video" and stream.disposition & Disposition.attached_pic:
        return "cover"
    return stream.type


def _codec_of(stream) -> str:
    if stream.codec_context is not None:
        return stream.codec_context.codec.canonical_name
    own = stream.metadata.get("handler_name", "").strip() if stream.type == "data" else ""
    return own or stream.metadata.get("filename") or "codec unknown"
