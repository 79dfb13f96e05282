"""What the sliders show: a proxy of what takes long to decode, made once, and the frame itself of the rest."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest

from holdfast.media import video
from holdfast.ui import proxies
from holdfast.ui.proxies import Proxies
from tests.patience import wait_until


@pytest.fixture
def clip(tmp_path):
    """Frames of one grey each, with one keyframe."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(25), options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(6):
            frame = np.full((64, 96, 3), 30 * i + 20, np.uint8)
            frame[:32] = (20 * i, 255 - 20 * i, 100)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        out.mux(stream.encode())
    os.utime(path, (1e9, 1e9))
    return video.probe(path)


def test_a_light_clip_is_read_itself(clip, tmp_path):
    shown = Proxies(tmp_path).read(clip, 3)
    assert np.array_equal(shown, list(video.read(clip))[3])
    assert not list(tmp_path.glob("proxy-*"))


def test_a_heavy_clip_has_a_proxy_that_is_made_once(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(proxies, "MAX_DECODED_PIXELS", 1)
    monkeypatch.setattr(proxies, "MAX_WIDTH", 48)
    made = Proxies(tmp_path)
    first = made.read(clip, 5)  # from the file, and small as well
    assert first.shape == (32, 48, 3)
    made.read(clip, 4)
    (path,) = made.started
    wait_until(path.exists)
    monkeypatch.setattr(proxies, "read_frame", None)  # no longer asked
    for number, frame in enumerate(video.read(clip)):
        shown = made.read(clip, number)
        assert shown.shape == (32, 48, 3)
        assert np.abs(shown.astype(int) - frame[::2, ::2]).mean() < 4


def test_a_proxy_that_fails_is_no_failure_of_the_page(clip, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise AssertionError("no room")

    monkeypatch.setattr(proxies, "make_proxy", fail)
    made = Proxies(tmp_path)
    made._make(clip, tmp_path / "proxy.zip")
    assert "no room" in capsys.readouterr().err


def test_the_matrix_goes_by_the_clip_s_size_and_not_the_proxy_s(tmp_path, monkeypatch):
    """An untagged clip of 1,280 pixels is BT.709, and its small copy would be read as BT.601."""
    monkeypatch.setattr(proxies, "MAX_WIDTH", 160)
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"threads": "1", "qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 1280, 64, "yuv444p"
        frame = av.VideoFrame(1280, 64, "yuv444p")
        for plane, value in zip(frame.planes, (120, 90, 200), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    clip = video.probe(path)
    (whole,), (small,) = list(video.read(clip)), list(proxies._read_small(clip))
    assert np.abs(small.astype(int) - whole[0, 0]).max() <= 1
