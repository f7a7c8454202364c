"""Training examples from the ledger: at moments of the past, which of the possible posts a reader acted on next.

The past is replayed in windows. At the start of a window only earlier events are known. The posts that a reader acted
on in the window are the positives; negatives are other posts that existed by its end, half of them retrieved by the
candidate sources and half drawn uniformly. No statistic includes the window, nor does the reader's history.

Negatives are matched to the positives in freshness. People act on what a site shows them, which is mostly new; with
negatives of any age a model learns what the site's front page showed (and scores high on held-out events) instead of
taste.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from whyfeed.retrieval.arrays import Floats, Rows, Vectors
from whyfeed.retrieval.community import signals
from whyfeed.retrieval.community import sources as source
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.community.next_item import NextItem
from whyfeed.retrieval.community.reader import Reader, read
from whyfeed.retrieval.community.topics import Topics
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.store.store import Store

MIN_HISTORY = 2  # posts that a reader must have acted on before
# Trains a next-item transformer on a community; returns it (None for too little data) and, if it was trained on them,
# the language model's vectors (posts, d).
TrainNextItem = Callable[[Community], tuple[NextItem | None, Vectors | None]]
NEGATIVES = 60  # of a group, about
_START = 0.4  # share of the events before the first window


@dataclass(frozen=True, slots=True)
class Group:
    """One reader in one window: signals (n, len(CORE)) of n posts, and labels (n,), 1 for those they acted on, else 0.

    `retrieved` (n,) is 1 for the posts that a candidate source had retrieved; recall is measured on it.
    """

    user: str
    window: int
    signals: Floats
    labels: Floats
    retrieved: Floats
    eligible: int  # how many posts could have been shown
    posts: tuple[str, ...]  # their ids
    cutoff: float  # Unix seconds or an order number; later events were not known
    history: int  # posts that the reader had acted on before


def groups(
    store: Store, embedder: Embedder, windows: int = 8, seed: int = 0, match_freshness: bool = True,
    progress: Progress | None = None, train_next_item: TrainNextItem | None = None, readers: int | None = None,
) -> Iterator[Group]:  # fmt: skip
    """Yield the groups of each window, in order of time; none when there are too few events with a time.

    With `match_freshness` false, negatives are drawn whatever their age. `train_next_item` trains a next-item
    transformer on the past of each window. `readers`: how many of a window's readers are drawn at most; None: all.
    """
    times = np.array(sorted(event.time for _, event in store.events() if event.time is not None and event.weight > 0))
    if len(times) < 2 * windows:
        return
    edges = np.quantile(times, np.linspace(_START, 1.0, windows + 1))
    for number, (begin, end) in enumerate(pairwise(edges)):
        if end <= begin:
            continue
        community = Community.load(store, embedder, as_of=end, events_until=begin)
        if train_next_item is not None:
            community.set_next_item(*train_next_item(community))
        window = _Window(number, float(begin), float(end), community, match_freshness, seed)
        yield from window.groups(store, embedder, readers)
        if progress:
            progress("replaying the past", number + 1, windows)


class _Window:
    """One window, from `begin` to `end`: what was known at its beginning, and its own random numbers."""

    def __init__(
        self, number: int, begin: float, end: float, community: Community, match_freshness: bool, seed: int
    ) -> None:
        self.number, self.begin, self.end, self.community = number, begin, end, community
        self._match_freshness, self._rng = match_freshness, np.random.default_rng([seed, number])
        self._authors = np.array(community.authors, dtype=object)

    def groups(self, store: Store, embedder: Embedder, most: int | None) -> Iterator[Group]:
        """Groups of up to `most` readers, by name, who acted in the window and had a history before it."""
        community = self.community
        topics = Topics(store, community, embedder)
        past: dict[str, list[Event]] = {}
        acted: dict[str, dict[int, float]] = {}
        for _, event in store.events():
            row = community.row_of.get(event.post)
            if event.time is None or event.time <= self.begin:
                past.setdefault(event.user, []).append(event)
            elif event.time <= self.end and row is not None and event.weight > 0:
                acted.setdefault(event.user, {}).setdefault(row, event.time)
        users = sorted(acted)
        if most is not None and len(users) > most:
            users = [users[place] for place in np.sort(self._rng.choice(len(users), most, replace=False)).tolist()]
        for user in users:
            reader = read(user, past.get(user, []), community, embedder)
            if len(reader.rows) < MIN_HISTORY:
                continue
            new = [row for row in acted[user] if row not in reader.seen and community.authors[row] != user]
            if new:
                yield self._group(store, topics, reader, np.array(sorted(new), dtype=np.int64))

    def _group(self, store: Store, topics: Topics, reader: Reader, positives: Rows) -> Group:
        community = self.community
        spread = signals.spread(reader, community, signals.reach(reader, community))
        context = source.SourceContext(store, community, topics, spread)
        # Exploration draws at random, and a ranking should not learn from chance.
        sources = [each for make in source.SOURCES if (each := make(context)).name != "explore"]
        retrieved = np.zeros(len(community), dtype=bool)
        retrieved[[candidate.row for candidate in source.gather(sources, reader, community)]] = True
        eligible = self._authors != reader.user
        eligible[[*reader.seen, *positives.tolist()]] = False
        free, hard = np.flatnonzero(eligible), np.flatnonzero(eligible & retrieved)
        negatives = np.unique(np.concatenate([self._sample_negatives(positives, pool) for pool in (hard, free)]))
        rows = np.concatenate([positives, negatives])
        measured = signals.measure(signals.SignalContext(rows, reader, community, spread[rows]), signals.CORE)
        return Group(
            user=reader.user,
            window=self.number,
            signals=measured,
            labels=np.concatenate([np.ones(len(positives)), np.zeros(len(negatives))]).astype(np.float32),
            retrieved=retrieved[rows].astype(np.float32),
            eligible=len(free) + len(positives),
            posts=tuple(community.ids[row] for row in rows.tolist()),
            cutoff=self.begin,
            history=len(reader.rows),
        )

    def _sample_negatives(self, positives: Rows, pool: Rows) -> Rows:
        """Half of the negatives, from one pool: for each positive some of the posts nearest in freshness."""
        if not len(pool):
            return pool
        if not self._match_freshness:
            return self._rng.choice(pool, min(NEGATIVES // 2, len(pool)), replace=False)
        each = NEGATIVES // 2 // len(positives) + 1
        freshness = self.community.freshness(pool)
        drawn = []
        for fresh in self.community.freshness(positives):
            nearest = pool[np.argsort(np.abs(freshness - fresh), kind="stable")[: 4 * each]]
            drawn.append(self._rng.choice(nearest, min(each, len(nearest)), replace=False))
        return np.concatenate(drawn)
