"""What is installed: one package with its data files and types, the same from the repository and from an sdist."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # mypy takes minutes where the machine is busy
FOLDERS = ("agent", "retrieval", "prompts", "finetune", "ui")
TYPED = """\
import whyfeed
answer: whyfeed.Answer = whyfeed.Agent.open("home").recommend("u", 5)
print(answer.items[0].reason.text)
"""


def run(*arguments: str | Path, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    """Without the repository on the way to modules, unless `path` names it."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    environment |= {"PYTHONPATH": path} if path else {}
    return subprocess.run(
        [str(each) for each in arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=800
    )


def copied(to: Path) -> Path:
    """The repository's files in another folder; links stay links."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    assert listed.returncode == 0, listed.stderr
    for name in filter(None, listed.stdout.split("\0")):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, to / name, follow_symlinks=False)
    return to


def built(what: str, source: Path, out: Path) -> Path:
    """A `wheel` or an `sdist` of a source folder, by the build backend that pyproject.toml names."""
    out.mkdir(exist_ok=True)
    code = f"import sys; from setuptools import build_meta; build_meta.build_{what}(sys.argv[1])"
    done = run(sys.executable, "-c", code, out, cwd=source)
    assert done.returncode == 0, done.stderr
    [found] = out.iterdir()
    return found


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as opened:
        return set(opened.namelist())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the wheel, and what whyfeed depends on from where the tests have it."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=True)
    [site] = home.glob("lib/python*/site-packages")
    ours = [each for each in sys.path if each.endswith("site-packages")]
    # Folders that a .pth names are searched, but their own .pth files, so that of an editable install, are not read.
    (site / "dependencies.pth").write_text("".join(f"{each}\n" for each in ours))
    found = home / "bin" / "python"
    done = run(sys.executable, "-m", "pip", "--python", found, "install", "-q", "--no-deps", wheel, cwd=home)
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy knows already, where it has run here: minutes less."""
    folder = tmp_path_factory.mktemp("mypy") / "cache"
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", folder)
    return folder


def test_the_wheel_holds_whyfeed_alone_with_all_its_files(source: Path, wheel: Path) -> None:
    found = names(wheel)
    tops = {name.split("/")[0] for name in found}
    assert "whyfeed" in tops
    assert all(top == "whyfeed" or top.endswith(".dist-info") for top in tops), tops
    files = [path for folder in FOLDERS for path in (source / folder).rglob("*") if path.is_file()]
    wanted = {f"whyfeed/{path.relative_to(source)}" for path in files}
    wanted |= {"whyfeed/__init__.py", "whyfeed/__main__.py", "whyfeed/py.typed"}
    data = {name for name in wanted if not name.endswith(".py")}
    print(f"{len(found)} files in the wheel, {len(data)} of them data")
    assert {"weights.json", "utterances.jsonl", "terms.json", "names.json", "page.html"} < {Path(n).name for n in data}
    assert not wanted - found
    assert {name for name in found if name.startswith("whyfeed/")} == wanted


def test_an_sdist_makes_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = built("sdist", source, tmp_path / "sdist")
    with tarfile.open(sdist) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    assert names(built("wheel", unpacked, tmp_path / "again")) == names(wheel)


def test_the_installed_package_works_from_anywhere(python: Path, tmp_path: Path) -> None:
    code = "import whyfeed; whyfeed.Agent; print(whyfeed.__file__)"
    done = run(python, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(python.parent.parent))
    done = run(python, "-m", "whyfeed", "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()[0]) == (0, "whyfeed"), done.stderr
    done = run(python.parent / "whyfeed", "users", "--home", tmp_path / "home", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for folder in FOLDERS:
        done = run(python, "-c", f"import {folder}", cwd=tmp_path)
        assert "ModuleNotFoundError" in done.stderr, folder


def test_a_user_s_types_are_checked_against_it(python: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(TYPED.replace("whyfeed.Answer", "int"))
    options = ("--strict", "--python-executable", python, "--cache-dir", cache)
    done = run(sys.executable, "-m", "mypy", *options, "right.py", "wrong.py", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert {line.split(":")[0] for line in done.stdout.splitlines() if ": error: " in line} == {"wrong.py"}
    assert 'wrong.py:2: error: Incompatible types in assignment (expression has type "Answer"' in done.stdout


def test_a_planted_type_error_is_found(cache: Path, tmp_path: Path) -> None:
    """mypy could check one file alone and say that all is well."""
    source = copied(tmp_path / "source")
    module = source / "agent" / "llm" / "vllm_adapters.py"
    module.write_text(module.read_text() + '\n\n_PLANTED: int = "a"\n')
    done = run(sys.executable, "-m", "mypy", "--cache-dir", cache, cwd=source)
    assert done.returncode == 1, done.stdout + done.stderr
    [line] = [line for line in done.stdout.splitlines() if "error:" in line]
    assert "agent/llm/vllm_adapters.py" in line
    assert "Incompatible types in assignment" in line


def test_a_planted_mistake_in_the_page_s_scripts_is_found(source: Path, tmp_path: Path) -> None:
    from tests import check_javascript

    def checked(name: str, old: str, new: str) -> int:
        copy = tmp_path / name
        shutil.copytree(source / "tests" / "javascript", copy / "tests" / "javascript")
        scripts = Path(shutil.copytree(source / "ui" / "page" / "static", copy / "ui" / "page" / "static"))
        text = (scripts / "cards.js").read_text()
        assert old in text
        (scripts / "cards.js").write_text(text.replace(old, new))
        return check_javascript.check(copy / "tests" / "javascript", scripts)

    assert check_javascript.main() == 0
    assert checked("types", "view.user?.id", "view.usr?.id") != 0
    assert checked("lint", "const user =", "debugger;\n  const user =") != 0
