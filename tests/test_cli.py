"""The command line: shapes, exit codes, one clear line for what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.checks import check_shape
from tests.conftest import RunCli
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
