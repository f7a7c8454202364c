"""One open page: who reads, the conversation, and what the browser shows of it.

A session belongs to one browser tab and lives on the server. `view` is the whole page as one JSON document; the
browser only draws it, so that a reload shows the same.
"""

from __future__ import annotations

import json
import logging
import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, assert_never

from whyfeed.agent.answer import Answer, ChatEvent, ItemsReady, Member, ReasonReady, StageStarted
from whyfeed.agent.phrases import languages, say
from whyfeed.retrieval.errors import HomeError, UnknownUser, WhyfeedError
from whyfeed.retrieval.event import Event
from whyfeed.ui.page import messages
from whyfeed.ui.page.cards import EVENTS_READ, Cards, explanation, link, moment, said, short
from whyfeed.ui.page.desk_session import DeskSession
from whyfeed.ui.page.views import Notice, Turn

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent

_LOG = logging.getLogger(__name__)
_MARKS = ("like", "save", "hide", "dislike")
_TURNS_SHOWN = 60
_ECHO = 2000  # characters of the user's own message that are shown
_LEDGER_SHOWN = 60
_MEMBERS_SHOWN = 30
_MEMBERS_MIXED = 400  # most active members, of which some of every community are shown
_LOOKS = 30


class Session:
    """What one tab does. Every public method may be called from any thread."""

    def __init__(self, agent: Agent, language: str = "en", may_join: Callable[[], bool] = lambda: True) -> None:
        """`may_join`: whether one more newcomer may be made; it counts them."""
        self._agent = agent
        self._may_join = may_join
        self._lock = threading.RLock()
        self._desk = DeskSession(agent, self._lock)
        self._cards = Cards(agent, "")
        self._cancel: threading.Event | None = None
        self._events: queue.SimpleQueue[ChatEvent | Exception | None] = queue.SimpleQueue()  # of the running answer
        self._id = secrets.token_urlsafe(8)
        self._awaited = 0  # how often to look again for an answer that was begun before a reload
        self._version = 0
        self._started = False
        self._written: dict[str, tuple[int, str]] = {}  # part -> the version in which it last changed, and its JSON
        self._language = language if language in languages() else "en"
        self._user: dict[str, Any] | None = None
        self._conversation = ""
        self._conversations: list[dict[str, Any]] = []
        self._turns: list[Turn] = []
        self._marks: dict[str, dict[str, str]] = {}
        self._why: dict[str, dict[str, Any]] = {}
        self._profile: dict[str, Any] | None = None
        self._members: dict[str, Any] = {"text": "", "found": []}
        self._topics: list[str] = []
        self._behind: dict[str, Any] | None = None
        self._status: dict[str, Any] = {}
        self._notice: Notice | None = None

    def view(self) -> dict[str, Any]:
        """The whole page."""
        with self._lock:
            return {
                "language": self._language,
                "user": self._user,
                "conversation": self._conversation,
                "conversations": self._conversations,
                "members": self._members,
                "topics": self._topics,
                "profile": self._profile,
                "turns": [{key: value for key, value in turn.items() if key != "trace"} for turn in self._turns],
                "running": self._cancel is not None,
                "marks": self._marks,
                "why": self._why,
                "behind": self._behind,
                "status": self._status,
                "notice": self._notice,
                **self._desk.view(),
            }

    def news(self, seen: object = None) -> str:
        """What has changed since the browser drew `seen` ({session, version}), as JSON; everything without it.

        So a long conversation is not sent whole with every new reason. Each news holds all changes after `seen`: one
        that is lost or comes late does no harm.
        """
        with self._lock:
            drawn = messages.read_seen(seen)
            since = drawn.version if drawn is not None and drawn.session == self._id else 0
            self._version += 1
            view = self.view()
            turns = view.pop("turns")
            parts = view | {f"turn {place}": turn for place, turn in enumerate(turns)}
            # "<" is spelled out: Gradio warns of strings that look like scripts.
            written = {
                name: json.dumps(part, ensure_ascii=False).replace("<", "\\u003c") for name, part in parts.items()
            }
            self._written = {
                name: old if (old := self._written.get(name)) and old[1] == text else (self._version, text)
                for name, text in written.items()
            }
            changed = [f"{json.dumps(name)}:{text}" for name, (when, text) in self._written.items() if when > since]
            news = {"session": self._id, "version": self._version, "turns": len(turns)}
            return json.dumps(news)[:-1] + ',"parts":{' + ",".join(changed) + "}}"

    # -- what the browser asks for ------------------------------------------------------------

    def act(self, data: object) -> None:
        """Do what one message of the browser asks for; what goes wrong becomes a line on the page."""
        try:
            message = messages.read(data)
            with self._lock:
                self._do(message)
        except (WhyfeedError, ValueError) as exc:
            self._tell(exc)

    def desk(self, data: object) -> Iterator[None]:
        """Do one thing at the service desk; yields whenever the view has changed."""
        try:
            yield from self._desk.do(messages.read_desk(data))
        except (WhyfeedError, ValueError) as exc:
            self._tell(exc)
        yield

    def say(self, text: str) -> None:
        """Show one line on the page."""
        with self._lock:
            self._notice = {"text": short(text, 300), "number": (self._notice or {"number": 0})["number"] + 1}

    def stop(self) -> None:
        """Stop the answer that is being made; what is shown of it stays."""
        with self._lock:
            if self._cancel is not None:
                self._cancel.set()
                self._turns[-1]["stage"] = "stopping"

    def break_off(self) -> None:
        """End what is being made, here and at the desk, with an error: the server stops."""
        with self._lock:
            why = HomeError(say("page.turn.stopping", self._language))
            if self._cancel is not None:
                self._cancel.set()
                self._events.put(why)
                self._events.put(None)
        self._desk.break_off(why)

    def ask(self, text: str) -> Iterator[None]:
        """Send a message; yields whenever the view has changed."""
        with self._lock:
            if self._user is None or self._cancel is not None or not text.strip():
                return
            cancel = self._cancel = threading.Event()
            user, conversation = self._user["id"], self._conversation or None
            turn: Turn = {"role": "agent", "text": "", "items": [], "state": "running", "stage": "start"}
            if self._awaited:
                self._awaited = 0
                self._turns.pop()
            self._turns += [{"role": "user", "text": _echo(text)}, turn]
            events = self._events = queue.SimpleQueue()

        # In a thread of its own, so that the turn is finished and stored even when the tab is closed.
        def work() -> None:
            try:
                for event in self._agent.chat(user, text, conversation, cancel=cancel):
                    events.put(event)
            except Exception as exc:
                events.put(exc)
            events.put(None)

        threading.Thread(target=work, name="whyfeed-turn", daemon=True).start()
        yield
        while (event := events.get()) is not None:
            with self._lock:
                self._apply(event, turn, cancel)
            yield
        with self._lock:
            if self._cancel is cancel:
                self._cancel = None
                self._check_status()
                try:
                    self._refresh()
                except UnknownUser:  # who asked to be erased, here or elsewhere
                    self._leave()
        yield

    def look_again(self) -> bool:
        """Look for changes from elsewhere: models, an answer begun before a reload, the desk. True if there are any."""
        changed = self._check_status()
        if self._desk.watches:
            changed = self._desk.look() or changed
        with self._lock:
            if self._awaited:
                self._awaited -= 1
                if not self._awaited or self._agent.turns(self._conversation)[-1].role == "agent":
                    self._awaited = 0
                    self._open_talk(self._conversation)
                    changed = True
        return changed

    @property
    def waits(self) -> bool:
        """Whether `look_again` may find something soon."""
        parts = [part for part in self._status.values() if isinstance(part, dict)]
        return (
            bool(self._awaited)
            or self._desk.watches
            or any(part.get("state") in ("downloading", "loading", "fallback") for part in parts)
        )

    def _check_status(self) -> bool:
        status = self._agent.status()
        with self._lock:
            changed = status != self._status
            self._status = status
        return changed

    # -- one turn -----------------------------------------------------------------------------

    def _apply(self, event: ChatEvent | Exception, turn: Turn, cancel: threading.Event) -> None:
        if isinstance(event, StageStarted):
            if not cancel.is_set():
                turn["stage"] = event.name
        elif isinstance(event, ItemsReady):
            turn["text"] = event.text
            turn["items"] = [
                self._cards.card(item.to_json(), waiting=item.post.id in event.waiting) for item in event.items
            ]
        elif isinstance(event, ReasonReady):
            for card in turn["items"]:
                if card["id"] == event.post:
                    card["reason"] = self._cards.reason(event.reason.to_json())
                    card["waiting"] = False
        elif isinstance(event, Answer):
            turn.update(self._agent_turn(event.text, event.to_chat_json()))
            turn["state"] = "stopped" if cancel.is_set() else "done"
            if self._cancel is cancel:  # not when the user has opened another conversation meanwhile
                self._conversation = event.conversation or self._conversation
        else:
            if not isinstance(event, WhyfeedError):
                _LOG.error("a turn failed", exc_info=event)
            turn["state"] = "failed"
            turn["error"] = str(event) if isinstance(event, WhyfeedError | ValueError) else ""
            for card in turn["items"]:
                card["waiting"] = False

    def _agent_turn(self, text: str, answer: Mapping[str, Any] | None) -> Turn:
        answer = answer or {}
        receipt = answer.get("receipt") or {}
        return {
            "role": "agent",
            "text": text,
            "state": "done",
            "intent": (answer.get("request") or {}).get("intent", ""),
            "items": [self._cards.card(item) for item in answer.get("items") or ()],
            "receipt": {
                "rules": [short(rule) for rule in receipt.get("rules") or ()],
                "left": len(receipt.get("left") or ()),
                "came": len(receipt.get("came") or ()),
            },
            "trace": answer.get("trace") or {},
        }

    # -- acts ---------------------------------------------------------------------------------

    def _do(self, message: messages.PageMessage) -> None:
        match message:
            case messages.Start():
                self._start(message.here)
            case messages.SetLanguage():
                self._set_language(message.language)
            case messages.FindMembers():
                self._find_members(message.text)
            case messages.Choose():
                self._read_as(message.user)
            case messages.Newcomer():
                self._join(message)
            case messages.OpenConversation():
                self._talk(message.conversation)
            case messages.Feedback():
                self._feedback(message.post, message.kind)
            case messages.Forget():
                self._forget(message.event)
            case messages.SwitchRule():
                self._agent.set_rule(self._user_id(), message.rule, message.active)
                self._profile = self._believed()
            case messages.Explain():
                self._why[message.post] = explanation(self._agent.why(self._user_id(), message.post))
            case messages.LookBehind():
                self._look_behind()
            case _:
                assert_never(message)

    def _start(self, here: messages.Here) -> None:
        if self._started:
            return
        self._started = True
        self._set_language(here.language)
        self._check_status()
        self._topics = list(self._agent.topics(24))
        self._find_members("")
        if here.user:
            try:
                self._read_as(here.user)
            except WhyfeedError:
                return  # an old link: the user must choose again
            if here.conversation in [each["id"] for each in self._conversations]:
                self._talk(here.conversation)

    def _join(self, message: messages.Newcomer) -> None:
        interests = [each for each in message.interests if each.strip()][:20]
        if interests and not self._may_join():
            raise ValueError(say("page.who.new.many", self._language))
        self._read_as(self._agent.newcomer(interests, message.name))

    def _set_language(self, language: str | None) -> None:
        if language in languages():
            self._language = language

    def _find_members(self, text: str) -> None:
        found = self._agent.members(text, _MEMBERS_SHOWN) if text else _mixed(self._agent.members(limit=_MEMBERS_MIXED))
        self._members = {"text": text, "found": [_member(member) for member in found]}

    def _read_as(self, user: str) -> None:
        known = self._agent.user(user)
        if self._cancel is not None:
            self._cancel.set()
        self._cancel = None
        self._user = {"id": known.id, "name": known.label}
        self._conversation, self._turns, self._why, self._behind, self._awaited = "", [], {}, None, 0
        self._cards = Cards(self._agent, user)
        self._refresh()
        threading.Thread(target=self._warm, args=(user,), name="whyfeed-warm", daemon=True).start()

    def _leave(self) -> None:
        """Nobody reads here any more; what was said last is told once."""
        self.say(self._turns[-1].get("error") or self._turns[-1]["text"])
        self._user, self._profile, self._conversations, self._marks, self._why = None, None, [], {}, {}
        self._conversation, self._turns, self._behind, self._awaited = "", [], None, 0
        self._find_members("")

    def _warm(self, user: str) -> None:
        try:
            self._agent.warm(user)
        except Exception:  # only speed is lost
            _LOG.exception("could not warm up for %r", user)

    def _talk(self, wanted: str | None) -> None:
        """Open one of the user's conversations, or a new one."""
        if self._cancel is not None:
            self._cancel.set()
        self._cancel = None
        self._conversation, self._turns, self._behind, self._awaited = "", [], None, 0
        if wanted and wanted in [each["id"] for each in self._conversations]:
            self._awaited = _LOOKS
            self._open_talk(wanted)

    def _open_talk(self, conversation: str) -> None:
        self._conversation, self._turns = conversation, []
        for turn in self._agent.turns(conversation)[-_TURNS_SHOWN:]:
            if turn.role == "user":
                self._turns.append({"role": "user", "text": _echo(turn.text)})
            else:
                self._turns.append(self._agent_turn(turn.text, turn.answer))
        if not self._turns or self._turns[-1]["role"] == "agent":
            self._awaited = 0
        elif self._awaited:  # asked just before a reload: the answer is still being made
            self._turns.append({"role": "agent", "text": "", "items": [], "state": "running", "stage": "explain"})

    def _feedback(self, post: str, kind: str) -> None:
        event = self._agent.feedback(self._user_id(), post, kind)
        if kind in _MARKS:
            self._marks.setdefault(post, {})[kind] = event.id
            self._profile = self._believed()

    def _forget(self, event: str) -> None:
        self._agent.forget(self._user_id(), event)
        self._refresh()
        if self._behind is not None:
            self._look_behind()

    def _look_behind(self) -> None:
        self._check_status()
        asked, traces = "", []
        for turn in self._turns:
            if turn["role"] == "user":
                asked = turn["text"]
            elif turn.get("trace"):
                traces.append({"asked": short(asked), **turn["trace"]})
        events = [] if self._user is None else self._agent.events(self._user["id"], _LEDGER_SHOWN)
        self._behind = {"traces": traces[::-1][:10], "events": [self._ledger_line(event) for event in events]}

    # -- helpers ------------------------------------------------------------------------------

    def _tell(self, exc: Exception) -> None:
        if not isinstance(exc, WhyfeedError):
            _LOG.warning("the page cannot do what it was asked: %s", exc)
        self.say(str(exc))

    def _user_id(self) -> str:
        if self._user is None:
            raise ValueError("choose a reader first")
        return str(self._user["id"])

    def _refresh(self) -> None:
        user = self._user_id()
        self._marks = {}
        for event in self._agent.events(user, EVENTS_READ):
            if event.kind in _MARKS:
                self._marks.setdefault(event.post, {})[event.kind] = event.id
        self._profile = self._believed()
        self._conversations = [
            {"id": id, "title": short(words, 60), "time": moment(time)}
            for id, words, time in self._agent.conversations(user)
            if words
        ]

    def _believed(self) -> dict[str, Any]:
        profile = self._agent.profile(self._user_id())
        largest = max((interest.weight for interest in profile.interests), default=0) or 1
        return {
            "events": profile.events,
            "interests": [
                {
                    "label": short(interest.label, 80),
                    "share": round(interest.weight / largest, 3),
                    "posts": [link(post) for post in interest.posts[:4]],
                }
                for interest in profile.interests[:8]
            ],
            "rules": [
                {"id": rule.id, "kind": rule.kind, "topic": short(rule.topic, 60), "active": rule.active}
                for rule in profile.rules
            ],
            "hidden": [
                {**link(post), "event": self._marks.get(post.id, {}).get("hide", "")} for post in profile.hidden[:50]
            ],
        }

    def _ledger_line(self, event: Event) -> dict[str, Any]:
        try:
            about = short(self._agent.post(event.post).label if event.post else said(event), 90)
        except WhyfeedError:
            about = event.post
        return {"id": event.id, "kind": event.kind, "time": moment(event.time), "about": about}


def _echo(text: str) -> str:
    return text if len(text) <= _ECHO else text[:_ECHO].rstrip() + "…"


def _member(member: Any) -> dict[str, Any]:
    communities: Sequence[str] = member.communities
    return {
        "id": member.id,
        "name": short(member.name or member.id, 60),
        "events": member.events,
        "communities": [short(each, 40) for each in communities][:3],
    }


def _mixed(members: Sequence[Member]) -> list[Member]:
    """Members of every community in turns, the most active of each first."""
    by_community: dict[str, list[Member]] = {}
    for member in members:
        by_community.setdefault(member.communities[0] if member.communities else "", []).append(member)
    turns = zip_longest(*by_community.values())
    return [member for turn in turns for member in turn if member is not None][:_MEMBERS_SHOWN]
