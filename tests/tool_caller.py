"""A chat model that calls tools as a good one would: it stands for the models that plan turns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatResult

from whyfeed.agent.request import Request
from whyfeed.agent.understanding.references import Context
from whyfeed.agent.understanding.understander import Understander
from whyfeed.retrieval.community.embedder import HashEmbedder

Call = tuple[str, dict[str, Any]]
USED = UsageMetadata(input_tokens=10, output_tokens=2, total_tokens=12)
_understander = Understander(HashEmbedder(64))


def calls_of(request: Request) -> list[Call]:
    """The calls that stand for a request whose posts are numbers."""
    posts = [int(number) for number in request.posts]
    if request.intent in ("recommend", "search"):
        arguments: dict[str, Any] = {"about": request.query, "others": request.others, "without": [*request.exclude]}
        return [("recommend", arguments | ({"count": request.k} if request.k else {}))]
    if request.intent in ("more_like", "less_like") and (request.include or request.exclude):
        steered = {"more": [*request.include], "less": [*request.exclude], "horizon": request.horizon}
        return [("steer", steered)]
    if request.intent in ("more_like", "less_like", "hide"):
        return [("rate", {"posts": posts, "verdict": request.intent})] if posts else []
    if request.intent in ("why", "compare", "summarise"):
        return [(request.intent, {"posts": posts})]
    if request.intent == "why_not":
        return [("why_not", {"title": request.query or "?"})]
    if request.intent == "forget":
        return [("forget", {"topic": " ".join((*request.exclude, request.query or "")).strip(), "posts": posts})]
    if request.intent in ("people", "groups"):
        return [(request.intent, {"topic": ""})]
    return [(request.intent, {})] if request.intent in ("profile", "undo") else []


class ToolCaller(BaseChatModel):
    """Understands by the rules, then calls; or does what `script` says to the messages: calls, words, or it raises."""

    script: Callable[[Sequence[BaseMessage]], list[Call] | str] | None = None
    heard: list[list[BaseMessage]] = []  # noqa: RUF012
    model_name: str = "tool-caller"

    @property
    def _llm_type(self) -> str:
        return "tool-caller"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> ToolCaller:
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self.heard.append(list(messages))
        done = self._planned(messages) if self.script is None else self.script(messages)
        if isinstance(done, str):
            message = AIMessage(done, usage_metadata=USED)
        else:
            calls = [{"name": name, "args": args, "id": f"{len(messages)}-{n}"} for n, (name, args) in enumerate(done)]
            message = AIMessage("", tool_calls=calls, usage_metadata=USED)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _planned(self, messages: Sequence[BaseMessage]) -> list[Call] | str:
        if isinstance(messages[-1], ToolMessage):
            return "Done."
        (text,) = [str(each.content) for each in messages if isinstance(each, HumanMessage)][-1:]
        titles = dict(re.findall(r"^(\d+)\. (.*)$", str(messages[0].content), re.MULTILINE))
        request = _understander.understand(text, Context(tuple(titles), titles))
        return calls_of(request) or "You're welcome!"
