"""A contact sheet: one clip edited in several ways, with one load and one encoding, and which one the measures prefer.

The measures: how well a result agrees with the target prompt by the model's own judgement (`agreement`), how much of
the source it keeps, and how much it flickers along the source's motion.
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

from ..base.errors import UserError
from ..base.files import atomic_write, write_json
from ..base.names import choose, list_modules
from ..base.schema import read_value
from ..media import fitting, images, video
from ..metrics.base import Tools
from ..metrics.compare import Pair, compare
from ..models import registry
from ..models.base import Backbone, BackboneWrapper, Prompt
from ..models.lru import get_or_make
from ..pipeline import run
from ..pipeline.events import ProgressCallback
from ..pipeline.task import EditTask
from ..pipeline.validation import ValidatedTask, validate

if TYPE_CHECKING:
    from PIL import Image

MOST = 100  # clips of one sheet
ENOUGH = 0.7  # of the best agreement
BETTER = {"agreement": "higher", "kept": "higher", "flicker": "lower"}
CELL, TEXT, EDGE = (
    240,
    44,
    6,
)  # pixels: a picture's width, the lines below it, the frame around the preferred one


@dataclass(frozen=True)
class Asked:
    """The ways to edit a clip: every method with every strength and every seed."""

    methods: tuple[str, ...]
    strengths: tuple[float | None, ...] = (None,)
    seeds: tuple[int, ...] = (0,)

    def ways(self) -> Iterator["Way"]:
        """Row by row of the sheet."""
        for method, strength in itertools.product(self.methods, self.strengths):
            yield from (Way(method, strength, seed) for seed in self.seeds)


@dataclass(frozen=True)
class Way:
    method: str
    strength: float | None
    seed: int

    @property
    def name(self) -> str:
        strength = "" if self.strength is None else f" strength {self.strength:g}"
        return f"{self.method}{strength} seed {self.seed}"


def asked(methods: str, strengths: str, seeds: str) -> Asked:
    """From texts: "flowedit,sdedit", "0.5,0.7" (empty: each method's own) and "0:4" or "0,7". Raises ValueError."""
    known = list_modules("holdfast.methods")
    names = tuple(choose(name, known, "method") for name in _parts(methods, "--method"))
    levels: tuple = (None,)
    if strengths.strip():
        levels = tuple(_number("strength", part) for part in _parts(strengths, "--strength"))
    found = Asked(names, levels, _seeds(seeds))
    count = len(names) * len(levels) * len(found.seeds)
    if count > MOST:
        raise UserError(f"a sheet has at most {MOST} clips, and this one would have {count}")
    return found


def _parts(text: str, flag: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts) or len(set(parts)) < len(parts):
        raise UserError(f"{flag} takes different values with commas, not {text!r}")
    return parts


def _number(name: str, text: str) -> Any:
    return read_value(EditTask, name, text)


def _seeds(text: str) -> tuple[int, ...]:
    first, colon, last = text.partition(":")
    if not colon:
        return tuple(_number("seed", part) for part in _parts(text, "--seed"))
    seeds = tuple(range(_number("seed", first or "0"), _number("seed", last)))
    if not seeds:
        raise UserError(f"--seed {text} is no seed: it takes A:B with A below B, or A,B,C")
    return seeds


class Once(BackboneWrapper):
    """A backbone that encodes each prompt once."""

    def __init__(self, inner: Backbone):
        super().__init__(inner)
        self.known: dict[tuple, Any] = {}

    def condition(self, prompt: Prompt) -> Any:
        if prompt.image is not None or prompt.latent is not None:
            return self.inner.condition(prompt)
        key = (prompt.text, prompt.negative, prompt.words)
        return get_or_make(self.known, [key], lambda _: [self.inner.condition(prompt)])[0]


@torch.no_grad()
def sheet(
    task: EditTask,
    ways: Asked,
    folder: Path,
    backbone: Backbone | None = None,
    report: ProgressCallback | None = None,
) -> dict:
    """Edit a clip in several ways into a folder; the record, which lies there as sheet.json beside sheet.png.

    task: what all have in common; its output's ending is that of the clips. Raises ValueError and Missing as
    an edit does.
    """
    tasks = {way: task_of(task, way, folder) for way in ways.ways()}
    for one in tasks.values():
        known = validate(one, backbone)
    model = Once(
        backbone or registry.load_backbone(task.backbone, task.weights, task.device, task.dtype)
    )
    known = dataclasses.replace(known, latent=encoded(known, model))
    record: dict[str, Any] = {"task": task.to_dict(), "clips": {}}
    for done, (way, one) in enumerate(tasks.items()):
        if report:
            report("clips", done, len(tasks))
        result = run.edit(one, model, validated=known)
        path = result.save()
        record["clips"][way.name] = _entry(path, result)
    if report:
        report("clips", len(tasks), len(tasks))
    record |= preferred({name: clip["figures"] for name, clip in record["clips"].items()})
    with atomic_write(folder / "sheet.png") as part:
        drawn(ways, record, known).save(part)
    write_json(folder / "sheet.json", record)
    return record


def task_of(task: EditTask, way: Way, folder: Path) -> EditTask:
    output = folder / f"{way.name}{Path(task.output).suffix or '.mp4'}"
    own = {"method": way.method, "strength": way.strength, "seed": way.seed}
    return dataclasses.replace(task, output=str(output), **own)


def encoded(known: ValidatedTask, model: Backbone) -> Tensor:
    """The clip's latent, as every edit of it would make it."""
    size = (known.clip.size[1], known.clip.size[0])
    fitted = fitting.choose_fit(model.clip_format, len(known.part), size)
    part = itertools.islice(video.read(known.clip), known.part.start, known.part.stop)
    return model.encode(fitted.to_model(images.to_tensor(array) for array in part))


def _entry(path: Path, result: run.Result) -> dict:
    """What the record has of one clip."""
    task, manifest = result.task, result.manifest
    found, _ = compare(Pair(task.input, str(path)), Tools(), ["warp_error"])
    (flicker,) = found.values() or (None,)
    kept = manifest["preservation"]
    judged = manifest["agreement"]
    figures = {
        "agreement": judged and judged["score"],
        "kept": kept["psnr"] if kept["psnr_outside"] is None else kept["psnr_outside"],
        "flicker": flicker,
    }
    cost = {name: manifest[name] for name in ("evaluations", "seconds")}
    return {"output": str(path), "figures": figures, **cost}


def preferred(figures: dict[str, dict[str, float | None]]) -> dict[str, Any]:
    """The clip of the least mean rank over the measures that all clips have, among those that agree with the target
    about as well as the best one does: a clip that goes half of the way keeps more of the source, and is not meant.
    """
    names = [m for m in BETTER if all(one[m] is not None for one in figures.values())]
    if len(figures) < 2 or not names:
        return {"preferred": None, "why": "there is nothing to compare", "ranks": {}}
    best = max(one["agreement"] or 0 for one in figures.values())
    enough = {n: (one["agreement"] or 0) >= ENOUGH * best > 0 for n, one in figures.items()}
    able = {name: one for name, one in figures.items() if enough[name]}
    field = able or figures
    ranks = {name: sum(_rank(field, name, m) for m in names) / len(names) for name in field}
    chosen = min(ranks, key=lambda name: ranks[name])
    why = f"least mean rank of {', '.join(names)}"
    if able:
        why += f", among the {len(able)} of {len(figures)} that agree most with the target"
    elif "agreement" in names:
        why += "; the model takes none of them for the target: more strength may help"
    else:
        why += "; nothing here tells whether the target was reached"
    return {"preferred": chosen, "why": why, "ranks": ranks}


def _rank(figures: dict, name: str, measure: str) -> float:
    """How many are better, ties counted half."""
    sign = 1 if BETTER[measure] == "higher" else -1
    own = sign * figures[name][measure]
    others = [sign * one[measure] for key, one in figures.items() if key != name]
    return sum(value > own for value in others) + 0.5 * sum(value == own for value in others)


def drawn(ways: Asked, record: dict, known: ValidatedTask) -> "Image.Image":
    """The middle frames of the edited part: the source above, below it a column for each seed; where there is one, for
    each strength.
    """
    from PIL import Image, ImageDraw, ImageFont

    clip, part = known.clip, known.part
    middle, scale = part[len(part) // 2], CELL / clip.size[0]
    high = round(clip.size[1] * scale) + TEXT + 2 * EDGE
    flat = list(ways.ways())
    columns = len(ways.seeds) if len(ways.seeds) > 1 else len(ways.strengths)
    rows = [flat[i : i + columns] for i in range(0, len(flat), columns)]
    width = (CELL + 2 * EDGE) * max(2, columns)
    picture = Image.new("RGB", (width, high * (len(rows) + 1)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)

    def place(frame: ndarray, column: int, row: int, lines: Sequence[str], chosen: bool) -> None:
        x, y = column * (CELL + 2 * EDGE), row * high
        if chosen:
            draw.rectangle((x, y, x + CELL + 2 * EDGE - 1, y + high - 1), fill=(32, 145, 80))
        cell = Image.fromarray(frame).resize((CELL, high - TEXT - 2 * EDGE))
        picture.paste(cell, (x + EDGE, y + EDGE))
        ink = "white" if chosen else (40, 40, 40)
        for i, line in enumerate(lines):
            draw.text((x + EDGE, y + high - TEXT - EDGE + 2 + 14 * i), line, fill=ink, font=font)

    place(_frame(clip, middle), 0, 0, ["source", record["task"]["source_prompt"][:60]], False)
    for row, column in itertools.product(range(len(rows)), range(columns)):
        way = rows[row][column]
        entry = record["clips"][way.name]
        frame = _frame(video.probe(entry["output"]), middle)
        lines = [way.name, *told(entry["figures"])]
        place(frame, column, row + 1, lines, way.name == record["preferred"])
    return picture


def _frame(clip: video.Clip, at: int) -> ndarray:
    return images.to_8_bit(next(itertools.islice(video.read(clip), at, None)))


def told(figures: dict[str, float | None]) -> list[str]:
    """A clip's figures in a line or two."""
    said = {name: "-" if value is None else f"{value:.3g}" for name, value in figures.items()}
    return [f"agreement {said['agreement']}", f"kept {said['kept']} dB, flicker {said['flicker']}"]
