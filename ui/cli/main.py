"""The command line. Nothing heavy is imported before a command needs it, so that --help answers at once.

Standard output carries the result (with --json: one JSON document, or one a line for `chat`),
everything else goes to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whyfeed.ui.cli import batch, mcp, models, serving, training
from whyfeed.ui.cli.terminal import (
    Home,
    Json,
    LlmRank,
    NoLlm,
    PostArg,
    UserArg,
    bars,
    fail,
    imported,
    open_agent,
    print_json,
    read_lines,
)

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent
    from whyfeed.agent.answer import Answer, Explanation

app = typer.Typer(
    name="whyfeed", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Answers “what should I read?” with real posts and reasons that can be checked.",
)  # fmt: skip
app.add_typer(models.models_app, name="models")
app.add_typer(training.finetune_app, name="finetune")
app.command()(training.evaluate)
app.command()(batch.batch)
app.command()(mcp.mcp)
app.command()(serving.serve)
app.command("serve-llm")(serving.serve_llm)
app.add_typer(serving.keys_app, name="keys")


def main() -> None:
    """Run a command; what whyfeed raises on purpose becomes one line on standard error."""
    from whyfeed.retrieval.errors import WhyfeedError

    try:
        app()
    except WhyfeedError as exc:
        fail(str(exc), 1)
    except ValueError as exc:
        fail(str(exc), 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as exc:
        fail(f"{exc.filename or 'the machine'}: {exc.strerror or exc}", 1)


@app.command()
def demo(home: Home = None, as_json: Json = False) -> None:
    """Import the communities and the desk that whyfeed ships, and build what is needed; again changes nothing."""
    from whyfeed.agent.demo import import_demo

    with open_agent(home, no_llm=True) as agent:
        report = import_demo(agent, imported)
        with bars() as progress:
            agent.build(progress)
            agent.desk.build(progress)
            outcome = _fit(agent, progress) if report else "already there"
        state = agent.status()
    if as_json:
        print_json(
            {"posts": state["posts"], "users": state["users"], "ranker": outcome, "imported": report is not None}
        )
    else:
        typer.echo(f"{state['posts']} posts and {state['users']} readers in {agent.home} ({outcome})")


@app.command()
def ui(
    home: Home = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's own need --login.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; default: the first free one from 7860 on.")
    ] = None,
    login: Annotated[
        str | None,
        typer.Option(envvar="WHYFEED_LOGIN", help="NAME:PASSWORD that visitors must give.", show_default=False),
    ] = None,
    no_llm: NoLlm = False,
) -> None:
    """Open the page; prints its address once it answers. Missing weights download meanwhile."""
    from whyfeed.ui.page.page import serve

    name, _, password = (login or "").partition(":")
    if login is not None and not (name and password):
        raise ValueError("--login must be NAME:PASSWORD")
    with open_agent(home, no_llm=no_llm) as agent, bars() as progress:
        agent.build(progress)
        agent.desk.build(progress)
        agent.models.fetch(progress.bytes)

        stopping = threading.Event()
        learning = threading.Thread(target=_learn, args=(agent, stopping), name="whyfeed-learning", daemon=True)

        def ready(url: str) -> None:
            typer.echo(f"whyfeed is ready: {url}")
            learning.start()

        try:
            serve(agent, host, port, ready, login=(name, password) if login else None)
        finally:
            stopping.set()
            if learning.is_alive():
                learning.join()


@app.command()
def chat(
    user: UserArg,
    home: Home = None,
    conversation: Annotated[str | None, typer.Option(help="Go on with this conversation.")] = None,
    as_json: Json = False,
    no_llm: NoLlm = False,
    llm_rank: LlmRank = False,
) -> None:
    """Talk: one line in, one answer out, so that it can be piped."""
    from whyfeed.agent.answer import Answer

    with open_agent(home, no_llm=no_llm) as agent:
        agent.user(user)
        asked = sys.stdin.isatty()
        if asked:
            typer.echo("Ask “What should I read?”, or name a topic. Ctrl-D ends.", err=True)
        for line in read_lines(asked):
            for event in agent.chat(user, line, conversation, llm_rank=llm_rank):
                if isinstance(event, Answer):
                    conversation = event.conversation
                    print_json(event.to_chat_json()) if as_json else _print_answer(event, agent)


@app.command()
def recommend(
    user: UserArg,
    k: Annotated[int, typer.Option("-k", min=1, max=50, help="How many posts.")] = 5,
    query: Annotated[str | None, typer.Option(help="What the posts should be about.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind of thing; may be given several times.")] = None,
    as_of: Annotated[str | None, typer.Option(help="Answer as of this moment: ISO 8601 or Unix seconds.")] = None,
    language: Annotated[str | None, typer.Option(help="Language of the reasons: en or zh.")] = None,
    home: Home = None,
    as_json: Json = False,
    no_llm: NoLlm = False,
    llm_rank: LlmRank = False,
) -> None:
    """The best posts for a user, each with a reason."""
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
        _mind_the_writer(agent)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder in the exchange format.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Import an exchange folder, whole or not at all; bad rows go to a rejects file."""
    with open_agent(home, no_llm=True) as agent:
        report = agent.import_folder(folder, imported)
        with bars() as progress:
            agent.build(progress)
    if as_json:
        print_json(report.to_json())
        return
    for name, count in report.counts.items():
        if count.read:
            typer.echo(f"{name}: {count.kept} of {count.read} rows kept")
    if report.rejects:
        typer.echo(f"left out, with line and cause: {report.rejects}", err=True)


@app.command()
def export(
    user: UserArg,
    out: Annotated[Path | None, typer.Option(help="A new folder; default: whyfeed-USER.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write everything about a user to a folder in the exchange format."""
    with open_agent(home, no_llm=True) as agent:
        folder = agent.export(user, out)
    print_json({"user": user, "folder": str(folder)}) if as_json else typer.echo(str(folder))


@app.command()
def users(
    text: Annotated[str, typer.Argument(help="Part of a name or an id.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Users of the home, the most active first."""
    with open_agent(home, no_llm=True) as agent:
        members = agent.members(text, limit)
    if as_json:
        print_json([{"id": member.id, "name": member.name, "events": member.events} for member in members])
    else:
        for member in members:
            typer.echo(f"{member.id}\t{member.events}\t{member.name}")


@app.command()
def feedback(
    user: UserArg,
    post: PostArg,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="like, dislike, hide, save, open, …")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write what a user did with a post into the ledger; prints the event's id."""
    with open_agent(home, no_llm=True) as agent:
        event = agent.feedback(user, post, kind)
    print_json({"id": event.id, **event.to_row()}) if as_json else typer.echo(event.id)


@app.command()
def why(user: UserArg, post: PostArg, home: Home = None, as_json: Json = False) -> None:
    """Why a post was shown to a user."""
    _explain(home, as_json, lambda agent: agent.why(user, post))


@app.command("why-not")
def why_not(user: UserArg, post: PostArg, home: Home = None, as_json: Json = False) -> None:
    """Why a post is not in a user's list, and what would bring it in."""
    _explain(home, as_json, lambda agent: agent.why_not(user, post))


@app.command()
def forget(
    user: UserArg,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="An event's id.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Delete one event; everything is then as if it had never happened."""
    with open_agent(home, no_llm=True) as agent:
        agent.forget(user, event)
    print_json({"user": user, "forgotten": event}) if as_json else typer.echo(f"forgotten: {event}")


@app.command()
def erase(user: UserArg, home: Home = None, as_json: Json = False) -> None:
    """Delete everything about a user."""
    with open_agent(home, no_llm=True) as agent:
        agent.erase(user)
    print_json({"user": user, "erased": True}) if as_json else typer.echo(f"erased: {user}")


@app.command()
def reply(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Conversations, one a line; default: standard input.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=10, help="How many suggestions.")] = 3,
    draft: Annotated[str, typer.Option(help="What the agent has typed so far.")] = "",
    wish: Annotated[str, typer.Option(help="What the agent asks for: “shorter”, “in Chinese”, “offer …”.")] = "",
    unmask: Annotated[bool, typer.Option("--unmask", help="Put personal data back into what is printed.")] = False,
    home: Home = None,
    as_json: Json = False,
    no_llm: NoLlm = False,
) -> None:
    """Suggest replies: one conversation (or a customer's words) a line in, one answer a line out."""
    from whyfeed.ui.cli.reply import answer_lines

    with open_agent(home, no_llm=no_llm) as agent, bars() as progress:
        agent.desk.build(progress)
        failed = answer_lines(agent, file, k, draft=draft, wish=wish, unmask=unmask, as_json=as_json)
    if failed:
        raise typer.Exit(1)


@app.command()
def doctor(home: Home = None, as_json: Json = False) -> None:
    """Health: the home, the weights, memory and disk, each with what to do about it."""
    from whyfeed.agent.doctor import examine

    with open_agent(home) as agent:
        checks = examine(agent)
    if as_json:
        print_json([{"check": check.name, "ok": check.ok, "detail": check.detail} for check in checks])
    else:
        for check in checks:
            typer.echo(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}")
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


# ---- inside ----


def _fit(agent: Agent, progress: Callable[[str, int, int], None]) -> str:
    from whyfeed.finetune.ranking.fit import fit_agent

    return fit_agent(agent, progress).why


def _learn(agent: Agent, stopping: threading.Event) -> None:
    """Fit the reply ranker while the page already serves, when much has come since it was last fitted."""
    from whyfeed.finetune.desk.fit import fit_when_due
    from whyfeed.retrieval.errors import WhyfeedError

    def go_on(*_: object) -> None:
        if stopping.is_set():
            sys.exit()  # ends this thread alone; what was fitted so far is thrown away

    try:
        fit_when_due(agent, go_on)
    except WhyfeedError as exc:
        typer.echo(f"whyfeed: the desk goes on with the ranker it has: {exc}", err=True)


def _explain(home: Path | None, as_json: bool, ask: Callable[[Agent], Explanation]) -> None:
    with open_agent(home, no_llm=True) as agent:
        explanation = ask(agent)
    if as_json:
        print_json(explanation.to_json())
        return
    if explanation.reason is not None:
        typer.echo(explanation.reason.text)
    typer.echo(explanation.text)
    typer.echo(explanation.would_change)


def _mind_the_writer(agent: Agent) -> None:
    """Say why there are quotes where sentences could be, unless that was asked for."""
    state = agent.models.describe("writer")
    if state not in ("ready", "off"):
        typer.echo(f"the writer is {state}, so posts are quoted; `whyfeed models pull` fetches it", err=True)


def _print_answer(answer: Answer, agent: Agent) -> None:
    from whyfeed.retrieval.clock import format_time

    if answer.text:
        typer.echo(answer.text)
    names = agent.names([item.post.author for item in answer.items if item.post.author])
    for item in answer.items:
        written = format_time(item.post.created_at)
        detail = [
            item.post.community,
            names.get(item.post.author, ""),
            written[:10] if isinstance(written, str) else "",
        ]
        typer.echo(f"\n{item.rank}. {item.post.label}")
        typer.echo(f"   {' · '.join(part for part in detail if part)}  [{item.post.id}]")
        typer.echo(f"   {item.reason.text}")
        if item.post.url:
            typer.echo(f"   {item.post.url}")
    if not answer.items and not answer.text:
        typer.echo("nothing to show: everything has been seen, or the home is empty (whyfeed demo fills it)", err=True)
