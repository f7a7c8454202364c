"""Tokenisation into words, English and Chinese, for the full-text index and for topics."""

from __future__ import annotations

import re

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_HAN_RUN = re.compile(f"{HAN.pattern}+")
_WORD = re.compile(r"[^\W_]+", re.UNICODE)

STOPWORDS = frozenset(
    """a about above after again against all also am an and any are as at be because been before being below between
    both but by can cannot could did do does doing don down during each else etc ever every few for from further get
    gets give got had has have having he her here hers him his how however i if in into is isn it its itself just know
    let like made make many may me might more most much must my need no nor not now of off on once one only or other
    our ours out over own please post posts really same say see she should since so some something somehow still
    such than that the their them then there these they thing things this those through to too two under until up
    upon us use used using very was way we well were what when where whether which while who whom why will with
    within without would yes yet you your yours
    的 了 和 是 在 我 有 也 不 就 都 而 及 与 或 一个 没有 我们 你们 他们 这 那 这个 那个 吗 呢 吧 啊
    什么 怎么 为什么 哪些 可以 关于 讲 有关
    """.split()
)


def segment(text: str) -> str:
    """The text with spaces between its Chinese words, for SQLite's FTS5.

    FTS5's tokenisers treat a Chinese sentence as one word, and its trigram tokeniser cannot find words of two
    characters. rjieba segments both the indexed texts and the queries, so that they match.
    """
    if not HAN.search(text):
        return text
    import rjieba

    # Search mode returns long words and the short words inside them, so a query for either finds the post.
    return _HAN_RUN.sub(lambda run: " " + " ".join(rjieba.cut_for_search(run[0], True)) + " ", text)


def words(text: str) -> list[str]:
    """Lower-case words in order, Chinese segmented, with stop words left in."""
    return [word.lower() for word in _WORD.findall(segment(text))]


def content_words(text: str) -> list[str]:
    """Words that carry meaning: no stop words, no single Latin letters, no bare numbers."""
    return [
        word
        for word in words(text)
        if word not in STOPWORDS and not word.isdigit() and (len(word) > 1 or not word.isascii())
    ]


def match_query(text: str, limit: int = 32) -> str:
    """An FTS5 query that matches any content word of the text; empty when there is none."""
    seen = dict.fromkeys(content_words(text) or [word for word in words(text) if not word.isascii() or len(word) > 1])
    return " OR ".join(f'"{word}"' for word in list(seen)[:limit])
