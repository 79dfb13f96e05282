"""Results made elsewhere: an editor's clips become variants of a benchmark, as they are (raw) and after keep (kept).

Raw clips are measured at the source's size. A clip with as many frames as the source is compared frame by frame; any
other shows the frame of each of the source's moments, both clips beginning together, for as long as it lasts.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from ..base.notices import collect_notices, warn_user
from ..conform.task import KeepTask
from ..media import video
from ..media.image_files import is_system_file
from ..metrics import base_name, find
from ..metrics import names as metric_names
from ..pipeline.task import file_stamp
from .datasets.base import Case, file_name
from .plan import ORIGINS, BenchmarkPlan, Origin, Variant
from .results import Results, list_some

SIDE_FILES = {".json", ".txt", ".md", ".csv", ".yaml", ".yml", ".wav", ".mp3", ".srt"}
TOLERANCE = 0.002  # seconds: containers round times to a thousandth


@dataclass(frozen=True)
class ExternalResults:
    """The files of an editor, by the names of their cases."""

    files: dict[str, Path]

    def stamp(self, case: Case) -> str:
        """Return a hash of a case's file, to notice that it was replaced."""
        return file_stamp(self.files[case.name])

    def make(self, variant: Variant, case: Case, output: Path) -> dict[str, Any]:
        """Write the clip that is measured. Return what the cell's record says of it."""
        file = self.files[case.name]
        with collect_notices() as notices:
            made = (make_kept if variant.origin == "kept" else make_raw)(case, file, output)
        return made | {"file": str(file), "notes": notices}


def plan_results(
    results: Results, name: str, folder: Path, origins: Iterable[Origin] = ORIGINS
) -> tuple[BenchmarkPlan, ExternalResults, list[str]]:
    """Plan the cells of an editor's results in a benchmark's folder. Also return the names of cases without a file.

    Raise UserError for a name that cannot be one, and where no file belongs to a case.
    """
    variants = tuple(Variant(name.strip(), "", origin=origin) for origin in origins)
    if not variants:
        raise UserError(
            "neither raw nor kept results are wanted", "leave out --no-raw or --no-kept"
        )
    _check_name(name, variants, results.variants)
    files = find_results(folder, [case.name for case in results.cases])
    cases = tuple(case for case in results.cases if case.name in files)
    missing = [case.name for case in results.cases if case.name not in files]
    info = results.info
    plan = BenchmarkPlan(
        info["dataset"],
        variants,
        cases,
        info["seed"],
        info["weights"],
        dtype=info["dtype"],
        every=info.get("every"),
        count=info.get("count"),
    )
    return plan, ExternalResults(files), missing


def _check_name(name: str, variants: Iterable[Variant], existing: Iterable[Variant]) -> None:
    """Raise UserError for a name that is empty, or whose folder is that of another variant."""
    if not name.strip() or not name.isprintable():
        raise UserError(f"the name of the results is {name!r}", "use the editor's name")
    folders = {file_name(variant.key): variant.key for variant in existing}
    for variant in variants:
        other = folders.get(file_name(variant.key), variant.key)
        if other != variant.key:
            raise UserError(f"{name!r} would have the folder of {other!r}", "choose another name")


def find_results(folder: Path, cases: list[str]) -> dict[str, Path]:
    """Return the file, or folder of images, of each case that has one: it has the case's name, with any suffix.

    Files of no case are announced. Raise UserError without any match, and for two files of one case.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    found: dict[str, Path] = {}
    others: list[str] = []
    for path in sorted(folder.iterdir()):
        if is_system_file(path) or path.suffix.lower() in SIDE_FILES:
            continue
        case = next((name for name in (path.name, path.stem) if name in cases), None)
        if case is None:
            others.append(path.name)
        elif case in found:
            raise UserError(f"{found[case].name} and {path.name} are both of {case}", "keep one")
        else:
            found[case] = path
    if not found:
        raise UserError(
            f"no file in {folder} has the name of a case",
            f"name them {list_some(f'{name}.mp4' for name in cases)}",
        )
    if others:
        warn_user(f"files in {folder} that belong to no case: {list_some(others)}")
    return found


def find_measured_metrics(results: Results) -> list[str] | None:
    """Return the metrics that the finished cells of a benchmark have, or had to skip; None for all without a cell."""
    records = [record for record in results.records.values() if not record["error"]]
    values = {base_name(name) for record in records for name in record["figures"]}
    skipped = {name for record in records for name in record["left_out"]}
    chosen = [n for n in metric_names() if n in skipped or values & find(n).directions.keys()]
    return chosen or None


def make_kept(case: Case, file: Path, output: Path) -> dict[str, Any]:
    """Write the source with the editor's change, and nothing else that the editor did.

    Raise UserError for clips that do not belong together, and where most of the picture changed.
    """
    from ..conform import run, writer

    kept = run.keep(KeepTask(case.clip, str(file), str(output)))
    writer.write(kept, output, None)
    return {"frames": kept.clip.frames, "sentence": kept.report["sentence"]}


def make_raw(case: Case, file: Path, output: Path) -> dict[str, Any]:
    """Write the editor's frames without loss, at their own size, one for each frame of the source that they reach."""
    source, edited = video.probe(case.clip), video.probe(file)
    numbers = list(range(edited.frames))
    timed = edited
    if edited.frames != source.frames:
        numbers = match_moments(_seconds(source), _seconds(edited), _length(edited))
        timed = source
    clip = video.Clip(
        edited.path,
        edited.size,
        timed.rate,
        timed.time_base,
        timed.times[: len(numbers)],
        timed.durations[: len(numbers)],
        bits=edited.bits,
    )
    video.write(output, clip, _select(video.read(edited), numbers), "ffv1")
    return {"frames": len(numbers)}


def match_moments(source: ndarray, edited: ndarray, length: float) -> list[int]:
    """Return the number of the edited frame that is shown at each frame of the source, until the edited clip ends.

    source, edited: seconds from the first frame. length: seconds that the edited clip lasts.
    """
    reached = source[source < length - TOLERANCE]
    return (np.searchsorted(edited, reached + TOLERANCE, "right") - 1).tolist()


def _seconds(clip: video.Clip) -> ndarray:
    """Return the time of each frame in seconds from the first."""
    return (np.array(clip.times) - clip.times[0]) * float(clip.time_base)


def _length(clip: video.Clip) -> float:
    """Return the seconds that a clip lasts, with its last frame."""
    last = clip.durations[-1] * float(clip.time_base) if clip.durations else 1 / float(clip.rate)
    return float(_seconds(clip)[-1]) + last


def _select(frames: Iterator[ndarray], numbers: list[int]) -> Iterator[ndarray]:
    """Yield the frames of increasing numbers, which may repeat."""
    position, frame = -1, None
    for number in numbers:
        while position < number:
            position, frame = position + 1, next(frames)
        assert frame is not None
        yield frame
