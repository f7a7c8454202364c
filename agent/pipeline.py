"""The way of one request: retrieve, rank, judge, select. Each stage leaves its record in the trace.

Explaining comes after, because the list is worth showing before the reasons are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
from retrieval.reader import Reader, SteeringRule, read

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
    tell: Callable[[str], None] = field(default=lambda _: None)


def run(view: View, reader: Reader, task: Task, judge: Judge | None = None) -> Ranking:
    """Run one request for one reader; the trace says what every stage did."""
    community, request = view.community, task.request
    trace = Trace(request=request.to_json())
    trace.models = {"embedder": view.embedder.name, "ranker": view.ranker.origin}
    trace.weights = dict(view.ranker.weights)
    rules = in_force(reader.rules, task.conversation, task.now)

    task.tell("retrieve")
    with trace.stage("retrieve") as record:
        spread = signals.spread(reader, community)
        query = _asked(view, request, task.like)
        candidates = source.gather(_sources(view, spread, query, task.seed), reader, community)
        record.left = len(candidates)
        record.note = _brought(candidates)

    task.tell("rank")
    rows = np.array([candidate.row for candidate in candidates], dtype=np.int64)
    with trace.stage("filter", len(candidates)) as record:
        limits = Limits(
            kinds=request.kinds,
            excluded=_excluded(view, rules),
            shown=frozenset(task.shown),
            unrelated=_unrelated(rows, query),
        )
        allowed = keep_allowed(candidates, reader, community, limits, trace, record)
        record.left = len(allowed)

    with trace.stage("rank", len(allowed)) as record:
        _score(view, reader, allowed, spread, query, _included(view, rules))
        record.left = len(allowed)
        record.note = view.ranker.origin

    if judge is not None:
        task.tell("judge")
        with trace.stage("judge", len(allowed)) as record:
            _judge(view, reader, allowed, judge, record, trace)

    with trace.stage("select", len(allowed)) as record:
        chosen = choose(allowed, task.k, community, trace, record)
        record.left = len(chosen)
        if len(chosen) < task.k:
            record.note = f"only {len(chosen)} of {task.k}: nothing else may be shown"
    best = max((value for value in (query or {}).values()), default=0.0) if query is not None else None
    return Ranking(reader, chosen, allowed, trace, best, rules)


def because(ranking: Ranking, candidate: Candidate, view: View, most: int = 2) -> tuple[Because, ...]:
    """The reader's own events without which this candidate would score lower, the weightiest first.

    Likely ones are found by their share in the linear signals; each is then really left out, and
    counts by how much the score falls. All acts on one post are one piece of history, and come as
    several events with the same share.
    """
    reader, community = ranking.reader, view.community
    if not len(reader.rows):
        return ()
    cosines = community.vectors(reader.rows) @ community.vectors([candidate.row])[0]
    likely = list(np.argsort(-(cosines * np.sqrt(reader.weights)), kind="stable")[:3])
    if community.cooccurrence is not None:
        shares = community.cooccurrence.shares(reader.rows, candidate.row) * reader.weights
        likely += [place for place in np.argsort(-shares, kind="stable")[:2] if shares[place] > 0]
    found: list[tuple[float, int, Because]] = []
    for place in dict.fromkeys(int(place) for place in likely):
        row = int(reader.rows[place])
        acts = reader.events_on(row, community)
        drop = candidate.score - _score_without(ranking, candidate, view, {event.id for event in acts})
        if drop <= 0:
            continue
        via = "text" if cosines[place] >= 0.5 else "cooccurrence"
        author = community.authors[row]
        if author and author == community.authors[candidate.row]:
            via = "people"
        found += [(drop, row, Because(event.id, event.post, drop, via)) for event in acts if event.weight > 0]
    found.sort(key=lambda item: (-item[0], item[1]))
    rows = list(dict.fromkeys(row for _, row, _ in found))[:most]
    return tuple(reason for _, row, reason in found if row in rows)


def in_force(rules: Sequence[SteeringRule], conversation: str, now: float | None) -> tuple[SteeringRule, ...]:
    """The rules that apply: switched on, not expired, and of this conversation where they are bound to one."""
    return tuple(
        rule
        for rule in rules
        if rule.active
        and (rule.until is None or now is None or now < rule.until)
        and (rule.horizon not in ("now", "session") or rule.conversation == conversation)
    )


# ---- inside ----


def _sources(view: View, spread: Floats, query: dict[int, float] | None, seed: str) -> list[source.Source]:
    community = view.community
    if query is not None:
        return [source.QuerySource(query)]
    return [
        source.InterestSource(community, view.topics),
        source.CooccurrenceSource(spread),
        source.TextSource(view.store, view.topics),
        source.PeopleSource(community),
        source.FreshSource(community),
        source.PopularSource(community),
        source.ExploreSource(community, seed),
    ]


def _asked(view: View, request: Request, like: Sequence[int]) -> dict[int, float] | None:
    """Relevance by row of what was asked for in words or by example; None when nothing was."""
    if request.query:
        return view.topics.search(request.query, QUERY_LIMIT)
    if like:
        vectors = view.community.vectors(like)
        found: dict[int, float] = {}
        for hits in view.community.index.search(vectors, QUERY_LIMIT):
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


def _excluded(view: View, rules: Sequence[SteeringRule]) -> dict[int, str]:
    excluded: dict[int, str] = {}
    for rule in rules:
        if rule.kind == "exclude":
            for row in view.topics.match(rule.topic):
                excluded.setdefault(row, rule.id)
    return excluded


def _included(view: View, rules: Sequence[SteeringRule]) -> dict[int, float]:
    included: dict[int, float] = {}
    for rule in rules:
        if rule.kind == "include":
            for row, surely in view.topics.match(rule.topic).items():
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
    measured = signals.measure(rows, reader, view.community, spread, query, include)
    for candidate, values, score in zip(candidates, measured, view.ranker.score(measured, NAMES), strict=True):
        candidate.signals = dict(zip(NAMES, map(float, values), strict=True))
        candidate.score = float(score)
        candidate.probability = view.ranker.probability(candidate.score)


def _score_without(ranking: Ranking, candidate: Candidate, view: View, events: set[str]) -> float:
    """The candidate's score had these events of the reader never happened; what was asked stays as it was."""
    from retrieval.reader import read

    reader = ranking.reader
    left = read(
        reader.user, [event for event in reader.events if event.id not in events], view.community, view.embedder
    )
    rows = np.array([candidate.row], dtype=np.int64)
    query = {candidate.row: candidate.signals.get("query", 0.0)}
    include = {candidate.row: candidate.signals.get("include", 0.0)}
    measured = signals.measure(rows, left, view.community, signals.spread(left, view.community), query, include)
    score = float(view.ranker.score(measured, NAMES)[0])
    return score + view.ranker.weights["llm"] * candidate.signals.get("llm", 0.0)


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
