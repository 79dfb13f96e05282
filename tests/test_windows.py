"""Windows: how a clip is cut, and that averaging them is what it says."""

import pytest
import torch

from holdfast import diffusion, windows
from holdfast.backbones.base import Grid

GRID = Grid((4, 8, 8), (1, 1, 1), 8, 64 * 64, 25, 1021)  # trained on 7 latent frames


@pytest.mark.parametrize("frames", [29, 33, 49, 97, 401])
def test_windows_cover_the_clip_evenly_and_overlap(frames):
    plan = windows.plan(GRID, frames)
    latent = (frames - 1) // 4 + 1
    assert plan.spans[0][0] == 0
    assert plan.spans[-1][1] == latent
    assert all(b - a == 7 for a, b in plan.spans)
    assert all(b[0] <= a[1] - 1 for a, b in zip(plan.spans, plan.spans[1:], strict=False))
    assert f"{latent} latent frames are more than the 7" in plan.reason


@pytest.mark.parametrize(("frames", "wanted"), [(25, None), (1, None), (49, 0), (49, 49), (13, 400), (1, 1)])
def test_one_window_says_why(frames, wanted):
    plan = windows.plan(GRID, frames, wanted)
    assert plan.count == 1
    assert plan.reason


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="--window is 5 or more"):
        windows.plan(GRID, 49, 3)
    with pytest.raises(ValueError, match="--window is 5 or more"):
        windows.plan(GRID, 49, -5)
    with pytest.raises(ValueError, match="at most 1021 frames"):
        windows.plan(GRID, 2001, 0)


class Pointwise:
    """A field that looks at each frame by itself: windows must not change it."""

    door, seen = None, 0

    def levels(self, steps, shift=None):
        return [1 - i / steps for i in range(steps + 1)]

    def velocity(self, z, sigma, condition, *, branch):
        self.seen = max(self.seen, z.shape[2])
        return torch.sin(z) * sigma


class Doored(Pointwise):
    def __init__(self):
        from holdfast.attention import Door

        self.door = Door(lambda: None, lambda: None, 0)


def test_windows_of_a_field_that_looks_at_single_frames_change_nothing_and_see_no_more_than_a_window():
    z = torch.randn(1, 2, 31, 3, 3)
    field = Doored()
    split = windows.fitted(field, windows.plan(GRID, 121))
    assert torch.allclose(split.velocity(z, 0.5, None, branch="src+"), torch.sin(z) * 0.5, atol=1e-6)
    assert field.seen == 7


def test_noise_is_that_of_the_absolute_frame():
    whole = diffusion.noise(torch.zeros(1, 2, 9, 3, 3), 1, 2)
    part = diffusion.noise(torch.zeros(1, 2, 4, 3, 3), 1, 2, first_frame=3)
    assert torch.equal(whole[:, :, 3:7], part)
