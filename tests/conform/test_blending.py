"""The change in its source: exact weights, and a band that has no seam and solves Laplace's equation."""

import numpy as np
import pytest

from holdfast.conform.blending import Band, remove_seam, solve_laplace, usual_band

MASK = np.zeros((40, 60), bool)
MASK[12:28, 20:40] = True


def distance_outside(mask):
    """The distance of each pixel to the mask's nearest pixel, by the definition."""
    rows, columns = np.nonzero(mask)
    y, x = np.indices(mask.shape)
    apart = np.hypot(y[..., None] - rows, x[..., None] - columns)
    return apart.min(-1)


@pytest.mark.parametrize(("grow", "feather"), [(0, 4), (2, 3), (3, 0), (0, 0)])
def test_weights_are_1_in_the_mask_and_0_outside_the_band(grow, feather):
    band = Band(grow, feather)
    weight = band.weigh(MASK)
    away = distance_outside(MASK)
    assert weight.dtype == np.float32
    assert (weight[MASK] == 1).all()
    assert (weight[away >= band.reach + 1] == 0).all()
    if feather:
        assert ((weight > 0) & (weight < 1)).any()
    else:
        assert set(np.unique(weight)) == {0.0, 1.0}


def test_weights_fall_with_the_distance():
    weight = Band(1, 6).weigh(MASK)[20, 40:]
    assert (np.diff(weight) <= 0).all()
    assert weight[0] == 1
    assert weight[8:].max() == 0


def test_the_region_holds_every_weight():
    for band in (Band(0, 4), Band(3, 5), Band(-4, 3), Band(60, 9)):
        region = band.region(MASK)
        assert region is not None
        whole = band.weigh(MASK)
        outside = np.ones_like(MASK)
        outside[region] = False
        assert (whole[outside] == 0).all()
        assert np.array_equal(band.weigh(MASK[region]), whole[region])
    assert Band(2, 2).region(np.zeros((4, 4), bool)) is None


def test_the_region_of_a_mask_at_the_border_stays_in_the_picture():
    mask = np.zeros((20, 30), bool)
    mask[0, 0] = mask[19, 29] = True
    assert Band(5, 5).region(mask) == (slice(0, 20), slice(0, 30))


def test_a_band_is_chosen_by_the_size_unless_it_is_given():
    assert usual_band((1920, 1080), 3.0, 7, 0) == Band(7, 0)
    assert usual_band((64, 48), 3.0).feather >= 2
    assert usual_band((3840, 2160), 3.0).grow > usual_band((640, 360), 3.0).grow


def dense_solution(values, known):
    """Solve for the mean of the neighbours with a dense matrix; at the border a pixel is its own neighbour."""
    height, width = known.shape
    matrix, right = np.zeros((height * width,) * 2), np.zeros(height * width)
    for y in range(height):
        for x in range(width):
            at = y * width + x
            matrix[at, at] = 1
            if known[y, x]:
                right[at] = values[y, x]
                continue
            for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                j, i = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
                matrix[at, j * width + i] -= 0.25
    return np.linalg.solve(matrix, right).reshape(height, width)


@pytest.mark.parametrize("shape", [(6, 7), (17, 23), (24, 32)])
def test_laplace_is_solved_as_a_dense_matrix_solves_it(shape):
    """Within 2 % of the range of the known values, wherever a band as thick as ours is unknown."""
    y, x = np.indices(shape)
    known = np.ones(shape, bool)
    centre = shape[0] // 2, shape[1] // 2
    distance = np.maximum(np.abs(y - centre[0]), np.abs(x - centre[1]))
    reach = min(shape) // 2
    known[(distance < reach) & (distance >= reach - min(6, reach - 1))] = False
    values = np.where(known & (distance >= reach), 40 + 3 * x - 2 * y + 10 * np.sin(y), 0).astype(
        np.float32
    )
    found = solve_laplace(np.repeat(values[..., None], 3, 2), known)
    exact = dense_solution(values, known)
    assert np.array_equal(found[known][:, 1], values[known])
    assert np.abs(found[..., 0] - exact).max() < 0.02 * np.ptp(values)


def test_laplace_of_one_constant_is_that_constant():
    known = np.zeros((30, 44), bool)
    known[0], known[:, 0] = True, True
    values = np.where(known[..., None], 12.5, 0).astype(np.float32) * np.ones(3, np.float32)
    assert np.allclose(solve_laplace(values, known), 12.5, atol=1e-3)


def test_a_constant_difference_leaves_no_seam():
    """An edited picture that is 20 brighter all over: at the outer side of the band the step is gone."""
    generator = np.random.default_rng(0)
    source = generator.integers(60, 180, (48, 64, 3)).astype(np.uint8)
    edited = source.astype(np.float32) + 20
    mask = np.zeros((48, 64), bool)
    mask[18:30, 24:40] = True
    weight = Band(2, 8).weigh(mask)
    blended, taken = remove_seam(source, edited, weight)
    assert set(np.unique(taken)) <= {0.0, 1.0}
    assert np.array_equal(taken > 0, weight > 0)
    result = np.where(taken[..., None] > 0, blended, source) - source.astype(np.float32)
    assert np.allclose(result[weight == 1], 20, atol=1e-3)
    assert np.abs(np.diff(result, axis=0)).max() < 8
    assert np.abs(np.diff(result, axis=1)).max() < 8
    ring = (weight > 0) & (weight < 1)
    assert result[ring].min() > -0.01
    assert result[ring].max() < 20.01


def test_equal_pictures_stay_as_they_are():
    picture = np.random.default_rng(1).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    weight = Band(1, 4).weigh(MASK[10:30, 15:45])
    blended, _ = remove_seam(picture, picture.astype(np.float32), weight)
    assert np.abs(blended - picture).max() < 1e-3


def test_without_a_band_there_is_nothing_to_solve():
    picture = np.full((10, 10, 3), 9, np.uint8)
    weight = MASK[10:20, 15:25].astype(np.float32)
    blended, same = remove_seam(picture, picture + np.float32(3), weight)
    assert (blended == 12).all()
    assert same is weight
