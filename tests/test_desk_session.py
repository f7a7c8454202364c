"""The desk's half of a session, without a browser: what travels, what waits, and what is learnt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from whyfeed.agent.agent import Agent
from whyfeed.agent.desk.suggestion import Citation, Proposal
from whyfeed.agent.llm.scripted import ScriptedEngine
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.desk.types import DeskConversation, SavedReply
from whyfeed.ui.page.session import Session

EMAIL = "marta.okonjo@example.com"
HOSTILE = "<script>window.pwned=1</script> ${window.pwned=1} {{constructor}} <img src=x onerror=window.pwned=1> \\x3cb>"
REPLIES = {
    "hours": "The pool opens at {time} every day.",
    "where": "Which hotel are you staying at?",
    "towels": "Towels for the pool are at the front desk.",
    "late": "You can check out late for a fee.",
}
REFUND = Proposal(
    "refund", {"order": "[order 1]", "amount": None}, "asked for", (Citation("conversation", "0", "I want a refund"),)
)


def past(number: int, asked: str, reply: str, text: str = "") -> DeskConversation:
    said = {"role": "agent", "text": text or REPLIES[reply], "reply": reply, "offered": list(REPLIES)}
    return DeskConversation.from_row(
        {"id": f"past-{number}", "language": "en", "turns": [{"role": "customer", "text": asked}, said]}
    )


def waiting(id: str, *texts: str, **more: Any) -> DeskConversation:
    turns = [{"role": "customer", "text": text, "time": 1_700_000_000 + place} for place, text in enumerate(texts)]
    return DeskConversation.from_row({"id": id, "language": "en", "status": "waiting", "turns": turns, **more})


def make_desk(home: Path, *drafts: str) -> Agent:
    """A home with four saved replies, past conversations that took them, and five customers who wait."""
    agent = Agent(Settings(home=home, embedder="hash-64", no_llm=not drafts, writer="none.gguf"))
    if drafts:
        agent.models.put("writer", ScriptedEngine(drafts))
    store = agent.desk.store
    store.put_replies(SavedReply(id, text, id, "en") for id, text in REPLIES.items())
    asked = "When does the pool of the hotel open in the morning?"
    cases = [("where", asked)] * 4 + [("towels", asked)] * 3 + [("late", "Can I check out late on Sunday?")] * 3
    store.put_conversations(past(number, text, reply) for number, (reply, text) in enumerate(cases))
    store.put_conversations(
        [
            waiting("pool", asked),
            waiting("pool-again", "When does the pool of the hotel open in the morning please?"),
            waiting("private", f"My name is Marta. Please write to {EMAIL} about the pool of the hotel."),
            waiting("hostile", HOSTILE),
            waiting("refund", "I want a refund for my order DX-4827193, the kettle arrived broken."),
        ]
    )
    agent.build()
    agent.desk.build()
    return agent


Desk = Callable[..., dict[str, Any]]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with make_desk(tmp_path / "home") as opened:
        yield opened


@pytest.fixture
def session(agent: Agent) -> Session:
    return Session(agent)


def does(session: Session, what: str, **data: Any) -> dict[str, Any]:
    for _ in session.desk({"do": what, **data}):
        pass
    return session.view()


def events(agent: Agent, talk: str, kind: str) -> list[dict[str, Any]]:
    found = [event for _, event in agent.store.events(user=f"desk:{talk}") if event.kind == kind]
    return [json.loads(event.text) for event in reversed(found)]


def test_the_list_says_who_waits_and_what_is_new(session: Session) -> None:
    view = does(session, "list")
    assert [row["id"] for row in view["desk"]["waiting"]] == ["pool", "pool-again", "private", "hostile", "refund"]
    assert all(row["new"] for row in view["desk"]["waiting"])
    view = does(session, "open", talk="pool")
    assert [row["id"] for row in view["desk"]["waiting"] if not row["new"]] == ["pool"]


def test_an_open_conversation_has_suggestions_whose_sentences_name_what_they_rest_on(session: Session) -> None:
    help = does(session, "open", talk="pool")["desk_help"]
    assert help["state"] == "ready"
    assert [card["text"] for card in help["cards"]][:2] == [REPLIES["where"], REPLIES["towels"]]
    assert all(card["sure"] in ("very", "likely", "guess") for card in help["cards"])
    towels = help["cards"][1]
    assert [each["type"] for part in towels["parts"] for each in part.get("evidence", ())]
    words = [word for part in towels["parts"] for word in part["words"]]
    assert "".join(words) == towels["text"]


def test_an_edited_answer_is_learnt_and_leads_the_next_time(agent: Agent, session: Session) -> None:
    card = does(session, "open", talk="pool")["desk_help"]["cards"][1]
    edited = "Which room are you in, and for how many people?"
    view = does(session, "send", talk="pool", text=edited, suggestion=card["id"])
    assert view["desk_sent"]["how"] == "edit"
    assert view["desk_help"]["cards"] == []
    assert [row["id"] for row in view["desk"]["answered"]] == ["pool"]
    assert events(agent, "pool", "edit")[0]["to"] == edited
    assert does(session, "open", talk="pool-again")["desk_help"]["cards"][0]["text"] == edited


def test_sending_with_an_open_placeholder_asks_once_more(agent: Agent, session: Session) -> None:
    does(session, "open", talk="pool")
    view = does(session, "send", talk="pool", text="It opens at {time}.")
    assert view["desk_doubt"] == ["time"]
    assert not events(agent, "pool", "send")
    assert does(session, "send", talk="pool", text="At {time}, or {day}.")["desk_doubt"] == ["time", "day"]
    view = does(session, "send", talk="pool", text="At {time}, or {day}.")
    assert view["desk_doubt"] == []
    assert events(agent, "pool", "send")[0]["text"] == "At {time}, or {day}."


def test_a_value_travels_only_when_its_chip_was_asked_for(session: Session) -> None:
    view = does(session, "open", talk="private")
    assert EMAIL not in json.dumps(view)
    chips = [word["chip"] for word in view["desk turn 0"]["words"] if isinstance(word, dict)]
    assert "[email 1]" in chips
    assert does(session, "chip", talk="private", chip="[email 1]")["desk_chips"] == {"[email 1]": EMAIL}
    assert EMAIL not in json.dumps(does(session, "open", talk="pool"))


def test_only_turns_that_are_new_travel(session: Session) -> None:
    does(session, "open", talk="pool")
    first = json.loads(session.news())
    does(session, "receive", talk="pool", text="And on Sunday?")
    parts = json.loads(session.news({"session": first["session"], "version": first["version"]}))["parts"]
    assert "desk turn 1" in parts
    assert "desk turn 0" not in parts
    assert "members" not in parts


def test_what_was_refused_goes_and_the_others_keep_their_places(session: Session) -> None:
    before = [card["id"] for card in does(session, "open", talk="pool")["desk_help"]["cards"]]
    cards = does(session, "refuse", talk="pool", suggestion=before[0])["desk_help"]["cards"]
    assert before[0] not in [card["id"] for card in cards if not card["refused"]]
    assert [card["id"] for card in cards][1:] == before[1:]


def test_a_draft_has_its_own_place_and_what_is_taken_before_it_ends_is_learnt(tmp_path: Path) -> None:
    with make_desk(tmp_path / "home", *["Which hotel is it, and for which day?"] * 3) as agent:
        session = Session(agent)
        steps = session.desk({"do": "wish", "talk": "pool", "wanted": "ask for the day"})
        drawn = next(dict(session.view()) for _ in steps if session.view()["desk_help"]["state"] == "drafting")
        card = drawn["desk_help"]["cards"][0]
        other = Session(agent)
        does(other, "wish", talk="pool-again", wanted="ask for the day")
        assert other.view()["desk_draft"]["card"]["text"] == "Which hotel is it, and for which day?"
        assert all(each["source"] != "draft" for each in other.view()["desk_help"]["cards"])
        steps.close()  # type: ignore[attr-defined]
        does(session, "send", talk="pool", text=card["text"], suggestion=card["id"])
        assert events(agent, "pool", "take")


def test_an_action_is_done_only_when_it_is_approved(agent: Agent, session: Session) -> None:
    agent.desk.actions.start("refund", REFUND)
    (action,) = does(session, "open", talk="refund")["desk_actions"]
    assert (action["name"], action["state"]) == ("refund", "waiting")
    assert not events(agent, "refund", "act")
    fields = {"order": "[order 1]", "amount": "12.50"}
    view = does(session, "decide", talk="refund", action=action["id"], decision="edit", arguments=fields)
    assert view["desk_actions"][0]["state"] == "edit"
    assert events(agent, "refund", "act")[0]["arguments"]["amount"] == 12.5


def test_a_closed_conversation_keeps_no_values_and_what_cannot_be_done_is_said(session: Session) -> None:
    does(session, "open", talk="private")
    view = does(session, "close", talk="private")
    assert view["desk_talk"]["closed"]
    assert view["desk_talk"]["chips"] == []
    does(session, "receive", talk="private", text="Still there?")
    assert "closed" in session.view()["notice"]["text"]
    does(session, "open", talk="nobody")
    assert "nobody" in session.view()["notice"]["text"]


def test_a_customer_who_writes_while_the_conversation_is_open_makes_it_stale(agent: Agent, session: Session) -> None:
    does(session, "open", talk="pool")
    assert not session.look_again() or not session.view()["desk_talk"]["stale"]
    agent.desk.receive("pool", "Are you there?")
    assert session.look_again()
    assert session.view()["desk_talk"]["stale"]
