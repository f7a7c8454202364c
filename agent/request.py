"""A `Request`: the structured form of what a user asks for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from whyfeed.retrieval.language import Language

Intent = Literal[
    "recommend",
    "search",
    "more_like",
    "less_like",
    "hide",
    "why",
    "why_not",
    "compare",
    "summarise",
    "profile",
    "undo",
    "forget",
    "people",
    "groups",
    "smalltalk",
    "out_of_scope",
]
Horizon = Literal["now", "session", "day", "week", "month", "always"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    `query`: what the posts should be about. `include` and `exclude`: topics to see more and less of, for the time of
    `horizon`. `posts`: the ids to which "the second one" or "that" refer. `others`: only posts not shown yet in this
    conversation.
    """

    intent: Intent = "recommend"
    query: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    horizon: Horizon = "always"
    posts: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    k: int | None = None
    others: bool = False
    language: Language = "en"
    by: str = "rules"  # which method understood it: rules, classifier, writer

    def to_json(self) -> dict[str, Any]:
        """The request in the public JSON schema; `posts`, `kinds`, `k` and `others` only when they are set."""
        document: dict[str, Any] = {
            "intent": self.intent,
            "query": self.query,
            "include": list(self.include),
            "exclude": list(self.exclude),
            "horizon": self.horizon,
        }
        if self.posts:
            document["posts"] = list(self.posts)
        if self.kinds:
            document["kinds"] = list(self.kinds)
        if self.k is not None:
            document["k"] = self.k
        if self.others:
            document["others"] = True
        return document

    def with_(self, **changes: Any) -> Request:
        """A copy with some fields changed."""
        return replace(self, **changes)
