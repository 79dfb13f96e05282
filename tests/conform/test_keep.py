"""`keep`: the change of an edited clip is found, and nothing else of it comes into the source."""

import numpy as np
import pytest

from holdfast.base.notices import Notice

from . import scenes
from .checks import COUNT, assert_outside_is_the_source, erode, error_inside, keep, overlap_of
from .editors import (
    add_letterbox,
    add_noise,
    degrade,
    drift,
    recolour,
    scale_to,
    shift,
)

SPOILT = {
    "nothing": (lambda frames: frames, 0.02),
    "smaller": (scale_to((112, 67)), 2),
    "shifted": (shift, 2),
    "letterboxed": (add_letterbox, 0.5),
    "recoloured": (recolour, 4),
    "noisy": (add_noise, 4),
    "everything": (degrade, 8),
}


@pytest.mark.parametrize("case", SPOILT)
def test_the_change_is_found_and_nothing_else_is_kept(case, source, edited):
    spoil, tolerance = SPOILT[case]
    kept = keep(source, spoil(edited))
    exact = scenes.changes(range(COUNT))
    assert overlap_of(kept) > 0.85
    result = kept.array()
    assert result.shape == source.shape
    assert result.dtype == np.uint8
    assert_outside_is_the_source(result, source, exact)
    inner = erode(exact, 5)
    assert error_inside(result, edited, inner) < tolerance
    report = kept.report
    assert report["time"]["source_frames_shown"] == COUNT
    assert report["mask"]["frames"] == [0, COUNT]
    assert report["mask"]["share"] == pytest.approx(exact.mean(), rel=0.15)


def test_a_slow_drift_is_followed():
    count = 24
    original = scenes.clip(range(count), background=scenes.ground(calm=1))
    edited = drift(scenes.clip(range(count), scenes.BLUE, scenes.ground(calm=1)))
    kept = keep(original, edited)
    assert kept.report["space"]["drifts"]
    exact = scenes.changes(range(count))
    assert overlap_of(kept, exact) > 0.85
    assert_outside_is_the_source(kept.array(), original, exact)


def test_a_flat_object_on_a_ground_without_calm_parts_is_found():
    ground = scenes.ground(calm=1)
    kept = keep(
        scenes.clip(range(COUNT), scenes.RED, ground),
        scenes.clip(range(COUNT), scenes.BLUE, ground),
    )
    assert overlap_of(kept) > 0.85


def test_a_grey_clip_and_its_edit(source, edited):
    greys = [np.repeat(f.mean(3, keepdims=True), 3, 3).astype(np.uint8) for f in (source, edited)]
    lighter = np.where(scenes.changes(range(COUNT))[..., None], greys[1] // 2 + 110, greys[1])
    kept = keep(greys[0], lighter)
    assert overlap_of(kept) > 0.85
    assert_outside_is_the_source(kept.array(), greys[0], scenes.changes(range(COUNT)))


@pytest.mark.parametrize(("first", "stop"), [(3, COUNT), (0, 6)])
@pytest.mark.parametrize("ending", ["source", "hold"])
def test_where_the_edited_clip_has_no_frames_the_source_stays_or_the_edit_is_held(
    first, stop, ending, source, edited
):
    if ending == "hold":
        kept = keep(
            source, edited[first:stop], ending="hold", mask="10,10,140,80", mask_use="replace"
        )
    else:
        with pytest.warns(Notice, match=rf"\b{COUNT - stop + first}\b.*frames"):
            kept = keep(source, edited[first:stop])
    result = kept.array()
    assert len(result) == COUNT
    exact = scenes.changes(range(COUNT))
    assert error_inside(result[first:stop], edited[first:stop], exact[first:stop]) < 1.5
    for i in (*range(first), *range(stop, COUNT)):
        held = edited[min(max(i, first), stop - 1)]
        middle = scenes.centre_at(min(max(i, first), stop - 1))
        x, y = (round(v) for v in middle)
        expected = held if ending == "hold" else source[i]
        assert np.array_equal(
            result[i, y - 3 : y + 4, x - 3 : x + 4], expected[y - 3 : y + 4, x - 3 : x + 4]
        )
        if ending == "source":
            assert np.array_equal(result[i], source[i])


def test_a_longer_edited_clip_gives_a_result_as_long_as_the_source(source):
    longer = scenes.clip(range(COUNT + 6), scenes.BLUE)
    kept = keep(source, longer)
    assert kept.array().shape == source.shape
    assert overlap_of(kept) > 0.9


def test_frames_that_the_edited_clip_left_out_are_interpolated():
    """Every second frame, at half the rate: the change of the others lies between."""
    count = 21
    original, truth = scenes.clip(range(count)), scenes.clip(range(count), scenes.BLUE)
    kept = keep(original, truth[::2], edited_rate=5)
    assert kept.report["time"]["interpolated_frames"] == count // 2
    result, exact = kept.array(), scenes.changes(range(count))
    assert_outside_is_the_source(result, original, exact)
    inner = erode(exact, 7)
    assert error_inside(result[1::2], truth[1::2], inner[1::2]) < 6
    assert overlap_of(kept, exact) > 0.85


def test_a_cut_list_names_the_segments_that_match_and_the_others_stay():
    shots = [scenes.clip(range(12), scenes.RED, scenes.ground(seed=k)) for k in (1, 2, 3)]
    painted = [scenes.clip(range(12), scenes.BLUE, scenes.ground(seed=k)) for k in (1, 3)]
    with pytest.warns(Notice, match=r"\b12\b.*frames"):
        kept = keep(np.concatenate(shots), np.concatenate(painted))
    segments = kept.report["time"]["segments"]
    assert [(s["edited_frames"], s["source_frames"]) for s in segments] == [
        ([0, 12], [0, 11]),
        ([12, 24], [24, 35]),
    ]
    result = kept.array()
    assert np.array_equal(result[12:24], shots[1])
    exact = scenes.changes(range(12))
    assert error_inside(result[24:], painted[1], exact) < 1
