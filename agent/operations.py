"""What whyfeed does for others, once each: HTTP routes, MCP tools and LangChain tools are made of this table.

An operation has a name, a description, a model of its arguments, and the scope that a caller needs. Its answer is a
JSON document, the same in every place. Nothing that serves it may add to what it does.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from whyfeed.agent.arguments import (
    Arguments,
    Events,
    Feedback,
    Forget,
    Nobody,
    OfPost,
    OfUser,
    Recommend,
    Search,
    Steer,
    SuggestReply,
)

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent

Scope = Literal["read", "feedback", "desk", "admin"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `run` takes an agent and checked arguments, and answers a JSON document.

    `tool`: fit for a language model to call. `writes`: it changes what is known, beyond the trace of an answer.
    """

    name: str
    scope: Scope
    arguments: type[Arguments]
    run: Callable[[Agent, Any], dict[str, Any]]
    tool: bool = False
    writes: bool = False

    @property
    def description(self) -> str:
        """What it does, for whoever may call it."""
        return " ".join((self.run.__doc__ or "").split())

    def check(self, arguments: Mapping[str, Any]) -> Any:
        """The arguments as their model; ValueError names the first that is wrong."""
        try:
            return self.arguments.model_validate(arguments)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            where = " ".join(".".join(str(part) for part in first["loc"]).split())[:100] or "arguments"
            raise ValueError(f"{self.name}: {where}: {first['msg']}") from None

    def call(self, agent: Agent, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Check the arguments, then run."""
        return self.run(agent, self.check(arguments))


def recommend(agent: Agent, asked: Recommend) -> dict[str, Any]:
    """The best posts for a user, each with a reason whose claims can be checked."""
    answer = agent.recommend(
        asked.user, asked.k, asked.query, asked.kinds, language=asked.language, as_of=asked.as_of,
        write=asked.llm,
    )  # fmt: skip
    return answer.to_json()


def search(agent: Agent, asked: Search) -> dict[str, Any]:
    """Posts about something, the most relevant first, whoever asks; `recommend` with a query knows the user too."""
    return {
        "query": asked.query,
        "posts": [found.to_json() for found in agent.search(asked.query, asked.k, asked.kinds)],
    }


def explain(agent: Agent, asked: OfPost) -> dict[str, Any]:
    """Why a post was shown to a user: where it came from, what counted how much, what would keep it out."""
    return agent.why(asked.user, asked.post, asked.language).to_json()


def why_not(agent: Agent, asked: OfPost) -> dict[str, Any]:
    """Why a post is not in a user's list, and what would bring it in."""
    return agent.why_not(asked.user, asked.post, asked.language).to_json()


def profile(agent: Agent, asked: OfUser) -> dict[str, Any]:
    """What whyfeed believes about a user: interests with the posts they come from, rules, what is hidden."""
    return agent.profile(asked.user).to_json()


def events(agent: Agent, asked: Events) -> dict[str, Any]:
    """A user's latest events in the ledger, the newest first, with the ids that `forget` takes."""
    found = agent.events(asked.user, asked.limit)
    return {"user": asked.user, "events": [{"id": event.id, **event.to_row()} for event in found]}


def feedback(agent: Agent, asked: Feedback) -> dict[str, Any]:
    """Write what a user did with a post into the ledger; the very next list obeys."""
    event = agent.feedback(asked.user, asked.post, asked.kind)
    return {"id": event.id, **event.to_row()}


def steer(agent: Agent, asked: Steer) -> dict[str, Any]:
    """See more of a topic, or none of it, from the next list on."""
    event = agent.steer(asked.user, asked.topic, asked.direction, asked.horizon)
    return {"id": event.id, "user": asked.user, "topic": asked.topic, "direction": asked.direction,
            "horizon": asked.horizon, "posts": agent.about(asked.topic)}  # fmt: skip


def forget(agent: Agent, asked: Forget) -> dict[str, Any]:
    """Delete one event of a user; everything is then as if it had never happened."""
    agent.forget(asked.user, asked.event)
    return {"user": asked.user, "forgotten": asked.event}


def export(agent: Agent, asked: OfUser) -> dict[str, Any]:
    """Everything that is kept about a user, as the rows of the exchange format's files."""
    with tempfile.TemporaryDirectory(prefix="whyfeed-export-") as folder:
        out = agent.export(asked.user, Path(folder) / "export")
        files = {path.name: list(_rows(path)) for path in sorted(out.glob("*.jsonl"))}
    return {"user": asked.user, "files": files}


def erase(agent: Agent, asked: OfUser) -> dict[str, Any]:
    """Delete everything about a user."""
    agent.erase(asked.user)
    return {"user": asked.user, "erased": True}


def suggest_reply(agent: Agent, asked: SuggestReply) -> dict[str, Any]:
    """Replies that a service agent can send next, every fact in them cited; or a hand-over when nothing fits."""
    if bool(asked.turns) == (asked.conversation is not None):
        raise ValueError("suggest_reply takes either turns or the id of a conversation")
    given = [turn.model_dump() for turn in asked.turns]
    *_, last = agent.desk.suggest(
        asked.conversation or {"id": "given", "turns": given}, asked.k, draft=asked.draft, wanted=asked.wish,
        write=asked.llm,
    )  # fmt: skip
    return last.to_json()


def status(agent: Agent, _: Nobody) -> dict[str, Any]:
    """State of the models, and how much the home holds."""
    return agent.status()


OPERATIONS: Mapping[str, Operation] = {
    operation.name: operation
    for operation in (
        Operation("recommend", "read", Recommend, recommend, tool=True),
        Operation("search", "read", Search, search, tool=True),
        Operation("explain", "read", OfPost, explain, tool=True),
        Operation("why_not", "read", OfPost, why_not, tool=True),
        Operation("profile", "read", OfUser, profile),
        Operation("events", "read", Events, events),
        Operation("export", "read", OfUser, export),
        Operation("feedback", "feedback", Feedback, feedback, writes=True),
        Operation("steer", "feedback", Steer, steer, tool=True, writes=True),
        Operation("forget", "feedback", Forget, forget, tool=True, writes=True),
        Operation("suggest_reply", "desk", SuggestReply, suggest_reply, tool=True),
        Operation("erase", "admin", OfUser, erase, writes=True),
        Operation("status", "admin", Nobody, status),
    )
}
TOOLS: tuple[Operation, ...] = tuple(operation for operation in OPERATIONS.values() if operation.tool)


def _rows(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
