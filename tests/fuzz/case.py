"""A case of the fuzzer: a command and the files that it finds. It is kept as one small zip, to be run again."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from . import seeds
from .server import ROOT

CHECKPOINTS = ROOT / "src" / "holdfast" / "shapeworld" / "checkpoints"
WHEN = 1_000_000_000  # every file's time: a task's key depends on it


@dataclass
class Case:
    """argv: of `holdfast`. files: path in the working folder to content.

    weights: an embedded checkpoint that lies under `weights/`, where `files` may replace parts of it. special: path to
    "fifo", "folder" or "link TARGET".
    """

    kind: str
    argv: list[str]
    files: dict[str, bytes]
    weights: str | None = None
    special: dict[str, str] = field(default_factory=dict)

    def lay_out(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        if self.weights:
            shutil.copytree(CHECKPOINTS / self.weights, folder / "weights", copy_function=os.link)
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # not through a link into the checkpoint
            path.write_bytes(content)
            os.utime(path, (WHEN, WHEN))
        if self.kind == "latents":
            self._key(folder)
        for name, what in self.special.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if what == "fifo":
                os.mkfifo(path)
            elif what == "folder":
                path.mkdir()
            else:
                path.symlink_to(what.removeprefix("link "))

    def _key(self, folder: Path) -> None:
        """Say in the latents that they are this task's: a key changes whenever a task has one field more."""
        from holdfast.pipeline.task import EditTask

        with contextlib.chdir(folder):
            key = EditTask(**seeds.RESUMED).latent_key()
        for path in folder.glob("*.latents.safetensors"):
            content = path.read_bytes()
            path.write_bytes(
                re.sub(rb'("key": ?")[0-9a-f]{16}"', rb'\g<1>%b"' % key.encode(), content)
            )

    def save(self, folder: Path) -> Path:
        """As KIND-HASH.zip."""
        about = {"argv": self.argv, "weights": self.weights, "special": self.special}
        text = json.dumps(about | {"kind": self.kind}, indent=1)
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as out:
            for name, content in [("case.json", text), *sorted(self.files.items())]:
                out.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(held.getvalue()).hexdigest()[:8]
        path = folder / f"{self.kind}-{digest}.zip"
        path.write_bytes(held.getvalue())
        return path


def read(path: Path) -> Case:
    with zipfile.ZipFile(path) as held:
        about = json.loads(held.read("case.json"))
        files = {name: held.read(name) for name in held.namelist() if name != "case.json"}
    return Case(about["kind"], about["argv"], files, about["weights"], about["special"])
