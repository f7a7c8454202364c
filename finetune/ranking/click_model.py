"""Likes and dislikes: the core's click model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from whyfeed.finetune.evaluation.baselines import Tools
from whyfeed.finetune.evaluation.histories import Histories
from whyfeed.retrieval.arrays import Floats, Rows, Vectors, unit

Doubles = npt.NDArray[np.float64]
NOISE = 0.3  # variance of a label around its score
_LATENT = 12
_ROUNDS = 3
_MOST_POSTS = 8000  # its kernel is dense


@dataclass
class CoreClicks:
    """A Gaussian process on labels: mean + what is common about a post + how a user differs, both smooth over posts.

    Posts are alike when the same users saw them (liked or not: labels would leak), when their texts are
    alike, when they are equally popular and from the same years. Additive kernels are solved by backfitting
    (Hastie and Tibshirani 1986): posts on mean residuals, then each user's own small system.
    """

    tools: Tools

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""
        said = histories.weight != 0
        user, post = histories.user[said], histories.post[said]
        label = (histories.weight[said] > 0).astype(np.float64)
        self._mean = float(label.mean()) if len(label) else 0.5
        self._size = len(histories.posts)
        # Posts that nobody judged and that stand in no text keep the mean; the kernel covers the most popular.
        counts = np.bincount(post, minlength=self._size)
        self._covered = np.sort(np.argsort(-counts, kind="stable")[:_MOST_POSTS])
        place = np.full(self._size, -1, dtype=np.int64)
        place[self._covered] = np.arange(len(self._covered))
        kept = place[post] >= 0
        user, post, left = user[kept], place[post[kept]], label[kept] - self._mean
        common, own = self._kernels(histories)
        self._own = own

        order = np.argsort(user, kind="stable")
        user, post, left = user[order], post[order], left[order]
        names, starts = np.unique(user, return_index=True)
        parts = [slice(*each) for each in zip(starts, [*starts[1:], len(user)], strict=True)]
        counts = np.bincount(post, minlength=len(self._covered))
        rated = np.flatnonzero(counts)
        system = common[np.ix_(rated, rated)] + np.diag(NOISE / counts[rated])
        from scipy.linalg import cho_factor, cho_solve

        factor = cho_factor(system, lower=True) if len(rated) else None
        self._known = common, rated, factor
        factors = [
            cho_factor(own[np.ix_(post[part], post[part])] + NOISE * np.eye(part.stop - part.start)) for part in parts
        ]
        self._effects = np.zeros(len(self._covered))
        alphas: list[Doubles] = [np.zeros(part.stop - part.start) for part in parts]
        of_user = np.zeros(len(left))
        for _ in range(_ROUNDS):
            if factor is not None:
                sums = np.bincount(post, left - of_user, minlength=len(self._covered))
                self._effects = common[:, rated] @ cho_solve(factor, sums[rated] / counts[rated])
            for at, part in enumerate(parts):
                alphas[at] = cho_solve(factors[at], left[part] - self._effects[post[part]])
                of_user[part] = own[np.ix_(post[part], post[part])] @ alphas[at]
        self._users = {
            int(name): (post[part], alphas[at]) for at, (name, part) in enumerate(zip(names, parts, strict=True))
        }

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        found = np.full((len(users), self._size), self._mean, dtype=np.float64)
        for row, user in enumerate(users):
            effects = self._effects
            if int(user) in self._users:
                posts, alpha = self._users[int(user)]
                effects = effects + self._own[:, posts] @ alpha
            found[row, self._covered] += effects
        return found.astype(np.float32)

    def covariance(self, user: int | None = None) -> Doubles:
        """(covered, covered): how uncertain the scores of a user still are; without one, of somebody new.

        Rows are posts in their order, as long as there are no more than the kernel covers. What all have said is
        known of what is common, what the user has said of how the user differs; labels are not needed for it.
        """
        from scipy.linalg import cho_factor, cho_solve

        common, rated, factor = self._known
        found = common + self._own
        if factor is not None:
            found -= common[:, rated] @ cho_solve(factor, common[rated])
        if user is not None and user in self._users:
            posts = self._users[user][0]
            system = self._own[np.ix_(posts, posts)] + NOISE * np.eye(len(posts))
            found -= self._own[:, posts] @ cho_solve(cho_factor(system), self._own[posts])
        return np.asarray(found, dtype=np.float64)

    def _kernels(self, histories: Histories) -> tuple[Doubles, Doubles]:
        """Of what is common and of how users differ, (covered, covered) each."""
        rows = self._covered
        seen = histories.seen[:, rows]
        alike = (_squared(self.tools.vectors[rows]) + _squared(_watched(seen))) / 2
        popularity = np.log1p(np.asarray(seen.sum(axis=0)).ravel())
        popularity = (popularity - popularity.mean()) / (popularity.std() or 1.0)
        years = histories.years[rows]
        near = np.exp(-(((years[:, None] - years[None, :]) / 8) ** 2))
        near = np.nan_to_num(near)  # of an unknown year nothing is known to be near
        common = 0.03 * np.eye(len(rows)) + 0.1 * alike + 0.03 * np.outer(popularity, popularity) + 0.02 * near
        return common, 0.12 + 0.05 * alike + 0.02 * near


def _squared(vectors: Vectors) -> Doubles:
    return np.asarray(np.maximum(vectors @ vectors.T, 0), dtype=np.float64) ** 2


def _watched(seen: Any) -> Vectors:
    """(posts, 12) unit vectors by who saw a post, whatever they said; what all share, the first part, is dropped."""
    from scipy.sparse.linalg import svds

    users, posts = seen.shape
    parts = min(_LATENT + 1, users - 1, posts - 1)
    if parts < 2:
        return np.zeros((posts, 1), dtype=np.float32)
    start = np.ones(min(users, posts))  # the default start is drawn anew each time
    _, values, right = svds(seen.astype(np.float64), k=parts, v0=start)
    order = np.argsort(-values)[1:]
    return unit((right[order] * values[order, None]).T)
