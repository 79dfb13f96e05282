"""An edit in memory: what it hands to the method, and what it says as it goes."""

import concurrent.futures
import dataclasses
import gc
import weakref

import pytest
import torch

from holdfast.base.errors import UserError
from holdfast.methods import flowedit
from holdfast.models import registry
from holdfast.models.attention import maps
from holdfast.models.base import BackboneWrapper, Conditioning, Prompt
from holdfast.models.svd.adapter import StableVideo
from holdfast.pipeline import events, in_memory, loop
from holdfast.pipeline.helper_models import borrow_image_model
from holdfast.pipeline.metering import EvaluationMeter
from holdfast.pipeline.planning import ModelChoice
from holdfast.pipeline.task import EditTask
from holdfast.sampling.field import Step, VelocityField

from .. import tiny

CLIP = torch.rand(5, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def job(backbone, inside=None, **fields):
    texts = {
        "source_prompt": "a plain red ball",
        "target_prompt": "a plain blue ball",
        "method": "flowedit",
    }
    settings = {"steps": 2, "strength": 1.0}
    task = EditTask(**{"input": "", "output": "", "settings": settings, **texts, **fields})
    return in_memory.plan_job(task, backbone, CLIP, inside)


@pytest.fixture
def given(monkeypatch):
    """What reaches the method."""
    seen, real = [], flowedit.edit

    def watched(field, given, cfg, start=None):
        seen.append(given)
        return real(field, given, cfg, start)

    monkeypatch.setattr(flowedit, "edit", watched)
    return seen


def left_cells(field, latent, source, target, seed):
    cells = torch.zeros(latent.shape[2:], dtype=torch.bool)
    cells[..., :2] = True
    return cells


def test_the_automatic_mask_reaches_the_method(tiny_wan, given, monkeypatch):
    monkeypatch.setattr(maps, "find_auto_mask", left_cells)
    seen = list(loop.run_loop(job(tiny_wan, mask="auto"), tiny_wan))
    inside = given[0].mask[0, 0] > 0
    assert inside[..., :2].all()
    assert not inside[..., 3:].any()
    assert [e.stage for e in seen] == ["condition", "encode", "mask", "edit", "edit", "edit"]
    z, source = seen[-1].z, given[0].latent
    outside = ~inside.expand_as(z)
    assert torch.equal(z[outside], source[outside])


def test_a_mask_of_frames_reaches_the_method(tiny_wan, given):
    mask = torch.zeros(5, 32, 48, dtype=torch.bool)
    mask[:, :, :16] = True
    in_memory.edit_latent(job(tiny_wan, mask.numpy()), tiny_wan)
    assert (given[0].mask[0, 0, :, :, :2] == 1).all()
    assert (given[0].mask[0, 0, :, :, 2:] == 0).all()


def test_a_guide_the_seed_and_the_way_to_pixels_reach_the_method(tiny_wan, given):
    guide = tiny.wan()
    made = dataclasses.replace(job(tiny_wan, seed=7), image_model=guide)
    in_memory.edit_latent(made, tiny_wan)
    (about,) = given
    assert about.image_model.field.attention_hooks is guide.attention_hooks
    wanted = guide.condition(Prompt("a plain blue ball"))
    assert torch.equal(about.image_model.target.positive, wanted.positive)
    assert about.seed == 7
    assert torch.equal(about.pixels.encode(about.pixels.frames()), about.latent)
    frames = torch.cat(list(about.pixels.decode(about.latent)))
    assert frames.shape == CLIP.shape


def test_the_walk_builds_no_graph_and_counts_every_evaluation():
    """Also over weights that are being trained; outside, gradients are as they were."""
    tuned = tiny.wan()
    tuned.transformer.requires_grad_(True)
    done = list(loop.run_loop(job(tuned), tuned))[-1]
    assert not done.z.requires_grad
    assert done.evaluations == 8
    assert torch.is_grad_enabled()


def test_a_latent_that_is_not_finite_ends_the_walk_at_its_step():
    backbone = tiny.wan()  # its own: it is broken
    backbone.transformer.proj_out.bias.data.fill_(torch.inf)
    walked, steps = loop.run_loop(job(backbone), backbone), []
    with pytest.raises(ValueError, match="the latent after step 1 of 2 holds values that are not"):
        steps.extend(event for event in walked if isinstance(event, Step))
    assert not steps  # or it would be saved


def test_saved_latents_of_another_clip_or_not_finite_are_refused(tiny_wan):
    plain = job(tiny_wan)
    with pytest.raises(ValueError, match=r"the saved latents are .* run without --resume"):
        in_memory.edit_latent(
            dataclasses.replace(plain, resume=Step("edit", 1, 2, torch.zeros(1))), tiny_wan
        )
    z = torch.zeros_like(tiny_wan.encode(CLIP))
    for broken in (torch.nan, 1e30):
        for start in (Step("edit", 1, 2, z + broken), Step("edit", 1, 2, z, {"last": z + broken})):
            with pytest.raises(
                ValueError, match=r"the saved latents' (z|last) .* run without --res"
            ):
                in_memory.edit_latent(dataclasses.replace(plain, resume=start), tiny_wan)


def test_going_on_from_the_end_changes_nothing(tiny_wan):
    made = job(tiny_wan)
    *_, last, done = loop.run_loop(made, tiny_wan)
    assert isinstance(last, Step)
    again = in_memory.edit_latent(dataclasses.replace(made, resume=last), tiny_wan)
    assert torch.equal(again, done.z)


def test_a_model_of_images_is_steered_by_the_first_frame():
    """The wanted frame reaches the target's condition, fitted; what steers no model, or is lacking, is said."""
    backbone, clip = tiny.stable_video(), torch.rand(3, 3, 30, 50)
    seen = []
    condition = backbone.condition
    backbone.condition = lambda prompt: seen.append(prompt.image) or condition(prompt)
    asked = {"input": "", "output": "", "method": "flowedit", "settings": {"steps": 2}}
    job = in_memory.plan_job(
        EditTask(**asked, first_frame="x.png"), backbone, clip, first_frame=1 - clip[0]
    )
    assert in_memory.edit_latent(job, backbone).isfinite().all()
    fitted = next(job.frames())
    assert torch.equal(seen[0], fitted)
    assert torch.allclose(seen[1], 1 - fitted, atol=1e-5)
    with pytest.raises(ValueError, match="give the edited one by --first-frame"):
        in_memory.plan_job(EditTask(**asked), backbone, clip)
    with pytest.raises(ValueError, match="is conditioned on text and takes no first frame"):
        in_memory.plan_job(EditTask(**asked, first_frame="x.png"), tiny.wan(), clip)
    with pytest.raises(ValueError, match="give --source-prompt and --target-prompt"):
        in_memory.plan_job(EditTask(**asked, source_prompt="a"), tiny.wan(), clip)


def test_without_a_first_frame_an_image_model_makes_it_from_the_prompts(monkeypatch):
    """The clip's first frame, edited by FlowEdit on the partner over the same latents; the mask counts there too."""
    backbone, clip = tiny.stable_video(), torch.rand(3, 3, 32, 32)
    painter = tiny.ADAPTERS["sd"]()
    monkeypatch.setattr(in_memory, "load_helper", lambda *asked: painter)
    monkeypatch.setattr(backbone, "image_model", "shapeworld-sd")
    asked = {"input": "", "output": "", "method": "flowedit", "settings": {"steps": 2}}
    task = EditTask(**asked, source_prompt="a red ball", target_prompt="a blue ball")
    made = in_memory.plan_job(task, backbone, clip)
    assert (made.plan.first_frame_model.name, made.plan.image_model.name) == ("shapeworld-sd", None)
    (frame,) = [
        e.frame for e in loop.run_loop(made, backbone) if isinstance(e, events.FirstFramePainted)
    ]
    still = EditTask(
        **asked | {"settings": {}}, source_prompt="a red ball", target_prompt="a blue ball"
    )
    expected = in_memory.edit_frames(in_memory.plan_job(still, painter, clip[:1]), painter)[0]
    assert torch.equal(frame, expected)
    assert not torch.allclose(frame, clip[0], atol=1e-2)
    given = in_memory.plan_job(
        EditTask(**asked, first_frame="x.png"), backbone, clip, first_frame=clip[0]
    )
    assert not any(isinstance(e, events.FirstFramePainted) for e in loop.run_loop(given, backbone))


def test_who_cannot_paint_or_is_not_told_is_refused_or_noted(monkeypatch):
    backbone, clip = tiny.stable_video(), torch.rand(3, 3, 32, 32)
    asked = {"input": "", "output": "", "settings": {"steps": 2}}
    told = {"source_prompt": "a red ball", "target_prompt": "a blue ball"}
    with pytest.raises(ValueError, match="needs the edited first frame: give it by --first-frame"):
        in_memory.plan_job(
            EditTask(**asked, **told, method="flowedit"), backbone, clip
        )  # its card names none
    task = EditTask(**asked, **told, method="flowedit", image_model="shapeworld-svd")
    with pytest.raises(ValueError, match="shapeworld-svd is not conditioned on text alone"):
        in_memory.plan_job(task, backbone, clip)
    monkeypatch.setattr(backbone, "image_model", "shapeworld-sd")
    task = EditTask(**asked, method="assd", first_frame="x.png")
    with pytest.warns(
        UserWarning, match="no prompts are given, so assd runs without an image model"
    ):
        assert (
            in_memory.plan_job(task, backbone, clip, first_frame=clip[0]).plan.image_model.name
            is None
        )
    task = EditTask(**asked, method="flowedit", first_frame="x.png", image_model="shapeworld-sd")
    with pytest.warns(UserWarning, match="--image-model has no effect"):
        in_memory.plan_job(task, backbone, clip, first_frame=clip[0])


def test_a_second_edit_on_one_backbone_is_refused_while_the_first_is_under_way(tiny_wan):
    """Rules, adapters and the denoiser in use are the backbone's own: two threads would mix them."""
    first = loop.run_loop(job(tiny_wan), tiny_wan)
    next(first)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        again = job(tiny_wan)
        with pytest.raises(UserError, match="the loaded tiny is in use by another edit: wait"):
            pool.submit(in_memory.edit_latent, again, BackboneWrapper(tiny_wan)).result()
        first.close()
        assert (
            pool.submit(in_memory.edit_latent, again, BackboneWrapper(tiny_wan))
            .result()
            .isfinite()
            .all()
        )
    broken = dataclasses.replace(
        job(tiny_wan), source_latent=torch.full((1, 4, 2, 4, 6), torch.nan)
    )
    for _ in range(2):  # an edit that fails leaves the backbone free
        with pytest.raises(UserError, match="the encoded clip holds values that are not finite"):
            in_memory.edit_latent(broken, tiny_wan)


class Part:
    """A part of a model that says where it is."""

    def __init__(self, device):
        self.device, self.moves = torch.device(device), []

    def parameters(self):
        yield self

    def to(self, device):
        self.device = torch.device(device)
        self.moves.append(self.device.type)


def test_a_guide_waits_on_the_cpu_between_edits_and_goes_when_it_is_not_wanted(monkeypatch):
    """It stayed on the GPU for the life of the process."""

    class Guide:
        device = torch.device("cuda")

        def __init__(self):
            self.parts = {"unet": Part("cuda"), "text_encoder": Part("cpu")}

    made = []

    def load(*asked):
        made.append(weakref.ref(guide := Guide()))
        return guide

    monkeypatch.setattr(registry, "load_backbone", load)
    backbone = StableVideo()

    for _ in range(2):
        with borrow_image_model(ModelChoice("given", "sd1.5"), backbone) as guide:
            assert guide.parts["unet"].device.type == "cuda"
        assert guide.parts["unet"].device.type == "cpu"
    assert guide.parts["unet"].moves == ["cpu", "cuda", "cpu"]
    assert guide.parts["text_encoder"].moves == []
    del guide
    assert len(made) == 1
    with borrow_image_model(ModelChoice("none"), backbone) as guide:
        assert guide is made[0]() is None
    with borrow_image_model(ModelChoice("given", "sd1.5"), backbone):
        pass
    assert made[1]() is not None
    del backbone
    gc.collect()
    assert made[1]() is None


def test_what_steered_a_call_is_known_by_itself_and_not_by_a_number_that_is_used_again():
    field = VelocityField(
        lambda sigma, evaluations, frames=None: [e.z for e in evaluations], list, float
    )
    meter = EvaluationMeter()
    metered = meter.wrap(field)
    for _ in range(3):  # conditionings that are not stored: their ids are free again at once
        metered.velocity(torch.zeros(1), 0.5, Conditioning([], []), branch="src-")
    assert not any(meter.was_used([]) for _ in range(100))
    known = Conditioning([], [])
    metered.velocity(torch.zeros(1), 0.5, known, branch="tgt-")
    assert meter.was_used(known.negative)
    assert not meter.was_used(known.positive)
    assert meter.evaluations == 4
