"""`whyfeed doctor` finds damage wherever it is and says what to do; what is damaged is not written to."""

from __future__ import annotations

import gc
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.conftest import RunCli
from whyfeed.agent.llm.weights import WEIGHTS
from whyfeed.agent.recommend.ranker import Ranker
from whyfeed.retrieval.errors import HomeError
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.store.backup import back_up, restore
from whyfeed.retrieval.store.store import Store
from whyfeed.ui.cli.main import app


def call(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--home", str(home)], env={"WHYFEED_NO_LLM": "1"})


def findings(home: Path, **environment: str) -> tuple[int, dict[str, str]]:
    """The exit status of `doctor`, and what is wrong by the name of the check."""
    done = CliRunner().invoke(
        app, ["doctor", "--json", "--home", str(home)], env={"WHYFEED_NO_LLM": "1", **environment}
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    for row in rows:
        assert set(row) == {"check", "ok", "detail"}
        assert "\n" not in row["detail"]
    return done.exit_code, {row["check"]: row["detail"] for row in rows if not row["ok"]}


def sql(home: Path, *statements: str, file: str = "whyfeed.db") -> None:
    with closing(sqlite3.connect(home / file, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def overwrite_page(path: Path, table: str) -> None:
    """Overwrite the first page of a table."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", [table]).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 200)


def of_no_use(path: Path) -> None:
    path.write_bytes(b"garbage " * 50)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 64
    path.write_bytes(data)


def bad_model(home: Path) -> None:
    Ranker(origin="fitted").save(home, {})
    of_no_use(home / "models" / "ranker" / "1" / "ranker.json")


def old_bad_model(home: Path) -> None:
    """A model of before the registry, which has no hashes."""
    (home / "ranker.json").write_text('{"card": {}, "weights": {"near": "x"}}')


FAULTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "page": (lambda home: overwrite_page(home / "whyfeed.db", "users"), "whyfeed.db", "whyfeed restore"),
    "no database": (lambda home: of_no_use(home / "whyfeed.db"), "whyfeed.db", "whyfeed restore"),
    "foreign key": (
        lambda home: sql(home, "INSERT INTO vectors VALUES (999999, 'm', 'd', x'00')"), "whyfeed.db", "refer to rows",
    ),
    "search": (
        lambda home: sql(home, "DELETE FROM search_data WHERE id > 1000000"), "whyfeed.db", "full-text index search",
    ),
    "unsearchable": (lambda home: sql(home, "DELETE FROM search WHERE rowid = 3"), "whyfeed.db", "1 posts are not in"),
    "json": (lambda home: sql(home, "UPDATE posts SET tags = '[' WHERE num = 3"), "whyfeed.db", "tags that cannot"),
    "vault": (
        lambda home: sql(
            home, "INSERT INTO desk_conversations VALUES (1, 'c', 'en', 'waiting', '', '{}', '', '', 0)",
            "INSERT INTO desk_vault VALUES (1, 0, 'no chip', '')",
        ), "whyfeed.db", "vault of 1",
    ),
    "second database": (lambda home: of_no_use(home / "actions.db"), "actions.db", "damaged"),
    "model": (bad_model, "trained ranker", "models rollback ranker"),
    "old model": (old_bad_model, "trained ranker", "does not open"),
    "index": (lambda home: flip(home / "index.faiss"), "index.faiss", "built anew"),
    "manifest": (lambda home: of_no_use(home / "index.json"), "index.faiss", "built anew"),
    "arrays": (lambda home: of_no_use(home / "neighbours.npz"), "neighbours.npz", "built anew"),
}  # fmt: skip


def test_a_whole_home_is_well(home: Path) -> None:
    assert findings(home) == (0, {})
    shown = call(home, "doctor")
    assert all(line.startswith("ok   ") for line in shown.stdout.splitlines())


@pytest.mark.parametrize("fault", FAULTS)
def test_the_doctor_finds_it_and_says_what_to_do(home: Path, fault: str) -> None:
    damage, name, said = FAULTS[fault]
    damage(home)
    code, found = findings(home)
    assert code == 1
    assert said in found[name]


def test_missing_weights_are_a_fault_where_they_are_needed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHYFEED_CACHE", str(tmp_path / "cache"))
    writer = next(each for each in WEIGHTS if each.role == "writer")
    assert writer.name not in findings(home)[1]
    code, found = findings(home, WHYFEED_NO_LLM="0")
    assert code == 1
    assert f"whyfeed models pull {writer.name}" in found[writer.name]


def test_wrong_bits_in_weights_are_found(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHYFEED_CACHE", str(tmp_path / "cache"))
    base = next(each for each in WEIGHTS if each.role == "base")
    base.path.parent.mkdir(parents=True)
    with base.path.open("wb") as file:
        file.truncate(base.size)  # the right size
    code, found = findings(home)
    assert code == 1
    assert "SHA-256" in found[base.name]
    assert "whyfeed models pull" in found[base.name]


def refusal(home: Path, *arguments: str) -> str:
    """What a command fails with."""
    done = call(home, *arguments)
    assert isinstance(done.exception, HomeError)
    said = str(done.exception)
    del done  # its traceback keeps the database open
    gc.collect()
    return said


LIKE = ("feedback", "u1", "sailing-3", "like")


def test_damage_that_was_found_refuses_writes_until_it_is_mended(home: Path) -> None:
    whole = (home / "whyfeed.db").read_bytes()
    overwrite_page(home / "whyfeed.db", "links")  # which feedback does not read
    assert call(home, *LIKE).exit_code == 0
    assert findings(home)[0] == 1
    data = (home / "whyfeed.db").read_bytes()
    said = refusal(home, *LIKE)
    assert "not written to" in said
    assert "whyfeed restore" in said
    assert (home / "whyfeed.db").read_bytes() == data
    # Mended in place: the doctor looks, and then it is written to again.
    (home / "whyfeed.db").write_bytes(whole)
    assert "whyfeed doctor" in refusal(home, *LIKE)
    assert findings(home) == (0, {})
    assert call(home, *LIKE).exit_code == 0


def test_damage_that_a_command_meets_refuses_later_writes(home: Path) -> None:
    overwrite_page(home / "whyfeed.db", "users")
    assert "is damaged" in refusal(home, "users")
    with pytest.raises(HomeError, match="not written to"):
        Store(home).append(Event("", "u1", "p", "like", 0.0))


def test_a_restored_home_is_written_to_at_once(home: Path, tmp_path: Path) -> None:
    back_up(home, tmp_path / "whyfeed.backup", 0.0, {})
    overwrite_page(home / "whyfeed.db", "users")
    assert findings(home)[0] == 1
    refusal(home, *LIKE)
    restore(tmp_path / "whyfeed.backup", home, replace=True)
    assert call(home, *LIKE).exit_code == 0


def test_a_full_output_is_one_line(run_cli: RunCli) -> None:
    import subprocess
    import sys

    from tests.conftest import EMBEDDER, ROOT

    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "whyfeed", "models", "list"], stdout=full, stderr=subprocess.PIPE, text=True,
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "WHYFEED_EMBEDDER": EMBEDDER},
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "whyfeed: cannot write the output: No space left on device; free some space and try again"
    ]
