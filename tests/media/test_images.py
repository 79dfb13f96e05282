"""Integer frames to tensors and back."""

import contextlib
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.media import images, video


@pytest.mark.parametrize(("kind", "bits"), [(np.uint8, 8), (np.uint16, 10)])
def test_frames_come_back_from_tensors_exactly(kind, bits):
    frame = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (5, 7, 3), kind, endpoint=True)
    tensor = images.to_tensor(frame)
    assert (tensor.shape, tensor.dtype) == ((3, 5, 7), torch.float32)
    assert 0 <= tensor.min() < 0.2 < 0.8 < tensor.max() <= 1
    assert tensor[1, 2, 3] == pytest.approx(frame[2, 3, 1] / np.iinfo(kind).max)
    assert np.array_equal(images.to_array(tensor, bits), frame)


def test_a_frame_that_is_not_finite_is_never_written():
    with pytest.raises(ValueError, match="not finite"):
        images.to_array(torch.full((3, 2, 2), torch.nan), 8)


def bomb(path, side=40000):
    """A PNG of a few bytes that says it is enormous."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("side", [9000, 12000, 40000])  # below and above what Pillow warns of
def test_an_image_that_would_fill_the_memory_is_refused_wherever_it_stands(side, tmp_path):
    place = bomb(tmp_path / "f.png", side)
    for read in (images.read, images.size, video.probe, lambda path: video.probe(path.parent)):
        with pytest.raises(ValueError, match=r"f\.png exceeds the maximum frame size"):
            read(place)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif"])
def test_an_image_that_is_cut_off_or_scrambled_is_refused(suffix, tmp_path):
    place = tmp_path / f"f.{suffix}"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(place)
    whole = place.read_bytes()
    for broken in (b"", whole[:10], whole[: len(whole) // 2], whole[:30] + whole[60:]):
        place.write_bytes(broken)
        with contextlib.suppress(ValueError):  # a format may bridge a gap, and draw what it has
            images.read(place)
    place.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"f\.\w+ is (damaged|not an image)"):
        images.size(place)


def test_values_are_rounded_and_not_cut():
    half = torch.full((3, 1, 1), 0.4999)
    assert images.to_array(half, 8).ravel().tolist() == [127] * 3
    assert images.to_array(torch.full((3, 1, 1), 127.6 / 255), 8).ravel().tolist() == [128] * 3
