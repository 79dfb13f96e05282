"""One frame by its number: the frame that reading from the start gives, without decoding or converting the others."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest

from holdfast.media import frame_access, images, probing, video
from holdfast.media.frame_access import read_frame

COUNT, GROUP = 24, "8"
X264 = {"g": GROUP, "bf": "3", "threads": "1"}
ODD = {
    "b.mp4": ("libx264", X264),
    "b.mkv": ("libx264", X264),
    "b.ts": ("libx264", X264),
    "open.mp4": ("libx264", X264 | {"x264-params": "open-gop=1"}),
    "refresh.mkv": ("libx264", {"x264-params": "intra-refresh=1:keyint=8:bframes=0:threads=1"}),
    "fields.mp4": ("libx264", X264 | {"x264-params": "tff=1"}),
    "open.ts": ("libx265", {"x265-params": "keyint=8:open-gop=1:log-level=none"}),
    "hidden.webm": ("libvpx-vp9", {"g": GROUP, "auto-alt-ref": "1", "lag-in-frames": "8"}),
    "b.avi": ("mpeg4", {"g": GROUP, "bf": "2"}),
    "b2.mkv": ("mpeg2video", {"g": GROUP, "bf": "2"}),
    "all.mov": ("mjpeg", {}),
    "none.gif": ("gif", {}),
    "raw.h264": ("libx264", X264),
}
PIXELS = {"mjpeg": "yuvj420p", "gif": "rgb8"}


def write(path, codec, options, times=None):
    # Of pictures under 64 pixels a side x265 writes beside its memory.
    width, height = (64, 64) if codec == "libx265" else (48, 32)
    texture = np.random.default_rng(0).integers(0, 256, (height, 240, 3), dtype=np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=Fraction(25), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, PIXELS.get(codec, "yuv420p")
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(COUNT):
            moved = texture[:, 4 * i : 4 * i + width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(moved))
            if times:
                frame.pts, frame.time_base = times(i), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def same_as_sequential(path):
    clip = video.probe(path)
    for number, frame in enumerate(video.read(clip)):
        assert np.array_equal(read_frame(clip, number), images.to_8_bit(frame)), number
    return clip


@pytest.mark.parametrize("name", ODD)
def test_a_frame_is_the_one_that_reading_from_the_start_gives(name, tmp_path):
    assert same_as_sequential(write(tmp_path / name, *ODD[name])).frames == COUNT


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv", "late.ts"])
def test_uneven_and_late_times(name, tmp_path):
    start = 5000 if "late" in name else 0
    same_as_sequential(
        write(tmp_path / name, "libx264", X264, lambda i: start + 40 * i + 7 * (i % 3))
    )


def test_an_edit_list_hides_frames(tmp_path):
    whole = write(tmp_path / "whole.mp4", "libx264", X264)
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut.mp4"), "w") as out:
        (stream,) = source.streams.video
        copied = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                packet.pts -= round(0.2 / stream.time_base)
                packet.dts -= round(0.2 / stream.time_base)
                packet.stream = copied
                out.mux(packet)
    assert same_as_sequential(tmp_path / "cut.mp4").frames < COUNT


def test_times_that_are_not_the_file_s_own_are_not_sought(tmp_path):
    """A clip whose times were shifted or made up is read from the start."""
    from dataclasses import replace

    clip = video.probe(write(tmp_path / "b.mp4", "libx264", X264))
    shifted = replace(clip, times=tuple(t + clip.times[1] - clip.times[0] for t in clip.times))
    assert np.array_equal(read_frame(shifted, 5), read_frame(clip, 5))


def test_folders_and_pictures(tmp_path):
    frames = [np.full((8, 12, 3), 20 * i, np.uint8) for i in range(4)]
    video.write_frames(tmp_path / "folder", frames, 8)
    same_as_sequential(tmp_path / "folder")


def test_only_the_wanted_frame_is_converted_and_none_before_its_keyframe_is_decoded(
    tmp_path, monkeypatch
):
    clip = video.probe(write(tmp_path / "b.mp4", "libx264", X264))
    decoded, converted = [], []
    upright, frames = frame_access.to_rgb, frame_access._decode_until
    monkeypatch.setattr(frame_access, "to_rgb", lambda *a: converted.append(1) or upright(*a))

    def counted(*args):
        for frame in frames(*args):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(frame_access, "_decode_until", counted)
    read_frame(clip, COUNT - 1)
    assert len(converted) == 1
    assert 0 < len(decoded) <= int(GROUP)
    assert min(decoded) >= clip.times[COUNT - int(GROUP)]


def test_a_file_is_probed_once_for_as_long_as_it_does_not_change(tmp_path, monkeypatch):
    path = write(tmp_path / "b.mp4", "libx264", X264)
    probed, real = [], probing._probe
    monkeypatch.setattr(probing, "_probe", lambda p: probed.append(p) or real(p))
    video.probe(path)
    video.probe(path)
    assert len(probed) == 2  # just written: a change could still go unseen
    monkeypatch.setattr(probing, "SETTLE_NANOSECONDS", 0)
    first = video.probe(path)
    assert video.probe(path) is first
    assert len(probed) == 3
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as cp -p leaves another file
    video.probe(path)
    assert len(probed) == 4
