"""Fit the small ranking model on a home's own ledger, and let it go live only where it has won.

Logistic regression on the signals, with the share of positives put right for what a list really
holds. Weights of helpful signals may not turn negative: with few events a sign is often luck, and
a reader who is told "because you like X" must not be scored down for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from agent.ranker import HAND_SET, NOT_FITTED, Ranker
from finetune.examples import Group, groups
from finetune.gate import Outcome, decide
from finetune.sequence import train_community
from retrieval.arrays import Floats
from retrieval.community import Community
from retrieval.embedder import Embedder
from retrieval.signals import CORE
from retrieval.store import Store

if TYPE_CHECKING:
    from agent.agent import Agent

FITTED = tuple(name for name in CORE if name not in NOT_FITTED)
ENOUGH = 200  # groups; with fewer nothing is fitted
PENALTIES = (0.001, 0.01, 0.1, 1.0)
_SHOWN = 300  # posts that a request ranks: what the calibrated probability refers to


def fit(
    store: Store, embedder: Embedder, home: Path, progress: Callable[[str, int, int], None] | None = None, seed: int = 0
) -> Outcome:
    """Fit, test on the last windows against the weights in place, and make the fitted model live where it wins.

    The penalty is chosen on one window, the gate is decided on the two after it, which the choice
    has not seen; then the model is fitted again on everything. A model in place may have been fitted
    on these windows too, which can only speak for it.
    """
    in_place = Ranker.load(home)
    name = "the model in place" if in_place.calibrated else "hand-set"
    ahead = train_community if find_spec("torch") else None
    found = list(groups(store, embedder, seed=seed, progress=progress, ahead=ahead))
    if len(found) < ENOUGH:
        why = f"{len(found)} examples of readers, {ENOUGH} needed: {name} stays"
        return Outcome(False, why, {"groups": len(found)})
    last = max(group.window for group in found)
    train = [group for group in found if group.window < last - 2]
    choose = [group for group in found if group.window == last - 2]
    test = [group for group in found if group.window > last - 2]
    if not train or not choose:
        why = f"there are examples of the last days alone: {name} stays"
        return Outcome(False, why, {"groups": len(found)})
    signals, penalty = _chosen(train, choose)
    before = ndcg(np.array([in_place.weights[signal] for signal in FITTED]), test)
    after = ndcg(solve(train + choose, penalty, signals), test, signals)
    decision = decide(
        before, after, [group.user for group in test], np.array([group.history for group in test]),
        metric="nDCG@10", names=(name, "fitted"), seed=seed,
    )  # fmt: skip
    card: dict[str, Any] = {
        "groups": len(found), "tested": len(test), "signals": signals, "penalty": penalty, "seed": seed,
        "ndcg@10": {name: float(np.mean(before)), "fitted": float(np.mean(after))},
        "gate": decision.to_json(), "retrieval_recall": _recall(test),
    }  # fmt: skip
    if not decision.live:
        return Outcome(False, decision.why, card)
    weights = solve(found, penalty, signals)
    bias = _bias(found, weights, signals)
    card["weights"] = {name: float(value) for name, value in zip(signals, weights, strict=True)}
    fitted = {**HAND_SET, **dict.fromkeys(FITTED, 0.0), **card["weights"]}
    next_item = None
    if fitted["next"]:
        community = Community.load(store, embedder)
        next_item = train_community(community, progress)
    Ranker(fitted, bias, True, f"fitted on {len(found)} examples", next_item).save(home, card)
    return Outcome(True, decision.why, card)


def _chosen(train: Sequence[Group], choose: Sequence[Group]) -> tuple[tuple[str, ...], float]:
    """The signals and the penalty that do best on `choose`; the transformer takes part only where it helps there."""
    without = tuple(name for name in FITTED if name != "next")
    tried = [
        (float(np.mean(ndcg(solve(train, penalty, names), choose, names))), names, penalty)
        for names in (without, FITTED)
        for penalty in PENALTIES
    ]
    _, names, penalty = max(tried, key=lambda each: each[0])  # of equal ones the first: what is simpler
    return names, penalty


def fit_agent(agent: Agent, progress: Callable[[str, int, int], None] | None = None) -> Outcome:
    """Fit on an agent's home; the agent uses what went live from the next request on."""
    return fit(agent.store, agent.embedder, agent.home, progress)


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

    scale = np.concatenate([values for values, _ in choices]).astype(np.float64).std(axis=0) + 1e-6
    batches = [(values.astype(np.float64) / scale, chosen) for values, chosen in choices]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        total, gradient = 0.0, np.zeros(len(weights))
        for values, chosen in batches:
            scores = values @ weights
            top = scores.max()
            exponents = np.exp(scores - top)
            share = exponents / exponents.sum()
            total += float(np.log(exponents.sum()) + top - scores[chosen].mean())
            gradient += share @ values - values[chosen].mean(axis=0)
        count = len(batches)
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
