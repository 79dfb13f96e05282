"""What a run must not do, whatever it was given."""

import hashlib
import json
import os
import re
from pathlib import Path

from .case import Case
from .server import Ran

CODES = {0, 2, 3, 4}  # done, bad input, something missing, out of memory
RESULT = (
    "",
    ".json",
    ".first.png",
    ".adapters.safetensors",
)  # what a finished edit may leave, after its output's name
LINE = re.compile(r"(note|error|left out): \S|[a-z ]+: \d+ of \d+, ")  # the last is progress
KEPT = (
    "bench",
    "weights",
)  # folders that a command may write to, and those that are the case's own


def seen(folder: Path) -> dict[str, str]:
    """Every file's name and content, and every folder's name."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            whole = path.is_file() and not path.is_symlink()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if whole else "not a file"
            found[str(path.relative_to(folder))] = content
    return found


def complaints(case: Case, ran: Ran, before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is wrong with a run; nothing where it is as it must be."""
    if ran.code is None:
        return [f"it took longer than {ran.seconds:.0f} s"]
    found = []
    if ran.code not in CODES:
        found.append(f"exit code {ran.code}")
    if "Traceback" in ran.err:
        found.append("a traceback")
    elif not as_promised(ran):
        found.append("more on standard error than notes and one sentence")
    if ran.code and ran.out:
        found.append("something on standard output")
    changed = [name for name in before if after.get(name) != before[name]]
    new = [name for name in after if name not in before]
    found += _left(case, ran, changed, new)
    return found


def as_promised(ran: Ran) -> bool:
    """Notes, then one error where it failed; or what typer says of a flag."""
    lines = ran.err.splitlines()
    if ran.code == 2 and lines and lines[0].strip().startswith("Usage:"):
        return True
    errors = [line for line in lines if line.startswith("error:")]
    if ran.code:
        return len(errors) == 1 and lines[-1] == errors[0] and all(map(LINE.match, lines))
    return not errors


def _left(case: Case, ran: Ran, changed: list[str], new: list[str]) -> list[str]:
    output = output_of(case.argv)
    if case.argv[:1] != ["edit"]:
        loose = [n for n in new if ".holdfast" in n]
        lost = [n for n in changed if not n.startswith(KEPT)] if ran.code else []
        return [f"left or changed {n}" for n in loose + lost]
    saved = {os.path.normpath(output + ".latents.safetensors")}  # also where decoding failed
    if ran.code:
        touched = {f"left {n}": n for n in new} | {f"changed {n}": n for n in changed}
        return [text for text, name in touched.items() if name not in saved]
    allowed = {os.path.normpath(output + end) for end in RESULT}
    parents = {str(p) for p in Path(os.path.normpath(output)).parents}
    stray = [n for n in new if not _within(n, allowed) and n not in parents]
    lost = [n for n in changed if not _within(n, allowed | saved)]
    return [f"left {n}" for n in stray] + [f"changed {n}" for n in lost]


def _within(name: str, allowed: set[str]) -> bool:
    return any(name == a or name.startswith(a + "/") for a in allowed)


def output_of(argv: list[str]) -> str:
    """The last value of -o."""
    at = [i for i, a in enumerate(argv[:-1]) if a in ("-o", "--output")]
    return argv[at[-1] + 1] if at else ""


def incomplete(case: Case, folder: Path) -> list[str]:
    """What a finished edit lacks: its result has the clip's frames, and is as the manifest says."""
    from holdfast.media import video

    output = folder / output_of(case.argv)
    try:
        about = json.loads(Path(f"{output}.json").read_text())
        frames = video.probe(output).frames
        source = video.probe(folder / about["task"]["input"]).frames
    except (ValueError, OSError) as error:
        return [f"the result cannot be read: {error}"]
    if not frames == source == about["frames"]:
        return [f"{source} frames in, {frames} out, {about['frames']} in the manifest"]
    return []
