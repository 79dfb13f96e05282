"""Run method x backbone x clip. A cell that is done is never done again; a killed run loses at most the cell it was in.

Whether a method may see the benchmark's mask is part of its name: `flowedit` does not, `flowedit+mask` does. The mask is
used by the metrics either way. A cell that fails is recorded with its reason and counted, and does not stop the run.
"""

import dataclasses
import gc
import itertools
import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import av
import cv2
import torch

from .. import editing, metrics, registry
from ..measuring import Pair, compare
from ..metrics.base import Tools
from ..run import write_json
from ..shapeworld.scenes import sample_edit
from ..task import EditTask, configure
from .datasets.base import Case, file_name

MASK_RULE = "A method sees the benchmark's mask only where its name ends in +mask; the metrics always do."
NAN_RULE = (
    "A figure that is not defined for a clip (one frame has no next one, a full mask no outside) is empty and left out of the mean; "
    "n says how many clips a mean is of. PSNR counts as at most 100 dB. A failed cell has no figures and is counted under failed."
)
# Whatever a clip, a method or a library can do wrong. A method's bug is its failure too: the others go on.
FAILURES = (ArithmeticError, AttributeError, ImportError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
FAILURES += (av.FFmpegError, cv2.error, registry.Missing)
COST = ("frames", "seconds", "evaluations", "peak_memory_mb", "preservation")
FILES = ("clip", "mask", "truth")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Row:
    """One line of the tables: a method with its settings, on a backbone, with or without sight of the mask."""

    method: str
    backbone: str
    sees_mask: bool = False
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        settings = "".join(f" {k}={v}" for k, v in self.settings)
        return f"{self.method}{'+mask' if self.sees_mask else ''}{settings} on {self.backbone}"


@dataclass(frozen=True)
class Plan:
    """All cells of a run: every row with every case."""

    dataset: str
    rows: tuple[Row, ...]
    cases: tuple[Case, ...]
    seed: int = 0
    weights: str | None = None
    device: str = "auto"
    dtype: str = "auto"

    def cells(self) -> Iterator[tuple[Row, Case]]:
        """By backbone first, so that each is loaded once."""
        rows = sorted(self.rows, key=lambda r: [x.backbone for x in self.rows].index(r.backbone))
        return itertools.product(rows, self.cases)

    def task(self, row: Row, case: Case, output: Path) -> EditTask:
        return EditTask(
            input=case.clip,
            output=str(output),
            source=case.source,
            target=case.target,
            method=row.method,
            backbone=row.backbone,
            weights=self.weights,
            mask=case.mask if row.sees_mask else None,
            settings=dict(row.settings),
            seed=self.seed,
            device=self.device,
            dtype=self.dtype,
            codec="ffv1",
        )


def rows(methods: list[str], backbones: list[str], sweep: dict[str, list[str]]) -> tuple[Row, ...]:
    """Every method with every backbone and every combination of the settings that it has. Raises ValueError for unknown names.

    methods: names, with +mask where it may see the mask. sweep: setting to values; methods without it run once.
    """
    known = registry.backbones()
    backbones = [registry.choose(b, known, "backbone") for b in backbones]
    found, used = [], set()
    for method in methods:
        name, plus, sight = method.partition("+")
        if plus and sight != "mask":
            raise ValueError(f"{method}: only +mask can follow a method's name")
        module = registry.method(name)
        name = module.__name__.rpartition(".")[2]
        config = {f.name for f in dataclasses.fields(module.Config)}
        has = [k for k in sweep if k in config]
        used |= set(has)
        for values in itertools.product(*(sweep[k] for k in has)):
            configure(module.Config, {}, None, dict(zip(has, values, strict=True)))  # refuses what does not fit, before any work
            found += [Row(name, b, bool(plus), tuple(zip(has, values, strict=True))) for b in backbones]
    if set(sweep) - used:
        raise ValueError(f"none of these methods has a setting {', '.join(sorted(set(sweep) - used))}")
    return tuple(dict.fromkeys(found))


def cell_folder(folder: Path, row: Row, case: Case) -> Path:
    return folder / "cells" / file_name(row.label) / case.name


def read_record(place: Path) -> dict | None:
    file = place / "cell.json"
    return json.loads(file.read_text()) if file.exists() else None


@dataclass
class Bench:
    """A plan bound to a folder, a metric set and its networks."""

    plan: Plan
    folder: Path
    tools: Tools
    metrics: list[str] | None = None  # None: all that a case allows

    def __post_init__(self):
        self.loaded = None  # the backbone in memory
        self.provenance = {"commit": commit(), "machine": machine(), "holdfast": metadata.version("holdfast")}

    def begin(self, command: str) -> None:
        """Write down what this folder is for. Raises ValueError where it holds another benchmark."""
        file = self.folder / "bench.json"
        plan = dataclasses.asdict(self.plan) | {"cases": [stored(c, self.folder) for c in self.plan.cases]}
        fixed = {k: plan[k] for k in ("dataset", "seed", "weights", "dtype")}
        before = json.loads(file.read_text()) if file.exists() else {"rows": [], "cases": [], "commands": [], **fixed}
        for key, value in fixed.items():
            if before[key] != value:
                raise ValueError(f"{self.folder} holds a benchmark with {key} {before[key]}, not {value}; give another folder")
        merged = {key: _merged(before[key], json.loads(json.dumps(plan[key])), key) for key in ("rows", "cases")}
        commands = [*before["commands"], *({command} - set(before["commands"]))]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(file, fixed | {"commands": commands, "rules": {"mask": MASK_RULE, "not a number": NAN_RULE}} | merged)

    def run(self, progress: Progress | None = None, retry: bool = False, again: bool = False) -> dict[str, int]:
        """Do what is not done. retry: failed cells too; again: measure the finished ones anew (once CLIP is here, say)."""
        counts = dict.fromkeys(("edited", "measured again", "done before", "failed", "failed before"), 0)
        todo = []
        for row, case in self.plan.cells():
            record = read_record(cell_folder(self.folder, row, case))
            if record and record["error"] and not retry:
                counts["failed before"] += 1
            elif record and not record["error"] and not again:
                counts["done before"] += 1
            else:
                todo.append((row, case, record))
        for done, (row, case, record) in enumerate(todo):
            if progress:
                progress("cells", done, len(todo))
            error = self._cell(row, case, record or {})["error"]
            counts["failed" if error else "measured again" if record and not record["error"] else "edited"] += 1
        if progress and todo:
            progress("cells", len(todo), len(todo))
        return counts

    def _cell(self, row: Row, case: Case, before: dict) -> dict:
        """One edit and its figures, of which those measured before are kept. The record is written last, whole."""
        place = cell_folder(self.folder, row, case)
        place.mkdir(parents=True, exist_ok=True)
        record = {"row": row.label, "case": case.name, "kind": case.kind, "group": case.group, "figures": {}, "left_out": {}}
        record |= {k: before[k] for k in (*COST, "figures", "left_out", *self.provenance) if k in before} | {"error": None}
        try:
            if "seconds" not in before or not (place / "edited.mkv").exists():
                record |= self._edited(row, case, place) | self.provenance
            figures, left_out = compare(self._pair(case, place / "edited.mkv"), self.tools, self.metrics)
            record["figures"] = record["figures"] | {k: None if math.isnan(v) else v for k, v in figures.items()}
            asked = set(self.metrics or metrics.names())
            record["left_out"] = {k: v for k, v in record["left_out"].items() if k not in asked} | left_out
        except FAILURES as error:
            record["error"] = f"{type(error).__name__}: {error}"
        write_json(place / "cell.json", record)
        return record

    def _edited(self, row: Row, case: Case, place: Path) -> dict:
        """Make the edit from its beginning, so that what it cost is that of a whole one."""
        for left in place.iterdir():  # what a killed run was writing
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        backbone = self._backbone(row.backbone)
        forget_peak()
        result = editing.edit(self.plan.task(row, case, place / "edited.mkv"), backbone)
        result.save()
        seconds = sum(v for k, v in result.manifest["seconds"].items() if k != "load")
        return {k: result.manifest[k] for k in COST} | {"seconds": round(seconds, 3)}

    def _backbone(self, name: str):
        """The one warm backbone."""
        if self.loaded is None or self.loaded.name != name:
            self.loaded = None
            gc.collect()
            self.loaded = registry.load_backbone(name, self.plan.weights, self.plan.device, self.plan.dtype)
        return self.loaded

    def _pair(self, case: Case, edited: Path) -> Pair:
        edit = sample_edit(*case.scene) if case.scene else None
        return Pair(case.clip, str(edited), case.mask, case.truth, case.source, case.target, case.local, edit)


def stored(case: Case, folder: Path) -> dict:
    """A case as bench.json holds it: files below the folder by their way from it, others by their whole path."""
    data = dataclasses.asdict(case)
    for key in FILES:
        if data[key]:
            path, root = Path(data[key]).resolve(), folder.resolve()
            data[key] = str(path.relative_to(root) if path.is_relative_to(root) else path)
    return data


def restored(data: dict, folder: Path) -> Case:
    files = {k: str(folder / data[k]) for k in FILES if data[k]}
    return Case(**data | files | {"scene": tuple(data["scene"]) if data["scene"] else None})


def forget_peak() -> None:
    """Begin the measurement of peak memory anew, where the system can (Linux, and a GPU)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    switch = Path("/proc/self/clear_refs")
    if os.access(switch, os.W_OK):
        switch.write_text("5")


def _merged(before: list[dict], now: list[dict], what: str) -> list[dict]:
    """What was planned and what is planned now. Raises ValueError where a case changed under its name."""
    changed = {c["name"] for c in now if what == "cases"} & {c["name"] for c in before if what == "cases" and c not in now}
    if changed:
        raise ValueError(
            f"the cases {', '.join(sorted(changed)[:3])} are not what they were when this folder was begun; give another folder"
        )
    return before + [item for item in now if item not in before]


def commit() -> str | None:
    """The commit of the sources, where they are a checkout."""
    git = shutil.which("git")
    if not git:
        return None
    here = Path(__file__).parent
    said = subprocess.run([git, "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return said.stdout.strip() or None


def machine() -> str:
    """The kind of machine, as a reader of the tables wants it."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"{os.cpu_count()} cores, {platform.machine()}, no GPU"
