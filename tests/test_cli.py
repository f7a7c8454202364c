"""The command line: shapes, exit codes, one clear line for what goes wrong."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.checks import check_shape
from tests.conftest import EMBEDDER, ROOT, RunCli
from tests.world import World, write_rows
from whyfeed.ui.cli.main import app


def test_recommend_prints_one_document(run_cli: RunCli, world: World) -> None:
    user = next(iter(world.tastes))
    done = run_cli("recommend", user, "-k", "5", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    check_shape(document, "recommend")
    assert len(document["items"]) == 5


def test_chat_answers_a_line_with_a_line(run_cli: RunCli, world: World) -> None:
    user = next(iter(world.tastes))
    done = run_cli("chat", user, "--json", input="What should I read?\nless tomato\n\n换一批\n")
    assert done.returncode == 0, done.stderr
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(documents) == 4
    for document in documents:
        check_shape(document, "chat")
    assert documents[1]["request"]["exclude"] == ["tomato"]


def test_finetune_ask_names_posts_that_the_reader_has_not_acted_on(run_cli: RunCli, world: World) -> None:
    done = run_cli("finetune", "ask", user := next(iter(world.tastes)), "-k", "3", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 3
    assert found[0]["lowers"] >= found[1]["lowers"] >= found[2]["lowers"] > 0
    assert all(each["text"] for each in found)
    done = run_cli("finetune", "ask", "-k", "2")
    assert len(done.stdout.splitlines()) == 2
    assert user not in done.stdout


def test_the_text_form_is_for_people(run_cli: RunCli, world: World) -> None:
    done = run_cli("recommend", next(iter(world.tastes)))
    assert done.returncode == 0
    assert "1. " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["recommend", "nobody"], 1, "nobody"),
        (["recommend"], 2, "USER"),
        (["recommend", "u", "-k", "0"], 2, "-k"),
        (["recommend", "u", "--kind", "song"], 2, "song"),
        (["recommend", "u", "--as-of", "yesterday"], 2, "yesterday"),
        (["nonsense"], 2, "nonsense"),
        (["import", "/no/such/folder"], 1, "not a folder"),
        (["feedback", "nobody", "p", "like"], 1, "nobody"),
        (["models", "pull", "no-such-model"], 2, "no-such-model"),
        (["finetune", "llm", "--as", "poem"], 2, "poem"),
        (["finetune", "llm", "--data", "/no/such/folder"], 1, "not a folder"),
        (["finetune", "click", "--data", "/no/such/folder"], 1, "not a folder"),
        (["finetune", "embed", "--unsupervised", "--debias"], 2, "debias"),
        (["finetune", "ask", "nobody"], 1, "nobody"),
    ],
)
def test_failures_are_one_clear_line(run_cli: RunCli, arguments: list[str], code: int, text: str) -> None:
    done = run_cli(*arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_import_counts_and_names_its_rejects(run_cli: RunCli, tmp_path: Path) -> None:
    write_rows(tmp_path / "in" / "posts.jsonl", [{"id": "n1", "title": "new"}, {"title": "no id"}])
    done = run_cli("import", str(tmp_path / "in"), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["posts"] == {"read": 2, "kept": 1, "rejected": 1}
    assert json.loads(Path(report["rejects"]).read_text())["line"] == 2


def test_feedback_why_and_forget_go_together(run_cli: RunCli, world: World) -> None:
    user = next(iter(world.tastes))
    first = json.loads(run_cli("recommend", user, "--json").stdout)["items"][0]["post"]["id"]
    event = run_cli("feedback", user, first, "hide").stdout.strip()
    assert json.loads(run_cli("why-not", user, first, "--json").stdout)["removed"] == {
        "stage": "filter",
        "reason": "hidden",
    }
    assert run_cli("forget", user, event).returncode == 0
    assert json.loads(run_cli("recommend", user, "--json").stdout)["items"][0]["post"]["id"] == first
    assert json.loads(run_cli("why", user, first, "--json").stdout)["shown"]


def test_a_home_of_a_newer_version_is_left_alone(run_cli: RunCli, home: Path) -> None:
    import sqlite3

    with sqlite3.connect(home / "whyfeed.db") as db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('whyfeed', 'm999_later', '')"
        )
    done = run_cli("users")
    assert done.returncode == 1
    assert "newer" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_every_command_has_help_and_stands_in_the_readme() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    commands = [
        command.name or command.callback.__name__.strip("_") for command in app.registered_commands if command.callback
    ]
    commands += [f"{group.name}" for group in app.registered_groups]
    for command in commands:
        result = CliRunner().invoke(app, [command, "--help"])
        assert result.exit_code == 0
        assert f"whyfeed {command}" in readme, command


def commands(command: Any, path: tuple[str, ...] = ("whyfeed",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it, sub-commands too."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


def called(line: str) -> tuple[str, ...]:
    """The command that a command line names, when its options and arguments are fit for it; nothing is run."""
    command: Any = typer.main.get_command(app)
    name, *words = shlex.split(line)
    context, path = command.make_context(name, words), (name,)
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        context, path = command.make_context(name, words, parent=context), (*path, name)
    return path


@pytest.mark.parametrize(
    ("path", "command"), commands(typer.main.get_command(app)), ids=lambda each: isinstance(each, tuple) and each[-1]
)
def test_help_shows_an_example_that_can_be_called(path: tuple[str, ...], command: Any) -> None:
    shown = CliRunner().invoke(app, [*path[1:], "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    examples = re.findall(r"Example: (whyfeed .*)", command.help)
    assert examples
    for example in examples:
        assert f"Example: {example}" in shown.output
        found = called(example)
        assert found[: len(path)] == path or path == ("whyfeed",)


@pytest.mark.parametrize(
    "line", ["whyfeed recomend u", "whyfeed recommend", "whyfeed batch --everyone", "whyfeed keys"]
)
def test_a_wrong_example_would_be_found(line: str) -> None:
    with pytest.raises((Exception, SystemExit)):
        called(line)


def test_help_shows_the_commands_in_groups() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).output
    places = [shown.index(f"─ {group} ") for group in ("Read", "Data", "Desk", "Serve", "Learn", "Operate")]
    assert places == sorted(places)
    assert "─ Commands ─" not in shown


def test_the_version_is_the_package_s() -> None:
    import whyfeed

    assert CliRunner().invoke(app, ["--version"]).output == f"whyfeed {whyfeed.__version__}\n"


def test_a_shell_completes_commands_and_options() -> None:
    def completed(*words: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", "import sys; sys.argv[0] = 'whyfeed'\nfrom whyfeed.ui.cli.main import main; main()"],
            env={
                **os.environ, "PYTHONPATH": str(ROOT / "src"), "_WHYFEED_COMPLETE": "complete_bash",
                "COMP_WORDS": " ".join(("whyfeed", *words)), "COMP_CWORD": str(len(words)),
            },
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        return done.stdout.split()

    assert completed("re") == ["recommend", "reply", "restore"]
    assert completed("keys", "") == ["add", "list", "remove"]
    assert "--query" in completed("recommend", "--q")


def at_a_terminal(home: Path, typed: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and what the terminal shows of a run whose standard input and error are a terminal."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb+", buffering=0) as terminal:
        done = subprocess.Popen(
            [sys.executable, "-m", "whyfeed", *arguments],
            stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, cwd=ROOT, text=True,
            env={
                **os.environ, "PYTHONPATH": str(ROOT / "src"), "WHYFEED_HOME": str(home), "WHYFEED_EMBEDDER": EMBEDDER,
                "WHYFEED_NO_LLM": "1",
            },
        )  # fmt: skip
        os.close(theirs)
        terminal.write(typed.encode())
        output, _ = done.communicate(timeout=60)
        shown = b""
        try:
            while more := terminal.read(4096):
                shown += more
        except OSError:  # the other end is closed
            pass
    return done.returncode, output, shown.decode()


def test_erase_asks_at_a_terminal(run_cli: RunCli, home: Path, world: World) -> None:
    first, second, third = list(world.tastes)[:3]
    for answer in ("n\n", "\n"):
        code, output, shown = at_a_terminal(home, answer, "erase", first)
        assert (code, output) == (1, "")
        assert f"Delete everything about {first}? [y/N]" in shown
    assert run_cli("recommend", first).returncode == 0
    assert at_a_terminal(home, "y\n", "erase", first)[:2] == (0, f"erased: {first}\n")
    code, output, shown = at_a_terminal(home, "", "erase", second, "--yes")
    assert (code, output) == (0, f"erased: {second}\n")
    assert "[y/N]" not in shown
    code, _, shown = at_a_terminal(home, "", "erase", "nobody")
    assert (code, "[y/N]" in shown) == (1, False)
    assert run_cli("recommend", first).returncode == run_cli("recommend", second).returncode == 1
    assert run_cli("recommend", third).returncode == 0


def test_erase_in_a_script_asks_nothing(run_cli: RunCli, world: World) -> None:
    user = next(iter(world.tastes))
    done = run_cli("erase", user, "--json", input="")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"user": user, "erased": True})
    assert "[y/N]" not in done.stderr
    assert run_cli("recommend", user).returncode == 1
