"""Run a benchmark: variant x case. A finished cell is never run again; a killed run loses at most the current cell.

A cell that fails is recorded with its reason and counted, and does not stop the run.
"""

import dataclasses
import functools
import gc
import json
import math
import shutil
import traceback
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import metrics
from ..base.errors import MissingDependencyError, UserError
from ..base.files import write_json
from ..base.notices import warn_user
from ..metrics.base import MetricModels
from ..metrics.compare import ClipPair, compare_files
from ..models import registry
from ..pipeline import run
from ..pipeline.events import ProgressCallback
from ..pipeline.writer import RAW_STAGE
from . import provenance, records
from .datasets import make_case_judge
from .datasets.base import Case
from .external import ExternalResults
from .plan import BenchmarkPlan, Variant, raw_path
from .records import case_to_json, cell_folder, variant_to_json
from .rough_masks import SCRIBBLE, write_scribble

MASK_RULE = (
    "A method sees the benchmark's mask only if its name ends in +mask, and a rough one if it ends in +mask:ROUGH; "
    "the metrics always use the mask itself."
)
NAN_RULE = (
    "A value that is not defined for a clip (one frame has no next one, a full mask no outside) "
    "is empty and not part of the mean; n says how many clips a mean is over. "
    "PSNR is capped at 100 dB. A failed cell has no values and is counted under failed."
)
EXTERNAL_KEYS = ("file", "stamp", "sentence", "notes")  # of results made elsewhere
UNCOUNTED_STAGES = ("load", RAW_STAGE)  # the second is the benchmark's own wish
SAMPLING_KEYS = ("every", "count")  # of a plan; bench.json has those that are set
COSTS = ("frames", "seconds", "evaluations", "peak_memory_mb", "preservation")


def _current_provenance() -> dict[str, str | None]:
    return {
        "commit": provenance.commit(),
        "machine": provenance.machine(),
        "holdfast": metadata.version("holdfast"),
    }


@dataclass
class Benchmark:
    """A plan bound to a folder, metrics and their networks."""

    plan: BenchmarkPlan
    folder: Path
    models: MetricModels
    metrics: list[str] | None = None  # None: all that a case allows
    provenance: dict[str, str | None] = field(default_factory=_current_provenance)
    external: ExternalResults | None = None  # of variants that were made elsewhere

    def __post_init__(self):
        self.loaded: Any = None  # the backbone in memory

    def initialize(self, command: str) -> None:
        """Write bench.json. Raise UserError if the folder holds another benchmark."""
        self.plan.check_masks()
        self._match_earlier_cases()
        planned = self._plan_to_json()
        keys = ("dataset", "seed", "weights", "dtype", *SAMPLING_KEYS)
        fixed = {k: planned[k] for k in keys if k not in SAMPLING_KEYS or planned[k]}
        before: dict[str, Any] = {"rows": [], "cases": [], "commands": [], **fixed}
        before = records.read_benchmark(self.folder) or before
        for key in keys:
            if before.get(key) != planned[key]:
                raise UserError(
                    f"{self.folder} holds a benchmark with {key} {before.get(key)}, not {planned[key]}",
                    "choose another folder",
                )
        _check_cases_unchanged(before["cases"], planned["cases"])
        info = fixed | {
            "commands": _append_new(before["commands"], [command]),
            "rules": {"mask": MASK_RULE, "not a number": NAN_RULE},
            "rows": _append_new(before["rows"], planned["rows"]),
            "cases": _append_new(before["cases"], planned["cases"]),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "bench.json", info)

    def _match_earlier_cases(self) -> None:
        """Leave the edited frames out in a folder whose cases were stored without: its cells must stay comparable."""
        stored = (records.read_benchmark(self.folder) or {"cases": []})["cases"]
        known = {case["name"]: case for case in stored}
        bare = [dataclasses.replace(c, first_frame=None, keyframes=()) for c in self.plan.cases]
        is_older = any(
            known.get(case.name)
            == case_to_json(case, self.folder)
            != case_to_json(full, self.folder)
            for case, full in zip(bare, self.plan.cases, strict=True)
        )
        if not is_older:
            return
        self.plan = dataclasses.replace(self.plan, cases=tuple(bare))
        if any(variant.takes_first_frame for variant in self.plan.variants):
            warn_user(
                f"{self.folder} was started without edited first frames, so no method is given one: "
                "start a new folder to give all the same"
            )

    def _plan_to_json(self) -> dict[str, Any]:
        plan = json.loads(json.dumps(dataclasses.asdict(self.plan)))
        del plan["variants"], plan["weights_of"]
        plan["rows"] = [variant_to_json(variant) for variant in self.plan.variants]
        plan["cases"] = [case_to_json(case, self.folder) for case in self.plan.cases]
        return plan

    def run(
        self, report: ProgressCallback | None = None, retry: bool = False, again: bool = False
    ) -> dict[str, int]:
        """Run the cells that are not done. Return how many had each outcome.

        retry: run failed cells again; again: measure finished cells again (for example once CLIP is installed).
        """
        outcomes = ("edited", "measured again", "done before", "failed", "failed before")
        counts: dict[str, int] = dict.fromkeys(outcomes, 0)
        open_cells = []
        for variant, case in self.plan.cells():
            record = records.read_cell(cell_folder(self.folder, variant, case))
            if record and record.get("stamp") != self._stamp(variant, case):
                record = None  # another file has replaced the one that was measured
            if record and record["error"] and not retry:
                counts["failed before"] += 1
            elif record and not record["error"] and not again:
                counts["done before"] += 1
            else:
                open_cells.append((variant, case, record))
        for done, (variant, case, record) in enumerate(open_cells):
            if report:
                report("cells", done, len(open_cells))
            counts[self._run_cell(variant, case, record)] += 1
        if report and open_cells:
            report("cells", len(open_cells), len(open_cells))
        return counts

    def _run_cell(self, variant: Variant, case: Case, before: dict[str, Any] | None) -> str:
        """Run a cell and return its outcome."""
        if self._edit_and_measure(variant, case, before or {})["error"]:
            return "failed"
        return "measured again" if before and not before["error"] else "edited"

    def _edit_and_measure(self, variant: Variant, case: Case, before: dict[str, Any]) -> dict:
        """Make and measure a cell, and write its record last and whole. Earlier values are preserved."""
        place = cell_folder(self.folder, variant, case)
        place.mkdir(parents=True, exist_ok=True)
        edited = place / "edited.mkv"
        record = self._initial_record(variant, case, before)
        try:
            if not (before.keys() & {"seconds", "frames"} and edited.exists()):
                record |= self._make(variant, case, edited)
            pair = functools.partial(self._clip_pair, case)
            values, skipped = compare_files(pair(edited), self.models, self.metrics)
            if variant.has_raw_clip and raw_path(place).exists():  # an earlier version wrote none
                raw, _ = compare_files(pair(raw_path(place)), self.models, self.metrics)
                values |= {f"{metrics.RAW}{name}": value for name, value in raw.items()}
            for name, value in values.items():
                record["figures"][name] = None if math.isnan(value) else value
            selected = set(self.metrics or metrics.names())
            others = {k: v for k, v in record["left_out"].items() if k not in selected}
            record["left_out"] = others | skipped
        except Exception as error:  # a bug in one cell must not end the others
            record["error"] = f"{type(error).__name__}: {error}"
            if not isinstance(error, (UserError, MissingDependencyError, OSError)):
                record["traceback"] = traceback.format_exc()
        write_json(place / "cell.json", record)
        return record

    def _initial_record(self, variant: Variant, case: Case, before: dict[str, Any]) -> dict:
        """Return a cell's record with everything that an earlier run measured."""
        keys = (*COSTS, "figures", "left_out", "device", *EXTERNAL_KEYS, *self.provenance)
        stamp = self._stamp(variant, case)
        return {
            "row": variant.key,
            "case": case.name,
            "kind": case.kind,
            "group": case.group,
            "figures": {},
            "left_out": {},
            **{key: before[key] for key in keys if key in before},
            **({"stamp": stamp} if stamp else {}),
            "error": None,
        }

    def _stamp(self, variant: Variant, case: Case) -> str | None:
        """Return the stamp of the file that another editor made; None for an edit of ours."""
        return self.external.stamp(case) if self.external and variant.origin else None

    def _make(self, variant: Variant, case: Case, output: Path) -> dict[str, Any]:
        """Write the clip of a cell. Return its costs and where it comes from."""
        for path in output.parent.iterdir():  # files of a killed run
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not variant.origin:
            return self._edit(variant, case, output) | self.provenance
        assert self.external is not None, "only `bench add` plans results made elsewhere"
        # The machine that measures is not the one that edited.
        measured_by = {k: v for k, v in self.provenance.items() if k != "machine"}
        return self.external.make(variant, case, output) | measured_by

    def _edit(self, variant: Variant, case: Case, output: Path) -> dict[str, Any]:
        """Edit a clip from the start, so that the costs are those of a whole edit. Return them."""
        backbone = self._load_backbone(variant.backbone)
        if variant.rough_mask == SCRIBBLE:
            write_scribble(case, output.parent, self.plan.seed)
        result = run.edit(self.plan.task(variant, case, output), backbone, judge_result=False)
        result.save()
        stages = result.manifest["seconds"].items()
        seconds = sum(value for stage, value in stages if stage not in UNCOUNTED_STAGES)
        costs = {key: result.manifest[key] for key in COSTS}
        device = str(getattr(backbone, "device", "unknown"))
        return costs | {"seconds": round(seconds, 3), "device": device}

    def _load_backbone(self, name: str) -> Any:
        """Return a backbone; at most one is in memory."""
        if self.loaded is None or self.loaded.name != name:
            self.loaded = None
            gc.collect()
            plan = self.plan
            weights = plan.find_weights(name)
            self.loaded = registry.load_backbone(name, weights, plan.device, plan.dtype)
        return self.loaded

    def _clip_pair(self, case: Case, edited: Path) -> ClipPair:
        frames = self.plan.sampled_frames(case)
        return ClipPair(
            source=case.clip,
            edited=str(edited),
            mask=case.mask,
            truth=case.truth,
            source_prompt=case.source_prompt,
            target_prompt=case.target_prompt,
            object_prompt=case.object_prompt,
            judge=make_case_judge(case, frames),
            frames=frames,
        )


def _append_new(before: list, now: list) -> list:
    return before + [item for item in now if item not in before]


def _check_cases_unchanged(before: list[dict], now: list[dict]) -> None:
    """Raise UserError if a case changed but kept its name."""
    gone = {case["name"] for case in before if case not in now}
    changed = sorted(case["name"] for case in now if case["name"] in gone)
    if changed:
        raise UserError(
            f"the cases {', '.join(changed[:3])} have changed since this folder was started",
            "choose another folder",
        )
