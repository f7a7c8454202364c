"""A request: what somebody wants, after the words have been understood."""

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

    `query` is what the posts should be about, `include` and `exclude` are topics to see more and
    less of for as long as `horizon`, `posts` are the ids that "the second one" and "that" stand
    for, `others` asks for posts not shown yet in this conversation.
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
    by: str = "rules"  # who understood it: rules, classifier, writer

    def to_json(self) -> dict[str, Any]:
        """The shape of the contract; `posts`, `kinds`, `k` and `others` only when they say something."""
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
