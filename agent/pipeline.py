"""The way of one request: retrieve, rank, judge, select. Each stage leaves its record in the trace.

Explaining comes after, because the list is worth showing before the reasons are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agent.judge import Judge
from agent.request import Request
from agent.select import Limits, choose, keep_allowed
from agent.trace import StageRecord, Trace
from agent.view import View
from retrieval import signals, source
from retrieval.arrays import Floats, Rows
from retrieval.candidate import Because, Candidate
from retrieval.errors import ModelError
from retrieval.reader import Reader, SteeringRule

NAMES = signals.CORE + signals.ASKED
QUERY_LIMIT = 200
RELEVANT = 0.35  # of a post that answers a query; below it whyfeed says that it found nothing closer
UNRELATED = 0.55  # of the best match's relevance: what is below is not about the query


@dataclass(slots=True)
class Ranking:
    """The outcome of one request before its reasons: what was chosen, and everything it came from."""

    reader: Reader
    chosen: list[Candidate]
    scored: list[Candidate]
    trace: Trace
    reach: Any  # what each post of the reader's history reaches by co-occurrence
    relevance: float | None = None  # of the best match, when something was asked for in words
    rules: tuple[SteeringRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """What to recommend to whom. `like` are rows whose neighbours are wanted; `shown` rows are left out."""

    request: Request
    k: int = 5
    like: tuple[int, ...] = ()
    shown: tuple[int, ...] = ()
    conversation: str = ""
    now: float | None = None  # for rules that expire
    seed: str = ""


def run(view: View, reader: Reader, task: Task, judge: Judge | None = None) -> Ranking:
    """Run one request for one reader; the trace says what every stage did."""
    community, request = view.community, task.request
    trace = Trace(request=request.to_json())
    trace.models = {"embedder": view.embedder.name, "ranker": view.ranker.origin}
    trace.weights = dict(view.ranker.weights)
    rules = in_force(reader.rules, task.conversation, task.now)

    with trace.stage("retrieve") as record:
        reach = signals.reach(reader, community)
        spread = signals.spread(reader, community, reach)
        query = _asked(view, request, task.like)
        include = _included(view, rules, request)
        candidates = source.gather(_sources(view, spread, query, include, task.seed), reader, community)
        record.left = len(candidates)
        record.note = _brought(candidates)

    rows = np.array([candidate.row for candidate in candidates], dtype=np.int64)
    with trace.stage("filter", len(candidates)) as record:
        limits = Limits(
            kinds=request.kinds,
            excluded=_excluded(view, rules, request),
            shown=frozenset(task.shown),
            unrelated=_unrelated(rows, query),
        )
        allowed = keep_allowed(candidates, reader, community, limits, trace, record)
        record.left = len(allowed)

    with trace.stage("rank", len(allowed)) as record:
        _score(view, reader, allowed, spread, query, include)
        record.left = len(allowed)
        record.note = view.ranker.origin

    if judge is not None:
        with trace.stage("judge", len(allowed)) as record:
            _judge(view, reader, allowed, judge, record, trace)

    with trace.stage("select", len(allowed)) as record:
        chosen = choose(allowed, task.k, reader, community, trace, record)
        record.left = len(chosen)
        if len(chosen) < task.k:
            record.note = f"only {len(chosen)} of {task.k}: nothing else may be shown"
    best = max((value for value in (query or {}).values()), default=0.0) if query is not None else None
    return Ranking(reader, chosen, allowed, trace, reach, best, rules)


class Leaving:
    """Finds out what each of the reader's own acts did for a candidate, by really leaving it out."""

    def __init__(self, ranking: Ranking, view: View) -> None:
        self._ranking = ranking
        self._view = view
        self._vectors = view.community.vectors(ranking.reader.rows)
        self._without: dict[int, Reader] = {}

    def because(self, candidate: Candidate, most: int = 2) -> tuple[Because, ...]:
        """The reader's own events without which this candidate would score lower, the weightiest first.

        Likely ones are found by their share in the linear signals; each is then left out, and counts
        by how much the score falls. All acts on one post are one piece of history: they are left out
        together, and come as several events with the same share.
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
        """The candidate's score had the reader never acted on `row`; what was asked stays as it was."""
        community, ranker = self._view.community, self._view.ranker
        if row not in self._without:
            self._without[row] = self._ranking.reader.without(row, community)
        left = self._without[row]
        # A history at its full length lets one older post in, with a weight below .05: it counts as nothing.
        weighted = [shares.get(own, 0.0) * weight for own, weight in zip(left.rows.tolist(), left.weights, strict=True)]
        history = sum(weighted)
        spread = np.array([history / max(float(left.weights.sum()), 1e-9)], dtype=np.float32)
        measured = np.array([[candidate.signals.get(name, 0.0) for name in NAMES]], dtype=np.float32)
        row_alone = np.array([candidate.row], dtype=np.int64)
        measured[:, : len(signals.HISTORY)] = signals.measure_history(row_alone, left, community, spread)
        return float(ranker.score(measured, NAMES)[0]) + ranker.weights["llm"] * candidate.signals.get("llm", 0.0)


def in_force(rules: Sequence[SteeringRule], conversation: str, now: float | None) -> tuple[SteeringRule, ...]:
    """The rules that apply: switched on, not expired, and of this conversation where they are bound to one."""
    return tuple(
        rule
        for rule in rules
        if rule.active
        and (rule.until is None or now is None or now < rule.until)
        and (rule.horizon != "session" or rule.conversation == conversation)
    )


# ---- inside ----


def _sources(
    view: View, spread: Floats, query: dict[int, float] | None, include: dict[int, float], seed: str
) -> list[source.Source]:
    community = view.community
    if query is not None:
        return [source.AskedSource("query", query)]
    return [
        source.InterestSource(community, view.topics),
        source.CooccurrenceSource(spread),
        source.NextSource(community),
        source.TextSource(view.store, view.topics),
        source.PeopleSource(community),
        source.FreshSource(community),
        source.PopularSource(community),
        source.AskedSource("include", include),
        source.ExploreSource(community, seed),
    ]


def _asked(view: View, request: Request, like: Sequence[int]) -> dict[int, float] | None:
    """Relevance by row of what was asked for in words or by example; None when nothing was."""
    if request.query:
        return view.topics.search(request.query, QUERY_LIMIT)
    if like:
        vectors = view.community.vectors(like)
        found: dict[int, float] = {}
        for hits in view.community.index.search(vectors, QUERY_LIMIT, view.community.later):
            for num, cosine in hits:
                row = view.topics.row_of_num.get(num)
                if row is not None and row not in like:
                    found[row] = max(found.get(row, 0.0), cosine)
        return found
    return None


def _unrelated(rows: Rows, query: dict[int, float] | None) -> frozenset[int]:
    if not query:
        return frozenset()
    bar = UNRELATED * max(query.values())
    return frozenset(int(row) for row in rows if query.get(int(row), 0.0) < bar)


def _excluded(view: View, rules: Sequence[SteeringRule], request: Request) -> dict[int, str]:
    """Rows that a rule in force leaves out, with the rule's id; "request" where this message alone says so."""
    topics = [(rule.topic, rule.id) for rule in rules if rule.kind == "exclude"]
    topics += [(topic, "request") for topic in request.exclude]
    excluded: dict[int, str] = {}
    for topic, id in topics:
        for row in view.topics.match(topic):
            excluded.setdefault(row, id)
    return excluded


def _included(view: View, rules: Sequence[SteeringRule], request: Request) -> dict[int, float]:
    """Rows that a rule in force, or this message, asks for more of, with how surely they are about it."""
    topics = [rule.topic for rule in rules if rule.kind == "include"]
    included: dict[int, float] = {}
    for topic in dict.fromkeys((*topics, *request.include)):
        for row, surely in view.topics.match(topic).items():
            included[row] = max(included.get(row, 0.0), surely)
    return included


def _score(
    view: View,
    reader: Reader,
    candidates: Sequence[Candidate],
    spread: Floats,
    query: dict[int, float] | None,
    include: dict[int, float],
) -> None:
    rows = np.array([candidate.row for candidate in candidates], dtype=np.int64)
    if not len(rows):
        return
    measured = signals.measure(rows, reader, view.community, spread[rows], query, include)
    scores = view.ranker.score(measured, NAMES).tolist()
    for candidate, values, score in zip(candidates, measured.tolist(), scores, strict=True):
        candidate.signals = dict(zip(NAMES, values, strict=True))
        candidate.score = score
        candidate.probability = view.ranker.probability(score)


def _judge(
    view: View, reader: Reader, candidates: list[Candidate], judge: Judge, record: StageRecord, trace: Trace
) -> None:
    best = sorted(candidates, key=lambda candidate: (-candidate.score, candidate.post))[: judge.most]
    # Scored in the order of their ids: what one post says can move neither this order nor another's score.
    best.sort(key=lambda candidate: candidate.post)
    posts = view.store.posts([candidate.post for candidate in best] + [event.post for event in reader.events])
    try:
        judged = judge.score(reader, [posts[candidate.post] for candidate in best], posts)
    except ModelError as exc:
        record.status = f"failed: {exc}"
        record.left = len(candidates)
        return
    for candidate, probability in zip(best, judged, strict=True):
        candidate.signals["llm"] = probability
        candidate.score += view.ranker.weights["llm"] * probability
        candidate.probability = view.ranker.probability(candidate.score)
    trace.models["judge"] = judge.name
    trace.prompts["judge"] = judge.version
    record.left = len(candidates)
    record.note = f"{len(best)} judged, weight {view.ranker.weights['llm']:g}"


def _brought(candidates: Sequence[Candidate]) -> str:
    counts: dict[str, int] = {}
    for candidate in candidates:
        for name in candidate.sources:
            counts[name] = counts.get(name, 0) + 1
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
