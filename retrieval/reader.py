"""A reader: what one user's own events say, ready for ranking.

Several interest vectors, because one average of beer and quantum physics is near neither: recent
posts are grouped by Ward's method and each group keeps its weighted mean (PinnerSage, Pal et al.
2020, arXiv 2007.03634). Recency is counted in events, not in days: who comes back after a year
still likes what they liked.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrieval.arrays import Floats, Rows, Vectors, unit
from retrieval.community import Community
from retrieval.embedder import Embedder
from retrieval.event import Event

LONGEST = 100  # posts of the history that are looked at
DECAY = 0.97  # of an event's weight with each later one
RECENT_DECAY = 0.8
WARD_DISTANCE = 1.25  # groups are cut there; unit vectors, chosen by eye on demo members' interests
MOST_INTERESTS = 8
NAMED_WEIGHT = 1.0  # of an interest that somebody named, beside an act's weight


@dataclass(frozen=True, slots=True)
class InterestGroup:
    """Posts of one reader that belong together. `rows` has the most telling first."""

    vector: Vectors
    weight: float  # share of all groups, sums to 1
    rows: tuple[int, ...]
    topic: str = ""  # what the reader called it, when they named it


@dataclass(frozen=True, slots=True)
class SteeringRule:
    """A topic that the reader wants more or less of. `id` is the event that made the rule."""

    id: str
    kind: str  # include, exclude
    topic: str
    horizon: str
    active: bool
    until: float | None
    conversation: str = ""


@dataclass(slots=True)
class Reader:
    """One user as the ranking sees them.

    rows/weights: what they acted on, oldest first, once a post (weights decay with later events).
    seen: every row they acted on in any way; hidden: rows they pushed away.
    """

    user: str
    events: tuple[Event, ...]
    rows: Rows
    weights: Floats
    recent: Vectors
    groups: tuple[InterestGroup, ...]
    seen: frozenset[int]
    hidden: tuple[int, ...]
    rules: tuple[SteeringRule, ...]
    named: tuple[tuple[Event, str], ...]
    tags: dict[str, float] = field(default_factory=dict)
    people: dict[str, float] = field(default_factory=dict)
    communities: dict[int, float] = field(default_factory=dict)

    def events_on(self, row: int, community: Community) -> list[Event]:
        """This reader's own acts on one post, oldest first."""
        return [event for event in self.events if community.row_of.get(event.post) == row]


def read(user: str, events: Sequence[Event], community: Community, embedder: Embedder) -> Reader:
    """Build a reader from their own events, in the order of arrival."""
    ordered = sorted(enumerate(events), key=lambda item: (item[1].time is not None, item[1].time or 0.0, item[0]))
    timeline = [event for _, event in ordered]
    positive: dict[int, float] = {}
    pushed: dict[int, bool] = {}
    seen: set[int] = set()
    for event in timeline:
        row = community.row_of.get(event.post)
        if row is None:
            continue
        seen.add(row)
        if event.weight > 0:
            weight = max(positive.pop(row, 0.0), event.weight)
            positive[row] = weight  # moves to the end: the latest act counts
            pushed.pop(row, None)
        elif event.weight < 0:
            positive.pop(row, None)
            pushed[row] = True
    rows = np.array(list(positive)[-LONGEST:], dtype=np.int64)
    age = np.arange(len(rows))[::-1]
    weights = (np.array([positive[row] for row in rows.tolist()], dtype=np.float32) * DECAY**age).astype(np.float32)
    vectors = community.vectors(rows)
    named = _named(timeline)
    recent = (vectors * (weights * RECENT_DECAY**age)[:, None]).sum(axis=0) if len(rows) else np.zeros(0)
    groups = _groups(rows, weights, vectors, named, embedder)
    if not len(rows) and groups:
        recent = np.sum([group.vector for group in groups], axis=0)

    tags: Counter[str] = Counter()
    for row, weight in zip(rows.tolist(), weights.tolist(), strict=True):
        for tag in community.tags[row]:
            tags[tag] += weight * community.idf(tag)
    norm = sum(value * value for value in tags.values()) ** 0.5 or 1.0
    people = {author: float(acts) for author, acts in community.reached.get(user, {}).items()}
    for followed, weight in community.following.get(user, {}).items():
        people[followed] = max(people.get(followed, 0.0), weight)
    counts: Counter[int] = Counter()
    for row, weight in zip(rows.tolist(), weights.tolist(), strict=True):
        counts[int(community.community_codes[row])] += weight
    total = sum(counts.values())
    return Reader(
        user=user,
        events=tuple(timeline),
        rows=rows,
        weights=weights,
        recent=unit(recent) if len(recent) else np.zeros(community.index.dimension, dtype=np.float32),
        groups=groups,
        seen=frozenset(seen),
        hidden=tuple(pushed),
        rules=_rules(timeline),
        named=named,
        tags={tag: value / norm for tag, value in tags.items()},
        people=people,
        communities={code: count / total for code, count in counts.items()},
    )


def _groups(
    rows: Rows, weights: Floats, vectors: Vectors, named: Sequence[tuple[Event, str]], embedder: Embedder
) -> tuple[InterestGroup, ...]:
    groups: list[tuple[Vectors, float, tuple[int, ...], str]] = []
    if len(rows) > 1:
        from scipy.cluster.hierarchy import fcluster, linkage

        labels = fcluster(linkage(vectors, "ward"), WARD_DISTANCE, "distance")
    else:
        labels = np.ones(len(rows), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        centre = unit((vectors[members] * weights[members, None]).sum(axis=0))
        telling = members[np.argsort(-(vectors[members] @ centre) * weights[members], kind="stable")]
        groups.append((centre, float(weights[members].sum()), tuple(rows[telling].tolist()), ""))
    if named:
        for (_, topic), vector in zip(named, embedder.encode([topic for _, topic in named]), strict=True):
            groups.append((vector, NAMED_WEIGHT, (), topic))
    groups.sort(key=lambda group: -group[1])
    groups = groups[:MOST_INTERESTS]
    total = sum(group[1] for group in groups)
    return tuple(InterestGroup(vector, weight / total, rows_, topic) for vector, weight, rows_, topic in groups)


def _named(timeline: Sequence[Event]) -> tuple[tuple[Event, str], ...]:
    """Interests that the user named, each once, the latest first."""
    found: dict[str, Event] = {}
    for event in timeline:
        if event.kind == "interest" and event.text:
            found[event.text] = event
    return tuple((event, topic) for topic, event in reversed(found.items()))[:12]


def _rules(timeline: Sequence[Event]) -> tuple[SteeringRule, ...]:
    """Rules in the order in which they were made; a later one on the same topic replaces an earlier."""
    rules: dict[str, SteeringRule] = {}
    for event in timeline:
        if event.kind in ("include", "exclude"):
            detail = _detail(event.text)
            topic = str(detail.get("topic") or "")
            for id, rule in list(rules.items()):
                if rule.topic.casefold() == topic.casefold():
                    del rules[id]
            rules[event.id] = SteeringRule(
                event.id, event.kind, topic, str(detail.get("horizon") or "always"), True, event.value,
                str(detail.get("conversation") or ""),
            )  # fmt: skip
        elif event.kind in ("rule-on", "rule-off") and event.text in rules:
            old = rules[event.text]
            rules[old.id] = SteeringRule(
                old.id, old.kind, old.topic, old.horizon, event.kind == "rule-on", old.until, old.conversation
            )
    return tuple(rules.values())


def _detail(text: str) -> dict[str, Any]:
    """What a rule's text says. One that came by import may say anything: what is no JSON object is the topic."""
    try:
        detail = json.loads(text)
    except (ValueError, RecursionError):
        detail = None
    return detail if isinstance(detail, dict) else {"topic": text}
