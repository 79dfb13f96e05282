"""A paper's own comparison: its rows, settings, clips and metrics, and the figures that it printed.

Each paper is a file of data in `papers/`. Its rows run as the variants of a benchmark, and the table has the printed
line and ours for each row. Rows whose method does not exist here keep their printed line.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import methods
from ..base import names as base_names
from ..base.errors import MissingDependencyError, UserError
from ..base.intervals import Estimate
from ..metrics import RAW
from ..models import controlnets, registry
from ..pipeline.controls import DEFAULT_KIND
from .clip_selection import ClipSelection
from .plan import Variant, make_variants
from .results import Results

FOLDER = Path(__file__).parent / "papers"
NOT_HERE = "no such method in Holdfast"
HEAD = ("row", "metric", "printed", "here", "clips")


@dataclass(frozen=True)
class Column:
    """A printed metric. value: how our value's name begins; empty for an answer of people.

    scale: what ours is multiplied by. same_scale: whether both can be compared.
    """

    name: str
    metric: str = ""
    value: str = ""
    scale: float = 1.0
    same_scale: bool = True


@dataclass(frozen=True)
class PaperRow:
    """A row of a printed table. method: as `bench run` takes it; empty if it does not exist here.

    backbone: the model of a row that runs on another one than the paper's. missing: why it does not exist here.
    printed: a number for each column; empty where the paper prints none.
    """

    name: str
    method: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    printed: tuple[float, ...] = ()
    missing: str = NOT_HERE
    backbone: str = ""


@dataclass(frozen=True)
class PaperTable:
    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]


@dataclass(frozen=True)
class Paper:
    """What a paper states of its comparison. notes: what it leaves open, and what is chosen here."""

    name: str
    title: str
    backbone: str
    dataset: str
    selection: ClipSelection
    measure: Mapping[str, str]
    notes: tuple[str, ...]
    columns: Mapping[str, Column]
    tables: tuple[PaperTable, ...]

    def metric_names(self) -> list[str]:
        """Return the metrics that its columns need."""
        needed = (column.metric for column in self.columns.values() if column.metric)
        return list(dict.fromkeys(needed))

    def choose_tables(self, wanted: Sequence[str]) -> "Paper":
        """Return the paper with some of its tables; all for none. Raise UserError for an unknown name."""
        known = {table.name: table for table in self.tables}
        chosen = dict.fromkeys(base_names.choose(name, known, "table") for name in wanted)
        return replace(self, tables=tuple(known[name] for name in chosen)) if chosen else self


def names() -> list[str]:
    """Return the names of the papers."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def load(name: str) -> Paper:
    """Return a paper. Raise UserError with the nearest names for an unknown paper."""
    name = base_names.choose(name, names(), "paper")
    data = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    size = data.get("size")
    return Paper(
        name,
        data["title"],
        data["backbone"],
        data["dataset"],
        ClipSelection(data["frames"], data["spacing"], tuple(size) if size else None),
        data.get("measure", {}),
        tuple(data["notes"]),
        {name: Column(name, **column) for name, column in data["metrics"].items()},
        tuple(map(_make_table, data["tables"])),
    )


def _make_table(data: dict[str, Any]) -> PaperTable:
    rows = tuple(
        PaperRow(**row | {"printed": tuple(row.get("printed", ()))}) for row in data["rows"]
    )
    return PaperTable(data["name"], data["title"], tuple(data["columns"]), rows)


@dataclass(frozen=True)
class PlannedRow:
    """A row with the variant that runs it. reason: why nothing runs it."""

    row: PaperRow
    variant: Variant | None
    reason: str = ""


@dataclass(frozen=True)
class PaperPlan:
    """A paper on a backbone, whose rows are planned by the name of their table."""

    paper: Paper
    backbone: str
    rows: Mapping[str, tuple[PlannedRow, ...]]

    def variants(self) -> tuple[Variant, ...]:
        """Return each variant once: tables share rows."""
        planned = (row.variant for rows in self.rows.values() for row in rows)
        return tuple(dict.fromkeys(variant for variant in planned if variant))

    def missing(self) -> dict[str, str]:
        """Return the reason of each row that does not run, by its name."""
        rows = (row for rows in self.rows.values() for row in rows)
        return {planned.row.name: planned.reason for planned in rows if not planned.variant}


def make_plan(paper: Paper, backbone: str) -> PaperPlan:
    """Plan a paper's rows on a backbone. Raise UserError if no row can run there, other models aside."""
    backbone = registry.choose_backbone(backbone)[0]
    plan = PaperPlan(
        paper,
        backbone,
        {
            table.name: tuple(_plan_row(row, backbone) for row in table.rows)
            for table in paper.tables
        },
    )
    if all(variant.backbone != backbone for variant in plan.variants()):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in plan.missing().items())
        raise UserError(
            f"no row of {paper.name} can run on {backbone} ({reasons})", "use --backbone"
        )
    return plan


def _plan_row(row: PaperRow, backbone: str) -> PlannedRow:
    if not row.method:
        return PlannedRow(row, None, row.missing)
    backbone = choose_row_backbone(row, backbone)
    needs = methods.load(row.method.partition("+")[0]).METHOD
    absent = needs.missing(registry.specs()[backbone].capabilities)
    if absent:
        return PlannedRow(row, None, f"{backbone} lacks {' and '.join(sorted(absent))}")
    sweep = {key: [value] for key, value in row.settings.items()}
    (variant,) = make_variants([row.method], [backbone], sweep)
    return PlannedRow(row, variant)


def choose_row_backbone(row: PaperRow, backbone: str) -> str:
    """Return the model of a row: its own, or the backbone that runs the paper.

    Next to an embedded model, a row of another family runs on that family's embedded one.
    """
    if not row.backbone:
        return backbone
    specs, (own, family) = registry.specs(), registry.choose_backbone(row.backbone)
    embedded = [name for name, spec in family.specs.items() if not spec.download_gb]
    return embedded[0] if embedded and not specs[backbone].download_gb else own


def leave_out_missing(plan: PaperPlan) -> PaperPlan:
    """Return a plan without the rows that need another model than the paper's, or a ControlNet, that is not here."""

    def check(planned: PlannedRow) -> PlannedRow:
        try:
            if planned.variant:
                _find_row_weights(planned.variant, plan.backbone)
        except MissingDependencyError as error:
            return PlannedRow(planned.row, None, str(error))
        return planned

    rows = {table: tuple(map(check, planned)) for table, planned in plan.rows.items()}
    return replace(plan, rows=rows)


def _find_row_weights(variant: Variant, backbone: str) -> None:
    """Raise MissingDependencyError if a row needs weights that are not here, those of the paper's model aside."""
    if variant.backbone != backbone:
        registry.find_weights(variant.backbone)
    if "control" in methods.load(variant.method).METHOD.requires:
        controlnets.find_controlnet(registry.specs()[variant.backbone], DEFAULT_KIND)


@dataclass(frozen=True)
class Line:
    """A figure of a row: as it was printed, and here. None: missing."""

    row: str
    column: Column
    printed: float | None
    here: Estimate | None

    def cells(self) -> tuple[str, str, str, str, str]:
        """Return row, metric, the printed figure, ours with its interval, and over how many clips ours is."""
        printed = "–" if self.printed is None else f"{self.printed:g}"
        if self.here is None:
            return self.row, self.column.name, printed, "–", ""
        other_scale = "" if self.column.same_scale else " (another scale)"
        here = self.here.interval_text() + other_scale
        return self.row, self.column.name, printed, here, str(self.here.n)


def compare(plan: PaperPlan, table: PaperTable, results: Results) -> list[Line]:
    """Return each figure of a table: of each row, and of each column that the paper or this benchmark fills."""
    columns = [plan.paper.columns[name] for name in table.columns]
    lines: list[Line] = []
    for planned in plan.rows[table.name]:
        variant = planned.variant or _find_added(planned.row, results)
        printed = planned.row.printed or (None,) * len(columns)
        for column, value in zip(columns, printed, strict=True):
            here = estimate_column(results, variant, column) if variant else None
            lines.append(Line(planned.row.name, column, value, here))
    return lines


def _find_added(row: PaperRow, results: Results) -> Variant | None:
    """Return another editor's clips under a row's name, as `bench add` records them."""
    same = base_names.normalize(row.name)
    added = (variant for variant in results.variants if variant.origin == "raw")
    return next((v for v in added if base_names.normalize(v.method) == same), None)


def estimate_column(results: Results, variant: Variant, column: Column) -> Estimate | None:
    """Estimate our figure of a column; None for answers of people, and where nothing is measured.

    A value of the raw clip, which the papers measure, is preferred to that of the delivered clip.
    """
    found = [n for n in results.metric_names if column.value and _matches(n, column.value)]
    for name in sorted(found, key=lambda name: not name.startswith(RAW)):
        estimate = results.estimate(variant, name)
        if estimate:
            return replace(
                estimate,
                mean=column.scale * estimate.mean,
                low=column.scale * estimate.low,
                high=column.scale * estimate.high,
            )
    return None


def _matches(name: str, value: str) -> bool:
    """Return whether a value's name is that of a column: its base name, and its variant where the column has one."""
    name = name.removeprefix(RAW)
    return name.startswith(value) and name[len(value) : len(value) + 1] in ("", "@", ",", "/")


def format_page(plan: PaperPlan, results: Results, facts: Iterable[str]) -> str:
    """Format all tables as Markdown, with what does not exist here and what the paper leaves open."""
    parts = [f"# {plan.paper.title}", *facts]
    for table in plan.paper.tables:
        lines = [_table_line(HEAD), "|" + "---|" * len(HEAD)]
        lines += [_table_line(line.cells()) for line in compare(plan, table, results)]
        parts += [f"## {table.title}", "\n".join(lines)]
    missing = [f"- {name}: {reason}" for name, reason in plan.missing().items()]
    if missing:
        parts += ["## Rows of the paper that do not run here", "\n".join(missing)]
    parts += ["## What the paper leaves open", "\n".join(f"- {note}" for note in plan.paper.notes)]
    return "\n\n".join(parts) + "\n"


def _table_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
