"""Group norms over the clip: a group has the statistics of all frames, in residual blocks and at the output."""

import pytest
import torch

from holdfast.models.base import Prompt
from holdfast.models.unet import clip_norms

from .. import tiny


@pytest.fixture(scope="module")
def backbone():
    return tiny.ADAPTERS["sd"]()


def test_the_statistics_are_those_of_all_frames(backbone):
    """One norm of a network against the definition."""
    norm = backbone.network.down_blocks[0].resnets[0].norm1
    inputs = {}
    hook = norm.register_forward_hook(lambda m, i, o: inputs.update(x=i[0], out=o))
    evaluate(backbone, frames=3)
    stock = inputs["out"]
    hook.remove()
    found = {}
    with backbone.field.normalize_over_clip():
        hook = norm.register_forward_hook(lambda m, i, o: found.update(out=o))
        evaluate(backbone, frames=3)
        hook.remove()
    x = inputs["x"].double()  # the first norm sees the same in both runs: 3 c h w
    groups = norm.num_groups
    expected = torch.empty_like(x)
    for group in x.split(x.shape[1] // groups, 1):
        start = int((x == group[:, :1]).all((0, 2, 3)).nonzero()[0])
        mean, var = group.mean(), group.var(unbiased=False)
        part = slice(start, start + group.shape[1])
        expected[:, part] = (group - mean) / (var + norm.eps).sqrt()
    expected = expected * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
    assert torch.allclose(found["out"].double(), expected, atol=1e-5)
    assert not torch.allclose(stock.double(), expected, atol=1e-3)


def test_one_frame_is_not_affected_and_the_network_is_restored(backbone):
    stock, one = evaluate(backbone, 3), evaluate(backbone, 1)
    with backbone.field.normalize_over_clip(), backbone.field.normalize_over_clip():
        over_clip = evaluate(backbone, 3)
        assert torch.allclose(evaluate(backbone, 1), one, atol=1e-5)
    assert not torch.allclose(over_clip, stock, atol=1e-3)
    assert torch.equal(evaluate(backbone, 3), stock)


def test_the_norms_at_the_entry_of_a_transformer_stay_per_frame(backbone):
    norms = clip_norms.find_norms([backbone.network])
    network = backbone.network
    block = network.down_blocks[0].resnets[0]
    assert {network.conv_norm_out, block.norm1, block.norm2} <= set(norms)
    assert network.down_blocks[0].attentions[0].norm not in norms


def test_a_network_over_clips_has_no_choice():
    video = tiny.ADAPTERS["t2v"]()
    stock = evaluate(video, 3)
    with video.field.normalize_over_clip():
        assert torch.equal(evaluate(video, 3), stock)


def evaluate(backbone, frames):
    conditioning = backbone.condition(Prompt("a ball", ""))
    z = torch.randn(1, 4, frames, 8, 8, generator=torch.Generator().manual_seed(0))
    scale = torch.linspace(0.5, 2, frames).view(1, 1, -1, 1, 1)
    with torch.no_grad():
        return backbone.field.velocity(z * scale, 0.5, conditioning, branch="tgt+")
