"""What accounts that belong to one person can do to the lists of others: next to nothing, and others notice nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ranking_world import event, read, tools
from tests.world import DAY, START, TOPICS, WORDS, Row, World, write_rows
from whyfeed.agent.agent import Agent
from whyfeed.agent.answer import Answer
from whyfeed.finetune.evaluation.baselines import BASELINES
from whyfeed.finetune.evaluation.histories import Histories
from whyfeed.finetune.ranking.parts import PARTS
from whyfeed.retrieval.arrays import Rows
from whyfeed.retrieval.community.trust import account_weights, counted, focus, witnessed

TITLE = "Keel mast rudder casino bonus jackpot"
LAST = START + 60 * DAY  # the newest act of the world is about as old


def advertisement(**more: Any) -> Row:
    return {
        "id": "ad", "title": TITLE, "text": f"{TITLE}. Register today!", "author": "seller", "community": "sailing",
        "tags": ["keel"], "created_at": START + 52 * DAY, **more,
    }  # fmt: skip


def like(user: str, post: str, time: float) -> Row:
    return {"user": user, "post": post, "kind": "like", "time": time}


def add(agent: Agent, folder: Path, posts: Iterable[Row] = (), interactions: Iterable[Row] = ()) -> None:
    write_rows(folder / "posts.jsonl", posts)
    write_rows(folder / "interactions.jsonl", interactions)
    assert agent.import_folder(folder).rejects is None


def seen_by(agent: Agent, world: World, post: str = "ad") -> int:
    """How many readers have the post in their first five."""
    return sum(
        post in [item.post.id for item in agent.recommend(user, write=False).items]
        for user, tastes in world.tastes.items()
        if "sailing" in tastes
    )


def popular(world: World) -> list[str]:
    counts: dict[str, int] = {}
    for row in world.interactions:
        if world.topic_of.get(row["post"]) == "sailing":
            counts[row["post"]] = counts.get(row["post"], 0) + 1
    return sorted(counts, key=lambda post: (-counts[post], post))


def fresh_accounts(world: World) -> list[Row]:
    return [like(f"fake{number}", "ad", LAST + number) for number in range(50)]


def with_camouflage(world: World) -> list[Row]:
    """They like the most popular posts first, all within an hour."""
    return [
        like(f"fake{number}", post, LAST + 60 * number + place)
        for number in range(50)
        for place, post in enumerate([*popular(world)[number % 3 :: 3][:5], "ad"])
    ]


def back_dated(world: World) -> list[Row]:
    """They come all at once, each with a past of nine days."""
    pasts = [
        like(f"fake{number}", post, LAST - (10 - place) * DAY + number)
        for number in range(20)
        for place, post in enumerate(popular(world)[:9])
    ]
    return [*pasts, *fresh_accounts(world)[:20]]


@pytest.mark.parametrize("accounts", [fresh_accounts, with_camouflage, back_dated])
def test_accounts_without_a_past_bring_their_post_to_nobody(
    agent: Agent, world: World, tmp_path: Path, accounts: Any
) -> None:
    # With tags of the community the post is nearly good enough by itself.
    add(agent, tmp_path / "ad", [advertisement(tags=["keel", "mast", "rudder"])])
    before = seen_by(agent, world)
    add(agent, tmp_path / "likes", interactions=accounts(world))
    assert seen_by(agent, world) <= before + 1


def test_tags_beyond_the_usual_number_help_nobody(agent: Agent, world: World, tmp_path: Path) -> None:
    add(agent, tmp_path / "few", [advertisement(tags=WORDS["sailing"].split()[:3])])
    before = seen_by(agent, world)
    every_tag = [word for topic in TOPICS for word in WORDS[topic].split()]
    add(agent, tmp_path / "all", [advertisement(tags=every_tag)])
    assert seen_by(agent, world) <= before
    # Asked for in words, too, a post with every tag is the answer to none.
    for words in ("spinnaker halyard", "pendulum escapement", "tomato compost"):
        assert "ad" not in [item.post.id for item in agent.recommend("u0", 5, words, write=False).items]
    agent.steer("u0", "pendulum", "more")
    assert "ad" not in [item.post.id for item in agent.recommend("u0", 5, write=False).items]


def test_one_account_counts_once_however_often_it_likes(agent: Agent, world: World, tmp_path: Path) -> None:
    add(agent, tmp_path, [advertisement()])

    def popularity() -> dict[str, float]:
        found = agent.recommend("u1", 50, write=False).items
        return {item.post.id: item.contributions["popular"] for item in found}

    agent.feedback("newcomer", "ad", "like")
    once = popularity()
    for _ in range(30):
        agent.feedback("newcomer", "ad", "like")
    assert popularity() == once
    # So does a member, however established.
    agent.feedback("u4", "sailing-0", "like")
    once = popularity()
    for _ in range(30):
        agent.feedback("u4", "sailing-0", "like")
    assert popularity() == once


def test_a_post_of_the_far_future_makes_no_other_old(agent: Agent, world: World, tmp_path: Path) -> None:
    def freshness() -> dict[str, float]:
        found = agent.recommend("u1", 50, write=False).items
        return {item.post.id: item.contributions["fresh"] for item in found if item.post.id.startswith("sailing")}

    before = freshness()
    future = START + 3_000 * DAY
    add(agent, tmp_path, [advertisement(created_at=future)], [like("fake", "ad", future)])
    after = freshness()
    assert before.keys() == after.keys()
    assert len(before) >= 5
    assert min(after[id] / before[id] for id in before) > 0.4  # it moves the clock by a tenth of the community's time


def test_near_copies_share_one_place(agent: Agent, world: World, tmp_path: Path) -> None:
    best = agent.recommend("u1", write=False).items[0].post
    copies = [{**best.to_row(), "id": f"copy{number}", "author": f"seller{number}"} for number in range(30)]
    add(agent, tmp_path, copies)
    alike = {best.id, *(row["id"] for row in copies)}
    first = [item.post.id for item in agent.recommend("u1", 10, write=False).items]
    assert len(alike & set(first)) == 1
    # Nor do "others, please" bring the next copy.
    conversation = None
    shown: list[str] = []
    for words in ("What should I read?", "Show me others", "Show me others"):
        *_, answer = agent.chat("u1", words, conversation)
        assert isinstance(answer, Answer)
        conversation = answer.conversation
        shown += [item.post.id for item in answer.items]
    assert len(shown) > 5
    assert len([id for id in shown if id in alike]) <= 1


def test_a_home_of_newcomers_ranks_by_what_they_like(tmp_path: Path) -> None:
    """On the first day nobody has a past; their likes count all the same."""
    posts = [{"id": f"p{number}", "title": f"Post number {number}", "created_at": START} for number in range(12)]
    likes = [like(f"u{number}", "p7", START + number) for number in range(6)]
    likes += [like("u0", "p2", START + 60), like("u1", "p3", START + 60)]
    with Agent.open(tmp_path / "home", no_llm=True) as agent:
        write_rows(tmp_path / "in" / "users.jsonl", [{"id": "reader"}])
        add(agent, tmp_path / "in", posts, likes)
        items = agent.recommend("reader", 3, write=False).items
        found = {item.post.id: item.contributions["popular"] for item in items}
        assert items[0].post.id == "p7"
        assert found["p7"] > 0
        for number in range(6, 12):  # and more of them count more
            agent.feedback(f"u{number - 6}", "p3", "like")
        after = {
            item.post.id: item.contributions["popular"] for item in agent.recommend("reader", 3, write=False).items
        }
        assert after["p3"] > found.get("p3", 0.0)


def test_the_lists_of_a_community_without_an_attack_stay_as_they_were(agent: Agent, world: World) -> None:
    """Members count fully: what a member likes next raises it for all as before."""
    users = [user for user, tastes in world.tastes.items() if tastes == ("sailing",)]
    target = popular(world)[-1]

    def popularity() -> float:
        items = agent.recommend("newcomer", 50, write=False).items
        return {item.post.id: item.contributions["popular"] for item in items}.get(target, 0.0)

    values = [popularity()]
    for user in users:
        agent.feedback(user, target, "like")
        values.append(popularity())
    assert values[-1] > values[0]
    assert values == sorted(values)


# ---- on a plain ledger of accounts, posts and times


@pytest.fixture
def attacked(tmp_path: Path) -> Histories:
    """40 members who like 12 of 30 posts within 20 days; 60 accounts that like a 31st and the three most popular."""
    rng = np.random.default_rng(0)
    chances = np.arange(40, 10, -1) / np.arange(40, 10, -1).sum()
    rows = [
        event(f"m{member}", f"p{post}", START + float(rng.uniform(0, 20)) * DAY, "like")
        for member in range(40)
        for post in rng.choice(30, 12, replace=False, p=chances)
    ]
    rows += [
        event(f"fake{number}", post, START + 20 * DAY + number, "like")
        for number in range(60)
        for post in ("p0", "p1", "p2", "ad")
    ]
    return read(tmp_path, rows, [{"id": f"p{number}"} for number in range(30)] + [{"id": "ad"}])


def members(histories: Histories) -> Rows:
    return np.array([row for row, user in enumerate(histories.users) if user.startswith("m")])


@pytest.mark.parametrize("name", ["popularity", "user-knn", "ease", "smoothed set by none"])
def test_what_counts_of_a_ledger_protects_every_count(attacked: Histories, name: str) -> None:
    weights = account_weights(attacked.user, attacked.post, attacked.time)
    kept = attacked.keep(counted(attacked.user, attacked.post, weights))
    ad, asked = attacked.post_rows["ad"], members(attacked)

    def ahead(learnt: Histories) -> float:
        """How many posts that a member has not seen are ranked above the advertisement, on average."""
        ranker = {**BASELINES, **PARTS}[name](tools(attacked))
        ranker.fit(learnt)
        scores = np.where(attacked.liked[asked].toarray() > 0, -np.inf, ranker.score(asked))
        return float((scores > scores[:, [ad]]).sum(axis=1).mean())

    assert ahead(kept) == 18  # all of them
    assert ahead(attacked) < 15


def test_of_members_everything_counts(attacked: Histories) -> None:
    alone = attacked.keep(np.isin(attacked.user, members(attacked)))
    assert counted(alone.user, alone.post, account_weights(alone.user, alone.post, alone.time)).all()


def test_weights_are_relative_and_never_all_zero() -> None:
    users, posts = np.array([0, 1, 2, 3]), np.array([0, 0, 1, 2])
    times = np.full(4, START)
    assert account_weights(users, posts, times).tolist() == [1, 1, 1, 1]
    assert counted(users, posts, account_weights(users, posts, times)).all()
    assert account_weights(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)).tolist() == []
    # Numbers of an order are no days, and neither are unknown times.
    for order in (np.arange(4.0), np.full(4, np.nan), None):
        assert account_weights(users, posts, order).tolist() == [1, 1, 1, 1]


def test_the_account_with_more_of_a_past_weighs_more() -> None:
    lengths = [1, 2, 5, 10, 30]
    users = np.repeat(np.arange(5), lengths)
    posts = np.concatenate([np.arange(length) for length in lengths])
    weights = account_weights(users, posts, START + posts * DAY)
    assert (np.diff(weights) >= 0).all()
    assert weights[0] < 0.001
    assert weights[-1] == 1
    # Acting all day long on one day is less than on many days, and on one post it is nothing more.
    assert account_weights(users, posts, np.full(len(posts), START))[3] == 1  # where all do so, it is usual
    again = account_weights(np.append(users, [0] * 50), np.append(posts, [0] * 50), None)
    assert again[0] == account_weights(users, posts)[0]


def test_newcomers_count_beside_members_and_hardly_alone() -> None:
    members, newcomers = 4, 30
    weights = np.array([1.0] * members + [0.0001] * newcomers, dtype=np.float32)
    users = np.arange(members + newcomers)
    alone = counted(users[members:], np.zeros(newcomers, dtype=np.int64), weights)
    assert alone.sum() == 1
    assert alone[0]  # the one who came first
    beside = counted(users, np.zeros(len(users), dtype=np.int64), weights)
    assert beside[:members].all()
    assert beside.sum() == 3 * members + 1


def test_a_past_that_comes_at_once_is_of_one_day() -> None:
    times = np.array([START, START + DAY, START + 2 * DAY, START - 50 * DAY, START + DAY, np.nan])
    assert witnessed(times).tolist() == [START, *[START + DAY], *[START + 2 * DAY] * 4]
    assert np.isnan(witnessed(np.full(3, np.nan))).all()
    # Of a file that is sorted by user the order says nothing.
    by_user = np.tile(START + np.arange(5) * DAY, 4)[::-1]
    assert witnessed(by_user).tolist() == by_user.tolist()
    assert len(witnessed(np.zeros(0))) == 0


@pytest.mark.parametrize(
    ("tags", "expected"), [([1, 2, 3, 5], [1, 1, 1, 1]), ([2] * 20 + [50], [1] * 20 + [0.1]), ([], [])]
)
def test_focus_falls_with_unusually_many_tags(tags: Sequence[int], expected: Sequence[float]) -> None:
    assert focus(np.array(tags, dtype=np.int64)).tolist() == pytest.approx(expected)
