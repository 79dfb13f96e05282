"""A clip is shown as its source is shown: all eight ways in which a picture is turned and mirrored."""

import math

import av
import numpy as np
import pytest

from holdfast.media import orientation, video

from .footage import SIZE, encode

ONE = 1 << 16
WAYS = [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)]
WAYS += [(0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0)]


def matrix_of(a, b, c, d, x=0, y=0):
    return (*(round(n * ONE) for n in (a, b, 0, c, d, 0, x, y)), 1 << 30)


def shown_by(way, stored):
    """Put each pixel where the matrix says, which is all that a player knows."""
    a, b, c, d = way
    rows, columns = np.mgrid[: stored.shape[0], : stored.shape[1]]
    x, y = a * columns + c * rows, b * columns + d * rows
    x, y = x - x.min(), y - y.min()
    shown = np.zeros((y.max() + 1, x.max() + 1, *stored.shape[2:]), stored.dtype)
    shown[y, x] = stored
    return shown


def as_decoded(path):
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    return frame.to_ndarray(format="rgb24"), orientation.read_orientation(frame)


@pytest.mark.parametrize("way", WAYS)
def test_the_picture_is_upright_and_the_matrix_is_written_back(way, tmp_path):
    source = encode(tmp_path / "a.mov", range(3), matrix=matrix_of(*way), options={"qp": "0"})
    clip, want = video.probe(source), shown_by(way, as_decoded(source)[0])
    assert clip.size == want.shape[1::-1]
    upright = next(video.read(clip))
    assert np.abs(upright.astype(int) - want).mean() < 3
    stored = clip.orientation.undo(upright)
    assert stored.shape[:2] == SIZE[::-1]
    assert np.array_equal(clip.orientation.apply(stored), upright)
    for name in ("b.mp4", "b.mov", "b.mkv", "b.webm"):
        video.write(
            tmp_path / name, clip, (video.OutputFrame(None, f) for f in video.read_stored(clip))
        )
        picture, found = as_decoded(tmp_path / name)
        assert found == clip.orientation
        assert np.abs(shown_by(way, picture).astype(int) - want).mean() < 3
    video.write(tmp_path / "b.gif", clip, video.read(clip))
    assert np.abs(next(video.read(video.probe(tmp_path / "b.gif"))).astype(int) - want).mean() < 12


@pytest.mark.parametrize("way", WAYS[1:5])
def test_copied_groups_are_turned_as_the_others(way, tmp_path):
    options = {"g": "4", "keyint_min": "4", "sc_threshold": "0", "bf": "0"}
    source = encode(tmp_path / "a.mp4", range(12), matrix=matrix_of(*way), options=options)
    clip = video.probe(source)
    frames = (video.OutputFrame(None, own) for own in video.read_stored(clip))
    how = video.write(tmp_path / "b.mp4", clip, frames, edited=range(5, 6))
    assert how["copied_frames"] == 8
    assert as_decoded(tmp_path / "b.mp4")[1] == clip.orientation


def test_another_angle_is_kept_and_said_before_any_work(tmp_path):
    turn = [math.cos(math.pi / 6), -math.sin(math.pi / 6), math.sin(math.pi / 6)]
    source = encode(tmp_path / "a.mp4", range(3), matrix=matrix_of(*turn, turn[0]))
    clip = video.probe(source)
    assert clip.size == SIZE
    (said,) = clip.cautions
    assert "displayed rotated by 30 degrees: the edit sees the picture as it is stored" in said
    video.write(tmp_path / "b.mp4", clip, video.read(clip))
    assert as_decoded(tmp_path / "b.mp4")[1] == clip.orientation
    assert "b.gif is not displayed rotated" in video.losses(tmp_path / "b.gif", clip)[0]


def test_a_scale_is_the_shape_of_a_pixel(tmp_path):
    source = encode(tmp_path / "a.mp4", range(3), matrix=matrix_of(2, 0, 0, 1))
    clip = video.probe(source)
    assert clip.orientation == orientation.Orientation()
    assert clip.pixel_aspect == 2
    video.write(tmp_path / "b.mp4", clip, video.read(clip))
    assert video.probe(tmp_path / "b.mp4").pixel_aspect == 2
