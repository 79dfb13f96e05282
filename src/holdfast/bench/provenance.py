"""Where a measurement comes from: the commit of the sources, and the machine. For tables that others are to trust."""

import os
import platform
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent  # src/holdfast of a checkout


def commit(sources: Path = SOURCES) -> str | None:
    """The commit of a checkout of Holdfast, with -dirty where its sources differ from it. None for any other copy.

    An installed copy may lie in another repository (a virtual environment, a vendored folder): its commit is not
    ours.
    """
    root = sources.parent.parent
    if sources.parent.name != "src" or not _is_ours(root):
        return None
    top = _git(root, "rev-parse", "--show-toplevel")
    tracked = _git(root, "ls-files", "--", str(sources / "__init__.py"))
    if not (top and tracked and Path(top).resolve() == root):
        return None
    name = _git(root, "describe", "--always")
    changed = _git(root, "status", "--porcelain", "--", "src")
    return f"{name}-dirty" if name and changed else name or None


def _is_ours(root: Path) -> bool:
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text())
    except (OSError, ValueError):
        return False
    return project.get("project", {}).get("name") == "holdfast"


def _git(root: Path, *words: str) -> str:
    """What git says; empty where there is none or it fails. Variables that point git elsewhere are left out."""
    git = shutil.which("git")
    if not git:
        return ""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    said = subprocess.run([git, "-C", str(root), *words], capture_output=True, text=True, env=plain)
    return said.stdout.strip() if said.returncode == 0 else ""


def machine() -> str:
    """The kind of machine, as a reader of tables wants it: two kinds do not have comparable costs."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"{os.cpu_count()} cores of {_processor()}, no GPU"


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()
