"""Examples from the ledger: at moments of the past, what a reader did next among what could be shown.

The past is replayed in windows. At the start of a window only the events before it are known;
the posts that a reader acted on in the window are the positives, and others that existed by its
end are the negatives, half of them brought by the sources and half drawn at random. No statistic
has seen the window, and the reader's own acts in it are not part of their history.

Negatives are as fresh as the positives. People can only act on what a site puts before them, and
that is mostly what is new: with negatives of any age a model learns the site's front page (and
looks splendid on held-out events) where it should learn taste.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

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

MIN_HISTORY = 2
# A transformer, and what a language model read in each post, if it was trained with that.
Ahead = Callable[[Community], tuple[NextItem | None, Vectors | None]]
NEGATIVES = 60


@dataclass(frozen=True, slots=True)
class Group:
    """One reader in one window: signals (n, len(CORE)) of n posts, 1 for those they acted on, 0 else.

    `brought` tells which of the posts a source had brought (retrieval's recall is measured on it).
    """

    user: str
    window: int
    signals: Floats
    labels: Floats
    brought: Floats
    possible: int  # posts that could have been shown
    posts: tuple[str, ...]  # their ids
    before: float  # the moment: what is later than this was not known
    history: int  # posts that the reader had acted on before


def groups(
    store: Store,
    embedder: Embedder,
    windows: int = 8,
    start: float = 0.4,
    seed: int = 0,
    as_fresh: bool = True,
    progress: Progress | None = None,
    ahead: Ahead | None = None,
    readers: int | None = None,
) -> Iterator[Group]:
    """Yield the groups of each window in order; `start` is the share of events before the first one.

    With `as_fresh` false, negatives are drawn whatever their age. `ahead` trains a next-item transformer on what
    each window's past knows; `readers` is how many of a window are drawn where more acted.
    """
    times = np.array(sorted(event.time for _, event in store.events() if event.time is not None and event.weight > 0))
    if len(times) < 2 * windows:
        return
    edges = np.quantile(times, np.linspace(start, 1.0, windows + 1))
    for window, (before, until) in enumerate(pairwise(edges)):
        if until <= before:
            continue
        rng = np.random.default_rng([seed, window])
        yield from _window(store, embedder, window, float(before), float(until), as_fresh, rng, ahead, readers)
        if progress:
            progress("replaying the past", window + 1, windows)


def _window(
    store: Store,
    embedder: Embedder,
    window: int,
    before: float,
    until: float,
    as_fresh: bool,
    rng: np.random.Generator,
    ahead: Ahead | None,
    most: int | None,
) -> Iterator[Group]:
    community = Community.load(store, embedder, as_of=until, events_until=before)
    if ahead is not None:
        community.look_ahead(*ahead(community))
    topics = Topics(store, community, embedder)
    authors = np.array(community.authors, dtype=object)
    past: dict[str, list[Event]] = {}
    acted: dict[str, dict[int, float]] = {}
    for _, event in store.events():
        row = community.row_of.get(event.post)
        if event.time is None or event.time <= before:
            past.setdefault(event.user, []).append(event)
        elif event.time <= until and row is not None and event.weight > 0:
            acted.setdefault(event.user, {}).setdefault(row, event.time)
    users = sorted(acted)
    if most is not None and len(users) > most:
        users = [users[place] for place in np.sort(rng.choice(len(users), most, replace=False)).tolist()]
    for user in users:
        rows = acted[user]
        reader = read(user, past.get(user, []), community, embedder)
        if len(reader.rows) < MIN_HISTORY:
            continue
        new = [row for row in rows if row not in reader.seen and community.authors[row] != user]
        if new:
            positives = np.array(sorted(new), dtype=np.int64)
            yield _group(store, community, topics, reader, authors, positives, window, before, as_fresh, rng)


def _group(
    store: Store,
    community: Community,
    topics: Topics,
    reader: Reader,
    authors: npt.NDArray[np.object_],
    positives: Rows,
    window: int,
    before: float,
    as_fresh: bool,
    rng: np.random.Generator,
) -> Group:
    spread = signals.spread(reader, community, signals.reach(reader, community))
    sources: list[source.Source] = [
        source.InterestSource(community, topics),
        source.CooccurrenceSource(spread),
        source.NextSource(community),
        source.TextSource(store, topics),
        source.PeopleSource(community),
        source.FreshSource(community),
        source.PopularSource(community),
    ]
    brought = np.zeros(len(community), dtype=bool)
    brought[[candidate.row for candidate in source.gather(sources, reader, community)]] = True
    possible = authors != reader.user
    possible[[*reader.seen, *positives.tolist()]] = False
    free, hard = np.flatnonzero(possible), np.flatnonzero(possible & brought)
    negatives = np.unique(np.concatenate([_drawn(community, positives, pool, as_fresh, rng) for pool in (hard, free)]))
    rows = np.concatenate([positives, negatives])
    measured = signals.measure(rows, reader, community, spread[rows])[:, : len(signals.CORE)]
    return Group(
        user=reader.user,
        window=window,
        signals=measured,
        labels=np.concatenate([np.ones(len(positives)), np.zeros(len(negatives))]).astype(np.float32),
        brought=brought[rows].astype(np.float32),
        possible=len(free) + len(positives),
        posts=tuple(community.ids[row] for row in rows.tolist()),
        before=before,
        history=len(reader.rows),
    )


def _drawn(community: Community, positives: Rows, pool: Rows, as_fresh: bool, rng: np.random.Generator) -> Rows:
    """Half of the negatives from one pool: for each positive some among those nearest in freshness."""
    if not len(pool):
        return pool
    if not as_fresh:
        return rng.choice(pool, min(NEGATIVES // 2, len(pool)), replace=False)
    each = NEGATIVES // 2 // len(positives) + 1
    freshness = community.freshness(pool)
    drawn = []
    for fresh in community.freshness(positives):
        nearest = pool[np.argsort(np.abs(freshness - fresh), kind="stable")[: 4 * each]]
        drawn.append(rng.choice(nearest, min(each, len(nearest)), replace=False))
    return np.concatenate(drawn)
