"""What users wrote cannot steer a terminal, forge a line of output, or reorder what stands beside it."""

from __future__ import annotations

import ast
import json
import logging
import os
import pty
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import EMBEDDER, ROOT, RunCli
from tests.world import write_rows
from whyfeed.retrieval.printable import json_line
from whyfeed.ui.cli.terminal import LogFormatter, tell, tell_text

REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
HOSTILE = "\x1b[2J\x9b31m\r\n1. Forged \u202e\u2066\u2028[bold]red[/bold] [link=https://evil.example]x[/link]\x07\x08"
HEBREW = "שלום עולם"
WILD = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\x1b\x9b\r\n\t\x85\u2028\u202e\u2066\u2069{}[]\x00\x7fא"),
    )
)


def steering(text: str) -> list[str]:
    """Characters of an output that steer a terminal; line ends are the program's own."""
    return [char for char in text if unicodedata.category(char) in ("Cc", "Zl", "Zp") and char not in "\n"]


def reordering(text: str) -> list[str]:
    return [char for char in text if unicodedata.bidirectional(char) in REORDERING]


@given(WILD, WILD)
def test_a_value_stays_on_its_line(first: str, second: str) -> None:
    printed = captured(lambda: tell("{}. {:8} [{}]", 1, first, second))
    assert printed.count("\n") == 1
    assert printed.endswith("]\n")
    assert not steering(printed) + reordering(printed)
    assert not [char for char in printed if 0xD800 <= ord(char) < 0xE000]


@given(WILD)
def test_a_long_text_forges_no_entry(text: str) -> None:
    first, *others = captured(lambda: tell_text(text, "1. ")).rstrip("\n").split("\n")
    assert first.startswith("1. ")
    assert all(line.startswith("   | ") for line in others)
    assert not steering(first.join(others)) + reordering(first.join(others))


@given(st.recursive(WILD | st.integers(), lambda each: st.lists(each) | st.dictionaries(WILD, each), max_leaves=5))
def test_json_stays_json_and_is_safe_to_print(document: Any) -> None:
    line = json_line(document)
    assert json.loads(line) == document
    assert not steering(line) + reordering(line)
    assert "\n" not in line
    line.encode()


@given(WILD)
def test_a_log_record_is_one_entry(text: str) -> None:
    record = logging.LogRecord("whyfeed", logging.WARNING, "", 0, "odd name: %s", (text,), None)
    first, *others = LogFormatter().format(record).split("\n")
    assert first.startswith("odd name: ")
    assert all(line.startswith("  ") for line in others)
    assert not steering(first.join(others)) + reordering(first.join(others))


def captured(print_it: Any) -> str:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as shown:
        print_it()
    return shown.getvalue()


def at_a_terminal(home: Path, *arguments: str) -> str:
    """What a terminal gets to see, standard output and standard error."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        done = subprocess.Popen(
            [sys.executable, "-m", "whyfeed", *arguments],
            stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, cwd=ROOT,
            env={
                **os.environ, "PYTHONPATH": str(ROOT / "src"), "WHYFEED_HOME": str(home), "WHYFEED_EMBEDDER": EMBEDDER,
                "WHYFEED_NO_LLM": "1", "TERM": "dumb",
            },
        )  # fmt: skip
        os.close(theirs)
        shown = b""
        try:
            while more := terminal.read(4096):
                shown += more
        except OSError:  # the other end is closed
            pass
        done.wait(timeout=60)
    return shown.decode().replace("\r\n", "\n")  # the terminal's own line ends


@pytest.fixture
def hostile_home(tmp_path: Path, run_cli: RunCli) -> Path:
    """A home whose titles, names, ids and URLs are hostile, and one that is Hebrew."""
    folder, home = tmp_path / "in", tmp_path / "hostile"
    posts = [
        {
            "id": f"p{number}{HOSTILE[4:]}", "title": f"{words} {HOSTILE}", "text": f"A {words}. {HOSTILE}",
            "url": f"https://example.org/{number}{HOSTILE}", "author": f"a{number}", "community": f"sea{HOSTILE}",
        }
        for number, words in enumerate(("Sailing knots", "Mooring buoys in harbours", "Jib sheets"))
    ]  # fmt: skip
    posts.append({"id": "hebrew", "title": HEBREW, "text": "A bowline in Hebrew.", "author": "a\x9b"})
    write_rows(folder / "posts.jsonl", posts)
    write_rows(folder / "users.jsonl", [{"id": "u1", "name": f"Reader {HOSTILE}"}, {"id": "a\x9b", "name": HOSTILE}])
    write_rows(folder / "interactions.jsonl", [{"user": "u1", "post": posts[0]["id"], "kind": "like", "time": 1.6e9}])
    write_rows(folder / "links.jsonl", [{"head": HOSTILE}])
    assert run_cli("import", str(folder), "--home", str(home)).returncode == 0
    return home


@pytest.mark.parametrize(
    ("arguments", "entries"),
    [
        (["recommend", "u1", "-k", "3"], 3),
        (["users"], 2),
        (["finetune", "ask", "-k", "2"], 2),
        (["why-not", "u1", "p0"], 0),
        (["recommend", HOSTILE], 0),
        (["export", "u1", "--out", "/proc/\x1b[2J\u202e"], 0),
        (["models", "use", "x", "\x9b31m"], 0),
        ([f"--{HOSTILE}"], 0),
    ],
)
def test_a_terminal_gets_no_hostile_character(hostile_home: Path, arguments: list[str], entries: int) -> None:
    shown = at_a_terminal(hostile_home, *(each.replace("\x00", "") for each in arguments))
    assert shown.strip()
    assert not [char for char in steering(shown) if char not in "\t\r"], shown
    assert not [char for char in reordering(shown) if char not in "\u2068\u2069"]
    assert not [line for line in shown.split("\n") if line.startswith("1. Forged")]
    assert "\r1. Forged" not in shown
    assert "Traceback" not in shown
    if arguments[0] == "recommend" and entries:
        assert sum(line[:3] in ("1. ", "2. ", "3. ") for line in shown.split("\n")) == entries
        assert "[bold]red[/bold]" in shown
    elif entries:
        assert len(shown.rstrip().split("\n")) == entries


def test_right_to_left_text_stays_readable_and_is_isolated(hostile_home: Path) -> None:
    assert f"\u2068{HEBREW}\u2069" in at_a_terminal(hostile_home, "recommend", "u1", "-k", "5")


def test_rejects_are_safe_to_look_at(hostile_home: Path) -> None:
    (rejects,) = (hostile_home / "rejects").iterdir()
    text = rejects.read_text(encoding="utf-8")
    assert json.loads(text)["row"] == {"head": HOSTILE}
    assert not steering(text) + reordering(text)


def test_json_has_the_title_as_it_is(run_cli: RunCli, hostile_home: Path) -> None:
    done = run_cli("recommend", "u1", "--json", "--home", str(hostile_home))
    title = json.loads(done.stdout)["items"][0]["post"]["title"]
    assert "\u202e" in title or HEBREW in title
    assert not steering(done.stdout) + reordering(done.stdout)


def test_commands_print_only_through_the_terminal_module() -> None:
    """`tell` can keep a value in its place only if the template holds none."""
    for path in (ROOT / "ui" / "cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name == "tell":
                assert isinstance(node.args[0], ast.Constant), f"{path.name}:{node.lineno}"
            elif path.name != "terminal.py":
                assert name not in ("typer.echo", "typer.secho", "print", "sys.stdout.write", "sys.stderr.write"), (
                    f"{path.name}:{node.lineno}"
                )
