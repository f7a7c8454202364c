"""The posts that a text refers to: "the second one", "#2", 最后一篇, "that", "the one about yeast"."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from whyfeed.agent.understanding.topics import number, tidy_topic
from whyfeed.retrieval.language import Language, stem
from whyfeed.retrieval.words import content_words, words


@dataclass(frozen=True, slots=True)
class Context:
    """The state of the conversation when a message arrives.

    `shown`: ids of the last list in order; `titles`: their titles; `focus`: the post mentioned last; `language`: that
    of the previous turn.
    """

    shown: tuple[str, ...] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    focus: str | None = None
    language: Language = "en"


@dataclass(frozen=True, slots=True)
class References:
    """The posts that a text refers to.

    `spoken`: it contains a reference, resolved or not. `exact`: it refers by place or title, not only by "that".
    `rest`: the remaining text.
    """

    posts: tuple[str, ...] = ()
    spoken: bool = False
    rest: str = ""
    exact: bool = False

    @property
    def only(self) -> bool:
        """Whether the text is a reference and nothing else."""
        return self.spoken and not self.rest


_THING = (
    r"(?:one|post|article|item|result|recommendation|suggestion|pick|entry|link|video|card|story|thread|question|"
    r"choice)"
)
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
# Before these words an ordinal is part of a name or a time: the second world war, the last supper, last week.
_ALONE = (
    r"(?! (?:world|war|aid|class|lady|amendment|law|party|wave|supper|call|mile|principles?|week|night|month|year|time|"
    r"hand|century|edition|generation|order|degree|person|language|half|quarter|minute|place|thing|chance|stage|day|"
    r"days|summer|winter|season|name|date|fermentation|temple|empire|republic|dynasty)\b)"
)
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
        (
            rf"\b(?:the )?(second|third|fourth|next)[- ](?:to[- ])?last\b(?: {_THING}\b)?|\b(?:the )?(penultimate)"
            r"\b",
            _from_end,
        ),
        (rf"倒数第{_ZN}{_M}?{_ZH_THING}", _from_end),
        (rf"\b(?:the |your |my )?({'|'.join(_ORDINALS)}|\d{{1,2}}(?:st|nd|rd|th))\b(?: {_THING}\b|{_ALONE})", _ordinal),
        (
            rf"\b(?:number|no\.?|nr\.?|items?|posts?|results?|options?|picks?|recommendations?) ?#?{_N}\b|"
            rf"(?<!\w)#{_N}\b",
            lambda m, s: _numbered(m, s),
        ),
        (rf"第{_ZN}(?![次章届代类种])(?:{_M}|个)?{_ZH_THING}", _ordinal),
        (rf"(?<!\d){_ZN}号{_ZH_THING}(?!线)", _ordinal),
        (
            rf"\b(?:the |your |my )?(?:very )?(?:last|final|bottom)\b(?: {_THING}\b|{_ALONE})|最后(?:面)?(?:的)?(?:那|"
            rf"这)?一?{_M}{_ZH_THING}|末尾那?{_M}",
            lambda _, s: s[-1:],
        ),
        (rf"\b(?:the )?top {_THING}\b|(?:头一|首|最上面的?那?){_M}{_ZH_THING}", lambda _, s: s[:1]),
        (
            rf"\b(?:these|those|the) two\b(?: {_THING}s?\b)?|\bboth\b(?: of (?:them|these|those))?|\bthe "
            rf"pair\b|[这那](?:两{_M}?|俩){_ZH_THING}|两{_M}(?!月)|两者|二者",
            _pair,
        ),
    )
)
_GROUP = re.compile(
    rf"\b(?:all|any|each|none)(?: of)? (?:them|these|those|the (?:{_THING}s))\b|\bthem(?: all)?\b|"
    rf"\b(?:these|those)\b(?: {_THING}s?\b)?|它们|[这那](?:几{_M}|些){_ZH_THING}|全部",
    re.IGNORECASE,
)
_DEICTIC = re.compile(
    r"\b(?:this|that)\b(?! (?:week|month|year|morning|evening|afternoon|night|time|way|much|many|"
    rf"chat|conversation|session))(?:(?: same| very)? {_THING}\b)?(?: here\b)?|\bit\b|刚才(?:那|这)"
    rf"?一?{_M}?(?:{_ZH_THING})|(?:[这那该此]一?{_M}){_ZH_THING}|[这那](?:样|种|类)的?|\b(?:in )?(?:that|"
    r"this|the same) (?:spirit|vein|style)\b|^(?:类似|差不多|同类|相近)$"
    rf"|[这那该](?:帖子|文章|视频)|[它这](?!些|里|么|周|次|个月|几|两|俩|星期|边|方面)",
    re.IGNORECASE,
)
_BARE = re.compile(r"(?<![\w.#])(\d{1,2})(?![\w%]|\.\d)")
_BARE_ZH = re.compile(r"^\s*([一二三四五六七八九十])\s*$")
_TITLED = re.compile(
    rf"\b(?:the|that|this) (?:other )?{_THING} (?:about|on|with|regarding|from|by|mentioning|called|"
    r"titled|where|that (?:mentions|talks about|is about)) (?P<about>.+)$"
    rf"|\b(?:the|that) (?P<named>(?!first|second|third|last|next|same|other|whole)[^,.;?!]{{2,60}}?) {_THING}\b"
    rf"|(?:讲|关于|说到|说|谈到?|聊|写|介绍|提到|有关)(?P<zh>[^，。的]{{1,30}})的?(?:那|这)一?{_M}{_ZH_THING}"
    rf"|(?P<zhname>[^，。这那第把]{{1,20}}?)(?:的)?(?:那|这)一?{_M}{_ZH_THING}",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"\b(?:and|or|the|one|ones|with|to|vs|versus|please|of|again|anymore|any more|from (?:my|the)"
    r" list|off (?:my|the) list|for me|too|posts?|items?)\b"
    r"|还是|或者?|[和与跟及还有的了吧呢啊吗都也请]|[^\w]+",
    re.IGNORECASE,
)


def _numbered(match: re.Match[str], shown: Sequence[str]) -> Sequence[str]:
    place = number(match[1] or match[2])
    return shown[place - 1 : place] if place else ()


def find_references(
    text: str, context: Context, by_title: Callable[[str, Context], str | None] | None = None
) -> References:
    """The shown posts that a text refers to: "the second one", "#2", 最后一篇, "that", "the one about yeast".

    Ordinals, "number two" and "#2" count anywhere; bare numbers only when the whole text is numbers ("1 and 3"); "that"
    and "it" only without any of those. `by_title` finds the post whose title is meant; it returns None when no title
    fits and "" when the words name nothing. A place beyond the end of the list is a reference (`spoken`) without posts.
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
        if post != "":
            found.extend([post] if post else [])
            rest, spoken = f"{rest[: match.start()]} {rest[match.end() :]}", True
    exact = spoken
    if _GROUP.search(rest):
        found.extend(() if exact else context.shown)
        rest, spoken = _GROUP.sub(" ", rest), True
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
    """The posts at the bare numbers in a text; for sentences that are known to be about posts (compare, why)."""
    places = [int(word) for word in _BARE.findall(text)]
    posts = [context.shown[place - 1] for place in places if 0 < place <= len(context.shown)]
    return tuple(dict.fromkeys(posts))


def title_by_words(topic: str, context: Context) -> str | None:
    """The shown post whose title has most of the topic's words; None when no title has any, or on a tie."""
    spoken = {stem(word) for word in content_words(topic) or words(topic)}
    counts = {
        post: len(spoken & {stem(word) for word in words(context.titles.get(post, ""))}) for post in context.shown
    }
    best = max(counts.values(), default=0)
    winners = [post for post, count in counts.items() if count == best]
    return winners[0] if best and len(winners) == 1 else None
