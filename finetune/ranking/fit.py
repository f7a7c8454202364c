"""Fit the small ranking model on a home's own ledger, and let it go live only where it has won.

Logistic regression on the signals, with the share of positives put right for what a list really
holds. Weights of helpful signals may not turn negative: with few events a sign is often luck, and
a reader who is told "because you like X" must not be scored down for it.
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
from whyfeed.finetune.ranking.examples import Ahead, Group, groups
from whyfeed.finetune.ranking.next_item import ENOUGH as ENOUGH_LIKES
from whyfeed.finetune.ranking.next_item import train_community
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

FITTED = tuple(name for name in CORE if name not in NOT_FITTED)
ENOUGH = 200  # groups; with fewer nothing is fitted
PENALTIES = (0.001, 0.01, 0.1, 1.0)
_READERS = 600  # of a window: a fit of a few weights need not take longer with each reader more
_WINDOWS = 8  # of the past; half of them where there is so much of it that training costs more than it tells
_MANY = 200_000  # likes
_SHOWN = 300  # posts that a request ranks: what the calibrated probability refers to


def fit(
    store: Store, embedder: Embedder, home: Path, progress: Progress | None = None, seed: int = 0,
    encoder: PostEncoder | None = None, enough: int = ENOUGH_LIKES,
) -> Outcome:  # fmt: skip
    """Fit, test on the last windows against the weights in place, and make the fitted model live where it wins.

    The penalty is chosen on one window, the gate is decided on the two after it, which the choice
    has not seen; then the model is fitted again on everything. A model in place may have been fitted
    on these windows too, which can only speak for it. `encoder` is the language model that may read posts for the
    next-item transformer; it does so where that is chosen, and never with fewer than `enough` likes: nothing would
    come of it.
    """
    in_place = Ranker.load(home)
    name = "the model in place" if in_place.calibrated else "hand-set"
    likes = sum(event.weight > 0 for _, event in store.events())
    trainers = _trainers(store, encoder if likes >= enough else None, progress, enough)
    windows = _WINDOWS if likes < _MANY else _WINDOWS // 2
    replayed = {
        reads: list(groups(store, embedder, windows, seed=seed, progress=progress, ahead=train, readers=_READERS))
        for reads, train in trainers.items()
    }
    found = replayed[""]
    if len(found) < ENOUGH:
        why = f"{len(found)} examples of readers, {ENOUGH} needed: {name} stays"
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
    reads, signals, penalty = _chosen({reads: each[:2] for reads, each in parts.items()})
    found, (train, choose, test) = replayed[reads], parts[reads]
    own = in_place.next_item.encoder if in_place.next_item else ""
    # The one in place is asked with the transformer that it has.
    before = ndcg(np.array([in_place.weights[signal] for signal in FITTED]), parts.get(own, parts[""])[2])
    after = ndcg(solve(train + choose, penalty, signals), test, signals)
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
    weights = solve(found, penalty, signals)
    bias = _bias(found, weights, signals)
    card["weights"] = {name: float(value) for name, value in zip(signals, weights, strict=True)}
    fitted = {**HAND_SET, **dict.fromkeys(FITTED, 0.0), **card["weights"]}
    next_item, again = None, trainers[reads]
    if fitted["next"] and again is not None:
        next_item, _ = again(Community.load(store, embedder))
    Ranker(fitted, bias, True, f"fitted on {len(found)} examples", next_item).save(home, card)
    return Outcome(True, decision.why, card)


def _trainers(
    store: Store, encoder: PostEncoder | None, progress: Progress | None, enough: int
) -> dict[str, Ahead | None]:
    """What may train a transformer, by the name of the language model whose readings it gets; "" without one."""
    if find_spec("torch") is None:
        return {"": None}

    def plain(community: Community) -> tuple[NextItem | None, Vectors | None]:
        return train_community(community, progress, enough=enough), None

    if encoder is None:
        return {"": plain}

    def reading(community: Community) -> tuple[NextItem | None, Vectors | None]:
        states = readings(store, encoder.name, community.nums, encoder.dimension, encoder, progress)
        return train_community(community, progress, encoder.name, states, enough), states

    return {"": plain, encoder.name: reading}


def _chosen(parts: Mapping[str, tuple[Sequence[Group], Sequence[Group]]]) -> tuple[str, tuple[str, ...], float]:
    """Readings, signals and penalty that do best on the second of each two parts, fitted on the first.

    The transformer, and the language model in it, take part only where they help there: of equal ones what is simpler.
    """
    without = tuple(name for name in FITTED if name != "next")
    ways = [("", without), *((reads, FITTED) for reads in parts)]
    tried = [
        (float(np.mean(ndcg(solve(parts[reads][0], penalty, names), parts[reads][1], names))), (reads, names, penalty))
        for reads, names in ways
        for penalty in PENALTIES
    ]
    return max(tried, key=lambda each: each[0])[1]


def fit_agent(agent: Agent, progress: Progress | None = None) -> Outcome:
    """Fit on an agent's home; the agent uses what went live from the next request on."""
    try:
        encoder = agent.encoder
        if encoder is not None:
            encoder.dimension  # noqa: B018  (opens it)
    except (ModelError, WeightsError):
        encoder = None
    return fit(agent.store, agent.embedder, agent.home, progress, encoder=encoder)


def solve(found: Sequence[Group], penalty: float, names: Sequence[str] = FITTED) -> Floats:
    """Weights per unit of each raw signal that minimise the mean conditional log loss within groups.

    Comparing posts within one reader's group leaves out what makes readers differ, which ranking has no use for.
    """
    places = [CORE.index(name) for name in names]
    choices = [(group.signals[:, places], group.labels > 0) for group in found]
    return conditional_logit(choices, penalty, [(0.0, None)] * len(places))


def conditional_logit(
    choices: Sequence[tuple[Floats, npt.NDArray[np.bool_]]],
    penalty: float,
    bounds: Sequence[tuple[float | None, float | None]],
) -> Floats:
    """Weights of signals by McFadden's conditional logit (1974), per unit of each raw signal.

    A choice is the signals of what could have been chosen, (n, signals), and which of them was. `penalty` is on
    the squared weights of signals scaled to a standard deviation of 1.
    """
    from scipy.optimize import minimize

    every = np.concatenate([values for values, _ in choices]).astype(np.float64)
    scale = every.std(axis=0) + 1e-6
    every /= scale
    lengths = np.array([len(values) for values, _ in choices])
    starts = np.append(0, np.cumsum(lengths)[:-1])
    # Each choice weighs the same, and so does everything that was chosen in it.
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
    """The bias with which the mean probability over a list equals the share of it that readers act on."""
    from scipy.optimize import brentq

    places = [CORE.index(name) for name in names]
    scores, sample_weights, positives = [], [], 0.0
    for group in found:
        scores.append(group.signals[:, places].astype(np.float64) @ weights)
        negative = group.labels == 0
        # Negatives were sampled: each stands for several posts of a real list.
        per = max(min(_SHOWN, group.possible) - group.labels.sum(), 1) / max(negative.sum(), 1)
        sample_weights.append(np.where(negative, per, 1.0))
        positives += float(group.labels.sum())
    all_scores, all_weights = np.concatenate(scores), np.concatenate(sample_weights)

    def surplus(bias: float) -> float:
        return float((all_weights / (1 + np.exp(-np.clip(all_scores + bias, -50, 50)))).sum() - positives)

    return float(brentq(surplus, -100, 100))


def ndcg(weights: Floats, found: Sequence[Group], names: Sequence[str] = FITTED, k: int = 10) -> Floats:
    """nDCG@k of each group; ties are broken against the positives."""
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
    """Share of the positives that some source had brought."""
    positives = sum(float(group.labels.sum()) for group in found)
    return sum(float(group.brought[group.labels > 0].sum()) for group in found) / max(positives, 1.0)
