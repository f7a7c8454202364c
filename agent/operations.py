"""The table of operations, from which the HTTP routes, MCP tools and LangChain tools are generated.

An operation has a name, a description, a model of its arguments, and the scope that a caller needs. It returns the same
JSON document on every interface; the interfaces add nothing to what it does.
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
    NoArguments,
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
    """One operation. `run` takes an agent and validated arguments, and returns a JSON document.

    `tool`: a language model may call it. `writes`: it changes stored data (other than the trace of an answer).
    """

    name: str
    scope: Scope
    arguments: type[Arguments]
    run: Callable[[Agent, Any], dict[str, Any]]
    tool: bool = False
    writes: bool = False

    @property
    def description(self) -> str:
        """What the operation does, for its callers."""
        return " ".join((self.run.__doc__ or "").split())

    def check(self, arguments: Mapping[str, Any]) -> Any:
        """The arguments as an instance of their model. Raises ValueError that names the first invalid one."""
        try:
            return self.arguments.model_validate(arguments)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            where = " ".join(".".join(str(part) for part in first["loc"]).split())[:100] or "arguments"
            raise ValueError(f"{self.name}: {where}: {first['msg']}") from None

    def call(self, agent: Agent, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Validate the arguments and run."""
        return self.run(agent, self.check(arguments))


def recommend(agent: Agent, asked: Recommend) -> dict[str, Any]:
    """The best posts for a user, each with a reason whose claims can be checked."""
    answer = agent.recommend(
        asked.user, asked.k, asked.query, asked.kinds, language=asked.language, as_of=asked.as_of,
        write=asked.llm,
    )  # fmt: skip
    return answer.to_json()


def search(agent: Agent, asked: Search) -> dict[str, Any]:
    """The posts most relevant to a query, the same for every user; `recommend` with a query also considers the user."""
    return {
        "query": asked.query,
        "posts": [found.to_json() for found in agent.search(asked.query, asked.k, asked.kinds)],
    }


def explain(agent: Agent, asked: OfPost) -> dict[str, Any]:
    """Why a post was shown to a user: its sources, the share of each signal in its score, what would keep it out."""
    return agent.why(asked.user, asked.post, asked.language).to_json()


def why_not(agent: Agent, asked: OfPost) -> dict[str, Any]:
    """Why a post is not in a user's list, and what would bring it in."""
    return agent.why_not(asked.user, asked.post, asked.language).to_json()


def profile(agent: Agent, asked: OfUser) -> dict[str, Any]:
    """What whyfeed has inferred about a user: interests with the posts they come from, rules, hidden posts."""
    return agent.profile(asked.user).to_json()


def events(agent: Agent, asked: Events) -> dict[str, Any]:
    """A user's latest events, newest first, with the ids that `forget` takes."""
    found = agent.events(asked.user, asked.limit)
    return {"user": asked.user, "events": [{"id": event.id, **event.to_row()} for event in found]}


def feedback(agent: Agent, asked: Feedback) -> dict[str, Any]:
    """Record in the ledger what a user did with a post; the next list takes it into account."""
    event = agent.feedback(asked.user, asked.post, asked.kind)
    return {"id": event.id, **event.to_row()}


def steer(agent: Agent, asked: Steer) -> dict[str, Any]:
    """Show more of a topic, or nothing of it, from the next list on."""
    event = agent.steer(asked.user, asked.topic, asked.direction, asked.horizon)
    return {"id": event.id, "user": asked.user, "topic": asked.topic, "direction": asked.direction,
            "horizon": asked.horizon, "posts": agent.about(asked.topic)}  # fmt: skip


def forget(agent: Agent, asked: Forget) -> dict[str, Any]:
    """Delete one event of a user. Everything computed afterwards is as if it had never happened."""
    agent.forget(asked.user, asked.event)
    return {"user": asked.user, "forgotten": asked.event}


def export(agent: Agent, asked: OfUser) -> dict[str, Any]:
    """Everything that is stored about a user, as rows of the files of the exchange format."""
    with tempfile.TemporaryDirectory(prefix="whyfeed-export-") as folder:
        out = agent.export(asked.user, Path(folder) / "export")
        files = {path.name: list(_rows(path)) for path in sorted(out.glob("*.jsonl"))}
    return {"user": asked.user, "files": files}


def erase(agent: Agent, asked: OfUser) -> dict[str, Any]:
    """Delete everything about a user."""
    agent.erase(asked.user)
    return {"user": asked.user, "erased": True}


def suggest_reply(agent: Agent, asked: SuggestReply) -> dict[str, Any]:
    """Replies that an operator can send next, with every fact cited; or a hand-over when nothing fits."""
    if bool(asked.turns) == (asked.conversation is not None):
        raise ValueError("suggest_reply takes either turns or the id of a conversation")
    given = [turn.model_dump() for turn in asked.turns]
    *_, last = agent.desk.suggest(
        asked.conversation or {"id": "given", "turns": given}, asked.k, draft=asked.draft, wanted=asked.wish,
        write=asked.llm,
    )  # fmt: skip
    return last.to_json()


def status(agent: Agent, _: NoArguments) -> dict[str, Any]:
    """The state of the models, and counts of what the home holds."""
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
        Operation("status", "admin", NoArguments, status),
    )
}
TOOLS: tuple[Operation, ...] = tuple(operation for operation in OPERATIONS.values() if operation.tool)


def _rows(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
