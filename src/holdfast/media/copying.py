"""Copy the tracks next to a clip's video, packet by packet, in step with the video."""

import functools
import io
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.stream import Disposition, Stream

from ..base.notices import warn_user
from .metadata import track_tags
from .reading import Clip, open_container
from .tracks import CONTAINERS, Track

Packet: TypeAlias = "av.Packet[Stream]"  # PyAV's class is generic only in its stubs

DELAY_FORMATS = {"matroska,webm"}  # containers that say how many samples at the start are skipped
COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
MATROSKA = (".mkv", ".webm")
MIN_JUMP = Fraction(1, 2)  # seconds back: another recording in the same file, not a small disorder
MIN_PACKET_GAP = Fraction(1, 8000)  # seconds that a container's clock can resolve


def split_tracks(clip: Clip, suffix: str) -> tuple[tuple[Track, ...], tuple[Track, ...]]:
    """Return the clip's tracks that a file with this suffix can hold, and those that it cannot."""
    held = tuple(track for track in clip.tracks if can_hold(clip.path, track, suffix))
    return held, tuple(track for track in clip.tracks if track not in held)


def can_hold(path: Path, track: Track, suffix: str) -> bool:
    """Return whether a file with this suffix can hold a track of a file unchanged."""
    if suffix not in CONTAINERS:
        return False
    if track.kind == "attachment" or (track.kind == "cover" and suffix in MATROSKA):
        return suffix == ".mkv" and (track.kind == "attachment" or track.codec in COVERS)
    stat = path.stat()
    return _is_accepted(path, (stat.st_size, stat.st_mtime_ns), track, suffix)


@functools.lru_cache(maxsize=256)
def _is_accepted(path: Path, version: tuple[int, int], track: Track, suffix: str) -> bool:
    """Try to write one packet. Only the muxer knows, and some muxers accept tracks that they then do not write."""
    data = io.BytesIO()
    try:
        with (
            open_container(path) as source,
            av.open(data, "w", format=CONTAINERS[suffix]) as out,
        ):
            stream = _add_track(out, source, track, suffix)
            out.start_encoding()
            if stream is not None:
                out.mux(_first_packet(source, source.streams[track.index], stream))
        data.seek(0)
        with av.open(data, "r", metadata_errors="replace") as back:
            return len(back.streams) > 0
    except (ValueError, FFmpegError):
        return False


def _first_packet(source: InputContainer, track: Stream, stream: Stream) -> list[Packet]:
    packet = next((p for p in source.demux(track) if p.size), None)
    if packet is None:
        return []
    packet.dts, packet.pts, packet.stream = packet.dts or 0, packet.pts or 0, stream
    return [packet]


def _add_track(
    out: OutputContainer, source: InputContainer, track: Track, suffix: str
) -> Stream | None:
    """Add a track of the source to an output container.

    Return its stream, or None where it takes no packets. Raise ValueError or FFmpegError where the container does
    not accept it.
    """
    stream = source.streams[track.index]
    if track.kind == "cover" and suffix in MATROSKA:  # which stores covers as attached files
        out.add_attachment(*COVERS[track.codec], _read_cover(source, track))
        return None
    added = out.add_stream_from_template(stream, opaque=True)
    added.metadata.update(dict(track_tags(stream)))
    added.disposition = stream.disposition
    if track.kind == "video":
        added.disposition &= ~Disposition.default  # the edited video is the default
    return None if stream.type == "attachment" else added


def _read_cover(source: InputContainer, track: Track) -> bytes:
    """Read a cover from the file opened again: after a seek, packets before zero are no longer found."""
    with open_container(Path(source.name.removeprefix("file:"))) as again:
        packets = again.demux(again.streams[track.index])
        return bytes(next(packet for packet in packets if packet.size))


class TrackCopier:
    """Copy the tracks of a clip that a container can hold, with their languages and titles."""

    def __init__(self, out: OutputContainer, clip: Clip):
        self.out, self.clip = out, clip
        self.suffix = Path(out.name).suffix.lower()
        tracks, _ = split_tracks(clip, self.suffix)
        self.source = open_container(clip.path) if tracks else None
        self.streams: dict[int, Stream] = {}
        if self.source is not None:
            self._add_streams(self.source, tracks)
        self.packets = self._read_packets()
        self.waiting: Packet | None = None
        self.clocks = {index: _TrackClock(clip) for index in self.streams}

    def _add_streams(self, source: InputContainer, tracks: tuple[Track, ...]) -> None:
        for track in tracks:
            stream = _add_track(self.out, source, track, self.suffix)
            if stream is not None:
                self.streams[track.index] = stream

    def _read_packets(self) -> Iterator[Packet]:
        if self.source is not None and self.streams:
            streams = [self.source.streams[index] for index in self.streams]
            yield from self.source.demux(streams)

    def copy_until(self, seconds: float) -> None:
        """Copy the packets up to a time of the result."""
        while True:
            packet = self.waiting or next(self.packets, None)
            if packet is None:
                return
            if not packet.size:  # the end mark of a track
                continue
            if not self.waiting:
                self.clocks[packet.stream.index].retime(packet)
            self.waiting = None
            if packet.dts is not None and float(packet.dts * packet.time_base) > seconds:
                self.waiting = packet
                return
            self._copy(packet)

    def _copy(self, packet: Packet) -> None:
        if packet.dts is not None and not self._is_priming(packet):
            packet.stream = self.streams[packet.stream.index]
            self.out.mux(packet)

    def _is_priming(self, packet: Packet) -> bool:
        """Return whether a packet holds only an encoder's priming samples, which end at zero.

        MP4 hides them with an edit list. Matroska would play them, unless its header has a delay, which only Matroska
        sources provide.
        """
        assert self.source is not None
        to_matroska = self.suffix in MATROSKA and self.source.format.name not in DELAY_FORMATS
        if not to_matroska or packet.stream.type != "audio" or not packet.duration:
            return False
        if packet.pts is None or packet.stream.codec_context.name == "opus":
            return False
        return packet.pts + packet.duration <= 0

    def close(self) -> None:
        """Copy the remaining packets and close the source."""
        self.copy_until(float("inf"))
        repaired = sum(clock.repaired for clock in self.clocks.values())
        if repaired:
            warn_user(f"fixed {repaired} missing or out-of-order timestamps of the other tracks")
        if self.source:
            self.source.close()


class _TrackClock:
    """Give the packets of one track increasing times that begin with the clip's. No container takes others."""

    def __init__(self, clip: Clip):
        self.clip = clip
        self.offset, self.joined = Fraction(0), 0  # seconds; the number of recordings joined so far
        self.end: Fraction | None = None  # of the last packet, seconds
        self.last: Fraction | None = None  # decoding time of the last packet, seconds
        self.repaired = 0

    def retime(self, packet: Packet) -> None:
        """Give a packet its time in the result."""
        tick = packet.time_base
        if packet.dts is None:
            packet.dts = packet.pts
        if packet.dts is None:
            if packet.stream.disposition & Disposition.attached_pic:
                packet.dts = packet.pts = 0
            return
        here = packet.dts * tick - self.clip.time_offset
        if self.last is not None and here + self.offset < self.last - MIN_JUMP:
            self._join(here, self.last)
        shift = round((self.offset - self.clip.time_offset) / tick)
        packet.dts += shift
        packet.pts = packet.dts if packet.pts is None else packet.pts + shift
        dts = self._make_increasing(packet, packet.dts, packet.pts)
        self.last = dts * tick
        self.end = self.last + (packet.duration or 0) * tick

    def _join(self, here: Fraction, last: Fraction) -> None:
        """Start another recording: it moves with its video, or follows at once where that would be too early."""
        offsets, self.joined = self.clip.join_offsets, self.joined + 1
        offset = offsets[self.joined - 1] if self.joined <= len(offsets) else Fraction(0)
        assert self.end is not None  # it is set together with `last`
        self.offset = offset if here + offset >= last else self.end - here

    def _make_increasing(self, packet: Packet, dts: int, pts: int) -> int:
        """Move a packet behind the one before it where it is not. Return its decoding time."""
        if self.last is None or dts * packet.time_base > self.last:
            return dts
        apart = max(packet.time_base, MIN_PACKET_GAP)
        packet.dts = math.ceil((self.last + apart) / packet.time_base)
        packet.pts = max(pts, packet.dts)
        self.repaired += 1
        return packet.dts
