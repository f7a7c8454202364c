"""Recommending for the users of one home; shared by Agent, chat, desk and batch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from whyfeed.agent import checkpoints
from whyfeed.agent.answer import Answer, Explanation, Item
from whyfeed.agent.llm.roles import Models
from whyfeed.agent.recommend.judge import Judge
from whyfeed.agent.recommend.pipeline import Ranking, Task, run
from whyfeed.agent.recommend.rules import horizon_end, rule_text
from whyfeed.agent.recommend.snapshot import Snapshot, Snapshots
from whyfeed.agent.recommend.why import explain_absence, explain_presence, trace_document
from whyfeed.agent.request import Horizon, Request
from whyfeed.agent.trace import Status
from whyfeed.retrieval.errors import UnknownEvent
from whyfeed.retrieval.event import INTEREST, Event
from whyfeed.retrieval.language import Language
from whyfeed.retrieval.post import clean_text
from whyfeed.retrieval.store.conversations import Conversations
from whyfeed.retrieval.store.store import Store

MOST = 50  # posts in one answer
Direction = Literal["more", "less"]
FEEDBACK = tuple(kind for kind in INTEREST if kind not in ("ask", "answer", "comment", "reply", "rate"))


class Explains(Protocol):
    """Turns a ranking into items with reasons; implemented by `agent.reasons.explainer.Explainer`."""

    def items(self, view: Snapshot, ranking: Ranking, request: Request, *, write: bool) -> tuple[Item, ...]:
        """One item for each chosen post; without `write` no language model is used."""
        ...


class Recommender:
    """Ranks, explains and stores answers; writes feedback and rules. Safe to use from many threads.

    Holds no state of a user; that is in the store. `clock` gives the time of new events in Unix seconds.
    """

    def __init__(
        self, store: Store, conversations: Conversations, snapshots: Snapshots, models: Models,
        clock: Callable[[], float], *,
        explainer: Explains, foreground: Callable[[], AbstractContextManager[None]], judged: int,
    ) -> None:  # fmt: skip
        """`foreground` pauses background use of the language model; `judged` is how many posts the judge scores."""
        self.store = store
        self.conversations = conversations
        self.snapshots = snapshots
        self.clock = clock
        self._models = models
        self._explainer = explainer
        self._foreground = foreground
        self._judged = judged
        # One ranking at a time: it alternates short steps of Python and numpy, so two threads wait for the interpreter
        # lock at every step and together do less than one alone (`benchmarks/LOG.md`).
        self._ranking = threading.Lock()

    def snapshot(self, as_of: float | None = None) -> Snapshot:
        """The home as of now, or as of a moment in the past (Unix seconds)."""
        return self.snapshots.current() if as_of is None else self.snapshots.as_of(as_of)

    def judge(self, view: Snapshot, wanted: bool) -> Judge | None:
        """The LLM judge, if `wanted` or if the snapshot's ranker gives it weight; None when there is no model."""
        engine = self._models.ranker() if wanted or view.ranker.weights["llm"] else None
        return None if engine is None else Judge(engine, self.store, self._judged, self._models.calibration())

    # ---- lists ----

    def rank(self, view: Snapshot, user: str, task: Task, *, llm_rank: bool = False) -> Ranking:
        """Rank posts for one request. The LLM judges on request, or when a fitted model gives it weight.

        Raises UnknownUser.
        """
        judge = self.judge(view, llm_rank)
        # Two uses of the model at once would both be slow: no clause is written in the background meanwhile.
        with self._foreground() if judge else self._ranking:
            ranking = run(view, view.reader(user), task, judge)
        if llm_rank and judge is None:
            with ranking.trace.stage("judge") as record:
                record.end(Status.OFF, f"the ranker LLM is {self._models.state('ranker')}")
        return ranking

    def recommend(
        self, user: str, request: Request, *, as_of: float | None = None, llm_rank: bool = False, write: bool = True
    ) -> Answer:
        """An answer with the best posts for a user, each with a checked reason; see `Agent.recommend`."""
        k = 5 if request.k is None else request.k
        if not 1 <= k <= MOST:
            raise ValueError(f"k={k!r} is not between 1 and {MOST}")
        view = self.snapshot(as_of)
        now = self.clock() if as_of is None else as_of
        ranking = self.rank(view, user, Task(request, k, now=now), llm_rank=llm_rank)
        items = self._explainer.items(view, ranking, request, write=write)
        answer = Answer(user, "", items, request, ranking.trace)
        if as_of is None:
            self.remember(view, ranking, answer)
        return answer

    def remember(self, view: Snapshot, ranking: Ranking, answer: Answer) -> None:
        """Store the trace of an answer, and the answer in its conversation if it has one."""
        document = trace_document(view, ranking, answer)
        said = (answer.conversation, answer.text, answer.to_chat_json()) if answer.conversation else None
        events = [event.id for event in ranking.reader.events]
        self.conversations.remember(answer.user, self.clock(), document, said, events)

    # ---- feedback and rules ----

    def append(self, event: Event) -> Event:
        """Write an event into the ledger with the current time.

        UnknownUser where the user has been erased meanwhile, UnknownConversation where the desk's conversation has.
        """
        made = Event("", event.user, event.post, event.kind, self.clock(), event.value, event.text)
        return self.store.append(made, True)

    def feedback(self, user: str, post: str, kind: str) -> Event:
        """Record in the ledger what a user did with a post.

        Raises ValueError for a kind not in `FEEDBACK`, UnknownUser and UnknownPost.
        """
        if kind not in FEEDBACK:
            raise ValueError(f"feedback {kind!r} is none of {', '.join(FEEDBACK)}")
        self.store.user(user)
        self.store.post(post)
        return self.append(Event("", user, post, kind))

    def add_rule(self, user: str, kind: str, topic: str, horizon: Horizon, conversation: str = "") -> Event:
        """Write a rule (include or exclude) into the ledger; `conversation` limits it to that one."""
        until = horizon_end(horizon, self.clock())
        return self.append(Event("", user, "", kind, value=until, text=rule_text(topic, horizon, conversation)))

    def steer(self, user: str, topic: str, direction: Direction, horizon: Horizon = "always") -> Event:
        """Add a rule from a topic in words; see `Agent.steer`."""
        self.store.user(user)
        topic = clean_text(topic, 200)
        if not topic or direction not in ("more", "less") or horizon not in ("day", "week", "month", "always"):
            raise ValueError(f"cannot steer to {direction!r} of {topic!r} for {horizon!r}; name a topic, more or less")
        return self.add_rule(user, "include" if direction == "more" else "exclude", topic, horizon)

    def set_rule(self, user: str, rule_id: str, active: bool) -> None:
        """Switch a rule on or off. Raises UnknownUser, and UnknownEvent when the user has no such rule."""
        reader = self.snapshot().reader(user)
        if rule_id not in {rule.id for rule in reader.rules}:
            raise UnknownEvent(rule_id, user)
        self.append(Event("", user, "", "rule-on" if active else "rule-off", text=rule_id))

    # ---- the ledger of one user ----

    def events(self, user: str, limit: int = 100) -> list[Event]:
        """A user's latest events, newest first. Raises UnknownUser."""
        self.store.user(user)
        return [event for _, event in self.store.events(user=user)][::-1][:limit]

    def forget(self, user: str, events: Sequence[str]) -> None:
        """Delete events of a user, and the planner's state of the user's conversations.

        Raises UnknownUser and UnknownEvent; in both cases nothing is deleted.
        """
        self.store.user(user)
        for event in events:
            if self.store.event(user, event) is None:
                raise UnknownEvent(event, user)
        self.store.forget(user, events)
        checkpoints.forget(self.store.home, user)

    # ---- explanations ----

    def why(self, user: str, post: str, language: Language | None = None) -> Explanation:
        """Why the post was shown, from the trace of the user's latest answer that contained it."""
        found = self.store.post(post)
        self.store.user(user)
        for document in self.conversations.traces(user):
            if any(shown["id"] == post for shown in document["shown"]):
                return explain_presence(user, found, document, language)
        return self.why_not(user, post, language)

    def why_not(self, user: str, post: str, language: Language | None = None) -> Explanation:
        """Why the post is not in the user's list and what would bring it in, from the latest trace."""
        view = self.snapshot()
        found = self.store.post(post)
        self.store.user(user)
        traces = self.conversations.traces(user, 1)
        if not traces or traces[0]["last_event"] != view.community.last_event:
            # A trace from before the user's latest event is out of date.
            self.recommend(user, Request("recommend", k=5))
            traces = self.conversations.traces(user, 1)
        if any(shown["id"] == post for shown in traces[0]["shown"]):
            return explain_presence(user, found, traces[0], language)
        return explain_absence(user, found, traces[0], language)
