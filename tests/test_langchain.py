"""whyfeed inside LangChain: documents, tools, and an agent that calls them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool
from pydantic import Field, ValidationError

from tests.checks import check_shape
from tests.conftest import ROOT
from tests.world import World
from whyfeed import Agent
from whyfeed.agent.langchain_tools import WhyfeedRetriever, tools
from whyfeed.agent.operations import TOOLS
from whyfeed.retrieval.errors import UnknownUser


class Scripted(BaseChatModel):
    """A chat model that makes the calls it was told to, one a turn, then ends; `offered` is what it could call."""

    script: list[tuple[str, dict[str, Any]]]
    offered: list[BaseTool] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **options: Any) -> Scripted:
        self.offered[:] = tools
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **options: Any) -> ChatResult:
        message = AIMessage("done")
        if self.script:
            name, arguments = self.script.pop(0)
            message = AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": str(len(messages))}])
        return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.fixture
def user(world: World) -> str:
    return next(iter(world.tastes))


def by_name(found: Sequence[BaseTool]) -> dict[str, BaseTool]:
    return {tool.name: tool for tool in found}


# ---- the retriever


def test_a_search_finds_documents(agent: Agent) -> None:
    documents = WhyfeedRetriever(agent=agent, k=4).invoke("tomato compost")
    found = agent.search("tomato compost", 4)
    assert [document.metadata["id"] for document in documents] == [one.post.id for one in found]
    for document, one in zip(documents, found, strict=True):
        assert document.page_content == f"{one.post.title}\n\n{one.post.text}"
        assert document.metadata == {
            "id": one.post.id, "url": one.post.url, "kind": one.post.kind, "score": one.relevance
        }  # fmt: skip


@pytest.mark.parametrize("query", ["", "tomato"])
def test_for_a_user_the_documents_are_their_list_with_its_reasons(agent: Agent, user: str, query: str) -> None:
    documents = WhyfeedRetriever(agent=agent, user=user, k=3).invoke(query)
    items = agent.recommend(user, 3, query).items
    assert [document.metadata["id"] for document in documents] == [item.post.id for item in items]
    assert [document.metadata["reason"] for document in documents] == [item.reason.text for item in items]


def test_only_the_kinds_that_were_asked_for(agent: Agent, user: str) -> None:
    for who in (None, user):
        assert WhyfeedRetriever(agent=agent, user=who, kinds=("video",)).invoke("tomato") == []
        assert WhyfeedRetriever(agent=agent, user=who, kinds=("post",)).invoke("tomato")


def test_a_retriever_waits_for_nothing_when_it_is_awaited(agent: Agent, user: str) -> None:
    retriever = WhyfeedRetriever(agent=agent, user=user)

    async def both() -> list[Any]:
        return await asyncio.gather(retriever.ainvoke("tomato"), retriever.ainvoke("mast"))

    first, second = asyncio.run(both())
    assert [first, second] == [retriever.invoke("tomato"), retriever.invoke("mast")]
    assert first != second


def test_a_retriever_says_what_cannot_be(agent: Agent) -> None:
    with pytest.raises(UnknownUser):
        WhyfeedRetriever(agent=agent, user="nobody").invoke("tomato")
    with pytest.raises(ValidationError):
        WhyfeedRetriever(agent=agent, k=0)


# ---- the tools


def test_every_tool_of_the_registry_is_there_as_it_is(agent: Agent) -> None:
    found = tools(agent)
    assert [(tool.name, tool.description) for tool in found] == [(one.name, one.description) for one in TOOLS]
    for tool, operation in zip(found, TOOLS, strict=True):
        assert tool.args == operation.arguments.model_json_schema()["properties"]


def test_the_tools_do_what_the_operations_do(agent: Agent, user: str) -> None:
    found = by_name(tools(agent))
    answer = json.loads(found["recommend"].invoke({"user": user, "k": 3}))
    check_shape(answer, "recommend")
    rule = json.loads(found["steer"].invoke({"user": user, "topic": "tomato", "direction": "less"}))
    assert agent.profile(user).rules
    assert json.loads(found["forget"].invoke({"user": user, "event": rule["id"]}))["forgotten"] == rule["id"]
    assert not agent.profile(user).rules
    turns = [{"role": "customer", "text": "Where is my parcel?"}]
    check_shape(json.loads(found["suggest_reply"].invoke({"turns": turns})), "reply")


def test_the_tools_of_one_user_know_for_whom(agent: Agent, user: str, world: World) -> None:
    other = list(world.tastes)[1]
    found = by_name(tools(agent, user))
    for tool in found.values():
        assert "user" not in tool.args
    assert json.loads(found["recommend"].invoke({"k": 2}))["user"] == user
    assert "user" in found["recommend"].invoke({"k": 2, "user": other})
    assert not agent.traces(other)
    assert json.loads(found["search"].invoke({"query": "tomato"}))["posts"]


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("recommend", {"user": "nobody"}, "'nobody'"),
        ("recommend", {}, "user"),
        ("recommend", {"user": "u", "k": 51}, "k"),
        ("search", {"query": "tomato", "colour": "red"}, "colour"),
        ("suggest_reply", {}, "either"),
    ],
)
def test_what_is_wrong_is_a_message_that_the_model_can_read(
    agent: Agent, name: str, arguments: dict[str, Any], text: str
) -> None:
    call = {"type": "tool_call", "id": "1", "name": name, "args": arguments}
    message = by_name(tools(agent))[name].invoke(call)
    assert isinstance(message, ToolMessage)
    assert message.status == "error"
    assert text in message.content
    assert "\n" not in message.content


def test_a_tool_can_be_awaited(agent: Agent, user: str) -> None:
    tool = by_name(tools(agent, user))["recommend"]
    assert json.loads(asyncio.run(tool.ainvoke({})))["user"] == user


def test_an_agent_of_langchain_uses_them(agent: Agent, user: str) -> None:
    hidden = agent.recommend(user, 1).items[0].post
    model = Scripted(
        script=[
            ("recommend", {"k": 0}),
            ("recommend", {"k": 2, "query": "tomato"}),
            ("steer", {"topic": "tomato", "direction": "less", "horizon": "week"}),
            ("why_not", {"post": hidden.id}),
        ]
    )
    state = create_agent(model, tools(agent, user)).invoke({"messages": [("user", "What should I read?")]})
    answers = [message for message in state["messages"] if isinstance(message, ToolMessage)]
    assert [(message.name, message.status) for message in answers] == [
        ("recommend", "error"), ("recommend", "success"), ("steer", "success"), ("why_not", "success"),
    ]  # fmt: skip
    assert state["messages"][-1].content == "done"
    # The desk sees every customer: it is not for one user's agent.
    assert {tool.name for tool in model.offered} == {one.name for one in TOOLS} - {"suggest_reply"}
    assert len(json.loads(answers[1].content)["items"]) == 2
    (rule,) = agent.profile(user).rules
    assert (rule.kind, rule.topic) == ("exclude", "tomato")


def test_langchain_is_loaded_only_with_this_module() -> None:
    code = "import sys, whyfeed.agent.agent, agent.operations; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "whyfeed.agent.agent" in loaded
    assert "langchain" not in loaded
