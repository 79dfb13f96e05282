"""Copy the tracks next to a clip's picture, packet by packet, in step with the picture."""

import functools
import io
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.stream import Disposition

from ..base.notices import note
from .metadata import track_tags
from .reading import Clip, container_of
from .tracks import CONTAINERS, Track

DELAYED = {"matroska,webm"}  # containers that say how many samples at the start are not heard
COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
MATROSKA = (".mkv", ".webm")
JUMP = Fraction(1, 2)  # seconds back: another recording in the same file, and no disorder
LEAST = Fraction(1, 8000)  # seconds between two packets that a container's clock can tell apart


def split_tracks(clip: Clip, suffix: str) -> tuple[tuple[Track, ...], tuple[Track, ...]]:
    """The clip's tracks that a file of this suffix holds, and those that it cannot hold."""
    held = tuple(track for track in clip.tracks if can_hold(clip.path, track, suffix))
    return held, tuple(track for track in clip.tracks if track not in held)


def can_hold(path: Path, track: Track, suffix: str) -> bool:
    """Whether a file of this suffix takes a file's track as it is."""
    if suffix not in CONTAINERS:
        return False
    if track.kind == "attachment" or (track.kind == "cover" and suffix in MATROSKA):
        return suffix == ".mkv" and (track.kind == "attachment" or track.codec in COVERS)
    stat = path.stat()
    return _is_taken(path, (stat.st_size, stat.st_mtime_ns), track, suffix)


@functools.lru_cache(maxsize=256)
def _is_taken(path: Path, version: tuple[int, int], track: Track, suffix: str) -> bool:
    """Try it with a packet: only the muxer itself knows, and what some of them take they do not write."""
    written = io.BytesIO()
    try:
        with (
            container_of(path) as source,
            av.open(written, "w", format=CONTAINERS[suffix]) as out,
        ):
            stream = _add_track(out, source, track, suffix)
            out.start_encoding()
            if stream is not None:
                out.mux(_first_packet(source, source.streams[track.index], stream))
        written.seek(0)
        with av.open(written, metadata_errors="replace") as back:
            return len(back.streams) > 0
    except (ValueError, av.FFmpegError):
        return False


def _first_packet(source, track, stream) -> list[av.Packet]:
    packet = next((p for p in source.demux(track) if p.size), None)
    if packet is None:
        return []
    packet.dts, packet.pts, packet.stream = packet.dts or 0, packet.pts or 0, stream
    return [packet]


def _add_track(out, source, track: Track, suffix: str):
    """Add a source's track to a container that is written; return its stream, None where it takes no packets.

    Raises ValueError or av.FFmpegError where the container does not take it.
    """
    stream = source.streams[track.index]
    if (
        track.kind == "cover" and suffix in MATROSKA
    ):  # which has files, and no tracks of one picture
        out.add_attachment(*COVERS[track.codec], _read_cover(source, track))
        return None
    made = out.add_stream_from_template(stream, opaque=True)
    made.metadata.update(dict(track_tags(stream)))
    made.disposition = stream.disposition
    if track.kind == "video":
        made.disposition &= ~Disposition.default  # the clip is what is shown first
    return None if stream.type == "attachment" else made


def _read_cover(source, track: Track) -> bytes:
    """Read it from the file opened again: after a seek, packets before zero are not seen any more."""
    with container_of(Path(source.name.removeprefix("file:"))) as own:
        packets = own.demux(own.streams[track.index])
        return bytes(next(packet for packet in packets if packet.size))


class CopiedTracks:
    """The tracks of a clip that a container can hold, with their language and titles."""

    def __init__(self, out, clip: Clip):
        self.out, self.clip = out, clip
        self.suffix = Path(out.name).suffix.lower()
        self.tracks, _ = split_tracks(clip, self.suffix)
        self.source = container_of(clip.path) if self.tracks else None
        added = {t.index: _add_track(out, self.source, t, self.suffix) for t in self.tracks}
        self.streams = {index: stream for index, stream in added.items() if stream is not None}
        self.packets = self._packets()
        self.waiting: av.Packet | None = None
        self.lines = {index: _Line(clip) for index in self.streams}

    def _packets(self) -> Iterator[av.Packet]:
        if self.streams:
            yield from self.source.demux([self.source.streams[index] for index in self.streams])

    def until(self, seconds: float) -> None:
        """Copy what is heard and read up to a time of the result."""
        while True:
            packet = self.waiting or next(self.packets, None)
            if packet is None:
                return
            if not packet.size:  # the end mark of a track
                continue
            if not self.waiting:
                self.lines[packet.stream.index].move(packet)
            self.waiting = None
            if packet.dts is not None and float(packet.dts * packet.time_base) > seconds:
                self.waiting = packet
                return
            self._copy(packet)

    def _copy(self, packet: av.Packet) -> None:
        if packet.dts is not None and not self._is_never_heard(packet):
            packet.stream = self.streams[packet.stream.index]
            self.out.mux(packet)

    def _is_never_heard(self, packet: av.Packet) -> bool:
        """What an encoder puts before the first sample ends at zero. MP4 cuts it off by an edit list; Matroska without
        a delay in its header, which only its own files bring along, would play it.
        """
        to_matroska = self.suffix in MATROSKA and self.source.format.name not in DELAYED
        if not to_matroska or packet.stream.type != "audio" or not packet.duration:
            return False
        return packet.stream.codec_context.name != "opus" and packet.pts + packet.duration <= 0

    def close(self) -> None:
        """Copy the rest."""
        self.until(float("inf"))
        mended = sum(line.mended for line in self.lines.values())
        if mended:
            note(
                f"packets of the source's other tracks whose times go backwards or are missing: {mended}; "
                "now they follow one another"
            )
        if self.source:
            self.source.close()


class _Line:
    """The times of one track, which begin as the clip's do and rise: no container takes others."""

    def __init__(self, clip: Clip):
        self.clip = clip
        self.offset, self.joined = Fraction(0), 0  # seconds; how many recordings were joined so far
        self.end: Fraction | None = None  # of the last packet, seconds
        self.last: Fraction | None = None  # its time of decoding
        self.mended = 0

    def move(self, packet: av.Packet) -> None:
        """Give a packet its time in the result."""
        tick = packet.time_base
        if packet.dts is None:
            packet.dts = packet.pts
        if packet.dts is None:
            if packet.stream.disposition & Disposition.attached_pic:
                packet.dts = packet.pts = 0
            return
        here = packet.dts * tick - self.clip.start
        if self.last is not None and here + self.offset < self.last - JUMP:
            self._join(here)
        shift = round((self.offset - self.clip.start) / tick)
        packet.dts += shift
        packet.pts = packet.dts if packet.pts is None else packet.pts + shift
        self._raise_time(packet)
        self.last = packet.dts * tick
        self.end = self.last + (packet.duration or 0) * tick

    def _join(self, here: Fraction) -> None:
        """Another recording begins: it follows as its picture does, or at once where that would be too early."""
        joins, self.joined = self.clip.joins, self.joined + 1
        offset = joins[self.joined - 1] if self.joined <= len(joins) else Fraction(0)
        self.offset = offset if here + offset >= self.last else self.end - here

    def _raise_time(self, packet: av.Packet) -> None:
        if self.last is None or packet.dts * packet.time_base > self.last:
            return
        apart = max(packet.time_base, LEAST)
        packet.dts = math.ceil((self.last + apart) / packet.time_base)
        packet.pts = max(packet.pts, packet.dts)
        self.mended += 1
