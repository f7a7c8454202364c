"""How the ranking core combines its base rankers: a blend that retrieves, and boosted trees that rerank.

The blend is a conditional logit (McFadden 1974) on the base rankers' scores, fitted against uniformly drawn negatives;
its score is log p(post | history) up to a constant. Base rankers are added one by one as long as each improves the
held-out likelihood. The trees (LambdaMART: Burges 2010, by LightGBM) see the same scores, the length of the history,
and how popular and how new a post is. One forest learns from negatives near the top of the blend, the other from
negatives of the whole catalogue, because what separates the best from the second best does not separate them from the
rest. Scores are standardised over a user's whole catalogue, never over a list of candidates, so that the score of a
post does not depend on the other candidates.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whyfeed.finetune.evaluation.baselines import THREADS, require_library
from whyfeed.finetune.evaluation.histories import Histories
from whyfeed.finetune.ranking.fit import conditional_logit
from whyfeed.finetune.ranking.parts import LOG_SCALED
from whyfeed.retrieval.arrays import Floats, Rows

Scorer = Callable[[Rows], Floats]  # users -> (users, posts)
RERANKED = 400  # best posts of the blend, which one of the forests reranks
UNIFORM_NEGATIVES = 100  # of a list, from the whole catalogue
HARD_NEGATIVES = 60  # of a list, from the best posts of the blend
BLEND_USERS = 5000  # users that the blend is selected on
_ROUNDS = 200  # trees
_TRAINING = threading.Lock()  # LightGBM keeps its number of threads for the whole process: one training at a time
_FALLBACK_PARTS = (
    "smoothed set by vectors",
    "popularity",
)  # the first of these that is there, where there is too little data to select
_PENALTY = 1e-3  # on the squared weights of the blend
_MIN_GAIN = 2e-3  # nats of likelihood; a base ranker that adds less is not worth its time


@dataclass(frozen=True, eq=False)
class StaticFeatures:
    """Features beside the scores: names, values of each post (posts, c), and log history length of each user."""

    names: tuple[str, ...]
    posts: Floats
    lengths: Floats

    @classmethod
    def of(cls, histories: Histories) -> StaticFeatures:
        """Log popularity; with an order also how often a post is a user's last, and its mean relative position."""
        popularity = histories.popularity.astype(np.float32)
        columns = {"log popularity": np.log1p(popularity)}
        if histories.ordered:
            places = histories.first_likes
            users, posts = histories.user[places], histories.post[places]
            age = np.searchsorted(users, users, side="right") - 1 - np.arange(len(places))
            late = 1 - age / np.maximum(histories.lengths[users] - 1, 1)
            columns["log last"] = np.log1p(np.bincount(posts[age == 0], minlength=len(popularity)))
            columns["lateness"] = (np.bincount(posts, late, minlength=len(popularity)) + 2.5) / (popularity + 5)
        values = np.stack(list(columns.values()), axis=1).astype(np.float32)
        return cls((*columns, "log history"), values, np.log1p(histories.lengths).astype(np.float32))

    def of_pairs(self, users: Rows, posts: Rows) -> Floats:
        """(n, length, c + 1) for users (n,) and posts (n, length)."""
        own = np.broadcast_to(self.lengths[users][:, None, None], (*posts.shape, 1))
        return np.concatenate([self.posts[posts], own], axis=2)


@dataclass(frozen=True, eq=False)
class PartScores:
    """Scores of the whole catalogue for a block of users by each base ranker, raw and standardised, (users, posts)."""

    raw: Mapping[str, Floats]
    standard: Mapping[str, Floats]

    @classmethod
    def of(cls, scorers: Mapping[str, Scorer], users: Rows) -> PartScores:
        """Compute the scores; those that are counts are put on a logarithmic scale."""
        raw, standard = {}, {}
        for name, score in scorers.items():
            values = score(users)
            if name.startswith(LOG_SCALED):
                values = np.log(values + 1e-4 * values.max(axis=1, keepdims=True) + np.float32(1e-12))
            spread = values.std(axis=1, keepdims=True)
            raw[name] = values
            standard[name] = (values - values.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-9)
        return cls(raw, standard)

    def of_pairs(self, names: Sequence[str], lines: Rows, posts: Rows) -> Floats:
        """(n, length, 2 x names) raw, then standardised scores, for lines (n,) of this block and posts (n, length)."""
        tables = [*(self.raw[name] for name in names), *(self.standard[name] for name in names)]
        return np.stack([table[lines[:, None], posts] for table in tables], axis=2)


@dataclass(frozen=True, slots=True)
class Blend:
    """A weighted sum of standardised scores.

    `gains`: by how much, in nats, each base ranker improved the held-out log-likelihood when it was added.
    """

    weights: Mapping[str, float]
    gains: Mapping[str, float] = field(default_factory=dict)

    def score(self, scores: PartScores) -> Floats:
        """(users, posts)."""
        total = sum(np.float32(weight) * scores.standard[name] for name, weight in self.weights.items())
        return np.asarray(total, dtype=np.float32)


@dataclass(eq=False)
class TrainingLists:
    """Lists whose first post is the held-out one: `values` (n, length, features), the blend's scores (n, length).

    All lists of one of the `groups` (n,) stay on the same side of a split.
    """

    users: Rows
    groups: Rows
    values: Floats
    blended: Floats

    def split(self, share: float, seed: int) -> tuple[TrainingLists, TrainingLists]:
        """Two parts by group; the second holds this share."""
        names, group = np.unique(self.groups, return_inverse=True)
        chosen = (np.random.default_rng([seed, 5]).random(len(names)) < share)[group]
        return self.part(~chosen), self.part(chosen)

    def part(self, rows: Any) -> TrainingLists:
        """The lists of these rows."""
        return TrainingLists(self.users[rows], self.groups[rows], self.values[rows], self.blended[rows])


def uniform_posts(target: int, own: Rows, pool: Rows, count: int, rng: np.random.Generator) -> Rows:
    """The target, then `count` uniform posts of the pool outside `own`; they repeat where the pool is tiny."""
    free = pool[rng.integers(0, len(pool), 2 * count + 16)]
    free = free[~np.isin(free, own) & (free != target)]
    if len(free) < count:
        rest = np.setdiff1d(pool, np.append(own, target))
        free = rng.choice(rest, count) if len(rest) else np.full(count, target)
    return np.concatenate([[target], free[:count]]).astype(np.int64)


def ndcg_at_ten(scores: Floats) -> Floats:
    """(n,) nDCG@10 of lists (n, length) whose first post is the relevant one; a tie counts half."""
    above = (scores[:, 1:] > scores[:, :1]).sum(axis=1) + 0.5 * (scores[:, 1:] == scores[:, :1]).sum(axis=1)
    return np.where(above < 10, 1 / np.log2(above + 2), 0.0)


def first_log_probabilities(scores: Floats) -> Floats:
    """(n,) log of the softmax probability of the first post of lists (n, length)."""
    top = scores.max(axis=1)
    return np.asarray(scores[:, 0] - top - np.log(np.exp(scores - top[:, None]).sum(axis=1)), dtype=np.float64)


def choose_blend(lists: TrainingLists, names: Sequence[str], seed: int, start: Blend | None = None) -> Blend:
    """Forward selection: add base rankers, the most useful first, while each gains more than its standard error.

    `lists` hold the standardised scores in the order of `names`. The criterion is the held-out log-likelihood by
    two-fold cross-validation, which is finer than nDCG@10. With `start`, base rankers are only added to that blend.
    """
    halves = lists.split(0.5, seed)

    def found(places: Sequence[int]) -> Floats:
        """(n,) held-out log-likelihood of each list, by weights fitted on the other half."""
        shares = [
            first_log_probabilities(choose.values[:, :, places] @ _fit_weights(learn, places)) if places
            else first_log_probabilities(np.zeros(choose.values.shape[:2], dtype=np.float32))
            for learn, choose in (halves, halves[::-1])
        ]  # fmt: skip
        return np.concatenate(shares)

    kept = [names.index(name) for name in start.weights] if start else []
    gains = dict(start.gains) if start else {}
    best = found(kept)
    while len(kept) < len(names):
        left = [place for place in range(len(names)) if place not in kept]
        with ThreadPoolExecutor(THREADS) as pool:
            tried = dict(zip(left, pool.map(found, [[*kept, place] for place in left]), strict=True))
        place = max(tried, key=lambda each: (float(tried[each].mean()), -each))
        if not beats_by_standard_error(tried[place], best) or (tried[place] - best).mean() < _MIN_GAIN:
            break
        kept.append(place)
        gains[names[place]] = round(float((tried[place] - best).mean()), 4)
        best = tried[place]
    if not kept:
        return fallback_blend(names)
    weights = _fit_weights(lists, kept)
    return Blend({names[place]: float(weight) for place, weight in zip(kept, weights, strict=True)}, gains)


def fallback_blend(names: Sequence[str]) -> Blend:
    """A single base ranker, for homes with too little data to select."""
    return Blend({next((name for name in _FALLBACK_PARTS if name in names), names[0]): 1.0})


def _fit_weights(lists: TrainingLists, places: Sequence[int]) -> Floats:
    right = np.zeros(lists.values.shape[1], dtype=bool)
    right[0] = True
    choices = [(values[:, places], right) for values in lists.values]
    return conditional_logit(choices, _PENALTY, [(0.0, None)] * len(places))


class BoostedTrees:
    """LambdaMART (Burges 2010) that starts from the blend's scores and predicts a correction to them.

    It runs on one thread: on a shared machine several threads mostly wait for each other. ModelError without LightGBM.
    """

    def __init__(self, lists: TrainingLists, rounds: int = _ROUNDS, seed: int = 0) -> None:
        require_library("lightgbm", "eval")
        import lightgbm

        count, length, features = lists.values.shape
        labels = np.zeros((count, length), dtype=np.float32)
        labels[:, 0] = 1
        settings = {
            "objective": "lambdarank", "learning_rate": 0.03, "num_leaves": 15, "min_data_in_leaf": 200,
            "feature_fraction": 0.7, "bagging_fraction": 0.8, "bagging_freq": 1, "lambda_l2": 5.0, "label_gain": [0, 1],
            "lambdarank_truncation_level": 20, "deterministic": True, "force_row_wise": True, "num_threads": 1,
            "seed": seed, "verbose": -1,
        }  # fmt: skip
        data = lightgbm.Dataset(
            lists.values.reshape(-1, features), labels.ravel(), group=np.full(count, length),
            init_score=lists.blended.ravel().astype(np.float64),
        )  # fmt: skip
        with _TRAINING:
            self._booster = lightgbm.train(settings, data, rounds)

    def correction(self, values: Floats) -> Floats:
        """(...,) corrections to the blend's scores, for features (..., features)."""
        flat = np.ascontiguousarray(values.reshape(-1, values.shape[-1]))
        found = self._booster.predict(flat, num_threads=1, raw_score=True) if len(flat) else np.zeros(0)
        return np.asarray(found, dtype=np.float32).reshape(values.shape[:-1])


def beats_by_standard_error(challenger: Floats, other: Floats) -> bool:
    """Whether the mean difference exceeds its standard error. A criterion for selection, not a significance test."""
    difference = challenger - other
    return bool(len(difference)) and bool(difference.mean() > difference.std() / np.sqrt(len(difference)))
