"""Which source frame each frame of an edited clip shows: offsets, rates, cuts, and clips in which nothing moves."""

import cv2
import numpy as np
import pytest

from holdfast.conform import timing

from . import scenes

FRAMES = 48
PROXY = (128, 72)


def strip(frames, rate=30.0, times=None):
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    proxies = np.stack([cv2.resize(g, PROXY, interpolation=cv2.INTER_AREA) for g in grey])
    return timing.describe(proxies, np.arange(len(frames)) / rate if times is None else times)


@pytest.fixture(scope="module")
def source():
    return scenes.clip(np.arange(FRAMES) / 2)


@pytest.fixture(scope="module")
def edited():
    return scenes.clip(np.arange(FRAMES) / 2, scenes.BLUE)


def find(source, edited, rate=30.0, edited_rate=30.0):
    return timing.find_timing(strip(source, rate), strip(edited, edited_rate))


def content(found):
    return np.concatenate([segment.content for segment in found.segments])


def test_an_edit_at_the_same_times_shows_the_same_frames(source, edited):
    found = find(source, edited)
    assert found.is_determined
    assert found.confidence > 0.5
    assert [segment.frames for segment in found.segments] == [range(FRAMES)]
    assert np.array_equal(content(found), np.arange(FRAMES))
    assert found.main.line.offset == pytest.approx(0, abs=0.5 / 30)


@pytest.mark.parametrize(("first", "stop"), [(1, 48), (3, 48), (7, 40), (0, 30)])
def test_dropped_first_and_last_frames_are_known_by_number(source, edited, first, stop):
    found = find(source, edited[first:stop])
    assert np.array_equal(content(found), np.arange(first, stop))
    assert found.main.line.offset == pytest.approx(first / 30, abs=0.5 / 30)
    assert found.main.line.rate == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("rate", [16, 24, 15, 40])
def test_repeated_and_dropped_frames_of_another_rate_are_numbered_exactly(source, edited, rate):
    """As FFmpeg's filter fps does: the nearest whole frame of each moment, here in whole numbers."""
    shown = (60 * np.arange(FRAMES * rate // 30) + rate) // (2 * rate)
    shown = shown[shown < FRAMES]
    found = find(source, edited[shown], edited_rate=rate)
    assert found.main.line.rate == pytest.approx(1, abs=0.02)
    assert np.array_equal(content(found), shown)


def test_frames_between_those_of_the_source_are_within_half_a_frame(source):
    """A service renders 16 frames a second of its own: none need be a frame of the source."""
    moments = np.arange(0, FRAMES / 30 - 1 / 16, 1 / 16) * 30
    found = find(source, scenes.clip(moments / 2, scenes.BLUE), edited_rate=16)
    assert np.abs(content(found) - moments).max() <= 0.5


@pytest.mark.parametrize("speed", [2.0, 1.5])
def test_slow_motion_is_known_by_its_rate(source, speed):
    moments = np.arange(0, FRAMES - 1, 1 / speed)
    found = find(source, scenes.clip(moments / 2, scenes.BLUE))
    assert found.main.line.rate == pytest.approx(1 / speed, rel=0.02)
    assert np.abs(content(found) - moments).max() <= 0.5


def test_a_dropped_shot_splits_the_clip_into_segments():
    shots = [scenes.clip(np.arange(20), scenes.RED, scenes.ground(seed=k)) for k in (1, 2, 3)]
    painted = [scenes.clip(np.arange(20), scenes.BLUE, scenes.ground(seed=k)) for k in (1, 3)]
    found = find(np.concatenate(shots), np.concatenate(painted))
    assert [segment.frames for segment in found.segments] == [range(20), range(20, 40)]
    assert np.array_equal(content(found), [*range(20), *range(40, 60)])


def test_shots_in_another_order_are_found_where_they_came_from():
    shots = [
        scenes.clip(np.arange(n), scenes.RED, scenes.ground(seed=k)) for k, n in ((1, 24), (2, 16))
    ]
    painted = [
        scenes.clip(np.arange(n), scenes.BLUE, scenes.ground(seed=k)) for k, n in ((2, 16), (1, 24))
    ]
    found = find(np.concatenate(shots), np.concatenate(painted))
    assert np.array_equal(content(found), [*range(24, 40), *range(24)])
    assert len(found.main.frames) == 24


def test_where_nothing_moves_equal_times_are_assumed(source, edited):
    still = np.repeat(source[:1], 20, axis=0)
    found = find(still, np.repeat(edited[:1], 20, axis=0))
    assert not found.is_determined
    assert found.confidence < 0.2
    assert np.array_equal(content(found), np.arange(20))


def test_a_moving_edit_of_a_still_source_does_not_decide_about_time(source):
    """Nothing in the source says when: what moves is the edit."""
    still = np.repeat(scenes.GROUND[None], 20, axis=0)
    moving = scenes.clip(np.arange(20), scenes.BLUE)
    assert np.array_equal(content(find(still, moving)), np.arange(20))


def test_a_held_last_frame_does_not_change_what_the_others_show(source, edited):
    held = np.concatenate([edited[:36], np.repeat(edited[35:36], 12, axis=0)])
    found = find(source, held)
    assert np.array_equal(content(found)[:36], np.arange(36))
    assert found.main.frames.start == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_clips_of_a_few_frames_have_a_segment(source, edited, count):
    found = find(source[:count], edited[:count])
    assert np.array_equal(content(found), np.arange(count))


def test_unrelated_clips_have_a_segment_to_report_on(source):
    generator = np.random.default_rng(3)
    noise = generator.integers(0, 256, (12, *source.shape[1:]), np.uint8)
    assert find(source, noise).segments
    assert find(source[:1, :1, :1], noise[:1, :1, :1]).segments


def test_variable_rates_are_read_from_the_times(source, edited):
    times = np.cumsum([0, *([1 / 30, 2 / 30] * FRAMES)])[:FRAMES]
    found = timing.find_timing(strip(source, times=times), strip(edited[4:], times=times[4:]))
    assert np.array_equal(content(found), np.arange(4, FRAMES))


def test_a_line_maps_edited_times_to_source_times():
    line = timing.Line(offset=0.5, rate=2.0)
    assert line.source_time(np.array([0.0, 0.25, 1.0])).tolist() == [0.5, 1.0, 2.5]


def test_frame_numbers_of_times_are_fractional_and_unknown_outside_the_clip(source):
    index = strip(source[:4], rate=10).index(np.array([-0.07, 0.0, 0.15, 0.3, 0.37]))
    assert np.isnan(index[[0, 4]]).all()
    assert index[1:4] == pytest.approx([0, 1.5, 3])
