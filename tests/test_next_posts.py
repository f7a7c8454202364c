"""The next-item transformer in a home: a signal and a source of the live version, gone with it, unknown to the past."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whyfeed import Agent
from whyfeed.agent.recommend.ranker import HAND_SET, MODEL, NEXT_FILE, Ranker
from whyfeed.agent.registry import Registry
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.next_item import NextItem, NextPosts

SIZE = 8


def by_hand(width: int, posts: tuple[str, ...] = (), seed: int = 0) -> NextItem:
    """Weights as training would leave them, drawn at random."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> Any:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    arrays = {
        "ids": drawn(len(posts), SIZE), "bias": drawn(len(posts)), "text": drawn(width, SIZE),
        "positions": drawn(6, SIZE),
        "norm": np.ones(SIZE, np.float32), "shift": drawn(SIZE),
        "0.attend_in": drawn(SIZE, 3 * SIZE), "0.attend_shift": drawn(3 * SIZE), "0.attend_out": drawn(SIZE, SIZE),
        "0.attend_out_shift": drawn(SIZE), "0.widen": drawn(SIZE, 4 * SIZE), "0.widen_shift": drawn(4 * SIZE),
        "0.narrow": drawn(4 * SIZE, SIZE), "0.narrow_shift": drawn(SIZE), "0.norm1": np.ones(SIZE, np.float32),
        "0.shift1": drawn(SIZE), "0.norm2": np.ones(SIZE, np.float32), "0.shift2": drawn(SIZE),
    }  # fmt: skip
    return NextItem(arrays, heads=2, longest=6, posts=posts)


def put(agent: Agent, weight: float = 1.0) -> NextItem:
    """Make a ranker live that weighs the transformer."""
    ids = tuple(row[1] for row in agent.store.post_rows())
    model = by_hand(agent.embedder.dimension, ids)
    Ranker({**HAND_SET, "next": weight}, 0.0, True, "fitted by hand", model).save(agent.home, {})
    return model


def test_it_counts_and_brings_from_the_next_request_on(agent: Agent) -> None:
    user = "u1"
    before = agent.recommend(user, k=5)
    assert all(item.signals["next"] == 0 for item in before.items)
    put(agent, weight=5.0)
    after = agent.recommend(user, k=5)
    assert any(item.signals["next"] != 0 for item in after.items)
    assert after.trace.weights["next"] == 5.0
    assert [item.post.id for item in after.items] != [item.post.id for item in before.items]
    retrieved = next(stage for stage in after.trace.stages if stage.name == "retrieve")
    assert "next " in retrieved.note


def test_it_goes_with_its_version(agent: Agent) -> None:
    user = "u1"
    before = [item.post.id for item in agent.recommend(user, k=5).items]
    put(agent)
    Registry(agent.home).rollback(MODEL)
    after = agent.recommend(user, k=5)
    assert [item.post.id for item in after.items] == before
    assert all(item.signals["next"] == 0 for item in after.items)


def test_a_view_of_the_past_does_not_know_it(agent: Agent) -> None:
    user = "u1"
    put(agent)
    newest = max(event.time for _, event in agent.store.events() if event.time is not None)
    past = agent.recommend(user, k=5, as_of=newest)
    assert all(item.signals["next"] == 0 for item in past.items)


def test_a_damaged_one_falls_back_to_hand_set(agent: Agent) -> None:
    put(agent)
    live = Registry(agent.home).live(MODEL)
    assert live is not None
    (live / NEXT_FILE).write_bytes(b"garbage")
    ranker = Ranker.load(agent.home)
    assert ranker.weights == HAND_SET
    assert ranker.next_item is None
    assert "hand-set" in ranker.origin


def test_what_is_kept_is_what_was_put(agent: Agent) -> None:
    model = put(agent)
    kept = Ranker.load(agent.home).next_item
    assert kept is not None
    assert (kept.posts, kept.heads, kept.longest) == (model.posts, model.heads, model.longest)
    assert kept.arrays.keys() == model.arrays.keys()
    assert all(np.array_equal(kept.arrays[name], model.arrays[name]) for name in model.arrays)
    with pytest.raises(ValueError, match="next-item"):
        NextItem.from_bytes(b"PK garbage")


def test_a_score_is_that_of_the_post_alone(community: Community) -> None:
    """To the bit, whatever else is asked for and whatever was asked before."""
    text = community.vectors(range(len(community)))
    posts = NextPosts(by_hand(text.shape[1], tuple(community.ids)), community.ids, text)
    history = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    everything = posts.score(history)
    posts.score(np.array([7, 8]))
    for rows in ([0], [5, 0, 9], list(range(len(community)))[::-1]):
        assert posts.score(history, np.array(rows)).tobytes() == everything[rows].tobytes()


def test_scores_are_deviations_from_the_mean_of_the_community(community: Community) -> None:
    text = community.vectors(range(len(community)))
    posts = NextPosts(by_hand(text.shape[1], tuple(community.ids)), community.ids, text)
    scores = posts.score(np.array([3, 1, 4]))
    assert scores.mean() == pytest.approx(0, abs=1e-4)
    assert scores.std() == pytest.approx(1, abs=1e-3)
    assert not posts.score(np.array([], dtype=np.int64)).any()
