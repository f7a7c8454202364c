"""Signals: what speaks for or against a post for one reader, each a plain number with a meaning.

| signal | meaning | range |
|---|---|---|
| interest | cosine with the nearest of the reader's interest vectors | -1..1 |
| recent | cosine with the mean of their last acts (weights fall by 0.8 an event) | -1..1 |
| cooccurrence | log10 of the text-smoothed co-occurrence with their history, 0 = none | 0..1 |
| tags | cosine of tag profiles, rare tags count more | 0..1 |
| people | log of acts on the author's posts, or of the edge to them | 0..1 |
| community | share of the reader's acts in the post's community | 0..1 |
| fresh | halves with each tenth of the community's span of time | 0..1 |
| popular | recent acts on the post, relative to the community's most popular | 0..1 |
| disliked | cosine above .3 with the nearest post that the reader pushed away | 0..1 |
| query | relevance for what was asked in words | 0..1 |
| include | how surely the post is about a topic that the reader wants more of | 0..1 |
| llm | the language model's P(engage) | 0..1 |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retrieval.arrays import Floats, Rows
from retrieval.community import Community
from retrieval.reader import Reader

CORE = ("interest", "recent", "cooccurrence", "tags", "people", "community", "fresh", "popular", "disliked")
ASKED = ("query", "include")
SIGNALS = (*CORE, *ASKED, "llm")
_FLOOR = 1e-5  # of the smoothed co-occurrence: what is below is noise


def spread(reader: Reader, community: Community, reach: Any) -> Floats:
    """Text-smoothed co-occurrence of the reader's history with every post (n,), per unit of history.

    `reach` is `Cooccurrence.reach` of the reader's rows.
    """
    if community.cooccurrence is None or not len(reader.rows):
        return np.zeros(len(community), dtype=np.float32)
    values = community.cooccurrence.spread(reach, reader.weights) / reader.weights.sum()
    return np.asarray(values, dtype=np.float32)


def reach(reader: Reader, community: Community) -> Any:
    """What each row of the reader's history reaches, sparse (len(rows), n); None without a history."""
    if community.cooccurrence is None or not len(reader.rows):
        return None
    return community.cooccurrence.reach(reader.rows)


def on_log_scale(spread_values: Floats) -> Floats:
    """0 for nothing, 1 for the strongest seen in practice; see the table."""
    return np.asarray((np.log10(np.maximum(spread_values, _FLOOR)) + 5) / 5, dtype=np.float32)


def measure(
    rows: Rows,
    reader: Reader,
    community: Community,
    spread_values: Floats,
    query: Mapping[int, float] | None = None,
    include: Mapping[int, float] | None = None,
) -> Floats:
    """Signals of `rows` in the order of CORE + ASKED: array (len(rows), 11).

    `spread_values` is `spread` of these rows (len(rows),); the rest is measured from scratch, so that what
    one post gets never depends on the others.
    """
    vectors = community.vectors(rows)
    columns = [
        _nearest(vectors, [group.vector for group in reader.groups]),
        _cosines(vectors, reader.recent),
        on_log_scale(spread_values),
        np.array([_tag_cosine(community, int(row), reader.tags) for row in rows]),
        np.array([_edge(reader.people.get(community.authors[row], 0.0)) for row in rows]),
        np.array([reader.communities.get(int(code), 0.0) for code in community.community_codes[rows]]),
        community.freshness(rows),
        community.popularity(rows),
        np.maximum(_nearest(vectors, list(community.vectors(reader.hidden))) - 0.3, 0) / 0.7,
        np.array([(query or {}).get(int(row), 0.0) for row in rows]),
        np.array([(include or {}).get(int(row), 0.0) for row in rows]),
    ]
    return np.stack([np.asarray(column, dtype=np.float32) for column in columns], axis=1)


def _nearest(vectors: Floats, others: Sequence[Floats]) -> Floats:
    if not len(others):
        return np.zeros(len(vectors), dtype=np.float32)
    return np.asarray(np.max([_cosines(vectors, other) for other in others], axis=0), dtype=np.float32)


def _cosines(vectors: Floats, other: Floats) -> Floats:
    # Not a matrix product: BLAS adds up a row differently with how many rows there are.
    return np.asarray((vectors * other).sum(axis=1), dtype=np.float32)


def _tag_cosine(community: Community, row: int, profile: Mapping[str, float]) -> float:
    tags = community.tags[row]
    if not tags or not profile:
        return 0.0
    weights = [community.idf(tag) for tag in tags]
    norm = sum(weight * weight for weight in weights) ** 0.5 or 1.0
    return sum(profile.get(tag, 0.0) * weight for tag, weight in zip(tags, weights, strict=True)) / norm


def _edge(weight: float) -> float:
    return min(float(np.log1p(weight)) / 4, 1.0)
