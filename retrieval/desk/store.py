"""The service desk's tables: conversations, cases, saved replies and vectors, all with personal data masked.

The values behind a conversation's chips are stored only until it is closed. Cases are added or removed, never changed:
a copy in memory reads new cases by number and is rebuilt when `generation` changes.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlite_utils import Database as SqliteDatabase

from whyfeed.retrieval.arrays import Vectors
from whyfeed.retrieval.desk.types import LONGEST_TURN, DeskConversation, DeskTurn, SavedReply, Status, since_answer
from whyfeed.retrieval.errors import DataError, UnknownConversation
from whyfeed.retrieval.post import clean_text, row_id
from whyfeed.retrieval.privacy.vault import Vault
from whyfeed.retrieval.store.database import drop_deleted_words
from whyfeed.retrieval.store.store import Store, bump
from whyfeed.retrieval.user import desk_user
from whyfeed.retrieval.words import content_words, segment

_CHUNK = 500  # cases in one SQL statement
_QUERY_WORDS = 6
_FREQUENT = 20_000  # a word in more cases than this is not searched: uninformative and slow to score
_MOST_HITS = 20_000  # over all words of a query; BM25 takes about a microsecond a hit
_CANDIDATE_WORDS = 32  # distinct words of a query that are considered
_CASES = (
    "SELECT c.num, v.id, c.place, c.asked, c.before, c.text, c.reply, c.offered, v.language, c.time, c.live"
    " FROM desk_cases c JOIN desk_conversations v ON v.num = c.conversation"
)


@dataclass(frozen=True, slots=True)
class Case:
    """One past situation and the operator's answer `text` in it; all text is masked.

    `place` is the index of the turn in the conversation, from 0. `asked` are the customer's messages since the
    operator's last one, which is `before`. `reply` is the id of the saved reply that was sent, "" for free text.
    `time` is Unix seconds or None.
    """

    num: int
    conversation: str
    place: int
    asked: str
    before: str
    text: str
    reply: str
    offered: tuple[str, ...]
    language: str
    time: float | None
    live: bool = False  # written at this desk, not imported

    @property
    def edited(self) -> bool:
        """Whether an operator at this desk wrote this text instead of sending a suggestion."""
        return self.live and bool(self.offered) and not self.reply

    @property
    def id(self) -> str:
        """CONVERSATION/PLACE."""
        return f"{self.conversation}/{self.place}"


class DeskStore:
    """The service desk in a home's store. Safe for use from several threads and processes."""

    def __init__(self, store: Store) -> None:
        self.home = store.home
        self._database = store.database
        self._frequent: set[str] = set()  # words known to be too frequent, to count each only once

    # ---- conversations ----

    def put_conversations(self, conversations: Iterable[DeskConversation]) -> None:
        """Mask and add conversations; one with a known id and new content replaces the old one and its cases.

        One with unchanged content is skipped, even when turns were added here since its import.
        """
        replaced = False
        with self._database.write() as db:
            for conversation in conversations:
                vault = Vault()
                safe = masked(conversation, vault)
                # A digest of the masked text: from one of the raw text a short secret could be guessed.
                digest = hashlib.sha256(json.dumps(safe.to_row(), sort_keys=True).encode()).hexdigest()[:16]
                values = vault.values() if safe.status == "waiting" else {}
                known_as = "SELECT num, digest, status FROM desk_conversations WHERE id = ?"
                if old := db.execute(known_as, [safe.id]).fetchone():
                    known = _vault(db, old[0]) if old[2] == "waiting" else values
                    if old[1] == digest and values.items() <= known.items():
                        continue
                    _delete(db, old[0])
                    replaced = True
                num = _insert(db, safe, digest)
                for place, turn in enumerate(safe.turns):
                    _add(db, num, place, turn, safe.turns[:place])
                _keep_vault(db, num, values)
            if replaced:
                drop_deleted_words(db, "desk_search")
                self._database.note_erased()

    def conversation(self, id: str) -> DeskConversation:
        """One conversation, masked; UnknownConversation when there is none."""
        rows = self._all("SELECT num FROM desk_conversations WHERE id = ?", [id])
        if rows and (found := self._read(rows[0][0])):
            return found
        raise UnknownConversation(id)

    def waiting(self, limit: int = 50) -> list[DeskConversation]:
        """Open conversations in which the customer waits for an answer, the longest waiting first."""
        return self._open("customer", "since, num", limit)

    def recent(self, limit: int = 50) -> list[DeskConversation]:
        """Open conversations in which the operator spoke last, the newest first."""
        return self._open("agent", "since DESC, num DESC", limit)

    def latest(self, limit: int) -> Iterator[DeskConversation]:
        """At most `limit` closed conversations, the latest first."""
        for row in self._all(
            "SELECT num FROM desk_conversations WHERE status = 'closed' ORDER BY num DESC LIMIT ?", [limit]
        ):
            if found := self._read(row[0]):
                yield found

    def all(self) -> Iterator[DeskConversation]:
        """Every conversation in the order of arrival."""
        for row in self._all("SELECT num FROM desk_conversations ORDER BY num"):
            if found := self._read(row[0]):
                yield found

    def of_customer(self, customer: str) -> list[str]:
        """Ids of a customer's conversations."""
        return [row[0] for row in self._all("SELECT id FROM desk_conversations WHERE customer = ?", [customer])]

    def start(self, language: str = "", customer: str = "", id: str | None = None) -> str:
        """Open an empty conversation and return its id; without `id` a random one that cannot be guessed.

        ValueError for an invalid id, DataError for one that exists.
        """
        id = secrets.token_urlsafe(12) if id is None else row_id({"id": id}, "id")
        with self._database.write() as db:
            if db.execute("SELECT 1 FROM desk_conversations WHERE id = ?", [id]).fetchone():
                raise DataError(f"conversation {id!r} exists already; leave the id out to get a new one")
            _insert(db, DeskConversation(id, (), clean_text(language, 20), "waiting", clean_text(customer, 200)), "")
        return id

    def add_turn(self, id: str, turn: DeskTurn) -> int:
        """Mask a turn, append it to an open conversation and return its index; without a time, now is used.

        An operator's answer becomes a case at once. UnknownConversation, or DataError when it is closed.
        """
        text, draft = clean_text(turn.text, LONGEST_TURN), clean_text(turn.draft, LONGEST_TURN)
        turn = replace(turn, text=text, draft=draft, time=time.time() if turn.time is None else turn.time)
        with self._database.write() as db:
            num, status = _num(db, id)
            if status != "waiting":
                raise DataError(f"conversation {id!r} is closed, nothing can be added; start a new one")
            turns, vault = _turns(db, num), Vault(_vault(db, num))
            if turn.role == "customer":
                turn = replace(turn, text=vault.mask(turn.text, asked=_situation(turns)[1]))
            turn = _mask_known(turn, vault)
            _add(db, num, len(turns), turn, turns, live=True)
            spoken = [*_last_word((*turns, turn)), num]
            db.execute("UPDATE desk_conversations SET speaker = ?, since = ? WHERE num = ?", spoken)
            _keep_vault(db, num, vault.values())
        return len(turns)

    def unmask(self, id: str, text: str) -> str:
        """The text with the values of an open conversation in place of their chips; UnknownConversation."""
        return Vault(self.chips(id)).unmask(text)

    def chips(self, id: str) -> dict[str, str]:
        """Chip to value of an open conversation, in order of appearance; empty for a closed one."""
        with self._database.translated():
            return _vault(self._database.connection, _num(self._database.connection, id)[0])

    def close(self, id: str) -> None:
        """Close a conversation: its cases stay, the values of its chips are deleted."""
        with self._database.write() as db:
            num, _ = _num(db, id)
            db.execute("UPDATE desk_conversations SET status = 'closed' WHERE num = ?", [num])
            db.execute("DELETE FROM desk_vault WHERE conversation = ?", [num])
            self._database.note_erased()  # cleared as soon as nobody reads the log: closing waits for nothing

    def remove(self, *ids: str) -> None:
        """Erase conversations with their turns, cases, vectors and ledger events, without a trace in the file.

        UnknownConversation, with nothing erased, where there is none of an id.
        """
        if not ids:
            return
        with self._database.write() as db:
            for id in ids:
                _delete(db, _num(db, id)[0])
                db.execute("DELETE FROM events WHERE user = ?", [desk_user(id)])
            drop_deleted_words(db, "desk_search")
            bump(db)
            self._database.note_erased()
        self._database.clear_log()

    # ---- saved replies ----

    def put_replies(self, replies: Iterable[SavedReply]) -> None:
        """Add saved replies or replace those with the same id."""
        with self._database.write() as db:
            for reply in replies:
                db.execute(
                    "INSERT INTO desk_replies (id, text, intent, language, attributes) VALUES (?, ?, ?, ?, ?)"
                    " ON CONFLICT (id) DO UPDATE SET text = excluded.text, intent = excluded.intent,"
                    " language = excluded.language, attributes = excluded.attributes",
                    [reply.id, reply.text, reply.intent, reply.language, _json(reply.attributes)],
                )

    def replies(self) -> list[SavedReply]:
        """Every saved reply in the order of first arrival."""
        rows = self._all("SELECT id, text, intent, language, attributes FROM desk_replies ORDER BY num")
        return [SavedReply(id, text, intent, language, json.loads(more)) for id, text, intent, language, more in rows]

    # ---- cases ----

    def cases(self, after: int = 0) -> Iterator[Case]:
        """The cases with a larger num than `after`, by num; there is one for every operator message with a context."""
        # Read in pages: a slow caller would otherwise keep an old snapshot of the database open.
        while rows := self._all(f"{_CASES} WHERE c.num > ? ORDER BY c.num LIMIT ?", [after, _CHUNK]):
            yield from map(_case, rows)
            after = rows[-1][0]

    def cases_by_num(self, nums: Sequence[int]) -> dict[int, Case]:
        """The cases among `nums` that exist."""
        found: dict[int, Case] = {}
        for start in range(0, len(nums), _CHUNK):
            part = [int(num) for num in nums[start : start + _CHUNK]]
            rows = self._all(f"{_CASES} WHERE c.num IN ({','.join('?' * len(part))})", part)
            found.update((row[0], _case(row)) for row in rows)
        return found

    def search(self, text: str, limit: int = 50) -> list[tuple[int, float]]:
        """Full-text search over the situations of cases: (num, BM25 score, larger is better), best first.

        Only the rarest words of the query are searched, see `_FREQUENT` and `_MOST_HITS`.
        """
        found = []
        for word in list(dict.fromkeys(content_words(text)))[:_CANDIDATE_WORDS]:
            if word not in self._frequent:
                # Counted in the index itself, whose tokeniser stems: "booking" counts as "book".
                count = self._all(
                    "SELECT count(*) FROM (SELECT 1 FROM desk_search WHERE desk_search MATCH ? LIMIT ?)",
                    [f'"{word}"', _FREQUENT],
                )[0][0]
                if count >= _FREQUENT:
                    self._frequent.add(word)
                elif count:
                    found.append((count, word))
        taken, hits = [], 0
        for count, word in sorted(found)[:_QUERY_WORDS]:
            hits += count
            if hits > _MOST_HITS:
                break
            taken.append(f'"{word}"')
        if not taken:
            return []
        return self._all(
            "SELECT rowid, -bm25(desk_search) AS score FROM desk_search WHERE desk_search MATCH ?"
            " ORDER BY score DESC, rowid LIMIT ?",
            [" OR ".join(taken), limit],
        )

    def counts(self) -> dict[str, int]:
        """The numbers of conversations, of those that wait for an answer, of cases, and of saved replies."""
        tables = {
            "conversations": "desk_conversations",
            "waiting": "desk_conversations WHERE status = 'waiting' AND speaker = 'customer'",
            "cases": "desk_cases",
            "replies": "desk_replies",
        }
        return {name: self._all(f"SELECT count(*) FROM {table}")[0][0] for name, table in tables.items()}

    def generation(self) -> int:
        """A counter that grows when cases are removed or replaced, but not when they are added."""
        rows = self._all("SELECT value FROM meta WHERE key = 'desk-generation'")
        return int(rows[0][0]) if rows else 0

    # ---- vectors ----

    def put_vectors(self, model: str, nums: Sequence[int], vectors: Vectors) -> None:
        """Store vectors (n, d) of cases, as float16; those of cases that were removed meanwhile are skipped."""
        with self._database.write() as db:
            for num, vector in zip(nums, vectors, strict=True):
                db.execute(
                    "INSERT OR REPLACE INTO desk_vectors SELECT num, ?, ? FROM desk_cases WHERE num = ?",
                    [model, vector.astype(np.float16).tobytes(), int(num)],
                )

    def vectors(self, model: str, dimension: int, after: int = 0) -> tuple[list[int], Vectors]:
        """(nums, float32 (n, dimension)) of a model's vectors, by num, for cases with a larger num than `after`."""
        nums, buffer = [], bytearray()
        query = "SELECT num, vector FROM desk_vectors WHERE model = ? AND num > ? ORDER BY num"
        with self._database.translated():
            for num, vector in self._database.connection.execute(query, [model, after]):
                nums.append(int(num))
                buffer += vector
        return nums, np.frombuffer(buffer, dtype=np.float16).astype(np.float32).reshape(len(nums), dimension)

    # ---- inside ----

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._database.translated():
            return self._database.connection.execute(sql, list(values)).fetchall()

    def _open(self, speaker: str, order: str, limit: int) -> list[DeskConversation]:
        where = f"status = 'waiting' AND speaker = ? ORDER BY {order} LIMIT ?"
        rows = self._all(f"SELECT num FROM desk_conversations WHERE {where}", [speaker, limit])
        # A conversation that was removed meanwhile is left out.
        return [found for (num,) in rows if (found := self._read(num))]

    def _read(self, num: int) -> DeskConversation | None:
        columns = "id, language, status, customer, attributes"
        turns = _turns(self._database.connection, num)
        for row in self._all(f"SELECT {columns} FROM desk_conversations WHERE num = ?", [num]):
            return DeskConversation(row[0], turns, row[1], row[2], row[3], json.loads(row[4]))
        return None


def _num(db: SqliteDatabase, id: str) -> tuple[int, Status]:
    """(num, status) of a conversation."""
    row = db.execute("SELECT num, status FROM desk_conversations WHERE id = ?", [id]).fetchone()
    if row is None:
        raise UnknownConversation(id)
    return row[0], row[1]


def _turns(db: SqliteDatabase, num: int) -> tuple[DeskTurn, ...]:
    rows = db.execute("SELECT document FROM desk_turns WHERE conversation = ? ORDER BY place", [num])
    return tuple(DeskTurn.from_row(json.loads(row[0])) for row in rows)


def _vault(db: SqliteDatabase, num: int) -> dict[str, str]:
    return dict(db.execute("SELECT chip, value FROM desk_vault WHERE conversation = ? ORDER BY place", [num]))


def _keep_vault(db: SqliteDatabase, num: int, values: Mapping[str, str]) -> None:
    for place, (chip, value) in enumerate(values.items()):
        db.execute("INSERT OR REPLACE INTO desk_vault VALUES (?, ?, ?, ?)", [num, place, chip, value])


def _insert(db: SqliteDatabase, conversation: DeskConversation, digest: str) -> int:
    """Write a conversation without its turns. `digest` is that of the imported row, "" for one started here."""
    row = db.execute(
        "INSERT INTO desk_conversations VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING num",
        [
            conversation.id, conversation.language, conversation.status, conversation.customer,
            _json(conversation.attributes), digest, *_last_word(conversation.turns),
        ],
    ).fetchone()  # fmt: skip
    return int(row[0])


def _add(
    db: SqliteDatabase, num: int, place: int, turn: DeskTurn, earlier: Sequence[DeskTurn], *, live: bool = False
) -> None:
    """Write one masked turn after the `earlier` ones; an operator's message with a context also adds a case."""
    db.execute("INSERT INTO desk_turns VALUES (?, ?, ?)", [num, place, _json(turn.to_row())])
    asked, before = _situation(earlier) if turn.role == "agent" and turn.text else ("", "")
    if asked or before:
        case = db.execute(
            "INSERT INTO desk_cases VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING num",
            [num, place, asked, before, turn.text, turn.reply, _json(turn.offered), turn.time, live],
        ).fetchone()[0]
        words = [case, segment(asked), segment(before)]
        db.execute("INSERT INTO desk_search (rowid, asked, before) VALUES (?, ?, ?)", words)


def _delete(db: SqliteDatabase, num: int) -> None:
    """Delete a conversation, its rows, and its entries of the full-text index, which has no foreign keys."""
    db.execute("DELETE FROM desk_search WHERE rowid IN (SELECT num FROM desk_cases WHERE conversation = ?)", [num])
    db.execute("DELETE FROM desk_conversations WHERE num = ?", [num])
    db.execute("INSERT INTO meta VALUES ('desk-generation', '1') ON CONFLICT (key) DO UPDATE SET value = value + 1")


def _situation(turns: Sequence[DeskTurn]) -> tuple[str, str]:
    """(the customer's messages since the operator's last one, that last message)."""
    since = since_answer(turns)
    asked = " ".join(turn.text for turn in since if turn.role == "customer" and turn.text)
    return asked, turns[-len(since) - 1].text if len(since) < len(turns) else ""


def _last_word(turns: Sequence[DeskTurn]) -> tuple[str, float | None]:
    """(who spoke last, since when the other side waits); a customer waits since their first unanswered message."""
    since = since_answer(turns)
    for turn in since:
        if turn.role == "customer" and turn.text:
            return "customer", turn.time
    return ("agent", turns[-len(since) - 1].time) if len(since) < len(turns) else ("", None)


def masked(conversation: DeskConversation, vault: Vault) -> DeskConversation:
    """The conversation with personal data masked; the values are added to `vault`.

    The customer's turns are masked first, so that data the customer mentions late is masked in earlier texts too.
    """
    turns, known, asked = [], [], ""
    for turn in conversation.turns:
        if turn.role == "customer":
            turn = replace(turn, text=vault.mask(turn.text, asked=asked))
        elif turn.role == "agent" and turn.text:
            asked = turn.text
        turns.append(turn)
        known.append(len(vault) if turn.role == "customer" else -1)
    for place, turn in enumerate(turns):
        # A customer's turn that was masked when all values were known is not masked again, which would be slow.
        if known[place] != len(vault) or turn.draft or turn.item or turn.query:
            turns[place] = _mask_known(turn, vault)
    return replace(conversation, turns=tuple(turns), attributes=masked_value(conversation.attributes, vault))


def _mask_known(turn: DeskTurn, vault: Vault) -> DeskTurn:
    safe = {name: masked_value(getattr(turn, name), vault) for name in ("text", "draft", "item", "query")}
    return replace(turn, **safe)


def masked_value(value: Any, vault: Vault) -> Any:
    """A JSON value with personal data masked in its strings, and in numbers that are known values of `vault`."""
    if isinstance(value, str):
        return vault.mask_known(value)
    if isinstance(value, Mapping):
        return {key: masked_value(inner, vault) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked_value(inner, vault) for inner in value]
    known = isinstance(value, int | float) and not isinstance(value, bool) and str(value) in vault
    return vault.mask_known(str(value)) if known else value


def _case(row: Sequence[Any]) -> Case:
    num, conversation, place, asked, before, text, reply, offered, language, time, live = row
    return Case(
        num, conversation, place, asked, before, text, reply, tuple(json.loads(offered)), language, time, bool(live)
    )


def _json(value: Any) -> str:
    return json.dumps(dict(value) if isinstance(value, Mapping) else value, ensure_ascii=False)
