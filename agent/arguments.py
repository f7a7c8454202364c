"""Arguments of the operations and of the planner's tools, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from whyfeed.retrieval.clock import parse_time

Id = Annotated[str, StringConstraints(min_length=1, max_length=200)]
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

    user: Id = Field(description="The user's id.")


class Recommend(OfUser):
    """Arguments of `recommend`."""

    k: int = Field(5, ge=1, le=50, description="How many posts.")
    query: Words | None = Field(None, description="What the posts should be about, in words.")
    kinds: list[Kind] = Field(default_factory=list, max_length=8, description="Only these kinds of thing.")
    language: Literal["en", "zh"] | None = Field(None, description="Language of the reasons.")
    as_of: Moment | None = Field(None, description="Answer as of this moment: ISO 8601 or Unix seconds.")
    llm: bool = Field(True, description="Let the language model write what is not written yet; false: quotes serve.")


class Search(Arguments):
    """Arguments of `search`."""

    query: Annotated[str, StringConstraints(min_length=1, max_length=2000)] = Field(description="Words to look for.")
    k: int = Field(5, ge=1, le=50, description="How many posts.")
    kinds: list[Kind] = Field(default_factory=list, max_length=8, description="Only these kinds of thing.")


class OfPost(OfUser):
    """Arguments of `explain` and `why_not`."""

    post: Id = Field(description="The post's id.")
    language: Literal["en", "zh"] | None = Field(None, description="Language of the explanation.")


class Feedback(OfUser):
    """Arguments of `feedback`."""

    post: Id = Field(description="The post's id.")
    kind: Act = Field(description="What the user did with it.")


class Steer(OfUser):
    """Arguments of `steer`."""

    topic: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(description="The topic, in words.")
    direction: Literal["more", "less"] = Field(description="See more of it, or none of it.")
    horizon: Literal["day", "week", "month", "always"] = Field("always", description="For how long.")


class Forget(OfUser):
    """Arguments of `forget`."""

    event: Id = Field(description="The event's id, as `events` and `feedback` give it.")


class Events(OfUser):
    """Arguments of `events`."""

    limit: int = Field(100, ge=1, le=1000, description="How many, the newest first.")


class Turn(BaseModel):
    """One turn of a customer's conversation, as in conversations.jsonl."""

    model_config = ConfigDict(extra="allow")

    role: Literal["customer", "agent", "knowledge"] = Field(description="Who speaks; knowledge is a look-up.")
    text: Annotated[str, StringConstraints(max_length=20_000)] = Field("", description="What was said.")


class SuggestReply(Arguments):
    """Arguments of `suggest_reply`."""

    turns: list[Turn] = Field(default_factory=list, max_length=500, description="The conversation, oldest turn first.")
    conversation: Id | None = Field(None, description="In place of turns: the id of a conversation of the desk.")
    k: int = Field(3, ge=1, le=10, description="How many suggestions.")
    draft: Words = Field("", description="What the agent has typed so far.")
    wish: Words = Field("", description="What the agent asks for in words: shorter, in Chinese, offer a replacement.")
    llm: bool = Field(True, description="Let the language model add a draft of its own.")


class Nobody(Arguments):
    """No arguments."""
