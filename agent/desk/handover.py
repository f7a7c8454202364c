"""A summary of a conversation for the operator who takes over, made of its own words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from whyfeed.agent.desk.grounding import classify, split
from whyfeed.agent.desk.lookups import facts_of
from whyfeed.agent.desk.specifics import specifics
from whyfeed.agent.phrases import say
from whyfeed.agent.reasons.checks import plain
from whyfeed.retrieval.desk.types import DeskTurn
from whyfeed.retrieval.privacy.vault import CHIP

QUOTE = 140  # characters
GIVEN, FACTS = 6, 5
_INTERNAL = re.compile(r"^(?:api ?name|id): ")


def summary(turns: Sequence[DeskTurn], language: str) -> str:
    """Two to four short lines: the customer's first real request, what they gave, what was found and said last.

    Empty where the customer has written nothing. Only quotes are used, so nothing is made up.
    """
    spoken = [turn.text for turn in turns if turn.role == "customer" and plain(turn.text)]
    if not spoken:
        return ""
    request = next((text for text in spoken if _requests(text)), spoken[0])
    lines = [say("desk.summary.wants", language, quote=_short(request))]
    # A capitalised word counts as a name only if a look-up has it too.
    known = " ".join(f"{turn.item or ''} {turn.query or ''}" for turn in turns).casefold()
    given = [
        text[s.start : s.end]
        for text in spoken
        if text != request
        for s in specifics(text)
        if s.kind != "name" or CHIP.fullmatch(text[s.start : s.end]) or s.value in known
    ]
    if given := list(dict.fromkeys(given)):
        lines.append(say("desk.summary.gave", language, values=", ".join(given[:GIVEN])))
    item = next((turn.item for turn in reversed(turns) if turn.role == "knowledge" and turn.item), None)
    facts = [line for line in facts_of(item or {}) if not _INTERNAL.match(line)]
    if facts:
        told = say("join.semicolon", language).join(_short(fact, 60) for fact in facts[:FACTS])
        lines.append(say("desk.summary.found", language, facts=told))
    if last := next((turn.text for turn in reversed(turns) if turn.role == "agent" and turn.text), ""):
        lines.append(say("desk.summary.said", language, quote=_short(last)))
    return "\n".join(lines)


def _requests(text: str) -> bool:
    """Is it more than a greeting or a short answer?"""
    return any(classify(piece) != "courtesy" and len(piece) > 5 for piece in split(text, ""))


def _short(text: str, limit: int = QUOTE) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
