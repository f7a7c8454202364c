"""Files that are damaged or made to exhaust the machine: one clear line, bounded memory, bounded leftovers."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.conftest import EMBEDDER, ROOT
from whyfeed.retrieval import lines as limits
from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.store import exchange
from whyfeed.ui.cli.main import app

GOOD = b'{"id": "good", "title": "A good post"}\n'
PACKED = gzip.compress(GOOD * 2000)
TALK = b'{"turns": [{"role": "customer", "text": "Where is my parcel?"}]}\n'
FLIPPED = PACKED[:30] + bytes([PACKED[30] ^ 255, PACKED[31] ^ 255]) + PACKED[32:]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def imported(home: Path, folder: Path) -> dict[str, Any]:
    """The report of `whyfeed import`."""
    done = CliRunner().invoke(app, ["import", str(folder), "--json", "--home", str(home)])
    assert done.exit_code == 0, done.exception
    return dict(json.loads(done.stdout))


def memory_of(*arguments: str, home: Path) -> tuple[int, int, str]:
    """Exit code, largest memory in MB, and standard error of a run that may not take 3 GB."""
    script = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-m', 'whyfeed', *sys.argv[1:]], capture_output=True, text=True)\n"
        "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)\n"
        "print(done.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=110,
        env={"PYTHONPATH": str(ROOT / "src"), "WHYFEED_HOME": str(home), "WHYFEED_EMBEDDER": EMBEDDER,
             "WHYFEED_NO_LLM": "1", "PATH": "/usr/bin:/bin"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (100, 100)),
    )  # fmt: skip
    first, _, stderr = done.stdout.partition("\n")
    code, megabytes = map(int, first.split())
    return code, megabytes, stderr.strip()


def long_line(path: Path, megabytes: int) -> None:
    """A gzip file of one line of so many MB of spaces, with little memory."""
    with gzip.open(path, "wb") as file:
        file.write(b'{"id": "x", "title": "')
        for _ in range(megabytes):
            file.write(b"a" * 1_000_000)
        file.write(b'"}\n')


@pytest.mark.parametrize("command", ["import", "reply"])
def test_a_small_file_cannot_take_the_memory(tmp_path: Path, command: str) -> None:
    file = tmp_path / "in" / "posts.jsonl.gz"
    file.parent.mkdir()
    long_line(file, 150)
    assert file.stat().st_size < 500_000
    code, megabytes, stderr = memory_of(
        command, str(file.parent if command == "import" else file), home=tmp_path / "home"
    )
    assert code == 1
    assert "unpacks to more than" in stderr
    assert len(stderr.splitlines()) == 1
    assert megabytes < 300  # the commands themselves take about 120
    rejects = tmp_path / "home" / "rejects"
    assert not rejects.exists() or not list(rejects.iterdir())


def test_a_long_line_is_one_reject_and_the_others_are_read(home: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    long = b'{"id": "long", "title": "' + b"ab" * limits.LONGEST_LINE + b'"}\n'
    (tmp_path / "in" / "posts.jsonl").write_bytes(GOOD + long + GOOD.replace(b"good", b"last"))
    report = imported(home, tmp_path / "in")
    assert report["posts"] == {"read": 3, "kept": 2, "rejected": 1}
    (reject,) = map(json.loads, Path(report["rejects"]).read_text().splitlines())
    assert (reject["line"], reject["cause"]) == (2, "longer than 5,000,000 bytes")


def test_many_bad_rows_leave_a_small_rejects_file(home: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    bad = b'{"title": "no id"}\n' * 50_000
    file = tmp_path / "in" / "posts.jsonl.gz"
    file.write_bytes(gzip.compress(GOOD + bad))
    report = imported(home, tmp_path / "in")
    assert report["posts"] == {"read": 50_001, "kept": 1, "rejected": 50_000}
    rejects = Path(report["rejects"])
    rows = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert len(rows) == exchange.MOST_REJECTS + 1
    assert rows[-1] == {
        "file": "posts.jsonl.gz", "line": None, "cause": "49000 more rows were left out, and are not listed",
        "row": None,
    }  # fmt: skip


def test_large_bad_rows_leave_a_bounded_rejects_file(home: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    row = json.dumps({"title": "猫" * 20_000}, ensure_ascii=False)
    for name in ("posts", "users", "interactions"):
        (tmp_path / "in" / f"{name}.jsonl").write_text(f"{row}\n" * 600, encoding="utf-8")
    report = imported(home, tmp_path / "in")
    assert len(Path(report["rejects"]).read_text(encoding="utf-8")) < exchange.LARGEST_REJECTS + 50_000


UNREADABLE = {
    "truncated": ("posts.jsonl.gz", PACKED[:-20], "damaged"),
    "flipped": ("posts.jsonl.gz", FLIPPED, "damaged"),
    "no gzip": ("posts.jsonl.gz", GOOD, "damaged"),
    "zeros": ("posts.jsonl.gz", PACKED + b"\x00\x01" * 50, "damaged"),
    "named wrongly": ("posts.jsonl", PACKED, "packed with gzip"),
    "bzip2": ("posts.jsonl", b"BZh91AY&SY", "packed with bzip2"),
    "zstd": ("posts.jsonl.gz", b"\x28\xb5\x2f\xfd\x04\x00", "packed with zstd"),
    "utf-16": ("posts.jsonl", GOOD.decode().encode("utf-16"), "UTF-16"),
    "utf-16 packed": ("posts.jsonl.gz", gzip.compress(GOOD.decode().encode("utf-16")), "UTF-16"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_every_reader_tells_an_unreadable_file_in_a_line(home: Path, tmp_path: Path, kind: str) -> None:
    name, content, said = UNREADABLE[kind]
    file = tmp_path / "in" / name
    file.parent.mkdir()
    file.write_bytes(content)
    report = imported(home, file.parent)
    reject = json.loads(Path(report["rejects"]).read_text().splitlines()[-1])
    assert said in reject["cause"]
    for command in (["reply", str(file)], ["batch", "--users", str(file), "--out", str(tmp_path / "out.jsonl")]):
        error = CliRunner().invoke(app, [*command, "--home", str(home)]).exception
        assert isinstance(error, DataError)  # `main` prints it as one line
        assert said in str(error)
        assert str(file) in str(error)


BAD_JSON: dict[str, bytes] = {
    "deep": b'{"id": "x", "title": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "rather deep": b'{"id": "x", "title": ' + b"[" * 300 + b"]" * 300 + b"}",
    "deep objects": b'{"a":' * 100_000,
    "huge integer": b'{"id": "x", "votes": ' + b"9" * 10_000 + b"}",
    "not a number": b'{"id": "x", "votes": NaN}',
    "infinite": b'{"id": "x", "votes": -Infinity}',
    "too large": b'{"id": "x", "votes": 1e999}',
    "twins": b'{"id": "x", "id": "y"}',
    "inner twins": b'{"id": "x", "turns": [{"role": "customer", "role": "agent", "text": "x"}]}',
    "nul": b'{"id": "x\x00"}',
    "latin-1": '{"id": "café"}'.encode("latin-1"),
}


@pytest.mark.parametrize("kind", BAD_JSON)
def test_a_bad_row_is_one_reject_and_one_error(home: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "posts.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD + BAD_JSON[kind] + b"\n" + GOOD)
    report: dict[str, Any] = imported(home, tmp_path / "in")
    assert report["posts"] == {"read": 3, "kept": 2, "rejected": 1}
    reject = json.loads(Path(report["rejects"]).read_text())
    assert "not JSON in UTF-8" in reject["cause"]
    if kind in ("nul", "latin-1"):
        return
    (tmp_path / "talks.jsonl").write_bytes(TALK + BAD_JSON[kind].replace(b'"votes"', b'"turns": [], "votes"') + b"\n")
    done = CliRunner().invoke(app, ["reply", str(tmp_path / "talks.jsonl"), "--json", "--home", str(home), "--no-llm"])
    assert done.exit_code == 1
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in done.stdout.splitlines())
    assert "error" not in first
    assert second["error"].startswith("conversation 2: not JSON")
    assert "Traceback" not in done.stderr
