"""Chat conversations of users with whyfeed: their turns, and the traces of the last answers."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.store.store import Store, check_known

TRACES_KEPT = 20  # per user; why and why-not read them
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')  # strings of a JSON document, among them the ids of events


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. `answer` is the JSON document of whyfeed's answer; None for a user's message and once forgotten."""

    role: str  # "user" or "agent"
    text: str
    answer: dict[str, Any] | None
    time: float


class Conversations:
    """Conversations in the store. Each belongs to one user; callers verify that with `check`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def start(self, user: str, time: float) -> str:
        """Create an empty conversation and return its random id, which cannot be guessed. May raise UnknownUser."""
        id = secrets.token_urlsafe(12)
        with self._store.database.write() as db:
            check_known(db, user)
            db.execute("INSERT INTO conversations VALUES (?, ?, ?)", [id, user, time])
        return id

    def check(self, id: str, user: str) -> None:
        """DataError when the conversation does not exist or belongs to somebody else."""
        row = self._store.database.connection.execute("SELECT user FROM conversations WHERE id = ?", [id]).fetchone()
        if row is None or row[0] != user:
            raise DataError(f"user {user!r} has no conversation {id!r}; leave it out to start a new one")

    def add(self, id: str, role: str, text: str, time: float, answer: dict[str, Any] | None = None) -> None:
        """Append a turn; `time` is Unix seconds. DataError where the conversation has been erased meanwhile."""
        written = None if answer is None else json.dumps(answer, ensure_ascii=False)
        with self._store.database.write() as db:
            _add(db, id, role, text, written, time)

    def turns(self, id: str, last: int = 200) -> list[Turn]:
        """The last turns, oldest first."""
        rows = self._store.database.connection.execute(
            "SELECT role, text, answer, time FROM turns WHERE conversation = ? ORDER BY num DESC LIMIT ?", [id, last]
        ).fetchall()
        return [Turn(row[0], row[1], None if row[2] is None else json.loads(row[2]), row[3]) for row in rows[::-1]]

    def of(self, user: str, limit: int = 50) -> list[tuple[str, str, float]]:
        """(id, start of the first message, Unix seconds of the last turn) of a user's conversations, newest first."""
        rows = self._store.database.connection.execute(
            "SELECT c.id, (SELECT text FROM turns WHERE conversation = c.id AND role = 'user' ORDER BY num LIMIT 1),"
            " coalesce((SELECT max(time) FROM turns WHERE conversation = c.id), c.created) AS latest"
            " FROM conversations c WHERE c.user = ? ORDER BY latest DESC, c.rowid DESC LIMIT ?",
            [user, limit],
        ).fetchall()
        return [(row[0], (row[1] or "")[:80], row[2]) for row in rows]

    def remember(
        self,
        user: str,
        time: float,
        trace: dict[str, Any],
        said: tuple[str, str, dict[str, Any]] | None = None,
        events: Sequence[str] = (),
    ) -> None:
        """Store the trace of an answer and the answer's turn `said` (conversation, text, answer) in one transaction.

        Only the last `TRACES_KEPT` traces of a user are kept. `events` are the ids that the answer was made of: where
        it mentions one that has been forgotten meanwhile, only its text is stored. UnknownUser where the user has been
        erased meanwhile.
        """
        # Serialised before the database is locked: other writers wait for it.
        document = json.dumps(trace, ensure_ascii=False)
        answer = None if said is None else json.dumps(said[2], ensure_ascii=False)
        mentioned = sorted(set(_QUOTED.findall(document)).intersection(events))
        with self._store.database.write() as db:
            check_known(db, user)
            if _count(db, user, mentioned) < len(mentioned):
                if said is not None:
                    _add(db, said[0], "agent", said[1], None, time)
                return
            db.execute("INSERT INTO traces (user, time, document) VALUES (?, ?, ?)", [user, time, document])
            db.execute(
                "DELETE FROM traces WHERE user = ? AND num NOT IN"
                " (SELECT num FROM traces WHERE user = ? ORDER BY num DESC LIMIT ?)",
                [user, user, TRACES_KEPT],
            )
            if said is not None:
                _add(db, said[0], "agent", said[1], answer, time)

    def traces(self, user: str, last: int = TRACES_KEPT) -> list[dict[str, Any]]:
        """The traces of a user's last answers, the newest first."""
        rows = self._store.database.connection.execute(
            "SELECT document FROM traces WHERE user = ? ORDER BY num DESC LIMIT ?", [user, last]
        ).fetchall()
        return [json.loads(row[0]) for row in rows]


def _count(db: Any, user: str, events: Sequence[str]) -> int:
    """How many of these events of the user are in the ledger."""
    if not events:
        return 0
    marks = ",".join("?" * len(events))
    sql = f"SELECT count(*) FROM events WHERE user = ? AND id IN ({marks})"
    return int(db.execute(sql, [user, *events]).fetchone()[0])


def _add(db: Any, conversation: str, role: str, text: str, answer: str | None, time: float) -> None:
    if not db.execute("SELECT 1 FROM conversations WHERE id = ?", [conversation]).fetchone():
        raise DataError(f"conversation {conversation!r} has been erased meanwhile; nothing of it was kept")
    db.execute(
        "INSERT INTO turns (conversation, role, text, answer, time) VALUES (?, ?, ?, ?, ?)",
        [conversation, role, text, answer, time],
    )
