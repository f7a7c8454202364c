"""The tools of a model that plans turns (`agent.chat.planner`): one for each thing that a user can ask for.

A tool call becomes the same `Request` that the understander makes from words, and the dialogue carries it out. A model
never writes ids: it names posts by their numbers in the last list. A topic to steer by or to forget must stand in the
user's own message, so that the text of a post can cause neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError

from whyfeed.agent.arguments import Arguments, Kind, NoArguments, Words
from whyfeed.agent.request import Horizon, Intent, Request
from whyfeed.agent.understanding.references import Context
from whyfeed.retrieval.language import Language

Numbers = list[int]
_POSTS = "Numbers of posts in the last list, from 1."
Topics = list[str]


class Listed(Arguments):
    """Arguments of `recommend`."""

    about: Words | None = Field(None, description="What the posts should be about, in the reader's words; else null.")
    without: Topics = Field(default_factory=list, max_length=4, description="Topics to leave out this time.")
    kinds: list[Kind] = Field(default_factory=list, max_length=8, description="Only these kinds of thing.")
    count: int | None = Field(None, ge=1, le=20, description="How many posts, if the reader says.")
    others: bool = Field(False, description="Only posts that were not shown in this conversation yet.")


class Steered(Arguments):
    """Arguments of `steer`."""

    more: Topics = Field(default_factory=list, max_length=4, description="Topics to see more of.")
    less: Topics = Field(default_factory=list, max_length=4, description="Topics to see none of.")
    horizon: Horizon = Field("always", description="For how long; session: while this conversation lasts.")


class Judged(Arguments):
    """Arguments of `rate`."""

    posts: Numbers = Field(min_length=1, max_length=10, description=_POSTS)
    verdict: Literal["more_like", "less_like", "hide"] = Field(description="What the reader thinks of them.")


class Pointed(Arguments):
    """Arguments of `why`, `compare` and `summarise`."""

    posts: Numbers = Field(default_factory=list, max_length=10, description=_POSTS)


class Absent(Arguments):
    """Arguments of `why_not`."""

    title: Words = Field(description="Title or topic of the post that is not in the list.")


class Forgotten(Arguments):
    """Arguments of `forget`."""

    topic: str = Field("", max_length=200, description="A topic; everything about it is forgotten.")
    posts: Numbers = Field(default_factory=list, max_length=10, description=_POSTS)


class About(Arguments):
    """Arguments of `people` and `groups`."""

    topic: str = Field("", max_length=200, description="A topic, if the reader names one.")


TURNS: Mapping[str, tuple[type[Arguments], str]] = {
    "recommend": (Listed, "List posts for the reader, or about something, or others than before."),
    "steer": (Steered, "From now on show more of a topic, or none of it; lists posts anew."),
    "rate": (Judged, "The reader wants more or less of the kind of a post, or never to see it; lists posts anew."),
    "why": (Pointed, "Explain why posts were shown."),
    "why_not": (Absent, "Explain why a post is not in the list."),
    "compare": (Pointed, "Compare two posts of the list."),
    "summarise": (Pointed, "Say what posts of the list say."),
    "profile": (NoArguments, "Tell the reader what is believed about them."),
    "undo": (NoArguments, "Take back what the reader did last."),
    "forget": (Forgotten, "Delete what the reader did with posts, or with everything about a topic."),
    "people": (About, "Name people who write about what the reader likes."),
    "groups": (About, "Name communities that fit the reader."),
}


def request_of(name: str, given: Mapping[str, Any], text: str, context: Context, language: Language) -> Request:
    """The request of a tool call. ValueError, in one line for the model, where the call is not valid."""
    if name not in TURNS:
        raise ValueError(f"there is no tool {name!r}; there are {', '.join(TURNS)}")
    try:
        asked: Any = TURNS[name][0].model_validate(given)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        raise ValueError(f"{name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    posts = _posts(asked.posts, context) if hasattr(asked, "posts") else ()
    said = dict[str, Any](language=language, by="agent", posts=posts)
    if isinstance(asked, Listed):
        query = (asked.about or "").strip() or None
        intent: Intent = "search" if query else "recommend"
        without = _spoken(asked.without, text)
        horizon: Horizon = "now" if without else "always"
        return Request(
            intent, query, exclude=without, horizon=horizon, kinds=tuple(asked.kinds), k=asked.count,
            others=asked.others, **said,
        )  # fmt: skip
    if isinstance(asked, Steered):
        more, less = _spoken(asked.more, text), _spoken(asked.less, text)
        if not more and not less:
            raise ValueError("steer: name a topic to see more or less of")
        return Request(
            "less_like" if less else "more_like", include=more, exclude=less, horizon=asked.horizon, **said
        )  # fmt: skip
    if isinstance(asked, Judged):
        return Request(asked.verdict, **said)
    if isinstance(asked, Absent):
        return Request("why_not", asked.title, **said)
    if isinstance(asked, Forgotten | About):
        topics = _spoken([asked.topic] if asked.topic.strip() else [], text)
        return Request(name, topics[0] if topics else None, **said)  # type: ignore[arg-type]
    return Request(name, **said)  # type: ignore[arg-type]


def _posts(numbers: Sequence[int], context: Context) -> tuple[str, ...]:
    for number in numbers:
        if not 1 <= number <= len(context.shown):
            raise ValueError(f"there is no post number {number}; the last list has {len(context.shown)}")
    return tuple(dict.fromkeys(context.shown[number - 1] for number in numbers))


def _spoken(topics: Sequence[str], text: str) -> tuple[str, ...]:
    """The topics, which must stand in the user's message."""
    found = tuple(dict.fromkeys(topic for raw in topics if (topic := " ".join(raw.split()))))
    for topic in found:
        if topic.casefold() not in " ".join(text.casefold().split()):
            raise ValueError(f"the reader did not say {topic!r}; use their own words")
    return found
