"""A scribble: thin, inside the mask, the same again for the same seed, and moving with the object."""

import numpy as np
import pytest

from holdfast.bench import rough_masks
from holdfast.bench.datasets.base import Case
from holdfast.media import video


def disc(x=24, y=20, radius=12, hole=0):
    rows, columns = np.mgrid[0:48, 0:64]
    distance = (columns - x) ** 2 + (rows - y) ** 2
    return (distance <= radius**2) & (distance >= hole**2)


@pytest.mark.parametrize("hole", [0, 9])  # a ring: a stroke across its hole is cut off there
def test_a_scribble_is_a_thin_part_of_the_mask(hole):
    mask = disc(hole=hole)
    for seed in range(5):
        stroke = rough_masks.draw_scribble(mask, np.random.default_rng(seed).random((4, 2)))
        assert stroke.any()
        assert not (stroke & ~mask).any()
        assert stroke.sum() < 0.4 * mask.sum()


def test_a_scribble_moves_with_the_object_and_an_empty_mask_has_none():
    waypoints = np.random.default_rng(0).random((4, 2))
    first = rough_masks.draw_scribble(disc(), waypoints)
    moved = rough_masks.draw_scribble(disc(x=31, y=25), waypoints)
    assert np.array_equal(np.roll(first, (5, 7), (0, 1)), moved)
    assert not rough_masks.draw_scribble(np.zeros((8, 8), bool), waypoints).any()
    single = np.zeros((8, 8), bool)
    single[3, 4] = True
    assert np.array_equal(rough_masks.draw_scribble(single, waypoints), single)


def test_a_scribble_depends_on_the_case_and_the_seed_alone(make_clip, tmp_path):
    clip = make_clip(frames=2)

    def scribble(name: str, seed: int, folder: str) -> np.ndarray:
        (tmp_path / folder).mkdir(exist_ok=True)
        rough_masks.write_scribble(
            Case(name, str(clip), "a", "b", mask="8,4,32,24"), tmp_path / folder, seed
        )
        path = rough_masks.scribble_path(tmp_path / folder)
        return np.stack(list(video.read(video.probe(path))))

    first = scribble("one", 0, "a")
    assert first.shape == (2, 32, 48, 3)
    assert set(np.unique(first)) == {0, 255}
    assert np.array_equal(first, scribble("one", 0, "b"))
    assert not np.array_equal(first, scribble("one", 1, "b"))
    assert not np.array_equal(first, scribble("two", 0, "b"))
