"""The documentation names what exists: commands, options, settings, modules, links, imports, the map of modules."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from tests.conftest import ROOT
from tests.map_of_modules import PAGE, summary, with_parts
from tests.test_structure import FOLDERS, MODULES
from whyfeed.agent.settings import Settings
from whyfeed.ui.cli.main import app

PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
COMMAND: Any = typer.main.get_command(app)
TO_COME = re.compile(r"<!-- to come: begin -->(.*?)<!-- to come: end -->", re.DOTALL)
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
# At the start of a line or span, after a pipe, or after variables that are set for it.
CALL = re.compile(r"(?:^|\| *)(?:[A-Z_]+=\S+ +)*whyfeed +([a-z][a-z-]*)(?=[\s`]|$)([^|#\n]*)", re.MULTILINE)
FILE = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)}|tests|benchmarks|src|deploy|docs)/(?:[\w./-]*[\w/])?")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [body for found, body in BLOCK.findall(page) if found == language]


def spans(page: str) -> list[str]:
    return SPAN.findall(BLOCK.sub("", page))


def calls(page: str) -> Iterator[tuple[str, str]]:
    """Every command that a page tells the reader to run: its name, and the rest of the line."""
    for text in [*blocks(page, "sh"), *spans(page)]:
        yield from CALL.findall(text)


def subcommand(name: str, rest: str) -> Any:
    """The command that is called, with its group; None when there is no such command."""
    found = COMMAND.commands.get(name)
    if isinstance(found, TyperGroup) and (word := re.match(r" +([a-z]+)", rest)):
        return found.commands.get(word[1])
    return found


def anchors(page: str) -> set[str]:
    """What GitHub makes of the headings."""
    heads = re.findall(r"^#+ (.*)$", BLOCK.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_the_readme_is_short() -> None:
    assert len(text_of(ROOT / "README.md").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_exists_with_its_options(page: Path) -> None:
    for name, rest in calls(text_of(page)):
        command = subcommand(name, rest)
        assert command is not None, f"whyfeed {name}{rest}"
        known = {option for parameter in command.params for option in parameter.opts}
        unknown = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) - known - {"--help"}
        assert not unknown, f"whyfeed {name}{rest}: {unknown}"


def test_every_command_is_documented() -> None:
    named = set()
    for page in PAGES:
        for name, rest in calls(text_of(page)):
            word = re.match(r" +([a-z]+)", rest)
            named |= {name, f"{name} {word[1]}" if word else name}
    for name, command in COMMAND.commands.items():
        inside = command.commands if isinstance(command, TyperGroup) else {}
        missing = {name, *(f"{name} {each}" for each in inside)} - named
        assert not missing


def test_every_setting_is_documented_with_its_default() -> None:
    rows = [line for line in text_of(ROOT / "docs" / "configuration.md").splitlines() if line.startswith("| `WHYFEED_")]
    named = {name: row for row in rows for name in re.findall(r"`(WHYFEED_\w+)`", row.split(" | ")[0])}
    for name, field in Settings.model_fields.items():
        row = named.get(f"WHYFEED_{name.upper()}")
        assert row is not None, name
        default = field.default
        words = {"": "none", False: "off"}.get(default, f"{default:g}" if isinstance(default, float) else f"{default}")
        assert row.split(" | ")[1].strip("` ") == words, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for target in LINK.findall(BLOCK.sub("", text_of(page))):
        if not re.match(r"https?:", target):
            file, _, anchor = target.partition("#")
            place = (page.parent / file).resolve() if file else page
            assert place.is_file(), target
            assert not anchor or anchor in anchors(text_of(place)), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = TO_COME.sub("", text_of(page))
    for name in FILE.findall(text):
        if not re.search("NAME|LANG", name):
            assert (ROOT / name).exists(), name


def test_what_is_to_come_is_not_there_yet() -> None:
    told = {page: "".join(TO_COME.findall(text_of(page))) for page in PAGES}
    assert told[PAGE]
    for page, text in told.items():
        for name in (name for name in spans(text) if "/" in name):
            assert not (ROOT / name).exists(), f"{name} is there: say so in {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_names_that_are_imported_exist(page: Path) -> None:
    for code in blocks(text_of(page), "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                assert not [alias for alias in node.names if alias.name.split(".")[0] in FOLDERS]
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.split(".")[0] not in FOLDERS, node.module
                if node.module.split(".")[0] == "whyfeed":
                    module = importlib.import_module(node.module)
                    assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]
    for name in spans(text_of(page)):
        if match := re.fullmatch(r"(whyfeed(?:\.[a-z_]+)*)\.([A-Z]\w+)", name):
            assert hasattr(importlib.import_module(match[1]), match[2]), name


def test_the_map_of_modules_and_the_layers_are_up_to_date() -> None:
    page = text_of(PAGE)
    assert with_parts(page) == page, "run: python -m tests.map_of_modules --write"
    for path in MODULES.values():
        assert summary(path), f"{path} needs a docstring"


def test_what_is_checked_is_found() -> None:
    """The patterns above find what they are meant to find."""
    page = (
        "Run `whyfeed models pull x` or\n"
        '```sh\nA=b whyfeed ui --port 1  # and more\necho "x" | whyfeed reply -k 3\n```\n'
        "and `whyfeed` of [this](docs/a.md#b) in `agent/x/y.py`.\n"
    )
    assert [(name, rest.split()) for name, rest in calls(page)] == [
        ("ui", ["--port", "1"]), ("reply", ["-k", "3"]), ("models", ["pull", "x"]),
    ]  # fmt: skip
    assert FILE.findall(page) == ["docs/a.md", "agent/x/y.py"]
    assert LINK.findall(page) == ["docs/a.md#b"]
    assert anchors("# What was measured, and what was not\n```sh\n# no\n```\n") == {
        "what-was-measured-and-what-was-not"
    }
