"""Blind comparison by people: a page with the source and two shuffled results a trial, and the key to the answers.

The page contains no method's name. `study-key.json` does, and stays with whoever runs the study. Each answer is left,
right or neither; `tally.py` evaluates them.
"""

import hashlib
import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import UserError
from ..base.files import write_json
from ..base.notices import warn_user
from ..media.previews import preview_data_url
from .datasets.base import Case
from .pages import PAGE_BYTES, max_clip_bytes, open_clip, render_template, write_text
from .plan import Variant
from .records import cell_folder
from .results import Results, is_finished

QUESTIONS = {
    "alignment": "Which one matches the description better?",
    "consistency": "Which one flickers less?",
    "preservation": "Which one better preserves everything else?",
}


@dataclass(frozen=True)
class Trial:
    """A case, and the two variants whose results are compared on it."""

    case: Case
    left: Variant
    right: Variant


def write_study(
    folder: Path, methods: list[str] | None = None, trials: int = 30, seed: int = 0
) -> dict[str, Path]:
    """Write study.html and study-key.json into a benchmark's folder. Return their paths by name.

    Every pair of variants gets equally many trials. Trials for which a page of PAGE_BYTES has no room are left out with
    a notice. Raise UserError if no two variants have finished the same clip.
    """
    results = Results(folder)
    variants = [results.find_variant(m) for m in methods] if methods else results.variants
    chosen = _choose_trials(results, variants, trials, random.Random(seed))
    page_trials = _page_trials(folder, chosen)
    key = [_key_entry(i, trial) for i, trial in enumerate(chosen[: len(page_trials)])]
    contents = json.dumps([results.info["dataset"], results.provenance_text, key])
    identity = hashlib.sha256(contents.encode()).hexdigest()[:16]
    values = {"identity": identity, "trials": page_trials, "questions": QUESTIONS}
    write_text(folder / "study.html", render_template("study.html", values))
    secret = {"study": identity, "questions": list(QUESTIONS), "trials": key}
    write_json(folder / "study-key.json", secret)
    return {name: folder / name for name in ("study.html", "study-key.json")}


def _page_trials(folder: Path, trials: list[Trial]) -> list[dict]:
    """Return the page's values for the trials that fit on it: at least one."""
    entries: list[dict] = []
    size, max_bytes = 0, max_clip_bytes(3 * len(trials))
    for trial in trials:
        clips = {name: _clip_url(path, max_bytes) for name, path in _files(folder, trial).items()}
        size += sum(map(len, clips.values()))
        if entries and size > PAGE_BYTES:
            warn_user(
                f"{len(trials) - len(entries)} of {len(trials)} trials are left out: with them the page "
                f"would be larger than {PAGE_BYTES // 2**20} MB"
            )
            break
        entries.append({"id": len(entries), "target": trial.case.target_prompt, **clips})
    return entries


def _files(folder: Path, trial: Trial) -> dict[str, Path]:
    left, right = (cell_folder(folder, side, trial.case) for side in (trial.left, trial.right))
    return {
        "source": Path(trial.case.clip),
        "left": left / "edited.mkv",
        "right": right / "edited.mkv",
    }


def _key_entry(index: int, trial: Trial) -> dict:
    return {
        "id": index,
        "case": trial.case.name,
        "left": trial.left.label,
        "right": trial.right.label,
    }


def _clip_url(path: Path, max_bytes: int) -> str:
    clip, frames = open_clip(path)
    return preview_data_url([frames], clip.size, float(clip.rate), max_bytes)


def _choose_trials(
    results: Results, variants: list[Variant], count: int, rng: random.Random
) -> list[Trial]:
    """Choose trials with equally many of each pair of variants, in shuffled order and with shuffled sides."""
    queues = []
    for pair in itertools.combinations(variants, 2):
        shared = [c for c in results.cases if all(is_finished(results.record(v, c)) for v in pair)]
        rng.shuffle(shared)
        queues.append([(case, pair) for case in shared])
    ordered = []
    for one_of_each in itertools.zip_longest(*queues):
        ordered += [item for item in one_of_each if item]
    if not ordered:
        raise UserError(
            f"no clip in {results.folder} has been finished by two methods",
            "run the benchmark with at least two methods",
        )
    chosen = ordered[:count]
    rng.shuffle(chosen)
    return [Trial(case, *rng.sample(pair, 2)) for case, pair in chosen]
