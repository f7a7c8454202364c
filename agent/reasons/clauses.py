"""The half of a reason that is about the post: "this post asks why stouts foam over ice cream".

It does not depend on the reader, so it is written once a post and language, checked once against
the post, and kept: a million readers cost no more of the language model than the posts they read.
What the checks refuse twice becomes an extract: the post's own best sentence, quoted.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from whyfeed import prompts
from whyfeed.agent.llm.engine import ChatRequest
from whyfeed.agent.phrases import nested, noun, quoted, say
from whyfeed.agent.reasons.checks import (
    OPENERS,
    Fault,
    across,
    agree,
    asks,
    find_fault,
    is_whole_question,
    plain,
    sentences,
    supporting_spans,
    tidy,
)
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.errors import ModelError
from whyfeed.retrieval.formula import readable
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.words import content_words, words

if TYPE_CHECKING:
    from whyfeed.agent.llm.engine import Engine

KIND = "clause"  # under which clauses are kept
READ = 800  # characters of a text that the writer reads: 200 tokens, 3 s on two cores
KEY, LESS = 260, 200  # of the sentences that matter most, and of the start of the text, when it reads only these
TOKENS = {"en": 44, "zh": 52}  # 20 words, 30 characters, and room to see that it is too long
QUOTE = {"en": 140, "zh": 70}  # characters of an extract
Span = tuple[str, int, int]  # field of the post ("title" or "text"), start, end


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause about a post, without a full stop. `spans` are the places of the post that bear it out."""

    post: str
    language: str
    text: str
    source: Literal["llm", "extract"]
    spans: tuple[Span, ...]


class Shelf(Protocol):
    """Where clauses are kept; `retrieval.store.store.Store` is one."""

    def kept(self, kind: str, key: str) -> dict[str, Any] | None:
        """What was kept under that key."""
        ...

    def keep(self, kind: str, key: str, document: dict[str, Any]) -> None:
        """Keep a document under a key, in place of what was there."""
        ...


class ClauseBook:
    """Every clause of a home: kept ones at once, others written, checked and kept.

    `writer` is asked each time, because a model may be there only later. `embedder` must be
    cross-lingual for clauses in another language than the post's: without it those cannot be
    checked, and become extracts. Safe to use from several threads.
    """

    def __init__(self, shelf: Shelf, writer: Callable[[], Engine | None], embedder: Embedder | None = None) -> None:
        self._shelf = shelf
        self._writer = writer
        self._embedder = embedder

    def version(self, language: str) -> str:
        """The prompt that clauses in this language are written with."""
        return prompts.load("clause", language).version

    def writer_name(self) -> str | None:
        """The model that would write, None while there is none."""
        engine = self._writer()
        return None if engine is None else engine.name

    def ready(self, post: Post, language: str) -> Clause | None:
        """The clause that is kept, if any. Never writes, and never waits for a model."""
        document = self._shelf.kept(KIND, self._key(post, language))
        return None if document is None else _from_document(post, language, document)

    def current(self, post: Post, language: str) -> Clause | None:
        """The clause that is kept, unless the writer of now is another than the one that made it."""
        document = self._shelf.kept(KIND, self._key(post, language))
        if document is None or ((writer := self.writer_name()) is not None and document["by"] != writer):
            return None
        return _from_document(post, language, document)

    def write(self, post: Post, language: str, cancel: threading.Event | None = None) -> Clause:
        """The clause that this writer made and that is kept, else a new one.

        Without a writer, or when it fails or is cancelled, this is an extract that is not kept, so
        that a later call has its chance; when the writer's words fail their checks twice, the
        extract is kept.
        """
        if (kept := self.current(post, language)) is not None:
            return kept
        engine = self._writer()
        # With nothing but a title there is nothing to tell that the card does not show already.
        if engine is None or not plain(post.text):
            return self.extract(post, language)
        try:
            clause = self._write(engine, post, language, cancel)
        except ModelError:
            clause = None
        if clause is None:
            return self.extract(post, language)
        document = {"text": clause.text, "source": clause.source, "spans": clause.spans, "by": engine.name}
        self._shelf.keep(KIND, self._key(post, language), document)
        return clause

    def extract(self, post: Post, language: str) -> Clause:
        """The post's own best sentence, quoted; its title when it has no text."""
        called = noun(post.kind, language)
        found = next(iter(_ranked_sentences(post)), None)
        if found is None and not post.title.strip():
            return Clause(post.id, language, say("clause.none", language, noun=called), "extract", ())
        field, start, end = found or ("title", 0, len(post.title))
        sentence = readable(" ".join(post.words_of(field)[start:end].split()))
        quote = shorten(sentence, QUOTE.get(language, QUOTE["en"]))
        question = nested(quote, language).rstrip("”\"')").endswith(("?", "？"))
        key = "clause.title" if field == "title" else "clause.asks" if question else "clause.says"
        text = say(key, language, noun=called, quote=quoted(quote, language))
        return Clause(post.id, language, text, "extract", ((field, start, end),))

    # ---- inside ----

    def _key(self, post: Post, language: str) -> str:
        digest = hashlib.sha256("\0".join((post.kind, post.title, post.text, *post.tags)).encode()).hexdigest()[:16]
        return f"{post.id}|{digest}|{self.version(language)}"

    def _write(self, engine: Engine, post: Post, language: str, cancel: threading.Event | None) -> Clause | None:
        """A checked clause, the extract when all tries fail, None when cancelled."""
        prompt = prompts.load("clause", language)
        topic = post.tags[0].replace("-", " ") if post.tags else post.community or "?"
        terms = _terms_of(post) if language == "zh" else []
        key = _key_sentences(post)
        foreign = across(OPENERS[language], post)
        if foreign:
            # To summarise and to translate at once is more than a small writer can: it gets what matters only,
            # first the title where that asks a whole question.
            texts = ["", key] if is_whole_question(post.title) else [key, ""]
            texts.append(shorten(plain(post.text), LESS))
        else:
            texts = [shorten(plain(post.text), READ), key]
        fault, sound = Fault(""), dict[str, str]()  # what was read -> what was written, where the checks let it through
        for text in texts:
            if text in sound:
                continue
            messages = prompt.render(
                topic=plain(topic), title=plain(post.title), text=text, asks=asks(post), terms=terms,
                fault=fault.code, words=", ".join(fault.words[:5]),
            )  # fmt: skip
            done = engine.complete(ChatRequest(messages, TOKENS[language], stop=("\n",), cancel=cancel))
            if cancel is not None and cancel.is_set():
                return None
            said = done.text
            for term, meaning in terms:
                said = re.sub(rf" ?(?<![A-Za-z]){re.escape(term)}(?![A-Za-z]) ?", meaning, said, flags=re.IGNORECASE)
            attempt = tidy(said, post, language)
            fault = find_fault(attempt, post, language, done.finish_reason == "stop", prompt.source, self._embedder)
            lost = tuple(f"{term}＝{meaning}" for term, meaning in terms if meaning not in attempt)
            if not fault and lost and 2 * len(lost) >= len(terms):
                fault = Fault("terms", lost)
            if fault:
                continue
            # What a translator makes up differs with what it has read: two readings must come to the same.
            twin = next((other for other in sound.values() if agree(attempt, other, self._embedder)), None)
            sound[text] = attempt
            if foreign and twin is None:
                continue
            chosen = twin or attempt
            spans = supporting_spans(chosen, post, self._embedder)
            opener = OPENERS[language].rstrip()
            return Clause(post.id, language, noun(post.kind, language) + chosen[len(opener) :], "llm", spans)
        return self.extract(post, language)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, cut at a word and ended with an ellipsis."""
    if len(text) <= limit:
        return text
    cut = text[: limit - 1]
    space = cut.rfind(" ")
    if space > limit // 2:
        cut = cut[:space]
    return cut.rstrip(" ,;:.…-–—(，；：。、（") + "…"


@cache
def _terms() -> dict[str, str]:
    """English terms with their Chinese names: a small writer does not know the words of every field."""
    terms: dict[str, str] = json.loads(Path(__file__).with_name("terms.json").read_text(encoding="utf-8"))
    return terms


def _terms_of(post: Post) -> list[tuple[str, str]]:
    """The terms in the title, longer ones first; one that only the text has would be forced upon the clause."""
    spoken = f" {' '.join(words(post.title))} "
    found = []
    for term, meaning in sorted(_terms().items(), key=lambda item: -len(item[0])):
        for form in (term, term + "s", term[:-1] + "ies"):
            if f" {form} " in spoken:
                found.append((form, meaning))
                spoken = spoken.replace(f" {form} ", "  ")
    return found[:8]


def _ranked_sentences(post: Post) -> tuple[Span, ...]:
    """Sentences of the text, first those that say most of what title and tags announce; early ones before late."""
    return _ranked(post.title, post.text, post.tags)


@lru_cache(maxsize=4096)
def _ranked(title: str, text: str, tags: tuple[str, ...]) -> tuple[Span, ...]:
    announced = set(content_words(f"{title} {' '.join(tags)}"))
    ranked: list[tuple[float, Span]] = []
    for place, (start, end) in enumerate(sentences(text)[:30]):
        sentence = text[start:end]
        if not (found := set(content_words(sentence))):
            continue
        score = len(found & announced) + sentence.endswith(("?", "？")) - 0.15 * place
        score -= 2.0 * (len(found) < 4) + 0.5 * (len(sentence) > 180)
        score -= 3.0 * (plain(sentence) != " ".join(sentence.split()) or "\\" in sentence)
        ranked.append((-score, ("text", start, end)))
    return tuple(span for _, span in sorted(ranked))


def _key_sentences(post: Post) -> str:
    """The two sentences of the text that matter most, in their order, as the writer may see them."""
    chosen = sorted(_ranked_sentences(post)[:2])
    return shorten(" ".join(plain(post.text[start:end]) for _, start, end in chosen), KEY)


def _from_document(post: Post, language: str, document: dict[str, Any]) -> Clause:
    spans = tuple((str(field), int(start), int(end)) for field, start, end in document["spans"])
    return Clause(post.id, language, document["text"], document["source"], spans)
