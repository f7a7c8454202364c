"""Shared parts of the commands: options, opening a home, progress, and printing of results and errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from whyfeed.agent.agent import Agent

Home = Annotated[
    Path | None, typer.Option("--home", envvar="WHYFEED_HOME", help="The home folder.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
NoLlm = Annotated[bool, typer.Option("--no-llm", help="Use rules, quotes and templates instead of a language model.")]
LlmRank = Annotated[bool, typer.Option("--llm-rank", help="Compute and show the LLM's P(engage).")]
UserArg = Annotated[str, typer.Argument(metavar="USER", help="Id of the user.")]
PostArg = Annotated[str, typer.Argument(metavar="POST", help="Id of the post.")]


@contextmanager
def open_agent(home: Path | None, *, no_llm: bool = False) -> Iterator[Agent]:
    """An agent on a home, closed at the end."""
    from whyfeed.agent.agent import Agent

    settings: dict[str, Any] = {"no_llm": True} if no_llm else {}
    with Agent.open(home, **settings) as agent:
        yield agent


def read_lines(asked: bool) -> Iterator[str]:
    """The lines of standard input, with a prompt if it is a terminal."""
    while True:
        if asked:
            typer.echo("> ", nl=False, err=True)
        line = sys.stdin.buffer.readline(1_000_000)
        if not line:
            return
        yield line.decode("utf-8", errors="replace").rstrip("\r\n")


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(document, ensure_ascii=False), flush=True)  # noqa: T201


def fail(message: str, code: int) -> None:
    """Exit with one line on standard error."""
    typer.echo(f"whyfeed: {' '.join(message.split())}", err=True)
    sys.exit(code)


def imported(name: str, rows: int) -> None:
    """Show the progress of an import if standard error is a terminal."""
    if sys.stderr.isatty():
        typer.echo(f"\rimporting {name}: {rows} rows", nl=False, err=True)
        typer.echo("", err=True) if rows % 1000 else None


class Bars:
    """Progress on standard error: call it with a count, or `bytes` with a number of bytes."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """`done` of `total` items are done."""
        self._show(what, done, total, f"{done}/{total}")

    def bytes(self, what: str, done: int, total: int) -> None:
        """`done` of `total` bytes are done."""
        self._show(what, done, total, f"{done / 1e6:.0f}/{total / 1e6:.0f} MB")

    def _show(self, what: str, done: int, total: int, amount: str) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._shown.add_task(what, total=total, amount=amount)
        self._shown.update(self._tasks[what], completed=done, total=total, amount=amount)
        tenth = 10 * done // total if total else 10
        if not self._shown.console.is_terminal and tenth > self._said.get(what, 0):
            self._said[what] = tenth
            typer.echo(f"{what}: {10 * tenth} %", err=True)


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars in one display; without a terminal a line for each tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as shown:  # fmt: skip
        yield Bars(shown)


def tell_first_key(secret: str) -> None:
    """Show the key that was created because there was none; it cannot be shown again."""
    typer.echo(f"a first key, with every right, shown only now: {secret}", err=True)
