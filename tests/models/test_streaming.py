"""Every placement of a model's parts gives the same numbers; streamed blocks take memory only while they run."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from holdfast.base.errors import UserError
from holdfast.models import registry
from holdfast.models.attention import hooks as attention
from holdfast.models.base import Prompt
from holdfast.models.placement import Placements, StreamedPart
from holdfast.models.streaming import TensorFiles, count_bytes
from holdfast.sampling.adapters import mount_adapters

from .test_wan22 import ABOVE, BELOW, load, saved  # noqa: F401  a fixture

PLANS = {
    "disk": {"transformer": "disk", "text_encoder": "disk"},
    "stored": {"transformer": "stored"},
    "ram": {"transformer": "ram", "text_encoder": "ram"},
    "swapped": {"transformer": "swapped", "vae": "swapped"},
}
Z = torch.randn(1, 32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def load_wan(parts=None, dtype="float32"):
    return registry.load_backbone("shapeworld-wan", None, "cpu", dtype, Placements(parts or {}))


@torch.no_grad()
def velocity(backbone, z=Z, sigma=0.6):
    return backbone.velocity(
        z, sigma, backbone.condition(Prompt("a plain red ball")), branch="tgt+"
    )


@pytest.fixture(scope="module")
def resident():
    return load_wan()


@pytest.mark.parametrize("plan", PLANS)
def test_every_placement_gives_the_same_velocity_bit_for_bit_also_under_a_rule(resident, plan):
    backbone = load_wan(PLANS[plan])
    assert torch.equal(velocity(backbone), velocity(resident))
    assert backbone.streams_blocks == (plan != "swapped")

    def silence(layer, q, k, v):
        return torch.zeros_like(q) if layer.index == 1 else None

    with attention.use_rule(backbone, silence), attention.use_rule(resident, silence):
        silenced = velocity(backbone)
        assert torch.equal(silenced, velocity(resident))
    assert not torch.equal(silenced, velocity(resident))
    frames = torch.rand(5, 3, 64, 64)
    assert torch.equal(backbone.encode(frames), resident.encode(frames))


def test_bfloat16_keeps_the_formats_that_the_library_chooses():
    ours, theirs = load_wan(PLANS["disk"], "bfloat16"), load_wan(dtype="bfloat16")
    formats = [{n: p.dtype for n, p in b.transformer.named_parameters()} for b in (ours, theirs)]
    assert formats[0] == formats[1]
    assert torch.equal(velocity(ours), velocity(theirs))


@pytest.mark.parametrize("plan", ["disk", "ram"])
def test_u_nets_stream(plan):
    parts = Placements({"unet": plan})
    ours = registry.load_backbone("shapeworld-sd", None, "cpu", "float32", parts)
    theirs = registry.load_backbone("shapeworld-sd", None, "cpu")
    z = torch.randn(1, 16, 2, 8, 8)
    assert torch.equal(velocity(ours, z), velocity(theirs, z))


def test_float8_is_near(resident):
    """The tolerance is what 3 bits of mantissa do to these small weights."""
    error = velocity(load_wan({"transformer": "float8"})) - velocity(resident)
    assert 0 < error.norm() / velocity(resident).norm() < 0.1


def test_a_streamed_block_takes_no_memory_before_and_after_its_call(resident):
    backbone = load_wan(PLANS["disk"])
    network, inside = backbone.transformer, []
    whole = count_bytes(resident.transformer)
    blocks = sum(count_bytes(block) for block in resident.transformer.blocks)
    assert count_bytes(network) <= whole - blocks + 4 * len(list(network.parameters()))
    network.blocks[0].ffn.register_forward_hook(lambda *_: inside.append(count_bytes(network)))
    velocity(backbone)
    largest = max(count_bytes(block) for block in resident.transformer.blocks)
    assert largest < inside[0] < whole - blocks + largest + 2**16
    assert count_bytes(network) < whole - blocks + 2**16
    encoder = backbone.part("text_encoder")
    assert not any(
        isinstance(m, torch.nn.Embedding) and m.num_embeddings > 100 for m in encoder.modules()
    )


def test_a_block_that_fails_drops_its_weights():
    backbone = load_wan(PLANS["disk"])
    before = count_bytes(backbone.transformer)
    with pytest.raises(ZeroDivisionError), attention.use_rule(backbone, lambda *_: 1 / 0):
        velocity(backbone)
    assert count_bytes(backbone.transformer) == before


def test_gradients_pass_a_streamed_network(resident):
    gradients = []
    for backbone in (load_wan(PLANS["disk"]), resident):
        z = Z.clone().requires_grad_()
        conditioning = backbone.condition(Prompt("a plain red ball"))
        v = backbone.velocity(z, 0.6, conditioning, branch="tgt+")
        gradients.append(torch.autograd.grad(v.square().sum(), z)[0])
    assert torch.equal(*gradients)


@pytest.mark.parametrize("plan", ["disk", "ram"])
def test_adapters_work_on_every_placement(plan):
    velocities = []
    for parts in ({"unet": plan}, {}):
        backbone = registry.load_backbone(
            "shapeworld-t2v", None, "cpu", "float32", Placements(parts)
        )
        network = backbone.part("unet")
        paths = [n for n, m in network.named_modules() if n.endswith("attn1.to_q")]
        z = torch.randn(1, 16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        with mount_adapters(network, paths, 2, 0) as adapters:
            for layer in adapters.layers.values():
                torch.nn.init.constant_(layer.up.weight, 0.1)
            adapters.enable(True)
            with_adapters = velocity(backbone, z)
        assert not torch.equal(with_adapters, velocity(backbone, z))
        velocities.append(with_adapters)
    assert torch.equal(*velocities)


@pytest.mark.parametrize("plan", ["disk", "stored", "ram"])
def test_a_lora_of_peft_works_on_every_placement(plan):
    from peft import LoraConfig

    velocities = []
    for parts in (PLANS[plan], {}):
        backbone = load_wan(parts)
        torch.manual_seed(0)
        config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
        backbone.transformer.add_adapter(config)
        velocities.append(velocity(backbone))
    assert torch.equal(*velocities)


@pytest.mark.parametrize("plan", ["disk", "stored", "ram"])
def test_two_denoisers_stream(saved, plan):  # noqa: F811
    parts = {"transformer": plan, "transformer_2": plan}
    ours = registry.load_backbone("wan2.2-14b", str(saved), "cpu", "auto", Placements(parts))
    theirs, z = load(saved), torch.randn(1, 4, 2, 4, 4)
    for sigma in (ABOVE, BELOW, ABOVE):
        # Of layers of 24 numbers the last bit depends on where in memory a library has put their weights.
        assert torch.allclose(velocity(ours, z, sigma), velocity(theirs, z, sigma), atol=1e-6)


def copy_weights(tmp_path, change):
    """Copy the embedded model with changed tensors of its transformer."""
    source = registry.find_weights("shapeworld-wan").folder
    folder = shutil.copytree(source, tmp_path / "copy")
    file = next((folder / "transformer").glob("*.safetensors"))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    return str(folder)


def test_a_damaged_block_is_reported_when_it_is_read(tmp_path):
    def damage(tensors):
        tensors["blocks.1.ffn.net.2.bias"][0] = torch.nan

    folder = copy_weights(tmp_path, damage)
    parts = Placements({"transformer": "disk"})
    backbone = registry.load_backbone("shapeworld-wan", folder, "cpu", "auto", parts)
    with pytest.raises(UserError, match=r"blocks\.1\.ffn\.net\.2\.bias holds numbers that"):
        velocity(backbone)


def test_a_missing_tensor_is_reported_before_anything_runs(tmp_path):
    folder = copy_weights(tmp_path, lambda tensors: tensors.pop("blocks.1.ffn.net.2.bias"))
    with pytest.raises(UserError, match=r"lack blocks\.1\.ffn\.net\.2\.bias"):
        registry.load_backbone(
            "shapeworld-wan", folder, "cpu", "auto", Placements({"transformer": "disk"})
        )


def test_rows_are_those_of_the_table(tmp_path):
    table = torch.randn(50, 4)
    save_file({"shared.weight": table}, tmp_path / "model.safetensors")
    rows = TensorFiles(tmp_path).read_rows("shared.weight", [3, 49])
    assert torch.equal(rows, table[[3, 49]])


def test_blocks_are_found_by_the_names_of_their_tensors():
    part = StreamedPart(("blocks", "mid_block"))
    assert part.block_of("blocks.12.ffn.bias") == "blocks.12"
    assert part.block_of("mid_block.resnets.0.bias") == "mid_block"
    assert part.block_of("blocks_of_another.0.bias") == ""
