"""A contact sheet: one clip edited in several ways with one load and one encoding, and the best of them by measures.

The measures: how well a result matches the target prompt by the model's own judgement (`agreement`), how much of the
source it preserves (`kept`), and how much it flickers along the source's motion.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy import ndarray
from torch import Tensor

from .. import methods
from ..base.errors import UserError
from ..base.files import atomic_write, write_json
from ..base.names import choose
from ..base.schema import read_value
from ..media import fitting, images, video
from ..metrics.base import MetricModels
from ..metrics.compare import ClipPair, compare_files
from ..models.base import Backbone, BackboneWrapper, Prompt
from ..models.lru import get_or_make
from ..models.source_store import SourceStore
from ..pipeline import run
from ..pipeline.events import ProgressCallback
from ..pipeline.loading import load_for_task
from ..pipeline.task import EditTask
from ..pipeline.validation import ValidatedTask, validate

if TYPE_CHECKING:
    from PIL import Image

MAX_CLIPS = 100  # of one sheet
ENOUGH = 0.7  # of the best agreement
DIRECTIONS = {"agreement": "higher", "kept": "higher", "flicker": "lower"}
CELL_WIDTH, TEXT_HEIGHT, BORDER = 240, 44, 6  # pixels: a picture, the lines below it, its frame
COSTS = ("evaluations", "reused_evaluations", "dense_equivalents", "seconds")
HIGHLIGHT = (32, 145, 80)

Measures = dict[str, float | None]  # by name


@dataclass(frozen=True)
class SheetEntry:
    """One way to edit the clip."""

    method: str
    strength: float | None
    seed: int

    @property
    def name(self) -> str:
        strength = "" if self.strength is None else f" strength {self.strength:g}"
        return f"{self.method}{strength} seed {self.seed}"


@dataclass(frozen=True)
class Sweep:
    """The ways to edit the clip: every method with every strength and every seed."""

    methods: tuple[str, ...]
    strengths: tuple[float | None, ...] = (None,)
    seeds: tuple[int, ...] = (0,)

    def entries(self) -> Iterator[SheetEntry]:
        """Iterate row by row of the sheet."""
        for method, strength in itertools.product(self.methods, self.strengths):
            yield from (SheetEntry(method, strength, seed) for seed in self.seeds)

    @property
    def columns(self) -> int:
        return len(self.seeds) if len(self.seeds) > 1 else len(self.strengths)


def parse_sweep(method_names: str, strengths: str, seeds: str) -> Sweep:
    """Parse "flowedit,sdedit", "0.5,0.7" (empty: each method's own) and "0:4" or "0,7". Raise UserError."""
    known = methods.names()
    names = tuple(choose(name, known, "method") for name in _split(method_names, "--method"))
    chosen: tuple = (None,)
    if strengths.strip():
        chosen = tuple(_number("strength", part) for part in _split(strengths, "--strength"))
    sweep = Sweep(names, chosen, _parse_seeds(seeds))
    count = len(names) * len(chosen) * len(sweep.seeds)
    if count > MAX_CLIPS:
        raise UserError(f"the sheet would have {count} clips", f"choose at most {MAX_CLIPS} clips")
    return sweep


def _split(text: str, flag: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts) or len(set(parts)) < len(parts):
        raise UserError(f"{flag} is {text!r}", "use different values, separated by commas")
    return parts


def _number(name: str, text: str) -> Any:
    return read_value(EditTask, name, text)


def _parse_seeds(text: str) -> tuple[int, ...]:
    first, colon, last = text.partition(":")
    if not colon:
        return tuple(_number("seed", part) for part in _split(text, "--seed"))
    seeds = tuple(range(_number("seed", first or "0"), _number("seed", last)))
    if not seeds:
        raise UserError(f"--seed {text} contains no seed", "use A:B with A below B, or A,B,C")
    return seeds


class CachedPrompts(BackboneWrapper):
    """A backbone that encodes each prompt once."""

    def __init__(self, inner: Backbone):
        super().__init__(inner)
        self.conditions: dict[tuple, Any] = {}

    def condition(self, prompt: Prompt) -> Any:
        if prompt.image is not None or prompt.latent is not None:
            return self.inner.condition(prompt)
        key = (prompt.text, prompt.negative, prompt.words)
        return get_or_make(self.conditions, [key], lambda _: [self.inner.condition(prompt)])[0]


@torch.no_grad()
def make_sheet(
    task: EditTask,
    sweep: Sweep,
    folder: Path,
    backbone: Backbone | None = None,
    report: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Edit a clip in several ways into a folder. Return the record, which is also sheet.json next to sheet.png.

    task: the fields that all edits share; the extension of its output is that of the clips. Raise UserError and
    MissingDependencyError as an edit does.
    """
    tasks = {entry: make_task(task, entry, folder) for entry in sweep.entries()}
    validated = [validate(one, backbone) for one in tasks.values()][-1]
    model = CachedPrompts(backbone or load_for_task(next(iter(tasks.values()))))
    model.source_store = SourceStore(model)
    validated = dataclasses.replace(validated, latent=encode_source(validated, model))
    record: dict[str, Any] = {"task": task.to_dict()}
    # One seed after another: edits with the same noise share the source's evaluations.
    found = {}
    for done, entry in enumerate(sorted(tasks, key=lambda entry: entry.seed)):
        if report:
            report("clips", done, len(tasks))
        result = run.edit(tasks[entry], model, validated=validated)
        found[entry] = _clip_record(result.save(), result)
    record["clips"] = {entry.name: found[entry] for entry in tasks}
    if report:
        report("clips", len(tasks), len(tasks))
    record |= choose_preferred({name: clip["figures"] for name, clip in record["clips"].items()})
    with atomic_write(folder / "sheet.png") as part:
        draw_sheet(sweep, record, validated).save(part)
    write_json(folder / "sheet.json", record)
    return record


def make_task(task: EditTask, entry: SheetEntry, folder: Path) -> EditTask:
    """Return the task of one way to edit the clip."""
    output = folder / f"{entry.name}{Path(task.output).suffix or '.mp4'}"
    own = {"method": entry.method, "strength": entry.strength, "seed": entry.seed}
    return dataclasses.replace(task, output=str(output), **own)


def encode_source(validated: ValidatedTask, model: Backbone) -> Tensor:
    """Encode the clip as every edit of it would."""
    size = (validated.clip.size[1], validated.clip.size[0])
    fitted = fitting.choose_fit(model.clip_format, len(validated.part), size)
    part = itertools.islice(video.read(validated.clip), validated.part.start, validated.part.stop)
    return model.encode(fitted.to_model(images.to_tensor(array) for array in part))


def _clip_record(path: Path, result: run.Result) -> dict[str, Any]:
    """Measure one clip and return its part of the record."""
    task, manifest = result.task, result.manifest
    sampling = result.clip.sampling
    pair = ClipPair(task.input, str(path), frames=sampling.frames if sampling else ())
    values, _ = compare_files(pair, MetricModels(), ["warp_error"])
    (flicker,) = values.values() or (None,)
    preservation = manifest["preservation"]
    agreement = manifest["agreement"]
    outside = preservation["psnr_outside"]
    measures = {
        "agreement": agreement and agreement["score"],
        "kept": preservation["psnr"] if outside is None else outside,
        "flicker": flicker,
    }
    costs = {name: manifest[name] for name in COSTS}
    return {"output": str(path), "figures": measures, **costs}


def choose_preferred(measures: dict[str, Measures]) -> dict[str, Any]:
    """Choose the clip with the lowest mean rank over the measures that all clips have.

    Only clips that agree with the target about as well as the best one compete: a clip that changes too little
    preserves more of the source, but is not the edit that was asked for.
    """
    names = [name for name in DIRECTIONS if all(one[name] is not None for one in measures.values())]
    if len(measures) < 2 or not names:
        return {"preferred": None, "why": "there is nothing to compare", "ranks": {}}
    agreements = {clip: one["agreement"] or 0 for clip, one in measures.items()}
    threshold = ENOUGH * max(agreements.values())
    able = {clip: one for clip, one in measures.items() if agreements[clip] >= threshold > 0}
    compared = able or measures
    ranks = {
        clip: sum(_rank(compared, clip, name) for name in names) / len(names) for clip in compared
    }
    best = min(ranks, key=lambda clip: ranks[clip])
    why = f"best overall by {', '.join(names)} (lowest mean rank)"
    if able:
        why += f", among the {len(able)} of {len(measures)} that agree most with the target"
    elif "agreement" in names:
        why += "; the model recognises the target in none of them: more strength may help"
    else:
        why += "; no measure shows whether the target was reached"
    return {"preferred": best, "why": why, "ranks": ranks}


def _rank(measures: dict[str, Measures], clip: str, name: str) -> float:
    """Return how many clips are better by a measure; ties count half."""
    sign = 1 if DIRECTIONS[name] == "higher" else -1
    values = {key: sign * (one[name] or 0.0) for key, one in measures.items()}
    own = values.pop(clip)
    return sum(value > own for value in values.values()) + 0.5 * sum(
        value == own for value in values.values()
    )


def draw_sheet(sweep: Sweep, record: dict[str, Any], validated: ValidatedTask) -> "Image.Image":
    """Draw the middle frames of the edited part: the source on top, and below it a row for each method and strength.

    Columns are seeds, or strengths if there is one seed.
    """
    clip, part = validated.clip, validated.part
    middle = part[len(part) // 2]
    entries = list(sweep.entries())
    rows = [entries[i : i + sweep.columns] for i in range(0, len(entries), sweep.columns)]
    scale = CELL_WIDTH / clip.size[0]
    height = round(clip.size[1] * scale)
    canvas = _Canvas(max(2, sweep.columns), len(rows) + 1, height)
    canvas.draw(_frame(clip, middle), 0, 0, ["source", record["task"]["source_prompt"][:60]])
    for row, column in itertools.product(range(len(rows)), range(sweep.columns)):
        entry = rows[row][column]
        result = record["clips"][entry.name]
        frame = _frame(video.probe(result["output"]), middle)
        lines = [entry.name, *format_measures(result["figures"])]
        canvas.draw(frame, column, row + 1, lines, entry.name == record["preferred"])
    return canvas.picture


class _Canvas:
    """A picture of cells, each with a frame and lines of text below it."""

    def __init__(self, columns: int, rows: int, frame_height: int):
        from PIL import Image, ImageDraw, ImageFont

        self.frame_height = frame_height
        self.width = CELL_WIDTH + 2 * BORDER
        self.height = frame_height + TEXT_HEIGHT + 2 * BORDER
        self.picture = Image.new("RGB", (self.width * columns, self.height * rows), "white")
        self.pen, self.font = ImageDraw.Draw(self.picture), ImageFont.load_default(13)

    def draw(
        self, frame: ndarray, column: int, row: int, lines: Sequence[str], is_best: bool = False
    ) -> None:
        from PIL import Image

        x, y = column * self.width, row * self.height
        if is_best:
            corners = (x, y, x + self.width - 1, y + self.height - 1)
            self.pen.rectangle(corners, fill=HIGHLIGHT)
        cell = Image.fromarray(frame).resize((CELL_WIDTH, self.frame_height))
        self.picture.paste(cell, (x + BORDER, y + BORDER))
        ink = "white" if is_best else (40, 40, 40)
        top = y + self.height - TEXT_HEIGHT - BORDER + 2
        for i, line in enumerate(lines):
            self.pen.text((x + BORDER, top + 14 * i), line, fill=ink, font=self.font)


def _frame(clip: video.Clip, index: int) -> ndarray:
    return images.to_8_bit(next(itertools.islice(video.read(clip), index, None)))


def format_measures(measures: Measures) -> list[str]:
    """Format a clip's measures in two lines."""
    texts = {name: "-" if value is None else f"{value:.3g}" for name, value in measures.items()}
    return [
        f"agreement {texts['agreement']}",
        f"kept {texts['kept']} dB, flicker {texts['flicker']}",
    ]
