"""The commit that a measurement is signed with is Holdfast's own, or none."""

import subprocess
from pathlib import Path

import pytest

from holdfast.bench import provenance


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A repository as ours is, with one commit."""
    sources = tmp_path / "src" / "holdfast"
    sources.mkdir(parents=True)
    (sources / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "holdfast"\n')
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_a_checkout_is_signed_with_its_commit_and_says_when_its_sources_changed(checkout):
    sources, head = checkout / "src" / "holdfast", git(checkout, "rev-parse", "--short", "HEAD")
    assert provenance.commit(sources) == head
    (checkout / "notes.txt").touch()
    assert provenance.commit(sources) == head
    (sources / "new.py").touch()
    assert provenance.commit(sources) == f"{head}-dirty"


def test_a_copy_in_another_repository_is_not_signed_with_its_commit(checkout):
    installed = checkout / ".venv" / "site-packages" / "holdfast"
    vendored = checkout / "vendor" / "src" / "holdfast"
    for folder in (installed, vendored):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        assert provenance.commit(folder) is None
    (checkout / "vendor" / "pyproject.toml").write_text('[project]\nname = "holdfast"\n')
    assert provenance.commit(vendored) is None
    (checkout / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    assert provenance.commit(checkout / "src" / "holdfast") is None


def test_git_that_is_pointed_elsewhere_is_not_followed(checkout, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert len(provenance.commit(checkout / "src" / "holdfast")) >= 7


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit(checkout / "src" / "holdfast") is None
