"""Training the encoder: what is learnt from, that it learns, and that a killed training ends with the same file."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_llama import tiny_llama
from whyfeed.agent.encoder.gguf import GgufFile
from whyfeed.agent.encoder.post_encoder import CausalEncoder, encoder_of, file_of
from whyfeed.finetune.evaluation.histories import Histories
from whyfeed.finetune.llm.encoder import EncoderConfig, Examples, HardNegatives, split, train, train_home
from whyfeed.retrieval.errors import DataError

LETTERS = "abcdefgh"
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def histories(readers: list[list[int]], texts: list[str]) -> Histories:
    count = sum(map(len, readers))
    return Histories(
        name="planted", users=tuple(f"u{user}" for user in range(len(readers))),
        posts=tuple(f"p{post}" for post in range(len(texts))), texts=tuple(texts),
        years=np.full(len(texts), np.nan, dtype=np.float32),
        user=np.repeat(np.arange(len(readers)), list(map(len, readers))),
        post=np.array([post for reader in readers for post in reader]), weight=np.ones(count, dtype=np.float32),
        time=np.arange(count, dtype=np.float64), ordered=True,
    )  # fmt: skip


@pytest.fixture
def planted() -> Histories:
    """Posts of three letters; readers keep to posts whose middle letter is theirs, whatever stands around it."""
    rng = np.random.default_rng(1)
    texts = [one + middle + other for middle in "aeim" for one in LETTERS for other in LETTERS]
    readers = [(rng.choice(64, 6, replace=False) + 64 * (user % 4)).tolist() for user in range(400)]
    return histories(readers, texts)


def test_examples_are_what_was_taken_up_soon_after_one_another_by_the_same_reader() -> None:
    found = Examples.of(histories([[0, 1, 2, 3], [4, 1], [5]], ["x"] * 6), 1)
    pairs = set(zip(found.context[:, 0].tolist(), found.target.tolist(), strict=True))
    assert pairs == {(0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (4, 1)}
    chances = dict(zip(pairs, [0.0] * 6, strict=True)) | {
        (context[0], target): chance
        for context, target, chance in zip(found.context.tolist(), found.target.tolist(), found.chance, strict=True)
    }
    assert sum(chances.values()) == pytest.approx(1)
    assert chances[2, 3] == pytest.approx(chances[0, 1] * 2**0.5)  # two readers took up post 1
    longer = Examples.of(histories([[0, 1, 2]], ["x"] * 3), 2)
    assert longer.target.tolist() == [1, 2]
    assert longer.context.tolist() == [[0, -1], [1, 0]]


def test_hard_negatives_are_near_in_words_and_were_never_taken_up_together() -> None:
    near = np.array([[1, 0], [0.99, 0.14], [0.98, 0.2], [-1, 0]], dtype=np.float32)
    strangers = HardNegatives(histories([[0, 1], [2], [3]], ["x"] * 4), near)
    drawn = {tuple(strangers.draw(np.array([0, 3]), np.random.default_rng(seed)).tolist()) for seed in range(30)}
    assert {first for first, _ in drawn} == {2, 3}
    assert all(other != 3 for _, other in drawn)


def test_nothing_is_learnt_from_the_readers_who_are_asked_about(planted: Histories) -> None:
    learn, asked = split(planted, 0)
    assert len(asked) == 40
    assert len(np.unique(learn.user)) == 360
    gone = sorted(set(planted.user.tolist()) - set(learn.user.tolist()))
    last = {tuple(planted.post[planted.user == user][-2:].tolist()) for user in gone}
    assert {tuple(row) for row in asked.tolist()} == last
    with pytest.raises(DataError, match="learns from many"):
        split(histories([[0, 1], [0]], ["x", "y"]), 0)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [({"method": "ia3"}, "method"), ({"batch": 1}, "batch"), ({"tuned": 4}, "tuned"), ({"lr": 0}, "lr")],
)
def test_bad_arguments_are_named_before_anything_is_loaded(
    planted: Histories, tmp_path: Path, wrong: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        train(planted, tmp_path / "out", EncoderConfig(base="none.gguf", layers=(3,), **wrong))


def test_only_a_llama_is_tuned(planted: Histories, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "qwen.gguf", architecture="qwen2", pre="qwen2")
    with pytest.raises(ValueError, match=r"'qwen.gguf' is no Llama"):
        train(planted, tmp_path / "out", EncoderConfig(base=base, layers=(3,), tuned=1))


class StopAt:
    """An event that is set once the training has come to a step."""

    def __init__(self, step: int) -> None:
        self.event, self._step = threading.Event(), step

    def __call__(self, what: str, done: int, total: int) -> None:
        if done == self._step:
            self.event.set()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("base") / "tiny.gguf")


@pytest.mark.slow
def test_the_encoder_learns_what_readers_take_up_together_and_is_read_back(
    planted: Histories, base: Path, tmp_path: Path
) -> None:
    near = np.random.default_rng(3).standard_normal((256, 8)).astype(np.float32)
    config = EncoderConfig(base=base, layers=(1, 3), tuned=2, batch=48, lr=3e-3, steps=40)
    outcome = train(planted, tmp_path / "whole", config, near=near)
    card = outcome.card
    assert outcome.live, outcome.why
    assert card["ndcg@10"]["tuned"] > card["ndcg@10"]["base"] + 0.05
    assert card["losses"][-1] < card["losses"][0]
    assert (card["epsilon"], card["data"], card["settings"]["seed"]) == (None, "planted", 0)

    # Two layers learnt, the first is as it was; and what is read back is what was measured.
    tuned, plain = (CausalEncoder(path, (1, 3)).encode(["aab", "hac"]) for path in (file_of(tmp_path / "whole"), base))
    assert np.array_equal(tuned[:, :16], plain[:, :16])
    assert np.abs(tuned[:, 16:] - plain[:, 16:]).max() > 0.1

    # Stopped after a checkpoint and between two, it goes on to the same bytes.
    stop = StopAt(25)
    halted = train(planted, tmp_path / "parts", config, near=near, progress=stop, cancel=stop.event)
    assert halted.card == {"step": 26, "steps": 40} or halted.card == {"step": 25, "steps": 40}
    assert train(planted, tmp_path / "parts", config, near=near).card == card
    assert file_of(tmp_path / "parts").read_bytes() == file_of(tmp_path / "whole").read_bytes()
    assert file_of(tmp_path / "parts").name == file_of(tmp_path / "whole").name
    cut = GgufFile(file_of(tmp_path / "whole"))
    assert cut.tensor("output_norm.weight").tolist() == [1.0] * 16


@pytest.mark.slow
def test_low_rank_additions_and_longer_contexts_learn_too_and_a_home_reads_with_what_is_live(
    planted: Histories, base: Path, tmp_path: Path
) -> None:
    outcome = train_home(
        tmp_path,
        planted,
        EncoderConfig(base=base, layers=(3,), tuned=2, method="lora", rank=8, before=3, batch=48, steps=40, lr=1e-2),
    )
    assert outcome.live, outcome.why
    encoder = encoder_of(tmp_path)
    assert encoder.name.startswith("encoder-")
    assert encoder.dimension == 16
    tuned, plain = GgufFile(next(tmp_path.glob("models/encoder/1/*.gguf"))), GgufFile(base)
    for name in ("attn_q", "ffn_down"):
        assert np.abs(tuned.tensor(f"blk.2.{name}.weight") - plain.tensor(f"blk.2.{name}.weight")).max() > 0.01
        assert np.array_equal(tuned.tensor(f"blk.0.{name}.weight"), plain.tensor(f"blk.0.{name}.weight"))
