"""The command line's entry point: assembles the commands and prints errors as one line.

Heavy imports happen only in the commands that need them, so that --help is fast. Standard output holds the result (with
--json: one JSON document, or one per line for `chat`); everything else goes to standard error. Exit codes: 0 success, 1
failure, 2 wrong usage.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from whyfeed.ui.cli import backup, batch, desk, home, keys, models, reading, serving, training
from whyfeed.ui.cli.terminal import LogFormatter, PrintableErrors, fail, tell

# The panels of --help, in this order.
_COMMANDS: tuple[tuple[str, tuple[Callable[..., None], ...]], ...] = (
    ("Read", (reading.recommend, reading.chat, reading.why, reading.why_not, reading.feedback, reading.forget)),
    ("Data", (home.demo, home.import_, home.export, home.users, home.erase)),
    ("Desk", (desk.reply,)),
    ("Serve", (serving.ui, serving.serve, serving.serve_llm, serving.mcp)),
    ("Learn", (training.evaluate,)),
    ("Operate", (batch.batch, backup.backup, backup.restore, home.doctor)),
)
_GROUPS = (
    ("Serve", "keys", keys.keys_app),
    ("Learn", "finetune", training.finetune_app),
    ("Operate", "models", models.models_app),
)

app = typer.Typer(name="whyfeed", cls=PrintableErrors, no_args_is_help=True, pretty_exceptions_enable=False)
for _panel, _commands in _COMMANDS:
    for _command in _commands:
        app.command(_command.__name__.strip("_").replace("_", "-"), rich_help_panel=_panel)(_command)
for _panel, _name, _group in _GROUPS:
    app.add_typer(_group, name=_name, rich_help_panel=_panel)


def _show_version(wanted: bool) -> None:
    if wanted:
        from whyfeed import __version__

        tell("whyfeed {}", __version__)
        raise typer.Exit


@app.callback()
def whyfeed(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Answer “what should I read?” with real posts, and with reasons that can be checked.

    Example: whyfeed demo
    """


def main() -> None:
    """Run a command; expected errors become one line on standard error."""
    from whyfeed.retrieval.errors import WhyfeedError

    if logging.lastResort is not None:  # prints the warnings of libraries and of whyfeed while no logging is set up
        logging.lastResort.setFormatter(LogFormatter())
    try:
        try:
            app()
        except SystemExit:
            sys.stdout.flush()  # here, where a full disk can still be told
            raise
    except WhyfeedError as exc:
        fail(str(exc), 1)
    except ValueError as exc:
        fail(str(exc), 2)
    except BrokenPipeError:
        _give_up_output()
        sys.exit(1)
    except sqlite3.Error as exc:
        fail(f"the home's database: {exc}; `whyfeed doctor` looks what is wrong", 1)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            _give_up_output()
            where = "the output" if exc.filename is None else repr(exc.filename)
            fail(f"cannot write {where}: {exc.strerror}; free some space and try again", 1)
        fail(f"{exc.filename or 'the machine'}: {exc.strerror or exc}", 1)


def _give_up_output() -> None:
    """Discard what could not be written, so that Python does not try once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
