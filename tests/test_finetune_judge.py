"""Training the judge: candidates do not see each other, methods serve what they learnt, a killed run ends the same."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.test_write import StopAt, content, make_base
from whyfeed.agent.llm.engine import JudgeRequest
from whyfeed.agent.llm.llamacpp import EmbeddedEngine
from whyfeed.agent.llm.weights import find
from whyfeed.agent.recommend.judge import around
from whyfeed.finetune.config import DEFAULT_BASE, MAX_RANK
from whyfeed.finetune.llm.adapters import MERGED, METHODS
from whyfeed.finetune.llm.judge import JudgeConfig, TunedJudge, split, train
from whyfeed.finetune.llm.judge_examples import LabelledPosts
from whyfeed.retrieval.errors import DataError, HomeError, ModelError

pytestmark = [
    # peft asks transformers by names that transformers is about to drop.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning"),
]

WORDS = ("red", "blue", "car", "boat")
QUICK: dict[str, Any] = {"rank": 4, "batch": 4, "serve": False}


def shown(count: int, posts: int = 4) -> list[LabelledPosts]:
    """Everybody likes what is red. Said often: the random model looks at everything alike."""
    found = []
    for number in range(count):
        rng = random.Random(number)
        colours = ["red", "blue", *rng.choices(WORDS[:2], k=posts - 2)]
        lines = tuple(f"{30 * colour} {rng.choice(WORDS[2:])}" for colour in colours)
        labels = tuple(int(colour == "red") for colour in colours)
        found.append(LabelledPosts(f"u{number}", float(number), (), lines, labels, (0.5,) * posts))
    return found


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other make a tiny model slow on a busy machine
    yield make_base(tmp_path_factory.mktemp("judge-base"), words=("Yes", "No", *WORDS))
    torch.set_num_threads(before)


# ---- what is refused


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "magic"},
        {"rank": MAX_RANK + 1},
        {"rank": 0},
        {"batch": 0},
        {"steps": 0},
        {"minutes": 0.0},
        {"lr": -1.0},
        {"eval_every": 0},
        {"report": "paper"},
    ],
)
def test_bad_arguments_are_refused_by_name(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        train(shown(2), shown(2), tmp_path / "out", JudgeConfig(base=tmp_path, **wrong))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, not 0"),
        ({"rank": 17}, "rank must be at most 16, not 17"),
        ({"minutes": -1.5}, "minutes must be above 0, not -1.5"),
        ({"method": "magic"}, "method 'magic' is none of 'lora', 'dora', 'adalora', 'ia3', 'prefix', 'adapter'"),
        ({"speed": 3}, "speed is no setting of this training (3 was given)"),
        ({"steps": "many"}, "steps: input should be a valid integer, unable to parse string as an integer, not 'many'"),
    ],
)
def test_a_wrong_setting_is_one_line_with_name_and_value(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        JudgeConfig(**wrong)


def test_settings_stay_as_they_were_made() -> None:
    config = JudgeConfig(rank=2)
    with pytest.raises(ValueError, match="frozen"):
        config.rank = 3  # type: ignore[misc]


def test_nothing_to_learn_from_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing"):
        train([], shown(1), tmp_path / "out", JudgeConfig(base=tmp_path))
    with pytest.raises(DataError, match="cannot be split"):
        split(shown(1))


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match=r"judge needs peft.*pip install 'whyfeed\[train\]'"):
        train(shown(2), shown(2), tmp_path / "out", JudgeConfig(base=tmp_path))


@pytest.mark.parametrize(("name", "library"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_report_without_its_library_says_what_to_install(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModelError, match=f"pip install {name}"):
        train(shown(2), shown(2), tmp_path / "out", JudgeConfig(base=tmp_path, report=name))


def test_what_is_measured_on_is_later(tmp_path: Path) -> None:
    learn, held = split(shown(20)[::-1])
    assert (len(learn), len(held)) == (16, 4)
    assert max(each.time for each in learn) < min(each.time for each in held)
    same = [LabelledPosts(f"u{n}", float(n // 10), (), ("x",), (1,)) for n in range(20)]
    assert [len(part) for part in split(same)] == [10, 10]  # no moment is on both sides


# ---- packing


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_packed_candidates_have_the_logits_that_each_has_alone(method: str, base: Path, tmp_path: Path) -> None:
    import torch

    from whyfeed.finetune import training
    from whyfeed.finetune.llm import adapters
    from whyfeed.finetune.llm.packed import Prompts, yes_minus_no

    tokenizer, model = training.load(str(base), None)
    prompts = Prompts(tokenizer)
    (row,) = shown(1)
    before, after = around(row.history)
    with torch.no_grad():
        alone = []
        for post in row.posts:  # as an ordinary causal model reads the prompt that serving sends
            ids = torch.tensor([prompts.ids(before) + prompts.ids(post + after)])
            logits = model(input_ids=ids).logits[0, -1]
            alone.append(float(logits[prompts.labels[0]] - logits[prompts.labels[1]]))
        assert yes_minus_no(model, prompts.pack(row), prompts.labels).tolist() == pytest.approx(alone, abs=1e-4)

        torch.manual_seed(0)
        tuned = adapters.add_adapter(model, method, 4, 10, None, "base").eval()
        for weight in tuned.parameters():
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn_like(weight))
        packed = yes_minus_no(tuned, prompts.pack(row), prompts.labels).tolist()
        assert packed != pytest.approx(alone, abs=1e-3)
        for place, post in enumerate(row.posts):
            ids = torch.tensor([prompts.ids(before) + prompts.ids(post + after)])
            logits = tuned(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
            own = float(logits[prompts.labels[0]] - logits[prompts.labels[1]])
            assert packed[place] == pytest.approx(own, abs=1e-4)


# ---- training, with a tiny random model


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_is_loaded_and_scores_as_it_was_measured(method: str, base: Path, tmp_path: Path) -> None:
    out, held, serve = tmp_path / "out", shown(20)[12:], method in MERGED
    rate = {"ia3": 0.1, "prefix": 0.1, "adalora": 0.05}.get(method, 0.02)
    outcome = train(
        shown(12), held, out, JudgeConfig(base=base, steps=24, rank=4, batch=3, serve=serve, method=method, lr=rate)
    )
    card = outcome.card
    assert json.loads((out / "card.json").read_text()) == card
    # No constant is better than .69.
    assert card["metrics"]["judge"]["logloss"] < 0.6 < card["metrics"]["untuned"]["logloss"]
    assert card["metrics"]["item mean"]["auc"] == 0.5
    assert card["calibration"]["slope"] > 0
    assert (card["epsilon"], card["settings"]["method"], card["steps"]) == (None, method, 24)
    assert str(base) not in (out / "adapter_config.json").read_text()

    judge = TunedJudge(out, base)
    scores = 1 / (1 + np.exp(-judge.logits(held)))
    labels = np.array([row.labels for row in held]).ravel()
    loss = -np.log(np.where(labels > 0, scores, 1 - scores)).mean()
    assert loss == pytest.approx(card["metrics"]["judge"]["logloss"], abs=1e-3)
    if method == "lora":
        assert card["serves"] == {"transformers": "adapter", "vllm": "adapter"}
        assert not (out / "merged").exists()
    elif serve:  # what vLLM refuses is merged for it
        assert card["serves"] == {"transformers": "adapter", "vllm": "merged"}
        assert merged_scores(out / "merged", held) == pytest.approx(scores, abs=5e-3)


def merged_scores(folder: Path, held: Sequence[LabelledPosts]) -> list[float]:
    import torch

    from whyfeed.finetune import training
    from whyfeed.finetune.llm.packed import Prompts, yes_minus_no

    tokenizer, model = training.load(str(folder), None)
    prompts = Prompts(tokenizer)
    with torch.no_grad():
        found = [yes_minus_no(model, prompts.pack(row), prompts.labels) for row in held]
    return [float(each) for each in torch.sigmoid(torch.cat(found))]


@pytest.mark.slow
def test_upper_layers_of_a_cut_base_alone_are_trained(base: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    out = tmp_path / "out"
    card = train(shown(4), shown(2), out, JudgeConfig(base=base, steps=2, eval_every=1, layers=1, **QUICK)).card
    with safe_open(str(out / "adapter_model.safetensors"), framework="pt") as file:
        names = list(file.keys())
    assert names
    assert all("layers.1." in name for name in names)
    assert [point["step"] for point in card["curve"]] == [1, 2]
    train(shown(4), shown(2), out, JudgeConfig(base=base, steps=1, cut=1, **QUICK))
    assert len(TunedJudge(out, base).logits(shown(2))) == 8
    with pytest.raises(ValueError, match="cut must be between 1 and 2"):
        train(shown(4), shown(2), out, JudgeConfig(base=base, steps=1, cut=3, **QUICK))
    with pytest.raises(ValueError, match="layers must be between 1 and 1"):
        train(shown(4), shown(2), out, JudgeConfig(base=base, steps=1, cut=1, layers=2, **QUICK))
    with pytest.raises(HomeError, match="train one"):
        TunedJudge(tmp_path / "nothing")


# ---- stopped and killed

FULL: dict[str, Any] = {"steps": 24, "method": "adalora", **QUICK}  # it knows the most beside its weights


@pytest.fixture(scope="session")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("undisturbed-judge") / "out"
    train(shown(8), shown(2), out, JudgeConfig(base=base, **FULL))
    return content(out)["adapter_model.safetensors"]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_adapter(base: Path, undisturbed: bytes, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom whyfeed.finetune.llm.judge import JudgeConfig, train\n"
        "from tests.test_finetune_judge import FULL, shown\n"
        "def kill(name, done, total):\n    if done == 22:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "train(shown(8), shown(2), Path(sys.argv[1]), JudgeConfig(base=Path(sys.argv[2]), **FULL), progress=kill)\n"
    )
    out = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", script, str(out), str(base)], cwd=ROOT, capture_output=True, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    again = StopAt("never", 0)
    train(shown(8), shown(2), out, JudgeConfig(base=base, **FULL), progress=again)
    assert next(done for name, done in again.seen if name == "train") == 20  # the last checkpoint
    assert content(out)["adapter_model.safetensors"] == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("moment", [("train", 3), ("test after", 0)])
def test_a_stopped_run_goes_on_and_ends_with_the_same_adapter(
    moment: tuple[str, int], base: Path, undisturbed: bytes, tmp_path: Path
) -> None:
    out, stop = tmp_path / "out", StopAt(*moment)
    outcome = train(shown(8), shown(2), out, JudgeConfig(base=base, **FULL), progress=stop, cancel=stop.event)
    assert not outcome.live
    assert outcome.card == {"step": 24 if moment[0] != "train" else 4, "steps": 24}
    assert not out.exists()
    train(shown(8), shown(2), out, JudgeConfig(base=base, **FULL))
    assert content(out)["adapter_model.safetensors"] == undisturbed


# ---- the real base, merged, in the embedded engine


@pytest.mark.slow
@pytest.mark.skipif(find(DEFAULT_BASE).state() != "ready", reason="the weights are not on this machine")
def test_the_merged_judge_scores_alike_in_both_engines(tmp_path: Path) -> None:
    import torch

    topics = ("sourdough", "espresso", "tax law", "graph search", "早餐面包", "mountain bikes")
    rows = [
        LabelledPosts(
            f"u{n}", float(n), tuple(f"like: {topics[(n + k) % 6]} for {k + 2} people" for k in range(n % 4)),
            tuple(f"{topics[k % 6]} number {n}, part {k}" for k in range(10)),
            tuple(int((n + k) % 6 < 3) for k in range(10)),
        )
        for n in range(20)
    ]  # fmt: skip
    before, out = torch.get_num_threads(), tmp_path / "out"
    torch.set_num_threads(1)
    card = train(
        rows[:4], rows[4:6], out, JudgeConfig(base=DEFAULT_BASE, steps=4, batch=1, lr=2e-2, cut=2, rank=8)
    ).card
    judge = TunedJudge(out)
    expected = (1 / (1 + np.exp(-judge.logits(rows)))).reshape(20, 10)
    torch.set_num_threads(before)
    assert card["serves"] == {"transformers": "adapter", "vllm": "merged", "embedded": card["serves"]["embedded"]}

    engine = EmbeddedEngine(out / card["serves"]["embedded"], threads=1, n_ctx=2048)
    try:
        asked = [(around(row.history), row.posts) for row in rows]
        found = [
            engine.judge(JudgeRequest(prefix, [post + after for post in posts])) for (prefix, after), posts in asked
        ]
        (prefix, after), posts = asked[5]
        backwards = engine.judge(JudgeRequest(prefix, [post + after for post in posts[::-1]]))
    finally:
        engine.close()
    gaps = np.abs(np.array(found) - expected)
    assert gaps.size == 200
    assert gaps.max() <= 0.01
    assert np.std(expected) > 3 * gaps.max()  # and not because all are alike
    assert backwards[::-1] == found[5]
