"""Training examples of the judge: labelled posts at a moment, after the history of a reader up to that moment.

A history holds only earlier events, and none on the posts that are asked about. Labels are likes and dislikes (click
data), or which of the eligible posts the reader acted on (a home's ledger; negatives as in
`finetune.ranking.examples`).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from whyfeed.agent.recommend.judge import history_lines, post_line, word_of
from whyfeed.finetune.evaluation.histories import Histories, read_histories
from whyfeed.finetune.evaluation.protocol import ClickTest, is_click, prepare
from whyfeed.finetune.ranking.examples import groups
from whyfeed.retrieval.arrays import Floats
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.community.signals import CORE
from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.store.exchange import find_file, read_rows
from whyfeed.retrieval.store.store import Store

MOST = 16  # posts behind one history
_FIRST = 4  # posts of a reader's first group, who has no history yet
_NEGATIVES = 3  # for each post that a reader acted on
_SHRINKAGE = 5.0  # labels that the mean of all weighs in an item mean
_ACTS = 100  # of which a history is made: the latest that there may be lines of


@dataclass(frozen=True, slots=True)
class LabelledPosts:
    """Posts with labels 1 or 0, after one reader's history. `posts` and `history` are lines of the prompt.

    `time` is the moment (Unix seconds, an order number, or NaN). `plain` is a baseline value of each post (its item
    mean, or its popularity) from before the moment; held-out examples alone have it.
    """

    user: str
    time: float
    history: tuple[str, ...]
    posts: tuple[str, ...]
    labels: tuple[int, ...]
    plain: tuple[float, ...] = ()


# ---- click data


def read_posts(folder: Path) -> dict[str, Post]:
    """Posts of an exchange folder by id; bad rows are skipped."""
    file = find_file(folder, "posts")
    found: dict[str, Post] = {}
    for _, row, _ in read_rows(file) if file else ():
        try:
            post = Post.from_row(row or {})
        except (ValueError, TypeError, OverflowError):
            continue
        found[post.id] = post
    return found


def from_clicks(histories: Histories, posts: Mapping[str, Post]) -> list[LabelledPosts]:
    """Each user's likes and dislikes in their order, in groups that double: 4 behind nothing, then 4, 8, and `MOST`."""
    lines = [_line(posts, id) for id in histories.posts]
    found: list[LabelledPosts] = []
    said = np.flatnonzero(histories.weight != 0)
    starts = np.searchsorted(histories.user[said], np.arange(len(histories.users) + 1))
    for user, (begin, end) in enumerate(pairwise(starts)):
        at = begin
        while at < end:
            rows = said[at : min(end, at + min(MOST, max(_FIRST, at - begin)))]
            moment = float(histories.time[rows[0]])
            # Of acts in the same second none is known to be before the other.
            before = [row for row in said[begin:at] if not histories.time[row] >= moment]
            labels = tuple(int(histories.weight[row] > 0) for row in rows)
            shown = tuple(lines[post] for post in histories.post[rows])
            found.append(
                LabelledPosts(histories.users[user], moment, _history(histories, posts, before), shown, labels)
            )
            at += len(rows)
    return found


def from_folder(
    folder: Path, seed: int = 0, progress: Progress | None = None
) -> tuple[list[LabelledPosts], list[LabelledPosts]]:
    """Groups of a folder of likes and dislikes to learn from, and its click test to measure on. DataError for others.

    The test is that of `finetune.evaluation.protocol.prepare`: the folder's valid file, else its last labels.
    """
    whole = read_histories(folder, progress)
    if not is_click(whole):
        raise DataError(f"{str(folder)!r} holds no likes and dislikes; import it into a home and train on that")
    histories, test = prepare(whole, folder, seed=seed)
    if not isinstance(test, ClickTest):
        raise DataError(f"the valid file of {str(folder)!r} asks for rankings; a judge is measured on likes")
    posts = read_posts(folder)
    said = histories.weight != 0
    liked = (histories.weight[said] > 0).astype(np.float64)
    counts = np.bincount(histories.post[said], minlength=len(histories.posts))
    sums = np.bincount(histories.post[said], liked, minlength=len(histories.posts))
    means = (sums + _SHRINKAGE * liked.mean()) / (counts + _SHRINKAGE)
    return from_clicks(histories, posts), held_clicks(histories, test, posts, means[test.post].astype(np.float32))


def held_clicks(histories: Histories, test: ClickTest, posts: Mapping[str, Post], means: Floats) -> list[LabelledPosts]:
    """The rows of a click test, by user, behind the histories that may be learnt from; `means` (rows,) of the posts."""
    order = np.argsort(test.user, kind="stable")
    names, first_likes = np.unique(test.user[order], return_index=True)
    found: list[LabelledPosts] = []
    for user, rows in zip(names.tolist(), np.split(order, first_likes[1:]), strict=True):
        begin, end = histories.starts[user : user + 2]
        history = _history(histories, posts, range(begin, end))
        for at in range(0, len(rows), MOST):
            part = rows[at : at + MOST]
            found.append(
                LabelledPosts(
                    histories.users[user], math.nan, history,
                    tuple(_line(posts, histories.posts[test.post[row]]) for row in part),
                    tuple(int(test.label[row]) for row in part), tuple(float(means[row]) for row in part),
                )
            )  # fmt: skip
    return found


def _history(histories: Histories, posts: Mapping[str, Post], rows: Sequence[int]) -> tuple[str, ...]:
    acts = [
        ("like" if histories.weight[row] > 0 else "dislike", posts[id])
        for row in rows[-_ACTS:]
        if (id := histories.posts[histories.post[row]]) in posts and histories.weight[row]
    ]
    return tuple(history_lines(acts))


def _line(posts: Mapping[str, Post], id: str) -> str:
    return post_line(posts[id] if id in posts else Post.from_row({"id": id}))


# ---- a home's ledger


def from_home(
    store: Store, embedder: Embedder, seed: int = 0,
    progress: Progress | None = None,
) -> list[LabelledPosts]:  # fmt: skip
    """Examples from the ledger, in order of time. DataError when it holds too few acts with a time.

    Each post that the reader acted on comes with three of the negatives that `finetune.ranking.examples` draws.
    """
    events: dict[str, list[Event]] = {}
    for _, event in store.events():
        if event.time is not None and event.weight:
            events.setdefault(event.user, []).append(event)
    for acts in events.values():
        acts.sort(key=lambda event: event.time or 0.0)
    popular = CORE.index("popular")
    found: list[LabelledPosts] = []
    for number, group in enumerate(groups(store, embedder, seed=seed, progress=progress)):
        rng = np.random.default_rng([seed, number])
        positives = np.flatnonzero(group.labels > 0)[: MOST // (1 + _NEGATIVES)]
        others = np.flatnonzero(group.labels == 0)
        drawn = rng.choice(others, min(len(others), _NEGATIVES * len(positives)), replace=False)
        chosen = rng.permutation(np.concatenate([positives, drawn])).tolist()
        own = events.get(group.user, [])
        own = own[: bisect.bisect_right(own, group.cutoff, key=lambda event: event.time or 0.0)][-_ACTS:]
        posts = store.posts([*(event.post for event in own), *(group.posts[place] for place in chosen)])
        words = [(word_of(event.kind, event.weight), posts[event.post]) for event in own if event.post in posts]
        found.append(
            LabelledPosts(
                group.user, group.cutoff, tuple(history_lines(words)),
                tuple(post_line(posts[group.posts[place]]) for place in chosen),
                tuple(int(group.labels[place]) for place in chosen),
                tuple(float(group.signals[place, popular]) for place in chosen),
            )
        )  # fmt: skip
    if not found:
        raise DataError(
            "the ledger holds too few acts with a time to learn from; import more, or name a folder: --data"
        )
    return found
