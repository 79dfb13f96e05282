"""Flow, warping, visibility and tracks on known motions."""

import numpy as np
import pytest

from holdfast.media import optical_flow


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
    flow = optical_flow.dis(image, shifted(image, x, y))
    assert np.abs(flow[12:-12, 12:-12] - (x, y)).mean() < 0.25


def test_dis_takes_frames_smaller_than_its_pyramid():
    image = texture(16, 20)
    flow = optical_flow.dis(image, image)
    assert flow.shape == (16, 20, 2)
    assert np.abs(flow).max() < 0.1


@pytest.mark.parametrize(("x", "y"), [(3, 0), (0, -2), (-4, 3)])
def test_sharp_dis_finds_a_known_shift_both_ways(x, y):
    image = texture()
    moved = shifted(image, x, y)
    ahead, back = optical_flow.sharp_dis(image, moved), optical_flow.sharp_dis(moved, image)
    assert np.abs(ahead[12:-12, 12:-12] - (x, y)).max() < 0.5
    assert np.abs(back[12:-12, 12:-12] + (x, y)).max() < 0.5


def passing(step=4):
    """A bright square that moves right over a texture at rest, before and after, and where it is before."""
    first, second = 0.5 * texture(), 0.5 * texture()
    square = np.clip(0.6 + 0.4 * texture(24, 24, seed=1), 0, 1)
    first[20:44, 20:44] = square
    second[20:44, 20 + step : 44 + step] = square
    inside = np.zeros((64, 80), bool)
    inside[20:44, 20:44] = True
    return first, second, inside


def test_sharp_dis_keeps_still_what_a_thing_passes():
    first, second, inside = passing()
    flow = optical_flow.sharp_dis(first, second)
    assert np.abs(flow[inside] - (4, 0)).mean() < 0.2
    beside = np.zeros_like(inside)
    beside[20:44, 13:18] = True  # left of the square, within DIS's patches
    assert np.abs(flow[beside]).mean() < 0.2
    assert np.abs(optical_flow.dis(first, second)[beside]).mean() > 0.5


def test_what_a_thing_covers_is_occluded_ahead_of_it_and_what_it_uncovers_behind_it():
    first, second, _ = passing()
    ahead, back = optical_flow.sharp_dis(first, second), optical_flow.sharp_dis(second, first)
    covered, uncovered = optical_flow.occlusion(ahead, back), optical_flow.occlusion(back, ahead)
    right, left = np.s_[22:42, 44:48], np.s_[22:42, 20:24]
    assert covered[right].mean() > 0.8
    assert covered[left].mean() < 0.1
    assert uncovered[left].mean() > 0.8
    assert uncovered[right].mean() < 0.1


def test_occluded_is_what_does_not_return_by_the_published_constants():
    ahead = constant(10, 0)
    allowed = 0.01 * (10**2 + 10**2) + 0.5  # about: the squared length that may be missing
    for missing, expected in ((0.9 * allowed**0.5, False), (1.1 * allowed**0.5, True)):
        back = constant(-10, missing)
        assert (optical_flow.occlusion(ahead, back)[8:-8, :60] == expected).all()
    assert optical_flow.occlusion(ahead, constant(-10, 0))[:, 70:].all()  # beyond the frame


def test_joined_flow_goes_on_from_where_the_first_part_led():
    onward = constant(0, 0)
    onward[:, 40:] = (0, 2)
    whole = optical_flow.compose(constant(10, 0), onward)
    assert np.array_equal(whole[:, :30], constant(10, 0)[:, :30])
    assert np.array_equal(whole[:, 30:], constant(10, 2)[:, 30:])


def test_warp_undoes_an_integer_shift_exactly_where_it_stays_inside():
    image = texture()
    flow = constant(5, -3)
    back = optical_flow.warp(shifted(image, 5, -3), flow)
    inside = optical_flow.ends_in_frame(flow)
    assert np.array_equal(back[inside], image[inside])
    assert inside.sum() == (80 - 5) * (64 - 3)


def test_visible_follows_what_returns_and_nothing_else():
    forward, backward = constant(2, 0), constant(-2, 0)
    seen = optical_flow.visibility(forward, backward)
    assert seen[:, :-2].all()
    assert not seen[:, -2:].any()  # moved out of the frame
    assert not optical_flow.visibility(
        forward, constant(2, 0)
    ).any()  # a flow that does not come back


def test_motion_boundaries_are_not_followed():
    forward = constant(0, 0)
    forward[:, 40:] = (3, 0)
    backward = constant(0, 0)
    backward[:, 43:] = (-3, 0)
    seen = optical_flow.visibility(forward, backward)
    assert not seen[:, 39].any()  # the flow changes from this column to the next
    assert seen[:, :39].all()
    assert seen[:, 44:76].all()


def test_tracks_move_with_the_flow_and_are_lost_at_the_edge():
    tracks = optical_flow.PointTracks(64, 80, 4)
    starts = tracks.points.copy()
    for _ in range(3):
        tracks.follow(constant(10, 0))
    kept = starts[:, 0] + 30 <= 79
    assert np.allclose(tracks.points[kept], starts[kept] + (30, 0))
    assert np.isnan(tracks.points[~kept]).all()
    assert kept.any()
    assert not kept.all()
