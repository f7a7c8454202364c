"""Extraction of a sentence's parts: topics, horizon, count and kinds.

All of it is written rules over at most a few hundred characters; `agent.understanding.understander` decides which part
a sentence needs. A topic is returned without "please", "posts about", 的帖子, quotes or trailing punctuation.
"""

from __future__ import annotations

import re

from whyfeed.agent.request import Horizon
from whyfeed.retrieval.words import HAN

# --- topics ---------------------------------------------------------------------------------------

NOUN = (
    r"(?:posts?|articles?|stuff|things?|content|topics?|threads?|questions?|discussions?|reads|material|"
    r"stories|ones?)"
)
ABOUT = (
    r"(?:about|on|regarding|concerning|covering|dealing with|(?:that'?s |that is |is )?(?:related|relating) to|"
    r"to do with)"
)
ZH_NOUN = r"(?:帖子?|文章|内容|东西|话题|主题|题材|推送)"
_LEAD = re.compile(
    r"^(?:(?:the|a|an|my|your|their|its|other|some|any|all|of|more|those|these|such|every(?:thing)"
    r"?|anything|something|good|great|new|nice|"
    r"interesting|that|really|so (?:much|many)|too (?:much|many)|(?:a )?(?:lot|bit|little|few)(?= "
    r"of)|lots|plenty|kinds? of) +"
    rf"|(?:{NOUN}|everything|anything|something|nothing|news|info(?:rmation)?) +(?:{ABOUT}|of|from|"
    rf"in) +|(?:{ABOUT}) +)",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"(?: +(?:please|pls|thanks|thank you|thx|posts?|articles?|stuff|things|content|topics|threads|related|"
    r"again|any ?more|lately|recently|around here|out there|in here|ever|(?:a lot|very much|so far)"
    r"|too|as well|instead|though|now|at all|for me|to me|here|at the moment|today|either|then|ok|"
    r"okay|"
    r"(?:in|from|on|to|out of|off) (?:my|the) (?:feed|list|recommendations|timeline)|so (?:much|"
    r"often)|all the time))+$",
    re.IGNORECASE,
)
_ZH_LEAD = re.compile(
    r"^(?:其他|别的|给我讲讲?|能聊聊?|能讲讲?|关于|有关|讲述|讲解|介绍|涉及|讨论|一些|一点|任何|"
    r"所有|全部|那些|这些|那种|这种|那么多|这么多|更多|几[篇个条部]|的)+"
)
_ZH_TAIL = re.compile(
    rf"(?:的(?:{ZH_NOUN}|资料|讨论|消息|新闻|推荐|信息|知识|视频|东西|事情?|分量)|(?:相关|有关|方面|"
    rf"之类|这类|这种|那类)?的?{ZH_NOUN}|"
    r"(?:相关|有关|方面|之类)的?|[的吗呢吧啊呀哦嘛啦了哈]|(?<![什怎这那多])么|谢谢你?|多谢|谢了|"
    r"好吗|好不好|可以吗|行吗|有吗|有没有|没有|给我)+$"
)
_EDGES = " \t\n\"'“”‘’「」『』《》〈〉()（）[]【】<>*_`~,，.。;；:：!！?？…、-—"
_EMPTY = frozenset(
    "it this that them these those one ones me you us so all lot bit any something anything everything nothing stuff "
    "things posts articles others more please".split()
)


def tidy_topic(text: str) -> str:
    """The topic without the words around it; "" when nothing is left."""
    topic = _strip(text)
    while topic:
        before = topic
        topic = _strip(_LEAD.sub("", topic, count=1))
        for pattern in (_TAIL, _ZH_LEAD, _ZH_TAIL):
            topic = _strip(pattern.sub("", topic, count=1)) or topic
        if topic == before:
            break
    if re.fullmatch(
        rf"{NOUN}|{ZH_NOUN}|[的吗呢吧啊了点些]+|一些|一下|更多|任何|所有|全部|几[篇个条]", topic, re.IGNORECASE
    ):
        return ""
    return "" if topic.lower() in _EMPTY else topic[:200]


def _strip(text: str) -> str:
    text = text.lstrip(_EDGES + "#").rstrip(_EDGES)
    return text


_AND = re.compile(
    r"\s*[,，;；、/]\s*(?:and |or |nor )?|\s+(?:and|or|nor|&|plus|as well as)\s+|以及|还有|或者", re.IGNORECASE
)


def split_topics(text: str) -> tuple[str, ...]:
    """The topics of an enumeration, each tidied: "beer, wine or cider", 啤酒和葡萄酒."""
    topics: list[str] = []
    for part in _AND.split(text):
        # 和 is also the first half of 和平 (peace): it joins two topics only where it is a word of its own.
        pieces = re.split(r"\x00", _joiners(part)) if re.search(r"[和与跟或及]", part) else [part]
        topics.extend(tidy_topic(piece) for piece in pieces)
    return tuple(dict.fromkeys(topic for topic in topics if topic))


def _joiners(text: str) -> str:
    return "".join("\x00" if word in ("和", "与", "跟", "或", "及") else word for word in cut_words(text))


def cut_words(text: str) -> list[str]:
    """The words of a Chinese text, in order."""
    import rjieba

    return list(rjieba.cut(text, True))


def tokenise(text: str) -> list[tuple[str, int, int]]:
    """Words with their start and end offsets; Chinese runs are cut into words that do not overlap."""
    tokens = []
    for run in re.finditer(r"[^\W_]+", text):
        place = run.start()
        for piece in re.split(f"({HAN.pattern}+)", run[0]):
            for word in cut_words(piece) if HAN.match(piece) else [piece]:
                tokens.append((word, place, place + len(word)))
                place += len(word)
    return [token for token in tokens if token[0]]


# --- horizon, count, kinds ------------------------------------------------------------------------

_DAYS = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_WHEN: dict[Horizon, str] = {
    "always": (
        r"\b(?:for ?ever|for good|permanently|always|(?:from now|ever) on(?:wards)?|never ever)\b|永远|"
        r"永久|从此|以后都?|今后都?|再也"
    ),
    "month": (
        r"\b(?:(?:for |during |over |until )?(?:the )?(?:(?:rest|end) of )?(?:this|the|a|one|next|the "
        r"next) month"
        r"|for (?:a (?:couple of|few)|two|three|four|2|3|4|several) weeks)\b|(?:接下来|未来)?(?:这|本|"
        r"一|下)个?月(?:内|里|之内|底)?(?:之前|以前|前)?"
    ),
    "week": (
        rf"\b(?:(?:un)?till? (?:next |this )?(?:{_DAYS}|week(?:end)?)|before (?:{_DAYS})"
        r"|(?:for |during |over )?(?:the )?(?:rest of )?(?:this|the|a|one|next|the next|7|seven)(?: "
        r"whole)? (?:week(?:end)?|days)"
        r"|for (?:a (?:couple of|few)|two|three|four|five|2|3|4|5|several) days|(?:this|over the) weekend)"
        r"\b"
        r"|(?:下?个?(?:周|星期|礼拜)[一二三四五六日天末]|下周)(?:之前|以前|前)|(?:这|本|一|下)个?(?:周末?|"
        r"星期|礼拜)(?:内|里|之内)?"
        r"|(?:这|接下来)?[两二三四五六七几]天(?:内|之内)?"
    ),
    "day": (
        r"\b(?:(?:for |just for )?(?:the rest of )?(?:today|tonight|the day|this (?:morning|afternoon|"
        r"evening)|a day|one day)"
        r"|(?:until|till?) (?:tomorrow|tonight)|for (?:the next )?(?:24|twelve|12) hours)\b|今天(?:之内)"
        r"?|今日|今晚|明天(?:之前|以前|前)|一天"
    ),
    "now": (
        r"\b(?:(?:just |only )?(?:this (?:time|once)|(?:for )?once)|in this list)\b|(?:就|只|仅)?(?:这|"
        r"本)一?次(?!对话|聊天|会话)"
    ),
    "session": (
        r"\b(?:(?:just |only )?(?:for (?:now|a while|a bit|the moment|the time being|a few hours|an "
        r"hour)|right now|temporarily"
        r"|(?:in|during|for)? ?(?:the rest of )?this (?:chat|conversation|session))\b)|暂时|目前|眼下|"
        r"现在|(?:这|本)次?(?:对话|聊天|会话)(?:里|中)?"
        r"|先(?=别|不|少|多)"
    ),
}
_HORIZONS = tuple((horizon, re.compile(pattern, re.IGNORECASE)) for horizon, pattern in _WHEN.items())


def cut_horizon(text: str) -> tuple[Horizon | None, str]:
    """How long a steering rule should hold, and the sentence without that phrase; None when it is not stated.

    A time that is not a horizon is rounded up to one ("for three days" is a week). "now" means this one answer ("just
    this once"); "for now" means this conversation.
    """
    for horizon, pattern in _HORIZONS:
        if match := pattern.search(text):
            return horizon, f"{text[: match.start()]} {text[match.end() :]}".strip()
    return None, text


_NUMBER = {
    **{word: value for value, word in enumerate("one two three four five six seven eight nine ten".split(), 1)},
    **{word: value for value, word in enumerate("一二三四五六七八九十", 1)},
    "两": 2,
    "俩": 2,
    "dozen": 12,
    "twenty": 20,
}
_COUNT = re.compile(
    r"\b(?:top )?(\d{1,3}|one|two|three|four|five|six|seven|eight|nine|ten|dozen|twenty)\s+(?:\w+\s+){0,2}?"
    r"(?:posts?|articles?|things?|videos?|questions?|threads?|recommendations?|suggestions?|reads|"
    r"people|users|groups|products|"
    r"artists?|bands?|more|others?|of them|communities|stories|picks)\b"
    r"|(?<![第前后数这那])((?!一[个部位])[一二两三四五六七八九十]|\d{1,3})\s*[篇个条部位](?!月|星期|礼拜|人)",
    re.IGNORECASE,
)


def find_count(text: str) -> int | None:
    """The number of posts asked for (1 to 50), None when it is not stated."""
    match = _COUNT.search(text)
    if not match:
        return None
    value = number(match[1] or match[2])
    return min(value, 50) if value else None


def number(word: str) -> int:
    """The value of a numeral in digits, English or Chinese (up to ten in words); 0 for anything else."""
    return int(word) if word.isascii() and word.isdigit() else _NUMBER.get(word.lower(), 0)


_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("video", r"\bvideos?\b|\bclips?\b|视频"),
        ("product", r"\bproducts?\b|商品|产品"),
        ("artist", r"\bartists?\b|\bbands?\b|\bmusicians?\b|\bsingers?\b|歌手|乐队|音乐人|艺人"),
    )
)


def cut_kinds(text: str) -> tuple[tuple[str, ...], str]:
    """The kinds of post that a request names, and the text without them; "posts" and 文章 name no kind."""
    kinds = []
    for kind, pattern in _KINDS:
        if pattern.search(text):
            kinds.append(kind)
            text = pattern.sub(" ", text)
    return tuple(kinds), text
