"""The ranking core: a linear model over signals that scores each post on its own.

A score is a sum of weight x (signal - centre) / scale. It does not depend on the other candidates, and each signal's
contribution can be shown directly.
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

# Used until a home has enough events to fit weights. In log-odds per unit of the raw signal, set by hand; `benchmarks/`
# compares them with fitted ones. Signals not listed here have weight zero.
HAND_SET: Mapping[str, float] = dict.fromkeys(SIGNALS, 0.0) | {
    "interest": 1.5,
    "recent": 1.5,
    "cooccurrence": 2.0,
    "next": 0.0,  # until a transformer has been trained here
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
# Signals whose weights cannot be learned from a ledger stay hand-set: requests and rules in words, and recency (a
# ledger reflects what was shown to users, see `finetune.ranking.examples`).
NOT_FITTED = ("fresh", "disliked", "query", "include", "llm")


@dataclass(frozen=True, slots=True)
class Ranker:
    """Weights per unit of each raw signal. `origin` says where they come from and is recorded in the trace.

    `calibrated`: sigmoid(score) is a probability, because the model was fitted on examples whose share of positives was
    corrected (see `finetune.ranking.fit`). The signal `next` is computed by `next_item`.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: dict(HAND_SET))
    bias: float = 0.0
    calibrated: bool = False
    origin: str = "hand-set"
    next_item: NextItem | None = None

    def score(self, signals: Floats, names: Sequence[str]) -> Floats:
        """Scores (n,) in log-odds for signals (n, len(names)). Raises ValueError for unknown names."""
        vector = np.array([self.weights[name] for name in self._known(names)], dtype=np.float32)
        # Summed row by row in float64, so that a post's score is bit-identical whatever other rows are in the batch.
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
        """What each signal added to the score, the largest first; without the bias."""
        parts = {name: self.weights.get(name, 0.0) * value for name, value in signals.items()}
        return dict(sorted(parts.items(), key=lambda item: -abs(item[1])))

    def save(self, home: Path, card: Mapping[str, object]) -> None:
        """Store the model with its card as a new version of a home, and make it live."""
        document = {
            "weights": dict(self.weights), "bias": self.bias, "calibrated": self.calibrated, "origin": self.origin,
        }  # fmt: skip
        files = {MODEL_FILE: json.dumps(document, indent=1).encode()}
        if self.next_item is not None:
            files[NEXT_FILE] = self.next_item.to_bytes()
        Registry(home).add(MODEL, files, card, live=True)

    @classmethod
    def load(cls, home: Path) -> Ranker:
        """The live version of the model fitted on this home; hand-set weights when there is none or it is damaged."""
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
