"""Read the answers to a study, and evaluate pairs: win rates and Bradley-Terry strengths with intervals."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from ..base.errors import UserError
from ..base.files import parse_json
from ..base.intervals import CONFIDENCE, Estimate, estimate_rate

RESAMPLES = 2000
CHUNK = 100  # resamples whose tables are in memory at once
PERCENTILES = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))
WIN_SHARES = {"left": 1.0, "right": 0.0, "neither": 0.5}  # of the left result, by choice

Tally = dict[str, dict[str, dict[str, Estimate]]]  # by question and method


@dataclass(frozen=True)
class Vote:
    question: str
    left: str  # names of variants
    right: str
    choice: str  # left, right or neither
    person: str
    clip: str = ""


@dataclass(frozen=True)
class FirstPlace:
    """A vote in a study of the form `best`: which of all variants shown is the best."""

    question: str
    choice: str  # names of variants
    candidates: tuple[str, ...]
    person: str
    clip: str = ""


Votes = list[Vote] | list[FirstPlace]


def read_votes(key: Path, answers: list[Path]) -> Votes:
    """Read the answer files of one study and return the votes with the variants' names.

    A person who saved twice is counted once, with the later file. Raise UserError for a file that is not an answer file
    or belongs to another study.
    """
    secret = _read_key(key)
    by_person: dict[str, list] = {}
    for path in answers:
        data = _read_json(path)
        if data.get("study") != secret.get("study") or not isinstance(data.get("answers"), list):
            raise UserError(f"{path} holds no answers to the study of {key}")
        person = str(data.get("person") or path)
        by_person[person] = _parse_answers(person, data["answers"], secret, path)
    votes = list(itertools.chain.from_iterable(by_person.values()))
    if not votes:
        raise UserError("there are no answers to count")
    return votes


def _parse_answers(person: str, answers: list, secret: dict[str, Any], path: Path) -> list:
    """Return one person's votes: at most one for a trial and question."""
    trials = {trial["id"]: trial for trial in secret["trials"]}
    votes: dict[tuple[int, str], Vote | FirstPlace] = {}
    for answer in answers:
        vote = _parse_answer(person, answer, trials, secret["questions"])
        if vote is None or (answer["trial"], vote.question) in votes:
            raise UserError(f"{path} has an answer that does not fit the study: {answer}")
        votes[answer["trial"], vote.question] = vote
    return list(votes.values())


def _parse_answer(
    person: str, answer: Any, trials: dict[int, dict], questions: list[str]
) -> Vote | FirstPlace | None:
    """Return None if it is not an answer to this study."""
    if not isinstance(answer, dict) or not isinstance(answer.get("trial"), int):
        return None
    trial = trials.get(answer["trial"])
    question, choice = answer.get("question"), answer.get("choice")
    if trial is None or question not in questions:
        return None
    clip, shown = str(trial.get("case", trial["id"])), trial.get("results")
    if shown:
        is_shown = isinstance(choice, str) and choice in shown
        candidates = tuple(shown.values())
        return FirstPlace(question, shown[choice], candidates, person, clip) if is_shown else None
    if choice not in WIN_SHARES:
        return None
    return Vote(question, trial["left"], trial["right"], choice, person, clip)


def _read_key(path: Path) -> dict[str, Any]:
    """Read the key that `bench study` wrote. Raise UserError for another file."""
    secret = _read_json(path)
    trials, questions = secret.get("trials"), secret.get("questions")
    has_lists = isinstance(trials, list) and isinstance(questions, list)
    if not (has_lists and "study" in secret and all(map(_is_trial, trials or []))):
        raise UserError(
            f"{path} is not the key of a study", "give the study-key.json that bench study wrote"
        )
    return secret


def _is_trial(trial: object) -> bool:
    if not isinstance(trial, dict) or not isinstance(trial.get("id"), int):
        return False
    shown = trial.get("results", {side: trial.get(side) for side in ("left", "right")})
    return isinstance(shown, dict) and all(isinstance(name, str) for name in shown.values())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = parse_json(Path(path).read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a JSON object")
    return data


def tally(votes: list[Vote]) -> Tally:
    """Return, for each question and "all", each variant's `win_rate` (neither counts half) and `strength`.

    Bradley-Terry strengths are natural logarithms with mean 0: a variant of strength s beats one of strength t with
    probability 1 / (1 + exp(t - s)). Intervals: 95 % by resampling people and clips independently (Owen, 2007). A
    single person or clip is not resampled, and the interval is then conditional on it.
    """
    names = sorted({v.left for v in votes} | {v.right for v in votes})
    results = {}
    for question in ("all", *dict.fromkeys(v.question for v in votes)):
        selected = [v for v in votes if question in ("all", v.question)]
        results[question] = _rank(selected, names)
    return results


def count_people_and_clips(votes: Sequence[Vote | FirstPlace]) -> tuple[int, int]:
    """Return how many people voted, and on how many clips."""
    return len({v.person for v in votes}), len({v.clip for v in votes})


def _rank(votes: list[Vote], names: list[str]) -> dict[str, dict[str, Estimate]]:
    """Return the estimates by variant, the strongest first."""
    tables = _win_tables(votes, names)
    total, resampled = tables.sum((0, 1)), _resample(tables)
    games = _games(total).sum(0)
    group_size = min((n for n in count_people_and_clips(votes) if n > 1), default=1)
    rates = rate_estimates(win_rates(total), win_rates(resampled), games, group_size)
    strengths = bradley_terry(total)
    estimates = _estimates(strengths, bradley_terry(resampled), games)
    return {
        names[i]: {"win_rate": rates[i], "strength": estimates[i]}
        for i in np.argsort(-strengths, kind="stable")
    }


def _win_tables(votes: list[Vote], names: list[str]) -> ndarray:
    """Count wins by person, clip, winner and loser."""
    people = {person: i for i, person in enumerate(dict.fromkeys(v.person for v in votes))}
    clips = {clip: i for i, clip in enumerate(dict.fromkeys(v.clip for v in votes))}
    groups: dict[tuple[int, int], list[Vote]] = {}
    for vote in votes:
        groups.setdefault((people[vote.person], clips[vote.clip]), []).append(vote)
    tables = np.zeros((len(people), len(clips), len(names), len(names)))
    for index, group in groups.items():
        tables[index] = win_table(group, names)
    return tables


def _resample(tables: ndarray) -> ndarray:
    """Return the tables of RESAMPLES draws of people and clips, r n n. The draws are the same on every call."""
    rng = np.random.default_rng(0)
    people, clips = (draw_counts(rng, count) for count in tables.shape[:2])
    chunks = [slice(i, i + CHUNK) for i in range(0, RESAMPLES, CHUNK)]
    parts = [
        np.einsum("rp,pcij,rc->rij", people[chunk], tables, clips[chunk], optimize=True)
        for chunk in chunks
    ]
    return np.concatenate(parts)


def draw_counts(rng: np.random.Generator, count: int) -> ndarray:
    """Return how often each resample draws each of `count` items, RESAMPLES count."""
    return rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(float)


def rate_estimates(
    values: ndarray, resampled: ndarray, counts: ndarray, group_size: int
) -> list[Estimate]:
    """Return rates with intervals. If all answers agree, resampling gives no width: use Wilson's interval instead.

    group_size: the smaller of the numbers of people and clips, which is the sample size of Wilson's interval.
    """
    rates = []
    for one in _estimates(values, resampled, counts):
        low, high = one.low, one.high
        if not one.has_interval and one.n:
            wilson = estimate_rate(one.mean * group_size, group_size)
            low, high = wilson.low, wilson.high
        rates.append(Estimate(one.mean, low, high, one.n, is_rate=True))
    return rates


def _estimates(values: ndarray, resampled: ndarray, counts: ndarray) -> list[Estimate]:
    """Return values with percentile intervals, NaN if they have no width.

    values, counts: one a variant, n; resampled: r n.
    """
    estimates = []
    for value, draws, count in zip(values, resampled.T, counts, strict=True):
        low, high = _percentile_ends(draws[~np.isnan(draws)])
        estimates.append(Estimate(float(value), low, high, int(count)))
    return estimates


def _percentile_ends(draws: ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, PERCENTILES) if len(draws) else (0, 0)
    return (float(low), float(high)) if high - low > 1e-9 else (math.nan, math.nan)


def win_table(votes: list[Vote], names: list[str]) -> ndarray:
    """Count how often the row's variant was preferred to the column's, n n."""
    table = np.zeros((len(names), len(names)))
    for vote in votes:
        left, right = names.index(vote.left), names.index(vote.right)
        share = WIN_SHARES[vote.choice]
        table[left, right] += share
        table[right, left] += 1 - share
    return table


def win_rates(table: ndarray) -> ndarray:
    """Return the share of games won, ... n, for tables ... n n; NaN for a variant without games."""
    won = table.sum(-1)
    games = _games(table).sum(-1)
    undefined = np.full(won.shape, math.nan)
    return np.divide(won, games, out=undefined, where=games > 0)


def _games(table: ndarray) -> ndarray:
    """Return how often each pair met, ... n n."""
    return table + table.swapaxes(-1, -2)


def bradley_terry(table: ndarray, prior: float = 0.1, rounds: int = 200) -> ndarray:
    """Return log strengths, ... n, for tables ... n n, by Hunter's MM iteration (2004).

    prior: a tenth of a tie between all pairs keeps the strength of a variant that never lost finite.
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
