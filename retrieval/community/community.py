"""Posts and events in memory, in arrays for ranking; optionally as of a moment in the past.

A `Community` is computed from the store alone. Appended events are added incrementally. After any other change (an
import, forgotten events) it is rebuilt, so forgotten data leaves no traces in it.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whyfeed.retrieval.arrays import Floats, Rows, Vectors
from whyfeed.retrieval.community.cooccurrence import Cooccurrence, text_neighbours
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.community.index import PostIndex
from whyfeed.retrieval.community.next_item import NextItem, NextPosts
from whyfeed.retrieval.community.post_vectors import embedded
from whyfeed.retrieval.community.trust import SUPPORT, account_weights, counted, focus, latest_time, witnessed
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.files import keep_arrays, kept_arrays
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.store.store import Store

INDEX_FILE = "index.faiss"
NEIGHBOURS_FILE = "neighbours.npz"
TAGS_FILE = "tags.npz"
_TAGS_READ = 4000  # most frequent tags that get a vector
_RECOUNT_SHARE = 0.01  # co-occurrence is recomputed when the events have grown by this share
_SMALL = 5_000  # up to this many positive events it is recomputed after each, in some milliseconds


class Community:
    """Everything about posts and users that ranking needs, in arrays; row r is the post `ids[r]`.

    `as_of` (Unix seconds) leaves out all posts and events after that time. `events_until` leaves out only events:
    training needs posts of the near future with the statistics of the past. Follow edges have no time and are left out
    with either. "Now" is the time of the newest post or event, never that of the system clock. Build it with
    `Community.load`.
    """

    def __init__(
        self,
        store: Store,
        index: PostIndex,
        vectors: npt.NDArray[np.float16],
        as_of: float | None,
        events_until: float | None = None,
    ) -> None:
        self.index = index
        self.as_of = as_of
        self._events_until = as_of if events_until is None else events_until
        rows = [row for row in store.post_rows() if as_of is None or row[5] is None or row[5] <= as_of]
        self.nums: Rows = np.array([row[0] for row in rows], dtype=np.int64)
        self.ids: list[str] = [row[1] for row in rows]
        self.row_of: dict[str, int] = {id: place for place, id in enumerate(self.ids)}
        # Numbers of posts that are in the index but were created after `as_of`.
        self.later: Rows = np.array(sorted(set(index.digests()).difference(self.nums.tolist())), dtype=np.int64)
        self.kinds: list[str] = [row[2] for row in rows]
        self.authors: list[str] = [row[3] for row in rows]
        self.created: npt.NDArray[np.float64] = np.array(
            [np.nan if row[5] is None else row[5] for row in rows], dtype=np.float64
        )
        self.communities: list[str] = [row[4] for row in rows]
        self.community_names: list[str] = sorted(set(self.communities))
        codes = {name: code for code, name in enumerate(self.community_names)}
        self.community_codes: Rows = np.array([codes[name] for name in self.communities], dtype=np.int64)
        self.tags: list[tuple[str, ...]] = [_tags(row[7]) for row in rows]
        self._focus = focus(np.array([len(tags) for tags in self.tags], dtype=np.int64))
        self.tag_counts: Counter[str] = Counter(tag for tags in self.tags for tag in tags)
        self._idf = {tag: float(np.log((len(rows) + 1) / (count + 1))) for tag, count in self.tag_counts.items()}
        self._rarest = float(np.log(len(rows) + 1))  # IDF of a tag that no post has
        self._tag_norms = [sum(self._idf[tag] ** 2 for tag in tags) ** 0.5 or 1.0 for tags in self.tags]
        self.common_tags: list[str] = [tag for tag, _ in self.tag_counts.most_common(_TAGS_READ)]
        self.tag_vectors: Vectors = np.zeros((len(self.common_tags), index.dimension), dtype=np.float32)
        self.digests: list[str] = [row[8] for row in rows]
        self._vectors = vectors
        self._rows_by: dict[str, list[int]] = defaultdict(list)
        for place, author in enumerate(self.authors):
            if author:
                self._rows_by[author].append(place)
        self._lock = threading.Lock()

        self._user_codes: dict[str, int] = {}
        self._active_in: dict[int, set[str]] = defaultdict(set)
        self._users: list[int] = []
        self._rows: list[int] = []
        self._weights: list[float] = []
        self._times: list[float] = []
        self._trust: Floats = np.zeros(0, dtype=np.float32)  # `account_weights`, by user code
        self._counts: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)  # which positive events count, see `trust`
        # Strongest value of each (user, post), by code * posts + row: sorted, and what came since.
        self._pairs: Rows = np.zeros(0, dtype=np.int64)
        self._best: npt.NDArray[np.float64] = np.zeros(0)
        self._later: dict[int, float] = {}
        self._popular: npt.NDArray[np.float64] = np.zeros(len(rows))
        self.last_event = 0
        self._counted = 0
        self.event_counts: Counter[str] = Counter()
        self.following: dict[str, dict[str, float]] = defaultdict(dict)
        # Edges have no time, and an archive's edges are often derived from all its replies, also later ones.
        for follower, followed, weight in store.follows() if self._events_until is None else ():
            self.following[follower][followed] = weight
        self._add([item for item in store.events() if _known_by(item[1], self._events_until)])
        self._neighbours: object = None
        self.cooccurrence: Cooccurrence | None = None
        self.next_posts: NextPosts | None = None
        self._weigh()
        self._measure_time()

    # ---- building ----

    @classmethod
    def load(
        cls,
        store: Store,
        embedder: Embedder,
        *,
        factory: str = "IDMap2,Flat",
        as_of: float | None = None,
        events_until: float | None = None,
        progress: Progress | None = None,
    ) -> Community:
        """Bring vectors and index in the store up to date, batch by batch, and build the community from the store."""
        nums, digests, vectors = embedded(store, embedder, progress)
        path = store.home / INDEX_FILE
        index = PostIndex.load(path, embedder.dimension, embedder.name, factory)
        there = dict(zip(nums, digests, strict=True))
        have = {} if index is None else index.digests()
        if index is None or have != there:
            gone = [num for num, digest in have.items() if there.get(num) != digest]
            if index is None or (gone and not index.can_remove):
                index = PostIndex(embedder.dimension, embedder.name, factory)
                have, gone = {}, []
            index.remove(gone)
            new = [place for place, num in enumerate(nums) if have.get(num) != digests[place]]
            index.add([nums[place] for place in new], [digests[place] for place in new], vectors[new])
            index.save(path)
        places = {num: place for place, num in enumerate(nums)}
        community = cls(store, index, np.zeros((0, embedder.dimension), dtype=np.float16), as_of, events_until)
        if community.digests != [there.get(num) for num in community.nums.tolist()]:
            # Another process has imported posts meanwhile: start again.
            return cls.load(store, embedder, factory=factory, as_of=as_of, events_until=events_until, progress=progress)
        community._vectors = vectors[[places[num] for num in community.nums.tolist()]].astype(np.float16)
        if progress:
            progress("relating posts", 0, len(community.ids))
        community._neighbours = _neighbours(store.home / NEIGHBOURS_FILE, community, as_of is None)
        community._count()
        community.tag_vectors = _tag_vectors(store.home / TAGS_FILE, community.common_tags, embedder, as_of is None)
        return community

    def add_new_events(self, store: Store) -> None:
        """Add the events appended since the last call; co-occurrence is recomputed when there are enough new ones."""
        with self._lock:
            new = [item for item in store.events(after=self.last_event) if _known_by(item[1], self._events_until)]
            known = len(self._rows)
            self._add(new)
            small, grown = len(self._rows) < _SMALL, len(self._rows) - self._counted
            recount = (grown and small) or grown > _RECOUNT_SHARE * max(len(self._rows), 1)
            if recount:
                self._weigh()
            else:
                # Until the next recount those count who bring so much support that they take nobody's place.
                fresh = np.array(self._users[len(self._counts) :], dtype=np.int64)
                there = fresh < len(self._trust)
                enough = self._trust[np.where(there, fresh, 0)] * SUPPORT >= 1 if len(self._trust) else there
                self._counts = np.concatenate([self._counts, there & enough])
            if new:
                # For communities without dates of posts, "now" is the newest event and has moved.
                self._measure_time() if self._undated else self._measure_popularity(0 if recount else known)
            if recount:
                self._count()

    def set_next_item(self, model: NextItem | None, states: Vectors | None = None) -> None:
        """Set the next-item transformer, or none.

        `states` (posts, d) are the vectors of its post encoder, if it has one; see `NextItem.text`.
        """
        if model is None:
            self.next_posts = None
            return
        text = self.vectors(range(len(self)))
        self.next_posts = NextPosts(model, self.ids, text if states is None else model.text(text, states))

    # ---- reading ----

    def __len__(self) -> int:
        return len(self.ids)

    def vectors(self, rows: Sequence[int] | Rows) -> Vectors:
        """Sentence vectors (len(rows), d) of these posts."""
        return self._vectors[np.asarray(rows, dtype=np.int64)].astype(np.float32)

    def now(self, code: int) -> float:
        """The time of a community's newest post, or of its newest event where posts have no dates."""
        return float(self._now[code])

    def freshness(self, rows: Rows) -> Floats:
        """Freshness (0..1) of each row: it halves with each tenth of its community's time span; 0 without a date."""
        return self._freshness[rows]

    def popularity(self, rows: Rows) -> Floats:
        """Popularity (0..1) of each row: log of its decayed positive events, relative to its community's maximum."""
        return self._popularity[rows]

    def rows_by(self, author: str) -> list[int]:
        """Rows of the posts by one author, in the order of arrival."""
        return self._rows_by.get(author, [])

    def rows_in(self, codes: Iterable[int]) -> Rows:
        """Rows of the posts in these communities; of all posts when `codes` is empty."""
        wanted = np.zeros(max(len(self.community_names), 1), dtype=np.bool_)
        wanted[list(codes)] = True
        if not wanted.any():
            return np.arange(len(self.ids), dtype=np.int64)
        return np.flatnonzero(wanted[self.community_codes])

    def idf(self, tag: str) -> float:
        """Inverse document frequency of a tag: log((posts + 1) / (posts with the tag + 1))."""
        return self._idf.get(tag, self._rarest)

    def tag_norm(self, row: int) -> float:
        """Euclidean norm of the post's tags as a vector of `idf`; 1 for a post without tags."""
        return self._tag_norms[row]

    def focus(self, rows: Rows | int) -> Floats:
        """How far each row is about each of its tags (0..1): less than 1 for posts with unusually many of them."""
        return self._focus[rows]

    def active_users(self) -> list[tuple[str, int]]:
        """(user, number of positive events), the most active first."""
        return sorted(self.event_counts.items(), key=lambda item: (-item[1], item[0]))

    def communities_of(self, user: str) -> tuple[str, ...]:
        """Names of the communities that a user was active in."""
        code = self._user_codes.get(user)
        return tuple(sorted(self._active_in[code])) if code is not None else ()

    def sequences(self) -> tuple[list[str], Rows, Rows, Floats, npt.NDArray[np.float64]]:
        """(user ids, user codes, rows, weights, times) of all positive events, in order of time; a code indexes ids."""
        order = np.argsort(np.array(self._times), kind="stable")
        return (
            list(self._user_codes),
            np.array(self._users, dtype=np.int64)[order],
            np.array(self._rows, dtype=np.int64)[order],
            np.array(self._weights, dtype=np.float32)[order],
            np.array(self._times, dtype=np.float64)[order],
        )

    def counted(self) -> tuple[list[str], Rows, Rows]:
        """(user ids, user codes, rows) of the positive events that count where those of many users are counted.

        In order of time, as in `sequences`; `retrieval.community.trust` says which these are.
        """
        order = np.argsort(np.array(self._times), kind="stable")
        order = order[self._counts[order]]
        users, rows = np.array(self._users, dtype=np.int64), np.array(self._rows, dtype=np.int64)
        return list(self._user_codes), users[order], rows[order]

    # ---- inside ----

    def _add(self, items: Sequence[tuple[int, Event]]) -> None:
        for num, event in items:
            self.last_event = max(self.last_event, num)
            row = self.row_of.get(event.post)
            if row is None:
                continue
            if event.weight <= 0:
                continue
            self.event_counts[event.user] += 1
            code = self._user_codes.setdefault(event.user, len(self._user_codes))
            self._active_in[code].add(self.communities[row])
            self._users.append(code)
            self._rows.append(row)
            self._weights.append(event.weight)
            # Events without a time get their index in the order of arrival. Not their number in the ledger, which has
            # gaps where events were forgotten.
            self._times.append(float(len(self._times)) if event.time is None else event.time)

    def _weigh(self) -> None:
        """Compute which events count where events of many users are counted."""
        users, rows = np.array(self._users, dtype=np.int64), np.array(self._rows, dtype=np.int64)
        self._trust = account_weights(users, rows, witnessed(np.array(self._times, dtype=np.float64)))
        self._counts = counted(users, rows, self._trust)

    def _count(self) -> None:
        _, users, rows = self.counted()
        self.cooccurrence = Cooccurrence(users, rows, len(self.ids), self._neighbours)
        self._counted = len(self._rows)

    def _measure_time(self) -> None:
        size = max(len(self.community_names), 1)
        self._now = np.zeros(size)
        self._half_life = np.ones(size)
        self._undated = False
        times = np.array(self._times)
        rows = np.array(self._rows, dtype=np.int64)
        for code in range(len(self.community_names)):
            created = self.created[self.community_codes == code]
            created = created[~np.isnan(created)]
            if not len(created):
                self._undated = True
                created = times[self.community_codes[rows] == code]
            if len(created):
                # A post or event that claims to be of the far future must not make all others old.
                created = np.minimum(created, latest_time(created))
                early, late = np.quantile(created, [0.02, 0.98])
                self._now[code] = created.max()
                self._half_life[code] = max((late - early) / 10, 1e-9)
        age = np.maximum(self._now[self.community_codes] - self.created, 0) / self._half_life[self.community_codes]
        self._freshness: Floats = np.nan_to_num(0.5**age).astype(np.float32)
        self._measure_popularity()

    def _measure_popularity(self, known: int = 0) -> None:
        """Compute the popularity of every post; the first `known` positive events are already counted.

        Each account counts once a post, with its strongest event, and only where its acts count (see `trust.counted`).
        """
        counts = self._counts[known:]
        rows = np.array(self._rows[known:], dtype=np.int64)[counts]
        users = np.array(self._users[known:], dtype=np.int64)[counts]
        codes = self.community_codes[rows]
        # Older events count less, but at least a fifth: posts that were popular for long keep some popularity.
        age = np.clip((self._now[codes] - np.array(self._times[known:])[counts]) / self._half_life[codes], 0, None)
        values = np.array(self._weights[known:])[counts] * (0.2 + 0.8 * 0.5**age)
        pairs = users * len(self.ids) + rows
        if known:
            for pair, row, value in zip(pairs.tolist(), rows.tolist(), values.tolist(), strict=True):
                place = int(np.searchsorted(self._pairs, pair))
                there = place < len(self._pairs) and self._pairs[place] == pair
                had = self._later.get(pair, float(self._best[place]) if there else 0.0)
                if value > had:
                    self._later[pair] = value
                    self._popular[row] += value - had
        else:
            self._pairs, of = np.unique(pairs, return_inverse=True)
            self._best, self._later = np.zeros(len(self._pairs)), {}
            np.maximum.at(self._best, of, values)
            rows = self._pairs % max(len(self.ids), 1)
            self._popular = np.bincount(rows, self._best, minlength=len(self.ids)).astype(np.float64)
        most = np.zeros(max(len(self.community_names), 1))
        np.maximum.at(most, self.community_codes, self._popular)
        relative = np.log1p(self._popular) / np.log1p(np.maximum(most[self.community_codes], 1))
        self._popularity: Floats = relative.astype(np.float32)


def _neighbours(path: Path, community: Community, keep: bool) -> object:
    """`text_neighbours` of all posts; read from the cache file when that was computed from the same vectors."""
    from scipy import sparse

    def make() -> dict[str, npt.NDArray[Any]]:
        every = np.arange(len(community), dtype=np.int64)
        # A post that claims many topics by its tags is near to none of them.
        made = text_neighbours(community.vectors(every) * community.focus(every)[:, None])
        return {"data": made.data, "indices": made.indices, "indptr": made.indptr}

    digest = community.index.digest
    parts = kept_arrays(path, digest) if keep else None
    if parts is None:
        parts = make()
        if keep:
            keep_arrays(path, digest, parts)
    return sparse.csr_matrix((parts["data"], parts["indices"], parts["indptr"]), shape=(len(community),) * 2)


def _tag_vectors(path: Path, tags: Sequence[str], embedder: Embedder, keep: bool) -> Vectors:
    """Vectors (n, d) of the tags; only those that are not in the cache file are computed."""
    texts = [tag.replace("-", " ").replace("_", " ") for tag in tags]
    made = kept_arrays(path, embedder.name) or {}
    vector_of = dict(zip(made["texts"].tolist(), made["vectors"], strict=True)) if made else {}
    missing = sorted(set(texts).difference(vector_of))
    vector_of.update(zip(missing, embedder.encode(missing), strict=True))
    vectors = np.array([vector_of[text] for text in texts], dtype=np.float32).reshape(-1, embedder.dimension)
    if keep and missing:
        keep_arrays(path, embedder.name, {"texts": np.array(texts), "vectors": vectors})
    return vectors


def _known_by(event: Event, as_of: float | None) -> bool:
    return as_of is None or event.time is None or event.time <= as_of


def _tags(column: str) -> tuple[str, ...]:
    return tuple(json.loads(column))
