"""The gate: what was trained goes live only where it surely beats what is in place, on cases that neither has seen.

Cases are compared in pairs. Intervals are percentile bootstraps of the mean difference that resample users, so that
somebody with many cases counts as one person, expanded for how few users there are (Hesterberg 2015, arXiv 1411.5279):
where ten decide, a plain one calls chance an improvement nearly twice as often as it says. The whole must be above
zero with 95 %. Lengths of history are looked at several at once, so their intervals are widened to hold for all of
them together with 95 % (Bonferroni): each of m is a 1 - 0.05 / m interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from whyfeed.finetune.evaluation.metrics import HISTORY, Resampling, Values, buckets
from whyfeed.retrieval.arrays import Floats, Rows

Verdict = Literal["better", "worse", "same", "unsure", "few"]
ENOUGH = 10  # users; the bootstrap of fewer says more than they know
ENOUGH_IN_BUCKET = 30  # its intervals are wider, and the far tails of a bootstrap need more users
_ROUNDS = 4000
_OUTSIDE = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training found. `live` tells whether its model is used from now on, `why` says why.

    `card` goes with the model; of a training that was stopped it tells how far that came.
    """

    live: bool
    why: str
    card: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bucket:
    """The verdict for users whose history has some length; `interval` holds for all buckets together with 95 %."""

    history: str
    cases: int
    users: int
    difference: float
    interval: tuple[float, float]
    verdict: Verdict

    @property
    def live(self) -> bool:
        """Whether the challenger has won here, so that it may be used here alone."""
        return self.verdict == "better"

    def to_json(self) -> dict[str, Any]:
        """For cards and documents."""
        return {
            "history": self.history, "cases": self.cases, "users": self.users, "difference": round(self.difference, 4),
            "ci95": _rounded(self.interval), "verdict": self.verdict, "live": self.live,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the challenger goes live, and what that rests on; differences are challenger less in place.

    `verdict` is of the whole: a challenger that is better there is still not live when it is worse in a bucket.
    """

    live: bool
    why: str
    difference: float
    ci95: tuple[float, float]
    verdict: Verdict
    users: int
    buckets: tuple[Bucket, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """For cards and documents."""
        return {
            "live": self.live, "why": self.why, "difference": round(self.difference, 4), "ci95": _rounded(self.ci95),
            "verdict": self.verdict, "users": self.users, "buckets": [bucket.to_json() for bucket in self.buckets],
        }  # fmt: skip


def decide(
    in_place: Floats | Values, challenger: Floats | Values, users: Sequence[str] | Rows, lengths: Rows | None = None, *,
    metric: str, names: tuple[str, str], seed: int = 0,
) -> Decision:  # fmt: skip
    """Decide between two models by their values, (cases,) each, more is better.

    `users` (cases,) owns the cases, `lengths` (cases,) are the events of each one's history; without it there are no
    buckets. `names` are those of the model in place and of the challenger, as the sentence `why` calls them.
    ValueError when the arrays are not aligned.
    """
    if in_place.ndim != 1 or not in_place.shape == challenger.shape == (len(users),):
        raise ValueError(f"{in_place.shape} and {challenger.shape} values of {len(users)} users are not aligned")
    if lengths is not None and lengths.shape != in_place.shape:
        raise ValueError(f"{lengths.shape} lengths of {in_place.shape} values are not aligned")
    old, new = names
    people, codes = np.unique(np.asarray(users), return_inverse=True)
    differences = np.asarray(challenger - in_place, dtype=np.float64)
    if lost := int(np.count_nonzero(~np.isfinite(differences))):
        why = f"{lost} of {len(differences)} values are no numbers: {old} stays"
        return Decision(False, why, 0.0, (0.0, 0.0), "unsure", len(people))
    mean = float(differences.mean()) if len(differences) else 0.0
    if len(people) < ENOUGH:
        why = f"{len(people)} held out, {ENOUGH} needed to tell: {old} stays"
        return Decision(False, why, mean, (0.0, 0.0), "few", len(people))
    whole = _interval(differences, codes, _OUTSIDE, seed)
    verdict = _verdict(differences, whole)
    parts = () if lengths is None else _buckets(differences, codes, lengths, seed)
    span = f"{_span(whole)} {metric}"
    live = verdict == "better" and not any(bucket.verdict == "worse" for bucket in parts)
    if live:
        why = f"{new} is better than {old} by {span}: it goes live"
    elif verdict == "better":
        bad = next(bucket for bucket in parts if bucket.verdict == "worse")
        where = f"for histories of {bad.history} it is surely worse ({_span(bad.interval)})"
        why = f"{new} is better than {old} by {span}, but {where}: {old} stays"
    elif verdict == "same":
        why = f"{new} is the same as {old} in every case: {old} stays"
    else:
        why = (
            f"{new} is {'surely worse' if verdict == 'worse' else 'not surely better'} than {old} ({span}): {old} stays"
        )
    return Decision(live, why, mean, whole, verdict, len(people), parts)


def _buckets(differences: Values, codes: Rows, lengths: Rows, seed: int) -> tuple[Bucket, ...]:
    parts = [(name, rows, len(np.unique(codes[rows]))) for name, rows in buckets(lengths, HISTORY)]
    looked_at = sum(users >= ENOUGH_IN_BUCKET for _, _, users in parts)
    found = []
    for name, rows, users in parts:
        part, interval = differences[rows], (0.0, 0.0)
        verdict: Verdict = "few"
        if users >= ENOUGH_IN_BUCKET:
            interval = _interval(part, codes[rows], _OUTSIDE / looked_at, seed)
            verdict = _verdict(part, interval)
        found.append(Bucket(name, len(rows), users, float(part.mean()), interval, verdict))
    return tuple(found)


def _interval(differences: Values, codes: Rows, outside: float, seed: int) -> tuple[float, float]:
    from scipy.special import ndtr, stdtrit

    users = len(np.unique(codes))
    draws = Resampling(codes, seed, _ROUNDS).means(differences[:, None])[:, 0]
    # The tail at which a bootstrap of so few is as wide as Student's t with the unbiased variance.
    tail = float(ndtr(stdtrit(users - 1, outside / 2) * np.sqrt(users / (users - 1))))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _verdict(differences: Values, interval: tuple[float, float]) -> Verdict:
    if not differences.any():
        return "same"
    return "better" if interval[0] > 0 else "worse" if interval[1] < 0 else "unsure"


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(bound, 4) for bound in interval]
