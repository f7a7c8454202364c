"""What the page shows, as the browser gets it in JSON: the larger parts of `Session.view`."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Card = dict[str, Any]  # of a post or of a suggested reply


class Notice(TypedDict):
    """One line; `number` tells a new one from the same line before."""

    text: str
    number: int


class Turn(TypedDict):
    """One turn of the user's conversation. `role` "agent" is whyfeed; its trace is not sent."""

    role: Literal["user", "agent"]
    text: str
    state: NotRequired[Literal["running", "done", "stopped", "failed"]]
    stage: NotRequired[str]
    error: NotRequired[str]
    intent: NotRequired[str]
    items: NotRequired[list[Card]]
    receipt: NotRequired[dict[str, Any]]
    trace: NotRequired[dict[str, Any]]


class Help(TypedDict):
    """What the desk suggests in the open conversation; `error` where it failed."""

    state: Literal["idle", "loading", "drafting", "ready", "failed"]
    cards: list[Card]
    posts: list[dict[str, Any]]
    handover: dict[str, Any] | None
    wanted: str
    error: NotRequired[str]


class Draft(TypedDict):
    """The writer's draft: unchecked `text` while it is written, then a `card`."""

    state: Literal["none", "writing", "done", "dropped", "refused"]
    text: NotRequired[str]
    card: NotRequired[Card]


How = Literal["own", "same", "edit"]  # the operator's own words, a suggestion unchanged or edited


class Sent(TypedDict):
    """The answer that was sent last. `values`: how many chips were replaced by their values."""

    number: int
    talk: str
    how: How
    of: list[Any]
    values: int
