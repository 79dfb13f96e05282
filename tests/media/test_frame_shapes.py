"""A stream that changes its size or layout on the way is one clip of one size, and says so before any work."""

from fractions import Fraction

import av
import numpy as np
import pytest

from holdfast.media import frame_shapes, masks, video

from .footage import rewrite

PARTS = {
    "VP8": ("a.webm", "libvpx", [(64, 48, "yuv420p", 4), (96, 48, "yuv420p", 5)]),
    "VP9": ("a.webm", "libvpx-vp9", [(32, 24, "yuv420p", 2), (64, 48, "yuv420p", 7)]),
    "H.264": ("a.ts", "libx264", [(64, 48, "yuv420p", 5), (96, 80, "yuv420p", 4)]),
    "layout": ("a.ts", "libx264", [(64, 48, "yuv420p", 5), (64, 48, "yuv422p", 4)]),
    "depth": ("a.ts", "libx264", [(64, 48, "yuv420p", 3), (64, 48, "yuv420p10le", 6)]),
}
SAID = {
    "VP8": "frames 0 to 3 are 64x48: fitted into the clip's 96x48",
    "VP9": "frames 0 to 1 are 32x24: fitted into the clip's 64x48",
    "H.264": "frames 5 to 8 are 96x80: fitted into the clip's 64x48",
    "layout": "frames 5 to 8 are yuv422p: converted to the clip's yuv420p",
    "depth": "frames 0 to 2 are yuv420p: converted to the clip's yuv420p10le",
}


def changing(path, codec, parts):
    """A bright left half in each frame, whatever its size."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = parts[0][:3]
        time = 0
        for width, height, layout, count in parts:
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, layout
            encoder.time_base, encoder.framerate = Fraction(1, 8), Fraction(8)
            encoder.options = {"bf": "0"} if codec == "libx264" else {}
            packets = []
            for _ in range(count):
                array = np.full((height, width, 3), 40, np.uint8)
                array[:, : width // 2] = 200
                frame = av.VideoFrame.from_ndarray(array, "rgb24").reformat(format=layout)
                frame.pts, frame.time_base, time = time, Fraction(1, 8), time + 1
                packets += encoder.encode(frame)
            for packet in packets + encoder.encode(None):
                packet.stream, packet.time_base = stream, Fraction(1, 8)
                out.mux(packet)
    return path


@pytest.mark.parametrize("case", PARTS)
def test_every_frame_has_the_size_and_layout_of_most(case, tmp_path):
    name, codec, parts = PARTS[case]
    clip = video.probe(changing(tmp_path / name, codec, parts))
    assert clip.cautions == (SAID[case],)
    stored = list(video.read_stored(clip))
    assert {(f.width, f.height, f.format.name) for f in stored} == {(*clip.size, clip.pixel_format)}
    middle = clip.size[1] // 2
    for frame in video.read(clip):
        scale = 1 if frame.dtype == np.uint8 else 257
        inner = frame[middle, [clip.size[0] // 2 - 8, clip.size[0] // 2 + 8]].mean(-1) / scale
        assert inner[0] > 180
        assert inner[1] < 60
    assert len(rewrite(tmp_path / name, tmp_path / "b.mp4")) == 9


def test_a_frame_of_another_aspect_keeps_it(tmp_path):
    name, codec, parts = PARTS["H.264"]
    clip = video.probe(changing(tmp_path / name, codec, parts))
    last = list(video.read(clip))[-1]
    assert last[24, 0].max() < 30  # 96x80 in 64x48 leaves a bar at each side
    assert last[24, 8].min() > 180


def test_a_mask_may_change_its_size(tmp_path):
    name, codec, parts = PARTS["VP8"]
    source = changing(tmp_path / name, codec, parts)
    clip = video.probe(source)
    inside = list(masks.open_mask(source, clip, range(9)).frames())
    assert {frame.shape for frame in inside} == {(48, 96)}
    assert all(frame[24, 40] and not frame[24, 60] for frame in inside)


def test_the_larger_of_two_equally_frequent_shapes_is_the_clips():
    small, large = (
        frame_shapes.FrameShape((64, 48), "yuv420p"),
        frame_shapes.FrameShape((96, 48), "yuv420p"),
    )
    assert frame_shapes.main_shape([small, large]) == large
    said = frame_shapes.describe_changes([small, large, small, large, large])
    assert said == ["2 frames, the first of them 0, are 64x48: fitted into the clip's 96x48"]
