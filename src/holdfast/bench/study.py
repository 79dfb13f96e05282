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

from ..base.errors import UserError
from ..base.files import parse_json, write_json
from ..base.intervals import SHARE, Estimate, estimate_rate
from ..base.notices import warn_user
from ..media.previews import preview_data_url
from .datasets.base import Case
from .pages import PAGE_BYTES, clip_bytes, filled, frames_of, write_text
from .runner import Row, cell_folder
from .tables import Results, done

RESAMPLES = 2000
AT_ONCE = 100  # resamples whose tables are held at the same time
INTERVAL = (50 * (1 - SHARE), 50 * (1 + SHARE))  # percentiles

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

    Every pair of methods gets as many trials as any other. Trials that a page of PAGE_BYTES has no room for are left
    out, with a note. Raises ValueError where fewer than two methods share a finished clip.
    """
    results = Results(folder)
    rows = [results.row(m) for m in methods] if methods else results.rows
    chosen = _trials(results, rows, trials, random.Random(seed))
    shown = _trials_that_fit(folder, chosen)
    chosen = chosen[: len(shown)]
    key = [_secret(i, trial) for i, trial in enumerate(chosen)]
    what = json.dumps([results.about["dataset"], results.made, key])
    identity = hashlib.sha256(what.encode()).hexdigest()[:16]
    page = filled("study.html", {"identity": identity, "trials": shown, "questions": QUESTIONS})
    about = {"study": identity, "questions": list(QUESTIONS), "trials": key}
    write_text(folder / "study.html", page)
    write_json(folder / "study-key.json", about)
    return {name: folder / name for name in ("study.html", "study-key.json")}


def _trials_that_fit(folder: Path, trials: list[Trial]) -> list[dict]:
    """What the page holds of the trials that it has room for: at least one."""
    shown, size, most = [], 0, clip_bytes(3 * len(trials))
    for trial in trials:
        clips = {name: _clip(path, most) for name, path in _files(folder, trial).items()}
        size += sum(map(len, clips.values()))
        if shown and size > PAGE_BYTES:
            warn_user(
                f"{len(trials) - len(shown)} of {len(trials)} trials are left out: with them the page "
                f"would be larger than {PAGE_BYTES // 2**20} MB"
            )
            break
        shown.append({"id": len(shown), "target": trial.case.target, **clips})
    return shown


def _files(folder: Path, trial: Trial) -> dict[str, Path]:
    left, right = (cell_folder(folder, row, trial.case) for row in (trial.left, trial.right))
    return {
        "source": Path(trial.case.clip),
        "left": left / "edited.mkv",
        "right": right / "edited.mkv",
    }


def _secret(index: int, trial: Trial) -> dict:
    """What the key holds of a trial."""
    return {
        "id": index,
        "case": trial.case.name,
        "left": trial.left.label,
        "right": trial.right.label,
    }


def _clip(path: Path, most: int) -> str:
    clip, frames = frames_of(path)
    return preview_data_url([frames], clip.size, float(clip.rate), most)


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
    clip: str = ""


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
    clip = str(trial.get("case", trial["id"]))
    return Vote(question, trial["left"], trial["right"], choice, person, clip)


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
        data = parse_json(Path(path).read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is not what it should be: an object")
    return data


def tally(cast: list[Vote]) -> dict[str, dict[str, dict]]:
    """For each question and "all": each method's win rate (neither counts half) and Bradley-Terry strength.

    Strengths are natural logarithms, their mean 0: a method of strength s beats one of strength t with probability
    1 / (1 + exp(t - s)). Intervals: 95 % by resampling people and clips, each by itself (Owen, 2007); what there is one
    of is not resampled, and the interval then speaks for that one alone.
    """
    names = sorted({v.left for v in cast} | {v.right for v in cast})
    found = {}
    for question in ("all", *dict.fromkeys(v.question for v in cast)):
        asked = [v for v in cast if question in ("all", v.question)]
        found[question] = _ranked(asked, names)
    return found


def breadth(cast: list[Vote]) -> tuple[int, int]:
    """Of how many people and of how many clips there are votes."""
    return len({v.person for v in cast}), len({v.clip for v in cast})


def _ranked(cast: list[Vote], names: list[str]) -> dict[str, dict]:
    """Methods by strength, the strongest first."""
    tables = _tables(cast, names)
    total, resampled = tables.sum((0, 1)), _resample(tables)
    games = (total + total.T).sum(0)
    people = min((count for count in breadth(cast) if count > 1), default=1)
    rates = _rates(rate(total), rate(resampled), games, people)
    strengths = bradley_terry(total)
    bounded = _with_interval(strengths, bradley_terry(resampled), games)
    ranked = {}
    for i in np.argsort(-strengths, kind="stable"):
        ranked[names[i]] = {"win_rate": rates[i], "strength": bounded[i]}
    return ranked


def _tables(cast: list[Vote], names: list[str]) -> ndarray:
    """Wins by person, clip, winner and loser."""
    people = {person: i for i, person in enumerate(dict.fromkeys(v.person for v in cast))}
    clips = {clip: i for i, clip in enumerate(dict.fromkeys(v.clip for v in cast))}
    groups: dict[tuple[int, int], list[Vote]] = {}
    for vote in cast:
        groups.setdefault((people[vote.person], clips[vote.clip]), []).append(vote)
    tables = np.zeros((len(people), len(clips), len(names), len(names)))
    for place, group in groups.items():
        tables[place] = wins(group, names)
    return tables


def _resample(tables: ndarray) -> ndarray:
    """Tables of RESAMPLES draws of people and clips, r n n; the same each time."""
    rng = np.random.default_rng(0)
    people, clips = (_weights(rng, count) for count in tables.shape[:2])
    parts = range(0, RESAMPLES, AT_ONCE)
    return np.concatenate(
        [
            np.einsum("rp,pcij,rc->rij", people[i : i + AT_ONCE], tables, clips[i : i + AT_ONCE],
                      optimize=True)
            for i in parts
        ]
    )  # fmt: skip


def _weights(rng: np.random.Generator, count: int) -> ndarray:
    """How often each draw takes each of so many, RESAMPLES count."""
    return rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(float)


def _rates(values: ndarray, resampled: ndarray, counts: ndarray, fewest: int) -> list[Estimate]:
    """Where all agree resampling gives no width: then Wilson's interval for as many people, or clips, as there are."""
    found = []
    for one in _with_interval(values, resampled, counts):
        low, high = one.low, one.high
        if not one.has_interval and one.n:
            alike = estimate_rate(one.mean * fewest, fewest)
            low, high = alike.low, alike.high
        found.append(Estimate(one.mean, low, high, one.n, is_rate=True))
    return found


def _with_interval(values: ndarray, resampled: ndarray, counts: ndarray) -> list[Estimate]:
    """values, counts: one a method, n; resampled: r n. Without width there is no interval."""
    found = []
    for value, draws, count in zip(values, resampled.T, counts, strict=True):
        low, high = _ends(draws[~np.isnan(draws)])
        found.append(Estimate(float(value), low, high, int(count)))
    return found


def _ends(draws: ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, INTERVAL) if len(draws) else (0, 0)
    return (float(low), float(high)) if high - low > 1e-9 else (math.nan, math.nan)


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
