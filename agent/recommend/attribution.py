"""Attribution by leave-one-out: which of a user's own events raised a post's score, and by how much."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from whyfeed.agent.recommend.pipeline import Ranking
from whyfeed.agent.recommend.snapshot import Snapshot
from whyfeed.retrieval.community import signals
from whyfeed.retrieval.community.candidate import Because, Candidate
from whyfeed.retrieval.community.reader import Reader


class Attribution:
    """Measures what each of the user's own events contributed to a candidate, by scoring without the event."""

    def __init__(self, ranking: Ranking, view: Snapshot) -> None:
        self._ranking = ranking
        self._view = view
        self._vectors = view.community.vectors(ranking.reader.rows)
        self._without: dict[int, Reader] = {}

    def because(self, candidate: Candidate, most: int = 2) -> tuple[Because, ...]:
        """The user's own events without which this candidate would score lower, the largest effect first.

        Likely events are found by their share in the linear signals. Each is then left out, and its effect is the drop
        of the score. All events on one post are left out together and are returned as several events with the same
        share.
        """
        reader, community = self._ranking.reader, self._view.community
        if not len(reader.rows):
            return ()
        cosines = np.vecdot(self._vectors, community.vectors([candidate.row])[0])
        likely = list(np.argsort(-(cosines * np.sqrt(reader.weights)), kind="stable")[:2])
        shares = np.zeros(len(reader.rows), dtype=np.float32)
        if community.cooccurrence is not None:
            shares = community.cooccurrence.shares(self._ranking.reach, candidate.row)
            weighted = shares * reader.weights
            likely += [place for place in np.argsort(-weighted, kind="stable")[:2] if weighted[place] > 0]
        by_row = dict(zip(reader.rows.tolist(), shares.tolist(), strict=True))
        found: list[tuple[float, int, str]] = []
        for place in dict.fromkeys(int(place) for place in likely):
            row = int(reader.rows[place])
            drop = candidate.score - self._score(candidate, row, by_row)
            if drop > 0:
                via = "text" if cosines[place] >= 0.5 else "cooccurrence"
                if community.authors[row] and community.authors[row] == community.authors[candidate.row]:
                    via = "people"
                found.append((drop, row, via))
        found.sort(key=lambda item: (-item[0], item[1]))
        return tuple(
            Because(event.id, event.post, drop, via)
            for drop, row, via in found[:most]
            for event in reader.acts[row]
            if event.weight > 0
        )

    def _score(self, candidate: Candidate, row: int, shares: Mapping[int, float]) -> float:
        """The candidate's score if the user had never acted on `row`; the request itself stays as it was."""
        community, ranker = self._view.community, self._view.ranker
        if row not in self._without:
            self._without[row] = self._ranking.reader.without(row, community)
        left = self._without[row]
        # When the history is at its full length, leaving one post out lets an older one in, with a weight below .05:
        # ignored.
        weighted = [shares.get(own, 0.0) * weight for own, weight in zip(left.rows.tolist(), left.weights, strict=True)]
        history = sum(weighted)
        spread = np.array([history / max(float(left.weights.sum()), 1e-9)], dtype=np.float32)
        row_alone = np.array([candidate.row], dtype=np.int64)
        history = signals.measure(signals.SignalContext(row_alone, left, community, spread), signals.HISTORY)
        values = {**candidate.signals, **dict(zip(signals.HISTORY, history[0].tolist(), strict=True))}
        measured = np.array([[values.get(name, 0.0) for name in signals.MEASURED]], dtype=np.float32)
        scores = ranker.score(measured, signals.MEASURED)
        return float(scores[0]) + ranker.weights["llm"] * candidate.signals.get("llm", 0.0)
