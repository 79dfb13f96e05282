"""Blind comparison by people: a page of source and two shuffled results a trial, and what the answers add up to.

The page knows no method's name; `study-key.json`, which stays with who runs the study, does. Each answer is left, right or neither.
"""

import hashlib
import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..run import write_json
from ..video import publish
from .pages import filled, frames_of, playing
from .runner import Row, cell_folder
from .tables import RESAMPLES, Estimate, Results

QUESTIONS = {
    "alignment": "Which one shows better what the words ask for?",
    "consistency": "Which one is steadier from frame to frame?",
    "preservation": "Which one keeps better what the words do not name?",
}
CHOICES = ("left", "right", "neither")


def study(folder: Path, methods: list[str] | None = None, trials: int = 30, seed: int = 0) -> dict[str, Path]:
    """Write study.html and study-key.json into a benchmark's folder. Every pair of methods gets as many trials as any other.

    Raises ValueError where fewer than two methods share a finished clip.
    """
    results = Results(folder)
    rows = [results.row(m) for m in methods] if methods else results.rows
    rng = random.Random(seed)
    chosen = _trials(results, rows, trials, rng)
    shown, key = [], []
    for i, (case, pair) in enumerate(chosen):
        left, right = rng.sample(pair, 2)
        clips = {side: _clip(cell_folder(folder, row, case) / "edited.mkv") for side, row in (("left", left), ("right", right))}
        shown.append({"id": i, "target": case.target, "source": _clip(case.clip), **clips})
        key.append({"id": i, "case": case.name, "left": left.label, "right": right.label})
    identity = hashlib.sha256(json.dumps([results.about["dataset"], results.made, key]).encode()).hexdigest()[:16]
    page = filled("study.html", {"identity": identity, "trials": shown, "questions": QUESTIONS})
    part = folder / "study.html.part"
    part.write_text(page)
    publish(part, folder / "study.html")
    write_json(folder / "study-key.json", {"study": identity, "questions": list(QUESTIONS), "trials": key})
    return {name: folder / name for name in ("study.html", "study-key.json")}


def _trials(results: Results, rows: list[Row], count: int, rng: random.Random) -> list[tuple]:
    """Cases and pairs, in a shuffled order, the pairs in turn."""
    queues = []
    for pair in itertools.combinations(rows, 2):
        both = [c for c in results.cases if all(_done(results, r, c) for r in pair)]
        rng.shuffle(both)
        queues.append([(case, pair) for case in both])
    turns = [item for items in itertools.zip_longest(*queues) for item in items if item]
    if not turns:
        raise ValueError(f"{results.folder} holds no clip that two methods have finished")
    chosen = turns[:count]
    rng.shuffle(chosen)
    return chosen


def _done(results: Results, row: Row, case) -> bool:
    record = results.records.get((row.label, case.name))
    return bool(record) and not record["error"]


def _clip(path: str | Path) -> str:
    clip, frames = frames_of(path)
    return playing([frames], clip.size, float(clip.rate))


@dataclass(frozen=True)
class Vote:
    question: str
    left: str
    right: str
    choice: str
    person: str


def votes(key: Path, answers: list[Path]) -> list[Vote]:
    """The answer files of one study, with the methods' names. Raises ValueError for a file that is none or of another study."""
    secret = _json(key)
    trials = {t["id"]: t for t in secret.get("trials", [])}
    by_person: dict[str, list[Vote]] = {}
    for path in answers:
        data = _json(path)
        if data.get("study") != secret.get("study") or not isinstance(data.get("answers"), list):
            raise ValueError(f"{path} holds no answers to the study of {key}")
        person, cast = str(data.get("person") or path), {}
        for answer in data["answers"]:
            trial, question, choice = _answer(answer)
            if trial not in trials or question not in secret["questions"] or choice not in CHOICES or (trial, question) in cast:
                raise ValueError(f"{path} has an answer that does not fit the study: {answer}")
            cast[trial, question] = Vote(question, trials[trial]["left"], trials[trial]["right"], choice, person)
        by_person[person] = list(cast.values())  # who saved twice is counted once, with the later file
    found = [vote for cast in by_person.values() for vote in cast]
    if not found:
        raise ValueError("there are no answers to count")
    return found


def _answer(answer: object) -> tuple:
    """Trial, question and choice; nothing where it is no answer at all."""
    if not isinstance(answer, dict) or not isinstance(answer.get("trial"), int):
        return None, None, None
    return answer["trial"], answer.get("question"), answer.get("choice")


def _json(path: Path) -> dict:
    try:
        data = json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is not what it should be: an object")
    return data


def tally(cast: list[Vote]) -> dict[str, dict[str, dict]]:
    """For each question and "all": each method's win rate (neither counts half) and Bradley-Terry strength, with intervals.

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
    groups = [[v for v in cast if v.person == p] for p in dict.fromkeys(v.person for v in cast)]
    if len(groups) == 1:
        groups = [[v] for v in cast]
    tables = np.stack([wins(g, names) for g in groups])  # group, winner, loser
    drawn = np.random.default_rng(0).integers(0, len(groups), (RESAMPLES, len(groups)))
    resampled = np.stack([tables[d].sum(0) for d in drawn])
    total = tables.sum(0)
    rates, strengths = rate(total), bradley_terry(total)
    many_rates, many_strengths = rate(resampled), bradley_terry(resampled)
    ranked = {}
    for i in np.argsort(-strengths, kind="stable"):
        count = int((total[i] + total[:, i]).sum())
        bounds = [np.nanpercentile(m[:, i], (2.5, 97.5)) for m in (many_rates, many_strengths)]
        ranked[names[i]] = {
            "win_rate": Estimate(float(rates[i]), *map(float, bounds[0]), count),
            "strength": Estimate(float(strengths[i]), *map(float, bounds[1]), count),
        }
    return ranked


def wins(cast: list[Vote], names: list[str]) -> np.ndarray:
    """How often the row's method was preferred to the column's."""
    at = {n: i for i, n in enumerate(names)}
    table = np.zeros((len(names), len(names)))
    for v in cast:
        share = {"left": 1.0, "right": 0.0, "neither": 0.5}[v.choice]
        table[at[v.left], at[v.right]] += share
        table[at[v.right], at[v.left]] += 1 - share
    return table


def rate(table: np.ndarray) -> np.ndarray:
    """Share of games won, ... n, of tables ... n n; NaN for a method without games."""
    won, games = table.sum(-1), (table + table.swapaxes(-1, -2)).sum(-1)
    return np.divide(won, games, out=np.full(won.shape, np.nan), where=games > 0)


def bradley_terry(table: np.ndarray, prior: float = 0.1, rounds: int = 200) -> np.ndarray:
    """Log strengths, ... n, of tables ... n n, by Hunter's MM iteration (2004).

    prior: a tenth of a tie between all pairs keeps a method that never lost finite.
    """
    table = table + prior / 2 * (1 - np.eye(table.shape[-1]))
    won, games = table.sum(-1), table + table.swapaxes(-1, -2)
    p = np.ones_like(won)
    for _ in range(rounds):
        p = won / (games / (p[..., :, None] + p[..., None, :])).sum(-1)
        p /= np.exp(np.log(p).mean(-1, keepdims=True))
    return np.log(p)
