"""The ranking pipeline of one request: retrieve, rank, judge, select. Each stage writes its record to the trace.

Reasons are written afterwards, because the list can be shown before they are ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whyfeed.agent.recommend.filters import FilterContext, Limits, keep_allowed
from whyfeed.agent.recommend.judge import Judge
from whyfeed.agent.recommend.rules import in_force
from whyfeed.agent.recommend.selection import choose
from whyfeed.agent.recommend.snapshot import Snapshot
from whyfeed.agent.request import Request
from whyfeed.agent.trace import StageRecord, Status, Trace
from whyfeed.retrieval.arrays import Floats, Rows
from whyfeed.retrieval.community import signals
from whyfeed.retrieval.community import sources as source
from whyfeed.retrieval.community.candidate import Candidate
from whyfeed.retrieval.community.reader import Reader, SteeringRule
from whyfeed.retrieval.errors import ModelError

QUERY_LIMIT = 200
RELEVANT = 0.35  # relevance of a post that answers a query; below it whyfeed says that it found nothing closer
UNRELATED = 0.55  # share of the best match's relevance: posts below it are not about the query


@dataclass(slots=True)
class Ranking:
    """The result of one request before its reasons: the chosen posts and everything they were computed from."""

    reader: Reader
    chosen: list[Candidate]
    scored: list[Candidate]
    trace: Trace
    reach: Any  # per row of the user's history: the posts it reaches by co-occurrence
    relevance: float | None = None  # of the best match, when the request has a query
    rules: tuple[SteeringRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """What to recommend to whom. `like`: rows whose neighbours are wanted; `shown`: rows to leave out."""

    request: Request
    k: int = 5
    like: tuple[int, ...] = ()
    shown: tuple[int, ...] = ()
    conversation: str = ""
    now: float | None = None  # for rules that expire
    seed: str = ""


def run(view: Snapshot, reader: Reader, task: Task, judge: Judge | None = None) -> Ranking:
    """Run one request for one user; the trace records every stage."""
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
        if query is not None:
            sources: list[source.Source] = [source.AskedSource("query", query)]
        else:
            given = source.SourceContext(view.store, community, view.topics, spread, include, task.seed)
            sources = [make(given) for make in source.SOURCES]
        candidates = source.gather(sources, reader, community)
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
        allowed = keep_allowed(candidates, FilterContext(rows, reader, community, limits), trace, record)
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


# ---- inside ----


def _asked(view: Snapshot, request: Request, like: Sequence[int]) -> dict[int, float] | None:
    """Relevance by row to the query or the example posts; None when the request has neither."""
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


def _excluded(view: Snapshot, rules: Sequence[SteeringRule], request: Request) -> dict[int, str]:
    """Rows excluded by a rule in force, with the rule's id; "request" where only this message excludes them."""
    topics = [(rule.topic, rule.id) for rule in rules if rule.kind == "exclude"]
    topics += [(topic, "request") for topic in request.exclude]
    excluded: dict[int, str] = {}
    for topic, id in topics:
        for row in view.topics.match(topic):
            excluded.setdefault(row, id)
    return excluded


def _included(view: Snapshot, rules: Sequence[SteeringRule], request: Request) -> dict[int, float]:
    """Rows that a rule in force, or this message, asks for more of, with how certainly they are about it (0..1)."""
    topics = [rule.topic for rule in rules if rule.kind == "include"]
    included: dict[int, float] = {}
    for topic in dict.fromkeys((*topics, *request.include)):
        for row, surely in view.topics.match(topic).items():
            included[row] = max(included.get(row, 0.0), surely)
    return included


def _score(
    view: Snapshot,
    reader: Reader,
    candidates: Sequence[Candidate],
    spread: Floats,
    query: dict[int, float] | None,
    include: dict[int, float],
) -> None:
    rows = np.array([candidate.row for candidate in candidates], dtype=np.int64)
    if not len(rows):
        return
    measured = signals.measure(signals.SignalContext(rows, reader, view.community, spread[rows], query, include))
    scores = view.ranker.score(measured, signals.MEASURED).tolist()
    for candidate, values, score in zip(candidates, measured.tolist(), scores, strict=True):
        candidate.signals = dict(zip(signals.MEASURED, values, strict=True))
        candidate.score = score
        candidate.probability = view.ranker.probability(score)


def _judge(
    view: Snapshot, reader: Reader, candidates: list[Candidate], judge: Judge, record: StageRecord, trace: Trace
) -> None:
    best = sorted(candidates, key=lambda candidate: (-candidate.score, candidate.post))[: judge.most]
    # Scored in the order of their ids: the text of a post can change neither this order nor another's score.
    best.sort(key=lambda candidate: candidate.post)
    posts = view.store.posts([candidate.post for candidate in best] + [event.post for event in reader.events])
    try:
        judged = judge.score(reader, [posts[candidate.post] for candidate in best], posts)
    except ModelError as exc:
        record.end(Status.FAILED, exc)
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
