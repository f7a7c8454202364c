"""A community whose right answers are known: three topics without a word in common, readers with planted tastes.

It is written as an exchange folder, so that every test reads it the way a user's data is read.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

START = 1_500_000_000.0  # the first post, Unix seconds
DAY = 86_400.0
NOW = START + 400 * DAY  # the clock of tests: after everything in the world

WORDS = {
    "gardening": "tomato soil compost seedling pruning mulch greenhouse irrigation rose fertilizer weeds harvest",
    "sailing": "keel mast rudder jib spinnaker mooring anchor halyard regatta tacking mainsail harbour",
    "clocks": "pendulum escapement mainspring gear chime dial winding balance horology pivot striking movement",
}
CHINESE = {
    "gardening": ("阳台园艺怎么开始", "番茄什么时候浇水", "园艺土壤怎么改良", "玫瑰修剪的时间"),
    "clocks": ("机械钟表如何保养", "钟表的擒纵机构", "老座钟走时不准", "钟表发条断了怎么办"),
}
TOPICS = tuple(WORDS)
AUTHORS = 5  # people who write, per topic
PER_TOPIC = 15  # English posts on each topic, before the Chinese ones and the twins
SCRIPT = "<script>alert(1)</script>"


@dataclass
class World:
    """The rows of an exchange folder, and what is true of them."""

    posts: list[Row] = field(default_factory=list)
    users: list[Row] = field(default_factory=list)
    interactions: list[Row] = field(default_factory=list)
    follows: list[Row] = field(default_factory=list)
    links: list[Row] = field(default_factory=list)
    topic_of: dict[str, str] = field(default_factory=dict)  # post -> topic
    tastes: dict[str, tuple[str, ...]] = field(default_factory=dict)  # user -> topics

    def write(self, folder: Path, *, gz: bool = False) -> Path:
        """Write the folder; the files are gzipped when asked for."""
        files: Mapping[str, Iterable[Row]] = {
            "posts": self.posts, "users": self.users, "interactions": self.interactions,
            "follows": self.follows, "links": self.links,
        }  # fmt: skip
        for name, rows in files.items():
            write_rows(folder / f"{name}.jsonl{'.gz' if gz else ''}", rows)
        return folder


def write_rows(path: Path, rows: Iterable[Row]) -> Path:
    """JSON Lines, gzipped where the name says so."""
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def make_world(seed: int = 0) -> World:
    """The world; the same for the same seed."""
    rng = random.Random(seed)
    world = World()
    _write_posts(world, rng)
    _let_read(world, rng)
    world.links = [{"head": post["id"], "relation": "about", "tail": world.topic_of[post["id"]]}
                   for post in world.posts if post["id"] in world.topic_of]  # fmt: skip
    return world


def write_world(folder: Path, *, gz: bool = False, seed: int = 0) -> World:
    """Write the world as an exchange folder and return what is true of it."""
    world = make_world(seed)
    world.write(folder, gz=gz)
    return world


def _write_posts(world: World, rng: random.Random) -> None:
    day = 0
    for number in range(PER_TOPIC):
        for topic in TOPICS:
            words = WORDS[topic].split()
            world.topic_of[f"{topic}-{number}"] = topic
            world.posts.append({
                "id": f"{topic}-{number}",
                "title": " ".join(rng.sample(words, 6)).capitalize(),
                "text": f"{' '.join(rng.choices(words, k=12))}. {' '.join(rng.choices(words, k=8))}?",
                "url": f"https://example.org/{topic}/{number}",
                "author": f"{topic}-author-{number % AUTHORS}",
                "community": topic,
                "tags": rng.sample(words, 2),
                "language": "en",
                "created_at": START + day * DAY,
                "votes": rng.randrange(100),
            })  # fmt: skip
            day += 1
    for topic, titles in CHINESE.items():
        for number, title in enumerate(titles):
            world.topic_of[f"{topic}-zh-{number}"] = topic
            world.posts.append({
                "id": f"{topic}-zh-{number}", "title": title, "text": f"{title}。请大家推荐一些经验。",
                "author": f"{topic}-author-0", "community": topic, "tags": ["中文"], "language": "zh",
                "created_at": START + day * DAY,
            })  # fmt: skip
            day += 1
    original = next(post for post in world.posts if post["id"] == "sailing-3")
    for name in ("a", "b"):
        world.topic_of[f"sailing-twin-{name}"] = "sailing"
        world.posts.append({
            **original, "id": f"sailing-twin-{name}", "author": f"sailing-author-{'ab'.index(name)}",
            "title": "Spinnaker halyard jams at the mast", "text": "Spinnaker halyard jams at the mast when tacking.",
            "tags": ["spinnaker", "halyard"], "created_at": START + day * DAY,
        })  # fmt: skip
        day += 1
    world.posts += [
        {"id": "odd-empty"},
        {"id": "odd-script", "title": SCRIPT, "text": f'{SCRIPT} <img src=x onerror="alert(1)">', "community": "odd"},
        {"id": "odd-long", "title": "Long", "text": "lorem ipsum " * 17_000, "community": "odd"},
        {"id": "odd-control", "title": "Bell \x07 null \x00 escape \x1b[31m", "text": "a\x0bb", "community": "odd"},
        {"id": "odd-product", "kind": "product", "title": "Brass sextant", "community": "odd", "price": 120.5},
    ]  # fmt: skip


def _let_read(world: World, rng: random.Random) -> None:
    """24 readers: 18 of one taste, 6 of two; one newcomer without a past."""
    world.users = [
        {"id": f"{topic}-author-{number}", "name": f"{topic.title()} author {number}"}
        for topic in TOPICS
        for number in range(AUTHORS)
    ]
    by_topic = {
        topic: [post for post in world.posts if post.get("community") == topic and post.get("language") == "en"]
        for topic in TOPICS
    }
    for number in range(24):
        user = f"u{number}"
        taste = (TOPICS[number % 3],) if number < 18 else (TOPICS[number % 3], TOPICS[(number + 1) % 3])
        world.tastes[user] = taste
        world.users.append({"id": user, "name": f"Reader {number}", "about": "", "joined": 2017 + number % 3})
        for topic in taste:
            # Nobody has read the twins: they are there to be found.
            known = [post for post in by_topic[topic] if "twin" not in post["id"]]
            for post in rng.sample(known, 7):
                moment = max(float(post["created_at"]), START + 40 * DAY) + rng.random() * 20 * DAY
                kind = rng.choice(("answer", "comment", "like", "save"))
                world.interactions.append({"user": user, "post": post["id"], "kind": kind, "time": moment})
            for author in {post["author"] for post in known[:3]}:
                world.follows.append({"from": user, "to": author, "weight": rng.randrange(1, 9)})
    world.interactions.append({"user": "u1", "post": "odd-empty", "kind": "view", "time": START + 60 * DAY})
    world.interactions.append(
        {"user": "u4", "post": "odd-product", "kind": "rate", "value": 4.5, "time": START + 61 * DAY}
    )
    world.interactions.append({"user": "u7", "post": "sailing-twin-a", "kind": "hide", "time": START + 90 * DAY})
    world.interactions.sort(key=lambda row: (row["time"], row["user"], row["post"]))
    world.follows.sort(key=lambda row: (row["from"], row["to"]))
    world.users.append({"id": "newcomer", "name": "Newcomer"})
    world.tastes["newcomer"] = ()
