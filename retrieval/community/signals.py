"""Signals: the features of a post for one reader, each an interpretable number; input of the ranker.

A new signal is one function and one entry in `TABLE`; ranking, traces and explanations use the table. Its weight is 0
until `whyfeed finetune rank` has fitted one, or `agent/recommend/ranker.py` sets one by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from whyfeed.retrieval.arrays import Floats, Rows, Vectors
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.reader import Reader

_FLOOR = 1e-5  # smoothed co-occurrence below this is noise


@dataclass(frozen=True)
class SignalContext:
    """The n posts whose signals are computed (`rows`), with reader and community.

    `spread` (n,) are the values of the function `spread` for these rows. `query` and `include` map rows to the
    confidence (0..1) that the post matches the query, and the topics of include rules. Values that several signals
    use are cached properties.
    """

    rows: Rows
    reader: Reader
    community: Community
    spread: Floats
    query: Mapping[int, float] | None = None
    include: Mapping[int, float] | None = None

    @cached_property
    def vectors(self) -> Vectors:
        """Vectors of the posts (n, d)."""
        return self.community.vectors(self.rows)

    @cached_property
    def places(self) -> list[int]:
        """`rows` as a list of Python integers, which is faster in loops."""
        return list(self.rows.tolist())

    @cached_property
    def cosines(self) -> Floats:
        """Cosines (n, 1 + interests) with `Reader.recent`, then with each of the reader's interest vectors.

        Tags are part of the text, so they count by `Community.focus`.
        """
        interests = np.stack([self.reader.recent, *(group.vector for group in self.reader.groups)])
        return _cosines(self.vectors, interests) * self.community.focus(self.rows)[:, None]

    @property
    def nothing(self) -> Floats:
        """A signal of 0 for every post (n,)."""
        return np.zeros(len(self.rows), dtype=np.float32)


Group = Literal["history", "always", "asked", "judged"]
Measure = Callable[[SignalContext], Floats]


@dataclass(frozen=True, slots=True)
class Signal:
    """One entry of the table; `function` computes the values (n,), each within `range`.

    Groups: "history" depends on the posts that the reader liked, "always" is available without a history too, "asked"
    needs a query or an include rule, and "judged" has no function: a later stage sets it on the posts that it judges.
    """

    name: str
    group: Group
    function: Measure | None
    meaning: str
    range: tuple[float, float]


def _interest(context: SignalContext) -> Floats:
    return context.cosines[:, 1:].max(axis=1) if context.reader.groups else context.nothing


def _recent(context: SignalContext) -> Floats:
    return context.cosines[:, 0]


def _cooccurrence(context: SignalContext) -> Floats:
    return on_log_scale(context.spread)


def _next(context: SignalContext) -> Floats:
    ahead = context.community.next_posts
    return context.nothing if ahead is None else ahead.score(context.reader.rows, context.rows)


def _tags(context: SignalContext) -> Floats:
    if not context.reader.tags:
        return context.nothing
    return np.array(
        [_shared_tags(context.community, row, context.reader.tags) for row in context.places], dtype=np.float32
    )


def _people(context: SignalContext) -> Floats:
    known, authors = context.reader.people, context.community.authors
    people = np.array([known.get(authors[row], 0.0) for row in context.places], dtype=np.float32)
    return np.minimum(np.log1p(people) / 4, 1)


def _community(context: SignalContext) -> Floats:
    shares, codes = context.reader.communities, context.community.community_codes[context.rows].tolist()
    return np.array([shares.get(code, 0.0) for code in codes], dtype=np.float32)


def _fresh(context: SignalContext) -> Floats:
    return context.community.freshness(context.rows)


def _popular(context: SignalContext) -> Floats:
    return context.community.popularity(context.rows)


def _disliked(context: SignalContext) -> Floats:
    if not context.reader.hidden:
        return context.nothing
    nearest = _cosines(context.vectors, context.community.vectors(context.reader.hidden)).max(axis=1)
    return np.asarray(np.maximum(nearest - 0.3, 0) / 0.7, dtype=np.float32)


def _query(context: SignalContext) -> Floats:
    return _asked(context, context.query)


def _include(context: SignalContext) -> Floats:
    return _asked(context, context.include)


TABLE: tuple[Signal, ...] = (
    Signal("interest", "history", _interest, "cosine with the nearest of the reader's interest vectors", (-1, 1)),
    Signal("recent", "history", _recent,
           "cosine with the mean of their last acts (weights fall by 0.8 an event)", (-1, 1)),
    Signal("cooccurrence", "history", _cooccurrence,
           "log10 of the text-smoothed co-occurrence with their history, 0 = none", (0, 1)),
    Signal("next", "history", _next,
           "logit of the next-item transformer, in deviations from the mean of all posts, 0 without one", (-6, 6)),
    Signal("tags", "history", _tags, "cosine of tag profiles, rare tags count more", (0, 1)),
    Signal("people", "history", _people, "log of acts on the author's posts, or of the edge to them", (0, 1)),
    Signal("community", "history", _community, "share of the reader's acts in the post's community", (0, 1)),
    Signal("fresh", "always", _fresh, "halves with each tenth of the community's span of time", (0, 1)),
    Signal("popular", "always", _popular, "recent acts on the post, relative to the community's most popular", (0, 1)),
    Signal("disliked", "always", _disliked,
           "cosine above .3 with the nearest post that the reader pushed away", (0, 1)),
    Signal("query", "asked", _query, "relevance for what was asked in words", (0, 1)),
    Signal("include", "asked", _include, "how surely the post is about a topic that the reader wants more of", (0, 1)),
    Signal("llm", "judged", None, "the language model's P(engage)", (0, 1)),
)  # fmt: skip


def _names(*groups: Group) -> tuple[str, ...]:
    return tuple(signal.name for group in groups for signal in TABLE if signal.group == group)


HISTORY = _names("history")
CORE = _names("history", "always")
ASKED = _names("asked")
MEASURED = (*CORE, *ASKED)
SIGNALS = (*MEASURED, *_names("judged"))
_FUNCTIONS = {signal.name: signal.function for signal in TABLE if signal.function is not None}


def measure(context: SignalContext, names: Sequence[str] = MEASURED) -> Floats:
    """The signals with these names, as an array (n, len(names)); a post's values do not depend on the other posts."""
    measured = np.zeros((len(context.rows), len(names)), dtype=np.float32)
    for column, name in enumerate(names):
        measured[:, column] = _FUNCTIONS[name](context)
    return measured


def spread(reader: Reader, community: Community, reach: Any) -> Floats:
    """Text-smoothed co-occurrence (n,) of the reader's history with every post, divided by the history's weight.

    `reach` is `Cooccurrence.reach` of the reader's rows.
    """
    if community.cooccurrence is None or not len(reader.rows):
        return np.zeros(len(community), dtype=np.float32)
    values = community.cooccurrence.spread(reach, reader.weights) / reader.weights.sum()
    return np.asarray(values, dtype=np.float32)


def reach(reader: Reader, community: Community) -> Any:
    """`Cooccurrence.reach` of the reader's history, sparse (len(reader.rows), n); None without a history."""
    if community.cooccurrence is None or not len(reader.rows):
        return None
    return community.cooccurrence.reach(reader.rows)


def on_log_scale(spread_values: Floats) -> Floats:
    """Values of `spread` on a log10 scale from 0 (at most `_FLOOR`) to about 1 (the largest seen in practice)."""
    return np.asarray((np.log10(np.maximum(spread_values, _FLOOR)) + 5) / 5, dtype=np.float32)


def _asked(context: SignalContext, asked: Mapping[int, float] | None) -> Floats:
    return np.array([asked.get(row, 0.0) for row in context.places], dtype=np.float32) if asked else context.nothing


def _cosines(vectors: Vectors, others: Vectors) -> Floats:
    # Not a matrix product: the rounding of BLAS depends on the number of rows.
    return np.asarray(np.vecdot(vectors[:, None], others), dtype=np.float32)


def _shared_tags(community: Community, row: int, profile: Mapping[str, float]) -> float:
    shared = [profile[tag] * community.idf(tag) for tag in community.tags[row] if tag in profile]
    return sum(shared) / community.tag_norm(row) * float(community.focus(row)) if shared else 0.0
