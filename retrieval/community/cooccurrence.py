"""Item co-occurrence smoothed by text: users who read one post read the other, or a similar one.

Plain counts are too sparse: the median post has a handful of events. Both the history and the candidates are therefore
smoothed over their nearest neighbours by text (measured in `benchmarks/`). This needs no training, and scores are
linear in the history, so the effect of leaving one event out is exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from whyfeed.retrieval.arrays import Floats, Rows, Vectors

WINDOW = 8  # transitions are counted between events of one user that are at most this many apart
GAP_DECAY = 0.75  # weight of a transition for each further step between the two events
NEIGHBOURS = 50  # by text, of each post
MIN_COSINE = 0.3  # of neighbours by text
HISTORY_SMOOTHING = 0.5  # weight of a history post's neighbours beside its own weight of 1
CANDIDATE_SMOOTHING = 0.75  # weight of a candidate's neighbours beside its own weight of 1
LONGEST_HISTORY = 200  # last events of one user that are counted, to bound time and memory
EXACT_UP_TO = 20_000  # posts; above this, neighbours are searched approximately in an inverted file


class Cooccurrence:
    """Scores of all n posts (`size`) for a history.

    Built from events in order of time (the user code and row of each) and `neighbours`, see `text_neighbours`.
    """

    def __init__(self, users: Rows, rows: Rows, size: int, neighbours: Any) -> None:
        from scipy import sparse

        self._neighbours = neighbours
        self._transposed = neighbours.T.tocsr()
        self._counts = _counts(users, rows, size)
        self._identity = sparse.identity(size, dtype=np.float32, format="csr")

    def reach(self, rows: Rows) -> Any:
        """Sparse (len(rows), n): scores by each history row with weight 1, before the candidates are smoothed."""
        side = self._identity[rows] + HISTORY_SMOOTHING * self._neighbours[rows]
        return side @ self._counts

    def spread(self, reach: Any, weights: Floats) -> Floats:
        """Scores (n,) of all posts for a history, linear in its weights (len(history),); `reach` as from `reach`."""
        reached = reach.T @ weights
        there = np.flatnonzero(reached)
        # Few scores differ from 0: a product with the neighbours of all posts would cost several times as much.
        near = self._transposed[there].T @ reached[there]
        return np.asarray(reached + CANDIDATE_SMOOTHING * near, dtype=np.float32)

    def shares(self, reach: Any, candidate: int) -> Floats:
        """(len(history),): what each history row with weight 1 adds to the score of `candidate` in `spread`."""
        column = np.zeros(reach.shape[1], dtype=np.float32)
        near = slice(*self._neighbours.indptr[candidate : candidate + 2])
        column[self._neighbours.indices[near]] = CANDIDATE_SMOOTHING * self._neighbours.data[near]
        column[candidate] += 1
        return np.asarray(reach @ column, dtype=np.float32)


def _counts(users: Rows, rows: Rows, size: int) -> Any:
    """Sparse (n, n) co-occurrence weights from history post to candidate, damped by the history post's popularity."""
    from scipy import sparse

    forward, together, popularity = transitions(users, rows, size)
    damping = sparse.diags(((popularity + 5.0) ** -0.8).astype(np.float32))
    return (damping @ (forward + 0.3 * forward.T + 0.3 * together)).tocsr().astype(np.float32)


def transitions(users: Rows, rows: Rows, size: int) -> tuple[Any, Any, Rows]:
    """Pair counts of n posts (`size`) from events in order of time, as (forward, together, popularity).

    `forward`, sparse (n, n), has transitions from a to b within `WINDOW` events, weighted by `GAP_DECAY`. `together`,
    sparse (n, n), has pairs in one user's history, each divided by the length of that history. `popularity` (n,) is
    the number of users of each post.
    """
    from scipy import sparse

    order = np.argsort(users, kind="stable")
    users, rows = users[order], rows[order]
    # Only a user's first act on a post counts: ten comments on one question are one event.
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
    """Sparse (n, n): weights of the nearest other posts by cosine, max(cos - `MIN_COSINE`, 0)^4, rows normalised to 1.

    `vectors` are unit vectors (n, d).
    """
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
