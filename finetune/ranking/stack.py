"""How the ranking core combines its parts: a blend that retrieves, and boosted trees that rank what it retrieved.

The blend is a conditional logit (McFadden 1974) on the parts' scores against uniform other posts: log p(post | history)
up to a constant. Its parts are taken in one by one as long as each earns its place on users that the weights have
not seen. Trees (LambdaMART: Burges 2010, by LightGBM) see the same scores, how long the history is and how common and
how new the post is; one forest learns from posts near the top of the blend, another from posts of anywhere, because
what tells the best from the second best does not tell either from the rest. Scores are standardised over a user's
whole catalogue, never over a list, so that no candidate moves another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whyfeed.finetune.evaluation.baselines import THREADS, needs
from whyfeed.finetune.evaluation.histories import Histories
from whyfeed.finetune.ranking.fit import conditional_logit
from whyfeed.finetune.ranking.parts import COUNTED
from whyfeed.retrieval.arrays import Floats, Rows

Scorer = Callable[[Rows], Floats]  # users -> (users, posts)
TOP = 400  # posts of the blend that are ranked as the best
UNIFORM = 100  # negatives of a list
HARD = 60
FIRST = 5000  # users that the blend is chosen on
_ROUNDS = 200
_PLAIN = ("smoothed set by vectors", "popularity")  # where nothing can be chosen
_PENALTY = 1e-3
_LEAST = 2e-3  # nats: what gains less is not worth its time


@dataclass(frozen=True, eq=False)
class Context:
    """What does not depend on the user: names and values (posts, c); and the length of each user's history."""

    names: tuple[str, ...]
    posts: Floats
    lengths: Floats

    @classmethod
    def of(cls, histories: Histories) -> Context:
        """Popularity; in ordered histories also how often a post is somebody's last and how late it stands."""
        popularity = histories.popularity.astype(np.float32)
        columns = {"log popularity": np.log1p(popularity)}
        if histories.ordered:
            places = histories.firsts
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
class Scores:
    """What the parts say of the whole catalogue for a block of users, raw and standardised, by name (users, posts)."""

    raw: Mapping[str, Floats]
    standard: Mapping[str, Floats]

    @classmethod
    def of(cls, scorers: Mapping[str, Scorer], users: Rows) -> Scores:
        """Ask each scorer; what is counted is seen on a logarithmic scale."""
        raw, standard = {}, {}
        for name, score in scorers.items():
            values = score(users)
            if name.startswith(COUNTED):
                values = np.log(values + 1e-4 * values.max(axis=1, keepdims=True) + np.float32(1e-12))
            spread = values.std(axis=1, keepdims=True)
            raw[name] = values
            standard[name] = (values - values.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-9)
        return cls(raw, standard)

    def of_pairs(self, names: Sequence[str], lines: Rows, posts: Rows) -> Floats:
        """(n, length, 2 x names): raw then standard, for lines (n,) of this block and posts (n, length)."""
        tables = [*(self.raw[name] for name in names), *(self.standard[name] for name in names)]
        return np.stack([table[lines[:, None], posts] for table in tables], axis=2)


@dataclass(frozen=True, slots=True)
class Blend:
    """A weighted sum of standardised scores; `gains` is what each part added to the log-likelihood of
    what was right, in nats, when it was taken in."""

    weights: Mapping[str, float]
    gains: Mapping[str, float] = field(default_factory=dict)

    def score(self, scores: Scores) -> Floats:
        """(users, posts)."""
        total = sum(np.float32(weight) * scores.standard[name] for name, weight in self.weights.items())
        return np.asarray(total, dtype=np.float32)


@dataclass(eq=False)
class Lists:
    """Lists whose first post is the right one: `values` (n, length, features), the blend's scores (n, length).

    Lists of one of `groups` (n,) are not to be told from each other by what was learnt from some of them.
    """

    users: Rows
    groups: Rows
    values: Floats
    blended: Floats

    def split(self, share: float, seed: int) -> tuple[Lists, Lists]:
        """Two parts by group; the second holds this share."""
        names, group = np.unique(self.groups, return_inverse=True)
        chosen = (np.random.default_rng([seed, 5]).random(len(names)) < share)[group]
        return self.part(~chosen), self.part(chosen)

    def part(self, rows: Any) -> Lists:
        """Some of the lists."""
        return Lists(self.users[rows], self.groups[rows], self.values[rows], self.blended[rows])


def uniform_posts(target: int, own: Rows, pool: Rows, count: int, rng: np.random.Generator) -> Rows:
    """The target, then `count` others of a pool that the user has not had, with repetition where it is tiny."""
    free = pool[rng.integers(0, len(pool), 2 * count + 16)]
    free = free[~np.isin(free, own) & (free != target)]
    if len(free) < count:
        rest = np.setdiff1d(pool, np.append(own, target))
        free = rng.choice(rest, count) if len(rest) else np.full(count, target)
    return np.concatenate([[target], free[:count]]).astype(np.int64)


def gains_at_ten(scores: Floats) -> Floats:
    """(n,) nDCG@10 of lists (n, length) whose first post is the right one; a tie counts half."""
    above = (scores[:, 1:] > scores[:, :1]).sum(axis=1) + 0.5 * (scores[:, 1:] == scores[:, :1]).sum(axis=1)
    return np.where(above < 10, 1 / np.log2(above + 2), 0.0)


def log_shares(scores: Floats) -> Floats:
    """(n,) log of the share that the first post of lists (n, length) gets by a softmax."""
    top = scores.max(axis=1)
    return np.asarray(scores[:, 0] - top - np.log(np.exp(scores - top[:, None]).sum(axis=1)), dtype=np.float64)


def choose_blend(lists: Lists, names: Sequence[str], seed: int, start: Blend | None = None) -> Blend:
    """Take parts in one by one, the most useful first, while each gains more than its standard error.

    `start` is a blend of some of them that others may only be added to.

    What counts is the log-likelihood of what was right, which tells apart what nDCG@10 is too coarse to tell.
    `lists` hold the standardised scores of the parts in the order of `names`.
    """
    halves = lists.split(0.5, seed)

    def found(places: Sequence[int]) -> Floats:
        """(n,) log of the share of what was right, each by weights that have not seen it."""
        shares = [
            log_shares(choose.values[:, :, places] @ _weights(learn, places)) if places
            else log_shares(np.zeros(choose.values.shape[:2], dtype=np.float32))
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
        if not better(tried[place], best) or (tried[place] - best).mean() < _LEAST:
            break
        kept.append(place)
        gains[names[place]] = round(float((tried[place] - best).mean()), 4)
        best = tried[place]
    if not kept:
        return plain_blend(names)
    weights = _weights(lists, kept)
    return Blend({names[place]: float(weight) for place, weight in zip(kept, weights, strict=True)}, gains)


def plain_blend(names: Sequence[str]) -> Blend:
    """Of homes that are too small to tell what earns its place."""
    return Blend({next((name for name in _PLAIN if name in names), names[0]): 1.0})


def _weights(lists: Lists, places: Sequence[int]) -> Floats:
    right = np.zeros(lists.values.shape[1], dtype=bool)
    right[0] = True
    choices = [(values[:, places], right) for values in lists.values]
    return conditional_logit(choices, _PENALTY, [(0.0, None)] * len(places))


class Forest:
    """LambdaMART that corrects the blend: it is grown from the blend's scores, and added to them.

    On one thread: where others use the machine, several wait for each other longer than they work.
    """

    def __init__(self, lists: Lists, rounds: int = _ROUNDS, seed: int = 0) -> None:
        needs("lightgbm", "eval")
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
        self._booster = lightgbm.train(settings, data, rounds)

    def correction(self, values: Floats) -> Floats:
        """(...,) to be added to the blend's score, of values (..., features)."""
        flat = np.ascontiguousarray(values.reshape(-1, values.shape[-1]))
        found = self._booster.predict(flat, num_threads=1, raw_score=True) if len(flat) else np.zeros(0)
        return np.asarray(found, dtype=np.float32).reshape(values.shape[:-1])


def better(challenger: Floats, other: Floats) -> bool:
    """Whether the mean difference is above its standard error: enough to keep a part, not to claim anything."""
    difference = challenger - other
    return bool(len(difference)) and bool(difference.mean() > difference.std() / np.sqrt(len(difference)))
