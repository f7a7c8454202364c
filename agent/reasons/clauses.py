"""The clause of a reason, its half about the post: "this post asks why stouts foam over ice cream".

A clause does not depend on the user. It is written once per post and language, checked once against the post, and
stored; the use of the language model grows with the posts that are shown, not with the users. When two tries fail their
checks, an extract is used: the post's best sentence, quoted.
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

KIND = "clause"  # the kind under which clauses are stored
READ = 800  # characters of a text that the writer reads: 200 tokens, 3 s on two cores
KEY, LESS = 260, 200  # characters of the key sentences, and of the text's start, where the writer gets less
TOKENS = {"en": 44, "zh": 52}  # 20 words, 30 characters, and room to detect a clause that is too long
QUOTE = {"en": 140, "zh": 70}  # characters of an extract
Span = tuple[str, int, int]  # field of the post ("title" or "text"), start, end


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause about a post, without a full stop. `spans` are the places in the post that support it."""

    post: str
    language: str
    text: str
    source: Literal["llm", "extract"]
    spans: tuple[Span, ...]


class Shelf(Protocol):
    """Where clauses are stored; `retrieval.store.store.Store` implements it."""

    def kept(self, kind: str, key: str) -> dict[str, Any] | None:
        """The document stored under that key, None when there is none."""
        ...

    def keep(self, kind: str, key: str, document: dict[str, Any]) -> None:
        """Store a document under a key; it replaces an earlier one."""
        ...


class ClauseBook:
    """All clauses of a home: stored ones are returned at once, others are written, checked and stored.

    `writer` is called at each use, because a model may become available later. `embedder` must be cross-lingual for
    clauses in another language than the post's: without it these cannot be checked, and become extracts. Safe to use
    from several threads.
    """

    def __init__(self, shelf: Shelf, writer: Callable[[], Engine | None], embedder: Embedder | None = None) -> None:
        self._shelf = shelf
        self._writer = writer
        self._embedder = embedder

    def version(self, language: str) -> str:
        """The version of the prompt for clauses in this language."""
        return prompts.load("clause", language).version

    def writer_name(self) -> str | None:
        """The model that would write; None when there is none."""
        engine = self._writer()
        return None if engine is None else engine.name

    def ready(self, post: Post, language: str) -> Clause | None:
        """The stored clause, if any. Never writes, and never waits for a model."""
        document = self._shelf.kept(KIND, self._key(post, language))
        return None if document is None else _from_document(post, language, document)

    def current(self, post: Post, language: str) -> Clause | None:
        """The stored clause, unless it was made by another writer than the current one."""
        document = self._shelf.kept(KIND, self._key(post, language))
        if document is None or ((writer := self.writer_name()) is not None and document["by"] != writer):
            return None
        return _from_document(post, language, document)

    def write(self, post: Post, language: str, cancel: threading.Event | None = None) -> Clause:
        """The stored clause if this writer made it, else a new one.

        Without a writer, or when it fails or is cancelled, the result is an extract that is not stored, so that a later
        call can try again. When the writer's text fails its checks twice, the extract is stored.
        """
        if (kept := self.current(post, language)) is not None:
            return kept
        engine = self._writer()
        # A post without a text: the card already shows its title, and there is nothing else to say.
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
        """The post's best sentence, quoted; its title when it has no text."""
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
        """A checked clause; the extract when all tries fail; None when cancelled."""
        prompt = prompts.load("clause", language)
        topic = post.tags[0].replace("-", " ") if post.tags else post.community or "?"
        terms = _terms_of(post) if language == "zh" else []
        key = _key_sentences(post)
        foreign = across(OPENERS[language], post)
        if foreign:
            # A small writer cannot summarise and translate at once: it gets only the most important part, first the
            # title if that states a whole question.
            texts = ["", key] if is_whole_question(post.title) else [key, ""]
            texts.append(shorten(plain(post.text), LESS))
        else:
            texts = [shorten(plain(post.text), READ), key]
        fault, sound = Fault(""), dict[str, str]()  # input -> output, for outputs that passed the checks
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
            # Errors of a translating writer vary with its input: outputs for two inputs must agree.
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
    """English terms with their Chinese names, for the prompt: a small writer does not know the terms of every field."""
    terms: dict[str, str] = json.loads(Path(__file__).with_name("terms.json").read_text(encoding="utf-8"))
    return terms


def _terms_of(post: Post) -> list[tuple[str, str]]:
    """The terms in the title, longer ones first. Not those of the text alone: the writer would force them in."""
    spoken = f" {' '.join(words(post.title))} "
    found = []
    for term, meaning in sorted(_terms().items(), key=lambda item: -len(item[0])):
        for form in (term, term + "s", term[:-1] + "ies"):
            if f" {form} " in spoken:
                found.append((form, meaning))
                spoken = spoken.replace(f" {form} ", "  ")
    return found[:8]


def _ranked_sentences(post: Post) -> tuple[Span, ...]:
    """Sentences of the text, first those that share most words with title and tags; earlier ones first on a tie."""
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
    """The two most important sentences of the text, in their order, as the writer may see them."""
    chosen = sorted(_ranked_sentences(post)[:2])
    return shorten(" ".join(plain(post.text[start:end]) for _, start, end in chosen), KEY)


def _from_document(post: Post, language: str, document: dict[str, Any]) -> Clause:
    spans = tuple((str(field), int(start), int(end)) for field, start, end in document["spans"])
    return Clause(post.id, language, document["text"], document["source"], spans)
