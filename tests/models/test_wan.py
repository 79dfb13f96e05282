"""The Wan adapter against the parts it drives, the authors' numbers, and the published configurations."""

import itertools
import json
from itertools import chain

import pytest
import torch

from holdfast import load_backbone
from holdfast.base.errors import MissingDependencyError
from holdfast.base.prompts import clean_prompt
from holdfast.models import registry
from holdfast.models.base import Conditioning, Prompt
from holdfast.models.wan import adapter, spec

# As published: what the checkpoints' config.json say, and the parameters that follow from it.
TRANSFORMERS = {
    "wan2.1-1.3b": ({"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}, 1_418_996_800),
    "wan2.1-14b": ({"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}, 14_288_491_584),
}
UMT5_XXL = {
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_heads": 64,
    "num_layers": 24,
    "vocab_size": 256384,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_published_configurations_on_the_meta_device(name):
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    sizes, parameters = TRANSFORMERS[name]
    fixed = {
        "attention_head_dim": 128,
        "patch_size": (1, 2, 2),
        "text_dim": 4096,
        "freq_dim": 256,
        "in_channels": 16,
        "out_channels": 16,
    }
    with torch.device("meta"):
        transformer, vae = WanTransformer3DModel(**fixed, **sizes), AutoencoderKLWan()
    assert sum(p.numel() for p in transformer.parameters()) == parameters
    backbone = adapter.Wan(transformer, vae, shift=5.0, spec=spec.SPECS[name], name=name)
    assert backbone.clip_format.stride == (4, 8, 8)
    assert backbone.clip_format.size_multiple == (16, 16)
    assert backbone.clip_format.count_latent_frames(41) == 11
    shape = (11, 60, 104)
    z, text = torch.empty(1, 16, *shape, device="meta"), torch.empty(1, 512, 4096, device="meta")
    condition = Conditioning(text, text)
    assert backbone.velocity(z, 0.5, condition, branch="tgt+").shape == z.shape


def test_published_text_encoder_on_the_meta_device():
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        encoder = UMT5EncoderModel(UMT5Config(**UMT5_XXL))
    assert sum(p.numel() for p in encoder.parameters()) == 5_680_910_336


def test_levels_are_the_authors():
    """Their whole timesteps for 50 steps at shift 5, and the next-level rule: the last level is 0."""
    levels = adapter.Wan(shift=5.0).sigmas(50)
    told = [round(1000 * adapter.Wan().snap_timestep(s)) for s in levels]
    assert told[:4] == [999, 995, 991, 987]
    assert told[-4:] == [241, 172, 92, 0]
    assert levels[-1] == 0
    assert len(levels) == 51
    assert adapter.Wan(shift=3.0).sigmas(50, shift=5.0) == levels


def test_the_model_is_told_the_exact_timestep_and_the_right_text(tiny_wan, monkeypatch):
    told = []

    def forward(z, timestep, text, return_dict):
        told.append((timestep, text))
        return (z,)

    monkeypatch.setattr(tiny_wan.transformer, "forward", forward)
    condition = tiny_wan.condition(Prompt("a plain red ball", "a star"))
    z = torch.zeros(1, 4, 1, 4, 4)
    for branch in ("src+", "tgt-"):
        tiny_wan.velocity(z, 0.99199, condition, branch=branch)
    assert [t.tolist() for t, _ in told] == [[pytest.approx(991.99)]] * 2
    assert torch.equal(told[0][1], condition.positive)
    assert torch.equal(told[1][1], condition.negative)
    assert tiny_wan.snap_timestep(0.99199) == 0.991  # what a method's timesteps=whole makes of it


def test_parts_that_are_not_there_are_said_and_what_is_there_works():
    bare = adapter.Wan()
    assert len(bare.sigmas(4)) == 5
    with pytest.raises(ValueError, match="was built without its vae"):
        bare.encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="was built without its text_encoder"):
        bare.part("text_encoder")


def test_a_part_is_on_the_device_inside_and_rests_afterwards(tiny_wan):
    moved = []

    class Part(torch.nn.Module):
        def to(self, device):
            moved.append(str(device))
            return self

    backbone = adapter.Wan(text_encoder=Part(), device=torch.device("cpu"))
    backbone.device = torch.device("meta")
    with backbone.stage("condition"):
        assert moved == ["meta"]
    assert moved == ["meta", "cpu"]
    with pytest.raises(ZeroDivisionError), backbone.stage("condition"):
        1 / 0  # noqa: B018
    assert moved[-1] == "cpu"


def test_text_is_padded_with_zero_rows_that_stay(tiny_wan, shapeworld):
    assert adapter.MAX_TEXT_TOKENS == 512
    for backbone, length in ((tiny_wan, 32), (shapeworld, 32)):
        state = backbone.condition(Prompt("a plain red ball")).positive
        assert state.shape[1] == length  # this tokenizer's own limit is below 512
        assert state[0, :5].abs().sum(-1).min() > 0
        assert not state[0, 5:].any()


def test_text_without_a_tokenizer_limit_is_512_long(tiny_wan, monkeypatch):
    monkeypatch.setattr(tiny_wan.tokenizer, "model_max_length", 10**30)
    monkeypatch.setattr(tiny_wan, "_states", {})
    assert tiny_wan.condition(Prompt("a plain red ball")).positive.shape[1] == 512
    with pytest.warns(UserWarning, match="takes 512 tokens; the last 89"):
        tiny_wan.condition(Prompt("ball " * 600))


def test_prompt_cleaning():
    assert clean_prompt("  a\n&amp;amp; b\tâ€œcâ€\x9d ") == 'a & b "c"'


@pytest.mark.parametrize("frames", [1, 5, 13])
def test_encode_is_the_normalised_mode_of_the_posterior(tiny_wan, shapeworld, frames):
    for backbone in (tiny_wan, shapeworld):
        clip = torch.rand(frames, 3, 32, 48)
        with torch.no_grad():
            mode = backbone.vae.encode(clip.transpose(0, 1)[None] * 2 - 1).latent_dist.mode()
        mean, std = (
            torch.tensor(v).view(1, -1, 1, 1, 1)
            for v in (backbone.vae.config.latents_mean, backbone.vae.config.latents_std)
        )
        z = backbone.encode(iter(clip))
        assert torch.equal(z, (mode - mean) / std)
        assert z.dtype == torch.float32
        assert tuple(z.shape[2:]) == (backbone.clip_format.count_latent_frames(frames), 4, 6)


def test_decode_streams_what_the_vae_decodes(tiny_wan, shapeworld):
    for backbone in (tiny_wan, shapeworld):
        z = torch.randn(1, backbone.vae.config.z_dim, 3, 4, 6)
        mean, std = (
            torch.tensor(v).view(1, -1, 1, 1, 1)
            for v in (backbone.vae.config.latents_mean, backbone.vae.config.latents_std)
        )
        with torch.no_grad():
            whole = backbone.vae.decode(z * std + mean).sample[0].transpose(0, 1) / 2 + 0.5
        chunks = list(backbone.decode(z))
        assert [len(c) for c in chunks] == [1, 4, 4]
        assert torch.allclose(torch.cat(chunks), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "size", "words"),
    [(7, (32, 32), "use 5 or 9"), (5, (32, 40), "width 40"), (5, (30, 32), "height 30")],
)
def test_a_clip_that_does_not_fit_is_refused_with_what_would(tiny_wan, frames, size, words):
    with pytest.raises(ValueError, match=words):
        tiny_wan.clip_format.check_clip(frames, *size)


def test_missing_weights_say_how_large_and_how_to_get_them():
    with pytest.raises(
        MissingDependencyError, match=r"28\.9 GB.*hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    ):
        load_backbone("wan2.1-1.3b")


def test_wrong_names_and_folders(tmp_path):
    with pytest.raises(ValueError, match=r"did you mean wan2\.1"):
        load_backbone("wan2.1-13b")
    with pytest.raises(ValueError, match="not a diffusers folder"):
        load_backbone("wan2.1-1.3b", weights=str(tmp_path))
    with pytest.raises(ValueError, match="neither a folder nor a hub id"):
        load_backbone("wan2.1-1.3b", weights="no/such/place")


def test_the_embedded_checkpoint_is_an_ordinary_diffusers_folder(shapeworld):
    folder = registry.find_weights("shapeworld-wan").folder
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "WanPipeline"
    files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    parts = {
        "transformer": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
        "text_encoder": "model",
    }
    weights = [f"{part}/{name}.safetensors" for part, name in parts.items()]
    assert set(weights) <= set(files)
    assert sum((folder / w).stat().st_size for w in weights) < 15e6
    assert not [f for f in files if f.endswith((".bin", ".pt", ".pkl"))]
    tensors = chain(shapeworld.transformer.parameters(), shapeworld.vae.parameters())
    assert all(t.isfinite().all() for t in tensors)


def test_a_user_folder_of_the_family_loads(tmp_path, shapeworld):
    """--weights takes a folder: the embedded one under another backbone's name."""
    folder = registry.find_weights("shapeworld-wan").folder
    other = load_backbone("wan2.1-1.3b", weights=str(folder), device="cpu", dtype="bfloat16")
    assert other.transformer.dtype == torch.bfloat16
    assert other.vae.dtype == torch.float32
    z, condition = torch.randn(1, 32, 1, 8, 8), other.condition(Prompt("a plain red ball"))
    assert other.velocity(z, 0.5, condition, branch="src+").dtype == torch.float32


@pytest.mark.filterwarnings("ignore")  # of the pipeline's own
def test_the_embedded_model_samples_what_diffusers_own_pipeline_samples(shapeworld):
    """Loaded by from_pretrained; from the same noise, with guidance, on its Euler grid of levels."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    from holdfast.sampling.guidance import guided_velocity

    pipe = WanPipeline.from_pretrained(
        registry.find_weights("shapeworld-wan").folder, torch_dtype=torch.float32
    )
    pipe.set_progress_bar_config(disable=True)
    steps, shift = 6, 2.0
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    text, channels = "a plain red ball moves right over a lake", pipe.vae.config.z_dim
    noise = torch.randn(1, channels, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    asked = {"prompt": text, "negative_prompt": "", "num_inference_steps": steps, "num_frames": 5}
    asked |= {"height": 64, "width": 64, "latents": noise, "guidance_scale": 3.0}
    theirs = pipe(**asked, output_type="pt", max_sequence_length=32).frames[0]
    condition, levels, z = (
        shapeworld.condition(Prompt(text)),
        shapeworld.sigmas(steps, shift, "euler"),
        noise,
    )
    for sigma, sigma_next in itertools.pairwise(levels):
        z = z + (sigma_next - sigma) * guided_velocity(
            shapeworld.field, z, sigma, condition, "tgt", 3.0
        )
    assert torch.allclose(torch.cat(list(shapeworld.decode(z))), theirs, atol=2e-3)
