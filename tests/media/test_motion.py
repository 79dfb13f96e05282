"""Flow, warping, visibility and tracks on motions that are known."""

import numpy as np
import pytest

from holdfast.media import motion


def texture(height=64, width=80, seed=0):
    """Smooth noise, periodic, so that it can be shifted without an edge. H W 3."""
    spectrum = np.fft.rfft2(
        np.random.default_rng(seed).normal(size=(height, width, 3)), axes=(0, 1)
    )
    fy, fx = np.fft.fftfreq(height)[:, None, None], np.fft.rfftfreq(width)[None, :, None]
    smooth = np.fft.irfft2(
        spectrum * np.exp(-((fy**2 + fx**2) / 0.01)), (height, width), axes=(0, 1)
    )
    return ((smooth - smooth.min()) / (smooth.max() - smooth.min())).astype(np.float32)


def shifted(image, x, y):
    return np.roll(image, (y, x), axis=(0, 1))


def constant(x, y, height=64, width=80):
    return np.broadcast_to(np.float32([x, y]), (height, width, 2)).copy()


@pytest.mark.parametrize(("x", "y"), [(3, 0), (0, -2), (-4, 3)])
def test_dis_finds_a_known_shift(x, y):
    image = texture()
    flow = motion.dis(image, shifted(image, x, y))
    assert np.abs(flow[12:-12, 12:-12] - (x, y)).mean() < 0.25


def test_dis_takes_frames_smaller_than_its_pyramid():
    image = texture(16, 20)
    flow = motion.dis(image, image)
    assert flow.shape == (16, 20, 2)
    assert np.abs(flow).max() < 0.1


def test_warp_undoes_an_integer_shift_exactly_where_it_stays_inside():
    image = texture()
    flow = constant(5, -3)
    back = motion.warp(shifted(image, 5, -3), flow)
    inside = motion.inside(flow)
    assert np.array_equal(back[inside], image[inside])
    assert inside.sum() == (80 - 5) * (64 - 3)


def test_visible_follows_what_returns_and_nothing_else():
    forward, backward = constant(2, 0), constant(-2, 0)
    seen = motion.visible(forward, backward)
    assert seen[:, :-2].all()
    assert not seen[:, -2:].any()  # moved out of the frame
    assert not motion.visible(forward, constant(2, 0)).any()  # a flow that does not come back


def test_motion_boundaries_are_not_followed():
    forward = constant(0, 0)
    forward[:, 40:] = (3, 0)
    backward = constant(0, 0)
    backward[:, 43:] = (-3, 0)
    seen = motion.visible(forward, backward)
    assert not seen[:, 39].any()  # the flow changes from this column to the next
    assert seen[:, :39].all()
    assert seen[:, 44:76].all()


def test_tracks_move_with_the_flow_and_are_lost_at_the_edge():
    tracks = motion.Tracks(64, 80, 4)
    starts = tracks.points.copy()
    for _ in range(3):
        tracks.follow(constant(10, 0))
    kept = starts[:, 0] + 30 <= 79
    assert np.allclose(tracks.points[kept], starts[kept] + (30, 0))
    assert np.isnan(tracks.points[~kept]).all()
    assert kept.any()
    assert not kept.all()
