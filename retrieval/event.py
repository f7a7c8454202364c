"""An event: one row of the append-only ledger, with its kinds and their weights.

Interactions (what a user did with a post) and steering (what a user told whyfeed) are both events.
Profile, counters and rules are computed from the ledger alone, so they can always be recomputed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from whyfeed.retrieval.clock import format_time, parse_time
from whyfeed.retrieval.post import clean_text, row_id
from whyfeed.retrieval.user import user_id

# Weight of an event kind as evidence of interest, in [-1, 1]. Writing takes more effort than a click and weighs more;
# rejections are negative. For `rate`, `Event.weight` uses the stars in the event's value instead.
INTEREST: Mapping[str, float] = {
    "ask": 1.0,
    "answer": 1.0,
    "comment": 0.8,
    "reply": 0.8,
    "save": 1.0,
    "like": 1.0,
    "share": 1.0,
    "buy": 1.0,
    "listen": 1.0,
    "read": 0.6,
    "open": 0.4,
    "click": 0.4,
    "view": 0.2,
    "rate": 1.0,
    "dislike": -1.0,
    "hide": -1.0,
}
# Instructions of a user to whyfeed. `text` is the topic, or the id of the rule that is switched on or off.
STEERING = ("include", "exclude", "rule-off", "rule-on", "interest")
# What happened at the service desk. `user` is `desk_user` of the conversation. `text` is a JSON document
# without personal data: suggestions shown, taken unchanged, edited or refused, replies sent, actions approved or
# refused by the operator.
DESK = ("suggest", "take", "edit", "refuse", "send", "act")


@dataclass(frozen=True, slots=True)
class Event:
    """One act of one user. `id` is unique in the home, `time` is Unix seconds or None."""

    id: str
    user: str
    post: str
    kind: str
    time: float | None = None
    value: float | None = None
    text: str = ""

    @classmethod
    def from_row(cls, row: Mapping[str, Any], id: str = "") -> Event:
        """Build an event from a row of interactions.jsonl; ValueError says which field is wrong."""
        kind = clean_text(row.get("kind"), 50)
        if not kind:
            raise ValueError("kind is missing")
        value = row.get("value")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"value {value!r} is not a number")
        return cls(
            id=id,
            user=user_id(row, "user"),
            post="" if kind in STEERING or kind in DESK else row_id(row, "post"),
            kind=kind,
            time=parse_time(row.get("time")),
            value=None if value is None else float(value),
            text=clean_text(row.get("text"), 10_000),
        )

    def to_row(self) -> dict[str, Any]:
        """The row of interactions.jsonl for this event; inverse of `from_row`."""
        row: dict[str, Any] = {"user": self.user, "kind": self.kind, "time": format_time(self.time)}
        if self.post:
            row["post"] = self.post
        if self.value is not None:
            row["value"] = self.value
        if self.text:
            row["text"] = self.text
        return row

    @property
    def weight(self) -> float:
        """Interest in [-1, 1]; 0 for kinds that are no evidence of interest."""
        if self.kind == "rate" and self.value is not None:
            return max(-1.0, min(1.0, (self.value - 2.5) / 2.5))
        return INTEREST.get(self.kind, 0.0)
