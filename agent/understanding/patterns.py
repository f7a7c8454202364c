"""The written rules of `agent.understanding.understander`: ordered patterns, the most reliable first.

In each pattern the first group that matches (`t`, or `u`, `v` ... for other wordings of the same wish) is the part of
the sentence that holds the topic or reference. Patterns are matched against at most a few hundred characters.
"""

from __future__ import annotations

import re

from whyfeed.agent.request import Intent
from whyfeed.agent.understanding import patterns_en as en
from whyfeed.agent.understanding import patterns_en_wishes as wishes
from whyfeed.agent.understanding import patterns_zh as zh

Rules = tuple[tuple[Intent, re.Pattern[str]], ...]


def _rules(*languages: tuple[tuple[Intent, str], ...]) -> Rules:
    return tuple((intent, re.compile(pattern, re.IGNORECASE)) for rows in languages for intent, pattern in rows)


def _either(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


COMMAND = _either(en.COMMAND, zh.COMMAND)
SMALLTALK = _either(en.SMALLTALK, zh.SMALLTALK)
ASKED = _rules(en.ASKED, zh.ASKED)
POINTED = _rules(en.POINTED, zh.POINTED)
STEER = _rules(en.STEER, zh.STEER)
OTHERS = _either(wishes.OTHERS, zh.OTHERS)
RECOMMEND = _rules(wishes.RECOMMEND, zh.RECOMMEND)
SEARCH = _rules(wishes.SEARCH, zh.SEARCH)
OUT = _rules(wishes.OUT, zh.OUT)
EXCHANGE = _either(wishes.EXCHANGE, zh.EXCHANGE)
EXCEPT = _either(wishes.EXCEPT, zh.EXCEPT)
COMPARE = _either(wishes.COMPARE, zh.COMPARE)
NOT_OTHERS = _either(wishes.NOT_OTHERS, zh.NOT_OTHERS)
WHY_NOT_TAIL = _either(wishes.WHY_NOT_TAIL, zh.WHY_NOT_TAIL)
LIKE = _either(wishes.LIKE, zh.LIKE)
ERASE = _either(en.ERASE, zh.ERASE)
AGREED = _either(en.AGREED, zh.AGREED)
DECLINED = _either(en.DECLINED, zh.DECLINED)
UNSURE = _either(en.UNSURE, zh.UNSURE)
TRADITIONAL = zh.TRADITIONAL
LAST = _either(en.LAST, zh.LAST)


def first_match(rules: Rules, text: str) -> tuple[Intent, str] | None:
    """The intent and the argument of the first rule that matches."""
    for intent, pattern in rules:
        if match := pattern.search(text):
            return intent, next((value for value in match.groups() if value), "")
    return None
