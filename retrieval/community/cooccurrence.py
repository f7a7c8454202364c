"""Item co-occurrence smoothed by text: readers of one post read the other, or one much like it.

Plain counts starve: the median post has a handful of events. Spreading both the history and the
candidates over their textual neighbours is the largest cheap gain known to us (measured in
`benchmarks/`): it needs no learning and is linear in the history, so leaving one event out is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from whyfeed.retrieval.arrays import Floats, Rows, Vectors

WINDOW = 8  # events of one user that are still "one after the other"
GAP_DECAY = 0.75
NEIGHBOURS = 50
MIN_COSINE = 0.3
HISTORY_SMOOTHING = 0.5
CANDIDATE_SMOOTHING = 0.75
LONGEST_HISTORY = 200  # events of one user that are counted: work and memory stay bounded
EXACT_UP_TO = 20_000  # posts; beyond, neighbours are searched in an inverted file


class Cooccurrence:
    """Scores every post for a history. Built from events in order, n posts, and their neighbours."""

    def __init__(self, users: Rows, rows: Rows, size: int, neighbours: Any) -> None:
        from scipy import sparse

        self._neighbours = neighbours
        self._transposed = neighbours.T.tocsr()
        self._counts = _counts(users, rows, size)
        self._identity = sparse.identity(size, dtype=np.float32, format="csr")

    def reach(self, rows: Rows) -> Any:
        """Sparse (len(rows), n): what one unit of each history row reaches, before the candidates are smoothed."""
        side = self._identity[rows] + HISTORY_SMOOTHING * self._neighbours[rows]
        return side @ self._counts

    def spread(self, reach: Any, weights: Floats) -> Floats:
        """Scores (n,) of all posts for a history with these weights; linear in the weights."""
        reached = reach.T @ weights
        there = np.flatnonzero(reached)
        # Few posts are reached: a product with all neighbours would cost several times as much.
        near = self._transposed[there].T @ reached[there]
        return np.asarray(reached + CANDIDATE_SMOOTHING * near, dtype=np.float32)

    def shares(self, reach: Any, candidate: int) -> Floats:
        """What one unit of each history row adds to the score of `candidate`: one column of `spread`."""
        column = np.zeros(reach.shape[1], dtype=np.float32)
        near = slice(*self._neighbours.indptr[candidate : candidate + 2])
        column[self._neighbours.indices[near]] = CANDIDATE_SMOOTHING * self._neighbours.data[near]
        column[candidate] += 1
        return np.asarray(reach @ column, dtype=np.float32)


def _counts(users: Rows, rows: Rows, size: int) -> Any:
    """The matrix M of the recipe: what follows what, discounted by how common the history post is."""
    from scipy import sparse

    forward, together, popularity = transitions(users, rows, size)
    damping = sparse.diags(((popularity + 5.0) ** -0.8).astype(np.float32))
    return (damping @ (forward + 0.3 * forward.T + 0.3 * together)).tocsr().astype(np.float32)


def transitions(users: Rows, rows: Rows, size: int) -> tuple[Any, Any, Rows]:
    """What events in order say of pairs of posts: sparse (n, n) "b soon after a", sparse (n, n) "a and b of one user",
    each user sharing out one vote, and the number (n,) of users of each post.
    """
    from scipy import sparse

    order = np.argsort(users, kind="stable")
    users, rows = users[order], rows[order]
    # The first act of a user on a post counts; ten comments on one question are one meeting.
    _, first = np.unique(users.astype(np.int64) * size + rows, return_index=True)
    first.sort()
    users, rows = users[first], rows[first]
    keep = _position_from_end(users) < LONGEST_HISTORY
    users, rows = users[keep], rows[keep]

    forward = sparse.csr_matrix((size, size), dtype=np.float32)
    for gap in range(1, WINDOW + 1):
        if len(rows) <= gap:
            break
        same = users[:-gap] == users[gap:]
        value = np.full(int(same.sum()), GAP_DECAY ** (gap - 1), dtype=np.float32)
        forward = forward + sparse.csr_matrix((value, (rows[:-gap][same], rows[gap:][same])), shape=(size, size))

    codes, index, lengths = np.unique(users, return_inverse=True, return_counts=True)
    ones = np.ones(len(rows), dtype=np.float32)
    membership = sparse.csr_matrix((ones, (index, rows)), shape=(len(codes), size))
    share = sparse.csr_matrix((1.0 / lengths[index].astype(np.float32), (index, rows)), shape=(len(codes), size))
    together = membership.T @ share
    together.setdiag(0)
    together.eliminate_zeros()

    return forward, together, np.bincount(rows, minlength=size)


def _position_from_end(users: Rows) -> Rows:
    """0 for the last event of each user (users sorted), 1 for the one before, and so on."""
    if not len(users):
        return users
    last = np.flatnonzero(np.append(users[1:] != users[:-1], True))
    ends = last[np.searchsorted(last, np.arange(len(users)))]
    return ends - np.arange(len(users))


def text_neighbours(vectors: Vectors) -> Any:
    """Sparse (n, n): each post's nearest others by cosine, max(cos - .3, 0)^4, rows summing to 1."""
    import faiss
    from scipy import sparse

    size, dimension = vectors.shape
    if size < 2:
        return sparse.csr_matrix((size, size), dtype=np.float32)
    if size <= EXACT_UP_TO:
        index: Any = faiss.IndexFlatIP(dimension)
    else:
        cells = int(4 * size**0.5)
        index = faiss.index_factory(dimension, f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
        index.cp.niter = 8
        sample = np.random.default_rng(0).choice(size, min(size, cells * 50), replace=False)
        index.train(vectors[sample])
        index.nprobe = 12
    index.add(vectors)
    cosines, columns = index.search(vectors, min(NEIGHBOURS + 1, size))
    weights = np.maximum(cosines - MIN_COSINE, 0) ** 4
    own = np.arange(size)[:, None]
    weights[(columns == own) | (columns < 0)] = 0
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    kept = weights > 0
    lines = np.broadcast_to(own, columns.shape)[kept]
    return sparse.csr_matrix((weights[kept].astype(np.float32), (lines, columns[kept])), shape=(size, size))
