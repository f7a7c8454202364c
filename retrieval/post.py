"""A post: anything that can be recommended, such as a question, a product, a person, a group or an ad."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from whyfeed.retrieval.clock import format_time, parse_time
from whyfeed.retrieval.formula import readable

KINDS = ("post", "article", "video", "product", "artist", "person", "group", "ad")
_READ = 2000  # characters of text for a post encoder; enough for the 256 tokens it reads
MAX_TEXT = 100_000  # characters stored of one text; no page or model uses more
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def clean_text(value: object, limit: int = MAX_TEXT) -> str:
    """A string without control characters and lone surrogates, cut at `limit` characters."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    return _CONTROL.sub(" ", text[:limit]).strip()


@dataclass(frozen=True, slots=True)
class Post:
    """One thing that can be recommended. `created_at` is Unix seconds."""

    id: str
    kind: str = "post"
    title: str = ""
    text: str = ""
    url: str = ""
    author: str = ""
    community: str = ""
    tags: tuple[str, ...] = ()
    language: str = ""
    created_at: float | None = None
    image: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Post:
        """Build a post from a row of posts.jsonl; ValueError says which field is wrong."""
        known = {"id", "kind", "title", "text", "url", "author", "community", "tags", "language", "created_at", "image"}
        kind = row.get("kind") or "post"
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
        tags = row.get("tags") or ()
        if isinstance(tags, str):
            tags = [tags]
        if not isinstance(tags, list | tuple):
            raise ValueError(f"tags {tags!r} is not a list")
        return cls(
            id=row_id(row, "id"),
            kind=kind,
            title=clean_text(row.get("title"), 1000),
            text=clean_text(row.get("text")),
            url=clean_text(row.get("url"), 2000),
            author=clean_text(row.get("author"), 200),
            community=clean_text(row.get("community"), 200),
            tags=tuple(clean for tag in tags if (clean := clean_text(tag, 100))),
            language=clean_text(row.get("language"), 20),
            created_at=parse_time(row.get("created_at")),
            image=clean_text(row.get("image"), 2000),
            attributes={key: value for key, value in row.items() if key not in known},
        )

    def to_row(self) -> dict[str, Any]:
        """The row of posts.jsonl for this post, inverse of `from_row`; empty fields are left out."""
        row: dict[str, Any] = {"id": self.id, "kind": self.kind}
        for name in ("title", "text", "url", "author", "community", "language", "image"):
            if getattr(self, name):
                row[name] = getattr(self, name)
        if self.tags:
            row["tags"] = list(self.tags)
        if self.created_at is not None:
            row["created_at"] = format_time(self.created_at)
        return {**row, **self.attributes}

    def words_of(self, field: str) -> str:
        """The text of a field; character spans refer to it. Tags are joined by ", "; "" for an unknown field."""
        if field == "tags":
            return ", ".join(self.tags)
        value = getattr(self, field, None) or self.attributes.get(field)
        return value if isinstance(value, str) else ""

    @property
    def label(self) -> str:
        """A display name: the title, else the start of the text, else the id; formulae in Unicode."""
        if self.title:
            return readable(self.title)
        words = " ".join(readable(self.text[:1000]).split())
        return (words[:77] + "…" if len(words) > 78 else words) or self.id


def reading_text(post: Post) -> str:
    """The input of a post encoder: title, tags, and the start of the text."""
    return " ".join(part for part in (post.title, " ".join(post.tags), post.text[:_READ]) if part)


def reading_digest(post: Post) -> str:
    """A digest of `reading_text`, 16 hexadecimal digits; when it changes, the post must be encoded again."""
    return hashlib.sha256(reading_text(post).encode()).hexdigest()[:16]


def row_id(row: Mapping[str, Any], key: str) -> str:
    """The id in `row[key]` as a string; integers are allowed.

    ValueError when it is missing, empty, of another type, or longer than 200 characters.
    """
    value = row.get(key)
    if value is None or isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{key} is missing" if value is None else f"{key} {value!r} is not a string")
    text = clean_text(str(value))
    if not text:
        raise ValueError(f"{key} is empty")
    if len(text) > 200:
        raise ValueError(f"{key} is longer than 200 characters")
    return text
