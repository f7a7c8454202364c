"""Ids that no user has: those of the service desk's events, what looks like them, and characters that no id has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EMBEDDER, RunCli
from tests.test_service import BODIES, Asking, path, serving
from tests.test_service import bearer as bearer_of
from whyfeed import Agent
from whyfeed.agent.operations import OPERATIONS
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.errors import DataError, ReservedUser
from whyfeed.retrieval.store.keys import Keys
from whyfeed.ui.page.session import Session

LOOKALIKES = (
    "desk:talk",
    "DESK:talk",
    " desk:talk",
    "desk：talk",
    "ｄｅｓｋ:talk",
    "d\u200besk:talk",
    "desk\u2060:talk",
    "desk\u034f:talk",
    "desk\ufe0f:talk",
    "desk\u3164:talk",
)
BROKEN = ("u0\x00", "u\x070", "\ud800", "u0\udfff")
OF_USERS = [name for name in BODIES if "user" in BODIES[name]]


@pytest.fixture
def agent(home: Path) -> Iterator[Agent]:
    """An agent over a home with a conversation at the desk, in which something was sent."""
    with Agent(Settings(home=home, embedder=EMBEDDER, no_llm=True)) as opened:
        opened.desk.store.start("en", "somebody", "talk")
        opened.desk.receive("talk", "Where is my parcel?")
        opened.desk.send("talk", "It is in Zanzibar")
        yield opened


@pytest.fixture
def client(agent: Agent) -> Iterator[Asking]:
    with serving(agent) as found:
        yield found


def sent(agent: Agent) -> list[str]:
    return [event.kind for _, event in agent.store.events(user="desk:talk")]


@pytest.mark.parametrize("operation", OF_USERS)
def test_no_key_reaches_what_was_sent_to_a_customer(client: Asking, agent: Agent, operation: str) -> None:
    scope = "feedback" if operation == "chat" else OPERATIONS[operation].scope
    secret = Keys(agent.store).add(f"for {operation}", [scope])
    event = agent.store.events(user="desk:talk")[0][1].id
    for user in LOOKALIKES:
        more = {"event": event} if operation == "forget" else {}
        answered = client.ask(operation, secret, user=user, **more)
        assert answered.status_code == 422, (user, answered.text)
        assert "service desk's own" in answered.json()["error"]
        assert "\n" not in answered.json()["error"]
        assert "Zanzibar" not in answered.text
    assert sent(agent) == ["send"]


@pytest.mark.parametrize("operation", OF_USERS)
def test_characters_that_no_id_has_are_named(client: Asking, operation: str) -> None:
    for user in BROKEN:
        body = json.dumps({**BODIES[operation], "user": user})
        headers = {**bearer_of("the operator's own"), "Content-Type": "application/json"}
        answered = client.post(path(operation), content=body, headers=headers)
        assert answered.status_code == 422
        assert "control character or a lone surrogate" in answered.json()["error"]


def test_a_batch_job_takes_no_such_id(client: Asking) -> None:
    for user, why in (("desk:talk", "service desk's own"), ("u0\x00", "control character")):
        body = {"users": ["u1", user], "k": 1, "llm": False, "format": "jsonl"}
        answered = client.post("/v1/batch", json=body, headers=bearer_of("the operator's own"))
        assert answered.status_code == 422
        assert why in answered.json()["error"]


READERS: dict[str, Callable[[Agent, str], Any]] = {
    "recommend": lambda agent, user: agent.recommend(user),
    "chat": lambda agent, user: list(agent.chat(user, "What should I read?")),
    "why": lambda agent, user: agent.why(user, "clocks-1"),
    "why_not": lambda agent, user: agent.why_not(user, "clocks-1"),
    "profile": lambda agent, user: agent.profile(user),
    "events": lambda agent, user: agent.events(user),
    "feedback": lambda agent, user: agent.feedback(user, "clocks-1", "like"),
    "steer": lambda agent, user: agent.steer(user, "tomato", "less"),
    "set_rule": lambda agent, user: agent.set_rule(user, "e1", False),
    "forget": lambda agent, user: agent.forget(user, agent.store.events(user="desk:talk")[0][1].id),
    "export": lambda agent, user: agent.export(user),
    "erase": lambda agent, user: agent.erase(user),
    "user": lambda agent, user: agent.user(user),
}


@pytest.mark.parametrize("name", READERS)
def test_no_method_takes_the_desk_for_a_reader(agent: Agent, name: str) -> None:
    for user in LOOKALIKES:
        with pytest.raises(ReservedUser, match="service desk's own"):
            READERS[name](agent, user)
    with pytest.raises(DataError) as told:
        READERS[name](agent, "\ud800")
    assert "codec" not in str(told.value)
    assert sent(agent) == ["send"]


def test_a_batch_makes_no_list_for_the_desk(agent: Agent, out: Path) -> None:
    report = agent.batch(["desk:talk", "u1"], out, 1, write=False)
    assert report.skipped == {"unknown user": ["desk:talk"]}


def test_no_row_of_an_import_is_the_desks(agent: Agent, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    rows: dict[str, list[dict[str, Any]]] = {
        "users": [{"id": "desk:talk", "name": "Somebody"}, {"id": "DESK：other"}],
        "interactions": [
            {"user": "desk:talk", "post": "clocks-1", "kind": "like"},
            {"user": "desk:talk", "kind": "send", "text": "{}"},
        ],
        "follows": [{"from": "desk:talk", "to": "u1", "weight": 1}, {"from": "u1", "to": "desk:talk", "weight": 1}],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = agent.import_folder(folder)
    assert [report.counts[name].rejected for name in rows] == [2, 2, 2]
    assert report.rejects is not None
    causes = [json.loads(line)["cause"] for line in report.rejects.read_text().splitlines()]
    assert all("service desk's own" in cause for cause in causes)
    assert sent(agent) == ["send"]


def test_no_key_is_bound_to_such_an_id(agent: Agent, run_cli: RunCli) -> None:
    told = run_cli("keys", "add", "shop", "--scope", "read", "--user", "desk:talk")
    assert told.returncode == 1
    assert "service desk's own" in told.stderr
    for user in ("", " u1", "u1\x00"):
        with pytest.raises(ValueError, match="is no id"):
            Keys(agent.store).add("shop", ["read"], [user])
    assert Keys(agent.store).all() == []


def test_the_page_reads_as_no_such_user(agent: Agent) -> None:
    session = Session(agent)
    session.act({"do": "start"})
    for user in ("desk:talk", "DESK:talk", "\ud800", "u0\x00"):
        session.act({"do": "choose", "user": user})
        assert session.view()["user"] is None
        assert "codec" not in session.view()["notice"]["text"]
    assert "no user" in json.dumps(session.view()["notice"]) or "control character" in session.view()["notice"]["text"]


def test_a_command_says_it_in_a_line(run_cli: RunCli, agent: Agent) -> None:
    for command in (("recommend", "desk:talk"), ("export", "desk:talk"), ("erase", "desk:talk", "--yes")):
        told = run_cli(*command)
        assert (told.returncode, told.stdout) == (1, "")
        assert "service desk's own" in told.stderr
        assert len(told.stderr.splitlines()) == 1
    assert sent(agent) == ["send"]


@pytest.mark.parametrize("operation", [name for name in OF_USERS if name != "chat"])
def test_a_tool_takes_no_such_id(agent: Agent, operation: str) -> None:
    for user in LOOKALIKES:
        with pytest.raises(ValueError, match="service desk's own"):
            OPERATIONS[operation].call(agent, {**BODIES[operation], "user": user})


def test_a_key_of_one_user_reaches_nobody_else(client: Asking, agent: Agent) -> None:
    """By any operation, however the id of the other is written, and with what belongs to the other."""
    secret = Keys(agent.store).add("bound", ["read", "feedback"], ["u1"])
    *_, answer = agent.chat("u2", "What should I read?")
    theirs = agent.feedback("u2", "clocks-1", "like").id
    for operation in OF_USERS:
        for user in ("u2", "U1", "u1 ", "ｕ1", "u1\u200b"):
            more = {"event": theirs} if operation == "forget" else {}
            assert client.ask(operation, secret, user=user, **more).status_code == 403, (operation, user)
    talking = client.ask("chat", secret, user="u1", conversation=answer.conversation)  # type: ignore[union-attr]
    assert talking.status_code == 422
    assert client.ask("forget", secret, user="u1", event=theirs).status_code == 404
    assert agent.store.event("u2", theirs) is not None


def test_the_desk_ranks_for_no_conversation_as_if_it_were_a_customer(agent: Agent) -> None:
    agent.desk.store.start("en", "desk:talk", "second")
    agent.desk.receive("second", "something about tomato")
    *_, found = agent.desk.suggest("second")
    assert found.conversation == "second"
