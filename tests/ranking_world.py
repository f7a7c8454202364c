"""Small exchange folders for measuring rankers, whose right answers are known."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tests.world import Row, write_rows
from whyfeed.finetune.evaluation.baselines import Resources
from whyfeed.finetune.evaluation.histories import Histories, read_histories
from whyfeed.retrieval.community.embedder import HashEmbedder

EMBED = HashEmbedder(64)
TOPICS = ("tomato soil compost seedling", "keel mast rudder halyard")
SIZE = 20  # posts of a topic
TASTES = 30  # users of a topic


def event(user: object, post: object, time: object = None, kind: str = "buy", **more: object) -> Row:
    return {"user": str(user), "post": str(post), "kind": kind, "time": time, **more}


def write_folder(folder: Path, events: Iterable[Row], posts: Iterable[Row] | None = None, **files: list[Row]) -> Path:
    """An exchange folder; without `posts`, a post without text for each that the events name."""
    rows = list(events)
    named = [{"id": id, "title": f"post {id}"} for id in sorted({str(row.get("post")) for row in rows})]
    write_rows(folder / "posts.jsonl", named if posts is None else posts)
    write_rows(folder / "interactions.jsonl", rows)
    for name, content in files.items():
        write_rows(folder / f"{name}.jsonl", content)
    return folder


def bought(folder: Path, timed: bool = True) -> Path:
    """Users of one taste buy along a ring of its posts, each post after the one before it."""
    rng = random.Random(0)
    posts = [
        {"id": f"{topic}-{at}", "title": f"{rng.choice(TOPICS[topic].split())} {TOPICS[topic]} n{topic}x{at}"}
        for topic in (0, 1)
        for at in range(SIZE)
    ]
    events = []
    for topic in (0, 1):
        for user in range(TASTES):
            start = rng.randrange(SIZE)
            for step in range(rng.randint(4, 9)):
                time = step if timed else None
                events.append(event(f"u{topic}-{user}", f"{topic}-{(start + step) % SIZE}", time))
    return write_folder(folder, events, posts)


def judged(folder: Path) -> Path:
    """Likes and dislikes by the clock: good posts are liked by all, glad users like more, the rest is chance."""
    rng = random.Random(1)
    posts = [{"id": f"p{at}", "title": f"{TOPICS[at % 2]} ({1990 + at})"} for at in range(30)]
    events = []
    meetings = [(user, post) for user in range(40) for post in range(30)]
    for number, (user, post) in enumerate(rng.sample(meetings, 1000)):
        chance = 0.15 + 0.4 * (post < 15) + 0.3 * (user < 20)
        kind = "like" if rng.random() < chance else "dislike"
        events.append(event(f"u{user}", f"p{post}", 1_500_000_000 + number * 1000, kind))
    return write_folder(folder, events, posts)


def read(folder: Path, events: Iterable[Row], posts: Iterable[Row] | None = None, **files: list[Row]) -> Histories:
    return read_histories(write_folder(folder, events, posts, **files))


def tools(histories: Histories) -> Resources:
    return Resources(EMBED, histories.texts)


def pairs(histories: Histories) -> list[tuple[str, str]]:
    """User and post of every event, by id, in order."""
    return [(histories.users[u], histories.posts[p]) for u, p in zip(histories.user, histories.post, strict=True)]


def every(histories: Histories) -> np.ndarray:
    return np.arange(len(histories.users))
