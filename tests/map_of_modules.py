"""The parts of ARCHITECTURE.md that are made of the code: the map of modules, and the layers.

    python -m tests.map_of_modules           # print what would be written
    python -m tests.map_of_modules --write   # put it into ARCHITECTURE.md

Each part stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`; `tests/test_docs.py` holds them up to date.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

from tests.conftest import ROOT
from tests.test_structure import FOLDERS, LAYERS

PAGE = ROOT / "ARCHITECTURE.md"


def summary(path: Path) -> str:
    """The first line of a module's docstring, with what its sentence goes on to say on the next ones."""
    lines = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split("\n")
    text = lines[0]
    for line in lines[1:]:
        if text.endswith((".", "?", "!", ":")):
            break
        text = f"{text} {line}"
    return text


def map_of_modules() -> str:
    """A heading for each folder, with its modules under it, a line each."""
    return "\n".join(_map_lines()).strip()


def _map_lines() -> Iterator[str]:
    for name in FOLDERS:
        # A folder's own modules come before those of the folders in it.
        paths = sorted((ROOT / name).rglob("*.py"), key=lambda path: (path.parent.parts, path.name))
        for folder, inside in groupby(paths, key=lambda path: path.parent):
            yield from ("", f"**`{folder.relative_to(ROOT).as_posix()}/`**: {summary(folder / '__init__.py')}", "")
            for path in inside:
                if path.name != "__init__.py":
                    yield f"- `{path.relative_to(ROOT).as_posix()}` — {summary(path)}"


def layers() -> str:
    """The layers of `tests/test_structure.py`, the lowest first."""
    rows = (f"{number:2}  {', '.join(entries)}" for number, entries in enumerate(LAYERS, 1))
    return "\n".join(("```", *rows, "```"))


PARTS: Mapping[str, Callable[[], str]] = {"layers": layers, "map": map_of_modules}


def with_parts(page: str) -> str:
    """The page with every part as the code has it now; ValueError when it has no place for one."""
    for name, make in PARTS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, opened, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise ValueError(f"{PAGE.name} has no {begin} ... {end}")
        page = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(with_parts(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(layers(), map_of_modules(), sep="\n\n")
