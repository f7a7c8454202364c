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


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch of the past, in Unix seconds: the home as of its end, but with no event after its start."""

    number: int
    before: float
    until: float
    store: Store
    community: Community
    topics: Topics
    authors: npt.NDArray[np.object_]  # of each post
    as_fresh: bool
    rng: np.random.Generator


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
        community = Community.load(store, embedder, as_of=float(until), events_until=float(before))
        if ahead is not None:
            community.look_ahead(*ahead(community))
        yield from _groups(
            _Window(
                window, float(before), float(until), store, community, Topics(store, community, embedder),
                np.array(community.authors, dtype=object), as_fresh, np.random.default_rng([seed, window]),
            ),
            embedder, readers,
        )  # fmt: skip
        if progress:
            progress("replaying the past", window + 1, windows)


def _groups(window: _Window, embedder: Embedder, most: int | None) -> Iterator[Group]:
    """The groups of a window; of its readers at most `most`, drawn at random."""
    store, community = window.store, window.community
    past: dict[str, list[Event]] = {}
    acted: dict[str, dict[int, float]] = {}
    for _, event in store.events():
        row = community.row_of.get(event.post)
        if event.time is None or event.time <= window.before:
            past.setdefault(event.user, []).append(event)
        elif event.time <= window.until and row is not None and event.weight > 0:
            acted.setdefault(event.user, {}).setdefault(row, event.time)
    users = sorted(acted)
    if most is not None and len(users) > most:
        users = [users[place] for place in np.sort(window.rng.choice(len(users), most, replace=False)).tolist()]
    for user in users:
        rows = acted[user]
        reader = read(user, past.get(user, []), community, embedder)
        if len(reader.rows) < MIN_HISTORY:
            continue
        new = [row for row in rows if row not in reader.seen and community.authors[row] != user]
        if new:
            positives = np.array(sorted(new), dtype=np.int64)
            yield _group(window, reader, positives)


def _group(window: _Window, reader: Reader, positives: Rows) -> Group:
    community = window.community
    spread = signals.spread(reader, community, signals.reach(reader, community))
    given = source.SourceContext(window.store, community, window.topics, spread)
    # What is drawn at random stands for nothing that a ranking should learn.
    sources = [each for make in source.SOURCES if (each := make(given)).name != "explore"]
    brought = np.zeros(len(community), dtype=bool)
    brought[[candidate.row for candidate in source.gather(sources, reader, community)]] = True
    possible = window.authors != reader.user
    possible[[*reader.seen, *positives.tolist()]] = False
    free, hard = np.flatnonzero(possible), np.flatnonzero(possible & brought)
    negatives = np.unique(np.concatenate([_drawn(window, positives, pool) for pool in (hard, free)]))
    rows = np.concatenate([positives, negatives])
    measured = signals.measure(signals.SignalContext(rows, reader, community, spread[rows]), signals.CORE)
    return Group(
        user=reader.user,
        window=window.number,
        signals=measured,
        labels=np.concatenate([np.ones(len(positives)), np.zeros(len(negatives))]).astype(np.float32),
        brought=brought[rows].astype(np.float32),
        possible=len(free) + len(positives),
        posts=tuple(community.ids[row] for row in rows.tolist()),
        before=window.before,
        history=len(reader.rows),
    )


def _drawn(window: _Window, positives: Rows, pool: Rows) -> Rows:
    """Half of the negatives from one pool: for each positive some among those nearest in freshness."""
    if not len(pool):
        return pool
    community, rng = window.community, window.rng
    if not window.as_fresh:
        return rng.choice(pool, min(NEGATIVES // 2, len(pool)), replace=False)
    each = NEGATIVES // 2 // len(positives) + 1
    freshness = community.freshness(pool)
    drawn = []
    for fresh in community.freshness(positives):
        nearest = pool[np.argsort(np.abs(freshness - fresh), kind="stable")[: 4 * each]]
        drawn.append(rng.choice(nearest, min(each, len(nearest)), replace=False))
    return np.concatenate(drawn)
