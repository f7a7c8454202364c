"""Signals: what speaks for or against a post for one reader, each a plain number with a meaning.

| signal | meaning | range |
|---|---|---|
| interest | cosine with the nearest of the reader's interest vectors | -1..1 |
| recent | cosine with the mean of their last acts (weights fall by 0.8 an event) | -1..1 |
| cooccurrence | log10 of the text-smoothed co-occurrence with their history, 0 = none | 0..1 |
| next | logit of the next-item transformer, in deviations from the mean of all posts, 0 without one | -6..6 |
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

from collections.abc import Mapping
from typing import Any

import numpy as np

from whyfeed.retrieval.arrays import Floats, Rows, Vectors
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.reader import Reader

HISTORY = ("interest", "recent", "cooccurrence", "next", "tags", "people", "community")
CORE = (*HISTORY, "fresh", "popular", "disliked")
ASKED = ("query", "include")
SIGNALS = (*CORE, *ASKED, "llm")
_COLUMN = {name: column for column, name in enumerate((*CORE, *ASKED))}
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
    """Signals of `rows` in the order of CORE + ASKED: array (len(rows), 12).

    `spread_values` is `spread` of these rows (len(rows),); the rest is measured from scratch, so that what
    one post gets never depends on the others.
    """
    vectors = community.vectors(rows)
    measured = np.zeros((len(rows), len(CORE) + len(ASKED)), dtype=np.float32)
    measured[:, : len(HISTORY)] = _history(vectors, rows, reader, community, spread_values)
    measured[:, _COLUMN["fresh"]] = community.freshness(rows)
    measured[:, _COLUMN["popular"]] = community.popularity(rows)
    if reader.hidden:
        nearest = _cosines(vectors, community.vectors(reader.hidden)).max(axis=1)
        measured[:, _COLUMN["disliked"]] = np.maximum(nearest - 0.3, 0) / 0.7
    for name, asked in (("query", query), ("include", include)):
        if asked:
            measured[:, _COLUMN[name]] = [asked.get(row, 0.0) for row in rows.tolist()]
    return measured


def measure_history(rows: Rows, reader: Reader, community: Community, spread_values: Floats) -> Floats:
    """The signals that depend on what the reader liked, in the order of HISTORY: array (len(rows), 7)."""
    return _history(community.vectors(rows), rows, reader, community, spread_values)


def _history(vectors: Vectors, rows: Rows, reader: Reader, community: Community, spread_values: Floats) -> Floats:
    measured = np.zeros((len(rows), len(HISTORY)), dtype=np.float32)
    cosines = _cosines(vectors, np.stack([reader.recent, *(group.vector for group in reader.groups)]))
    if reader.groups:
        measured[:, 0] = cosines[:, 1:].max(axis=1)
    measured[:, 1] = cosines[:, 0]
    measured[:, 2] = on_log_scale(spread_values)
    if community.next_posts is not None:
        measured[:, 3] = community.next_posts.score(reader.rows, rows)
    places = rows.tolist()
    if reader.tags:
        measured[:, 4] = [_shared_tags(community, row, reader.tags) for row in places]
    people = np.array([reader.people.get(community.authors[row], 0.0) for row in places], dtype=np.float32)
    measured[:, 5] = np.minimum(np.log1p(people) / 4, 1)
    measured[:, 6] = [reader.communities.get(code, 0.0) for code in community.community_codes[rows].tolist()]
    return measured


def _cosines(vectors: Vectors, others: Vectors) -> Floats:
    # Not a matrix product: BLAS adds up a row differently with how many rows there are.
    return np.asarray(np.vecdot(vectors[:, None], others), dtype=np.float32)


def _shared_tags(community: Community, row: int, profile: Mapping[str, float]) -> float:
    shared = [profile[tag] * community.idf(tag) for tag in community.tags[row] if tag in profile]
    return sum(shared) / community.tag_norm(row) if shared else 0.0
