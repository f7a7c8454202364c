"""Words of a text in English and Chinese: what is searched is cut the same way as what is found."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from whyfeed.retrieval.words import STOPWORDS, content_words, match_query, segment, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Keel, mast & rudder!", ["keel", "mast", "rudder"]),
        ("snake_case and-dashes", ["snake", "case", "and", "dashes"]),
        ("Größe CAFÉ naïve", ["größe", "café", "naïve"]),
        ("C++ 17 x86", ["c", "17", "x86"]),
        ("Привет, мир", ["привет", "мир"]),
        ("", []),
        ("… — ???", []),
    ],
)
def test_words_are_lower_case_and_without_punctuation(text: str, found: list[str]) -> None:
    assert words(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("番茄什么时候浇水", {"番茄", "浇水"}),
        ("量子纠错", {"量子", "纠错"}),
        ("老座钟走时不准", {"座钟", "不准"}),
        ("用Python写爬虫", {"python", "爬虫"}),
        ("喜欢keel和钟表", {"喜欢", "keel", "钟表"}),
    ],
)
def test_chinese_is_cut_into_words(text: str, found: set[str]) -> None:
    assert found <= set(words(text))


def test_a_long_word_is_cut_into_the_short_ones_inside_it_too() -> None:
    assert {"中华", "人民", "共和国", "中华人民共和国"} <= set(words("中华人民共和国"))


def test_text_without_chinese_is_left_as_it_is() -> None:
    for text in ("", "Keel and mast", "Größe", "カタカナ", "한국어"):
        assert segment(text) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What should I read about the keel?", ["read", "keel"]),
        ("关于钟表的文章有哪些", ["钟表", "文章"]),
        ("the of and", []),
        ("2024", []),
        ("a b c", []),
        ("园", ["园"]),
    ],
)
def test_content_words_leave_out_what_carries_no_meaning(text: str, found: list[str]) -> None:
    assert [word for word in content_words(text) if word != "有"] == found


def test_stop_words_are_words_as_the_text_is_cut() -> None:
    assert all(word == word.lower() and " " not in word for word in STOPWORDS)
    assert {"the", "的", "什么"} <= STOPWORDS


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("keel and mast, keel", '"keel" OR "mast"'),
        ('"keel" OR NOT title:*', '"keel" OR "title"'),
        ("2024", '"2024"'),
        ("the", '"the"'),
        ("x", ""),
        ("", ""),
        ("?!", ""),
    ],
)
def test_a_query_asks_for_any_content_word_once(text: str, query: str) -> None:
    assert match_query(text) == query


def test_a_query_has_a_limit() -> None:
    assert match_query(" ".join(f"word{n}x" for n in range(1000)), limit=5).count("OR") == 4


@given(st.text(max_size=200))
@example("\u0000\ud800")
@example("園藝\U00020000 ½ ² \u0301")
def test_any_text_has_words_and_a_query_that_sqlite_reads(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    found = words(text)
    assert all(word and word == word.lower() for word in found)
    assert set(content_words(text)) <= set(found)
    assert words(" ".join(found)) is not None
    query = match_query(text)
    db = sqlite3.connect(":memory:")
    db.execute("CREATE VIRTUAL TABLE search USING fts5 (text, tokenize = 'porter unicode61')")
    db.execute("INSERT INTO search VALUES (?)", [segment(text)])
    if query:
        db.execute("SELECT rowid FROM search WHERE search MATCH ?", [query]).fetchall()
    db.close()


@given(st.text("番茄浇水园艺土壤钟表机械保养量子纠错玫瑰修剪 abcx", min_size=1, max_size=30))
def test_a_text_is_found_by_its_own_words(text: str) -> None:
    query = match_query(text)
    db = sqlite3.connect(":memory:")
    db.execute("CREATE VIRTUAL TABLE search USING fts5 (text, tokenize = 'porter unicode61')")
    db.execute("INSERT INTO search VALUES (?)", [segment(text)])
    if query:
        assert db.execute("SELECT rowid FROM search WHERE search MATCH ?", [query]).fetchall() == [(1,)]
    db.close()
