"""Colours of the whole picture: found and undone, and never bent for the sake of the edited object."""

import numpy as np
import pytest

from holdfast.conform import colour

from . import scenes

TO_YCC_601 = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
TO_YCC_709 = np.array(
    [[0.2126, 0.7152, 0.0722], [-0.114572, -0.385428, 0.5], [0.5, -0.454153, -0.045847]]
)


@pytest.fixture(scope="module")
def colours():
    """Pixels of three moments of a colourful scene, n 3."""
    generator = np.random.default_rng(0)
    tinted = scenes.clip((0, 8, 16), scenes.RED, scenes.ground(calm=1)) * np.array([1.0, 0.9, 1.05])
    return [
        np.clip(f + generator.normal(0, 0.3, f.shape), 0, 255).reshape(-1, 3)[::3] for f in tinted
    ]


def fit(colours, spoil, change=None):
    """Fit a map on pairs of a source and its spoilt colours. change: of the edited pixels before, a function."""
    edited = [spoil(change(c) if change else c) for c in colours]
    pairs = [
        (one.astype(np.float32), np.rint(other).clip(0, 255).astype(np.float32))
        for one, other in zip(colours, edited, strict=True)
    ]
    return colour.fit_colours(pairs)


def error(found, colours, spoil):
    """The root mean square error in grey levels after the correction, of the pixels that are not clipped."""
    original = np.concatenate(colours)
    spoilt = spoil(original)
    usable = (spoilt > 1).all(1) & (spoilt < 254).all(1)
    apart = found.apply_to(np.rint(spoilt[usable])) - original[usable]
    return float(np.sqrt((apart**2).mean()))


def apply_gamma(values):
    return 255 * (np.clip(values, 0, 255) / 255) ** 1.2


def mistake_matrix(values):
    """Encoded by BT.601 and shown by BT.709."""
    return values @ (np.linalg.inv(TO_YCC_709) @ TO_YCC_601).T


def limit_range(values):
    return 16 + values * (219 / 255)


def test_equal_colours_stay_the_identity_exactly(colours):
    found = fit(colours, lambda c: c)
    assert found.is_identity
    assert np.array_equal(found.matrix, np.eye(3))
    picture = scenes.draw(0)
    assert np.array_equal(found.apply(picture), picture)


def test_noise_alone_stays_the_identity(colours):
    generator = np.random.default_rng(1)
    assert fit(colours, lambda c: c + generator.normal(0, 3, c.shape)).is_identity


SPOILT = {
    "gain": lambda c: 0.85 * c,
    "offset": lambda c: c + np.array([9, -6, 4]),
    "gain and offset": lambda c: c * (0.9, 0.95, 1.05) + (8, 2, -5),
    "gamma": apply_gamma,
    "range": limit_range,
    "matrix": mistake_matrix,
    "all": lambda c: apply_gamma(mistake_matrix(c)) * 0.95 + 5,
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_change_of_all_colours_is_undone(case, colours):
    spoil = SPOILT[case]
    found = fit(colours, spoil)
    before = error(colour.IDENTITY_MAP, colours, spoil)
    assert not found.is_identity
    assert error(found, colours, spoil) < max(1.0, before / 8)


@pytest.mark.parametrize("case", ["gain and offset", "gamma", "matrix"])
def test_an_edited_object_does_not_bend_the_colours(case, colours):
    """A fifth of the picture, recoloured, does not count as a change of all colours."""

    def paint(values):
        return np.where((np.arange(len(values)) % 5 == 0)[:, None], (40.0, 60.0, 210.0), values)

    spoil = SPOILT[case]
    found = fit(colours, spoil, paint)
    assert error(found, colours, spoil) < max(1.2, error(colour.IDENTITY_MAP, colours, spoil) / 6)


def test_a_colour_that_only_the_edited_object_has_is_not_changed():
    """Grey ground, a green object that was red: green is kept as the editor made it."""
    generator = np.random.default_rng(2)
    grey = np.repeat(generator.uniform(60, 190, (4000, 1)), 3, 1) + generator.normal(
        0, 2, (4000, 3)
    )
    source, edited = grey.copy(), grey.copy()
    source[:500], edited[:500] = (200, 40, 40), (30, 220, 60)
    found = colour.fit_colours([(source, edited)])
    assert found.is_identity
    brighter = colour.fit_colours([(source, edited + 12)])
    green = brighter.apply_to(np.array([[42.0, 232, 72]]))[0]
    assert np.abs(green - (30, 220, 60)).max() < 4


def test_a_map_is_a_curve_then_a_matrix_then_an_offset():
    curves = np.tile(np.linspace(0, 255, colour.KNOTS), (3, 1))
    curves[0] *= 0.5
    matrix = np.array([[1.0, 0.25, 0], [0, 1, 0], [0, 0, 1]])
    found = colour.ColourMap(curves, matrix, np.array([3.0, 0, -2]))
    expected = [[100 * 0.5 + 0.25 * 80 + 3, 80, 38]]
    assert np.allclose(found.apply_to(np.array([[100.0, 80, 40]])), expected)
    picture = np.full((2, 2, 3), (100, 80, 40), np.uint8)
    assert np.allclose(found.apply(picture)[0, 0], expected[0], atol=1e-3)
    gain = np.array([[2.0, 1], [1, -5], [1, 0]])
    assert np.allclose(
        found.apply(picture, gain)[0, 0], [2 * expected[0][0] + 1, 75, 38], atol=1e-3
    )


def test_a_picture_of_16_bits_is_corrected_in_its_own_units():
    found = colour.ColourMap(colour.IDENTITY_MAP.curves, np.eye(3), np.array([2.0, 0, 0]))
    picture = np.full((1, 1, 3), 25700, np.uint16)  # 100 of 255
    assert np.allclose(found.apply(picture)[0, 0], (25700 + 514, 25700, 25700), atol=0.1)


def test_a_frames_own_gain_is_found_and_equal_frames_have_none(colours):
    edited = colours[0]
    weights = np.ones(len(edited))
    assert np.allclose(colour.fit_gain(edited, edited, weights), colour.NO_GAIN)
    found = colour.fit_gain(edited * 1.06 - 3, edited, weights)
    assert np.abs(edited * found[:, 0] + found[:, 1] - (edited * 1.06 - 3)).mean() < 0.5
    assert np.array_equal(colour.fit_gain(edited, edited, 0 * weights), colour.NO_GAIN)


def test_tukey_weights_are_1_for_fitting_pixels_and_0_for_edited_ones():
    residual = np.zeros((100, 3))
    residual[:10, 1] = 80
    weights = colour.tukey_weights(residual)
    assert (weights[:10] == 0).all()
    assert (weights[10:] == 1).all()
