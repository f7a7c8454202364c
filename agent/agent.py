"""The facade `Agent`: everything that whyfeed does for a person or a program, on one home folder."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, get_args

from whyfeed.agent import checkpoints
from whyfeed.agent.answer import Answer, ChatEvent, Explanation, Found, Member, Profile
from whyfeed.agent.batch.erasure import forget as forget_in_jobs
from whyfeed.agent.batch.output import BatchReport
from whyfeed.agent.batch.runner import run as run_batch
from whyfeed.agent.batch.workers import LocalWorkers, Wanted, Workers
from whyfeed.agent.chat.choice import PlannerChoice
from whyfeed.agent.chat.dialogue import Dialogue
from whyfeed.agent.desk.desk import Ask, Desk
from whyfeed.agent.desk.suggestion import ReplySuggestion
from whyfeed.agent.recommend.pipeline import Task, run
from whyfeed.agent.recommend.profile import describe
from whyfeed.agent.recommend.service import MOST, Direction
from whyfeed.agent.request import Horizon, Request
from whyfeed.agent.runtime import Runtime
from whyfeed.agent.settings import Settings
from whyfeed.agent.single_writer import Send
from whyfeed.retrieval.community.embedder import Embedder, PostEncoder
from whyfeed.retrieval.errors import HomeError, UnknownUser
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.language import Language, detect_language
from whyfeed.retrieval.post import Post, clean_text
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.store import exchange
from whyfeed.retrieval.store.conversations import Turn
from whyfeed.retrieval.store.store import Store
from whyfeed.retrieval.user import User, is_reserved

MESSAGE = 2000  # characters of a message that are read
SEARCHED = 500  # posts that a search ranks before it keeps those of the wanted kinds


class Agent:
    """Recommends, explains, chats, learns from feedback, and forgets.

        >>> agent = Agent.open(Path("~/.local/share/whyfeed"))          # doctest: +SKIP
        >>> answer = agent.recommend("alcohol:37", k=5)                  # doctest: +SKIP

    An agent belongs to one home and may be used from many threads. It holds no state of a user or a conversation; that
    is in the home's store. `clock` gives the time of new events in Unix seconds. With `send`, another process does all
    writes (see `agent.single_writer`).
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time, send: Send | None = None) -> None:
        self.settings = settings
        self.home = settings.home.expanduser()
        self._runtime = Runtime(settings, clock, send)
        self._recommender = self._runtime.recommender
        self._store = self._runtime.store
        self.models = self._runtime.models
        self.desk = Desk(self._runtime)
        self._choice = PlannerChoice(self.models, settings, self._store)

    @classmethod
    def open(cls, home: Path | str | None = None, **settings: Any) -> Agent:
        """Open a home folder. A new folder is created, a home of an older version is migrated.

        `settings` are those of `agent.settings.Settings`. Raises HomeError when the folder cannot be used.
        """
        if home is not None:
            settings["home"] = Path(home)
        return cls(Settings(**settings))

    def close(self) -> None:
        """Stop background work and close the store."""
        self.desk.shut()
        self._choice.close()
        self._runtime.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- recommending ----

    def recommend(
        self,
        user: str,
        k: int = 5,
        query: str | None = None,
        kinds: Sequence[str] | None = None,
        *,
        as_of: float | None = None,
        llm_rank: bool = False,
        language: Language | None = None,
        write: bool = True,
    ) -> Answer:
        """The k best posts for a user, each with a checked reason.

        `as_of` answers as of a moment in the past (Unix seconds). `llm_rank` also computes and shows the LLM's
        P(engage). Without `write` no new clause is written: posts without a stored clause get a quote. Raises
        UnknownUser, and ValueError when k is not between 1 and 50 or the language is unknown.
        """
        if language not in (None, *get_args(Language)):
            raise ValueError(f"language {language!r} is none of {', '.join(get_args(Language))}")
        query = clean_text(query, MESSAGE) or None
        request = Request(
            "search" if query else "recommend", query=query, kinds=tuple(kinds or ()), k=k,
            language=language or _language(query),
        )  # fmt: skip
        return self._recommender.recommend(user, request, as_of=as_of, llm_rank=llm_rank, write=write)

    def chat(
        self,
        user: str,
        text: str,
        conversation: str | None = None,
        *,
        cancel: threading.Event | None = None,
        llm_rank: bool = False,
        may_erase: bool = True,
    ) -> Generator[ChatEvent, None, None]:
        """Answer a message. Yields events while the answer is made; the last one is the `Answer`.

        Without `conversation` a new one is started; the answer holds its id. A user who asks to be forgotten altogether
        is asked once more and then erased; without `may_erase` they are told who can do it. Raises UnknownUser, and
        DataError when the conversation belongs to another user.
        """
        self._store.user(user)
        if conversation is None:
            conversation = self._runtime.conversations.start(user, self._runtime.clock())
        else:
            self._runtime.conversations.check(conversation, user)
        dialogue = Dialogue(
            self._runtime, self._choice.planner(), user, conversation, cancel or threading.Event(), llm_rank=llm_rank,
            erase=partial(self.erase, user) if may_erase else None,
        )  # fmt: skip
        return dialogue.answer(clean_text(text, MESSAGE))

    def search(self, query: str, k: int = 5, kinds: Sequence[str] = ()) -> list[Found]:
        """The k posts most relevant to a query, for any user. Raises ValueError when k is not between 1 and 50."""
        if not 1 <= k <= MOST:
            raise ValueError(f"k={k!r} is not between 1 and {MOST}")
        query = clean_text(query, MESSAGE)
        view = self._recommender.snapshot()
        rows = view.topics.search(query, SEARCHED) if query else {}
        ids = {view.community.ids[row]: relevance for row, relevance in rows.items()}
        posts = self._store.posts(list(ids))
        found = (Found(posts[id], relevance) for id, relevance in ids.items() if id in posts)
        return [each for each in found if not kinds or each.post.kind in kinds][:k]

    def steer(self, user: str, topic: str, direction: Direction, horizon: Horizon = "always") -> Event:
        """Show more of a topic, or nothing of it, from the next list on. The rule is an event and can be forgotten.

        `horizon` is day, week, month or always. Raises UnknownUser, and ValueError for any other direction or horizon.
        """
        return self._recommender.steer(user, topic, direction, horizon)

    def about(self, topic: str) -> int:
        """The number of posts about a topic, as a steering rule matches them."""
        return len(self._recommender.snapshot().topics.match(clean_text(topic, 200)))

    def feedback(self, user: str, post: str, kind: str) -> Event:
        """Record in the ledger what a user did with a post; the next list takes it into account.

        `kind` is one of like, dislike, hide, save, open, click, share, buy, listen, read, view. Raises ValueError for
        any other kind, UnknownUser and UnknownPost.
        """
        return self._recommender.feedback(user, post, kind)

    def why(self, user: str, post: str, language: Language | None = None) -> Explanation:
        """Why the post was shown, from the trace of the user's latest answer that contained it."""
        return self._recommender.why(user, post, language)

    def why_not(self, user: str, post: str, language: Language | None = None) -> Explanation:
        """Why the post is not in the user's list and what would bring it in, from the latest trace."""
        return self._recommender.why_not(user, post, language)

    def suggest_replies(
        self, conversation: Ask, k: int = 3, *, draft: str = "", wanted: str = ""
    ) -> list[ReplySuggestion]:
        """At most k replies that an operator can send, best first; every fact and promise in them is cited.

        `conversation` is the id of a conversation of the home, or a conversation in the form of conversations.jsonl.
        `draft` is what the operator has typed so far, `wanted` what they ask for in words ("shorter", "in Chinese"). An
        empty list means that no suggestion fits; `desk.suggest` also gives the reason, a hand-over and posts to send
        along. Raises UnknownConversation, and ValueError when k is not between 1 and 10 or the conversation is
        malformed.
        """
        *_, last = self.desk.suggest(conversation, k, draft=draft, wanted=wanted)
        return list(last.suggestions)

    def batch(
        self,
        users: Sequence[str] | None,
        out: Path | str,
        k: int = 5,
        *,
        language: Language = "en",
        write: bool = True,
        min_events: int = 1,
        ray: bool = False,
        restart: bool = False,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> BatchReport:
        """Write explained recommendations for these users (None: all) to `out`: Parquet for *.parquet, else JSON Lines.

        A run can be stopped at any moment; the next call resumes it (see `agent.batch.runner`). Without `write` the
        language model is not used. `ray` distributes the work over a Ray cluster. Raises ValueError for a bad k,
        DataError when another run was started or is running on that file, HomeError when a needed extra (`ray`,
        `parquet`) is not installed.
        """
        wanted = Wanted(None if users is None else tuple(users), k, language, write, min_events)
        workers: Callable[[Runtime, Wanted, float], Workers] = LocalWorkers
        if ray:
            from whyfeed.agent.batch.ray_workers import RayWorkers

            workers = RayWorkers
        return run_batch(
            self._runtime, Path(out), wanted, progress=progress, cancel=cancel, restart=restart, workers=workers
        )  # fmt: skip

    # ---- the same without blocking an event loop ----

    async def achat(
        self, user: str, text: str, conversation: str | None = None, *, llm_rank: bool = False, may_erase: bool = True
    ) -> AsyncGenerator[ChatEvent, None]:
        """`chat` for an event loop, event by event. Leaving the loop or cancelling its task stops the work."""
        cancel = threading.Event()
        events = await asyncio.to_thread(
            self.chat, user, text, conversation, cancel=cancel, llm_rank=llm_rank, may_erase=may_erase
        )  # fmt: skip
        try:
            while (event := await asyncio.to_thread(next, events, None)) is not None:
                yield event
        finally:
            cancel.set()
            with suppress(ValueError):  # a thread is still running the generator: it ends by itself and stores the turn
                events.close()

    async def abatch(self, users: Sequence[str] | None, out: Path | str, k: int = 5, **options: Any) -> BatchReport:
        """`batch` for an event loop. Cancelling the task stops it between two rows; a later call resumes it."""
        cancel = threading.Event()
        work = asyncio.ensure_future(asyncio.to_thread(self.batch, users, out, k, cancel=cancel, **options))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            cancel.set()
            await asyncio.wait([work])  # until it has released the file
            raise

    # ---- users ----

    def members(self, text: str = "", limit: int = 50) -> list[Member]:
        """Users whose name or id contains the text, the most active first."""
        view = self._recommender.snapshot()
        wanted = text.strip().casefold()
        active = dict(view.community.active_users())
        users = [
            user for user in self._store.all_users() if wanted in user.label.casefold() or wanted in user.id.casefold()
        ]
        users.sort(key=lambda user: (-active.get(user.id, 0), user.id))
        return [
            Member(user.id, user.label, active.get(user.id, 0), view.community.communities_of(user.id))
            for user in users[:limit]
        ]

    def newcomer(self, interests: Sequence[str], name: str = "") -> str:
        """Create a user who starts with a few named interests; returns the id."""
        topics = list(dict.fromkeys(topic for raw in interests if (topic := clean_text(raw, 100))))
        user = User(f"new:{uuid.uuid4().hex[:12]}", clean_text(name, 200), attributes={"newcomer": True})
        with self._store.database.write():
            self._store.put_users([user])
            for topic in topics[:12]:
                self._recommender.append(Event("", user.id, "", "interest", text=topic))
        return user.id

    def profile(self, user: str) -> Profile:
        """What whyfeed has inferred about a user."""
        view = self._recommender.snapshot()
        return describe(view, view.reader(user), self._runtime.clock())

    def topics(self, limit: int = 24, community: str | None = None) -> list[str]:
        """Common topics of the home (or of one community), as suggestions for a new user."""
        view = self._recommender.snapshot().community
        if community is not None:
            pairs = zip(view.communities, view.tags, strict=True)
            counts = Counter(tag for name, tags in pairs if name == community for tag in tags)
            return [tag.replace("-", " ") for tag, _ in counts.most_common(limit)]
        by_community = [self.topics(limit, name) for name in view.community_names]
        # One from each community in turn, so that a large community does not crowd out a small one.
        mixed = dict.fromkeys(topic for turn in zip(*by_community, strict=False) for topic in turn)
        return list(mixed)[:limit]

    def set_rule(self, user: str, rule_id: str, active: bool) -> None:
        """Switch a steering rule on or off."""
        self._recommender.set_rule(user, rule_id, active)

    def events(self, user: str, limit: int = 100) -> list[Event]:
        """A user's latest events, the newest first."""
        return self._recommender.events(user, limit)

    def forget(self, user: str, event_id: str) -> None:
        """Delete one event. Everything computed afterwards is as if it had never happened."""
        self._recommender.forget(user, [event_id])
        self._recommender.snapshots.current()

    def export(self, user: str, out: Path | None = None) -> Path:
        """Write everything about a user to a folder in the exchange format; returns the folder."""
        name = "".join(char if char.isalnum() or char in "-_." else "_" for char in user)
        return exchange.export_user(self._store, user, out or Path(f"whyfeed-{name}"))

    def erase(self, user: str) -> None:
        """Delete everything about a user, at the desk too. Raises UnknownUser where nothing is stored about the id.

        What is deleted is gone from every file of the home, also while other processes use it. Posts that the user has
        written stay, without an author.
        """
        known = self.stores(user)
        conversations = [] if is_reserved(user) else self.desk.store.of_customer(user)
        self.desk.forget_all(conversations)
        if known:
            self._store.erase(user)
        # Also for a user who is unknown: an earlier erasure may have been killed in the middle.
        found = [
            checkpoints.forget(self.home, user),
            forget_in_jobs(self.home, user),
            exchange.forget_rejected(self.home, user, *conversations),
        ]
        if not known and not any(found):
            self._store.user(user)

    def stores(self, user: str) -> bool:
        """Whether anything is stored about this id: as a user, an author, or a customer of the desk."""
        return self._store.is_known(user) or (not is_reserved(user) and bool(self.desk.store.of_customer(user)))

    def erase_conversation(self, id: str) -> None:
        """Delete a conversation of the desk and everything that was learnt from it. Raises UnknownConversation."""
        self.desk.forget(id)
        exchange.forget_rejected(self.home, id)

    def post(self, id: str) -> Post:
        """One post. Raises UnknownPost."""
        return self._store.post(id)

    def user(self, id: str) -> User:
        """One user. Raises UnknownUser."""
        return self._store.user(id)

    def names(self, ids: Sequence[str]) -> dict[str, str]:
        """The public names of those of these users who have one."""
        return self._store.names(ids)

    # ---- conversations ----

    def conversations(self, user: str) -> list[tuple[str, str, float]]:
        """(id, first words, time) of a user's conversations, the newest first."""
        return self._runtime.conversations.of(user)

    def turns(self, conversation: str) -> list[Turn]:
        """The turns of a conversation, oldest first."""
        return self._runtime.conversations.turns(conversation)

    def traces(self, user: str) -> list[dict[str, Any]]:
        """The traces of a user's latest answers, newest first."""
        return self._runtime.conversations.traces(user)

    # ---- the home ----

    def import_folder(self, folder: Path, progress: Callable[[str, int], None] | None = None) -> exchange.ImportReport:
        """Import an exchange folder; either all of it or, on an error, nothing. See `retrieval.store.exchange`."""
        try:
            free = shutil.disk_usage(self.home).free
        except OSError:
            free = None
        if free is not None and free < 20_000_000:
            raise HomeError(f"{str(self.home)!r} has {free // 1_000_000} MB left on its disk; free some space first")
        return exchange.import_folder(self._store, folder, progress)

    def marked(self, name: str) -> str | None:
        """The value that `mark` stored under that name, None when there is none."""
        document = self._store.kept("mark", name)
        return None if document is None else str(document["value"])

    def mark(self, name: str, value: str) -> None:
        """Store a note about the home itself, such as which version of the demo it holds."""
        self._store.keep("mark", name, {"value": value})

    def build(self, progress: Progress | None = None) -> None:
        """Update vectors, index and the data in memory now instead of at the first request."""
        self._recommender.snapshots.current(progress)

    @property
    def store(self) -> Store:
        """The home's store, for training."""
        return self._runtime.store

    @property
    def embedder(self) -> Embedder:
        """The home's embedder, for training."""
        return self._runtime.embedder

    @property
    def encoder(self) -> PostEncoder | None:
        """The language model that encodes the home's posts, for training; None without LLMs. May raise WeightsError."""
        return self._runtime.encoder()

    def warm(self, user: str, language: Language = "en", *, llm_rank: bool = False) -> None:
        """Prepare a first request: load the models, write the clauses of the list, compute the judge's prefix."""
        view = self._recommender.snapshot()
        try:
            reader = view.reader(user)
        except UnknownUser:
            return
        ranking = run(view, reader, Task(Request(), 10, now=self._runtime.clock()))
        posts = self._store.posts([candidate.post for candidate in ranking.chosen])
        self._runtime.explainer.ahead([posts[candidate.post] for candidate in ranking.chosen], language)
        self._runtime.understander().prepare()
        judge = self._recommender.judge(view, llm_rank)
        if judge is not None:
            judge.warm(reader, self._store.posts([event.post for event in reader.events]))

    def status(self) -> dict[str, Any]:
        """The state of the models, and counts of what the home holds."""
        community = self._recommender.snapshot().community
        return {
            **self.models.status(),
            "embedder": {"name": self.settings.embedder, "state": "ready"},
            "posts": len(community),
            "users": len(community.event_counts),
        }


def _language(text: str | None) -> Language:
    return detect_language(text, "en") if text else "en"
