"""Masks of any size, length and colour mode; latent cells; the exact composite."""

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.base.errors import UserError
from holdfast.media import fitting, masks, video
from holdfast.models.base import ClipFormat

GRID = ClipFormat((4, 8, 8), (1, 1, 1), 8, 64 * 64, 25, 1021)


@pytest.fixture
def clip(make_clip):
    return video.probe(make_clip(frames=6, size=(48, 32)))


def save(path, *frames):
    """Boolean frames as an image, or as a folder of them."""
    images = [Image.fromarray((f * 255).astype(np.uint8)) for f in frames]
    if path.suffix:
        images[0].save(path)
    else:
        path.mkdir()
        for i, image in enumerate(images):
            image.save(path / f"{i}.png")
    return path


def half(width=48, height=32):
    mask = np.zeros((height, width), bool)
    mask[:, : width // 2] = True
    return mask


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA"])
def test_colour_modes_and_sizes(mode, clip, tmp_path):
    for size in ((48, 32), (96, 64), (24, 16)):
        Image.fromarray((half(*size) * 255).astype(np.uint8)).convert(mode).save(tmp_path / "m.png")
        mask = masks.open_mask(tmp_path / "m.png", clip, range(6))
        frames = list(mask.frames())
        assert len(frames) == 6
        assert all(np.array_equal(f, half()) for f in frames)


def test_compression_noise_is_not_foreground(clip, tmp_path):
    noisy = (half() * 235 + 20 * np.random.default_rng(0).random((32, 48))).astype(np.uint8)
    Image.fromarray(noisy).save(tmp_path / "m.jpg", quality=60)
    assert np.array_equal(
        next(masks.open_mask(tmp_path / "m.jpg", clip, range(6)).frames()), half()
    )


@pytest.mark.filterwarnings("ignore:the mask")
@pytest.mark.parametrize(
    ("length", "part", "expected"),
    [(6, range(6), 0), (6, range(2, 5), 2), (3, range(2, 5), 0), (1, range(2, 5), 0)],
)
def test_lengths(length, part, expected, clip, tmp_path):
    frames = [np.full((32, 48), i in (3, 4)) for i in range(length)]
    mask = masks.open_mask(save(tmp_path / "m", *frames), clip, part, allow_any=True)
    got = [bool(f.all()) for f in mask.frames()]
    assert got == [bool(frames[expected + i if length > 1 else 0].all()) for i in range(len(part))]


def test_a_frame_too_many_is_dropped_with_a_warning(clip, tmp_path):
    with pytest.warns(UserWarning, match="one extra frame"):
        mask = masks.open_mask(save(tmp_path / "m", *[half()] * 7), clip, range(6))
    assert len(list(mask.frames())) == 6


def test_other_lengths_are_refused_with_both_numbers(clip, tmp_path):
    with pytest.raises(ValueError, match="has 4 frames; the clip has 6"):
        masks.open_mask(save(tmp_path / "m", *[half()] * 4), clip, range(6))


def test_empty_full_and_perhaps_inverted_masks_warn(clip, tmp_path):
    nearly = np.ones((32, 48), bool)
    nearly[:4] = False
    for frame, words in ((0 * half(), "empty"), (half() | True, "full"), (nearly, "inverted")):
        with pytest.warns(UserWarning, match=words):
            masks.open_mask(save(tmp_path / "m.png", frame), clip, range(6), allow_any=True)
    inverted = masks.open_mask(
        save(tmp_path / "m.png", nearly), clip, range(6), masks.MaskShape(invert=True)
    )
    assert np.array_equal(next(inverted.frames()), ~nearly)


def test_feather_fades_outwards_and_ends(clip, tmp_path):
    mask = masks.open_mask(
        save(tmp_path / "m.png", half()), clip, range(6), masks.MaskShape(feather=4)
    )
    row = next(mask.alphas())[10]
    assert (row[:24] == 1).all()
    assert row[24:29] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0], abs=1e-6)
    assert (row[28:] == 0).all()
    with pytest.raises(ValueError, match="feather"):
        masks.open_mask(tmp_path / "m.png", clip, range(6), masks.MaskShape(feather=-1))


def test_a_latent_cell_is_inside_where_any_of_its_pixels_is():
    frames = np.zeros((9, 32, 48), bool)
    frames[0, 0, 0] = frames[3, 9, 17] = frames[8, 31, 47] = True
    latent = masks.to_latent(frames, GRID, (3, 4, 6))
    assert latent.shape == (1, 1, 3, 4, 6)
    assert latent.nonzero()[:, 2:].tolist() == [[0, 0, 0], [1, 1, 2], [2, 3, 5]]
    short = masks.to_latent(frames[:4], GRID, (2, 4, 6))  # padded with its last frame
    assert torch.equal(short, latent[:, :, :2])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_the_composite_is_exact_where_the_weight_is_zero_or_one(kind):
    rng = np.random.default_rng(1)
    peak = np.iinfo(kind).max
    source, edited = (
        rng.integers(0, peak, (8, 8, 3), endpoint=True).astype(kind) for _ in range(2)
    )
    alpha = np.zeros((8, 8), np.float32)
    alpha[:3], alpha[3] = 1, 0.25
    result = masks.composite(source, edited, alpha)
    assert result.dtype == kind
    assert np.array_equal(result[:3], edited[:3])
    assert np.array_equal(result[4:], source[4:])
    mixed = 0.75 * source[3].astype(float) + 0.25 * edited[3]
    assert np.abs(result[3] - mixed).max() <= 0.51
    assert np.array_equal(masks.composite(source, edited, None), edited)


def test_a_box_in_pixels(clip):
    frames = list(masks.open_mask("8, 4,16,10", clip, range(2, 6)).frames())
    assert len(frames) == 4
    assert frames[0][4:14, 8:24].all()
    assert frames[0].sum() == 160
    for wrong in ("40,0,9,4", "0,30,4,3", "0,0,0,4"):
        with pytest.raises(ValueError, match=f"the box {wrong} is not inside the 48x32 frame"):
            masks.open_mask(wrong, clip, range(6))


def disc(x=20, y=15, radius=6):
    rows, columns = np.mgrid[0:32, 0:48]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_grow_shrink_hull_and_box():
    ring = disc() & ~disc(radius=3)
    hull = masks.MaskShape(outline="hull").apply(ring)
    assert (hull >= disc()).all()
    assert hull.sum() <= 1.1 * disc().sum()
    box = masks.MaskShape(outline="box").apply(ring)
    assert box[9:22, 14:27].all()
    assert box.sum() == 13 * 13
    grown, shrunk = masks.MaskShape(grow=2).apply(disc()), masks.MaskShape(grow=-2).apply(disc())
    assert grown.sum() > disc().sum() > shrunk.sum() > 0
    assert (grown >= disc()).all()
    assert (disc() >= shrunk).all()
    assert not masks.MaskShape(outline="hull").apply(0 * ring).any()  # an empty frame stays empty
    assert np.array_equal(
        masks.MaskShape(invert=True, outline="box").apply(~ring), box
    )  # inverted first


@pytest.mark.parametrize("reach", [1, 2, 5, 13, 300, 100000])
def test_growing_takes_every_pixel_within_reach_and_shrinking_is_its_reverse(reach):
    rng = np.random.default_rng(reach)
    inside = rng.random((40, 60)) > 0.995
    inside[20, 30] = True
    rows, columns = np.nonzero(inside)
    y, x = np.mgrid[0:40, 0:60]
    squares = (y[..., None] - rows) ** 2 + (x[..., None] - columns) ** 2
    near = squares.min(-1) <= reach**2
    assert np.array_equal(masks.MaskShape(grow=reach).apply(inside), near)
    assert np.array_equal(masks.MaskShape(grow=-reach).apply(~inside), ~near)
    empty = np.zeros((40, 60), bool)  # and a full one, of which nothing is near an edge
    assert np.array_equal(masks.MaskShape(grow=reach).apply(empty), empty)
    assert np.array_equal(masks.MaskShape(grow=-reach).apply(~empty), ~empty)


def test_a_large_reach_costs_no_more_than_a_small_one(monkeypatch):
    """One distance transform, whatever the reach."""
    import cv2

    transforms, transform = [], cv2.distanceTransform
    monkeypatch.setattr(cv2, "distanceTransform", lambda *a: transforms.append(a) or transform(*a))
    large = np.zeros((1080, 1920), bool)
    large[500:600, 900:1000] = True
    grown = masks.MaskShape(grow=300).apply(large)
    assert len(transforms) == 1
    assert grown[500, 1299]
    assert not grown[500, 1300]


def test_a_mask_of_another_aspect_ratio_is_said_to_be_stretched(clip, tmp_path):
    with pytest.warns(UserWarning, match="is 32x32 and the clip 48x32: it is stretched to fit"):
        masks.open_mask(save(tmp_path / "m.png", half(32, 32)), clip, range(6))
    masks.open_mask(
        save(tmp_path / "m.png", half(97, 64)), clip, range(6)
    )  # rounded: no word of it


def test_cells_of_latents_become_a_mask_of_the_clips_own_size_and_length():
    cells = torch.zeros(3, 8, 8, dtype=torch.bool)
    cells[0, 0, 0] = cells[1, 2, 3] = cells[2, 7, 7] = True
    plan = fitting.choose_fit(GRID, 7, (50, 70))
    frames = list(masks.from_cells(cells, GRID, plan, masks.MaskShape()).frames())
    assert [f.shape for f in frames] == [(50, 70)] * 7
    assert frames[0][0, 0]
    assert all(np.array_equal(frames[i], frames[1]) for i in range(2, 5))
    assert frames[6][-1, -1]
    with pytest.warns(UserWarning, match="the mask auto is empty"):
        masks.from_cells(0 * cells, GRID, plan, masks.MaskShape(), allow_any=True)
    for any_of, words in ((0 * cells, "empty"), (cells | True, "full")):
        with pytest.raises(UserError, match=f"the mask auto is {words}"):
            masks.from_cells(any_of, GRID, plan, masks.MaskShape())
