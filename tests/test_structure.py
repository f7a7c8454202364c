"""The rooms and who may enter which, what a start may load, and how fast help is there."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import ROOT

ROOMS = ("agent", "retrieval", "prompts", "finetune", "ui", "tests", "benchmarks")
MAY_IMPORT = {
    "retrieval": set[str](),
    "prompts": set[str](),
    "agent": {"retrieval", "prompts"},
    "finetune": {"agent", "retrieval", "prompts"},
    "ui": {"finetune", "agent", "retrieval", "prompts"},
}
HEAVY = (
    "torch",
    "transformers",
    "gradio",
    "xllamacpp",
    "faiss",
    "langchain",
    "openai",
    "scipy",
    "sentence_transformers",
)
LONGEST = 500  # lines of a module


def modules() -> list[Path]:
    return [path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which room is meant"
            found.add(node.module or "")
            # `from agent import ranker` may mean the module agent.ranker.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    paths = sorted((ROOT / room).rglob("*.py"))
    assert paths
    for path in paths:
        rooms = {name.split(".")[0] for name in imports(path)} & set(ROOMS)
        assert rooms <= MAY_IMPORT[room] | {room}, path.name


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Only what is imported when a module is loaded counts: an import within a function is there to break a circle."""
    known = {name_of(path) for path in modules()}
    graph: dict[str, set[str]] = {}
    for path in modules():
        found: set[str] = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= (whole & known) or {node.module or ""}
        graph[name_of(path)] = (found & known) - {name_of(path)}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_modules_stay_short() -> None:
    for path in modules():
        assert len(path.read_text(encoding="utf-8").splitlines()) < LONGEST, path.name


def test_nothing_that_is_installed_takes_the_name_of_a_room() -> None:
    owners = packages_distributions()
    for room in ROOMS:
        assert set(owners.get(room, [])) <= {"whyfeed"}, room


def loaded_after(code: str) -> set[str]:
    """Names of the modules that are loaded after the code has run in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(*sorted(sys.modules), sep='\\n')"
    output = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in output.stdout.split()}


@pytest.mark.parametrize("module", ["agent", "retrieval", "prompts", "finetune", "ui", "ui.cli"])
def test_importing_a_room_loads_nothing_heavy(module: str) -> None:
    assert not loaded_after(f"import {module}") & {*HEAVY, "numpy", "sqlite_utils"}


def test_opening_an_agent_loads_no_engine_and_no_page() -> None:
    code = (
        "import tempfile, pathlib\nfrom agent import Agent\n"
        "with tempfile.TemporaryDirectory() as home:\n"
        "    Agent.open(pathlib.Path(home), embedder='hash-8', no_llm=True).close()\n"
    )
    assert not loaded_after(code) & {"torch", "transformers", "gradio", "xllamacpp", "openai", "langchain"}


def test_help_is_there_at_once() -> None:
    environment = {**os.environ, "WHYFEED_HOME": "/nowhere"}
    best = 1e9
    for _ in range(5):
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = subprocess.run(
            [sys.executable, "-m", "ui.cli", "--help"], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time: what else the machine does says nothing about the program.
        best = min(best, end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
        assert output.returncode == 0
        assert "recommend" in output.stdout
    assert best < 0.5
    assert not Path("/nowhere").exists()


def test_assert_and_print_are_no_part_of_the_product() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.Assert), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                assert not names & {"pickle", "dill", "joblib", "cloudpickle"}, f"{path.name}:{node.lineno}"
