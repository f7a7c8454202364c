"""The profile of one user for ranking, computed from the user's own events.

It has several interest vectors, because the mean of beer and quantum physics is similar to neither: recent posts are
clustered by Ward's method as in PinnerSage (Pal et al. 2020, arXiv 2007.03634), and each cluster is represented by its
weighted mean, where PinnerSage takes a medoid. Recency is counted in events and not in days, so that interests do not
fade while a user is away.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from whyfeed.retrieval.arrays import Floats, Rows, Vectors, unit
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.event import Event

LONGEST = 100  # latest posts of the history that are used
DECAY = 0.97  # factor on a post's weight for each later post
RECENT_DECAY = 0.8  # the same for `Reader.recent`, in addition
WARD_DISTANCE = 1.25  # merging of clusters stops here; for unit vectors, chosen by hand on the demo's users
MOST_INTERESTS = 8
NAMED_WEIGHT = 1.0  # of an interest that the user named; a like has 1


@dataclass(frozen=True, slots=True)
class InterestGroup:
    """One interest of a reader: a cluster of posts, or a topic that the reader named.

    `rows` are the cluster's posts, those that contribute most to `vector` (d,) first.
    """

    vector: Vectors
    weight: float  # the weights of all groups sum to 1
    rows: tuple[int, ...]
    topic: str = ""  # of a named interest, in the reader's words


@dataclass(frozen=True, slots=True)
class SteeringRule:
    """A topic that the reader wants more (include) or less (exclude) of. `id` is that of the rule's event."""

    id: str
    kind: str  # include, exclude
    topic: str
    horizon: str
    active: bool
    until: float | None
    conversation: str = ""


@dataclass(frozen=True, slots=True)
class Liked:
    """The latest posts that a user liked, oldest first, with vectors (n, d) and Euclidean distances (n, n).

    It has one post more than the profile uses: one can be left out without computing distances again.
    """

    rows: Rows
    vectors: Vectors
    distances: npt.NDArray[np.float64]

    @classmethod
    def of(cls, rows: Rows, community: Community) -> Liked:
        """Compute the distances between these posts."""
        vectors = community.vectors(rows)
        if len(rows) < 2:
            return cls(rows, vectors, np.zeros((len(rows),) * 2))
        from scipy.spatial.distance import pdist, squareform

        return cls(rows, vectors, squareform(pdist(vectors)))

    def only(self, rows: Rows) -> Liked | None:
        """The same for `rows` alone; None when `rows` has posts that are not among these."""
        place_of = {row: place for place, row in enumerate(self.rows.tolist())}
        kept = [place_of.get(row, -1) for row in rows.tolist()]
        if -1 in kept:
            return None
        return Liked(rows, self.vectors[kept], self.distances[kept][:, kept])


@dataclass(frozen=True, slots=True)
class _Ledger:
    """The fields of `Reader` that come from the user's events directly, before vectors are computed."""

    user: str
    events: tuple[Event, ...]
    acts: Mapping[int, Sequence[Event]]
    past: Mapping[int, float]
    replied: Mapping[str, int]
    hidden: tuple[int, ...]
    rules: tuple[SteeringRule, ...]
    named: tuple[tuple[Event, str], ...]
    named_vectors: Vectors


@dataclass(slots=True)
class Reader:
    """The profile of one user. A row is that of a post in the `Community`.

    rows, weights: the latest liked posts (at most `LONGEST`), oldest first; weights decay with each later post.
    liked: the same posts and one more, with their vectors. recent: unit vector (d,), mean of the last liked posts.
    groups: interests, the strongest first. hidden: rows of rejected posts. named, named_vectors: interests that the
    user named, with vectors (n, d). tags: tag -> weight, a unit vector. people: author -> number of acts on their
    posts, or the weight of the follow edge. communities: code -> share of the user's weight.
    """

    user: str
    events: tuple[Event, ...]
    acts: Mapping[int, Sequence[Event]]  # row -> the user's events on the post, oldest first
    past: Mapping[int, float]  # row -> weight of every liked post, in order of the latest event
    replied: Mapping[str, int]  # author -> positive events on their posts
    liked: Liked
    rows: Rows
    weights: Floats
    recent: Vectors
    groups: tuple[InterestGroup, ...]
    hidden: tuple[int, ...]
    rules: tuple[SteeringRule, ...]
    named: tuple[tuple[Event, str], ...]
    named_vectors: Vectors
    tags: dict[str, float]
    people: dict[str, float]
    communities: dict[int, float]

    @property
    def seen(self) -> frozenset[int]:
        """Rows of all posts with an event of the user."""
        return frozenset(self.acts)

    def without(self, row: int, community: Community) -> Reader:
        """The profile without the user's events on one post, exactly as if they had never happened."""
        if row not in self.acts:
            return self
        acts, past, replied = dict(self.acts), dict(self.past), dict(self.replied)
        gone = acts.pop(row)
        left = {event.id for event in gone}
        author = community.authors[row]
        if past.pop(row, None) is not None and author in replied:
            replied[author] -= sum(event.weight > 0 for event in gone)
        latest = _latest(past, LONGEST)
        ledger = _Ledger(
            self.user,
            tuple(event for event in self.events if event.id not in left),
            acts,
            past,
            replied,
            tuple(other for other in self.hidden if other != row),
            self.rules,
            self.named,
            self.named_vectors,
        )
        return _compose(ledger, self.liked.only(latest) or Liked.of(latest, community), community)


def read(user: str, events: Sequence[Event], community: Community, embedder: Embedder) -> Reader:
    """The profile of a user from their own events, given in the order of arrival."""
    ordered = sorted(enumerate(events), key=lambda item: (item[1].time is not None, item[1].time or 0.0, item[0]))
    timeline = tuple(event for _, event in ordered)
    acts: dict[int, list[Event]] = defaultdict(list)
    past: dict[int, float] = {}
    rejected: dict[int, bool] = {}
    for event in timeline:
        row = community.row_of.get(event.post)
        if row is None:
            continue
        acts[row].append(event)
        weight = event.weight
        if weight > 0:
            past[row] = max(past.pop(row, 0.0), weight)  # moves the post to the end of the order
            rejected.pop(row, None)
        elif weight < 0:
            past.pop(row, None)
            rejected[row] = True
    replied: dict[str, int] = defaultdict(int)
    for row in past:
        if community.authors[row] not in ("", user):
            replied[community.authors[row]] += sum(event.weight > 0 for event in acts[row])
    rules, named = _rules(timeline), _named(timeline)
    vectors = embedder.encode([topic for _, topic in named]) if named else np.zeros((0, embedder.dimension), np.float32)
    liked = Liked.of(_latest(past, LONGEST + 1), community)
    ledger = _Ledger(user, timeline, acts, past, replied, tuple(rejected), rules, named, vectors)
    return _compose(ledger, liked, community)


def _latest(past: Mapping[int, float], most: int) -> Rows:
    return np.array(list(past)[-most:], dtype=np.int64)


def _compose(ledger: _Ledger, liked: Liked, community: Community) -> Reader:
    rows, vectors, distances = liked.rows[-LONGEST:], liked.vectors[-LONGEST:], liked.distances[-LONGEST:, -LONGEST:]
    age = np.arange(len(rows))[::-1]
    weights = (np.array([ledger.past[row] for row in rows.tolist()], dtype=np.float32) * DECAY**age).astype(np.float32)
    groups = _groups(rows, weights, vectors, distances)
    named = zip(ledger.named, ledger.named_vectors, strict=True)
    groups += [(vector, NAMED_WEIGHT, (), topic) for (_, topic), vector in named]
    groups.sort(key=lambda group: -group[1])
    groups = groups[:MOST_INTERESTS]
    whole = sum(weight for _, weight, _, _ in groups)
    interests = tuple(InterestGroup(vector, weight / whole, posts, topic) for vector, weight, posts, topic in groups)
    if len(rows):
        recent = unit((vectors * (weights * RECENT_DECAY**age)[:, None]).sum(axis=0))
    elif groups:
        recent = unit(np.sum([group.vector for group in interests], axis=0))
    else:
        recent = np.zeros(community.index.dimension, dtype=np.float32)

    tags: dict[str, float] = defaultdict(float)
    counts: dict[int, float] = defaultdict(float)
    codes = community.community_codes[rows].tolist()
    told = (weights * community.focus(rows)).tolist()
    for row, code, weight, of_tags in zip(rows.tolist(), codes, weights.tolist(), told, strict=True):
        counts[code] += weight
        for tag in community.tags[row]:
            tags[tag] += of_tags * community.idf(tag)
    norm = sum(value * value for value in tags.values()) ** 0.5 or 1.0
    total = sum(counts.values())

    people = {author: float(acts_on) for author, acts_on in ledger.replied.items() if acts_on}
    for followed, weight in community.following.get(ledger.user, {}).items():
        people[followed] = max(people.get(followed, 0.0), weight)
    return Reader(
        user=ledger.user,
        events=ledger.events,
        acts=ledger.acts,
        past=ledger.past,
        liked=liked,
        replied=ledger.replied,
        rows=rows,
        weights=weights,
        recent=recent,
        groups=interests,
        hidden=ledger.hidden,
        rules=ledger.rules,
        named=ledger.named,
        named_vectors=ledger.named_vectors,
        tags={tag: value / norm for tag, value in tags.items()},
        people=people,
        communities={code: count / total for code, count in counts.items()},
    )


def _groups(
    rows: Rows, weights: Floats, vectors: Vectors, distances: npt.NDArray[np.float64]
) -> list[tuple[Vectors, float, tuple[int, ...], str]]:
    """(mean vector, weight, rows by their contribution, "" for the topic) of each cluster of posts."""
    together = _clusters(distances)
    if not together:
        return []
    weighted = vectors * weights[:, None]
    centres = unit(np.array([weighted[members].sum(axis=0) for members in together]))
    telling = np.vecdot(weighted, centres[:, None]).tolist()
    places, shares = rows.tolist(), weights.tolist()
    return [
        (
            centre,
            sum(shares[place] for place in members),
            tuple(places[place] for place in sorted(members, key=told.__getitem__, reverse=True)),
            "",
        )
        for centre, members, told in zip(centres, together, telling, strict=True)
    ]


def _clusters(distances: npt.NDArray[np.float64]) -> list[list[int]]:
    """Clusters by Ward's method, as lists of indices; `distances` is (n, n)."""
    size = len(distances)
    clusters = {place: [place] for place in range(size)}
    if size > 1:
        from scipy.cluster.hierarchy import linkage
        from scipy.spatial.distance import squareform

        merges = linkage(squareform(distances, checks=False), "ward").tolist()
        for made, (one, other, distance, _) in enumerate(merges, size):
            if distance > WARD_DISTANCE:
                break
            clusters[made] = clusters.pop(int(one)) + clusters.pop(int(other))
    return [sorted(members) for members in clusters.values()]


def _named(timeline: Sequence[Event]) -> tuple[tuple[Event, str], ...]:
    """(event, topic) of at most 12 interests that the user named, each once, the latest first."""
    found: dict[str, Event] = {}
    for event in timeline:
        if event.kind == "interest" and event.text:
            found[event.text] = event
    return tuple((event, topic) for topic, event in reversed(found.items()))[:12]


def _rules(timeline: Sequence[Event]) -> tuple[SteeringRule, ...]:
    """Rules in order of creation; a later rule on the same topic replaces an earlier one."""
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
    """The fields of a rule, from the JSON in its event's text; any other text, as in imported events, is the topic."""
    try:
        detail = json.loads(text)
    except (ValueError, RecursionError):
        detail = None
    return detail if isinstance(detail, dict) else {"topic": text}
