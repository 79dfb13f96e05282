"""Models that predict noise as a velocity field: against diffusers' schedulers, its VAE, published configurations."""

import itertools

import pytest
import torch

from holdfast.base.errors import MissingDependencyError
from holdfast.models import registry
from holdfast.models.base import Prompt
from holdfast.models.export import export
from holdfast.models.unet import adapter
from holdfast.models.unet.adapter import LatentDiffusion, NoiseSchedule

from .. import published, tiny

CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
}


def scheduler(prediction="epsilon", steps=20):
    from diffusers import DDIMScheduler

    made = DDIMScheduler(
        **CONFIG, clip_sample=False, set_alpha_to_one=True, prediction_type=prediction
    )
    made.set_timesteps(steps)
    return made


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_an_euler_step_of_the_field_is_the_ddim_step(prediction):
    """x = (a + s) z at both ends; in float64, at every step of the grid, the last one included."""
    ddim, steps = scheduler(prediction), 20
    schedule = NoiseSchedule.from_config(CONFIG | {"prediction_type": prediction})
    levels = schedule.sigmas(steps, None, "native")
    torch.manual_seed(0)
    z, told = torch.randn(1, 2, 3, 4, 4, dtype=torch.float64), []
    for i, t in enumerate(ddim.timesteps):
        found = torch.randn_like(z)

        def predict(x, timestep, found=found):
            told.append(timestep)
            return found

        def whole(sigma):
            return ((1 - sigma) ** 2 + sigma**2) ** 0.5  # 1 / (a + s)

        x = z / whole(levels[i])
        theirs = ddim.step(found, t, x).prev_sample
        z = z + (levels[i + 1] - levels[i]) * schedule.velocity(predict, z, levels[i])
        assert torch.allclose(z / whole(levels[i + 1]), theirs, atol=1e-6), i
    assert told == pytest.approx(ddim.timesteps.tolist(), abs=1e-4)


def test_levels_and_timesteps_are_inverses_and_whole_cuts():
    schedule = NoiseSchedule.from_config(CONFIG)
    for timestep in (0.0, 0.5, 17.25, 998.9, 999.0):
        assert schedule.timestep_at(schedule.sigma_at(timestep)) == pytest.approx(
            timestep, abs=1e-6
        )
    assert schedule.snap_timestep(schedule.sigma_at(17.9)) == pytest.approx(
        schedule.sigma_at(17), abs=1e-9
    )
    assert schedule.snap_timestep(schedule.sigma_at(17)) == pytest.approx(
        schedule.sigma_at(17), abs=1e-9
    )
    assert (schedule.timestep_at(0.0), schedule.timestep_at(1.0)) == (0.0, 999.0)
    levels = schedule.sigmas(50, None, "native")
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 0
    assert levels[0] < 1


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0, 1000.0])
@pytest.mark.parametrize("steps", [1, 25, 999])
def test_shifted_levels_fall_from_the_noisiest_down(shift, steps):
    schedule = NoiseSchedule.from_config(CONFIG)
    levels, top = schedule.sigmas(steps, shift, "native"), schedule.sigma_at(999)
    assert len(levels) == steps + 1
    assert top * (1 + 1e-6) >= levels[0] > levels[-1] == 0
    assert all(above > below for above, below in itertools.pairwise(levels))
    plain = schedule.sigmas(steps, None, "native")
    for level, moved in zip(plain, levels, strict=True):
        wanted = shift * level / (1 + (shift - 1) * level)
        assert moved == pytest.approx(wanted) or wanted > top


def test_what_a_schedule_cannot_be_is_said():
    for wrong, words in (
        ({"beta_schedule": "cosine"}, "scaled_linear and linear"),
        ({"prediction_type": "sample"}, "epsilon and v_prediction"),
    ):
        with pytest.raises(ValueError, match=words):
            NoiseSchedule.from_config(wrong)
    schedule = NoiseSchedule.from_config(CONFIG)
    with pytest.raises(ValueError, match="steps is at most 1000"):
        schedule.sigmas(1001, None, "native")
    with pytest.raises(ValueError, match="no noise schedule 'euler'"):
        schedule.sigmas(10, None, "euler")
    with pytest.raises(ValueError, match="pure noise"):
        schedule.velocity(lambda x, t: x, torch.zeros(1, 1, 1, 1, 1), 1.0)


@pytest.fixture(scope="module", params=["sd", "t2v"])
def backbone(request):
    return tiny.ADAPTERS[request.param]()


def test_encode_is_the_scaled_mode_and_with_eps_a_sample(backbone):
    clip = torch.rand(11, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    posterior = backbone.parts["vae"].encode(clip * 2 - 1).latent_dist
    z = backbone.encode(iter(clip))
    assert z.shape == (1, 4, 11, 4, 6)
    assert torch.allclose(z[0].transpose(0, 1), 0.5 * posterior.mode(), atol=1e-5)
    eps = torch.randn(11, 4, 4, 6)
    sampled = backbone.encode(clip, eps=eps)[0].transpose(0, 1)
    assert torch.allclose(sampled, 0.5 * (posterior.mean + posterior.std * eps), atol=1e-5)
    decoded = torch.cat(list(backbone.decode(z)))
    whole = backbone.parts["vae"].decode(posterior.mode()).sample / 2 + 0.5
    assert torch.allclose(decoded, whole.clamp(0, 1), atol=1e-5)


def test_frames_as_a_batch_are_the_same_in_one_call_and_in_several(monkeypatch):
    backbone = tiny.ADAPTERS["sd"]()
    z, condition = torch.randn(1, 4, 5, 4, 4), backbone.condition(Prompt("a plain red ball"))
    whole = backbone.velocity(z, 0.6, condition, branch="tgt+")
    monkeypatch.setattr(adapter, "FRAMES_PER_CALL", 2)
    assert torch.allclose(backbone.velocity(z, 0.6, condition, branch="tgt+"), whole, atol=1e-5)
    alone = backbone.velocity(z[:, :, 3:4], 0.6, condition, branch="tgt+")
    assert torch.allclose(whole[:, :, 3:4], alone, atol=1e-5)  # frames do not see each other


def test_frames_of_a_clip_model_see_each_other():
    backbone = tiny.ADAPTERS["t2v"]()
    z, condition = torch.randn(1, 4, 5, 4, 4), backbone.condition(Prompt("a plain red ball"))
    whole = backbone.velocity(z, 0.6, condition, branch="tgt+")
    alone = backbone.velocity(z[:, :, 3:4], 0.6, condition, branch="tgt+")
    assert not torch.allclose(whole[:, :, 3:4], alone, atol=1e-3)


def test_words_are_found_between_the_two_marks(backbone):
    condition = backbone.condition(Prompt("a plain red ball", words=(2,)))
    assert (condition.token_count, condition.edit_tokens) == (6, (3,))
    with pytest.warns(UserWarning, match="takes 32 tokens; the last"):
        backbone.condition(Prompt("ball " * 40))


def test_a_clip_that_does_not_fit_is_refused(backbone):
    with pytest.raises(ValueError, match="height 24 does not fit this model: use a multiple of 16"):
        backbone.encode(torch.zeros(1, 3, 24, 32))
    assert LatentDiffusion().clip_format.size_multiple == (64, 64)


PUBLISHED = {
    "sd1.5": (
        {"cross_attention_dim": 768, "attention_head_dim": 8},
        published.SD15,
        859_520_964,
    ),
    "sd2.1": (
        {
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        published.SD21,
        865_910_724,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_image_models_on_the_meta_device(name):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    config, written, parameters = PUBLISHED[name]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    shapes = {key: tuple(p.shape) for key, p in unet.named_parameters()}
    assert shapes == published.parameters(written)
    assert sum(p.numel() for p in unet.parameters()) == parameters
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863
    from holdfast.models.stable_diffusion import spec

    backbone = LatentDiffusion(unet, vae, spec=spec.SPECS[name], name=name)
    assert (backbone.clip_format.stride, backbone.clip_format.size_multiple) == (
        (1, 8, 8),
        (64, 64),
    )
    assert backbone.attention_hooks.count_layers("cross", "spatial") == 16


def test_the_published_clip_model_on_the_meta_device():
    from diffusers import UNet3DConditionModel

    with torch.device("meta"):
        unet = UNet3DConditionModel(cross_attention_dim=1024)
    shapes = {key: tuple(p.shape) for key, p in unet.named_parameters()}
    assert shapes == published.parameters(published.CLIP)
    assert 1.40e9 < sum(p.numel() for p in unet.parameters()) < 1.42e9  # "1.7b" with text and VAE
    backbone = LatentDiffusion(unet)
    assert "temporal_attention" in backbone.capabilities
    assert backbone.attention_hooks.count_layers("cross", "spatial") == 16
    assert (
        backbone.attention_hooks.count_layers("self", "temporal") == 34
    )  # 16 layers of two, and the first one's two
    z, text = torch.empty(1, 4, 16, 32, 32, device="meta"), torch.empty(1, 77, 1024, device="meta")
    from holdfast.models.base import Conditioning

    assert backbone.velocity(z, 0.5, Conditioning(text, text), branch="tgt+").shape == z.shape


@pytest.mark.parametrize("name", ["sd1.5", "sd2.1", "modelscope", "zeroscope"])
def test_missing_weights_say_how_to_get_them(name):
    with pytest.raises(MissingDependencyError, match=r"\d GB.*hf download"):
        registry.describe_backbone(name)


def test_a_folder_of_the_family_is_planned_before_it_is_loaded_and_then_loads(tmp_path):
    """Parts written as diffusers writes them, and read again by --weights."""
    import json

    from diffusers import DDIMScheduler

    made = tiny.ADAPTERS["t2v"]()
    for part in ("unet", "vae", "text_encoder"):
        made.parts[part].save_pretrained(tmp_path / part)
    made.prompts.tokenizer.save_pretrained(tmp_path / "tokenizer")
    DDIMScheduler(**CONFIG).save_pretrained(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "TextToVideoSDPipeline"}))
    assert registry.describe_backbone("modelscope", str(tmp_path)).clip_format.size_multiple == (
        16,
        16,
    )
    loaded = registry.load_backbone("modelscope", str(tmp_path), "cpu")
    z = torch.randn(1, 4, 3, 4, 4)
    velocities = [
        b.velocity(z, 0.6, b.condition(Prompt("a red ball")), branch="tgt+") for b in (made, loaded)
    ]
    assert torch.allclose(*velocities, atol=1e-5)
    with pytest.raises(
        ValueError, match="holds a TextToVideoSDPipeline, not a StableDiffusionPipeline"
    ):
        registry.describe_backbone("sd1.5", str(tmp_path))


@pytest.mark.filterwarnings("ignore")  # of the pipeline's own
@pytest.mark.parametrize("name", ["shapeworld-sd", "shapeworld-t2v"])
def test_an_embedded_model_makes_the_same_here_as_in_diffusers_own_pipeline(name, tmp_path):
    """From the same noise, guidance 4, ten DDIM steps that end at the clean picture: pixels agree."""
    from diffusers import DDIMScheduler, DiffusionPipeline

    from holdfast.sampling.guidance import guided_velocity

    folder = export(name, tmp_path / name)
    pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=True)
    caption, steps, frames = "a plain red ball moves right over a lake", 10, 1
    asked = {"prompt": caption, "num_inference_steps": steps, "guidance_scale": 4.0}
    asked |= {"height": 64, "width": 64, "output_type": "pt"}
    if name == "shapeworld-t2v":
        frames = 5
        asked["num_frames"] = frames
    noise = torch.randn(1, 16, frames, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = noise if frames > 1 else noise[:, :, 0]
    theirs = pipe(**asked, latents=latents, return_dict=False)[0].reshape(frames, 3, 64, 64)

    backbone = registry.load_backbone(name, device="cpu")
    levels, condition = backbone.sigmas(steps), backbone.condition(Prompt(caption))

    def whole(sigma):
        return ((1 - sigma) ** 2 + sigma**2) ** 0.5  # 1 / (a + s)

    z = noise * whole(levels[0])
    for sigma, sigma_next in itertools.pairwise(levels):
        z = z + (sigma_next - sigma) * guided_velocity(
            backbone.field, z, sigma, condition, "tgt", 4.0
        )
    ours = torch.cat(list(backbone.decode(z)))
    assert torch.allclose(ours, theirs, atol=2e-3)
