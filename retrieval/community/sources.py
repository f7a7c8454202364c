"""Candidate sources: cheap searches that together return more posts than are shown; ranking chooses among them.

A new source is one class and one entry in `SOURCES`. For a request with a query, `AskedSource` is the only source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from whyfeed.retrieval.arrays import Floats, Rows
from whyfeed.retrieval.community.candidate import Candidate
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.index import largest
from whyfeed.retrieval.community.reader import Reader
from whyfeed.retrieval.community.topics import Topics
from whyfeed.retrieval.store.store import Store

PER_SOURCE = 100  # candidates of each source
EXPLORED = 10  # random candidates


@dataclass(frozen=True, slots=True)
class SourceContext:
    """The data that sources search for one reader. `spread` (n,) has the values of `signals.spread` of all posts.

    `include` maps rows to the confidence (0..1) that the post is about the topic of an include rule in force. `seed`
    varies the random candidates over time.
    """

    store: Store
    community: Community
    topics: Topics
    spread: Floats
    include: Mapping[int, float] = field(default_factory=dict)
    seed: str = ""


class Source(Protocol):
    """Finds candidates: (row, score in the source's own unit), best first."""

    name: str

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """About `limit` rows at most; posts that the reader has seen or hidden may be among them."""
        ...


class InterestSource:
    """The posts nearest to each interest vector; interests with more weight get more candidates."""

    name = "interest"

    def __init__(self, community: Community, topics: Topics) -> None:
        self._community = community
        self._rows = topics.row_of_num

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        if not reader.groups:
            return
        vectors = np.stack([group.vector for group in reader.groups])
        seen = self._community.nums[sorted(reader.seen)]
        found = self._community.index.search(vectors, limit, np.concatenate([seen, self._community.later]))
        for group, hits in zip(reader.groups, found, strict=True):
            for num, cosine in hits[: max(10, round(limit * (0.3 + group.weight)))]:
                if num in self._rows:
                    yield self._rows[num], cosine


class CooccurrenceSource:
    """The posts with the highest text-smoothed co-occurrence with the history."""

    name = "cooccurrence"

    def __init__(self, spread_values: Floats) -> None:
        self._spread = spread_values

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        return _top(self._spread, limit + len(reader.seen))


class NextSource:
    """The posts that the next-item transformer scores highest after the history; none without a trained one."""

    name = "next"

    def __init__(self, community: Community) -> None:
        self._posts = community.next_posts

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        if self._posts is None or not len(reader.rows):
            return ()
        return _top(self._posts.score(reader.rows), limit + len(reader.seen))


class TextSource:
    """Full-text matches of the reader's strongest tags and of the interests they named."""

    name = "text"

    def __init__(self, store: Store, topics: Topics) -> None:
        self._store = store
        self._rows = topics.row_of_num
        self._until = topics.as_of

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        telling = sorted(reader.tags, key=lambda tag: -reader.tags[tag])[:6]
        words = " ".join([*(topic for _, topic in reader.named), *telling])
        for num, score in self._store.search(words, limit, self._until):
            if num in self._rows:
                yield self._rows[num], score


class PeopleSource:
    """Posts by authors whom the reader replies to or follows, those with the strongest tie first."""

    name = "people"

    def __init__(self, community: Community) -> None:
        self._community = community

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        left = limit
        for author, weight in sorted(reader.people.items(), key=lambda item: (-item[1], item[0])):
            rows = self._community.rows_by(author)
            yield from ((row, weight) for row in rows[-left:])
            left -= len(rows)
            if left <= 0:
                return


class FreshSource:
    """The newest posts of the reader's communities; of all communities for a new user."""

    name = "fresh"

    def __init__(self, community: Community) -> None:
        self._community = community

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        rows = self._community.rows_in(reader.communities)
        return _top_of(rows, self._community.freshness(rows), limit)


class PopularSource:
    """The most popular posts of the reader's communities; of all communities for a new user."""

    name = "popular"

    def __init__(self, community: Community) -> None:
        self._community = community

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        rows = self._community.rows_in(reader.communities)
        return _top_of(rows, self._community.popularity(rows), limit)


class ExploreSource:
    """A few random posts of the reader's communities, drawn with a seed from the user's id and `seed`."""

    name = "explore"

    def __init__(self, community: Community, seed: str) -> None:
        self._community = community
        self._seed = seed

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        rows = self._community.rows_in(reader.communities)
        if not len(rows):
            return
        digest = hashlib.blake2b(f"{reader.user}|{self._seed}".encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "little"))
        for row in rng.choice(rows, min(EXPLORED, limit, len(rows)), replace=False):
            yield int(row), 1.0


class AskedSource:
    """The posts that match the query of the request ("query"), or the topic of an include rule ("include")."""

    def __init__(self, name: str, found: Mapping[int, float]) -> None:
        self.name = name
        self._found = found

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        return sorted(self._found.items(), key=lambda item: (-item[1], item[0]))[:limit]


SOURCES: tuple[Callable[[SourceContext], Source], ...] = (
    lambda context: InterestSource(context.community, context.topics),
    lambda context: CooccurrenceSource(context.spread),
    lambda context: NextSource(context.community),
    lambda context: TextSource(context.store, context.topics),
    lambda context: PeopleSource(context.community),
    lambda context: FreshSource(context.community),
    lambda context: PopularSource(context.community),
    lambda context: AskedSource("include", context.include),
    lambda context: ExploreSource(context.community, context.seed),
)


def gather(sources: Sequence[Source], reader: Reader, community: Community, limit: int = PER_SOURCE) -> list[Candidate]:
    """The union of the sources' candidates, by row; each has its best score from every source that found it."""
    found: dict[int, Candidate] = {}
    for source in sources:
        for row, signal in source.find(reader, limit):
            candidate = found.get(row)
            if candidate is None:
                candidate = found[row] = Candidate(community.ids[row], row)
            candidate.sources[source.name] = max(signal, candidate.sources.get(source.name, signal))
    return [found[row] for row in sorted(found)]


def _top(values: Floats, limit: int) -> list[tuple[int, float]]:
    if limit < 1:
        return []
    best = largest(values, limit)
    best = best[values[best] > 0]
    return list(zip(best.tolist(), values[best].tolist(), strict=True))


def _top_of(rows: Rows, values: Floats, limit: int) -> list[tuple[int, float]]:
    return [(int(rows[place]), value) for place, value in _top(values, limit)]
