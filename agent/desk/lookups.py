"""What was looked up in a conversation, as lines of text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from whyfeed.retrieval.desk.types import DeskTurn


def looked_up(turns: Sequence[DeskTurn]) -> list[int]:
    """Places of the look-ups that still hold, newest first; a later look-up of the same fields replaces one."""
    seen: set[frozenset[str]] = set()
    places = []
    for place, turn in reversed(list(enumerate(turns))):
        if turn.role == "knowledge" and turn.item and (fields := frozenset(turn.item)) not in seen:
            seen.add(fields)
            places.append(place)
    return places


def facts_of(item: Mapping[str, Any]) -> list[str]:
    """What a look-up found, as lines like "minutes till pickup: 25"; true and false are "yes" and "no"."""
    lines = []
    for key, value in item.items():
        parts = value if isinstance(value, list | tuple) else [value]
        said = ", ".join({True: "yes", False: "no"}[part] if isinstance(part, bool) else str(part) for part in parts)
        if said:
            lines.append(f"{key_words(key)}: {said}")
    return lines


def key_words(key: str) -> str:
    """A key in words: "MinutesTillPickup" and "minutes_till_pickup" are "minutes till pickup"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", key)
    return " ".join(re.split(r"[\s_\-]+", spaced)).strip().casefold()
