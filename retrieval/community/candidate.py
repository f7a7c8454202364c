"""A candidate post: its sources, signals and score, and the user's events that raised the score."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Because:
    """One event of the reader that raised a candidate's score.

    `share` is the difference that the score loses (in score units) without the reader's events on that post. `via` is
    how the two posts are related: "text" (similar vectors), "cooccurrence" (read by the same users), "people" (by the
    same author).
    """

    event: str
    post: str
    share: float
    via: str


@dataclass(slots=True)
class Candidate:
    """A candidate of one request.

    `row` is its row in the `Community`, `sources` maps the names of sources to their scores, `signals` has raw values
    in the units of `retrieval.community.signals`, and `probability` is the calibrated P(engage) where there is one.
    """

    post: str
    row: int
    sources: dict[str, float] = field(default_factory=dict)
    signals: dict[str, float] = field(default_factory=dict)
    score: float = 0.0
    probability: float | None = None
    because: tuple[Because, ...] = ()
