"""Copy the tracks next to a clip's picture, packet by packet, in step with the picture."""

from collections.abc import Iterator
from pathlib import Path

import av

from ..notes import note
from .reading import Clip, container_of
from .tracks import Track, add_track, split_tracks

SKIPPED = {"opus"}  # codecs whose own header says how many samples at the start are not heard


def kept_tracks(clip: Clip, suffix: str) -> tuple[tuple[Track, ...], tuple[Track, ...]]:
    """The clip's tracks that a file of this suffix holds, and those that it cannot hold."""
    if not clip.tracks:
        return (), ()
    with container_of(clip.path) as source:
        return split_tracks(source, clip.tracks, suffix)


class CopiedTracks:
    """The tracks of a clip that a container can hold, with their language and titles."""

    def __init__(self, out, clip: Clip):
        self.out, self.clip = out, clip
        self.suffix = Path(out.name).suffix.lower()
        self.tracks, _ = kept_tracks(clip, self.suffix)
        self.source = container_of(clip.path) if self.tracks else None
        added = {t.index: add_track(out, self.source, t, self.suffix) for t in self.tracks}
        self.streams = {index: stream for index, stream in added.items() if stream is not None}
        self.packets = self._packets()
        self.waiting: av.Packet | None = None
        self.last: dict[int, int] = {}  # each track's time of decoding
        self.mended = 0

    def _packets(self) -> Iterator[av.Packet]:
        if self.streams:
            yield from self.source.demux([self.source.streams[index] for index in self.streams])

    def until(self, seconds: float) -> None:
        """Copy what is heard and read up to a time of the result."""
        while True:
            packet = self.waiting or next(self.packets, None)
            self.waiting = None
            if packet is None:
                return
            if not packet.size:  # the end mark of a track
                continue
            time = packet.pts if packet.dts is None else packet.dts
            start = float((time or 0) * packet.time_base - self.clip.start)
            if start > seconds:
                self.waiting = packet
                return
            self._copy(packet)

    def _copy(self, packet: av.Packet) -> None:
        shift = round(self.clip.start / packet.time_base)
        if packet.pts is not None:
            packet.pts -= shift
        packet.dts = packet.pts if packet.dts is None else packet.dts - shift
        if packet.dts is not None and not self._is_never_heard(packet):
            self._in_order(packet)
            packet.stream = self.streams[packet.stream.index]
            self.out.mux(packet)

    def _is_never_heard(self, packet: av.Packet) -> bool:
        """What an encoder puts before the first sample ends at zero. MP4 cuts it off by an edit list; Matroska, which
        has none, would move everything else to make room for it.
        """
        matroska = self.suffix in (".mkv", ".webm") and packet.stream.type == "audio"
        if not matroska or packet.pts is None or packet.stream.codec_context.name in SKIPPED:
            return False
        return packet.pts + (packet.duration or 0) <= 0 and bool(packet.duration)

    def _in_order(self, packet: av.Packet) -> None:
        """Times that go backwards are found in damaged files, and no container takes them."""
        track = packet.stream.index
        least = self.last.get(track, packet.dts - 1) + 1
        if packet.dts < least or packet.pts is None:
            packet.dts = max(packet.dts, least)
            packet.pts = max(packet.pts or packet.dts, packet.dts)
            self.mended += 1
        self.last[track] = packet.dts

    def close(self) -> None:
        """Copy the rest."""
        self.until(float("inf"))
        if self.mended:
            note(
                f"packets of the source's sound whose times go backwards: {self.mended}; now they follow one another"
            )
        if self.source:
            self.source.close()
