"""Score distillation on exactly known fields and on tiny networks: the equations, the draws, the fused attention."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch.nn import functional

from holdfast import methods
from holdfast.methods import assd, flowdistill
from holdfast.models import attention
from holdfast.models.base import Prompt
from holdfast.models.unet.adapter import NoiseSchedule
from holdfast.models.vision.latent_flow import latent_flow
from holdfast.sampling.distillation import draw_samples
from holdfast.sampling.field import EditInputs, ImageModel, Pixels
from holdfast.sampling.guidance import guided_velocity
from holdfast.sampling.masking import contrast_map
from holdfast.sampling.noise import add_noise, keyed_integer, keyed_noise, predict_noise

from .. import tiny
from .analytic import DEVIATION, Gaussian, about, as_field, last

SHAPE = (1, 2, 5, 3, 3)
SOURCE = torch.randn(*SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
SRC, TGT = (torch.full(SHAPE, v, dtype=torch.float64) for v in (0.5, -1.25))
GIVEN = EditInputs(SOURCE, about(SRC), about(TGT))
PLAIN = {"guidance": 1.0, "timesteps": "exact"}


def run(name, given=GIVEN, field=None, **settings):
    module = methods.load(name)
    return last(
        module.edit(as_field(field or Gaussian()), given, module.Config(**PLAIN, **settings))
    )


def level(cfg, i):
    t = keyed_integer(0, i, cfg.timestep_min, cfg.timestep_max)
    return Gaussian().sigmas(1000)[1000 - t]


def slope(sigma):
    """By how much the noise that a Gaussian's model sees changes with the clean latent that was noised."""
    return sigma * (1 - sigma) / ((1 - sigma) ** 2 * DEVIATION**2 + sigma**2)


def test_noise_predicted_through_the_velocity_is_what_a_noise_model_said():
    schedule = NoiseSchedule.from_config({})
    z, said = torch.randn(SHAPE, dtype=torch.float64), torch.randn(SHAPE, dtype=torch.float64)
    for sigma in (0.1, 0.5, 0.9):
        velocity = schedule.velocity(lambda x, t: said, z, sigma)
        assert torch.allclose(predict_noise(z, sigma, velocity), said)


def test_levels_are_drawn_evenly_over_their_range_and_by_the_seed():
    drawn = [keyed_integer(0, i, 50, 949) for i in range(4000)]
    assert (min(drawn), max(drawn)) == (50, 948)
    assert sum(drawn) / len(drawn) == pytest.approx(499, abs=15)
    assert drawn[:9] == [keyed_integer(0, i, 50, 949) for i in range(9)]
    assert drawn[:9] != [keyed_integer(1, i, 50, 949) for i in range(9)]


def test_dds_follows_its_equation_and_settles_at_the_difference_of_the_means():
    cfg = methods.load("dds").Config(**PLAIN, steps=3)
    z = SOURCE
    for i in range(3):
        z = z - 0.1 * slope(level(cfg, i)) * ((z - SOURCE) - (TGT - SRC))
    assert torch.allclose(run("dds", steps=3), z)
    assert torch.allclose(run("dds", steps=400), SOURCE + TGT - SRC, atol=1e-3)


def test_the_step_of_the_released_code_is_scaled_by_the_number_of_cells():
    plain, scaled = (run("dds", steps=1, gradient_scale=s) - SOURCE for s in ("plain", "pixels"))
    assert torch.allclose(scaled, plain * 2000 / 9)


def test_strength_is_the_share_of_the_iterations_that_are_done():
    module = methods.load("dds")
    cfg = module.Config(**PLAIN, steps=8, strength=0.5)
    assert [s.index for s in module.edit(as_field(Gaussian()), GIVEN, cfg)] == [5, 6, 7, 8]
    with pytest.raises(ValueError, match="choose timestep_min below timestep_max"):
        module.Config(timestep_min=100, timestep_max=100)


def test_sds_keeps_what_dds_subtracts():
    cfg = methods.load("sds").Config(**PLAIN, steps=1)
    sigma, eps = level(cfg, 0), keyed_noise(SOURCE, 0, 0)
    noisy = add_noise(SOURCE, sigma, eps)
    variance = (1 - sigma) ** 2 * DEVIATION**2 + sigma**2
    seen = sigma * (noisy - (1 - sigma) * TGT) / variance
    assert torch.allclose(run("sds", steps=1), SOURCE - 0.1 * (seen - eps))


def test_a_sliding_window_weighs_a_frame_and_its_neighbours_and_at_the_ends_what_there_is():
    e = torch.zeros(1, 1, 4, 1, 1)
    e[0, 0, :, 0, 0] = torch.tensor([1.0, 2.0, 4.0, 8.0])
    found = assd.smooth_over_time(e, 0.165)[0, 0, :, 0, 0]
    inner = [0.165 * 1 + 0.67 * 2 + 0.165 * 4, 0.165 * 2 + 0.67 * 4 + 0.165 * 8]
    ends = [(0.67 * 1 + 0.165 * 2) / 0.835, (0.67 * 8 + 0.165 * 4) / 0.835]
    assert torch.allclose(found, torch.tensor([ends[0], *inner, ends[1]]))
    assert torch.equal(assd.smooth_over_time(e[:, :, :1], 0.165), e[:, :, :1])


def test_the_adaptive_mask_in_both_readings():
    change = torch.tensor([0.1, -0.9, 0.86, 0.5]).view(1, 1, 4, 1, 1)
    text, printed = (assd.Config(smoothing_mask=m, tau=0.05) for m in ("text", "printed"))
    assert assd.smoothing_mask(change, text).flatten().tolist() == [False, True, True, False]
    assert assd.smoothing_mask(change, printed).flatten().tolist() == [True, False, False, True]
    assert assd.smoothing_mask(change, assd.Config(smoothing_mask="off")).all()


@pytest.mark.parametrize("target", ["prediction", "residual"])
@pytest.mark.parametrize("mask", ["text", "off"])
def test_the_reference_is_smoothed_where_the_mask_says(target, mask):
    wanted, known, eps = torch.randn(3, *SHAPE).unbind()
    cfg = assd.Config(smooth_target=target, smoothing_mask=mask, tau=0.3)
    smooth = assd.smooth_over_time(known, 0.165)
    if target == "residual":
        smooth = assd.smooth_over_time(known - eps, 0.165) + eps
    where = assd.smoothing_mask(wanted - known, cfg)
    found = assd.reference(wanted, known, eps, cfg)
    assert torch.allclose(found[where], smooth[where])
    assert torch.equal(found[~where], known[~where])
    assert torch.equal(assd.reference(wanted, known, eps, assd.Config(smoothing=0.0)), known)


def test_the_image_model_speaks_on_key_frames_at_the_same_level_and_noise():
    """Eq. 9 and 10, against the closed form: the second Gaussian's means are its own."""
    seen, looked = [], []

    class Watched(Gaussian):
        def velocity(self, z, sigma, condition, *, branch, frames=None):
            seen.append((sigma, frames))
            looked.append(z)
            return super().velocity(z, sigma, condition, branch=branch, frames=frames)

    guide = ImageModel(as_field(Watched()), about(SRC), about(3 * TGT))
    given = dataclasses.replace(GIVEN, image_model=guide)
    off = {
        "fusion": 0.0,
        "smoothing": 0.0,
        "joint_guidance": 1.0,
        "key_frame_stride": 2,
        "steps": 1,
    }
    cfg = assd.Config(**PLAIN, **off, joint=0.5)
    alone, both = (run("assd", given, joint=j, **off) for j in (0.0, 0.5))
    assert torch.allclose(alone, run("dds", steps=1))
    expected = torch.zeros(SHAPE, dtype=torch.float64)
    sigma = level(cfg, 0)
    expected[:, :, ::2] = 0.1 * 0.5 * slope(sigma) * (3 * TGT - SRC)[:, :, ::2]
    assert torch.allclose(both - alone, expected)
    assert seen == [(sigma, (0, 2, 4))] * 2
    noisy = add_noise(SOURCE, sigma, keyed_noise(SOURCE, 0, 0))[:, :, ::2]
    assert all(torch.equal(z, noisy) for z in looked)
    assert not assd.METHOD.uses_image_model(dataclasses.replace(cfg, joint=0.0))


@pytest.fixture(scope="module")
def clip_model():
    return tiny.ADAPTERS["t2v"]()


def velocities(backbone, cfg, source, target):
    """Of the target, while the source's attention is fused into it; and as the network alone has it."""
    src, tgt = (backbone.condition(Prompt(text)) for text in ("a red ball", "a blue ball"))
    with assd.record_source(backbone.field, cfg) as seen:
        guided_velocity(backbone.field, source, 0.6, src, "src", 3.0)
    with assd.fuse_source(backbone.field, cfg, seen):
        fused = guided_velocity(backbone.field, target, 0.6, tgt, "tgt", 3.0)
    return fused, guided_velocity(backbone.field, target, 0.6, tgt, "tgt", 3.0)


def test_fusion_of_no_weight_is_stock_attention_bit_for_bit(clip_model):
    source, target = torch.randn(2, 1, 4, 3, 4, 4).unbind()
    fused, stock = velocities(clip_model, assd.Config(fusion=0.0), source, target)
    assert torch.equal(fused, stock)
    assert not torch.equal(velocities(clip_model, assd.Config(), source, target)[0], stock)


def test_fusion_of_equal_latents_and_prompts_is_stock_attention_bit_for_bit(clip_model):
    z = torch.randn(1, 4, 3, 4, 4)
    condition = clip_model.condition(Prompt("a red ball"))
    stock = guided_velocity(clip_model.field, z, 0.6, condition, "tgt", 3.0)
    for weight in (0.3, 1.0):
        cfg = assd.Config(fusion=weight)
        with assd.record_source(clip_model.field, cfg) as seen:
            guided_velocity(clip_model.field, z, 0.6, condition, "src", 3.0)
        with assd.fuse_source(clip_model.field, cfg, seen):
            fused = guided_velocity(clip_model.field, z, 0.6, condition, "tgt", 3.0)
        assert torch.equal(fused, stock)


def test_fusion_mixes_the_two_attentions_of_the_last_layers_over_space(clip_model):
    """Against explicit maps of what the layer is given in both branches."""
    (path,) = assd.find_last_layers(clip_model.field, 1)
    spatial = [
        s for s in clip_model.attention_hooks.layers if s.kind == "self" and s.axis == "spatial"
    ]
    assert path == spatial[-1].path
    assert path.startswith("up_blocks")
    source, target = torch.randn(2, 1, 4, 3, 4, 4).unbind()
    src, tgt = (clip_model.condition(Prompt(text)) for text in ("a red ball", "a blue ball"))
    with attention.record(clip_model, lambda site: site.path == path) as found:
        clip_model.velocity(source, 0.6, src, branch="src+")
        clip_model.velocity(target, 0.6, tgt, branch="tgt+")
    (_, k_known, v_known), (q, k, v) = found.values()
    there, here = found
    scale = 1 / math.sqrt(q.shape[-1])
    own, reference = (
        (q @ keys.transpose(-1, -2) * scale).softmax(-1) @ values
        for keys, values in ((k, v), (k_known, v_known))
    )
    with assd.fuse_source(
        clip_model.field, assd.Config(fused_layers=1), {there: (k_known, v_known)}
    ):
        ((_, rule),) = clip_model.attention_hooks.rules
        assert torch.allclose(rule(here, q, k, v), 0.2 * own + 0.8 * reference, atol=1e-5)


def moving_clip(frames=5, speed=8):
    """Texture that moves by one latent cell of 8 pixels a frame."""
    texture = torch.rand(3, 8, 32, generator=torch.Generator().manual_seed(2))
    texture = functional.interpolate(texture[None], scale_factor=8, mode="bicubic").clamp(0, 1)[0]
    return [texture[:, :, 80 - speed * t : 144 - speed * t] for t in range(frames)]


def test_a_gradient_that_moves_with_the_picture_is_kept_by_smoothing_along_the_flow():
    """And is blurred by a window that does not move: what the flow is for."""
    along = latent_flow(moving_clip(), (1, 8, 8))
    change = torch.zeros(1, 1, 5, 8, 8)
    for t in range(5):
        change[0, 0, t, 2:6, 1 + t : 3 + t] = 1.0
    inner = (slice(None), slice(None), slice(1, 4))
    moved = (flowdistill.smooth_along_flow(change, along, 0.165) - change)[inner].abs().mean()
    fixed = (assd.smooth_over_time(change, 0.165) - change)[inner].abs().mean()
    assert moved < 0.3 * fixed


def test_smoothing_along_the_flow_weighs_only_what_is_seen_and_keeps_an_even_change():
    """At the ends there is one neighbour, and where something is uncovered none."""
    along = latent_flow(moving_clip(), (1, 8, 8))
    even = torch.ones(1, 2, 5, 8, 8)
    assert torch.allclose(flowdistill.smooth_along_flow(even, along, 0.165), even, atol=1e-5)


def test_the_spread_of_features_is_that_of_what_the_edit_changed():
    source = torch.randn(1, 3, 4, dtype=torch.float64)
    change = torch.randn(1, 3, 4, dtype=torch.float64)
    naive = 0.0
    for i in range(4):
        naive += float((change[0, :, i] - change[0].mean(1)).square().sum())
    naive /= sum(float(source[0, :, i].square().sum()) for i in range(4))
    assert float(flowdistill.feature_spread(source + change, source)) == pytest.approx(naive)
    assert flowdistill.feature_spread(source + change[:, :, :1], source) < 1e-12  # the same change


@pytest.mark.parametrize("name", ["t2v", "wan"])
def test_the_consistency_gradient_is_the_slope_of_its_loss_through_the_network(name):
    """And is zero at the source. The features are those of the network's middle."""
    backbone = tiny.ADAPTERS[name]()
    for part in backbone.parts.values():
        part.double().requires_grad_(False)
    backbone.dtype = torch.float64
    shape = (1, 4, 3, 4, 4)
    x, z, direction = torch.randn(
        3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    prompt = backbone.condition(Prompt("a red ball"))
    inputs = EditInputs(x, prompt, prompt)
    cfg = flowdistill.Config(**PLAIN)
    _, sample = next(iter(draw_samples(backbone.field, inputs, cfg, None)))
    path = flowdistill.find_middle_layer(backbone.field)
    assert path.startswith("mid_block" if name == "t2v" else "blocks.1")

    @torch.no_grad()
    def loss(clean):
        features = [flowdistill.frame_features(sample, c, prompt) for c in (clean, x)]
        return flowdistill.feature_spread(*features)

    with torch.no_grad():
        found = flowdistill.consistency_gradient(sample, z, inputs)
        still = flowdistill.consistency_gradient(sample, x, inputs)
    step = 1e-4 * direction
    numeric = (loss(z + step) - loss(z - step)) / 2e-4
    assert (found * direction).sum() / 16 == pytest.approx(float(numeric), rel=1e-3)
    assert not still.any()


def test_flowdistill_with_its_parts_off_is_dds_and_each_part_adds_its_term():
    pixels = Pixels(None, None, None, None, (1, 8, 8))
    given = dataclasses.replace(GIVEN, pixels=pixels)
    off = {"flow": 0.0, "preservation": 0.0, "consistency": 0.0}
    assert torch.equal(run("flowdistill", given, steps=4, **off), run("dds", steps=4))
    z = run("dds", steps=1)
    cfg = flowdistill.Config(**PLAIN, steps=2)
    eps = keyed_noise(SOURCE, 0, 1)

    def seen(clean, mean, sigma):
        noisy = add_noise(clean, sigma, eps)
        residual = noisy - (1 - sigma) * mean
        return sigma * residual / ((1 - sigma) ** 2 * DEVIATION**2 + sigma**2)

    sigma = level(cfg, 1)
    wanted = seen(z, TGT, sigma)
    change = wanted - seen(SOURCE, SRC, sigma)
    before = contrast_map(slope(level(cfg, 0)) * (SRC - TGT), "abs")
    where = 0.9 * before + 0.1 * contrast_map(change, "abs")
    keeping = run("flowdistill", given, steps=2, **off | {"preservation": 0.3})
    # the first iteration starts at the source, where there is nothing to keep
    expected = z - 0.1 * (change + 0.3 * 2 * (1 - where) * (z - SOURCE))
    assert torch.allclose(keeping, expected, atol=1e-9)
    with pytest.warns(UserWarning, match="no feature hooks"):
        unaware = run("flowdistill", given, steps=2, **off | {"consistency": 0.3})
    assert torch.equal(unaware, run("dds", steps=2))


def test_flowdistill_adds_the_consistency_gradient_with_its_weight():
    backbone = tiny.ADAPTERS["t2v"]()
    x = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(4))
    prompts = [backbone.condition(Prompt(text)) for text in ("a red ball", "a blue star")]
    inputs = EditInputs(x, *prompts, pixels=Pixels(None, None, None, None, (1, 8, 8)))
    cfg = flowdistill.Config(**PLAIN, steps=2, flow=0.0, preservation=0.0, consistency=3.0)
    with torch.no_grad():
        (first, second) = flowdistill.edit(backbone.field, inputs, cfg)
        plain = dataclasses.replace(cfg, consistency=0.0)
        *_, without = flowdistill.edit(backbone.field, inputs, plain, first)
        _, sample = list(draw_samples(backbone.field, inputs, cfg, None))[1]
        added = flowdistill.consistency_gradient(sample, first.z, inputs)
    assert added.abs().max() > 0
    assert torch.allclose(second.z, without.z - 0.1 * 3.0 * added, atol=1e-6)


def test_a_model_with_two_experts_changes_them_once_a_block():
    """By default 4 times in 200 iterations, and 103 times in the order drawn. One expert: the order drawn."""
    cfg = methods.load("dds").Config(**PLAIN, steps=200)
    field = as_field(Gaussian())

    def levels(boundary, size=50):
        config = dataclasses.replace(cfg, expert_block=size)
        pair = dataclasses.replace(field, expert_boundary=boundary)
        return [sample.sigma for _, sample in draw_samples(pair, GIVEN, config, None)]

    def changes(sigmas):
        experts = [sigma < 0.5 for sigma in sigmas]
        return sum(a != b for a, b in itertools.pairwise(experts))

    drawn, grouped = levels(0.0), levels(0.5)
    assert drawn == [level(cfg, i) for i in range(200)] == levels(0.5, size=1)
    assert changes(drawn) > 80
    assert changes(grouped) == 4
    for begin in range(0, 200, 50):
        block = slice(begin, begin + 50)
        assert sorted(grouped[block]) == sorted(drawn[block])
    half = dataclasses.replace(cfg, strength=0.5)
    assert [i for i, _ in draw_samples(field, GIVEN, half, None)] == list(range(100, 200))
