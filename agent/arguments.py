"""Arguments of the operations and of the planner's tools, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from whyfeed.retrieval.clock import parse_time
from whyfeed.retrieval.errors import ReservedUser
from whyfeed.retrieval.post import clean_text
from whyfeed.retrieval.user import is_reserved


def sound_id(id: Any) -> Any:
    """What is given as an id. ValueError for a string with characters that no id has."""
    if isinstance(id, str) and clean_text(f"x{id}x") != f"x{id}x":
        raise ValueError(f"{id!a} has a control character or a lone surrogate, which no id has")
    return id


def sound_user(id: str) -> str:
    """The id of a user. ValueError for an id that no user can have."""
    if is_reserved(id):
        raise ValueError(str(ReservedUser(id)))
    return id


Id = Annotated[str, StringConstraints(min_length=1, max_length=200), BeforeValidator(sound_id)]
UserId = Annotated[Id, AfterValidator(sound_user)]
Words = Annotated[str, StringConstraints(max_length=2000)]
Moment = Annotated[
    float,
    BeforeValidator(parse_time),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}]}),
]
Kind = Literal["post", "article", "video", "product", "artist", "person", "group", "ad"]
Act = Literal["like", "dislike", "hide", "save", "open", "click", "share", "buy", "listen", "read", "view"]


class Arguments(BaseModel):
    """Base of all arguments: unknown fields are rejected, and types are strict ("5" is not a number)."""

    model_config = ConfigDict(extra="forbid", strict=True)


class OfUser(Arguments):
    """Arguments of an operation on one user's own data."""

    user: UserId = Field(description="Id of the user.")


class Recommend(OfUser):
    """Arguments of `recommend`."""

    k: int = Field(5, ge=1, le=50, description="Number of posts.")
    query: Words | None = Field(None, description="Topic of the posts, in words.")
    kinds: list[Kind] = Field(default_factory=list, max_length=8, description="Only posts of these kinds.")
    language: Literal["en", "zh"] | None = Field(None, description="Language of the reasons.")
    as_of: Moment | None = Field(None, description="Answer as of this time: ISO 8601 or Unix seconds.")
    llm: bool = Field(True, description="Let the language model write missing clauses; false: quote the post.")


class Search(Arguments):
    """Arguments of `search`."""

    query: Annotated[str, StringConstraints(min_length=1, max_length=2000)] = Field(description="Search query.")
    k: int = Field(5, ge=1, le=50, description="Number of posts.")
    kinds: list[Kind] = Field(default_factory=list, max_length=8, description="Only posts of these kinds.")


class OfPost(OfUser):
    """Arguments of `explain` and `why_not`."""

    post: Id = Field(description="Id of the post.")
    language: Literal["en", "zh"] | None = Field(None, description="Language of the explanation.")


class Feedback(OfUser):
    """Arguments of `feedback`."""

    post: Id = Field(description="Id of the post.")
    kind: Act = Field(description="What the user did with the post.")


class Steer(OfUser):
    """Arguments of `steer`."""

    topic: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(description="The topic, in words.")
    direction: Literal["more", "less"] = Field(description="More: show more of it; less: show none of it.")
    horizon: Literal["day", "week", "month", "always"] = Field("always", description="How long the rule holds.")


class Forget(OfUser):
    """Arguments of `forget`."""

    event: Id = Field(description="Id of the event, from `events` or `feedback`.")


class Events(OfUser):
    """Arguments of `events`."""

    limit: int = Field(100, ge=1, le=1000, description="Largest number of events, newest first.")


class Turn(BaseModel):
    """One turn of a customer's conversation, as in conversations.jsonl."""

    model_config = ConfigDict(extra="allow")

    role: Literal["customer", "agent", "knowledge"] = Field(description="Who speaks; knowledge is a look-up.")
    text: Annotated[str, StringConstraints(max_length=20_000)] = Field("", description="What was said.")


class SuggestReply(Arguments):
    """Arguments of `suggest_reply`."""

    turns: list[Turn] = Field(default_factory=list, max_length=500, description="The conversation, oldest turn first.")
    conversation: Id | None = Field(None, description="Instead of turns: id of a conversation of the desk.")
    k: int = Field(3, ge=1, le=10, description="Largest number of suggestions.")
    draft: Words = Field("", description="The operator's draft so far.")
    wish: Words = Field("", description="What the operator asks for: shorter, in Chinese, offer a replacement.")
    llm: bool = Field(True, description="Let the language model add a draft.")


class NoArguments(Arguments):
    """No arguments."""
