"""The planner: a model that calls tools plans a turn through LangChain, and code carries out its calls.

LangGraph keeps what the model said and heard in `home`/agent.db: the latest checkpoint of each conversation, and of
each user the latest conversations. `agent.checkpoints.forget` deletes all of a user.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whyfeed import prompts
from whyfeed.agent import checkpoints
from whyfeed.agent.answer import Answer, ChatEvent
from whyfeed.agent.chat.tools import TURNS, request_of
from whyfeed.agent.checkpoints import Checkpoints
from whyfeed.agent.llm.engine import check_wanted, defuse
from whyfeed.agent.llm.usage import Usage
from whyfeed.agent.request import Request
from whyfeed.agent.understanding.references import Context
from whyfeed.retrieval.errors import ModelError, one_line
from whyfeed.retrieval.language import Language

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.tools import BaseTool

_log = logging.getLogger(__name__)
MOST_CALLS = 4  # tools in one turn
_MOST_STEPS = 2 * MOST_CALLS + 3
_MESSAGES = 24  # that the model is shown of what was said before
FORGETTING = ("forget", "undo")
_SAID = 300  # characters of the model's own words
_LOOK_SECONDS = 0.1  # between two looks at whether the turn is cancelled

_user: ContextVar[str | None] = ContextVar("user", default=None)  # whose turn runs
Act = Callable[[Request], Iterator[ChatEvent]]


class Planner:
    """Plans turns with a model that calls tools. Safe to use from many threads."""

    def __init__(
        self, model: BaseChatModel, home: Path, usage: Usage | None = None, known: Callable[[str], object] | None = None
    ) -> None:  # fmt: skip
        """`usage` counts what the model costs, as the role "planner"; `known` raises where a user has been erased."""
        self.model = model
        self._usage = usage or Usage()
        self._home = home
        self._known = known
        self._checkpoints = Checkpoints(home / checkpoints.CHAT, self._check)

    def turn(
        self, text: str, context: Context, language: Language, user: str, conversation: str, act: Act,
        cancel: threading.Event,
    ) -> Iterator[ChatEvent | str]:  # fmt: skip
        """What happens while `act` carries out the model's calls, each ending with an `Answer`.

        A model that calls nothing answers in words: they come as a string. Raises ModelError when it fails before
        anything was done.
        """
        turn = _Turn(lambda name, arguments: request_of(name, arguments, text, context, language), act, cancel)
        thread = checkpoints.thread_of(user, conversation)
        work = threading.Thread(
            target=turn.work,
            args=(
                lambda: self._run(text, context, language, user, thread, turn.call),
                lambda: checkpoints.forget(self._home, user),
            ),
            name="whyfeed-planner",
            daemon=True,
        )
        work.start()
        yield from turn.events()

    def close(self) -> None:
        """Close the file; a turn that still runs ends."""
        self._checkpoints.close()

    # ---- inside ----

    def _check(self) -> None:
        """Raise where the user of the running turn has been erased: nothing of the turn is stored any more."""
        user = _user.get()
        if self._known is not None and user is not None:
            self._known(user)

    def _run(
        self,
        text: str,
        context: Context,
        language: Language,
        user: str,
        thread: str,
        call: Callable[[str, Mapping[str, Any]], str],
    ) -> str:
        """Run LangChain's agent for one turn; returns the model's last words."""
        from langchain.agents import create_agent
        from langchain.agents.middleware import ModelRequest, wrap_model_call
        from langsmith import tracing_context

        @wrap_model_call
        def latest(request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]) -> Any:
            # The first message must be the user's: servers refuse a tool's answer whose call was cut off.
            messages = request.messages[-_MESSAGES:]
            first = next((place for place, each in enumerate(messages) if each.type == "human"), 0)
            begun = time.perf_counter()
            answer = handler(request.override(messages=messages[first:]))
            used = [getattr(message, "usage_metadata", None) or {} for message in answer.result]
            self._usage.add(
                "planner", time.perf_counter() - begun, sum(each.get("input_tokens", 0) for each in used),
                sum(each.get("output_tokens", 0) for each in used),
            )  # fmt: skip
            return answer

        _user.set(user)  # in this thread's context, which LangGraph hands on to its own threads
        agent: Any = create_agent(
            self.model, [tool(name, call) for name in TURNS], system_prompt=instructions(context, language),
            middleware=[latest], checkpointer=self._checkpoints.saver(),
        )  # fmt: skip
        # An environment variable could otherwise turn on LangSmith, which would get the users' words.
        with tracing_context(enabled=False):
            result = agent.invoke(
                {"messages": [("user", defuse(text))]},
                {"configurable": {"thread_id": thread}, "recursion_limit": _MOST_STEPS, "max_concurrency": 1},
            )
        checkpoints.tidy(self._checkpoints.path, thread)
        return " ".join(str(result["messages"][-1].text).split())[:_SAID]


class _Turn:
    """One turn that is running. The model runs in a thread of its own; the caller's thread gets what happens."""

    def __init__(
        self, read: Callable[[str, Mapping[str, Any]], Request], act: Act, cancel: threading.Event
    ) -> None:  # fmt: skip
        """`read` makes a request of a call's name and arguments, or raises ValueError."""
        self._read = read
        self._act = act
        self._cancel = cancel
        self._happened: queue.SimpleQueue[ChatEvent | str | BaseException | None] = queue.SimpleQueue()
        self._done: list[str] = []  # names of calls that were carried out
        self._refused: list[str] = []  # why others were not
        self._acting = threading.Event()  # a call is being carried out
        self._forgot = threading.Event()  # something was deleted
        self._left = threading.Event()  # nobody takes what happens any more

    def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Carry out one call; returns what the model hears of it. ValueError for a call that it may correct."""
        check_wanted(self._cancel)
        if len(self._done) >= MOST_CALLS:
            raise ValueError(f"at most {MOST_CALLS} calls in one turn; end now")
        try:
            request = self._read(name, arguments)
        except ValueError as exc:
            self._refused.append(str(exc))
            raise
        answer: Answer | None = None
        self._acting.set()
        events = self._act(request)
        for event in events:
            if isinstance(event, Answer):
                answer = event
            self._happened.put(event)
            if self._left.is_set():
                events.close()  # type: ignore[attr-defined]
                raise ModelError("the user has left")
        self._done.append(name)
        self._acting.clear()
        if request.intent in FORGETTING:
            self._forgot.set()
        return _told(answer)

    def work(self, run: Callable[[], str], forget: Callable[[], None]) -> None:
        """Run the model to its end; `run` returns its last words, `forget` deletes the user's checkpoints."""
        try:
            said = run()
            if self._refused and not self._done:
                raise ModelError(f"the agent called nothing that can be done ({self._refused[-1]})")
            if not self._done:
                self._happened.put(said)
        except BaseException as exc:
            self._happened.put(exc)
        finally:
            # LangGraph writes its state once more after the last call; what was deleted must not stay in it.
            if self._forgot.is_set():
                forget()
            self._happened.put(None)

    def events(self) -> Iterator[ChatEvent | str]:
        """What happens, until the model has ended or the turn is cancelled. Raises ModelError; see `Planner.turn`."""
        try:
            while True:
                try:
                    event = self._happened.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    # A call that is being carried out looks at `cancel` itself; a model that is running does not.
                    if self._cancel.is_set() and not self._acting.is_set():
                        if not self._done:
                            check_wanted(self._cancel)
                        return
                    continue
                if event is None:
                    return
                if isinstance(event, BaseException):
                    self._fail(event)
                    return
                yield event
        finally:
            self._left.set()

    def _fail(self, exc: BaseException) -> None:
        """Raise ModelError where nothing was done yet; else what was done stands, and the log has the error."""
        if not self._done:
            raise exc if isinstance(exc, ModelError) else ModelError(f"the agent failed: {one_line(exc)}")
        _log.warning("the planner failed after %s: %s", ", ".join(self._done), one_line(exc))


def instructions(context: Context, language: Language) -> str:
    """What the model is told before a turn: its rules, and what the numbers of the last list mean."""
    shown = [defuse(" ".join(context.titles[id].split()))[:120] for id in context.shown if id in context.titles]
    (system,) = prompts.load("chat", language).render(shown=shown)
    return system["content"]


def tool(name: str, call: Callable[[str, Mapping[str, Any]], str]) -> BaseTool:
    """One of `TURNS` as LangChain's agent and its model see it; `call` gets its name and arguments."""
    from langchain_core.tools import StructuredTool, ToolException

    arguments, description = TURNS[name]

    def run(**given: Any) -> str:
        try:
            return call(name, given)
        except ValueError as exc:  # the model's own mistake: it may try again
            raise ToolException(str(exc)) from exc

    return StructuredTool.from_function(
        run, name=name, description=description, args_schema=arguments.model_json_schema(), handle_tool_error=True
    )


def _told(answer: Answer | None) -> str:
    """What the model hears of an answer: what was said, and the titles that are shown."""
    if answer is None:
        return "{}"
    titles = [" ".join(item.post.label.split())[:80] for item in answer.items]
    return defuse(json.dumps({"shown to the reader": answer.text[:500], "posts": titles}, ensure_ascii=False))
