"""A candidate: a post that could be shown, with who brought it, what speaks for it, and because of what."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Because:
    """One event of the reader's own that raised a candidate's score.

    `share` is by how much the score falls (in score units) had the reader never acted on that post;
    `via` names how the posts are related: "text" (alike), "cooccurrence" (readers of one read the
    other), "people" (by the same author).
    """

    event: str
    post: str
    share: float
    via: str


@dataclass(slots=True)
class Candidate:
    """A post on its way through one request. Signals are raw values in the units of `retrieval.community.signals`."""

    post: str
    row: int
    sources: dict[str, float] = field(default_factory=dict)
    signals: dict[str, float] = field(default_factory=dict)
    score: float = 0.0
    probability: float | None = None
    because: tuple[Because, ...] = ()
