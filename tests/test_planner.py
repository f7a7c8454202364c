"""A model that calls tools plans the turn; code does it. The conversations of `test_chat` run over it too."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, ToolMessage

from tests.conftest import EMBEDDER
from tests.test_chat import Talk, posts
from tests.tool_caller import Call, ToolCaller
from tests.world import NOW, World
from whyfeed import Agent
from whyfeed.agent.answer import Answer
from whyfeed.agent.chat.exam import SENTENCES, Exam, examine
from whyfeed.agent.chat.planner import Planner
from whyfeed.agent.chat.tools import TURNS, request_of
from whyfeed.agent.settings import Settings
from whyfeed.agent.understanding.references import Context
from whyfeed.retrieval.errors import UnknownUser

SHOWN = Context(("a", "b", "c"), {"a": "First", "b": "Second", "c": "Third"})


@pytest.fixture
def talking(home: Path, world: World) -> Iterator[Callable[..., Talk]]:
    opened: list[Agent] = []

    def talk(model: ToolCaller, chat: str = "agent") -> Talk:
        agent = Agent(Settings(home=home, embedder=EMBEDDER, no_llm=True, chat=chat), clock=lambda: NOW)
        agent.models.put_tool_caller(model)
        opened.append(agent)
        return Talk(agent, next(user for user, tastes in world.tastes.items() if tastes == ("gardening",)))

    yield talk
    for agent in opened:
        agent.close()


def once(*calls: Call, then: str = "Done.") -> ToolCaller:
    """Calls these once in each turn, whatever is said."""

    def script(messages: Sequence[BaseMessage]) -> list[Call] | str:
        return then if isinstance(messages[-1], ToolMessage) else list(calls)

    return ToolCaller(script=script)


def heard(model: ToolCaller) -> str:
    return "\n".join(str(message.content) for message in model.heard[-1])


# ---- what calls become


def test_numbers_become_posts_and_words_stay_the_readers_own() -> None:
    assert request_of("rate", {"posts": [2], "verdict": "hide"}, "not the second", SHOWN, "en").posts == ("b",)
    less = request_of("steer", {"less": ["Tax law"]}, "less tax law please", SHOWN, "en")
    assert (less.intent, less.exclude, less.horizon, less.by) == ("less_like", ("Tax law",), "always", "agent")
    once_only = request_of("recommend", {"without": ["beer"]}, "no beer this time", SHOWN, "en")
    assert (once_only.exclude, once_only.horizon) == (("beer",), "now")


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("delete_all", {}, "no tool 'delete_all'"),
        ("rate", {"posts": [4], "verdict": "hide"}, "no post number 4; the last list has 3"),
        ("rate", {"posts": ["b"], "verdict": "hide"}, "valid integer"),
        ("rate", {"posts": [1], "verdict": "love"}, "verdict"),
        ("steer", {}, "name a topic"),
        ("steer", {"less": ["gardening"]}, "did not say 'gardening'"),
        ("forget", {"topic": "everything"}, "did not say 'everything'"),
        ("recommend", {"user": "u2"}, "Extra inputs"),
    ],
)
def test_what_a_model_makes_up_is_one_line_for_it(name: str, arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        request_of(name, arguments, "show me something", SHOWN, "en")
    assert "\n" not in str(caught.value)


# ---- turns


def test_two_things_in_one_message_are_done_in_their_order(talking: Callable[..., Talk]) -> None:
    model = once(("rate", {"posts": [2], "verdict": "hide"}), ("recommend", {"about": "pendulum"}))
    talk = talking(model, "plan")
    first = talk.say("What should I read?")
    both = talking(model)
    both.id = talk.id
    answer = both.say("not the second one, and then something about pendulum")
    assert answer.request.intent == "search"
    assert posts(first)[1] not in posts(answer)
    assert both.agent.events(both.user)[0].kind == "hide"


def test_a_mistake_is_told_to_the_model_which_may_try_again(talking: Callable[..., Talk]) -> None:
    def script(messages: Sequence[BaseMessage]) -> list[Call] | str:
        if not isinstance(messages[-1], ToolMessage):
            return [("rate", {"posts": [9], "verdict": "hide"})]
        return [("recommend", {})] if "no post number 9" in str(messages[-1].content) else "Done."

    model = ToolCaller(script=script)
    assert len(talking(model).say("What should I read?").items) == 5


def test_a_post_cannot_make_the_model_forget_or_steer(talking: Callable[..., Talk]) -> None:
    """Whatever the model was talked into: topics that the reader did not say do nothing."""
    talk = talking(once(("forget", {"topic": "gardening"}), ("steer", {"less": ["gardening"]})))
    before = talk.agent.events(talk.user, limit=1000)
    answer = talk.say("What should I read?")
    assert talk.agent.events(talk.user, limit=1000) == before
    assert answer.items  # nothing was done, so the plan answered
    assert answer.request.by != "agent"


def test_small_talk_is_the_models_own_words_and_is_short(talking: Callable[..., Talk]) -> None:
    answer = talking(ToolCaller(script=lambda _: "You are welcome! " * 100)).say("thanks")
    assert answer.text.startswith("You are welcome!")
    assert len(answer.text) <= 300
    assert not answer.items


@pytest.mark.parametrize("trouble", [ConnectionError("gone"), ValueError("odd")])
def test_a_model_that_fails_leaves_the_turn_to_the_plan_and_the_trace_says_so(
    talking: Callable[..., Talk], trouble: Exception
) -> None:
    def script(_: object) -> str:
        raise trouble

    answer = talking(ToolCaller(script=script)).say("What should I read?")
    assert len(answer.items) == 5
    stage = answer.to_chat_json()["trace"]["stages"][0]
    assert stage["name"] == "understand"
    assert (stage["status"], stage["detail"]) == ("fallback", f"the agent failed: {trouble}")


def test_a_model_that_calls_in_circles_ends(talking: Callable[..., Talk]) -> None:
    calls = 0

    def script(_: object) -> list[Call]:
        nonlocal calls
        calls += 1
        return [("profile", {})]

    assert talking(ToolCaller(script=script)).say("What do you know about me?").text
    assert calls < 10


def test_who_stops_does_not_wait_for_a_model_that_is_silent(talking: Callable[..., Talk]) -> None:
    asked, over, spoke = threading.Event(), threading.Event(), threading.Event()

    def script(_: object) -> str:
        asked.set()
        over.wait(60)
        spoke.set()
        return "late"

    talk, cancel = talking(ToolCaller(script=script)), threading.Event()
    threading.Thread(target=lambda: asked.wait(60) and cancel.set(), daemon=True).start()
    try:
        *_, answer = talk.agent.chat(talk.user, "What should I read?", cancel=cancel)
        assert cancel.is_set()
        assert not spoke.is_set()
        assert isinstance(answer, Answer)
    finally:
        over.set()


def test_what_the_model_costs_is_counted(talking: Callable[..., Talk]) -> None:
    talk = talking(ToolCaller())
    talk.say("What should I read?")
    count = talk.agent.models.usage.of("planner")
    assert (count.calls, count.prompt_tokens, count.tokens) == (2, 20, 4)


def test_the_trace_says_who_planned(talking: Callable[..., Talk]) -> None:
    stage = talking(ToolCaller()).say("What should I read?").to_chat_json()["trace"]["stages"][0]
    assert (stage["name"], stage["status"], stage["note"]) == ("understand", "ok", "agent")


def test_who_leaves_in_the_middle_loses_nothing(talking: Callable[..., Talk]) -> None:
    talk = talking(ToolCaller())
    events = talk.agent.chat(talk.user, "What should I read?")
    next(events)
    next(events)
    events.close()
    end = time.monotonic() + 10
    while len(conversations := talk.agent.conversations(talk.user)) == 0:
        assert time.monotonic() < end
    assert talk.agent.turns(conversations[0][0])[0].text == "What should I read?"


# ---- what is kept


def kept(home: Path) -> bytes:
    with sqlite3.connect(home / "agent.db") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return (home / "agent.db").read_bytes()


def test_the_model_hears_what_was_said_before_also_after_a_restart(talking: Callable[..., Talk]) -> None:
    model = ToolCaller()
    first = talking(model)
    first.say("something about pendulum")
    again = talking(model)
    again.id = first.id
    again.say("less tomato")
    assert "something about pendulum" in heard(model)
    assert len(model.heard[-1]) == 8  # its rules; words, call, answer, words of one turn; words, call, answer so far


def test_of_a_conversation_the_latest_state_is_kept_and_its_end_is_heard(
    talking: Callable[..., Talk], home: Path
) -> None:
    model = ToolCaller()
    talk = talking(model)
    for _ in range(12):
        talk.say("what do you know about me?")
    assert len(model.heard[-1]) <= 25
    with sqlite3.connect(home / "agent.db") as db:
        assert db.execute("SELECT count(*) FROM checkpoints").fetchone() == (1,)


def test_forgetting_and_erasing_leave_nothing_of_what_was_said(talking: Callable[..., Talk], home: Path) -> None:
    talk = talking(ToolCaller())
    talk.say("something about zanzibar pendulum")
    assert b"zanzibar" in kept(home)
    assert talk.user.encode() not in kept(home)
    talk.agent.forget(talk.user, talk.agent.events(talk.user)[0].id)
    assert b"zanzibar" not in kept(home)
    talk.say("something about zanzibar pendulum")
    talk.agent.erase(talk.user)
    assert b"zanzibar" not in kept(home)


def test_a_turn_of_somebody_who_is_erased_meanwhile_keeps_no_state(talking: Callable[..., Talk], home: Path) -> None:
    def script(messages: Sequence[BaseMessage]) -> list[Call] | str:
        if not isinstance(messages[-1], ToolMessage):
            return [("profile", {})]
        talk.agent.erase(talk.user)
        return "Done."

    talk = talking(ToolCaller(script=script))
    list(talk.agent.chat(talk.user, "zanzibar"))
    with pytest.raises(UnknownUser):
        talk.agent.user(talk.user)
    with sqlite3.connect(home / "agent.db") as db:
        for table in ("checkpoints", "writes"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert b"zanzibar" not in kept(home)


def test_what_is_forgotten_in_words_is_not_heard_again(talking: Callable[..., Talk], home: Path) -> None:
    talk = talking(ToolCaller())
    talk.say("more zanzibar")
    talk.say("forget everything about zanzibar")
    assert b"zanzibar" not in kept(home)


# ---- who plans


def test_the_exam_tells_good_callers_from_bad_ones(tmp_path: Path) -> None:
    assert (examine(Planner(ToolCaller(), tmp_path)) or 0) >= 0.75
    assert (examine(Planner(ToolCaller(script=lambda _: "Sure!"), tmp_path)) or 0) < 0.2
    assert {wanted["intent"] for _, wanted in SENTENCES if wanted} <= {
        "recommend", "search", "more_like", "less_like", "hide", "why", "compare", "summarise", "undo", "forget",
        "profile", "people",
    }  # fmt: skip


def test_a_model_is_examined_once_and_the_mark_is_kept(tmp_path: Path) -> None:
    model = ToolCaller(script=lambda _: "Sure!")
    agent = Planner(model, tmp_path)
    exam = Exam(tmp_path / "exam.json")
    assert not exam.passed(agent)
    end = time.monotonic() + 20
    while not (tmp_path / "exam.json").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    asked = len(model.heard)
    assert not Exam(tmp_path / "exam.json").passed(agent)
    time.sleep(0.1)
    assert len(model.heard) == asked
    (tmp_path / "exam.json").write_text(json.dumps({"tool-caller": 0.95}))
    assert Exam(tmp_path / "exam.json").passed(agent)
    (tmp_path / "exam.json").write_text("{garbage")
    assert not Exam(tmp_path / "exam.json").passed(agent)


def test_until_a_model_has_passed_the_plan_answers(talking: Callable[..., Talk], home: Path) -> None:
    (home / "tool-exam.json").write_text(json.dumps({"tool-caller": 0.5}))
    assert talking(ToolCaller(), "auto").say("What should I read?").request.by != "agent"
    (home / "tool-exam.json").write_text(json.dumps({"tool-caller": 0.95}))
    assert talking(ToolCaller(), "auto").say("What should I read?").request.by == "agent"


def test_each_tool_says_what_it_does() -> None:
    for arguments, description in TURNS.values():
        assert description.endswith(".")
        assert arguments.model_json_schema()["type"] == "object"


def test_two_readers_at_once_never_hear_each_other(talking: Callable[..., Talk], world: World) -> None:
    model = ToolCaller()
    agent = talking(model).agent
    users = list(world.tastes)[:4]
    answers: dict[str, Answer] = {}

    def chat(user: str) -> None:
        *_, last = agent.chat(user, f"something about pendulum {user}")
        assert isinstance(last, Answer)
        answers[user] = last

    threads = [threading.Thread(target=chat, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.user for answer in answers.values()} == set(users)
    for messages in model.heard:
        said = " ".join(str(message.content) for message in messages[1:])
        assert sum(user in said.split() for user in users) <= 1
