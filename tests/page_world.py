"""A small community with an agent that needs no model: what the page is developed and tested against.

It implements the methods of `Agent` that the page uses, over thirty posts, and obeys: what was hidden
and what shares its topic stays away.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from whyfeed.agent.answer import (
    Answer,
    ChatEvent,
    Claim,
    Evidence,
    Explanation,
    Interest,
    Item,
    ItemsReady,
    Profile,
    Reason,
    ReasonReady,
    Receipt,
    Rule,
)
from whyfeed.agent.answer import StageStarted as Started
from whyfeed.agent.request import Request
from whyfeed.agent.trace import Trace
from whyfeed.retrieval.errors import DataError, UnknownPost, UnknownUser
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.store.conversations import Turn
from whyfeed.retrieval.user import User

_TOPICS = {
    "error-correction": (
        "quantumcomputing",
        "How many physical qubits does one logical qubit of the surface code need?",
    ),
    "decoherence": ("quantumcomputing", "Why do transmon qubits lose their phase faster than their energy?"),
    "grover": ("quantumcomputing", "Is there any useful oracle for Grover's algorithm outside of textbooks?"),
    "stout": ("alcohol", "What makes an oatmeal stout smoother than a dry one?"),
    "whisky": ("alcohol", "Does a second cask change a whisky within one year?"),
    "homebrewing": ("alcohol", "Can I pitch dry yeast without rehydrating it first?"),
}
_MORE = (
    "{}",
    "{} A question from practice",
    "Measured twice, still unsure: {}",
    "{} (with numbers this time)",
    "An old answer, looked at again: {}",
)
HOSTILE = (
    "<script>window.pwned=1</script> <img src=x onerror=window.pwned=1>",
    "${window.pwned=1} `${window.pwned=1}` \\x3cimg src\\x3dx onerror\\x3dwindow.pwned\\x3d1\\x3e",
    "{{constructor.constructor 'window.pwned=1'}} </template></textarea><svg onload=window.pwned=1>",
)


@dataclass(frozen=True)
class Member:
    """One line of the chooser."""

    id: str
    name: str
    events: int
    communities: tuple[str, ...]


def make_posts(hostile: bool = False) -> dict[str, Post]:
    """Thirty posts on six topics; with `hostile`, three of them have titles that try to run."""
    posts = {}
    for place, (topic, (community, title)) in enumerate(_TOPICS.items()):
        for number, shape in enumerate(_MORE):
            id = f"{community}:{place * 10 + number}"
            posts[id] = Post(
                id=id,
                title=shape.format(title),
                text=f"I have read about {topic} for a while. Most sources give a rule of thumb and no numbers. "
                "Has anybody measured it, and under which conditions does the rule break?",
                url=f"https://example.org/q/{id}",
                author="m2" if number % 2 else "somebody-else",
                community=community,
                tags=(topic, "practice"),
                created_at=1_520_000_000.0 + 4_000_000 * number + 86_400 * place,
            )
    if hostile:
        for number, title in enumerate(HOSTILE):
            id = f"hostile:{number}"
            posts[id] = Post(
                id=id,
                title=title,
                text=title,
                url="javascript:window.pwned=1",
                author=title,
                community=title,
                tags=("hostile",),
            )
    return posts


@dataclass
class World:
    """The stand-in agent. `pause` is how long a stage takes, in seconds."""

    pause: float = 0.05
    hostile: bool = False
    writer: dict[str, object] = field(
        default_factory=lambda: {"name": "qwen2.5-coder-1.5b", "state": "ready", "done": 0, "total": 0}
    )
    broken: bool = False

    def __post_init__(self) -> None:
        self._posts = make_posts(self.hostile)
        self._users = {
            f"m{n}": User(f"m{n}", name)
            for n, name in enumerate(("Ada L.", "Squeamish Ossifrage", "林雨", "Tom", "Vera"))
        }
        self._ids = itertools.count(1)
        self._events: list[Event] = []
        self._talks: dict[str, tuple[str, list[Turn]]] = {}
        self._lock = threading.RLock()
        for number, user in enumerate(self._users):
            for post in list(self._posts)[number * 3 : number * 3 + 5 + 2 * (number == 0)]:
                self._note(user, post, "answer" if number % 2 == 0 else "ask")

    def _note(self, user: str, post: str, kind: str, text: str = "") -> Event:
        with self._lock:
            event = Event(f"e{next(self._ids)}", user, post, kind, time=1_530_000_000.0, text=text)
            self._events.append(event)
        return event

    def members(self, text: str = "", limit: int = 50) -> list[Member]:
        found = [
            Member(
                user.id,
                user.name,
                len(self.events(user.id, 99)),
                tuple({self._posts[e.post].community for e in self.events(user.id, 99) if e.post}),
            )
            for user in self._users.values()
            if text.lower() in user.label.lower()
        ]
        return sorted(found, key=lambda member: -member.events)[:limit]

    def newcomer(self, interests: Sequence[str], name: str = "") -> str:
        if not interests:
            raise ValueError("name at least one interest")
        user = User(f"new{next(self._ids)}", name or "Somebody new")
        self._users[user.id] = user
        for interest in interests:
            self._note(user.id, "", "interest", interest)
        return user.id

    def topics(self, limit: int = 24, community: str | None = None) -> list[str]:
        return list(_TOPICS)[:limit]

    def user(self, id: str) -> User:
        if id not in self._users:
            raise UnknownUser(id)
        return self._users[id]

    def post(self, id: str) -> Post:
        if id not in self._posts:
            raise UnknownPost(id)
        return self._posts[id]

    def events(self, user: str, limit: int = 100) -> list[Event]:
        return [event for event in self._events[::-1] if event.user == user][:limit]

    def _topics_of(self, user: str) -> dict[str, list[Post]]:
        found: dict[str, list[Post]] = {}
        for event in self.events(user, 999):
            if event.kind == "interest":
                found.setdefault(event.text, [])
            elif event.weight > 0:
                found.setdefault(self._posts[event.post].tags[0], []).append(self._posts[event.post])
        return found

    def _rules(self, user: str) -> list[Rule]:
        events = self.events(user, 999)[::-1]
        off = {e.text: e.kind == "rule-off" for e in events if e.kind in ("rule-off", "rule-on")}
        return [
            Rule(e.id, e.kind, e.text, not off.get(e.id, False)) for e in events if e.kind in ("include", "exclude")
        ]

    def _hidden(self, user: str) -> list[Post]:
        return [self._posts[e.post] for e in self.events(user, 999) if e.kind == "hide"]

    def profile(self, user: str) -> Profile:
        topics = self._topics_of(user)
        total = sum(len(posts) or 1 for posts in topics.values()) or 1
        interests = tuple(
            Interest(topic.replace("-", " "), (len(posts) or 1) / total, tuple(posts))
            for topic, posts in sorted(topics.items(), key=lambda pair: -len(pair[1]))
        )
        return Profile(
            user,
            self.user(user).label,
            interests,
            tuple(self._rules(user)),
            tuple(self._hidden(user)),
            len(self.events(user, 999)),
        )

    def feedback(self, user: str, post: str, kind: str) -> Event:
        self.post(post)
        return self._note(user, post, kind)

    def set_rule(self, user: str, rule_id: str, active: bool) -> None:
        self._note(user, "", "rule-on" if active else "rule-off", rule_id)

    def forget(self, user: str, event_id: str) -> None:
        with self._lock:
            self._events = [e for e in self._events if not (e.user == user and e.id == event_id)]

    def conversations(self, user: str) -> list[tuple[str, str, float]]:
        return [
            (id, turns[0].text if turns else "", 1_530_000_000.0)
            for id, (who, turns) in self._talks.items()
            if who == user
        ][::-1]

    def turns(self, conversation: str) -> list[Turn]:
        return list(self._talks[conversation][1])

    def status(self) -> dict[str, object]:
        ready = {"state": "ready", "done": 0, "total": 0}
        return {
            "writer": dict(self.writer),
            "ranker": {"name": "hand-set weights", **ready},
            "embedder": {"name": "USE-multilingual v3", **ready},
            "posts": len(self._posts),
            "users": len(self._users),
        }

    def warm(self, user: str) -> None:
        self.user(user)

    def why(self, user: str, post: str) -> Explanation:
        return Explanation(
            user,
            self.post(post),
            True,
            1,
            "It is close to what you answered, and readers of those posts went on to this one.",
            0.8,
            ("interest", "cooccurrence"),
            {"interest": 0.42, "cooccurrence": 0.21, "fresh": 0.08, "popular": 0.05, "disliked": -0.06},
            would_change="Without your answer on decoherence: 14th. A rule against the topic keeps it out.",
        )

    def _reason(self, user: str, post: Post, final: bool) -> Reason:
        mine = [e for e in self.events(user, 999) if e.weight > 0 and e.post]
        same = [e for e in mine if self._posts[e.post].tags[0] == post.tags[0]] or mine
        claims, text = [], ""
        if same:
            said = (
                f"You wrote about “{same[0].post and self._posts[same[0].post].label[:48]}…”, also on {post.tags[0]}."
            )
            claims.append(Claim(said[:-1], (Evidence("event", same[0].id, same[0].post),)))
            text = said + " "
        start = post.text.find("Has anybody") if "Has anybody" in post.text else 0
        half = "This one asks for measured numbers and for where the rule of thumb breaks" if final else post.text[:40]
        claims.append(Claim(half, (Evidence("span", post=post.id, start=start, end=len(post.text)),)))
        return Reason(text + half + ".", "en", "llm" if final else "extract", tuple(claims))

    def chat(
        self, user: str, text: str, conversation: str | None = None, *, cancel: threading.Event | None = None
    ) -> Iterator[ChatEvent]:
        self.user(user)
        if conversation is None:
            conversation = f"c{next(self._ids)}"
            self._talks[conversation] = (user, [])
        owner, turns = self._talks[conversation]
        if owner != user:
            raise DataError("not your conversation")
        turns.append(Turn("user", text, None, 0.0))
        trace = Trace(request={"intent": "recommend", "query": None}, models={"writer": "stand-in"})
        for stage in ("understand", "retrieve", "rank", "select"):
            yield Started(stage)
            with trace.stage(stage, 30) as record:
                time.sleep(self.pause)
                record.left = 20
            if self.broken:
                raise DataError("the stand-in was told to fail; try again")
        if text.startswith("less "):
            self._note(user, "", "exclude", text[5:])
        acted = {e.post for e in self.events(user, 999)}
        away = {post.tags[0] for post in self._hidden(user)} | {
            r.topic for r in self._rules(user) if r.kind == "exclude" and r.active
        }
        liked = self._topics_of(user)
        order = sorted(
            (p for p in self._posts.values() if p.id not in acted and p.tags[0] not in away),
            key=lambda p: (p.tags[0] != "hostile", p.tags[0] not in liked, p.id),
        )
        first = next((p for p in order), None)
        items = tuple(
            Item(
                p,
                rank,
                1 / rank,
                None,
                {"interest": 0.5},
                {"interest": 0.5},
                ("interest",),
                self._reason(user, p, False),
            )
            for rank, p in enumerate(order[:5], 1)
        )
        words = (
            "Five posts that should be worth your evening; the first two follow what you wrote last." if first else ""
        )
        yield ItemsReady(words, items, tuple(item.post.id for item in items))
        yield Started("explain")
        final = {}
        for item in items:
            if cancel is not None and cancel.is_set():
                break
            time.sleep(self.pause)
            final[item.post.id] = self._reason(user, item.post, True)
            yield ReasonReady(item.post.id, final[item.post.id])
        done = tuple(
            Item(i.post, i.rank, i.score, None, i.signals, i.contributions, i.sources, final.get(i.post.id, i.reason))
            for i in items
        )
        receipt = Receipt((text[5:],), ("p",), ("q", "r")) if text.startswith("less ") else Receipt()
        answer = Answer(user, words, done, Request(), trace, receipt, conversation)
        turns.append(Turn("agent", words, answer.to_chat_json(), 0.0))
        yield answer


if __name__ == "__main__":
    import sys

    from whyfeed.ui.page.page import serve

    serve(
        World(pause=0.6, hostile="hostile" in sys.argv),  # type: ignore[arg-type]
        port=7999,
        on_ready=print,
    )
