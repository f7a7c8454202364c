"""whyfeed for LangChain: a retriever of posts, and the tools of `agent.operations` for your own agents."""

from __future__ import annotations

import json
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from pydantic import Field

from whyfeed.agent.agent import Agent
from whyfeed.agent.operations import TOOLS, Operation
from whyfeed.agent.recommend.service import MOST
from whyfeed.retrieval.errors import WhyfeedError, one_line
from whyfeed.retrieval.post import Post

__all__ = ["WhyfeedRetriever", "tools"]


class WhyfeedRetriever(BaseRetriever):
    """Posts as LangChain documents: the results of `search`, or with a `user` those of `recommend`.

    A document holds the post's title and text; its metadata are `id`, `url`, `kind`, `score`, and with a user the
    `reason` as text. No clause is written during a call: a post without a stored clause gets a quote in its reason. An
    empty query gives the user's list. Raises UnknownUser.
    """

    agent: Agent
    user: str | None = None
    k: int = Field(5, ge=1, le=MOST)
    kinds: tuple[str, ...] = ()

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        if self.user is None:
            found = self.agent.search(query, self.k, self.kinds)
            return [_document(one.post, one.relevance) for one in found]
        answer = self.agent.recommend(self.user, self.k, query, self.kinds, write=False)
        return [_document(item.post, item.score, reason=item.reason.text) for item in answer.items]


def tools(agent: Agent, user: str | None = None) -> list[BaseTool]:
    """whyfeed's tools for a model. Each returns a JSON document, or one line that says what was wrong.

    With a `user` the tools are bound to that user, and the model cannot choose another. The service desk is then left
    out, because it sees every customer.
    """
    return [_tool(agent, operation, user) for operation in TOOLS if user is None or operation.scope != "desk"]


def _document(post: Post, score: float, **more: str) -> Document:
    words = "\n\n".join(part for part in (post.title, post.text) if part)
    return Document(words, metadata={"id": post.id, "url": post.url, "kind": post.kind, "score": score, **more})


def _tool(agent: Agent, operation: Operation, user: str | None) -> BaseTool:
    schema = operation.arguments.model_json_schema()
    fixed = {} if user is None or "user" not in schema["properties"] else {"user": user}
    schema["properties"] = {name: one for name, one in schema["properties"].items() if name not in fixed}
    schema["required"] = [name for name in schema.get("required", ()) if name not in fixed]

    def run(**arguments: Any) -> str:
        if taken := fixed.keys() & arguments.keys():
            raise ToolException(f"{operation.name}: {taken.pop()} is given already; leave it out")
        try:
            return json.dumps(operation.call(agent, {**arguments, **fixed}), ensure_ascii=False)
        except (WhyfeedError, ValueError) as exc:
            raise ToolException(one_line(exc, None)) from exc

    # The schema instead of the pydantic model: arguments are then checked in one place, with one-line errors.
    return StructuredTool.from_function(
        run, name=operation.name, description=operation.description, args_schema=schema, handle_tool_error=True
    )
