"""The examples run as they stand: the script as a command, the notebook's cells one after another."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from holdfast.media import video
from holdfast.pipeline import run as editing
from tests import processes

HERE = Path(__file__).parent.parent / "examples"
NOTEBOOK = json.loads((HERE / "first-edit.ipynb").read_text())


@pytest.mark.slow
def test_the_script_edits_a_clip_and_says_what_was_kept(tmp_path):
    code, options = (HERE / "edit.py").read_text(), ("-o", tmp_path / "made", "--steps", "6")
    done = processes.run(*options, code=code, folder=tmp_path)
    assert done.code == 0, done.err
    assert "outside the mask: 100% of the pixels are the source's" in done.out
    assert "kept: outside the mask" in done.out
    assert video.probe(tmp_path / "made" / "edited.mp4").frames == 13
    with Image.open(tmp_path / "made" / "strip.png") as strip:
        assert strip.size == (110 + 5 * (192 + 6), 2 * (192 + 6))


@pytest.mark.slow
def test_the_keep_example_returns_the_source_with_the_change_alone(tmp_path):
    code = (HERE / "keep.py").read_text()
    done = processes.run("-o", tmp_path / "kept", code=code, folder=tmp_path)
    assert done.code == 0, done.err
    assert "outside the change 0 pixels differ" in done.out
    assert video.probe(tmp_path / "kept" / "kept.mp4").frames == 48


def test_the_backbone_example_recolours_the_mask_and_nothing_else(tmp_path):
    command = [sys.executable, HERE / "backbone.py"]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=alone)
    assert done.returncode == 0, done.stderr
    assert "outside the mask: 100% of the values are the source's" in done.stdout
    mean = done.stdout.split("mean colour: [")[1].split("]")[0].split()
    red, green, blue = (float(value) for value in mean)
    assert red > 150 > 60 > max(green, blue)


def test_the_notebook_is_one_and_holds_no_outputs():
    """As nbformat 4.5 has it."""
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert set(NOTEBOOK) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert set(NOTEBOOK["metadata"]["kernelspec"]) >= {"display_name", "name"}
    names = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(names)) == len(names)
    for cell in NOTEBOOK["cells"]:
        more = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | more
        assert all(isinstance(line, str) for line in cell["source"])
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    shown = []
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            shown.append(run("".join(cell["source"]), names))
    results = [value for value in shown if isinstance(value, editing.Result)]
    assert len(results) == 1
    assert '<video src="data:video/mp4;base64,' in results[0]._repr_html_()
    assert "edit 10/10" in capsys.readouterr().out
    assert (tmp_path / "first-edit.mp4.json").exists()


def run(code: str, names: dict):
    """A cell's last expression, as a notebook shows it."""
    tree, last = ast.parse(code), None
    if isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(last, "cell", "eval"), names) if last else None
