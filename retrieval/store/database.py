"""The SQLite database of a home: migrations, a connection per thread, transactions, translation of errors."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlite_utils import Database as SqliteDatabase
from sqlite_utils import Migrations

from whyfeed.retrieval.errors import DataError, HomeError
from whyfeed.retrieval.files import make_private_file
from whyfeed.retrieval.post import Post, reading_digest
from whyfeed.retrieval.store.faults import refuse_if_damaged, told

_PATIENCE = 30  # seconds to wait for other processes
T = TypeVar("T")
_CLEARING = 5.0  # seconds to wait until nobody reads from the write-ahead log
_ERASED = "erased"  # key in `meta` while the write-ahead log may hold what was deleted

migrations = Migrations("whyfeed")


@migrations()
def m001_what_is_known(db: SqliteDatabase) -> None:
    """Posts, users, edges, and the vectors of posts."""
    db.executescript(
        """
        CREATE TABLE posts (
            num INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, title TEXT NOT NULL,
            text TEXT NOT NULL, url TEXT NOT NULL, author TEXT NOT NULL, community TEXT NOT NULL,
            tags TEXT NOT NULL, language TEXT NOT NULL, created_at REAL, image TEXT NOT NULL,
            attributes TEXT NOT NULL, digest TEXT NOT NULL
        );
        CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT NOT NULL, about TEXT NOT NULL, attributes TEXT NOT NULL);
        CREATE TABLE follows (
            follower TEXT NOT NULL, followed TEXT NOT NULL, weight REAL NOT NULL, PRIMARY KEY (follower, followed)
        ) WITHOUT ROWID;
        CREATE TABLE links (
            id INTEGER PRIMARY KEY, head TEXT NOT NULL, relation TEXT NOT NULL, tail TEXT NOT NULL,
            UNIQUE (head, relation, tail)
        );
        CREATE TABLE vectors (
            num INTEGER NOT NULL REFERENCES posts (num) ON DELETE CASCADE, model TEXT NOT NULL,
            digest TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (num, model)
        );
        CREATE VIRTUAL TABLE search USING fts5 (title, tags, text, tokenize = 'porter unicode61');
        """
    )


@migrations()
def m002_what_happened(db: SqliteDatabase) -> None:
    """The append-only ledger. AUTOINCREMENT: the number of a deleted event is never used again."""
    db.executescript(
        """
        CREATE TABLE events (
            num INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, user TEXT NOT NULL,
            post TEXT NOT NULL, kind TEXT NOT NULL, time REAL, value REAL, text TEXT NOT NULL
        );
        CREATE INDEX events_user ON events (user, num);
        CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
        """
    )


@migrations()
def m003_what_was_said(db: SqliteDatabase) -> None:
    """Conversations, traces, and the cache of clauses and judgements."""
    db.executescript(
        """
        CREATE TABLE conversations (id TEXT PRIMARY KEY, user TEXT NOT NULL, created REAL NOT NULL);
        CREATE INDEX conversations_user ON conversations (user);
        CREATE TABLE turns (
            num INTEGER PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
            role TEXT NOT NULL, text TEXT NOT NULL, answer TEXT, time REAL NOT NULL
        );
        CREATE INDEX turns_conversation ON turns (conversation, num);
        CREATE TABLE traces (num INTEGER PRIMARY KEY, user TEXT NOT NULL, time REAL NOT NULL, document TEXT NOT NULL);
        CREATE INDEX traces_user ON traces (user, num);
        CREATE TABLE kept (kind TEXT NOT NULL, key TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (kind, key))
            WITHOUT ROWID;
        """
    )


@migrations()
def m004_desk(db: SqliteDatabase) -> None:
    """The service desk. AUTOINCREMENT: the number of a removed row is never used again, so old references fail."""
    db.executescript(
        """
        CREATE TABLE desk_conversations (
            num INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, language TEXT NOT NULL,
            status TEXT NOT NULL, customer TEXT NOT NULL, attributes TEXT NOT NULL, digest TEXT NOT NULL,
            speaker TEXT NOT NULL, since REAL
        );
        CREATE INDEX desk_conversations_open ON desk_conversations (status, speaker, since);
        CREATE TABLE desk_turns (
            conversation INTEGER NOT NULL REFERENCES desk_conversations (num) ON DELETE CASCADE,
            place INTEGER NOT NULL, document TEXT NOT NULL, PRIMARY KEY (conversation, place)
        );
        CREATE TABLE desk_vault (
            conversation INTEGER NOT NULL REFERENCES desk_conversations (num) ON DELETE CASCADE,
            place INTEGER NOT NULL, chip TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (conversation, place)
        );
        CREATE TABLE desk_cases (
            num INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation INTEGER NOT NULL REFERENCES desk_conversations (num) ON DELETE CASCADE,
            place INTEGER NOT NULL, asked TEXT NOT NULL, before TEXT NOT NULL, text TEXT NOT NULL,
            reply TEXT NOT NULL, offered TEXT NOT NULL, time REAL, live INTEGER NOT NULL, UNIQUE (conversation, place)
        );
        CREATE VIRTUAL TABLE desk_search USING fts5 (asked, before, tokenize = 'porter unicode61');
        CREATE TABLE desk_vectors (
            num INTEGER NOT NULL REFERENCES desk_cases (num) ON DELETE CASCADE, model TEXT NOT NULL,
            vector BLOB NOT NULL, PRIMARY KEY (num, model)
        );
        CREATE TABLE desk_replies (
            num INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, intent TEXT NOT NULL,
            language TEXT NOT NULL, attributes TEXT NOT NULL
        );
        """
    )


@migrations()
def m005_keys(db: SqliteDatabase) -> None:
    """API keys; only their digests are stored."""
    db.executescript(
        """
        CREATE TABLE keys (
            name TEXT PRIMARY KEY, digest TEXT NOT NULL UNIQUE, scopes TEXT NOT NULL, users TEXT,
            per_minute INTEGER NOT NULL, created REAL NOT NULL
        ) WITHOUT ROWID;
        """
    )


@migrations()
def m006_what_is_read(db: SqliteDatabase) -> None:
    """A second digest of each post: that of the longer text that a post encoder reads."""
    db.execute("ALTER TABLE posts ADD COLUMN reading TEXT NOT NULL DEFAULT ''")
    rows = db.execute("SELECT id, title, text, tags FROM posts").fetchall()
    for id, title, text, tags in rows:
        digest = reading_digest(Post(id, title=title, text=text, tags=tuple(json.loads(tags))))
        db.execute("UPDATE posts SET reading = ? WHERE id = ?", [digest, id])


@migrations()
def m007_erased_words(db: SqliteDatabase) -> None:
    """Words of deleted rows leave the full-text indexes; see `drop_deleted_words`."""
    for index in ("search", "desk_search"):
        drop_deleted_words(db, index)


def drop_deleted_words(db: SqliteDatabase, index: str) -> None:
    """Rewrite a full-text index without the words of rows that were deleted.

    FTS5 only marks them as deleted until their part of the index is merged. Its option `secure-delete` needs
    SQLite 3.42, and makes the file unreadable for older ones.
    """
    db.execute(f"INSERT INTO {index} ({index}) VALUES ('optimize')")


class _Cursor(sqlite3.Cursor):
    """Waits for the running statement, and turns errors about disk and file into a HomeError (see `faults`)."""

    connection: _Connection

    def execute(self, *given: Any) -> Self:
        return self._run(super().execute, *given)

    def executemany(self, *given: Any) -> Self:
        return self._run(super().executemany, *given)

    def executescript(self, *given: Any) -> sqlite3.Cursor:
        return self._run(super().executescript, *given)

    def fetchone(self) -> Any:
        return self._run(super().fetchone)

    def fetchmany(self, *given: Any) -> list[Any]:
        return self._run(super().fetchmany, *given)

    def fetchall(self) -> list[Any]:
        return self._run(super().fetchall)

    def __next__(self) -> Any:
        return self._run(super().__next__)

    def _run(self, work: Callable[..., T], *given: Any) -> T:
        with self.connection.running:
            try:
                return work(*given)
            except sqlite3.DatabaseError as exc:
                if (error := told(exc, self.connection.path)) is exc:
                    raise
                raise error from exc


class _Connection(sqlite3.Connection):
    """A connection that another thread may close: closing waits for the running statement.

    Without the lock SQLite would crash the process when a connection is closed while a statement runs.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.path = Path(given[0])
        self.running = threading.RLock()

    def cursor(self, *_: Any) -> _Cursor:  # type: ignore[override]
        return super().cursor(_Cursor)

    def execute(self, *given: Any) -> sqlite3.Cursor:
        return self.cursor().execute(*given)

    def executemany(self, *given: Any) -> sqlite3.Cursor:
        return self.cursor().executemany(*given)

    def executescript(self, *given: Any) -> sqlite3.Cursor:
        return self.cursor().executescript(*given)

    def close(self) -> None:
        with self.running:
            super().close()


class Database:
    """One SQLite file, used from many threads, with one connection per thread, closed when its thread ends.

    Threads that share a connection lose writes, because statements of one thread end up in the transaction of
    another. Write-ahead logging lets readers continue while one thread writes. A cursor must not outlive the thread
    that made it. HomeError when the file cannot be used or was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._open: set[_Connection] = set()
        self._closed = False
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        with self.translated():
            try:
                make_private_file(path)
            except OSError as exc:
                raise HomeError(
                    f"{str(path)!r} cannot be made: {exc.strerror}; check the folder and its permissions"
                ) from exc
            db = self.connection
            _write_ahead(db)
            known = {migration.name for migration in migrations.pending(db)}
            applied = {migration.name for migration in migrations.applied(db)}
            names = {name for name in globals() if name.startswith("m0")}
            if newer := sorted(applied - names - known):
                self.close()
                raise HomeError(
                    f"{path} was made by a newer whyfeed ({newer[-1]}); update whyfeed, or use another --home"
                )
            if known:
                if db["posts"].exists():  # pages that were freed before deleted rows were overwritten hold them still
                    db.execute("VACUUM")
                with self.write():  # where two processes start at once, the second waits and then finds nothing to do
                    migrations.apply(db)
            self._clear_log()

    @property
    def connection(self) -> SqliteDatabase:
        """The connection of the current thread, opened at its first use; sqlite3.ProgrammingError after `close`."""
        db: SqliteDatabase | None = getattr(self._local, "db", None)
        if db is None:
            conn = sqlite3.connect(
                self.path, timeout=_PATIENCE, check_same_thread=False, isolation_level=None, factory=_Connection
            )
            conn.execute("PRAGMA foreign_keys = ON")
            conn.execute("PRAGMA secure_delete = ON")  # deleted rows are overwritten
            conn.execute("PRAGMA synchronous = FULL")  # a confirmed event survives a power cut
            db = SqliteDatabase(conn)
            with self._lock:
                if self._closed:  # by another thread, while this one worked
                    conn.close()
                    raise sqlite3.ProgrammingError(f"{self.path} was closed")
                self._open.add(conn)
            # The thread alone holds `db`, so it goes when the thread ends. The connection would not go by itself:
            # it is part of a reference cycle, which may wait long for the garbage collector.
            weakref.finalize(db, _end, conn, self._open).atexit = False
            self._local.db = db
        return db

    @contextmanager
    def write(self) -> Iterator[SqliteDatabase]:
        """One transaction, committed at the end and rolled back on an exception. A nested call joins the outer one.

        The write lock is taken at the start, so that writers queue.
        """
        db = self.connection
        with self.translated():
            if db.conn.in_transaction:
                with db.atomic():
                    yield db
                return
            refuse_if_damaged(self.path)
            # Threads of this process queue at a Python lock, which wakes them in turn. SQLite's own lock, needed for
            # other processes, is polled with pauses of up to a tenth of a second.
            with self._writing:
                db.conn.execute("BEGIN IMMEDIATE")
                try:
                    yield db
                    db.conn.execute("COMMIT")
                except BaseException:
                    if db.conn.in_transaction:
                        db.conn.execute("ROLLBACK")
                    raise
                with suppress(sqlite3.DatabaseError):  # what was to be written is written
                    self._clear_log()

    def note_erased(self) -> None:
        """Within a transaction that deletes what must leave no trace: have the write-ahead log cleared after it.

        The log holds pages as they were before. It can be cleared only while nobody reads older pages from it, so
        after a failure the next write of any process tries again; `clear_log` tries for some seconds.
        """
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [_ERASED, secrets.token_hex(8)])

    def clear_log(self, patience: float = _CLEARING) -> bool:
        """Clear the write-ahead log where `note_erased` asked for it; False if others read from it all that time."""
        if self.connection.conn.in_transaction:
            return False  # the end of the outer transaction does it
        until = time.monotonic() + patience
        while True:
            with self.translated(), self._writing:
                if self._clear_log():
                    return True
            if time.monotonic() > until:
                return False
            time.sleep(0.05)

    def _clear_log(self) -> bool:
        conn = self.connection.conn
        noted = conn.execute("SELECT value FROM meta WHERE key = ?", [_ERASED]).fetchone()
        if noted is None:
            return True
        if conn.in_transaction or not empty_log(conn):
            return False
        # Another erasure may have been noted meanwhile; its own note stays.
        conn.execute("DELETE FROM meta WHERE key = ? AND value = ?", [_ERASED, noted[0]])
        return True

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn SQLite's errors about disk and file into a HomeError of one line that says what to do."""
        try:
            yield
        except sqlite3.DatabaseError as exc:
            if "locked" in str(exc):
                raise HomeError(
                    f"{self.path}: {exc}: another process has been writing for 30 s; try again when it is done"
                ) from exc
            if (error := told(exc, self.path)) is exc:
                raise
            raise error from exc
        except UnicodeEncodeError as exc:
            raise DataError("a text has a lone surrogate, which cannot be stored or looked up; check it") from exc

    def close(self) -> None:
        """Close the connections of all threads, each after its running statement."""
        with self._lock:
            self._closed = True
            for conn in list(self._open):
                _end(conn, self._open)
        self._local = threading.local()


def _end(conn: _Connection, among: set[_Connection]) -> None:
    """Close a connection and take it out of the set of open ones; twice does no harm."""
    among.discard(conn)
    conn.close()


def empty_log(conn: sqlite3.Connection) -> bool:
    """Move the write-ahead log of a connection's file into the file, and cut it to nothing; False while it is read."""
    before = conn.execute("PRAGMA busy_timeout").fetchone()[0]
    # A checkpoint that waits for readers keeps writers waiting, too.
    conn.execute("PRAGMA busy_timeout = 100").fetchone()
    try:
        return not conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.OperationalError as exc:
        if "locked" not in str(exc):
            raise
        return False
    finally:
        conn.execute(f"PRAGMA busy_timeout = {before}").fetchone()


def _write_ahead(db: SqliteDatabase) -> None:
    """Switch to write-ahead logging. SQLite's timeout does not cover this statement, so it is retried here."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            db.enable_wal()
            return
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > until:
                raise
            time.sleep(0.02)
