"""What stands in a table has words in both languages, wherever a reader meets it."""

from __future__ import annotations

import numpy as np
import pytest

from whyfeed.agent.phrases import say, signal_word, source_word
from whyfeed.agent.recommend.filters import FILTERS
from whyfeed.agent.recommend.snapshot import Snapshot
from whyfeed.agent.request import Language
from whyfeed.retrieval.community.signals import SIGNALS, TABLE
from whyfeed.retrieval.community.sources import SOURCES, SourceContext

LATER = ("duplicate", "author", "outranked")  # what is taken out when the list is chosen


@pytest.fixture
def sources(view: Snapshot) -> list[str]:
    nothing = np.zeros(len(view.community), dtype=np.float32)
    given = SourceContext(view.store, view.community, view.topics, nothing)
    return [make(given).name for make in SOURCES]


def is_word(word: str, name: str, language: Language) -> bool:
    return bool(word.strip()) and word != name and (language == "en") == word.isascii()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_signal_and_every_source_has_words(language: Language, sources: list[str]) -> None:
    signals = {name: signal_word(name, language) for name in SIGNALS}
    brought = {name: source_word(name, language) for name in (*sources, "query")}
    for words in (signals, brought):
        assert [name for name, word in words.items() if not is_word(word, name, language)] == []
    assert len(set(signals.values())) == len(signals)
    assert signal_word("no such signal", language) == "no such signal"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_removal_has_words(language: Language) -> None:
    values = {"rank": 1, "count": 2, "gap": "0.1", "topic": "x"}
    for name in (*(each.name for each in FILTERS), *LATER):
        assert say(f"why_not.{name}", language, **values).strip(), name
    for change in {each.change for each in FILTERS}:
        assert say(f"change.{change}", language).strip(), change


def test_no_name_stands_twice(sources: list[str]) -> None:
    for names in ([each.name for each in TABLE], [each.name for each in FILTERS], sources):
        assert len(set(names)) == len(names)
    assert sorted(SIGNALS) == sorted(each.name for each in TABLE)
