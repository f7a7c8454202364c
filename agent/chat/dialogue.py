"""One turn of a conversation: understand the message, act on it, answer.

A list is yielded as soon as it is ranked; reasons that are still being written follow. The turn is stored even when
something fails, so that the conversation can continue after a restart.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from whyfeed.agent.answer import Answer, ChatEvent, ItemsReady, ReasonReady, Receipt, StageStarted
from whyfeed.agent.chat.forgetting import UNDOABLE, Step, step, to_forget
from whyfeed.agent.llm.engine import Deadline
from whyfeed.agent.phrases import languages, listed, say, share_of, signal_word
from whyfeed.agent.reasons.extracts import central_sentences
from whyfeed.agent.recommend.pipeline import RELEVANT, Ranking, Task
from whyfeed.agent.recommend.profile import describe
from whyfeed.agent.recommend.rules import in_force
from whyfeed.agent.recommend.snapshot import Snapshot
from whyfeed.agent.request import Horizon, Request
from whyfeed.agent.trace import Status, Trace
from whyfeed.agent.understanding.understander import Context
from whyfeed.retrieval.errors import ModelError, UnknownPost
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.formula import readable
from whyfeed.retrieval.language import Language, detect_language
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.store.conversations import Turn

if TYPE_CHECKING:
    from whyfeed.agent.chat.planner import Planner
    from whyfeed.agent.runtime import Runtime

K = 5
MOST = 20  # posts of one list in a conversation


class Dialogue:
    """Answers one message of one user in one conversation."""

    def __init__(
        self,
        runtime: Runtime,
        planner: Planner | None,
        user: str,
        conversation: str,
        cancel: threading.Event,
        *,
        llm_rank: bool,
        erase: Callable[[], None] | None,
    ) -> None:
        """`erase` deletes everything about the user; None where this conversation may not."""
        self._runtime = runtime
        self._recommender = runtime.recommender
        self._planner = planner
        self._user = user
        self._conversation = conversation
        self._cancel = cancel
        self._llm_rank = llm_rank
        self._erase = erase
        self._turns: list[Turn] = runtime.conversations.turns(conversation)
        self._last = _last(self._turns)
        self._text = ""
        self._trace = Trace()  # how the message was understood

    def answer(self, text: str) -> Generator[ChatEvent, None, None]:
        """Understand the message, act on it, and answer; see `Agent.chat`."""
        yield StageStarted("understand")
        self._text = text
        self._runtime.conversations.add(self._conversation, "user", text, self._runtime.clock())
        why: ModelError | None = None
        if wanted := step(text, self._turns):
            yield from self._erasing(wanted)
            return
        if text and self._planner is not None:
            try:
                yield from self._planned(self._planner, text)
                return
            except ModelError as exc:
                why = exc
                self._trace = Trace()
                self._runtime.models.check_server()
        with self._trace.stage("understand") as record:
            request = self._pending(self._runtime.understander().understand(text, self._context()))
            record.note = request.by
            if why is not None:
                record.end(Status.FALLBACK, why)
        yield from self._act(request) if text else self._say(request, say("chat.empty", request.language))

    def _planned(self, planner: Planner, text: str) -> Iterator[ChatEvent]:
        """Let a model plan the turn. Of several answers the last that shows posts is the turn's, else the last."""
        language = detect_language(text, self._context().language)
        answer: Answer | None = None
        with self._trace.stage("understand") as record:
            record.note = "agent"
        for event in planner.turn(
            text, self._context(), language, self._user, self._conversation, self._act, self._cancel
        ):
            if isinstance(event, str):
                request = Request("smalltalk", language=language, by="agent")
                yield from self._say(request, event or say("chat.smalltalk", language))
            elif isinstance(event, Answer):
                answer = event if answer is None or event.items or not answer.items else answer
                self._turns = self._runtime.conversations.turns(self._conversation)
                self._last = _last(self._turns)
            else:
                yield event
        if answer is not None:
            yield answer

    def _act(self, request: Request) -> Iterator[ChatEvent]:
        intents: dict[str, Callable[[Request], Iterator[ChatEvent]]] = {
            "recommend": self._recommend,
            "search": self._recommend,
            "more_like": self._steer,
            "less_like": self._steer,
            "hide": self._hide,
            "why": self._why,
            "why_not": self._why_not,
            "compare": self._compare,
            "summarise": self._summarise,
            "profile": self._profile,
            "undo": self._undo,
            "forget": self._forget,
            "people": self._people,
            "groups": self._groups,
        }
        if request.intent in intents:
            yield from intents[request.intent](request)
        else:
            thanks = request.intent == "smalltalk" and _is_thanks(self._text)
            yield from self._say(request, say(f"chat.{'thanks' if thanks else request.intent}", request.language))

    @property
    def _view(self) -> Snapshot:
        """The home as of now, with what this turn has written."""
        return self._recommender.snapshot()

    # ---- lists ----

    def _recommend(self, request: Request) -> Iterator[ChatEvent]:
        shown = self._shown() if request.others else ()
        yield from self._list(request, shown=shown)

    def _list(
        self,
        request: Request,
        *,
        lead: str = "",
        shown: Sequence[str] = (),
        like: Sequence[str] = (),
        receipt: bool = False,
    ) -> Iterator[ChatEvent]:
        """Rank and show a list, then have the missing reasons written. The text begins with `lead`, if given."""
        view = self._view
        rows = view.community.row_of
        k = min(request.k or K, MOST)
        task = Task(
            request, k, tuple(rows[id] for id in like if id in rows), tuple(rows[id] for id in shown if id in rows),
            self._conversation, self._runtime.clock(), seed=str(len(self._turns)),
        )  # fmt: skip
        yield StageStarted("retrieve")
        yield StageStarted("judge" if self._llm_rank else "rank")
        ranking = self._recommender.rank(view, self._user, task, llm_rank=self._llm_rank)
        ranking.trace.stages[:0] = self._trace.stages
        yield StageStarted("explain")
        items = self._runtime.explainer.items(view, ranking, request, write=False)
        text = lead or self._headline(request, ranking, view, like, bool(items))
        if items and len(items) < k:
            text += say("chat.list.few", request.language)
        before = {item["post"]["id"] for item in self._last["items"]} if self._last else set()
        now = {item.post.id for item in items}
        rules = tuple(rule.topic for rule in ranking.rules if rule.kind == "exclude")
        changed = (
            Receipt(rules, tuple(sorted(before - now)), tuple(sorted(now - before))) if receipt else Receipt(rules)
        )
        waiting = self._runtime.explainer.waiting(items, request.language)
        final = {item.post.id: item for item in items}
        deadline = Deadline(self._cancel, self._runtime.settings.write_seconds)
        try:
            yield ItemsReady(text, items, waiting)
            for item in self._runtime.explainer.written(view, ranking, request, items, deadline):
                final[item.post.id] = item
                yield ReasonReady(item.post.id, item.reason)
        finally:
            # Also when the user has left in the middle: the list was shown, so it is remembered.
            done = tuple(final[item.post.id] for item in items)
            answer = Answer(self._user, text, done, request, ranking.trace, changed, self._conversation)
            self._recommender.remember(view, ranking, answer)
        yield answer

    def _headline(
        self, request: Request, ranking: Ranking, view: Snapshot, like: Sequence[str], any_items: bool
    ) -> str:  # fmt: skip
        language = request.language
        if not any_items:
            if not len(view.community):
                return say("chat.list.empty", language)
            return say("chat.list.no_match" if request.query else "chat.list.none", language, query=request.query)
        if request.query:
            far = ranking.relevance is not None and ranking.relevance < RELEVANT
            return say("chat.list.far" if far else "chat.list.search", language, query=request.query)
        if like:
            return say("chat.list.like", language, title=self._title(like[0]))
        if request.others:
            return say("chat.list.others", language)
        if not len(ranking.reader.rows):
            return say("chat.list.named" if ranking.reader.named else "chat.list.new", language)
        return say("chat.list", language)

    # ---- steering ----

    def _steer(self, request: Request) -> Iterator[ChatEvent]:
        language = request.language
        if request.posts and not request.include and not request.exclude:
            kind = "like" if request.intent == "more_like" else "dislike"
            for post in request.posts:
                self._recommender.feedback(self._user, post, kind)
            if kind == "like":
                yield from self._list(request, like=request.posts, shown=self._shown(), receipt=True)
            else:
                yield from self._list(request, lead=say("chat.hidden", language), receipt=True)
            return
        if not request.include and not request.exclude:
            yield from self._ask_which(request)
            return
        lead = []
        for kind, topics in (("exclude", request.exclude), ("include", request.include)):
            for topic in topics:
                if request.horizon != "now":  # a wish for this answer alone is in the request and makes no rule
                    self._rule(kind, topic, request.horizon)
                told = say(f"chat.rule.{kind}", language, topic=topic)
                if not self._view.topics.match(topic):
                    told += say("chat.rule.nothing", language)
                lead.append(told)
        text = say("join.sentence", language).join(lead)
        if request.horizon != "always":
            text += say("chat.rule.for", language, horizon=say(f"chat.horizon.{request.horizon}", language))
        yield from self._list(request, lead=text, receipt=True)

    def _rule(self, kind: str, topic: str, horizon: Horizon) -> None:
        bound = self._conversation if horizon == "session" else ""
        self._recommender.add_rule(self._user, kind, topic, horizon, bound)

    def _hide(self, request: Request) -> Iterator[ChatEvent]:
        if not request.posts:
            yield from self._ask_which(request)
            return
        for post in request.posts:
            self._recommender.feedback(self._user, post, "hide")
        yield from self._list(request, lead=say("chat.hidden", request.language), receipt=True)

    def _undo(self, request: Request) -> Iterator[ChatEvent]:
        last = next((event for event in self._recommender.events(self._user) if event.kind in UNDOABLE), None)
        if last is None:
            yield from self._say(request, say("chat.undo.nothing", request.language))
            return
        what = self._what(last, request.language)
        self._recommender.forget(self._user, [last.id])
        yield from self._list(request, lead=say("chat.undone", request.language, what=what), receipt=True)

    def _erasing(self, wanted: Step) -> Iterator[ChatEvent]:
        language = detect_language(self._text, self._context().language)
        request = Request("forget", language=language)
        if wanted == "keep":
            yield from self._say(request, say("chat.erase.kept", language))
        elif self._erase is None:
            yield from self._say(request, say("chat.erase.elsewhere", language))
        elif wanted == "ask":
            yield from self._say(request, say("chat.erase.ask", language))
        else:
            self._erase()
            # Not stored: there is nobody any more whose conversation it could be in.
            trace = Trace(request=request.to_json())
            text = say("chat.erase.done", language)
            yield Answer(self._user, text, (), request, trace, Receipt(()), self._conversation)

    def _forget(self, request: Request) -> Iterator[ChatEvent]:
        events = self._recommender.events(self._user, limit=100_000)
        wanted = to_forget(request, self._text, events, self._view)
        if wanted is None:
            yield from self._say(request, say("chat.forget.which", request.language))
            return
        if not wanted:
            yield from self._say(request, say("chat.forget.nothing", request.language))
            return
        self._recommender.forget(self._user, [event.id for event in wanted])
        yield from self._list(request, lead=say("chat.forgotten", request.language, count=len(wanted)), receipt=True)

    # ---- talking about posts ----

    def _why(self, request: Request) -> Iterator[ChatEvent]:
        posts = request.posts or self._first()
        if not posts:
            yield from self._ask_which(request)
            return
        told = []
        for post in posts:
            explanation = self._recommender.why(self._user, post, request.language)
            reason = explanation.reason.text + say("join.sentence", request.language) if explanation.reason else ""
            told.append(f"{reason}{explanation.text} {explanation.would_change}".strip())
        yield from self._say(request, "\n\n".join(told))

    def _why_not(self, request: Request) -> Iterator[ChatEvent]:
        post = request.posts[0] if request.posts else self._found(request.query)
        if post is None:
            yield from self._ask_which(request)
            return
        explanation = self._recommender.why_not(self._user, post, request.language)
        about = say("why_not.about", request.language, title=explanation.post.label)
        text = f"{about} {explanation.text} {explanation.would_change}"
        yield from self._say(request, text.strip())

    def _compare(self, request: Request) -> Iterator[ChatEvent]:
        if len(request.posts) < 2 or self._last is None:
            yield from self._ask_which(request)
            return
        language = request.language
        lines, shown = [], {item["post"]["id"]: item for item in self._last["items"]}
        posts = self._view.store.posts(request.posts)
        names = self._view.store.names([post.author for post in posts.values()])
        for number, id in enumerate(request.posts, 1):
            post = posts[id]
            detail = ", ".join(part for part in (names.get(post.author, ""), _year(post)) if part)
            clause = self._runtime.explainer.clause(post, language).text
            lines.append(
                say("chat.compare", language, number=shown.get(id, {}).get("rank", number), title=post.label,
                    detail=say("chat.compare.detail", language, detail=detail) if detail else "", clause=clause)
            )  # fmt: skip
        rated = [shown[id] for id in request.posts if id in shown]
        if len(rated) >= 2:
            better, worse = sorted(rated, key=lambda item: item["rank"])[:2]
            weights = self._view.ranker.weights
            gain = Counter({
                name: weights.get(name, 0.0) * (value - worse["signals"].get(name, 0.0))
                for name, value in better["signals"].items()
            })  # fmt: skip
            signal = signal_word(gain.most_common(1)[0][0], language)
            lines.append(say("chat.compare.closer", language, title=self._title(better["post"]["id"]), signal=signal))
        yield from self._say(request, "\n".join(lines))

    def _summarise(self, request: Request) -> Iterator[ChatEvent]:
        posts = request.posts or self._first()
        if not posts:
            yield from self._ask_which(request)
            return
        told = []
        for id in posts:
            post = self._view.store.post(id)
            sentences = central_sentences(post, self._view.embedder)
            quoted = [
                say("chat.summary.sentence", request.language, sentence=readable(sentence)) for sentence in sentences
            ]
            key = "chat.summary" if sentences else "chat.summary.none"
            told.append(say(key, request.language, title=post.label, sentences=" ".join(quoted)))
        yield from self._say(request, "\n\n".join(told))

    # ---- talking about the user and others ----

    def _profile(self, request: Request) -> Iterator[ChatEvent]:
        language = request.language
        profile = describe(self._view, self._view.reader(self._user), self._runtime.clock())
        if not profile.interests:
            yield from self._say(request, say("chat.profile.none", language))
            return
        interests = listed(
            [share_of(interest.label, interest.weight, language) for interest in profile.interests[:5]], language
        )
        text = say("chat.profile", language, events=profile.events, interests=interests)
        active = [rule.topic for rule in profile.rules if rule.active]
        if active:
            text += say("chat.profile.rules", language, rules=listed(active, language))
        yield from self._say(request, text + say("chat.profile.hint", language))

    def _people(self, request: Request) -> Iterator[ChatEvent]:
        """Name authors of the posts nearest to the user's interests, by what they published alone."""
        community, language = self._view.community, request.language
        reader = self._view.reader(self._user)
        by_author: dict[str, list[tuple[float, int]]] = defaultdict(list)
        if reader.groups:
            vectors = np.stack([group.vector for group in reader.groups])
            for hits in community.index.search(vectors, 60):
                for num, cosine in hits:
                    row = self._view.topics.row_of_num.get(num)
                    if row is not None and community.authors[row] not in ("", self._user):
                        by_author[community.authors[row]].append((cosine, row))
        names = self._view.store.names(list(by_author))
        best = sorted(
            (author for author in by_author if author in names),
            key=lambda author: (-sum(cosine for cosine, _ in by_author[author]), author),
        )[:3]
        if not best:
            yield from self._say(request, say("chat.people.none", language))
            return
        told = []
        for author in best:
            rows = {row for _, row in by_author[author]}
            title = self._title(community.ids[max(by_author[author])[1]])
            told.append(say("chat.people.one", language, name=names[author], count=len(rows), title=title))
        yield from self._say(request, say("chat.people", language, people=say("join.semicolon", language).join(told)))

    def _groups(self, request: Request) -> Iterator[ChatEvent]:
        community, language = self._view.community, request.language
        shares = self._view.reader(self._user).communities
        if not shares:
            names = [name for name in community.community_names if name]
            yield from self._say(request, say("chat.groups.none", language, groups=listed(names, language)))
            return
        told = [
            share_of(community.community_names[code], share, language)
            for code, share in sorted(shares.items(), key=lambda item: -item[1])
        ]
        yield from self._say(request, say("chat.groups", language, groups=listed(told, language)))

    # ---- inside ----

    def _say(self, request: Request, text: str) -> Iterator[ChatEvent]:
        trace = Trace(stages=list(self._trace.stages))
        trace.request = request.to_json()
        rules = in_force(self._view.reader(self._user).rules, self._conversation, self._runtime.clock())
        receipt = Receipt(tuple(rule.topic for rule in rules if rule.kind == "exclude"))
        answer = Answer(self._user, text, (), request, trace, receipt, self._conversation)
        self._runtime.conversations.add(self._conversation, "agent", text, self._runtime.clock(), answer.to_chat_json())
        yield answer

    def _ask_which(self, request: Request) -> Iterator[ChatEvent]:
        yield from self._say(request, say("chat.which" if self._last else "chat.no_list", request.language))

    def _pending(self, request: Request) -> Request:
        """ "The second one", said after whyfeed asked which one was meant, answers that question."""
        last = self._turns[-1] if self._turns else None
        if last is None or last.answer is None or last.text not in [say("chat.which", each) for each in languages()]:
            return request
        if request.intent != "summarise" or not request.posts:
            return request
        return request.with_(intent=last.answer["request"]["intent"])

    def _context(self) -> Context:
        items = self._last["items"] if self._last else []
        spoken: dict[str, Any] = next((turn.answer["request"] for turn in reversed(self._turns) if turn.answer), {})
        focus = (spoken.get("posts") or [None])[-1]
        language: Language = detect_language(self._turns[-1].text, "en") if self._turns else "en"
        return Context(
            shown=tuple(item["post"]["id"] for item in items),
            titles={item["post"]["id"]: item["post"]["title"] for item in items},
            focus=focus if focus in {item["post"]["id"] for item in items} else None,
            language=language,
        )  # fmt: skip

    def _shown(self) -> tuple[str, ...]:
        answers = [turn.answer for turn in self._turns if turn.answer]
        return tuple(dict.fromkeys(item["post"]["id"] for answer in answers for item in answer["items"]))

    def _first(self) -> tuple[str, ...]:
        return (self._last["items"][0]["post"]["id"],) if self._last else ()

    def _found(self, query: str | None) -> str | None:
        """The post that a title or topic means."""
        if not query:
            return None
        hits = self._view.topics.search(query, 1)
        return self._view.community.ids[next(iter(hits))] if hits else None

    def _title(self, id: str) -> str:
        try:
            return self._view.store.post(id).label
        except UnknownPost:
            return id

    def _what(self, event: Event, language: Language) -> str:
        rules = self._view.reader(self._user).rules
        topic = next((rule.topic for rule in rules if rule.id in (event.id, event.text)), event.text)
        what = self._title(event.post) if event.post else topic
        return say("chat.undone.what", language, kind=event.kind, what=what)


def _year(post: Post) -> str:
    from whyfeed.retrieval.clock import format_time

    written = format_time(post.created_at)
    return written[:4] if isinstance(written, str) else ""


def _last(turns: Sequence[Turn]) -> dict[str, Any] | None:
    """The last answer that showed a list."""
    return next((turn.answer for turn in reversed(turns) if turn.answer and turn.answer["items"]), None)


def _is_thanks(text: str) -> bool:
    return any(word in text.casefold() for word in ("thank", "thx", "cheers", "谢", "感谢"))
