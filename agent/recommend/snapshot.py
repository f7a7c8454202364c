"""A snapshot of a home: a consistent set of community, topics and ranker, kept up to date with the store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from whyfeed.agent.recommend.ranker import MODEL, Ranker
from whyfeed.agent.registry import Registry
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.embedder import Embedder, PostEncoder
from whyfeed.retrieval.community.post_vectors import readings
from whyfeed.retrieval.community.reader import Reader, read
from whyfeed.retrieval.community.topics import Topics
from whyfeed.retrieval.errors import WhyfeedError
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.store.store import Store


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The data that one request uses. It does not change during the request, except that events are added."""

    store: Store
    embedder: Embedder
    community: Community
    topics: Topics
    ranker: Ranker

    def reader(self, user: str) -> Reader:
        """The user as of this snapshot's time. Raises UnknownUser."""
        self.store.user(user)
        until = self.community.as_of
        events = [event for _, event in self.store.events(user=user)]
        if until is not None:
            events = [event for event in events if event.time is None or event.time <= until]
        return read(user, events, self.community, self.embedder)


class Snapshots:
    """Creates snapshots, and a new one when another process has changed the store or made another ranker live.

    `encoder` opens the language model that encodes posts, for rankers that were trained with its vectors.
    """

    def __init__(
        self, store: Store, embedder: Embedder, factory: str, encoder: Callable[[], PostEncoder | None] = lambda: None
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._factory = factory
        self._encoder = encoder
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._generation = -1
        self._registry = Registry(store.home)
        self._stamp: object = None

    def current(self, progress: Progress | None = None) -> Snapshot:
        """The snapshot as of now, with every event of the ledger."""
        with self._lock:
            # The number is read before the data: a change in between leads to one more reload, never to a missed one.
            generation, stamp = self._store.generation(), self._registry.stamp(MODEL)
            if self._snapshot is None or generation != self._generation:
                self._snapshot = self._make(None, progress)
                self._generation = generation
            else:
                if stamp != self._stamp:
                    ranker = self._ranker(self._snapshot.community, progress)
                    self._snapshot = replace(self._snapshot, ranker=ranker)
                self._snapshot.community.add_new_events(self._store)
            self._stamp = stamp
            return self._snapshot

    def as_of(self, time: float) -> Snapshot:
        """The snapshot as of a moment in the past (Unix seconds)."""
        return self._make(time, None)

    def _make(self, as_of: float | None, progress: Progress | None) -> Snapshot:
        community = Community.load(self._store, self._embedder, factory=self._factory, as_of=as_of, progress=progress)
        topics = Topics(self._store, community, self._embedder)
        # A transformer may have been trained on later events, so snapshots of the past do without one.
        ranker = Ranker.load(self._store.home) if as_of is not None else self._ranker(community, progress)
        return Snapshot(self._store, self._embedder, community, topics, ranker)

    def _ranker(self, community: Community, progress: Progress | None) -> Ranker:
        """The live ranker, with its transformer applied to the community; posts it needs encoded are encoded now."""
        ranker = Ranker.load(self._store.home)
        model = ranker.next_item
        if model is None or not model.encoder:
            community.set_next_item(model)
            return ranker
        encoder: PostEncoder | None = None
        why, width = "", len(model.arrays["centre"])
        try:
            encoder = self._encoder()
            if encoder is not None and encoder.name != model.encoder:
                why = f"another language model is live, {encoder.name}: fit again"
                encoder = None
            states = readings(self._store, model.encoder, community.nums, width, encoder, progress)
        except WhyfeedError as exc:
            why = str(exc)
            states = readings(self._store, model.encoder, community.nums, width, None)
        community.set_next_item(model, states)
        if unread := int(np.isnan(states[:, 0]).sum()):
            return replace(
                ranker, origin=f"{ranker.origin}; {unread} posts not read by {model.encoder} ({why or 'off'})"
            )
        return ranker
