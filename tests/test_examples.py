"""Every Python example of the documentation runs as it stands, on a home that holds the demo."""

from __future__ import annotations

import doctest
import gzip
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import CodeType

import pytest

from tests.conftest import EMBEDDER, ROOT
from whyfeed import Agent
from whyfeed.agent.demo import DESK_FOLDER, FOLDER

pytestmark = pytest.mark.slow

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")


@dataclass(frozen=True)
class Example:
    """One block: where it stands, its code, and whether it says that it cannot be run."""

    page: Path
    line: int
    code: str
    run: bool

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def examples() -> list[Example]:
    return [example for page in PAGES for example in of_page(page, page.read_text(encoding="utf-8"))]


def of_page(page: Path, text: str) -> Iterator[Example]:
    lines = text.split("\n")
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        before = lines[line - 2] if line > 1 else ""
        yield Example(page, line, match[1], NOT_RUN.fullmatch(before.strip()) is None)


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped communities and every tenth conversation of the shipped desk: masking all of them takes seconds."""
    desk = Path(shutil.copytree(DESK_FOLDER, tmp_path_factory.mktemp("examples") / "desk"))
    talks = desk / "conversations.jsonl.gz"
    with gzip.open(talks) as file:
        some = b"".join(islice(file, 0, None, 10))
    talks.unlink()
    (desk / "conversations.jsonl").write_bytes(some)
    home = desk.parent / "home"
    with Agent.open(home, embedder=EMBEDDER, no_llm=True) as agent:
        agent.import_folder(FOLDER)
        agent.import_folder(desk)
        agent.build()
        agent.desk.build()
    return home


@pytest.fixture
def reader(demo_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody who has run `whyfeed demo` and tries what they have read; returns the folder where they are."""
    home = tmp_path / ".local/share/whyfeed"
    shutil.copytree(demo_home, home)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WHYFEED_HOME", str(home))
    monkeypatch.setenv("WHYFEED_NO_LLM", "1")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("example", examples(), ids=str)
@pytest.mark.usefixtures("reader")
def test_an_example_runs(example: Example) -> None:
    code = compile_(example)
    if not example.run:
        pytest.skip("says itself that it cannot be run here")
    if ">>>" in example.code:
        parsed = doctest.DocTestParser().get_doctest(example.code, {"__name__": "__main__"}, str(example), None, 0)
        said: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        assert runner.run(parsed, out=said.append).failed == 0, "".join(said)
    else:
        exec(code, {"__name__": "__main__"})


def compile_(example: Example) -> CodeType:
    """The code of an example; also one that is not run must be Python."""
    code = example.code
    if ">>>" in code:
        code = "".join(part.source for part in doctest.DocTestParser().get_examples(code))
    compiled: CodeType = compile(code, str(example), "exec")
    return compiled


def test_the_documentation_has_examples() -> None:
    pages = {example.page.name for example in examples()}
    assert {"README.md", "python.md", "mcp.md"} <= pages
    assert sum(text.count("```python") for text in (page.read_text(encoding="utf-8") for page in PAGES)) == len(
        examples()
    )


def test_blocks_are_found_with_what_stands_before_them() -> None:
    text = (
        "a\n```python\n1\n```\n<!-- not run: needs a network -->\n```python\n2\n\n3\n```\n"
        "<!-- not run: -->\n```python\n4\n```\n"
    )
    found = list(of_page(Path("x.md"), text))
    assert [(one.line, one.code) for one in found] == [(2, "1\n"), (6, "2\n\n3\n"), (12, "4\n")]
    assert [one.run for one in found] == [True, False, True]
