"""Which reply an operator sends next: signals of every candidate, and one small model over them.

The same design as for posts (`agent.recommend.ranker`): each candidate gets the same named signals, its score is their
weighted sum, and the probability is the softmax over the candidates. The weights are set by hand until
`finetune.desk.fit` has fitted better ones on past conversations of the home.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from whyfeed.agent.desk.network import ReplyNetwork, bucket
from whyfeed.agent.registry import Registry
from whyfeed.retrieval.arrays import Floats
from whyfeed.retrieval.desk.cases import CaseBook, Neighbour, grams
from whyfeed.retrieval.desk.situation import Situation, features, situation
from whyfeed.retrieval.desk.types import PLACEHOLDER, DeskTurn
from whyfeed.retrieval.files import kept_arrays, packed_arrays

SIGNALS = (
    "net", "taken", "cases", "nearest", "wording", "nearest_wording", "answers", "context", "topic", "habit",
    "repeated", "passed", "draft", "draft_sense",
)  # fmt: skip
# Weights of saved replies, and of free ones (an operator's own words), for which there is no network.
# Rounded from fits on STAR without the network (saved) and CrossWOZ (free): benchmarks/LOG.md.
HAND_SET: Mapping[str, Mapping[str, float]] = {
    "saved": {
        "net": 1.0, "taken": 10.0, "cases": 3.0, "nearest": 0.3, "wording": 0.0, "nearest_wording": 1.5, "answers": 0.0,
        "context": 0.6, "topic": 0.5, "habit": 0.3, "repeated": -1.2, "passed": -2.0, "draft": 4.0, "draft_sense": 8.0,
    },
    "free": {
        "net": 0.0, "taken": 0.0, "cases": 6.0, "nearest": 2.0, "wording": 0.0, "nearest_wording": 1.5, "answers": 5.0,
        "context": 1.5, "topic": 4.5, "habit": 0.0, "repeated": -0.2, "passed": -2.0, "draft": 4.0, "draft_sense": 4.0,
    },
}  # fmt: skip
MODEL, NET_FILE, RANKER_FILE = "replies", "replies.npz", "replies.json"
_FLOOR = -12.0  # lower bound of a log-probability, so that one signal cannot rule a reply out by itself
_COMPARED = 40  # nearest cases whose answers are compared with every candidate
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class ReplyCandidate:
    """A reply that could be sent. A free one has the id of its case, "CONVERSATION/TURN"."""

    id: str
    text: str
    saved: bool = True


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate with its probability among all candidates, and its signals."""

    candidate: ReplyCandidate
    score: float
    probability: float
    signals: Mapping[str, float]


@dataclass(slots=True)
class ReplyRanker:
    """Weights of the signals, the network if one was trained, and the origin of both."""

    weights: Mapping[str, Mapping[str, float]] = field(default_factory=lambda: HAND_SET)
    net: ReplyNetwork | None = None
    origin: str = "set by hand"

    @classmethod
    def load(cls, home: Path) -> ReplyRanker:
        """The live ranker fitted for this home; the hand-set one where there is none or its file is damaged."""
        registry = Registry(home)
        place = registry.live(MODEL)
        if place is None:
            trouble = registry.trouble(MODEL)
            return cls(origin=f"set by hand ({trouble})" if trouble else "set by hand")
        damaged = cls(origin="set by hand (the fitted model is damaged: fit it again)")
        try:
            document = json.loads((place / RANKER_FILE).read_bytes())
            given = document["weights"]
            weights = {kind: {name: float(given[kind][name]) for name in SIGNALS} for kind in HAND_SET}
            digest, origin = str(document["digest"]), str(document["origin"])
        except (OSError, ValueError, KeyError, TypeError):
            return damaged
        kept = kept_arrays(place / NET_FILE, digest) if digest else None
        if digest and kept is None:
            return damaged
        return cls(weights, None if kept is None else ReplyNetwork.from_arrays(kept), origin)

    def save(self, home: Path, card: Mapping[str, Any]) -> None:
        """Keep these weights and their network as a new version of a home, and make it live."""
        files, digest = {}, ""
        if self.net is not None:
            arrays = self.net.arrays()
            whole = b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name in sorted(arrays))
            digest = hashlib.sha256(whole).hexdigest()
            files[NET_FILE] = packed_arrays(digest, arrays)
        document = {"weights": self.weights, "digest": digest, "origin": self.origin}
        files[RANKER_FILE] = json.dumps(document, indent=1).encode()
        Registry(home).add(MODEL, files, card, live=True)

    def rank(
        self, book: CaseBook, turns: Sequence[DeskTurn], candidates: Sequence[ReplyCandidate],
        neighbours: Sequence[Neighbour], draft: str = "",
    ) -> list[Scored]:  # fmt: skip
        """All candidates, the likeliest first; ties are broken by text and id, never by the order given.

        The weights are those of saved replies where all candidates are saved, else those of free ones.
        """
        if not candidates:
            return []
        weights = self.weights["saved" if all(candidate.saved for candidate in candidates) else "free"]
        values = measure(book, self.net, turns, candidates, neighbours, draft)
        scores = values @ np.array([weights[name] for name in SIGNALS])
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        order = sorted(
            range(len(candidates)),
            # Rounded: the last bits of a sum depend on the order of the candidates.
            key=lambda place: (-round(scores[place], 6), candidates[place].text, candidates[place].id),
        )
        return [
            Scored(
                candidates[place], float(scores[place]), float(shares[place]),
                dict(zip(SIGNALS, map(float, values[place]), strict=True)),
            )
            for place in order
        ]  # fmt: skip


def measure(
    book: CaseBook, net: ReplyNetwork | None, turns: Sequence[DeskTurn], candidates: Sequence[ReplyCandidate],
    neighbours: Sequence[Neighbour], draft: str = "", habits: Mapping[str, int] | None = None,
) -> Floats:  # fmt: skip
    """Signals of every candidate, (candidates, SIGNALS). `habits`: counts of each; default: the book's."""
    now = situation(turns, draft)
    texts = [plain(candidate.text) for candidate in candidates]
    vectors, bags = book.encode(texts), book.bags(texts)
    values = np.zeros((len(candidates), len(SIGNALS)), dtype=np.float64)
    column = {name: values[:, place] for place, name in enumerate(SIGNALS)}

    if neighbours:
        nearest = neighbours[:_COMPARED]
        weights = np.array([neighbour.weight for neighbour in nearest])
        peaks = weights / weights.max()
        said = [plain(neighbour.case.text) for neighbour in nearest]
        alike = np.clip(book.encode(said) @ vectors.T, 0, 1)
        worded = (book.bags(said) @ bags.T).toarray()
        column["cases"][:] = weights @ alike
        column["nearest"][:] = (peaks[:, None] * alike).max(axis=0)
        column["wording"][:] = weights @ worded
        column["nearest_wording"][:] = (peaks[:, None] * worded).max(axis=0)
        taken: dict[str, float] = {}
        passed: dict[str, float] = {}
        for neighbour in neighbours:
            case = neighbour.case
            chosen = case.reply or case.id
            taken[chosen] = taken.get(chosen, 0.0) + neighbour.weight
            for other in case.offered:
                if other != case.reply:
                    passed[other] = passed.get(other, 0.0) + neighbour.weight
        column["taken"][:] = [taken.get(candidate.id, 0.0) for candidate in candidates]
        column["passed"][:] = [passed.get(candidate.id, 0.0) for candidate in candidates]

    asked, everything = grams(now.asked), grams(now.everything)
    repeated = {plain(text) for text in now.said}
    spelled = [grams(text) for text in texts]
    column["answers"][:] = [_share(each, asked, book) for each in spelled]
    column["context"][:] = [_share(each, everything, book) for each in spelled]
    column["topic"][:] = vectors @ book.encode([now.asked])[0]
    column["repeated"][:] = [text in repeated for text in texts]
    habits = book.habits if habits is None else habits
    column["habit"][:] = [math.log1p(habits.get(candidate.id, 0)) for candidate in candidates]
    if draft.strip():
        column["draft"][:] = (book.bags([draft]) @ bags.T).toarray()[0]
        column["draft_sense"][:] = vectors @ book.encode([draft])[0]
    if net is not None:
        column["net"][:] = _of_net(book, net, turns, candidates, now, draft)
    return np.asarray(values, dtype=np.float32)


@lru_cache(maxsize=50_000)
def plain(text: str) -> str:
    """A reply without placeholders and digits, which differ from case to case."""
    return _DIGIT.sub("0", PLACEHOLDER.sub(" ", text)).strip()


def _of_net(
    book: CaseBook, net: ReplyNetwork, turns: Sequence[DeskTurn], candidates: Sequence[ReplyCandidate], now: Situation,
    draft: str,
) -> list[float]:  # fmt: skip
    logs = net.log_probabilities(bucket(features(turns, draft)), pairs(book, [now])[0])
    known = dict(zip(net.replies, logs.tolist(), strict=True))
    return [max(known.get(candidate.id, _FLOOR), _FLOOR) for candidate in candidates]


def pairs(book: CaseBook, found: Sequence[Situation]) -> Floats:
    """The network's dense input, (n, 2 d): vectors of what was asked and of the operator's last words."""
    both = book.encode([text for each in found for text in (each.asked, each.before)])
    return both.reshape(len(found), -1)


def _share(spelled: frozenset[str], known: frozenset[str], book: CaseBook) -> float:
    """Share of a text's words that are known, weighted by their rarity; in [0, 1]."""
    whole = sum(map(book.rarity, spelled))
    return sum(map(book.rarity, spelled & known)) / whole if whole > 0 else 0.0
