"""The ranking core and its fit: a post's score is its own, and a fitted model goes live only where it has won."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.world import DAY, START, Row, write_rows
from whyfeed.agent.recommend.ranker import HAND_SET, MODEL, MODEL_FILE, NOT_FITTED, Ranker
from whyfeed.agent.registry import Registry
from whyfeed.finetune.gate import Outcome
from whyfeed.finetune.ranking.examples import Group, groups
from whyfeed.finetune.ranking.fit import FITTED_SIGNALS, MIN_GROUPS, fit
from whyfeed.retrieval.community.embedder import HashEmbedder
from whyfeed.retrieval.community.signals import CORE, MEASURED, SIGNALS
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.store.exchange import import_folder
from whyfeed.retrieval.store.store import Store

# ---- scores

_signals = arrays(np.float32, st.tuples(st.integers(1, 9), st.just(len(MEASURED))), elements=st.floats(-1, 1, width=32))


@given(_signals, st.randoms(use_true_random=False))
def test_a_score_does_not_depend_on_the_others_to_the_bit(signals: np.ndarray, rng: random.Random) -> None:
    ranker = Ranker(bias=0.1)
    together = ranker.score(signals, MEASURED)
    assert together.shape == (len(signals),)
    for row, score in zip(signals, together, strict=True):
        assert ranker.score(row[None, :], MEASURED).tobytes() == score.tobytes()
    order = list(range(len(signals)))
    rng.shuffle(order)
    assert ranker.score(signals[order], MEASURED).tobytes() == together[order].tobytes()


def test_a_score_is_the_sum_of_what_each_signal_adds() -> None:
    ranker = Ranker(bias=-2.0, calibrated=True)
    values = dict(zip(MEASURED, np.linspace(0, 1, len(MEASURED)), strict=True))
    score = float(ranker.score(np.array([list(values.values())], dtype=np.float32), MEASURED)[0])
    parts = ranker.contributions(values)
    assert sum(parts.values()) - 2.0 == pytest.approx(score, abs=1e-5)
    assert [abs(part) for part in parts.values()] == sorted((abs(part) for part in parts.values()), reverse=True)
    assert ranker.score(np.zeros((0, len(MEASURED)), dtype=np.float32), MEASURED).shape == (0,)


def test_an_unknown_signal_is_refused() -> None:
    with pytest.raises(ValueError, match="'luck'"):
        Ranker().score(np.zeros((1, 1), dtype=np.float32), ["luck"])


def test_only_a_fitted_model_speaks_of_probability() -> None:
    assert Ranker().probability(1.0) is None
    fitted = Ranker(calibrated=True)
    assert fitted.probability(0.0) == 0.5
    probabilities = [fitted.probability(score) for score in (-1e9, -3.0, 0.0, 3.0, 1e9)]
    assert probabilities == sorted(p for p in probabilities if p is not None)
    assert all(p is not None and 0 < p < 1 for p in probabilities)


def test_hand_set_weights_cover_every_signal() -> None:
    assert set(HAND_SET) == set(SIGNALS)
    assert set(NOT_FITTED) < set(SIGNALS)
    assert set(FITTED_SIGNALS) == set(CORE) - set(NOT_FITTED)


# ---- kept in the home


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    assert Ranker.load(tmp_path) == Ranker()
    fitted = Ranker({**HAND_SET, "people": 1.25}, -3.5, True, "fitted on 7 examples")
    fitted.save(tmp_path, {"groups": 7})
    assert Ranker.load(tmp_path) == fitted
    (record,) = Registry(tmp_path).versions(MODEL)
    assert (record.card, record.live) == ({"groups": 7}, True)


def _changed(**changes: Any) -> str:
    document = {"weights": dict(HAND_SET), "bias": 0.0, "calibrated": True, "origin": "fitted"}
    return json.dumps(document | changes)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        _changed(weights=[1, 2]),
        _changed(weights={"luck": 1.0}),
        _changed(weights={"people": "much"}),
        _changed(weights={"people": math.nan}),
        _changed(weights={"people": None}),
        _changed(bias=math.nan),
        _changed(bias=math.inf),
        _changed(bias=None),
    ],
)
def test_a_damaged_model_gives_the_hand_set_weights_and_says_so(tmp_path: Path, content: str) -> None:
    """Whether a home of before the registry holds it, or a version whose trainer wrote it."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / MODEL_FILE).write_text(content)
    registry = Registry(tmp_path / "new")
    registry.promote(MODEL, registry.add(MODEL, {MODEL_FILE: content.encode()}, {}))
    for home in (tmp_path / "old", tmp_path / "new"):
        ranker = Ranker.load(home)
        assert (ranker.weights, ranker.bias, ranker.calibrated) == (HAND_SET, 0.0, False)
        assert "damaged" in ranker.origin


def test_what_lies_on_the_disk_otherwise_than_it_was_kept_is_not_used(tmp_path: Path) -> None:
    Ranker({**HAND_SET, "people": 1.25}, -3.5, True, "fitted").save(tmp_path, {})
    (tmp_path / "models" / MODEL / "1" / MODEL_FILE).write_text(_changed(weights={"people": 9.0}))
    ranker = Ranker.load(tmp_path)
    assert (ranker.weights, ranker.calibrated) == (HAND_SET, False)
    assert ranker.origin.startswith("hand-set (version 1 is damaged")


def test_signals_that_a_saved_model_does_not_know_keep_their_hand_set_weight(tmp_path: Path) -> None:
    (tmp_path / MODEL_FILE).write_text(_changed(weights={"people": 9.0}))
    assert Ranker.load(tmp_path).weights == {**HAND_SET, "people": 9.0}


# ---- the fit

READERS = 30
SPAN = 100 * DAY


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Store]]:
    """Import posts and acts into homes of their own."""
    tmp_path = tmp_path_factory.mktemp("planted")
    stores: list[Store] = []

    def make(posts: list[Row], acts: list[Row], follows: list[Row] | None = None) -> Store:
        folder = tmp_path / f"in-{len(stores)}"
        write_rows(folder / "posts.jsonl", posts)
        write_rows(folder / "interactions.jsonl", acts)
        write_rows(folder / "follows.jsonl", follows or [])
        stores.append(Store(tmp_path / f"home-{len(stores)}"))
        assert import_folder(stores[-1], folder).rejects is None
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def posts_by_authors(rng: random.Random, each: int) -> list[Row]:
    """Texts without any meaning, one author for each reader, over the whole span of time."""
    words = [f"word{number}" for number in range(400)]
    return [
        {
            "id": f"p{author}-{number}", "author": f"author-{author}", "title": " ".join(rng.sample(words, 5)),
            "created_at": START + SPAN * (number + rng.random()) / each, "community": "one",
        }
        for author in range(READERS)
        for number in range(each)
    ]  # fmt: skip


def acts_on_own_author(posts: list[Row], rng: random.Random) -> list[Row]:
    """Reader n acts on nearly all that author n writes and on nothing else: only `people` predicts."""
    return [
        {
            "user": f"r{post['author'][7:]}",
            "post": post["id"],
            "kind": "like",
            "time": post["created_at"] + rng.random(),
        }
        for post in posts
        if rng.random() < 0.9
    ]


def acts_at_random(posts: list[Row], rng: random.Random) -> list[Row]:
    """Readers act on anything."""
    acts = []
    for moment in np.linspace(START + SPAN / 20, START + SPAN, READERS * 30).tolist():
        there = [post["id"] for post in posts if post["created_at"] <= moment]
        acts.append({"user": f"r{rng.randrange(READERS)}", "post": rng.choice(there), "kind": "like", "time": moment})
    return acts


@pytest.fixture(scope="module")
def of_people(planted: Callable[..., Store]) -> tuple[Store, Outcome]:
    """A home where only `people` predicts, and what fitting on it found."""
    rng = random.Random(1)
    posts = posts_by_authors(rng, 20)
    store = planted(posts, acts_on_own_author(posts, rng))
    return store, fit(store, HashEmbedder(16), store.home)


@pytest.fixture(scope="module")
def of_noise(planted: Callable[..., Store]) -> Store:
    """A home where nothing predicts."""
    rng = random.Random(2)
    posts = posts_by_authors(rng, 8)
    return planted(posts, acts_at_random(posts, rng))


def test_the_one_signal_that_predicts_is_found_and_goes_live(of_people: tuple[Store, Outcome]) -> None:
    store, outcome = of_people
    assert outcome.live, outcome.why
    assert sum(bucket["cases"] for bucket in outcome.card["gate"]["buckets"]) == outcome.card["tested"]
    assert outcome.card["ndcg@10"]["fitted"] > 0.9 > outcome.card["ndcg@10"]["hand-set"]
    ranker = Ranker.load(store.home)
    assert ranker.calibrated
    assert "fitted" in ranker.origin
    # What a step from nothing to what such readers have is worth, beside a whole unit of the others.
    people = ranker.weights["people"] * 0.5
    assert people > 3
    assert all(ranker.weights[name] < people for name in FITTED_SIGNALS if name != "people")
    assert all(ranker.weights[name] >= 0 for name in FITTED_SIGNALS)
    assert all(ranker.weights[name] == HAND_SET[name] for name in NOT_FITTED)


def test_a_fit_that_is_no_better_than_the_one_in_place_does_not_replace_it(of_people: tuple[Store, Outcome]) -> None:
    store, _ = of_people
    again = fit(store, HashEmbedder(16), store.home)
    assert not again.live
    assert "the model in place stays" in again.why
    assert [record.version for record in Registry(store.home).versions(MODEL)] == [1]


def test_the_fitted_probability_is_the_share_that_readers_act_on(of_people: tuple[Store, Outcome]) -> None:
    store, _ = of_people
    ranker = Ranker.load(store.home)
    expected, positives = 0.0, 0.0
    for group in groups(store, HashEmbedder(16)):
        probabilities = [ranker.probability(score) or 0.0 for score in ranker.score(group.signals, CORE).tolist()]
        negative = group.labels == 0
        stands_for = (min(300, group.eligible) - group.labels.sum()) / negative.sum()
        expected += float(np.sum(np.where(negative, stands_for, 1.0) * probabilities))
        positives += float(group.labels.sum())
    assert expected == pytest.approx(positives, rel=0.15)


def test_on_noise_the_hand_set_weights_stay(of_noise: Store) -> None:
    store = of_noise
    told: list[int] = []
    outcome = fit(store, HashEmbedder(16), store.home, lambda _, done, total: told.append(done * 100 // total))
    assert told[-1] == 100
    assert outcome.card["groups"] >= MIN_GROUPS
    assert not outcome.live, outcome.why
    assert "hand-set stays" in outcome.why
    assert outcome.card["gate"]["ci95"][0] <= 0
    assert Registry(store.home).names() == []
    assert Ranker.load(store.home) == Ranker()


def test_with_few_readers_nothing_is_fitted(store: Store, embedder: HashEmbedder) -> None:
    outcome = fit(store, embedder, store.home)
    assert not outcome.live
    assert f"{MIN_GROUPS} needed" in outcome.why
    assert Ranker.load(store.home) == Ranker()


def test_examples_of_the_last_days_alone_are_too_few(planted: Callable[..., Store]) -> None:
    """Everybody came early, and once more in the end: there is no window to learn from before the test."""
    rng = random.Random(3)
    posts = [{**post, "created_at": START} for post in posts_by_authors(rng, 10)]
    acts: list[Row] = []
    for number in range(MIN_GROUPS + 40):
        chosen = rng.sample([post["id"] for post in posts], 7)
        acts += [{"user": f"r{number}", "post": post, "kind": "like", "time": START + 1} for post in chosen[:6]]
        acts.append({"user": f"r{number}", "post": chosen[6], "kind": "like", "time": START + SPAN + number})
    store = planted(posts, acts)
    outcome = fit(store, HashEmbedder(16), store.home)
    assert not outcome.live
    assert "hand-set stays" in outcome.why


# ---- the examples


def numbers(found: list[Group]) -> list[tuple[Any, ...]]:
    return [
        (
            group.user,
            group.window,
            group.eligible,
            group.signals.tobytes(),
            group.labels.tobytes(),
            group.retrieved.tobytes(),
        )
        for group in found
    ]


def test_what_happens_after_a_window_changes_nothing_in_it(planted: Callable[..., Store]) -> None:
    rng = random.Random(4)
    posts = posts_by_authors(rng, 8)
    acts = acts_at_random(posts, rng)
    times = np.array([act["time"] for act in acts])
    edges = np.quantile(times, np.linspace(0.4, 1.0, 5))  # as `groups` cuts them
    end = float(edges[2])
    # The same moments, but other people do other things: a leak would show.
    leaked = [
        act if act["time"] <= end else {**act, "user": f"r{rng.randrange(5)}", "post": f"p{rng.randrange(3)}-0"}
        for act in acts
    ]
    embedder = HashEmbedder(16)
    first, second = (list(groups(planted(posts, each), embedder, windows=4)) for each in (acts, leaked))
    early = [[group for group in found if group.window < 2] for found in (first, second)]
    assert len(early[0]) > 30
    assert numbers(early[0]) == numbers(early[1])
    assert numbers(first) != numbers(second)


def test_an_edge_that_was_made_of_the_future_is_not_known_in_the_past(planted: Callable[..., Store]) -> None:
    """Edges carry no time. Those of an archive are often counted from all its replies, the later ones included."""
    rng = random.Random(5)
    posts = posts_by_authors(rng, 8)
    acts = acts_at_random(posts, rng)
    author_of = {post["id"]: post["author"] for post in posts}
    pairs = {(act["user"], author_of[act["post"]]) for act in acts}
    follows = [{"from": reader, "to": author, "weight": 5} for reader, author in sorted(pairs)]
    embedder = HashEmbedder(16)
    first, second = (list(groups(planted(posts, acts, edges), embedder, windows=2)) for edges in (follows, list[Row]()))
    assert len(first) > 30
    assert numbers(first) == numbers(second)


def test_groups_hold_what_a_reader_did_next_among_what_they_could_have_done(of_noise: Store) -> None:
    embedder = HashEmbedder(16)
    found = list(groups(of_noise, embedder, windows=2))
    assert [group.window for group in found] == sorted(group.window for group in found)
    for group in found:
        assert group.signals.shape == (len(group.labels), len(CORE))
        assert set(group.labels.tolist()) <= {0.0, 1.0}
        assert 1 <= group.labels.sum() < len(group.labels) <= group.eligible
        assert np.isfinite(group.signals).all()
    assert numbers(found) == numbers(list(groups(of_noise, embedder, windows=2)))
    assert numbers(found) != numbers(list(groups(of_noise, embedder, windows=2, seed=1)))


def test_of_many_readers_of_a_window_some_are_drawn(of_noise: Store) -> None:
    every = list(groups(of_noise, HashEmbedder(16)))
    drawn = list(groups(of_noise, HashEmbedder(16), readers=5))
    counts = Counter(group.window for group in drawn)
    assert max(counts.values()) <= 5 < max(Counter(group.window for group in every).values())
    assert {(group.window, group.user) for group in drawn} <= {(group.window, group.user) for group in every}
    again = [group.user for group in groups(of_noise, HashEmbedder(16), readers=5)]
    assert again == [group.user for group in drawn]


def test_undated_acts_and_empty_homes_give_no_examples(empty_store: Store) -> None:
    assert list(groups(empty_store, HashEmbedder(16))) == []
    for number in range(50):
        empty_store.append(Event("", "u", f"p{number}", "like"))
    assert list(groups(empty_store, HashEmbedder(16))) == []
