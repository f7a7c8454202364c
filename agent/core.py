"""What the agent and its dialogue share: the store, the models, and one way to rank, write and remember."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from agent.answer import Answer
from agent.clause import ClauseBook, ClauseWorker
from agent.encoder import PostEncoder, encoder_of
from agent.explaining import Explainer
from agent.judge import Judge
from agent.ledger import Send, forwarding
from agent.models import Models, embedder_of
from agent.pipeline import Ranking, Task, run
from agent.request import Horizon
from agent.settings import Settings
from agent.steering import horizon_end, rule_text
from agent.understand import Understander
from agent.view import View, Views
from agent.why import trace_document
from retrieval.conversation import Conversations
from retrieval.event import Event
from retrieval.store import Store

if TYPE_CHECKING:
    from agent.chat_agent import ChatAgent
    from agent.tool_exam import Exam


class Core:
    """The parts of one home, opened once. Nothing about a user or a conversation is kept in it."""

    def __init__(self, settings: Settings, clock: Callable[[], float], send: Send | None = None) -> None:
        self.settings = settings
        self.clock = clock
        self.store = Store(settings.home.expanduser())
        self.embedder = embedder_of(settings)
        self.views = Views(self.store, self.embedder, settings.index, self.encoder)
        self.conversations = Conversations(self.store)
        if send is not None:
            self.store, self.conversations = forwarding(self.store, send), forwarding(self.conversations, send)
        self.models = Models(settings)
        self._book = ClauseBook(self.store, self.models.writer, self.embedder)
        self._worker = ClauseWorker(self._book)
        self.explainer = Explainer(self._book, self._worker, lambda: self.models.describe("writer"))
        self._understander: Understander | None = None
        self._chat_agent: ChatAgent | None = None
        self._exam: Exam | None = None
        self._opening = threading.Lock()
        # Ranking is many short steps in Python between short ones in numpy: of two threads at once each waits for
        # the interpreter at every step, and both together do less than one alone (`benchmarks/LOG.md`).
        self._ranking = threading.Lock()

    def close(self) -> None:
        """Stop what runs in the background and close the store."""
        self._worker.stop()
        if self._exam is not None:
            self._exam.stop()
        if self._chat_agent is not None:
            self._chat_agent.close()
        self.models.close()
        self.store.close()

    def view(self, as_of: float | None = None) -> View:
        """The home as of now, or as of a moment of the past."""
        return self.views.current() if as_of is None else self.views.as_of(as_of)

    def encoder(self) -> PostEncoder | None:
        """The language model that reads posts; None without LLMs. WeightsError or ModelError when it is not there."""
        return None if self.settings.no_llm else encoder_of(self.store.home, self.settings.encoder)

    def understander(self) -> Understander:
        """Made when it is first asked for; its trained classifier is kept in the home."""
        with self._opening:
            if self._understander is None:
                self._understander = Understander(self.embedder, self.models.writer, self.store.home / "intents.npz")
            return self._understander

    def chat_agent(self) -> ChatAgent | None:
        """What plans turns in place of the understander: where a server's model has shown that it calls tools well.

        The settings may ask for one or the other. The exam runs once for each model, while the plan still answers.
        """
        if self.settings.chat == "plan":
            return None
        with self._opening:
            model = self.models.tool_caller()
            if model is None:
                return None
            if self._chat_agent is None or self._chat_agent.model is not model:
                from agent.chat_agent import ChatAgent

                self._chat_agent = ChatAgent(model, self.store.home, self.models.usage)
            if self.settings.chat == "agent":
                return self._chat_agent
            if self._exam is None:
                from agent.tool_exam import Exam

                self._exam = Exam(self.store.home / "tool-exam.json")
            return self._chat_agent if self._exam.passed(self._chat_agent) else None

    def forget(self, user: str, events: Sequence[str]) -> None:
        """Delete events of a reader, and with them what a model heard in the reader's conversations."""
        self.store.forget(user, events)
        self.forget_said(user)

    def forget_said(self, user: str) -> None:
        """Delete what models heard of a reader in conversations."""
        if (self.store.home / "agent.db").exists():
            from agent.chat_agent import forget

            forget(self.store.home, user)

    def judge(self, view: View, wanted: bool) -> Judge | None:
        """The LLM judge, when it is wanted or a fitted model gives it weight, and there is one."""
        engine = self.models.ranker() if wanted or view.ranker.weights["llm"] else None
        return None if engine is None else Judge(engine, self.store, self.settings.judged, self.models.calibration())

    def rank(self, view: View, user: str, task: Task, *, llm_rank: bool) -> Ranking:
        """Run one request; the LLM judges when asked to, or when a fitted model gives it weight."""
        judge = self.judge(view, llm_rank)
        # Two engines at once would both be slow: while one judges, no clause is made ahead.
        with self._worker.foreground() if judge else self._ranking:
            ranking = run(view, view.reader(user), task, judge)
        if llm_rank and judge is None:
            with ranking.trace.stage("judge") as record:
                record.status = f"off: the ranker LLM is {self.models.describe('ranker')}"
        return ranking

    def append(self, event: Event) -> Event:
        """Write an event into the ledger, as of now."""
        return self.store.append(Event("", event.user, event.post, event.kind, self.clock(), event.value, event.text))

    def add_rule(self, user: str, kind: str, topic: str, horizon: Horizon, conversation: str = "") -> Event:
        """Write a rule (include or exclude) into the ledger; `conversation` binds it to one."""
        until = horizon_end(horizon, self.clock())
        return self.append(Event("", user, "", kind, value=until, text=rule_text(topic, horizon, conversation)))

    def remember(self, view: View, ranking: Ranking, answer: Answer) -> None:
        """Keep the trace of an answer, and the answer in its conversation if it has one."""
        document = trace_document(view, ranking, answer)
        said = (answer.conversation, answer.text, answer.to_chat_json()) if answer.conversation else None
        self.conversations.remember(answer.user, self.clock(), document, said)
