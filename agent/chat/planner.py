"""The chat as a LangChain agent: a model that calls tools plans the turn, and code does what it says.

Its state (LangGraph's, in `home`/agent.db) is what the model said and heard. Of that the latest checkpoint of each
conversation is kept, and of each reader the latest conversations; `agent.checkpoints.forget` deletes all of a user.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
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

Act = Callable[[Request], Iterator[ChatEvent]]


class Planner:
    """Plans turns with a model that calls tools. Safe to use from many threads; raises ModelError when it cannot."""

    def __init__(self, model: BaseChatModel, home: Path, usage: Usage | None = None) -> None:
        """`usage` counts what the model costs, as the role "planner"."""
        self.model = model
        self._usage = usage or Usage()
        self._home = home
        self._checkpoints = Checkpoints(home / checkpoints.CHAT)

    def turn(
        self, text: str, context: Context, language: Language, user: str, conversation: str, act: Act,
        cancel: threading.Event,
    ) -> Iterator[ChatEvent | str]:  # fmt: skip
        """What happens while the model's calls are carried out by `act`, each ending with an `Answer`; or its words.

        Words are what a model says that called nothing. ModelError when it fails before anything was done.
        """
        happened: queue.SimpleQueue[ChatEvent | str | BaseException | None] = queue.SimpleQueue()
        left = threading.Event()
        done: list[str] = []
        refused: list[str] = []
        acting = threading.Event()
        forgotten = threading.Event()

        def call(name: str, arguments: Mapping[str, Any]) -> str:
            check_wanted(cancel)
            if len(done) >= MOST_CALLS:
                raise ValueError(f"at most {MOST_CALLS} calls in one turn; end now")
            try:
                request = request_of(name, arguments, text, context, language)
            except ValueError as exc:
                refused.append(str(exc))
                raise
            answer: Answer | None = None
            acting.set()
            events = act(request)
            for event in events:
                if isinstance(event, Answer):
                    answer = event
                happened.put(event)
                if left.is_set():
                    events.close()  # type: ignore[attr-defined]
                    raise ModelError("the reader has left")
            done.append(name)
            acting.clear()
            if request.intent in FORGETTING:
                forgotten.set()
            return _told(answer)

        def work() -> None:
            try:
                said = self._run(text, context, language, checkpoints.thread_of(user, conversation), call)
                if refused and not done:
                    raise ModelError(f"the agent called nothing that can be done ({refused[-1]})")
                if not done:
                    happened.put(said)
            except BaseException as exc:
                happened.put(exc)
            finally:
                # LangGraph has written its state once more since: what was forgotten must not stand in it.
                if forgotten.is_set():
                    checkpoints.forget(self._home, user)
                happened.put(None)

        worker = threading.Thread(target=work, name="whyfeed-agent", daemon=True)
        worker.start()
        try:
            while True:
                try:
                    event = happened.get(timeout=0.1)
                except queue.Empty:
                    # What is being done hears of it by itself; a model that is being asked does not.
                    if cancel.is_set() and not acting.is_set():
                        if not done:
                            check_wanted(cancel)
                        return
                    continue
                if event is None:
                    return
                if isinstance(event, BaseException):
                    if not done:
                        raise (
                            event
                            if isinstance(event, ModelError)
                            else ModelError(f"the agent failed: {one_line(event)}")
                        )
                    _log.warning("the agent failed after %s: %s", ", ".join(done), one_line(event))
                    return
                yield event
        finally:
            left.set()

    def close(self) -> None:
        """Close the file; a turn that still runs ends."""
        self._checkpoints.close()

    # ---- inside ----

    def _run(
        self,
        text: str,
        context: Context,
        language: Language,
        thread: str,
        call: Callable[[str, Mapping[str, Any]], str],
    ) -> str:
        """One turn of the agent; returns its last words."""
        from langchain.agents import create_agent
        from langchain.agents.middleware import ModelRequest, wrap_model_call
        from langsmith import tracing_context

        @wrap_model_call
        def latest(request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Any]) -> Any:
            # From a reader's words on: a tool's answer without its call is refused by servers.
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

        agent: Any = create_agent(
            self.model, [tool(name, call) for name in TURNS], system_prompt=instructions(context, language),
            middleware=[latest], checkpointer=self._checkpoints.saver(),
        )  # fmt: skip
        # A setting of the environment must not send readers' words to a tracing service.
        with tracing_context(enabled=False):
            result = agent.invoke(
                {"messages": [("user", defuse(text))]},
                {"configurable": {"thread_id": thread}, "recursion_limit": _MOST_STEPS, "max_concurrency": 1},
            )
        checkpoints.tidy(self._checkpoints.path, thread)
        return " ".join(str(result["messages"][-1].text).split())[:_SAID]


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
