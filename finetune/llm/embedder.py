"""Tune a sentence embedder on this community's events: contrastive training with sentence-transformers.

- **pairs**: posts that one user acted on soon after each other get similar vectors, contrasted with all others of the
  batch and one hard negative each, similar in words and never acted on by the same user (InfoNCE, van den Oord et al.
  2018, in the form of `MultipleNegativesRankingLoss`).
- **unsupervised**: without events, a post and itself under another dropout mask (SimCSE, Gao et al. 2021, arXiv
  2104.08821).
- **debiased**: popular posts are acted on because they are seen. Pairs are sampled by the inverse propensity of both
  being seen, clipped and self-normalised (Schnabel et al. 2016, arXiv 1602.05352; propensity as a power of popularity
  as in Saito et al. 2020, arXiv 1909.03601). Sampling by these weights estimates the weighted loss.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from whyfeed.agent.llm.roles import EMBEDDER as MODEL
from whyfeed.finetune import training
from whyfeed.finetune.config import SMALL_BERT, TimedConfig
from whyfeed.finetune.evaluation.histories import Histories
from whyfeed.finetune.evaluation.metrics import Values
from whyfeed.finetune.evaluation.protocol import leave_one_out
from whyfeed.finetune.gate import Outcome, decide
from whyfeed.finetune.llm.encoder import Examples, HardNegatives
from whyfeed.finetune.training import Checkpoint
from whyfeed.retrieval.arrays import Rows, Vectors
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.errors import DataError, HomeError
from whyfeed.retrieval.files import new_folder, write_whole
from whyfeed.retrieval.progress import Progress

Objective = Literal["pairs", "unsupervised"]
_LIBRARIES = ("torch", "transformers", "sentence-transformers")
_HELD_OUT = 0.1  # share of the users
_ASKED = 200  # largest number of held-out users, each tested on one post
_POOL = 1000  # posts among which the target is ranked
_LATEST = 5  # posts of a history that form the query
_CLIP = 0.1  # least propensity: no pair weighs more than a hundred others


class EmbedderConfig(TimedConfig):
    """Settings of the embedder's training; `base` is a sentence-transformers model."""

    base: str | Path = SMALL_BERT
    objective: Annotated[
        Objective | None, Field(description="None: pairs, where any reader took up two posts; else unsupervised.")
    ] = None
    debias: Annotated[bool, Field(description="Draw pairs by inverse propensity; with pairs only.")] = False
    batch: Annotated[int, Field(ge=2, description="Pairs that one step learns from.")] = 32
    steps: Annotated[int, Field(ge=1, description="Optimiser steps.")] = 100
    lr: Annotated[float, Field(gt=0, description="The highest learning rate, at the end of the warm-up.")] = 5e-5
    temperature: Annotated[float, Field(gt=0, description="Cosines are divided by it in the loss.")] = 0.05
    max_tokens: Annotated[int, Field(ge=8, description="Of a post's text; the rest is not read.")] = 64


def train_home(
    home: Path, histories: Histories, config: EmbedderConfig, *, near: Vectors | None = None,
    in_place: Embedder | None = None, progress: Progress | None = None,
) -> Outcome:  # fmt: skip
    """`train` for a home: the embedder becomes a version of the model `MODEL`, live if it beats `in_place`.

    `WHYFEED_EMBEDDER=tuned` uses the live one. It needs torch, so it is used only with that setting.
    """
    return training.train_for_home(
        home, MODEL, lambda out, _: train(histories, out, config, near=near, in_place=in_place, progress=progress)
    )


def train(
    histories: Histories, out: Path, config: EmbedderConfig, *, near: Vectors | None = None,
    in_place: Embedder | None = None, progress: Progress | None = None, cancel: threading.Event | None = None,
) -> Outcome:  # fmt: skip
    """Tune an embedder and write it, with its card, to `out`: a folder that sentence-transformers loads.

    `near` are sentence vectors (posts, d) used to find hard negatives; without them there are none. The gate compares
    recall@20 of held-out users with that of the embedder `in_place`, or of the base. The same call after a kill or a
    `cancel` resumes the training and ends with the same weights (except with `minutes`). Raises ValueError for `debias`
    without pairs, DataError when there is nothing to learn from, ModelError for libraries or a base that cannot be
    loaded, HomeError for weights or disk.
    """
    seed = config.seed
    learn, asked = split(histories, seed)
    objective = config.objective or ("pairs" if np.any(learn.lengths >= 2) else "unsupervised")
    if config.debias and objective != "pairs":
        raise ValueError("debias is about what readers took up; leave it out for the unsupervised objective")
    draw = (
        _pairs(learn, near, config.debias, config.batch, seed)
        if objective == "pairs"
        else _copies(learn, config.batch, seed)
    )
    versions = training.libraries("tuning an embedder", _LIBRARIES)
    folder, _ = training.base_files(config.base)
    settings = {
        "objective": objective, "debias": config.debias, "batch": config.batch, "steps": config.steps,
        "minutes": config.minutes, "lr": config.lr, "temperature": config.temperature,
        "max_tokens": config.max_tokens, "hard_negatives": near is not None, "seed": seed,
    }  # fmt: skip
    card: dict[str, Any] = {
        "kind": "embedder", "base": config.base_name, "data": histories.name,
        "settings": settings, "seed": seed, "epsilon": None, "versions": versions,
        "split": {"readers": len(np.unique(learn.user)), "held_out": len(asked.target), "posts": len(asked.pool)},
    }  # fmt: skip
    parts = ["\0".join(learn.texts), learn.user.tobytes().hex(), learn.post.tobytes().hex()]
    parts += ["" if near is None else near.tobytes().hex(), json.dumps([card, training.file_states(folder)])]
    watch = training.Watch.of(progress, cancel)
    with training.exclusive(out), training.seeded(seed):
        model = _load(folder, config.max_tokens)
        checkpoint = Checkpoint(out, training.digest("".join(map(training.digest, parts))))
        ranks = {"base": asked.ranks(lambda texts: _encoded(model, texts), learn.texts, "base", watch.progress)}
        if in_place is not None:
            ranks["in place"] = asked.ranks(in_place.encode, learn.texts, "in place", watch.progress)
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        loss_of = MultipleNegativesRankingLoss(model, scale=1 / config.temperature)
        # Half of the weights are word embeddings, and most of these words occur in no example.
        model.transformers_model.get_input_embeddings().requires_grad_(False)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        model.train()

        def backward(step: int) -> float:
            columns = [model.preprocess([learn.texts[post] for post in column]) for column in draw(step)]
            features = [{name: value.to(model.device) for name, value in column.items() if hasattr(value, "to")}
                        for column in columns]  # fmt: skip
            loss = loss_of(features, None)
            loss.backward()
            return float(loss.detach())

        finished, spent = training.run_steps(weights, checkpoint, settings, backward, watch)
        if not finished:
            why = f"stopped after step {spent.steps} of {config.steps}: run again to go on"
            return Outcome(False, why, {"step": spent.steps, "steps": config.steps})
        model.eval()
        ranks["tuned"] = asked.ranks(lambda texts: _encoded(model, texts), learn.texts, "tuned", watch.progress)
        card |= asdict(spent)
        card |= {"minutes": round(spent.minutes, 2), "cpu_minutes": round(spent.cpu_minutes, 2)}
        card["metrics"] = {name: _measured(each) for name, each in ranks.items()}
        place = "base" if in_place is None else "in place"
        decision = decide(
            _recall(ranks[place]), _recall(ranks["tuned"]), np.arange(len(asked.target)), asked.lengths,
            metric="recall@20", names=("the base" if in_place is None else in_place.name, "the embedder"), seed=seed,
        )  # fmt: skip
        card["gate"] = decision.to_json()
        with new_folder(out) as new:
            _save(model, new, card["base"])
            write_whole(new / "card.json", json.dumps(card, indent=1, ensure_ascii=False).encode())
        checkpoint.drop()
    return Outcome(decision.live, decision.why, card)


# ---- test queries


@dataclass(frozen=True)
class HeldOutReaders:
    """Held-out users: `history` (users, _LATEST) rows of posts, newest first, -1 for none.

    The `target` (users,) is ranked among the `pool` without the posts that the user acted on before; `lengths` (users,)
    are those of the histories.
    """

    history: Rows
    target: Rows
    lengths: Rows
    pool: Rows

    def ranks(
        self, encode: Callable[[list[str]], Vectors], texts: Sequence[str], what: str, progress: Progress
    ) -> Rows:
        """(users,): how many posts of the pool are at least as near to the mean of the history as the target."""
        posts = np.unique(np.concatenate([self.history.ravel(), self.pool]))
        posts = posts[posts >= 0]
        if not len(self.target):
            return np.zeros(0, dtype=np.int64)
        found = []
        for begin in range(0, len(posts), 128):
            progress(f"reading with {what}", begin, len(posts))
            found.append(encode([texts[post] for post in posts[begin : begin + 128]]))
        progress(f"reading with {what}", len(posts), len(posts))
        vectors = np.concatenate(found)
        there = (self.history >= 0)[..., None]
        query = (vectors[np.searchsorted(posts, np.maximum(self.history, posts[0]))] * there).sum(axis=1)
        scores = query @ vectors[np.searchsorted(posts, self.pool)].T
        own = scores[np.arange(len(scores)), np.searchsorted(self.pool, self.target)]
        scores[(self.pool[None, :, None] == self.history[:, None, :]).any(axis=2)] = -np.inf
        return np.asarray((scores >= own[:, None]).sum(axis=1) - 1)


def split(histories: Histories, seed: int) -> tuple[Histories, HeldOutReaders]:
    """Training histories, and held-out users with their last posts (leave one out)."""
    able = np.flatnonzero(histories.lengths >= 2)
    rng = np.random.default_rng([seed, 1])
    drawn = rng.permutation(able)[: min(_ASKED, int(_HELD_OUT * len(able)))]
    held = np.isin(histories.user, drawn)
    before, test = leave_one_out(histories.keep(held), seed, _ASKED)
    history = np.full((len(test.user), _LATEST), -1, dtype=np.int64)
    places = before.first_likes
    for row, user in enumerate(test.user):
        latest = before.post[places][before.user[places] == user][::-1][:_LATEST]
        history[row, : len(latest)] = latest
    target = np.array([int(each[0]) for each in test.relevant], dtype=np.int64)
    others = rng.permutation(np.setdiff1d(np.arange(len(histories.posts)), target))
    pool = np.union1d(target, others[: max(0, _POOL - len(target))])
    return histories.keep(~held), HeldOutReaders(history, target, before.lengths[test.user], pool)


def _recall(ranks: Rows, cut: int = 20) -> Values:
    return (ranks < cut).astype(np.float64)


def _measured(ranks: Rows) -> dict[str, float]:
    if not len(ranks):
        return {}
    gains = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0)
    return {
        "recall@20": round(float(_recall(ranks).mean()), 4), "recall@100": round(float(_recall(ranks, 100).mean()), 4),
        "ndcg@10": round(float(gains.mean()), 4),
    }  # fmt: skip


# ---- training data


def propensity(popularity: Rows) -> Values:
    """(posts,) propensity of each post to be seen, up to a factor: sqrt(popularity), maximum 1, clipped."""
    shares = popularity / max(1, int(popularity.max(initial=0)))
    return np.asarray(np.maximum(np.sqrt(shares), _CLIP), dtype=np.float64)


def pairs(learn: Histories, debias: bool) -> Examples:
    """Pairs of posts that one user acted on one or two events apart, uniform; with `debias` by inverse propensity."""
    examples = Examples.of(learn, 1)
    weight = np.ones(len(examples.target))
    if debias:
        seen = propensity(learn.popularity)
        weight = 1 / np.maximum(seen[examples.target] * seen[examples.context[:, 0]], _CLIP**2)
    return replace(examples, chance=weight / weight.sum())


def _pairs(
    learn: Histories, near: Vectors | None, debias: bool, batch: int, seed: int
) -> Callable[[int], list[list[int]]]:
    """Columns of a step's batch: posts, following posts, and with `near` a hard negative each."""
    examples, strangers = pairs(learn, debias), None if near is None else HardNegatives(learn, near)
    size = len(learn.posts)

    def draw(step: int) -> list[list[int]]:
        places = examples.draw(step, batch, seed)
        # A post that occurs twice would be both a positive and a negative.
        used: set[int] = set()
        rows: list[tuple[int, int]] = []
        for context, target in zip(examples.context[places, 0].tolist(), examples.target[places].tolist(), strict=True):
            if not used & {context, target}:
                rows.append((context, target))
                used |= {context, target}
        columns = [list(column) for column in zip(*rows, strict=True)]
        if strangers is not None:
            rng = np.random.default_rng([seed, 3, step])
            targets = np.array(columns[1])
            # A post without a near stranger gets a random one.
            other = (targets + rng.integers(1, max(2, size), len(targets))) % size
            hard = strangers.draw(targets, rng)
            columns.append(np.where(hard >= 0, hard, other).tolist())
        return columns

    return draw


def _copies(learn: Histories, batch: int, seed: int) -> Callable[[int], list[list[int]]]:
    """Columns of a step's batch: posts with a text, twice."""
    first: dict[str, int] = {}  # duplicates would be negatives of each other
    for post, text in enumerate(learn.texts):
        if text.strip():
            first.setdefault(text, post)
    posts = list(first.values())
    if len(posts) < 2:
        raise DataError(f"{learn.name!r} has {len(posts)} posts with a text; an embedder is tuned on many")

    def draw(step: int) -> list[list[int]]:
        chosen = [posts[place] for place in training.batch_places(step, len(posts), min(batch, len(posts)), seed)]
        return [chosen, chosen]

    return draw


# ---- the model


def _load(folder: str, max_tokens: int) -> Any:
    from sentence_transformers import SentenceTransformer

    try:
        model: Any = SentenceTransformer(folder)
    except Exception as exc:  # the hub, the disk and the model's own code raise many types of errors
        first = (str(exc).splitlines() or [""])[0]
        raise HomeError(f"cannot load the embedder {folder!r} ({first}); check it, or pull it again") from exc
    model.max_seq_length = max_tokens
    return model


def _encoded(model: Any, texts: list[str]) -> Vectors:
    return np.asarray(model.encode(texts, show_progress_bar=False, normalize_embeddings=True), dtype=np.float32)


def _save(model: Any, folder: Path, name: str) -> None:
    model.transformers_model.config._name_or_path = name  # not the path on this machine
    try:
        model.save_pretrained(str(folder), create_model_card=False)
    except OSError as exc:
        raise HomeError(f"cannot write {str(folder)!r} ({exc.strerror or exc}); free some space and try again") from exc
