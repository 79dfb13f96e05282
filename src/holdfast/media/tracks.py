"""The tracks of a file next to its video: audio, subtitles, data, attachments, covers."""

from dataclasses import dataclass
from fractions import Fraction

from av.container.core import Container
from av.stream import Disposition, Stream

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


@dataclass(frozen=True)
class Track:
    """A track next to the video. kind: audio, subtitle, data, attachment, video or cover."""

    index: int  # in the file
    kind: str
    codec: str  # FFmpeg's name; where FFmpeg has none, the name that the file gives
    number: int  # among the tracks of its kind, from 1
    start: Fraction | None = None  # seconds
    is_decodable: bool = True

    def __str__(self) -> str:
        return f"{self.kind} track {self.number} ({self.codec})"


def list_tracks(container: Container, video: Stream) -> tuple[Track, ...]:
    """Return all tracks of a container except the given video track."""
    tracks: list[Track] = []
    for stream in container.streams:
        is_own = is_timecode(stream) or _is_chapter_track(stream, container)
        if stream.index == video.index or is_own:
            continue
        kind = _track_kind(stream)
        number = 1 + sum(track.kind == kind for track in tracks)
        # PyAV has no codec context for a track that FFmpeg cannot decode, whatever its stubs say.
        is_decodable = stream.codec_context is not None
        tracks.append(
            Track(stream.index, kind, _codec_name(stream), number, _start(stream), is_decodable)
        )
    return tuple(tracks)


def _start(stream: Stream) -> Fraction | None:
    """Return the time of a track's first packet in seconds, or None where the file does not say."""
    if stream.start_time is None or stream.time_base is None:
        return None
    return stream.start_time * stream.time_base


def is_timecode(stream: Stream) -> bool:
    """Return whether a track holds only the time of day of the first frame. The video track's tags repeat it."""
    return stream.type == "data" and "timecode" in stream.metadata


def _is_chapter_track(stream: Stream, container: Container) -> bool:
    """Return whether a QuickTime track holds the titles of the chapters, which are copied as metadata."""
    count = len(container.chapters())
    return stream.type == "data" and stream.codec_context is None and stream.frames == count > 0


def _track_kind(stream: Stream) -> str:
    if stream.type == "video" and stream.disposition & Disposition.attached_pic:
        return "cover"
    return stream.type


def _codec_name(stream: Stream) -> str:
    if stream.codec_context is not None:
        return stream.codec_context.codec.canonical_name
    name = stream.metadata.get("handler_name", "").strip() if stream.type == "data" else ""
    return name or stream.metadata.get("filename") or "codec unknown"
