"""Attention matching against naive formulas on explicit maps, and the table of the temporal selector."""

import dataclasses

import pytest
import torch

from holdfast.methods.i2vedit.settings import STAGES as PRESETS
from holdfast.models.attention import blending
from holdfast.models.attention.hooks import Layer

B, HEADS, N, D = 3, 2, 12, 4


def tensors(seed, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(5, B, HEADS, N, D, generator=generator)).unbind()


def maps(q, k):
    return (q @ k.mT / D**0.5).softmax(-1)


def test_the_difference_is_that_of_the_whole_maps_however_they_are_cut(monkeypatch):
    q, k, q0, k0, _ = tensors(0, 2.0)
    naive = (maps(q, k) - maps(q0, k0)).abs().mean(1).sum(-1) / 2
    assert torch.allclose(blending.attention_distance(q, k, q0, k0), naive, atol=1e-6)
    monkeypatch.setattr(blending, "rows_per_block", lambda count, row, device=None: 5)
    assert torch.allclose(blending.attention_distance(q, k, q0, k0), naive, atol=1e-6)
    assert torch.equal(blending.attention_distance(q, k, q, k), torch.zeros(B, N))
    assert naive.min() > 0
    assert naive.max() < 1


def test_outputs_mix_as_the_maps_would():
    """M is 1 from the threshold on, else the difference itself."""
    q, k, q0, k0, v = tensors(1, 2.0)
    naive = (maps(q, k) - maps(q0, k0)).abs().mean(1).sum(-1) / 2
    threshold = naive.median()
    share = torch.where(naive >= threshold, 1.0, naive)[:, None, :, None]
    expected = ((1 - share) * maps(q0, k0) + share * maps(q, k)) @ v
    assert torch.allclose(blending.blend_attention(q, k, v, q0, k0, threshold), expected, atol=1e-5)


def test_each_frame_has_its_threshold_and_outside_a_mask_the_source_stays():
    q, k, q0, k0, v = tensors(2, 2.0)
    bounds = torch.tensor([0.0, 2.0, 0.4])[:, None]
    found = blending.blend_attention(q, k, v, q0, k0, bounds)
    for frame in range(B):
        one = slice(frame, frame + 1)
        alone = blending.blend_attention(
            q[one], k[one], v[one], q0[one], k0[one], float(bounds[frame])
        )
        assert torch.allclose(found[one], alone, atol=1e-6)
    within = torch.zeros(B, N)
    within[:, :4] = 1
    held = blending.blend_attention(q, k, v, q0, k0, bounds, within)
    assert torch.allclose(held[:, :, :4], found[:, :, :4], atol=1e-6)
    assert torch.allclose(held[:, :, 4:], (maps(q0, k0) @ v)[:, :, 4:], atol=1e-5)


def test_equal_branches_give_stock_attention():
    q, k, _, _, v = tensors(3)
    stock = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(blending.blend_attention(q, k, v, q, k, 0.35), stock, atol=1e-6)


def test_thresholds_go_from_the_first_towards_the_second():
    assert blending.frame_thresholds((0.2, 0.6), 4).tolist() == pytest.approx([0.2, 0.3, 0.4, 0.5])
    assert blending.frame_thresholds((0.35, 0.35), 3).tolist() == pytest.approx([0.35] * 3)


# of 25 steps: which of the scales 1, 2, 4 and 8 the source's attention over time stands in at
STAGES = {
    "local": {range(12): {1, 2, 4, 8}, range(12, 20): {4, 8}, range(20, 25): set()},
    "style": {range(20): {1, 2, 4, 8}, range(20, 22): {4, 8}, range(22, 25): set()},
    "shape": {range(10): {1, 2, 4, 8}, range(10, 12): {4, 8}, range(12, 25): set()},
}


@pytest.mark.parametrize("name", STAGES)
def test_the_table_of_the_temporal_selector(name):
    site = Layer("", "down", 0, "self", "temporal")
    for steps, expected in STAGES[name].items():
        for step in steps:
            found = set()
            for scale in (1, 2, 4, 8):
                here = dataclasses.replace(site, cells_per_token=scale)
                if blending.uses_source_attention(here, step, 25, PRESETS[name]):
                    found.add(scale)
            assert found == expected, (name, step)


def test_the_coarser_half_of_the_levels():
    sites = [Layer("", "down", 0, "self", "temporal", cells_per_token=s) for s in (1, 2, 4, 8, 1)]
    assert blending.coarse_scale(sites) == 4
    assert blending.coarse_scale(sites[:2]) == 2


def test_the_released_second_stage_leaves_out_the_last_layer_of_the_way_up():
    scales = {"down.4": 4, "down.5": 4, "mid": 8, "up.0": 4, "up.1": 4, "up.2": 4, "up.3": 2}
    sites = [
        Layer(path, "", 0, "self", "temporal", cells_per_token=scale)
        for path, scale in scales.items()
    ]
    beside = [Layer("up.2s", "", 0, "self", "spatial", cells_per_token=4)]
    left_out = blending.last_coarse_path(sites + beside, 4)
    chosen = [
        s.path for s in sites if blending.uses_source_attention(s, 15, 25, (0.5, 0.8), 4, left_out)
    ]
    assert chosen == ["down.4", "down.5", "mid", "up.0", "up.1"]
    assert all(blending.uses_source_attention(s, 11, 25, (0.5, 0.8), 4, left_out) for s in sites)
