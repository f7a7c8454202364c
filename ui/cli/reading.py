"""Commands for one user: `recommend`, `chat`, `why`, `why-not`, `feedback`, `forget`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whyfeed.ui.cli.terminal import (
    Home,
    Json,
    LlmRank,
    NoLlm,
    PostArg,
    UserArg,
    open_agent,
    print_json,
    read_lines,
    tell,
    tell_text,
)

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent
    from whyfeed.agent.answer import Answer, Explanation


def recommend(
    user: UserArg,
    k: Annotated[int, typer.Option("-k", min=1, max=50, help="Number of posts.")] = 5,
    query: Annotated[str | None, typer.Option(help="Topic of the posts.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only posts of this kind; may be given several times.")] = None,
    as_of: Annotated[str | None, typer.Option(help="Answer as of this time: ISO 8601 or Unix seconds.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of the reasons: en or zh.")] = None,
    home: Home = None,
    as_json: Json = False,
    no_llm: NoLlm = False,
    llm_rank: LlmRank = False,
) -> None:
    """Recommend posts for a user, each with a reason.

    Example: whyfeed recommend alcohol:37 -k 5 --query beer
    """
    from whyfeed.retrieval.clock import parse_time
    from whyfeed.retrieval.post import KINDS

    if unknown := [name for name in kind or () if name not in KINDS]:
        raise ValueError(f"kind {unknown[0]!r} is none of {', '.join(KINDS)}")
    if language not in (None, "en", "zh"):
        raise ValueError(f"language {language!r} is neither en nor zh")
    moment = parse_time(as_of)
    with open_agent(home, no_llm=no_llm) as agent:
        answer = agent.recommend(
            user, k, query, kind, as_of=moment, llm_rank=llm_rank, language=language,  # type: ignore[arg-type]
        )  # fmt: skip
        print_json(answer.to_json()) if as_json else _print_answer(answer, agent)
        _report_missing_writer(agent)


def chat(
    user: UserArg,
    home: Home = None,
    conversation: Annotated[str | None, typer.Option(help="Id of a conversation to continue.")] = None,
    as_json: Json = False,
    no_llm: NoLlm = False,
    llm_rank: LlmRank = False,
) -> None:
    """Chat: reads one message per line and prints one answer for each, so it can be used in a pipe.

    Example: whyfeed chat alcohol:37
    """
    from whyfeed.agent.answer import Answer

    with open_agent(home, no_llm=no_llm) as agent:
        agent.user(user)
        asked = sys.stdin.isatty()
        if asked:
            tell("Ask “What should I read?”, or name a topic. Ctrl-D ends.", err=True)
        for line in read_lines(asked):
            for event in agent.chat(user, line, conversation, llm_rank=llm_rank):
                if isinstance(event, Answer):
                    conversation = event.conversation
                    print_json(event.to_chat_json()) if as_json else _print_answer(event, agent)


def why(user: UserArg, post: PostArg, home: Home = None, as_json: Json = False) -> None:
    """Explain why a post was shown to a user.

    Example: whyfeed why alcohol:37 alcohol:p12
    """
    _explain(home, as_json, lambda agent: agent.why(user, post))


def why_not(user: UserArg, post: PostArg, home: Home = None, as_json: Json = False) -> None:
    """Explain why a post is not in a user's list, and what would bring it in.

    Example: whyfeed why-not alcohol:37 alcohol:p12
    """
    _explain(home, as_json, lambda agent: agent.why_not(user, post))


def feedback(
    user: UserArg,
    post: PostArg,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Kind of feedback: like, dislike, hide, save, open, …")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Record in the ledger what a user did with a post; prints the event's id.

    Example: whyfeed feedback alcohol:37 alcohol:p12 like
    """
    with open_agent(home, no_llm=True) as agent:
        event = agent.feedback(user, post, kind)
    print_json({"id": event.id, **event.to_row()}) if as_json else tell("{}", event.id)


def forget(
    user: UserArg,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="Id of the event.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Delete one event. Everything computed afterwards is as if it had never happened.

    Example: whyfeed forget alcohol:37 e1234
    """
    with open_agent(home, no_llm=True) as agent:
        agent.forget(user, event)
    print_json({"user": user, "forgotten": event}) if as_json else tell("forgotten: {}", event)


def _explain(home: Path | None, as_json: bool, ask: Callable[[Agent], Explanation]) -> None:
    with open_agent(home, no_llm=True) as agent:
        explanation = ask(agent)
    if as_json:
        print_json(explanation.to_json())
        return
    if explanation.reason is not None:
        tell_text(explanation.reason.text)
    tell_text(explanation.text)
    tell_text(explanation.would_change)


def _report_missing_writer(agent: Agent) -> None:
    """Say why reasons hold quotes instead of written clauses, unless --no-llm asked for that."""
    state = agent.models.describe("writer")
    if state not in ("ready", "off"):
        tell("the writer is {}, so posts are quoted; `whyfeed models pull` fetches it", state, err=True)


def _print_answer(answer: Answer, agent: Agent) -> None:
    from whyfeed.retrieval.clock import format_time

    if answer.text:
        tell_text(answer.text)
    names = agent.names([item.post.author for item in answer.items if item.post.author])
    for item in answer.items:
        written = format_time(item.post.created_at)
        detail = [
            item.post.community,
            names.get(item.post.author, ""),
            written[:10] if isinstance(written, str) else "",
        ]
        tell("\n{}. {}", item.rank, item.post.label)
        tell("   {}  [{}]", " · ".join(part for part in detail if part), item.post.id)
        tell("   {}", item.reason.text)
        if item.post.url:
            tell("   {}", item.post.url)
    if not answer.items and not answer.text:
        tell("nothing to show: everything has been seen, or the home is empty (whyfeed demo fills it)", err=True)
