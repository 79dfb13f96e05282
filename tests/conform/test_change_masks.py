"""Masks: those of the user, what is dropped and included, and both ways to blend."""

import numpy as np
import pytest
from PIL import Image

from holdfast.base.notices import Notice

from . import scenes
from .checks import COUNT, assert_outside_is_the_source, dilate, error_inside, keep, overlap_of
from .editors import recolour


def test_a_mask_limits_the_change(source, edited):
    """Inside the mask the change is looked for; outside it nothing is taken but the band."""
    kept = keep(source, edited, mask="0,0,50,96", grow=0, feather=0)
    exact = scenes.changes(range(COUNT))
    exact[:, :, 50:] = False
    assert overlap_of(kept, exact) > 0.9
    result = kept.array()
    assert np.array_equal(result[:, :, 51:], source[:, :, 51:])
    assert error_inside(result, edited, exact) < 3


def test_a_mask_replaces_what_would_be_found(source, edited):
    kept = keep(
        source, recolour(edited), mask="100,60,40,20", mask_use="replace", grow=0, feather=0
    )
    box = np.zeros((COUNT, 96, 160), bool)
    box[:, 60:80, 100:140] = True
    assert np.array_equal(np.stack(list(kept.masks())), box)
    result = kept.array()
    assert np.array_equal(result[~box], source[~box])
    assert error_inside(result, edited, box) < 3


def test_an_inverted_mask(source, edited):
    kept = keep(source, edited, mask="0,0,120,96", mask_use="replace", invert_mask=True)
    assert all(np.array_equal(m, np.arange(160)[None] >= 120 + 0 * m) for m in kept.masks())


def test_a_mask_in_memory_and_a_brush(source, edited, tmp_path):
    mask = scenes.changes([3])[0].astype(np.uint8) * 255
    kept = keep(source[:6], edited[:6], mask=mask, mask_use="replace")
    assert np.array_equal(next(iter(kept.masks())), mask > 0)
    Image.fromarray(np.where(dilate([mask > 0], 3)[0], 255, 0).astype(np.uint8)).save(
        tmp_path / "b.png"
    )
    limited = keep(source[:6], edited[:6], brushes=(f"3={tmp_path / 'b.png'}",))
    exact = scenes.changes(range(6))
    assert overlap_of(limited, exact) > 0.7


def test_min_area_drops_smaller_changes(source, edited):
    with pytest.warns(Notice, match="nothing changed"):
        kept = keep(source, edited, min_area=5000)
    assert np.array_equal(kept.array(), source)


def test_soft_takes_the_shadow_as_well(source, edited):
    shadow = np.stack(
        [
            scenes.disc_weight((x, y + 20), 12, scenes.SIZE)
            for x, y in map(scenes.centre_at, range(COUNT))
        ]
    )
    dark = np.rint(edited * (1 - 0.1 * shadow[..., None])).astype(np.uint8)
    share = [keep(source, dark, soft=soft).report["mask"]["share"] for soft in (False, True)]
    exact = (scenes.changes(range(COUNT)) | (shadow > 0.5)).mean()
    assert share[1] > share[0]
    assert share[1] > 0.85 * exact


def test_a_flash_in_one_frame_is_dropped_and_a_fast_object_stays(source):
    """A part that one frame has alone is an artefact; what moves on is not."""
    flash = source.copy()
    flash[4, 66:84, 110:134] = (240, 30, 220)
    with pytest.warns(Notice, match="nothing changed"):
        assert np.array_equal(keep(source, flash).array(), source)
    # The disc of the source that moves fastest relative to its size, recoloured.
    fast = [
        scenes.disc_weight((20 + 13.0 * t, 75), 8, scenes.SIZE)[..., None] for t in range(COUNT)
    ]
    clips = [
        np.rint(source * (1 - np.stack(fast)) + np.stack(fast) * np.array(colour)).astype(np.uint8)
        for colour in (scenes.GREEN, scenes.BLUE)
    ]
    kept = keep(*clips)
    found = [mask.any() for mask in kept.masks()]
    assert sum(found) >= COUNT - 1


@pytest.mark.parametrize("blend", ["feather", "poisson"])
def test_both_blends_change_the_band_alone(blend, source, edited):
    kept = keep(source, edited, blend=blend, grow=1, feather=4)
    exact = scenes.changes(range(COUNT))
    result = kept.array()
    assert_outside_is_the_source(result, source, exact)
    assert error_inside(result, edited, exact) < 1.5
    alphas = np.stack(list(kept.alphas()))
    assert np.array_equal(result[alphas == 0], source[alphas == 0])
    assert (alphas[np.stack(list(kept.masks()))] == 1).all()


def test_poisson_hides_a_step_in_brightness(source, edited):
    """A change that is 15 grey levels too bright in its surroundings too: feathering shows them, poisson does not."""
    halo = dilate(scenes.changes(range(COUNT)), 7)
    bright = np.where(halo[..., None], np.minimum(edited.astype(int) + 15, 255), edited).astype(
        np.uint8
    )
    steps = {}
    for blend in ("feather", "poisson"):
        kept = keep(source, bright, blend=blend, grow=0, feather=4)
        alphas = np.stack(list(kept.alphas()))
        band = (alphas > 0) & (alphas < 0.4)
        steps[blend] = np.abs(kept.array()[band].astype(float) - source[band]).mean()
    assert steps["poisson"] < 15
