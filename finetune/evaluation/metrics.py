"""Metrics of rankings and of click prediction, with intervals over users.

Ranking metrics are those of `ir-measures` (MacAvaney, Macdonald and Ounis 2022), click metrics those of
scikit-learn. Intervals are 95 % percentile bootstraps that resample users, never rows; every ranker sees
the same draws, so that differences of two rankers are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from whyfeed.finetune.evaluation.protocol import Keys
from whyfeed.retrieval.arrays import Floats, Rows, Vectors

Values = npt.NDArray[np.float64]
CUTS = (1, 5, 10, 20, 50, 200)
RANKING = tuple(f"{name}@{cut}" for name in ("hr", "recall", "ndcg", "mrr") for cut in CUTS)
CLICK = ("auc", "uauc", "logloss", "ece")
HISTORY = ((0, 0), (1, 2), (3, 4), (5, 10), (11, 50), (51, None))
TARGET = ((0, 0), (1, 2), (3, 5), (6, 20), (21, 100), (101, None))
SHOWN = 10  # first posts of a list that the metrics beyond accuracy are measured on
BEYOND = ("novelty", "diversity", "popularity-bias")
_BINS = 15
_ROUNDS = 1000
_CHUNK = 50  # bootstrap rounds at a time: bounds memory for many users
_ROWS = 5000  # lists that are given to ir-measures at once: its dictionaries are large


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Likes (users, posts) sparse, likes per post (posts,), number of users with likes, text vectors (posts, d)."""

    liked: Any
    popularity: Rows
    population: int
    vectors: Vectors


# ---- rankings ----


def top(scores: Floats, keys: Callable[[Rows], Keys], cut: int = max(CUTS)) -> Rows:
    """Indices of the best `cut` scores of one list (n,), best first; ties in the order of their `keys`.

    -inf marks what must not be ranked.
    """
    if not len(scores):
        return np.zeros(0, dtype=np.int64)
    size = min(cut, len(scores))
    least = np.partition(scores, len(scores) - size)[len(scores) - size]
    found = np.flatnonzero(scores > least)
    if least > -np.inf:
        # Of the posts tied at the cut, those with the smallest keys are taken.
        tied, left = np.flatnonzero(scores == least), size - len(found)
        if len(tied) > left:
            tied = tied[np.argpartition(keys(tied), left - 1)[:left]]
        found = np.concatenate([found, tied])
    return np.asarray(found[np.lexsort((keys(found), -scores[found]))])


def ranking_values(ranked: Sequence[Rows], relevant: Sequence[Rows]) -> dict[str, Values]:
    """(rows,) values of each ranking metric, for lists of distinct items, best first, and the relevant ones of each."""
    import ir_measures as ir

    kinds = {"hr": ir.Success, "recall": ir.R, "ndcg": ir.nDCG, "mrr": ir.RR}
    names = {kinds[name.split("@")[0]] @ int(name.split("@")[1]): name for name in RANKING}
    values = {name: np.zeros(len(ranked)) for name in RANKING}
    for begin in range(0, len(ranked), _ROWS):
        part = range(begin, min(begin + _ROWS, len(ranked)))
        qrels = {str(row): dict.fromkeys(map(str, relevant[row].tolist()), 1) for row in part}
        # The places are the scores: no library may break ties in its own way.
        run = {str(row): {str(item): -float(at) for at, item in enumerate(ranked[row].tolist())} for row in part}
        for found in ir.iter_calc(list(names), qrels, run):
            values[names[found.measure]][int(found.query_id)] = found.value
    return values


def beyond(ranked: Sequence[Rows], users: Rows, context: Catalogue) -> dict[str, Values]:
    """(rows,) metrics beyond accuracy of the first ten of each list.

    `novelty`: mean self-information of a post in bits, -log2 of the (add-one) share of users who liked it;
    `diversity`: 1 - mean cosine of the posts' text vectors over all pairs; `popularity-bias`: mean popularity
    percentile of the list less that of the user's history (NaN without one).
    """
    information = -np.log2((context.popularity + 1) / (context.population + 1))
    percentiles = _percentiles(context.popularity)
    values = {name: np.full(len(ranked), np.nan) for name in BEYOND}
    for row, items in enumerate(ranked):
        shown = items[:SHOWN]
        if not len(shown):
            continue
        values["novelty"][row] = information[shown].mean()
        vectors = context.vectors[shown]
        lengths = int(np.count_nonzero(np.einsum("ij,ij->i", vectors, vectors)))
        if lengths > 1:
            total = vectors.sum(axis=0)
            values["diversity"][row] = 1 - (total @ total - lengths) / (lengths * (lengths - 1))
        own = context.liked.indices[slice(*context.liked.indptr[users[row] : users[row] + 2])]
        if len(own):
            values["popularity-bias"][row] = percentiles[shown].mean() - percentiles[own].mean()
    return values


def coverage(ranked: Sequence[Rows], size: int) -> float:
    """Share of the catalogue that stands among the first ten of anybody's list."""
    shown = [items[:SHOWN] for items in ranked]
    return len(np.unique(np.concatenate(shown))) / size if shown and size else 0.0


def _percentiles(popularity: Rows) -> Values:
    """(posts,): share of the catalogue that is less popular, ties shared."""
    order = np.sort(popularity)
    below, until = np.searchsorted(order, popularity, "left"), np.searchsorted(order, popularity, "right")
    return np.asarray((below + until) / (2 * max(len(order), 1)))


# ---- clicks ----


def user_aucs(labels: Rows, scores: Floats, users: Rows) -> tuple[Rows, Values]:
    """Rows of the users who have both classes, and the AUC of each."""
    from sklearn.metrics import roc_auc_score

    order = np.argsort(users, kind="stable")
    names, starts = np.unique(users[order], return_index=True)
    found: list[tuple[int, float]] = []
    for user, part in zip(names, np.split(order, starts[1:]), strict=True):
        if 0 < labels[part].sum() < len(part):
            found.append((int(user), float(roc_auc_score(labels[part], scores[part]))))
    return np.array([user for user, _ in found], dtype=np.int64), np.array([auc for _, auc in found])


def weighted_auc(labels: Rows, scores: Floats, weights: Values) -> Values:
    """(rounds,) AUC of the rows for each line of row weights (rounds, rows); ties count half, one class is NaN."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) > 0))
    ups, downs = weights[:, order] * labels[order], weights[:, order] * (1 - labels[order])
    ups, downs = np.add.reduceat(ups, starts, axis=1), np.add.reduceat(downs, starts, axis=1)
    before = np.cumsum(downs, axis=1) - downs / 2
    pairs = ups.sum(axis=1) * downs.sum(axis=1)
    return np.where(pairs > 0, (ups * before).sum(axis=1) / np.where(pairs > 0, pairs, 1), np.nan)


def log_losses(labels: Rows, probabilities: Values) -> Values:
    """(rows,): minus the log of the probability that was given to what happened."""
    given = np.clip(np.where(labels > 0, probabilities, 1 - probabilities), 1e-7, 1.0)
    return np.asarray(-np.log(given))


def equal_mass(probabilities: Values, keys: Keys, bins: int = _BINS) -> Rows:
    """(rows,): the bin of each row; bins hold equally many rows, in the order of the probabilities."""
    place = np.empty(len(keys), dtype=np.int64)
    place[np.lexsort((keys, probabilities))] = np.arange(len(keys))
    return place * bins // max(len(keys), 1)


def weighted_ece(labels: Rows, probabilities: Values, bins: Rows, weights: Values) -> Values:
    """(rounds,) expected calibration error: mean over the rows of the gap of their bin, |share - probability|."""
    held = np.zeros((len(labels), int(bins.max(initial=0)) + 1))
    held[np.arange(len(labels)), bins] = labels - probabilities
    return np.asarray(np.abs(weights @ held).sum(axis=1) / weights.sum(axis=1))


def calibrated(labels: Rows, scores: Floats) -> tuple[float, float]:
    """Slope and intercept of P(like) = sigmoid(slope * score + intercept) (Platt 1999)."""
    from sklearn.linear_model import LogisticRegression

    if len(labels) == 0 or labels.min() == labels.max():
        share = (labels.sum() + 1) / (len(labels) + 2)
        return 0.0, float(np.log(share / (1 - share)))
    spread = float(scores.std()) or 1.0
    fitted = LogisticRegression(C=1e3).fit((scores[:, None] / spread).astype(np.float64), labels)
    return float(fitted.coef_[0, 0]) / spread, float(fitted.intercept_[0])


# ---- intervals ----


@dataclass(frozen=True, slots=True)
class Resampling:
    """Draws of users with replacement, the same ones for every ranker. `users` (rows,) owns the rows."""

    users: Rows
    seed: int = 0
    rounds: int = _ROUNDS

    def weights(self) -> Iterator[tuple[slice, Values, Rows]]:
        """Chunks of rounds: which they are, how often each distinct user was drawn, and each row's user among those."""
        names, codes = np.unique(self.users, return_inverse=True)
        rng = np.random.default_rng(self.seed)
        for begin in range(0, self.rounds, _CHUNK):
            count = min(_CHUNK, self.rounds - begin)
            # All rounds of a chunk are counted at once, each in a place of its own.
            drawn = rng.integers(0, len(names), (count, len(names))) + len(names) * np.arange(count)[:, None]
            times = np.bincount(drawn.ravel(), minlength=count * len(names)).reshape(count, -1)
            yield slice(begin, begin + count), times.astype(np.float64), codes

    def means(self, values: Values) -> Values:
        """(rounds, m) means of (rows, m) values; NaN values count for nobody."""
        found = np.empty((self.rounds, values.shape[1]))
        there = ~np.isnan(values)
        filled = np.where(there, values, 0.0)
        for rounds, weights, codes in self.weights():
            if rounds.start == 0:
                held = _summed(codes, weights.shape[1])
                sums, counts = held @ filled, held @ there
            with np.errstate(invalid="ignore", divide="ignore"):
                found[rounds] = (weights @ sums) / (weights @ counts)
        return found

    def of(self, statistic: Callable[[Values], Values]) -> Values:
        """(rounds,) of a statistic that takes row weights (some rounds, rows)."""
        found = np.empty(self.rounds)
        for rounds, weights, codes in self.weights():
            found[rounds] = statistic(weights[:, codes])
        return found


def _summed(codes: Rows, size: int) -> Any:
    """Sparse (size, rows) that adds up the rows of each code."""
    from scipy import sparse

    return sparse.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(size, len(codes)))


def bounds(draws: Values) -> list[float]:
    """The 95 % percentile interval, rounded as in the document; NaN rounds (one class drawn) are left out."""
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return [0.0, 0.0]
    return [round(float(bound), 4) for bound in np.quantile(draws, [0.025, 0.975])]


# ---- parts of the users and posts ----


def bucket_name(bounds: tuple[int, int | None]) -> str:
    """How a bucket is called: "0", "3-4", ">50"."""
    low, high = bounds
    if high is None:
        return f">{low - 1}"
    return str(low) if low == high else f"{low}-{high}"


def buckets(counts: Rows, edges: Sequence[tuple[int, int | None]]) -> Iterator[tuple[str, Rows]]:
    """The name and the rows of each bucket of these counts that has any."""
    for low, high in edges:
        rows = np.flatnonzero((counts >= low) & (counts <= (np.inf if high is None else high)))
        if len(rows):
            yield bucket_name((low, high)), rows
