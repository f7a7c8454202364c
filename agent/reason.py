"""A reason: one or two sentences made of claims, each pointing at evidence that can be checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Source = Literal["llm", "extract", "template"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a claim rests on.

    type "event": `id` of the reader's own event and its `post`; "span": characters `start` to
    `end` of what `Post.words_of(field)` gives for `post`; "link": `id` of a graph edge;
    "signal": `id` names a signal of the trace and `value` is its value.
    """

    type: Literal["event", "span", "link", "signal"]
    id: str = ""
    post: str = ""
    field: str = "text"
    start: int = 0
    end: int = 0
    value: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The shape of the contract."""
        if self.type == "event":
            return {"type": "event", "id": self.id, "post": self.post}
        if self.type == "span":
            return {"type": "span", "post": self.post, "field": self.field, "start": self.start, "end": self.end}
        if self.type == "signal":
            return {"type": "signal", "id": self.id, "value": self.value}
        return {"type": "link", "id": self.id}


@dataclass(frozen=True, slots=True)
class Claim:
    """A part of a reason's text (a substring of it) and its evidence; unverified claims are not shown."""

    text: str
    evidence: tuple[Evidence, ...]
    verified: bool = True

    def to_json(self) -> dict[str, Any]:
        """The shape of the contract."""
        return {"text": self.text, "verified": self.verified, "evidence": [item.to_json() for item in self.evidence]}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one post is shown to one reader. `source` says who wrote the half about the post."""

    text: str
    language: str
    source: Source
    claims: tuple[Claim, ...]

    def to_json(self) -> dict[str, Any]:
        """The shape of the contract."""
        return {
            "text": self.text,
            "language": self.language,
            "source": self.source,
            "claims": [claim.to_json() for claim in self.claims],
        }
