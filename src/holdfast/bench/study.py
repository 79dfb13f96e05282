"""Blind comparison by people: a page with the source and shuffled results a trial, and the key to the answers.

A trial shows two results (the form `pairs`), or one of every method (the form `best`, as most papers ask). The page
contains no method's name. `study-key.json` does, and stays with whoever runs the study. `tally.py` and
`first_places.py` evaluate the answers.
"""

import hashlib
import itertools
import json
import random
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..base.errors import UserError
from ..base.files import write_json
from ..base.names import choose
from ..base.notices import warn_user
from ..media.previews import preview_data_url
from .datasets.base import Case
from .pages import (
    PAGE_BYTES,
    image_data_url,
    max_clip_bytes,
    open_clip,
    render_template,
    write_text,
)
from .plan import Variant, raw_path
from .records import cell_folder
from .results import Results, is_finished

Form = Literal["pairs", "best"]
SIDES = ("left", "right")
# Questions by set and name. {better}, {more} and {less} become "best", "most" and "least" where all are compared.
QUESTION_SETS = {
    "holdfast": {
        "alignment": "Which one matches the description {better}?",
        "consistency": "Which one flickers {less}?",
        "preservation": "Which one {better} preserves everything else?",
    },
    "assd": {  # Table 1: Align, Consist, Preserve
        "alignment": "Which one matches the description {better}?",
        "consistency": "Which one is {more} consistent from frame to frame?",
        "preservation": "Which one {better} preserves the contents of the source?",
    },
    "i2vedit-local": {  # MP, AA, EQ, TC
        "motion": "Which one {better} preserves the source's motion?",
        "appearance": "Which one looks {more} like the source in the area that is not edited?",
        "quality": "Which one is {better} edited overall?",
        "consistency": "Which one is {more} consistent over time?",
    },
    "i2vedit-global": {  # MP, AC, TC
        "motion": "Which one {better} preserves the source's motion?",
        "first_frame": "Which one is {more} consistent with the look of the edited first frame?",
        "consistency": "Which one is {more} consistent over time?",
    },
}
FIRST_FRAME_QUESTION = "first_frame"  # only about cases that show one
QUESTIONS = QUESTION_SETS["holdfast"]


@dataclass(frozen=True)
class Trial:
    """A case, and the variants whose results are compared on it, in the order in which they are shown."""

    case: Case
    variants: tuple[Variant, ...]

    @property
    def shows_first_frame(self) -> bool:
        """Whether one of the methods was given the case's edited first frame."""
        is_given = any(variant.takes_first_frame for variant in self.variants)
        return self.case.first_frame is not None and is_given


@dataclass(frozen=True)
class StudyDesign:
    """What a trial of a study shows and asks."""

    form: Form = "pairs"
    questions: str = "holdfast"
    shows_raw: bool = False  # what methods left, as the papers show, instead of what is delivered

    def labels(self, count: int) -> tuple[str, ...]:
        """Return the names of so many results on the page."""
        return SIDES if self.form == "pairs" else tuple(string.ascii_uppercase[:count])

    def choices(self, count: int) -> tuple[str, ...]:
        """Return the answers to a question: a pair may have none that is better."""
        return (*self.labels(count), "neither") if self.form == "pairs" else self.labels(count)

    def clip_path(self, folder: Path, variant: Variant, case: Case) -> Path:
        """Return the clip of a cell that is shown."""
        place = cell_folder(folder, variant, case)
        is_raw = self.shows_raw and variant.has_raw_clip
        return raw_path(place) if is_raw else place / "edited.mkv"

    def question_texts(self) -> dict[str, str]:
        words = {"better": "better", "more": "more", "less": "less"}
        if self.form == "best":
            words = {"better": "best", "more": "most", "less": "least"}
        questions = QUESTION_SETS[choose(self.questions, tuple(QUESTION_SETS), "set of questions")]
        return {name: text.format(**words) for name, text in questions.items()}


def write_study(
    folder: Path,
    methods: list[str] | None = None,
    trials: int = 30,
    seed: int = 0,
    design: StudyDesign = StudyDesign(),
) -> dict[str, Path]:
    """Write study.html and study-key.json into a benchmark's folder. Return their paths by name.

    Every pair of variants gets equally many trials; in the form `best` every trial has all variants. Trials for which a
    page of PAGE_BYTES has no room are left out with a notice. Raise UserError if no clip has enough results.
    """
    questions = design.question_texts()
    results = Results(folder)
    variants = [results.find_variant(m) for m in methods] if methods else results.variants
    choose_trials = _choose_pairs if design.form == "pairs" else _choose_complete_cases
    chosen = choose_trials(results, variants, random.Random(seed))
    if FIRST_FRAME_QUESTION in questions:
        chosen = [trial for trial in chosen if trial.shows_first_frame]
    if not chosen:
        raise UserError(
            f"no clip in {folder} has an edited first frame and a method that was given it",
            "choose other --questions",
        )
    chosen = _shuffle(chosen[:trials], random.Random(seed))
    page_trials = _page_trials(folder, chosen, design)
    key = [_key_entry(i, trial, design) for i, trial in enumerate(chosen[: len(page_trials)])]
    contents = json.dumps([results.info["dataset"], results.provenance_text, [*questions], key])
    identity = hashlib.sha256(contents.encode()).hexdigest()[:16]
    values = {"identity": identity, "trials": page_trials, "questions": questions}
    page = render_template("study.html", values | {"form": design.form})
    write_text(folder / "study.html", page)
    secret = {"study": identity, "form": design.form, "questions": list(questions), "trials": key}
    write_json(folder / "study-key.json", secret)
    return {name: folder / name for name in ("study.html", "study-key.json")}


def _page_trials(folder: Path, trials: list[Trial], design: StudyDesign) -> list[dict]:
    """Return the page's values for the trials that fit on it: at least one."""
    entries: list[dict] = []
    size = 0
    max_bytes = max_clip_bytes(sum(1 + len(trial.variants) for trial in trials))
    for trial in trials:
        entry = _page_trial(folder, trial, design, lambda path: _clip_url(path, max_bytes))
        size += len(entry["source"] + entry["first_frame"]) + sum(map(len, entry["clips"].values()))
        if entries and size > PAGE_BYTES:
            warn_user(
                f"{len(trials) - len(entries)} of {len(trials)} trials are left out: with them the page "
                f"would be larger than {PAGE_BYTES // 2**20} MB"
            )
            break
        entries.append({"id": len(entries), **entry})
    return entries


def _page_trial(
    folder: Path, trial: Trial, design: StudyDesign, to_url: Callable[[Path], str]
) -> dict[str, Any]:
    count, case = len(trial.variants), trial.case
    paths = [design.clip_path(folder, variant, case) for variant in trial.variants]
    first_frame = case.first_frame if trial.shows_first_frame else None
    return {
        "target": case.target_prompt,
        "source": to_url(Path(case.clip)),
        "first_frame": image_data_url(Path(first_frame)) if first_frame else "",
        "clips": dict(zip(design.labels(count), map(to_url, paths), strict=True)),
        "choices": design.choices(count),
    }


def _key_entry(index: int, trial: Trial, design: StudyDesign) -> dict[str, Any]:
    """Return the key of a trial: the variants by their side, or by their letter under `results`."""
    labels = [variant.label for variant in trial.variants]
    names = dict(zip(design.labels(len(labels)), labels, strict=True))
    shown = names if design.form == "pairs" else {"results": names}
    return {"id": index, "case": trial.case.name, **shown}


def _clip_url(path: Path, max_bytes: int) -> str:
    clip, frames = open_clip(path)
    return preview_data_url([frames], clip.size, float(clip.rate), max_bytes)


def _choose_pairs(results: Results, variants: list[Variant], rng: random.Random) -> list[Trial]:
    """Return all pairs of results of one case: first one trial of each pair of variants, then a second, and so on.

    Raise UserError if there is none.
    """
    queues = []
    for pair in itertools.combinations(variants, 2):
        shared = _shared_cases(results, pair)
        rng.shuffle(shared)
        queues.append([Trial(case, pair) for case in shared])
    ordered = []
    for one_of_each in itertools.zip_longest(*queues):
        ordered += [item for item in one_of_each if item]
    if not ordered:
        raise UserError(
            f"no clip in {results.folder} has been finished by two methods",
            "run the benchmark with at least two methods",
        )
    return ordered


def _choose_complete_cases(
    results: Results, variants: list[Variant], rng: random.Random
) -> list[Trial]:
    """Return a trial for each case that all variants have finished, in shuffled order. Raise UserError if none is."""
    if not 2 <= len(variants) <= len(string.ascii_uppercase):
        raise UserError(
            f"{len(variants)} results a trial cannot be compared", "choose 2 to 26 with --methods"
        )
    shared = _shared_cases(results, variants)
    if not shared:
        raise UserError(
            f"no clip in {results.folder} has been finished by all {len(variants)} methods",
            "choose those that share clips with --methods",
        )
    rng.shuffle(shared)
    return [Trial(case, tuple(variants)) for case in shared]


def _shared_cases(results: Results, variants: Iterable[Variant]) -> list[Case]:
    """Return the cases that all variants have finished."""
    variants = tuple(variants)
    return [c for c in results.cases if all(is_finished(results.record(v, c)) for v in variants)]


def _shuffle(trials: list[Trial], rng: random.Random) -> list[Trial]:
    """Return the trials in random order, each with its results in random order."""
    shuffled = rng.sample(trials, len(trials))
    return [Trial(t.case, tuple(rng.sample(t.variants, len(t.variants)))) for t in shuffled]
