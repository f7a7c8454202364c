"""Language detection, sentence splitting and stemming, for English and Chinese."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from whyfeed.retrieval.words import HAN, STOPWORDS, content_words

Language = Literal["en", "zh"]

_KANA_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_LATIN = re.compile(r"[^\W\d_]+", re.ASCII)
_QUOTED = re.compile(r"[\"“「《『].*?[\"”」』》]")
_EN_FRAME = STOPWORDS | frozenset(
    "show find recommend suggest search want love hate stop hide compare forget undo summarise summarize sum explain "
    "tell read fewer follow something anything others hi hello thanks articles videos".split()
)
_ZH_FRAME = re.compile(
    r"推荐|帖子|文章|什么|怎么|关于|有没有|有关|相关|不要|不想|喜欢|讨厌|为啥|为何|总结|概括|比较|对比|忘|隐藏|屏蔽|"
    r"撤销|小组|社区|第[一二三四五六七八九十]|[的吗呢吧我你这那有想看少多别来给找讲和谁哪把对]"
)

# Where a sentence may end. The lookbehind and the possessive quantifiers keep a long run of marks linear.
_END = re.compile(r"(?<![.!?…])[.!?…]++[\"”')\]]*+(?=\s|$)|[。！？]++[”」』）\"]*+|\n\s*+")
_ABBREVIATION = re.compile(  # a single capital covers "U.S." too
    r"(?<![\w'’])(?:[A-Z]|(?i:e\.g|i\.e|vs|approx|incl|ca|dr|eq|fig|mr|mrs|ms|prof|st))\Z"
)
# These end a sentence only before a capital: "at 7 p.m. We", but "at 7 p.m. on Friday", "no. 5", "etc. in".
_PERHAPS = re.compile(r"(?<![\w'’])(?:[a-z]|(?i:etc|no|nr))\Z")
_BEFORE = 10  # characters before a full stop that are checked for an abbreviation
_DOTS = re.compile(r"[ \t.…]*+")
_SPACE = re.compile(r"\s*+")

_LONGEST_WORD = 40  # characters; longer strings are not English words and are not stemmed
_BRITISH = re.compile(r"(?<=[a-z][bdgilmnpv])our")  # colour, favour; not hour, source


def detect_language(text: str, default: Language) -> Language:
    """The language of a text, by its function words where it mixes both languages.

    推荐一些 error correction 的帖子 is zh, "something about 量子" is en. `default` is returned for a text without
    letters of either language. Only the first 300 characters are read.
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


def sentences(text: str, *, wrapped: bool = False) -> list[tuple[int, int]]:
    """(start, end) of every sentence in characters, in order, without surrounding space; linear time.

    A sentence ends at `.`, `!`, `?` or `…` before a space, at `。`, `！` or `？`, and at a line break. It does not end
    inside "4.5", "e.g." or "Dr. Morgan", at a closing quotation mark before a small letter, or in a row of dots.
    With `wrapped` it does not end at a line break before a small letter either, as in e-mails with a fixed line width.
    """
    found: list[tuple[int, int]] = []
    start = _past(_SPACE, text, 0)
    dots = _past(_DOTS, text, start)
    for match in _END.finditer(text, start):
        if match.end() <= dots or _goes_on(text, match, wrapped):
            continue
        end = start + len(text[start : match.end()].rstrip())
        if start < end:
            found.append((start, end))
        start = _past(_SPACE, text, match.end())
        dots = _past(_DOTS, text, start)
    end = start + len(text[start:].rstrip())
    return [*found, (start, end)] if start < end else found


def _past(pattern: re.Pattern[str], text: str, place: int) -> int:
    """The end of the pattern's match at `place`; `place` itself when it does not match."""
    match = pattern.match(text, place)
    return match.end() if match else place


def _goes_on(text: str, match: re.Match[str], wrapped: bool) -> bool:
    """Whether the sentence continues after this punctuation mark or line break."""
    mark = match[0]
    if mark[0] == "\n":
        return wrapped and text[match.end() : match.end() + 1].islower()
    if mark[0] in "。！？":
        return False
    before = text[max(0, match.start() - _BEFORE) : match.start()]
    place = _past(_SPACE, text, match.end())
    following = text[place : place + 1]
    if following.islower() and (mark[0] == "…" or mark[-1] not in ".!?…"):  # "… or so", "what is it?" he asked
        return True
    if mark[0] == "…":  # after a space it marks an omission
        return not before or before[-1].isspace()
    if mark != ".":
        return False
    if _ABBREVIATION.search(before):
        return True
    return (following.islower() or following.isdigit()) and bool(_PERHAPS.search(before))


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """The stem of an English word in lower case: "cancelled", "cancellation" and "cancel" have the same.

    Uses Snowball's English stemmer (Porter2); British "-our" becomes "-or". Words with non-ASCII letters are only
    lower-cased.
    """
    word = word.lower().replace("’", "'")
    if not word.isascii() or len(word) > _LONGEST_WORD:
        return word
    from snowballstemmer.english_stemmer import EnglishStemmer

    # A new stemmer for each call: it keeps the word in its fields and is not safe between threads.
    return _BRITISH.sub("or", EnglishStemmer().stemWord(word))


def stems(text: str) -> frozenset[str]:
    """The stems of the content words of a text; Chinese words are not stemmed."""
    return frozenset(map(stem, content_words(text)))
