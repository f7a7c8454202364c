"""Killed at any moment, a home opens again, holds every confirmed event, and can be brought to where it would be."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EMBEDDER, arrays
from tests.world import NOW, make_world
from whyfeed.agent.answer import Answer
from whyfeed.retrieval.arrays import Vectors
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.embedder import HashEmbedder
from whyfeed.retrieval.community.index import PostIndex
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.store.exchange import import_folder
from whyfeed.retrieval.store.store import Store

TIMES = 10
POSTS = 700  # three batches of the embedder


class Killable:
    """Runs functions in processes that are killed. `log` is what they confirmed, line by line."""

    def __init__(self, context: BaseContext, log: Path) -> None:
        self._context = context
        self.log = log

    def start(self, work: Callable[..., None], *arguments: Any) -> Any:
        """Start a process and wait until it begins."""
        self.log.write_bytes(b"")
        process = self._context.Process(target=work, args=(str(self.log), *arguments), daemon=True)  # type: ignore[attr-defined]
        process.start()
        while not self.log.stat().st_size:
            assert process.is_alive() or self.log.stat().st_size
            time.sleep(0.001)
        return process

    def whole(self, work: Callable[..., None], *arguments: Any) -> float:
        """Let it finish; the seconds that it took."""
        process = self.start(work, *arguments)
        begin = time.perf_counter()
        process.join(60)
        assert process.exitcode == 0
        return time.perf_counter() - begin

    def kill(self, after: float, work: Callable[..., None], *arguments: Any) -> list[str]:
        """Kill it after so many seconds; the lines that it confirmed."""
        process = self.start(work, *arguments)
        process.join(after)
        process.kill()
        process.join(60)
        assert process.exitcode in (-signal.SIGKILL, 0)
        process.close()
        return self.log.read_text().splitlines()[1:]


def confirm(log: str, line: str) -> None:
    """Append a line in one write, so that it is there whole or not at all."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


@pytest.fixture
def killable(processes: BaseContext, tmp_path: Path) -> Killable:
    return Killable(processes, tmp_path / "log")


def moments(longest: float) -> list[float]:
    """Random moments, the first and the last ones among them."""
    rng = random.Random(0)
    return [0.0, *(rng.uniform(0, longest) for _ in range(TIMES - 2)), longest * 0.95]


def check(home: Path) -> Store:
    """The home opens, and SQLite finds nothing wrong with it."""
    store = Store(home)
    assert store.database.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert store.database.connection.execute("PRAGMA foreign_key_check").fetchall() == []
    return store


def rows(store: Store) -> dict[str, Any]:
    """What an import wrote; the numbers of rows are no part of it."""
    return {
        "posts": [post.to_row() for post in store.all_posts()],
        "users": [user.to_row() for user in store.all_users()],
        "events": [(event.id, event.to_row()) for _, event in store.events()],
        "follows": sorted(store.follows()),
        "links": store.links(),
        "found": [score for _, score in store.search("spinnaker rudder 钟表", 50)],
    }


# ---- making a home


def make_home(log: str, home: str) -> None:
    confirm(log, "begin")
    Store(Path(home)).close()


def test_killed_while_a_home_is_made(killable: Killable, tmp_path: Path) -> None:
    longest = killable.whole(make_home, str(tmp_path / "home"))
    for number, moment in enumerate(moments(longest)):
        home = tmp_path / f"home-{number}"
        killable.kill(moment, make_home, str(home))
        store = check(home)
        store.append(Event("", "u", "p", "like", NOW))
        store.close()


# ---- import


def import_world(log: str, home: str, folder: str) -> None:
    store = Store(Path(home))
    confirm(log, "begin")
    import_folder(store, Path(folder))
    confirm(log, "imported")
    store.close()


def test_killed_while_importing(killable: Killable, tmp_path: Path, exchange_folder: Path) -> None:
    folder = make_world().write(tmp_path / "in")
    with (folder / "posts.jsonl").open("a") as file:
        file.write('{"id": "bad", "kind": "spaceship"}\n')
    longest = killable.whole(import_world, str(tmp_path / "home"), str(folder))
    undisturbed = check(tmp_path / "home")
    wanted = rows(undisturbed)
    undisturbed.close()
    outcomes = set()
    for number, moment in enumerate(moments(longest)):
        home = tmp_path / f"home-{number}"
        confirmed = killable.kill(moment, import_world, str(home), str(folder))
        store = check(home)
        there = rows(store)
        assert there == wanted or not any(there.values())
        if confirmed == ["imported"]:
            assert there == wanted
        outcomes.add(bool(there["posts"]))
        import_folder(store, folder)
        assert rows(store) == wanted
        assert store.search("spaceship", 5) == []
        store.close()
    assert False in outcomes


# ---- indexing


class Slow:
    """An embedder that takes its time, as real ones do."""

    name, dimension = EMBEDDER, 64

    def encode(self, texts: Sequence[str]) -> Vectors:
        time.sleep(0.03)
        return HashEmbedder(64).encode(texts)


def index_home(log: str, home: str) -> None:
    store = Store(Path(home))
    confirm(log, "begin")
    Community.load(
        store, Slow(), progress=lambda what, done, _: confirm(log, f"{done}") if what == "reading posts" else None
    )
    confirm(log, "built")
    store.close()


def make_large(home: Path) -> Store:
    store = Store(home)
    store.put_posts(Post(f"p{number}", title=f"word{number % 97} word{number % 89}") for number in range(POSTS))
    store.put_events(
        Event(f"i{number}", f"u{number % 20}", f"p{number * 7 % POSTS}", "like", NOW) for number in range(400)
    )
    return store


def test_killed_while_indexing(killable: Killable, tmp_path: Path) -> None:
    make_large(tmp_path / "home").close()
    longest = killable.whole(index_home, str(tmp_path / "home"))
    undisturbed = check(tmp_path / "home")
    wanted = arrays(Community.load(undisturbed, HashEmbedder(64)))
    undisturbed.close()
    outcomes = set()
    for number, moment in enumerate(moments(longest)):
        home = tmp_path / f"home-{number}"
        make_large(home).close()
        confirmed = killable.kill(moment, index_home, str(home))
        store = check(home)
        kept = len(store.vectors(EMBEDDER, 64)[0])
        batches = [int(line) for line in confirmed if line.isdigit()]
        assert kept >= max(batches, default=0)
        assert kept in (0, 256, 512, POSTS)
        outcomes.add(kept)
        index = PostIndex.load(home / "index.faiss", 64, EMBEDDER)
        assert index is None or len(index) == POSTS
        assert arrays(Community.load(store, HashEmbedder(64))) == wanted
        store.close()
        assert {path.name for path in home.iterdir() if not path.name.startswith(".")} >= {"index.faiss", "index.json"}
    assert len(outcomes) > 1


# ---- the ledger


def append_events(log: str, home: str) -> None:
    store = Store(Path(home))
    confirm(log, "begin")
    for number in range(100_000):
        confirm(log, store.append(Event("", "u1", f"p{number}", "like", NOW)).id)


def test_killed_while_events_are_written(killable: Killable, home: Path) -> None:
    confirmed: list[str] = []
    for moment in moments(0.2):
        confirmed += killable.kill(moment, append_events, str(home))
        store = check(home)
        ids = [event.id for _, event in store.events(user="u1")]
        assert set(confirmed) <= set(ids)
        assert len(ids) == len(set(ids))
        store.close()
    assert len(confirmed) == len(set(confirmed)) > 10


def talk(log: str, home: str) -> None:
    from whyfeed.agent.agent import Agent
    from whyfeed.agent.settings import Settings

    with Agent(Settings(home=Path(home), embedder=EMBEDDER, no_llm=True), clock=lambda: NOW) as agent:
        posts = [post.id for post in agent.store.all_posts()]
        confirm(log, "begin")
        conversation = None
        for number in range(100_000):
            kind = ("like", "hide", "save")[number % 3]
            confirm(log, agent.feedback("u1", posts[number % len(posts)], kind).id)
            for event in agent.chat(
                "u1", ("what should I read?", "less rudder", "why the first one?")[number % 3], conversation
            ):
                if isinstance(event, Answer):
                    conversation = event.conversation
                    confirm(log, f"said {conversation} {number}")


def test_killed_while_talking(killable: Killable, home: Path) -> None:
    from whyfeed.agent.agent import Agent
    from whyfeed.agent.settings import Settings

    confirmed: list[str] = []
    for moment in moments(1.0):
        lines = killable.kill(moment, talk, str(home))
        store = check(home)
        confirmed += [line for line in lines if not line.startswith("said")]
        assert set(confirmed) <= {event.id for _, event in store.events(user="u1")}
        said = [line.split()[1] for line in lines if line.startswith("said")]
        store.close()
        with Agent(Settings(home=home, embedder=EMBEDDER, no_llm=True), clock=lambda: NOW) as agent:
            for conversation in set(said):
                answers = [turn for turn in agent.turns(conversation) if turn.role == "agent"]
                assert len(answers) >= said.count(conversation)
                assert all(turn.text for turn in answers)
            assert agent.recommend("u1").items
    assert confirmed
