"""The interactions of an exchange folder as arrays, each user's events in order.

Evaluation needs every event several times and no database, so a folder is read directly into arrays. Bad rows are
skipped and counted, as in an import.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from whyfeed.retrieval.arrays import Floats, Rows
from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.event import DESK, STEERING, Event
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.store.exchange import find_file, read_rows
from whyfeed.retrieval.store.store import embedding_text

Times = npt.NDArray[np.float64]  # Unix seconds or order numbers; NaN where unknown
Flags = npt.NDArray[np.bool_]
FIRST_CLOCK = 31_536_000.0  # as in retrieval.clock: smaller times are order numbers
_TITLE_YEAR = re.compile(r"\((\d{4})\)")
_EVERY = 20_000  # rows between two reports of progress


@dataclass(frozen=True, eq=False)
class Histories:
    """Events of `users` on `posts`, sorted by user, within a user by time (file order where unknown).

    `user`, `post`, `weight` (interest in [-1, 1]) and `time` are aligned, one entry an event. `ordered`:
    times order the events of a user; `clock`: they can also be compared between users. `edges`: who follows whom;
    `links`: facts about posts as (head, relation, tail). `fresh` (posts,): posts that arrive after all of these events
    and are what a test asks about; None for tests about all posts.
    """

    name: str
    users: tuple[str, ...]
    posts: tuple[str, ...]
    texts: tuple[str, ...]
    years: Floats
    user: Rows
    post: Rows
    weight: Floats
    time: Times
    ordered: bool = False
    clock: bool = False
    kinds: Mapping[str, int] | None = None
    skipped: int = 0
    edges: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str, str], ...] = ()
    fresh: Flags | None = None

    # ---- places ----

    @cached_property
    def user_rows(self) -> dict[str, int]:
        """Row of each user's id."""
        return {id: row for row, id in enumerate(self.users)}

    @cached_property
    def post_rows(self) -> dict[str, int]:
        """Row of each post's id."""
        return {id: row for row, id in enumerate(self.posts)}

    @cached_property
    def starts(self) -> Rows:
        """(users + 1,): the events of user u are starts[u]:starts[u + 1]."""
        return np.searchsorted(self.user, np.arange(len(self.users) + 1)).astype(np.int64)

    @cached_property
    def first_likes(self) -> Rows:
        """Indices of each user's first positive event on each post; ten comments on one question count once."""
        return self._firsts(np.flatnonzero(self.weight > 0))

    def _firsts(self, places: Rows) -> Rows:
        pairs = self.user[places] * len(self.posts) + self.post[places]
        _, first = np.unique(pairs, return_index=True)
        return np.asarray(places[np.sort(first)], dtype=np.int64)

    @cached_property
    def seen(self) -> Any:
        """Sparse (users, posts): 1 where there is any event, positive or not."""
        return self._matrix(self._firsts(np.arange(len(self.user))))

    @cached_property
    def liked(self) -> Any:
        """Sparse (users, posts): 1 where there is a positive event."""
        return self._matrix(self.first_likes)

    def _matrix(self, places: Rows) -> Any:
        from scipy import sparse

        ones = np.ones(len(places), dtype=np.float32)
        shape = (len(self.users), len(self.posts))
        matrix = sparse.csr_matrix((ones, (self.user[places], self.post[places])), shape=shape)
        matrix.sort_indices()
        return matrix

    @cached_property
    def popularity(self) -> Rows:
        """(posts,): how many users liked each post."""
        return np.bincount(self.post[self.first_likes], minlength=len(self.posts))

    @cached_property
    def lengths(self) -> Rows:
        """(users,): how many posts each user liked."""
        return np.bincount(self.user[self.first_likes], minlength=len(self.users))

    @cached_property
    def friends(self) -> Any:
        """Sparse (users, users): 1 where either follows the other."""
        return _joined(self.edges, self.user_rows)

    @cached_property
    def linked(self) -> Any:
        """Sparse (posts, posts): 1 where a link connects both."""
        return _joined([(head, tail) for head, _, tail in self.links], self.post_rows)

    @cached_property
    def asked(self) -> Rows:
        """Rows of the posts that a test may ask about: the fresh ones, or all without any."""
        return np.arange(len(self.posts)) if self.fresh is None else np.flatnonzero(self.fresh)

    def recent(self, decay: float) -> Any:
        """Sparse (users, posts): decay ^ (age of the like, 0 for the newest one); all 1 without order."""
        if not self.ordered or decay == 1.0:
            return self.liked
        from scipy import sparse

        places = self.first_likes
        users = self.user[places]
        ends = np.searchsorted(users, users, side="right")
        values = (decay ** (ends - 1 - np.arange(len(places)))).astype(np.float32)
        shape = (len(self.users), len(self.posts))
        return sparse.csr_matrix((values, (users, self.post[places])), shape=shape)

    # ---- other histories made of these ----

    def keep(self, kept: Flags) -> Histories:
        """The same users and posts, with the events where `kept` (events,) is true."""
        return replace(
            self, user=self.user[kept], post=self.post[kept], weight=self.weight[kept], time=self.time[kept]
        )  # fmt: skip

    def with_ids(self, users: Iterable[str], posts: Iterable[str]) -> Histories:
        """The same events, and users and posts that only a test names: without history and text."""
        new_users = [id for id in dict.fromkeys(users) if id not in self.user_rows]
        new_posts = [id for id in dict.fromkeys(posts) if id not in self.post_rows]
        if not new_users and not new_posts:
            return self
        return replace(
            self,
            users=(*self.users, *new_users),
            posts=(*self.posts, *new_posts),
            texts=(*self.texts, *("" for _ in new_posts)),
            years=np.append(self.years, np.full(len(new_posts), np.nan, dtype=np.float32)),
        )


def read_histories(folder: Path, progress: Progress | None = None) -> Histories:
    """Read posts and interactions of an exchange folder. DataError when there are no interactions."""
    if not folder.is_dir():
        raise DataError(f"{str(folder)!r} is not a folder; give one with interactions.jsonl in it")
    events_file = find_file(folder, "interactions")
    if events_file is None:
        raise DataError(f"{str(folder)!r} has no interactions.jsonl, plain or .gz; there is nothing to measure")
    posts_file = find_file(folder, "posts")
    texts: dict[str, str] = {}
    years: dict[str, float] = {}
    skipped = 0
    for line, row, _ in read_rows(posts_file) if posts_file else ():
        if progress and line % _EVERY == 0:
            progress("reading posts", line, line)
        try:
            post = Post.from_row(row or {})
        except (ValueError, TypeError, OverflowError):
            skipped += 1
            continue
        texts[post.id], years[post.id] = embedding_text(post), _year(post)

    users: dict[str, int] = {}
    rows = {id: row for row, id in enumerate(texts)}
    user: list[int] = []
    posts: list[int] = []
    weights: list[float] = []
    times: list[float] = []
    kinds: Counter[str] = Counter()
    for line, row, _ in read_rows(events_file):
        if progress and line % _EVERY == 0:
            progress("reading interactions", line, line)
        try:
            event = Event.from_row(row or {})
        except (ValueError, TypeError, OverflowError):
            skipped += 1
            continue
        if event.kind in STEERING or event.kind in DESK:
            continue
        place = rows.get(event.post)
        if place is None:
            if posts_file:
                skipped += 1
                continue
            place = rows.setdefault(event.post, len(rows))
        kinds[event.kind] += 1
        user.append(users.setdefault(event.user, len(users)))
        posts.append(place)
        weights.append(event.weight)
        times.append(np.nan if event.time is None else event.time)
    ids = tuple(rows)
    who, time = np.array(user, dtype=np.int64), np.array(times, dtype=np.float64)
    known = ~np.isnan(time)
    # Events without a time come first, as if they were older than all others.
    order = np.lexsort((np.where(known, time, -np.inf), who))
    ordered = bool(len(time)) and bool(known.mean() > 0.5)
    return Histories(
        name=folder.resolve().name, users=tuple(users), posts=ids, texts=tuple(texts.get(id, "") for id in ids),
        years=np.array([years.get(id, np.nan) for id in ids], dtype=np.float32), user=who[order],
        post=np.array(posts, dtype=np.int64)[order], weight=np.array(weights, dtype=np.float32)[order],
        time=time[order], ordered=ordered, clock=ordered and bool(np.median(time[known]) >= FIRST_CLOCK),
        kinds=dict(kinds), skipped=skipped,
        edges=tuple((one, other) for one, other in _texts_of(folder, "follows", ("from", "to"))),
        links=tuple((h, r, t) for h, r, t in _texts_of(folder, "links", ("head", "relation", "tail"))),
    )  # fmt: skip


def _joined(pairs: Iterable[tuple[str, str]], rows: Mapping[str, int]) -> Any:
    from scipy import sparse

    known = [(rows[one], rows[other]) for one, other in pairs if one in rows and other in rows and one != other]
    ends = np.array(known, dtype=np.int64).reshape(-1, 2)
    ones = np.ones(len(ends), dtype=np.float32)
    found = sparse.csr_matrix((ones, (ends[:, 0], ends[:, 1])), shape=(len(rows), len(rows)))
    found = (found + found.T).tocsr()
    found.data[:] = 1
    return found


def _texts_of(folder: Path, name: str, fields: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Text fields of the rows that have all of them; none when there is no such file."""
    file = find_file(folder, name)
    for _, row, _ in read_rows(file) if file else ():
        values = tuple((row or {}).get(field) for field in fields)
        if all(isinstance(value, str) and value for value in values):
            yield tuple(str(value) for value in values)


def _year(post: Post) -> float:
    """The year in brackets in the title, as in catalogues of films; else that of the post's time; else NaN."""
    if match := _TITLE_YEAR.search(post.title):
        return float(match[1])
    if post.created_at is not None and 0 < post.created_at < 4e9:
        return float(datetime.fromtimestamp(post.created_at, UTC).year)
    return float("nan")
