"""What a file holds next to its picture (sound, subtitles, data, a cover), and what of it another container holds."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import av
from av.stream import Disposition

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
TIMECODE = "tmcd"
COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}


@dataclass(frozen=True)
class Track:
    """A track next to the picture. kind: audio, subtitle, data, attachment, video, cover or timecode."""

    index: int  # in the file
    kind: str
    codec: str  # FFmpeg's name; where it has none, the four letters that the file has
    number: int  # among those of its kind, from 1
    start: Fraction | None = None  # seconds

    def __str__(self) -> str:
        return f"{self.kind} track {self.number} ({self.codec})"


def list_tracks(container, picture) -> tuple[Track, ...]:
    """All tracks of a container but the picture."""
    tracks: list[Track] = []
    for stream in container.streams:
        if stream.index == picture.index:
            continue
        kind = _kind_of(stream)
        number = 1 + sum(track.kind == kind for track in tracks)
        start = None if stream.start_time is None else stream.start_time * stream.time_base
        tracks.append(Track(stream.index, kind, _codec_of(stream), number, start))
    return tuple(tracks)


def _kind_of(stream) -> str:
    if stream.type == "video" and stream.disposition & Disposition.attached_pic:
        return "cover"
    return "timecode" if _codec_of(stream) == TIMECODE else stream.type


def _codec_of(stream) -> str:
    if stream.codec_context is not None:
        return stream.codec_context.name
    tag = str(getattr(stream, "codec_tag", "") or "").strip("\0 ")
    return tag if tag.isprintable() and tag else "of an unknown kind"


def split_tracks(
    source, tracks: Iterable[Track], suffix: str
) -> tuple[tuple[Track, ...], tuple[Track, ...]]:
    """Those of a container's tracks that a file of this suffix can hold, and the others."""
    tracks = tuple(tracks)
    held = [track for track in tracks if can_hold(source, track, suffix)]
    return tuple(held), tuple(track for track in tracks if track not in held)


def can_hold(source, track: Track, suffix: str) -> bool:
    """Whether a file of this suffix takes a track as it is. It is tried: only the muxer itself knows."""
    if suffix not in CONTAINERS:
        return False
    if track.kind == "timecode":  # written from the picture's metadata
        return suffix != ".webm"
    nowhere = io.BytesIO()
    try:
        with av.open(nowhere, "w", format=CONTAINERS[suffix]) as out:
            add_track(out, source, track, suffix)
            out.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True


def add_track(out, source, track: Track, suffix: str):
    """Add a source's track to a container that is written; return its stream, None where it takes no packets.

    Raises ValueError or av.FFmpegError where the container does not take it.
    """
    stream = source.streams[track.index]
    if track.kind == "timecode":
        return None
    if track.kind == "cover" and suffix == ".mkv":
        name, kind = COVERS[track.codec]
        out.add_attachment(name, kind, _cover(source, stream))
        return None
    made = out.add_stream_from_template(stream, opaque=True)
    made.metadata.update(stream.metadata)
    made.disposition = stream.disposition
    return None if stream.type == "attachment" else made


def _cover(source, stream) -> bytes:
    """A cover comes before all other packets."""
    packet = next((packet for packet in source.demux(stream) if packet.size), None)
    source.seek(0)
    return bytes(packet) if packet else b""
