"""A server that is down keeps nobody waiting: others serve meanwhile, and it is taken back when it is there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EMBEDDER
from tests.llm_server import FakeServer, running
from tests.test_vllm import put
from tests.world import NOW
from whyfeed import Agent
from whyfeed.agent.answer import Answer
from whyfeed.agent.llm.circuit_breaker import CircuitBreaker
from whyfeed.agent.llm.engine import ChatRequest, JudgeRequest
from whyfeed.agent.llm.openai_server import OpenAIEngine
from whyfeed.agent.llm.roles import Models
from whyfeed.agent.registry import Registry
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.errors import ModelError, UnreachableError

HELLO = [{"role": "user", "content": "Say something."}]
SENTENCE = "This post explains how it is done, step by step."


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running(FakeServer(answer=SENTENCE)) as fake:
        yield fake


def guarded(server: FakeServer, **options: Any) -> CircuitBreaker:
    return CircuitBreaker(OpenAIEngine(server.url, "small", retries=0, timeout=5), **{"pause": 0.05, **options})


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- the circuit breaker


def test_after_some_failures_in_a_row_the_server_is_not_asked_any_more(server: FakeServer) -> None:
    engine = guarded(server, failures=3, pause=60)
    server.status, server.failures = 500, 100
    for _ in range(5):
        with pytest.raises(UnreachableError):
            engine.complete(ChatRequest(HELLO, max_tokens=5))
    assert len(server.asked("/v1/chat/completions")) == 3
    assert "HTTP 500" in engine.down
    for work in (
        lambda: list(engine.stream(ChatRequest(HELLO, max_tokens=5))),
        lambda: engine.judge(JudgeRequest("a", ["b"])),
        lambda: engine.warm("a"),
    ):
        with pytest.raises(UnreachableError, match="when it is back"):
            work()
    assert len(server.requests) == 3
    engine.close()


def test_it_is_taken_back_by_itself_as_soon_as_it_answers(server: FakeServer) -> None:
    engine = guarded(server, failures=1)
    server.status, server.failures = 503, 5
    with pytest.raises(UnreachableError):
        engine.complete(ChatRequest(HELLO, max_tokens=5))
    assert engine.down
    until(lambda: not engine.down)
    assert server.failures == 0
    assert engine.complete(ChatRequest(HELLO, max_tokens=20)).text == SENTENCE
    engine.close()


def test_a_server_that_comes_later_is_known_by_its_model(server: FakeServer) -> None:
    engine = CircuitBreaker(OpenAIEngine(server.url, retries=0), pause=0.05)
    server.status, server.failures = 503, 4
    assert engine.probe() == []
    assert engine.down
    until(lambda: not engine.down)
    assert engine.name == "small"
    engine.close()


def test_failures_count_in_a_row_and_refusals_do_not_count(server: FakeServer) -> None:
    engine = guarded(server, failures=2, pause=60)
    server.status = 500
    for _ in range(3):
        server.failures = 1
        with pytest.raises(UnreachableError):
            engine.complete(ChatRequest(HELLO, max_tokens=5))
        engine.complete(ChatRequest(HELLO, max_tokens=5))
    server.status, server.failures = 422, 5
    for _ in range(5):
        with pytest.raises(ModelError, match="refuses"):
            engine.complete(ChatRequest(HELLO, max_tokens=5))
    assert not engine.down
    engine.close()


def test_calls_that_do_not_fit_wait_here_and_can_be_left(server: FakeServer) -> None:
    server.seconds_before = 0.4
    engine = OpenAIEngine(server.url, "small", in_flight=1, most=1)
    first = threading.Thread(target=lambda: engine.complete(ChatRequest(HELLO, max_tokens=5)))
    first.start()
    until(lambda: bool(server.requests))
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(ModelError, match="stopped"):
        engine.complete(ChatRequest(HELLO, max_tokens=5, cancel=cancel))
    assert engine.complete(ChatRequest(HELLO, max_tokens=5)).text
    first.join()
    assert len(server.asked("/v1/chat/completions")) == 2
    engine.close()


# ---- roles: the server, what serves instead, and the home's own judge


@pytest.fixture
def models(server: FakeServer, tmp_path: Path) -> Iterator[Models]:
    opened = Models(Settings(home=tmp_path, llm_url=server.url, llm_timeout=5.0))
    yield opened
    opened.close()


def test_a_server_that_is_not_there_from_the_first_is_a_fallback_with_its_cause(tmp_path: Path) -> None:
    models = Models(Settings(home=tmp_path, llm_url="http://127.0.0.1:9"))
    assert models.writer() is None  # and no weights in this process
    state = models.status()["writer"]
    assert state["state"] == "fallback"
    assert "no server answers at 'http://127.0.0.1:9/v1'" in state["why"]
    assert models.describe("writer").startswith("fallback (")
    models.close()


def test_an_embedded_engine_serves_while_the_server_is_down(server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    models = Models(Settings(home=tmp_path, llm_url=server.url, writer=str(tmp_path / "mine.gguf")))
    writer = models.writer()
    assert writer is not None
    assert writer.name == "small"
    server.status, server.failures = 500, 20
    for _ in range(3):
        with pytest.raises(UnreachableError):
            writer.complete(ChatRequest(HELLO, max_tokens=5))
    instead = models.writer()
    assert instead is not None
    assert instead.name == "mine"
    assert "mine.gguf serves instead" in models.describe("writer")
    server.failures = 0
    until(lambda: (models.writer() or instead).name == "small")
    assert models.describe("writer") == "ready"
    models.close()


def test_the_homes_judge_is_asked_by_its_name_where_the_server_has_it(
    models: Models, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whyfeed.agent.llm.roles._CHECK_AGAIN", 0.0)
    ranker = models.ranker()
    assert ranker is not None
    assert (ranker.name, models.calibration()) == ("small", (1.0, 0.0))
    registry = Registry(tmp_path)
    name = put(registry, tmp_path / "1")
    folder = registry.live("judge")
    assert folder is not None
    card = {**json.loads((folder / "card.json").read_bytes()), "calibration": {"slope": 2.0, "intercept": 0.5}}
    (folder / "card.json").write_text(json.dumps(card))
    ranker = models.ranker()
    assert ranker is not None
    assert (ranker.name, models.calibration()) == ("small", (1.0, 0.0))  # not there yet: the base, as it is
    server.adapters[name] = str(folder)
    ranker = models.ranker()
    assert ranker is not None
    assert (ranker.name, models.calibration()) == (name, (2.0, 0.5))
    ranker.judge(JudgeRequest("a", ["b"]))
    assert server.asked("/generative_scoring")[-1]["model"] == name
    writer = models.writer()
    assert writer is not None
    assert writer.name == "small"


# ---- what a reader sees


def last(agent: Agent, user: str, text: str) -> Answer:
    *_, answer = agent.chat(user, text)
    assert isinstance(answer, Answer)
    return answer


def stages(answer: Answer) -> dict[str, tuple[str, str]]:
    """Status and detail of each stage."""
    found = answer.to_chat_json()["trace"]["stages"]
    return {stage["name"]: (stage["status"], stage.get("detail", "")) for stage in found}


def test_a_server_that_dies_in_the_middle_leaves_quotes_and_says_so(server: FakeServer, home: Path) -> None:
    settings = Settings(home=home, embedder=EMBEDDER, llm_url=server.url)
    with Agent(settings, clock=lambda: NOW) as agent:
        user = agent.members(limit=1)[0].id
        server.break_off_after = 2
        answer = last(agent, user, "What should I read?")
        assert len(answer.items) == 5
        assert {item.reason.source for item in answer.items} <= {"extract", "template"}
        assert stages(answer)["write"][0] == "fallback"
        server.break_off_after = 0
        until(lambda: agent.models.describe("writer") == "ready")
        again = last(agent, user, "What should I read?")
        assert {status for status, _ in stages(again).values()} == {"ok"}
        asked = [turn for turn in agent.turns(answer.conversation) if turn.role == "agent"]
        assert len(asked) == 1


def test_an_answer_does_not_wait_longer_than_it_may(server: FakeServer, home: Path) -> None:
    server.seconds_per_chunk = 0.3
    settings = Settings(home=home, embedder=EMBEDDER, llm_url=server.url, write_seconds=0.5)
    with Agent(settings, clock=lambda: NOW) as agent:
        user = agent.members(limit=1)[0].id
        begun = time.monotonic()
        answer = last(agent, user, "What should I read?")
        assert time.monotonic() - begun < 5
        status, detail = stages(answer)["write"]
        assert status == "fallback"
        assert detail.endswith("quoted, time was up")
        assert all(item.reason.text for item in answer.items)
