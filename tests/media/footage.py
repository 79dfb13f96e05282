"""Small clips with other programs' habits, written through PyAV and not by our writer."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av

from holdfast.media import video

from ..conftest import picture, write_tone

RATE = 8  # frames a second
SIZE = (64, 48)


def encode(
    path: Path,
    numbers: Iterable[int] = range(9),
    codec: str = "libx264",
    options: dict | None = None,
    matrix: tuple[int, ...] = (),
    sound: str = "",
) -> Path:
    """Write frames at these numbers' times: one that is left out was dropped."""
    numbers = list(numbers)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.options = options or {}
        if matrix:
            stream.set_display_matrix(matrix)
        tone = out.add_stream(sound, rate=44100) if sound else None
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(picture(number, *SIZE), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            out.mux(stream.encode(frame.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
        if tone:
            write_tone(out, tone, 440, (numbers[-1] + 1) / RATE)
    return path


def remux(
    source: Path, path: Path, retime: Callable[[int, av.Packet], int], options: dict | None = None
) -> Path:
    """Copy a clip with other times: retime gives the ticks by which the n-th packet of its track is moved."""
    with av.open(str(source)) as known, av.open(str(path), "w", options=options or {}) as out:
        streams = {s.index: out.add_stream_from_template(s) for s in known.streams}
        counts = dict.fromkeys(streams, 0)
        for packet in known.demux():
            if packet.dts is None:
                continue
            moved = retime(counts[packet.stream.index], packet)
            counts[packet.stream.index] += 1
            packet.pts, packet.dts = packet.pts + moved, packet.dts + moved
            packet.stream = streams[packet.stream.index]
            out.mux(packet)
    return path


def rewrite(source: Path, path: Path) -> list[float]:
    """Write a clip as an edit does that changes nothing; return the times of its frames as PyAV reads them."""
    clip = video.probe(source)
    video.check_output(path, clip)
    video.write(path, clip, (video.OutputFrame(None, own) for own in video.read_stored(clip)))
    return times(path)


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]


def sound_times(path: Path) -> list[float]:
    """When each decoded block of the first sound track is heard."""
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(audio=0)]


def every(numbers: Iterable[float], start: float = 0.0) -> list[float]:
    return [start + number / RATE for number in numbers]


class Pipe:
    """A file that cannot be gone back in, as a recorder's upload is."""

    def __init__(self, file):
        self.write = file.write
