"""Shared parts of the commands: options, opening a home, progress, and printing of results and errors.

Everything that a command prints goes through `tell` or `print_json`, so that no title, name, id or URL can steer the
terminal, forge a line, or reorder the text beside it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from whyfeed.retrieval.printable import isolated, json_line, printable

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
            tell("> ", end="", err=True)
        line = sys.stdin.buffer.readline(1_000_000)
        if not line:
            return
        yield line.decode("utf-8", errors="replace").rstrip("\r\n")


def tell(template: str, *values: object, err: bool = False, end: str = "\n") -> None:
    """Print one entry: a literal template (`str.format`), in which each value stays within its place and line.

    At a terminal, a value with right-to-left letters is isolated, so that it does not reorder its neighbours. Numbers
    keep their type, for format specifications.
    """
    at_terminal = (sys.stderr if err else sys.stdout).isatty()

    def shown(value: object) -> object:
        if isinstance(value, int | float):
            return value
        text = printable(str(value))
        return isolated(text) if at_terminal else text

    typer.echo(template.format(*map(shown, values)) + end, nl=False, err=err)


def tell_text(text: str, before: str = "") -> None:
    """Print a text of several lines after `before`; further lines are marked, so that none looks like a new entry."""
    first, *others = text.splitlines() or [""]
    tell("{}{}", before, first)
    for line in others:
        tell("   | {}", line)


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    print(json_line(document), flush=True)  # noqa: T201


def fail(message: str, code: int) -> None:
    """Exit with one line on standard error."""
    tell("whyfeed: {}", " ".join(message.split()), err=True)
    sys.exit(code)


class PrintableErrors(TyperGroup):
    """Makes the messages of usage errors printable: they repeat the arguments that were given."""

    def make_context(self, *given: Any, **named: Any) -> Any:
        """See `TyperGroup`."""
        with _printable_message():
            return super().make_context(*given, **named)

    def invoke(self, ctx: Any) -> Any:
        """See `TyperGroup`."""
        with _printable_message():
            return super().invoke(ctx)


@contextmanager
def _printable_message() -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        if isinstance(message := getattr(exc, "message", None), str):
            exc.message = printable(message)  # type: ignore[attr-defined]
        raise


class LogFormatter(logging.Formatter):
    """Makes log records printable."""

    def format(self, record: logging.LogRecord) -> str:
        """The record; further lines are indented, so that none of them looks like a record."""
        return "\n  ".join(map(printable, super().format(record).split("\n")))


def imported(name: str, rows: int) -> None:
    """Show the progress of an import if standard error is a terminal."""
    if sys.stderr.isatty():
        tell("\rimporting {}: {} rows", name, rows, end="" if rows % 1000 == 0 else "\n", err=True)


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
        what = printable(what)
        if what not in self._tasks:
            self._tasks[what] = self._shown.add_task(what, total=total, amount=amount)
        self._shown.update(self._tasks[what], completed=done, total=total, amount=amount)
        tenth = 10 * done // total if total else 10
        if not self._shown.console.is_terminal and tenth > self._said.get(what, 0):
            self._said[what] = tenth
            tell("{}: {} %", what, 10 * tenth, err=True)


@contextmanager
def bars() -> Iterator[Bars]:
    """Progress bars in one display; without a terminal a line for each tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
    ) as shown:  # fmt: skip
        yield Bars(shown)


def tell_first_key(secret: str) -> None:
    """Show the key that was created because there was none; it cannot be shown again."""
    tell("a first key, with every right, shown only now: {}", secret, err=True)
