"""One writer for many readers: what a replica reads itself, and what another process writes for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import EMBEDDER, ROOT
from tests.world import NOW
from whyfeed import Agent
from whyfeed.agent.answer import Answer
from whyfeed.agent.settings import Settings
from whyfeed.agent.single_writer import Writer
from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.store.store import Store

USER = "u0"


class Wire:
    """What a replica sends, carried out by a writer over the same home."""

    def __init__(self, home: Path) -> None:
        self.store = Store(home)
        self.sent: list[str] = []
        self._writer = Writer(self.store)

    def __call__(self, part: str, method: str, arguments: tuple[Any, ...]) -> Any:
        self.sent.append(f"{part}.{method}")
        return self._writer.write(part, method, arguments)


@pytest.fixture
def wire(home: Path) -> Iterator[Wire]:
    made = Wire(home)
    yield made
    made.store.close()


@pytest.fixture
def replica(home: Path, wire: Wire) -> Iterator[Agent]:
    with Agent(Settings(home=home, embedder=EMBEDDER, no_llm=True), lambda: NOW, wire) as agent:
        yield agent


def test_a_replica_does_what_an_agent_does_and_has_everything_written_elsewhere(replica: Agent, wire: Wire) -> None:
    first = replica.recommend(USER)
    event = replica.feedback(USER, first.items[0].post.id, "hide")
    assert wire.sent == ["Conversations.remember", "Store.append"]
    assert event in [found for _, found in wire.store.events(user=USER)]
    assert first.items[0].post.id not in [item.post.id for item in replica.recommend(USER).items]
    replica.forget(USER, event.id)
    assert "Store.forget" in wire.sent
    assert [item.post.id for item in replica.recommend(USER).items] == [item.post.id for item in first.items]


def test_a_conversation_with_a_replica_is_kept(replica: Agent, wire: Wire) -> None:
    *_, answer = replica.chat(USER, "What should I read?")
    assert isinstance(answer, Answer)
    *_, later = replica.chat(USER, "why the second one?", answer.conversation)
    assert isinstance(later, Answer)
    assert later.request.posts == (answer.items[1].post.id,)
    assert [turn.role for turn in replica.turns(answer.conversation)] == ["user", "agent"] * 2
    assert {"Conversations.start", "Conversations.add"} <= set(wire.sent)


def test_the_errors_of_the_writer_are_those_of_the_replica(replica: Agent) -> None:
    with pytest.raises(DataError, match="unknown user"):
        replica.feedback("nobody", "clocks-1", "like")


def test_only_what_requests_write_can_be_sent(wire: Wire) -> None:
    for part, method in (("Store", "put_posts"), ("Store", "close"), ("Nothing", "append"), ("Store", "__init__")):
        with pytest.raises(ValueError, match="not for others"):
            wire(part, method, ())


# ---- on Ray Serve


@contextmanager
def served(home: Path, errors: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [
        sys.executable,
        "-m",
        "whyfeed",
        "serve",
        "--ray",
        "--replicas",
        "2",
        "--no-llm",
        "--port",
        "8931",
    ]
    environment = {
        **os.environ, "WHYFEED_HOME": str(home), "WHYFEED_EMBEDDER": EMBEDDER, "WHYFEED_API_KEY": "the key",
    }  # fmt: skip
    with errors.open("w") as told:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=told, text=True, start_new_session=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("whyfeed serves: "), errors.read_text()
        yield line.split()[-1], process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.slow
def test_replicas_on_ray_serve_share_one_ledger_that_outlives_its_writer(home: Path, tmp_path: Path) -> None:
    with served(home, tmp_path / "errors") as (url, process), httpx.Client(base_url=url, timeout=60) as client:
        client.headers["authorization"] = "Bearer the key"

        def ask(path: str, **body: Any) -> httpx.Response:
            for _ in range(60):
                answer = client.post(path, json=body)
                if answer.status_code != 503:
                    return answer
                time.sleep(0.5)
            return answer

        assert client.post("/v1/recommend", json={"user": USER}, headers={"authorization": "no"}).status_code == 401
        posts = [item["post"]["id"] for item in ask("/v1/recommend", user=USER, k=4).json()["items"]]
        assert len(posts) == 4
        hidden = ask("/v1/feedback", user=USER, post=posts[0], kind="hide").json()["id"]
        for _ in range(8):  # whichever replica answers
            listed = [item["post"]["id"] for item in ask("/v1/recommend", user=USER, k=4).json()["items"]]
            assert posts[0] not in listed
        chat = client.post("/v1/chat", json={"user": USER, "text": "more like the first one"})
        assert "event: answer" in chat.text

        for path in Path("/proc").glob("[0-9]*/cmdline"):
            if path.read_bytes().startswith(b"ray::_Ledger"):
                os.kill(int(path.parent.name), signal.SIGKILL)
                break
        else:
            pytest.fail("there is no process that writes the ledger")
        liked = ask("/v1/feedback", user=USER, post=posts[1], kind="like").json()["id"]
        events = [event["id"] for event in ask("/v1/events", user=USER).json()["events"]]
        assert {hidden, liked} <= set(events)
        assert len(events) == len(set(events))
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "Traceback" not in (tmp_path / "errors").read_text()
