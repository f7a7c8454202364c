"""The one table of operations: each runs, answers a JSON document, and refuses in one line what it cannot take."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checks import check_items, check_shape
from tests.world import World
from whyfeed import Agent
from whyfeed.agent.operations import OPERATIONS, TOOLS, Operation
from whyfeed.retrieval.errors import UnknownEvent, UnknownPost, UnknownUser, WhyfeedError
from whyfeed.retrieval.store import exchange
from whyfeed.retrieval.store.store import Store

NAMES = list(OPERATIONS)
ASKING = {"turns": [{"role": "customer", "text": "Where is my order?"}]}


def call(agent: Agent, name: str, **arguments: Any) -> dict[str, Any]:
    """Call it, and take the answer through JSON as every place that serves it does."""
    answer = OPERATIONS[name].call(agent, arguments)
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    return answer


def posts(answer: dict[str, Any]) -> list[str]:
    return [item["post"]["id"] for item in answer["items"]]


@pytest.fixture
def reader(world: World) -> str:
    """Somebody who reads about gardening alone."""
    return next(user for user, tastes in world.tastes.items() if tastes == ("gardening",))


# ---- the table ----


def test_descriptions_tell_operations_apart() -> None:
    descriptions = [operation.description for operation in OPERATIONS.values()]
    assert all(len(text.split()) > 3 and text.endswith(".") for text in descriptions)
    assert len(set(descriptions)) == len(descriptions)
    assert all(name == operation.name for name, operation in OPERATIONS.items())


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_described(name: str) -> None:
    schema = OPERATIONS[name].arguments.model_json_schema()
    assert schema["additionalProperties"] is False
    assert all(field["description"] for field in schema["properties"].values())


def test_what_a_language_model_may_call_neither_shows_everything_nor_erases() -> None:
    names = {operation.name for operation in TOOLS}
    assert names < set(NAMES)
    assert not names & {"export", "erase", "status", "profile", "events"}


# ---- what each does ----


def test_every_operation_answers_a_document(agent: Agent, reader: str) -> None:
    post = posts(call(agent, "recommend", user=reader))[0]
    event = call(agent, "feedback", user=reader, post=post, kind="like")["id"]
    given: dict[str, dict[str, Any]] = {
        "recommend": {"user": reader, "query": "tomato soil", "kinds": ["post"], "language": "zh", "llm": False},
        "search": {"query": "pendulum"},
        "explain": {"user": reader, "post": post},
        "why_not": {"user": reader, "post": post, "language": "zh"},
        "profile": {"user": reader},
        "events": {"user": reader, "limit": 3},
        "export": {"user": reader},
        "feedback": {"user": reader, "post": post, "kind": "save"},
        "steer": {"user": reader, "topic": "tomato", "direction": "more", "horizon": "week"},
        "forget": {"user": reader, "event": event},
        "suggest_reply": {**ASKING, "k": 2, "wish": "shorter", "llm": False},
        "erase": {"user": reader},
        "status": {},
    }
    assert set(given) == set(OPERATIONS)
    for name, arguments in given.items():
        assert call(agent, name, **arguments)


def test_recommend_and_suggest_reply_have_the_shapes_of_the_contract(agent: Agent, reader: str) -> None:
    answer = call(agent, "recommend", user=reader, k=7)
    check_shape(answer, "recommend")
    check_items(agent, reader, answer["items"])
    assert len(answer["items"]) == 7
    check_shape(call(agent, "suggest_reply", **ASKING), "reply")


@pytest.mark.parametrize("moment", ["2017-09-01", "2017-09-01T12:00:00+02:00", "1504224000"])
def test_recommend_answers_as_of_a_moment(agent: Agent, reader: str, moment: str) -> None:
    then = call(agent, "recommend", user=reader, as_of=moment)
    assert all((agent.post(id).created_at or 0) < 1.51e9 for id in posts(then))
    assert posts(then) != posts(call(agent, "recommend", user=reader))


def test_explain_and_why_not_are_two_sides(agent: Agent, reader: str) -> None:
    shown = posts(call(agent, "recommend", user=reader))[0]
    assert call(agent, "explain", user=reader, post=shown)["shown"]
    call(agent, "feedback", user=reader, post=shown, kind="hide")
    assert call(agent, "why_not", user=reader, post=shown)["removed"] == {"stage": "filter", "reason": "hidden"}


def test_feedback_is_among_the_events_until_it_is_forgotten(agent: Agent, reader: str) -> None:
    before = call(agent, "events", user=reader)
    first = posts(call(agent, "recommend", user=reader))
    event = call(agent, "feedback", user=reader, post=first[0], kind="hide")
    assert call(agent, "events", user=reader, limit=1)["events"] == [event]
    assert first[0] not in posts(call(agent, "recommend", user=reader))
    assert call(agent, "forget", user=reader, event=event["id"])["forgotten"] == event["id"]
    assert call(agent, "events", user=reader) == before
    assert posts(call(agent, "recommend", user=reader)) == first
    with pytest.raises(UnknownEvent):
        call(agent, "forget", user=reader, event=event["id"])


def test_less_of_a_topic_until_it_is_forgotten(agent: Agent, reader: str) -> None:
    def about_tomatoes(answer: dict[str, Any]) -> list[str]:
        return [id for id in posts(answer) if "tomato" in agent.post(id).title.lower()]

    first = call(agent, "recommend", user=reader, k=10)
    rule = call(agent, "steer", user=reader, topic="tomato", direction="less")
    assert about_tomatoes(first)
    assert rule["posts"] > 0
    assert not about_tomatoes(call(agent, "recommend", user=reader, k=10))
    assert "tomato" in json.dumps(call(agent, "profile", user=reader)["rules"])
    call(agent, "forget", user=reader, event=rule["id"])
    assert posts(call(agent, "recommend", user=reader, k=10)) == posts(first)


def test_more_of_a_topic_brings_it_in(agent: Agent, reader: str) -> None:
    def about_clocks(answer: dict[str, Any]) -> int:
        return sum(agent.post(id).community == "clocks" for id in posts(answer))

    first = call(agent, "recommend", user=reader, k=10)
    rule = call(agent, "steer", user=reader, topic="pendulum", direction="more", horizon="month")
    assert about_clocks(call(agent, "recommend", user=reader, k=10)) > about_clocks(first)
    call(agent, "forget", user=reader, event=rule["id"])
    assert posts(call(agent, "recommend", user=reader, k=10)) == posts(first)


def test_a_rule_ends_at_its_horizon(home: Path, reader: str) -> None:
    from tests.conftest import EMBEDDER
    from tests.world import DAY, NOW
    from whyfeed.agent.settings import Settings

    now = [NOW]
    with Agent(Settings(home=home, embedder=EMBEDDER, no_llm=True), clock=lambda: now[0]) as agent:
        first = posts(call(agent, "recommend", user=reader, k=10))
        call(agent, "steer", user=reader, topic="tomato", direction="less", horizon="day")
        assert posts(call(agent, "recommend", user=reader, k=10)) != first
        now[0] += 2 * DAY
        assert posts(call(agent, "recommend", user=reader, k=10)) == first


def test_search_finds_by_words_whoever_asks(agent: Agent, world: World) -> None:
    found = call(agent, "search", query="spinnaker halyard", k=10)
    assert found["query"] == "spinnaker halyard"
    ids = [each["id"] for each in found["posts"]]
    assert 0 < len(ids) <= 10
    assert len(set(ids)) == len(ids)
    assert all(world.topic_of[id] == "sailing" for id in ids[:3])
    relevances = [each["relevance"] for each in found["posts"]]
    assert relevances == sorted(relevances, reverse=True)
    assert ids[:2] == [each["id"] for each in call(agent, "search", query="spinnaker halyard", k=2)["posts"]]


def test_search_keeps_to_kinds(agent: Agent) -> None:
    found = call(agent, "search", query="brass sextant", kinds=["product"])
    assert [each["id"] for each in found["posts"]] == ["odd-product"]
    assert call(agent, "search", query="brass sextant", kinds=["video"])["posts"] == []
    many = call(agent, "search", query="tomato", k=50, kinds=["post", "product"])["posts"]
    assert {each["kind"] for each in many} <= {"post", "product"}


@pytest.mark.parametrize("query", [" ", "\x00", "？！", "的", "zzzzqqqq", "'\"*()-:^", "NOT", "a" * 2000])
def test_search_takes_any_words(agent: Agent, query: str) -> None:
    assert len(call(agent, "search", query=query)["posts"]) <= 5


def test_export_gives_the_files_of_the_exchange_format(agent: Agent, reader: str, tmp_path: Path) -> None:
    files = call(agent, "export", user=reader)["files"]
    folder = agent.export(reader, tmp_path / "export")
    assert set(files) == {path.name for path in folder.glob("*.jsonl")}
    for name, rows in files.items():
        assert rows == [json.loads(line) for line in (folder / name).read_text().splitlines()]
    assert [row["id"] for row in files["users.jsonl"]] == [reader]
    assert {row["user"] for row in files["interactions.jsonl"]} == {reader}
    again = tmp_path / "again"
    again.mkdir()
    for name, rows in files.items():
        (again / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = Store(tmp_path / "new")
    report = exchange.import_folder(store, again)
    assert len(list(store.events(user=reader))) == len(files["interactions.jsonl"])
    store.close()
    assert report


def test_an_erased_user_is_unknown(agent: Agent, reader: str) -> None:
    assert call(agent, "erase", user=reader) == {"user": reader, "erased": True}
    for name in ("recommend", "profile", "events", "export", "erase"):
        with pytest.raises(UnknownUser):
            call(agent, name, user=reader)


def test_suggest_reply_takes_turns_or_a_conversation_and_not_both(agent: Agent) -> None:
    for arguments in ({}, {"turns": []}, {**ASKING, "conversation": "c1"}):
        with pytest.raises(ValueError, match="either turns or the id of a conversation"):
            call(agent, "suggest_reply", **arguments)
    with pytest.raises(WhyfeedError, match="c1"):
        call(agent, "suggest_reply", conversation="c1")


# ---- what they refuse ----


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("recommend", {}, "user"),
        ("recommend", {"user": ""}, "user"),
        ("recommend", {"user": 5}, "user"),
        ("recommend", {"user": "u" * 201}, "user"),
        ("recommend", {"user": "u0", "k": 0}, "k"),
        ("recommend", {"user": "u0", "k": 51}, "k"),
        ("recommend", {"user": "u0", "k": 2.5}, "k"),
        ("recommend", {"user": "u0", "kinds": ["song"]}, "kinds"),
        ("recommend", {"user": "u0", "kinds": ["post"] * 9}, "kinds"),
        ("recommend", {"user": "u0", "query": "q" * 2001}, "query"),
        ("recommend", {"user": "u0", "language": "fr"}, "language"),
        ("recommend", {"user": "u0", "as_of": "yesterday"}, "yesterday"),
        ("recommend", {"user": "u0", "as_of": "nan"}, "finite"),
        ("recommend", {"user": "u0", "limit": 3}, "limit"),
        ("search", {"query": ""}, "query"),
        ("search", {"query": "x", "user": "u0"}, "user"),
        ("explain", {"user": "u0"}, "post"),
        ("feedback", {"user": "u0", "post": "gardening-0", "kind": "rate"}, "kind"),
        ("steer", {"user": "u0", "topic": " \t ", "direction": "more"}, "topic"),
        ("steer", {"user": "u0", "topic": "x", "direction": "up"}, "direction"),
        ("steer", {"user": "u0", "topic": "x", "direction": "less", "horizon": "year"}, "horizon"),
        ("events", {"user": "u0", "limit": 1001}, "limit"),
        ("suggest_reply", {**ASKING, "k": 11}, "k"),
        ("suggest_reply", {"turns": [{"role": "boss"}]}, "turns.0.role"),
        ("suggest_reply", {"turns": [{"role": "agent"}] * 501}, "turns"),
        ("status", {"user": "u0"}, "user"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(agent: Agent, name: str, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        call(agent, name, **arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("arguments", [None, [], "user", 5, [["user", "u0"]]])
def test_arguments_are_an_object(agent: Agent, arguments: Any) -> None:
    with pytest.raises(ValueError, match="recommend: arguments"):
        OPERATIONS["recommend"].call(agent, arguments)


@pytest.mark.parametrize("name", ["a\nb", "x" * 100_000])
def test_an_unknown_argument_of_any_name_is_one_short_line(agent: Agent, name: str) -> None:
    with pytest.raises(ValueError, match="status: ") as caught:
        call(agent, "status", **{name: 1})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["recommend", "profile", "events", "export", "erase"])
def test_unknown_users_and_posts_are_told(agent: Agent, name: str) -> None:
    with pytest.raises(UnknownUser, match="nobody"):
        call(agent, name, user="nobody")
    with pytest.raises(UnknownUser, match="nobody"):
        call(agent, "steer", user="nobody", topic="x", direction="less")
    with pytest.raises(UnknownUser, match="nobody"):
        call(agent, "feedback", user="nobody", post="gardening-0", kind="like")
    for of_post in ("explain", "why_not"):
        with pytest.raises(UnknownPost, match="nothing"):
            call(agent, of_post, user="u0", post="nothing")


# ---- anything at all ----

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=40),
    st.sampled_from(["u0", "u3", "newcomer", "gardening-0", "odd-script", "clocks-zh-1", "like", "less", "day", "zh"]),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
FITTING: dict[str, st.SearchStrategy[Any]] = {
    "user": st.sampled_from(["u0", "u3", "newcomer", "gardening-author-0", "nobody"]),
    "post": st.sampled_from(["gardening-0", "odd-empty", "odd-script", "odd-control", "clocks-zh-1", "nothing"]),
    "k": st.integers(0, 11),
    "limit": st.integers(-1, 1001),
    "query": st.text(max_size=60),
    "topic": st.text(max_size=60),
    "draft": st.text(max_size=60),
    "wish": st.text(max_size=60),
    "event": st.text(max_size=60),
    "kinds": st.lists(st.sampled_from(["post", "product", "ad", "song"]), max_size=3),
    "kind": st.sampled_from(["like", "hide", "view", "rate"]),
    "language": st.sampled_from(["en", "zh", None, "fr"]),
    "direction": st.sampled_from(["more", "less", "up"]),
    "horizon": st.sampled_from(["day", "week", "month", "always"]),
    "as_of": st.one_of(
        st.sampled_from(["2017-09-01", "0", "-1e300", "1e308", "9" * 40, "nan", "0001-01-01", "9999-12-31T23:59:59"]),
        st.text(max_size=20), st.floats().map(str),
    ),
    "llm": st.booleans(),
    "turns": st.lists(
        st.fixed_dictionaries(
            {"role": st.sampled_from(["customer", "agent", "knowledge"]), "text": st.text(max_size=60)},
            optional={
                    "time": st.floats(),
                    "item": st.dictionaries(st.text(max_size=8), ANYTHING, max_size=3),
                    "reply": st.text(max_size=60),
                    "more": ANYTHING,
                },
        ),
        min_size=1,
        max_size=4,
    ),
    "conversation": st.sampled_from([None] * 9 + ["c1"]),
}  # fmt: skip


@st.composite
def calls(draw: st.DrawFn) -> tuple[Operation, Any]:
    """An operation with arguments of which most fit, some are anything, and some are missing."""
    operation = OPERATIONS[draw(st.sampled_from([name for name in NAMES if name != "erase"]))]
    if draw(st.integers(0, 9)) == 0:
        return operation, draw(ANYTHING)
    arguments: dict[str, Any] = {}
    for name, field in operation.arguments.model_fields.items():
        if draw(st.integers(0, 29)) == 0:
            arguments[name] = draw(ANYTHING)
        elif field.is_required() or draw(st.booleans()):
            arguments[name] = draw(FITTING[name])
    return operation, arguments


@settings(max_examples=600)
@given(calls())
def test_any_arguments_are_answered_or_refused(agent: Agent, drawn: tuple[Operation, Any]) -> None:
    operation, arguments = drawn
    with suppress(ValueError, WhyfeedError):
        json.dumps(operation.call(agent, arguments), allow_nan=False).encode()
