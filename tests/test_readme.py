"""What the README tells a new user to type works as it stands."""

import json
import re
import shlex
from itertools import chain
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.models import registry

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_the_first_edit_works_on_the_clip_that_the_demo_wrote(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = shlex.split(re.search(r"^holdfast (edit .*)$", README, re.MULTILINE)[1])
    for arguments in (["demo"], first):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    demo = json.loads(Path("demo/edited.mp4.json").read_text())
    edit = json.loads(Path("demo/green.mp4.json").read_text())
    assert (
        edit["task"]["source_prompt"] == demo["task"]["source_prompt"]
    )  # the prompt does describe that clip
    assert edit["preservation"]["changed_share"] > 0.01


def test_the_page_on_backbones_has_the_pairs_as_they_are():
    page = (Path(__file__).parents[1] / "docs" / "backbones.md").read_text()
    table = next(part for part in page.split("\n\n") if part.startswith("| | `modelscope`"))
    head, _, *rows = ([c.strip() for c in row.strip("|").split("|")] for row in table.splitlines())
    asked = CliRunner().invoke(app, ["list", "pairs", "--json"])
    pairs, named = json.loads(asked.stdout), [re.findall("`(.+?)`", cell) for cell in head[1:]]
    assert sorted(chain.from_iterable(named)) == sorted(pairs["flowedit"])
    assert [row[0].strip("`") for row in rows] == list(pairs)
    for method, *cells in rows:
        for cell, names in zip(cells, named, strict=True):
            assert {pairs[method.strip("`")][name] for name in names} == {cell}, method


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)", README))))
def test_every_page_that_is_named_is_there(link):
    assert (Path(__file__).parents[1] / link).exists()


def test_figures_in_the_docs_are_of_the_weights_in_the_package():
    """Figures name the identity of the weights. Where it is not a present one, the text must say "earlier"."""
    present = {
        registry.weights_identity(name)
        for name, spec in registry.specs().items()
        if not spec.download_gb
    }
    named = [
        (page.name, line, digest)
        for page in (Path(__file__).parents[1] / "docs").glob("*.md")
        for line in page.read_text().splitlines()
        for digest in re.findall(r"\b(?=[0-9a-f]*[a-f])[0-9a-f]{16}\b", line)
    ]
    assert len(named) >= 5
    assert not [
        (page, digest)
        for page, line, digest in named
        if digest not in present and "earlier" not in line
    ]
