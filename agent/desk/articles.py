"""Posts for the desk, found by the recommender: help articles to cite, and posts to send along."""

from __future__ import annotations

from whyfeed.agent.answer import Item
from whyfeed.agent.recommend.pipeline import Task, run
from whyfeed.agent.recommend.snapshot import Snapshot
from whyfeed.agent.request import Request
from whyfeed.agent.runtime import Runtime
from whyfeed.retrieval.community.reader import Reader, read
from whyfeed.retrieval.errors import UnknownUser
from whyfeed.retrieval.post import Post

ARTICLES = 3
POSTS = 2
SENT_ALONG = 0.6  # relevance of a post that is worth sending along
CITED = 0.45  # relevance of an article that may answer
_NOBODY = "\x00"  # id of no user; "" is the author of every article that names none


class Articles:
    """Finds articles and posts for a conversation, ranked for the customer where the home knows them."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def articles(self, asked: str) -> list[tuple[Post, float]]:
        """Help articles that may answer, with their relevance in [0, 1], the best first."""
        view = self._runtime.recommender.snapshot()
        if "article" not in view.community.kinds:
            return []
        request = Request("search", query=asked, kinds=("article",), k=ARTICLES)
        ranking = run(view, _nobody(view), Task(request, ARTICLES, now=self._runtime.clock()))
        scored = [(each.post, each.signals.get("query", 0.0)) for each in ranking.chosen]
        posts = view.store.posts([id for id, relevance in scored if relevance >= CITED])
        return [(posts[id], relevance) for id, relevance in sorted(scored, key=lambda pair: -pair[1]) if id in posts]

    def helpful(self, asked: str, customer: str, language: str) -> tuple[Item, ...]:
        """Posts that are close to what the customer asks, each with its reason."""
        view = self._runtime.recommender.snapshot()
        if not len(view.community):
            return ()
        try:
            reader = view.reader(customer) if customer else _nobody(view)
        except UnknownUser:
            reader = _nobody(view)
        request = Request("search", query=asked, k=POSTS, language="zh" if language == "zh" else "en")
        ranking = run(view, reader, Task(request, POSTS, now=self._runtime.clock()))
        ranking.chosen = [each for each in ranking.chosen if each.signals.get("query", 0.0) >= SENT_ALONG]
        return self._runtime.explainer.items(view, ranking, request, write=False) if ranking.chosen else ()


def _nobody(view: Snapshot) -> Reader:
    return read(_NOBODY, (), view.community, view.embedder)
