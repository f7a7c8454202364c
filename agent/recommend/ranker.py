"""The ranking core: signals combined by a small linear model, one post at a time.

A score is a sum of weight x (signal - centre) / scale, so it never depends on the other
candidates, and what each signal contributed can be shown as it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from whyfeed.agent.registry import Registry
from whyfeed.retrieval.arrays import Floats
from whyfeed.retrieval.community.next_item import NextItem
from whyfeed.retrieval.community.signals import SIGNALS

MODEL, MODEL_FILE = "ranker", "ranker.json"
NEXT_FILE = "next.npz"

# Until a home has enough events to fit from. In units of log-odds per unit of the raw signal, by
# judgement; `benchmarks/` compares them with the fitted ones. A signal that is not named here weighs nothing.
HAND_SET: Mapping[str, float] = dict.fromkeys(SIGNALS, 0.0) | {
    "interest": 1.5,
    "recent": 1.5,
    "cooccurrence": 2.0,
    "next": 0.0,  # until a transformer was trained here
    "tags": 1.5,
    "people": 1.0,
    "community": 1.5,
    "fresh": 0.7,
    "popular": 0.5,
    "disliked": -4.0,
    "query": 12.0,
    "include": 3.0,
    "llm": 0.0,
}
# What no ledger can teach keeps its hand-set weight: what is asked for or refused in words, and how
# much being new counts (a ledger shows what was put before people, see `finetune.ranking.examples`).
NOT_FITTED = ("fresh", "disliked", "query", "include", "llm")


@dataclass(frozen=True, slots=True)
class Ranker:
    """Weights per unit of each raw signal; `origin` says where they come from and goes into the trace.

    `calibrated` tells whether sigmoid(score) is a probability: the model was fitted on examples
    whose share of positives was corrected (see `finetune.ranking.fit`). The signal `next` comes from `next_item`.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: dict(HAND_SET))
    bias: float = 0.0
    calibrated: bool = False
    origin: str = "hand-set"
    next_item: NextItem | None = None

    def score(self, signals: Floats, names: Sequence[str]) -> Floats:
        """Scores (n,) in log-odds of signals (n, len(names)); unknown names are a ValueError."""
        vector = np.array([self.weights[name] for name in self._known(names)], dtype=np.float32)
        # Summed row by row in float64: the score of a post is the same to the bit whatever stands beside it.
        products = signals.astype(np.float64) * vector
        return np.asarray([math.fsum(row) + self.bias for row in products.tolist()], dtype=np.float64).astype(
            np.float32
        )

    def probability(self, score: float) -> float | None:
        """P(engage), or None while the weights are hand-set."""
        if not self.calibrated:
            return None
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, score))))

    def contributions(self, signals: Mapping[str, float]) -> dict[str, float]:
        """What each signal added to the score, the largest share first; without the bias."""
        parts = {name: self.weights.get(name, 0.0) * value for name, value in signals.items()}
        return dict(sorted(parts.items(), key=lambda item: -abs(item[1])))

    def save(self, home: Path, card: Mapping[str, object]) -> None:
        """Keep the model with its card as a new version of a home, and make it live."""
        document = {
            "weights": dict(self.weights), "bias": self.bias, "calibrated": self.calibrated, "origin": self.origin,
        }  # fmt: skip
        files = {MODEL_FILE: json.dumps(document, indent=1).encode()}
        if self.next_item is not None:
            files[NEXT_FILE] = self.next_item.to_bytes()
        Registry(home).add(MODEL, files, card, live=True)

    @classmethod
    def load(cls, home: Path) -> Ranker:
        """The live version of the model fitted on this home; hand-set weights where there is none, or a damaged one."""
        registry = Registry(home)
        place = registry.live(MODEL)
        if place is None:
            trouble = registry.trouble(MODEL)
            return cls(origin=f"hand-set ({trouble})" if trouble else "hand-set")
        try:
            document = json.loads((place / MODEL_FILE).read_bytes())
            weights = {**HAND_SET, **{name: float(value) for name, value in document["weights"].items()}}
            numbers = [*weights.values(), float(document["bias"])]
            if not all(map(math.isfinite, numbers)) or set(weights) != set(SIGNALS):
                return cls(origin="hand-set (the fitted model is damaged: fit it again)")
            next_item = NextItem.from_bytes((place / NEXT_FILE).read_bytes()) if weights["next"] else None
            return cls(
                weights, float(document["bias"]), bool(document["calibrated"]), str(document["origin"]), next_item
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(origin="hand-set (the fitted model is damaged: fit it again)")

    def _known(self, names: Sequence[str]) -> Sequence[str]:
        if unknown := [name for name in names if name not in self.weights]:
            raise ValueError(f"unknown signals {unknown!r}; there are {', '.join(self.weights)}")
        return names
