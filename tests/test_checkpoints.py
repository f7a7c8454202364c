"""LangGraph's checkpoints in a file of a home."""

import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from whyfeed.agent.checkpoints import Checkpoints
from whyfeed.retrieval.errors import HomeError


class Writer(threading.Thread):
    """An agent that keeps its state again and again, and what ended it."""

    def __init__(self, checkpoints: Checkpoints, begun: threading.Barrier) -> None:
        super().__init__(daemon=True)
        self._saver, self._begun = checkpoints.saver(), begun
        self.ended: Exception | None = None

    def run(self) -> None:
        config: Any = {"configurable": {"thread_id": "reader", "checkpoint_ns": "", "checkpoint_id": "1"}}
        self._begun.wait()
        try:
            while True:
                self._saver.put_writes(config, [("said", "yes" * 100)] * 5, "task")
        except Exception as exc:
            self.ended = exc


def test_a_file_is_closed_while_agents_write_into_it(tmp_path: Path) -> None:
    """SQLite ends the process where a connection is closed under a statement that runs."""
    for round in range(10):
        checkpoints = Checkpoints(tmp_path / f"{round}.db")
        begun = threading.Barrier(4)
        writers = [Writer(checkpoints, begun) for _ in range(3)]
        for writer in writers:
            writer.start()
        begun.wait()
        checkpoints.close()
        for writer in writers:
            writer.join(30)
            assert isinstance(writer.ended, sqlite3.ProgrammingError)


def test_a_closed_file_is_not_opened_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "agent.db")
    checkpoints.saver()
    checkpoints.close()
    checkpoints.close()
    with pytest.raises(HomeError, match="closed"):
        checkpoints.saver()


def test_a_file_that_is_none_of_sqlite_is_named(tmp_path: Path) -> None:
    (tmp_path / "agent.db").write_bytes(b"garbage" * 100)
    with pytest.raises(HomeError, match=r"agent\.db"):
        Checkpoints(tmp_path / "agent.db").saver()
