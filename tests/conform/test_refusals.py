"""What cannot be kept, or hardly: tiny and flat pictures, clips that do not belong together, whole edits."""

import numpy as np
import pytest
from PIL import Image

import holdfast
from holdfast.base.errors import UserError
from holdfast.base.notices import Notice

from . import scenes
from .checks import COUNT, assert_outside_is_the_source, error_inside, keep
from .editors import add_noise, fade, recolour, relight


def test_a_pair_of_images(source, edited, tmp_path):
    for name, frame in (("a.png", source[4]), ("b.png", edited[4])):
        Image.fromarray(frame).save(tmp_path / name)
    kept = keep(str(tmp_path / "a.png"), str(tmp_path / "b.png"))
    result = kept.array()
    assert result.shape == (1, *source.shape[1:])
    exact = scenes.changes([4])
    assert_outside_is_the_source(result, source[4:5], exact)
    assert error_inside(result, edited[4:5], exact) < 0.5
    kept.save(tmp_path / "c.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "c.png").convert("RGB")), result[0])


def test_one_frame_of_many(source, edited):
    with pytest.warns(Notice, match=rf"\b{COUNT - 1}\b.*frames"):
        kept = keep(source, edited[:1])
    assert np.array_equal(kept.array()[1:], source[1:])
    assert error_inside(kept.array()[:1], edited[:1], scenes.changes([0])) < 0.5


@pytest.mark.filterwarnings("default::holdfast.base.notices.Notice")
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (5, 3), (8, 120)])
@pytest.mark.parametrize("kind", ["both", "source", "edited"])
def test_tiny_pictures_give_a_result_or_one_sentence(size, count, kind, source, edited):
    clips = [
        scenes.resize(frames[:count], size) if kind in ("both", name) else frames[:count]
        for frames, name in ((source, "source"), (edited, "edited"))
    ]
    try:
        result = keep(*clips).array()
    except UserError:
        return
    assert result.shape == clips[0].shape


@pytest.mark.parametrize("level", [0, 255, 90])
def test_equal_clips_of_one_colour_are_the_source(level):
    flat = np.full((6, 48, 64, 3), level, np.uint8)
    with pytest.warns(Notice):
        kept = keep(flat, flat)
    assert np.array_equal(kept.array(), flat)


@pytest.mark.filterwarnings("default::holdfast.base.notices.Notice")
def test_a_black_clip_in_place_of_an_edit_is_refused(source):
    black = np.zeros_like(source)
    for pair in ((source, black), (black, source)):
        with pytest.raises(UserError):
            keep(*pair)


def test_nothing_changed_is_said_and_the_source_comes_back(source):
    with pytest.warns(Notice, match="nothing changed"):
        kept = keep(source, source)
    assert np.array_equal(kept.array(), source)
    assert kept.report["mask"]["box"] is None
    assert not any(mask.any() for mask in kept.masks())
    assert len(kept.changed_frames) == 0


def test_a_codecs_noise_alone_is_no_change(source):
    with pytest.warns(Notice, match="nothing changed"):
        kept = keep(source, add_noise(source))
    assert np.array_equal(kept.array(), source)


def test_unrelated_clips_are_refused_with_what_was_found(source):
    other = scenes.clip(np.arange(30, 40), scenes.GOLD, scenes.ground(seed=5))
    for found in (keep, lambda *clips: holdfast.compare(*clips, rate=10, edited_rate=10)):
        with pytest.raises(UserError, match=r"offset [+-][\d.]+ s.* correlate by -?0\.\d\d"):
            found(source, other)


@pytest.mark.parametrize("change", [relight, fade])
def test_an_edit_of_nearly_everything_needs_whole(change, source):
    changed = change(source)
    with pytest.raises(UserError, match="whole="):
        keep(source, changed)


@pytest.mark.parametrize("change", [relight, recolour])
def test_whole_takes_an_edit_of_all_colours(change, source):
    """Its colours are the edit: they are not corrected."""
    changed = change(source)
    result = keep(source, changed, whole=True).array().astype(int)
    assert result.shape == source.shape
    assert np.abs(result - changed).mean() < 1


def test_whole_takes_the_picture_that_the_edited_clip_shows(source, edited):
    assert np.array_equal(keep(source, edited, whole=True).array(), edited)
    cropped = edited[:, :, 20:-20]
    with_sides = keep(source, cropped, whole=True).array()
    assert np.array_equal(with_sides[:, :, :16], source[:, :, :16])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"colour": 3}, "no argument 'colour'"),
        ({"mask": "none.png"}, "no file none.png"),
        ({"mask": "500,500,5,5"}, "not inside"),
        ({"mask": "1,1,5,5", "words": ("ball",)}, "mask and brushes or words"),
        ({"blend": "glue"}, "blend"),
        ({"feather": -1}, "feather"),
        ({"output": "out.xyz"}, "out.xyz"),
    ],
)
def test_wrong_options_are_one_sentence(options, words, source, edited, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        keep(source[:2], edited[:2], **options)
    assert list(tmp_path.iterdir()) == []
