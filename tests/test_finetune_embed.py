"""Tuning an embedder: what it is asked, what it learns from, that it learns, serves, and can be stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_finetune_encoder import LETTERS, histories
from tests.test_write import StopAt
from tests.tiny_bert import tiny_bert
from whyfeed import Agent
from whyfeed.agent.registry import Registry
from whyfeed.finetune.evaluation.histories import Histories
from whyfeed.finetune.llm.embedder import MODEL, EmbedderConfig, pairs, propensity, split, train, train_home
from whyfeed.retrieval.community.embedder import HashEmbedder, open_embedder
from whyfeed.retrieval.errors import DataError, ModelError

MIDDLES = "abcdefghijklmnop"
QUICK: dict[str, Any] = {"batch": 32, "lr": 3e-3, "max_tokens": 8}


@pytest.fixture
def planted() -> Histories:
    """Posts of three words; readers keep to posts whose middle word is theirs, whatever stands around it."""
    rng = np.random.default_rng(1)
    texts = [f"{one} {middle} {other}" for middle in MIDDLES for one in "wxyz" for other in "wxyz"]
    readers = [(rng.choice(16, 6, replace=False) + 16 * (user % 16)).tolist() for user in range(400)]
    return histories(readers, texts)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tiny_bert(tmp_path_factory.mktemp("embed") / "tiny", ())
    torch.set_num_threads(before)


# ---- what is asked


def test_held_out_readers_are_asked_for_their_last_post_and_teach_nothing(planted: Histories) -> None:
    learn, asked = split(planted, 0)
    gone = np.setdiff1d(planted.user, learn.user)
    assert len(gone) == len(asked.target) == 40
    last = {tuple(planted.post[planted.user == user]) for user in gone}
    assert {
        (*history[::-1].tolist(), target) for history, target in zip(asked.history, asked.target, strict=True)
    } == last
    assert set(asked.lengths.tolist()) == {5}
    assert set(asked.target.tolist()) <= set(asked.pool.tolist())


def test_the_rank_of_a_target_is_how_many_are_as_near_without_what_the_reader_had(planted: Histories) -> None:
    _, asked = split(planted, 0)

    def right(texts: list[str]) -> Any:
        """A direction for each middle word: 16 posts are as near, five of which the reader has had."""
        return np.eye(16, dtype=np.float32)[[MIDDLES.index(text.split()[1]) for text in texts]]

    assert set(asked.ranks(right, planted.texts, "x", lambda *_: None).tolist()) == {16 - 5 - 1}
    best = int(asked.target[0])

    def one(texts: list[str]) -> Any:
        return np.array([[1.0, float(text == planted.texts[best])] for text in texts], dtype=np.float32)

    assert asked.ranks(one, planted.texts, "x", lambda *_: None)[0] == 256 - 5 - 1  # its history has no second part


# ---- what is learnt from


def test_propensity_grows_with_the_root_of_popularity_and_is_clipped() -> None:
    assert propensity(np.array([100, 25, 0])).tolist() == pytest.approx([1.0, 0.5, 0.1])
    assert propensity(np.zeros(2, dtype=np.int64)).tolist() == pytest.approx([0.1, 0.1])


def test_pairs_are_drawn_alike_and_debiased_by_the_inverse_of_the_chance_that_both_were_seen() -> None:
    read = histories([[0, 1], [0, 1], [0, 2], [0, 3]], ["x"] * 4)
    plain, debiased = pairs(read, False), pairs(read, True)
    assert plain.chance.tolist() == pytest.approx([0.25] * 4)
    # Post 0 has four readers, post 1 two, the others one: the root of popularity, relative to the most popular.
    weights = {1: 2**0.5, 2: 2.0, 3: 2.0}
    expected = np.array([weights[post] for post in debiased.target.tolist()])
    assert debiased.chance.tolist() == pytest.approx((expected / expected.sum()).tolist())


@pytest.mark.parametrize(
    ("wrong", "why"),
    [({"batch": 1}, "batch"), ({"steps": 0}, "steps"), ({"lr": 0}, "lr"), ({"max_tokens": 7}, "max_tokens"),
     ({"debias": True, "objective": "unsupervised"}, "debias")],
)  # fmt: skip
def test_bad_arguments_are_named(planted: Histories, tmp_path: Path, wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        train(planted, tmp_path / "out", EmbedderConfig(base=tmp_path, **wrong))


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="posts with a text"):
        train(histories([[0]], ["x"]), tmp_path / "out", EmbedderConfig(base=tmp_path))
    with pytest.raises(ModelError, match=r"embedder needs sentence-transformers.*whyfeed\[train\]"):
        train(
            histories([[0]], ["x", "y"]), tmp_path / "out", EmbedderConfig(base=tmp_path)
        )  # tests that are not slow have none
    with pytest.raises(ModelError, match="whyfeed finetune embed"):
        Agent.open(tmp_path / "home", embedder="tuned", no_llm=True)


# ---- learning


@pytest.mark.slow
def test_it_learns_what_readers_take_up_together_and_a_home_reads_with_it(
    planted: Histories, base: Path, tmp_path: Path
) -> None:
    near = np.random.default_rng(3).standard_normal((256, 8)).astype(np.float32)
    config = EmbedderConfig(base=base, steps=120, **QUICK)
    beside: dict[str, Any] = {"near": near, "in_place": HashEmbedder(64)}
    outcome = train_home(tmp_path, planted, config, **beside)
    card = outcome.card
    assert outcome.live, outcome.why
    assert "hash-64" in outcome.why
    assert card["metrics"]["tuned"]["recall@20"] > card["metrics"]["base"]["recall@20"] + 0.3
    assert (card["settings"]["objective"], card["epsilon"], card["steps"]) == ("pairs", None, 120)

    folder = Registry(tmp_path).live(MODEL)
    assert folder is not None
    assert not any(str(base).encode() in path.read_bytes() for path in folder.rglob("*.json"))
    embedder = open_embedder(str(folder))
    vectors = embedder.encode(["w a x", "y a z", "w e x", ""])
    assert (embedder.dimension, vectors.shape) == (16, (4, 16))
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert not vectors[3].any()
    with Agent.open(tmp_path, embedder="tuned", no_llm=True) as agent:
        assert agent.embedder.name == embedder.name != str(folder)

    # Stopped and gone on with it is the same; another training has another name.
    stop = StopAt("train", 30)
    halted = train(planted, tmp_path / "parts", config, progress=stop, cancel=stop.event, **beside)
    assert halted.card == {"step": 31, "steps": 120}
    assert train(planted, tmp_path / "parts", config, **beside).card["losses"] == card["losses"]
    weights = [(place / "model.safetensors").read_bytes() for place in (folder, tmp_path / "parts")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_without_labels_it_learns_to_tell_posts_apart_and_the_gate_has_nobody_to_ask(
    base: Path, tmp_path: Path
) -> None:
    texts = [f"{one} {other}" for one in LETTERS for other in LETTERS]
    outcome = train(histories([[0]], texts), tmp_path / "out", EmbedderConfig(base=base, steps=30, **QUICK))
    assert not outcome.live
    assert "0 held out" in outcome.why
    assert outcome.card["settings"]["objective"] == "unsupervised"
    losses = outcome.card["losses"]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
