"""The shared parts of one home, opened once: store, models, explainer, recommender. Chat, desk and batch use them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from whyfeed.agent.encoder.post_encoder import PostEncoder, encoder_of
from whyfeed.agent.llm.roles import Models, embedder_of
from whyfeed.agent.reasons.clause_worker import ClauseWorker
from whyfeed.agent.reasons.clauses import ClauseBook
from whyfeed.agent.reasons.explainer import Explainer
from whyfeed.agent.recommend.service import Recommender
from whyfeed.agent.recommend.snapshot import Snapshots
from whyfeed.agent.settings import Settings
from whyfeed.agent.single_writer import Send, forwarding
from whyfeed.agent.understanding.understander import Understander
from whyfeed.retrieval.store.conversations import Conversations
from whyfeed.retrieval.store.store import Store


class Runtime:
    """The shared parts of one home. Holds no state of a user or a conversation."""

    def __init__(self, settings: Settings, clock: Callable[[], float], send: Send | None = None) -> None:
        """`clock` gives Unix seconds. With `send`, another process does all writes; see `agent.single_writer`."""
        self.settings = settings
        self.clock = clock
        self.store = Store(settings.home.expanduser())
        self.embedder = embedder_of(settings)
        snapshots = Snapshots(self.store, self.embedder, settings.index, self.encoder)
        self.conversations = Conversations(self.store)
        if send is not None:
            self.store, self.conversations = forwarding(self.store, send), forwarding(self.conversations, send)
        self.models = Models(settings)
        book = ClauseBook(self.store, self.models.writer, self.embedder)
        self._worker = ClauseWorker(book)
        self.explainer = Explainer(book, self._worker, lambda: self.models.state("writer"))
        self.recommender = Recommender(
            self.store, self.conversations, snapshots, self.models, clock,
            explainer=self.explainer, foreground=self._worker.foreground, judged=settings.judged,
        )  # fmt: skip
        self._understander: Understander | None = None
        self._opening = threading.Lock()

    def close(self) -> None:
        """Stop background work and close the store."""
        self._worker.stop()
        self.models.close()
        self.store.close()

    def encoder(self) -> PostEncoder | None:
        """The language model that encodes posts; None without LLMs. May raise WeightsError or ModelError."""
        return None if self.settings.no_llm else encoder_of(self.store.home, self.settings.encoder)

    def understander(self) -> Understander:
        """The understander, created at first use; its trained classifier is stored in the home."""
        with self._opening:
            if self._understander is None:
                self._understander = Understander(self.embedder, self.models.writer, self.store.home / "intents.npz")
            return self._understander
