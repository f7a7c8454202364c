"""Data types of a service desk: conversations with customers, their turns, and saved replies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from whyfeed.retrieval.clock import format_time, parse_time
from whyfeed.retrieval.language import detect_language
from whyfeed.retrieval.post import clean_text, row_id

Role = Literal["customer", "agent", "knowledge"]
# In the stored data the role of an operator is called "agent".
Status = Literal["closed", "waiting"]  # closed: a past case to learn from; waiting: open
ROLES = ("customer", "agent", "knowledge")
MOST_TURNS = 500  # the last turns of a conversation that are read
LONGEST_TURN = 10_000  # characters
PLACEHOLDER = re.compile(r"\{\s*([A-Za-z_\u4e00-\u9fff][\w\- \u4e00-\u9fff]{0,60})\s*\}")


@dataclass(frozen=True, slots=True)
class DeskTurn:
    """One turn of a conversation. `item` is a look-up's result (role knowledge), `query` the operator's look-up.

    For an operator's message, `offered` are the ids of the suggestions shown, `reply` is the id of the saved reply
    that was taken ("" for the operator's own words), and `draft` what the operator had typed before.
    """

    role: Role
    text: str = ""
    time: float | None = None
    item: Mapping[str, Any] | None = None
    query: Mapping[str, Any] | None = None
    offered: tuple[str, ...] = ()
    reply: str = ""
    draft: str = ""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> DeskTurn:
        """Build a turn from an element of a conversation's `turns`; ValueError says which field is wrong."""
        if not isinstance(row, Mapping):
            raise ValueError(f"turn {row!r} is not an object")
        role = row.get("role")
        if role not in ROLES:
            raise ValueError(f"role {role!r} is none of {', '.join(ROLES)}")
        item, offered = row.get("item"), row.get("offered") or ()
        if item is not None and not isinstance(item, Mapping):
            raise ValueError(f"item {item!r} is not an object")
        if not isinstance(offered, list | tuple):
            raise ValueError(f"offered {offered!r} is not a list")
        return cls(
            role=role,
            text=clean_text(row.get("text"), LONGEST_TURN),
            time=parse_time(row.get("time")),
            item=dict(item) if item else None,
            query=_query(row.get("query")),
            offered=tuple(clean_text(id, 200) for id in offered),
            reply=clean_text(row.get("reply"), 200),
            draft=clean_text(row.get("draft"), LONGEST_TURN),
        )

    def to_row(self) -> dict[str, Any]:
        """The element of `turns` for this turn, inverse of `from_row`; empty fields are left out."""
        row: dict[str, Any] = {"role": self.role}
        for name in ("text", "reply", "draft"):
            if getattr(self, name):
                row[name] = getattr(self, name)
        if self.time is not None:
            row["time"] = format_time(self.time)
        if self.item:
            row["item"] = dict(self.item)
        if self.query:
            row["query"] = dict(self.query)
        if self.offered:
            row["offered"] = list(self.offered)
        return row


@dataclass(frozen=True, slots=True)
class DeskConversation:
    """A conversation with one customer. `customer` is the id of a user of the home, "" when unknown."""

    id: str
    turns: tuple[DeskTurn, ...] = ()
    language: str = ""
    status: Status = "closed"
    customer: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> DeskConversation:
        """Build a conversation from a row of conversations.jsonl; ValueError says which field is wrong."""
        turns = row.get("turns")
        if not isinstance(turns, list | tuple):
            raise ValueError("turns is missing" if turns is None else f"turns {turns!r} is not a list")
        status = row.get("status") or "closed"
        if status not in ("closed", "waiting"):
            raise ValueError(f"status {status!r} is neither closed nor waiting")
        known = {"id", "turns", "language", "status", "customer"}
        return cls(
            id=row_id(row, "id"),
            turns=tuple(DeskTurn.from_row(turn) for turn in turns[-MOST_TURNS:]),
            language=clean_text(row.get("language"), 20),
            status="waiting" if status == "waiting" else "closed",
            customer=clean_text(row.get("customer"), 200),
            attributes={key: value for key, value in row.items() if key not in known},
        )

    def to_row(self) -> dict[str, Any]:
        """The row of conversations.jsonl for this conversation; inverse of `from_row`."""
        row: dict[str, Any] = {"id": self.id}
        for name in ("language", "customer"):
            if getattr(self, name):
                row[name] = getattr(self, name)
        if self.status != "closed":
            row["status"] = self.status
        row["turns"] = [turn.to_row() for turn in self.turns]
        return {**row, **self.attributes}

    @property
    def asked(self) -> str:
        """The customer's messages since the operator's last one, joined by spaces; "" when there are none."""
        return " ".join(turn.text for turn in since_answer(self.turns) if turn.role == "customer" and turn.text)


@dataclass(frozen=True, slots=True)
class SavedReply:
    """A prepared reply of a support team; `{placeholders}` in its text are filled when it is used."""

    id: str
    text: str
    intent: str = ""
    language: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> SavedReply:
        """Build a saved reply from a row of replies.jsonl; ValueError says which field is wrong."""
        text = clean_text(row.get("text"), LONGEST_TURN)
        if not text:
            raise ValueError("text is missing")
        known = {"id", "text", "intent", "language"}
        return cls(
            id=row_id(row, "id"),
            text=text,
            intent=clean_text(row.get("intent"), 200),
            language=clean_text(row.get("language"), 20),
            attributes={key: value for key, value in row.items() if key not in known},
        )

    def to_row(self) -> dict[str, Any]:
        """The row of replies.jsonl for this reply; inverse of `from_row`."""
        row: dict[str, Any] = {"id": self.id, "text": self.text}
        for name in ("intent", "language"):
            if getattr(self, name):
                row[name] = getattr(self, name)
        return {**row, **self.attributes}


def since_answer(turns: Sequence[DeskTurn]) -> tuple[DeskTurn, ...]:
    """The turns after the operator's last message: the customer's messages and look-ups."""
    for place in range(len(turns) - 1, -1, -1):
        if turns[place].role == "agent" and turns[place].text:
            return tuple(turns[place + 1 :])
    return tuple(turns)


def language_of(conversation: DeskConversation) -> str:
    """The language of a conversation, en or zh; detected in the customer's last message where it is not set."""
    if conversation.language in ("en", "zh"):
        return conversation.language
    said = [turn.text for turn in conversation.turns if turn.role == "customer" and turn.text]
    return detect_language(said[-1], "en") if said else "en"


def _query(value: object) -> Mapping[str, Any] | None:
    """The fields of a look-up, from an object or from a list of objects with one field each, as in some logs."""
    if isinstance(value, Mapping):
        return dict(value) or None
    if isinstance(value, list | tuple):
        merged = {key: part[key] for part in value if isinstance(part, Mapping) for key in part}
        return merged or None
    return None
