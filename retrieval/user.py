"""A user who reads posts, with or without interactions so far."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from whyfeed.retrieval.errors import ReservedUser
from whyfeed.retrieval.post import clean_text, row_id

_DESK = "desk:"
_UNSEEN = ("Cc", "Cf", "Cs", "Cn", "Mn")  # categories of characters that show nothing by themselves
_BLANK = "\u115f\u1160\u3164\uffa0\u17b4\u17b5"  # fillers that count as letters


def desk_user(conversation: str) -> str:
    """Whose the ledger events of a desk's conversation are. Nobody reads under such an id; see `is_reserved`."""
    return _DESK + conversation


def is_reserved(id: str) -> bool:
    """Whether no user may have this id, because it is one of `desk_user` or looks like one.

    Case, compatibility forms (a full-width colon) and invisible characters make no difference.
    """
    if id.isascii():
        return id.lstrip().lower().startswith(_DESK)
    plain = unicodedata.normalize("NFKC", id)
    visible = "".join(char for char in plain if unicodedata.category(char) not in _UNSEEN and char not in _BLANK)
    return visible.lstrip().casefold().startswith(_DESK)


def user_id(row: Mapping[str, Any], key: str) -> str:
    """As `row_id`, for the id of a user. ValueError also for a reserved one."""
    id = row_id(row, key)
    if is_reserved(id):
        raise ValueError(f"{key}: {ReservedUser(id)}")
    return id


@dataclass(frozen=True, slots=True)
class User:
    """One user. `name` is a public handle or a pseudonym, as the community itself displays it."""

    id: str
    name: str = ""
    about: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> User:
        """Build a user from a row of users.jsonl; ValueError says which field is wrong."""
        return cls(
            id=user_id(row, "id"),
            name=clean_text(row.get("name"), 200),
            about=clean_text(row.get("about"), 10_000),
            attributes={key: value for key, value in row.items() if key not in ("id", "name", "about")},
        )

    def to_row(self) -> dict[str, Any]:
        """The row of users.jsonl for this user; inverse of `from_row`."""
        row: dict[str, Any] = {"id": self.id}
        if self.name:
            row["name"] = self.name
        if self.about:
            row["about"] = self.about
        return {**row, **self.attributes}

    @property
    def label(self) -> str:
        """A display name: the handle, else the id."""
        return self.name or self.id
