"""Training the click model: it learns from profile and post, is read back, and a kill changes nothing."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_write import StopAt, make_base
from tests.tiny_bert import tiny_bert
from whyfeed.agent.registry import Registry
from whyfeed.finetune.llm.classifier import MODEL, ClickConfig, ClickModel, train, train_home
from whyfeed.finetune.llm.judge_examples import LabelledPosts
from whyfeed.retrieval.errors import DataError, HomeError, ModelError

WORDS = ("like", "hide", "red", "blue", "car", "boat")
QUICK: dict[str, Any] = {"batch": 16, "lr": 3e-3, "max_tokens": 32}


def shown(count: int, first: int = 0) -> list[LabelledPosts]:
    """Red is liked more than blue, and readers who liked before like more: post and profile both tell."""
    found = []
    for number in range(first, first + count):
        rng = random.Random(number)
        glad = rng.random() < 0.5
        colours = ["red", "blue"] * 3
        lines = tuple(f"{colour} {rng.choice(('car', 'boat'))}" for colour in colours)
        chances = [0.5 * (colour == "red") + 0.5 * glad for colour in colours]
        labels = tuple(int(rng.random() < chance) for chance in chances)
        found.append(
            LabelledPosts(
                f"u{number}", float(number), ("like car" if glad else "hide boat",), lines, labels, (0.5,) * 6
            )
        )
    return found


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tiny_bert(tmp_path_factory.mktemp("click") / "tiny", WORDS)
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "wrong", [{"batch": 0}, {"steps": 0}, {"epochs": 0}, {"minutes": 0.0}, {"lr": -1.0}, {"max_tokens": 8}]
)
def test_bad_arguments_are_refused_by_name(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        train(shown(2), shown(2), tmp_path / "out", ClickConfig(base=tmp_path, **wrong))


def test_what_cannot_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="nothing"):
        train([], shown(1), tmp_path / "out", ClickConfig(base=tmp_path))
    with pytest.raises(HomeError, match="holds no click model"):
        ClickModel(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"click model needs transformers.*pip install 'whyfeed\[train\]'"):
        train(shown(2), shown(2), tmp_path / "out", ClickConfig(base=tmp_path))


@pytest.mark.slow
def test_it_learns_from_profile_and_post_and_is_read_back(base: Path, tmp_path: Path) -> None:
    learn, held = shown(80), shown(60, 1000)
    outcome = train_home(tmp_path, learn, held, ClickConfig(base=base, steps=120, **QUICK))
    card = outcome.card
    assert outcome.live, outcome.why
    assert card["metrics"]["click"]["auc"] > 0.8
    assert card["metrics"]["item mean"]["auc"] == 0.5
    assert (card["epsilon"], card["seed"], card["steps"], len(card["losses"])) == (None, 0, 120, 120)

    folder = Registry(tmp_path).live(MODEL)
    assert folder is not None
    assert str(tmp_path) not in (folder / "config.json").read_text()
    model = ClickModel(folder)
    assert model.card["metrics"] == card["metrics"]
    rows = [LabelledPosts("u", 0.0, (word,), ("red car", "blue boat"), (1, 0)) for word in ("like car", "hide boat")]
    (glad_red, glad_blue, sour_red, sour_blue) = model.logits(rows)
    assert glad_red > max(glad_blue, sour_red)
    assert min(glad_blue, sour_red) > sour_blue
    # One row alone has the same logits; long texts are cut, whichever of the two is long; no profile is no trouble.
    assert model.logits(rows[1:]) == pytest.approx([sour_red, sour_blue], abs=1e-4)
    long = LabelledPosts("u", 0.0, ("like red car",) * 40, ("blue " * 50, "red car"), (0, 1))
    assert np.isfinite(model.logits([long, LabelledPosts("v", 0.0, (), ("red car",), (1,))])).all()

    # The next one has to beat it, not the mean of the posts.
    second = train_home(tmp_path, learn, held, ClickConfig(base=base, steps=1, **QUICK))
    assert not second.live
    assert "the click model in place" in second.why
    assert Registry(tmp_path).live(MODEL) == folder


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.slow
def test_a_training_that_was_stopped_or_broken_off_ends_with_the_same_weights(base: Path, tmp_path: Path) -> None:
    learn, held = shown(20), shown(12, 1000)
    config = ClickConfig(base=base, steps=24, **QUICK)
    whole = train(learn, held, tmp_path / "whole", config)
    stop = StopAt("train", 7)
    halted = train(learn, held, tmp_path / "parts", config, progress=stop, cancel=stop.event)
    assert halted.card == {"step": 8, "steps": 24}
    assert not (tmp_path / "parts").exists()

    def kill(what: str, done: int, total: int) -> None:
        if done == 22:
            raise Killed

    with pytest.raises(Killed):
        train(learn, held, tmp_path / "parts", config, progress=kill)
    seen: list[int] = []
    again = train(learn, held, tmp_path / "parts", config, progress=lambda what, done, total: seen.append(done))
    assert seen[0] == 20  # the last checkpoint
    assert again.card["losses"] == whole.card["losses"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_base_that_is_no_bert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a BERT"):
        train(shown(2), shown(2), tmp_path / "out", ClickConfig(base=make_base(tmp_path / "llama")))
