"""Filters: which posts must not be shown to a user, in the order in which they are applied.

A new filter needs one function, one entry in `FILTERS`, and its texts `why_not.NAME` in both languages. Every removal
is recorded in the trace under the filter's code. Removals of near-duplicates and for lack of space come later, in
`agent/recommend/selection.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from whyfeed.agent.recommend.selection import DUPLICATE_COSINE
from whyfeed.agent.trace import StageRecord, Trace
from whyfeed.retrieval.arrays import Rows
from whyfeed.retrieval.community.candidate import Candidate
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.reader import Reader

TWIN_COSINE = 0.83  # of a hidden post and its near-duplicate; on the demo such pairs ask the same question


@dataclass(frozen=True, slots=True)
class Limits:
    """What this request excludes. `excluded` maps a row to the rule that excludes it."""

    kinds: tuple[str, ...] = ()
    excluded: Mapping[int, str] = field(default_factory=dict)
    shown: Collection[int] = ()
    unrelated: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class FilterContext:
    """The candidates' rows (n,), and the data that filters decide by."""

    rows: Rows
    reader: Reader
    community: Community
    limits: Limits


@dataclass(frozen=True, slots=True)
class Filter:
    """One entry of the list.

    `reject` returns the rows that must not be shown; it may include rows that are not candidates. `change` is what
    would let such a post in: undoing an event, switching a rule off, liking something similar, or nothing. The code of
    a removal is the name, or NAME:DETAIL where `detail` gives more about a row.
    """

    name: str
    removes: str
    reject: Callable[[FilterContext], Iterable[int]]
    change: Literal["undo", "rule", "like", "none"] = "like"
    detail: Callable[[FilterContext, int], str] | None = None

    def code(self, given: FilterContext, row: int) -> str:
        """The reason code of a removal."""
        return self.name if self.detail is None else f"{self.name}:{self.detail(given, row)}"


def _kind(given: FilterContext) -> Iterable[int]:
    kinds, wanted = given.community.kinds, given.limits.kinds
    return (row for row in given.rows.tolist() if kinds[row] not in wanted) if wanted else ()


def _own(given: FilterContext) -> Iterable[int]:
    authors, user = given.community.authors, given.reader.user
    return (row for row in given.rows.tolist() if authors[row] == user)


def _twin(given: FilterContext) -> Iterable[int]:
    return _near(given, given.reader.hidden, TWIN_COSINE)


def _shown(given: FilterContext) -> Iterable[int]:
    # Near copies share a place: the next list must not bring another copy of what this one brought.
    return {*given.limits.shown, *_near(given, tuple(given.limits.shown), DUPLICATE_COSINE)}


def _near(given: FilterContext, others: Sequence[int], least: float) -> list[int]:
    """The candidates whose cosine with one of these rows is at least `least`."""
    if not others or not len(given.rows):
        return []
    nearest = (given.community.vectors(given.rows) @ given.community.vectors(others).T).max(axis=1)
    return list(given.rows[nearest >= least].tolist())


FILTERS: tuple[Filter, ...] = (
    Filter("kind", "other kinds than asked for", _kind),
    Filter("own", "the reader's own posts", _own),
    Filter("hidden", "what the reader pushed away", lambda given: given.reader.hidden, "undo"),
    Filter("seen", "what the reader has already acted on", lambda given: given.reader.seen, "undo"),
    Filter("twin", "near-duplicates of what was pushed away", _twin, "undo"),
    Filter("rule", "what a rule in force excludes", lambda given: given.limits.excluded, "rule",
           detail=lambda given, row: given.limits.excluded[row]),
    Filter("shown", "what this conversation has shown, and near-duplicates of it, when others are asked for", _shown,
           "none"),
    Filter("unrelated", "when something was asked for: what is not about it", lambda given: given.limits.unrelated),
)  # fmt: skip


def keep_allowed(
    candidates: Sequence[Candidate],
    given: FilterContext,
    trace: Trace,
    record: StageRecord,
    filters: Sequence[Filter] = FILTERS,
) -> list[Candidate]:
    """The candidates that may be shown. For each removal the trace records the first filter that rejects the post."""
    by: dict[int, Filter] = {}
    for each in filters:
        for row in each.reject(given):
            by.setdefault(row, each)
    kept = []
    for candidate in candidates:
        found = by.get(candidate.row)
        if found is None:
            kept.append(candidate)
        else:
            trace.remove(record, candidate.post, found.code(given, candidate.row))
    return kept
