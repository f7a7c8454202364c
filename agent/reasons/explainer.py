"""The explain stage: from chosen candidates to items whose reasons can be checked."""

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
    """A chosen post with the reader's half of its reason; what it lacks is the post's half."""

    facts: Facts
    rank: int
    score: float
    probability: float | None
    contributions: Mapping[str, float]

    @property
    def post(self) -> Post:
        """The post that was chosen."""
        return self.facts.post

    def item(self, clause: Clause, language: str) -> Item:
        """The item with its whole reason."""
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
    """Joins the reader's half of a reason, made here and now, with the post's half, which is kept."""

    def __init__(self, book: ClauseBook, worker: ClauseWorker, writer_state: Callable[[], RoleState]) -> None:
        self.book = book
        self._worker = worker
        self._writer_state = writer_state

    def prepare(self, view: Snapshot, ranking: Ranking, request: Request) -> list[Prepared]:
        """The reader's half for every post that was chosen, from the acts that each rests on."""
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
        """Items with reasons. Clauses that are not kept yet are written now (`write`), or quoted for the time being.

        The trace notes how many were ready, so that waiting can be told from working.
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
        """The posts whose clause the writer could still make better than the quote that stands there."""
        if self.book.writer_name() is None:
            return ()
        return tuple(item.post.id for item in items if self.book.ready(item.post, language) is None)

    def written(
        self, view: Snapshot, ranking: Ranking, request: Request, items: Sequence[Item], cancel: threading.Event
    ) -> Iterator[Item]:
        """Write the clauses that are missing, one after the other, and yield each item with its final reason.

        What a `cancel` leaves unwritten stays quoted; the trace says how much that is, and why.
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
        """Have clauses made in the background, for posts that will soon be shown."""
        self._worker.ahead(posts, language)

    def clause(self, post: Post, language: str) -> Clause:
        """The half about a post as it is kept, else a quote of it."""
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
