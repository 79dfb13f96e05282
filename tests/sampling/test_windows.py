"""Windows: how a clip is cut, and that averaging them is what it says."""

import dataclasses

import pytest
import torch

from holdfast.models.base import ClipFormat
from holdfast.sampling import windows

from ..methods.analytic import as_field

GRID = ClipFormat(
    (4, 8, 8), (1, 1, 1), 8, 64 * 64, 25, 1021, size_multiple=(8, 8), frame_step=4
)  # trained on 7 latent frames


@pytest.mark.parametrize("frames", [29, 33, 49, 97, 401])
def test_windows_cover_the_clip_evenly_and_overlap(frames):
    plan = windows.plan_windows(GRID, frames)
    latent = (frames - 1) // 4 + 1
    assert plan.ranges[0][0] == 0
    assert plan.ranges[-1][1] == latent
    assert all(b - a == 7 for a, b in plan.ranges)
    assert all(b[0] <= a[1] - 1 for a, b in zip(plan.ranges, plan.ranges[1:], strict=False))
    assert f"{latent} latent frames are more than the 7" in plan.reason


@pytest.mark.parametrize(
    ("frames", "wanted"), [(25, None), (1, None), (49, 0), (49, 49), (13, 400), (1, 1)]
)
def test_one_window_says_why(frames, wanted):
    plan = windows.plan_windows(GRID, frames, wanted)
    assert plan.count == 1
    assert plan.reason


def test_a_model_without_a_longest_clip_does_not_print_its_number():
    unlimited = dataclasses.replace(GRID, train_frames=10**6, max_frames=10**6)
    assert "no longest clip" in windows.plan_windows(unlimited, 49).reason


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="choose a window of 5 frames or more"):
        windows.plan_windows(GRID, 49, 3)
    with pytest.raises(ValueError, match="choose a window of 5 frames or more"):
        windows.plan_windows(GRID, 49, -5)
    with pytest.raises(ValueError, match="at most 1021 frames"):
        windows.plan_windows(GRID, 2001, 0)


class Pointwise:
    """A field without layers that looks at each frame by itself: windows must not change it."""

    attention_hooks = feature_hooks = network = None
    seen = 0

    def sigmas(self, steps, shift=None, schedule="native", shape=None):
        return [1 - i / steps for i in range(steps + 1)]

    def snap_timestep(self, sigma):
        return sigma

    def velocity(self, z, sigma, condition, *, branch, frames=None):
        self.seen = max(self.seen, z.shape[2])
        return torch.sin(z) * sigma


def test_windows_of_a_field_that_looks_at_single_frames_change_nothing():
    z = torch.randn(1, 2, 31, 3, 3)
    field = Pointwise()
    split = windows.apply_windows(as_field(field), windows.plan_windows(GRID, 121))
    expected = torch.sin(z) * 0.5
    assert torch.allclose(split.velocity(z, 0.5, None, branch="src+"), expected, atol=1e-6)
    assert field.seen == 7


def test_an_overlap_fades_from_one_window_to_the_next():
    """Each window says its first frame; where two meet, the weights are the distances to
    their ends: 1 2 3 ... 3 2 1.
    """

    class Named(Pointwise):
        def velocity(self, z, sigma, condition, *, branch, frames=None):
            assert frames == tuple(range(frames[0], frames[0] + 4))
            return torch.full_like(z, float(frames[0]))

    spans = windows.Windows(((0, 4), (2, 6)), "")
    z = torch.zeros(1, 1, 6, 1, 1)
    velocity = (
        windows.apply_windows(as_field(Named()), spans)
        .velocity(z, 0.5, None, branch="src+")
        .flatten()
    )
    # frame 2 is the third of the first window (weight 2) and the first of the second (weight 1)
    assert velocity.tolist() == pytest.approx([0, 0, 2 / 3, 4 / 3, 2, 2])
