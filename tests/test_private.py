"""A home is for its owner alone, and only an empty or a new folder becomes one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import EMBEDDER, ROOT, RunCli
from whyfeed import Agent
from whyfeed.retrieval.errors import HomeError
from whyfeed.retrieval.store.store import Store


def others(folder: Path) -> dict[str, str]:
    """What others may do anything with, with its rights."""
    every = [folder, *folder.rglob("*")]
    return {
        str(path): oct(stat.S_IMODE(path.lstat().st_mode))
        for path in every
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    }


@pytest.fixture
def open_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_new_home_is_private_from_the_start(tmp_path: Path, exchange_folder: Path, open_umask: object) -> None:
    home = tmp_path / "under" / "home"
    with Agent.open(home, embedder=EMBEDDER, no_llm=True) as agent:
        assert {path.name for path in home.iterdir()} >= {"whyfeed.db", "whyfeed.db-wal", "whyfeed.db-shm"}
        assert others(home) == {}
        agent.import_folder(exchange_folder)
        agent.build()
        agent.recommend("u0")
        agent.batch(["u0"], home / "lists.jsonl")
    assert (home / "lists.jsonl").exists()
    assert others(home) == {}
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "whyfeed.db").stat().st_mode) == 0o600


def test_an_older_home_is_mended_when_it_is_opened(home: Path, tmp_path: Path) -> None:
    (home / "models" / "ranker").mkdir(parents=True)
    (home / "models" / "ranker" / "1.json").write_text("{}")
    outside = tmp_path / "outside"
    outside.write_text("another's")
    outside.chmod(0o644)
    (home / "link").symlink_to(outside)
    for path in [home, *home.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    store = Store(home)
    assert others(home) == {}
    store.close()
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


def test_what_lies_elsewhere_keeps_its_rights(agent: Agent, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    before = os.umask(0o022)
    try:
        agent.batch(["u0"], shared / "lists.jsonl")
    finally:
        os.umask(before)
    assert stat.S_IMODE((shared / "lists.jsonl").stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "command", [["users"], ["recommend", "u0"], ["export", "u0"], ["keys", "list"], ["users", "--json"]]
)
def test_a_folder_with_other_files_does_not_become_a_home(run_cli: RunCli, tmp_path: Path, command: list[str]) -> None:
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o755)
    (folder / "passwd").write_text("root")
    answered = run_cli(*command, WHYFEED_HOME=str(folder))
    assert answered.returncode == 1
    assert answered.stdout == ""
    (line,) = answered.stderr.splitlines()
    assert repr(str(folder)) in line
    assert "no home" in line
    assert [path.name for path in folder.iterdir()] == ["passwd"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_doctor_says_of_a_folder_with_other_files_that_it_is_no_home(run_cli: RunCli, tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "passwd").write_text("root")
    answered = run_cli("doctor", WHYFEED_HOME=str(folder))
    assert answered.returncode == 1
    assert "is no home of whyfeed" in answered.stdout.splitlines()[0]
    assert [path.name for path in folder.iterdir()] == ["passwd"]


@pytest.mark.parametrize("hidden", [".bashrc", ".git"])
def test_a_folder_with_hidden_files_does_not_become_a_home(tmp_path: Path, hidden: str) -> None:
    (tmp_path / hidden).mkdir(mode=0o755)
    with pytest.raises(HomeError, match="no home of whyfeed"):
        Store(tmp_path)
    assert stat.S_IMODE((tmp_path / hidden).stat().st_mode) == 0o755


def test_what_is_exported_is_for_its_owner_alone(agent: Agent, tmp_path: Path) -> None:
    assert stat.S_IMODE(agent.export("u0", tmp_path / "out").stat().st_mode) == 0o700


def test_an_empty_folder_becomes_a_home(tmp_path: Path) -> None:
    (tmp_path / "empty" / "lost+found").mkdir(parents=True)
    Store(tmp_path / "empty").close()
    assert (tmp_path / "empty" / "whyfeed.db").exists()


def test_a_file_is_no_home(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match="file"):
        Store(tmp_path / "file")


@pytest.mark.parametrize("command", [["doctor"], ["users"], ["feedback", "u0", "clocks-1", "like"]])
def test_a_home_that_cannot_be_written_is_one_clear_line(home: Path, command: list[str]) -> None:
    """On a file system that is mounted for reading only, because root may write anywhere else."""
    mounted = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    probe = f"mount --bind {home} {home} && mount -o remount,ro,bind {home}"
    if subprocess.run([*mounted, probe], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a folder for reading only")
    answered = subprocess.run(
        [*mounted, f'{probe} && exec "$@"', "sh", sys.executable, "-m", "whyfeed", *command],
        capture_output=True, text=True, cwd=ROOT,
        env={
            **os.environ, "PYTHONPATH": str(ROOT / "src"), "WHYFEED_HOME": str(home), "WHYFEED_EMBEDDER": EMBEDDER,
            "WHYFEED_NO_LLM": "1",
        },
    )  # fmt: skip
    assert answered.returncode == 1
    told = answered.stdout.splitlines()[:1] if command == ["doctor"] else answered.stderr.splitlines()
    (line,) = told
    assert str(home) in line
    assert "cannot be written" in line
