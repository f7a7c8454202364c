"""Where modules stand, who may import whom, what a start may load, and how fast help appears."""

from __future__ import annotations

import ast
import os
import resource
import subprocess
import sys
from collections import Counter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = ("agent", "retrieval", "prompts", "finetune", "ui")

# Who may import whom, the lowest first. A module may import what stands in its own entry or in a lower layer; entries
# of one layer do not import each other, except modules (not folders) of one folder. The longest name counts.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("prompts",),
    (
        "retrieval.errors", "retrieval.words", "retrieval.language", "retrieval.clock", "retrieval.arrays",
        "retrieval.files", "retrieval.formula", "retrieval.post", "retrieval.user", "retrieval.event",
        "retrieval.progress", "retrieval.printable", "retrieval.lines",
    ),
    ("retrieval.privacy",),
    ("retrieval.store",),
    ("retrieval.community",),
    ("retrieval.desk",),
    ("retrieval.store.exchange",),  # rows of every table, those of the desk too
    (
        "agent.settings", "agent.request", "agent.trace", "agent.answer", "agent.phrases", "agent.registry",
        "agent.arguments", "agent.checkpoints", "agent.single_writer",
    ),
    ("agent.llm",),
    ("agent.encoder", "agent.understanding", "agent.recommend"),
    ("agent.reasons",),
    ("agent.runtime",),
    ("agent.chat", "agent.desk", "agent.batch"),
    ("agent.agent",),
    ("agent.operations", "agent.doctor", "agent.demo"),
    ("agent.langchain_tools",),
    ("finetune.evaluation",),
    ("finetune.config", "finetune.gate"),
    ("finetune.training",),
    ("finetune.ranking",),
    ("finetune.llm", "finetune.desk"),
    ("finetune.evaluation.measure",),  # measures what `finetune.ranking` fits, beside the baselines
    ("ui.http.access", "ui.http.connections", "ui.http.origins", "ui.http.server"),  # what every server has
    ("ui.page",),
    ("ui.http",),
    ("ui.mcp_server",),
    ("ui.cli",),
)  # fmt: skip
HEAVY = (
    "torch",
    "transformers",
    "gradio",
    "xllamacpp",
    "faiss",
    "langchain",
    "openai",
    "httpx",
    "huggingface_hub",
    "tokenizers",
    "scipy",
    "sentence_transformers",
)
LONGEST = 500  # lines of a module
MOST = 15  # modules of a folder


def name_of(path: Path) -> str:
    """As in `agent.chat.dialogue`: without `whyfeed`, which all have in common."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at load, inside a function or for a type checker."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide which folder is meant"
            # `from whyfeed.agent import checkpoints` may mean the module agent.checkpoints.
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {name for name in whole if name.removeprefix("whyfeed.") in MODULES}
            found |= known or {node.module or ""}
    return found


GRAPH = {
    name: {each.removeprefix("whyfeed.") for each in imports(path) if each.startswith("whyfeed.")} - {name}
    for name, path in MODULES.items()
}


def entry_of(name: str) -> tuple[int, str]:
    """The layer of a module, and its entry there."""
    fitting = [
        (layer, entry)
        for layer, entries in enumerate(LAYERS)
        for entry in entries
        if f"{name}.".startswith(f"{entry}.")
    ]
    assert fitting, f"{name} stands in no layer: put it into a room, or name it in LAYERS and ARCHITECTURE.md"
    return max(fitting, key=lambda pair: len(pair[1]))


def may_import(name: str, other: str) -> bool:
    (layer, entry), (other_layer, other_entry) = entry_of(name), entry_of(other)
    if layer != other_layer or entry == other_entry:
        return other_layer <= layer
    return not any((ROOT / each.replace(".", "/")).is_dir() for each in (entry, other_entry))


def test_a_module_imports_only_from_layers_below() -> None:
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py" and name != "prompts"}
    assert not [name for name in packages if GRAPH[name]], "an __init__ imports nothing of whyfeed"
    wrong = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        if name not in packages
        for other in sorted(others)
        if not may_import(name, other)
    ]
    print(f"imports against the rule: {len(wrong)}")
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for other in sorted(GRAPH.get(name, ())):
                visit(other, (*way, name))
            done.add(name)

    for name in GRAPH:
        visit(name, ())
    print("circles: 0")


def test_folders_and_modules_stay_small() -> None:
    counts = Counter(path.parent.relative_to(ROOT) for path in MODULES.values() if path.name != "__init__.py")
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    longest = max(lines, key=lambda name: lines[name])
    functions = {
        f"{name}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    slowest = max(functions, key=lambda name: functions[name])
    print("modules a folder:", ", ".join(f"{folder} {count}" for folder, count in sorted(counts.items())))
    print(f"longest module: {longest}, {lines[longest]} lines; longest function: {slowest}, {functions[slowest]} lines")
    assert max(counts.values()) <= MOST
    assert lines[longest] < LONGEST


def test_only_the_long_form_is_imported() -> None:
    """`import agent` would load a second copy of every class."""
    for path in [*MODULES.values(), *ROOT.glob("tests/*.py"), *ROOT.glob("benchmarks/*.py")]:
        short = {name for name in imports(path) if name.split(".")[0] in FOLDERS}
        assert not short, f"{path.relative_to(ROOT)}: {short}"


def test_whyfeed_alone_is_installed() -> None:
    owners = packages_distributions()
    assert [name for name, owned in owners.items() if "whyfeed" in owned] in ([], ["whyfeed"])
    assert set(owners.get("whyfeed", [])) <= {"whyfeed"}


def test_tests_import_nothing_from_benchmarks() -> None:
    for path in ROOT.glob("tests/*.py"):
        assert not [name for name in imports(path) if name.startswith("benchmarks")], path.name


def loaded_after(code: str) -> set[str]:
    """Names of the packages that are loaded after the code has run in a fresh interpreter."""
    script = f"{code}\nimport sys\nprint(*sorted(sys.modules), sep='\\n')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    output = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in output.stdout.split()}


@pytest.mark.parametrize("module", ["", ".agent", ".retrieval", ".prompts", ".finetune", ".ui", ".ui.cli.main"])
def test_importing_a_folder_loads_nothing_heavy(module: str) -> None:
    assert not loaded_after(f"import whyfeed{module}") & {*HEAVY, "numpy", "sqlite_utils"}


def test_opening_an_agent_loads_no_engine_and_no_page() -> None:
    code = (
        "import tempfile, pathlib\nfrom whyfeed import Agent\n"
        "with tempfile.TemporaryDirectory() as home:\n"
        "    Agent.open(pathlib.Path(home), embedder='hash-8', no_llm=True).close()\n"
    )
    assert not loaded_after(code) & {"torch", "transformers", "gradio", "xllamacpp", "openai", "langchain"}


def test_help_is_there_at_once() -> None:
    environment = {**os.environ, "WHYFEED_HOME": "/nowhere", "PYTHONPATH": str(ROOT / "src")}
    best = 1e9
    for _ in range(5):
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = subprocess.run(
            [sys.executable, "-m", "whyfeed", "--help"], env=environment, capture_output=True, text=True
        )
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time: what else the machine does says nothing about the program.
        best = min(best, end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
        assert output.returncode == 0
        assert "recommend" in output.stdout
    assert best < 0.5
    assert not Path("/nowhere").exists()


def test_assert_and_pickle_are_no_part_of_the_product() -> None:
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.Assert), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
                assert not names & {"pickle", "dill", "joblib", "cloudpickle"}, f"{path.name}:{node.lineno}"
