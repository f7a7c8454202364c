"""What a session of the page keeps and tells, without a browser."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.page_world import World
from tests.world import NOW
from whyfeed.agent.answer import Answer
from whyfeed.retrieval.store.conversations import Conversations
from whyfeed.ui.page import messages
from whyfeed.ui.page.cards import Cards, safe_url
from whyfeed.ui.page.session import Session

if TYPE_CHECKING:
    from whyfeed import Agent


def session_of(world: World) -> Session:
    session = Session(cast("Agent", world))
    session.act({"do": "start", "here": {"language": "en"}})
    return session


def answered(session: Session, text: str = "What should I read?") -> dict[str, Any]:
    for _ in session.ask(text):
        pass
    return session.view()


# ---- cards


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://example.org/q/1", True),
        ("http://example.org", True),
        ("javascript:alert(1)", False),
        ("JavaScript:alert(1)", False),
        ("java\nscript:alert(1)", False),
        ("\x01javascript:alert(1)", False),
        ("data:text/html,<script>alert(1)</script>", False),
        ("//example.org", False),
        ("https:alert(1)", False),
        ("https://[broken", False),
        ("", False),
    ],
)
def test_only_web_addresses_become_links(url: str, kept: bool) -> None:
    assert bool(safe_url(url)) is kept


@given(st.text())
def test_no_text_makes_a_link_that_is_not_http(url: str) -> None:
    assert safe_url(url) == "" or safe_url(url).lower().startswith(("http://", "https://"))


@given(st.text(max_size=60), st.lists(st.text(max_size=12), max_size=4))
def test_the_parts_of_a_reason_are_its_text(text: str, claims: list[str]) -> None:
    reason = {
        "text": text,
        "language": "en",
        "source": "llm",
        "claims": [
            {"text": claim, "verified": True, "evidence": [{"type": "signal", "id": "fresh"}]} for claim in claims
        ],
    }
    parts = Cards(cast("Agent", World()), "m0").reason(reason)["parts"]
    assert "".join(part["text"] for part in parts) == text


def test_an_unverified_claim_shows_no_evidence() -> None:
    claim = {"text": "it is good", "verified": False, "evidence": [{"type": "signal", "id": "fresh"}]}
    reason = {"text": "Read it: it is good.", "language": "en", "source": "llm", "claims": [claim]}
    assert Cards(cast("Agent", World()), "m0").reason(reason)["parts"] == [{"text": "Read it: it is good."}]


# ---- a session


def test_an_answer_has_cards_whose_claims_name_their_evidence() -> None:
    session = session_of(World(pause=0))
    session.act({"do": "choose", "user": "m0"})
    view = answered(session)
    said, answer = view["turns"]
    assert said["text"] == "What should I read?"
    assert answer["state"] == "done"
    assert len(answer["items"]) == 5
    for card in answer["items"]:
        kinds = [each["type"] for part in card["reason"]["parts"] for each in part.get("evidence", ())]
        assert kinds == ["event", "span"]
    proof = answer["items"][0]["reason"]["parts"][0]["evidence"][0]
    assert proof["did"] == "answer"
    assert proof["post"]["title"]


def test_hiding_marks_the_card_and_undoing_takes_it_back() -> None:
    session = session_of(World(pause=0))
    session.act({"do": "choose", "user": "m0"})
    post = answered(session)["turns"][1]["items"][0]["id"]
    session.act({"do": "feedback", "post": post, "kind": "hide"})
    view = session.view()
    assert [each["id"] for each in view["profile"]["hidden"]] == [post]
    session.act({"do": "forget", "event": view["marks"][post]["hide"]})
    view = session.view()
    assert post not in view["marks"]
    assert view["profile"]["hidden"] == []


def test_what_was_hidden_before_is_marked_when_the_page_is_opened_again() -> None:
    world = World(pause=0)
    session = session_of(world)
    session.act({"do": "choose", "user": "m0"})
    view = answered(session)
    post = view["turns"][1]["items"][2]["id"]
    session.act({"do": "feedback", "post": post, "kind": "hide"})
    again = Session(cast("Agent", world))
    again.act({"do": "start", "here": {"language": "zh", "user": "m0", "conversation": view["conversation"]}})
    seen = again.view()
    assert seen["language"] == "zh"
    assert seen["turns"][1]["items"] == view["turns"][1]["items"]
    assert "hide" in seen["marks"][post]


def test_nobody_opens_the_conversation_of_somebody_else() -> None:
    world = World(pause=0)
    session = session_of(world)
    session.act({"do": "choose", "user": "m0"})
    talk = answered(session)["conversation"]
    other = Session(cast("Agent", world))
    other.act({"do": "start", "here": {"user": "m1", "conversation": talk}})
    assert other.view()["turns"] == []
    other.act({"do": "talk", "conversation": talk})
    assert other.view()["turns"] == []
    assert other.view()["conversation"] == ""


def test_a_stop_ends_the_turn_and_keeps_its_cards() -> None:
    session = session_of(World(pause=0.05))
    session.act({"do": "choose", "user": "m0"})
    for _ in session.ask("What should I read?"):
        view = session.view()
        if view["turns"][1]["items"]:
            session.stop()
    view = session.view()
    assert view["turns"][1]["state"] == "stopped"
    assert len(view["turns"][1]["items"]) == 5
    assert not view["running"]


def test_a_turn_that_fails_says_why_and_the_next_one_works() -> None:
    world = World(pause=0, broken=True)
    session = session_of(world)
    session.act({"do": "choose", "user": "m0"})
    turn = answered(session)["turns"][1]
    assert (turn["state"], turn["error"]) == ("failed", "the stand-in was told to fail; try again")
    world.broken = False
    assert answered(session)["turns"][3]["state"] == "done"


def test_changing_the_reader_during_a_turn_shows_nothing_of_it() -> None:
    session = session_of(World(pause=0.02))
    session.act({"do": "choose", "user": "m0"})
    turn = session.ask("What should I read?")
    next(turn)
    session.act({"do": "choose", "user": "m1"})
    for _ in turn:
        pass
    view = session.view()
    assert (view["user"]["id"], view["turns"], view["conversation"], view["running"]) == ("m1", [], "", False)


def test_a_turn_is_finished_and_kept_when_the_tab_is_closed() -> None:
    world = World(pause=0.01)
    session = session_of(world)
    session.act({"do": "choose", "user": "m0"})
    turn = session.ask("What should I read?")
    next(turn)
    turn.close()
    for thread in threading.enumerate():
        if thread.name == "whyfeed-turn":
            thread.join(10)
    again = Session(cast("Agent", world))
    again.act({"do": "start", "here": {"user": "m0", "conversation": world.conversations("m0")[0][0]}})
    assert [each["role"] for each in again.view()["turns"]] == ["user", "agent"]


def test_an_answer_that_was_begun_before_a_reload_appears_when_it_is_there() -> None:
    world = World(pause=0.05)
    session = session_of(world)
    session.act({"do": "choose", "user": "m0"})
    turn = session.ask("What should I read?")
    next(turn)
    while not world.conversations("m0"):
        time.sleep(0.01)
    again = Session(cast("Agent", world))
    again.act({"do": "start", "here": {"user": "m0", "conversation": world.conversations("m0")[0][0]}})
    assert again.view()["turns"][1]["state"] == "running"
    assert again.waits
    for _ in turn:
        pass
    assert again.look_again()
    assert again.view()["turns"][1]["state"] == "done"
    assert not again.waits


def test_an_answer_that_never_came_is_not_waited_for_for_ever() -> None:
    world = World(pause=0, broken=True)
    session = session_of(world)
    session.act({"do": "choose", "user": "m0"})
    answered(session)
    again = Session(cast("Agent", world))
    again.act({"do": "start", "here": {"user": "m0", "conversation": world.conversations("m0")[0][0]}})
    for _ in range(100):
        again.look_again()
    assert [turn["role"] for turn in again.view()["turns"]] == ["user"]
    assert not again.waits
    world.broken = False
    assert answered(again)["turns"][-1]["state"] == "done"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"do": "nothing"},
        {"do": "choose", "user": "nobody"},
        {"do": "choose"},
        {"do": "feedback", "post": "p", "kind": "like"},
        {"do": "newcomer", "interests": []},
        {"do": "newcomer", "interests": 3},
        {"do": "language", "language": "zh", "more": 1},
        {"do": "rule", "rule": "e1", "active": "yes"},
        {"do": "why", "post": "p" * 1001},
    ],
)
def test_an_odd_act_becomes_one_line(data: dict[str, Any]) -> None:
    session = session_of(World())
    session.act(data)
    notice = session.view()["notice"]["text"]
    assert notice
    assert "\n" not in notice


NAMES = ("do", "here", "seen", "talk", "user", "post", "kind", "text", "interests", "language", "decision", "draft")
ACTS = ("start", "language", "members", "choose", "newcomer", "talk", "feedback", "forget", "rule", "why", "behind")
DESK_ACTS = ("list", "open", "wish", "refuse", "send", "receive", "close", "chip", "decide")
WORDS = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | WORDS, inner, max_size=4),
    max_leaves=12,
)
NEARLY = st.builds(lambda do, more: {**more, "do": do}, st.sampled_from(ACTS + DESK_ACTS), st.dictionaries(WORDS, JSON))


def refusal(read: Callable[[object], object], data: object) -> str:
    try:
        read(data)
    except messages.BadMessage as exc:
        return str(exc)
    return ""


@given(JSON | NEARLY)
def test_any_json_is_a_message_or_refused_in_one_line_that_changes_nothing(data: object) -> None:
    world = World()
    session = session_of(world)
    before, events = session.view(), world.events("m0", 999)
    for line, do in (
        (refusal(messages.read, data), session.act),
        (refusal(messages.read_desk, data), lambda data: list(session.desk(data))),
    ):
        if line:
            do(data)
            after = session.view()
            assert after["notice"]["text"] == line
            assert len(line.splitlines()) == 1
            assert {**after, "notice": None} == before
            assert world.events("m0", 999) == events
            session.news().encode()  # holds no lone surrogate, which could not be sent


@given(st.sampled_from(ACTS), st.sampled_from(DESK_ACTS))
def test_what_is_for_the_desk_is_not_for_the_feed(act: str, desk: str) -> None:
    with pytest.raises(messages.BadMessage, match=desk):
        messages.read({"do": desk, "talk": "t"})
    with pytest.raises(messages.BadMessage, match=act):
        messages.read_desk({"do": act})


@given(JSON)
def test_only_a_session_and_a_version_say_what_a_tab_has_drawn(data: object) -> None:
    session = session_of(World())
    assert json.loads(session.news(data))["parts"].keys() == json.loads(session.news())["parts"].keys()


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_message_is_not_sent(text: str) -> None:
    session = session_of(World(pause=0))
    session.act({"do": "choose", "user": "m0"})
    assert answered(session, text)["turns"] == []


def test_a_very_long_message_is_shown_shortened() -> None:
    session = session_of(World(pause=0))
    session.act({"do": "choose", "user": "m0"})
    view = answered(session, "a" * 200_000)
    assert len(view["turns"][0]["text"]) < 2_100
    assert len(view["turns"][1]["items"]) == 5


def test_behind_shows_the_stages_of_the_last_answers_and_the_ledger() -> None:
    session = session_of(World(pause=0))
    session.act({"do": "choose", "user": "m0"})
    answered(session)
    session.act({"do": "behind"})
    behind = session.view()["behind"]
    assert [stage["name"] for stage in behind["traces"][0]["stages"]] == ["understand", "retrieve", "rank", "select"]
    assert behind["traces"][0]["asked"] == "What should I read?"
    assert len(behind["events"]) == 7


def test_a_trace_of_an_earlier_version_is_still_read(agent: Agent) -> None:
    """Its status was one string, cause and all."""
    user = agent.members(limit=1)[0].id
    *_, answer = agent.chat(user, "What should I read?")
    assert isinstance(answer, Answer)
    kept, said = Conversations(agent.store), answer.to_chat_json()
    (document,) = kept.traces(user)
    for trace in (document, said["trace"]):
        for stage in trace["stages"]:
            stage.pop("detail", None)
            stage["status"] = "failed: the model is out"
    shown, gone = answer.items[0].post.id, next(iter(document["removed"]))
    before = agent.why(user, shown), agent.why_not(user, gone)
    kept.remember(user, NOW, document, (answer.conversation, answer.text, said))
    assert (agent.why(user, shown), agent.why_not(user, gone)) == before
    session = Session(agent)
    session.act({"do": "start", "language": "en"})
    session.act({"do": "choose", "user": user})
    session.act({"do": "talk", "conversation": answer.conversation})
    session.act({"do": "behind"})
    stages = session.view()["behind"]["traces"][0]["stages"]
    assert {stage["status"] for stage in stages} == {"failed: the model is out"}


class Tab:
    """What the browser does with news: keep the newest of each part."""

    def __init__(self) -> None:
        self.has: dict[str, Any] = {"session": None, "version": 0, "turns": 0, "parts": {}}

    def seen(self) -> dict[str, Any]:
        return {"session": self.has["session"], "version": self.has["version"]}

    def learn(self, written: str) -> None:
        news = json.loads(written)
        if news["session"] == self.has["session"] and news["version"] < self.has["version"]:
            return
        old = self.has["parts"] if news["session"] == self.has["session"] else {}
        gone = {f"turn {place}" for place in range(news["turns"], 1000)}
        self.has = {**news, "parts": {name: part for name, part in (old | news["parts"]).items() if name not in gone}}

    def shows(self, session: Session) -> bool:
        view = json.loads(json.dumps(session.view()))
        turns = {f"turn {place}": turn for place, turn in enumerate(view.pop("turns"))}
        return bool(self.has["parts"] == view | turns)


@given(st.lists(st.sampled_from(["m0", "m1", "hide", "ask", "new", "less stout", "why"]), max_size=7), st.data())
def test_any_one_piece_of_news_brings_a_tab_up_to_date(acts: list[str], data: st.DataObject) -> None:
    """Pieces may be lost, come late, or come twice: after the last one the tab shows the session."""
    session, tab, late = Session(cast("Agent", World(pause=0))), Tab(), []
    for act in ["m0", *acts]:
        seen = tab.seen()
        pieces = []
        if act in ("ask", "less stout"):
            for _ in session.ask(act):
                pieces.append(session.news(seen))
        elif act in ("m0", "m1"):
            session.act({"do": "choose", "user": act})
        elif act == "new":
            session.act({"do": "talk"})
        elif items := [item for turn in session.view()["turns"] for item in turn.get("items", ())]:
            session.act({"do": "why", "post": items[0]["id"]})
            if act == "hide":
                session.act({"do": "feedback", "post": items[0]["id"], "kind": "hide"})
        pieces.append(session.news(seen))
        arrived = data.draw(st.lists(st.sampled_from([*pieces, *late]), max_size=4))
        for piece in [*arrived, pieces[-1]]:
            tab.learn(piece)
        late = pieces
        assert tab.shows(session)


def test_a_tab_of_another_session_gets_everything() -> None:
    world = World(pause=0)
    tab = Tab()
    for reader in ("m0", "m1"):
        session = session_of(world)
        session.act({"do": "choose", "user": reader})
        answered(session)
        tab.learn(session.news(tab.seen()))
        assert tab.shows(session)
