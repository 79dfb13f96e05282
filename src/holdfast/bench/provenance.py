"""Where a measurement comes from: the commit of the sources, and the machine. Tables state both."""

import os
import platform
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1]  # src/holdfast of a checkout


def commit(sources: Path = SOURCES) -> str | None:
    """Return the commit of a checkout of Holdfast, with -dirty if its sources differ from it; None for any other copy.

    An installed copy may lie inside another repository (a virtual environment, a vendored folder), whose commit is not
    ours.
    """
    root = sources.parent.parent
    if sources.parent.name != "src" or not _is_holdfast(root):
        return None
    top = _run_git(root, "rev-parse", "--show-toplevel")
    tracked = _run_git(root, "ls-files", "--", str(sources / "__init__.py"))
    if not (top and tracked and Path(top).resolve() == root):
        return None
    name = _run_git(root, "describe", "--always")
    changes = _run_git(root, "status", "--porcelain", "--", "src")
    return f"{name}-dirty" if name and changes else name or None


def _is_holdfast(root: Path) -> bool:
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text())
    except (OSError, ValueError):
        return False
    return project.get("project", {}).get("name") == "holdfast"


def _run_git(root: Path, *arguments: str) -> str:
    """Return git's output; empty if git is missing or fails. Environment variables that redirect git are removed."""
    git = shutil.which("git")
    if not git:
        return ""
    environment = {k: value for k, value in os.environ.items() if not k.startswith("GIT_")}
    result = subprocess.run(
        [git, "-C", str(root), *arguments], capture_output=True, text=True, env=environment
    )
    return result.stdout.strip() if result.returncode == 0 else ""


def machine() -> str:
    """Return the kind of machine as tables name it. Costs on different kinds are not comparable."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"{os.cpu_count()} cores of {_processor()}, no GPU"


def _processor() -> str:
    try:
        cpu_info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    match = re.search(r"^model name\s*:\s*(.+)$", cpu_info, re.M)
    return match[1].strip() if match else platform.machine()
