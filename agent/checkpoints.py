"""What LangGraph keeps of its agents, in an SQLite file of a home."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.errors import HomeError

if TYPE_CHECKING:
    from langgraph.checkpoint.sqlite import SqliteSaver


class Checkpoints:
    """LangGraph's checkpoints at `path`, opened at first use. Safe to use from many threads.

    What is deleted is overwritten. HomeError when the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._saver: SqliteSaver | None = None
        self._closed = False

    def saver(self) -> SqliteSaver:
        """What an agent takes as its checkpointer."""
        from langgraph.checkpoint.sqlite import SqliteSaver

        with self._lock:
            if self._closed:
                raise HomeError(f"{str(self.path)!r} was closed while an agent ran; start the turn once more")
            if self._saver is None:
                try:
                    conn = sqlite3.connect(self.path, timeout=30, check_same_thread=False)
                    conn.execute("PRAGMA secure_delete = ON")
                    saver = SqliteSaver(conn)
                    saver.setup()
                except sqlite3.Error as exc:
                    raise HomeError(f"{str(self.path)!r}: {exc}; check the disk and the folder") from exc
                self._saver = saver
            return self._saver

    def drop(self, *threads: str) -> None:
        """Delete all that is kept of these threads."""
        for thread in threads:
            self.saver().delete_thread(thread)

    def close(self) -> None:
        """Close the file; an agent that still runs ends with an error."""
        with self._lock:
            self._closed = True
            if self._saver is not None:
                # LangGraph writes from threads of its own, and SQLite crashes where a connection is closed under it.
                with self._saver.lock:
                    self._saver.conn.close()
                self._saver = None
