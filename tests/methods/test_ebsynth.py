"""EbSynth on the backbone without a model: what a method owes. Its synthesis: tests/media/test_patch_synthesis.py."""

import dataclasses

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import holdfast
from holdfast import methods
from holdfast.base.errors import UserError
from holdfast.base.notices import Notice
from holdfast.cli.app import app
from holdfast.media import images, video
from holdfast.media.fitting import choose_fit
from holdfast.methods import ebsynth
from holdfast.models import registry
from holdfast.models.base import Prompt
from holdfast.pipeline import estimate, run
from holdfast.pipeline.progress import SavedProgress
from holdfast.pipeline.task import EditTask
from holdfast.sampling.field import EditInputs

QUICK = {"steps": 1, "search_iterations": 1, "optical_flow": "dis"}


@pytest.fixture(scope="module")
def backbone():
    return registry.load_backbone("pixels")


def moving_square(frames=5, side=24):
    """A red square that moves right over noise that stands still: f 3 H W."""
    ground = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    clip = 0.3 * ground.repeat(frames, 1, 1, 1)
    for t in range(frames):
        clip[t, 0, 8:16, 4 + 2 * t : 12 + 2 * t] = 0.9
    return clip


def make_inputs(backbone, clip=None, **values):
    clip = moving_square() if clip is None else clip
    first = clip[0][[1, 0, 2]]  # a green square
    conditioning = backbone.condition(Prompt(image=clip[0]))
    latent = backbone.encode(clip)
    return EditInputs(latent, conditioning, conditioning, first_frame=first, **values)


def edit(backbone, inputs, start=None, **settings):
    config = ebsynth.Config(**(QUICK | settings))
    return list(ebsynth.edit(backbone.field, inputs, config, start))


def test_the_backbone_returns_the_frames_themselves(backbone):
    clip = moving_square(11)
    chunks = list(backbone.decode(backbone.encode(iter(clip))))
    assert torch.equal(torch.cat(chunks), clip)
    assert len(chunks) > 1
    assert choose_fit(backbone.clip_format, 7, (31, 1001)).model_size == (31, 1001)
    with pytest.raises(UserError, match="has no model"):
        backbone.velocity(clip, 0.5, None, branch="src+")


def test_methods_that_need_a_velocity_do_not_run_without_a_model():
    assert methods.list_compatible({"image", "pixels"}) == ["ebsynth"]
    flowedit = methods.load("flowedit").METHOD
    assert flowedit.missing({"image", "pixels"}) == {"velocity"}
    assert flowedit.missing({"image"}) == set()
    assert ebsynth.METHOD.missing({"image"}) == {"pixels"}


def test_the_edit_follows_the_square(backbone):
    clip = moving_square()
    z = edit(backbone, make_inputs(backbone), optical_flow="sharp_dis")[-1].z[0]
    truth = clip[:, [1, 0, 2]].transpose(0, 1)
    assert torch.equal(z[:, 0], truth[:, 0])
    error = (z - truth).square().mean()
    assert error < 0.1 * (clip.transpose(0, 1) - truth).square().mean()


def test_the_seed_decides_and_nothing_else(backbone):
    first = edit(backbone, make_inputs(backbone, seed=1), start=None)[-1].z
    assert torch.equal(first, edit(backbone, make_inputs(backbone, seed=1))[-1].z)
    assert not torch.equal(first, edit(backbone, make_inputs(backbone, seed=-2))[-1].z)


@pytest.mark.parametrize("masked", [False, True])
def test_stopped_and_resumed_at_every_step_through_the_disk(backbone, masked, tmp_path):
    """With a keyframe, so that results wait to be blended."""
    mask = torch.zeros(1, 1, 5, 24, 24)
    mask[..., 4:20] = 1
    keyframes = {3: moving_square()[3][[1, 0, 2]]}
    inputs = make_inputs(backbone, mask=mask if masked else None, keyframes=keyframes)
    whole = edit(backbone, inputs)
    assert [(s.stage, s.index, s.count) for s in whole] == [("edit", i, 6) for i in range(1, 7)]
    store = SavedProgress(tmp_path / "latents.safetensors", "key")
    for i, step in enumerate(whole):
        store.save(step)
        saved, _ = store.load()
        rest = edit(backbone, inputs, saved)
        assert len(rest) == len(whole) - 1 - i
        assert torch.equal((rest or [saved])[-1].z, whole[-1].z), i
    assert torch.equal(whole[0].preview, whole[0].z)
    # no frame of a finished pair of results stays in the state
    assert whole[-1].state.keys() == {"positions", "previous"}


def test_latents_outside_a_mask_stay_bit_for_bit(backbone):
    mask = torch.zeros(1, 1, 5, 24, 24)
    mask[..., 2:20] = 1
    mask[..., 20] = 0.25  # a feathered edge: a quarter of the change
    inputs = make_inputs(backbone, mask=mask)
    z, source = edit(backbone, inputs)[-1].z, inputs.latent
    outside = mask.expand_as(z) == 0
    assert torch.equal(z[outside], source[outside])
    assert not torch.equal(z[..., 2:20], source[..., 2:20])
    first = inputs.first_frame[:, :, 20]
    expected = source[0, :, 0, :, 20] + 0.25 * (first - source[0, :, 0, :, 20])
    assert z[0, :, 0, :, 20] == pytest.approx(expected, abs=1e-6)
    nothing = dataclasses.replace(inputs, mask=0 * mask)
    assert torch.equal(edit(backbone, nothing)[-1].z, source)
    everything = dataclasses.replace(inputs, mask=torch.ones_like(mask))
    plain = edit(backbone, make_inputs(backbone))[-1].z
    assert torch.equal(edit(backbone, everything)[-1].z, plain)


def test_strength_is_the_share_of_the_change_that_is_kept(backbone):
    inputs = make_inputs(backbone)
    full, half = (edit(backbone, inputs, strength=s)[-1].z for s in (1.0, 0.5))
    assert half == pytest.approx(inputs.latent + 0.5 * (full - inputs.latent), abs=1e-6)
    assert edit(backbone, inputs, strength=0.0) == []


SHAPES = [(1, (24, 24)), (2, (5, 40)), (3, (1, 1)), (2, (30, 51))]


@pytest.mark.parametrize(("frames", "size"), SHAPES)
def test_odd_clips(backbone, frames, size):
    clip = torch.rand(frames, 3, *size, generator=torch.Generator().manual_seed(1))
    z = edit(backbone, make_inputs(backbone, clip))[-1].z
    assert z.shape == (1, 3, frames, *size)
    assert 0 <= z.min() <= z.max() <= 1


def test_a_patch_has_a_centre():
    with pytest.raises(UserError, match="patch is 4: use an odd number"):
        ebsynth.Config(patch=4)


@pytest.fixture
def files(tmp_path):
    clip = moving_square()
    video.write_frames(tmp_path / "clip.mkv", [images.to_array(f, 8) for f in clip], 8, "ffv1")
    images.write(tmp_path / "first.png", clip[0][[1, 0, 2]])
    return str(tmp_path / "clip.mkv"), str(tmp_path / "out.mkv"), str(tmp_path / "first.png")


def test_the_method_alone_chooses_the_backbone_without_a_model(files):
    clip, out, first = files
    task = EditTask(clip, out, method="ebsynth", first_frame=first)
    assert task.backbone == "pixels"
    assert EditTask(clip, out, method="i2vedit").backbone == EditTask.backbone
    assert EditTask(clip, out, method="no such method").backbone == EditTask.backbone
    other = EditTask(clip, out, method="ebsynth", backbone="shapeworld-wan", first_frame=first)
    with pytest.raises(UserError, match="ebsynth does not run on shapeworld-wan, which has no pix"):
        run.open_session(other, None)


def test_an_edit_of_a_file_keeps_what_is_outside_the_mask(files):
    clip, out, first = files
    result = holdfast.edit(
        clip,
        method="ebsynth",
        first_frame=first,
        mask="2,6,20,12",
        settings=QUICK,
        output=out,
        codec="ffv1",
    )
    result.save(out)
    assert result.manifest["evaluations"] == 0
    assert result.manifest["preservation"]["max_abs_outside"] == 0
    source, edited = (list(video.read(video.probe(path))) for path in (clip, out))
    for a, b in zip(source, edited, strict=True):
        assert np.array_equal(a[:6], b[:6])
    assert edited[4][10, 15, 1] > 2 * edited[4][10, 15, 0]  # green, where the square has moved to


def test_no_first_frame_is_refused_in_one_sentence(files):
    clip, out, _ = files
    result = CliRunner().invoke(app, ["edit", clip, "-o", out, "--method", "ebsynth"])
    assert result.exit_code == 2
    assert "there is none: give the edited one by --first-frame" in result.stderr
    assert "Traceback" not in result.stderr


def test_options_without_effect_are_named(files):
    clip, out, first = files
    with pytest.raises(UserError, match="pixels has no weights, and --weights is x"):
        run.edit(EditTask(clip, out, method="ebsynth", first_frame=first, weights="x"))
    given = {"first_frame": first, "settings": QUICK, "window": 2, "compile": True}
    with pytest.warns(Notice) as notices:
        run.edit(EditTask(clip, out, method="ebsynth", **given))
    assert {str(notice.message) for notice in notices} == {
        "the window has no effect: frames are propagated one after another",
        "pixels is not compiled: it has no network",
    }
    with pytest.warns(Notice, match="the number format has no effect"):
        registry.load_backbone("pixels", dtype="bfloat16")


def test_an_estimate_promises_no_evaluations(files, backbone):
    clip, out, first = files
    task = EditTask(clip, out, method="ebsynth", first_frame=first)
    lines = estimate.estimate_lines(estimate.estimate_edit(task, backbone=backbone))
    assert "no evaluation of a network; time and memory are not estimated" in lines
    assert "5 frames in one segment: there is no longest clip" in lines
    assert "6 steps (suits this backbone)" in lines
