"""The answer and its parts: posts, reasons with claims and their evidence, and the events that `Agent.chat` yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from whyfeed.agent.request import Request
from whyfeed.agent.trace import Trace
from whyfeed.retrieval.post import Post

Source = Literal["llm", "extract", "template"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence for a claim.

    type "event": `id` of the user's own event and its `post`; "span": the characters `start` to `end` of
    `Post.words_of(field)` of `post`; "link": `id` of a graph edge; "signal": `id` names a signal of the trace and
    `value` is its value.
    """

    type: Literal["event", "span", "link", "signal"]
    id: str = ""
    post: str = ""
    field: str = "text"
    start: int = 0
    end: int = 0
    value: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The evidence in the public JSON schema."""
        if self.type == "event":
            return {"type": "event", "id": self.id, "post": self.post}
        if self.type == "span":
            return {"type": "span", "post": self.post, "field": self.field, "start": self.start, "end": self.end}
        if self.type == "signal":
            return {"type": "signal", "id": self.id, "value": self.value}
        return {"type": "link", "id": self.id}


@dataclass(frozen=True, slots=True)
class Claim:
    """A part of a reason's text (a substring of it) with its evidence. Unverified claims are not shown."""

    text: str
    evidence: tuple[Evidence, ...]
    verified: bool = True

    def to_json(self) -> dict[str, Any]:
        """The claim in the public JSON schema."""
        return {"text": self.text, "verified": self.verified, "evidence": [item.to_json() for item in self.evidence]}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one post is shown to one user. `source` names the origin of the clause (the half about the post)."""

    text: str
    language: str
    source: Source
    claims: tuple[Claim, ...]

    def to_json(self) -> dict[str, Any]:
        """The reason in the public JSON schema."""
        return {
            "text": self.text,
            "language": self.language,
            "source": self.source,
            "claims": [claim.to_json() for claim in self.claims],
        }


def post_json(post: Post) -> dict[str, Any]:
    """A post in the form that every answer uses."""
    return {"id": post.id, "kind": post.kind, "title": post.title or post.label, "url": post.url}


@dataclass(frozen=True, slots=True)
class Item:
    """One recommended post. `contributions` maps a signal to its share of the score; they sum to the score."""

    post: Post
    rank: int
    score: float
    probability: float | None
    signals: Mapping[str, float]
    contributions: Mapping[str, float]
    sources: tuple[str, ...]
    reason: Reason

    def to_json(self) -> dict[str, Any]:
        """The item in the public JSON schema."""
        return {
            "post": post_json(self.post),
            "rank": self.rank,
            "score": round(self.score, 6),
            "probability": None if self.probability is None else round(self.probability, 6),
            "signals": {name: round(value, 6) for name, value in self.signals.items()},
            "sources": list(self.sources),
            "reason": self.reason.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a message or a button changed: the rules in force, and the posts that left and entered the list."""

    rules: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    came: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The receipt in the public JSON schema."""
        return {"rules": list(self.rules), "left": list(self.left), "came": list(self.came)}


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: a sentence, posts with reasons, what changed, and the trace."""

    user: str
    text: str
    items: tuple[Item, ...]
    request: Request
    trace: Trace
    receipt: Receipt = field(default_factory=Receipt)
    conversation: str = ""

    def to_json(self) -> dict[str, Any]:
        """The document of `recommend --json`."""
        return {"user": self.user, "items": [item.to_json() for item in self.items], "trace": self.trace.to_json()}

    def to_chat_json(self) -> dict[str, Any]:
        """The document of `chat --json`."""
        return {
            "request": self.request.to_json(),
            "text": self.text,
            "items": [item.to_json() for item in self.items],
            "receipt": self.receipt.to_json(),
            "trace": self.trace.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Found:
    """A search result: a post with its relevance (0..1)."""

    post: Post
    relevance: float

    def to_json(self) -> dict[str, Any]:
        """The row of `search`."""
        return {**post_json(self.post), "community": self.post.community, "relevance": round(self.relevance, 6)}


# What `Agent.chat` yields, in this order: StageStarted..., ItemsReady (at most once), ReasonReady...,
# Answer (exactly once, last).


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage is running: understand, retrieve, rank, select, explain."""

    name: str


@dataclass(frozen=True, slots=True)
class ItemsReady:
    """The list is final; a reason may still be replaced by a better one (ReasonReady)."""

    text: str
    items: tuple[Item, ...]
    waiting: tuple[str, ...] = ()  # ids of the posts whose reason is still being written


@dataclass(frozen=True, slots=True)
class ReasonReady:
    """The final reason of one post of the list."""

    post: str
    reason: Reason


ChatEvent = StageStarted | ItemsReady | ReasonReady | Answer


@dataclass(frozen=True, slots=True)
class Member:
    """A user in a list of users. `events` counts their events, `communities` names where these were."""

    id: str
    name: str
    events: int
    communities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interest:
    """An inferred interest of a user, with the posts from which it was inferred."""

    label: str
    weight: float  # share of all interests, 0..1
    posts: tuple[Post, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """A steering rule of a user; `id` is that of the event that created it."""

    id: str
    kind: str  # "exclude" or "include"
    topic: str
    active: bool
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Profile:
    """What whyfeed has inferred about a user, in words."""

    user: str
    name: str
    interests: tuple[Interest, ...]
    rules: tuple[Rule, ...]
    hidden: tuple[Post, ...]
    events: int

    def to_json(self) -> dict[str, Any]:
        """The document of `profile`."""
        return {
            "user": self.user,
            "name": self.name,
            "events": self.events,
            "interests": [
                {
                    "label": interest.label,
                    "weight": round(interest.weight, 6),
                    "posts": [post_json(post) for post in interest.posts],
                }
                for interest in self.interests
            ],
            "rules": [
                {"id": rule.id, "kind": rule.kind, "topic": rule.topic, "active": rule.active, "until": rule.until}
                for rule in self.rules
            ],
            "hidden": [post_json(post) for post in self.hidden],
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a post is, or is not, shown to a user; read from a trace.

    `contributions` maps a signal to its share of the score, the largest first. `removed` is (stage, reason code) when a
    stage removed the post. `would_change` says in words what would change the outcome.
    """

    user: str
    post: Post
    shown: bool
    rank: int | None
    text: str
    score: float | None = None
    sources: tuple[str, ...] = ()
    contributions: Mapping[str, float] = field(default_factory=dict)
    removed: tuple[str, str] | None = None
    reason: Reason | None = None
    would_change: str = ""

    def to_json(self) -> dict[str, Any]:
        """The document of `why --json` and `why-not --json`."""
        return {
            "user": self.user,
            "post": post_json(self.post),
            "shown": self.shown,
            "rank": self.rank,
            "text": self.text,
            "score": self.score,
            "sources": list(self.sources),
            "contributions": {name: round(value, 6) for name, value in self.contributions.items()},
            "removed": None if self.removed is None else {"stage": self.removed[0], "reason": self.removed[1]},
            "reason": None if self.reason is None else self.reason.to_json(),
            "would_change": self.would_change,
        }
