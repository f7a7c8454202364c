"""What the desk suggests: replies whose sentences are cited, a hand-over when nothing fits, posts to send along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from whyfeed.agent.answer import Item
from whyfeed.agent.trace import Trace

CitationType = Literal["case", "reply", "article", "knowledge", "conversation"]
Source = Literal["saved", "case", "article", "draft", "question"]


@dataclass(frozen=True, slots=True)
class Citation:
    """The evidence for a sentence.

    `id` is "CONVERSATION/TURN" of a case, the id of a saved reply or an article, or the number of a turn (knowledge,
    conversation). `quote` is the part that supports the sentence.
    """

    type: CitationType
    id: str
    quote: str = ""

    def to_json(self) -> dict[str, Any]:
        """As in the contract of `reply --json`."""
        document = {"type": self.type, "id": self.id}
        return {**document, "quote": self.quote} if self.quote else document


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of a suggestion. Only courtesy and questions need no citation."""

    text: str
    kind: Literal["courtesy", "question", "fact", "promise"]
    citations: tuple[Citation, ...] = ()


@dataclass(frozen=True, slots=True)
class ReplySuggestion:
    """One reply that an operator can send. `missing` names the placeholders that could not be filled.

    `id`, as in ledger events: of the saved reply, of the case ("CONVERSATION/TURN"), or "draft-…".
    """

    id: str
    text: str
    source: Source
    sentences: tuple[Sentence, ...]
    confidence: float
    missing: tuple[str, ...] = ()
    language: str = "en"

    @property
    def citations(self) -> tuple[Citation, ...]:
        """Of all sentences, once each."""
        return tuple(dict.fromkeys(citation for sentence in self.sentences for citation in sentence.citations))

    def to_json(self) -> dict[str, Any]:
        """As in the contract of `reply --json`."""
        return {
            "text": self.text,
            "citations": [citation.to_json() for citation in self.citations],
            "confidence": round(self.confidence, 4),
            "missing": list(self.missing),
        }


@dataclass(frozen=True, slots=True)
class Handover:
    """A proposal to pass the conversation on: why, and a summary for whoever takes it. Both are masked."""

    reason: str
    summary: str

    def to_json(self) -> dict[str, Any]:
        """As in the contract of `reply --json`."""
        return {"reason": self.reason, "summary": self.summary}


@dataclass(frozen=True, slots=True)
class Proposal:
    """An action that the desk proposes; it is done only if an operator approves it, as it is or changed."""

    name: str  # refund, replace, close, hand_over
    arguments: Mapping[str, Any]
    why: str
    citations: tuple[Citation, ...] = ()


@dataclass(frozen=True, slots=True)
class Suggestions:
    """All suggestions for a conversation, with the trace of how they were made."""

    conversation: str
    suggestions: tuple[ReplySuggestion, ...]
    handover: Handover | None
    posts: Sequence[Item]
    proposals: tuple[Proposal, ...] = ()
    drafting: bool = False  # a draft is being written and will come
    trace: Trace = field(default_factory=Trace)

    def to_json(self) -> dict[str, Any]:
        """The document of `reply --json`."""
        return {
            "suggestions": [suggestion.to_json() for suggestion in self.suggestions],
            "handover": None if self.handover is None else self.handover.to_json(),
            "posts": [item.to_json() for item in self.posts],
        }
