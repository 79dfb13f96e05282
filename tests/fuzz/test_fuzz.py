"""No input ends in a traceback, a hang or a loss: a short run of the fuzzer, what once failed, and kills."""

import argparse

import pytest

from . import crashes, inputs
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
    asked = argparse.Namespace(count=150, start=0, seed=0, minutes=0.6, only="", keep=tmp_path)
    counts = inputs.fuzz(server, asked, tmp_path)
    assert counts.total() > 10
    assert not [(kind, end) for kind, end in counts if end == "failed"]


def test_a_killed_edit_runs_again_to_the_undisturbed_result(server, tmp_path):
    assert crashes.crash(server, tmp_path, count=3, seed=2) == []
