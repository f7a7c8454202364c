"""A disk that is full, or a limit on the size of files, ends a command with one line, and loses nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import EMBEDDER, ROOT
from tests.test_kill import check
from tests.world import write_rows

slow = pytest.mark.slow
COMMANDS = [
    ["feedback", "u1", "sailing-3", "like"],
    ["import", "in"],
    pytest.param(["recommend", "u1"], marks=slow),
    pytest.param(["chat", "u1"], marks=slow),
    pytest.param(["export", "u1", "--out", "out"], marks=slow),
    pytest.param(["batch", "--all", "--out", "out.jsonl"], marks=slow),
    pytest.param(["backup", "whyfeed.backup"], marks=slow),
    pytest.param(["keys", "add", "shop", "--scope", "read"], marks=slow),
    pytest.param(["erase", "u1", "--yes"], marks=slow),
    pytest.param(["doctor"], marks=slow),
]


def limited(home: Path, folder: Path, most: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that can write no file beyond so many bytes, in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "whyfeed", *arguments, "--home", str(home)],
        input="what should I read?\n", capture_output=True, text=True, cwd=folder, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "WHYFEED_EMBEDDER": EMBEDDER, "WHYFEED_NO_LLM": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("most", [2_000, pytest.param(40_000, marks=slow), pytest.param(140_000, marks=slow)])
def test_what_cannot_be_written_is_told_in_a_line(home: Path, tmp_path: Path, command: list[str], most: int) -> None:
    posts = [{"id": f"n{number}", "title": f"word{number} " * 40} for number in range(500)]
    write_rows(tmp_path / "in" / "posts.jsonl", [*posts, *({"title": "no id"} for _ in range(300))])
    before = check(home)
    events = [event.id for _, event in before.events()]
    before.close()
    done = limited(home, tmp_path, most, *command)
    assert "Traceback" not in done.stderr, done.stderr
    if done.returncode and command != ["doctor"]:
        assert len([line for line in done.stderr.splitlines() if line.startswith("whyfeed: ")]) == 1, done.stderr
    after = check(home)
    if command[0] != "erase":
        assert {*events} <= {event.id for _, event in after.events()}
    after.close()
    for name in ("out", "whyfeed.backup"):
        assert done.returncode == 0 or not (tmp_path / name).exists()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert done.returncode == 1 or most > 2_000
