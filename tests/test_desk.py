"""The service desk: the right reply first, nothing that is not borne out, nothing personal, and what it learns."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests import desk_world as world
from tests.checks import check_shape
from tests.desk_world import EMBEDDER, OPENINGS, REPLIES, WAITING, last, noted, talk, texts, until
from tests.test_desk_store import dump
from whyfeed import Agent
from whyfeed.agent.desk.actions import Decision
from whyfeed.agent.desk.desk import Ask, Desk
from whyfeed.agent.desk.suggestion import Suggestions
from whyfeed.agent.llm.scripted import ScriptedEngine
from whyfeed.retrieval.desk.types import DeskConversation, SavedReply
from whyfeed.retrieval.errors import ModelError, UnknownConversation
from whyfeed.retrieval.privacy.vault import Vault

EMAIL, ORDER = world.EMAIL, world.ORDER
PERSONAL = (EMAIL, ORDER, "Emily Parker")


@pytest.fixture
def desk_home(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Path:
    return world.home_of(tmp_path_factory, tmp_path / "desk")


@pytest.fixture
def agent(desk_home: Path) -> Iterator[Agent]:
    with Agent.open(desk_home, embedder=EMBEDDER, no_llm=True) as opened:
        yield opened


@pytest.fixture
def desk(agent: Agent) -> Desk:
    return agent.desk


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk that tests only ask, so that one will do."""
    with world.desk_of(world.home_of(tmp_path_factory, tmp_path_factory.mktemp("still") / "desk")) as opened:
        yield opened


# ---- what is suggested


@pytest.mark.parametrize("id", WAITING)
def test_every_answer_has_the_shape_of_the_contract_and_rests_on_what_exists(still: Desk, id: str) -> None:
    found = last(still, id, 10)
    check_shape(json.loads(json.dumps(found.to_json())), "reply")
    assert found.suggestions or found.handover
    assert len(found.suggestions) <= 10
    for suggestion in found.suggestions:
        world.check_citations(still, WAITING[id], suggestion)


@pytest.mark.parametrize("topic", OPENINGS)
@pytest.mark.parametrize("state", [state for state in world.STATES if state != "date"])
def test_the_right_reply_comes_first(still: Desk, topic: str, state: str) -> None:
    assert last(still, f"w-{topic}-{state}").suggestions[0].id == world.right(topic, state)


@pytest.mark.parametrize("topic", ["hotel", "parcel", "zh"])
def test_placeholders_are_filled_from_the_look_up_and_cited_to_it(still: Desk, topic: str) -> None:
    turns = WAITING[f"w-{topic}-inform"]
    best = last(still, f"w-{topic}-inform").suggestions[0]
    assert best.missing == ()
    assert best.text == world.told(topic, turns[-1]["item"])
    quotes = [cited.quote for cited in best.citations if (cited.type, cited.id) == ("knowledge", str(len(turns) - 1))]
    for value in turns[-1]["item"].values():
        assert any(str(value) in quote for quote in quotes), value


def test_what_the_look_up_does_not_hold_is_named_and_left_open(still: Desk) -> None:
    best = last(still, talk(*until("hotel", "inform", {"HotelName": "Old Inn"}))).suggestions[0]
    assert best.id == "hotel-inform"
    assert best.text == "The Old Inn has a room for {price} dollars."
    assert best.missing == ("price",)


def test_a_promise_is_made_with_the_policy_and_never_without(desk: Desk, tmp_path: Path) -> None:
    best = last(desk, "w-concert-inform").suggestions[0]
    assert world.POLICY in best.text
    (promise,) = [sentence for sentence in best.sentences if sentence.kind == "promise"]
    assert ("article", "refunds", world.POLICY) in {(cited.type, cited.id, cited.quote) for cited in promise.citations}

    lawless = world.make_desk()
    lawless.posts = []
    with Agent.open(tmp_path / "lawless", embedder=EMBEDDER, no_llm=True) as agent:
        agent.import_folder(lawless.write(tmp_path / "in"))
        for suggestion in last(agent.desk, "w-concert-inform", 10).suggestions:
            assert "refund" not in suggestion.text
            assert all(sentence.kind != "promise" for sentence in suggestion.sentences)


def test_an_article_needs_no_author(tmp_path: Path) -> None:
    anonymous = world.make_desk(per_topic=4)
    anonymous.posts = [{key: row[key] for key in row if key != "author"} for row in anonymous.posts]
    with Agent.open(tmp_path / "anonymous", embedder=EMBEDDER, no_llm=True) as agent:
        agent.import_folder(anonymous.write(tmp_path / "in"))
        cited = [cited for each in last(agent.desk, "w-concert-inform").suggestions for cited in each.citations]
    assert "refunds" in {citation.id for citation in cited}


def test_an_article_that_answers_is_offered_in_its_own_words(still: Desk) -> None:
    found = last(still, talk(world.customer("When is breakfast served in the dining room?"))).suggestions
    (quoted,) = [each for each in found if each.source == "article"]
    assert quoted.text == "Breakfast is served from 7 am to 10 am in the dining room."
    assert [(cited.type, cited.id, cited.quote) for cited in quoted.citations] == [
        ("article", "breakfast", quoted.text)
    ]


def test_instructions_that_a_customer_pastes_change_nothing(still: Desk) -> None:
    plain, pasted = last(still, "w-hotel-inform"), last(still, "w-pasted")
    assert texts(pasted) == texts(plain)
    assert pasted.handover is None
    assert {proposal.name for proposal in pasted.proposals} == {proposal.name for proposal in plain.proposals}


def test_a_question_that_nothing_known_answers_is_handed_over(still: Desk) -> None:
    found = last(still, "w-unknown")
    assert found.suggestions == ()
    assert found.handover is not None
    assert "Quantum llamas" in found.handover.summary
    assert found.handover.reason


@pytest.mark.parametrize(
    ("turns", "word"),
    [
        (WAITING["w-person"], "person"),
        ([*until("zh", "name"), world.customer("转人工")], "人工"),
        ([*until("zh", "date")[:2], world.customer("转人工")], "人工"),
    ],
)
def test_whoever_asks_for_a_person_is_handed_over(still: Desk, turns: Any, word: str) -> None:
    found = last(still, talk(*turns, language="en" if word.isascii() else "zh"))
    assert found.handover is not None
    assert word in found.handover.reason
    assert turns[0]["text"] in found.handover.summary
    assert [proposal.name for proposal in found.proposals] == ["hand_over"]


def test_the_agents_own_words_of_the_past_are_offered_too(still: Desk) -> None:
    best = last(still, "w-parking").suggestions[0]
    assert (best.text, best.source, best.citations[0].type) == (world.PARKING, "case", "case")


def test_what_says_the_same_is_offered_once(desk: Desk) -> None:
    desk.store.put_replies(
        [SavedReply("twin", REPLIES["hotel-date"]), SavedReply("ask-twin", REPLIES["ask-name"].upper())]
    )
    for id in WAITING:
        found = [text.casefold() for text in texts(last(desk, id, 10))]
        assert len(set(found)) == len(found), id


# ---- how one may ask


@pytest.mark.parametrize("k", [0, -1, 11])
def test_k_is_between_one_and_ten(agent: Agent, k: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 10"):
        last(agent.desk, "w-hotel-name", k)
    with pytest.raises(ValueError, match="between 1 and 10"):
        agent.suggest_replies("w-hotel-name", k)


def test_an_unknown_conversation_is_named(still: Desk) -> None:
    for act in (last, Desk.forget, lambda desk, id: desk.send(id, "Hello"), lambda desk, id: desk.refuse(id, "x")):
        with pytest.raises(UnknownConversation, match="nowhere"):
            act(still, "nowhere")


def test_a_conversation_is_given_by_id_as_a_mapping_or_as_itself(agent: Agent) -> None:
    row = talk(*until("hotel", "inform"))
    before = agent.desk.store.counts()
    asks: list[Ask] = ["w-hotel-inform", row, DeskConversation.from_row(row)]
    found = [agent.suggest_replies(ask) for ask in asks]
    assert found[0] == found[1] == found[2]
    assert agent.desk.store.counts() == before
    assert noted(agent, "new") == []


def test_what_the_agent_types_moves_the_ranking(still: Desk) -> None:
    for topic in ("hotel", "parcel", "concert"):
        draft = " ".join(REPLIES[f"{topic}-date"].split()[:5])
        assert last(still, "w-hotel-date", draft=draft).suggestions[0].id == f"{topic}-date"


def test_wishes_change_the_tone_and_nothing_that_is_said(still: Desk) -> None:
    plain = last(still, "w-hotel-inform").suggestions[0]
    warm = last(still, "w-hotel-inform", wanted="warmer").suggestions[0]
    assert plain.text in warm.text
    assert len(warm.text) > len(plain.text)
    assert warm.citations == plain.citations
    bye = last(still, "w-concert-bye").suggestions[0]
    shorter = last(still, "w-concert-bye", wanted="shorter").suggestions[0]
    assert shorter.text
    assert len(shorter.text) <= len(bye.text)


def test_a_wish_for_chinese_is_answered_in_chinese(still: Desk) -> None:
    found = last(still, "w-hotel-name", wanted="in Chinese").suggestions
    assert all(each.language == "zh" for each in found)
    assert all(not each.text.isascii() for each in found)
    assert found


# ---- personal data


def test_personal_values_are_in_no_suggestion_trace_event_or_table(agent: Agent) -> None:
    found = last(agent.desk, "w-private", 10)
    edited = agent.desk.send("w-private", f"Thank you [name 1], I write to {EMAIL}", found.suggestions[0].id)
    assert edited == f"Thank you Emily Parker, I write to {EMAIL}"
    assert agent.desk.store.conversation("w-private").turns[-1].text == "Thank you [name 1], I write to [email 1]"
    assert agent.desk.send("w-private", "Is [order 1] yours?") == f"Is {ORDER} yours?"
    again = last(agent.desk, "w-private", 10)
    for each in (found, again):
        shown = [*texts(each), json.dumps(each.to_json()), json.dumps(each.trace.to_json()), repr(each)]
        assert not [raw for raw in PERSONAL for text in shown if raw in text]
    events = json.dumps([document for _, document in noted(agent, "w-private")])
    assert "[email 1]" in events
    everywhere = dump(agent.store, without=("desk_vault",))
    assert not [raw for raw in PERSONAL if raw in events + everywhere]


def test_the_vault_of_a_given_conversation_holds_its_values(still: Desk) -> None:
    vault = Vault()
    found = last(still, talk(*WAITING["w-private"]), vault=vault)
    assert set(vault.values().values()) >= {EMAIL, ORDER}
    assert EMAIL not in repr(found)


# ---- learning


BETTER = (
    "May we know your name, please?",
    "Under which name shall it be, please?",
    "Kindly whisper the surname of whomever we should expect?",  # unlike anything that was ever said here
)


@pytest.mark.parametrize("better", BETTER)
def test_an_edited_reply_is_a_case_at_once_and_leads_in_the_next_like_conversation(desk: Desk, better: str) -> None:
    before = last(desk, "w-hotel-name").suggestions[0]
    desk.send("w-hotel-name", better, before.id)
    (case,) = [case for case in desk.store.cases() if case.text == better]
    assert (case.conversation, case.reply) == ("w-hotel-name", "")
    assert before.id in case.offered
    best = last(desk, talk(*until("hotel", "name"))).suggestions[0]
    assert (best.id, best.text) == (case.id, better)
    assert last(desk, "w-concert-name").suggestions[0].id == "ask-name"


def test_a_refused_reply_is_gone_from_this_conversation_alone(desk: Desk) -> None:
    refused = last(desk, "w-hotel-date").suggestions[0].id
    desk.refuse("w-hotel-date", refused)
    assert refused not in {each.id for each in last(desk, "w-hotel-date", 10).suggestions}
    assert refused in {each.id for each in last(desk, talk(*until("hotel", "date")), 10).suggestions}


def test_a_refused_reply_does_not_come_back_under_another_id(desk: Desk) -> None:
    desk.store.put_replies([SavedReply("twin", REPLIES["ask-name"], language="en")])
    assert {"ask-name", "twin"} & {each.id for each in last(desk, "w-hotel-name").suggestions}
    desk.refuse("w-hotel-name", "ask-name")
    assert REPLIES["ask-name"] not in texts(last(desk, "w-hotel-name", 10))


def test_the_ledger_says_what_was_suggested_taken_edited_refused_and_sent(agent: Agent) -> None:
    desk, id = agent.desk, "w-hotel-date"
    shown = last(desk, id).suggestions
    first, second = shown[0], shown[1]
    desk.refuse(id, second.id)
    desk.send(id, first.text, first.id)
    place = len(until("hotel", "date"))
    assert noted(agent, id) == [
        ("suggest", {"shown": [{"id": each.id, "text": each.text, "source": each.source} for each in shown],
                     "handover": False}),
        ("refuse", {"suggestion": second.id}),
        ("take", {"suggestion": first.id, "from": first.text, "to": first.text, "turn": place}),
        ("send", {"turn": place, "suggestion": first.id, "text": first.text}),
    ]  # fmt: skip
    turn = desk.store.conversation(id).turns[-1]
    assert (turn.role, turn.text, turn.reply) == ("agent", first.text, first.id)
    assert set(turn.offered) == {each.id for each in shown}

    assert desk.receive(id, "On 3 May") == place + 1
    best = last(desk, id).suggestions[0]
    desk.send(id, "How many of you?", best.id)
    kind, edit = noted(agent, id)[-2]
    assert kind == "edit"
    assert edit == {"suggestion": best.id, "from": best.text, "to": "How many of you?", "turn": place + 2}
    assert desk.store.conversation(id).turns[-1].reply == ""
    last(desk, id, remember=False)
    assert noted(agent, id)[-1][0] == "send"


@pytest.mark.parametrize(("decision", "done"), [("approve", True), ("reject", False)])
def test_an_action_is_noted_when_a_person_approved_it(agent: Agent, decision: Decision, done: bool) -> None:
    desk, id = agent.desk, "w-hotel-bye"
    pending = desk.actions.start(id, *last(desk, id).proposals)
    assert [kind for kind, _ in noted(agent, id)] == ["suggest"]
    desk.decide(id, pending, decision)
    assert [document for kind, document in noted(agent, id) if kind == "act"] == (
        [{"action": "close", "arguments": {}}] if done else []
    )
    assert desk.store.conversation(id).status == ("closed" if done else "waiting")


def test_an_empty_reply_is_not_sent(agent: Agent) -> None:
    for write in (agent.desk.send, agent.desk.receive):
        with pytest.raises(ValueError, match="empty"):
            write("w-hotel-name", " \n ")
    assert noted(agent, "w-hotel-name") == []


def test_forgetting_leaves_nothing(agent: Agent, desk_home: Path) -> None:
    desk, id = agent.desk, "w-hotel-bye"
    found = last(desk, id)
    desk.actions.start(id, found.proposals[0])
    desk.refuse(id, found.suggestions[0].id)
    desk.receive(id, "xylophone please, my mail is zoe@example.com")
    desk.send(id, "A xylophone it is")
    last(desk, id)
    desk.forget(id)
    with pytest.raises(UnknownConversation):
        desk.store.conversation(id)
    assert noted(agent, id) == []
    assert desk.actions.pending(id) == []
    tables = dump(agent.store).casefold()
    assert not [word for word in ("xylophone", id, "zoe@example") if word in tables]
    with closing(sqlite3.connect(desk_home / "actions.db")) as db:
        assert id not in "\n".join(db.iterdump())
    assert "xylophone" not in repr(last(desk, talk(world.customer("xylophone please")), 10).suggestions)


def test_erasing_a_customer_removes_their_conversations(agent: Agent) -> None:
    desk = agent.desk
    last(desk, "w-private")
    desk.send("w-private", "A zither it is")
    agent.erase("ann")
    with pytest.raises(UnknownConversation):
        desk.store.conversation("w-private")
    assert noted(agent, "w-private") == []
    assert "zither" not in dump(agent.store)
    assert desk.store.conversation("w-parking").customer == ""


def test_conversations_at_once_never_mix(desk: Desk) -> None:
    asks = [f"w-{topic}-{state}" for topic in OPENINGS for state in world.STATES]
    alone = {id: texts(last(desk, id, remember=False)) for id in asks}
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda id: (id, last(desk, id)), asks * 3))
    for id, answer in found:
        assert answer.conversation == id
        assert texts(answer) == alone[id]


# ---- the writer


QUESTION = "How many nights would you like to stay?"


def test_a_draft_follows_the_past_replies(desk_home: Path) -> None:
    with world.desk_of(desk_home, ScriptedEngine([QUESTION])) as desk:
        first, second = desk.suggest("w-hotel-inform")
    assert (first.drafting, second.drafting) == (True, False)
    assert QUESTION not in texts(first)
    assert [(each.source, each.text) for each in second.suggestions][1] == ("draft", QUESTION)
    assert second.suggestions[0] == first.suggestions[0]
    check_shape(second.to_json(), "reply")


def drafted(home: Path, written: str | Exception, **more: Any) -> Suggestions:
    with world.desk_of(home, ScriptedEngine([written])) as desk:
        return last(desk, "w-hotel-inform", **more)


def test_of_a_draft_only_what_is_borne_out_is_offered(desk_home: Path) -> None:
    said = "The Old Inn has a room for 61 dollars. You get it free of charge. Which bed would you like?"
    (draft,) = [each for each in drafted(desk_home, said).suggestions if each.source == "draft"]
    assert "free" not in draft.text
    assert "Which bed" in draft.text


def test_a_draft_is_written_in_the_language_that_is_wished_for(desk_home: Path) -> None:
    found = drafted(desk_home, "请问您要住几晚？", wanted="in Chinese")
    assert [each.text for each in found.suggestions if each.source == "draft"] == ["请问您要住几晚？"]


def test_a_writer_that_fails_takes_no_suggestion_away(desk_home: Path, still: Desk) -> None:
    found = drafted(desk_home, ModelError("the model is out"))
    assert found.suggestions == last(still, "w-hotel-inform").suggestions
    assert not found.drafting


def test_the_trace_says_that_the_writer_failed(desk_home: Path) -> None:
    found = drafted(desk_home, ModelError("the model is out"))
    (stage,) = [stage for stage in found.trace.stages if stage.name == "draft"]
    assert (stage.status, stage.detail) == ("failed", "the model is out")


def test_a_cancelled_draft_is_neither_offered_nor_noted(desk_home: Path) -> None:
    cancel = threading.Event()

    def write(messages: Any) -> str:
        cancel.set()
        return QUESTION

    with world.desk_of(desk_home, ScriptedEngine(write)) as desk:
        found = last(desk, "w-hotel-inform", cancel=cancel)
        assert found.suggestions
        assert "draft" not in {each.source for each in found.suggestions}
    with Agent.open(desk_home, embedder=EMBEDDER, no_llm=True) as agent:
        ((kind, document),) = noted(agent, "w-hotel-inform")
    assert (kind, [each["id"] for each in document["shown"]]) == ("suggest", [each.id for each in found.suggestions])


def test_what_was_shown_can_be_taken_while_a_draft_is_written(desk_home: Path) -> None:
    with world.desk_of(desk_home, ScriptedEngine([QUESTION])) as desk:
        answers = desk.suggest("w-hotel-inform")
        best = next(answers).suggestions[0]
        desk.send("w-hotel-inform", best.text, best.id)
        assert desk.store.conversation("w-hotel-inform").turns[-1].reply == best.id
        assert QUESTION in texts(next(answers))


def test_no_draft_is_written_where_none_is_wanted(desk_home: Path) -> None:
    engine = ScriptedEngine([QUESTION])
    with world.desk_of(desk_home, engine) as desk:
        (only,) = desk.suggest("w-hotel-inform", write=False)
    assert engine.history == []
    assert not only.drafting
