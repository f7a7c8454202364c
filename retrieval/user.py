"""A user who reads posts, with or without interactions so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from whyfeed.retrieval.post import clean_text, row_id


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
            id=row_id(row, "id"),
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
