"""Conversion between a clip's size and length and the model's, and back."""

import pytest
import torch

from holdfast.media import fitting
from holdfast.media.clip_format import ClipFormat

WAN = ClipFormat((4, 8, 8), (1, 2, 2), 16, 832 * 480, 81, 4093, (16, 16), 4)
SMALL = ClipFormat((4, 8, 8), (1, 1, 1), 8, 64 * 64, 25, 1021, (8, 8), 4)


@pytest.mark.parametrize(
    ("grid", "size", "expected"),
    [
        (WAN, (480, 832), (480, 832)),
        (WAN, (832, 480), (832, 480)),
        (WAN, (1080, 1920), (480, 848)),
        (WAN, (718, 718), (640, 640)),
        (SMALL, (64, 64), (64, 64)),
        (SMALL, (480, 864), (48, 88)),
        (SMALL, (1, 1), (64, 64)),
        (SMALL, (10, 4000), (8, 664)),
        (SMALL, (4000, 10), (520, 8)),
    ],
)
def test_sizes(grid, size, expected):
    plan = fitting.choose_fit(grid, 5, size)
    assert plan.model_size == expected
    grid.check_clip(plan.model_frames, *plan.model_size)


def test_common_sizes_are_hardly_stretched():
    for size in [
        (480, 864),
        (1084, 1080),
        (718, 718),
        (1080, 1920),
        (1920, 1080),
        (576, 720),
        (480, 640),
    ]:
        for grid, limit in ((WAN, 0.03), (SMALL, 0.08)):
            h, w = fitting.choose_fit(grid, 5, size).model_size
            assert abs(w / h * size[0] / size[1] - 1) < limit, (size, grid)
            assert 0.7 < h * w / grid.train_pixels < 1.3


@pytest.mark.parametrize(
    ("frames", "padded"), [(1, 1), (2, 5), (5, 5), (6, 9), (81, 81), (147, 149)]
)
def test_lengths_are_padded_with_the_last_frame_and_trimmed(frames, padded):
    plan = fitting.choose_fit(SMALL, frames, (64, 64))
    clip = torch.rand(frames, 3, 64, 64)
    sent = torch.stack(list(plan.to_model(clip)))
    assert len(sent) == plan.model_frames == padded
    assert torch.equal(sent[:frames], clip)
    assert torch.equal(sent[frames:], clip[-1:].expand(padded - frames, -1, -1, -1))
    assert torch.equal(torch.stack(list(plan.to_clip([sent[:1], sent[1:]]))), clip)


def test_a_resized_clip_comes_back_at_its_size():
    smooth = torch.linspace(0, 1, 90).expand(2, 3, 50, 90)
    plan = fitting.choose_fit(SMALL, 2, (50, 90))
    back = torch.stack(list(plan.to_clip([torch.stack(list(plan.to_model(smooth)))])))
    assert back.shape == smooth.shape
    assert (back - smooth).abs().max() < 0.03


def test_the_reason_is_written_out():
    reason = fitting.choose_fit(SMALL, 91, (718, 718)).reason
    assert "718x718 runs at 64x64" in reason
    assert "91 frames padded to 93" in reason
    with pytest.raises(ValueError, match="no frames"):
        fitting.choose_fit(SMALL, 0, (64, 64))
