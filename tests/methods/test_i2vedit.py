"""I2VEdit over clips that share a frame, on a tiny network: what is handed on, what later clips see, resuming."""

import dataclasses

import pytest
import torch

from holdfast.media.clip_format import ClipFormat
from holdfast.methods import i2vedit
from holdfast.methods.i2vedit import attention as i2vedit_attention
from holdfast.methods.i2vedit import conditions, long_clip, segment
from holdfast.methods.i2vedit.long_clip import with_prefix
from holdfast.models import attention
from holdfast.models.attention.hooks import Layer
from holdfast.models.base import Prompt
from holdfast.pipeline import planning
from holdfast.pipeline.metering import LivePreview
from holdfast.pipeline.progress import SavedProgress
from holdfast.pipeline.task import EditTask
from holdfast.sampling import adapters as adapters_of
from holdfast.sampling import inversion, perturbation, segments, tuning
from holdfast.sampling.field import EditInputs, Pixels

from .. import tiny
from .analytic import last

SPANS = ((0, 3), (2, 5))
QUICK = i2vedit.Config(steps=3, tuning_steps=0, sarp=0.0)


@pytest.fixture(scope="module")
def backbone():
    return tiny.stable_video()


@pytest.fixture(scope="module")
def given(backbone):
    frames = list(torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    ways = (backbone.encode, backbone.decode, backbone.condition, backbone.clip_format.stride)
    src, tgt = (backbone.condition(Prompt(image=x)) for x in (frames[0], 1 - frames[0]))
    pixels = Pixels(lambda: frames, *ways)
    return EditInputs(backbone.encode(frames), src, tgt, pixels=pixels, segments=SPANS)


@pytest.fixture(autouse=True)
def no_graph():
    with torch.no_grad():
        yield


def test_clips_share_a_frame_and_the_last_may_be_short():
    grid = ClipFormat((1, 8, 8), (1, 1, 1), 8, 64 * 64, train_frames=14, max_frames=999)
    assert segments.plan_segments(grid, 14).ranges == ((0, 14),)
    assert segments.plan_segments(grid, 15).ranges == ((0, 14), (13, 15))
    assert segments.plan_segments(grid, 40).ranges == ((0, 14), (13, 27), (26, 40))
    assert segments.plan_segments(grid, 40, 21).ranges == ((0, 21), (20, 40))
    assert segments.plan_segments(grid, 40, 0).count == 1
    with pytest.raises(ValueError, match="choose a window of 2 frames or more"):
        segments.plan_segments(grid, 40, 1)


def test_one_clip_is_what_it_is_without_clips(backbone, given):
    alone = dataclasses.replace(given, segments=())
    whole = dataclasses.replace(given, segments=((0, 5),))
    a, b = (last(i2vedit.edit(backbone.field, g, QUICK)) for g in (alone, whole))
    assert torch.equal(a, b)


def test_the_second_clip_begins_with_the_last_latent_of_the_first_and_is_its_own_edit(
    backbone, given, monkeypatch
):
    """Its image latent is that very latent, not one that went through pixels; its own version of the frame goes."""
    cfg = dataclasses.replace(QUICK, attend_first_segment=False)
    told = []
    condition = backbone.condition
    monkeypatch.setattr(backbone, "condition", lambda p: told.append(p) or condition(p))
    ways = dataclasses.replace(given.pixels, condition=backbone.condition)
    z = last(i2vedit.edit(backbone.field, dataclasses.replace(given, pixels=ways), cfg))
    first = long_clip.cut_segment(given, SPANS[0], given.latent, QUICK)
    assert torch.equal(z[:, :, :3], last(i2vedit.edit(backbone.field, first, cfg)))
    (handed,) = [p for p in told if p.latent is not None]
    assert torch.equal(handed.latent, z[:, :, 2:3])
    made = condition(handed)
    scale = backbone.parts["vae"].config.scaling_factor
    assert torch.allclose(made.positive.latents, z[:, :, 2] / scale)
    second = long_clip.cut_segment(given, SPANS[1], z, QUICK)
    assert torch.equal(z[:, :, 3:], last(i2vedit.edit(backbone.field, second, cfg))[:, :, 1:])


def test_later_clips_look_at_the_first_one_in_every_call(backbone, given, monkeypatch):
    """Keys and values over time are twice as long, in inversion and in both of the target's calls."""
    lengths = []
    real = i2vedit_attention.scaled_dot_product_attention

    def spied(q, k, v):
        lengths.append((q.shape[2], k.shape[2]))
        return real(q, k, v)

    monkeypatch.setattr(i2vedit_attention, "scaled_dot_product_attention", spied)
    cfg = dataclasses.replace(QUICK, matching=False, motion="none")
    with_first = last(i2vedit.edit(backbone.field, given, cfg))
    layers = backbone.attention_hooks.count_layers("self", "temporal")
    # 3 inversions; at 3 edit steps both target calls of the second clip
    assert lengths == [(3, 6)] * (layers * (3 + 2 * 3))
    without = last(
        i2vedit.edit(backbone.field, given, dataclasses.replace(cfg, attend_first_segment=False))
    )
    assert torch.equal(with_first[:, :, :3], without[:, :, :3])
    assert not torch.allclose(with_first[:, :, 3:], without[:, :, 3:], atol=1e-4)


@pytest.fixture(scope="module")
def tuned(backbone, given):
    """A run whose second clip is tuned, its calls by step, and the losses of its tuning."""
    cfg = i2vedit.Config(steps=4, tuning_steps=3, rank=2, sarp=0.0)
    calls, losses, by_step, real = [], [], [], tuning.v_loss

    def velocities(sigma, evaluations, frames=None):
        calls.extend((e.branch, sigma, e.z) for e in evaluations)
        return backbone.field.velocities(sigma, evaluations, frames)

    def v_loss(field, clean, eps, sigma, condition):
        losses.append((real(field, clean, eps, sigma, condition), eps, sigma))
        return losses[-1][0]

    field = dataclasses.replace(backbone.field, velocities=velocities)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(tuning, "v_loss", v_loss)
        for step in i2vedit.edit(field, given, cfg):
            by_step.append((step, tuple(calls)))
            calls.clear()
    return cfg, by_step, losses


def test_every_tuning_iteration_of_a_later_clip_asks_the_first_ones_source_once(backbone, tuned):
    """At its inversion level at or just above the drawn one, from the latent that was inverted to there."""
    cfg, by_step, losses = tuned
    rising = inversion.inversion_sigmas(backbone.sigmas(cfg.steps))
    latents = with_prefix("first.inverted", by_step[-1][0].state)
    fits = [calls for step, calls in by_step if step.stage == "tune"]
    assert [[branch for branch, *_ in calls] for calls in fits[:3]] == [["tgt+"]] * 3
    assert [[branch for branch, *_ in calls] for calls in fits[3:]] == [["src+", "tgt+"]] * 3
    for ((_, level, z), (_, sigma, _)), (_, _, drawn) in zip(fits[3:], losses[3:], strict=True):
        assert sigma == drawn
        above = [i for i, s in enumerate(rising) if s >= sigma]
        assert level == rising[above[0]]
        assert torch.equal(z, latents[str(above[0])])


def test_the_loss_of_a_later_clip_is_that_of_explicit_maps_over_both_clips_keys(
    backbone, given, tuned
):
    """Eq. 3: softmax(Q [K1; K]^T / sqrt d) [V1; V] over time. At the first iteration the adapters have no effect."""
    cfg, by_step, losses = tuned
    loss, eps, sigma = losses[3]
    rising = inversion.inversion_sigmas(backbone.sigmas(cfg.steps))
    i = next(i for i, s in enumerate(rising) if s >= sigma)
    first, second = (long_clip.cut_segment(given, span, by_step[-1][0].z, cfg) for span in SPANS)
    latents = with_prefix("first.inverted", by_step[-1][0].state)
    where = i2vedit_attention.is_temporal_self
    with attention.record(backbone, where) as found:
        backbone.velocity(latents[str(i)], rising[i], first.source, branch="src+")
    kept = {layer.path: tensors for layer, tensors in found.items()}

    def naive(layer, q, k, v):
        _, k1, v1 = kept[layer.path]
        maps = (q @ torch.cat((k1, k), 2).mT / q.shape[-1] ** 0.5).softmax(-1)
        return maps @ torch.cat((v1, v), 2)

    def plain_loss():
        z = (1 - sigma) * second.latent + sigma * eps
        velocity = backbone.velocity(z, sigma, second.source, branch="tgt+")
        error = (velocity - (eps - second.latent)).square().mean()
        return ((1 - sigma) ** 2 + sigma**2) * error

    with attention.use_rule(backbone, naive, where):
        assert loss.item() == pytest.approx(plain_loss().item(), abs=1e-5)
    assert loss.item() != pytest.approx(plain_loss().item(), abs=1e-4)


def test_a_later_clip_may_be_tuned_alone(backbone, given):
    calls = []

    def velocities(sigma, evaluations, frames=None):
        calls.extend(e.branch for e in evaluations)
        return backbone.field.velocities(sigma, evaluations, frames)

    field = dataclasses.replace(backbone.field, velocities=velocities)
    cfg = i2vedit.Config(steps=2, tuning_steps=1, rank=2, sarp=0.0, attend_in_tuning=False)
    for step in i2vedit.edit(field, given, cfg):
        if step.stage == "tune":
            assert calls == ["tgt+"]
        calls.clear()


@pytest.mark.parametrize(
    ("sigma", "clean", "released"), [(0.05, 0, 0), (0.1, 0, 0), (0.2, 1, 0), (0.9, 3, 2)]
)
def test_the_level_that_goes_with_a_drawn_one(sigma, clean, released):
    """As released, the attention of the level below: it is stored at the step that ends at the drawn level."""
    levels = [
        segment.tuning_level([0.1, 0.3, 0.6, 0.8], sigma, 3, v) for v in ("clean", "released")
    ]
    assert levels == [clean, released]


def test_a_large_network_is_tuned_to_the_same_adapters(backbone, given, monkeypatch):
    """Its layers run again in the backward pass, and see the first clip there too."""
    cfg = i2vedit.Config(steps=2, tuning_steps=2, rank=2, sarp=0.0)
    found = []
    for smallest in (10**8, 0):
        monkeypatch.setattr(tuning, "MIN_CHECKPOINTED", smallest)
        steps = i2vedit.edit(backbone.field, given, cfg)
        found.append(next(fit for s in steps if (fit := with_prefix("1.", s.adapters))))
    for name, value in found[0].items():
        assert torch.allclose(found[1][name], value, atol=1e-5), name


def test_what_later_clips_see_is_what_the_first_one_was_made_of(backbone, given):
    """Run again, the first clip's layers hold what they held when it was edited."""
    cfg, seen = dataclasses.replace(QUICK, steps=3), {}
    first = long_clip.cut_segment(given, SPANS[0], given.latent, QUICK)
    kept = {}
    with attention.record(
        backbone, i2vedit_attention.is_temporal_self, lambda site, q, k, v: k
    ) as found:
        for step in segment.edit_segment(backbone.field, first, cfg, None):
            kept |= long_clip.first_segment_state(step, cfg)
            seen[step.stage, step.index] = dict(found)
            found.clear()
    known = long_clip.load_first_segment(given, SPANS[0], kept, cfg)
    levels = backbone.sigmas(3)
    rising = inversion.inversion_sigmas(levels)
    field = segment.FieldPair(backbone.field, backbone.field, None)
    for j in range(3):
        there = segment.attend_in_edit(field, known, rising, levels, cfg, j)
        then = seen["edit", j + 1]
        for site, k in then.items():
            assert torch.allclose(there[site.path, site.branch][1], k, atol=1e-5), (j, site.path)
        assert {branch for _, branch in there} == {"src+", "tgt+", "tgt-"}


@pytest.mark.parametrize("tune", [0, 2])
def test_stopped_and_resumed_at_every_step_of_every_clip(backbone, given, tune, tmp_path):
    cfg = i2vedit.Config(steps=2, tuning_steps=tune, rank=2)
    whole = list(i2vedit.edit(backbone.field, given, cfg))
    per_clip = [("tune", tune)] * bool(tune) + [("invert", 2), ("edit", 2)]
    expected = []
    for n in range(2):
        for stage, count in per_clip:
            expected += [(stage, n * count + i, 2 * count) for i in range(1, count + 1)]
    assert [(s.stage, s.index, s.count) for s in whole] == expected
    store = SavedProgress(tmp_path / "latents.safetensors", "key")
    for at, step in enumerate(whole):
        store.save(step)
        saved, _ = store.load()
        # each resumed run makes the next step, so that all later ones follow
        found, expected = (
            next(i2vedit.edit(backbone.field, given, cfg, saved), None),
            whole[at + 1 :],
        )
        assert (found is None) == (not expected)
        if found is not None:
            assert_same_step(found, expected[0])


def assert_same_step(found, expected):
    assert (found.stage, found.index, found.count) == (
        expected.stage,
        expected.index,
        expected.count,
    )
    assert torch.equal(found.z, expected.z)
    for ours, theirs in ((found.state, expected.state), (found.adapters, expected.adapters)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_outside_a_mask_is_the_clip_itself_and_not_the_perturbed_one(backbone, given):
    """Flat frames are inverted with noise (SARP), which must not remain in the result."""
    frames = [torch.full((3, 32, 32), 0.5)] * 3
    pixels = dataclasses.replace(given.pixels, frames=lambda: frames)
    mask = torch.zeros(1, 1, 3, *given.latent.shape[3:])
    mask[..., :2] = 1
    flat = dataclasses.replace(
        given, latent=backbone.encode(frames), pixels=pixels, mask=mask, segments=()
    )
    cfg = dataclasses.replace(QUICK, sarp=0.5)
    perturbed, _ = conditions.inversion_inputs(flat, cfg)
    outside = mask.expand_as(flat.latent) == 0
    assert not torch.equal(perturbed[outside], flat.latent[outside])
    z = last(i2vedit.edit(backbone.field, flat, cfg))
    assert torch.equal(z[outside], flat.latent[outside])


def test_a_mask_holds_the_outside_of_every_clip(backbone, given):
    mask = torch.zeros(1, 1, *given.latent.shape[2:])
    mask[..., :2] = 1
    z = last(i2vedit.edit(backbone.field, dataclasses.replace(given, mask=mask), QUICK))
    outside = mask.expand_as(z) == 0
    assert torch.equal(z[outside], given.latent[outside])
    assert not torch.allclose(z[~outside], given.latent[~outside], atol=1e-3)


def test_a_key_frame_begins_a_clip_of_its_own(backbone, given):
    grid = ClipFormat((1, 8, 8), (1, 1, 1), 8, 64 * 64, train_frames=14, max_frames=999)
    assert segments.plan_segments(grid, 5, None, (3,)).ranges == ((0, 3), (3, 5))
    assert segments.plan_segments(grid, 40, None, (20,)).ranges == (
        (0, 14),
        (13, 20),
        (20, 34),
        (33, 40),
    )
    cfg = dataclasses.replace(QUICK, attend_first_segment=False)
    key = torch.full((3, 32, 32), 0.5)
    keyed = dataclasses.replace(given, segments=((0, 3), (3, 5)), keyframes={3: key})
    z = last(i2vedit.edit(backbone.field, keyed, cfg))
    second = long_clip.cut_segment(keyed, (3, 5), z, cfg)
    told = backbone.condition(Prompt(image=key)).positive
    assert all(torch.equal(a, b) for a, b in zip(second.target.positive, told, strict=True))
    assert torch.equal(z[:, :, 3:], last(i2vedit.edit(backbone.field, second, cfg)))


def test_the_sources_attention_over_time_stands_in_with_the_edits_values_and_both_clips_keys():
    """Against explicit maps: softmax(Q0 [K0 first; K0]^T) [V first; V] in the early steps, the edit's own after."""
    site = Layer(
        "x", "down", 0, "self", "temporal", token_grid=(3, 2, 2), frames=(0, 1, 2), branch="tgt+"
    )
    generator = torch.Generator().manual_seed(0)
    q, k, v, q0, k0, v0 = torch.randn(6, 4, 2, 3, 8, generator=generator).unbind()
    first, source = torch.randn(2, 3, 4, 2, 3, 8, generator=generator).unbind()
    seen = {dataclasses.replace(site, branch="src+"): (q0, k0, v0)}
    there = {("x", "tgt+"): tuple(first), ("x", "src+"): tuple(source)}
    cfg = i2vedit.Config(steps=10, motion="local")  # in all layers up to step 5

    def naive(q, k, v):
        return (q @ k.mT / 8**0.5).softmax(-1) @ v

    about = EditInputs(None, None, None)
    rule = i2vedit_attention.matching_rule(seen, there, about, cfg, 4)
    values = torch.cat((first[2], v), 2)
    expected = naive(q0, torch.cat((source[1], k0), 2), values)
    assert torch.allclose(rule(site, q, k, v), expected, atol=1e-5)
    late = i2vedit_attention.matching_rule(seen, there, about, cfg, 9)
    expected = naive(q, torch.cat((first[1], k), 2), values)
    assert torch.allclose(late(site, q, k, v), expected, atol=1e-5)
    alone = i2vedit_attention.matching_rule(seen, {}, about, cfg, 4)
    assert torch.allclose(alone(site, q, k, v), naive(q0, k0, v), atol=1e-5)
    assert i2vedit_attention.matching_rule(seen, {}, about, cfg, 9)(site, q, k, v) is None


def test_the_first_clip_is_run_again_with_its_own_adapters(backbone, given):
    paths = adapters_of.find_layers(backbone.network, backbone.attention_hooks.layers, "attention")
    with adapters_of.mount_adapters(backbone.network, paths, 2, seed=0) as adapters:
        own, other = adapters.tensors(), {}
        for name, value in own.items():
            other[name] = torch.ones_like(value)
        field = segment.FieldPair(backbone.field, backbone.field, adapters)
        with field.swap_adapters(other, own):
            assert all(torch.equal(a, other[n]) for n, a in adapters.tensors().items())
        assert all(torch.equal(a, own[n]) for n, a in adapters.tensors().items())


def test_the_released_variant_asks_as_the_authors_code_does(backbone, given):
    """Inversion: rate 8, a first frame of eight bits with noise of its own; tuning: swapped numbers and samples; the
    edit: noise in the latent, of a handed-on one too.
    """
    asked, encoded = [], []

    def condition(prompt):
        asked.append(prompt)
        return backbone.condition(prompt)

    def encode(frames, eps=None):
        encoded.append(eps)
        return backbone.encode(frames, eps)

    flat = [torch.full((3, 32, 32), 0.3) for _ in range(5)]
    ways = dataclasses.replace(
        given.pixels, condition=condition, encode=encode, frames=lambda: flat
    )
    about = dataclasses.replace(given, pixels=ways, first_frame=1 - flat[0])
    cfg = i2vedit.Config(
        steps=2, tuning_steps=1, rank=2, sarp=0.005, attend_first_segment=False, variant="released"
    )
    last(i2vedit.edit(backbone.field, about, cfg))
    edit, tune, invert = asked[:3]
    assert (edit.noise_target, edit.time_ids) == ("latent", None)
    assert torch.equal(edit.image, 1 - flat[0])
    assert (tune.noise_target, tune.time_ids) == ("sample", (6, 0.02, 127))
    assert torch.equal(tune.image, flat[0])
    assert (invert.noise_target, invert.time_ids) == ("pixels", (8, 127, 0.02))
    assert torch.equal((invert.image * 255).round() / 255, invert.image)
    own, clips = (next(perturbation.perturb_frames(flat, cfg, about.seed, n)) * 255 for n in (1, 0))
    assert torch.equal(invert.image, own.floor() / 255)
    assert not torch.equal(invert.image, clips.floor() / 255)
    assert encoded
    assert all(eps is not None for eps in encoded)
    handed = [p for p in asked if p.latent is not None]
    assert len(handed) == 1
    assert handed[0].noise_target == "latent"


@pytest.mark.parametrize("motion", ["0.8:0.4", "1.2:2", "0.4", "0.4:0.8:1", "locals", ""])
def test_what_is_no_stage_partition_is_refused(motion):
    with pytest.raises(ValueError, match=f"motion is '?{motion}"):
        i2vedit.Config(motion=motion)


def test_a_stage_partition_may_be_given_in_numbers():
    stages = {
        m: i2vedit.Config(motion=m).stages for m in ("local", "none", "0.4:0.8", ".5:1", "0:0.5")
    }
    assert list(stages.values()) == [(0.5, 0.8), (0.0, 0.0), (0.4, 0.8), (0.5, 1.0), (0.0, 0.5)]


def test_the_source_stands_in_up_to_the_ends_of_the_stages(backbone):
    """0.4:0.8 of 5 steps: in 2 steps everywhere, in 2 more at coarse layers."""
    layer = Layer("x", "down", 0, "self", "temporal", cells_per_token=1, branch="tgt+")
    coarse = dataclasses.replace(layer, path="y", cells_per_token=4)
    tensors = torch.rand(3, 1, 1, 2, 4).unbind()
    source = {dataclasses.replace(x, branch="src+"): tensors for x in (layer, coarse)}
    cfg = i2vedit.Config(steps=5, motion="0.4:0.8")
    found = []
    for step in range(5):
        rule = i2vedit_attention.matching_rule(source, {}, EditInputs(None, None, None), cfg, step)
        found.append([rule(x, *tensors) is not None for x in (layer, coarse)])
    assert found == [[True, True]] * 2 + [[False, True]] * 2 + [[False, False]]
    with i2vedit_attention.record_source(
        backbone.field, dataclasses.replace(cfg, matching=False), 4
    ) as kept:
        assert kept is None


def test_noise_of_the_latent_leaves_the_frames_and_their_conditioning(given):
    flat = dataclasses.replace(given, segments=())
    cfg = dataclasses.replace(QUICK, sarp=0.1, sarp_area="latent")
    latent, source = conditions.inversion_inputs(flat, cfg)
    assert source is flat.source
    assert torch.equal(latent, perturbation.perturb_latent(flat.latent, cfg, flat.seed))
    assert not torch.equal(latent, flat.latent)


def test_adapters_of_several_segments_depend_on_the_inversion_of_the_first():
    one, two = (i2vedit.METHOD.list_adapter_settings(n) for n in (1, 2))
    assert "steps" not in one
    assert {"steps", "sarp", "attend_in_tuning", *one} <= set(two)


def test_the_plan_says_how_later_clips_see_the_first():
    grid = ClipFormat((1, 8, 8), (1, 1, 1), 8, 4096, 14, 10**6, (16, 16))
    task = EditTask("", "", method="i2vedit")

    def reason(frames, interval):
        cfg = i2vedit.Config(attend_first_segment=interval)
        return planning.split_clip(task, i2vedit, cfg, grid, frames, ()).reason

    assert "doubles their evaluations" in reason(20, True)
    assert "do not attend to the first" in reason(20, False)
    assert "later segments" not in reason(14, True)


def test_the_preview_of_a_long_clip_shows_its_parts_as_they_come(backbone, given):
    """From the second part on it showed the source: a part's calls are shorter than the clip."""
    seen = LivePreview(given.latent)
    shown = [
        (step, seen.after(step)) for step in i2vedit.edit(seen.wrap(backbone.field), given, QUICK)
    ]
    assert all(clean.shape == given.latent.shape for _, clean in shown)
    (begin, shown_first), (end, shown_last) = shown[0], shown[-1]
    assert begin.stage == "invert"
    assert torch.equal(shown_first, given.latent)
    assert torch.equal(shown_last[:, :, :3], end.z[:, :, :3])  # of the part that is done
    assert torch.equal(shown_last[:, :, 3:], seen._segment[:, :, 1:])
    assert not torch.allclose(shown_last[:, :, 3:], given.latent[:, :, 3:], atol=1e-2)
