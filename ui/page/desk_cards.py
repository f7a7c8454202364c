"""What the service desk shows: conversations, suggestions and proposals as the page's data.

The browser fills its templates with `textContent` only, so nothing here is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from whyfeed.agent.desk.actions import ACTIONS, Pending
from whyfeed.agent.desk.suggestion import Citation, Proposal, ReplySuggestion
from whyfeed.retrieval.desk.types import DeskConversation, DeskTurn, language_of, since_answer
from whyfeed.retrieval.errors import UnknownPost
from whyfeed.retrieval.privacy.vault import CHIP
from whyfeed.ui.page.cards import link, moment, short

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent

_VERY_LIKELY, _LIKELY = 0.6, 0.25  # confidence from which on a suggestion is called that
_QUOTE = 600  # characters of a quoted passage
_INTERNAL = ("apiname", "id")  # keys that tell an agent nothing; they come last
_GREETING = 3  # words up to which a first message says nothing about what somebody wants


def words_of(text: str) -> list[Any]:
    """A text as its plain pieces and its chips ({chip, kind}), in order."""
    parts: list[Any] = []
    at = 0
    for chip in CHIP.finditer(text):
        parts += [text[at : chip.start()], {"chip": chip[0], "kind": chip["kind"]}]
        at = chip.end()
    return [part for part in (*parts, text[at:]) if part]


def turn_of(turn: DeskTurn) -> dict[str, Any]:
    """A turn as one part of the page; a look-up as rows of keys and values."""
    if turn.role == "knowledge" or not turn.text:
        rows = _rows(turn.item or turn.query or {})
        return {"role": "facts" if turn.item else "query", "rows": rows, "words": words_of(turn.text)}
    return {"role": turn.role, "words": words_of(turn.text), "time": moment(turn.time)}


def _rows(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Keys and values of a look-up, one level of nesting flattened."""
    flat = [
        (f"{key} · {inner}" if inner else str(key), part)
        for key, value in item.items()
        for inner, part in (value.items() if isinstance(value, Mapping) else [("", value)])
    ]
    flat.sort(key=lambda pair: pair[0].lower() in _INTERNAL)
    return [{"key": _spaced(key), "words": words_of(short(_plain(value), 300))} for key, value in flat]


def _spaced(key: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", key)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "✓" if value else "✗"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(each) for each in value)
    return str(value).strip('"')


def line_of(talk: DeskConversation, new: bool) -> dict[str, Any]:
    """A conversation as one line of the list. `new`: there is something in it that has not been on the screen."""
    asked = [turn.time for turn in since_answer(talk.turns) if turn.role == "customer"]
    said = [turn.time for turn in talk.turns if turn.role == "agent" and turn.text]
    since = asked[0] if asked else said[-1] if said else None
    words = first_words(talk)
    return {"id": talk.id, "words": words, "language": language_of(talk), "since": moment(since), "new": new}


def first_words(talk: DeskConversation) -> str:
    """The first words of the customer that say more than a greeting."""
    said = [turn.text for turn in talk.turns if turn.role == "customer" and turn.text]
    telling = (text for text in said if len(text.split()) > _GREETING or re.search(r"[\u4e00-\u9fff]{6}", text))
    return short(next(telling, said[0] if said else ""), 110)


def card_of(suggestion: ReplySuggestion, agent: Agent) -> dict[str, Any]:
    """A suggestion as a card; its confidence in a word."""
    sure = suggestion.confidence
    return {
        "id": suggestion.id,
        "text": suggestion.text,
        "parts": _parts(suggestion, agent),
        "source": suggestion.source,
        "sure": "very" if sure >= _VERY_LIKELY else "likely" if sure >= _LIKELY else "guess",
        "missing": list(suggestion.missing),
        "language": suggestion.language,
        "refused": False,
    }


def _parts(suggestion: ReplySuggestion, agent: Agent) -> list[dict[str, Any]]:
    """The text cut so that each sentence that rests on something carries what it rests on."""
    text, at = suggestion.text, 0
    parts: list[dict[str, Any]] = []
    for sentence in suggestion.sentences:
        start = text.find(sentence.text, at) if sentence.text else -1
        if start < 0:
            continue
        if start > at:
            parts.append({"words": words_of(text[at:start])})
        at = start + len(sentence.text)
        part = {"words": words_of(sentence.text)}
        evidence = [_evidence(each, agent) for each in sentence.citations]
        parts.append({**part, "evidence": evidence} if evidence else part)
    if at < len(text):
        parts.append({"words": words_of(text[at:])})
    return parts


def _evidence(citation: Citation, agent: Agent) -> dict[str, Any]:
    post = None
    if citation.type == "article":
        try:
            post = link(agent.post(citation.id))
        except UnknownPost:  # gone since; the quote is what there was
            post = None
    return {"type": citation.type, "quote": words_of(short(citation.quote, _QUOTE)), "post": post}


def proposed(proposal: Proposal, agent: Agent) -> dict[str, Any]:
    """A proposal that is on its way to where it can be decided."""
    return {
        "id": proposal.name,
        "name": proposal.name,
        "why": words_of(proposal.why),
        "evidence": [_evidence(each, agent) for each in proposal.citations],
        "fields": [
            {
                "name": one.name,
                "type": one.type,
                "required": one.required,
                "value": _shown(proposal.arguments.get(one.name)),
                "words": words_of(_shown(proposal.arguments.get(one.name))),
            }
            for one in ACTIONS[proposal.name].arguments
        ],
        "state": "preparing",
    }


def action(pending: Pending, agent: Agent) -> dict[str, Any]:
    """A proposal that can be decided, with the id by which that is done."""
    return {**proposed(pending.proposal, agent), "id": pending.id, "state": pending.state}


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def arguments(pending: Pending, typed: Mapping[str, Any]) -> dict[str, Any]:
    """What was typed into the fields, as the action takes it; ValueError for a number that is none."""
    found: dict[str, Any] = {}
    for one in ACTIONS[pending.proposal.name].arguments:
        text = str(typed.get(one.name) or "").strip()
        try:
            found[one.name] = None if not text else float(text.replace(",", "")) if one.type == "number" else text
        except ValueError as exc:
            raise ValueError(f"{one.name} {text[:40]!r} is not a number") from exc
    return found
