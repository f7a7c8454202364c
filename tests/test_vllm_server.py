"""A real vLLM on the CPU keeps the promises that the rest of the tests make for it: `make test-vllm`."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import EMBEDDER
from tests.vllm_world import LINES, PATIENCE, WITH_VLLM, VllmServer, add_judge, shown
from whyfeed import Agent
from whyfeed.agent.answer import Answer
from whyfeed.agent.llm.engine import ChatRequest, JudgeRequest
from whyfeed.agent.llm.llamacpp import EmbeddedEngine
from whyfeed.agent.llm.openai_server import OpenAIEngine
from whyfeed.agent.llm.roles import Models
from whyfeed.agent.llm.vllm_adapters import adapter_name
from whyfeed.agent.llm.vllm_server import healthy
from whyfeed.agent.llm.weights import check, find
from whyfeed.agent.recommend.judge import around
from whyfeed.agent.registry import Registry
from whyfeed.agent.settings import Settings
from whyfeed.finetune.llm.judge import TunedJudge
from whyfeed.retrieval.errors import ModelError

pytestmark = [
    *WITH_VLLM,
    # peft asks transformers by a name that transformers is about to drop.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
CHATS = 20


@pytest.fixture
def server(vllm_server: VllmServer) -> VllmServer:
    return vllm_server


@pytest.fixture
def home(vllm_server: VllmServer) -> Path:
    return vllm_server.home


def judged(engine: OpenAIEngine | EmbeddedEngine, readers: int) -> np.ndarray:
    """P(yes) of every line for some readers."""
    found = []
    for reader in shown(readers):
        before, after = around(reader.history)
        found += engine.judge(JudgeRequest(before, [line + after for line in reader.posts]))
    return np.array(found)


# ---- the same numbers whoever computes them


def test_the_base_judges_as_the_embedded_engine_and_transformers_do(server: VllmServer) -> None:
    import torch

    from whyfeed.finetune import training
    from whyfeed.finetune.llm.judge import Prompts, yes_minus_no

    served = judged(OpenAIEngine(server.url), 8)
    embedded = EmbeddedEngine(check(find("ranker")), threads=1, n_ctx=2048)
    here = judged(embedded, 8)
    embedded.close()
    tokenizer, model = training.load(*training.base_files("smollm2-135m-instruct-f16"))
    prompts = Prompts(tokenizer)
    with torch.no_grad():
        logits = torch.cat([yes_minus_no(model, prompts.pack(reader), prompts.labels) for reader in shown(8)])
    plain = torch.sigmoid(logits).numpy()
    assert np.abs(served - plain).max() < 1e-4  # both in float32
    assert np.abs(here - plain).max() < 0.01  # F16
    assert served.std() > 1e-3


def test_our_adapter_judges_as_its_merged_form_and_transformers_do(server: VllmServer, home: Path) -> None:
    folder = Registry(home).live("judge")
    assert folder is not None
    served = judged(OpenAIEngine(server.url, adapter_name(folder)), 8)
    (merged,) = folder.glob("*.gguf")
    embedded = EmbeddedEngine(merged, threads=1, n_ctx=2048)
    here = judged(embedded, 8)
    embedded.close()
    plain = 1 / (1 + np.exp(-TunedJudge(folder).logits(shown(8))))
    assert np.abs(served - plain).max() < 1e-4
    assert np.abs(here - plain).max() < 0.01
    assert np.abs(served - judged(OpenAIEngine(server.url), 8)).max() > 0.02  # the adapter was there


def test_the_scoring_route_and_log_probabilities_are_the_same_numbers(
    server: VllmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_route = judged(OpenAIEngine(server.url), 4)
    other = OpenAIEngine(server.url)
    monkeypatch.setattr(other, "_score", lambda ids: None)  # as a server without the route
    assert np.abs(judged(other, 4) - by_route).max() < 1e-5


def test_a_score_does_not_depend_on_its_company(server: VllmServer) -> None:
    engine = OpenAIEngine(server.url)
    before, after = around(("like: bread",))
    lines = [line + after for line in LINES]
    scores = engine.judge(JudgeRequest(before, lines))
    assert engine.judge(JudgeRequest(before, lines[::-1]))[::-1] == pytest.approx(scores, abs=1e-5)
    assert [engine.judge(JudgeRequest(before, [line]))[0] for line in lines] == pytest.approx(scores, abs=1e-5)


def test_the_readers_half_is_read_once(server: VllmServer) -> None:
    """What a reader did stands first: turned round, nothing could be shared."""
    engine = OpenAIEngine(server.url)
    before, after = around(tuple(f"like: number {n} of a long history about bread" for n in range(12)))
    asked, hit = (server.metric(f"vllm:prefix_cache_{name}_total") for name in ("queries", "hits"))
    engine.judge(JudgeRequest(before, [f"{line} {n}{after}" for line in LINES for n in range(4)]))
    asked, hit = (
        server.metric(f"vllm:prefix_cache_{name}_total") - was for name, was in (("queries", asked), ("hits", hit))
    )
    assert hit / asked > 0.7


def test_an_unknown_model_is_one_line(server: VllmServer) -> None:
    with pytest.raises(ModelError, match="no such model"):
        OpenAIEngine(server.url, "nope").complete(ChatRequest([{"role": "user", "content": "hi"}], max_tokens=5))


def test_who_leaves_stops_the_work(server: VllmServer) -> None:
    cancel = threading.Event()
    threading.Timer(1.0, cancel.set).start()
    with pytest.raises(ModelError, match="stopped"):
        OpenAIEngine(server.url).complete(
            ChatRequest([{"role": "user", "content": "Write a very long story."}], max_tokens=1500, cancel=cancel)
        )
    end = time.monotonic() + 10
    while server.metric("vllm:num_requests_running"):
        assert time.monotonic() < end, "vLLM still writes"
        time.sleep(0.2)


# ---- adapters of the registry


def test_a_new_judge_takes_the_place_of_the_old_one_while_the_server_runs(server: VllmServer, home: Path) -> None:
    models = Models(Settings(home=home, llm_url=server.url))
    ranker = models.ranker()
    assert ranker is not None
    assert ranker.name == "judge-v1"
    before = judged(OpenAIEngine(server.url, "judge-v1"), 2)
    folder = add_judge(home, seed=7)
    server.until(f"{adapter_name(folder)} is loaded")
    end = time.monotonic() + 20
    while (models.ranker() or ranker).name != adapter_name(folder):
        assert time.monotonic() < end
        time.sleep(0.5)
    after = judged(OpenAIEngine(server.url, adapter_name(folder)), 2)
    assert np.abs(after - before).max() > 1e-3
    assert set(OpenAIEngine(server.url).models()) == {"smollm2-135m-instruct-f16", adapter_name(folder)}
    models.close()


def test_what_vllm_refuses_is_not_sent_and_has_a_merged_form(server: VllmServer, home: Path) -> None:
    folder = add_judge(home, method="dora")
    server.until(f"{adapter_name(folder)} is not loaded: vLLM serves no DoRA; serve it merged")
    assert (folder / "merged" / "config.json").is_file()
    assert healthy(server.url)
    Registry(home).rollback("judge")
    live = Registry(home).live("judge")
    assert live is not None
    server.until(f"{adapter_name(live)} is loaded")


# ---- whyfeed over it


@pytest.fixture
def agent(server: VllmServer, home: Path) -> Iterator[Agent]:
    with Agent(Settings(home=home, embedder=EMBEDDER, llm_url=server.url, write_seconds=40.0)) as opened:
        yield opened


def test_a_chat_a_ranking_and_a_batch(agent: Agent, tmp_path: Path) -> None:
    user, other = (member.id for member in agent.members(limit=2))
    *_, answer = agent.chat(user, "What should I read?")
    assert isinstance(answer, Answer)
    assert len(answer.items) == 5
    trace = answer.to_chat_json()["trace"]
    assert trace["models"]["writer"] == "smollm2-135m-instruct-f16"
    assert "fallback" not in json.dumps(trace)
    ranked = agent.recommend(other, 5, llm_rank=True)
    assert ranked.to_json()["trace"]["models"]["judge"].startswith("judge-v")
    assert all(0 <= item.signals["llm"] <= 1 for item in ranked.items)
    report = agent.batch([user, other], tmp_path / "out.jsonl", k=2)
    assert report.done == 2
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def test_a_server_killed_in_the_middle_leaves_nobody_without_an_answer(
    server: VllmServer, home: Path, agent: Agent
) -> None:
    """Twenty people talk, the server is killed; everybody gets a list in time; when it is back, it is asked again."""
    users = [member.id for member in agent.members(limit=CHATS)]
    before = events(home)
    answers: dict[int, Answer] = {}
    took: dict[int, float] = {}

    def talk(place: int) -> None:
        begun = time.monotonic()
        *_, last = agent.chat(users[place % len(users)], f"Show me something about topic number {place}")
        assert isinstance(last, Answer)
        answers[place], took[place] = last, time.monotonic() - begun

    threads = [threading.Thread(target=talk, args=(place,)) for place in range(CHATS)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    os.killpg(server.group(), signal.SIGKILL)
    for thread in threads:
        thread.join(240)
    assert len(answers) == CHATS
    assert max(took.values()) < 120
    stages = [stage for answer in answers.values() for stage in answer.to_chat_json()["trace"]["stages"]]
    assert "fallback" in {stage["status"] for stage in stages}
    assert all(item.reason.text for answer in answers.values() for item in answer.items)
    assert events(home) == before  # talking adds none, and none is lost
    turns = [agent.turns(answer.conversation) for answer in answers.values()]
    assert all([turn.role for turn in each] == ["user", "agent"] for each in turns)

    server.until("the server died")
    end = time.monotonic() + PATIENCE
    while agent.models.describe("writer") != "ready" or not healthy(server.url):
        assert time.monotonic() < end, server.said
        time.sleep(1)
    *_, again = agent.chat(users[0], "What should I read?")
    assert isinstance(again, Answer)
    assert again.to_chat_json()["trace"]["models"]["writer"] == "smollm2-135m-instruct-f16"
    assert "fallback" not in {stage["status"] for stage in again.to_chat_json()["trace"]["stages"]}


def events(home: Path) -> list[tuple[object, ...]]:
    """The ledger."""
    with sqlite3.connect(home / "whyfeed.db") as db:
        return db.execute("SELECT * FROM events ORDER BY 1").fetchall()
