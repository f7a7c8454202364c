"""The store of a home: posts, users, edges, the event ledger, vectors, and a cache of generated documents.

Posts, users and edges change by import. The ledger is append-only, except that users can have events forgotten.
Vectors, clauses and judgements are derived from the rest and can be computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sqlite_utils import Database as SqliteDatabase

from whyfeed.retrieval.arrays import Vectors
from whyfeed.retrieval.errors import HomeError, ReservedUser, UnknownConversation, UnknownPost, UnknownUser
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.files import keep_private
from whyfeed.retrieval.post import Post, reading_digest
from whyfeed.retrieval.store.database import Database, drop_deleted_words
from whyfeed.retrieval.user import User, desk_user, is_reserved
from whyfeed.retrieval.words import match_query, segment

_POST_COLUMNS = "id, kind, title, text, url, author, community, tags, language, created_at, image, attributes"
_CHUNK = 500  # ids in one SQL statement
_FILE = "whyfeed.db"
# What may be in a home before its database: trained models, the log of `serve-llm`, and what a file system makes.
_BEFORE = frozenset({"adapters", "models", "vllm.log", "lost+found"})


def post_digest(post: Post) -> str:
    """A digest of `embedding_text`, 16 hexadecimal digits; when it changes, the post must be embedded again."""
    return hashlib.sha256(embedding_text(post).encode()).hexdigest()[:16]


def embedding_text(post: Post) -> str:
    """The input of the embedder: title, tags, and the start of the text."""
    return " ".join(part for part in (post.title, " ".join(post.tags), post.text[:300]) if part)


class Store:
    """The store of a home folder, created where it is missing and migrated where it is old.

    Only the owner of a home may read it: its folders are 0700 and its files 0600, whatever the umask, and what an older
    version left open is mended. HomeError when the folder cannot be used, holds something else, or was written by a
    newer version.
    """

    def __init__(self, home: Path) -> None:
        try:
            if not home.exists():
                home.parent.mkdir(parents=True, exist_ok=True)
                home.mkdir(mode=0o700, exist_ok=True)
            _check_ours(home)
        except OSError as exc:
            raise HomeError(
                f"cannot make the home folder {str(home)!r}: {exc.strerror}; choose another --home"
            ) from exc
        self.home = home
        keep_private(home)
        self.database = Database(home / _FILE)

    def close(self) -> None:
        """Close every connection."""
        self.database.close()
        keep_private(self.home)  # libraries write files of their own into a home

    # ---- posts ----

    def put_posts(self, posts: Iterable[Post]) -> None:
        """Add posts or replace those with the same id, and their entries in the full-text index."""
        with self.database.write() as db:
            for post in posts:
                row = (
                    post.id, post.kind, post.title, post.text, post.url, post.author, post.community,
                    json.dumps(post.tags, ensure_ascii=False), post.language, post.created_at, post.image,
                    json.dumps(post.attributes, ensure_ascii=False), post_digest(post), reading_digest(post),
                )  # fmt: skip
                num = db.execute(
                    f"INSERT INTO posts ({_POST_COLUMNS}, digest, reading) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
                    " ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, title = excluded.title,"
                    " text = excluded.text, url = excluded.url, author = excluded.author,"
                    " community = excluded.community, tags = excluded.tags, language = excluded.language,"
                    " created_at = excluded.created_at, image = excluded.image,"
                    " attributes = excluded.attributes, digest = excluded.digest, reading = excluded.reading"
                    " RETURNING num",
                    row,
                ).fetchone()[0]
                db.execute("DELETE FROM search WHERE rowid = ?", [num])
                db.execute(
                    "INSERT INTO search (rowid, title, tags, text) VALUES (?, ?, ?, ?)",
                    [num, segment(post.title), segment(" ".join(post.tags)), segment(post.text[:20_000])],
                )

    def remove_posts(self, ids: Sequence[str]) -> None:
        """Remove posts from the catalogue, without a trace in the file; events about them stay in the ledger."""
        with self.database.write() as db:
            for id in ids:
                db.execute("DELETE FROM search WHERE rowid = (SELECT num FROM posts WHERE id = ?)", [id])
                db.execute("DELETE FROM posts WHERE id = ?", [id])
            drop_deleted_words(db, "search")
            bump(db)
            self.database.note_erased()
        self.database.clear_log()

    def post(self, id: str) -> Post:
        """One post; UnknownPost when there is none."""
        found = self.posts([id])
        if not found:
            raise UnknownPost(id)
        return found[id]

    def posts(self, ids: Sequence[str]) -> dict[str, Post]:
        """The posts among `ids` that exist."""
        found: dict[str, Post] = {}
        for start in range(0, len(ids), _CHUNK):
            part = list(ids[start : start + _CHUNK])
            marks = ",".join("?" * len(part))
            for row in self._all(f"SELECT {_POST_COLUMNS} FROM posts WHERE id IN ({marks})", part):
                found[row[0]] = _post(row)
        return found

    def all_posts(self) -> Iterator[Post]:
        """Every post in the order of arrival."""
        for row in self.database.connection.execute(f"SELECT {_POST_COLUMNS} FROM posts ORDER BY num"):
            yield _post(row)

    def post_rows(self) -> list[tuple[Any, ...]]:
        """(num, id, kind, author, community, created_at, language, tags, digest) of every post, by num."""
        return self._all(
            "SELECT num, id, kind, author, community, created_at, language, tags, digest FROM posts ORDER BY num"
        )

    def texts(self, column: Literal["digest", "reading"]) -> list[tuple[int, str, str]]:
        """(num, id, digest) of every post, by num; the digest is `post_digest` or `reading_digest`, by `column`."""
        return [tuple(row) for row in self._all(f"SELECT num, id, {column} FROM posts ORDER BY num")]

    def search(self, text: str, limit: int, until: float | None = None) -> list[tuple[int, float]]:
        """Full-text search: at most `limit` (num, BM25 score, larger is better), best first.

        Posts match that share any content word with the text. `until` (Unix seconds) leaves out posts created later.
        """
        query = match_query(text)
        if not query:
            return []
        # Titles and tags weigh more: they name the subject, while the text mentions many other things.
        rows = self._all(
            "SELECT rowid, -bm25(search, 4.0, 4.0, 1.0) AS score FROM search WHERE search MATCH ? AND (? IS NULL OR"
            " coalesce((SELECT created_at FROM posts WHERE num = search.rowid), ?) <= ?)"
            " ORDER BY score DESC, rowid LIMIT ?",
            [query, until, until, until, limit],
        )
        return [(int(num), float(score)) for num, score in rows]

    # ---- users and edges ----

    def put_users(self, users: Iterable[User]) -> None:
        """Add users or replace those with the same id."""
        with self.database.write() as db:
            for user in users:
                db.execute(
                    "INSERT INTO users (id, name, about, attributes) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
                    " SET name = excluded.name, about = excluded.about, attributes = excluded.attributes",
                    [user.id, user.name, user.about, json.dumps(user.attributes, ensure_ascii=False)],
                )

    def user(self, id: str) -> User:
        """One user, also one who only has events; UnknownUser when there is neither, and for a reserved id."""
        if is_reserved(id):
            raise ReservedUser(id)
        row = self._one("SELECT id, name, about, attributes FROM users WHERE id = ?", [id])
        if row is None:
            if self._one("SELECT 1 FROM events WHERE user = ? LIMIT 1", [id]) is None:
                raise UnknownUser(id)
            return User(id)
        return User(row[0], row[1], row[2], json.loads(row[3]))

    def all_users(self) -> Iterator[User]:
        """Every user with a row, by id; users who only have events are not among them."""
        for row in self.database.connection.execute("SELECT id, name, about, attributes FROM users ORDER BY id"):
            yield User(row[0], row[1], row[2], json.loads(row[3]))

    def names(self, ids: Sequence[str]) -> dict[str, str]:
        """The public handles of those users who have one."""
        found: dict[str, str] = {}
        for start in range(0, len(ids), _CHUNK):
            part = list(ids[start : start + _CHUNK])
            marks = ",".join("?" * len(part))
            found.update(self._all(f"SELECT id, name FROM users WHERE name != '' AND id IN ({marks})", part))
        return found

    def put_follows(self, edges: Iterable[tuple[str, str, float]]) -> None:
        """Add or replace (follower, followed, weight)."""
        with self.database.write() as db:
            for edge in edges:
                db.execute("INSERT OR REPLACE INTO follows VALUES (?, ?, ?)", edge)

    def follows(self) -> list[tuple[str, str, float]]:
        """Every (follower, followed, weight)."""
        return [tuple(row) for row in self._all("SELECT follower, followed, weight FROM follows")]

    def put_links(self, links: Iterable[tuple[str, str, str]]) -> None:
        """Add triples (head, relation, tail); those already there are skipped."""
        with self.database.write() as db:
            for link in links:
                db.execute("INSERT OR IGNORE INTO links (head, relation, tail) VALUES (?, ?, ?)", link)

    def links(self) -> list[tuple[str, str, str]]:
        """Every (head, relation, tail)."""
        return [tuple(row) for row in self._all("SELECT head, relation, tail FROM links ORDER BY id")]

    # ---- the ledger ----

    def append(self, event: Event, known: bool = False) -> Event:
        """Append one event durably and return it with its new id.

        `known`: UnknownUser where the user has been erased meanwhile, UnknownConversation for the desk's.
        """
        with self.database.write() as db:
            if known:
                check_known(db, event.user)
            num = db.execute("SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'events'").fetchone()[
                0
            ]
            made = Event(f"e{num}", event.user, event.post, event.kind, event.time, event.value, event.text)
            self._insert(made, ignore=False)
        return made

    def put_events(self, events: Iterable[Event]) -> int:
        """Add imported events, whose ids are digests of their content; skips known ids, returns the number added."""
        with self.database.write() as db:
            added = sum(self._insert(event, ignore=True) for event in events)
            bump(db)
        return added

    def events(self, *, user: str | None = None, after: int = 0) -> list[tuple[int, Event]]:
        """(num, event) with a larger num than `after`, in the order of arrival, of one user or of all."""
        where, values = ("num > ?", [after]) if user is None else ("user = ? AND num > ?", [user, after])
        rows = self._all(
            f"SELECT num, id, user, post, kind, time, value, text FROM events WHERE {where} ORDER BY num", values
        )
        return [(row[0], Event(*row[1:])) for row in rows]

    def event(self, user: str, id: str) -> Event | None:
        """One event of this user; None when there is none."""
        row = self._one(
            "SELECT id, user, post, kind, time, value, text FROM events WHERE id = ? AND user = ?", [id, user]
        )
        return None if row is None else Event(*row)

    def forget(self, user: str, ids: Sequence[str]) -> None:
        """Delete events of a user, and the traces and stored answers of that user that mention one of them."""
        with self.database.write() as db:
            for id in ids:
                db.execute("DELETE FROM events WHERE id = ? AND user = ?", [id, user])
                spoken = f'%"{_like(id)}"%'
                db.execute("DELETE FROM traces WHERE user = ? AND document LIKE ? ESCAPE '\\'", [user, spoken])
                db.execute(
                    "UPDATE turns SET answer = NULL WHERE answer LIKE ? ESCAPE '\\' AND conversation IN"
                    " (SELECT id FROM conversations WHERE user = ?)",
                    [spoken, user],
                )
            bump(db)
            self.database.note_erased()
        self.database.clear_log()

    def erase(self, user: str) -> None:
        """Delete everything about a user, without a trace in the file.

        That is: the user, events, edges and links, conversations, traces, cached judgements, keys bound to this user
        alone, and what answers to others say of them. Their posts stay, without an author.
        """
        quoted = json.dumps(user, ensure_ascii=False)
        with self.database.write() as db:
            row = db.execute("SELECT name FROM users WHERE id = ?", [user]).fetchone()
            db.execute("DELETE FROM events WHERE user = ?", [user])
            db.execute("DELETE FROM follows WHERE follower = ? OR followed = ?", [user, user])
            db.execute("DELETE FROM links WHERE head = ? OR tail = ?", [user, user])
            db.execute("DELETE FROM conversations WHERE user = ?", [user])
            db.execute("DELETE FROM traces WHERE user = ? OR instr(document, ?)", [user, quoted])
            db.execute("UPDATE turns SET answer = NULL WHERE instr(answer, ?)", [quoted])
            if row is not None and row[0]:
                _unname(db, row[0])
            db.execute("DELETE FROM kept WHERE kind = 'judgement' AND key LIKE ? ESCAPE '\\'", [_like(user) + "|%"])
            db.execute("UPDATE posts SET author = '' WHERE author = ?", [user])
            for table in ("posts", "users"):
                _blank(db, table, user)
            db.execute(
                "DELETE FROM keys WHERE json_array_length(users) = 1 AND json_extract(users, '$[0]') = ?", [user]
            )
            db.execute(
                "UPDATE keys SET users = (SELECT json_group_array(value) FROM json_each(users) WHERE value != ?)"
                " WHERE EXISTS (SELECT 1 FROM json_each(users) WHERE value = ?)",
                [user, user],
            )
            db.execute("DELETE FROM users WHERE id = ?", [user])
            bump(db)
            self.database.note_erased()
        self.database.clear_log()

    def is_known(self, user: str) -> bool:
        """Whether anything is stored about this id: a user, a follower, an author, a user of a key."""
        return not is_reserved(user) and any(
            self._one(sql, [user])
            for sql in (
                "SELECT 1 FROM users WHERE id = ?",
                "SELECT 1 FROM events WHERE user = ? LIMIT 1",
                "SELECT 1 FROM posts WHERE author = ? LIMIT 1",
                "SELECT 1 FROM follows WHERE ? IN (follower, followed) LIMIT 1",
                "SELECT 1 FROM conversations WHERE user = ? LIMIT 1",
                "SELECT 1 FROM keys WHERE EXISTS (SELECT 1 FROM json_each(users) WHERE value = ?)",
            )
        )

    def generation(self) -> int:
        """A counter that grows on every change other than an appended event: import, forget, erase."""
        row = self._one("SELECT value FROM meta WHERE key = 'generation'", [])
        return 0 if row is None else int(row[0])

    # ---- vectors ----

    def put_vectors(self, model: str, rows: Sequence[tuple[int, str]], vectors: Vectors) -> None:
        """Store vectors (n, d) of posts, as float16; `rows` are (num, digest of the text that was embedded)."""
        with self.database.write() as db:
            for (num, digest), vector in zip(rows, vectors, strict=True):
                db.execute(
                    "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)",
                    [num, model, digest, vector.astype(np.float16).tobytes()],
                )

    def vectors(self, model: str, dimension: int) -> tuple[list[int], list[str], Vectors]:
        """(nums, digests, float32 (n, dimension)) of the vectors of a model, by num."""
        rows = self._all("SELECT num, digest, vector FROM vectors WHERE model = ? ORDER BY num", [model])
        matrix = np.zeros((len(rows), dimension), dtype=np.float32)
        for target, row in zip(matrix, rows, strict=True):
            target[:] = np.frombuffer(row[2], dtype=np.float16)
        return [row[0] for row in rows], [row[1] for row in rows], matrix

    # ---- cache of generated documents ----

    def kept(self, kind: str, key: str) -> dict[str, Any] | None:
        """The cached document of that kind and key; None when there is none."""
        row = self._one("SELECT document FROM kept WHERE kind = ? AND key = ?", [kind, key])
        return None if row is None else json.loads(row[0])

    def keep(self, kind: str, key: str, document: dict[str, Any], user: str = "") -> None:
        """Cache a document under a kind and key; it replaces an earlier one.

        A document about a `user` who has been erased meanwhile is not kept.
        """
        with self.database.write() as db:
            if user and not _is_user(db, user):
                return
            db.execute(
                "INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", [kind, key, json.dumps(document, ensure_ascii=False)]
            )

    # ---- inside ----

    def _insert(self, event: Event, *, ignore: bool) -> int:
        verb = "INSERT OR IGNORE" if ignore else "INSERT"
        return self.database.connection.execute(
            f"{verb} INTO events (id, user, post, kind, time, value, text) VALUES (?, ?, ?, ?, ?, ?, ?)",
            [event.id, event.user, event.post, event.kind, event.time, event.value, event.text],
        ).rowcount

    def _all(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self.database.translated():
            return self.database.connection.execute(sql, list(values)).fetchall()

    def _one(self, sql: str, values: Sequence[Any]) -> Any:
        with self.database.translated():
            return self.database.connection.execute(sql, list(values)).fetchone()


def _check_ours(home: Path) -> None:
    """HomeError where the folder holds files, and none of whyfeed's."""
    if (home / _FILE).exists():
        return
    names = {path.name for path in home.iterdir()}
    strange = sorted(name for name in names if name not in _BEFORE and not name.startswith(".whyfeed"))
    if strange:
        raise HomeError(
            f"{str(home)!r} is no home of whyfeed, and holds other files ({strange[0]!r}); name an empty or a new"
            " folder with --home"
        )


def bump(db: SqliteDatabase) -> None:
    """Say within a transaction that more was changed than an event appended; see `Store.generation`."""
    db.execute("INSERT INTO meta VALUES ('generation', '1') ON CONFLICT (key) DO UPDATE SET value = value + 1")


def check_known(db: SqliteDatabase, user: str) -> None:
    """UnknownUser where there is no such user, UnknownConversation where the id is that of a desk's conversation.

    Within the transaction that writes about them: an erasure comes before it, and is seen, or after it.
    """
    if is_reserved(user):
        conversation = user.removeprefix(desk_user(""))
        if not db.execute("SELECT 1 FROM desk_conversations WHERE id = ?", [conversation]).fetchone():
            raise UnknownConversation(conversation)
    elif not _is_user(db, user):
        raise UnknownUser(user)


def _is_user(db: SqliteDatabase, user: str) -> bool:
    known = "SELECT 1 FROM users WHERE id = ? UNION ALL SELECT 1 FROM events WHERE user = ? LIMIT 1"
    return db.execute(known, [user, user]).fetchone() is not None


def _blank(db: SqliteDatabase, table: str, user: str) -> None:
    """Blank a user's id where it is a value in the attributes of a table's rows."""
    rows = db.execute(
        f"SELECT id, attributes FROM {table} WHERE instr(attributes, ?)", [json.dumps(user, ensure_ascii=False)]
    ).fetchall()
    for id, attributes in rows:
        blanked = json.dumps(_without(json.loads(attributes), user), ensure_ascii=False)
        db.execute(f"UPDATE {table} SET attributes = ? WHERE id = ?", [blanked, id])


def _without(value: Any, id: str) -> Any:
    if isinstance(value, dict):
        return {"" if key == id else key: _without(inner, id) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without(inner, id) for inner in value]
    return "" if value == id else value


def _unname(db: SqliteDatabase, name: str) -> None:
    """Delete a user's public name from what was answered to others: reasons, and answers about people."""
    spoken = json.dumps(name, ensure_ascii=False)[1:-1]
    author = '%"field": "author"%'
    db.execute("DELETE FROM traces WHERE document LIKE ? AND instr(document, ?)", [author, spoken])
    db.execute(
        "UPDATE turns SET text = replace(text, ?, '…') WHERE role = 'agent' AND instr(text, ?)"
        " AND json_extract(answer, '$.request.intent') IN ('people', 'compare', 'why')",
        [name, name],
    )
    db.execute("UPDATE turns SET answer = NULL WHERE role = 'agent' AND instr(answer, ?)", [spoken])


def _post(row: Sequence[Any]) -> Post:
    id, kind, title, text, url, author, community, tags, language, created_at, image, attributes = row
    return Post(
        id, kind, title, text, url, author, community, tuple(json.loads(tags)), language, created_at, image,
        json.loads(attributes),
    )  # fmt: skip


def _like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
