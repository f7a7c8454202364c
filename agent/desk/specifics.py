"""Words prepared for comparison: stems, and specifics of one case (numbers, dates, times, names, chips).

"three days" and "3 days" are the same, so are "7 PM" and "7pm"; "$50" is not "50 rooms".
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from whyfeed.retrieval.language import stem
from whyfeed.retrieval.words import HAN, STOPWORDS, content_words

SpecificKind = Literal["chip", "link", "number", "date", "name"]
_DENIED = re.compile(r"^(?:un(?=[abcdefhlnoprsuvw]\w{5})|non(?=\w{6}))", re.ASCII)

_UNITS = {
    "minute": "minutes?|mins?|分钟",
    "hour": "hours?|hrs?|个?小时|个?钟头",
    "workday": "(?:business|working|work) ?days?|个?工作日",
    "day": "days?|天|[日号]",
    "night": "nights?|晚(?!上)|夜",
    "week": "weeks?|周|个?星期",
    "month": "months?|个?月",
    "year": "years?|年",
    "money": "dollars?|usd|euros?|eur|pounds?|gbp|bucks|yuan|rmb|cny|cents?|credits?|块钱?|元|美元|人民币",
    "percent": "%|％|percent|per cent",
    "off": "折",
    "am": r"a\.?m\b\.?",
    "pm": r"p\.?m\b\.?",
    "clock": "o['’]clock|点",
    "star": "stars?|星",
    "score": "分(?!钟|店|公司)",
}
_UNIT = "|".join(f"(?P<{name}>{words})(?![A-Za-z])" for name, words in _UNITS.items())
_AFTER = re.compile(rf"[ -]?(?:{_UNIT})", re.IGNORECASE)
_EN_NUMBERS: dict[str, float] = {"half": 0.5}
_EN_NUMBERS |= {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100}
_EN_NUMBERS |= {"thousand": 1000, "dozen": 12, "twice": 2, "double": 2}
_ONE = frozenset({"one", "a", "an", "half"})  # numbers only before a unit
_ZH_DIGITS = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"两": 2}
_DATES = (
    "monday tuesday wednesday thursday friday saturday sunday january february march april june july august september "
    "october november december tomorrow tonight yesterday"
).split()
_SHORT = {name[:3]: name for name in _DATES if len(name) > 4 and name not in ("tomorrow", "tonight", "yesterday")}
_SHORT |= {"tues": "tuesday", "thur": "thursday", "thurs": "thursday", "sept": "september"}
_TOKEN = re.compile(
    r"(?P<chip>\[[a-z]+ \d+\])"
    r"|(?P<slot>\{[^{}]*\})"
    r"|(?P<link>https?://[^\s\u4e00-\u9fff]+|www\.[^\s\u4e00-\u9fff]+|(?<![\w.+-])[\w.+-]++@[\w-]+\.[\w.]*\w)"
    r"|(?P<code>(?-i:(?<![A-Za-z0-9])(?=[A-Z0-9-]{0,20}\d)(?=[A-Z0-9-]{0,20}[A-Z])(?!\d+[AP]M(?![A-Za-z0-9]))[A-Z0-9]+(?:-[A-Z0-9]+)*(?![A-Za-z0-9])))"
    r"|(?P<number>(?P<sign>[$€£¥￥]\s?)?\d+(?:[.,:：]\d+)*)(?:st|nd|rd|th)?"
    rf"|(?P<word>(?<![A-Za-z'’])(?:{'|'.join(_EN_NUMBERS)}|an?)(?![A-Za-z'’]))"
    r"|(?P<percent_zh>百分之[零一二三四五六七八九十百两]+)"
    r"|(?P<han>[零一二两三四五六七八九十百千万半]+)"
    r"|(?P<week>(?:星期|礼拜|周)[一二三四五六日天]|明天|后天|昨天|今晚|明晚)"
    rf"|(?P<date>(?<![A-Za-z])(?:{'|'.join(_DATES)}|{'|'.join(_SHORT)})(?![A-Za-z]))",
    re.IGNORECASE,
)
_SLOT = re.compile(r"\{[^{}]*+\}")
# What stands before the first word of a sentence. It is looked for in this many characters before the word.
_STARTS = re.compile(r"(?:^|[.!?:。！？\n…][\"”')]?\s*)[\"“'(]?$")
_TITLE = re.compile(r"\b(?:Dr|Mr|Mrs|Ms|Prof|St)\.\s*$")
_WINDOW = 50
_CAPITALS = re.compile(r"[A-Z\u00c0-\u00de][\w'’&-]*(?: [A-Z\u00c0-\u00de][\w'’&-]*)*")
_LIKE_A_NAME = re.compile(
    r"['’]s\b|,|\s+(?:is|are|has|have|had|was|were|offers|can|cannot|will|would|does|costs|serves|opens)\b|\s*$"
)
_QUOTED = re.compile(r"[\"“「《『]([^\"”」》』]{2,60})[\"”」》』]|(?<![\w'])'([^'\n]{2,60})'(?!\w)")
_NO_NAMES = frozenset(
    """i i'm i've i'll i'd ok okay am pm sir madam mr mrs ms dr please pin id faq pdf sms wifi wi-fi tv app hi hello
    dear thanks asap vip atm""".split()
)
# Words that often start a sentence: capitalised, but no names.
_STARTERS = frozenset(
    """absolutely actually additionally alright also anyway apologies awesome certainly congratulations currently dear
    excellent excuse fantastic fine first finally fortunately good goodbye great hello here hey hi hmm how however
    indeed lovely maybe meanwhile next nice ok okay once perfect perhaps please right see sir sorry sounds sure thank
    thanks then there therefore understood unfortunately wait welcome well what wonderful yeah yep yes
    could would should can may do does did is are was were will shall have has had let any anything
    to at in on of for from by if when where which who whose why as after before until while since and but or so
    no not none i we you he she it they my our your his her its their this that these those the a an all both each
    some many most more other another someone everyone nobody nothing everything something enjoy kindly
    """.split()
)
# Places by how they are named: "去绿岛乐园游玩", "有玉林串串香(怀柔店)"; but not "一家豪华型酒店".
_PLACE_ZH = re.compile(
    r"(?:[有去叫是选到在和住或荐您、,，:：)）]|^|\s)(?=([\u4e00-\u9fff]{2,14}?(?:[（(][^()（）]{1,12}[店馆院][)）]"
    r"|(?:[园馆寺宫庙店城山湖街塔院庄村桥坛陵岛谷厦]|广场|故居|餐厅|大学|世界)(?=[\s,，。、；;！!？?]|$|游|用餐|入住|住宿|吃|玩|是|的|在|评|一|还|就|也|都|挺|很|非常|价|吧|这))))"
)
# Names without a telling ending, found by the verb before them or in a list.
_SENT_ZH = re.compile(
    r"(?:推荐(?:给)?(?:您|你|一下)?(?:去|到|入住|住|吃)?|[您你](?:可以)?去)([\u4e00-\u9fff]{2,14}?)"
    r"(?=游玩|游览|用餐|入住|住宿|吃饭|就餐|玩|吧|就|[\s,，。！!？?]|$)"
)
_LISTED_ZH = re.compile(
    r"(?:有|包括|比如|例如|只有一个|只有一家)([\u4e00-\u9fff]{2,14}(?:[,、，]\s*[\u4e00-\u9fff]{2,14})*)(?=这些|等|[,，。、！!？?\s]|$)"
)
_NO_PLACE_ZH = re.compile(
    r"[的型家个哪些么这那您你我它吗吧呢有没去吃住找]|^(?:周边|附近|其他|推荐|预订)|^(?:餐馆|酒店|宾馆|饭店|公园|景点|餐厅)$"
)
_NAMES_ZH = frozenset({"nr", "ns", "nt", "nz", "nrt", "nrfg"})
_PLAIN_ZH = frozenset("你好 您好 安排 谢谢 感谢 高兴 祝您 明白 和谐 平安 客服".split())


@dataclass(frozen=True, slots=True)
class Specific:
    """One specific. `start` and `end` are offsets in characters; equal ones have the same `value`."""

    kind: SpecificKind
    start: int
    end: int
    value: str
    unit: str = ""


class Taken:
    """Which characters of a text are taken."""

    def __init__(self, text: str) -> None:
        self._taken = bytearray(len(text))

    def add(self, start: int, end: int) -> None:
        """Take the characters from `start` to before `end`."""
        self._taken[start:end] = b"\1" * (end - start)

    def overlaps(self, start: int, end: int) -> bool:
        """Is one of these characters taken?"""
        return 1 in self._taken[start:end]


def specifics(text: str, *, names: bool = True) -> list[Specific]:
    """All specifics of a text, in order, without overlaps; with or without names."""
    found = [specific for match in _TOKEN.finditer(text) if (specific := _from_match(match, text)) is not None]
    if names:
        taken = Taken(text)
        for start, end in [(s.start, s.end) for s in found] + [match.span() for match in _SLOT.finditer(text)]:
            taken.add(start, end)
        for specific in _names(text):
            if not taken.overlaps(specific.start, specific.end):
                found.append(specific)
                taken.add(specific.start, specific.end)
    return sorted(found, key=lambda s: s.start)


def plain_number(digits: str) -> str:
    """A number in normal form: "1,200.00" is "1200", "07:30" is "7:30"."""
    digits = digits.replace("：", ":")
    if ":" in digits:
        return digits.lstrip("0") or "0"
    digits = re.sub(r",(?=\d{3}(?!\d))", "", digits).replace(",", ".")
    if digits.count(".") == 1:
        digits = digits.rstrip("0").rstrip(".")
    return digits.lstrip("0") if len(digits) > 1 and digits[0] == "0" and digits[1:2].isdigit() else digits


def affirmed(word: str) -> str:
    """A word without its denial: "unavailable" is "available". What denies is found by the clause, not by its stems."""
    return _DENIED.sub("", word)


def stems(text: str) -> frozenset[str]:
    """The stems of the words that carry meaning, each without its denial; Chinese words as they are."""
    return frozenset(stem(affirmed(word)) for word in content_words(text))


def _from_match(match: re.Match[str], text: str) -> Specific | None:
    start, end = match.span()
    if match["slot"]:
        return None
    if match["chip"]:
        return Specific("chip", start, end, match[0].casefold())
    if match["link"]:
        return Specific("link", start, end, match[0].casefold())
    if match["week"]:
        return Specific("date", start, end, re.sub("星期|礼拜", "周", match[0]).replace("周天", "周日"))
    if match["date"]:
        word = match[0].casefold()
        if word in ("mar", "sun", "sat", "mon", "dec", "march", "may") and not match[0][0].isupper():
            return None
        return Specific("date", start, end, _SHORT.get(word, word))
    unit, end = _unit(text, match.end())
    if match["percent_zh"]:
        return Specific("number", start, match.end(), str(_zh_value(match[0][3:])), "percent")
    if match["number"]:
        value = plain_number(match["number"].lstrip("$€£¥￥ "))
        return Specific("number", start, end, value, "money" if match["sign"] else unit)
    if match["han"]:
        # "一个" is an article and "十分" an adverb; a Chinese numeral counts only before a real unit.
        if not unit or unit in ("score", "star") or (match[0] in ("一", "万") and unit in ("clock", "day", "score")):
            return None
        return Specific("number", start, end, str(_zh_value(match[0])), unit)
    if match["word"]:
        word = match[0].casefold()
        if word in _ONE and unit not in ("minute", "hour", "day", "workday", "week", "month", "year", "night"):
            return None
        value = "1" if word in ("a", "an") else str(_EN_NUMBERS[word])
        return Specific("number", start, end, value, unit)
    if match["code"]:
        return Specific("name", start, match.end(), match[0].casefold())
    return None


def _unit(text: str, place: int) -> tuple[str, int]:
    match = _AFTER.match(text, place)
    return (match.lastgroup or "", match.end()) if match else ("", place)


def _zh_value(numeral: str) -> int | float:
    if numeral == "半":
        return 0.5
    total = digit = 0
    for char in numeral:
        if char in _ZH_DIGITS:
            digit = _ZH_DIGITS[char]
        elif char in "十百千万":
            total += (digit or 1) * {"十": 10, "百": 100, "千": 1000, "万": 10000}[char]
            digit = 0
    return total + digit


def _names(text: str) -> Iterator[Specific]:
    for match in _QUOTED.finditer(text):
        group = 1 if match[1] else 2
        yield Specific("name", match.start(group), match.end(group), match[group].casefold())
    for match in _CAPITALS.finditer(text):
        start = match.start()
        window = max(0, start - _WINDOW)
        first = bool(_STARTS.search(text, window, start)) and not _TITLE.search(text, window, start)
        spoken = deque(match[0].split(" "))
        # A capital at the start of a sentence may be no name: "Unfortunately", but "Hilton has a room".
        while spoken and (
            _bare(spoken[0]) in _NO_NAMES
            or (first and (_bare(spoken[0]) in _STARTERS or _bare(spoken[0]) in STOPWORDS or spoken[0].endswith("ly")))
        ):
            start += len(spoken[0]) + 1
            first = False
            spoken.popleft()
        if first and len(spoken) == 1 and not _LIKE_A_NAME.match(text, match.end()):
            continue  # "Take your time": a single word is a name only as a subject or in an address.
        if spoken:
            end = match.end()
            word = re.sub(r"(?:['’]s|(?<!['’&-])['’&-]++)$", "", text[start:end])
            yield Specific("name", start, start + len(word), word.casefold())
    if HAN.search(text):
        import rjieba

        for match in _PLACE_ZH.finditer(text):
            if not _NO_PLACE_ZH.search(match[1]):
                yield Specific("name", match.start(1), match.end(1), match[1].casefold())
        for rule in (_SENT_ZH, _LISTED_ZH):
            for match in rule.finditer(text):
                for part in re.finditer(r"[\u4e00-\u9fff]+", match[1]):
                    start = match.start(1) + part.start()
                    if not _NO_PLACE_ZH.search(part[0]) and len(part[0]) > 1:
                        yield Specific("name", start, start + len(part[0]), part[0])
        place = 0
        for word, tag in rjieba.tag(text):
            place = text.find(word, place)
            if tag in _NAMES_ZH and len(word) > 1 and HAN.match(word) and word not in _PLAIN_ZH:
                yield Specific("name", place, place + len(word), word)
            place += len(word)


def _bare(word: str) -> str:
    return re.sub(r"['’](?:s|m|ve|ll|d|re|t)$", "", word.casefold()) if "'" in word or "’" in word else word.casefold()
