"""A reply drafted by the writer; only sentences that some evidence supports are kept."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from whyfeed import prompts
from whyfeed.agent.desk.grounding import evidence_of, ground, split
from whyfeed.agent.desk.lookups import facts_of
from whyfeed.agent.desk.specifics import stems
from whyfeed.agent.desk.suggestion import ReplySuggestion, Sentence
from whyfeed.agent.desk.wishes import Wish
from whyfeed.agent.llm.engine import ChatRequest, defuse
from whyfeed.agent.phrases import say
from whyfeed.agent.reasons.checks import plain
from whyfeed.retrieval.desk.store import Case
from whyfeed.retrieval.desk.types import PLACEHOLDER, DeskTurn
from whyfeed.retrieval.post import Post

if TYPE_CHECKING:
    from whyfeed.agent.llm.engine import Engine

TOKENS = 70
TURNS, CASES, SNIPPETS, FACTS = 3, 2, 2, 8  # how many of each are in the prompt
LENGTHS = {"en": (160, 110, 130, 60), "zh": (60, 40, 60, 30)}  # characters of a turn, a case, a snippet, a fact
CONFIDENCE = 0.5  # of a draft all of whose sentences are kept; one that lost sentences has less
_ROLE = {"en": {"customer": "customer: ", "agent": "agent: "}, "zh": {"customer": "顾客：", "agent": "客服："}}
_CLOSING = re.compile(
    r"\banything else\b|\bhow (?:can|may) (?:I|we) (?:help|assist)|还有(?:什么|其他|别的)|有什么可以帮", re.IGNORECASE
)
_LABEL = re.compile(r"^(?:agent|assistant|reply|客服|回复)\s*[:：]\s*", re.IGNORECASE)


class Drafter:
    """Writes drafts. `writer` is asked each time, because a model may be there only later."""

    def __init__(self, writer: Callable[[], Engine | None]) -> None:
        self._writer = writer

    def draft(
        self,
        turns: Sequence[DeskTurn],
        cases: Sequence[Case],
        articles: Sequence[Post],
        language: str,
        wish: str = "",
        cancel: threading.Event | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> ReplySuggestion | None:
        """A draft with its citations; None without a writer or when nothing helpful stays. ModelError when it fails.

        `on_text` is called with the whole unchecked text so far, to show that something is being written;
        only what is returned may be offered.
        """
        engine = self._writer()
        asked = Wish.parse(wish)
        language = _known(asked.language or language)
        if engine is None or not any(turn.role == "customer" and turn.text for turn in turns):
            return None
        messages = asked_of_writer(turns, cases, articles, language, wish)
        text = ""
        for piece in engine.stream(ChatRequest(messages, max_tokens=TOKENS, stop=("\n",), cancel=cancel)):
            text += piece
            if on_text is not None:
                on_text(text)
        return self._checked(text, turns, cases, articles, language)

    def _checked(
        self,
        text: str,
        turns: Sequence[DeskTurn],
        cases: Sequence[Case],
        articles: Sequence[Post],
        language: str,
    ) -> ReplySuggestion | None:
        text = _LABEL.sub("", " ".join(text.split())).strip('"“” ')
        written = split(text, language)
        # The token limit may have cut off the last sentence and so changed its meaning.
        if written and not re.search(r"[.!?。！？…][\"”’』」)）]*$", written[-1]):
            written.pop()
        sentences = ground(" ".join(written), evidence_of(turns, cases, articles, None), turns, language)
        # Another customer's case alone is no evidence: a fact must also be known in this conversation.
        sentences = tuple(
            sentence
            for sentence in sentences
            if sentence.kind == "question"
            or not sentence.citations
            or any(c.type != "case" for c in sentence.citations)
        )
        if not any(_helps(sentence) for sentence in sentences) or PLACEHOLDER.search(text):
            return None
        final = say("join.sentence", language).join(sentence.text for sentence in sentences)
        if any(turn.role == "agent" and turn.text.strip() == final for turn in turns[-4:]):
            return None  # it only repeats what was said
        id = "draft-" + hashlib.sha256(final.encode()).hexdigest()[:12]
        confidence = CONFIDENCE * len(sentences) / max(1, len(written))
        return ReplySuggestion(id, final, "draft", sentences, confidence, (), language)


def asked_of_writer(
    turns: Sequence[DeskTurn], cases: Sequence[Case], articles: Sequence[Post], language: str, wish: str = ""
) -> list[Mapping[str, str]]:
    """The prompt for the next reply, in serving and in training."""
    language = _known(language)
    return prompts.load("reply", language).render(
        conversation=_conversation(turns, language),
        facts=_facts(turns, language),
        articles="\n".join(_snippets(turns, articles, language)),
        replies="\n".join(_shown(case.text, LENGTHS[language][1]) for case in cases[:CASES]),
        wish=_shown(wish, 80),
    )


# ---- inside ----


def _helps(sentence: Sentence) -> bool:
    """Does the sentence help? Courtesy and "is there anything else?" do not."""
    return sentence.kind != "courtesy" and not (sentence.kind == "question" and _CLOSING.search(sentence.text))


def _known(language: str) -> str:
    return "zh" if language.startswith("zh") else "en"


def _shown(text: str, limit: int) -> str:
    """A text for the prompt: one line, without instructions to a model, tags and control tokens."""
    # Tags are removed first: an instruction may begin right behind one.
    text = re.sub(r"<[^<>]{0,40}>", " ", text)
    text = defuse(" ".join(kept for piece in split(text, "") if (kept := plain(piece))))
    text = re.sub(r"[<>]", " ", text)
    return text if len(text) <= limit else text[:limit].rsplit(" ", 1)[0] + "…"


def _conversation(turns: Sequence[DeskTurn], language: str) -> str:
    said = [turn for turn in turns if turn.role in _ROLE[language] and turn.text][-TURNS:]
    return "\n".join(_ROLE[language][turn.role] + _shown(turn.text, LENGTHS[language][0]) for turn in said)


def _facts(turns: Sequence[DeskTurn], language: str) -> str:
    """The facts of the last look-up; those that the customer's last words ask about come first."""
    item = next((turn.item for turn in reversed(turns) if turn.role == "knowledge" and turn.item), None)
    wanted = stems(_asked(turns))
    lines = sorted(facts_of(item or {}), key=lambda line: -len(stems(line) & wanted))[:FACTS]
    return "\n".join(_shown(line, LENGTHS[language][3]) for line in lines)


def _snippets(turns: Sequence[DeskTurn], articles: Sequence[Post], language: str) -> list[str]:
    """Of each article the sentence that shares most words with the customer's last message."""
    wanted = stems(_asked(turns))
    found = []
    for article in articles[:SNIPPETS]:
        pieces = [piece for piece in split(article.text, language) if plain(piece)]
        if pieces:
            best = max(pieces, key=lambda piece: len(stems(piece) & wanted))
            found.append(_shown(best, LENGTHS[language][2]))
    return found


def _asked(turns: Sequence[DeskTurn]) -> str:
    return next((turn.text for turn in reversed(turns) if turn.role == "customer" and turn.text), "")
