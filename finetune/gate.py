"""The gate: a trained model goes live only if it is significantly better than the one in place, on held-out cases.

Cases are compared in pairs. Intervals are percentile bootstraps of the mean difference that resample users, not cases,
and are expanded for small numbers of users (Hesterberg 2015, arXiv 1411.5279): with ten users a plain bootstrap is
wrong nearly twice as often as its 95 % say. The overall interval must lie above zero. Users are also compared by the
length of their history; these m intervals are at level 1 - 0.05 / m each, so that all hold together with 95 %
(Bonferroni), and the model must not be significantly worse in any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from whyfeed.finetune.evaluation.metrics import HISTORY, Resampling, Values, buckets
from whyfeed.retrieval.arrays import Floats, Rows

Verdict = Literal["better", "worse", "same", "unsure", "few"]
MIN_USERS = 10  # users; the bootstrap of fewer is not reliable
MIN_USERS_IN_BUCKET = 30  # users of a bucket: its wider intervals need the far tails of the bootstrap
_ROUNDS = 4000
_OUTSIDE = 0.05


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a training. `live`: the model is used from now on; `why` is the reason in one sentence.

    `card` (JSON values) is stored with the model; after a training that was stopped it holds the steps done.
    """

    live: bool
    why: str
    card: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bucket:
    """The verdict for users with histories of one length; the intervals of all buckets hold together with 95 %."""

    history: str
    cases: int
    users: int
    difference: float
    interval: tuple[float, float]
    verdict: Verdict

    @property
    def live(self) -> bool:
        """Whether the challenger is better for these users."""
        return self.verdict == "better"

    def to_json(self) -> dict[str, Any]:
        """For cards and documents."""
        return {
            "history": self.history, "cases": self.cases, "users": self.users, "difference": round(self.difference, 4),
            "ci95": _rounded(self.interval), "verdict": self.verdict, "live": self.live,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether the challenger goes live, and the numbers behind it. Differences are challenger minus in place.

    `verdict` is over all cases; a challenger that is better overall but worse in a bucket does not go live.
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
    """Decide between two models by their metric values, (cases,) each; higher is better.

    `users` (cases,) is the user of each case, `lengths` (cases,) the number of events in that user's history; without
    `lengths` there are no buckets. `names`: how the sentence `why` calls the model in place and the challenger.
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
    if len(people) < MIN_USERS:
        why = f"{len(people)} held out, {MIN_USERS} needed to tell: {old} stays"
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
    looked_at = sum(users >= MIN_USERS_IN_BUCKET for _, _, users in parts)
    found = []
    for name, rows, users in parts:
        part, interval = differences[rows], (0.0, 0.0)
        verdict: Verdict = "few"
        if users >= MIN_USERS_IN_BUCKET:
            interval = _interval(part, codes[rows], _OUTSIDE / looked_at, seed)
            verdict = _verdict(part, interval)
        found.append(Bucket(name, len(rows), users, float(part.mean()), interval, verdict))
    return tuple(found)


def _interval(differences: Values, codes: Rows, outside: float, seed: int) -> tuple[float, float]:
    from scipy.special import ndtr, stdtrit

    users = len(np.unique(codes))
    draws = Resampling(codes, seed, _ROUNDS).means(differences[:, None])[:, 0]
    # The tail at which the bootstrap is as wide as Student's t with the unbiased variance.
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
