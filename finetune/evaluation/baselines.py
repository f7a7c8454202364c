"""Baseline rankers with one small protocol.

A ranker is fitted on histories and scores the whole catalogue for a block of users; the score of a post does not
depend on the other candidates. All are deterministic.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

import numpy as np

from whyfeed.finetune.evaluation.histories import Histories
from whyfeed.finetune.evaluation.protocol import pair_keys
from whyfeed.retrieval.arrays import Condenser, Floats, Rows, Vectors, unit
from whyfeed.retrieval.community.embedder import Embedder, PostEncoder
from whyfeed.retrieval.errors import DataError, ModelError
from whyfeed.retrieval.progress import Progress

T = TypeVar("T")
_TILE = 1024
_ENCODED = 256  # texts that are embedded between two reports of progress
THREADS = 2  # rankers that are fitted at once, each with one thread of BLAS


class Ranker(Protocol):
    """Fitted once, then asked for the scores of blocks of users."""

    def fit(self, histories: Histories) -> None:
        """Learn from these events. DataError when they do not allow it, ModelError when a library is missing."""
        ...

    def score(self, users: Rows) -> Floats:
        """(len(users), posts) scores of the whole catalogue for these rows of users; higher is better."""
        ...


def require_library(module: str, extra: str) -> None:
    """ModelError, with the command to install it, when a library of an extra is missing."""
    if find_spec(module) is None:
        raise ModelError(f"{module} is not installed: pip install 'whyfeed[{extra}]'")


# (line in a block of users, scores (posts,) of the whole catalogue) -> rows of the posts that may be shown.
Eligible = Callable[[int, Floats], Rows]


class Reranker(Ranker, Protocol):
    """A ranker in two stages: `score` retrieves, `rerank` scores the posts that may be shown again."""

    def rerank(self, users: Rows, eligible: Eligible) -> list[tuple[Rows, Floats]]:
        """For each user the posts that `eligible` selects by the scores of the first stage, and their final scores."""
        ...


@dataclass
class Resources:
    """What rankers share: embedder, language model, texts of the posts, seed, and a cache of computed values."""

    embedder: Embedder
    texts: tuple[str, ...]
    progress: Progress | None = None
    seed: int = 0
    encoder: PostEncoder | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict)
    _locks: defaultdict[Hashable, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    def cached(self, what: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` returns, computed once per key, by the first thread that asks; rankers share it."""
        with self._locks[what]:
            if what not in self._made:
                self._made[what] = make()
            return self._made[what]

    def cached_of(self, kind: type[T]) -> list[T]:
        """All cached values of a class."""
        return [each for each in self._made.values() if isinstance(each, kind)]

    @property
    def vectors(self) -> Vectors:
        """(posts, d) unit vectors of the texts by the embedder."""
        found: Vectors = self.cached("vectors", self._vectors)
        return found

    def _vectors(self) -> Vectors:
        def read(begin: int) -> Vectors:
            if self.progress:
                self.progress("reading texts", begin, len(self.texts))
            return self.embedder.encode(self.texts[begin : begin + _ENCODED])

        with ThreadPoolExecutor(THREADS) as pool:
            found = list(pool.map(read, range(0, len(self.texts), _ENCODED)))
        return np.concatenate(found) if found else np.zeros((0, self.embedder.dimension), dtype=np.float32)

    @property
    def llm_vectors(self) -> Vectors:
        """(posts, d) unit vectors of the posts by the language model; DataError without one."""
        found: Vectors = self.cached("hidden", self._hidden)
        return found

    def read_in_background(self) -> None:
        """Start computing `llm_vectors` in the background; errors are raised where the vectors are asked for."""

        def read() -> None:
            with suppress(DataError, ModelError):
                self.cached("hidden", self._hidden)

        threading.Thread(target=read, name="whyfeed-reading", daemon=True).start()

    def _hidden(self) -> Vectors:
        if self.encoder is None:
            raise DataError("no language model reads the posts")
        found = []
        for begin in range(0, len(self.texts), _ENCODED):
            if self.progress:
                self.progress("a language model reads the posts", begin, len(self.texts))
            found.append(self.encoder.encode(self.texts[begin : begin + _ENCODED]))
        states = np.concatenate(found) if found else np.zeros((0, self.encoder.dimension), dtype=np.float32)
        # Each layer is scaled by itself: the values of later ones are several times as large.
        layers = np.split(states, len(getattr(self.encoder, "layers", (0,))), axis=1)
        return unit(np.concatenate([Condenser.of(layer)(layer) for layer in layers], axis=1))


@dataclass
class Random:
    """A pseudo-random score that depends on the ids of user and post and the seed."""

    resources: Resources

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""
        self._keys = pair_keys(histories, "random", self.resources.seed)
        self._posts = np.arange(len(histories.posts))

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        return np.asarray(self._keys(users[:, None], self._posts) / 2.0**64, dtype=np.float32)


@dataclass
class Popularity:
    """The number of users who liked a post."""

    resources: Resources

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""
        self._counts = histories.popularity.astype(np.float32)

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        return np.broadcast_to(self._counts, (len(users), len(self._counts))).copy()


@dataclass
class TextSimilarity:
    """Cosine of a post's text vector with the mean of those of the user's history."""

    resources: Resources

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""
        self._liked, self._vectors = histories.liked, self.resources.vectors

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        means = self._liked[users] @ self._vectors
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return np.asarray(means @ self._vectors.T, dtype=np.float32)


@dataclass
class Bm25:
    """Okapi BM25 of a post's text for the words of all posts of the history (Robertson and Zaragoza 2009)."""

    resources: Resources

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""
        require_library("bm25s", "eval")
        import bm25s
        from scipy import sparse

        from whyfeed.retrieval.words import content_words

        corpus = [content_words(text) for text in self.resources.texts]
        size = len(corpus)
        self._liked = histories.liked
        if not any(corpus):
            self._queries = self._weights = sparse.csr_matrix((size, size), dtype=np.float32)
            return
        index = bm25s.BM25()
        index.index(corpus, show_progress=False)
        # BM25 is a sum over the words of the query, so many queries at once are one sparse product.
        parts = index.scores
        shape = (size, len(parts["indptr"]) - 1)
        self._weights = sparse.csc_matrix((parts["data"], parts["indices"], parts["indptr"]), shape).T.tocsr()
        lines = [index.vocab_dict[word] for words in corpus for word in words]
        starts = np.cumsum([0, *(len(words) for words in corpus)])
        self._queries = sparse.csr_matrix((np.ones(len(lines), dtype=np.float32), lines, starts), shape)

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        return _dense((self._liked[users] @ self._queries) @ self._weights)


@dataclass
class ItemKnn:
    """Sum over the history of the cosines between the sets of users who liked the posts (Sarwar et al. 2001)."""

    resources: Resources
    decay: float = 0.9  # of the history, per event of age, where there is an order

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""
        from scipy import sparse

        self._history = histories.recent(self.decay)
        scale = sparse.diags((1 / np.sqrt(np.maximum(histories.popularity, 1))).astype(np.float32))
        unit = (histories.liked @ scale).tocsc()
        cosines = (unit.T @ unit).tocsr()
        self._cosines = (cosines - sparse.diags(cosines.diagonal())).tocsr()

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        return _dense(self._history[users] @ self._cosines)


@dataclass
class UserKnn:
    """Likes of the nearest users, weighted by their cosine (Resnick et al. 1994, on implicit data)."""

    resources: Resources
    neighbours: int = 100

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""
        from scipy import sparse

        self._liked = histories.liked
        scale = (1 / np.sqrt(np.maximum(histories.lengths, 1))).astype(np.float32)
        self._unit = (sparse.diags(scale) @ self._liked).tocsr()
        self._transposed = self._unit.T.tocsr()

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        from scipy import sparse

        alike = (self._unit[users] @ self._transposed).tocsr()
        near: list[Rows] = []
        for row, user in enumerate(users):
            part = slice(*alike.indptr[row : row + 2])
            cosines = alike.data[part]
            cosines[alike.indices[part] == user] = 0
            kept = np.arange(part.start, part.stop)
            if len(kept) > self.neighbours:
                # Equal cosines in the order of their columns, so that the neighbours are deterministic.
                kept = kept[np.lexsort((alike.indices[part], -cosines))[: self.neighbours]]
            near.append(kept)
        places = np.concatenate(near) if near else np.zeros(0, dtype=np.int64)
        lines = np.repeat(np.arange(len(users)), [len(kept) for kept in near])
        weights = sparse.csr_matrix((alike.data[places], (lines, alike.indices[places])), shape=alike.shape)
        return _dense(weights @ self._liked)


@dataclass
class Rp3Beta:
    """Random walks user, post, user, post; the result is divided by popularity^beta (RP3beta, Paudel et al. 2017)."""

    resources: Resources
    beta: float = 0.3

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""
        from scipy import sparse

        liked, popularity = histories.liked, np.maximum(histories.popularity, 1)
        lengths = np.maximum(histories.lengths, 1)
        self._leave = (sparse.diags((1 / lengths).astype(np.float32)) @ liked).tocsr()
        back = sparse.diags((1 / popularity).astype(np.float32)) @ liked.T
        damped = sparse.diags((popularity**-self.beta).astype(np.float32))
        self._walk = ((back @ self._leave) @ damped).tocsr()

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        return _dense(self._leave[users] @ self._walk)


@dataclass
class Ease:
    """EASE: a linear model of each post from all others, in closed form (Steck 2019)."""

    resources: Resources
    penalty: float = 100.0
    most: int = 20_000  # posts: the solution is dense

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`. DataError when the catalogue is too large."""
        from scipy.linalg import lapack

        size = len(histories.posts)
        if size > self.most:
            raise DataError(f"ease keeps {size} x {size} weights; name other --rankers for more than {self.most} posts")
        self._liked = histories.liked
        gram = np.asfortranarray((self._liked.T @ self._liked).toarray(), dtype=np.float32)
        gram[np.diag_indices(size)] += self.penalty
        # In place, and on one triangle: two such matrices take 2 GB for 16,000 posts.
        factor, failed = lapack.spotrf(gram, lower=1, overwrite_a=1)
        inverse, worse = lapack.spotri(factor, lower=1, overwrite_c=1)
        if failed or worse:
            raise DataError("ease: the matrix of co-occurrences cannot be inverted; name other --rankers")
        for begin in range(0, size, _TILE):
            part, rest = slice(begin, begin + _TILE), slice(begin + _TILE, size)
            inverse[part, rest] = inverse[rest, part].T
            inverse[part, part] = np.tril(inverse[part, part]) + np.tril(inverse[part, part], -1).T
        self._weights = inverse.T  # the same numbers, and the rows lie together
        self._weights /= -self._weights.diagonal()[None, :].copy()
        self._weights[np.diag_indices(size)] = 0

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        return np.asarray(self._liked[users] @ self._weights, dtype=np.float32)


@dataclass
class MatrixFactorisation:
    """Matrix factorisation by `implicit`: ALS (Hu, Koren and Volinsky 2008) or BPR (Rendle et al. 2009)."""

    resources: Resources
    method: str
    size: int = 64

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""
        require_library("implicit", "eval")
        from implicit.als import AlternatingLeastSquares
        from implicit.bpr import BayesianPersonalizedRanking
        from threadpoolctl import threadpool_limits

        # One thread: with several, BPR's updates race and runs differ.
        seeded = {"factors": self.size, "num_threads": 1, "random_state": self.resources.seed, "use_gpu": False}
        with threadpool_limits(1, "blas"):
            if self.method == "als":
                model = AlternatingLeastSquares(iterations=15, regularization=0.05, alpha=10.0, **seeded)
            else:
                model = BayesianPersonalizedRanking(iterations=100, learning_rate=0.05, regularization=0.002, **seeded)
            progress = self.resources.progress
            model.fit(histories.liked, show_progress=False, callback=self._counted(progress, model.iterations))
        users, posts = np.asarray(model.user_factors), np.asarray(model.item_factors)
        # Users and posts without events would keep their random initial factors.
        self._users = np.where(histories.lengths[:, None] > 0, users, 0)
        self._posts = np.where(histories.popularity[:, None] > 0, posts, 0)

    def _counted(self, progress: Progress | None, total: int) -> Callable[..., None]:
        return lambda iteration, *_: progress(f"fitting {self.method}", iteration + 1, total) if progress else None

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        return np.asarray(self._users[users] @ self._posts.T, dtype=np.float32)


@dataclass
class ShrunkenMeans:
    """The mean weight of events on a post, shrunk towards the overall mean; `by_user` adds the user's deviation."""

    resources: Resources
    by_user: bool = False
    shrinkage: float = 5.0  # how many events the overall mean counts as

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""
        said = histories.weight != 0
        user, post, value = histories.user[said], histories.post[said], histories.weight[said].astype(np.float64)
        left = value - (value.mean() if len(value) else 0.0)
        self._posts = _shrunk(post, left, len(histories.posts), self.shrinkage)
        self._users = _shrunk(user, left - self._posts[post], len(histories.users), self.shrinkage)

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        effects = self._users[users] if self.by_user else np.zeros(len(users))
        return np.asarray(effects[:, None] + self._posts[None, :], dtype=np.float32)


def _shrunk(codes: Rows, values: Any, size: int, shrinkage: float) -> Any:
    sums, counts = np.bincount(codes, values, minlength=size), np.bincount(codes, minlength=size)
    # Where all values are equal, the rounding errors of the mean would rank posts by their number of events.
    return np.round(sums / (counts + shrinkage), 9)


def _dense(scores: Any) -> Floats:
    return np.asarray(scores.toarray(), dtype=np.float32)


BASELINES: Mapping[str, Callable[[Resources], Ranker]] = {
    "random": Random,
    "popularity": Popularity,
    "text": TextSimilarity,
    "bm25": Bm25,
    "item-knn": ItemKnn,
    "user-knn": UserKnn,
    "rp3beta": Rp3Beta,
    "ease": Ease,
    "als": lambda resources: MatrixFactorisation(resources, "als"),
    "bpr": lambda resources: MatrixFactorisation(resources, "bpr"),
    "item-mean": ShrunkenMeans,
    "user-mean": lambda resources: ShrunkenMeans(resources, by_user=True),
}
