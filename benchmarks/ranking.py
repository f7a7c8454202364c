"""The fitted ranking model and simple baselines on a home's own ledger, split by time.

    python -m benchmarks.ranking [--home DIR] [--negatives fresh|any]

Tested on the last two of eight time windows, with statistics of the time before. Per user nDCG@10 of the posts that
they acted on among sampled negatives, with 95 % bootstrap intervals over users. `--negatives any` samples negatives of
any age, which favours new posts (see finetune/ranking/examples.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from whyfeed import Agent
from whyfeed.agent.recommend.ranker import HAND_SET
from whyfeed.finetune.evaluation.metrics import Resampling, bounds
from whyfeed.finetune.ranking import examples
from whyfeed.finetune.ranking.fit import FITTED_SIGNALS, PENALTIES, fit_weights, ndcg
from whyfeed.retrieval.community.signals import CORE


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--home", type=Path)
    parser.add_argument("--negatives", choices=("fresh", "any"), default="fresh")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with Agent.open(args.home, no_llm=True) as agent:
        found = list(
            examples.groups(agent.store, agent.embedder, seed=args.seed, match_freshness=args.negatives == "fresh")
        )
    last = max(group.window for group in found)
    train = [group for group in found if group.window < last - 2]
    choose = [group for group in found if group.window == last - 2]
    test = [group for group in found if group.window > last - 2]
    names = (*FITTED_SIGNALS, "fresh") if args.negatives == "any" else FITTED_SIGNALS
    penalty = max(PENALTIES, key=lambda value: float(np.mean(ndcg(fit_weights(train, value, names), choose, names))))
    rankers = {
        "random": None,
        "popularity": {"popular": 1.0},
        "newest": {"fresh": 1.0},
        "text": {"interest": 1.0},
        "item-knn, smoothed by text": {"cooccurrence": 1.0},
        "people": {"people": 1.0},
        "hand-set": dict(HAND_SET),
        "fitted": dict(zip(names, fit_weights(train + choose, penalty, names), strict=True)),
    }
    names_of, users = np.unique([group.user for group in test], return_inverse=True)
    print(f"{len(test)} lists of {len(names_of)} readers, penalty {penalty}, negatives: {args.negatives}")
    rng = np.random.default_rng(args.seed)
    for name, weights in rankers.items():
        if weights is None:
            values = _random(test, rng)
        else:
            values = ndcg(np.array([weights.get(signal, 0.0) for signal in CORE]), test, CORE)
        low, high = bounds(Resampling(users, args.seed).means(values[:, None])[:, 0])
        print(f"{name:28} {values.mean():.3f} [{low:.3f}, {high:.3f}]")


def _random(test: list[examples.Group], rng: np.random.Generator) -> np.ndarray:  # type: ignore[type-arg]
    """nDCG@10 of a random order, averaged over 20 repetitions."""
    discounts = 1 / np.log2(np.arange(2, 12))
    values = []
    for group in test:
        ideal = discounts[: min(10, int(group.labels.sum()))].sum()
        orders = [group.labels[rng.permutation(len(group.labels))[:10]] for _ in range(20)]
        values.append(np.mean([(order * discounts[: len(order)]).sum() / ideal for order in orders]))
    return np.array(values)


if __name__ == "__main__":
    main()
