"""Common parts of the rules for personal data: kinds, chips, building blocks of patterns, and text normalisation."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = ("email", "phone", "card", "account", "identity", "order", "address", "name", "secret")
CHIP = re.compile(rf"\[(?P<kind>{'|'.join(KINDS)}) (?P<number>[1-9][0-9]{{0,5}})\]")
HAN = "\u4e00-\u9fff"
# Word boundaries for numbers. \b and \w count Chinese characters as letters, but a number may stand right beside one,
# unless the character makes it a price.
START, END = "(?<![A-Za-z0-9_])", r"(?![A-Za-z0-9_]|\s?[元块])"

# Text between the name of a thing and its value: "order number, I think, is …", "订单号是：…".
LINK = (
    r"(?:\s{0,3}(?:(?:numbers?|num|no|nr|id|code|ref|reference|is|was|are|as|it|it's|its|either|should|would|be|called|of"
    r"|the|maybe|probably|here|i|think|set|to|on|at|says|said|changed)\b\.?|'s\b"
    r"|号码?|编号|码|是|为|叫|[设改]?成了?|[=:#(\"',-])){0,6}\s{0,3}#?"
)
# A code: groups of letters and digits, with a digit among its first characters; times and percentages are excluded.
TOKEN = r"(?=[A-Za-z/-]{0,8}\d)[A-Za-z0-9]{1,24}(?:[-_/][A-Za-z0-9]{1,24}){0,4}(?![A-Za-z0-9:%])"
# A number before one of these words is a price or a count and not a code.
UNITS = r"(?!\s{0,2}(?:dollars|usd|eur|pounds|euros|bucks|people|guests|items|元|short|块|人|个|份|%))"
# Dates in digits, in words and in Chinese, also a year alone: used only for dates of birth.
_MONTH = r"(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]{0,6}\.?"
DATE = (
    r"(?:\d{1,4}\s?[/.-]\s?\d{1,2}\s?[/.-]\s?\d{1,4}|\d{1,2}\s\d{1,2}\s\d{4}"
    rf"|\d{{1,2}}(?:st|nd|rd|th)?(?:\s(?:of|day of))?[\s-]{_MONTH}(?:,?[\s-]\d{{2,4}})?"
    rf"|{_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?(?:,?\s\d{{2,4}})?(?!\d)"
    r"|\d{4}\s?年(?:\s?\d{1,2}\s?月(?:\s?\d{1,2}\s?[日号]?)?)?|\d{1,2}\s?月\s?\d{1,2}\s?[日号]?"
    r"|\d{8}|\d{6}|(?:19|20)\d\d)(?!\d)"
)

Span = tuple[str, int, int]  # kind, start, end (in characters, half-open)


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern for one kind of personal data: each group is a value, or the whole match when there are no groups.

    `needle` is a lower-case substring that every match has; texts without it are skipped, for speed. `meant` returns
    the part of a group that is the value, "" for none.
    """

    kind: str
    pattern: re.Pattern[str]
    needle: str = ""
    meant: Callable[[str], str] | None = None


def named(words: str, value: str, zh: str = "") -> re.Pattern[str]:
    """A pattern for `value` after one of `words` (English, whole words) or `zh`, with `LINK` in between."""
    names = rf"(?<![a-z])(?:{words})(?![a-z])" + (f"|(?:{zh})" if zh else "")
    again = rf"(?:\s{{1,2}}(?:or|and|还是|或)\s{{1,2}}({value}))?"
    return re.compile(rf"(?:{names}){LINK}({value}){again}", re.I)


def spans(rules: Iterable[Rule], plain: str) -> Iterator[Span]:
    """The spans that the rules find in a folded text (see `fold`)."""
    lower = plain.lower()
    for rule in rules:
        for match in rule.pattern.finditer(plain) if rule.needle in lower else ():
            for group in range(1 if rule.pattern.groups else 0, rule.pattern.groups + 1):
                if value := match[group] or "":
                    part = value if rule.meant is None else rule.meant(value)
                    # `meant` may return an inner part, such as a card number within a run of digits.
                    at = match.start(group) + max(value.find(part), 0)
                    yield rule.kind, at, at + len(part)


def whole(value: str) -> str:
    """A pattern for a value as a whole word or number; no word boundaries are required beside Chinese."""
    before = r"(?<![A-Za-z0-9])" if value[0].isascii() and value[0].isalnum() else ""
    after = r"(?![A-Za-z0-9])" if value[-1].isascii() and value[-1].isalnum() else ""
    return before + re.escape(value) + after


def _word_lists() -> dict[str, frozenset[str]]:
    lists = json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))
    return {key: frozenset(" ".join(lines).split()) for key, lines in lists.items() if key != "about"}


WORD_LISTS = _word_lists()


class _Fold(dict[int, int | None]):
    """Character map: full-width and styled letters and digits to ASCII, all hyphens, spaces and quotes to one kind.

    Zero-width characters are deleted.
    """

    def __missing__(self, code: int) -> int | None:
        char = chr(code)
        # Zero-width characters (Cf) are invisible but would split a number for the patterns.
        plain = {"Cf": "", "Pd": "-", "Zs": " "}.get(category := unicodedata.category(char))
        if plain is None:
            folded = "'" if char in "‘’" else unicodedata.normalize("NFKC", char)
            plain = folded if len(folded) == 1 and folded.isascii() else char
            plain = str(unicodedata.decimal(char)) if category == "Nd" else plain
        self[code] = ord(plain) if plain else None
        return self[code]


_FOLD = _Fold()


def fold(text: str) -> tuple[str, list[int] | None]:
    """The normalised text for the rules, with chips replaced by NULs, and the original position of each character.

    The positions are None when they are unchanged.
    """
    text = CHIP.sub(lambda chip: "\0" * len(chip[0]), text)
    plain = text if text.isascii() else text.translate(_FOLD)
    if len(plain) == len(text):
        return plain, None
    return plain, [at for at, char in enumerate(text) if _FOLD[ord(char)] is not None]
