"""The state that LangGraph keeps for its agents, in SQLite files of a home, and how it is deleted."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from whyfeed.retrieval.errors import HomeError
from whyfeed.retrieval.files import make_private_file
from whyfeed.retrieval.store.database import empty_log

if TYPE_CHECKING:
    from langgraph.checkpoint.sqlite import SqliteSaver

CHAT = "agent.db"  # file in a home: the planner's state of all conversations
_CONVERSATIONS = 20  # conversations per user whose state is kept
_TABLES = ("checkpoints", "writes")
_CLEARING = 10.0  # seconds to wait until nobody reads from a write-ahead log

_log = logging.getLogger(__name__)


class Checkpoints:
    """LangGraph's checkpoints at `path`, opened at first use. Safe to use from many threads.

    Deleted data is overwritten in the file. `check` is called within each transaction that writes an agent's state, in
    that agent's context, and raises where nothing may be written any more. Raises HomeError when the file cannot be
    used.
    """

    def __init__(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._check = check
        self._lock = threading.Lock()
        self._saver: SqliteSaver | None = None
        self._closed = False

    def saver(self) -> SqliteSaver:
        """The checkpointer to give to a LangGraph agent."""
        with self._lock:
            if self._closed:
                raise HomeError(f"{str(self.path)!r} was closed while an agent ran; start the turn once more")
            if self._saver is None:
                try:
                    make_private_file(self.path)
                    conn = sqlite3.connect(self.path, timeout=30, check_same_thread=False)
                    conn.execute("PRAGMA secure_delete = ON")
                    saver = _checking(conn, self._check)
                    saver.setup()
                except (sqlite3.Error, OSError) as exc:
                    raise HomeError(f"{str(self.path)!r}: {exc}; check the disk and the folder") from exc
                self._saver = saver
            return self._saver

    def drop(self, *threads: str) -> None:
        """Delete all checkpoints of these threads."""
        for thread in threads:
            self.saver().delete_thread(thread)

    def close(self) -> None:
        """Close the file. An agent that is still running then fails with an error."""
        with self._lock:
            self._closed = True
            if self._saver is not None:
                # LangGraph writes from its own threads, and SQLite crashes when a connection in use is closed.
                with self._saver.lock:
                    self._saver.conn.close()
                self._saver = None


def _checking(conn: sqlite3.Connection, check: Callable[[], None]) -> SqliteSaver:
    """A checkpointer that calls `check` in each transaction before it writes."""
    from langgraph.checkpoint.sqlite import SqliteSaver

    class Saver(SqliteSaver):
        @contextmanager
        def cursor(self, transaction: bool = True) -> Iterator[sqlite3.Cursor]:
            with super().cursor(transaction) as cursor:
                if transaction:
                    cursor.execute("BEGIN IMMEDIATE")
                    check()
                yield cursor

    return Saver(conn)


def thread_of(user: str, conversation: str) -> str:
    """The LangGraph thread id of a conversation: two hashes, so that the file holds no user names."""
    return ".".join(hashlib.sha256(part.encode()).hexdigest()[:24] for part in (user, conversation))


def tidy(path: Path, thread: str) -> None:
    """Keep only the latest checkpoint of a conversation and the latest conversations of its user."""
    own = thread.split(".", 1)[0] + ".%"
    with closing(sqlite3.connect(path, timeout=30)) as db:
        db.execute("PRAGMA secure_delete = ON")
        latest = "SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = ?"
        for table in _TABLES:
            db.execute(f"DELETE FROM {table} WHERE thread_id = ? AND checkpoint_id < ({latest})", [thread, thread])
        old = db.execute(
            "SELECT thread_id FROM checkpoints WHERE thread_id LIKE ? GROUP BY thread_id "
            "ORDER BY max(checkpoint_id) DESC LIMIT -1 OFFSET ?",
            [own, _CONVERSATIONS],
        ).fetchall()
        for table in _TABLES:
            db.executemany(f"DELETE FROM {table} WHERE thread_id = ?", old)
        db.commit()


def forget(home: Path, user: str) -> bool:
    """Delete the planner's state of a user; whether there was any."""
    if not (home / CHAT).exists():
        return False
    found = False
    own = thread_of(user, "").split(".", 1)[0] + ".%"
    with closing(sqlite3.connect(home / CHAT, timeout=30)) as db:
        db.execute("PRAGMA secure_delete = ON")
        for table in _TABLES:
            with suppress(sqlite3.OperationalError):  # no turn has been planned yet, so the table does not exist
                found |= db.execute(f"DELETE FROM {table} WHERE thread_id LIKE ?", [own]).rowcount > 0
        db.commit()
        clear_log(db, home / CHAT)
    return found


def clear_log(db: sqlite3.Connection, path: Path) -> None:
    """Cut the write-ahead log of the file to nothing: it still holds what was deleted.

    Where others read from it for some seconds, that is logged: the log is cleared when the last of them closes the
    file, or by the next call.
    """
    until = time.monotonic() + _CLEARING
    while not empty_log(db):
        if time.monotonic() > until:
            _log.warning("%s: others read from it, so its write-ahead log still holds what was deleted", path)
            return
        time.sleep(0.05)
