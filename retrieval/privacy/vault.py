"""Personal data in messages: detected, replaced by chips such as "[email 1]", and restored in what is sent.

A chip is the placeholder of one value; the vault of a conversation maps chips to values. Values with a checkable form
(cards, IBANs, phone numbers) are validated with python-stdnum and phonenumbers. Others are found by the words around
them ("my PIN is …", "订单号…") or by the operator's question just before. The rules are in the modules `numbers`,
`addresses`, `names` and `answers` of this folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from whyfeed.retrieval.privacy.addresses import ADDRESSES, addresses_zh
from whyfeed.retrieval.privacy.answers import answers
from whyfeed.retrieval.privacy.names import CHINESE, ORDINARY, given_names, introduced, known_names, name_starts
from whyfeed.retrieval.privacy.numbers import CAPITALS, LONG_NUMBER, NUMBERS, SURE
from whyfeed.retrieval.privacy.rules import CHIP, KINDS, Span, fold, spans, whole

__all__ = ["CHIP", "KINDS", "Found", "Vault", "find", "mask"]
_NEVER_PUBLIC = frozenset({"email", "card", "identity"})  # values of these forms are always personal

_SHOUTED = re.compile("[A-Z]{6}")  # possibly a booking reference, which may have no digit


@dataclass(frozen=True, slots=True)
class Found:
    """A span of personal data: `start` and `end` count characters of the original text, half-open."""

    kind: str
    start: int
    end: int


def _candidates(plain: str, asked: str, names: Collection[str]) -> Iterator[Span]:
    """Spans of all rules, the most precise rules first; they may overlap."""
    digits = any(map(str.isdigit, plain))
    yield from spans(SURE, plain)
    if _SHOUTED.search(plain):
        yield from spans([CAPITALS], plain)
    yield from known_names(plain, names)
    if digits:
        yield from spans(NUMBERS, plain)
        yield from spans(ADDRESSES, plain)
        yield from addresses_zh(plain)
    letters = any(map(str.isalpha, plain))
    if letters:
        yield from introduced(plain)
    if asked:
        yield from answers(plain, asked)
    if letters:
        yield from given_names(plain)
    if not plain.isascii():
        yield from spans(CHINESE, plain)
    if digits:
        yield from spans([LONG_NUMBER], plain)


def _merged(found: Iterable[Span]) -> list[Span]:
    """Overlapping spans joined to one, which gets the kind of its longest part; on equal length the first one wins."""
    ordered = sorted(
        ((start, end, rank, kind) for rank, (kind, start, end) in enumerate(found)), key=lambda one: one[:3]
    )
    merged = list[Span]()
    best = 0, 0
    for start, end, rank, kind in ordered:
        weight = end - start, -rank
        if merged and start < merged[-1][2]:
            last, first, until = merged[-1]
            merged[-1] = (kind if weight > best else last), first, max(end, until)
            best = max(best, weight)
        else:
            merged.append((kind, start, end))
            best = weight
    return merged


def find(text: str, *, asked: str = "", names: Collection[str] = ()) -> list[Found]:
    """Personal data in `text`, in order and without overlaps; chips are left alone.

    `asked` is the operator's message just before: it tells what a bare answer such as "4321" is. `names` are names
    that are known from this conversation.
    """
    plain, places = fold(text)
    stripped = list[Span]()
    for kind, start, end in _candidates(plain, asked, names):
        value = plain[start:end].strip()
        start += plain[start:end].find(value)
        if value and "\0" not in value:
            stripped.append((kind, start, start + len(value)))
    known = {(start, end) for _, start, end in stripped}
    # "order #12": where another rule found the same span without the "#", that one is used.
    merged = _merged(one for one in stripped if plain[one[1]] != "#" or (one[1] + 1, one[2]) not in known)
    if places is None:
        return [Found(*one) for one in merged]
    return [Found(kind, places[start], places[end - 1] + 1) for kind, start, end in merged]


class Vault:
    """The personal data of one conversation: chip to value, in order of appearance."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        """`values` is the result of an earlier `values()`; ValueError for a key that is no chip and an empty value."""
        self._values = dict(values or {})
        for chip, value in self._values.items():
            if not CHIP.fullmatch(chip) or not value:
                raise ValueError(f"{chip!r} is no chip like '[email 1]' with a value; give what Vault.values() gave")
        # The same by value (the first chip of each), and the largest number of each kind: looked up for every find.
        self._by_value = {value: chip for chip, value in reversed(self._values.items())}
        self._largest = Counter[str]()
        # Values, and names, by their first two characters: what a text cannot hold is not looked for in it, so that a
        # conversation of many values takes linear time.
        self._by_start: dict[str, list[str]] = {}
        self._names_by_start: dict[str, list[str]] = {}
        for chip, value in self._values.items():
            kind, number = chip[1:-1].split(" ")
            self._largest[kind] = max(self._largest[kind], int(number))
            self._index(kind, value)

    def __len__(self) -> int:
        """The number of values."""
        return len(self._values)

    def __contains__(self, value: object) -> bool:
        """Whether a text is one of the values."""
        return value in self._by_value

    def mask(self, text: str, asked: str = "") -> str:
        """A customer's text with chips for their data; `asked` as in `find`.

        Brackets that look like a chip but are not one of this vault become round brackets.
        """
        return self._mask(text, lambda rest: find(rest, asked=asked, names=self._names(rest)))

    def mask_known(self, text: str) -> str:
        """An operator's text with chips for values of this vault, and for e-mail addresses, cards and identity numbers.

        Other data, such as addresses and phone numbers of shops, is public and stays.
        """
        return self._mask(text, lambda rest: [one for one in find(rest) if one.kind in _NEVER_PUBLIC])

    def unmask(self, text: str) -> str:
        """The text with values in place of chips; chips that are not in this vault stay."""
        return CHIP.sub(lambda chip: self._values.get(chip[0], chip[0]), text)

    def values(self) -> dict[str, str]:
        """Chip to value, in order of appearance."""
        return dict(self._values)

    def chips(self) -> dict[str, str]:
        """Chip to kind, in order of appearance."""
        return {chip: chip[1:].partition(" ")[0] for chip in self._values}

    def _index(self, kind: str, value: str) -> None:
        self._by_start.setdefault(value[:2], []).append(value)
        for start in name_starts(value) if kind == "name" else ():
            self._names_by_start.setdefault(start, []).append(value)

    def _names(self, text: str) -> list[str]:
        """Names of this vault that may be in a text, all that are among them."""
        plain = fold(text)[0].casefold()
        return sorted(_starting_in(plain, self._names_by_start))

    def _mask(self, text: str, finder: Callable[[str], list[Found]]) -> str:
        text = CHIP.sub(lambda chip: chip[0] if chip[0] in self._values else f"({chip[0][1:-1]})", text)
        before = None
        # A new chip can change what the rules find around it: repeat until nothing changes, so masking is idempotent.
        while text != before:
            before, end, parts = text, 0, list[str]()
            for one in finder(text):
                parts += text[end : one.start], self._chip(one.kind, text[one.start : one.end])
                end = one.end
            text = self._replace_known("".join(parts) + text[end:])
        return text

    def _chip(self, kind: str, value: str) -> str:
        if (known := self._by_value.get(value)) is not None:
            return known
        self._largest[kind] += 1
        chip = f"[{kind} {self._largest[kind]}]"
        self._values[chip], self._by_value[value] = value, chip
        self._index(kind, value)
        return chip

    def _replace_known(self, text: str) -> str:
        # Only values that are in the text go into the pattern: a pattern of all of them would take quadratic time.
        # Short numbers ("16") and ordinary words ("will") mostly mean something else: not replaced everywhere.
        telling = {
            value: self._by_value[value]
            for value in sorted(_starting_in(text, self._by_start))
            if value in text and (len(value) > 2 or (len(value) == 2 and value.isalpha())) and value not in ORDINARY
        }
        if not telling:
            return text
        wanted = "|".join(whole(value) for value in sorted(telling, key=len, reverse=True))
        return re.sub(rf"{CHIP.pattern}|({wanted})", lambda hit: telling[hit[3]] if hit[3] else hit[0], text)


def _starting_in(text: str, by_start: Mapping[str, list[str]]) -> set[str]:
    """The values whose first two characters stand side by side in a text."""
    pairs = {text[at : at + 2] for at in range(len(text))}
    return {value for start in pairs & by_start.keys() for value in by_start[start]}


def mask(text: str, asked: str = "") -> str:
    """The text masked with a temporary vault: for text whose values are not needed again."""
    return Vault().mask(text, asked)
