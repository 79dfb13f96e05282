"""Wan2.2: the published configurations, the VAE of the small one, and the two denoisers of the large one."""

import copy
import dataclasses
import json
import shutil

import pytest
import torch

from holdfast import load_backbone
from holdfast.base.errors import MissingDependencyError
from holdfast.models import attention, feature_hooks, registry
from holdfast.models.base import Conditioning, Prompt
from holdfast.models.checkpoint import Checkpoint
from holdfast.models.spec import BackboneSpec
from holdfast.models.wan import adapter, spec
from holdfast.models.wan.adapter import ExpertPair
from holdfast.pipeline import in_memory
from holdfast.pipeline.task import EditTask
from holdfast.sampling.guidance import guided_velocity

from .. import tiny
from ..methods.test_contract import Case

pytestmark = pytest.mark.filterwarnings("ignore:without a mask the target's attention")
CARD = BackboneSpec(
    "tiny", 0, fps=8, train_pixels=64 * 96, train_frames=13, capabilities=spec.CAPABILITIES
)
BOUNDARY = 0.875
ABOVE, BELOW = 0.9, 0.8


def small() -> adapter.Wan:
    """As the 5B: a residual VAE over 2x2 pixels, strides (4, 16, 16)."""
    from diffusers import AutoencoderKLWan

    plain = tiny.wan()
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=4,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.8, 1.0, 2.0],
    )
    encoder = plain.part("text_encoder")
    return adapter.Wan(plain.transformer, vae, encoder, plain.tokenizer, 3.0, CARD, "tiny 5b")


def large() -> adapter.Wan:
    """As the A14B: two denoisers, and the rest of Wan2.1."""
    plain = tiny.wan()
    second = copy.deepcopy(plain.transformer)
    torch.manual_seed(1)
    for parameter in second.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    experts = ExpertPair(plain.transformer, second, BOUNDARY)
    encoder = plain.part("text_encoder")
    return adapter.Wan(experts, plain.vae, encoder, plain.tokenizer, 3.0, CARD, "tiny 14b")


MEMBERS = {"5b": small, "14b": large}


@pytest.fixture(scope="module", params=MEMBERS)
def backbone(request):
    return MEMBERS[request.param]()


@pytest.fixture(params=["flowedit", "flowanchor"])
def case(request, backbone):
    return Case(request.param, backbone, size=(32, 96))


# What the checkpoints' config.json say, and the parameters that follow from it.
TRANSFORMERS = {
    "wan2.2-5b": ({"heads": 24, "ffn": 14336, "layers": 30, "channels": 48}, 4_999_787_712),
    "wan2.2-14b": ({"heads": 40, "ffn": 13824, "layers": 40, "channels": 16}, 14_288_491_584),
}
VAES = {
    "wan2.2-5b": (
        {
            "base_dim": 160,
            "decoder_base_dim": 256,
            "z_dim": 48,
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "scale_factor_spatial": 16,
            "latents_mean": [0.0] * 48,
            "latents_std": [1.0] * 48,
        },
        704_688_668,
    ),
    "wan2.2-14b": ({}, 126_892_531),
}


def linear(name: str, out: int, into: int) -> dict[str, tuple]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def published(heads: int, ffn: int, layers: int, channels: int) -> dict[str, tuple]:
    """Names and shapes of a denoiser's parameters, from the authors' model under diffusers' names."""
    d, text, frequencies = 128 * heads, 4096, 256
    embedder = "condition_embedder"
    shapes = {"scale_shift_table": (1, 2, d), "patch_embedding.bias": (d,)}
    shapes |= {"patch_embedding.weight": (d, channels, 1, 2, 2)}
    shapes |= linear("proj_out", 4 * channels, d)
    shapes |= linear(f"{embedder}.time_embedder.linear_1", d, frequencies)
    shapes |= linear(f"{embedder}.time_embedder.linear_2", d, d)
    shapes |= linear(f"{embedder}.time_proj", 6 * d, d)
    shapes |= linear(f"{embedder}.text_embedder.linear_1", d, text)
    shapes |= linear(f"{embedder}.text_embedder.linear_2", d, d)
    for i in range(layers):
        block = f"blocks.{i}"
        shapes |= {f"{block}.scale_shift_table": (1, 6, d)}
        shapes |= {f"{block}.norm2.weight": (d,), f"{block}.norm2.bias": (d,)}
        shapes |= linear(f"{block}.ffn.net.0.proj", ffn, d) | linear(f"{block}.ffn.net.2", d, ffn)
        for name in ("attn1", "attn2"):
            for projection in ("to_q", "to_k", "to_v", "to_out.0"):
                shapes |= linear(f"{block}.{name}.{projection}", d, d)
            shapes |= {f"{block}.{name}.norm_{x}.weight": (d,) for x in "qk"}
    return shapes


def on_meta(name: str):
    """The published denoiser and VAE."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    sizes, _ = TRANSFORMERS[name]
    with torch.device("meta"):
        transformer = WanTransformer3DModel(
            num_attention_heads=sizes["heads"],
            ffn_dim=sizes["ffn"],
            num_layers=sizes["layers"],
            in_channels=sizes["channels"],
            out_channels=sizes["channels"],
        )
        return transformer, AutoencoderKLWan(**VAES[name][0])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_published_configurations_on_the_meta_device(name):
    transformer, vae = on_meta(name)
    sizes, parameters = TRANSFORMERS[name]
    shapes = {key: tuple(p.shape) for key, p in transformer.named_parameters()}
    assert shapes == published(**sizes)
    assert sum(p.numel() for p in transformer.parameters()) == parameters
    assert sum(p.numel() for p in vae.parameters()) == VAES[name][1]
    model = spec.SPECS[name]
    made = adapter.Wan(transformer, vae, shift=spec.SHIFTS[name], spec=model, name=name)
    side = {"wan2.2-5b": 16, "wan2.2-14b": 8}[name]
    assert made.clip_format.stride == (4, side, side)
    assert made.clip_format.size_multiple == (2 * side, 2 * side)
    assert (
        made.clip_format.count_latent_frames(made.clip_format.train_frames)
        == {"wan2.2-5b": 31, "wan2.2-14b": 21}[name]
    )
    assert made.attention_hooks.count_layers("cross", "joint") == sizes["layers"]
    z = torch.empty(1, sizes["channels"], 3, 8, 8, device="meta")
    text = torch.empty(1, 512, 4096, device="meta")
    assert made.velocity(z, 0.5, Conditioning(text, text), branch="tgt+").shape == z.shape


def test_the_cards_are_the_authors():
    five, fourteen = (spec.SPECS[name] for name in ("wan2.2-5b", "wan2.2-14b"))
    assert (five.fps, five.train_frames, five.train_pixels) == (24, 121, 704 * 1280)
    assert (fourteen.fps, fourteen.train_frames, fourteen.train_pixels) == (16, 81, 480 * 832)
    assert (five.recommended, fourteen.recommended) == ({"shift": 5.0}, {"shift": 12.0})


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_the_residual_vae_streams_what_it_makes_of_the_whole_clip(frames):
    made = small()
    clip = torch.rand(frames, 3, 32, 64)
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (made.vae.config.latents_mean, made.vae.config.latents_std)
    )
    with torch.no_grad():
        posterior = made.vae.encode(clip.transpose(0, 1)[None] * 2 - 1).latent_dist
        mode = posterior.mode()
        z = made.encode(iter(clip))
        eps = torch.randn(z[0].transpose(0, 1).shape)
        sampled = made.encode(iter(clip), eps=eps)
        whole = made.vae.decode(z * std + mean).sample[0].transpose(0, 1) / 2 + 0.5
        chunks = list(made.decode(z))
    assert torch.equal(z, (mode - mean) / std)
    assert torch.allclose(sampled - z, posterior.std * eps.transpose(0, 1) / std, atol=1e-5)
    assert tuple(z.shape[2:]) == (made.clip_format.count_latent_frames(frames), 2, 4)
    assert torch.allclose(torch.cat(chunks), whole, atol=1e-6)
    assert torch.cat(chunks).shape == clip.shape


@pytest.mark.parametrize("boundary", [0.875, 0.9])
def test_a_level_has_the_denoiser_that_diffusers_gives_it(boundary):
    """WanPipeline: `t >= boundary_ratio * num_train_timesteps`, with whole timesteps or exact ones."""
    experts = ExpertPair(None, None, boundary)
    levels = [k / 1000 for k in range(1001)] + torch.rand(1000, dtype=torch.float64).tolist()
    for sigma in levels:
        high = 1000 * sigma >= boundary * 1000
        assert experts.part_at(sigma) == ("transformer" if high else "transformer_2")
        assert experts.part_at(adapter.Wan().snap_timestep(sigma)) == experts.part_at(sigma)
    assert experts.part_at(boundary) == "transformer"
    assert ExpertPair(None).part_at(0.0) == "transformer"  # one alone has every level


def pipeline(made: adapter.Wan, shift: float):
    """Diffusers' own, of the same parts."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    two = made.experts.second is not None
    pipe = WanPipeline(
        tokenizer=made.tokenizer,
        text_encoder=made.part("text_encoder"),
        vae=made.vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        transformer=made.transformer,
        transformer_2=made.experts.second,
        boundary_ratio=BOUNDARY if two else None,
        expand_timesteps=not two,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.filterwarnings("ignore")  # of the pipeline's own
@torch.no_grad()
def test_both_sample_what_diffusers_own_pipeline_samples(member):
    """From the same noise, with guidance, on its grid of levels; the large one's run over both denoisers."""
    made, steps, shift = MEMBERS[member](), 8, 5.0
    noise = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    side = 4 * made.clip_format.stride[1]
    text, negative = "a plain red ball moves right", "a star"
    asked = {"prompt": text, "negative_prompt": negative, "num_inference_steps": steps}
    asked |= {"height": side, "width": side, "num_frames": 5, "latents": noise}
    asked |= {"guidance_scale": 3.0, "output_type": "latent", "max_sequence_length": 32}
    theirs = pipeline(made, shift)(**asked).frames
    levels, turns = made.sigmas(steps, shift, "euler"), set()
    z, condition = noise, made.condition(Prompt(text, negative))
    for i in range(steps):
        turns.add(made.experts.part_at(levels[i]))
        velocity = guided_velocity(made.field, z, levels[i], condition, "tgt", 3.0)
        z = z + (levels[i + 1] - levels[i]) * velocity
    assert len(turns) == len(made.parts) - 2
    assert torch.allclose(z, theirs, atol=1e-4)


def silent(site, q, k, v):
    return torch.zeros_like(q)


def test_one_door_leads_to_both_denoisers():
    made = large()
    z, condition = torch.randn(1, 4, 2, 4, 4), made.condition(Prompt("a plain red ball"))

    def call(sigma):
        return made.velocity(z, sigma, condition, branch="tgt+")

    networks = (made.experts.first, made.experts.second)
    stock, silenced, zeroed = {}, {}, {}
    for sigma, network in zip((ABOVE, BELOW), networks, strict=True):
        alone = adapter.Wan(network)
        told = {"branch": "tgt+"}
        stock[sigma] = alone.velocity(z, sigma, condition, **told)
        with attention.use_rule(alone, silent):
            silenced[sigma] = alone.velocity(z, sigma, condition, **told)
        with feature_hooks.use_rule(alone, lambda site, x: torch.zeros_like(x)):
            zeroed[sigma] = alone.velocity(z, sigma, condition, **told)
    processors = [block.attn1.processor for n in networks for block in n.blocks]
    with attention.use_rule(
        made, silent
    ):  # put in force before any is in use, and kept over a change
        for sigma in (ABOVE, BELOW, BELOW, ABOVE):
            assert torch.equal(call(sigma), silenced[sigma])
    with feature_hooks.use_rule(made, lambda site, x: torch.zeros_like(x)):
        for sigma in (ABOVE, BELOW):
            assert torch.equal(call(sigma), zeroed[sigma])
    for sigma in (ABOVE, BELOW):
        assert not torch.allclose(stock[sigma], silenced[sigma], atol=1e-3)
        assert torch.equal(call(sigma), stock[sigma])
    assert [block.attn1.processor for n in networks for block in n.blocks] == processors
    assert not any(block._forward_hooks for n in networks for block in n.blocks)


def test_what_is_recorded_of_one_denoiser_is_met_again_in_the_other():
    made = large()
    z, condition = torch.randn(1, 4, 2, 4, 4), made.condition(Prompt("a plain red ball"))
    found = {}
    for sigma in (ABOVE, BELOW):
        with attention.record(made) as attended, feature_hooks.record(made) as put_out:
            made.velocity(z, sigma, condition, branch="src+")
        found[sigma] = (list(attended), list(put_out))
    assert found[ABOVE] == found[BELOW]
    assert {site.path for site in found[BELOW][0]} == {
        site.path for site in made.attention_hooks.layers
    }
    assert {site.path for site in found[BELOW][1]} == {
        site.path for site in made.feature_hooks.layers
    }


def test_one_denoiser_is_on_the_device_at_a_time(monkeypatch):
    made = large()
    z, condition = torch.randn(1, 4, 2, 4, 4), made.condition(Prompt("a plain red ball"))
    moved = []
    made.device = "the device"  # nothing but `to` asks for it from here on
    for name in ("transformer", "transformer_2"):
        network = made.part(name)
        monkeypatch.setattr(network, "to", lambda device, name=name: moved.append((name, device)))
    for sigma in (BELOW, BELOW, ABOVE, BELOW):
        made.velocity(z, sigma, condition, branch="src+")
    first, second = "transformer", "transformer_2"
    assert moved == [
        *[(first, "cpu"), (second, "the device")],
        *[(second, "cpu"), (first, "the device")],
        *[(first, "cpu"), (second, "the device")],
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder as diffusers writes one of two denoisers, with the shift that the conversion script wrote."""
    from diffusers import UniPCMultistepScheduler

    folder, made = tmp_path_factory.mktemp("a14b"), large()
    for name, part in made.parts.items():
        part.save_pretrained(folder / name)
    made.tokenizer.save_pretrained(folder / "tokenizer")
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ).save_pretrained(folder / "scheduler")
    network = ["diffusers", "WanTransformer3DModel"]
    networks = {"transformer": network, "transformer_2": network}
    write_index(folder, _class_name="WanPipeline", boundary_ratio=0.85, **networks)
    return folder


def write_index(folder, **fields):
    (folder / "model_index.json").write_text(json.dumps(fields))


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of it, to take from."""
    return shutil.copytree(saved, tmp_path / "copy")


def load(folder, name="wan2.2-14b"):
    return load_backbone(name, str(folder), "cpu")


def test_everything_but_the_velocity_is_known_before_a_denoiser_is_loaded(folder):
    made, about = load(folder), registry.describe_backbone("wan2.2-14b", str(folder))
    for part in ("transformer", "transformer_2"):
        (folder / part / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    assert set(made.parts) == {"vae", "text_encoder"}
    assert made.clip_format == about.clip_format
    assert made.capabilities == about.capabilities == spec.CAPABILITIES
    assert made.dtype == torch.float32
    assert made.attention_hooks.count_layers("cross", "joint") == 2
    with attention.record(made):
        assert made.encode(torch.rand(1, 3, 32, 32)).shape == (1, 4, 1, 4, 4)


def test_a_loaded_denoiser_is_the_saved_one_also_under_a_rule_in_force(folder):
    made, kept = load(folder), large()
    z, condition = torch.randn(1, 4, 2, 4, 4), kept.condition(Prompt("a plain red ball"))
    for sigma in (BELOW - 0.1, ABOVE):
        with attention.use_rule(made, silent), attention.use_rule(kept, silent):
            ours, theirs = (b.velocity(z, sigma, condition, branch="src+") for b in (made, kept))
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert made.part("transformer_2").dtype == torch.float32
    assert not any(p.requires_grad for p in made.transformer.parameters())


CLIP = torch.rand(5, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("strength", "both"), [(0.3, False), (1.0, True)])
@pytest.mark.parametrize("method", ["flowedit", "flowanchor"])
def test_an_edit_below_the_boundary_never_loads_the_first_denoiser(folder, method, strength, both):
    made = load(folder)
    made.clip_format = dataclasses.replace(
        made.clip_format, train_pixels=32 * 48
    )  # the clip as it is
    task = EditTask(
        input="",
        output="",
        source_prompt="a plain red ball",
        target_prompt="a plain blue ball",
        method=method,
        settings={"steps": 10, "strength": strength},
    )
    job = in_memory.plan_job(task, made, CLIP)
    first = 10 - round(10 * strength)
    starts = made.sigmas(10, job.plan.config.shift, job.plan.config.schedule)[first]
    assert (starts >= made.experts.boundary) == both
    if not both:
        (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    edited = in_memory.edit_latent(job, made)
    assert edited.isfinite().all()
    assert ("transformer" in made.parts) == both
    assert "transformer_2" in made.parts


def test_the_shift_is_the_cards_and_the_boundary_the_folders(folder):
    made = load(folder)
    assert made.shift == 12.0
    assert made.sigmas(40) == adapter.Wan(shift=12.0).sigmas(40)
    assert made.experts.boundary == 0.85
    index = Checkpoint(folder).index()
    for without in ({"boundary_ratio": None}, {}):
        rest = {key: value for key, value in index.items() if key != "boundary_ratio"}
        write_index(folder, **rest, **without)
        assert load(folder).experts.boundary == 0.875


def test_a_folder_without_its_second_denoiser_is_not_complete(folder):
    shutil.rmtree(folder / "transformer_2")
    with pytest.raises(ValueError, match="lacks transformer_2"):
        load(folder)
    with pytest.raises(ValueError, match="lacks transformer_2"):
        registry.describe_backbone("wan2.2-14b", str(folder))


def test_a_download_without_its_second_denoiser_says_how_to_go_on(folder, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    assert registry.find_weights("wan2.2-14b").folder == folder
    shutil.rmtree(folder / "transformer_2")
    said = r"is not complete \(no transformer_2\).*hf download Wan-AI/Wan2.2-T2V-A14B-Diffusers"
    with pytest.raises(MissingDependencyError, match=said):
        registry.find_weights("wan2.2-14b")
    (folder / "model_index.json").unlink()
    with pytest.raises(MissingDependencyError, match=r"no model_index\.json"):
        registry.find_weights("wan2.2-14b")


def test_folders_of_one_denoiser_and_of_two_are_not_taken_for_each_other(folder):
    one = str(registry.find_weights("shapeworld-wan"))  # its index names the second as none
    with pytest.raises(
        ValueError, match=r"names no transformer_2\), and \S+ has two: use .*such as wan2\.1-14b"
    ):
        load(one)
    for name in ("wan2.1-14b", "wan2.2-5b", "shapeworld-wan"):
        with pytest.raises(ValueError, match=rf"two denoisers.*{name} has one: use wan2\.2-14b"):
            load(folder, name)
    index = Checkpoint(folder).index()
    del index["transformer_2"]  # an older index does not name it at all
    write_index(folder, **index)
    with pytest.raises(ValueError, match="has two"):
        load(folder)
    assert load(folder, "wan2.1-14b").shift == 3.0  # of the folder's scheduler, as ever


@pytest.mark.parametrize(("name", "size"), [("wan2.2-5b", "34.2"), ("wan2.2-14b", "126.2")])
def test_missing_weights_say_how_large_and_how_to_get_them(name, size):
    said = rf"{size} GB.*hf download {spec.SPECS[name].weights}"
    with pytest.raises(MissingDependencyError, match=said):
        load_backbone(name)


def test_the_field_says_where_the_experts_change():
    assert large().field.expert_boundary == BOUNDARY
    assert small().field.expert_boundary == 0.0


def test_an_expert_that_is_loaded_while_an_edit_runs_is_compiled_too():
    from holdfast.models import compiling

    loaded = large()
    second = loaded.parts.pop("transformer_2")
    loaded._lazy["transformer_2"] = adapter.LazyModule({}, torch.float32, lambda: second)
    with compiling.compile_blocks(loaded, "eager"):
        assert loaded.part("transformer_2").blocks[0]._compiled_call_impl is not None
    assert second.blocks[0]._compiled_call_impl is None
