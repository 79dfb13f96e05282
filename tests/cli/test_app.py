"""The command line as a user meets it: exit codes, one message each, JSON alone on standard output, stop and resume."""

import json
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import av
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.cli.listing import group_pairs
from holdfast.media import video
from tests import processes

PROMPTS = [
    "--source-prompt",
    "a plain red ball moves right over a lake",
    "--target-prompt",
    "a plain blue ball moves right over a lake",
]
QUICK = ["--backbone", "shapeworld-wan", "--set", "steps=2"]


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_edit_prints_one_json_object_and_writes_the_same_manifest(make_clip, tmp_path):
    result = call(
        "edit", make_clip(audio=1), "-o", tmp_path / "out.mp4", *PROMPTS, *QUICK, "--json"
    )
    assert result.exit_code == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert manifest == json.loads((tmp_path / "out.mp4.json").read_text())
    assert {
        "output",
        "task",
        "method",
        "backbone",
        "seed",
        "frames",
        "rate",
        "size",
        "audio_tracks",
        "plan",
    } <= set(manifest)
    assert {"seconds", "evaluations", "peak_memory_mb", "preservation"} <= set(manifest)
    assert manifest["plan"]["fit"]["reason"]


def test_edit_without_json_keeps_standard_output_empty(make_clip, tmp_path):
    result = call("edit", make_clip(), "-o", tmp_path / "out.mp4", *PROMPTS, *QUICK)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "wrote" in result.stderr
    assert "no mask, so the whole clip may change" in result.stderr


def test_warnings_are_notes(make_clip, tmp_path):
    prompts = ["--source-prompt", "a ball", "--target-prompt", "a ball"]
    result = call("edit", make_clip(), "-o", tmp_path / "out.mp4", *prompts, *QUICK, "--feather", 3)
    assert result.exit_code == 0
    assert "note: the prompts are equal: the result is the source" in result.stderr
    assert "no effect without a mask" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--backbone", "wan2.1-1.3b"], 3, "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
        (["--backbone", "wan2.1-1.3b", "--method", "tokenflow"], 2, "models for tokenflow: sd1.5,"),
        (["--backbone", "shapeworld"], 2, "did you mean shapeworld-"),
        (["--method", "flowedti"], 2, "did you mean flowedit"),
        (["--set", "stepz=3"], 2, "did you mean steps"),
        (["--set", "steps"], 2, "key=value"),
        (["--frames", "9:12"], 2, "outside the clip (6 frames, 0 to 5)"),
        (["--mask", "absent.png"], 2, "there is no file absent.png"),
        (["--mask", "absent.png=blue ball"], 2, "there is no file absent.png"),
        (["--mask", "0,0,9,9=blue", "--mask", "9,9,9,9"], 2, "the mask 9,9,9,9 has no words"),
        (["--every", "2", "--count", "3"], 2, "use --every or --count"),
        (["--explain", "why"], 2, "flowedit has nothing to explain"),
        (["--codec", "theora"], 2, "is not one of"),
        (["--weights", "/nowhere/at/all"], 2, "neither a folder nor a hub id"),
        (["--device", "tpu"], 2, "tpu"),
    ],
)
def test_bad_input_is_one_message_and_its_exit_code(arguments, code, words, make_clip, tmp_path):
    result = call("edit", make_clip(), "-o", tmp_path / "out.mp4", *PROMPTS, *QUICK, *arguments)
    assert result.exit_code == code
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.mp4").exists()


def test_files_that_are_no_videos(tmp_path):
    (tmp_path / "a.mp4").write_text("words")
    for name in ("a.mp4", "b.mp4"):
        result = call("edit", tmp_path / name, "-o", tmp_path / "out.mp4", *PROMPTS, *QUICK)
        assert result.exit_code == 2
        assert name in result.stderr


def test_memory_that_runs_out_says_what_would_fit(make_clip, tmp_path, monkeypatch):
    from holdfast.pipeline import run

    def greedy(*_, **__):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: not enough memory: you tried to allocate"
        )

    monkeypatch.setattr(run, "edit", greedy)
    result = call("edit", make_clip(), "-o", tmp_path / "out.mp4", *PROMPTS, *QUICK)
    assert result.exit_code == 4
    assert "--frames" in result.stderr


def test_other_failures_are_not_hidden(make_clip, tmp_path, monkeypatch):
    from holdfast.pipeline import run

    monkeypatch.setattr(run, "edit", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("edit", make_clip(), "-o", tmp_path / "out.mp4", *PROMPTS, *QUICK)


INTERRUPTED = """
import os, signal
from holdfast.cli import app as cli
from holdfast.models.wan.adapter import Wan

real, calls = Wan.velocity, []

def counted(*arguments, **options):
    calls.append(1)
    if len(calls) == 10:
        os.kill(os.getpid(), signal.SIGINT)
    return real(*arguments, **options)

Wan.velocity = counted
cli.main()
"""


def test_ctrl_c_saves_prints_the_resume_command_and_that_goes_on(make_clip, tmp_path):
    """A real process and a real SIGINT in the third step: the resumed result is, pixel for
    pixel, the undisturbed one.
    """
    source, stopped, whole = make_clip(frames=12), tmp_path / "stopped.mp4", tmp_path / "whole.mp4"
    arguments = [
        *PROMPTS,
        "--backbone",
        "shapeworld-wan",
        "--set",
        "steps=6",
        "--set",
        "strength=1",
        "--set",
        "source_guidance=3",
        "--codec",
        "lossless",
    ]
    assert call("edit", source, "-o", whole, *arguments).exit_code == 0
    process = processes.run("edit", source, "-o", stopped, *arguments, code=INTERRUPTED)
    assert process.code == 130, process.err
    assert "stopped after step 2 of 6" in process.err
    assert not stopped.exists()
    command = shlex.split(process.err.split("resume with: ")[1])
    resumed = processes.run(*command[1:])
    assert resumed.code == 0, resumed.err
    one, other = (np.stack(list(video.read(video.probe(p)))) for p in (stopped, whole))
    assert np.array_equal(one, other)
    assert json.loads(Path(f"{stopped}.json").read_text())["evaluations"] == 4 * 4
    assert not list(tmp_path.glob("*.safetensors"))


def test_names_with_brackets_are_printed_as_they_are(make_clip, tmp_path):
    result = call("edit", make_clip(), "-o", tmp_path / "shot[final].mp4", *PROMPTS, *QUICK)
    assert result.exit_code == 0
    assert "shot[final].mp4" in result.stderr.replace("\n", "")
    assert (
        "[/b].mp4" in call("edit", "a[/b].mp4", "-o", tmp_path / "out.mp4", *PROMPTS, *QUICK).stderr
    )


def test_demo_makes_clips_a_strip_and_a_table(tmp_path):
    result = call("demo", "-o", tmp_path / "demo", "--scene", 3)
    assert result.exit_code == 0, result.stderr
    made = {p.name for p in (tmp_path / "demo").iterdir()}
    clips = {"source.mp4", "edited.mp4", "edited.mp4.json", "side-by-side.mp4", "mask.mkv"}
    assert made == clips | {"strip.png"}
    for words in (
        "error against the true result",
        "change outside the edit",
        "seconds: edit",
        "peak memory",
    ):
        assert words in result.stdout
    truth = json.loads((tmp_path / "demo" / "edited.mp4.json").read_text())["truth"]
    assert {"psnr", "psnr_source", "psnr_inside", "psnr_outside", "success"} <= set(truth)
    for name in ("source", "edited", "side-by-side"):  # as every player takes it
        data = (tmp_path / "demo" / f"{name}.mp4").read_bytes()
        with av.open(str(tmp_path / "demo" / f"{name}.mp4")) as container:
            context = container.streams.video[0].codec_context
            found = (context.name, context.profile, context.pix_fmt)
        assert found == ("h264", "High", "yuv420p")
        assert data.index(b"moov") < data.index(
            b"mdat"
        )  # it begins to play before all of it is here


def test_demo_on_another_model(tmp_path):
    options = ("--backbone", "shapeworld-t2v", "--method", "sdedit")  # the fewest evaluations
    result = call("demo", "-o", tmp_path / "demo", *options)
    assert result.exit_code == 0, result.stderr
    manifest = json.loads((tmp_path / "demo" / "edited.mp4.json").read_text())
    assert manifest["backbone"] == "shapeworld-t2v"
    assert (
        manifest["task"]["source_prompt"].count(" and ") == 1
    )  # two actors, of which one is changed
    assert "psnr" in manifest["truth"]


def test_lists():
    methods = json.loads(call("list", "methods", "--json").stdout)
    assert {"flowedit", "wanedit", "sdedit"} <= set(methods)
    assert methods["flowedit"]["needs"] == []
    shown = call("list", "backbones").stdout
    assert "shapeworld-wan" in shown
    assert sd15_command() in shown
    assert call("list", "metods").exit_code == 2
    pairs = json.loads(call("list", "pairs", "--json").stdout)
    assert pairs["flowedit"]["modelscope"] == "yes"
    assert pairs["rfsolver"]["sd1.5"] == "no joint_attention"
    grouped = group_pairs({"a": {"x": "yes", "y": "no text", "z": "no text", "w": "no image"}})
    assert grouped == {"a": {"runs on": ["x"], "not on": "y, z: no text\nw: no image"}}
    printed = call("list", "pairs").stdout
    assert all(name in printed for name in ("runs on", "motiondirector", "wan2.1-1.3b"))
    assert len(printed.splitlines()) < 400  # a column for each backbone took a thousand
    settings = json.loads(call("list", "uniedit", "--json").stdout)
    assert settings["schedule"]["takes"] == "native, wan, euler, ddim or karras"


def sd15_command():
    """As it can be copied: in one line."""
    from holdfast.models import downloads
    from holdfast.models.stable_diffusion import spec

    return downloads.plan_download(spec.SPECS["sd1.5"]).command


def test_doctor_names_what_is_here_and_how_to_get_the_rest():
    found = json.loads(call("doctor", "--json").stdout)
    assert found["installed"]["torch"] == metadata.version("torch")
    assert found["weights"]["shapeworld-wan"].startswith("here: ")
    assert "hf download" in found["weights"]["wan2.1-14b"]
    assert set(found["codecs"].values()) == {"here"}
    shown = call("doctor").stdout
    assert "cores" in shown
    assert sd15_command() in shown


def test_every_field_of_the_task_is_a_flag():
    """A frozen list: a new flag is a decision, not an accident."""
    options = typer.main.get_command(app).commands["edit"].params
    flags = {flag for option in options for flag in (*option.opts, *option.secondary_opts)}
    flags = {flag for flag in flags if flag.startswith("--")}
    expected = (
        "source-prompt target-prompt negative method backbone weights mask invert-mask outline grow"
    )
    expected += (
        " feather words image-model first-frame keyframe frames window strength set seed device"
    )
    expected += " dtype codec crf output deinterlace background mask-channel allow-any-mask"
    expected += " quality memory compile raw every count explain control controlnet control-scale"
    assert flags == {f"--{n}" for n in expected.split()} | {
        "--no-invert-mask",
        "--no-deinterlace",
        "--no-compile",
        "--no-allow-any-mask",
        "--resume",
        "--check",
        "--json",
    }


def test_metrics_of_one_pair_as_a_table_and_as_json(make_clip):
    source, edited, mask = (
        make_clip("a.mp4"),
        make_clip("b.mp4", colour={"color_range": 1}),
        make_clip("mask.mp4"),
    )
    result = call(
        "metrics",
        source,
        edited,
        "--mask",
        mask,
        "--only",
        "masked_psnr,flow_error,text_alignment",
        "--target-prompt",
        "a ball",
        "--json",
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found["figures"]) == {
        "psnr_outside@true",
        "psnr_outside@zero_filled",
        "max_abs_outside",
        "flow_epe@pixels/dis",
        "flow_epe@diagonal/dis",
    }
    assert "hf download" in found["left_out"]["text_alignment"]
    result = call("metrics", source, edited, "--only", "flow_error")
    assert "flow_epe@pixels/dis" in result.stdout
    assert call("metrics", source, "no.mp4").exit_code == 2
    assert call("metrics", source, edited, "--only", "psnr").exit_code == 2
    assert call("metrics", source, edited, "--set", "warp_norm=cubed").exit_code == 2


def test_bench_runs_reports_and_says_what_is_wrong(tmp_path):
    arguments = [
        "shapeworld",
        "-o",
        tmp_path / "b",
        "--limit",
        "1",
        "--methods",
        "flowedit",
        "--set",
        "steps=1,2",
        "--metrics",
        "truth",
    ]
    assert "2 edited" in call("bench", "run", *arguments).stderr
    assert "2 done before" in call("bench", "run", *arguments).stderr
    assert call("bench", "report", tmp_path / "b", "--gallery", "0").exit_code == 0
    assert call("bench", "study", tmp_path / "b").exit_code == 0
    answers = {"study": json.loads((tmp_path / "b/study-key.json").read_text())["study"]}
    answers["answers"] = [{"trial": 0, "question": "alignment", "choice": "left"}]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    result = call(
        "bench", "tally", tmp_path / "b/study-key.json", tmp_path / "answers.json", "--json"
    )
    assert json.loads(result.stdout)["alignment"]
    for wrong in (
        ["run", "nothing", "-o", tmp_path / "c"],
        ["report", tmp_path / "c"],
        ["study", tmp_path / "c"],
        ["tally", "no.json", "no.json"],
    ):
        assert call("bench", *wrong).exit_code == 2
    assert (
        call("bench", "run", "shapeworld", "-o", tmp_path / "d", "--set", "gama=1").exit_code == 2
    )


def test_every_help_is_shown_with_its_brackets():
    for command in ("edit", "demo", "frame", "metrics", "list", "doctor", "bench"):
        assert call(command, "--help").exit_code == 0
    for command in ("run", "report", "study", "tally"):
        shown = call("bench", command, "--help")
        assert shown.exit_code == 0
        if command == "run":
            plain = re.sub(r"\x1b\[[0-9;]*m|[\s│]", "", shown.output)
            assert "shapeworld[:SETS[/KINDS]],five:FOLDER[/TYPES]orFILE.jsonl" in plain


def test_a_bare_list_shows_the_methods_and_names_the_other_lists():
    listed = call("list")
    assert listed.exit_code == 0
    assert "flowanchor" in listed.stdout
    assert "METHOD for its settings, or backbones, metrics, datasets, pairs" in listed.stdout
    assert json.loads(call("list", "--json").stdout) == json.loads(
        call("list", "methods", "--json").stdout
    )


def test_an_unknown_option_of_a_metric_is_called_one(make_clip):
    clip = make_clip()
    said = call("metrics", clip, clip, "--set", "nope=1")
    assert said.exit_code == 2
    assert "unknown option of the metrics 'nope'" in said.stderr


@pytest.mark.parametrize("what", ["methods", "backbones", "metrics", "datasets"])
def test_list_lists(what):
    assert json.loads(call("list", what, "--json").stdout)


@pytest.mark.parametrize("what", ["backbones", "metrics", "datasets"])
def test_lists_need_no_torch_and_load_no_family(what):
    """What a model is known by before it is loaded is plain data."""
    code = f"""
import sys
from holdfast.cli import app as cli
sys.argv = ["holdfast", "list", "{what}"]
try:
    cli.main()
except SystemExit:
    pass
assert not {{"diffusers", "transformers"}} & set(sys.modules)
assert "holdfast.models.wan.adapter" not in sys.modules
assert "{what}" != "backbones" or "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_frame_writes_the_frame_to_edit(make_clip, tmp_path):
    from PIL import Image

    clip = make_clip(frames=5, size=(48, 32))
    assert call("frame", clip, "-o", tmp_path / "first.png").exit_code == 0
    assert call("frame", clip, "-o", tmp_path / "last.png", "--at", -1).exit_code == 0
    frames = list(video.read(video.probe(str(clip))))
    for name, frame in (("first", frames[0]), ("last", frames[-1])):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"{name}.png")), frame)
    for wrong, words in (
        (("--at", 5), "does not exist: choose from 0 to 4"),
        (("-o", tmp_path / "first.mp4"), "does not have the suffix of an image"),
        (("-o", tmp_path / "none" / "first.png"), "does not exist: create it first"),
    ):
        refused = call("frame", clip, *wrong)
        assert refused.exit_code == 2
        assert words in " ".join(refused.stderr.split())
