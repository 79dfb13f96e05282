"""Frames of the edited clip at the source's moments: which belong, and what lies between two."""

import numpy as np
import pytest

from holdfast.conform import frames, timing

from . import scenes

LINE = timing.Line(0.0, 1.0)


def positions(content, count, hold=False):
    """The edited frames that belong to `count` source frames. content: lists of the frames that segments show."""
    segments, start = [], 0
    for numbers in content:
        stop = start + len(numbers)
        segments.append(timing.Segment(range(start, stop), LINE, np.array(numbers, float)))
        start = stop
    return frames.edited_positions(timing.Timing(tuple(segments), 1.0, True), count, hold)


def test_equal_frames_belong_one_to_one():
    assert positions([range(5)], 5).tolist() == [0, 1, 2, 3, 4]


def test_dropped_frames_leave_the_source_alone_or_hold():
    found = positions([range(2, 5)], 7)
    assert np.array_equal(found, [np.nan, np.nan, 0, 1, 2, np.nan, np.nan], equal_nan=True)
    assert positions([range(2, 5)], 7, hold=True).tolist() == [0, 0, 0, 1, 2, 2, 2]


def test_frames_between_two_edited_ones_are_fractional():
    found = positions([[0, 2, 4]], 5)
    assert found.tolist() == [0, 0.5, 1, 1.5, 2]


def test_repeated_frames_count_once():
    assert positions([[0, 0, 1, 1, 2, 2]], 3).tolist() == [0, 2, 4]


def test_segments_in_another_order_go_where_they_belong():
    found = positions([range(3, 6), range(3)], 8)
    assert np.array_equal(found, [3, 4, 5, 0, 1, 2, np.nan, np.nan], equal_nan=True)


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_linear_motion_is_interpolated_within_a_few_grey_levels(share):
    """Where the disc is at that moment; a mean of the two frames is four times worse."""
    edited = [scenes.draw(m, scenes.BLUE) for m in (6, 8, 6 + 2 * share)]
    source = [scenes.draw(m) for m in (6, 8, 6 + 2 * share)]
    made = frames.interpolate((edited[0], edited[1]), share, source[2], (source[0], source[1]))
    assert made.dtype == np.uint8
    apart = np.abs(made.astype(float) - edited[2])
    mixed = (1 - share) * edited[0] + share * edited[1]
    crossfade = np.abs(mixed - edited[2])
    assert apart.mean() < 1.0
    assert (apart**2).mean() < (crossfade**2).mean() / 4


def test_where_the_source_does_not_move_the_edited_frames_own_motion_counts():
    """An object that the editor added: the source knows nothing of it."""
    first, second, truth = (scenes.draw(m, scenes.BLUE) for m in (6, 8, 7))
    still = scenes.GROUND
    made = frames.interpolate((first, second), 0.5, still, (still, still))
    crossfade = (first.astype(float) + second) / 2
    errors = [((picture.astype(float) - truth) ** 2).mean() for picture in (made, crossfade)]
    assert errors[0] < errors[1] / 3


def test_equal_frames_interpolate_to_themselves():
    picture = scenes.draw(3)
    made = frames.interpolate((picture, picture), 0.5, picture, (picture, picture))
    assert np.abs(made.astype(int) - picture).max() <= 1


def test_frames_of_16_bits_stay_so():
    one, other, between = (scenes.draw(m).astype(np.uint16) * 257 for m in (6, 8, 7))
    made = frames.interpolate((one, other), 0.5, between, (one, other))
    assert made.dtype == np.uint16
    assert np.abs(made.astype(float) - between).mean() < 257


def test_a_reader_returns_the_same_frames_in_any_order(tmp_path):
    from holdfast.media import video

    pictures = scenes.clip(range(14))
    file = scenes.encode(tmp_path / "a.mkv", pictures, pixels="bgr0")
    reader = frames.FrameReader(video.probe(file), scenes.SIZE)
    for number in (0, 5, 3, 13, 0, 12, 13):
        assert np.array_equal(reader.read(number), pictures[number])
