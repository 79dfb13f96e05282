"""Whole edits over real files, on a tiny random model: what is kept, what the manifest says, stopping and going on."""

import dataclasses
import gc
import itertools
import json
import threading
import weakref
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import holdfast
from holdfast import methods
from holdfast.base import memory
from holdfast.base.errors import OutOfMemoryError
from holdfast.base.files import load_tensors, save_tensors
from holdfast.base.notices import Notice
from holdfast.media import masks, video, writing
from holdfast.methods.base import MethodInfo
from holdfast.models import registry
from holdfast.models.wan.spec import CAPABILITIES
from holdfast.pipeline import in_memory, loop, planning, run
from holdfast.pipeline.events import NoticeIssued, Progress
from holdfast.pipeline.progress import BackgroundSaver, SavedProgress, saved_progress
from holdfast.pipeline.task import EditTask
from holdfast.sampling.field import Step

from .. import tiny
from ..conftest import audio_packets
from ..media.test_video import described

QUICK = {"steps": "2", "strength": "1"}


@pytest.fixture
def task(make_clip, tmp_path):
    def make(clip=None, **fields):
        clip = clip or make_clip()
        texts = {"source_prompt": "a plain red ball", "target_prompt": "a plain blue ball"}
        return EditTask(
            **{
                "input": str(clip),
                "output": str(tmp_path / "out.mp4"),
                "settings": QUICK,
                **texts,
                **fields,
            }
        )

    return make


def half_mask(tmp_path, width=48, height=32):
    from PIL import Image

    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return str(tmp_path / "mask.png")


CLIPS = {
    "odd": {"size": (51, 37), "pixels": "yuv444p"},
    "portrait": {"rotation": 90},
    "variable": {"times": [0, 40, 120, 133, 300, 1000]},
    "29.97": {"rate": Fraction(30000, 1001)},
    "10-bit": {"pixels": "yuv420p10le"},
    "two tracks": {"audio": 2, "frames": 10},
    "one frame": {"frames": 1},
    "tagged": {"colour": {"color_range": 2, "colorspace": 1, "color_primaries": 1, "color_trc": 1}},
}


@pytest.mark.parametrize("case", CLIPS)
def test_the_same_clip_comes_back(case, task, make_clip, tiny_wan):
    source = make_clip(**CLIPS[case])
    result = run.edit(task(source), tiny_wan)
    path = result.save()
    before, after = described(source), described(path)
    if case == "variable":
        before["rate"] = after["rate"]
    assert after == before
    assert audio_packets(path) == audio_packets(source)
    manifest = json.loads(Path(f"{path}.json").read_text())
    assert manifest["frames"] == len(before["times"])
    assert manifest["size"] == list(result.clip.size)
    assert manifest["audio_tracks"] == len(before["audio"])


def test_an_edit_reports_its_own_peak_of_memory_and_not_an_earlier_one(task, tiny_wan):
    np.ones(2**29 + 2**28, np.uint8)  # 768 MB that are given back before it begins
    before = memory._ram_mark() / 2**20
    result = run.edit(task(), tiny_wan)
    np.ones(2**29 + 2**28, np.uint8)  # and between the edit and its file
    result.save()
    manifest = json.loads(Path(f"{result.task.output}.json").read_text())
    assert 50 < manifest["peak_memory_mb"] < before - 300


def test_the_manifest_says_what_was_done(task, tiny_wan, tmp_path):
    made = task(seed=3, mask=half_mask(tmp_path))
    run.edit(made, tiny_wan).save()
    manifest = json.loads((tmp_path / "out.mp4.json").read_text())
    assert EditTask.from_dict(manifest["task"]) == made
    assert manifest["output"] == made.output
    assert (manifest["method"], manifest["backbone"], manifest["seed"], manifest["rate"]) == (
        "flowedit",
        "tiny",
        3,
        "8",
    )
    assert manifest["evaluations"] == 2 * 4
    assert manifest["settings"]["steps"] == {"value": 2, "from": "given"}
    assert manifest["settings"]["n_avg"]["from"] == "the method's default"
    schedule = {"value": "native", "from": "the method's default", "is": "wan"}
    assert manifest["settings"]["schedule"] == schedule
    assert "6 frames padded to 9" in manifest["plan"]["fit"]["reason"]
    stages = {"read", "load", "condition", "encode", "edit", "judge", "decode and write", "check"}
    assert set(manifest["seconds"]) == stages
    assert manifest["notes"] == []
    assert manifest["peak_memory_mb"] > 50
    assert manifest["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert manifest["device"] == {"type": "cpu", "dtype": "float32"}
    assert manifest["codec"] == "h264"
    assert all(choice["reason"] for choice in manifest["plan"].values())
    kept = manifest["preservation"]
    assert (kept["psnr_outside"], kept["max_abs_outside"]) == ("inf", 0.0)
    assert 0.2 < kept["changed_share"] <= 0.5
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "clip.mp4",
        "mask.png",
        "out.mp4",
        "out.mp4.json",
    ]


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("feather", [0, 5])
def test_pixels_outside_a_mask_are_the_sources_bit_for_bit(
    pixels, feather, task, make_clip, tiny_wan, tmp_path
):
    source = make_clip(pixels=pixels)
    result = run.edit(task(source, mask=half_mask(tmp_path), feather=feather), tiny_wan)
    edge = 24 + feather
    for before, after in zip(video.read(result.clip), result.frames(), strict=True):
        assert np.array_equal(before[:, edge:], after[:, edge:])
        assert not np.array_equal(before[:, :24], after[:, :24])
    assert result.preservation["psnr_outside"] == float("inf")


def test_equal_prompts_return_the_source_and_warn(task, tiny_wan):
    with pytest.warns(UserWarning, match="prompts are equal"):
        result = run.edit(task(target_prompt="a  plain red ball "), tiny_wan)
    assert all(
        np.array_equal(a, b) for a, b in zip(video.read(result.clip), result.frames(), strict=True)
    )
    assert result.manifest["evaluations"] == 0
    result.save()
    assert result.preservation == {
        "psnr": float("inf"),
        "psnr_outside": None,
        "max_abs_outside": None,
        "changed_share": 0.0,
    }


def test_a_part_is_edited_and_the_rest_left(task, make_clip, tiny_wan):
    result = run.edit(task(make_clip(frames=9), frames="3:6"), tiny_wan)
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(video.read(result.clip), result.frames(), strict=True)
    ]
    assert changed == [False] * 3 + [True] * 3 + [False] * 3
    assert (result.plan.fit.frames, result.plan.fit.model_frames) == (3, 5)
    assert result.preservation["max_abs_outside"] == 0


def test_the_seed_and_nothing_else_decides(task, make_clip, tiny_wan):
    clip = make_clip()
    first, again, other = (list(run.edit(task(clip, seed=s), tiny_wan).frames()) for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_stopped_saved_and_resumed(task, tiny_wan, monkeypatch):
    """Ctrl-C within an evaluation of the third step: two steps are kept, and the resumed result is the undisturbed
    one.
    """
    made = task(settings={"steps": "4", "strength": "1"})
    whole = run.edit(made, tiny_wan)
    whole.writer.progress.remove()
    real, calls = tiny_wan.velocity, []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(tiny_wan, "velocity", interrupted)
    with pytest.raises(run.EditCancelled, match="after step 2 of 4"):
        run.edit(made, tiny_wan)
    assert not Path(made.output).exists()
    resumed = run.edit(made, tiny_wan, resume=True)
    assert torch.equal(resumed.z, whole.z)
    assert resumed.manifest["evaluations"] == 8
    with pytest.raises(ValueError, match="another task"):
        run.edit(task(seed=9), tiny_wan, resume=True)


def test_memory_that_runs_out_saves_progress_that_resumes_with_less_memory(
    task, tiny_wan, monkeypatch
):
    made = task(settings={"steps": "4", "strength": "1"})
    whole = run.edit(made, tiny_wan)
    whole.writer.progress.remove()
    real, calls = tiny_wan.velocity, []

    def exhausted(*args, **options):
        calls.append(1)
        if len(calls) == 10:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(*args, **options)

    monkeypatch.setattr(tiny_wan, "velocity", exhausted)
    with pytest.raises(OutOfMemoryError, match="out of memory: use fewer --frames"):
        run.edit(made, tiny_wan)
    resumed = run.edit(dataclasses.replace(made, memory="6GB"), tiny_wan, resume=True)
    assert torch.equal(resumed.z, whole.z)
    assert resumed.manifest["evaluations"] == 8


@pytest.mark.filterwarnings("ignore:without a mask the target's attention")
@pytest.mark.filterwarnings("ignore:no image model over the latents")
@pytest.mark.parametrize("method", methods.list_compatible(CAPABILITIES))
def test_stopped_before_the_first_step_nothing_is_saved_and_a_resume_starts_over(
    method, task, tiny_wan, monkeypatch
):
    """With strength below 1 the walk begins in the middle of the levels: a resume must not begin anywhere else."""
    made = task(method=method, settings={"steps": "4", "strength": "0.5"})
    whole = run.edit(made, tiny_wan)
    whole.writer.progress.remove()
    monkeypatch.setattr(
        tiny_wan, "velocity", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(run.EditCancelled, match="before a step was done"):
        run.edit(made, tiny_wan)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="there is no saved progress"):
        assert torch.equal(run.edit(made, tiny_wan, resume=True).z, whole.z)
    assert torch.equal(run.edit(made, tiny_wan, resume=True).z, whole.z)


def test_a_walk_of_no_steps_gives_the_source_and_saves_nothing(task, tiny_wan):
    made = task(strength=0.0)
    with pytest.warns(UserWarning, match="no step to do with these settings: the result is the so"):
        first = run.edit(made, tiny_wan)
    assert first.writer.progress.load() is None
    assert first.manifest["evaluations"] == 0
    own = list(video.read(first.clip))
    assert all(np.array_equal(a, b) for a, b in zip(own, first.frames(), strict=True))
    with pytest.warns(UserWarning, match="there is no saved progress|no step to do"):
        again = run.edit(made, tiny_wan, resume=True)
    assert again.preservation["psnr"] == float("inf")


def test_the_folder_of_a_result_is_made(task, tiny_wan, tmp_path):
    assert (
        run.edit(task(output=str(tmp_path / "new" / "folder" / "out.mp4")), tiny_wan)
        .save()
        .exists()
    )


def test_a_folder_is_replaced_only_by_a_result_of_ours(task, make_clip, tiny_wan, tmp_path):
    clip, photos = make_clip(), tmp_path / "photos"
    photos.mkdir()
    video.write(
        photos / "mine.png",
        video.probe(make_clip("one.mp4", frames=1)),
        [np.zeros((32, 48, 3), np.uint8)],
    )
    with pytest.raises(ValueError, match="holds other files"):
        run.edit(task(clip, output=str(photos)), tiny_wan)
    for _ in range(2):
        run.edit(task(clip, output=str(tmp_path / "frames")), tiny_wan).save()
    result = run.edit(task(clip), tiny_wan)
    with pytest.raises(ValueError, match="would overwrite"):
        result.save(clip)


def test_latents_survive_a_failure_while_writing(task, tiny_wan, monkeypatch):
    made = task()
    result = run.edit(made, tiny_wan)
    monkeypatch.setattr(
        writing,
        "write_video",
        lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")),
    )
    with pytest.raises(OSError, match="No space left"):
        result.save()
    assert not Path(made.output).exists()
    monkeypatch.undo()
    resumed = run.edit(made, tiny_wan, resume=True)
    assert resumed.manifest["evaluations"] == 0
    assert torch.equal(resumed.z, result.z)


def test_progress_is_told_for_every_stage(task, tiny_wan):
    seen = []
    result = run.edit(task(), tiny_wan, on_progress=lambda *a: seen.append(a))
    result.save(on_progress=lambda *a: seen.append(a))
    assert seen[:4] == [("read", 1, 1), ("load", 1, 1), ("condition", 1, 1), ("encode", 9, 9)]
    assert seen[4:6] == [("edit", 1, 2), ("edit", 2, 2)]
    assert seen[6] == ("judge", 1, 1)
    assert seen[7:13] == [("decode and write", i, 6) for i in range(1, 7)]
    assert seen[13:] == [("check", i, 6) for i in range(1, 7)]


def test_an_edit_is_a_generator_of_events(task, tiny_wan):
    """Stages, steps with a latent to preview, notes; the result comes last, and has the notes in its manifest."""
    kinds = list(run.edit_events(task(feather=2), tiny_wan))
    notes = [event.text for event in kinds if isinstance(event, NoticeIssued)]
    assert len(notes) == 1
    assert "without a mask" in notes[0]
    steps = [event for event in kinds if isinstance(event, Step)]
    assert [(s.stage, s.index, s.count) for s in steps] == [("edit", 1, 2), ("edit", 2, 2)]
    assert all(s.z.shape == steps[0].z.shape for s in steps)
    stages = [event.stage for event in kinds if isinstance(event, Progress)]
    assert stages == ["read", "load", "condition", "encode", "judge"]
    assert kinds[-1].manifest["notes"] == notes
    assert torch.equal(kinds[-1].z, steps[-1].z)


def test_a_stopped_edit_waits_for_the_save_in_the_background_and_saves_its_last_step(
    task, tiny_wan, monkeypatch
):
    monkeypatch.setattr(run, "SAVE_SECONDS", -1.0)
    real, running, saved = SavedProgress.save, [], []

    def save(progress, step):
        assert not running  # one at a time
        running.append(step)
        real(progress, step)
        running.clear()
        saved.append((step.index, threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr(SavedProgress, "save", save)
    made = task(settings={"steps": "4", "strength": "1"})
    events = run.edit_events(made, tiny_wan)
    next(event for event in events if isinstance(event, Step) and event.index == 3)
    events.close()
    assert not running
    assert saved[0] == (1, False)
    assert saved[-1] == (3, True)
    assert saved_progress(made).load()[0].index == 3
    assert not [t for t in threading.enumerate() if t.name.startswith("save")]


def test_closing_the_events_cancels_the_edit_and_keeps_what_was_done(task, tiny_wan):
    made = task(settings={"steps": "4", "strength": "1"})
    whole = run.edit(made, tiny_wan)
    whole.writer.progress.remove()
    running = run.edit_events(made, tiny_wan)
    for event in running:
        if isinstance(event, Step) and event.index == 3:
            break
    running.close()
    assert whole.writer.progress.load()[0].index == 3
    resumed = run.edit(made, tiny_wan, resume=True)
    assert torch.equal(resumed.z, whole.z)
    assert resumed.manifest["evaluations"] == 4


def test_a_running_edit_is_saved_now_and_then(task, tiny_wan, monkeypatch):
    """A killed worker loses what was done since the last save, and no more."""
    monkeypatch.setattr(run, "SAVE_SECONDS", -1.0)
    start = BackgroundSaver.start
    monkeypatch.setattr(
        BackgroundSaver, "start", lambda saver, *step: (start(saver, *step), saver.wait())
    )
    made = task(settings={"steps": "3", "strength": "1"})
    running = run.edit_events(made, tiny_wan)
    next(event for event in running if isinstance(event, Step) and event.index == 2)
    saved = Path(made.output + ".latents.safetensors")
    assert saved.exists()  # while it runs: nobody had to close it
    running.close()


@pytest.mark.filterwarnings("ignore:the mask is a guess")
def test_a_resumed_run_that_is_stopped_at_once_keeps_its_mask(task, tiny_wan, monkeypatch):
    from holdfast.models.attention import maps

    cells = torch.zeros(3, 4, 6, dtype=torch.bool)
    cells[..., :3] = True
    monkeypatch.setattr(maps, "find_auto_mask", lambda *_: cells)
    made = task(
        mask="auto",
        source_prompt="a red ball",
        target_prompt="a blue ball",
        settings={"steps": 3, "strength": 1},
    )
    running = run.edit_events(made, tiny_wan)
    next(event for event in running if isinstance(event, Step))
    running.close()
    again = run.edit_events(made, tiny_wan, resume=True)
    next(event for event in again if isinstance(event, Progress) and event.stage == "condition")
    again.close()
    monkeypatch.setattr(maps, "find_auto_mask", None)
    assert run.edit(made, tiny_wan, resume=True).mask is not None


def test_equal_prompts_do_not_touch_what_an_earlier_run_saved(task, tiny_wan):
    made = task(target_prompt="a plain red ball")
    path = Path(made.output + ".latents.safetensors")
    path.write_bytes(b"of another task")
    with pytest.warns(UserWarning, match="prompts are equal"):
        assert run.edit(made, tiny_wan, resume=True).z is None
    assert path.read_bytes() == b"of another task"


def test_an_automatic_mask_is_refused_before_anything_is_loaded(task, make_clip, tiny_wan):
    clip = make_clip()
    with pytest.raises(ValueError, match="mask is empty: use a file, a box x,y,w,h or auto"):
        task(clip, mask=" ")
    bare = type("Bare", (), {"name": "bare", "clip_format": tiny_wan.clip_format})()
    bare.recommended = {}
    bare.capabilities = frozenset({"text"})
    with pytest.raises(ValueError, match="which bare does not have: give --mask a file or a box"):
        planning.make_plan(task(clip, mask="auto"), bare, 6, (32, 48))


def test_a_grid_of_levels_that_a_model_has_not_is_refused_before_it_is_loaded(task, make_clip):
    has = {"shapeworld-wan": "wan", "shapeworld-sd": "ddim", "shapeworld-svd": "karras"}
    for name, own in has.items():
        about = registry.describe_backbone(name)
        assert {"native", own} <= set(about.clip_format.schedules)
        made = task(make_clip(), backbone=name, settings={"schedule": own})
        if "text" not in about.capabilities:
            shown = {"first_frame": "none.png", "source_prompt": "", "target_prompt": ""}
            made = dataclasses.replace(made, method="sdedit", **shown)
        planning.make_plan(made, about, 5, (32, 48))
        other = "ddim" if own != "ddim" else "karras"
        wrong = dataclasses.replace(made, settings={"schedule": other})
        with pytest.raises(ValueError, match=f"{name} has no noise schedule '{other}': use native"):
            planning.make_plan(wrong, about, 5, (32, 48))


def test_a_second_file_of_the_same_result_has_a_manifest_of_its_own(
    task, make_clip, tiny_wan, tmp_path
):
    result = run.edit(task(make_clip(audio=1)), tiny_wan)
    with pytest.warns(UserWarning, match="cannot hold"):
        result.save(tmp_path / "a.gif")
    result.save(tmp_path / "b.mp4")
    told = json.loads((tmp_path / "b.mp4.json").read_text())
    assert (told["audio_tracks"], told["notes"], told["codec"]) == (1, [], "h264")


def test_every_warning_of_a_run_is_in_the_manifest(task, tiny_wan, tmp_path):
    made = task(
        method="flowdirector",
        source_prompt="a red ball",
        target_prompt="a ball",
        settings={"steps": 1, "n_avg": 1},
    )
    with pytest.warns(Notice) as shown:
        result = run.edit(made, tiny_wan)
    assert [str(w.message) for w in shown] == result.manifest["notes"]
    assert any("only leaves out 'red'" in note for note in result.manifest["notes"])


def test_another_librarys_warnings_are_not_notes_and_pass(task, tiny_wan, monkeypatch):
    import warnings

    real = tiny_wan.velocity

    def warning(*args, **options):
        warnings.warn("of theirs", RuntimeWarning, stacklevel=1)
        return real(*args, **options)

    monkeypatch.setattr(tiny_wan, "velocity", warning)
    with pytest.raises(RuntimeWarning, match="of theirs"):  # an error in tests, where warnings are
        run.edit(task(), tiny_wan)
    with pytest.warns(RuntimeWarning, match="of theirs"):
        result = run.edit(task(), tiny_wan)
    assert result.manifest["notes"] == []


def test_what_could_only_fail_later_is_refused_at_once(task, make_clip, tiny_wan, tmp_path):
    clip = make_clip(audio=1)
    with pytest.raises(ValueError, match="output would overwrite"):
        run.edit(task(clip, output=str(clip)), tiny_wan)
    with pytest.raises(ValueError, match="holds other files"):
        run.edit(task(clip, output=str(tmp_path)), tiny_wan)
    for name, words in {
        "a.xyz": "has an unsupported suffix",
        "a.png": "holds one frame",
        "a.webm": r"audio \(aac\)",
    }.items():
        with pytest.raises(ValueError, match=words):
            run.edit(task(clip, output=str(tmp_path / name)), tiny_wan)
    with pytest.raises(ValueError, match="crf is 60"):
        run.edit(task(clip, crf=60), tiny_wan)
    with pytest.raises(ValueError, match=r"did you mean flowedit"):
        run.edit(task(clip, method="flowedits"), tiny_wan)
    with pytest.raises(
        ValueError,
        match=r"flowedit does not run on tiny, which has no depth: models for flowedit: none; "
        r"methods for tiny: .*flowedit, ",
    ):
        planning.check_capabilities(
            MethodInfo(requires=frozenset({"text", "depth"})), tiny_wan, "flowedit"
        )
    with pytest.raises(
        ValueError, match=r"models for spacetime: modelscope, zeroscope, shape.*-t2v;"
    ):
        planning.check_capabilities(methods.load("spacetime").METHOD, tiny_wan, "spacetime")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"feather": 3}, "without a mask"),
        ({"outline": "hull"}, "without a mask"),
        ({"codec": "lossless", "crf": 3}, "crf has no effect"),
        ({"words": ("star",), "target_prompt": "a star"}, "words have no effect on flowedit"),
        (
            {
                "method": "flowanchor",
                "source_prompt": "a red ball",
                "target_prompt": "a ball",
                "mask": "0,0,9,9",
            },
            "only leaves out 'red'",
        ),
        ({"method": "flowanchor"}, "without a mask"),
    ],
)
def test_an_option_without_effect_warns(fields, words, task, tiny_wan):
    with pytest.warns(UserWarning, match=words):
        run.edit(task(**fields), tiny_wan)


def test_audio_that_the_result_cannot_hold_is_said(task, make_clip, tiny_wan, tmp_path):
    with pytest.warns(UserWarning, match="cannot hold the source's audio"):  # before the work
        result = run.edit(task(make_clip(audio=1), output=str(tmp_path / "out.gif")), tiny_wan)
    result.save()
    assert result.manifest["audio_tracks"] == 0


def test_python_interface(make_clip, tiny_wan, tmp_path):
    clip = make_clip()
    for _ in range(2):  # the function must outlive the import of what it uses
        result = holdfast.edit(
            clip,
            source_prompt="a ball",
            target_prompt="a star",
            backbone=tiny_wan,
            method="FlowEdit",
            settings={"steps": 2},
            feather=0,
        )
        assert callable(holdfast.edit)
    assert result.preservation["changed_share"] > 0
    assert result.save(tmp_path / "a.mkv").exists()
    with pytest.raises(ValueError, match="the edit has no output"):
        holdfast.edit(clip, "a ball", "a star", backbone=tiny_wan, settings={"steps": 2}).save()


def test_importing_the_package_does_not_import_torch():
    import subprocess
    import sys

    code = "import sys, holdfast, holdfast.cli.app; holdfast.methods.names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_long_clip_goes_in_windows_and_the_manifest_says_why(task, make_clip, tiny_wan, tmp_path):
    clip = make_clip(
        "long.mp4", frames=30, size=(32, 32)
    )  # the tiny model was trained on 13 frames, 4 latent ones
    made = run.edit(task(clip), tiny_wan)
    windows = made.manifest["plan"]["windows"]
    assert windows["count"] == len(windows["spans"]) == 3
    assert "9 latent frames are more than the 4 that the model was trained on" in windows["reason"]
    assert len(list(made.frames())) == 30
    whole = run.edit(task(clip, window=0), tiny_wan)
    assert whole.manifest["plan"]["windows"]["count"] == 1
    assert whole.manifest["evaluations"] * 3 == made.manifest["evaluations"]
    with pytest.raises(ValueError, match=r"a window of 1 frames is shorter .* 5 frames or more"):
        run.edit(task(clip, window=1), tiny_wan)


def test_a_window_that_holds_the_clip_changes_nothing(task, make_clip, tiny_wan):
    clip = make_clip("one.mp4")
    plain, wide = run.edit(task(clip), tiny_wan), run.edit(task(clip, window=13), tiny_wan)
    assert torch.equal(plain.z, wide.z)


def test_a_box_for_a_mask_holds_the_outside_exactly(task, tiny_wan):
    made = run.edit(task(mask="0,0,24,32"), tiny_wan)
    assert made.preservation["max_abs_outside"] == 0
    assert made.preservation["psnr_outside"] == float("inf")


@pytest.mark.filterwarnings("ignore:the mask auto")
@pytest.mark.filterwarnings("ignore:the mask is a guess")
def test_the_automatic_mask_is_made_once_and_goes_on_with_a_resumed_run(
    task, tiny_wan, monkeypatch
):
    from holdfast.models.attention import maps

    made = task(
        mask="auto",
        source_prompt="a red ball",
        target_prompt="a blue ball",
        settings={"steps": "3", "strength": "1"},
    )
    cells = torch.zeros(3, 8, 12, dtype=torch.bool)
    cells[..., :4] = True
    looks = []

    def automatic(field, latent, source, target, seed):
        looks.append(latent.shape)
        return cells[:, : latent.shape[3], : latent.shape[4]]

    monkeypatch.setattr(maps, "find_auto_mask", automatic)
    whole = run.edit(made, tiny_wan)
    assert "mask" in whole.writer.timer.seconds
    inside = np.mean([f.mean() for f in whole.mask.frames()])
    assert 0 < inside < 1
    assert whole.preservation["max_abs_outside"] == 0
    whole.writer.progress.remove()
    running = run.edit_events(made, tiny_wan)
    next(event for event in running if isinstance(event, Step))
    running.close()
    monkeypatch.setattr(maps, "find_auto_mask", None)  # a resumed run has no need to look again
    resumed = run.edit(made, tiny_wan, resume=True)
    assert torch.equal(resumed.z, whole.z)
    frames = zip(resumed.mask.frames(), whole.mask.frames(), strict=True)
    assert all(np.array_equal(a, b) for a, b in frames)
    assert len(looks) == 2


@pytest.mark.filterwarnings("ignore:the mask auto")
def test_the_automatic_mask_looks_at_the_backbones_attention_and_is_called_a_guess(task, tiny_wan):
    told = task(mask="auto", source_prompt="a red ball", target_prompt="a blue ball")
    with pytest.warns(UserWarning, match="the mask is a guess") as notes:
        made = run.edit(told, tiny_wan)
    inside = np.mean([f.mean() for f in made.mask.frames()])
    assert 0 < inside < 1
    picture = told.output + ".mask.png"
    assert any(picture in str(note.message) for note in notes)
    with Image.open(picture) as shown:
        assert shown.width > made.clip.size[0]


def test_an_automatic_mask_fades_out_over_half_a_cell_unless_a_width_is_given(task, tiny_wan):
    """A cell is 8 pixels of the model's picture, and the clip is larger than that here."""
    asked = task(mask="auto", source_prompt="a red ball", target_prompt="a blue ball")
    chosen = planning.make_plan(asked, tiny_wan, 6, (64, 96))
    assert chosen.fit.model_size[0] < 64
    side = masks.cell_size(tiny_wan.clip_format, chosen.fit)
    assert side == 8 * max(64 / chosen.fit.model_size[0], 96 / chosen.fit.model_size[1])
    cells = torch.zeros(3, *(n // 8 for n in chosen.fit.model_size), dtype=torch.bool)
    cells[..., :1] = True
    shape = loop.mask_from_cells(chosen, tiny_wan.clip_format, cells).shape
    assert (shape.grow, shape.feather) == (0, round(side / 2))
    given = dataclasses.replace(chosen, task=dataclasses.replace(asked, feather=0))
    assert loop.mask_from_cells(given, tiny_wan.clip_format, cells).shape.feather == 0


def test_words_that_are_not_in_the_target_are_refused_with_those_that_are(task, tiny_wan):
    with pytest.raises(
        ValueError, match="'cube' is not in the target prompt: choose from its words: a, blue, ball"
    ):
        run.edit(
            task(source_prompt="a red ball", target_prompt="a blue ball", words=("cube",)), tiny_wan
        )


def test_the_manifest_says_which_words_drive(task, tiny_wan):
    made = run.edit(task(source_prompt="a red ball", target_prompt="a blue ball"), tiny_wan)
    assert made.manifest["plan"]["words"] == {
        "source": "red",
        "target": "blue",
        "reason": "where the two prompts differ",
        "areas": [],  # one mask, or none
    }


def moved(make_clip, tmp_path, shade, **settings):
    """A task that carries an edited first frame through a clip, on a tiny model."""
    from PIL import Image

    Image.fromarray(np.full((32, 48, 3), shade, np.uint8)).save(tmp_path / f"{shade}.png")
    known = {"steps": 2, "tuning_steps": 3} | settings
    return EditTask(
        input=str(make_clip(frames=5, size=(48, 32))),
        output=str(tmp_path / "out.mkv"),
        method="i2vedit",
        first_frame=str(tmp_path / f"{shade}.png"),
        settings=known | ({"rank": 2} if known["tuning_steps"] else {}),
    )


@pytest.mark.filterwarnings("ignore:.*differs nearly everywhere")
def test_what_was_fitted_to_a_clip_is_used_again_for_another_frame(make_clip, tmp_path):
    """Once for the clip and its settings; as {module: (down, up)}; bit for bit what a run from nothing gives."""
    backbone = tiny.stable_video()
    tasks = [moved(make_clip, tmp_path, shade) for shade in (10, 200)]
    first = run.edit(tasks[0], backbone)
    file = tmp_path / "out.mkv.adapters.safetensors"
    tensors, _ = load_tensors(file)
    modules = {name.removesuffix(".down") for name in tensors if name.endswith(".down")}
    assert all(backbone.network.get_submodule(m).weight.dim() == 2 for m in modules)
    assert set(tensors) == {f"{m}.{part}" for m in modules for part in ("down", "up")}
    first.writer.progress.remove()
    with pytest.warns(UserWarning, match="learnt in an earlier run"):
        again = run.edit(tasks[1], backbone)
    assert first.manifest["evaluations"] - again.manifest["evaluations"] == 3
    again.writer.progress.remove()
    file.unlink()
    assert torch.equal(run.edit(tasks[1], backbone).z, again.z)
    other = moved(make_clip, tmp_path, 10, learning_rate=1e-3)
    assert run.edit(other, backbone).manifest["evaluations"] == first.manifest["evaluations"]


@pytest.mark.filterwarnings("ignore:.*differs nearly everywhere")
def test_every_clip_of_a_long_one_keeps_what_was_fitted_to_it(make_clip, tmp_path):
    """A run that was stopped in the second clip leaves the first one's; an earlier whole run leaves all."""
    backbone = tiny.stable_video()
    first, second = (
        dataclasses.replace(moved(make_clip, tmp_path, shade), window=3) for shade in (10, 200)
    )
    running = run.edit_events(first, backbone)
    next(e for e in running if isinstance(e, Step) and e.stage == "edit")
    running.close()
    file = tmp_path / "out.mkv.adapters.safetensors"
    assert {name.split(".")[0] for name in load_tensors(file)[0]} == {"0"}
    with pytest.warns(UserWarning, match="learnt in an earlier run"):
        whole = run.edit(first, backbone, resume=True)
    tensors, _ = load_tensors(file)
    assert {name.split(".")[0] for name in tensors} == {"0", "1"}
    whole.writer.progress.remove()
    with pytest.warns(UserWarning, match="learnt in an earlier run"):
        again = run.edit(second, backbone)
    again.writer.progress.remove()
    elsewhere = dataclasses.replace(second, output=str(tmp_path / "other.mkv"))
    fresh = run.edit(elsewhere, backbone)
    assert torch.equal(again.z, fresh.z)
    # three iterations for each of two segments, and the first one's source for those of the second
    assert fresh.manifest["evaluations"] - again.manifest["evaluations"] == 2 * 3 + 3
    third = dataclasses.replace(second, keyframes=("3=" + second.first_frame,))  # other clips
    assert third.adapters_key({}) != second.adapters_key({})


@pytest.mark.filterwarnings("ignore:.*differs nearly everywhere")
@pytest.mark.parametrize("how", ["cut off", "not finite"])
def test_damaged_adapters_count_as_none_and_are_found_before_anything_is_loaded(
    how, make_clip, tmp_path
):
    task, backbone = moved(make_clip, tmp_path, 10), tiny.stable_video()
    first = run.edit(task, backbone)
    first.writer.progress.remove()
    file = tmp_path / "out.mkv.adapters.safetensors"
    tensors, about = load_tensors(file)
    if how == "cut off":
        file.write_bytes(file.read_bytes()[:-10])
    else:
        broken = {name: value * torch.nan for name, value in tensors.items()}
        save_tensors(file, broken, about)
    events = run.edit_events(task, backbone)
    before = itertools.takewhile(lambda event: event != Progress("load", 1, 1), events)
    said = [event.text for event in before if isinstance(event, NoticeIssued)]
    assert any("is damaged: the clip's motion is learnt again" in text for text in said)
    (*_, again) = events
    assert torch.equal(again.z, first.z)
    assert load_tensors(file)[0].keys() == tensors.keys()  # whole again


@pytest.mark.filterwarnings("ignore:.*made the first frame")
def test_who_paints_the_first_frame_goes_again_and_a_resumed_run_has_the_same_one(
    make_clip, tmp_path, monkeypatch
):
    """The image model holds no memory while the clip is edited, and its frame is kept to the bit with the latents."""
    made, backbone = [], tiny.stable_video()

    def loaded(*_):
        painter = tiny.ADAPTERS["sd"]()
        made.append(weakref.ref(painter))
        return painter

    monkeypatch.setattr(in_memory, "load_helper", loaded)
    monkeypatch.setattr(backbone, "image_model", "shapeworld-sd")
    told = {"source_prompt": "a red ball", "target_prompt": "a blue ball", "first_frame": None}
    task = EditTask(**moved(make_clip, tmp_path, 10, tuning_steps=0).to_dict() | told)
    whole = run.edit(task, backbone).z
    running = run.edit_events(task, backbone)
    next(event for event in running if isinstance(event, Step))
    gc.collect()
    assert [painter() for painter in made] == [None, None]
    running.close()
    assert torch.equal(run.edit(task, backbone, resume=True).z, whole)
    assert len(made) == 2


@pytest.mark.parametrize("part", ["z", "state.last", "state.inverted1", "index"])
def test_tampered_latents_are_refused_with_one_sentence_before_anything_is_loaded(
    part, task, tiny_wan
):
    """Whatever is changed: a number, a shape, a tensor's name, or the step that they stand at."""
    made = task(method="uniedit", mask="0,0,9,9", settings={"steps": "4", "strength": "1"})
    running = run.edit_events(made, tiny_wan)
    next(event for event in running if isinstance(event, Step) and event.index == 2)
    running.close()
    file = Path(f"{made.output}.latents.safetensors")
    whole = file.read_bytes()
    tensors, about = load_tensors(file)
    rest = {name: value for name, value in tensors.items() if name != part}
    ways = [(rest, about)]
    if part == "index":
        ways = [(tensors, about | {part: "3"})]
    else:
        ways += [(rest | {part: tensors[part] * 1e30}, about)]
        ways += [(rest | {part: tensors[part][..., :1].contiguous()}, about)]
    for held, said in ways:
        save_file(held, file, said)
        with pytest.raises(
            ValueError, match=r"out\.mp4\.latents\.safetensors .*: delete it to start"
        ):
            next(run.edit_events(made, tiny_wan, resume=True))
    file.write_bytes(whole)
    assert run.edit(made, tiny_wan, resume=True).z is not None


@pytest.mark.filterwarnings("ignore:.*differs nearly everywhere")
def test_key_frames_are_read_placed_and_refused_with_the_cure(make_clip, tmp_path):
    base = moved(make_clip, tmp_path, 10, tuning_steps=0).to_dict()
    image = base["first_frame"]
    backbone = tiny.stable_video()
    made = run.edit(EditTask(**base | {"keyframes": (f"3={image}",)}), backbone)
    assert made.manifest["plan"]["windows"]["spans"] == ((0, 3), (3, 5))
    part = run.edit(EditTask(**base | {"keyframes": (f"3={image}",), "frames": "1:"}), backbone)
    assert part.manifest["plan"]["windows"]["spans"] == ((0, 2), (2, 4))
    for wrong, words in (
        ({"keyframes": ("frame",)}, "takes N=IMAGE"),
        ({"keyframes": (f"0={image}",)}, "is not within frames 1 to 4"),
        ({"keyframes": (f"5={image}",)}, "is not within frames 1 to 4"),
        ({"keyframes": ("2=none.png",)}, "there is no file none.png"),
        (
            {"keyframes": (f"2={image}",), "method": "flowedit", "settings": {}},
            "uses no edited frame but the first",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            run.edit(EditTask(**base | wrong), backbone)


def test_the_manifest_says_what_was_delivered_and_the_metrics_agree(task, tiny_wan, tmp_path):
    from holdfast.metrics.base import MetricModels
    from holdfast.metrics.compare import ClipPair, compare_files

    mask = half_mask(tmp_path)
    made = task(mask=mask)
    path = run.edit(made, tiny_wan).save()
    delivered = json.loads(Path(f"{path}.json").read_text())["delivered"]
    figures, _ = compare_files(
        ClipPair(made.input, str(path), mask), MetricModels(), ["masked_psnr"]
    )
    assert delivered["psnr_outside"] == pytest.approx(figures["psnr_outside@true"], abs=0.002)
    assert delivered["max_abs_outside"] == pytest.approx(figures["max_abs_outside"], abs=1e-5)
    assert 45 < delivered["luma_psnr_outside"] < 100
    assert delivered["samples_equal_outside"] is False
    exact = run.edit(task(mask=mask, codec="lossless"), tiny_wan)
    exact.save()
    assert exact.manifest["delivered"]["samples_equal_outside"] is True
    assert exact.manifest["delivered"]["luma_psnr_outside"] == 100
    everywhere = run.edit(task(), tiny_wan)
    everywhere.save()
    assert set(everywhere.manifest["delivered"].values()) == {None}


@pytest.mark.filterwarnings("ignore:the prompts are equal")
def test_groups_of_pictures_without_an_edited_frame_are_copied(task, make_clip, tiny_wan):
    options = {"g": "8", "keyint_min": "8", "sc_threshold": "0", "crf": "18"}
    source = make_clip(frames=24, options=options)
    result = run.edit(task(source, frames="9:11"), tiny_wan)
    result.save()
    assert result.manifest["copied"] == {
        "copied_frames": 16,
        "encoded_frames": [8, 16],
        "codec": "h264",
    }
    same = run.edit(task(source, target_prompt=task(source).source_prompt), tiny_wan)
    same.save()
    assert same.manifest["copied"]["copied_frames"] == 24
    assert same.manifest["delivered"]["samples_equal_outside"] is None  # all of it was to be edited
