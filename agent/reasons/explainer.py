"""The explain stage: turns chosen candidates into items with checkable reasons."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from whyfeed.agent.answer import Item
from whyfeed.agent.llm.engine import Deadline
from whyfeed.agent.llm.roles import RoleState
from whyfeed.agent.reasons.clause_worker import ClauseWorker
from whyfeed.agent.reasons.clauses import Clause, ClauseBook
from whyfeed.agent.reasons.reader_half import Facts, explain
from whyfeed.agent.recommend.attribution import Attribution
from whyfeed.agent.recommend.pipeline import Ranking
from whyfeed.agent.recommend.snapshot import Snapshot
from whyfeed.agent.request import Request
from whyfeed.agent.trace import Status
from whyfeed.retrieval.community.candidate import Candidate
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.post import Post


@dataclass(frozen=True, slots=True)
class Prepared:
    """A chosen post with the half of its reason about the user; the clause is still missing."""

    facts: Facts
    rank: int
    score: float
    probability: float | None
    contributions: Mapping[str, float]

    @property
    def post(self) -> Post:
        """The chosen post."""
        return self.facts.post

    def item(self, clause: Clause, language: str) -> Item:
        """The item with its complete reason."""
        return Item(
            post=self.facts.post,
            rank=self.rank,
            score=self.score,
            probability=self.probability,
            signals=dict(self.facts.signals),
            contributions=self.contributions,
            sources=self.facts.sources,
            reason=explain(self.facts, clause, language),
        )


class Explainer:
    """Joins the half of a reason about the user, made per request, with the stored clause."""

    def __init__(self, book: ClauseBook, worker: ClauseWorker, writer_state: Callable[[], RoleState]) -> None:
        self.book = book
        self._worker = worker
        self._writer_state = writer_state

    def prepare(self, view: Snapshot, ranking: Ranking, request: Request) -> list[Prepared]:
        """The half about the user for every chosen post, from the events that raised its score."""
        posts = view.store.posts([candidate.post for candidate in ranking.chosen])
        attribution = Attribution(ranking, view)
        for candidate in ranking.chosen:
            candidate.because = candidate.because or attribution.because(candidate)
        past = view.store.posts([found.post for candidate in ranking.chosen for found in candidate.because])
        own = {event.id: event for event in ranking.reader.events}
        return [
            Prepared(
                facts=_facts(view, ranking, request, candidate, posts[candidate.post], past, own),
                rank=rank,
                score=candidate.score,
                probability=candidate.probability,
                contributions=view.ranker.contributions(candidate.signals),
            )
            for rank, candidate in enumerate(ranking.chosen, 1)
        ]

    def items(self, view: Snapshot, ranking: Ranking, request: Request, *, write: bool) -> tuple[Item, ...]:
        """Items with reasons. With `write` missing clauses are written now; otherwise a quote takes their place.

        The trace records how many clauses were already stored.
        """
        with ranking.trace.stage("explain", len(ranking.chosen)) as record:
            items, ready = [], 0
            for prepared in self.prepare(view, ranking, request):
                clause = self.book.ready(prepared.post, request.language)
                ready += clause is not None
                if clause is None:
                    make = self.book.write if write else self.book.extract
                    clause = make(prepared.post, request.language)
                items.append(prepared.item(clause, request.language))
            record.left = len(items)
            record.note = f"{ready} ready"
            writer = self.book.writer_name()
            state = self._writer_state()
            if state.name == "fallback":
                record.end(Status.FALLBACK, state.why)
            elif writer is None:
                record.note += f"; the writer is {state}: quotes serve"
        ranking.trace.models["writer"] = writer or "none"
        ranking.trace.prompts["clause"] = self.book.version(request.language)
        return tuple(items)

    def waiting(self, items: Sequence[Item], language: str) -> tuple[str, ...]:
        """Ids of the posts whose reason holds a quote that the writer could still replace by a clause."""
        if self.book.writer_name() is None:
            return ()
        return tuple(item.post.id for item in items if self.book.ready(item.post, language) is None)

    def written(
        self, view: Snapshot, ranking: Ranking, request: Request, items: Sequence[Item], cancel: threading.Event
    ) -> Iterator[Item]:
        """Write the missing clauses one after the other, and yield each item with its final reason.

        After a `cancel` the remaining posts keep their quotes; the trace says how many and why.
        """
        missing = {item.post.id for item in items if self.book.ready(item.post, request.language) is None}
        if not missing:
            return
        with ranking.trace.stage("write", len(missing)) as record:
            for prepared in self.prepare(view, ranking, request):
                if cancel.is_set():
                    break
                if prepared.post.id not in missing:
                    continue
                with self._worker.foreground():
                    clause = self.book.write(prepared.post, request.language, cancel)
                record.left += self.book.ready(prepared.post, request.language) is not None
                yield prepared.item(clause, request.language)
            if record.left < len(missing):
                late = isinstance(cancel, Deadline) and cancel.passed
                why = (
                    "time was up" if late else "stopped" if cancel.is_set() else f"the writer is {self._writer_state()}"
                )
                record.end(Status.FALLBACK, f"{len(missing) - record.left} of {len(missing)} quoted, {why}")

    def ahead(self, posts: Sequence[Post], language: str) -> None:
        """Have the clauses of posts that will soon be shown written in the background."""
        self._worker.ahead(posts, language)

    def clause(self, post: Post, language: str) -> Clause:
        """The stored clause of a post, else a quote of it."""
        return self.book.ready(post, language) or self.book.extract(post, language)


def _facts(
    view: Snapshot,
    ranking: Ranking,
    request: Request,
    candidate: Candidate,
    post: Post,
    past: Mapping[str, Post],
    own: Mapping[str, Event],
) -> Facts:
    reader = ranking.reader
    named = list(reader.named)
    if named:
        vector = view.community.vectors([candidate.row])[0]
        named.sort(key=lambda pair: -float(vector @ view.topics.vector(pair[1])))
    author = post.author if post.author in reader.people else ""
    return Facts(
        post=post,
        because=tuple((found, own[found.event], past.get(found.post)) for found in candidate.because),
        interests=tuple(named[:1]),
        query=request.query,
        person=view.store.names([author]).get(author) if author else None,
        signals=dict(candidate.signals),
        sources=tuple(candidate.sources),
    )
