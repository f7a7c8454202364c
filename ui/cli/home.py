"""Commands that manage a home: `demo`, `import`, `export`, `users`, `erase`, `doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whyfeed.ui.cli.terminal import Home, Json, UserArg, bars, imported, open_agent, print_json, tell

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent
    from whyfeed.retrieval.progress import Progress


def demo(home: Home = None, as_json: Json = False) -> None:
    """Import the demo communities and the demo desk, and build the index. Running it again changes nothing.

    Example: whyfeed demo
    """
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
        tell("{} posts and {} readers in {} ({})", state["posts"], state["users"], agent.home, outcome)


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder in the exchange format.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Import an exchange folder, all of it or nothing. Invalid rows are written to a rejects file.

    Example: whyfeed import my-community
    """
    with open_agent(home, no_llm=True) as agent:
        report = agent.import_folder(folder, imported)
        with bars() as progress:
            agent.build(progress)
    if as_json:
        print_json(report.to_json())
        return
    for name, count in report.counts.items():
        if count.read:
            tell("{}: {} of {} rows kept", name, count.kept, count.read)
    if report.rejects:
        tell("left out, with line and cause: {}", report.rejects, err=True)


def export(
    user: UserArg,
    out: Annotated[Path | None, typer.Option(help="Folder to create; default: whyfeed-USER.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write everything about a user to a folder in the exchange format.

    Example: whyfeed export alcohol:37 --out alcohol-37
    """
    with open_agent(home, no_llm=True) as agent:
        folder = agent.export(user, out)
    print_json({"user": user, "folder": str(folder)}) if as_json else tell("{}", str(folder))


def users(
    text: Annotated[str, typer.Argument(help="Part of a name or id to search for.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Largest number of users.")] = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List the users of the home, the most active first.

    Example: whyfeed users alcohol --limit 10
    """
    with open_agent(home, no_llm=True) as agent:
        members = agent.members(text, limit)
    if as_json:
        print_json([{"id": member.id, "name": member.name, "events": member.events} for member in members])
    else:
        for member in members:
            tell("{}\t{}\t{}", member.id, member.events, member.name)


def erase(
    user: Annotated[str | None, typer.Argument(metavar="[USER]", help="Id of the user.")] = None,
    conversation: Annotated[
        str | None, typer.Option(help="Instead of a user: id of a conversation of the service desk.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Delete everything about a user, or a conversation of the desk. Asks for confirmation when it runs in a terminal.

    In a pipe or a script (standard input is not a terminal) it deletes without asking, as with --yes.

    Example: whyfeed erase alcohol:37 --yes
    """
    if (user is None) == (conversation is None):
        raise ValueError("name either a user or --conversation ID")
    with open_agent(home, no_llm=True) as agent:
        if not yes and sys.stdin.isatty():
            # What is unknown is reported before the question.
            if conversation is not None:
                agent.desk.store.conversation(conversation)
            elif not agent.stores(user or ""):
                agent.user(user or "")
            # Not typer.confirm: it writes a space to standard output, which must only hold the result.
            what = user or f"the conversation {conversation}"
            tell("Delete everything about {}? [y/N] ", what, end="", err=True)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                tell("nothing was deleted", err=True)
                raise typer.Exit(1)
        if user is not None:
            agent.erase(user)
        else:
            agent.erase_conversation(conversation or "")
    erased = {"user": user} if user is not None else {"conversation": conversation}
    print_json({**erased, "erased": True}) if as_json else tell("erased: {}", user or conversation)


def doctor(home: Home = None, as_json: Json = False) -> None:
    """Check the databases, indexes, weights and models for damage, and say what to do about each problem.

    Reads every file and compares hashes, so it takes a while. Exits with 1 when anything is wrong.

    Example: whyfeed doctor
    """
    from whyfeed.agent.doctor import examine
    from whyfeed.agent.settings import Settings

    checks = examine(Settings() if home is None else Settings(home=home))
    if as_json:
        print_json([{"check": check.name, "ok": check.ok, "detail": check.detail} for check in checks])
    else:
        for check in checks:
            tell("{} {}: {}", "ok  " if check.ok else "FAIL", check.name, check.detail)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _fit(agent: Agent, progress: Progress) -> str:
    from whyfeed.finetune.ranking.fit import fit_agent

    return fit_agent(agent, progress).why
