"""Run method x backbone x clip. A cell that is done is never done again; a killed run loses at most the cell it was in.

Whether a method may see the benchmark's mask is part of its name: `flowedit` does not, `flowedit+mask` does. The mask
is used by the metrics either way. A cell that fails is recorded with its reason and counted, and does not stop the run.
"""

import dataclasses
import functools
import gc
import itertools
import json
import math
import shutil
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from .. import methods, metrics
from ..base import names
from ..base.errors import MissingDependencyError, UserError
from ..base.files import write_json
from ..base.notices import warn_user
from ..base.schema import configure
from ..metrics.base import Tools
from ..metrics.compare import Pair, compare
from ..models import registry
from ..pipeline import run
from ..pipeline.events import ProgressCallback
from ..pipeline.task import EditTask
from . import provenance, records
from .datasets import judge
from .datasets.base import FILES, Case, file_name, is_box

MASK_RULE = (
    "A method sees the benchmark's mask only where its name ends in +mask; the metrics always do."
)
NAN_RULE = (
    "A figure that is not defined for a clip (one frame has no next one, a full mask no outside) "
    "is empty and left out of the mean; n says how many clips a mean is of. "
    "PSNR counts as at most 100 dB. A failed cell has no figures and is counted under failed."
)
COST = ("frames", "seconds", "evaluations", "peak_memory_mb", "preservation")
WHERE = ("machine", "device")  # costs of cells are compared where these are equal


@dataclass(frozen=True)
class Row:
    """One line of the tables: a method with its settings, on a backbone, with or without sight of the mask."""

    method: str
    backbone: str
    sees_mask: bool = False
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """What tables call it. A method that leaves something out where it sees no mask says so."""
        without = "" if self.sees_mask else _omission_without_mask(self.method)
        return self._name(f", {without}" if without else "")

    @property
    def key(self) -> str:
        """What its folder is called."""
        return self._name("")

    def names(self) -> set[str]:
        """What a user may call it: with or without the backbone."""
        whole = {self.label, self.key}
        return whole | {name.removesuffix(f" on {self.backbone}") for name in whole}

    def _name(self, without: str) -> str:
        mask = "+mask" if self.sees_mask else without
        settings = "".join(f" {key}={value}" for key, value in self.settings)
        return f"{self.method}{mask}{settings} on {self.backbone}"


@functools.cache
def _omission_without_mask(method: str) -> str:
    """What a method leaves out where it sees no mask. Nothing is known of one that is not installed any more."""
    known = method in names.list_modules("holdfast.methods")
    return getattr(methods.load(method), "UNMASKED", "") if known else ""


@dataclass(frozen=True)
class Contest:
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
        backbones = [row.backbone for row in self.rows]
        rows = sorted(self.rows, key=lambda row: backbones.index(row.backbone))
        return (cell for cell in itertools.product(rows, self.cases) if due(*cell))

    def check_masks(self) -> None:
        """Raises ValueError for rows that are to see a mask where no case has one; notes how many cases have none."""
        without = sum(case.mask is None for case in self.cases)
        seeing = any(row.sees_mask for row in self.rows)
        if seeing and without == len(self.cases):
            raise UserError(f"{self.dataset} has no masks: leave +mask out of --methods")
        if seeing and without:
            warn_user(f"{without} of {len(self.cases)} clips have no mask: rows of +mask leave them out")

    def task(self, row: Row, case: Case, output: Path) -> EditTask:
        return EditTask(
            input=case.clip,
            output=str(output),
            source_prompt=case.source,
            target_prompt=case.target,
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


def due(row: Row, case: Case) -> bool:
    """Whether a row has this case: without its mask the row's name would not be true."""
    return case.mask is not None or not row.sees_mask


def rows(methods: list[str], backbones: list[str], sweep: dict[str, list[str]]) -> tuple[Row, ...]:
    """Every method with every backbone and every combination of the settings that it has.

    methods: names, with +mask where it may see the mask. sweep: setting to values; methods without it run once. A
    backbone that lacks what a method needs has no row of it, with a note. Raises ValueError for unknown names, for a
    setting that no method has, and where no row is left.
    """
    known = registry.backbones()
    backbones = [names.choose(name, known, "backbone") for name in backbones]
    found: list[Row] = []
    left_out: dict[str, str] = {}
    for method in methods:
        name, sees_mask = _sight(method)
        able = [backbone for backbone in backbones if _can_run(name, backbone, left_out)]
        for settings in _combinations(methods.load(name).Config, sweep):
            found += [Row(name, backbone, sees_mask, settings) for backbone in able]
    _note_left_out(left_out, bool(found))
    used = {key for row in found for key, _ in row.settings}
    if set(sweep) - used:
        unused = ", ".join(sorted(set(sweep) - used))
        raise UserError(f"none of these methods has a setting {unused}")
    return tuple(dict.fromkeys(found))


def _can_run(method: str, backbone: str, left_out: dict[str, str]) -> bool:
    """Whether a backbone has what a method needs; else the reason goes into left_out."""
    needs = methods.load(method).NEEDS
    missing = needs - registry.specs()[backbone].capabilities
    if missing:
        left_out[f"{method} on {backbone}"] = " and ".join(sorted(missing)).replace("_", " ")
    return not missing


def _note_left_out(left_out: dict[str, str], any_left: bool) -> None:
    if not left_out:
        return
    said = "; ".join(f"{row} (it lacks {missing})" for row, missing in left_out.items())
    if not any_left:
        raise UserError(f"nothing can be run: {said}", "see: holdfast list pairs")
    warn_user(f"left out, because the backbone cannot run it: {said}")


def _sight(method: str) -> tuple[str, bool]:
    """A method's own name, and whether it may see the mask."""
    name, plus, sight = method.partition("+")
    if plus and sight != "mask":
        raise UserError(f"{method}: only +mask can follow a method's name")
    return names.choose(name, names.list_modules("holdfast.methods"), "method"), bool(plus)


def _combinations(config: type, sweep: dict[str, list[str]]) -> list[tuple[tuple[str, str], ...]]:
    """The settings of a sweep that a method has, in every combination. Refuses what does not fit, before any work."""
    names = {f.name for f in dataclasses.fields(config)}
    choices = [[(key, value) for value in sweep[key]] for key in sweep if key in names]
    found = list(itertools.product(*choices))
    for settings in found:
        configure(config, {}, None, dict(settings))
    return found


def cell_folder(folder: Path, row: Row, case: Case) -> Path:
    return folder / "cells" / file_name(row.key) / case.name


def _provenance() -> dict[str, str | None]:
    return {
        "commit": provenance.commit(),
        "machine": provenance.machine(),
        "holdfast": metadata.version("holdfast"),
    }


@dataclass
class Bench:
    """A contest bound to a folder, a metric set and its networks."""

    contest: Contest
    folder: Path
    tools: Tools
    metrics: list[str] | None = None  # None: all that a case allows
    provenance: dict[str, str | None] = field(default_factory=_provenance)

    def __post_init__(self):
        self.loaded = None  # the backbone in memory

    def begin(self, command: str) -> None:
        """Write down what this folder is for. Raises ValueError where it holds another benchmark."""
        self.contest.check_masks()
        file = self.folder / "bench.json"
        now = json.loads(json.dumps(dataclasses.asdict(self.contest)))
        now["cases"] = [stored(case, self.folder) for case in self.contest.cases]
        fixed = {key: now[key] for key in ("dataset", "seed", "weights", "dtype")}
        before = {"rows": [], "cases": [], "commands": [], **fixed}
        before = records.bench(self.folder) or before
        for key, value in fixed.items():
            if before[key] != value:
                raise UserError(
                    f"{self.folder} holds a benchmark with {key} {before[key]}, not {value}; "
                    "give another folder"
                )
        _refuse_changed(before["cases"], now["cases"])
        about = fixed | {
            "commands": _joined(before["commands"], [command]),
            "rules": {"mask": MASK_RULE, "not a number": NAN_RULE},
            "rows": _joined(before["rows"], now["rows"]),
            "cases": _joined(before["cases"], now["cases"]),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(file, about)

    def run(
        self, report: ProgressCallback | None = None, retry: bool = False, again: bool = False
    ) -> dict[str, int]:
        """Do what is not done.

        retry: failed cells too; again: measure the finished ones anew (once CLIP is here, say).
        """
        outcomes = ("edited", "measured again", "done before", "failed", "failed before")
        counts = dict.fromkeys(outcomes, 0)
        todo = []
        for row, case in self.contest.cells():
            record = records.cell(cell_folder(self.folder, row, case))
            if record and record["error"] and not retry:
                counts["failed before"] += 1
            elif record and not record["error"] and not again:
                counts["done before"] += 1
            else:
                todo.append((row, case, record))
        for done, (row, case, record) in enumerate(todo):
            if report:
                report("cells", done, len(todo))
            counts[self._outcome(row, case, record)] += 1
        if report and todo:
            report("cells", len(todo), len(todo))
        return counts

    def _outcome(self, row: Row, case: Case, before: dict | None) -> str:
        """Do a cell, and say what became of it."""
        if self._cell(row, case, before or {})["error"]:
            return "failed"
        return "measured again" if before and not before["error"] else "edited"

    def _cell(self, row: Row, case: Case, before: dict) -> dict:
        """One edit and its figures, of which those measured before are kept. The record is written last, whole."""
        place = cell_folder(self.folder, row, case)
        place.mkdir(parents=True, exist_ok=True)
        edited = place / "edited.mkv"
        record = self._begun(row, case, before)
        try:
            if "seconds" not in before or not edited.exists():
                record |= self._edited(row, case, edited) | self.provenance
            figures, left_out = compare(self._pair(case, edited), self.tools, self.metrics)
            for name, value in figures.items():
                record["figures"][name] = None if math.isnan(value) else value
            asked = set(self.metrics or metrics.names())
            unasked = {k: v for k, v in record["left_out"].items() if k not in asked}
            record["left_out"] = unasked | left_out
        except Exception as error:  # the one place where a cell's bug ends; the others are done
            record["error"] = f"{type(error).__name__}: {error}"
            if not isinstance(error, (UserError, MissingDependencyError, OSError)):
                record["traceback"] = traceback.format_exc()
        write_json(place / "cell.json", record)
        return record

    def _begun(self, row: Row, case: Case, before: dict) -> dict:
        """A cell's record, as far as it was known before."""
        kept = (*COST, "figures", "left_out", "device", *self.provenance)
        return {
            "row": row.key,
            "case": case.name,
            "kind": case.kind,
            "group": case.group,
            "figures": {},
            "left_out": {},
            **{key: before[key] for key in kept if key in before},
            "error": None,
        }

    def _edited(self, row: Row, case: Case, output: Path) -> dict:
        """Make the edit from its beginning, so that what it cost is that of a whole one."""
        for left in output.parent.iterdir():  # what a killed run was writing
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        backbone = self._backbone(row.backbone)
        result = run.edit(self.contest.task(row, case, output), backbone, judge_result=False)
        result.save()
        seconds = sum(v for stage, v in result.manifest["seconds"].items() if stage != "load")
        costs = {key: result.manifest[key] for key in COST}
        device = str(getattr(backbone, "device", "unknown"))
        return costs | {"seconds": round(seconds, 3), "device": device}

    def _backbone(self, name: str):
        """The one warm backbone."""
        if self.loaded is None or self.loaded.name != name:
            self.loaded = None
            gc.collect()
            contest = self.contest
            self.loaded = registry.load_backbone(
                name, contest.weights, contest.device, contest.dtype
            )
        return self.loaded

    def _pair(self, case: Case, edited: Path) -> Pair:
        return Pair(
            source=case.clip,
            edited=str(edited),
            mask=case.mask,
            truth=case.truth,
            source_text=case.source,
            target_text=case.target,
            local_text=case.local,
            judge=judge(case),
        )


def stored(case: Case, folder: Path) -> dict:
    """A case as bench.json holds it: files below the folder by their way from it, others by their whole path."""
    data = json.loads(json.dumps(dataclasses.asdict(case)))
    root = folder.resolve()
    for key in _files(data):
        if data[key]:
            path = Path(data[key]).resolve()
            data[key] = str(path.relative_to(root) if path.is_relative_to(root) else path)
    return data


def _files(data: dict) -> list[str]:
    """Under which keys a case has files: a mask may be a box."""
    box = data["mask"] and is_box(data["mask"])
    return [key for key in FILES if not (key == "mask" and box)]


def restored(data: dict, folder: Path) -> Case:
    files = {key: str(folder / data[key]) for key in _files(data) if data[key]}
    scene = tuple(data["scene"]) if data["scene"] else None
    return Case(**data | files | {"scene": scene})


def _joined(before: list, now: list) -> list:
    """What was planned before, and what is new."""
    return before + [item for item in now if item not in before]


def _refuse_changed(before: list[dict], now: list[dict]) -> None:
    """Raise ValueError where a case changed under its name."""
    gone = {case["name"] for case in before if case not in now}
    changed = sorted(case["name"] for case in now if case["name"] in gone)
    if changed:
        raise UserError(
            f"the cases {', '.join(changed[:3])} are not what they were when this folder was begun; "
            "give another folder"
        )
