"""Integer frames to tensors and back."""

import numpy as np
import pytest
import torch

from holdfast.media import images


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


def test_values_are_rounded_and_not_cut():
    half = torch.full((3, 1, 1), 0.4999)
    assert images.to_array(half, 8).ravel().tolist() == [127] * 3
    assert images.to_array(torch.full((3, 1, 1), 127.6 / 255), 8).ravel().tolist() == [128] * 3
