"""The next-item transformer: what torch trains is what numpy reads, and it learns what follows what."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from whyfeed.finetune.ranking.next_item import TransformerConfig, batches, chunks, network, train_next_item, weights_of
from whyfeed.retrieval.arrays import Floats, Rows, Vectors, unit
from whyfeed.retrieval.community.next_item import NextItem, NextPosts
from whyfeed.retrieval.errors import ModelError

POSTS, TOPICS, WIDTH = 40, 8, 12
SMALL = TransformerConfig(size=16, longest=6, epochs=2, tokens=200, warm_up=10)
LEARNS = replace(SMALL, size=32, epochs=12, dropout=0.1, rate=1e-2)


def texts(seed: int, count: int = POSTS) -> Vectors:
    """Post p is about topic p % TOPICS and, a little, about nothing."""
    noise = np.random.default_rng(seed).normal(0, 0.1, (count, WIDTH))
    noise[np.arange(count), np.arange(count) % TOPICS] += 1
    return unit(noise)


def chains(count: int = 200, seed: int = 0) -> list[Rows]:
    """Users go from a post to the next one, and start near 0 more often than not: popularity says something too."""
    rng = np.random.default_rng(seed)
    starts = (POSTS * rng.random(count) ** 2).astype(np.int64)
    return [(start + np.arange(rng.integers(3, 10))) % POSTS for start in starts]


@pytest.fixture(scope="module")
def trained() -> NextItem:
    return train_next_item(chains(), texts(0), True, LEARNS)


def logits(model: NextItem, histories: list[Rows], text: Vectors) -> Floats:
    items = model.items(text)
    return np.asarray(model.states(histories, items) @ items.T + model.arrays["bias"])


# ---- two forms of one model


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("blocks", "heads"), [(1, 1), (2, 4)])
def test_numpy_reads_as_torch_trains(ordered: bool, blocks: int, heads: int) -> None:
    import torch

    recipe = replace(SMALL, blocks=blocks, heads=heads)
    model = network(recipe, (POSTS, WIDTH), ordered).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():  # as drawn, norms and shifts are ones and zeros, and could be mixed up
        weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    read = NextItem(weights_of(model), heads, recipe.longest)
    assert read.ordered == ordered
    text, rng = texts(1), np.random.default_rng(0)
    items = read.items(text)
    with torch.no_grad():
        table = model.items(torch.arange(POSTS), torch.from_numpy(text))
        assert items == pytest.approx(table.numpy(), abs=1e-5)
        for length in range(1, recipe.longest + 1):
            histories = rng.integers(0, POSTS, (5, length))
            asked = np.stack([read.read(history) for history in histories])
            states = model(table[torch.from_numpy(asked)])[:, -1].numpy()
            assert read.states(list(histories), items) == pytest.approx(states, abs=1e-5)
        # With one post before it, what is trained is the logit of the next.
        loss = model.loss(torch.tensor([[3, 8]]), torch.from_numpy(text), rng)
    said = logits(read, [np.array([3])], text)[0].astype(np.float64)
    assert float(loss) == pytest.approx(np.log(np.exp(said).sum()) - said[8], abs=1e-5)


def test_a_state_hangs_on_its_own_history_alone(trained: NextItem) -> None:
    """To rounding: BLAS adds up in another order with how many histories are asked at once."""
    items, histories = trained.items(texts(0)), chains(300, seed=1)
    together = trained.states(histories, items)
    for place in range(0, 300, 37):
        assert trained.states([histories[place]], items)[0] == pytest.approx(together[place], abs=1e-5)


def test_the_score_of_a_post_is_the_same_to_the_bit_whatever_else_is_asked(trained: NextItem) -> None:
    ids = [str(post) for post in range(POSTS)]
    named = replace(trained, posts=tuple(ids))
    history, rng = np.array([3, 4, 5]), np.random.default_rng(0)
    whole = NextPosts(named, ids, texts(0)).score(history)
    for _ in range(30):
        posts = NextPosts(named, ids, texts(0))
        posts.score(rng.integers(0, POSTS, rng.integers(1, 9)))
        some = rng.choice(POSTS, rng.integers(1, POSTS), replace=False)
        assert posts.score(history, some).tolist() == whole[some].tolist()


def test_only_the_newest_posts_of_a_long_history_are_read(trained: NextItem) -> None:
    items, long = trained.items(texts(0)), np.arange(30)
    assert trained.states([long], items).tolist() == trained.states([long[-trained.longest :]], items).tolist()


def test_an_empty_history_has_the_state_zero(trained: NextItem) -> None:
    items = trained.items(texts(0))
    states = trained.states([np.zeros(0, dtype=np.int64), np.array([1])], items)
    assert not states[0].any()
    assert states[1].any()
    assert trained.states([], items).shape == (0, LEARNS.size)


def test_a_history_without_order_has_one_state_whatever_its_order() -> None:
    model = train_next_item(chains(), texts(0), False, SMALL)
    items, history = model.items(texts(0)), np.arange(5)
    one, other = model.states([history, history[::-1]], items)
    assert one == pytest.approx(other, abs=1e-5)


def test_weights_come_back_from_a_file(trained: NextItem) -> None:
    data = replace(trained, posts=("a", "ü")).to_bytes()
    back = NextItem.from_bytes(data)
    assert (back.posts, back.heads, back.longest) == (("a", "ü"), trained.heads, trained.longest)
    assert same(back, trained)
    for broken in (b"", b"no weights", data[: len(data) // 2], data[:-1]):
        with pytest.raises(ValueError, match=r"next-item transformer|pickle"):
            NextItem.from_bytes(broken)


# ---- training


def same(one: NextItem, other: NextItem) -> bool:
    return one.arrays.keys() == other.arrays.keys() and all(
        np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays
    )


def test_the_same_seed_gives_the_same_weights_and_disturbs_nobody() -> None:
    import torch

    state, threads = torch.get_rng_state(), torch.get_num_threads()
    one = train_next_item(chains(), texts(0), True, SMALL)
    torch.rand(3)
    np.random.default_rng().random(3)
    assert same(train_next_item(chains(), texts(0), True, SMALL), one)
    other = train_next_item(chains(), texts(0), True, replace(SMALL, seed=1))
    assert not np.array_equal(other.arrays["ids"], one.arrays["ids"])
    torch.set_rng_state(state)
    train_next_item(chains(20), texts(0), True, SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_the_same_seed_gives_the_same_weights_beside_another_training() -> None:
    alone = train_next_item(chains(), texts(0), True, SMALL)
    begin = Barrier(2)

    def train(recipe: TransformerConfig) -> NextItem:
        begin.wait()
        return train_next_item(chains(), texts(0), True, recipe)

    with ThreadPoolExecutor(2) as pool:
        beside, _ = pool.map(train, (SMALL, replace(SMALL, seed=1)))
    assert same(beside, alone)


def test_it_learns_what_follows_what_where_popularity_does_not(trained: NextItem) -> None:
    asked = [history for history in chains(100, seed=2) if len(history) > 3]
    targets = np.array([history[-1] for history in asked])
    said = logits(trained, [history[:-1] for history in asked], texts(0))
    popular = np.tile(np.bincount(np.concatenate(chains()), minlength=POSTS), (len(asked), 1))

    def found(scores: Any) -> float:
        return float(np.mean(scores.argmax(axis=1) == targets))

    assert found(said) > 0.9
    assert found(popular) < 0.3


def test_posts_that_arrived_after_training_are_ranked_by_their_text(trained: NextItem) -> None:
    """New posts, one a topic, beside the known ones: after topic t, that of topic t + 1 is the best of the new."""
    new = texts(7, TOPICS)
    known = np.concatenate([np.arange(POSTS), np.full(TOPICS, -1)])
    items = trained.items(np.concatenate([texts(0), new]), known)
    scores = trained.states([np.array([at - 1, at]) for at in range(1, 9)], items) @ items.T + trained.biases(known)
    best = scores[:, POSTS:].argmax(axis=1)
    assert np.mean(best == (np.arange(1, 9) + 1) % TOPICS) >= 0.75
    assert trained.biases(known)[POSTS:] == pytest.approx(trained.arrays["bias"].mean(), abs=1e-6)
    # In a history they count as well, and what was known before is what it was.
    assert items[:POSTS] == pytest.approx(trained.items(texts(0)), abs=1e-6)
    after = trained.states([np.array([POSTS + 2])], items) @ items[:POSTS].T
    assert after[0].argmax() % TOPICS == 3


def test_parts_of_a_long_history_teach_each_step_once() -> None:
    long = np.arange(100, 131)
    parts = chunks([long, np.array([7]), np.array([], dtype=np.int64), np.array([1, 2])], 6)
    assert max(len(part) for part in parts) == 7
    assert min(len(part) for part in parts) >= 2
    steps = [(int(one), int(two)) for part in parts for one, two in pairwise(part)]
    assert sorted(steps) == [(1, 2), *((at, at + 1) for at in range(100, 130))]


def test_a_batch_holds_histories_of_one_length_and_an_epoch_all_of_them() -> None:
    parts = chunks(chains(50), SMALL.longest)
    for ordered in (True, False):
        read = [row for batch in batches(parts, SMALL, 0, ordered) for row in batch.tolist()]
        assert sorted(map(sorted, read)) == sorted(sorted(part.tolist()) for part in parts)
        assert (sorted(read) == sorted(part.tolist() for part in parts)) == ordered
    first, second = ([batch.tolist() for batch in batches(parts, SMALL, epoch, True)] for epoch in (0, 1))
    assert first != second


@pytest.mark.parametrize("histories", [[], [np.array([3])], [np.array([], dtype=np.int64)]])
def test_nothing_to_learn_from_is_no_trouble(histories: list[Rows]) -> None:
    model = train_next_item(histories, texts(0), True, SMALL)
    assert np.isfinite(logits(model, [np.array([1, 2])], texts(0))).all()


def test_progress_ends_at_the_last_step() -> None:
    told: list[tuple[int, int]] = []
    train_next_item(chains(50), texts(0), True, SMALL, lambda what, done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 0


def test_without_torch_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModelError, match=r"^torch is not installed: pip install 'whyfeed\[train\]'$"):
        train_next_item(chains(), texts(0), True, SMALL)
