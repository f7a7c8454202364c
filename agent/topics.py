"""What is cut out of a sentence: its language, topics, references to shown posts, horizon, count and kinds.

Everything here is written rules over at most a few hundred characters; `agent.understand` says which
sentence wants which part. A topic comes out clean: no "please", "posts about", 的帖子, quotes or
trailing punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.request import Horizon, Language
from retrieval.words import STOPWORDS, content_words, words

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_KANA_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_LATIN = re.compile(r"[^\W\d_]+", re.ASCII)
_QUOTED = re.compile(r"[\"“「『《].*?[\"”」』》]")
_EN_FRAME = STOPWORDS | frozenset(
    "show find recommend suggest search want love hate stop hide compare forget undo summarise summarize sum explain tell "
    "read fewer follow something anything others hi hello thanks articles videos".split()
)
_ZH_FRAME = re.compile(
    r"推荐|帖子|文章|什么|怎么|关于|有没有|有关|相关|不要|不想|喜欢|讨厌|为啥|为何|总结|概括|比较|对比|忘|隐藏|屏蔽|"
    r"撤销|小组|社区|第[一二三四五六七八九十]|[的吗呢吧我你这那有想看少多别来给找讲和谁哪把对]"
)


def detect_language(text: str, default: Language) -> Language:
    """The language of the sentence's frame: 推荐一些 error correction 的帖子 is zh, "something about 量子" is en.

    `default` is the answer for a text with no letters of either language.
    """
    text = text[:300]
    han, latin = HAN.search(text), _LATIN.search(text)
    if _KANA_HANGUL.search(text) or not (han or latin):
        return default
    if not (han and latin):
        return "zh" if han else "en"
    bare = _QUOTED.sub(" ", text)
    english = sum(word.lower() in _EN_FRAME for word in _LATIN.findall(bare))
    chinese = len(_ZH_FRAME.findall(bare))
    if english != chinese:
        return "en" if english > chinese else "zh"
    return "en" if latin.start() < han.start() else "zh"


# --- topics ---------------------------------------------------------------------------------------

NOUN = r"(?:posts?|articles?|stuff|things?|content|topics?|threads?|questions?|discussions?|reads|material|stories|ones?)"
ABOUT = r"(?:about|on|regarding|concerning|covering|dealing with|(?:that'?s |that is |is )?(?:related|relating) to|to do with)"
ZH_NOUN = r"(?:帖子?|文章|内容|东西|话题|主题|题材|推送)"
_LEAD = re.compile(
    rf"^(?:(?:the|a|an|my|your|their|its|other|some|any|all|of|more|those|these|such|every(?:thing)?|anything|something|good|great|new|nice|"
    rf"interesting|that|really|so (?:much|many)|too (?:much|many)|(?:a )?(?:lot|bit|little|few)(?= of)|lots|plenty|kinds? of) +"
    rf"|(?:{NOUN}|everything|anything|something|nothing|news|info(?:rmation)?) +(?:{ABOUT}|of|from|in) +|(?:{ABOUT}) +)",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"(?: +(?:please|pls|thanks|thank you|thx|posts?|articles?|stuff|things|content|topics|threads|related|"
    r"again|any ?more|around here|out there|in here|ever|(?:a lot|very much|so far)|too|as well|instead|though|now|at all|for me|to me|here|at the moment|today|either|then|ok|okay|"
    r"(?:in|from|on|to|out of|off) (?:my|the) (?:feed|list|recommendations|timeline)|so (?:much|often)|all the time))+$",
    re.IGNORECASE,
)
_ZH_LEAD = re.compile(r"^(?:其他|别的|给我讲讲?|能聊聊?|能讲讲?|关于|有关|讲述|讲解|介绍|涉及|讨论|一些|一点|任何|所有|全部|那些|这些|那种|这种|那么多|这么多|更多|几[篇个条部]|的)+")
_ZH_TAIL = re.compile(
    rf"(?:的(?:{ZH_NOUN}|资料|讨论|消息|新闻|推荐|信息|知识|视频|东西|事情?|分量)|(?:相关|有关|方面|之类|这类|这种|那类)?的?{ZH_NOUN}|"
    r"(?:相关|有关|方面|之类)的?|[的吗呢吧啊呀哦嘛啦么了哈]|谢谢你?|多谢|谢了|好吗|好不好|可以吗|行吗|有吗|有没有|没有|给我)+$"
)
_EDGES = " \t\n\"'“”‘’「」『』《》〈〉()（）[]【】<>*_`~,，.。;；:：!！?？…、-—"
_EMPTY = frozenset(
    "it this that them these those one ones me you us so all lot bit any something anything everything nothing stuff "
    "things posts articles others more please".split()
)


def tidy_topic(text: str) -> str:
    """A topic without the words around it; "" when nothing is left."""
    topic = _strip(text)
    while topic:
        before = topic
        topic = _strip(_LEAD.sub("", topic, count=1))
        for pattern in (_TAIL, _ZH_LEAD, _ZH_TAIL):
            topic = _strip(pattern.sub("", topic, count=1)) or topic
        if topic == before:
            break
    if re.fullmatch(rf"{NOUN}|{ZH_NOUN}|[的吗呢吧啊了点些]+|一些|一下|几[篇个条]", topic, re.IGNORECASE):
        return ""
    return "" if topic.lower() in _EMPTY else topic[:200]


def _strip(text: str) -> str:
    text = text.lstrip(_EDGES + "#").rstrip(_EDGES)
    return text


_AND = re.compile(r"\s*[,，;；、/]\s*(?:and |or |nor )?|\s+(?:and|or|nor|&|plus|as well as)\s+|以及|还有|或者", re.IGNORECASE)


def split_topics(text: str) -> tuple[str, ...]:
    """The topics of an enumeration, each tidied: "beer, wine or cider", 啤酒和葡萄酒."""
    topics: list[str] = []
    for part in _AND.split(text):
        # 和 is also the first half of 和平 (peace): only where it is a word of its own does it join two topics.
        pieces = re.split(r"\x00", _joiners(part)) if re.search(r"[和与跟或及]", part) else [part]
        topics.extend(tidy_topic(piece) for piece in pieces)
    return tuple(dict.fromkeys(topic for topic in topics if topic))


def _joiners(text: str) -> str:
    return "".join("\x00" if word in ("和", "与", "跟", "或", "及") else word for word in cut_words(text))


def cut_words(text: str) -> list[str]:
    """The words of a Chinese text, one after the other."""
    import rjieba

    return list(rjieba.cut(text, True))


# --- horizon, count, kinds ------------------------------------------------------------------------

_DAYS = r"(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_HORIZONS: tuple[tuple[Horizon, re.Pattern[str]], ...] = tuple(
    (horizon, re.compile(pattern, re.IGNORECASE))
    for horizon, pattern in (
        ("always", r"\b(?:for ?ever|for good|permanently|always|(?:from now|ever) on(?:wards)?|never ever)\b|永远|永久|从此|以后都?|今后都?|再也"),
        ("month", r"\b(?:(?:for |during |over |until )?(?:the )?(?:(?:rest|end) of )?(?:this|the|a|one|next|the next) month"
                  r"|for (?:a (?:couple of|few)|two|three|four|2|3|4|several) weeks)\b|(?:这|本|一|下)个?月(?:内|里|之内|底)?(?:之前|以前|前)?"),
        ("week", rf"\b(?:(?:un)?till? (?:next |this )?(?:{_DAYS}|week(?:end)?)|before (?:{_DAYS})"
                 rf"|(?:for |during |over )?(?:the )?(?:rest of )?(?:this|the|a|one|next|the next|7|seven)(?: whole)? (?:week(?:end)?|days)"
                 rf"|for (?:a (?:couple of|few)|two|three|four|five|2|3|4|5|several) days|(?:this|over the) weekend)\b"
                 r"|(?:下?个?(?:周|星期|礼拜)[一二三四五六日天末]|下周)(?:之前|以前|前)|(?:这|本|一|下)个?(?:周末?|星期|礼拜)(?:内|里|之内)?"
                 r"|(?:这|接下来)?[两二三四五六七几]天(?:内|之内)?"),
        ("day", r"\b(?:(?:for |just for )?(?:the rest of )?(?:today|tonight|the day|this (?:morning|afternoon|evening)|a day|one day)"
                r"|(?:until|till?) (?:tomorrow|tonight)|for (?:the next )?(?:24|twelve|12) hours)\b|今天(?:之内)?|今日|今晚|明天(?:之前|以前|前)|一天"),
        ("now", r"\b(?:(?:just |only )?(?:this (?:time|once)|(?:for )?once)|in this list)\b|(?:就|只|仅)?(?:这|本)(?:一)?次"),
        ("session", r"\b(?:(?:just |only )?(?:for (?:now|a while|a bit|the moment|the time being|a few hours|an hour)|right now|temporarily"
                    r"|(?:in|during|for)? ?(?:the rest of )?this (?:chat|conversation|session))\b)|暂时|目前|眼下|现在|(?:这|本)次?(?:对话|聊天|会话)(?:里|中)?"
                    r"|先(?=别|不|少|多)"),
    )
)  # fmt: skip


def cut_horizon(text: str) -> tuple[Horizon | None, str]:
    """How long a steering sentence is to hold, and the sentence without that; None when it does not say.

    A time that is not a horizon is rounded up to one ("for three days" is a week). "now" means this
    one answer ("just this once"); "for now" is the conversation.
    """
    for horizon, pattern in _HORIZONS:
        if match := pattern.search(text):
            return horizon, f"{text[: match.start()]} {text[match.end() :]}".strip()
    return None, text


_NUMBER = {
    **{word: value for value, word in enumerate("one two three four five six seven eight nine ten".split(), 1)},
    **{word: value for value, word in enumerate("一二三四五六七八九十", 1)},
    "两": 2, "俩": 2, "dozen": 12, "twenty": 20,
}  # fmt: skip
_COUNT = re.compile(
    r"\b(?:top )?(\d{1,3}|one|two|three|four|five|six|seven|eight|nine|ten|dozen|twenty)\s+(?:\w+\s+){0,2}?"
    r"(?:posts?|articles?|things?|videos?|questions?|threads?|recommendations?|suggestions?|reads|people|users|groups|products|"
    r"artists?|bands?|more|others?|of them|communities|stories|picks)\b"
    r"|(?<![第前后数这那])([一二两三四五六七八九十]|\d{1,3})\s*[篇个条部位](?!月|星期|礼拜|人)",
    re.IGNORECASE,
)


def find_count(text: str) -> int | None:
    """How many posts are asked for (1 to 50), None when it is not said."""
    match = _COUNT.search(text)
    if not match:
        return None
    value = number(match[1] or match[2])
    return min(value, 50) if value else None


def number(word: str) -> int:
    """The value of a numeral in digits, English or Chinese (up to ten in words); 0 when it is none."""
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
    """The kinds of thing that a request names, and its topic without them; "posts" and 文章 name no kind."""
    kinds = []
    for kind, pattern in _KINDS:
        if pattern.search(text):
            kinds.append(kind)
            text = pattern.sub(" ", text)
    return tuple(kinds), text


# --- references -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Context:
    """What the conversation knows when the words arrive.

    `shown` are the ids of the last list in order, `titles` their titles, `focus` the post last
    spoken of, `language` that of the previous turn.
    """

    shown: tuple[str, ...] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    focus: str | None = None
    language: Language = "en"


@dataclass(frozen=True, slots=True)
class References:
    """The posts that a text points at.

    `spoken`: it points at something, found or not; `exact`: by place or title, not only by "that";
    `rest`: what else it says.
    """

    posts: tuple[str, ...] = ()
    spoken: bool = False
    rest: str = ""
    exact: bool = False

    @property
    def only(self) -> bool:
        """The text is a reference and nothing else."""
        return self.spoken and not self.rest


_THING = r"(?:one|post|article|item|result|recommendation|suggestion|pick|entry|link|video|card|story|thread|question|choice)"
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
_N = r"(\d{1,3}|one|two|three|four|five|six|seven|eight|nine|ten)"
_ZN = r"([一二两三四五六七八九十]|\d{1,3})"
_M = r"(?:个|篇|条|项|则|帖|位|部)"
_ZH_THING = r"(?:帖子|文章|推荐|视频|内容)?"
_Finder = Callable[[re.Match[str], Sequence[str]], Sequence[str]]


def _range(match: re.Match[str], shown: Sequence[str]) -> Sequence[str]:
    count = number(match[2])
    chosen = shown[-count:] if match[1].lower() in ("last", "bottom", "后", "最后") else shown[:count]
    return chosen if 0 < count <= len(shown) else ()


def _ordinal(match: re.Match[str], shown: Sequence[str]) -> Sequence[str]:
    word = match[1].lower()
    place = _ORDINALS.index(word) + 1 if word in _ORDINALS else number(re.sub(r"(?:st|nd|rd|th)$", "", word))
    return shown[place - 1 : place] if place else ()


def _from_end(match: re.Match[str], shown: Sequence[str]) -> Sequence[str]:
    word = next(group for group in match.groups() if group).lower()
    place = _ORDINALS.index(word) + 1 if word in _ORDINALS else 2 if word in ("next", "penultimate") else number(word)
    return shown[-place : len(shown) - place + 1] if 0 < place <= len(shown) else ()


def _pair(_: re.Match[str], shown: Sequence[str]) -> Sequence[str]:
    return shown if len(shown) == 2 else ()


_POINTERS: tuple[tuple[re.Pattern[str], _Finder], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), finder)
    for pattern, finder in (
        (rf"\b(?:the |your |my )?(first|top|last|bottom) (\d|two|three|four|five)\b(?: {_THING}s?\b)?", _range),
        (rf"(前|最后|后){_ZN}{_M}", _range),
        (rf"\b(?:the )?(second|third|fourth|next)[- ](?:to[- ])?last\b(?: {_THING}\b)?|\b(?:the )?(penultimate)\b", _from_end),
        (rf"倒数第{_ZN}{_M}?{_ZH_THING}", _from_end),
        (rf"\b(?:the |your |my )?({'|'.join(_ORDINALS)}|\d{{1,2}}(?:st|nd|rd|th))\b(?: {_THING}\b)?", _ordinal),
        (rf"\b(?:number|no\.?|nr\.?|items?|posts?|results?|options?|picks?|recommendations?) ?#?{_N}\b|(?<!\w)#{_N}\b", lambda m, s: _numbered(m, s)),
        (rf"第{_ZN}(?![次章届代类种])(?:{_M}|个)?{_ZH_THING}", _ordinal),
        (rf"(?<!\d){_ZN}号{_ZH_THING}(?!线)", _ordinal),
        (rf"\b(?:the |your |my )?(?:very )?(?:last|final|bottom)\b(?: {_THING}\b)?|最后(?:面)?(?:的)?(?:那|这)?一?{_M}{_ZH_THING}|末尾那?{_M}", lambda _, s: s[-1:]),
        (rf"\b(?:the )?top {_THING}\b|(?:头一|首|最上面的?那?){_M}{_ZH_THING}", lambda _, s: s[:1]),
        (rf"\b(?:these|those|the) two\b(?: {_THING}s?\b)?|\bboth\b(?: of (?:them|these|those))?|\bthe pair\b|[这那](?:两{_M}?|俩){_ZH_THING}|两{_M}(?!月)|两者|二者", _pair),
        (rf"\b(?:all|any|each|none)(?: of)? (?:them|these|those|the (?:{_THING}s))\b|\bthem(?: all)?\b|\b(?:these|those)\b(?: {_THING}s?\b)?|它们|[这那](?:几{_M}|些){_ZH_THING}|全部", lambda _, s: s),
    )
)  # fmt: skip
_DEICTIC = re.compile(
    rf"\b(?:this|that)\b(?! (?:week|month|year|morning|evening|afternoon|night|time|way|much|many|chat|conversation|session))(?:(?: same| very)? {_THING}\b)?(?: here\b)?|\bit\b|刚才(?:那|这)?一?{_M}?(?:{_ZH_THING})|(?:[这那该此]一?{_M}){_ZH_THING}|[这那](?:样|种|类)的?|^(?:类似|差不多|同类|相近)$"
    rf"|[这那该](?:帖子|文章|视频)|[它这](?!些|里|么|周|次|个月|几|两|俩|星期|边|方面)",
    re.IGNORECASE,
)
_BARE = re.compile(r"(?<![\w.#])(\d{1,2})(?![\w%]|\.\d)")
_BARE_ZH = re.compile(r"^\s*([一二三四五六七八九十])\s*$")
_TITLED = re.compile(
    rf"\b(?:the|that|this) (?:other )?{_THING} (?:about|on|with|regarding|from|by|mentioning|called|titled|where|that (?:mentions|talks about|is about)) (?P<about>.+)$"
    rf"|\b(?:the|that) (?P<named>(?!first|second|third|last|next|same|other|whole)[^,.;?!]{{2,60}}?) {_THING}\b"
    rf"|(?:讲|关于|说到|说|谈到?|聊|写|介绍|提到|有关)(?P<zh>[^，。的]{{1,30}})的?(?:那|这)一?{_M}{_ZH_THING}"
    rf"|(?P<zhname>[^，。这那第把]{{1,20}}?)(?:的)?(?:那|这)一?{_M}{_ZH_THING}",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"\b(?:and|or|the|one|ones|with|to|vs|versus|please|of|again|anymore|any more|from (?:my|the) list|off (?:my|the) list|for me|too|posts?|items?)\b"
    r"|还是|或者?|[和与跟及还有的了吧呢啊吗都也请]|[^\w]+",
    re.IGNORECASE,
)


def _numbered(match: re.Match[str], shown: Sequence[str]) -> Sequence[str]:
    place = number(match[1] or match[2])
    return shown[place - 1 : place] if place else ()


def find_references(
    text: str, context: Context, by_title: Callable[[str, Context], str | None] | None = None
) -> References:
    """The shown posts that a text points at: "the second one", "#2", 最后一篇, "that", "the one about yeast".

    Ordinals, "number two" and "#2" count anywhere; bare numbers only when the whole text is
    numbers ("1 and 3"); "that" and "it" only without any of those. `by_title` finds the post whose
    title is meant. What points beyond the list is spoken but finds nothing.
    """
    found: list[str] = []
    rest, spoken = text, False
    for pattern, finder in _POINTERS:
        while match := pattern.search(rest):
            found.extend(finder(match, context.shown))
            rest, spoken = f"{rest[: match.start()]} {rest[match.end() :]}", True
    numbers = _BARE_ZH.findall(rest) or _BARE.findall(rest)
    if numbers and (spoken or not _FILLER.sub("", _BARE.sub("", _BARE_ZH.sub("", rest)))):
        for word in numbers:
            place = number(word)
            found.extend(context.shown[place - 1 : place] if place else ())
        rest, spoken = _BARE.sub(" ", _BARE_ZH.sub(" ", rest)), True
    if not spoken and by_title and (match := _TITLED.search(rest)):
        about = next(group for group in match.groups() if group)
        post = by_title(tidy_topic(about), context)
        found.extend([post] if post else [])
        rest, spoken = f"{rest[: match.start()]} {rest[match.end() :]}", True
    exact = spoken
    if _DEICTIC.search(rest):
        if not spoken:
            only = context.shown[0] if len(context.shown) == 1 else None
            post = context.focus or only
            found.extend([post] if post else [])
        rest, spoken = _DEICTIC.sub(" ", rest), True
    known = {*context.shown, *([context.focus] if context.focus else [])}
    order = {post: place for place, post in enumerate(context.shown)}
    posts = sorted({post for post in found if post in known}, key=lambda post: order.get(post, -1))
    return References(tuple(posts), spoken, _FILLER.sub(" ", rest).strip(), exact)


def find_numbers(text: str, context: Context) -> tuple[str, ...]:
    """The posts whose bare numbers stand in the text, for sentences that are surely about posts (compare, why)."""
    places = [int(word) for word in _BARE.findall(text)]
    posts = [context.shown[place - 1] for place in places if 0 < place <= len(context.shown)]
    return tuple(dict.fromkeys(posts))


def title_by_words(topic: str, context: Context) -> str | None:
    """The one shown post whose title has most of the topic's words; None when none or several do."""
    spoken = {_stem(word) for word in content_words(topic) or words(topic)}
    counts = {
        post: len(spoken & {_stem(word) for word in words(context.titles.get(post, ""))}) for post in context.shown
    }
    best = max(counts.values(), default=0)
    winners = [post for post, count in counts.items() if count == best]
    return winners[0] if best and len(winners) == 1 else None


def _stem(word: str) -> str:
    for ending in ("ing", "ies", "es", "ed", "s"):
        if word.isascii() and word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)] + ("y" if ending == "ies" else "")
    return word
