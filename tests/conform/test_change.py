"""Where an edited clip differs by more than its noise: noise, hysteresis, islands, outlines, weak parts, votes."""

import numpy as np
import pytest

from holdfast.conform import analysis, change
from holdfast.conform.mask_store import MaskStore, enlarge

from . import scenes


def samples(sigma, edited=0.0, count=60_000, seed=0):
    """Differences of noise that grows with detail; a share of the pixels is edited by 60 grey levels."""
    generator = np.random.default_rng(seed)
    detail = generator.uniform(0, 40, count).astype(np.float32)
    luma = generator.integers(30, 220, count).astype(np.uint8)
    apart = generator.normal(size=(count, 3)) * sigma(detail)[:, None]
    apart[: int(edited * count)] += 60
    return change.Samples(apart.astype(np.float32), detail, luma)


def noise_at(noise, detail):
    """The standard deviation of luma that a noise has at a detail: the difference whose distance is 1."""
    one = np.zeros((1, 1, 3), np.float32)
    one[..., 0] = 1
    luma = np.full((1, 1), 100, np.uint8)
    return 1 / float(noise.distance(one, np.full((1, 1), detail, np.float32), luma)[0, 0])


@pytest.mark.parametrize(("edited", "most"), [(0.0, 1.3), (0.3, 1.7)])
def test_noise_is_learned_from_the_quiet_pixels_and_grows_with_detail(edited, most):
    """Also where 30 % of the pixels are edited by 60 grey levels: they hardly count."""
    noise = change.learn_noise([samples(lambda d: 2 + d / 6, edited)])
    for detail in (3, 12, 24):
        assert 0.8 < noise_at(noise, detail) / (2 + detail / 6) < most


def test_noise_that_does_not_depend_on_detail_is_the_same_everywhere():
    noise = change.learn_noise([samples(lambda d: 4 + 0 * d)])
    assert [noise_at(noise, d) for d in (0, 6, 40)] == pytest.approx([4, 4, 4], rel=0.15)


def test_no_noise_is_at_least_what_rounding_does():
    noise = change.learn_noise([samples(lambda d: 0 * d)])
    assert 0.2 < noise_at(noise, 5) < 1


def test_a_flat_edited_object_does_not_pass_for_noise():
    """Nothing else is as flat as the edited object: its difference is not the noise of flat areas."""
    generator = np.random.default_rng(0)
    detail = generator.uniform(8, 40, 20_000).astype(np.float32)
    apart = generator.normal(0, 1.5, (20_000, 3)).astype(np.float32)
    luma = np.full(20_000, 120, np.uint8)
    detail[:1500], apart[:1500] = 0, 70
    noise = change.learn_noise([change.Samples(apart, detail, luma)])
    assert noise_at(noise, 20) < 3
    assert noise_at(noise, 0) < 8


def test_distance_is_the_length_in_standard_deviations():
    noise = change.Noise(np.broadcast_to([2.0, 4.0, 8.0], (5, len(change.DETAIL_KNOTS), 3)).copy())
    apart = np.array([[[6.0, 0, 0], [0, 4, 0], [6, 16, 0], [0, 0, 0]]], np.float32)
    flat, luma = np.zeros((1, 4), np.float32), np.full((1, 4), 100, np.uint8)
    assert np.allclose(noise.distance(apart, flat, luma), [[3, 1, 5, 0]], atol=1e-4)


def test_difference_of_luma_and_chroma_of_flat_pictures_is_that_of_bt_601():
    one, other = np.zeros((9, 9, 3), np.uint8), np.full((9, 9, 3), (100, 0, 0), np.uint8)
    apart = change.difference(one, other)
    assert np.allclose(apart[4, 4], (29.9, -16.87, 50), atol=0.05)
    assert (change.difference(other, other) == 0).all()


def test_detail_is_the_standard_deviation_of_luma_nearby():
    assert (change.detail(np.full((12, 12), 90, np.uint8)) == 0).all()
    stripes = np.tile(np.array([50, 90], np.uint8), (12, 6))
    expected = np.tile([50, 90, 50, 90, 50], 5).std()
    assert change.detail(stripes)[6, 6] == pytest.approx(expected, rel=0.01)


def test_weak_differences_count_only_where_they_touch_a_strong_one():
    distance = np.zeros((12, 20), np.float32)
    distance[2:6, 2:8] = 5  # weak
    distance[3, 3] = 9  # with a strong pixel
    distance[8:11, 12:18] = 5  # weak alone
    mask = change.connect(distance, strong=7, weak=4)
    expected = np.zeros_like(mask)
    expected[2:6, 2:8] = True
    assert np.array_equal(mask, expected)
    assert not change.connect(np.zeros((4, 4), np.float32)).any()


def test_small_islands_and_parts_that_hardly_differ_are_dropped():
    mask = np.zeros((40, 60), bool)
    apart = np.zeros((40, 60, 3), np.float32)
    parts = {"large": (slice(4, 16), slice(4, 16)), "small": (slice(4, 7), slice(40, 43))}
    parts["faint"] = (slice(24, 36), slice(30, 42))
    for name, part in parts.items():
        mask[part] = True
        apart[part] = 3 if name == "faint" else 30
    kept = change.select(mask, apart, 15, 20)
    expected = np.zeros_like(mask)
    expected[parts["large"]] = True
    assert np.array_equal(kept, expected)


def test_a_thin_outline_has_to_differ_twice_as_much():
    mask = np.zeros((40, 60), bool)
    mask[5:35, 10] = mask[5:35, 40] = True
    apart = np.zeros((40, 60, 3), np.float32)
    apart[:, 10, 0], apart[:, 40, 0] = 15, 25
    kept = change.select(mask, apart, 10, 5)
    assert not kept[:, 10].any()
    assert kept[5:35, 40].all()


def test_the_outline_lies_where_a_blurred_difference_falls_to_half():
    import cv2

    exact = scenes.disc_weight((40, 30), 15, (80, 60))
    blurred = cv2.GaussianBlur(exact * 100, (0, 0), 1.5).astype(np.float32)
    apart = np.stack([blurred, 0 * blurred, 0 * blurred], -1)
    wide = blurred > 3
    trimmed = change.trim_edges(wide, apart, 4.0)
    assert scenes.overlap(wide, exact >= 0.5) < 0.8
    assert scenes.overlap(trimmed, exact >= 0.5) > 0.9
    assert not (trimmed & ~wide).any()


def test_soft_adds_the_shadow_that_touches_the_change_and_no_other():
    apart = np.zeros((90, 140, 3), np.float32)
    mask = np.zeros((90, 140), bool)
    mask[20:50, 20:50] = True
    apart[mask] = 60
    apart[50:75, 20:50, 0] = -9  # its shadow
    apart[40:65, 95:125, 0] = -9  # far away
    soft = change.extend_softly(mask, apart, level=0.5)
    assert (soft & mask).sum() == mask.sum()
    assert soft[52:70, 24:46].all()
    assert not soft[:, 90:].any()
    assert not change.extend_softly(np.zeros_like(mask), apart, 0.5).any()


def test_parts_are_kept_by_the_share_that_supports_them():
    mask, support = np.zeros((2, 20, 40), bool)
    mask[2:10, 2:12] = mask[2:10, 20:30] = True
    support[2:10, 2:7] = True  # half of the first part
    support[2:3, 20:22] = True  # 2 of 80 pixels of the second
    kept = change.keep_supported(mask, support, 0.2)
    assert kept[2:10, 2:12].all()
    assert not kept[:, 15:].any()


def test_values_outside_a_safe_rectangle_are_those_of_its_border():
    values = np.arange(20, dtype=np.float32).reshape(4, 5)
    safe = np.zeros((4, 5), bool)
    safe[1:3, 1:4] = True
    result = change.replicate_border(values, safe)
    assert result[0].tolist() == [6, 6, 7, 8, 8]
    assert result[3].tolist() == [11, 11, 12, 13, 13]
    assert np.array_equal(change.replicate_border(values, np.ones_like(safe)), values)
    assert np.array_equal(change.replicate_border(values, np.zeros_like(safe)), values)


def test_neighbours_of_every_frame_in_order():
    frames = [analysis.ComparedFrame(i, np.zeros((1, 1, 3), np.uint8)) for i in range(5)]
    found = [
        ([f.number for f in before], frame.number, [f.number for f in after])
        for before, frame, after in analysis.neighbours(frames, 2)
    ]
    assert found == [
        ([], 0, [1, 2]),
        ([0], 1, [2, 3]),
        ([0, 1], 2, [3, 4]),
        ([1, 2], 3, [4]),
        ([2, 3], 4, []),
    ]
    assert list(analysis.neighbours([], 2)) == []
    assert len(list(analysis.neighbours(frames[:1], 2))) == 1


@pytest.mark.parametrize("size", [(16, 9), (13, 7), (1, 1)])
def test_masks_come_back_as_they_were_stored(size, tmp_path):
    generator = np.random.default_rng(0)
    masks = generator.random((4, size[1], size[0])) > 0.5
    store = MaskStore(tmp_path, 5, size)
    for i in (3, 0, 2, 1):
        store.write(i, masks[i])
    assert all(np.array_equal(store.read(i), masks[i]) for i in range(4))
    assert not store.read(4).any()
    assert np.array_equal(np.stack(list(store.read_at(size)))[:4], masks)


def test_an_enlarged_mask_keeps_its_place_and_shape():
    small = scenes.disc_weight((20, 15), 9, (40, 30)) >= 0.5
    large = scenes.disc_weight((20.5 * 4 - 0.5, 15.5 * 4 - 0.5), 36, (160, 120)) >= 0.5
    assert scenes.overlap(enlarge(small, (160, 120)), large) > 0.95
    assert not enlarge(np.zeros((3, 4), bool), (8, 6)).any()
    assert enlarge(np.ones((3, 4), bool), (8, 6)).all()
