"""Fit the small ranking model on a home's own ledger; it goes live only where it passes the gate.

A conditional logit (McFadden 1974) on the signals, and a bias that makes the mean probability equal the share of posts
that readers act on in a real list. Weights of helpful signals may not become negative: with few events a sign is often
chance, and a reader who is told "because you like X" must not get a lower score for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from whyfeed.agent.recommend.ranker import HAND_SET, NOT_FITTED, Ranker
from whyfeed.finetune.gate import Outcome, decide
from whyfeed.finetune.ranking.examples import Group, TrainNextItem, groups
from whyfeed.finetune.ranking.next_item import MIN_LIKES, train_on_community
from whyfeed.retrieval.arrays import Floats, Vectors
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.embedder import Embedder, PostEncoder
from whyfeed.retrieval.community.next_item import NextItem
from whyfeed.retrieval.community.post_vectors import readings
from whyfeed.retrieval.community.signals import CORE
from whyfeed.retrieval.errors import ModelError, WeightsError
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.store.store import Store

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent

FITTED_SIGNALS = tuple(name for name in CORE if name not in NOT_FITTED)
MIN_GROUPS = 200  # with fewer groups nothing is fitted
PENALTIES = (0.001, 0.01, 0.1, 1.0)
_READERS = 600  # drawn from each window, which is enough to fit a few weights
_WINDOWS = 8  # of the past; half as many for homes with more than _MANY likes, to save time
_MANY = 200_000
_SHOWN = 300  # posts that a request ranks: what the calibrated probability refers to


def fit(
    store: Store, embedder: Embedder, home: Path, progress: Progress | None = None, seed: int = 0,
    encoder: PostEncoder | None = None, enough: int = MIN_LIKES,
) -> Outcome:  # fmt: skip
    """Fit, compare with the weights in place on the last windows, and make the fitted model live where it wins.

    Signals and penalty are selected on one window and the gate is decided on the two after it; then the model is fitted
    again on everything. The model in place may have been fitted on these windows too, which can only favour it.
    `encoder` reads posts for the next-item transformer; it is used only where that helps, and never with fewer than
    `enough` likes.
    """
    in_place = Ranker.load(home)
    name = "the model in place" if in_place.calibrated else "hand-set"
    likes = sum(event.weight > 0 for _, event in store.events())
    trainers = _trainers(store, encoder if likes >= enough else None, progress, enough)
    windows = _WINDOWS if likes < _MANY else _WINDOWS // 2
    replayed = {
        reads: list(
            groups(store, embedder, windows, seed=seed, progress=progress, train_next_item=train, readers=_READERS)
        )
        for reads, train in trainers.items()
    }
    found = replayed[""]
    if len(found) < MIN_GROUPS:
        why = f"{len(found)} examples of readers, {MIN_GROUPS} needed: {name} stays"
        return Outcome(False, why, {"groups": len(found)})
    last = max(group.window for group in found)
    parts = {
        reads: (
            [group for group in every if group.window < last - 2],
            [group for group in every if group.window == last - 2],
            [group for group in every if group.window > last - 2],
        )
        for reads, every in replayed.items()
    }
    if not all(parts[""][:2]):
        why = f"there are examples of the last days alone: {name} stays"
        return Outcome(False, why, {"groups": len(found)})
    reads, signals, penalty = _select({reads: each[:2] for reads, each in parts.items()})
    found, (train, choose, test) = replayed[reads], parts[reads]
    own = in_place.next_item.encoder if in_place.next_item else ""
    # The model in place is measured with its own transformer.
    before = ndcg(np.array([in_place.weights[signal] for signal in FITTED_SIGNALS]), parts.get(own, parts[""])[2])
    after = ndcg(fit_weights(train + choose, penalty, signals), test, signals)
    decision = decide(
        before, after, [group.user for group in test], np.array([group.history for group in test]),
        metric="nDCG@10", names=(name, "fitted"), seed=seed,
    )  # fmt: skip
    card: dict[str, Any] = {
        "groups": len(found), "tested": len(test), "signals": signals, "penalty": penalty, "seed": seed,
        "reads": reads if "next" in signals else "",
        "ndcg@10": {name: float(np.mean(before)), "fitted": float(np.mean(after))},
        "gate": decision.to_json(), "retrieval_recall": _recall(test),
    }  # fmt: skip
    if not decision.live:
        return Outcome(False, decision.why, card)
    weights = fit_weights(found, penalty, signals)
    bias = _bias(found, weights, signals)
    card["weights"] = {name: float(value) for name, value in zip(signals, weights, strict=True)}
    fitted = {**HAND_SET, **dict.fromkeys(FITTED_SIGNALS, 0.0), **card["weights"]}
    next_item, again = None, trainers[reads]
    if fitted["next"] and again is not None:
        next_item, _ = again(Community.load(store, embedder))
    Ranker(fitted, bias, True, f"fitted on {len(found)} examples", next_item).save(home, card)
    return Outcome(True, decision.why, card)


def _trainers(
    store: Store, encoder: PostEncoder | None, progress: Progress | None, enough: int
) -> dict[str, TrainNextItem | None]:
    """Functions that train a transformer, by the name of the language model whose vectors it reads ("" for none)."""
    if find_spec("torch") is None:
        return {"": None}

    def plain(community: Community) -> tuple[NextItem | None, Vectors | None]:
        return train_on_community(community, progress, enough=enough), None

    if encoder is None:
        return {"": plain}

    def reading(community: Community) -> tuple[NextItem | None, Vectors | None]:
        states = readings(store, encoder.name, community.nums, encoder.dimension, encoder, progress)
        return train_on_community(community, progress, encoder.name, states, enough), states

    return {"": plain, encoder.name: reading}


def _select(parts: Mapping[str, tuple[Sequence[Group], Sequence[Group]]]) -> tuple[str, tuple[str, ...], float]:
    """Language model, signals and penalty with the highest nDCG@10 on the second part when fitted on the first.

    Ties go to the simplest: without the transformer, then without the language model.
    """
    without = tuple(name for name in FITTED_SIGNALS if name != "next")
    ways = [("", without), *((reads, FITTED_SIGNALS) for reads in parts)]
    tried = [
        (
            float(np.mean(ndcg(fit_weights(parts[reads][0], penalty, names), parts[reads][1], names))),
            (reads, names, penalty),
        )
        for reads, names in ways
        for penalty in PENALTIES
    ]
    return max(tried, key=lambda each: each[0])[1]


def fit_agent(agent: Agent, progress: Progress | None = None) -> Outcome:
    """Fit on an agent's home. The agent uses a model that went live from its next request on."""
    try:
        encoder = agent.encoder
        if encoder is not None:
            encoder.dimension  # noqa: B018  (opens it)
    except (ModelError, WeightsError):
        encoder = None
    return fit(agent.store, agent.embedder, agent.home, progress, encoder=encoder)


def fit_weights(found: Sequence[Group], penalty: float, names: Sequence[str] = FITTED_SIGNALS) -> Floats:
    """Weights (signals,) per unit of each raw signal that minimise the mean conditional log loss within groups.

    Comparing posts within a group removes differences between readers, which do not matter for ranking.
    """
    places = [CORE.index(name) for name in names]
    choices = [(group.signals[:, places], group.labels > 0) for group in found]
    return conditional_logit(choices, penalty, [(0.0, None)] * len(places))


def conditional_logit(
    choices: Sequence[tuple[Floats, npt.NDArray[np.bool_]]],
    penalty: float,
    bounds: Sequence[tuple[float | None, float | None]],
) -> Floats:
    """Weights (signals,) of a conditional logit (McFadden 1974), per unit of each raw signal.

    Each choice is the signals of the alternatives, (n, signals), and which of them were chosen, (n,). `penalty` is on
    the squared weights of signals scaled to a standard deviation of 1; `bounds` (low, high) are per signal.
    """
    from scipy.optimize import minimize

    every = np.concatenate([values for values, _ in choices]).astype(np.float64)
    scale = every.std(axis=0) + 1e-6
    every /= scale
    lengths = np.array([len(values) for values, _ in choices])
    starts = np.append(0, np.cumsum(lengths)[:-1])
    # Every choice has the same weight, divided equally among the alternatives chosen in it.
    chosen = np.concatenate([right / right.sum() for _, right in choices]) @ every

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = every @ weights
        top = np.maximum.reduceat(scores, starts)
        exponents = np.exp(scores - np.repeat(top, lengths))
        sums = np.add.reduceat(exponents, starts)
        gradient = (exponents / np.repeat(sums, lengths)) @ every - chosen
        total = float((np.log(sums) + top).sum() - chosen @ weights)
        count = len(lengths)
        return total / count + penalty * float(weights @ weights), gradient / count + 2 * penalty * weights

    result = minimize(loss, np.zeros(len(scale)), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(result.x / scale, dtype=np.float64)


def _bias(found: Sequence[Group], weights: Floats, names: Sequence[str]) -> float:
    """The bias with which the mean probability over a list equals the share of its posts that readers act on."""
    from scipy.optimize import brentq

    places = [CORE.index(name) for name in names]
    scores, sample_weights, positives = [], [], 0.0
    for group in found:
        scores.append(group.signals[:, places].astype(np.float64) @ weights)
        negative = group.labels == 0
        # Negatives were sampled: each represents several posts of a real list.
        per = max(min(_SHOWN, group.eligible) - group.labels.sum(), 1) / max(negative.sum(), 1)
        sample_weights.append(np.where(negative, per, 1.0))
        positives += float(group.labels.sum())
    all_scores, all_weights = np.concatenate(scores), np.concatenate(sample_weights)

    def surplus(bias: float) -> float:
        return float((all_weights / (1 + np.exp(-np.clip(all_scores + bias, -50, 50)))).sum() - positives)

    return float(brentq(surplus, -100, 100))


def ndcg(weights: Floats, found: Sequence[Group], names: Sequence[str] = FITTED_SIGNALS, k: int = 10) -> Floats:
    """(groups,) nDCG@k; in ties the positives come last."""
    places = [CORE.index(name) for name in names]
    discounts = 1 / np.log2(np.arange(2, k + 2))
    values = []
    for group in found:
        scores = group.signals[:, places].astype(np.float64) @ weights
        order = np.lexsort((group.labels, -scores))[:k]
        gain = float((group.labels[order] * discounts[: len(order)]).sum())
        ideal = float(discounts[: min(k, int(group.labels.sum()))].sum())
        values.append(gain / ideal)
    return np.array(values, dtype=np.float64)


def _recall(found: Sequence[Group]) -> float:
    """Share of the positives that any candidate source had retrieved."""
    positives = sum(float(group.labels.sum()) for group in found)
    return sum(float(group.retrieved[group.labels > 0].sum()) for group in found) / max(positives, 1.0)
