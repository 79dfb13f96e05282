"""No input ends in a traceback, a hang or a loss: a short run of the fuzzer, what once failed, and kills."""

import argparse

import pytest

from tests.patience import HANG

from . import crashes, inputs, seeds
from .case import Case
from .server import Server

KEPT = sorted(inputs.CORPUS.glob("*.zip"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_once_failed(path, server, tmp_path):
    assert inputs.replay(server, path, tmp_path) == []


def test_broken_inputs_get_one_sentence_and_leave_nothing(server, tmp_path):
    """Other numbers by command: python -m tests.fuzz.inputs --count 10000."""
    asked = argparse.Namespace(
        count=90, start=0, seed=0, minutes=float("inf"), only="", keep=tmp_path
    )
    counts = inputs.fuzz(server, asked, tmp_path)
    assert counts.total() == 90
    assert not [(kind, end) for kind, end in counts if end == "failed"]


def test_a_killed_edit_runs_again_to_the_undisturbed_result(server, tmp_path):
    assert crashes.crash(server, tmp_path, count=3, seed=2) == []


@pytest.mark.parametrize(("room", "code"), [(9000, 0), (1000, 1)])
def test_a_disk_that_fills_up_loses_no_more_than_it_must(room, code, server, tmp_path):
    """A limit on a file's size stands for a full disk: the latents do not fit, and then the result neither."""
    folder = tmp_path / "case"
    Case("disk", [], seeds.base_files()).lay_out(folder)
    limited = "import resource\nfrom holdfast.cli import app\n"
    limited += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))\napp.main()"
    argv = ["edit", "clip.mp4", "-o", "out.mkv", *seeds.QUICK, "--backbone", "shapeworld-wan"]
    ran = server.run(argv, folder, HANG, limited)
    assert ran.code == code, ran.err
    assert "out.mkv.latents.safetensors cannot be saved (File too large)" in ran.err
    made = {"out.mkv", "out.mkv.json"} if code == 0 else set()
    assert {p.name for p in folder.iterdir()} == set(seeds.base_files()) | made
    error = [line for line in ran.err.splitlines() if line.startswith("error:")]
    assert len(error) == bool(code)
    assert all("out.mkv: File too large" in line for line in error)
