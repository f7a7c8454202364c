"""Selection of the k posts to show from the scored candidates: diversity, calibration, limits per author.

Posts that must not be shown at all have been removed before; see `agent/recommend/filters.py`.

| code | removes |
|---|---|
| duplicate | near-duplicates of a better post of the same list |
| author | more than two of one author |
| outranked | the rest |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whyfeed.agent.trace import StageRecord, Trace
from whyfeed.retrieval.arrays import Floats, Rows, Vectors
from whyfeed.retrieval.community.candidate import Candidate
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.reader import Reader

DUPLICATE_COSINE = 0.92
PER_AUTHOR = 2
CALIBRATION = 6.0  # log-odds that a post loses per share of the list by which its interest is over-represented
INCLUDED = 0.4  # least share of a list for topics of which the user wants more, if there are such posts
DIVERSITY = 3.0  # log-odds that a post loses per unit of cosine above .55 with a better post (MMR)
_DIVERSITY_FROM = 0.55


def choose(
    candidates: Sequence[Candidate],
    k: int,
    reader: Reader,
    community: Community,
    trace: Trace,
    record: StageRecord,
    pool: int = 200,
) -> list[Candidate]:
    """The k best posts that do not repeat each other and represent each interest by its share.

    Maximal marginal relevance (Carbonell and Goldstein 1998) against repetition; calibration (Steck 2018), so that a
    user with two interests does not get five posts on one; a quota for topics of which the user wants more. Ties are
    broken by the post's id, independent of the order of candidates. The limit per author is dropped when it would leave
    fewer than k posts.
    """
    ranked = sorted(candidates, key=lambda candidate: (-candidate.score, candidate.post))
    best = ranked[:pool]
    vectors = community.vectors([candidate.row for candidate in best])
    nearest = np.zeros(len(best))  # cosine with the nearest chosen post
    interest, share = _interests(vectors, reader)
    taken = np.zeros(len(share))
    scores = np.array([candidate.score for candidate in best])
    included = np.array([candidate.signals.get("include", 0.0) >= 0.5 for candidate in best], dtype=np.bool_)
    authors = np.array([community.authors[candidate.row] for candidate in best], dtype=object)
    left, crowded = np.ones(len(best), dtype=np.bool_), np.zeros(len(best), dtype=np.bool_)
    chosen: list[int] = []
    while len(chosen) < k:
        fresh = left & (nearest < DUPLICATE_COSINE)
        # A third post of one author is better than an empty place; a duplicate is not.
        allowed = fresh & ~crowded if (fresh & ~crowded).any() else fresh
        if not allowed.any():
            break
        if included[chosen].sum() < int(INCLUDED * (len(chosen) + 1)) and (allowed & included).any():
            allowed &= included
        value = (
            scores
            - DIVERSITY * np.maximum(nearest - _DIVERSITY_FROM, 0)
            - CALIBRATION * np.maximum((taken + 1) / k - share, 0)[interest]
        )
        place = int(np.where(allowed, value, -np.inf).argmax())
        taken[interest[place]] += 1
        chosen.append(place)
        left[place] = False
        nearest = np.maximum(nearest, np.vecdot(vectors, vectors[place]))
        author = authors[place]
        if author and (authors[chosen] == author).sum() >= PER_AUTHOR:
            crowded |= authors == author
    for place in np.flatnonzero(left).tolist():
        code = "duplicate" if nearest[place] >= DUPLICATE_COSINE else "author" if crowded[place] else "outranked"
        trace.remove(record, best[place].post, code)
    for candidate in ranked[pool:]:
        trace.remove(record, candidate.post, "outranked")
    return [best[place] for place in chosen]


def _interests(vectors: Vectors, reader: Reader) -> tuple[Rows, Floats]:
    """The nearest interest of each candidate (n,), and the share of a list that each interest may have."""
    if len(reader.groups) < 2:
        return np.zeros(len(vectors), dtype=np.int64), np.ones(1, dtype=np.float32)
    centres = np.stack([group.vector for group in reader.groups])
    weights = np.array([group.weight for group in reader.groups], dtype=np.float32)
    # Small interests may have one post in five, whatever their exact share.
    return np.vecdot(vectors[:, None], centres[None]).argmax(axis=1), np.maximum(weights, 0.2)
