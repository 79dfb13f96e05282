"""Where source pixels lie in an edited frame: conventions by small exact cases, and placements that editors produce."""

import cv2
import numpy as np
import pytest

from holdfast.conform import alignment, geometry
from holdfast.conform.timing import FULL

from . import scenes

SIZE = (320, 192)
MOMENTS = np.arange(0, 30, 10)


def grey(frames):
    return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]


@pytest.fixture(scope="module")
def source():
    return scenes.clip(MOMENTS, scenes.RED, scenes.ground(SIZE))


@pytest.fixture(scope="module")
def edited():
    return scenes.clip(MOMENTS, scenes.BLUE, scenes.ground(SIZE))


def find(source, edited):
    boxes = geometry.find_bars(np.stack(grey(source))), geometry.find_bars(np.stack(grey(edited)))
    return geometry.find_placement(list(zip(grey(source), grey(edited), strict=True)), boxes)


def assert_places(found, expected, size=SIZE):
    """The scale is within 0.2 %, and no corner is more than 0.3 source pixels away."""
    scale = np.abs(np.diag(found[:, :2]) / np.diag(expected[:, :2]) - 1)
    assert scale.max() < 0.002
    centre = np.array([(size[0] - 1) / 2, (size[1] - 1) / 2, 1])
    apart = np.abs((found - expected) @ centre) / np.diag(expected[:, :2])
    assert apart.max() < 0.3


def stretch(source, edited):
    """The placement that maps the whole of a picture of one size onto one of another size, by pixel centres."""
    return geometry.from_scales(*((e / s, 0.0) for s, e in zip(source, edited, strict=True)))


def move(frames, matrix, size):
    flags = cv2.INTER_CUBIC
    mode = cv2.BORDER_REPLICATE
    return np.stack([cv2.warpAffine(f, matrix, size, flags=flags, borderMode=mode) for f in frames])


def test_from_scales_has_pixel_centres_at_whole_numbers():
    """Twice as large: the centre of pixel 0 lies between the pixels 0 and 1, at 0.5."""
    matrix = geometry.from_scales((2.0, 0.0), (0.5, 3.0))
    assert matrix.tolist() == [[2, 0, 0.5], [0, 0.5, 2.75]]


def test_rescale_of_the_identity_at_the_same_factors_is_the_identity():
    same = alignment.rescale(np.eye(2, 3), (0.5, 0.25), (0.5, 0.25))
    assert np.allclose(same, np.eye(2, 3))


def test_rescale_keeps_what_a_placement_means():
    """A shift of 8 full pixels is one of 4 pixels of pictures of half the size."""
    shift = np.array([[1.0, 0, 8], [0, 1, -2]])
    assert np.allclose(alignment.rescale(shift, (0.5, 0.5), (0.5, 0.5)), [[1, 0, 4], [0, 1, -1]])
    twice = alignment.rescale(np.eye(2, 3), (1, 1), (2, 2))
    assert np.allclose(twice, geometry.from_scales((2, 0), (2, 0)))
    back = alignment.rescale(
        alignment.rescale(shift, (0.3, 0.7), (2, 1.5)), (1 / 0.3, 1 / 0.7), (0.5, 1 / 1.5)
    )
    assert np.allclose(back, shift)


def test_warp_by_whole_pixels_is_exact():
    """The placement leads from source to edited pixels: source pixel (x, y) shows edited pixel (x + 2, y + 1)."""
    picture = np.random.default_rng(0).integers(0, 256, (9, 12), np.uint8)
    seen = geometry.warp(picture, np.array([[1.0, 0, 2], [0, 1, 1]]), (10, 8))
    assert np.array_equal(seen, picture[1:9, 2:12])


def test_warp_at_half_a_pixel_of_a_ramp_is_its_value_there():
    ramp = np.tile(np.arange(0, 200, 10, dtype=np.float32), (8, 1))
    seen = geometry.warp(ramp, np.array([[1.0, 0, 0.5], [0, 1, 0]]), (20, 8))
    assert np.allclose(seen[:, 2:17], ramp[:, 2:17] + 5, atol=0.05)


def test_warp_repeats_the_border_or_fills_it():
    picture = np.full((4, 4), 7, np.uint8)
    away = np.array([[1.0, 0, -10], [0, 1, 0]])
    assert (geometry.warp(picture, away, (4, 4)) == 7).all()
    assert (geometry.warp(picture, away, (4, 4), border=0) == 0).all()


def test_coverage_of_the_whole_picture_is_every_pixel():
    for size in ((64, 48), (13, 7), (1, 1)):
        assert geometry.coverage(np.eye(2, 3), size, size).all()
        assert geometry.coverage(stretch(size, (100, 90)), size, (100, 90)).all()


def test_coverage_of_a_crop_and_of_a_box_is_the_pixels_that_are_shown():
    crop = np.array([[1.0, 0, -3], [0, 1, -2]])  # edited pixel 0, 0 is source pixel 3, 2
    shown = geometry.coverage(crop, (12, 10), (6, 5))
    expected = np.zeros((10, 12), bool)
    expected[2:7, 3:9] = True
    assert np.array_equal(shown, expected)
    inner = geometry.coverage(crop, (12, 10), (6, 5), edge=1)
    expected[:] = False
    expected[3:6, 4:8] = True
    assert np.array_equal(inner, expected)
    boxed = geometry.coverage(np.eye(2, 3), (8, 8), (8, 8), (0.25, 0.5, 0.75, 1.0))
    expected = np.zeros((8, 8), bool)
    expected[4:8, 2:6] = True
    assert np.array_equal(boxed, expected)


def test_equal_sizes_are_the_identity_exactly(source, edited):
    found = find(source, edited)
    assert found.is_usual
    assert found.matrix.tolist() == np.eye(2, 3).tolist()
    assert found.score > 0.95


@pytest.mark.parametrize("size", [(224, 134), (320, 320), (426, 240)])
def test_a_resized_or_stretched_picture_is_the_usual_placement(source, edited, size):
    found = find(source, scenes.resize(edited, size))
    assert found.is_usual
    assert np.allclose(found.matrix, stretch(SIZE, size))


@pytest.mark.parametrize(("down", "across"), [(40, 0), (0, 56)])
def test_letterbox_and_pillarbox(source, edited, down, across):
    boxed = np.pad(edited, ((0, 0), (down, down), (across, across), (0, 0)))
    found = find(source, boxed)
    assert_places(found.matrix, np.array([[1.0, 0, across], [0, 1, down]]))


def test_letterbox_of_a_smaller_picture(source, edited):
    boxed = np.pad(scenes.resize(edited, (240, 144)), ((0, 0), (48, 48), (0, 0), (0, 0)))
    expected = stretch(SIZE, (240, 144)) + np.array([[0, 0, 0], [0, 0, 48]])
    assert_places(find(source, boxed).matrix, expected)


@pytest.mark.parametrize(("across", "down"), [(32, 20), (24, 0)])
def test_a_crop_of_the_same_scale(source, edited, across, down):
    cropped = edited[:, down : SIZE[1] - down, across : SIZE[0] - across]
    assert_places(find(source, cropped).matrix, np.array([[1.0, 0, -across], [0, 1, -down]]))


def test_a_crop_that_is_enlarged_again(source, edited):
    cropped = edited[:, 24:168, 40:280]
    expected = stretch((240, 144), SIZE) @ np.array([[1.0, 0, -40], [0, 1, -24], [0, 0, 1]])
    assert_places(find(source, scenes.resize(cropped, SIZE)).matrix, expected)


@pytest.mark.parametrize("shift", [(2.3, -1.4), (0.0, 5.5)])
def test_a_shift_of_parts_of_a_pixel(source, edited, shift):
    expected = np.array([[1.0, 0, shift[0]], [0, 1, shift[1]]])
    found = find(source, move(edited, expected, SIZE))
    assert not found.is_usual
    assert_places(found.matrix, expected)


def test_other_colours_and_noise_do_not_move_the_placement(source, edited):
    generator = np.random.default_rng(1)
    expected = np.array([[1.0, 0, 1.6], [0, 1, -0.8]])
    spoilt = move(edited, expected, SIZE) * np.array([0.8, 0.9, 1.05]) + 12
    spoilt = np.clip(spoilt + generator.normal(0, 4, spoilt.shape), 0, 255).astype(np.uint8)
    assert_places(find(source, spoilt).matrix, expected)


def test_bars_are_found_and_a_sky_is_none():
    picture = scenes.clip(MOMENTS, scenes.RED)
    assert geometry.find_bars(np.stack(grey(picture))) == FULL
    boxed = np.pad(picture, ((0, 0), (16, 16), (0, 0), (0, 0)))
    assert geometry.find_bars(np.stack(grey(boxed))) == (0, 16 / 128, 1, 112 / 128)
    black = np.zeros((3, 72, 128), np.uint8)
    assert geometry.find_bars(black) == FULL
