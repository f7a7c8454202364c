"""Which posts to ask a reader about next: those whose answers reduce the uncertainty about all posts most.

The core's click model is a Gaussian process, so the effect of an answer on the variance is known before it is given:
asking about post i reduces the variance of post j by cov(i, j)^2 / (var(i) + noise). Posts are selected greedily by the
total reduction (Cohn 1994; Seo et al. 2000, "Gaussian process regression: active data selection"; for recommenders
Rubens et al. 2015), so similar posts are not asked about twice. Readers cannot judge posts they do not know, so only
popular posts are asked about: the fewest that have four fifths of all events. Popularity has no further weight, because
the most popular posts are often all of one topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from whyfeed.finetune.evaluation.baselines import Resources
from whyfeed.finetune.evaluation.histories import Flags, Histories
from whyfeed.finetune.ranking.click_model import NOISE_VARIANCE, Doubles, GaussianProcessClicks
from whyfeed.retrieval.arrays import Rows
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.progress import Progress

_MAX_POSTS = 2000  # that are considered: their covariances are a dense matrix
_KNOWN_SHARE = 0.8  # of the events are on the posts that may be asked about


@dataclass(frozen=True, slots=True)
class Question:
    """A post to ask about. `lowers`: the share of the total variance that its answer removes.

    The questions before it count as answered.
    """

    post: str
    lowers: float


def questions(
    histories: Histories, embedder: Embedder, user: str | None = None, count: int = 10, progress: Progress | None = None
) -> list[Question]:
    """Posts to ask `user` about, the most informative first; for None, those to ask a new user about.

    Posts that the user has acted on are left out. ValueError for a count below 1, DataError for a user without events
    and for histories without events.
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
    core = GaussianProcessClicks(Resources(embedder, part.texts, progress))
    core.fit(part)
    may = _widely_known(part)
    may[[part.post_rows[histories.posts[post]] for post in own]] = False
    chosen, shares = choose_posts(core.covariance(row), may, count)
    return [Question(part.posts[post], float(share)) for post, share in zip(chosen, shares, strict=True)]


def choose_posts(covariance: Doubles, may: Flags, count: int) -> tuple[Rows, Doubles]:
    """Indices of the posts to ask about, the best first, and the share of the total variance that each answer removes.

    `covariance` (n, n) of the scores; `may` (n,): which posts may be asked about. Greedy: each choice counts the ones
    before it as answered.
    """
    left, may = covariance.copy(), may.copy()
    whole = float(np.trace(left))
    places: list[int] = []
    shares: list[float] = []
    for _ in range(min(count, int(may.sum()))):
        lowered = np.square(left).sum(axis=1) / (np.diagonal(left) + NOISE_VARIANCE)
        best = int(np.argmax(np.where(may, lowered, -1.0)))
        places.append(best)
        shares.append(float(lowered[best] / whole) if whole > 0 else 0.0)
        left -= np.outer(left[:, best], left[best]) / (left[best, best] + NOISE_VARIANCE)
        may[best] = False
    return np.array(places, dtype=np.int64), np.array(shares)


def _widely_known(histories: Histories) -> Flags:
    """(posts,) which posts are known widely: the fewest most popular that have `_KNOWN_SHARE` of the events."""
    counts = np.bincount(histories.seen.indices, minlength=len(histories.posts))
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    found = np.zeros(len(counts), dtype=np.bool_)
    found[order[before < _KNOWN_SHARE * counts.sum()]] = True
    return found


def _popular(histories: Histories, own: Sequence[int] | Rows) -> Histories:
    """The same users and events on the most popular posts, and on the user's own."""
    counts = np.bincount(histories.seen.indices, minlength=len(histories.posts))
    posts = np.union1d(np.argsort(-counts, kind="stable")[:_MAX_POSTS], own).astype(np.int64)
    place = np.full(len(histories.posts), -1, dtype=np.int64)
    place[posts] = np.arange(len(posts))
    kept = histories.keep(place[histories.post] >= 0)
    return replace(
        kept, post=place[kept.post], posts=tuple(histories.posts[post] for post in posts),
        texts=tuple(histories.texts[post] for post in posts), years=histories.years[posts],
    )  # fmt: skip
