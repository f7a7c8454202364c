"""Language detection, sentences and stems; and that no text, however odd, takes long to read."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyfeed.agent.desk import grounding, placeholders, proposals, specifics, wishes
from whyfeed.agent.reasons import checks
from whyfeed.retrieval.desk.situation import features
from whyfeed.retrieval.desk.types import DeskConversation, DeskTurn, language_of
from whyfeed.retrieval.formula import readable
from whyfeed.retrieval.language import detect_language, sentences, stem, stems
from whyfeed.retrieval.post import clean_text

MIXED = st.text(st.sampled_from("ab AB.!?。！？…\n\t \"')]”」4.5e.g.Dr的好"), max_size=80)


def pieces(text: str, *, wrapped: bool = False) -> list[str]:
    return [text[start:end] for start, end in sentences(text, wrapped=wrapped)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" \n ", []),
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("It is 4.5. See https://a.example/x?z=1. Bye", ["It is 4.5.", "See https://a.example/x?z=1.", "Bye"]),
        ("Dr. Lee and St. Ives, e.g. in the U.S. today.", ["Dr. Lee and St. Ives, e.g. in the U.S. today."]),
        ("As in Eq. (1) and Fig. 2. Then", ["As in Eq. (1) and Fig. 2.", "Then"]),
        ("At 7 p.m. on Friday. At 7 p.m. We go.", ["At 7 p.m. on Friday.", "At 7 p.m.", "We go."]),
        ("No. 5 is free. No. That is not so.", ["No. 5 is free.", "No.", "That is not so."]),
        ("Beer, wine, etc. in cellars. Beer etc. We", ["Beer, wine, etc. in cellars.", "Beer etc.", "We"]),
        ("Wait… Go. Wait… or go. With … in it.", ["Wait…", "Go.", "Wait… or go.", "With … in it."]),
        ("... and then. . . . Next", ["... and then.", ". . . Next"]),
        ('He said "Go." Then (really?) he went.', ['He said "Go."', "Then (really?) he went."]),
        ("I can't. We won't.", ["I can't.", "We won't."]),
        ("好的。请问几点？“是。”评分是4.5分！谢谢", ["好的。", "请问几点？", "“是。”", "评分是4.5分！", "谢谢"]),
        ("a title\nsmall\nLarge", ["a title", "small", "Large"]),
    ],
)
def test_sentences(text: str, found: list[str]) -> None:
    assert pieces(text) == found


def test_lines_that_were_broken_at_a_width_are_one_sentence() -> None:
    assert pieces("I found a ride\nthat is near.\nShall I\n\nBook it", wrapped=True) == [
        "I found a ride\nthat is near.",
        "Shall I",
        "Book it",
    ]


@given(MIXED, st.booleans())
def test_spans_are_in_order_and_hold_everything(text: str, wrapped: bool) -> None:
    found = sentences(text, wrapped=wrapped)
    places = [place for span in found for place in span]
    assert places == sorted(places)
    assert all(start < end for start, end in found)
    assert all(text[start:end] == text[start:end].strip() for start, end in found)
    assert re.sub(r"\s", "", "".join(text[start:end] for start, end in found)) == re.sub(r"\s", "", text)


@given(MIXED)
def test_lines_are_cut_one_by_one(text: str) -> None:
    assert pieces(text) == [piece for line in text.split("\n") for piece in pieces(line)]


@pytest.mark.parametrize(
    "words",
    [
        "cancel cancels cancelled canceled cancelling cancellation",
        "available availability",
        "refund refunds refunded",
        "colour color colours",
        "neighbour neighbors",
        "brewing brews brew",
        "Bayes Bayes's",
        "policy policies",
    ],
)
def test_forms_of_one_word_are_alike(words: str) -> None:
    assert len({stem(word) for word in words.split()}) == 1


@pytest.mark.parametrize("pair", ["hour hor", "four for", "able unable", "credit credible", "new news", "with without"])
def test_different_words_are_not_alike(pair: str) -> None:
    one, other = pair.split()
    assert stem(one) != stem(other)


@pytest.mark.parametrize("word", ["量子纠错", "naïve", "größen", "x" * 1000 + "ing"])
def test_what_is_no_english_word_stays(word: str) -> None:
    assert stem(word) == word


def test_stems_are_those_of_words_that_carry_meaning() -> None:
    assert stems("The cancelled bookings of 2024") == {stem("cancel"), stem("booking")}
    assert "退款" in stems("我要退款")


def test_threads_stem_at_once() -> None:
    words = [f"{letter}{ending}" for letter in "abcdefgh" for ending in ("rowing", "rowed", "rationally", "lousness")]
    alone = [stem.__wrapped__(word) for word in words]
    wrong: list[str] = []

    def work() -> None:
        for _ in range(10):
            wrong.extend(word for word, known in zip(words, alone, strict=True) if stem.__wrapped__(word) != known)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_denied_word_has_the_stem_of_the_affirmed_one_at_the_desk_alone() -> None:
    assert specifics.stems("unavailable") == specifics.stems("available")
    assert stems("unavailable") != stems("available")
    assert specifics.stems("unable") != specifics.stems("able")


@pytest.mark.parametrize(
    ("text", "default", "language"),
    [
        ("something about 量子", "zh", "en"),
        ("推荐一些 error correction 的帖子", "en", "zh"),
        ("42", "zh", "zh"),
        ("ビール", "en", "en"),
        ("你好", "en", "zh"),
    ],
)
def test_the_frame_of_a_sentence_tells_its_language(text: str, default: str, language: str) -> None:
    assert detect_language(text, default) == language  # type: ignore[arg-type]


def test_the_language_of_a_conversation() -> None:
    said = (DeskTurn("customer", "hello"), DeskTurn("customer", "你好，我要退款"), DeskTurn("agent", "Sure"))
    assert language_of(DeskConversation("c", turns=said)) == "zh"
    assert language_of(DeskConversation("c", turns=said, language="en")) == "en"
    assert language_of(DeskConversation("c", turns=())) == "en"


# ---- time ----

LONG = 100_000  # characters
BYE = DeskTurn("customer", "thanks, bye")
UNITS = (
    "A. ", "$", "a ", "(", "<", "\\", "1 ", "@", "'", '"', "，", "的", "not ", "http://", "\n", "+1 ", "A1", " ", "[",
    "{", ". ", "… ", "refund ", "A b",
)  # fmt: skip


def turns(text: str) -> tuple[DeskTurn, ...]:
    return (DeskTurn("agent", "What is your order number?"), DeskTurn("customer", text))


EVERYWHERE: dict[str, Callable[[str], object]] = {
    "sentences": sentences,
    "wrapped": lambda text: sentences(text, wrapped=True),
    "readable": readable,
    "clean_text": clean_text,
}
# Each with the texts that once took it minutes, or might.
AT_THE_DESK: tuple[tuple[str, Callable[[str], object], tuple[str, ...]], ...] = (
    ("specifics", specifics.specifics, ("A. ", "A b", "1 ", "a", "a@")),
    ("promises", grounding.promises, ("1", "A. ")),
    ("classify", grounding.classify, (" ", "1")),
    ("split", lambda text: grounding.split(text, "en"), ("A. ", ". ")),
    ("templated", lambda text: placeholders.templated(text, turns("1 2"), lambda word: 5), ("A. ", "1 ")),
    ("templated for", lambda text: placeholders.templated("At 5 in Rome", turns(text), lambda word: 5), ("1 ", "A. ")),
    ("wish", wishes.Wish.parse, ("a ", "'")),
    ("propose", lambda text: proposals.propose(turns(text), [], "en"), ("refund ", "A. ", "a ")),
    ("said before", lambda text: proposals.propose((DeskTurn("agent", text), BYE), [], "en"), ("a ", "A. ", "，")),
    ("sentences of a post", checks.sentences, ("A. ", "\n")),
    ("features", lambda text: features(turns(text), text), ("a ", "A1")),
)


def seconds(read: Callable[[str], object], text: str) -> float:
    start = time.thread_time()
    read(text)
    return time.thread_time() - start


@pytest.mark.parametrize("name", EVERYWHERE)
def test_no_text_takes_long(name: str) -> None:
    for unit in UNITS:
        assert seconds(EVERYWHERE[name], (unit * LONG)[:LONG]) < 2, repr(unit)


@pytest.mark.parametrize(("name", "read", "units"), AT_THE_DESK, ids=[name for name, *_ in AT_THE_DESK])
def test_no_message_takes_the_desk_long(name: str, read: Callable[[str], object], units: tuple[str, ...]) -> None:
    read("Warm-up: 你好")  # loads what cuts Chinese
    for unit in units:
        assert seconds(read, (unit * LONG)[:LONG]) < 5, repr(unit)
