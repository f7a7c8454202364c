"""What the browser sends to the page: one model for each action, told apart by the field `do`.

Every message may also say where its tab is (`here`) and what it has drawn (`seen`). `read` and `read_desk` raise
BadMessage with one line for everything else, so that a handler only ever sees a complete message.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter
from pydantic import ValidationError as Invalid

from whyfeed.agent.arguments import Act, sound_id
from whyfeed.agent.desk.actions import Decision
from whyfeed.retrieval.post import MAX_TEXT

T = TypeVar("T")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _without_surrogates(value: Any) -> Any:
    return _LONE_SURROGATE.sub(" ", value) if isinstance(value, str) else value


Id = Annotated[str, StringConstraints(min_length=1, max_length=1000), BeforeValidator(sound_id)]
Text = Annotated[str, BeforeValidator(_without_surrogates), StringConstraints(max_length=2 * MAX_TEXT)]
Topic = Annotated[Text, AfterValidator(lambda text: text[:200])]
Name = Annotated[Text, AfterValidator(lambda text: text[:80])]


class BadMessage(ValueError):
    """A message that is none of those below; the text is one line."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Here(_Model):
    """Where a tab is: its language, who reads, and which conversation is open."""

    language: Id | None = None
    user: Text | None = None
    conversation: Text | None = None


class Seen(_Model):
    """What a tab has drawn last."""

    session: Id
    version: int = Field(ge=0)


class Message(_Model):
    """Base of all messages."""

    here: Here = Here()
    seen: Seen | None = None


# ---- the user's half ----


class Start(Message):
    """The tab was opened; the first message of each session. Later ones do nothing."""

    do: Literal["start"]


class SetLanguage(Message):
    """Show the page in this language."""

    do: Literal["language"]
    language: Id


class FindMembers(Message):
    """List members whose names contain the text; some of every community without one."""

    do: Literal["members"]
    text: Topic = ""


class Choose(Message):
    """Read as this member."""

    do: Literal["choose"]
    user: Id


class Newcomer(Message):
    """Read as somebody new who has these interests."""

    do: Literal["newcomer"]
    interests: list[Topic] = Field(max_length=100)
    name: Name = ""


class OpenConversation(Message):
    """Open one of the user's conversations; a new one without an id."""

    do: Literal["talk"]
    conversation: Text | None = None


class Feedback(Message):
    """The user did something with a post."""

    do: Literal["feedback"]
    post: Id
    kind: Act


class Forget(Message):
    """Delete an event of the user."""

    do: Literal["forget"]
    event: Id


class SwitchRule(Message):
    """Switch a rule of the user on or off."""

    do: Literal["rule"]
    rule: Id
    active: bool


class Explain(Message):
    """Explain why a post was shown."""

    do: Literal["why"]
    post: Id


class LookBehind(Message):
    """Show traces, models and the ledger."""

    do: Literal["behind"]


class Ask(Message):
    """What the user wrote. It comes as an event of its own, without `do`."""

    text: Text


# ---- the desk ----


class ListWaiting(Message):
    """List who waits, and open `talk` again where the server has been restarted."""

    do: Literal["list"]
    talk: Text = ""


class OpenTalk(Message):
    """Open a conversation; `draft` is what the operator has typed in it."""

    do: Literal["open"]
    talk: Id
    draft: Text = ""


class Wish(Message):
    """Look for suggestions as the operator wants them."""

    do: Literal["wish"]
    talk: Id
    wanted: Text = ""
    draft: Text = ""


class Refuse(Message):
    """The operator does not want this suggestion."""

    do: Literal["refuse"]
    talk: Id
    suggestion: Id


class Send(Message):
    """Send the operator's text; `suggestion` is the id of the one that it began with."""

    do: Literal["send"]
    talk: Id
    text: Text
    suggestion: Text = ""


class Receive(Message):
    """Write as the customer, to try the desk out."""

    do: Literal["receive"]
    talk: Id
    text: Text


class CloseTalk(Message):
    """The conversation is over."""

    do: Literal["close"]
    talk: Id


class RevealChip(Message):
    """Show the personal value behind a chip."""

    do: Literal["chip"]
    talk: Id
    chip: Id


class Decide(Message):
    """Carry out what the operator decided about a proposed action; `arguments` are those of an edit."""

    do: Literal["decide"]
    talk: Id
    action: Id
    decision: Decision
    arguments: dict[Id, Text] = Field(default_factory=dict, max_length=50)


PageMessage = (
    Start
    | SetLanguage
    | FindMembers
    | Choose
    | Newcomer
    | OpenConversation
    | Feedback
    | Forget
    | SwitchRule
    | Explain
    | LookBehind
)
DeskMessage = ListWaiting | OpenTalk | Wish | Refuse | Send | Receive | CloseTalk | RevealChip | Decide
_PAGE: TypeAdapter[PageMessage] = TypeAdapter(Annotated[PageMessage, Field(discriminator="do")])
_DESK: TypeAdapter[DeskMessage] = TypeAdapter(Annotated[DeskMessage, Field(discriminator="do")])
_ASK = TypeAdapter(Ask)
_SEEN = TypeAdapter(Seen)


def read(data: object) -> PageMessage:
    """The user's message in decoded JSON. Raises BadMessage."""
    return _validated(_PAGE, data)


def read_desk(data: object) -> DeskMessage:
    """The operator's message in decoded JSON. Raises BadMessage."""
    return _validated(_DESK, data)


def read_ask(data: object) -> Ask:
    """What the user wrote, in decoded JSON. Raises BadMessage."""
    return _validated(_ASK, data)


def read_seen(data: object) -> Seen | None:
    """What a tab has drawn; None, so that it gets everything, where the data do not say so."""
    try:
        return _SEEN.validate_python(data)
    except Invalid:
        return None


def _validated(adapter: TypeAdapter[T], data: object) -> T:
    try:
        return adapter.validate_python(data)
    except Invalid as exc:
        first = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        line = ": ".join(str(part) for part in (*first["loc"], first["msg"]))
        line = " ".join(line.encode(errors="backslashreplace").decode().split())
        raise BadMessage(f"the page sent something unknown ({line[:200]})") from None
