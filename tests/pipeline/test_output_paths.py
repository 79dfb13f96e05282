"""Where a result can go, told before any work; and the scratch folders, of which a killed run's are removed."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.base import files
from holdfast.media import video
from holdfast.pipeline import output_paths

HOLDING = """
import sys
from pathlib import Path
from holdfast.base.files import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "part").write_bytes(b"much")
    print(folder, flush=True)
    sys.stdin.read()
"""


def refused(output, *made_from: str) -> str:
    with pytest.raises(ValueError, match=r".") as said:
        output_paths.check_output_path(output, made_from)
    return str(said.value)


def test_what_no_result_can_replace_is_refused_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.mp4")
    for folder in ("taken.mp4", "mine", "b.mp4.json"):
        Path(folder).mkdir()
    for file in ("mine/photo.png", "file", "a.mp4", "c.mp4.json", "ours.json"):
        Path(file).write_text("x")
    assert "looks like an address" in refused("http://localhost/x.mp4")
    assert "write ./pipe:1.mp4 for a file" in refused("pipe:1.mp4")
    for name in ("", ".", "/", "..", "a\0.mp4"):
        assert "is not a valid file name" in refused(name)
    assert "a device or a pipe" in refused("/dev/null")
    assert "a device or a pipe" in refused("pipe.mp4")
    assert "taken.mp4 is a folder" in refused("taken.mp4")
    assert "b.mp4.json is a folder" in refused("b.mp4")
    assert "holds other files" in refused("mine")
    assert "is a file, and a name without an extension" in refused("file")
    assert "a.mp4/b.mp4 cannot be written" in refused("a.mp4/b.mp4")
    assert "/proc/x.mp4 cannot be written" in refused("/proc/x.mp4")
    assert "File name too long" in refused("a" * 250 + ".mp4")
    assert "would overwrite a.mp4" in refused("a.mp4", "a.mp4")
    assert "would overwrite c.mp4.json" in refused("c.mp4", "c.mp4.json")


def test_an_earlier_result_and_a_new_place_are_taken_and_trying_leaves_nothing(tmp_path):
    for name in ("ours.json", "ours/0.png", "a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling.mp4").symlink_to("nowhere")
    before = sorted(tmp_path.rglob("*"))
    for name in (
        "ours",
        "empty",
        "a.mp4",
        "dangling.mp4",
        "new/and/deep.mp4",
        "take:2.mp4",
        "[b].mp4",
    ):
        output_paths.check_output_path(tmp_path / name, ["nothing.mp4"])
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "ours" / "notes.txt").write_text("not a frame")
    assert "holds other files" in refused(tmp_path / "ours")


def test_a_clip_within_the_result_s_own_folder_is_not_lost(tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "0.png").write_text("x")
    (tmp_path / "ours.json").write_text("{}")
    assert "would overwrite" in refused(tmp_path / "ours", str(tmp_path / "ours" / "0.png"))


def test_a_disk_with_too_little_room_is_told_before(make_clip, tmp_path):
    clip = video.probe(make_clip())
    output_paths.check_disk_space(tmp_path / "out.mp4", clip, "auto")
    long = dataclasses.replace(clip, size=(2**20, 2**20), times=range(2**16))
    with pytest.raises(ValueError, match="MB are free there: free some"):
        output_paths.check_disk_space(tmp_path / "new" / "out.mp4", long, "auto")


def test_only_what_a_killed_run_left_of_this_output_is_removed(tmp_path):
    """A real process that is killed, and one that is alive."""
    output = tmp_path / "out.mp4"

    def begun(path: Path) -> tuple[subprocess.Popen, Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDING, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return process, Path(process.stdout.readline().strip())

    killed, left = begun(output)
    other, left_of_other = begun(tmp_path / "out.mov")
    alive, used = begun(output)
    for process in (killed, other):
        process.send_signal(signal.SIGKILL)
        process.communicate()
    mine = [".out.mp4.swp", ".out.mp4.abcdefgh", "out.mp4.holdfast", ".out.mp4.my-notes.holdfast"]
    for name in mine:
        (tmp_path / name).mkdir()
    assert left.exists()
    files.remove_stale_scratch(output_paths.all_paths(output))
    assert not left.exists()
    assert left_of_other.exists()
    assert (used / "part").exists()
    assert all((tmp_path / name).exists() for name in mine)
    alive.kill()
    alive.communicate()
    files.remove_stale_scratch(output_paths.all_paths(output))
    assert not used.exists()


def test_a_folder_of_frames_that_a_killed_run_had_taken_away_comes_back(tmp_path):
    left = tmp_path / f".out.abcdefgh{files.SCRATCH}"
    (left / files.REPLACED).mkdir(parents=True)
    (left / files.REPLACED / "0.png").write_text("frame")
    files.remove_stale_scratch([tmp_path / "out"])
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["out", "out/0.png"]


def test_a_file_that_could_not_be_finished_is_not_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def interrupted() -> None:
        with files.atomic_write(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "before"


def test_a_file_that_is_not_there_is_told_before_anything_heavy_is_imported(tmp_path):
    code = """
import sys
from holdfast.cli import app as cli
sys.argv = ["holdfast", "edit", "no.mp4", "-o", "out.mp4", "--backbone", "shapeworld-wan"]
try:
    cli.main()
except SystemExit as error:
    assert error.code == 2
assert not {"torch", "diffusers", "transformers"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "error: there is no file no.mp4\n")
    assert not list(tmp_path.iterdir())
