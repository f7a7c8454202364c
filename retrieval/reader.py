"""A reader: what one user's own events say, ready for ranking.

Several interest vectors, because one average of beer and quantum physics is near neither: recent
posts are grouped by Ward's method and each group keeps its weighted mean (PinnerSage, Pal et al.
2020, arXiv 2007.03634). Recency is counted in events, not in days: who comes back after a year
still likes what they liked.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    rows/weights: the latest of what they liked, oldest first (weights decay with later events);
    hidden: rows they pushed away; people: acts on the posts of others, or the edge to them.
    """

    user: str
    events: tuple[Event, ...]
    acts: Mapping[int, Sequence[Event]]  # row -> own acts on it, oldest first
    past: Mapping[int, float]  # row -> weight of what they liked, the latest act last
    replied: Mapping[str, int]  # author -> acts on their posts
    rows: Rows
    weights: Floats
    recent: Vectors
    groups: tuple[InterestGroup, ...]
    hidden: tuple[int, ...]
    rules: tuple[SteeringRule, ...]
    named: tuple[tuple[Event, str], ...]
    tags: dict[str, float]
    people: dict[str, float]
    communities: dict[int, float]

    @property
    def seen(self) -> frozenset[int]:
        """Every row that the reader acted on in any way."""
        return frozenset(self.acts)

    def without(self, row: int, community: Community, embedder: Embedder) -> Reader:
        """The same reader had they never acted on that post."""
        if row not in self.acts:
            return self
        gone = self.acts[row]
        left = {event.id for event in gone}
        replied = dict(self.replied)
        author = community.authors[row]
        if row in self.past and author in replied:
            replied[author] -= sum(event.weight > 0 for event in gone)
        return _compose(
            self.user,
            tuple(event for event in self.events if event.id not in left),
            {other: events for other, events in self.acts.items() if other != row},
            {other: weight for other, weight in self.past.items() if other != row},
            replied,
            tuple(other for other in self.hidden if other != row),
            self.rules,
            self.named,
            community,
            embedder,
        )


def read(user: str, events: Sequence[Event], community: Community, embedder: Embedder) -> Reader:
    """Build a reader from their own events, in the order of arrival."""
    ordered = sorted(enumerate(events), key=lambda item: (item[1].time is not None, item[1].time or 0.0, item[0]))
    timeline = tuple(event for _, event in ordered)
    acts: dict[int, list[Event]] = defaultdict(list)
    past: dict[int, float] = {}
    pushed: dict[int, bool] = {}
    for event in timeline:
        row = community.row_of.get(event.post)
        if row is None:
            continue
        acts[row].append(event)
        weight = event.weight
        if weight > 0:
            past[row] = max(past.pop(row, 0.0), weight)  # moves to the end: the latest act counts
            pushed.pop(row, None)
        elif weight < 0:
            past.pop(row, None)
            pushed[row] = True
    replied: dict[str, int] = defaultdict(int)
    for row in past:
        if community.authors[row] not in ("", user):
            replied[community.authors[row]] += sum(event.weight > 0 for event in acts[row])
    rules, named = _rules(timeline), _named(timeline)
    return _compose(user, timeline, acts, past, replied, tuple(pushed), rules, named, community, embedder)


def _compose(
    user: str,
    events: tuple[Event, ...],
    acts: Mapping[int, Sequence[Event]],
    past: Mapping[int, float],
    replied: Mapping[str, int],
    hidden: tuple[int, ...],
    rules: tuple[SteeringRule, ...],
    named: tuple[tuple[Event, str], ...],
    community: Community,
    embedder: Embedder,
) -> Reader:
    rows = np.array(list(past)[-LONGEST:], dtype=np.int64)
    age = np.arange(len(rows))[::-1]
    weights = (np.array([past[row] for row in rows.tolist()], dtype=np.float32) * DECAY**age).astype(np.float32)
    vectors = community.vectors(rows)
    groups = _groups(rows, weights, vectors, named, embedder)
    if len(rows):
        recent = unit((vectors * (weights * RECENT_DECAY**age)[:, None]).sum(axis=0))
    elif groups:
        recent = unit(np.sum([group.vector for group in groups], axis=0))
    else:
        recent = np.zeros(community.index.dimension, dtype=np.float32)

    tags: dict[str, float] = defaultdict(float)
    counts: dict[int, float] = defaultdict(float)
    for row, weight in zip(rows.tolist(), weights.tolist(), strict=True):
        counts[int(community.community_codes[row])] += weight
        for tag in community.tags[row]:
            tags[tag] += weight * community.idf(tag)
    norm = sum(value * value for value in tags.values()) ** 0.5 or 1.0
    total = sum(counts.values())

    people = {author: float(acts_on) for author, acts_on in replied.items() if acts_on}
    for followed, weight in community.following.get(user, {}).items():
        people[followed] = max(people.get(followed, 0.0), weight)
    return Reader(
        user=user,
        events=events,
        acts=acts,
        past=past,
        replied=replied,
        rows=rows,
        weights=weights,
        recent=recent,
        groups=groups,
        hidden=hidden,
        rules=rules,
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
