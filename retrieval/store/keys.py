"""API keys of network clients: scopes, the users they may access, and rate limits."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from whyfeed.retrieval.errors import DataError, ReservedUser
from whyfeed.retrieval.post import clean_text
from whyfeed.retrieval.store.store import Store
from whyfeed.retrieval.user import is_reserved

SCOPES = ("read", "feedback", "desk", "admin")
PER_MINUTE = 600


@dataclass(frozen=True, slots=True)
class Key:
    """A client's key without its secret. `users` are those whose data it may access; None means everybody's."""

    name: str
    scopes: frozenset[str]
    users: frozenset[str] | None = None
    per_minute: int = PER_MINUTE
    created: float = 0.0

    def may(self, scope: str) -> bool:
        """Whether it has this scope; `admin` includes all."""
        return scope in self.scopes or "admin" in self.scopes

    def sees(self, user: str) -> bool:
        """Whether it may access this user's data."""
        return self.users is None or user in self.users


class Keys:
    """The keys of a home. A secret is random and returned once; only its digest is stored, to look it up."""

    def __init__(self, store: Store) -> None:
        self._database = store.database

    def add(
        self, name: str, scopes: Sequence[str], users: Sequence[str] | None = None, per_minute: int = PER_MINUTE
    ) -> str:
        """Create a key and return its secret. ValueError for a bad scope or limit, DataError when the name is taken."""
        name = clean_text(name, 100)
        if not name:
            raise ValueError("a key needs a name")
        if not scopes or (unknown := [scope for scope in scopes if scope not in SCOPES]):
            raise ValueError(f"scope {(unknown[0] if scopes else '')!r} is none of {', '.join(SCOPES)}")
        if users is not None and (wide := {"admin", "desk"} & set(scopes)):
            raise ValueError(f"a key with the scope {min(wide)!r} sees everybody; leave out the users, or the scope")
        for user in users or ():
            if is_reserved(user):
                raise ReservedUser(user)
            if not clean_text(user) or clean_text(user) != user:
                raise ValueError(f"user {user!r} is no id; `whyfeed users` lists those that there are")
        if per_minute < 1:
            raise ValueError(f"{per_minute} requests a minute are too few; give at least 1")
        secret = f"wf_{secrets.token_urlsafe(32)}"
        with self._database.write() as db:
            if db.execute("SELECT 1 FROM keys WHERE name = ?", [name]).fetchone():
                raise DataError(f"there is a key {name!r} already; remove it first, or choose another name")
            db.execute(
                "INSERT INTO keys (name, digest, scopes, users, per_minute, created) VALUES (?, ?, ?, ?, ?, ?)",
                [
                    name, _digest(secret), json.dumps(sorted(set(scopes))),
                    None if users is None else json.dumps(sorted(set(users))), per_minute, time.time(),
                ],
            )  # fmt: skip
        return secret

    def find(self, secret: str) -> Key | None:
        """The key of a secret, None when there is none."""
        found = self._rows("WHERE digest = ?", [_digest(secret)])
        return found[0] if found else None

    def all(self) -> list[Key]:
        """Every key, by name."""
        return self._rows("ORDER BY name", [])

    def remove(self, name: str) -> None:
        """Remove a key; later requests with it are refused. DataError when there is none of that name."""
        with self._database.write() as db:
            if not db.execute("DELETE FROM keys WHERE name = ?", [name]).rowcount:
                raise DataError(f"there is no key {name!r}; `whyfeed keys list` shows them")

    def _rows(self, rest: str, values: Sequence[str]) -> list[Key]:
        sql = f"SELECT name, scopes, users, per_minute, created FROM keys {rest}"
        return [
            Key(
                name, frozenset(json.loads(scopes)), None if users is None else frozenset(json.loads(users)), most, made
            )
            for name, scopes, users, most, made in self._database.connection.execute(sql, list(values)).fetchall()
        ]


def _digest(secret: str) -> str:
    # A random secret of 256 bits needs no slow hash.
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
