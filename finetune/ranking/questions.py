"""Which posts to ask a reader about next: those whose answers say most about all the others.

The click model of the core is a Gaussian process, so what an answer would teach is known before it is given: asking
about post i lowers the variance of post j by cov(i, j)^2 / (var(i) + noise), whatever the answer. Posts are chosen one
after the other by the whole that this lowers over all posts (Cohn 1994; Seo et al. 2000, "Gaussian process
regression: active data selection"; for recommenders Rubens et al. 2015). That takes what is uncertain, and nothing
twice: an answer about one post lowers the variance of those like it. Nobody can judge a post that they do not know,
so only the popular ones are asked about: the fewest that hold four fifths of all events. Popularity does not weigh
beyond that: by popularity alone one topic is asked about again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from whyfeed.finetune.evaluation.baselines import Tools
from whyfeed.finetune.evaluation.histories import Flags, Histories
from whyfeed.finetune.ranking.click_model import NOISE, CoreClicks, Doubles
from whyfeed.retrieval.arrays import Rows
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.progress import Progress

_MOST = 2000  # posts that are looked at: the matrix of their covariances is dense
_KNOWN = 0.8  # of the events are on posts that may be asked about


@dataclass(frozen=True, slots=True)
class Question:
    """A post to ask about. `lowers` is the share of all that is uncertain that its answer takes away.

    It counts the questions before it as answered.
    """

    post: str
    lowers: float


def questions(
    histories: Histories, embedder: Embedder, user: str | None = None, count: int = 10, progress: Progress | None = None
) -> list[Question]:
    """Posts to ask `user` about, the most telling first; without a user, somebody of whom nothing is known.

    What the user has acted on is not asked. ValueError for a count below 1, DataError for a user without an event here
    and where there are no events.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    if user is not None and user not in histories.user_rows:
        raise DataError(f"{user!r} has done nothing here yet; ask without a user for what to ask somebody new")
    if not len(histories.user):
        raise DataError(f"{histories.name!r} has no events: which posts are known to readers cannot be told")
    row = None if user is None else histories.user_rows[user]
    own = np.unique(histories.post[histories.user == row]) if row is not None else np.zeros(0, dtype=np.int64)
    part = _popular(histories, own)
    core = CoreClicks(Tools(embedder, part.texts, progress))
    core.fit(part)
    may = _known(part)
    may[[part.post_rows[histories.posts[post]] for post in own]] = False
    chosen, shares = choose(core.covariance(row), may, count)
    return [Question(part.posts[post], float(share)) for post, share in zip(chosen, shares, strict=True)]


def choose(covariance: Doubles, may: Flags, count: int) -> tuple[Rows, Doubles]:
    """Places to ask, the best first, and the share of all variance that each answer takes away.

    `covariance` (n, n) of the scores, `may` (n,) whether a post may be asked about. Greedy: each choice counts the
    ones before it as answered.
    """
    left, may = covariance.copy(), may.copy()
    whole = float(np.trace(left))
    places: list[int] = []
    shares: list[float] = []
    for _ in range(min(count, int(may.sum()))):
        lowered = np.square(left).sum(axis=1) / (np.diagonal(left) + NOISE)
        best = int(np.argmax(np.where(may, lowered, -1.0)))
        places.append(best)
        shares.append(float(lowered[best] / whole) if whole > 0 else 0.0)
        left -= np.outer(left[:, best], left[best]) / (left[best, best] + NOISE)
        may[best] = False
    return np.array(places, dtype=np.int64), np.array(shares)


def _known(histories: Histories) -> Flags:
    """(posts,): the most popular ones, as few as hold `_KNOWN` of what anybody has seen."""
    counts = np.bincount(histories.seen.indices, minlength=len(histories.posts))
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    found = np.zeros(len(counts), dtype=np.bool_)
    found[order[before < _KNOWN * counts.sum()]] = True
    return found


def _popular(histories: Histories, own: Sequence[int] | Rows) -> Histories:
    """The same users and events on the most popular posts, and on the user's own."""
    counts = np.bincount(histories.seen.indices, minlength=len(histories.posts))
    posts = np.union1d(np.argsort(-counts, kind="stable")[:_MOST], own).astype(np.int64)
    place = np.full(len(histories.posts), -1, dtype=np.int64)
    place[posts] = np.arange(len(posts))
    kept = histories.keep(place[histories.post] >= 0)
    return replace(
        kept, post=place[kept.post], posts=tuple(histories.posts[post] for post in posts),
        texts=tuple(histories.texts[post] for post in posts), years=histories.years[posts],
    )  # fmt: skip
