"""Control of an edit by a ControlNet: which one, which pictures, and what is refused."""

import pytest
import torch

from holdfast.base.errors import MissingDependencyError, UserError
from holdfast.media import edges, video
from holdfast.models import controlnets
from holdfast.models.base import Prompt
from holdfast.pipeline import controls, in_memory, manifest_content, run
from holdfast.pipeline.task import EditTask

from .. import tiny

TEXTS = {"source_prompt": "a plain red ball", "target_prompt": "a plain blue ball"}
QUICK = {"method": "sdedit", "settings": {"steps": 2, "target_guidance": 1.0}}
FRAMES = 3


@pytest.fixture(scope="module")
def backbone():
    return tiny.ADAPTERS["sd"]()


@pytest.fixture(scope="module")
def folder(backbone, tmp_path_factory):
    place = tmp_path_factory.mktemp("controlnet")
    tiny.controlnet(backbone.network).save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def clip():
    frames = torch.zeros(FRAMES, 3, 32, 32)
    for i in range(FRAMES):
        frames[i, :, 8:20, 4 + 4 * i : 16 + 4 * i] = 1
    return frames


def task(**fields):
    return EditTask(input="", output="", **{**TEXTS, **QUICK, **fields})


def edit(backbone, clip, **fields):
    return in_memory.edit_latent(in_memory.plan_job(task(**fields), backbone, clip), backbone)


def test_an_edit_follows_the_edges_of_its_own_frames_and_its_manifest_says_so(
    backbone, clip, folder
):
    job = in_memory.plan_job(task(control="canny", controlnet=folder), backbone, clip)
    assert job.plan.describe()["control"] == {
        "reason": "given",
        "pictures": "canny",
        "network": folder,
        "scale": 1.0,
    }
    weights = manifest_content.identify_weights(job.plan, backbone)["controlnet"]
    assert set(weights["files"]) == {"config.json", "diffusion_pytorch_model.safetensors"}
    made = controls.make_control(job.plan.control, job.frames, None)
    expected = [edges.canny(frame.permute(1, 2, 0).numpy()) for frame in job.frames()]
    assert torch.equal(
        made.pictures[:, 0].float() / 255, torch.stack([*map(torch.tensor, expected)])
    )
    controlled = in_memory.edit_latent(job, backbone)
    plain = edit(backbone, clip)
    assert not torch.equal(controlled, plain)
    assert torch.equal(edit(backbone, clip, control="canny", controlnet=folder), controlled)
    off = edit(backbone, clip, control="canny", controlnet=folder, control_scale=0.0)
    assert torch.allclose(off, plain, atol=1e-5)
    soft = edit(backbone, clip, control="hed", controlnet=folder)
    assert not torch.allclose(soft, controlled)
    assert "controlnet" not in backbone.parts


def test_pictures_may_be_a_clip_of_as_many_frames(backbone, folder, make_clip, tmp_path):
    source, maps, short = make_clip("a.mp4"), make_clip("maps.mp4"), make_clip("b.mp4", frames=2)
    fields = {"output": str(tmp_path / "out.mp4"), "controlnet": folder}
    own = EditTask(input=str(source), control=str(maps), **{**TEXTS, **QUICK, **fields})
    session = run.open_session(own, backbone)
    pictures = list(session.control_frames())
    assert len(pictures) == session.plan.fit.model_frames
    expected = next(iter(session.frames()))
    assert torch.equal(pictures[0], expected)  # both files hold the same frames
    with pytest.raises(UserError, match="2 frames"):
        run.open_session(
            EditTask(input=str(source), control=str(short), **TEXTS, **QUICK, **fields), backbone
        )
    part = range(1, 3)
    chosen = controls._picture_numbers(video.probe(maps), video.probe(source), part)
    assert chosen == {1, 2}


def test_what_cannot_be_controlled_says_what_fits(backbone, clip, folder, monkeypatch):
    with pytest.raises(UserError, match=r"wan.* takes no ControlNet.*sd1\.5"):
        in_memory.plan_job(
            task(control="canny", backbone="wan2.1-1.3b"), tiny_named("wan2.1"), clip
        )
    with pytest.raises(UserError, match="no ControlNet for canny is known for tiny"):
        in_memory.plan_job(task(control="canny"), backbone, clip)
    with pytest.raises(UserError, match=r"no ControlNet is named for maps\.mp4"):
        in_memory.plan_job(task(control="maps.mp4"), backbone, clip)
    monkeypatch.setattr(controlnets.hub, "find_cached", lambda place: None)
    with pytest.raises(MissingDependencyError, match="hf download lllyasviel/sd-controlnet-canny"):
        in_memory.plan_job(task(control="canny"), tiny_named("sd1.5", "sd"), clip)
    with pytest.warns(UserWarning, match="--control-scale has no effect"):
        in_memory.plan_job(task(control_scale=0.5), backbone, clip)


def tiny_named(name, family="wan"):
    made = tiny.ADAPTERS[family]()
    made.name = name
    return made


def test_conditionings_that_a_method_makes_are_controlled_too(backbone, clip, folder, monkeypatch):
    found = []

    def look(field, inputs, config, resume=None):
        made = inputs.pixels.condition(Prompt("a plain blue ball"))
        found.extend([inputs.source.control, inputs.target.control, made.control])
        return iter(())

    job = in_memory.plan_job(task(control="canny", controlnet=folder), backbone, clip)
    monkeypatch.setattr(job.plan.method, "edit", look)
    in_memory.finish_loop(job, backbone)
    assert all(control is found[0] and control is not None for control in found)


def test_the_key_of_saved_progress_names_the_control_and_is_as_before_without():
    plain = task()
    assert task(control="canny").latent_key() != plain.latent_key()
    assert task(control="canny").latent_key() != task(control="hed").latent_key()
    assert task(control=None, control_scale=1.0).latent_key() == plain.latent_key()
