"""Train a click model: BERT classifies a pair of user profile and post, with two labels and cross-entropy.

The sequence classification of Devlin et al. 2019 (arXiv 1810.04805, section 4.1) on a pair of texts: the user's events,
latest first, and the post's line. It is trained and evaluated on the examples of the judge
(`finetune.llm.judge_examples`), so that both can be compared in one table; unlike the judge, it needs a full forward
pass per post.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from whyfeed.finetune import training
from whyfeed.finetune.config import SMALL_BERT, ClickDataConfig
from whyfeed.finetune.evaluation.metrics import user_aucs
from whyfeed.finetune.gate import Outcome, decide
from whyfeed.finetune.llm.judge import (
    Values,
    auc_metrics,
    click_metrics,
    describe_examples,
    digest_of,
    labels_of,
    sample_users,
)
from whyfeed.finetune.llm.judge_examples import LabelledPosts
from whyfeed.finetune.training import Checkpoint
from whyfeed.retrieval.errors import DataError, HomeError, ModelError
from whyfeed.retrieval.files import new_folder, write_whole
from whyfeed.retrieval.progress import Progress

MODEL = "click"  # name in the registry
_LIBRARIES = ("torch", "transformers")
_AT_ONCE = 64  # pairs per scoring batch

Pair = tuple[str, str]  # profile and post


class ClickConfig(ClickDataConfig):
    """Settings of the classifier's training; `base` is a BERT model."""

    base: str | Path = SMALL_BERT
    batch: Annotated[int, Field(ge=1, description="Pairs of profile and post that one step learns from.")] = 16
    lr: Annotated[float, Field(gt=0, description="The highest learning rate, at the end of the warm-up.")] = 1e-4
    max_tokens: Annotated[int, Field(ge=16, description="Of a pair; the oldest of a long profile is cut.")] = 128


def train_home(
    home: Path,
    learn: Sequence[LabelledPosts],
    held: Sequence[LabelledPosts],
    config: ClickConfig,
    *,
    progress: Progress | None = None,
) -> Outcome:
    """`train` for a home: the classifier becomes a version of the model `MODEL`, live if it beats the live one.

    The product does not use it: it is a baseline, and is loaded with `ClickModel`.
    """
    return training.train_for_home(
        home, MODEL, lambda out, live: train(learn, held, out, config, in_place=live, progress=progress)
    )


def train(
    learn: Sequence[LabelledPosts], held: Sequence[LabelledPosts], out: Path, config: ClickConfig, *,
    in_place: Path | None = None, progress: Progress | None = None, cancel: threading.Event | None = None,
) -> Outcome:  # fmt: skip
    """Train a classifier and write it, with tokeniser and card, to the folder `out` in one step.

    The same call after a kill or a `cancel` resumes the training and ends with the same weights (except with
    `minutes`). The gate compares AUC per user with the classifier in the folder `in_place`, or with the baseline score
    in the examples. Raises DataError for no examples, ModelError for libraries or a base that is not a BERT model,
    HomeError for weights or disk.
    """
    if not learn or not held:
        raise DataError("there is nothing to learn from, or nothing to measure on; more interactions are needed")
    versions = training.libraries("training the click model", _LIBRARIES)
    folder, _ = training.base_files(config.base)
    pairs, labels = _pairs(learn), labels_of(learn)[0]
    settings = {
        "batch": config.batch, "lr": config.lr, "max_tokens": config.max_tokens, "seed": config.seed,
        "minutes": config.minutes, "steps": config.total_steps(len(pairs)),
    }  # fmt: skip
    tested = sample_users(held, config.most_tested)
    card: dict[str, Any] = {
        "kind": "click", "base": config.base_name,
        **describe_examples(config.data, learn, held, tested),
        "settings": settings, "seed": config.seed, "epsilon": None, "versions": versions,
    }  # fmt: skip
    digest = digest_of(card, folder, learn, tested)
    watch = training.Watch.of(progress, cancel)
    with training.exclusive(out), training.seeded(config.seed):
        tokenizer, model = _load(folder)
        # Half of the weights are word embeddings, and most of these words occur in no example.
        model.get_input_embeddings().requires_grad_(False)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        model.train()

        def backward(step: int) -> float:
            import torch

            places = training.batch_places(step, len(pairs), config.batch, config.seed)
            wanted = torch.from_numpy(labels[places]).to(model.device)
            loss = model(
                **_encoded(tokenizer, [pairs[at] for at in places], config.max_tokens, model), labels=wanted
            ).loss
            loss.backward()
            return float(loss.detach())

        checkpoint = Checkpoint(out, digest)
        finished, spent = training.run_steps(weights, checkpoint, settings, backward, watch)
        if not finished:
            why = f"stopped after step {spent.steps} of {settings['steps']}: run again to go on"
            return Outcome(False, why, {"step": spent.steps, "steps": settings["steps"]})
        after = _logits(tokenizer, model, tested, config.max_tokens, watch.progress)
        before = None if in_place is None else ClickModel(in_place).logits(tested)
        card |= asdict(spent)
        card |= {"minutes": round(spent.minutes, 2), "cpu_minutes": round(spent.cpu_minutes, 2)}
        outcome = _decide(card, tested, before, after, config.plain)
        with new_folder(out) as new:
            _save(tokenizer, model, new, card["base"])
            write_whole(new / "card.json", json.dumps(card, indent=1, ensure_ascii=False).encode())
        checkpoint.drop()
    return outcome


class ClickModel:
    """A trained classifier, from the folder that `train` wrote. Raises HomeError when there is none."""

    def __init__(self, folder: Path) -> None:
        try:
            self.card: dict[str, Any] = json.loads((folder / "card.json").read_text(encoding="utf-8"))
            self._max_tokens = int(self.card["settings"]["max_tokens"])
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise HomeError(f"{str(folder)!r} holds no click model ({exc}); train one: whyfeed finetune click") from exc
        training.libraries("a click model", _LIBRARIES)
        self._tokenizer, self._model = _load(str(folder))

    def logits(self, rows: Sequence[LabelledPosts]) -> Values:
        """(posts,) logit of a click minus that of no click, for all rows in order; its sigmoid is P(click)."""
        return _logits(self._tokenizer, self._model, rows, self._max_tokens)


# ---- inside


def _pairs(rows: Sequence[LabelledPosts]) -> list[Pair]:
    # The latest event comes first, because a profile that is too long is cut at its end.
    return [("; ".join(row.history[::-1]), post) for row in rows for post in row.posts]


def _encoded(tokenizer: Any, pairs: Sequence[Pair], max_tokens: int, model: Any) -> Any:
    profiles, posts = zip(*pairs, strict=True)
    # The longer text is cut, which is the profile unless it is very short.
    given = {"truncation": "longest_first", "max_length": max_tokens, "padding": True, "return_tensors": "pt"}
    return tokenizer(list(profiles), list(posts), **given).to(model.device)


def _logits(
    tokenizer: Any, model: Any, rows: Sequence[LabelledPosts], max_tokens: int, progress: Progress | None = None
) -> Values:
    import torch

    pairs = _pairs(rows)
    found: list[Any] = []
    model.eval()
    with torch.no_grad():
        for begin in range(0, len(pairs), _AT_ONCE):
            if progress:
                progress("test", begin, len(pairs))
            logits = model(**_encoded(tokenizer, pairs[begin : begin + _AT_ONCE], max_tokens, model)).logits
            found.append((logits[:, 1] - logits[:, 0]).double().cpu().numpy())
    return np.concatenate(found) if found else np.zeros(0)


def _decide(
    card: dict[str, Any], tested: Sequence[LabelledPosts], before: Values | None, after: Values, plain: str
) -> Outcome:
    """Compare with the version in place; write metrics and decision into the card."""
    labels, users = labels_of(tested)
    numbers = np.array([value for shown in tested for value in shown.plain] or np.zeros(len(labels)))
    card["metrics"] = {"click": click_metrics(tested, after), plain: auc_metrics(labels, numbers, users)}
    place = f"the {plain}" if before is None else "the click model in place"
    if before is not None:
        card["metrics"]["in place"] = click_metrics(tested, before)
    rival = numbers if before is None else before
    owners, old = user_aucs(labels, rival.astype(np.float32), users)
    _, new = user_aucs(labels, after.astype(np.float32), users)
    decision = decide(old, new, owners, metric="AUC a user", names=(place, "the click model"), seed=card["seed"])
    card["gate"] = decision.to_json()
    return Outcome(decision.live, decision.why, card)


def _load(folder: str) -> tuple[Any, Any]:
    """Tokeniser and classifier in float32; a base has no output layer yet, which torch initialises at random."""
    import torch
    import transformers

    said = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)  # the warning about the new output layer is expected
    try:
        config: Any = transformers.AutoConfig.from_pretrained(folder, num_labels=2)
        if config.model_type != "bert":
            raise ModelError(f"{folder!r} is of the kind {config.model_type!r}, not a BERT; name another base")
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
        model: Any = transformers.BertForSequenceClassification.from_pretrained(
            folder, config=config, dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as exc:
        first = (str(exc).splitlines() or [""])[0]
        raise HomeError(f"cannot load the BERT {folder!r} ({first}); check the folder, or pull it again") from exc
    finally:
        transformers.logging.set_verbosity(said)
    return tokenizer, model.to("cuda" if torch.cuda.is_available() else "cpu")


def _save(tokenizer: Any, model: Any, folder: Path, name: str) -> None:
    model.config._name_or_path = name  # not the path on this machine
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except OSError as exc:
        raise HomeError(f"cannot write {str(folder)!r} ({exc.strerror or exc}); free some space and try again") from exc
