"""An option without effect says so, and one with an effect is silent."""

import warnings

import numpy as np
import pytest
import torch

from holdfast.base.notices import Notice
from holdfast.media import video
from holdfast.models.base import BackboneWrapper
from holdfast.pipeline import in_memory, run
from holdfast.pipeline.task import EditTask

from .. import tiny

CLIP = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TEXTS = {"source_prompt": "a plain red ball", "target_prompt": "a plain blue ball"}


@pytest.fixture(scope="module")
def backbones():
    return {"wan": tiny.wan(), "svd": tiny.stable_video()}


def said(backbone, **fields) -> str:
    """All notes of an edit in memory."""
    first = CLIP[0] if "first_frame" in fields else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Notice)
        job = in_memory.plan_job(
            EditTask(input="", output="", **fields), backbone, CLIP, first_frame=first
        )
        in_memory.edit_latent(job, backbone)
    return "\n".join(str(w.message) for w in caught if w.category is Notice)


@pytest.mark.parametrize(
    ("method", "settings", "words"),
    [
        (
            "flowdirector",
            {"n_worst": "1", "averaging": "released"},
            "n_worst has no effect while averaging is released",
        ),
        (
            "flowedit",
            {"negative_every": "2", "source_guidance": "1", "target_guidance": "1"},
            "negative_every has no effect while guidance is 1",
        ),
        ("flowedit", {"negative_every": "2", "source_guidance": "1"}, ""),
        ("flowdirector", {"n_worst": "1"}, ""),
        ("flowdirector", {"averaging": "released"}, ""),  # n_worst is not the user's
        (
            "assd",
            {"tau": "0.1", "smoothing_mask": "off", "joint": "0"},
            "tau has no effect while smoothing_mask is off",
        ),
        ("assd", {"stride": "2", "joint": "0"}, "stride has no effect while joint is 0"),
        (
            "assd",
            {"fused_layers": "1", "fusion": "0", "joint": "0"},
            "fused_layers has no effect while fusion is 0",
        ),
        (
            "flowdistill",
            {"map_memory": "0.5", "preservation": "0"},
            "map_memory has no effect while preservation is 0",
        ),
        ("flowdistill", {"map_memory": "0.5"}, ""),
        ("rfsolver", {"depth": "0.2", "inject": "0"}, "depth has no effect while inject is 0"),
        ("rfsolver", {"depth": "0.2"}, ""),
    ],
)
def test_settings_that_need_another_one(method, settings, words, backbones):
    found = said(backbones["wan"], method=method, settings={"steps": "2"} | settings, **TEXTS)
    assert words in found
    assert bool(words) == ("has no effect" in found)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": "4", "tuning_steps": "0"}, "rank"),
        ({"rank": "4"}, ""),
        ({"threshold_first": "0.1", "matching": "no"}, "threshold_first"),
    ],
)
def test_settings_of_what_is_carried_from_a_frame(settings, words, backbones):
    told = {"method": "i2vedit", "first_frame": "x.png"}
    found = said(backbones["svd"], settings={"steps": "2", "tuning_steps": "1"} | settings, **told)
    assert (f"{words} has no effect while" in found) == bool(words)


def test_a_seed_where_nothing_is_drawn(backbones):
    for method in ("rfsolver", "uniedit"):
        told = {"method": method, "settings": {"steps": "2"}, **TEXTS}
        assert f"{method} draws nothing at random" in said(backbones["wan"], seed=3, **told)
        assert "random" not in said(backbones["wan"], **told)
    perturbed = {"method": "uniedit", "settings": {"steps": "2", "sarp": "0.1"}, **TEXTS}
    assert "random" not in said(backbones["wan"], seed=3, **perturbed)
    told = {"settings": {"steps": "2"}, **TEXTS}
    assert "random" not in said(backbones["wan"], seed=3, **told)


def test_prompts_beside_a_first_frame(backbones):
    told = {"first_frame": "x.png", "settings": {"steps": "2"}}
    assert "the prompts have no effect: tiny" in said(backbones["svd"], **told, **TEXTS)
    found = said(backbones["svd"], **told, negative="blurred")
    assert "the prompts have no effect" in found
    assert "the negative prompt has no effect" in found  # what it conditions is no text
    assert "prompts" not in said(backbones["svd"], **told)


@pytest.mark.parametrize(
    ("method", "settings", "used"),
    [
        ("flowedit", {}, True),
        ("flowedit", {"source_guidance": "1", "target_guidance": "1"}, False),
        ("flowalign", {}, False),
        ("uniedit", {}, True),
        ("uniedit", {"source_prompt": "yes"}, False),
        ("sdedit", {}, True),
    ],
)
def test_a_negative_prompt_that_no_call_is_told(method, settings, used, backbones):
    """FlowAlign has the source prompt in its place; guidance of 1 asks for none."""
    told = {"method": method, "settings": {"steps": "2"} | settings, **TEXTS}
    found = said(backbones["wan"], negative="blurred", **told)
    assert ("the negative prompt has no effect" in found) != used
    assert "negative" not in said(backbones["wan"], **told)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"deinterlace": True}, "deinterlace has no effect: clip.mp4 is not interlaced"),
        ({"background": "black"}, "background has no effect: clip.mp4 has no transparency"),
        ({"codec": "lossless-rgb", "crf": 3}, "crf has no effect with codec lossless-rgb"),
    ],
)
def test_what_does_nothing_to_this_clip(fields, words, make_clip, backbones, tmp_path):
    about = {"input": str(make_clip()), "output": str(tmp_path / "out.mp4")}
    task = EditTask(**about, source_prompt="a ball", target_prompt="a ball", **fields)
    with pytest.warns(Notice) as caught:
        run.edit(task, backbones["wan"])
    assert words in [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("fields", "capabilities", "words"),
    [
        ({"settings": {"region": "mask"}}, {"regions"}, "region has no effect without a mask"),
        (
            {"settings": {"region": "mask"}, "mask": "0,0,16,16"},
            set(),
            "region has no effect: tiny is always evaluated everywhere",
        ),
        ({"settings": {"region": "mask"}, "mask": "0,0,16,16"}, {"regions"}, None),
        ({}, set(), None),  # the default is not the user's
    ],
)
def test_a_region_says_where_it_has_no_effect(backbones, tmp_path, fields, capabilities, words):
    video.write_frames(tmp_path / "clip.mkv", [np.zeros((32, 32, 3), np.uint8)] * 5, 8, "ffv1")
    backbone = BackboneWrapper(backbones["wan"])
    backbone.capabilities = (backbone.capabilities - {"regions"}) | capabilities
    task = EditTask(str(tmp_path / "clip.mkv"), str(tmp_path / "out.mkv"), **TEXTS, **fields)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", Notice)
        run.open_session(task, backbone)
    found = [str(w.message) for w in caught if "region" in str(w.message)]
    assert found == ([] if words is None else [words])
