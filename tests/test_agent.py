"""The Agent: recommending, steering, explaining, forgetting, by what a caller sees."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.checks import check_items, check_shape
from tests.world import NOW, World, write_rows
from whyfeed.agent.agent import Agent
from whyfeed.agent.settings import Settings
from whyfeed.retrieval.errors import DataError, HomeError, UnknownEvent, UnknownPost, UnknownUser


def ids(agent: Agent, user: str, k: int = 5, query: str | None = None) -> list[str]:
    return [item.post.id for item in agent.recommend(user, k, query).items]


def readers(world: World, taste: str) -> list[str]:
    return [user for user, tastes in world.tastes.items() if tastes == (taste,)]


@pytest.mark.parametrize("taste", ["gardening", "sailing", "clocks"])
def test_a_reader_gets_posts_on_their_taste(agent: Agent, world: World, taste: str) -> None:
    for user in readers(world, taste)[:3]:
        topics = [world.topic_of.get(post) for post in ids(agent, user)]
        assert topics.count(taste) >= 4, (user, topics)


def test_every_answer_has_the_shape_and_true_evidence(agent: Agent, world: World) -> None:
    for user in world.tastes:
        document = agent.recommend(user).to_json()
        check_shape(document, "recommend")
        check_items(agent, user, document["items"])


def test_a_reader_with_two_tastes_gets_both(agent: Agent, world: World) -> None:
    user, tastes = next((user, tastes) for user, tastes in world.tastes.items() if len(tastes) == 2)
    assert {world.topic_of.get(post) for post in ids(agent, user)} >= set(tastes)


def test_a_query_decides_what_it_is_about(agent: Agent, world: World) -> None:
    user = readers(world, "gardening")[0]
    assert [world.topic_of[post] for post in ids(agent, user, 3, "pendulum escapement")] == ["clocks"] * 3


def test_what_is_hidden_stays_away_and_undoing_brings_it_back(agent: Agent, world: World) -> None:
    user = readers(world, "sailing")[0]
    before = ids(agent, user)
    event = agent.feedback(user, before[0], "hide")
    after = ids(agent, user)
    assert before[0] not in after
    agent.forget(user, event.id)
    assert ids(agent, user) == before


def test_forgetting_is_as_if_it_had_never_happened(agent: Agent, world: World) -> None:
    user = readers(world, "clocks")[0]
    before = agent.recommend(user).to_json()
    liked = agent.feedback(user, before["items"][-1]["post"]["id"], "like")
    assert agent.recommend(user).to_json()["items"] != before["items"]
    agent.forget(user, liked.id)
    after = agent.recommend(user).to_json()
    assert after["items"] == before["items"]
    assert liked.id not in json.dumps(agent.traces(user))


def test_leaving_the_evidence_out_lowers_the_score(agent: Agent, world: World) -> None:
    user = readers(world, "gardening")[1]
    item = agent.recommend(user).items[0]
    events = [e for claim in item.reason.claims for e in claim.evidence if e.type == "event"]
    assert events
    cited = {event.post for event in events}
    for event in agent.events(user):
        if event.post in cited:
            agent.forget(user, event.id)
    again = {found.post.id: found.score for found in agent.recommend(user, 50).items}
    assert item.post.id not in again or again[item.post.id] < item.score


def test_a_newcomer_starts_from_named_interests(agent: Agent, world: World) -> None:
    user = agent.newcomer(["pendulum", "mainsail"], "Ada")
    assert {world.topic_of.get(post) for post in ids(agent, user)} >= {"clocks", "sailing"}
    assert {interest.label for interest in agent.profile(user).interests} == {"pendulum", "mainsail"}
    check_shape(agent.recommend(user).to_json(), "recommend")


def test_nobody_without_history_still_gets_a_list(agent: Agent, world: World) -> None:
    user = agent.newcomer([])
    document = agent.recommend(user).to_json()
    assert len(document["items"]) == 5
    check_items(agent, user, document["items"])


def test_why_and_why_not_say_what_the_trace_says(agent: Agent, world: World) -> None:
    user = readers(world, "sailing")[1]
    shown = ids(agent, user)
    why = agent.why(user, shown[1])
    assert why.shown
    assert why.rank == 2
    assert why.contributions
    seen = next(event.post for event in agent.events(user) if event.post)
    assert agent.why_not(user, seen).removed == ("filter", "seen")
    agent.feedback(user, shown[0], "hide")
    assert agent.why_not(user, shown[0]).removed == ("filter", "hidden")
    everything = [post for post in world.topic_of if post not in ids(agent, user)]
    codes = {agent.why_not(user, post).removed for post in everything}
    assert None not in codes
    assert ("select", "outranked") in codes


def test_a_rule_can_be_switched_off(agent: Agent, world: World) -> None:
    user = readers(world, "gardening")[0]
    list(agent.chat(user, "less tomato"))
    rule = agent.profile(user).rules[0]
    assert rule.active
    assert rule.topic == "tomato"
    agent.set_rule(user, rule.id, False)
    assert not agent.profile(user).rules[0].active
    with pytest.raises(UnknownEvent):
        agent.set_rule(user, "e999999", True)


def test_as_of_knows_nothing_of_the_future(agent: Agent, world: World) -> None:
    user = readers(world, "clocks")[0]
    events = sorted((event for event in agent.events(user) if event.time), key=lambda event: event.time or 0)
    moment = events[len(events) // 2].time
    assert moment is not None
    answer = agent.recommend(user, as_of=moment)
    for item in answer.items:
        assert item.post.created_at is None or item.post.created_at <= moment
        cited = {e.id for claim in item.reason.claims for e in claim.evidence if e.type == "event"}
        assert cited <= {event.id for event in events if (event.time or 0) <= moment}


def test_erasing_leaves_nothing(agent: Agent, world: World) -> None:
    user = agent.newcomer(["pendulum"])
    list(agent.chat(user, "What should I read?"))
    agent.feedback(user, ids(agent, user)[0], "like")
    agent.erase(user)
    with pytest.raises(UnknownUser):
        agent.recommend(user)
    database = agent.store.database.connection
    for table, column in (("events", "user"), ("conversations", "user"), ("traces", "user"), ("users", "id")):
        assert database.execute(f"SELECT count(*) FROM {table} WHERE {column} = ?", [user]).fetchone()[0] == 0
    assert (
        database.execute(
            "SELECT count(*) FROM turns WHERE conversation NOT IN (SELECT id FROM conversations)"
        ).fetchone()[0]
        == 0
    )


def test_an_export_can_be_imported_elsewhere(agent: Agent, world: World, tmp_path: Path) -> None:
    user = readers(world, "sailing")[0]
    folder = agent.export(user, tmp_path / "mine")
    with Agent(Settings(home=tmp_path / "other", embedder="hash-64", no_llm=True), clock=lambda: NOW) as other:
        assert other.import_folder(folder).counts["interactions"].rejected == 0
        assert {event.post for event in other.events(user)} == {event.post for event in agent.events(user)}
    with pytest.raises(DataError, match="exists"):
        agent.export(user, tmp_path / "mine")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda agent: agent.recommend("nobody"), UnknownUser, "nobody"),
        (lambda agent: agent.recommend("u1", 0), ValueError, "k=0"),
        (lambda agent: agent.recommend("u1", language="fr"), ValueError, "'fr' is none of en, zh"),
        (lambda agent: agent.feedback("nobody", "p1", "like"), UnknownUser, "nobody"),
        (lambda agent: agent.chat("nobody", "hi"), UnknownUser, "nobody"),
        (lambda agent: agent.forget("nobody", "e1"), UnknownUser, "nobody"),
        (lambda agent: agent.post("nothing"), UnknownPost, "nothing"),
    ],
)
def test_bad_arguments_are_named(agent: Agent, call: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(agent)  # type: ignore[operator]


def test_feedback_refuses_unknown_kinds_and_posts(agent: Agent, world: World) -> None:
    user = next(iter(world.tastes))
    with pytest.raises(ValueError, match="applaud"):
        agent.feedback(user, next(iter(world.topic_of)), "applaud")
    with pytest.raises(UnknownPost):
        agent.feedback(user, "nothing", "like")


def test_an_empty_home_says_so(tmp_path: Path) -> None:
    with Agent(Settings(home=tmp_path / "empty", embedder="hash-64", no_llm=True)) as agent:
        user = agent.newcomer(["anything"])
        assert agent.recommend(user).items == ()
        answer = list(agent.chat(user, "What should I read?"))[-1]
        assert "no posts" in answer.text  # type: ignore[union-attr]
        assert agent.status()["posts"] == 0


def test_a_home_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="home folder"):
        Agent.open(tmp_path / "file" / "home")


def test_two_agents_on_one_home_see_each_other(home: Path, world: World) -> None:
    user = readers(world, "clocks")[0]
    settings = Settings(home=home, embedder="hash-64", no_llm=True)
    with Agent(settings) as first, Agent(settings) as second:
        hidden = ids(first, user)[0]
        second.feedback(user, hidden, "hide")
        assert hidden not in ids(first, user)


def test_many_threads_share_an_agent(agent: Agent, world: World) -> None:
    users = list(world.tastes)[:8]
    expected = {user: ids(agent, user) for user in users}
    found: dict[str, list[list[str]]] = {user: [] for user in users}

    def ask(user: str) -> None:
        for _ in range(3):
            found[user].append(ids(agent, user))

    threads = [threading.Thread(target=ask, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {user: [expected[user]] * 3 for user in users}


def test_a_new_post_is_shown_after_an_import(agent: Agent, world: World, tmp_path: Path) -> None:
    user = readers(world, "sailing")[0]
    write_rows(
        tmp_path / "more" / "posts.jsonl",
        [
            {
                "id": "fresh",
                "title": "keel mast rudder jib regatta",
                "tags": ["keel"],
                "community": "sailing",
                "created_at": NOW,
            }
        ],
    )
    agent.import_folder(tmp_path / "more")
    assert "fresh" in ids(agent, user, 5, "keel mast rudder jib regatta")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"chat": "sometimes"}, "setting chat: Input should be 'auto', 'plan' or 'agent'"),
        ({"judged": "many"}, "setting judged: Input should be a valid integer, unable to parse string as an integer"),
        ({"llm_timeot": 3}, "setting llm_timeot: Extra inputs are not permitted"),
        ({"home": " "}, "setting home: Value error, an empty name is no folder; leave it out for the default"),
        ({"judged": -3}, "setting judged: Input should be greater than or equal to 1"),
        ({"write_seconds": float("nan")}, "setting write_seconds: Input should be a finite number"),
        ({"ray_workers": 0}, "setting ray_workers: Input should be greater than or equal to 1"),
    ],
)
def test_a_setting_that_does_not_exist_or_fit_is_one_line(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match="setting") as caught:
        Settings(**settings)
    assert str(caught.value) == line


def test_a_bad_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHYFEED_NOTHING_LIKE_THIS", "1")
    assert Settings() == Settings()
    monkeypatch.setenv("WHYFEED_LLM_TIMEOUT", "soon")
    with pytest.raises(ValueError, match="setting WHYFEED_LLM_TIMEOUT: Input should be a valid number"):
        Settings()


def test_settings_never_change(agent: Agent) -> None:
    with pytest.raises(ValueError, match="frozen"):
        agent.settings.chat = "plan"  # type: ignore[misc]
    assert agent.settings.chat == "auto"
