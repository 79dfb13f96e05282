"""ControlNet conditioning: what the network adds, for which frames, and that hooks reach its layers."""

import dataclasses

import pytest
import torch

from holdfast.base.errors import MissingDependencyError, UserError
from holdfast.models import controlnets
from holdfast.models.attention import hooks as attention
from holdfast.models.base import Control, Prompt
from holdfast.models.spec import BackboneSpec
from holdfast.sampling import windows
from holdfast.sampling.field import Evaluation

from .. import tiny

FRAMES = 5
SPEC = BackboneSpec("", 0, 8, 64, 1, controlnets={"canny": "owner/canny"})


@pytest.fixture(scope="module")
def backbone():
    return tiny.ADAPTERS["sd"]()


@pytest.fixture(scope="module")
def network(backbone):
    return tiny.controlnet(backbone.network)


@pytest.fixture
def inputs(backbone):
    """A latent, and a conditioning with pictures of noise."""
    torch.manual_seed(1)
    z = torch.randn(1, 4, FRAMES, 4, 4)
    pictures = torch.randint(0, 256, (FRAMES, 3, 32, 32), dtype=torch.uint8)
    conditioning = backbone.condition(Prompt("a plain red ball", "a blue ball"))
    return z, dataclasses.replace(conditioning, control=Control(pictures, 0.7))


def naive_velocity(backbone, network, z, sigma, conditioning):
    """Frame by frame, with diffusers' own calls: the residuals of the frame's picture are added."""
    frames = []
    for i in range(z.shape[2]):
        picture = conditioning.control.pictures[i : i + 1].float() / 255

        def predict(x, t, picture=picture):
            text = conditioning.positive
            down, middle = network(
                x[:, :, 0], t, text, picture, conditioning_scale=0.7, return_dict=False
            )
            out = backbone.network(
                x[:, :, 0],
                t,
                text,
                down_block_additional_residuals=down,
                mid_block_additional_residual=middle,
            )
            return out.sample[:, :, None]

        with torch.no_grad():
            frames.append(backbone.schedule.velocity(predict, z[:, :, i : i + 1], sigma))
    return torch.cat(frames, 2)


@torch.no_grad()
def test_the_outputs_of_the_controlnet_are_added_frame_by_frame(backbone, network, inputs):
    z, conditioning = inputs
    with backbone.use_controlnet(network):
        found = backbone.velocity(z, 0.5, conditioning, branch="tgt+")
        split = windows.plan_windows(backbone.clip_format, FRAMES, 3)
        field = windows.apply_windows(backbone.field, split)
        (windowed,) = field.velocities(0.5, [Evaluation(z, conditioning, "tgt+")])
    expected = naive_velocity(backbone, network, z, 0.5, conditioning)
    assert torch.allclose(found, expected, atol=1e-5)
    assert split.count > 1
    assert torch.allclose(windowed, expected, atol=1e-5)  # each window reads its own pictures
    plain = dataclasses.replace(conditioning, control=None)
    without = backbone.velocity(z, 0.5, plain, branch="tgt+")
    assert (without - expected).abs().max() > 0.01
    weak = dataclasses.replace(conditioning.control, scale=0.0)
    with backbone.use_controlnet(network):
        off = backbone.velocity(z, 0.5, dataclasses.replace(plain, control=weak), branch="tgt+")
    assert torch.allclose(off, without, atol=1e-6)


@torch.no_grad()
def test_rules_reach_the_layers_of_the_controlnet_while_it_is_used(backbone, network, inputs):
    z, conditioning = inputs
    own = backbone.attention_hooks.layers
    with backbone.use_controlnet(network):
        with attention.record(backbone, extract=lambda *_: True) as seen:
            backbone.velocity(z, 0.5, conditioning, branch="tgt+")
        paths = {layer.path for layer in seen}
        assert {p for p in paths if p.startswith("controlnet.down_blocks.0.attentions")}
        assert {p for p in paths if p.startswith("controlnet.mid_block.attentions")}
        assert {layer.path for layer in own} < paths
        sections = {
            layer.path.split(".")[1]: layer.section for layer in seen if "controlnet" in layer.path
        }
        assert sections == {"down_blocks": "down", "mid_block": "mid"}
        joined = backbone.feature_hooks.layers
        assert any(layer.path.startswith("controlnet.") for layer in joined)
    assert backbone.attention_hooks.layers == own
    assert "controlnet" not in backbone.parts
    with pytest.raises(UserError, match="controlnet"):
        backbone.velocity(z, 0.5, conditioning, branch="tgt+")


def test_a_controlnet_of_another_model_and_a_model_of_clips_are_refused(backbone, network):
    other = tiny.controlnet(backbone.network)
    other.register_to_config(cross_attention_dim=99)
    with (
        pytest.raises(UserError, match="cross_attention_dim is 99"),
        backbone.use_controlnet(other),
    ):
        pass
    clips = tiny.ADAPTERS["t2v"]()
    with pytest.raises(UserError, match="takes no ControlNet"), clips.use_controlnet(network):
        pass
    assert "control" in backbone.capabilities
    assert "control" not in clips.capabilities


def test_folders_that_hold_no_controlnet_are_refused_and_missing_ones_name_the_command(
    network, tmp_path, monkeypatch
):
    monkeypatch.setattr(controlnets.hub, "find_cached", lambda place: None)
    with pytest.raises(MissingDependencyError, match="hf download owner/canny"):
        controlnets.find_controlnet(SPEC, "canny")
    with pytest.raises(UserError, match="no ControlNet 'nonsense'"):
        controlnets.find_controlnet(SPEC, "nonsense")
    with pytest.raises(UserError, match=r"no config\.json"):
        controlnets.find_controlnet(SPEC, str(tmp_path))
    network.save_pretrained(tmp_path / "own")
    assert controlnets.find_controlnet(SPEC, str(tmp_path / "own")) == tmp_path / "own"
    (tmp_path / "own" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="lacks"):
        controlnets.find_controlnet(SPEC, str(tmp_path / "own"))
