"""Clips, masks and images in memory: every form gives the same frames bit for bit, or one helpful sentence."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.base.notices import Notice
from holdfast.media import arrays, images, video


def noise(*shape, kind=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)


CLIP = noise(3, 5, 7, 3)
KINDS = {
    "array": CLIP,
    "strided": np.ascontiguousarray(CLIP[..., ::-1])[..., ::-1],
    "float32": CLIP.astype(np.float32) / 255,
    "float64": CLIP / 255,
    "tensor": torch.from_numpy(CLIP).permute(0, 3, 1, 2).float() / 255,
    "half": (torch.from_numpy(CLIP).permute(0, 3, 1, 2).double() / 255).half(),
    "needs grad": (torch.from_numpy(CLIP).permute(0, 3, 1, 2) / 255).requires_grad_(),
    "tensor of bytes": torch.from_numpy(CLIP).permute(0, 3, 1, 2),
    "PIL": [Image.fromarray(frame) for frame in CLIP],
    "solid RGBA": tuple(Image.fromarray(frame).convert("RGBA") for frame in CLIP),
    "arrays": list(CLIP),
    "tensors": list(torch.from_numpy(CLIP).permute(0, 3, 1, 2) / 255),
}


@pytest.mark.filterwarnings("ignore:.*rounded from floats")  # halves have 11 bits
@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_the_same_whatever_it_comes_as(kind):
    made = arrays.to_frames(KINDS[kind])
    assert made.dtype == np.uint8
    assert np.array_equal(made, CLIP)


def test_sixteen_bits_stay_so():
    deep = noise(2, 4, 6, 3, kind=np.uint16)
    assert np.array_equal(arrays.to_frames(deep), deep)
    tensor = torch.from_numpy(deep).permute(0, 3, 1, 2)
    assert np.array_equal(arrays.to_frames(tensor), deep)


X = np.zeros
WRONG = {
    "channels first": (X((4, 3, 8, 8), np.uint8), r"f H W 3, not 4x3x8x8: try x.transpose\(0, 2"),
    "channels last": (torch.zeros(4, 8, 8, 3), r"f 3 H W, not 4x8x8x3: try x.permute\(0, 3, 1, 2"),
    "one frame": (X((8, 9, 3), np.uint8), r"try x\[None\], if this is one frame"),
    "one tensor": (torch.zeros(3, 8, 9), r"try x\[None\], if this is one frame"),
    "grey": (X((4, 8, 9), np.uint8), r"try x\[..., None\].repeat\(3, -1\), if this is grey"),
    "grey tensor": (torch.zeros(4, 8, 9), r"repeat_interleave\(3, -3\), if this is grey"),
    "one channel": (X((4, 8, 9, 1), np.uint8), r"try x.repeat\(3, -1\)"),
    "opacity": (X((4, 8, 9, 4), np.uint8), r"try x\[..., :3\]"),
    "batch": (X((1, 4, 8, 9, 3), np.uint8), r"try x\[0\]"),
    "shapeless": (np.array(1), "not a single number$"),
    "whole numbers": (X((4, 8, 9, 3), int), r"holds int64, .* x.astype\(np.uint8\)"),
    "too bright": (np.full((1, 2, 2, 3), 255.0), "floats from 255 to 255, .* divide them"),
    "negative": (np.full((1, 2, 2, 3), -0.5), "floats from -0.5 to -0.5"),
    "no number": (np.full((1, 2, 2, 3), np.nan), "floats from nan"),
    "no frames": (X((0, 8, 9, 3), np.uint8), "is empty: 0x8x9x3"),
    "no pixels": (X((4, 0, 9, 3), np.uint8), "is empty: 4x0x9x3"),
    "empty list": ([], "is an empty list"),
    "sizes": (
        [X((8, 9, 3), np.uint8), X((8, 8, 3), np.uint8)],
        "frame 1 of the clip is 8x8 .* first one 9x8",
    ),
    "depths": (
        [X((8, 9, 3), np.uint8), X((8, 9, 3), np.uint16)],
        "frame 1 of the clip is 9x8 in uint16",
    ),
    "one picture": (Image.new("RGB", (9, 8)), r"the clip is PIL.Image.Image: give a path, "),
    "names": (["a.png"], "frame 0 of the clip is str: give a path, a PIL image"),
    "nothing": (None, "the clip is NoneType: give a path, an array f H W 3, "),
    "glass": (
        [Image.new("RGBA", (9, 8), (0, 0, 0, 9))],
        r'has transparency: remove it with image.convert\("RGB"\)',
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_clip_is_refused_with_the_cure(case):
    given, words = WRONG[case]
    with pytest.raises(ValueError, match=words):
        arrays.to_frames(given)


def test_the_cures_cure():
    x = noise(4, 3, 8, 9)
    assert arrays.to_frames(x.transpose(0, 2, 3, 1)).shape == (4, 8, 9, 3)
    t = torch.from_numpy(noise(4, 8, 9, 3))
    assert np.array_equal(arrays.to_frames(t.permute(0, 3, 1, 2)), t.numpy())
    grey = torch.from_numpy(noise(4, 8, 9))
    assert arrays.to_frames(grey[..., None, :, :].repeat_interleave(3, -3)).shape == (4, 8, 9, 3)
    assert arrays.to_frames(grey.numpy()[..., None].repeat(3, -1)).shape == (4, 8, 9, 3)
    with pytest.raises(ValueError, match=r"image in an array is H W 3, not 3x8x9: try x.transpose"):
        arrays.to_image(noise(3, 8, 9))
    assert arrays.to_image(noise(3, 8, 9).transpose(1, 2, 0)).shape == (8, 9, 3)
    with pytest.raises(ValueError, match=r"not 8x9x3: try x.permute\(2, 0, 1\)"):
        arrays.to_image(torch.zeros(8, 9, 3))


def test_floats_between_two_levels_are_told():
    with pytest.warns(Notice, match="rounded from floats to eight bits; give uint16"):
        made = arrays.to_frames(np.full((1, 2, 2, 3), 0.4999, np.float32))
    assert (made == 127).all()


def test_a_photo_is_upright_as_its_file_is(tmp_path):
    image = Image.fromarray(CLIP[0])
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    image.save(tmp_path / "a.png", exif=exif)
    turned = images.read(tmp_path / "a.png")
    assert turned.shape == (7, 5, 3)
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(arrays.to_frames([opened])[0], turned)


INSIDE = noise(3, 5, 7) > 100
MASKS = {
    "boolean": INSIDE,
    "tensor": torch.from_numpy(INSIDE),
    "floats": INSIDE.astype(np.float32),
    "one channel": torch.from_numpy(INSIDE)[:, None].float(),
    "last channel": INSIDE[..., None],
    "bright": INSIDE.astype(np.uint8) * 255,
    "zeros and ones": INSIDE.astype(np.uint8),
    "whole numbers": INSIDE.astype(int),
    "just above half": np.where(INSIDE, 128, 127).astype(np.uint8),
    "deep": np.where(INSIDE, 32768, 32767).astype(np.uint16),
    "above half": np.where(INSIDE, 0.51, 0.5),
    "PIL": [Image.fromarray(one.astype(np.uint8) * 255) for one in INSIDE],
    "PIL of one bit": [Image.fromarray(one) for one in INSIDE],
    "list": list(INSIDE),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_is_the_same_whatever_it_comes_as(kind):
    assert np.array_equal(arrays.to_mask(MASKS[kind]), INSIDE)


def test_a_mask_of_one_image_is_one_frame():
    for one in (INSIDE[0], torch.from_numpy(INSIDE[0]), Image.fromarray(INSIDE[0])):
        assert np.array_equal(arrays.to_mask(one), INSIDE[:1])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (X((2, 8, 9, 3)), "the mask is 2x8x9x3: give H W or f H W"),
        (np.full((8, 9), 7.0), "float64 from 7 to 7: give a boolean mask"),
        (np.full((8, 9), -1), "int64 from -1 to -1"),
        (np.full((8, 9), np.nan), "from nan"),
        (X((0, 8, 9)), "is 0x8x9: give H W"),
        ((1, 2, 30, 40), "image 0 of the mask is int: give a path, the text x,y,w,h"),
        ([INSIDE[0], INSIDE[0, :4]], "frame 1 of the mask is 7x4 in bool, the first one 7x5"),
    ],
)
def test_what_is_no_mask_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        arrays.to_mask(given)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(32, 48), (37, 51), (1, 1), (2, 3)])
def test_a_clip_lies_in_its_file_bit_for_bit(kind, size, tmp_path):
    clip = noise(4, *size, 3, kind=kind)
    known = video.probe(arrays.write_clip(tmp_path, "clip", clip, Fraction(16)))
    assert (known.frames, known.bits) == (4, 8 * clip.itemsize)
    assert np.array_equal(np.stack(list(video.read(known))), clip)


def test_masks_and_images_lie_in_their_files_bit_for_bit(tmp_path):
    for inside in (INSIDE, INSIDE[:1]):
        path = arrays.write_mask(tmp_path, "mask", inside)
        read = np.stack(list(video.read(video.probe(path))))
        assert np.array_equal(read, np.repeat(inside[..., None] * np.uint8(255), 3, -1))
    assert path.suffix == ".png"
    read = images.read(arrays.write_image(tmp_path, "first", CLIP[0]))
    assert np.array_equal(read, CLIP[0])


def test_the_same_frames_are_the_same_file_and_others_another(tmp_path):
    """A saved run is found again by its files' names, sizes and times."""
    about = []
    for i, clip in enumerate((CLIP, CLIP.copy(), CLIP[:, :, ::-1], CLIP.reshape(3, 7, 5, 3))):
        folder = tmp_path / str(i)
        folder.mkdir()
        path = arrays.write_clip(folder, "clip", clip, Fraction(16))
        about.append((path.name, path.stat().st_size, path.stat().st_mtime_ns))
    assert about[0] == about[1]
    assert len({name for name, *_ in about}) == 3


def test_frames_go_out_as_they_came_in():
    for kind in (np.uint8, np.uint16):
        clip = noise(3, 5, 7, 3, kind=kind)
        assert np.array_equal(arrays.to_array(iter(clip)), clip)
        tensor = arrays.to_tensor(iter(clip))
        assert (tensor.shape, tensor.dtype) == ((3, 3, 5, 7), torch.float32)
        assert torch.equal(tensor[1], images.to_tensor(clip[1]))
        shown = arrays.to_pil(iter(clip))
        assert np.array_equal(
            np.stack([np.asarray(one) for one in shown]), clip >> 8 * (kind != np.uint8)
        )
    assert np.array_equal(arrays.to_frames(arrays.to_tensor(iter(CLIP))), CLIP)
