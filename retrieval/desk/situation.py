"""The situation in which an operator chooses the next reply: its texts and its features for the reply ranker.

Two short texts, the customer's last messages and the operator's message before them, are embedded to find similar
past situations. Named binary features (words, replies used so far, look-ups) are the input of the reply ranker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from whyfeed.retrieval.desk.types import DeskTurn, since_answer
from whyfeed.retrieval.words import words

_REPLIES_SEEN = 3  # last replies of the operator that are features with their position
_ITEMS = 6  # counts of look-ups are capped here
_SHORT_VALUE = 3  # words; a longer value of a look-up gives one feature per word instead of one in all


@dataclass(frozen=True, slots=True)
class Situation:
    """`asked`: the customer's messages since the operator's last one, `before`: the operator's last message."""

    asked: str
    before: str
    said: tuple[str, ...]  # all messages of the operator
    everything: str  # all messages of both
    draft: str  # what the operator is typing


def situation(turns: Sequence[DeskTurn], draft: str = "") -> Situation:
    """The situation after these turns."""
    spoken = [turn for turn in turns if turn.role == "agent" and turn.text]
    return Situation(
        asked=" ".join(turn.text for turn in since_answer(turns) if turn.role == "customer" and turn.text),
        before=spoken[-1].text if spoken else "",
        said=tuple(turn.text for turn in spoken),
        everything=" ".join(turn.text for turn in turns if turn.text),
        draft=draft,
    )


def features(turns: Sequence[DeskTurn], draft: str = "") -> list[str]:
    """Distinct named features of the situation after these turns; those of the draft begin with "draft:"."""
    return list(dict.fromkeys(_features(turns, draft)))


def _features(turns: Sequence[DeskTurn], draft: str) -> Iterator[str]:
    tail = since_answer(turns)
    spoken = [turn for turn in turns if turn.role == "agent" and turn.text]
    customer = [words(turn.text) for turn in turns if turn.role == "customer" and turn.text]
    asked = [word for turn in tail if turn.role == "customer" for word in words(turn.text)]
    yield "always"
    yield from (f"asked:{gram}" for gram in _grams(asked))
    yield from (f"said:{word}" for said in customer for word in said)
    if customer:
        yield from (f"first:{gram}" for gram in _grams(customer[0]))
    if len(customer) > 1:
        yield from (f"earlier:{gram}" for gram in _grams(customer[-2]))
    yield from _of_operator(spoken, asked)
    yield from _of_look_ups(turns, tail, set(customer[-1]) if customer else set())
    kinds = [_kind(turn) for turn in turns]
    yield f"turns:{'|'.join(kinds[-3:])}"
    yield f"turns:{'|'.join(kinds[-4:])}"
    yield from (f"draft:{gram}" for gram in _grams(words(draft)))


def _of_operator(spoken: Sequence[DeskTurn], asked: Sequence[str]) -> Iterator[str]:
    yield f"replies:{min(len(spoken), 12)}"
    for place, turn in enumerate(reversed(spoken[-_REPLIES_SEEN:])):
        yield f"reply{place}:{turn.reply}"
        if not turn.reply:
            yield from (f"wrote{place}:{gram}" for gram in _grams(words(turn.text)))
        yield from (f"passed{place}:{other}" for other in turn.offered if other != turn.reply)
    yield from (f"used:{turn.reply}" for turn in spoken)
    if spoken:
        last = spoken[-1].reply
        yield f"answered:{last}:{min(len(set(asked)), 6)}"
        yield from (f"answered:{last}:{word}" for word in asked)
        yield from (f"drafted:{gram}" for gram in _grams(words(spoken[-1].draft)))
    if len(spoken) > 1:
        yield f"replies:{spoken[-1].reply}|{spoken[-2].reply}"


def _of_look_ups(turns: Sequence[DeskTurn], tail: Sequence[DeskTurn], asked: set[str]) -> Iterator[str]:
    items = [turn.item for turn in turns if turn.item]
    fresh = [turn.item for turn in tail if turn.item]
    queries = [turn.query for turn in turns if turn.query]
    yield f"items:{min(len(items), _ITEMS)}"
    yield f"fresh:{min(len(fresh), _ITEMS)}"
    yield from (f"queried:{key}" for query in queries for key in query)
    yield from (f"querying:{key}" for turn in tail if turn.query for key in turn.query)
    for query in queries[-1:]:
        yield from (f"query:{key}={value}" for key, value in query.items() if len(str(value)) < 20)
    for item in items:
        yield from (f"source:{value}" for key, value in item.items() if key.lower() == "apiname")
    for name, found in (("item", items[-1:]), ("found", fresh[-1:])):
        for item in found:
            yield from _of_item(name, item, asked)


def _of_item(name: str, item: Mapping[str, Any], asked: set[str]) -> Iterator[str]:
    for key, value in item.items():
        yield f"{name}:{key}"
        if isinstance(value, bool):
            yield f"{name}:{key}={value}"
        if not isinstance(value, str) or not (spelled := words(value)):
            continue
        if len(spelled) <= _SHORT_VALUE:
            yield f"{name}:{key}={' '.join(spelled)}"
        else:
            yield from (f"{name}:{key}:{gram}" for gram in _grams(spelled))
        # Whether the customer has just said this value, as in an answer to an identity check.
        same = set(spelled) & asked
        yield f"{name}:{key}:{'same' if same == set(spelled) else 'partly' if same else 'other'}"


def _kind(turn: DeskTurn) -> str:
    if turn.role == "agent" and turn.text:
        return turn.reply or "wrote"
    return "looked up" if turn.role == "agent" else turn.role


def _grams(spelled: Sequence[str]) -> Iterator[str]:
    yield from spelled
    yield from (f"{first}_{second}" for first, second in pairwise(spelled))
