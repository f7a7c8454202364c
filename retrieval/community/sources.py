"""Candidate sources: who could bring a post, and with what signal. Wide and cheap; ranking decides.

A new source is one class and one entry in `SOURCES`. When something was asked for in words, `AskedSource` brings what
matches it, and nothing else brings any.
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

PER_SOURCE = 100
EXPLORED = 10


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What sources look through for one reader. `spread` is that of all posts (n,), see `signals.spread`.

    `include` maps rows to how surely they are about what a rule in force asks for; `seed` stands for the moment.
    """

    store: Store
    community: Community
    topics: Topics
    spread: Floats
    include: Mapping[int, float] = field(default_factory=dict)
    seed: str = ""


class Source(Protocol):
    """Brings candidates: (row, signal in the source's own unit), best first."""

    name: str

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """At most about `limit` rows; seen and hidden ones may be among them."""
        ...


class InterestSource:
    """Nearest posts of each interest vector; a stronger interest may bring more."""

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
    """The highest text-smoothed co-occurrence with the history."""

    name = "cooccurrence"

    def __init__(self, spread_values: Floats) -> None:
        self._spread = spread_values

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        return _top(self._spread, limit + len(reader.seen))


class NextSource:
    """What the next-item transformer expects after the history, if the community has one."""

    name = "next"

    def __init__(self, community: Community) -> None:
        self._posts = community.next_posts

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        if self._posts is None or not len(reader.rows):
            return ()
        return _top(self._posts.score(reader.rows), limit + len(reader.seen))


class TextSource:
    """Full-text matches of the reader's most telling tags, or of the interests they named."""

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
    """Posts by people whom the reader replies to or follows, the strongest tie first."""

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
    """The newest posts of the reader's communities (of all, for a newcomer)."""

    name = "fresh"

    def __init__(self, community: Community) -> None:
        self._community = community

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        rows = self._community.rows_in(reader.communities)
        return _top_of(rows, self._community.freshness(rows), limit)


class PopularSource:
    """The most popular posts of the reader's communities (of all, for a newcomer)."""

    name = "popular"

    def __init__(self, community: Community) -> None:
        self._community = community

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        rows = self._community.rows_in(reader.communities)
        return _top_of(rows, self._community.popularity(rows), limit)


class ExploreSource:
    """A few posts drawn by a hash of reader and moment: repeatable, and different for everyone."""

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
    """What matches the words that were asked for: "query" now, "include" by a rule in force."""

    def __init__(self, name: str, found: Mapping[int, float]) -> None:
        self.name = name
        self._found = found

    def find(self, reader: Reader, limit: int) -> Iterable[tuple[int, float]]:
        """See `Source`."""
        return sorted(self._found.items(), key=lambda item: (-item[1], item[0]))[:limit]


SOURCES: tuple[Callable[[SourceContext], Source], ...] = (
    lambda given: InterestSource(given.community, given.topics),
    lambda given: CooccurrenceSource(given.spread),
    lambda given: NextSource(given.community),
    lambda given: TextSource(given.store, given.topics),
    lambda given: PeopleSource(given.community),
    lambda given: FreshSource(given.community),
    lambda given: PopularSource(given.community),
    lambda given: AskedSource("include", given.include),
    lambda given: ExploreSource(given.community, given.seed),
)


def gather(sources: Sequence[Source], reader: Reader, community: Community, limit: int = PER_SOURCE) -> list[Candidate]:
    """All candidates, each once, with every source that brought it; in the order of their rows."""
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
