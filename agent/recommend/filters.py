"""Filters: what must not be shown to a reader, in the order in which it is looked for.

A new filter is one function and one entry in `FILTERS`, and its words `why_not.NAME` in both languages. Every removal
stands in the trace under the filter's code. What is taken out later, because it repeats or there is no place for it,
is in `agent/recommend/selection.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from whyfeed.agent.trace import StageRecord, Trace
from whyfeed.retrieval.arrays import Rows
from whyfeed.retrieval.community.candidate import Candidate
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.reader import Reader

TWIN_COSINE = 0.83  # of a hidden post and its near twin; on the demo such pairs ask the same question


@dataclass(frozen=True, slots=True)
class Limits:
    """What this request leaves out. `excluded` maps a row to the rule that excludes it."""

    kinds: tuple[str, ...] = ()
    excluded: Mapping[int, str] = field(default_factory=dict)
    shown: Collection[int] = ()
    unrelated: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class FilterContext:
    """The candidates' rows (n,), and what decides whether they may be shown."""

    rows: Rows
    reader: Reader
    community: Community
    limits: Limits


@dataclass(frozen=True, slots=True)
class Filter:
    """One entry of the list.

    `reject` gives the rows that may not be shown; rows of other posts may be among them. `change` is what would let
    such a post in: to undo an act, to switch a rule off, to like something near it, or nothing. The code of a removal
    is the name, or NAME:DETAIL where `detail` says more about a row.
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
    hidden = given.reader.hidden
    if not hidden or not len(given.rows):
        return ()
    nearest = (given.community.vectors(given.rows) @ given.community.vectors(hidden).T).max(axis=1)
    return list(given.rows[nearest >= TWIN_COSINE].tolist())


FILTERS: tuple[Filter, ...] = (
    Filter("kind", "other kinds than asked for", _kind),
    Filter("own", "the reader's own posts", _own),
    Filter("hidden", "what the reader pushed away", lambda given: given.reader.hidden, "undo"),
    Filter("seen", "what the reader has already acted on", lambda given: given.reader.seen, "undo"),
    Filter("twin", "near-duplicates of what was pushed away", _twin, "undo"),
    Filter("rule", "what a rule in force excludes", lambda given: given.limits.excluded, "rule",
           detail=lambda given, row: given.limits.excluded[row]),
    Filter("shown", "what this conversation has shown, when others are asked for", lambda given: given.limits.shown,
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
    """The candidates that may be shown at all; of each removal the trace notes the first filter that rejects it."""
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
