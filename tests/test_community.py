"""The community in memory: what is related to what, who likes what, and nothing from the future."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tests.conftest import arrays, of_reader
from tests.world import DAY, NOW, START, TOPICS, WORDS, World, make_world
from whyfeed.agent.recommend.pipeline import Ranking, Task, run
from whyfeed.agent.recommend.ranker import Ranker
from whyfeed.agent.recommend.snapshot import Snapshot
from whyfeed.agent.request import Request
from whyfeed.retrieval.arrays import Floats, Rows, Vectors, unit
from whyfeed.retrieval.community import signals
from whyfeed.retrieval.community import sources as source
from whyfeed.retrieval.community.candidate import Candidate
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.cooccurrence import (
    LONGEST_HISTORY,
    MIN_COSINE,
    NEIGHBOURS,
    Cooccurrence,
    text_neighbours,
)
from whyfeed.retrieval.community.embedder import Embedder, HashEmbedder
from whyfeed.retrieval.community.reader import Reader, read
from whyfeed.retrieval.community.topics import Topics
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.store.exchange import import_folder
from whyfeed.retrieval.store.store import Store
from whyfeed.retrieval.user import User

SIZE = 12
MIDDLE = START + 50 * DAY  # some posts and half of the acts come later


def act(user: str, post: str, kind: str = "like", time: float | None = NOW) -> Event:
    return Event("", user, post, kind, time)


def view_of(store: Store, **options: Any) -> Snapshot:
    embedder = HashEmbedder(64)
    community = Community.load(store, embedder, **options)
    return Snapshot(store, embedder, community, Topics(store, community, embedder), Ranker())


def ranked(view: Snapshot, user: str, k: int = 5, **task: Any) -> Ranking:
    return run(view, view.reader(user), Task(Request(), k, now=NOW, **task))


@pytest.fixture
def home_of(tmp_path: Path) -> Iterator[Callable[[World], Store]]:
    """Import worlds into homes of their own."""
    stores: list[Store] = []

    def make(world: World) -> Store:
        store = Store(tmp_path / f"home-{len(stores)}")
        stores.append(store)
        report = import_folder(store, world.write(tmp_path / f"in-{len(stores)}"))
        assert report.rejects is None
        return store

    yield make
    for store in stores:
        store.close()


# ---- co-occurrence


def cooccurrence(seed: int, size: int = SIZE, events: int = 80) -> Cooccurrence:
    rng = np.random.default_rng(seed)
    neighbours = text_neighbours(unit(rng.standard_normal((size, 4))))
    return Cooccurrence(rng.integers(0, 9, events), rng.integers(0, size, events), size, neighbours)


_histories = st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=8, unique=True)


@given(st.integers(0, 50), _histories, st.data())
@settings(max_examples=60)
def test_shares_are_a_column_of_spread(seed: int, history: list[int], data: st.DataObject) -> None:
    counted = cooccurrence(seed)
    reach = counted.reach(np.array(history))
    weights = np.array(data.draw(st.lists(st.floats(0, 1, width=32), min_size=len(history), max_size=len(history))))
    spread = counted.spread(reach, weights.astype(np.float32))
    assert spread.shape == (SIZE,)
    for candidate in range(SIZE):
        shares = counted.shares(reach, candidate)
        assert shares.shape == (len(history),)
        assert float(shares @ weights) == pytest.approx(float(spread[candidate]), abs=1e-6)


@given(st.integers(0, 50), _histories)
@settings(max_examples=60)
def test_leaving_one_out_is_computing_it_without(seed: int, history: list[int]) -> None:
    counted = cooccurrence(seed)
    rows = np.array(history)
    reach, ones = counted.reach(rows), np.ones(len(rows), dtype=np.float32)
    whole = counted.spread(reach, ones)
    for place in range(len(rows)):
        kept = np.delete(rows, place)
        without = counted.spread(counted.reach(kept), np.ones(len(kept), dtype=np.float32))
        alone = np.array([counted.shares(reach, candidate)[place] for candidate in range(SIZE)])
        assert np.allclose(whole - alone, without, atol=1e-6)


def test_readers_of_one_read_the_other() -> None:
    # Four readers went from 0 to 1, one from 0 to 2; nobody who read 0 read 3.
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (4, 0), (4, 2), (5, 3), (5, 4)]
    users, rows = np.array(pairs).T
    counted = Cooccurrence(users, rows, 5, sparse.csr_matrix((5, 5), dtype=np.float32))
    found = counted.spread(counted.reach(np.array([0])), np.ones(1, dtype=np.float32))
    assert found[1] > found[2] > 0
    assert found[0] == found[3] == found[4] == 0


def test_neighbours_of_what_was_read_together_are_reached_too() -> None:
    neighbours = sparse.csr_matrix(np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=np.float32))
    counted = Cooccurrence(np.array([0, 0]), np.array([0, 1]), 4, neighbours)
    found = counted.spread(counted.reach(np.array([0])), np.ones(1, dtype=np.float32))
    assert found[1] > found[3] > found[2] == 0
    from_the_neighbour = counted.spread(counted.reach(np.array([3])), np.ones(1, dtype=np.float32))
    assert from_the_neighbour[0] > 0


def test_ten_acts_on_one_post_are_one_meeting() -> None:
    nothing = sparse.csr_matrix((3, 3), dtype=np.float32)
    once = Cooccurrence(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 2]), 3, nothing)
    often = Cooccurrence(np.array([0] * 6 + [1, 1]), np.array([0, 1, 0, 1, 1, 0, 0, 2]), 3, nothing)
    weights = np.ones(3, dtype=np.float32)
    assert (once.reach(np.arange(3)) != often.reach(np.arange(3))).nnz == 0
    assert np.array_equal(
        once.spread(once.reach(np.arange(3)), weights), often.spread(often.reach(np.arange(3)), weights)
    )


def test_only_the_end_of_an_endless_history_counts() -> None:
    size = LONGEST_HISTORY + 50
    nothing = sparse.csr_matrix((size, size), dtype=np.float32)
    rows = np.arange(size)
    users = np.zeros(size, dtype=np.int64)
    whole = Cooccurrence(users, rows, size, nothing)
    end = Cooccurrence(users[50:], rows[50:], size, nothing)
    assert (whole.reach(rows) != end.reach(rows)).nnz == 0


def test_without_events_or_posts_nothing_is_related() -> None:
    none = np.zeros(0, dtype=np.int64)
    for size in (0, 3):
        counted = Cooccurrence(none, none, size, text_neighbours(np.zeros((size, 4), dtype=np.float32)))
        assert not counted.spread(counted.reach(np.arange(size)), np.ones(size, dtype=np.float32)).any()


def test_text_neighbours_are_the_nearest_others_by_cosine() -> None:
    vectors = unit(np.random.default_rng(1).standard_normal((80, 6)))
    vectors[7] = 0
    vectors[8] = vectors[9]
    found = text_neighbours(vectors).toarray()
    truth = np.maximum(vectors @ vectors.T - MIN_COSINE, 0) ** 4
    np.fill_diagonal(truth, 0)
    for line in truth:
        line[np.argsort(-line)[NEIGHBOURS:]] = 0
    truth /= np.maximum(truth.sum(axis=1, keepdims=True), 1e-12)
    assert np.allclose(found, truth, atol=1e-4)
    assert not found[7].any()
    assert found[8, 9] == found[8].max()


# ---- readers


def test_who_reads_one_topic_has_interests_in_it_alone(view: Snapshot, world: World) -> None:
    for user, taste in world.tastes.items():
        reader = view.reader(user)
        topics = {world.topic_of.get(view.community.ids[row]) for group in reader.groups for row in group.rows}
        assert topics - {None} == set(taste)
        assert sum(group.weight for group in reader.groups) == pytest.approx(1.0 if taste else 0.0)


def test_two_tastes_are_two_groups_and_each_is_of_one_topic(view: Snapshot, world: World) -> None:
    for user, taste in world.tastes.items():
        if len(taste) != 2:
            continue
        groups = view.reader(user).groups
        topics = [{world.topic_of[view.community.ids[row]] for row in group.rows} for group in groups]
        assert sorted(topics, key=sorted) == sorted(({topic} for topic in taste), key=sorted)
        assert float(groups[0].vector @ groups[1].vector) < 0.5


def test_the_planted_taste_ranks_first(view: Snapshot, world: World) -> None:
    for user, taste in world.tastes.items():
        chosen = [candidate.post for candidate in ranked(view, user).chosen]
        assert len(chosen) == 5
        if taste:
            assert {world.topic_of.get(post) for post in chosen} <= set(taste), user
            known = {event.post for event in view.reader(user).events}
            assert not known & set(chosen)


def test_both_tastes_are_served(view: Snapshot, world: World) -> None:
    for user, taste in world.tastes.items():
        if len(taste) == 2:
            chosen = [candidate.post for candidate in ranked(view, user, 10).chosen]
            assert {world.topic_of.get(post) for post in chosen} == set(taste)


def test_who_has_no_past_gets_what_is_popular_or_new(view: Snapshot) -> None:
    ranking = ranked(view, "newcomer")
    assert len(ranking.chosen) == 5
    assert not len(ranking.reader.rows)
    assert ranking.reader.groups == ()
    assert {"fresh", "popular"} & {name for candidate in ranking.chosen for name in candidate.sources}


def test_a_named_interest_is_enough_to_start_with(store: Store, view: Snapshot, world: World) -> None:
    store.append(Event("", "newcomer", "", "interest", NOW, None, "keel mast rudder"))
    reader = view.reader("newcomer")
    assert [group.topic for group in reader.groups] == ["keel mast rudder"]
    assert [topic for _, topic in reader.named] == ["keel mast rudder"]
    chosen = [candidate.post for candidate in ranked(view, "newcomer").chosen]
    assert [world.topic_of.get(post) for post in chosen[:3]] == ["sailing"] * 3


def test_the_hidden_post_and_its_near_twin_stay_away(view: Snapshot) -> None:
    ranking = ranked(view, "u7", 50)
    chosen = {candidate.post for candidate in ranking.chosen}
    assert not {"sailing-twin-a", "sailing-twin-b"} & chosen
    assert ranking.trace.removed["sailing-twin-b"] == ("filter", "twin")
    assert ranking.reader.hidden == (view.community.row_of["sailing-twin-a"],)
    others = ranked(view, "u1", 50)
    assert {"sailing-twin-a", "sailing-twin-b"} & {candidate.post for candidate in others.chosen}


def test_what_is_liked_after_it_was_hidden_is_hidden_no_more(store: Store, view: Snapshot) -> None:
    store.append(act("u7", "sailing-twin-a", "like"))
    assert view.reader("u7").hidden == ()
    assert view.community.row_of["sailing-twin-a"] in view.reader("u7").rows
    store.append(act("u7", "sailing-twin-a", "hide", NOW + 1))
    assert view.reader("u7").hidden == (view.community.row_of["sailing-twin-a"],)
    assert view.community.row_of["sailing-twin-a"] not in view.reader("u7").rows


@pytest.mark.parametrize("topic", ["spinnaker", "Spinnakers", "rudder"])
def test_a_rule_keeps_its_topic_away_until_it_is_switched_off(store: Store, view: Snapshot, topic: str) -> None:
    def about(ranking: Ranking) -> set[str]:
        word = topic.lower().rstrip("s")
        posts = store.posts([candidate.post for candidate in ranking.chosen])
        return {post.id for post in posts.values() if word in post.tags or word in post.title.lower()}

    assert about(ranked(view, "u1", 50))
    rule = store.append(Event("", "u1", "", "exclude", NOW, None, topic))
    ranking = ranked(view, "u1", 50)
    assert about(ranking) == set()
    assert f"rule:{rule.id}" in {reason for _, reason in ranking.trace.removed.values()}
    store.append(Event("", "u1", "", "rule-off", NOW + 1, None, rule.id))
    assert about(ranked(view, "u1", 50))
    store.append(Event("", "u1", "", "rule-on", NOW + 2, None, rule.id))
    assert about(ranked(view, "u1", 50)) == set()
    assert about(ranked(view, "u2", 50)) or view.reader("u2").rules == ()


def test_a_later_rule_on_a_topic_replaces_the_earlier(store: Store, view: Snapshot) -> None:
    store.append(Event("", "u1", "", "exclude", NOW, None, "Rudder"))
    store.append(Event("", "u1", "", "include", NOW + 1, None, '{"topic": "rudder", "horizon": "week"}'))
    (rule,) = view.reader("u1").rules
    assert (rule.kind, rule.topic, rule.horizon, rule.active) == ("include", "rudder", "week", True)


@pytest.mark.parametrize(
    "text", ["", "{", "{broken", '{"topic": null}', '{"topic": {"a": [1]}}', "{" * 3000, "null", "[]"]
)
def test_no_text_of_a_rule_makes_a_reader_unreadable(store: Store, view: Snapshot, text: str) -> None:
    for kind in ("exclude", "include", "rule-off", "rule-on", "interest"):
        store.append(Event("", "u1", "", kind, NOW, None, text))
    assert len(ranked(view, "u1").chosen) == 5


def test_later_acts_weigh_more(view: Snapshot) -> None:
    reader = view.reader("u0")
    assert list(reader.weights) == sorted(reader.weights) or {event.weight for event in reader.events} != {1.0}
    last = reader.events[-1].post
    assert reader.rows[-1] == view.community.row_of[last]
    assert float(np.linalg.norm(reader.recent)) == pytest.approx(1.0, abs=1e-5)


def test_without_a_post_is_never_having_acted_on_it(store: Store, view: Snapshot) -> None:
    rng = random.Random(7)
    for step in range(40):
        kind = rng.choice(["like", "hide", "comment", "view", "dislike", "odd"])
        store.append(act("u7", rng.choice(view.community.ids[:20]), kind, NOW + step))
    store.append(Event("", "u7", "", "interest", NOW, None, "escapement"))
    store.append(Event("", "u7", "", "exclude", NOW, None, "rudder"))
    reader = view.reader("u7")
    assert len(reader.hidden) > 2
    for row in range(len(view.community)):
        events = [event for event in reader.events if event.post != view.community.ids[row]]
        left = reader.without(row, view.community)
        never = read("u7", events, view.community, view.embedder)
        assert of_reader(left) == of_reader(never), view.community.ids[row]
        assert (left.rules, left.named) == (never.rules, never.named)
        assert {author: acts for author, acts in left.replied.items() if acts} == never.replied


def test_acts_on_posts_that_are_gone_are_no_part_of_the_reader(store: Store) -> None:
    store.append(act("u0", "never-imported"))
    view = view_of(store)
    reader = view.reader("u0")
    assert "never-imported" in {event.post for event in reader.events}
    assert reader.seen == {
        view.community.row_of[event.post] for event in reader.events if event.post != "never-imported"
    }


# ---- signals


def measured(view: Snapshot, user: str, rows: Sequence[int] | Rows) -> Floats:
    reader = view.reader(user)
    spread = signals.spread(reader, view.community, signals.reach(reader, view.community))
    every = np.asarray(rows, dtype=np.int64)
    return signals.measure(signals.SignalContext(every, reader, view.community, spread[every], {3: 0.5}, {4: 0.25}))


def test_signals_are_in_their_ranges_and_mean_what_they_say(view: Snapshot, world: World) -> None:
    community = view.community
    ranges = {signal.name: signal.range for signal in signals.TABLE}
    for user in ("u0", "u1", "u7", "u20", "newcomer"):
        values = dict(zip(signals.MEASURED, measured(view, user, np.arange(len(community))).T, strict=True))
        for name, column in values.items():
            assert np.isfinite(column).all(), name
            low, high = ranges[name]
            assert low - 1e-4 <= column.min() <= column.max() <= high + 1e-4, name
        assert values["query"].nonzero()[0].tolist() == [3]
        assert values["include"].nonzero()[0].tolist() == [4]
        if taste := world.tastes[user]:
            own = np.array([world.topic_of.get(id) in taste for id in community.ids])
            for name in ("interest", "cooccurrence", "community"):
                assert values[name][own].mean() > values[name][~own].mean() + 0.1, name
    hidden = dict(zip(signals.MEASURED, measured(view, "u7", [community.row_of["sailing-twin-b"]])[0], strict=True))
    assert hidden["disliked"] > 0.9
    assert not measured(view, "u1", np.arange(len(community)))[:, signals.MEASURED.index("disliked")].any()


def test_people_whom_a_reader_replies_to_count(store: Store, view: Snapshot) -> None:
    author = view.community.authors[view.community.row_of["clocks-0"]]
    other = view.community.row_of["clocks-5"]
    assert view.community.authors[other] == author
    place = signals.MEASURED.index("people")
    before = measured(view, "newcomer", [other])[0, place]
    store.append(act("newcomer", "clocks-0", "comment"))
    view.community.add_new_events(store)
    once = measured(view, "newcomer", [other])[0, place]
    store.append(act("newcomer", "clocks-10", "comment"))
    view.community.add_new_events(store)
    assert before == 0 < once < measured(view, "newcomer", [other])[0, place]


@pytest.mark.parametrize("user", ["u0", "u7", "u20", "newcomer"])
@pytest.mark.parametrize("dimension", [64, 512])
def test_what_one_post_gets_does_not_depend_on_the_others_to_the_bit(store: Store, user: str, dimension: int) -> None:
    embedder = HashEmbedder(dimension)
    community = Community.load(store, embedder)
    view = Snapshot(store, embedder, community, Topics(store, community, embedder), Ranker())
    together = measured(view, user, np.arange(len(community)))
    for row in range(len(community)):
        assert measured(view, user, [row]).tobytes() == together[row : row + 1].tobytes()
    order = np.random.default_rng(0).permutation(len(community))[:37]
    assert measured(view, user, order).tobytes() == together[order].tobytes()


# ---- time


def test_freshness_is_relative_to_the_newest_post_of_the_community(view: Snapshot) -> None:
    community = view.community
    code = community.community_names.index("sailing")
    rows = community.rows_in([code])
    freshness = community.freshness(rows)
    newest = rows[np.argmax(community.created[rows])]
    assert community.freshness(np.array([newest]))[0] == 1.0
    assert community.now(code) == community.created[newest]
    assert list(np.argsort(-freshness, kind="stable")) == list(np.argsort(-community.created[rows], kind="stable"))
    assert community.freshness(np.array([community.row_of["odd-empty"]]))[0] == 0.0


def test_an_archive_is_as_fresh_as_ever(home_of: Callable[[World], Store]) -> None:
    """The same community twenty years earlier gives the same numbers: nothing reads the wall clock."""
    worlds = [make_world(), make_world()]
    for row in worlds[1].posts:
        if "created_at" in row:
            row["created_at"] -= 20 * 365 * DAY
    for row in worlds[1].interactions:
        row["time"] -= 20 * 365 * DAY
    views = [view_of(home_of(world)) for world in worlds]
    every = np.arange(len(views[0].community))
    for name in ("freshness", "popularity"):
        first, second = (getattr(view.community, name)(every) for view in views)
        assert np.allclose(first, second, atol=1e-5), name
    for user in ("u0", "u20", "newcomer"):
        first, second = ([candidate.post for candidate in ranked(view, user, 10).chosen] for view in views)
        assert first == second


def past_of(world: World, until: float) -> World:
    """What somebody would have imported then; edges, which have no time, are of no moment of the past."""
    posts = [row for row in world.posts if row.get("created_at", 0.0) <= until]
    ids = {row["id"] for row in posts}
    acts = [row for row in world.interactions if row["time"] <= until]
    links = [row for row in world.links if row["head"] in ids]
    return World(posts, world.users, acts, [], links, world.topic_of, world.tastes)


def test_as_of_a_moment_is_never_having_had_what_came_later(home_of: Callable[[World], Store]) -> None:
    world = make_world()
    past = past_of(world, MIDDLE)
    assert len(past.posts) < len(world.posts)
    assert 50 < len(past.interactions) < len(world.interactions) - 50
    then, now = view_of(home_of(past)), view_of(home_of(world), as_of=MIDDLE)
    assert arrays(now.community) == arrays(then.community)
    for user in world.tastes:
        readers = [view.reader(user) for view in (then, now)]
        assert of_reader(readers[1]) == of_reader(readers[0])
        first, second = (ranked(view, user, 10) for view in (then, now))
        assert [(c.post, c.score, c.signals) for c in first.chosen] == [
            (c.post, c.score, c.signals) for c in second.chosen
        ]
        assert first.trace.removed == second.trace.removed


@pytest.mark.parametrize("limit", [3, 8])
def test_the_future_takes_no_places_from_the_past(home_of: Callable[[World], Store], limit: int) -> None:
    world = make_world()
    # What comes later is nearer to everything than what is there.
    for number in range(30):
        words = WORDS[TOPICS[number % 3]]
        later = {
            "id": f"later-{number}",
            "created_at": MIDDLE + number,
            "title": words,
            "text": "",
            "tags": words.split(),
        }
        world.posts.append({**world.posts[number % 3], **later})
    views = [view_of(home_of(past_of(world, MIDDLE - 1))), view_of(home_of(world), as_of=MIDDLE - 1)]
    for user in ("u0", "u1", "u20"):
        brought: list[dict[str, list[str]]] = []
        for view in views:
            reader = view.reader(user)
            sources: list[source.Source] = [
                source.InterestSource(view.community, view.topics),
                source.TextSource(view.store, view.topics),
            ]
            brought.append({
                each.name: sorted({view.community.ids[row] for row, _ in each.find(reader, limit)}) for each in sources
            })  # fmt: skip
        assert brought[0].keys() == brought[1].keys()
        assert brought[0]["interest"] == brought[1]["interest"]
        assert len(brought[0]["text"]) == len(brought[1]["text"])
    for topic in ("rudder", "escapement gear"):
        first, second = ({view.community.ids[row] for row in view.topics.match(topic)} for view in views)
        assert first == second
        hits = [view.topics.search(topic, limit) for view in views]
        assert len(hits[0]) == len(hits[1]) == limit
        assert max(hits[0].values()) == pytest.approx(max(hits[1].values()), abs=0.05)


def test_events_until_keeps_the_posts_of_the_near_future(store: Store, world: World) -> None:
    community = Community.load(store, HashEmbedder(64), as_of=NOW, events_until=MIDDLE)
    assert len(community) == len(world.posts)
    assert community.sequences()[4].max() <= MIDDLE
    assert sum(community.event_counts.values()) == sum(
        row["time"] <= MIDDLE and row["kind"] != "hide" for row in world.interactions
    )


def test_the_order_of_rows_in_a_file_does_not_matter_when_times_differ(home_of: Callable[[World], Store]) -> None:
    worlds = [make_world(), make_world()]
    random.Random(5).shuffle(worlds[1].interactions)
    random.Random(6).shuffle(worlds[1].follows)
    views = [view_of(home_of(world)) for world in worlds]
    every = np.arange(len(views[0].community))
    assert np.allclose(views[0].community.popularity(every), views[1].community.popularity(every))
    for user in worlds[0].tastes:
        first, second = (ranked(view, user, 10) for view in views)
        assert [c.post for c in first.chosen] == [c.post for c in second.chosen]
        assert [c.score for c in first.chosen] == pytest.approx([c.score for c in second.chosen], abs=1e-5)


# ---- taking in what comes


def undated(world: World) -> World:
    for row in (*world.posts, *world.interactions):
        row.pop("created_at", None)
        row.pop("time", None)
    return world


@pytest.mark.parametrize("dated", [True, False])
def test_taking_in_events_is_building_anew(home_of: Callable[[World], Store], dated: bool) -> None:
    store = home_of(make_world() if dated else undated(make_world()))
    embedder = HashEmbedder(64)
    community = Community.load(store, embedder)
    rng = random.Random(3)
    for step in range(12):
        for _ in range(step % 3):
            post, user = rng.choice(community.ids), rng.choice(["u0", "u5", "newcomer", "somebody new"])
            store.append(
                act(user, post, rng.choice(["like", "hide", "view", "comment"]), NOW + step if dated else None)
            )
        if step == 6:
            store.append(Event("", "u0", "", "exclude", NOW, None, "rudder"))
        community.add_new_events(store)
        anew = Community.load(store, embedder)
        assert arrays(community) == arrays(anew), step
        assert community.last_event == anew.last_event
        for user in ("u0", "newcomer"):
            events = [event for _, event in store.events(user=user)]
            assert of_reader(read(user, events, community, embedder)) == of_reader(read(user, events, anew, embedder))


class Counting:
    """An embedder that knows how many texts it was given, and may do something before it reads them."""

    def __init__(self, dimension: int = 64, before: Callable[[], None] = lambda: None) -> None:
        self._embedder = HashEmbedder(dimension)
        self._before = before
        self.name, self.dimension = self._embedder.name, dimension
        self.texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self._before()
        self.texts += texts
        return self._embedder.encode(texts)


def test_nothing_is_read_twice(store: Store) -> None:
    again = Counting()
    Community.load(store, again)
    assert again.texts == []
    Community.load(store, Counting(), as_of=START + 5 * DAY)
    Community.load(store, again)
    assert again.texts == []


def test_only_what_changed_is_read_anew(store: Store) -> None:
    post = store.post("clocks-3")
    store.put_posts([Post(post.id, title="Water clock of Su Song", tags=post.tags), Post("new", title="Tide tables")])
    counting = Counting()
    community = Community.load(store, counting)
    assert len(counting.texts) == 2
    for id, title in (("clocks-3", "Water clock of Su Song"), ("new", "Tide tables")):
        vector = HashEmbedder(64).encode([title])
        nearest = community.index.search(vector, 1)[0][0][0]
        assert community.ids[community.nums.tolist().index(nearest)] == id


@pytest.mark.parametrize("factory", ["IDMap2,Flat", "IVF4,SQ8", "IDMap2,HNSW16"])
def test_a_home_changes_under_any_kind_of_index(store: Store, factory: str) -> None:
    embedder = HashEmbedder(64)
    Community.load(store, embedder, factory=factory)
    store.remove_posts(["clocks-3", "sailing-2"])
    store.put_posts([Post("clocks-4", title="Changed entirely"), Post("new", title="Tide tables")])
    community = Community.load(store, embedder, factory=factory)
    assert set(community.index.digests()) == set(community.nums.tolist())
    assert community.index.digests() == dict(zip(community.nums.tolist(), community.digests, strict=True))
    assert (
        community.index.search(embedder.encode(["Tide tables"]), 1)[0][0][0] == community.nums[community.row_of["new"]]
    )


def test_another_embedder_replaces_everything(store: Store) -> None:
    community = Community.load(store, HashEmbedder(32))
    assert community.vectors([0]).shape == (1, 32)
    assert community.index.dimension == 32
    assert Community.load(store, HashEmbedder(64)).vectors([0]).shape == (1, 64)


@pytest.mark.parametrize("name", ["index.faiss", "index.json", "neighbours.npz", "tags.npz"])
@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "empty"])
def test_a_damaged_cache_is_made_again(store: Store, name: str, damage: str) -> None:
    embedder = HashEmbedder(64)
    path = store.home / name
    data = bytearray(path.read_bytes())
    whole = arrays(Community.load(store, embedder))
    if damage == "gone":
        path.unlink()
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2 if damage == "cut" else 0])
    assert arrays(Community.load(store, embedder)) == whole


def test_an_import_in_the_middle_of_building_is_in_it(home: Path, store: Store) -> None:
    store.put_posts([Post("first", title="Tide tables")])

    other = Store(home)
    waiting = [Post("second", title="Star charts"), Post("third", title="Sea shanties")]

    def import_one() -> None:
        if waiting:
            other.put_posts([waiting.pop()])

    community = Community.load(store, Counting(before=import_one))
    assert set(community.index.digests()) >= set(community.nums.tolist())
    assert {"first", "second", "third"} <= set(Community.load(store, HashEmbedder(64)).ids)
    other.close()


def test_progress_tells_what_is_done_and_how_much(empty_store: Store) -> None:
    empty_store.put_posts(Post(f"p{number}", title=f"word{number}") for number in range(600))
    told: list[tuple[str, int, int]] = []
    Community.load(empty_store, HashEmbedder(64), progress=lambda *step: told.append(step))
    assert told[:3] == [("reading posts", 256, 600), ("reading posts", 512, 600), ("reading posts", 600, 600)]


# ---- sources


def brought(each: source.Source, reader: Reader, community: Community, limit: int = 10) -> list[str]:
    return [community.ids[row] for row, _ in each.find(reader, limit)]


def test_the_fresh_source_brings_the_newest_of_the_readers_communities(view: Snapshot) -> None:
    found = brought(source.FreshSource(view.community), view.reader("u1"), view.community, 4)
    rows = view.community.rows_in([view.community.community_names.index("sailing")])
    newest = sorted(rows, key=lambda row: -view.community.created[row])[:4]
    assert found == [view.community.ids[row] for row in newest]
    assert len(brought(source.FreshSource(view.community), view.reader("newcomer"), view.community, 40)) == 40


def test_the_popular_source_brings_what_most_have_read(view: Snapshot, world: World) -> None:
    found = brought(source.PopularSource(view.community), view.reader("u1"), view.community, 5)
    popularity = view.community.popularity(np.arange(len(view.community)))
    values = [float(popularity[view.community.row_of[id]]) for id in found]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1.0
    assert {world.topic_of[id] for id in found} == {"sailing"}


def test_the_people_source_brings_posts_of_the_strongest_tie_first(view: Snapshot) -> None:
    reader = view.reader("u1")
    found = list(source.PeopleSource(view.community).find(reader, 6))
    weights = [weight for _, weight in found]
    assert weights == sorted(weights, reverse=True)
    assert len(found) <= 6
    strongest = max(reader.people, key=lambda author: (reader.people[author], author))
    assert reader.people[view.community.authors[found[0][0]]] == reader.people[strongest]


def test_the_cooccurrence_source_brings_what_fellow_readers_read(view: Snapshot, world: World) -> None:
    reader = view.reader("u0")
    spread = signals.spread(reader, view.community, signals.reach(reader, view.community))
    unread = [id for id in brought(source.CooccurrenceSource(spread), reader, view.community) if
              view.community.row_of[id] not in reader.seen]  # fmt: skip
    assert {world.topic_of.get(id) for id in unread[:5]} == {"gardening"}
    nothing = source.CooccurrenceSource(np.zeros(len(view.community), dtype=np.float32))
    assert brought(nothing, reader, view.community) == []


def test_the_explore_source_is_repeatable_and_different_for_everyone(view: Snapshot) -> None:
    def draw(user: str, seed: str) -> list[str]:
        return brought(source.ExploreSource(view.community, seed), view.reader(user), view.community, 5)

    assert draw("u0", "monday") == draw("u0", "monday")
    assert len(set(draw("u0", "monday"))) == 5
    assert len({tuple(draw("u0", seed)) for seed in ("monday", "tuesday", "")}) > 1
    assert draw("newcomer", "monday") != draw("u0", "monday")


def test_the_interest_source_brings_the_nearest_unseen(view: Snapshot, world: World) -> None:
    reader = view.reader("u20")
    found = list(source.InterestSource(view.community, view.topics).find(reader, 20))
    rows = {row for row, _ in found}
    assert not rows & reader.seen
    assert {world.topic_of.get(view.community.ids[row]) for row in rows} >= set(world.tastes["u20"])


def test_gather_keeps_each_once_with_everyone_who_brought_it(view: Snapshot) -> None:
    class Fixed:
        def __init__(self, name: str, found: list[tuple[int, float]]) -> None:
            self.name, self._found = name, found

        def find(self, reader: Reader, limit: int) -> list[tuple[int, float]]:
            return self._found[:limit]

    sources = [Fixed("a", [(5, 0.1), (2, 0.2), (5, 0.9)]), Fixed("b", [(2, -1.0)]), Fixed("c", [])]
    found = source.gather(sources, view.reader("u0"), view.community)
    assert [(candidate.row, candidate.sources) for candidate in found] == [
        (2, {"a": 0.2, "b": -1.0}),
        (5, {"a": 0.9}),
    ]
    assert all(candidate.post == view.community.ids[candidate.row] for candidate in found)


def test_an_empty_home_recommends_nothing_and_breaks_nothing(empty_store: Store) -> None:
    empty_store.put_users([User("u")])
    view = view_of(empty_store)
    assert len(view.community) == 0
    assert view.topics.match("rudder") == {}
    assert view.topics.search("rudder", 5) == {}
    ranking = ranked(view, "u")
    assert ranking.chosen == []
    assert run(view, view.reader("u"), Task(Request("search", query="rudder"), 5)).chosen == []
    view.community.add_new_events(empty_store)


def test_one_post_alone_is_recommended(empty_store: Store) -> None:
    empty_store.put_posts([Post("only", title="Tide tables")])
    empty_store.put_users([User("u")])
    assert [candidate.post for candidate in ranked(view_of(empty_store), "u").chosen] == ["only"]


# ---- topics


def test_a_topic_reaches_its_tag_in_other_forms(view: Snapshot) -> None:
    tagged = {row for row, tags in enumerate(view.community.tags) if "spinnaker" in tags}
    for topic in ("spinnaker", "Spinnakers", "SPINNAKER"):
        assert view.topics.tags(topic)[0] == ("spinnaker", 1.0)
        found = view.topics.match(topic)
        assert tagged <= set(found)
        assert all(found[row] == 1.0 for row in tagged)
        assert all(0 < surely <= 1.0001 for surely in found.values())


def test_a_topic_reaches_titles(view: Snapshot) -> None:
    found = {view.community.ids[row] for row in view.topics.match("sextant")}
    assert "odd-product" in found
    assert {view.community.ids[row] for row in view.topics.match("钟表")} >= {"clocks-zh-0", "clocks-zh-1"}
    assert view.topics.match("") == {}
    assert not any(value >= 0.9 for value in view.topics.match("quantum chromodynamics").values())


@pytest.mark.parametrize(
    ("query", "topic"), [("halyard mast keel", "sailing"), ("pendulum gear", "clocks"), ("番茄浇水", "gardening")]
)
def test_a_search_brings_the_topic_best_first(view: Snapshot, world: World, query: str, topic: str) -> None:
    found = view.topics.search(query, 10)
    values = list(found.values())
    assert values == sorted(values, reverse=True)
    assert len(found) <= 10
    assert {world.topic_of.get(view.community.ids[row]) for row in list(found)[:3]} == {topic}
    ranking = run(view, view.reader("u0"), Task(Request("search", query=query), 5))
    assert world.topic_of.get(ranking.chosen[0].post) == topic


@given(st.text(max_size=40))
@settings(max_examples=60)
def test_no_topic_whatsoever_breaks_matching(view: Snapshot, text: str) -> None:
    for found in (view.topics.match(text), view.topics.search(text, 5)):
        assert all(0 <= row < len(view.community) and np.isfinite(value) for row, value in found.items())


def test_members_and_sequences(view: Snapshot, world: World) -> None:
    community = view.community
    acts = {
        user: sum(row["user"] == user and row["kind"] != "hide" for row in world.interactions) for user in world.tastes
    }
    assert dict(community.active_users()) == {user: count for user, count in acts.items() if count}
    assert community.active_users()[0][1] == max(acts.values())
    assert community.communities_of("u1") == ("", "sailing")
    assert community.communities_of("newcomer") == ()
    users, codes, rows, weights, times = community.sequences()
    assert list(times) == sorted(times)
    assert len(codes) == len(rows) == len(weights) == sum(acts.values())
    assert set(users) == {user for user, count in acts.items() if count}
    assert community.rows_by("sailing-author-0")[0] == community.row_of["sailing-0"]
    assert community.rows_by("nobody") == []
    assert community.idf("spinnaker") < community.idf("never seen")


def test_a_candidate_starts_empty() -> None:
    one, two = Candidate("p", 1), Candidate("q", 2)
    one.sources["x"] = 1.0
    assert two.sources == {}


def test_embedders_give_unit_rows_and_zero_for_nothing() -> None:
    embedder: Embedder = HashEmbedder(32)
    vectors = embedder.encode(["keel mast", "mast keel", "园艺", "", "  "])
    assert vectors.shape == (5, 32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 0, 0], abs=1e-5)
    assert vectors[0] == pytest.approx(vectors[1], abs=1e-6)
    assert embedder.encode([]).shape == (0, 32)
