"""Results of a benchmark's folder: means with intervals over clips, paired differences, and the best variants."""

import copy
import itertools
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.intervals import SMALL_SAMPLE_NOTE, Estimate, estimate, estimate_difference
from ..metrics import RAW, base_name, direction, is_rate
from . import records
from .datasets.base import Case
from .plan import Variant, applies

# The first values of a table, by base name.
FIRST = (
    "edit_success",
    "truth_psnr",
    "truth_gain_db",
    "edit_energy_outside",
    "clip_t",
    "local_clip_t",
    "psnr_outside",
)
COSTS = ("seconds", "peak_memory_mb")
SHOWN = 5  # names in a note
EXTERNAL_RULE = (
    "Results marked as not made here are another editor's clips: they have no settings and no costs here. "
    "Raw: the clip as it is, resized to the source's size; if its number of frames differs, its frames at the "
    "source's times, both beginning together, for as long as it lasts. "
    "Kept: the source with the editor's change, by holdfast keep."
)
RAW_RULE = (
    "A value that begins with raw measures what the method left, as the papers do; the others measure what is "
    "delivered, after the mask put the source back. Without a mask both are one clip, measured once."
)
MACHINE = ("machine", "device")  # costs of cells are compared only if these are equal


def list_some(names: Iterable[str]) -> str:
    """Return names with commas, and how many more there are after a few."""
    names = list(names)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def is_finished(record: dict[str, Any] | None) -> bool:
    """Return whether a cell has values."""
    return record is not None and not record["error"]


def is_one_clip(variant: Variant) -> bool:
    """Return whether what is delivered is what the method left."""
    return variant.origin == "raw" or not (variant.has_raw_clip or variant.origin)


def machine_of(record: dict[str, Any]) -> tuple:
    return tuple(record.get(key) for key in MACHINE)


def value_of(record: dict[str, Any], metric: str) -> float | None:
    """Return the value of a metric or of a cost in a cell's record."""
    return record.get(metric) if metric in COSTS else record["figures"].get(metric)


class Results:
    """The records of a benchmark's folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        info = records.read_benchmark(folder)
        if info is None:
            raise UserError(
                f"{folder} holds no benchmark",
                f"make one with: holdfast bench run DATASET -o {folder}",
            )
        self.info = info
        self.variants = [records.variant_from_json(data) for data in self.info["rows"]]
        self.cases = [records.case_from_json(data, folder) for data in self.info["cases"]]

    @cached_property
    def records(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Records by variant and case. A cell that has not run is missing."""
        found = {}
        for variant in self.variants:
            for case in self.cases:
                record = records.read_cell(records.cell_folder(self.folder, variant, case))
                if record:
                    found[variant.label, case.name] = record
        self._share_raw_values(found)
        return found

    def _share_raw_values(self, found: dict[tuple[str, str], dict[str, Any]]) -> None:
        """Repeat values under their raw names where raw and delivered are one clip, so that variants compare."""
        figures = [record["figures"] for record in found.values()]
        all_names = itertools.chain.from_iterable(figures)
        names = dict.fromkeys(name for name in all_names if name.startswith(RAW))  # in order
        for variant, case in itertools.product(self.variants, self.cases):
            record = found.get((variant.label, case.name))
            if record and is_one_clip(variant):
                values = record["figures"]
                own = {name: values.get(name.removeprefix(RAW)) for name in names}
                values |= {name: value for name, value in own.items() if value is not None}

    @cached_property
    def metric_names(self) -> list[str]:
        """Names of all values in any cell: those of FIRST, then the others, then the costs."""
        names: dict[str, None] = {}
        for record in self.records.values():
            names |= dict.fromkeys(record["figures"])

        def rank(name: str) -> int:
            return FIRST.index(base_name(name)) if base_name(name) in FIRST else len(FIRST)

        return [*sorted(names, key=rank), *COSTS]

    def record(self, variant: Variant, case: Case) -> dict[str, Any] | None:
        return self.records.get((variant.label, case.name))

    def records_for(self, variant: Variant) -> list[dict[str, Any]]:
        """Return the records of a variant, in the order of the cases."""
        found = (self.record(variant, case) for case in self.cases)
        return [record for record in found if record]

    def finished_cases(self) -> list[Case]:
        """Return the cases that at least one variant has finished."""
        return [
            case
            for case in self.cases
            if any(is_finished(self.record(variant, case)) for variant in self.variants)
        ]

    def values(self, variant: Variant, metric: str) -> dict[str, float]:
        """Return the values of a metric by case. Costs are those of one machine only."""
        values = {}
        for record in self.records_for(variant):
            value = value_of(record, metric)
            if is_finished(record) and value is not None and self._is_comparable(record, metric):
                values[record["case"]] = float(value)
        return values

    def _is_comparable(self, record: dict[str, Any], metric: str) -> bool:
        return metric not in COSTS or machine_of(record) == self.machines[0][0]

    @cached_property
    def machines(self) -> list[tuple[tuple, int]]:
        """Machine and device of the finished cells, with how many each has; most first."""
        finished = (r for r in self.records.values() if is_finished(r) and "seconds" in r)
        return Counter(map(machine_of, finished)).most_common()

    @property
    def costs_note(self) -> str:
        """Which costs are left out; empty if all cells ran on one machine."""
        if len(self.machines) < 2:
            return ""
        (used, count), *others = self.machines
        rest = " and ".join(f"{number} on {_machine_text(other)}" for other, number in others)
        return (
            f"Seconds and memory are over {count} cells that ran on {_machine_text(used)}; those of "
            f"{rest} are left out, because costs on different machines are not comparable."
        )

    def estimate(self, variant: Variant, metric: str) -> Estimate | None:
        return estimate(self.values(variant, metric).values(), is_rate(metric))

    def difference(self, variant: Variant, baseline: Variant, metric: str) -> Estimate | None:
        """Estimate the paired difference over the cases that both have."""
        ours, theirs = self.values(variant, metric), self.values(baseline, metric)
        pairs = [ours[case] - theirs[case] for case in ours if case in theirs]
        return estimate_difference(pairs, is_rate(metric))

    def counts(self, variant: Variant) -> dict[str, int]:
        """Return how many cells of a variant are done, failed and not done."""
        cells = self.records_for(variant)
        finished = sum(is_finished(record) for record in cells)
        return {
            "done": finished,
            "failed": len(cells) - finished,
            "not done": sum(
                applies(variant, case) and not self.record(variant, case) for case in self.cases
            ),
        }

    @property
    def raw_note(self) -> str:
        """What a raw value measures; empty without any."""
        return RAW_RULE if any(name.startswith(RAW) for name in self.metric_names) else ""

    @cached_property
    def kinds(self) -> list[str]:
        """The kinds of edit of the cases, in their order; empty if all are of one kind."""
        kinds = list(dict.fromkeys(case.kind for case in self.cases))
        return kinds if len(kinds) > 1 else []

    @property
    def main_metric_names(self) -> list[str]:
        """Names of the values that tables show for each kind of edit."""
        return [name for name in self.metric_names if base_name(name) in FIRST]

    def of_kind(self, kind: str) -> "Results":
        """Return the results of one kind of edit. Which costs are comparable is decided over all kinds."""
        _ = self.records  # read once: the copy keeps them
        part = copy.copy(self)
        part.cases = [case for case in self.cases if case.kind == kind]
        return part

    @property
    def external_note(self) -> str:
        """Where results made elsewhere come from, and which clips they lack; empty without any."""
        external = [variant for variant in self.variants if variant.origin]
        if not external:
            return ""
        lacking = {variant.key: self._cases_without_record(variant) for variant in external}
        missing = "; ".join(f"{key}: {list_some(names)}" for key, names in lacking.items() if names)
        return EXTERNAL_RULE + (f" Clips without a result: {missing}." if missing else "")

    def _cases_without_record(self, variant: Variant) -> list[str]:
        return [case.name for case in self.cases if not self.record(variant, case)]

    def failures(self) -> list[tuple[str, str, str]]:
        """Return variant, case and reason of each failed cell."""
        return [
            (*cell, record["error"]) for cell, record in self.records.items() if record["error"]
        ]

    def missing_metrics(self) -> dict[str, str]:
        """Return metrics whose weights or packages were missing in every cell, with the reason."""
        skipped = [record["left_out"] for record in self.records.values() if is_finished(record)]
        if not skipped:
            return {}
        return {
            name: reason
            for name, reason in skipped[0].items()
            if all(name in reasons for reasons in skipped) and not reason.startswith("needs ")
        }

    @cached_property
    def provenance_text(self) -> str:
        """The version, commit and machine that made the cells."""
        version = ", ".join(self._distinct("holdfast"))
        commits = ", ".join(self._distinct("commit"))
        machines = " and ".join(self._distinct("machine"))
        return f"Holdfast {version}, commit {commits}; {machines}"

    def _distinct(self, key: str) -> list[str]:
        return sorted({str(record[key]) for record in self.records.values() if key in record})

    def find_best(self, metric: str) -> set[str]:
        """Return the labels of the best variant over the shared cases and of all that are not significantly worse.

        Significance is by the paired difference. Empty if there is nothing to compare.
        """
        values, cases = self.comparable_values(metric)
        if not direction(metric) or len(values) < 2 or len(cases) < 2:
            return set()
        sign = 1 if direction(metric) == "higher" else -1
        totals = {label: sum(sign * own[case] for case in cases) for label, own in values.items()}
        top = max(totals, key=totals.__getitem__)
        best = {top}
        for label, own in values.items():
            lead = [sign * (values[top][case] - own[case]) for case in cases]
            difference = estimate_difference(lead, is_rate(metric))
            if difference is None or not difference.low > 0:
                best.add(label)
        return best

    def comparable_values(self, metric: str) -> tuple[dict[str, dict[str, float]], list[str]]:
        """Return the values that `find_best` compares, by variant and case, and the cases that they share.

        A variant with less than half as many values as the fullest one is left out: few shared cases would remain.
        """
        values = {variant.label: self.values(variant, metric) for variant in self.variants}
        most = max(map(len, values.values()), default=0)
        values = {label: own for label, own in values.items() if own and 2 * len(own) >= most}
        cases = [c.name for c in self.cases if all(c.name in own for own in values.values())]
        return values, cases

    @property
    def best_note(self) -> str:
        """What a mark means, and over how many clips."""
        metrics = [metric for metric in self.metric_names if self.find_best(metric)]
        sizes = [len(self.comparable_values(metric)[1]) for metric in metrics]
        if not sizes:
            return "Nothing is marked as best: no two variants share enough clips."
        count = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
        return (
            f"Marked are the best over the clips that the variants share ({count}) and all that are "
            "not significantly worse there, by the paired difference; means are over all clips of a variant."
        )

    @property
    def small_sample_note(self) -> str:
        """A warning if an interval is over few clips."""
        estimates = (
            self.estimate(variant, metric)
            for variant in self.variants
            for metric in self.metric_names
        )
        return SMALL_SAMPLE_NOTE if any(one and one.is_small_sample for one in estimates) else ""

    def find_variant(self, name: str | None) -> Variant:
        """Return a variant by its label, or by the method's name if that is unique; the first one for None.

        Raise UserError if no single variant matches.
        """
        if name is None:
            return self.variants[0]
        matches = [variant for variant in self.variants if name in variant.names()]
        if len(matches) != 1:
            labels = ", ".join(variant.label for variant in self.variants)
            raise UserError(f"no unique variant matches {name!r}", f"choose one of: {labels}")
        return matches[0]


def _machine_text(place: tuple) -> str:
    machine, device = place
    return f"{machine or 'an unknown machine'}, {device or 'unknown device'}"
