"""The core's model of likes and dislikes: a Gaussian process on labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from whyfeed.finetune.evaluation.baselines import Resources
from whyfeed.finetune.evaluation.histories import Histories
from whyfeed.retrieval.arrays import Floats, Rows, Vectors, unit

Doubles = npt.NDArray[np.float64]
NOISE_VARIANCE = 0.3  # variance of a label around its score
_LATENT = 12  # dimensions of the audience vectors
_ROUNDS = 3  # of backfitting
_MAX_POSTS = 8000  # the kernel is a dense matrix of them


@dataclass
class GaussianProcessClicks:
    """A Gaussian process on labels: overall mean + effect of the post + the user's deviation, both smooth over posts.

    Posts are similar when the same users saw them (liked or not, so that labels do not leak), when their texts are
    similar, when they are equally popular, and when they are from the same years. The additive kernels are solved by
    backfitting (Hastie and Tibshirani 1986): post effects on mean residuals, then each user's own small system.
    """

    resources: Resources

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""
        said = histories.weight != 0
        user, post = histories.user[said], histories.post[said]
        label = (histories.weight[said] > 0).astype(np.float64)
        self._mean = float(label.mean()) if len(label) else 0.5
        self._size = len(histories.posts)
        # The kernel covers the posts with the most labels; all others keep the overall mean.
        counts = np.bincount(post, minlength=self._size)
        self._covered = np.sort(np.argsort(-counts, kind="stable")[:_MAX_POSTS])
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
        system = common[np.ix_(rated, rated)] + np.diag(NOISE_VARIANCE / counts[rated])
        from scipy.linalg import cho_factor, cho_solve

        factor = cho_factor(system, lower=True) if len(rated) else None
        self._known = common, rated, factor
        factors = [
            cho_factor(own[np.ix_(post[part], post[part])] + NOISE_VARIANCE * np.eye(part.stop - part.start))
            for part in parts
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
        """(covered, covered) posterior covariance of the scores of a user; of a new user for None.

        Rows are all posts, in their order, if there are no more than the kernel covers. It follows from who judged
        what; the labels are not needed.
        """
        from scipy.linalg import cho_factor, cho_solve

        common, rated, factor = self._known
        found = common + self._own
        if factor is not None:
            found -= common[:, rated] @ cho_solve(factor, common[rated])
        if user is not None and user in self._users:
            posts = self._users[user][0]
            system = self._own[np.ix_(posts, posts)] + NOISE_VARIANCE * np.eye(len(posts))
            found -= self._own[:, posts] @ cho_solve(cho_factor(system), self._own[posts])
        return np.asarray(found, dtype=np.float64)

    def _kernels(self, histories: Histories) -> tuple[Doubles, Doubles]:
        """Prior covariances (covered, covered) of the post effects and of a user's deviations."""
        rows = self._covered
        seen = histories.seen[:, rows]
        alike = (_squared_cosines(self.resources.vectors[rows]) + _squared_cosines(_audience_vectors(seen))) / 2
        popularity = np.log1p(np.asarray(seen.sum(axis=0)).ravel())
        popularity = (popularity - popularity.mean()) / (popularity.std() or 1.0)
        years = histories.years[rows]
        near = np.exp(-(((years[:, None] - years[None, :]) / 8) ** 2))
        near = np.nan_to_num(near)  # a post of an unknown year is near no other
        common = 0.03 * np.eye(len(rows)) + 0.1 * alike + 0.03 * np.outer(popularity, popularity) + 0.02 * near
        return common, 0.12 + 0.05 * alike + 0.02 * near


def _squared_cosines(vectors: Vectors) -> Doubles:
    return np.asarray(np.maximum(vectors @ vectors.T, 0), dtype=np.float64) ** 2


def _audience_vectors(seen: Any) -> Vectors:
    """(posts, 12) unit vectors by who saw a post (SVD); the first component, common to all, is dropped."""
    from scipy.sparse.linalg import svds

    users, posts = seen.shape
    parts = min(_LATENT + 1, users - 1, posts - 1)
    if parts < 2:
        return np.zeros((posts, 1), dtype=np.float32)
    start = np.ones(min(users, posts))  # the default start is random
    _, values, right = svds(seen.astype(np.float64), k=parts, v0=start)
    order = np.argsort(-values)[1:]
    return unit((right[order] * values[order, None]).T)
