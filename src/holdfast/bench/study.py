"""Blind comparison by people: a page of source and two shuffled results a trial, and what the answers add up to.

The page knows no method's name; `study-key.json`, which stays with who runs the study, does. Each answer is left, right
or neither.
"""

import hashlib
import itertools
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from ..errors import UserError
from ..files import from_json, write_json
from ..media.showing import playing
from .datasets.base import Case
from .pages import filled, frames_of, write_text
from .runner import Row, cell_folder
from .tables import INTERVAL, Estimate, Results, done, resamples

QUESTIONS = {
    "alignment": "Which one shows better what the words ask for?",
    "consistency": "Which one is steadier from frame to frame?",
    "preservation": "Which one keeps better what the words do not name?",
}
CHOICES = ("left", "right", "neither")


@dataclass(frozen=True)
class Trial:
    """A case, and the two rows whose results are shown of it."""

    case: Case
    left: Row
    right: Row


def study(
    folder: Path, methods: list[str] | None = None, trials: int = 30, seed: int = 0
) -> dict[str, Path]:
    """Write study.html and study-key.json into a benchmark's folder.

    Every pair of methods gets as many trials as any other. Raises ValueError where fewer than two methods share a
    finished clip.
    """
    results = Results(folder)
    rows = [results.row(m) for m in methods] if methods else results.rows
    chosen = _trials(results, rows, trials, random.Random(seed))
    shown = [_shown(folder, i, trial) for i, trial in enumerate(chosen)]
    key = [_secret(i, trial) for i, trial in enumerate(chosen)]
    what = json.dumps([results.about["dataset"], results.made, key])
    identity = hashlib.sha256(what.encode()).hexdigest()[:16]
    page = filled("study.html", {"identity": identity, "trials": shown, "questions": QUESTIONS})
    about = {"study": identity, "questions": list(QUESTIONS), "trials": key}
    write_text(folder / "study.html", page)
    write_json(folder / "study-key.json", about)
    return {name: folder / name for name in ("study.html", "study-key.json")}


def _shown(folder: Path, index: int, trial: Trial) -> dict:
    """What the page holds of a trial."""
    return {
        "id": index,
        "target": trial.case.target,
        "source": _clip(trial.case.clip),
        "left": _clip(cell_folder(folder, trial.left, trial.case) / "edited.mkv"),
        "right": _clip(cell_folder(folder, trial.right, trial.case) / "edited.mkv"),
    }


def _secret(index: int, trial: Trial) -> dict:
    """What the key holds of a trial."""
    return {
        "id": index,
        "case": trial.case.name,
        "left": trial.left.label,
        "right": trial.right.label,
    }


def _clip(path: str | Path) -> str:
    clip, frames = frames_of(path)
    return playing([frames], clip.size, float(clip.rate))


def _trials(results: Results, rows: list[Row], count: int, rng: random.Random) -> list[Trial]:
    """In a shuffled order and with shuffled sides, of every pair of rows as many as of any other."""
    queues = []
    for pair in itertools.combinations(rows, 2):
        both = [c for c in results.cases if all(done(results.record(row, c)) for row in pair)]
        rng.shuffle(both)
        queues.append([(case, pair) for case in both])
    turns = []
    for turn in itertools.zip_longest(*queues):  # one of each pair
        turns += [item for item in turn if item]
    if not turns:
        raise UserError(f"{results.folder} holds no clip that two methods have finished")
    chosen = turns[:count]
    rng.shuffle(chosen)
    return [Trial(case, *rng.sample(pair, 2)) for case, pair in chosen]


@dataclass(frozen=True)
class Vote:
    question: str
    left: str
    right: str
    choice: str
    person: str


def votes(key: Path, answers: list[Path]) -> list[Vote]:
    """The answer files of one study, with the methods' names.

    Who saved twice is counted once, with the later file. Raises ValueError for a file that is none or of another study.
    """
    secret = _key(key)
    by_person: dict[str, list[Vote]] = {}
    for path in answers:
        data = _json(path)
        if data.get("study") != secret.get("study") or not isinstance(data.get("answers"), list):
            raise UserError(f"{path} holds no answers to the study of {key}")
        person = str(data.get("person") or path)
        by_person[person] = _votes_of(person, data["answers"], secret, path)
    found = list(itertools.chain.from_iterable(by_person.values()))
    if not found:
        raise UserError("there are no answers to count")
    return found


def _votes_of(person: str, answers: list, secret: dict, path: Path) -> list[Vote]:
    """One person's votes; each trial and question is answered once at most."""
    trials = {trial["id"]: trial for trial in secret["trials"]}
    cast = {}
    for answer in answers:
        vote = _vote(person, answer, trials, secret["questions"])
        if vote is None or (answer["trial"], vote.question) in cast:
            raise UserError(f"{path} has an answer that does not fit the study: {answer}")
        cast[answer["trial"], vote.question] = vote
    return list(cast.values())


def _vote(
    person: str, answer: object, trials: dict[int, dict], questions: list[str]
) -> Vote | None:
    """None where it is no answer to this study."""
    if not isinstance(answer, dict) or not isinstance(answer.get("trial"), int):
        return None
    trial = trials.get(answer["trial"])
    question, choice = answer.get("question"), answer.get("choice")
    if trial is None or question not in questions or choice not in CHOICES:
        return None
    return Vote(question, trial["left"], trial["right"], choice, person)


def _key(path: Path) -> dict:
    """What bench study kept. Raises ValueError for another file."""
    secret = _json(path)
    trials, questions = secret.get("trials"), secret.get("questions")
    whole = isinstance(trials, list) and isinstance(questions, list)
    if not (whole and "study" in secret and all(map(_is_trial, trials))):
        raise UserError(f"{path} is no key of a study; give the study-key.json of: bench study")
    return secret


def _is_trial(trial: object) -> bool:
    if not isinstance(trial, dict) or not isinstance(trial.get("id"), int):
        return False
    return all(isinstance(trial.get(side), str) for side in ("left", "right"))


def _json(path: Path) -> dict:
    try:
        data = from_json(Path(path).read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is not what it should be: an object")
    return data


def tally(cast: list[Vote]) -> dict[str, dict[str, dict]]:
    """For each question and "all": each method's win rate (neither counts half) and Bradley-Terry strength.

    Strengths are natural logarithms, their mean 0: a method of strength s beats one of strength t with probability
    1 / (1 + exp(t - s)). Intervals: 95 % bootstrap over people, or over answers where one person answered.
    """
    names = sorted({v.left for v in cast} | {v.right for v in cast})
    found = {}
    for question in ("all", *dict.fromkeys(v.question for v in cast)):
        asked = [v for v in cast if question in ("all", v.question)]
        found[question] = _ranked(asked, names)
    return found


def _ranked(cast: list[Vote], names: list[str]) -> dict[str, dict]:
    """Methods by strength, the strongest first."""
    tables = np.stack([wins(group, names) for group in _groups(cast)])  # group, winner, loser
    total = tables.sum(0)
    drawn = resamples(len(tables))
    resampled = np.stack([tables[one].sum(0) for one in drawn])
    games = (total + total.T).sum(0)
    rates = _with_interval(rate(total), rate(resampled), games)
    strengths = bradley_terry(total)
    bounded = _with_interval(strengths, bradley_terry(resampled), games)
    ranked = {}
    for i in np.argsort(-strengths, kind="stable"):
        ranked[names[i]] = {"win_rate": rates[i], "strength": bounded[i]}
    return ranked


def _groups(cast: list[Vote]) -> list[list[Vote]]:
    """What is resampled: all votes of a person, or single votes where there is one person."""
    people: dict[str, list[Vote]] = {}
    for vote in cast:
        people.setdefault(vote.person, []).append(vote)
    if len(people) == 1:
        return [[vote] for vote in cast]
    return list(people.values())


def _with_interval(values: ndarray, resampled: ndarray, counts: ndarray) -> list[Estimate]:
    """values, counts: one a method, n; resampled: r n."""
    lows, highs = np.nanpercentile(resampled, INTERVAL, axis=0)
    rows = zip(values, lows, highs, counts, strict=True)
    return [Estimate(float(v), float(low), float(high), int(n)) for v, low, high, n in rows]


def wins(cast: list[Vote], names: list[str]) -> ndarray:
    """How often the row's method was preferred to the column's."""
    shares = {"left": 1.0, "right": 0.0, "neither": 0.5}
    table = np.zeros((len(names), len(names)))
    for vote in cast:
        left, right = names.index(vote.left), names.index(vote.right)
        share = shares[vote.choice]
        table[left, right] += share
        table[right, left] += 1 - share
    return table


def rate(table: ndarray) -> ndarray:
    """Share of games won, ... n, of tables ... n n; NaN for a method without games."""
    won = table.sum(-1)
    games = _games(table).sum(-1)
    unknown = np.full(won.shape, math.nan)
    return np.divide(won, games, out=unknown, where=games > 0)


def _games(table: ndarray) -> ndarray:
    """How often each two met, ... n n."""
    return table + table.swapaxes(-1, -2)


def bradley_terry(table: ndarray, prior: float = 0.1, rounds: int = 200) -> ndarray:
    """Log strengths, ... n, of tables ... n n, by Hunter's MM iteration (2004).

    prior: a tenth of a tie between all pairs keeps a method that never lost finite.
    """
    table = table + prior / 2 * (1 - np.eye(table.shape[-1]))
    won = table.sum(-1)
    games = _games(table)
    p = np.ones_like(won)
    for _ in range(rounds):
        expected = games / (p[..., :, None] + p[..., None, :])
        p = won / expected.sum(-1)
        p /= np.exp(np.log(p).mean(-1, keepdims=True))
    return np.log(p)
