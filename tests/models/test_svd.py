"""Stable Video Diffusion as a velocity field: against diffusers' scheduler and pipeline, and as it is published."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from holdfast.base.errors import MissingDependencyError
from holdfast.models import registry
from holdfast.models.base import Conditioning, Prompt
from holdfast.models.export import export
from holdfast.models.svd import spec
from holdfast.models.svd.adapter import ImageConditioning, StableVideo
from holdfast.sampling import inversion

from .. import published, tiny

EULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "interpolation_type": "linear",
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}


def scheduler(steps):
    from diffusers import EulerDiscreteScheduler

    made = EulerDiscreteScheduler(**EULER)
    made.set_timesteps(steps)
    return made


@pytest.fixture(scope="module")
def backbone():
    return tiny.stable_video()


def image(seed=0):
    return torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(seed))


def test_conversions_are_public_and_inverse():
    for s in (0.0, 0.002, 1.0, 700.0):
        assert spec.edm_from_sigma(spec.sigma_from_edm(s)) == pytest.approx(s, rel=1e-12)
        assert spec.latent_to_edm(spec.latent_from_edm(3.0, s), s) == pytest.approx(3.0)
    assert spec.latent_from_edm(torch.full((1,), 6.0), 2.0) == 2.0
    with pytest.raises(ValueError, match="pure noise"):
        spec.edm_from_sigma(1.0)


@pytest.mark.filterwarnings("ignore")  # of the scheduler's own
def test_an_euler_step_of_the_field_is_the_edm_step_and_the_level_is_told_exactly():
    """Every step of the published grid, the last one included, with a network that answers anything."""
    steps, told = 12, []
    euler = scheduler(steps)

    class Anything(StableVideo):
        def _predict(self, x, s, half, branch, frames):
            told.append(0.25 * math.log(s))
            self.input = x
            return answer

    backbone = Anything()
    levels = backbone.sigmas(steps)
    torch.manual_seed(0)
    shape = (1, 4, 3, 4, 4)
    x = torch.randn(shape, dtype=torch.float64) * 700
    for i, t in enumerate(euler.timesteps):
        answer = torch.randn(shape, dtype=torch.float64)
        s, s_next = (spec.edm_from_sigma(level) for level in levels[i : i + 2])
        assert s == pytest.approx(euler.sigmas[i].item(), rel=1e-5)
        # diffusers holds its levels in float32; the step itself is compared at the very same ones
        euler.sigmas = euler.sigmas.double()
        euler.sigmas[i], euler.sigmas[i + 1] = s, s_next
        given = euler.scale_model_input(x, t)
        theirs = euler.step(answer, t, x).prev_sample
        z = spec.latent_from_edm(x, s)
        z = z + (levels[i + 1] - levels[i]) * backbone.velocity(
            z, levels[i], Conditioning(None, None), branch="tgt+"
        )
        ours = spec.latent_to_edm(z, s_next)
        assert torch.allclose(backbone.input, given, rtol=1e-6)
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6 * (1 + s_next)), i
        x = theirs
    assert told == pytest.approx(euler.timesteps.tolist(), abs=1e-5)


def test_levels_rise_no_higher_than_the_model_knows_and_a_shift_multiplies_the_noise():
    backbone = StableVideo()
    plain, moved = backbone.sigmas(10), backbone.sigmas(10, shift=0.5)
    assert plain == sorted(plain, reverse=True)
    assert plain[-1] == 0
    assert spec.edm_from_sigma(plain[0]) == pytest.approx(700)
    assert spec.edm_from_sigma(plain[-2]) == pytest.approx(0.002)
    assert [spec.edm_from_sigma(s) for s in moved] == pytest.approx(
        [0.5 * spec.edm_from_sigma(s) for s in plain]
    )
    assert backbone.sigmas(10, shift=9.0)[0] == plain[0]
    assert backbone.snap_timestep(0.123) == 0.123
    with pytest.raises(ValueError, match="no noise schedule 'euler': use one of native"):
        backbone.sigmas(10, schedule="euler")


def test_a_condition_is_what_the_pipeline_makes(backbone):
    """The embedding, the mode of the noised image unscaled, and the three numbers in the order of the training."""
    from diffusers.pipelines.stable_video_diffusion import pipeline_stable_video_diffusion as theirs

    from holdfast.sampling.noise import keyed_noise

    x = image()
    seen, nothing = (lambda c: (c.positive, c.negative))(backbone.condition(Prompt(image=x)))
    small = theirs._resize_with_antialiasing(x[None] * 2 - 1, (224, 224)) / 2 + 0.5
    processor = backbone.image_processor
    asked = {"do_center_crop": False, "do_resize": False, "do_rescale": False}
    pixels = processor(images=small, return_tensors="pt", **asked).pixel_values
    embedding = backbone.parts["image_encoder"](pixels).image_embeds
    assert torch.allclose(seen.embedding[0], embedding, atol=1e-5)
    eps = keyed_noise(x[None, :, None], 0, 0)[:, :, 0]
    mode = backbone.parts["vae"].encode(x[None] * 2 - 1 + 0.02 * eps).latent_dist.mode()
    assert torch.allclose(seen.latents, mode, atol=1e-5)
    assert seen.time_ids.tolist() == [pytest.approx([7, 127, 0.02])]  # fps - 1, bucket, noise
    assert not nothing.embedding.any()
    assert not nothing.latents.any()
    assert torch.equal(nothing.time_ids, seen.time_ids)
    with pytest.raises(ValueError, match="conditioned on a first frame"):
        backbone.condition(Prompt("a ball"))


def test_noise_goes_where_a_prompt_says_and_other_numbers_are_told(backbone):
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels, latent, sample = (
        backbone.condition(Prompt(image=image, noise_target=where)).positive
        for where in ("pixels", "latent", "sample")
    )
    posterior = backbone.parts["vae"].encode(image[None] * 2 - 1).latent_dist
    shift = latent.latents - posterior.mode()
    assert 0.01 < shift.std() < 0.03
    drawn = (sample.latents - shift - posterior.mean) / posterior.std
    assert 0.8 < drawn.std() < 1.2
    assert not torch.equal(pixels.latents, latent.latents)
    told = backbone.condition(Prompt(image=image, time_ids=(6, 0.02, 127))).positive
    assert told.time_ids.tolist() == [[6, pytest.approx(0.02), 127]]
    assert torch.equal(told.latents, pixels.latents)  # the noise is no part of the numbers
    known = torch.ones(1, *pixels.latents.shape[1:2], 1, *pixels.latents.shape[2:])
    clean = backbone.condition(Prompt(image=image, latent=known)).positive.latents
    noisy = backbone.condition(
        Prompt(image=image, latent=known, noise_target="latent")
    ).positive.latents
    assert clean.std() == 0
    assert torch.allclose(noisy - clean, shift, atol=1e-5)


def test_ready_embeddings_need_no_encoder(backbone):
    made = backbone.condition(Prompt(image=image()))
    bare = StableVideo(backbone.parts["unet"])
    z = torch.randn(1, 4, 5, 4, 6)
    for branch in ("tgt+", "tgt-"):
        ours = bare.velocity(z, 0.7, Conditioning(*made_halves(made)), branch=branch)
        assert torch.equal(ours, backbone.velocity(z, 0.7, made, branch=branch))
    with pytest.raises(ValueError, match="without its image_encoder"):
        bare.condition(Prompt(image=image()))


def made_halves(condition):
    return ImageConditioning(*condition.positive), ImageConditioning(*condition.negative)


def test_the_published_decoder_sees_neighbours_within_a_chunk():
    from diffusers import AutoencoderKLTemporalDecoder

    torch.manual_seed(1)
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 32)
    )
    backbone = tiny.stable_video(vae)
    z = torch.randn(1, 4, 10, 4, 4)
    chunks = list(backbone.decode(z))
    assert [len(chunk) for chunk in chunks] == [8, 2]
    frames = z[0].transpose(0, 1) / vae.config.scaling_factor
    first = vae.decode(frames[:8], num_frames=8).sample / 2 + 0.5
    assert torch.allclose(chunks[0], first.clamp(0, 1), atol=1e-5)


def test_encode_is_the_scaled_mode_and_with_eps_a_sample(backbone):
    clip = torch.rand(9, 3, 32, 48)
    posterior = backbone.parts["vae"].encode(clip * 2 - 1).latent_dist
    eps = torch.randn(9, 4, 4, 6)
    for given, expected in ((None, posterior.mean), (eps, posterior.mean + posterior.std * eps)):
        z = backbone.encode(clip, eps=given)[0].transpose(0, 1)
        assert torch.allclose(z, 0.5 * expected, atol=1e-5)


@pytest.mark.parametrize("name", ["svd", "svd-xt"])
def test_the_published_model_on_the_meta_device(name):
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel

    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel(
            num_attention_heads=(5, 10, 20, 20), num_frames=spec.SPECS[name].train_frames
        )
        vae = AutoencoderKLTemporalDecoder(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            layers_per_block=2,
        )
    shapes = {name: tuple(p.shape) for name, p in unet.named_parameters()}
    assert shapes == published.parameters(published.IMAGE)
    assert sum(p.numel() for p in unet.parameters()) == 1_524_623_082
    assert sum(p.numel() for p in vae.parameters()) == 97_742_847
    unet.to("meta")  # the mixing factors are made by a constructor that knows no default device
    backbone = StableVideo(unet, vae, spec=spec.SPECS[name], name=name)
    assert (backbone.clip_format.stride, backbone.clip_format.size_multiple) == (
        (1, 8, 8),
        (64, 64),
    )
    assert (
        backbone.attention_hooks.count_layers("self", "spatial")
        == backbone.attention_hooks.count_layers("self", "temporal")
        == 16
    )
    z, ids = torch.empty(1, 4, 3, 16, 16, device="meta"), torch.empty(1, 3, device="meta")
    half = ImageConditioning(torch.empty(1, 1, 1024, device="meta"), z[:, :, 0], ids)
    assert backbone.velocity(z, 0.5, Conditioning(half, half), branch="tgt+").shape == z.shape
    with pytest.raises(MissingDependencyError, match=r"9(\.0)? GB.*hf download"):
        registry.describe_backbone(name)


@pytest.mark.filterwarnings("ignore")  # of the pipeline's own
@pytest.mark.parametrize("made", ["tiny", "embedded"])
def test_the_same_clip_here_as_in_diffusers_own_pipeline(made, backbone, tmp_path):
    """Parts written as diffusers writes them, loaded by the pipeline and by --weights; guidance rises from 1 to 3."""
    from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline

    from holdfast.sampling.guidance import guided_velocity

    folder, side = export("shapeworld-svd", tmp_path / "embedded"), 64
    if made == "tiny":
        folder, side = saved(backbone, tmp_path), 32
        EulerDiscreteScheduler(**EULER).save_pretrained(folder / "scheduler")
    pipe = StableVideoDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    steps, channels = 6, pipe.vae.config.latent_channels
    x = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 5, channels, side // 8, side // 8)
    asked = {"height": side, "width": side, "num_frames": 5, "num_inference_steps": steps, "fps": 8}
    # our own draw of the image's noise is not theirs, and without any both see the same
    asked |= {"noise_aug_strength": 0.0, "latents": noise, "output_type": "pt"}
    pipe._encode_image = lambda *a: torch.cat([ours.negative.embedding, ours.positive.embedding])
    loaded = registry.load_backbone("svd", str(folder), "cpu")
    loaded.time_ids = (7, 127, 0.0)
    ours = loaded.condition(Prompt(image=x))
    theirs = pipe(x[None], **asked).frames[0]

    levels = loaded.sigmas(steps)
    s = spec.edm_from_sigma(levels[0])
    z = spec.latent_from_edm(noise.transpose(1, 2) * math.hypot(1, s), s)
    for sigma, sigma_next in itertools.pairwise(levels):
        z = z + (sigma_next - sigma) * guided_velocity(
            loaded.field, z, sigma, ours, "tgt", (1.0, 3.0)
        )
    assert torch.allclose(torch.cat(list(loaded.decode(z))), theirs, atol=2e-3)
    with pytest.raises(ValueError, match="holds a StableVideoDiffusionPipeline, not a WanPipeline"):
        registry.describe_backbone("wan2.1-1.3b", str(folder))


@pytest.mark.filterwarnings("ignore")  # of the pipeline's own
def test_the_image_is_seen_as_in_diffusers_own_pipeline(tmp_path):
    from diffusers import StableVideoDiffusionPipeline

    folder = export("shapeworld-svd", tmp_path / "embedded")
    pipe = StableVideoDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    theirs = pipe._encode_image(Image.fromarray(pixels), "cpu", 1, True)
    x = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    ours = registry.load_backbone("svd", str(folder), "cpu").condition(Prompt(image=x))
    both = torch.cat([ours.negative.embedding, ours.positive.embedding])
    assert both[1].abs().max() > 0.1
    assert torch.allclose(both, theirs, atol=1e-4)


def saved(backbone, folder):
    from diffusers import __version__

    kinds = {
        "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    }
    for name in ("unet", "vae", "image_encoder"):
        backbone.parts[name].save_pretrained(folder / name)
    backbone.image_processor.save_pretrained(folder / "feature_extractor")
    index = {"_class_name": "StableVideoDiffusionPipeline", "_diffusers_version": __version__}
    (folder / "model_index.json").write_text(json.dumps(index | kinds))
    return folder


def test_the_inversions_levels_to_the_published_digits():
    """700, 545.7, 421.6, ... 0.0664, 0.0248, 0.0079, 0.0020, and below them 5.07e-4 by extrapolation."""
    rising = inversion.inversion_sigmas(StableVideo().sigmas(25))
    spreads = [spec.edm_from_sigma(sigma) for sigma in rising]
    assert spreads[:5] == pytest.approx([5.07e-4, 0.0020, 0.0079, 0.0248, 0.0664], rel=1e-2)
    assert spreads[-3:] == pytest.approx([421.6, 545.7, 700.0], rel=1e-4)
    assert 0.25 * math.log(spreads[0]) == pytest.approx(-1.897, abs=1e-3)
    assert len(rising) == 26


def test_inversion_is_the_textbook_loop_in_the_models_own_terms(backbone):
    """x += (s' - s) (x - D) / s with the network told the lower level, on x itself."""
    condition = backbone.condition(Prompt(image=image()))
    source = torch.randn(1, 4, 3, 4, 6)
    rising = inversion.inversion_sigmas(backbone.sigmas(6))
    x, unet = source, backbone.parts["unet"]
    seen = condition.positive
    picture = seen.latents[:, None].expand(-1, 3, -1, -1, -1)
    with torch.no_grad():
        steps = list(inversion.invert_by_euler(backbone, source, condition, rising))
        for sigma, sigma_next in itertools.pairwise(rising):
            s, s_next = spec.edm_from_sigma(sigma), spec.edm_from_sigma(sigma_next)
            given = torch.cat((x.transpose(1, 2) / math.sqrt(s * s + 1), picture), 2)
            told = torch.tensor([0.25 * math.log(s)])
            v = unet(given, told, seen.embedding, added_time_ids=seen.time_ids).sample.transpose(
                1, 2
            )
            clean = -s / math.sqrt(s * s + 1) * v + x / (s * s + 1)
            x = x + (s_next - s) * (x - clean) / s
    assert len(steps) == 6
    assert torch.allclose(spec.latent_to_edm(steps[-1], 700.0), x, rtol=1e-4, atol=1e-2)


def test_inversion_begins_at_its_first_level_with_the_clean_latent_as_it_is():
    """x = clean + s noise of the lowest level is taken for the clean latent: z = x / (1 + s)."""

    class Still:
        def velocity(self, z, sigma, condition, *, branch):
            return torch.zeros_like(z)

    source = torch.ones(1, 4, 1, 2, 2)
    (z,) = inversion.invert_by_euler(Still(), source, None, [0.5, 0.9])
    assert torch.equal(z, 0.5 * source)


def test_inverted_and_denoised_with_its_own_first_frame_the_source_returns(backbone):
    """Nearer, the more steps there are."""
    condition, source = backbone.condition(Prompt(image=image())), torch.randn(1, 4, 3, 4, 6)
    errors = []
    for steps in (10, 40):
        levels = backbone.sigmas(steps)
        with torch.no_grad():
            rising = inversion.inversion_sigmas(levels)
            *_, z = inversion.invert_by_euler(backbone, source, condition, rising)
            for sigma, sigma_next in itertools.pairwise(levels):
                v = backbone.velocity(z, sigma, condition, branch="src+")
                z = z + (sigma_next - sigma) * v
        errors.append((z - source).square().mean().sqrt().item())
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.2
