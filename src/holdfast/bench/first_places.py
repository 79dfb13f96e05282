"""Evaluate the answers to a study of the form `best`: how often each method was chosen of all that were shown."""

import numpy as np

from .tally import FirstPlace, Tally, count_people_and_clips, draw_counts, rate_estimates


def tally(votes: list[FirstPlace]) -> Tally:
    """Return, for each question and "all", each variant's `share` of first places.

    Intervals: 95 % by resampling people and clips independently, as for pairs.
    """
    names = sorted({name for vote in votes for name in vote.candidates})
    results = {}
    for question in ("all", *dict.fromkeys(vote.question for vote in votes)):
        selected = [vote for vote in votes if question in ("all", vote.question)]
        results[question] = _share(selected, names)
    return results


def _share(votes: list[FirstPlace], names: list[str]) -> dict:
    """Return the estimates by variant, the most chosen first."""
    people = {person: i for i, person in enumerate(dict.fromkeys(v.person for v in votes))}
    clips = {clip: i for i, clip in enumerate(dict.fromkeys(v.clip for v in votes))}
    chosen = np.zeros((len(people), len(clips), len(names)))
    for vote in votes:
        chosen[people[vote.person], clips[vote.clip], names.index(vote.choice)] += 1
    rng = np.random.default_rng(0)
    weights = draw_counts(rng, len(people)), draw_counts(rng, len(clips))
    resampled = np.einsum("rp,pcn,rc->rn", weights[0], chosen, weights[1], optimize=True)
    shares, drawn_shares = chosen.sum((0, 1)) / len(votes), _normalize(resampled)
    group_size = min((n for n in count_people_and_clips(votes) if n > 1), default=1)
    counts = np.full(len(names), len(votes))
    rates = rate_estimates(shares, drawn_shares, counts, group_size)
    order = np.argsort(-shares, kind="stable")
    return {names[i]: {"share": rates[i]} for i in order}


def _normalize(counts: np.ndarray) -> np.ndarray:
    """Return rows r n as shares of their sum; NaN for a draw without a vote."""
    total = counts.sum(1, keepdims=True)
    return np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
