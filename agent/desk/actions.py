"""Actions at a service desk. whyfeed proposes them; an operator approves, changes or rejects each.

`agent.desk.proposals` finds by rules what the customer asked for. `Actions` runs a proposal through a LangChain agent,
which stops before its tool is called and waits, on disk, for the operator's decision. Two things keep a model from
acting: that interrupt, and a tool that does nothing unless `decide` has given it the arguments that the operator
saw. When a process stops in the middle, the action is done once or not at all.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from whyfeed.agent.checkpoints import Checkpoints, clear_log
from whyfeed.agent.desk.proposals import propose
from whyfeed.agent.desk.suggestion import Citation, Proposal
from whyfeed.retrieval.errors import DataError, HomeError
from whyfeed.retrieval.files import make_private_file
from whyfeed.retrieval.post import clean_text
from whyfeed.retrieval.privacy.vault import find

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.tools import BaseTool

__all__ = ["ACTIONS", "ActionKind", "Actions", "Argument", "Pending", "proposal_model", "propose"]

Decision = Literal["approve", "edit", "reject"]
State = Literal["waiting", "deciding", "approve", "edit", "reject"]
Perform = Callable[[str, str, Mapping[str, Any]], str]

_log = logging.getLogger(__name__)
_PATIENCE = 30  # seconds to wait for other processes
_LONGEST = 500  # characters of an argument
_MOST_STEPS = 12  # of LangChain's agent, so that a model that keeps calling tools ends


# --- The actions


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of an action. A `required` one may be missing in a proposal, but not when it is approved."""

    name: str
    type: Literal["text", "number"]
    required: bool = False


@dataclass(frozen=True, slots=True)
class ActionKind:
    """A kind of action."""

    name: str
    description: str  # for a model that is to call it
    arguments: tuple[Argument, ...] = ()

    def check(self, arguments: Mapping[str, Any], *, complete: bool = False) -> dict[str, Any]:
        """All arguments in order, those that are missing as None; ValueError names the first that is wrong."""
        known = {argument.name: argument for argument in self.arguments}
        for name in arguments:
            if name not in known:
                raise ValueError(f"{self.name} has no argument {name!r}; it takes {', '.join(known) or 'none'}")
        checked = {name: _checked(argument, arguments.get(name)) for name, argument in known.items()}
        for name, argument in known.items():
            if complete and argument.required and checked[name] is None:
                raise ValueError(f"{self.name} needs {name!r}; edit the proposal and fill it in")
        return checked

    def tool(self, run: Callable[..., str]) -> BaseTool:
        """The action as LangChain's agent and its model see it; `run` takes the arguments by name."""
        from langchain_core.tools import StructuredTool

        types = {"text": "string", "number": "number"}
        properties = {one.name: {"type": [types[one.type], "null"]} for one in self.arguments}
        schema = {"type": "object", "title": self.name, "properties": properties}
        return StructuredTool.from_function(run, name=self.name, description=self.description, args_schema=schema)


ACTIONS: Mapping[str, ActionKind] = {
    kind.name: kind
    for kind in (
        ActionKind(
            "refund", "Pay the customer's money back",
            (Argument("order", "text", required=True), Argument("amount", "number")),
        ),
        ActionKind(
            "replace", "Send the customer a replacement",
            (Argument("order", "text", required=True), Argument("item", "text")),
        ),
        ActionKind("close", "Close the conversation"),
        ActionKind(
            "hand_over", "Pass the conversation on to a colleague",
            (Argument("reason", "text", required=True),),
        ),
    )
}  # fmt: skip


def _checked(argument: Argument, value: object) -> str | float | None:
    if value is None:
        return None
    if argument.type == "number":
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise ValueError(f"{argument.name} {value!r} is not a number above 0")
        return float(value)
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise ValueError(f"{argument.name} {str(value)[:40]!r} is not a text of at most {_LONGEST} characters")
    return clean_text(value) or None


# --- From a proposal to an action


@dataclass(frozen=True, slots=True)
class Pending:
    """A proposal that an operator decides. `state` is "waiting" until then."""

    id: str
    conversation: str
    proposal: Proposal
    state: State = "waiting"

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments that an approval carries out."""
        return self.proposal.arguments


def proposal_model() -> BaseChatModel:
    """The chat model that calls what the last user message proposes, and ends when the tool has answered."""
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
    from langchain_core.outputs import ChatGeneration, ChatResult

    class ProposalModel(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "proposal"

        def bind_tools(self, tools: Sequence[Any], **options: Any) -> ProposalModel:
            return self

        def _generate(self, messages: list[BaseMessage], *_: Any, **options: Any) -> ChatResult:
            message = AIMessage("")
            if not isinstance(messages[-1], ToolMessage):
                call = json.loads(str(messages[-1].content))
                message = AIMessage("", tool_calls=[{"name": call["action"], "args": call["arguments"], "id": "1"}])
            return ChatResult(generations=[ChatGeneration(message=message)])

    return ProposalModel()


class Actions:
    """Proposals that wait for an operator, in `home`/actions.db. Safe for many threads and processes.

    `perform(conversation, name, arguments)` carries out an approved action and returns what it did; when it raises,
    nothing was done and the proposal waits again. `model` calls the tools in place of `proposal_model`. It may fill
    in missing arguments with words that it was given; after anything else `proposal_model` is used. Only masked text
    is stored; what an operator types into an edit goes to `perform` alone.
    """

    def __init__(self, home: Path, perform: Perform, model: BaseChatModel | None = None) -> None:
        self._path = home / "actions.db"
        self._perform = perform
        self._model = model
        self._checkpoints = Checkpoints(self._path)
        with self._open() as db:
            db.execute("COMMIT")
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            db.execute(
                "CREATE TABLE IF NOT EXISTS pending (id TEXT PRIMARY KEY, conversation TEXT NOT NULL, "
                "proposal TEXT NOT NULL, thread TEXT NOT NULL, state TEXT NOT NULL) WITHOUT ROWID"
            )

    def start(self, conversation: str, proposal: Proposal) -> Pending:
        """Make a proposal wait for an operator. The same action again gives the same Pending, decided or not.

        A proposal with more arguments replaces one that waits. Where that one was approved it is returned, so that
        nothing is paid twice because its amount became known. ValueError for a name that is not in ACTIONS.
        """
        proposal = _masked_proposal(proposal)
        id = _digest(conversation, proposal.name, json.dumps(proposal.arguments))
        with self._open() as db:
            rows = db.execute("SELECT * FROM pending WHERE conversation = ?", (conversation,))
            for old in map(_pending, rows.fetchall()):
                taken_up = old.state not in ("waiting", "reject")
                if old.id == id or (taken_up and _says_more(proposal, old.proposal)):
                    return old
        agreed, thread = self._interrupted(conversation, proposal, self._model)
        with self._open() as db:
            outdated = []
            for old in db.execute(
                "SELECT * FROM pending WHERE conversation = ? AND state = 'waiting' AND id != ?", (conversation, id)
            ).fetchall():
                if _says_more(proposal, _pending(old).proposal):
                    db.execute("DELETE FROM pending WHERE id = ?", (old["id"],))
                    outdated.append(old["thread"])
            added = db.execute(
                "INSERT OR IGNORE INTO pending VALUES (?, ?, ?, ?, 'waiting')",
                (id, conversation, _to_json(agreed), thread),
            ).rowcount
            row = db.execute("SELECT * FROM pending WHERE id = ?", (id,)).fetchone()
        self._checkpoints.drop(*outdated, *(() if added else (thread,)))
        return _pending(row)

    def pending(self, conversation: str) -> list[Pending]:
        """The proposals of this conversation that wait, by name."""
        with self._open() as db:
            rows = db.execute("SELECT * FROM pending WHERE conversation = ? AND state = 'waiting'", (conversation,))
            return sorted(map(_pending, rows), key=lambda one: (one.proposal.name, one.id))

    def decide(
        self,
        conversation: str,
        pending_id: str,
        decision: Decision,
        arguments: Mapping[str, Any] | None = None,
        note: str = "",
    ) -> str:
        """Carry out an operator's decision; returns what was done. An edit changes the arguments that it names.

        Raises DataError for an unknown or already decided proposal, ValueError for arguments that do not fit.
        """
        if decision not in ("approve", "edit", "reject") or (arguments is not None) != (decision == "edit"):
            raise ValueError(f"decision {decision!r} is none of approve, reject, and edit with arguments")
        row, granted = self._claim(conversation, pending_id, decision, arguments or {})
        name, before = _pending(row).proposal.name, _pending(row).arguments
        from langgraph.types import Command

        done: list[str] = []
        failed: list[Exception] = []

        def run() -> str:
            # What is returned or raised here is stored in the checkpoints, and it is not masked.
            try:
                done.append(self._perform(conversation, name, granted))
            except Exception as exc:
                failed.append(exc)
                raise RuntimeError("not performed") from None
            return "performed"

        answer: dict[str, Any] = {"type": decision}
        if decision == "edit":
            answer["edited_action"] = {"name": name, "args": dict(before)}
        try:
            # `proposal_model` goes on: a decision needs no language model.
            self._run(Command(resume={"decisions": [answer]}), row["thread"], proposal_model(), [name], run)
            if decision != "reject" and not done:
                raise DataError(f"{pending_id!r} could not be taken up again; nothing was done: decide once more")
        except Exception:
            if not done:
                _, thread = self._interrupted(conversation, _pending(row).proposal)
                self._settle(row, "waiting", thread)
                if failed:
                    raise failed[0] from None
                raise
            _log.warning("LangChain's agent failed after the action was done", exc_info=True)
        self._settle(row, decision)
        return done[0] if done else f"{name}: not done" + (f": {note}" if note else "")

    def forget(self, conversation: str) -> None:
        """Delete all proposals of a conversation."""
        with self._open() as db:
            db.execute("DELETE FROM pending WHERE conversation = ?", (conversation,))
        # By the checkpoints' threads, not the table's: a process that stopped may have left one without a row.
        self._checkpoints.saver()  # makes its tables
        own = _digest(conversation)
        with self._open() as db:
            rows = db.execute("SELECT thread_id FROM checkpoints UNION SELECT thread_id FROM writes").fetchall()
        self._checkpoints.drop(*(thread for (thread,) in rows if thread.startswith(own)))
        with self._open() as db:
            db.commit()
            clear_log(db, self._path)

    def close(self) -> None:
        """Close the file; waiting proposals stay in it."""
        self._checkpoints.close()

    def _claim(
        self, conversation: str, pending_id: str, decision: Decision, changed: Mapping[str, Any]
    ) -> tuple[sqlite3.Row, dict[str, Any]]:
        """Mark a waiting proposal as being decided; returns its row and the arguments that the operator grants."""
        with self._open() as db:
            row = db.execute(
                "SELECT * FROM pending WHERE id = ? AND conversation = ?", (pending_id, conversation)
            ).fetchone()
            if row is None:
                raise DataError(f"nothing is pending as {pending_id!r} in {conversation!r}; reload the conversation")
            if row["state"] == "deciding":
                raise DataError(f"{pending_id!r} is being decided, or whyfeed stopped meanwhile; check what was done")
            if row["state"] != "waiting":
                raise DataError(f"{pending_id!r} was decided already ({row['state']}); reload the conversation")
            kind = ACTIONS[_pending(row).proposal.name]
            granted = kind.check({**_pending(row).arguments, **changed}, complete=decision != "reject")
            # Claimed in the same transaction, so that the second of two decisions finds it claimed.
            db.execute("UPDATE pending SET state = 'deciding' WHERE id = ?", (pending_id,))
        return row, granted

    def _settle(self, row: sqlite3.Row, state: State, thread: str = "") -> None:
        with self._open() as db:
            db.execute("UPDATE pending SET state = ?, thread = ? WHERE id = ?", (state, thread, row["id"]))
        self._checkpoints.drop(row["thread"])

    def _interrupted(
        self, conversation: str, proposal: Proposal, model: BaseChatModel | None = None
    ) -> tuple[Proposal, str]:
        """Run LangChain's agent until it waits; returns the call that it waits with, and its thread."""
        thread = f"{_digest(conversation)}.{uuid.uuid4().hex}"
        told = {"action": proposal.name, "arguments": dict(proposal.arguments), "why": proposal.why}
        text = json.dumps({**told, "quotes": [one.quote for one in proposal.citations]}, ensure_ascii=False)
        try:
            result = self._run({"messages": [("user", text)]}, thread, model or proposal_model(), ACTIONS, _refuse)
            # Calls of tools that do not exist count too: LangChain would not wait for those.
            calls = [call for message in result["messages"] for call in getattr(message, "tool_calls", ())]
            if not result.get("__interrupt__") or len(calls) != 1 or calls[0]["name"] != proposal.name:
                raise ValueError(f"the model called {[call['name'] for call in calls]}, not {proposal.name}")
            return replace(proposal, arguments=_agreed(proposal, calls[0]["args"], text)), thread
        except Exception:
            self._checkpoints.drop(thread)
            if model is None:
                raise
            _log.warning("the model did not call the proposed action; proposal_model does", exc_info=True)
        return self._interrupted(conversation, proposal)

    def _run(self, given: Any, thread: str, model: BaseChatModel, names: Iterable[str], run: Callable[[], str]) -> Any:
        from langchain.agents import create_agent
        from langchain.agents.middleware import HumanInTheLoopMiddleware, InterruptOnConfig
        from langsmith import tracing_context

        ask = InterruptOnConfig(allowed_decisions=["approve", "edit", "reject"])
        agent = create_agent(
            model,
            [ACTIONS[name].tool(lambda **_: run()) for name in names],
            system_prompt=_PROMPT,
            middleware=[HumanInTheLoopMiddleware(dict.fromkeys(ACTIONS, ask), edit_notice=None)],
            checkpointer=self._checkpoints.saver(),
        )
        # An environment variable could otherwise turn on LangSmith, which would get the customers' words.
        with tracing_context(enabled=False):
            return agent.invoke(given, {"configurable": {"thread_id": thread}, "recursion_limit": _MOST_STEPS})

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction on a connection of its own; writers queue."""
        try:
            make_private_file(self._path)
            with closing(sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)) as db:
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA secure_delete = ON").fetchall()
                db.execute("BEGIN IMMEDIATE")
                yield db  # closing without a commit rolls back
                if db.in_transaction:
                    db.execute("COMMIT")
        except (sqlite3.DatabaseError, OSError) as exc:
            raise HomeError(f"{self._path}: {exc}; check the disk and the folder, then try again") from exc


_PROMPT = (
    "You work at a service desk. Call the one tool that the proposal names, with its arguments as they are; null where "
    "the proposal and its quotes do not say. A person then decides. Call nothing else."
)


def _refuse() -> str:
    raise PermissionError("nothing is done before a person has decided")


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _masked(text: str) -> str:
    """Mask once more: what still looks personal is replaced by its kind in round brackets."""
    for one in reversed(find(text)):
        text = f"{text[: one.start]}({one.kind}){text[one.end :]}"
    return text


def _masked_proposal(proposal: Proposal) -> Proposal:
    kind = ACTIONS.get(proposal.name)
    if kind is None:
        raise ValueError(f"action {proposal.name!r} is none of {', '.join(ACTIONS)}")
    arguments = kind.check(proposal.arguments).items()
    return Proposal(
        proposal.name,
        {name: _masked(value) if isinstance(value, str) else value for name, value in arguments},
        _masked(proposal.why),
        tuple(replace(one, quote=_masked(one.quote)) for one in proposal.citations),
    )


def _agreed(proposal: Proposal, called: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The arguments of a model's call; ValueError when it changes one, or fills one in with words it was not given."""
    agreed = ACTIONS[proposal.name].check(called)
    for name, value in agreed.items():
        if value != proposal.arguments[name] and (proposal.arguments[name] is not None or f"{value}" not in text):
            raise ValueError(f"the model made {name!r} up: {value!r}")
    return agreed


def _says_more(new: Proposal, old: Proposal) -> bool:
    known = {name: value for name, value in old.arguments.items() if value is not None}
    return new.name == old.name and all(new.arguments[name] == value for name, value in known.items())


def _to_json(proposal: Proposal) -> str:
    cited = [one.to_json() for one in proposal.citations]
    return json.dumps([proposal.name, dict(proposal.arguments), proposal.why, cited], ensure_ascii=False)


def _pending(row: sqlite3.Row) -> Pending:
    name, arguments, why, cited = json.loads(row["proposal"])
    proposal = Proposal(name, arguments, why, tuple(Citation(**one) for one in cited))
    return Pending(row["id"], row["conversation"], proposal, cast(State, row["state"]))
