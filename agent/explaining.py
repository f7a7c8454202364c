"""The explain stage: from chosen candidates to items whose reasons can be checked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from agent.answer import Item
from agent.clause import Clause, ClauseBook, ClauseWorker
from agent.explain import Facts, explain
from agent.pipeline import Leaving, Ranking
from agent.reason import Reason
from agent.request import Request
from agent.view import View
from retrieval.candidate import Candidate
from retrieval.post import Post


class Explainer:
    """Joins the reader's half of a reason, made here and now, with the post's half, which is kept."""

    def __init__(self, book: ClauseBook, worker: ClauseWorker, writer_state: Callable[[], str]) -> None:
        self._book = book
        self._worker = worker
        self._writer_state = writer_state

    def items(self, view: View, ranking: Ranking, request: Request, *, write: bool) -> tuple[Item, ...]:
        """Items with reasons. Clauses that are not kept yet are written now (`write`), or quoted for the time being.

        The trace notes how many were ready, so that waiting can be told from working.
        """
        with ranking.trace.stage("explain", len(ranking.chosen)) as record:
            posts = view.store.posts([candidate.post for candidate in ranking.chosen])
            items, ready = [], 0
            leaving = Leaving(ranking, view)
            for rank, candidate in enumerate(ranking.chosen, 1):
                post = posts[candidate.post]
                candidate.because = leaving.because(candidate)
                clause = self._book.ready(post, request.language)
                ready += clause is not None
                if clause is None:
                    clause = (
                        self._book.write(post, request.language)
                        if write
                        else self._book.extract(post, request.language)
                    )
                items.append(self._item(view, ranking, request, candidate, post, rank, clause))
            record.left = len(items)
            record.note = f"{ready} ready"
            writer = self._book.writer_name()
            if writer is None:
                record.note += f"; the writer is {self._writer_state()}: quotes serve"
        ranking.trace.models["writer"] = writer or "none"
        ranking.trace.prompts["clause"] = self._book.version(request.language)
        return tuple(items)

    def waiting(self, items: Sequence[Item], language: str) -> tuple[str, ...]:
        """The posts whose clause the writer could still make better than the quote that stands there."""
        if self._book.writer_name() is None:
            return ()
        return tuple(item.post.id for item in items if self._book.ready(item.post, language) is None)

    def written(
        self, view: View, ranking: Ranking, request: Request, items: Sequence[Item], cancel: threading.Event
    ) -> Iterator[Item]:
        """Write the clauses that are missing, one after the other, and yield each item with its final reason."""
        for item, candidate in zip(items, ranking.chosen, strict=True):
            if cancel.is_set():
                return
            if self._book.ready(item.post, request.language) is not None:
                continue
            with self._worker.foreground():
                clause = self._book.write(item.post, request.language, cancel)
            yield replace(item, reason=self._reason(view, ranking, request, candidate, item.post, clause))

    def ahead(self, posts: Sequence[Post], language: str) -> None:
        """Have clauses made in the background, for posts that will soon be shown."""
        self._worker.ahead(posts, language)

    def clause(self, post: Post, language: str) -> Clause:
        """The half about a post as it is kept, else a quote of it."""
        return self._book.ready(post, language) or self._book.extract(post, language)

    # ---- inside ----

    def _item(
        self,
        view: View,
        ranking: Ranking,
        request: Request,
        candidate: Candidate,
        post: Post,
        rank: int,
        clause: Clause,
    ) -> Item:
        return Item(
            post=post,
            rank=rank,
            score=candidate.score,
            probability=candidate.probability,
            signals=dict(candidate.signals),
            contributions=view.ranker.contributions(candidate.signals),
            sources=tuple(candidate.sources),
            reason=self._reason(view, ranking, request, candidate, post, clause),
        )

    def _reason(
        self, view: View, ranking: Ranking, request: Request, candidate: Candidate, post: Post, clause: Clause
    ) -> Reason:
        reader = ranking.reader
        own = {event.id: event for event in reader.events}
        past = view.store.posts([found.post for found in candidate.because])
        vectors = view.community.vectors([candidate.row])[0]
        named = sorted(
            reader.named, key=lambda pair: -float(vectors @ view.topics.vector(pair[1])) if reader.named else 0.0
        )
        author = post.author if post.author in reader.people else ""
        facts = Facts(
            post=post,
            because=tuple((found, own[found.event], past.get(found.post)) for found in candidate.because),
            interests=tuple(named[:1]),
            query=request.query,
            person=view.store.names([author]).get(author) if author else None,
            signals=candidate.signals,
            sources=tuple(candidate.sources),
        )
        return explain(facts, clause, request.language)
