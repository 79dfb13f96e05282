"""Python's way to an edit: one schema, clips in memory, events, and results that show themselves."""

import base64
import gc
import inspect
import io
import re
import sys
import tempfile
from pathlib import Path
from typing import get_type_hints

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import holdfast
from holdfast.base.notices import Notice
from holdfast.base.schema import list_settings, plain_type
from holdfast.cli.app import app
from holdfast.media import images, previews, video
from holdfast.pipeline import run
from holdfast.pipeline.events import NoticeIssued, Progress
from holdfast.pipeline.signature import EditOptions
from holdfast.pipeline.task import EditTask
from holdfast.sampling.field import Step

from .. import tiny
from ..conftest import picture

TEXTS = {"source_prompt": "a plain red ball", "target_prompt": "a plain blue ball"}
QUICK = {"settings": {"steps": 2, "strength": 1}}
CLIP = np.stack([picture(i, 48, 32) for i in range(6)])
LEFT = np.arange(48) < 24
MASK = np.broadcast_to(LEFT, (6, 32, 48))


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Where scratch folders are made; empty again after every test."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    if list(folder.iterdir()):  # it takes longer than most tests here
        gc.collect()
    assert list(folder.iterdir()) == []


def test_every_field_of_an_edit_is_a_keyword_with_its_default_and_its_help():
    known, about = (
        inspect.signature(holdfast.edit).parameters,
        " ".join(holdfast.edit.__doc__.split()),
    )
    for f in list_settings(EditTask).values():
        if f.name not in ("input", "output"):
            assert known[f.name].default == f.default
        assert f"{f.name}: {f.description}" in about
    assert set(known) == set(list_settings(EditTask)) | {
        "resume",
        "rate",
        "progress",
    }
    assert set(known) - set(inspect.signature(holdfast.edit_events).parameters) == {"progress"}
    positional = [p.name for p in known.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["input", "source_prompt", "target_prompt"]
    assert "a whole number between 0 and 63" in about
    assert {"edit", "edit_events"} <= set(dir(holdfast))


def test_a_name_that_there_is_not_is_refused_with_the_nearest(tiny_wan):
    for wrong, words in (
        ({"taget": "x"}, r"edit\(\) has no argument 'taget': did you mean target_prompt"),
        ({"firstframe": CLIP[0]}, "no argument 'firstframe': did you mean first_frame"),
        ({"settings": {"stepz": 3}}, "did you mean steps"),
        ({"method": "flowedti"}, "did you mean flowedit"),
        ({"codec": "theora"}, "codec is 'theora': use auto, h264"),
        ({"rate": -8}, "rate=-8 is not a frame rate"),
        ({"rate": "fast"}, "rate='fast' is not a frame rate"),
    ):
        with pytest.raises(ValueError, match=words):
            holdfast.edit(CLIP, **{**TEXTS, "backbone": tiny_wan, "rate": 8} | wrong)
    with pytest.raises(ValueError, match=r"edit_events\(\) has no argument 'progress'"):
        holdfast.edit_events(CLIP, **TEXTS, progress=print)
    with pytest.raises(TypeError, match="input"):
        holdfast.edit(**TEXTS)


def test_tensors_and_pictures_are_the_same_edit_as_arrays(tiny_wan):
    asked = TEXTS | QUICK | {"backbone": tiny_wan, "rate": 8}
    made = holdfast.edit(CLIP, **asked, mask=MASK)
    tensor = torch.from_numpy(CLIP).permute(0, 3, 1, 2) / 255
    for clip, mask in (
        (tensor, torch.from_numpy(MASK.copy())),
        ([Image.fromarray(frame) for frame in CLIP], Image.fromarray(MASK[0])),
        (list(CLIP), MASK[0]),
    ):
        assert torch.equal(holdfast.edit(clip, **asked, mask=mask).z, made.z)
    assert np.array_equal(made.array()[:, :, ~LEFT], CLIP[:, :, ~LEFT])
    assert np.array_equal(np.stack(made.images()), made.array())
    assert np.array_equal(images.to_array(made.tensor()[3], 8), made.array()[3])
    same = {"source_prompt": "a ball", "target_prompt": "a ball", "backbone": tiny_wan, "rate": 8}
    with pytest.warns(Notice, match="the result is the source"):
        again = holdfast.edit(made.tensor(), **same)
    assert np.array_equal(again.array(), made.array())  # what goes out comes in as it went


def test_a_clip_from_memory_is_written_at_its_rate_as_players_like_it(tiny_wan, tmp_path):
    made = holdfast.edit(CLIP, **TEXTS, **QUICK, backbone=tiny_wan, rate="30000/1001")
    written = video.probe(made.save(tmp_path / "out.mp4"))
    assert (str(written.rate), written.has_variable_rate) == ("30000/1001", False)
    assert written.pixel_format == "yuv420p"
    assert made.manifest["rate"] == "30000/1001"
    names = made.manifest["in_memory"]
    assert [name[:5] for name in names] == ["clip-"]
    assert Path(made.manifest["task"]["input"]).name == names[0]


def test_what_was_assumed_or_has_no_effect_is_told_and_in_the_manifest(make_clip, tiny_wan):
    with (
        pytest.warns(Notice, match="has no frame rate: 16 frames per second"),
        pytest.warns(Notice, match="dtype: no effect on a backbone that is loaded"),
    ):
        made = holdfast.edit(CLIP, **TEXTS, **QUICK, backbone=tiny_wan, dtype="float32")
    assert (made.manifest["rate"], len(made.manifest["notes"])) == ("16", 2)
    with pytest.warns(Notice, match="rate has no effect: the clip is a file"):
        made = holdfast.edit(make_clip(), **TEXTS, **QUICK, backbone=tiny_wan, rate=8)
    assert (made.manifest["rate"], made.manifest["in_memory"]) == ("8", [])


def test_events_come_one_by_one_and_the_result_is_the_last(tiny_wan):
    running = holdfast.edit_events(CLIP, **TEXTS, **QUICK, backbone=tiny_wan)
    *before, result = running
    assert isinstance(before[0], NoticeIssued)
    assert before[1] == Progress("read", 1, 1)
    assert [e.index for e in before if isinstance(e, Step)] == [1, 2]
    assert isinstance(result, run.Result)
    assert result.manifest["notes"] == [before[0].text]
    assert result.array().shape == CLIP.shape


def test_bad_input_is_told_at_the_call_and_leaves_nothing(scratch, tiny_wan):
    for wrong in ({"mask": MASK.astype(float) * 9}, {"frames": "9:12"}, {"outline": "round"}):
        with pytest.raises(ValueError, match=r"mask|frame|outline") as held:
            holdfast.edit_events(CLIP, **TEXTS, backbone=tiny_wan, rate=8, **wrong)
        assert list(scratch.iterdir()) == []
        assert held.value.__traceback__  # what it holds is not there any longer


def test_closing_the_events_cancels_and_leaves_nothing(scratch, tiny_wan):
    running = holdfast.edit_events(CLIP, **TEXTS, **QUICK, backbone=tiny_wan, rate=8)
    assert len(list(scratch.iterdir())) == 1
    while not isinstance(next(running), Step):
        pass
    running.close()
    assert list(scratch.iterdir()) == []
    assert list(running) == []
    unused = holdfast.edit_events(CLIP, **TEXTS, **QUICK, backbone=tiny_wan, rate=8)
    del unused
    gc.collect()
    assert list(scratch.iterdir()) == []


def test_a_failed_edit_leaves_nothing_while_its_error_is_held(scratch, tiny_wan, monkeypatch):
    """As a notebook holds it, for its debugger."""
    monkeypatch.setattr(tiny_wan, "encode", lambda frames: 1 / 0)
    with pytest.raises(ZeroDivisionError) as held:
        holdfast.edit(CLIP, **TEXTS, **QUICK, backbone=tiny_wan, rate=8)
    assert list(scratch.iterdir()) == []
    assert held.value.__traceback__


def test_files_live_as_long_as_the_result(scratch, tiny_wan):
    made = holdfast.edit(CLIP, **TEXTS, **QUICK, backbone=tiny_wan, rate=8)
    frames = made.frames()
    del made
    gc.collect()
    assert len(list(frames)) == 6  # who still reads from it holds it too
    del frames
    gc.collect()
    assert list(scratch.iterdir()) == []


def test_progress_is_told_and_what_it_raises_cancels(scratch, tiny_wan, tmp_path):
    told = []
    asked = TEXTS | QUICK | {"backbone": tiny_wan, "rate": 8}
    holdfast.edit(CLIP, **asked, progress=lambda *about: told.append(about))
    assert told[0] == ("read", 1, 1)
    assert told[-2:] == [("edit", 2, 2), ("judge", 1, 1)]

    def enough(stage, done, count):
        if stage == "edit":
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        holdfast.edit(CLIP, **asked, output=tmp_path / "out.mkv", progress=enough)
    assert list(scratch.iterdir()) == []
    assert (tmp_path / "out.mkv.latents.safetensors").exists()


def test_a_stopped_edit_of_a_clip_in_memory_goes_on(tiny_wan, tmp_path):
    asked = TEXTS | {"backbone": tiny_wan, "rate": 8, "output": tmp_path / "out.mkv", "mask": MASK}
    asked["settings"] = {"steps": 4, "strength": 1}
    whole = holdfast.edit(CLIP, **asked | {"output": tmp_path / "whole.mkv"})

    def stop(stage, done, count):
        if (stage, done) == ("edit", 2):
            raise KeyboardInterrupt

    with pytest.raises(run.EditCancelled, match="after step 2 of 4") as stopped:
        holdfast.edit(CLIP, **asked, progress=stop)
    assert stopped.value.saved
    told = []
    again = holdfast.edit(CLIP, **asked, resume=True, progress=lambda *about: told.append(about))
    assert [done for stage, done, _ in told if stage == "edit"] == [3, 4]
    assert torch.equal(again.z, whole.z)
    with pytest.raises(ValueError, match="another task"):
        holdfast.edit(255 - CLIP, **asked, resume=True)


def test_a_result_says_in_a_line_what_it_is_and_decodes_nothing_for_it(tiny_wan):
    made = holdfast.edit(CLIP, **TEXTS, **QUICK, backbone=tiny_wan, rate=8)
    made.backbone = None
    text = repr(made)
    assert re.fullmatch(
        r"<Result: flowedit on tiny, 6 frames of 48x32, 'a plain red ball' -> 'a plain blue ball', "
        r"8 evaluations in \d+\.\d s>",
        text,
    )


def parts(html: str) -> tuple[list[np.ndarray], Image.Image]:
    """The clip's frames and the strip that lie in it."""
    (clip,), (strip,) = (
        re.findall(f'"data:{k};base64,([^"]+)"', html) for k in ("video/mp4", "image/png")
    )
    with av.open(io.BytesIO(base64.b64decode(clip))) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        frames = list(container.decode(video=0))
        assert frames[0].format.name == "yuv420p"
    return [f.to_ndarray(format="rgb24") for f in frames], Image.open(
        io.BytesIO(base64.b64decode(strip))
    )


def test_a_result_shows_itself_as_a_clip_a_strip_and_figures(tiny_wan, tmp_path):
    made = holdfast.edit(
        CLIP, **TEXTS | {"target_prompt": "a <b>"}, **QUICK, backbone=tiny_wan, rate=8, mask=MASK
    )
    html = made._repr_html_()
    frames, strip = parts(html)
    assert (len(frames), frames[0].shape) == (6, (192, 2 * 288, 3))
    sides = (frames[3][:, :288], frames[3][:, 288:])
    half = [np.asarray(Image.fromarray(f).resize((48, 32), Image.BOX)) for f in sides]
    for shown, true in zip(half, (CLIP[3], made.array()[3]), strict=True):
        assert np.abs(shown.astype(int) - true).mean() < 8  # the source left, the edit right
    assert strip.width == 110 + 5 * (192 + 6)
    assert "a &lt;b&gt;" in html
    assert "outside the mask every pixel equals the source" in html
    assert "evaluations" in html
    made.save(tmp_path / "out.mkv")
    assert "the file is " in made._repr_html_() or "of the file" in made._repr_html_()


def test_the_frames_are_decoded_once_for_clip_strip_and_figures(tiny_wan, monkeypatch):
    made = holdfast.edit(CLIP, **TEXTS, **QUICK, backbone=tiny_wan, rate=8)
    decoded, real = [], tiny_wan.decode
    monkeypatch.setattr(tiny_wan, "decode", lambda z: decoded.append(1) or real(z))
    assert made._repr_html_() == made._repr_html_()
    assert made.preservation["changed_share"] > 0
    assert len(decoded) == 1


def test_what_is_shown_of_a_long_or_large_clip_is_bounded_and_said(tiny_wan, monkeypatch):
    monkeypatch.setattr(previews, "MAX_FRAMES", 4)
    monkeypatch.setattr(previews, "MAX_WIDTH", 64)
    made = holdfast.edit(CLIP, **TEXTS, **QUICK, backbone=tiny_wan, rate=8, frames="1:4", mask=MASK)
    html = made._repr_html_()
    frames, strip = parts(html)
    assert (len(frames), frames[0].shape) == (4, (22, 64, 3))
    assert strip.width < 110 + 64 + 5 * 7
    assert "frames 1 to 4 of 6, 48x32 shown at 32x22" in html
    whole = np.stack([*made.frames()])
    assert made.manifest["preservation"]["changed_share"] == pytest.approx(
        (np.abs(whole.astype(int) - CLIP).max(3) > 2).mean(), abs=1e-6
    )


def test_a_clip_that_is_hard_to_pack_is_shown_coarser():
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    fine = previews.preview_data_url([iter(noise)], (64, 64), 8)
    coarse = previews.preview_data_url([iter(noise)], (64, 64), 8, len(fine) // 4)
    assert len(coarse) < len(fine) // 2


def test_one_frame_is_a_picture_and_no_clip(tiny_wan):
    made = holdfast.edit(CLIP[:1], **TEXTS, **QUICK, backbone=tiny_wan, rate=8)
    html = made._repr_html_()
    assert "<img" in html
    assert "<video" not in html


def test_the_interface_is_there_without_torch():
    import subprocess

    code = "import sys, holdfast; holdfast.edit.__doc__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.filterwarnings("ignore:.*differs nearly everywhere")
def test_first_and_key_frames_may_be_in_memory(tmp_path):
    backbone, shown = tiny.stable_video(), np.stack([255 - frame for frame in CLIP[:5]])
    settings = {"steps": 2, "tuning_steps": 0}
    asked = {"method": "i2vedit", "backbone": backbone, "settings": settings, "rate": 8}
    for name, frame in (("a", shown[0]), ("b", shown[3])):
        Image.fromarray(frame).save(tmp_path / f"{name}.png")
    key = f"3={tmp_path}/b.png"
    made = holdfast.edit(CLIP[:5], **asked, first_frame=tmp_path / "a.png", keyframes=(key,))
    for first, key in (
        (shown[0], Image.fromarray(shown[3])),
        (torch.from_numpy(shown[0]).permute(2, 0, 1), tmp_path / "b.png"),
    ):
        again = holdfast.edit(CLIP[:5], **asked, first_frame=first, keyframes={3: key})
        assert torch.equal(again.z, made.z)


@pytest.mark.filterwarnings("ignore:this clip is unlike")
@pytest.mark.parametrize("mask", [None, MASK])
def test_by_path_from_memory_and_on_the_command_line_it_is_the_same_edit(
    mask, tmp_path, shapeworld
):
    path, stencil = tmp_path / "clip.mkv", tmp_path / "mask.mkv"
    video.write_frames(path, CLIP, 8, "ffv1")
    asked = TEXTS | {"backbone": "shapeworld-wan", "seed": 5, "settings": {"steps": 2}}
    flags = [x for name, text in TEXTS.items() for x in (f"--{name.replace('_', '-')}", text)]
    flags += ["--backbone", "shapeworld-wan", "--seed", "5", "--set", "steps=2", "--codec", "ffv1"]
    if mask is not None:
        video.write_frames(
            stencil, [np.repeat(m[..., None], 3, 2) * np.uint8(255) for m in mask], 8, "ffv1"
        )
        flags += ["--mask", str(stencil)]
    done = CliRunner().invoke(app, ["edit", str(path), "-o", str(tmp_path / "out.mkv"), *flags])
    assert done.exit_code == 0, done.stderr
    typed = np.stack(list(video.read(video.probe(tmp_path / "out.mkv"))))
    asked["backbone"] = shapeworld
    by_path = holdfast.edit(path, **asked, mask=None if mask is None else stencil)
    from_memory = holdfast.edit(CLIP, **asked, mask=mask, rate=8)
    assert torch.equal(by_path.z, from_memory.z)
    assert np.array_equal(by_path.array(), typed)
    assert np.array_equal(from_memory.array(), typed)
    assert not np.array_equal(typed, CLIP)


def test_python_users_get_the_errors_they_expect(tiny_wan, tmp_path):
    named = TEXTS | {"backbone": tiny_wan}
    with pytest.raises(FileNotFoundError, match="absent"):
        holdfast.edit("absent.mp4", **named)
    with pytest.raises(TypeError, match="no argument 'stength': did you mean strength"):
        holdfast.edit(CLIP, **named, rate=8, stength=0.5)
    assert issubclass(holdfast.UserError, ValueError)


def test_errors_name_arguments_instead_of_flags(tiny_wan):
    with pytest.raises(holdfast.UserError, match="keyframes=") as error:
        holdfast.edit(CLIP, **TEXTS, backbone=tiny_wan, rate=8, keyframes=("x",))
    assert "--" not in str(error.value)


def test_notices_and_late_errors_name_arguments_instead_of_flags(tiny_wan, monkeypatch):
    asked = TEXTS | QUICK | {"backbone": tiny_wan, "rate": 8}
    with pytest.warns(Notice, match="image_model= has no effect"):
        holdfast.edit(CLIP, **asked, image_model="shapeworld-t2i")
    events = holdfast.edit_events(CLIP, **asked)

    def fail(*_, **__):
        raise holdfast.UserError("values are not finite", "try --dtype float32")

    monkeypatch.setattr(tiny_wan, "encode", fail)
    with pytest.raises(holdfast.UserError, match="try dtype= float32"):
        list(events)


def test_names_of_the_last_release_are_read_with_a_notice(tiny_wan):
    old = {"source": "a plain red ball", "target": "a plain blue ball"}
    with pytest.warns(Notice) as notices:
        made = holdfast.edit(CLIP, **old, **QUICK, backbone=tiny_wan, rate=8)
    assert any("source is now called source_prompt" in str(one.message) for one in notices)
    assert made.task.source_prompt == "a plain red ball"
    with pytest.warns(Notice, match="events is now called edit_events"):
        assert holdfast.events is holdfast.edit_events


def test_the_typed_options_are_the_fields_of_a_task():
    """What a type checker and an IDE know of `edit` is what it takes."""
    others = set(list_settings(EditTask)) - {"input", "source_prompt", "target_prompt"}
    assert set(EditOptions.__annotations__) == others | {"resume", "rate", "progress"}
    for name, setting in list_settings(EditTask).items():
        if setting.choices:
            assert plain_type(setting) == get_type_hints(EditOptions)[name]
