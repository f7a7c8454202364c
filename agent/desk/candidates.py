"""What could be sent in one conversation: ranked, filled and grounded, and reduced to a few that differ."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from whyfeed.agent.desk.grounding import classify, evidence_of, ground, is_question, split
from whyfeed.agent.desk.lookups import facts_of
from whyfeed.agent.desk.placeholders import Filled, Placeholders, templated
from whyfeed.agent.desk.ranker import ReplyCandidate, ReplyRanker, Scored, plain
from whyfeed.agent.desk.suggestion import Citation, ReplySuggestion, Sentence
from whyfeed.agent.trace import StageRecord
from whyfeed.retrieval.desk.cases import CaseBook, Neighbour
from whyfeed.retrieval.desk.situation import situation
from whyfeed.retrieval.desk.types import DeskTurn, SavedReply
from whyfeed.retrieval.language import detect_language
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.privacy.vault import CHIP
from whyfeed.retrieval.words import words

FREE = 30  # free replies that are looked at
TRIED = 25  # best replies that are made ready at most to find k
ALIKE = 0.9  # cosine from which two replies say the same
EDITED = 0.75  # likeness of a situation from which on an operator's edit is offered first
QUOTED = 0.4  # likeness of an article's sentence to what was asked, from which on it is offered as it stands
_SAVED, _FREE = 0.01, 0.06  # a share of the best reply's probability below which another is not offered
_MISSING = 1  # placeholders that a free reply may leave open; one with more belongs to another case
_QUANTITY = re.compile(
    r"\bwhen\b|\bhow (?:long|much|many|soon|late|early)\b|什么时候|几[点天时]|多久|多少|多长", re.IGNORECASE
)
_AMOUNT = re.compile(r"\d")
GUESS = 0.03  # a best reply that is less likely is no answer
_SHORT = 6  # words of an answer to an operator's question
FITS_SHORT = 0.35
FITS_FACT = 0.3  # likeness of what is asked to a looked-up fact
FITS = 0.55  # likeness of the best case or article below which nothing that is known answers


@dataclass(frozen=True, slots=True)
class Found:
    """Suggestions, and whether anything known comes near this situation."""

    suggestions: tuple[ReplySuggestion, ...]
    fits: bool


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the desk has learnt from past conversations, and the saved replies by id."""

    book: CaseBook
    ranker: ReplyRanker
    placeholders: Placeholders
    replies: Mapping[str, SavedReply]


@dataclass(frozen=True, slots=True)
class DeskRequest:
    """A masked conversation, what was found for it, and what the operator has typed (`draft`)."""

    turns: Sequence[DeskTurn]
    neighbours: Sequence[Neighbour]
    articles: Sequence[Post]
    language: str
    draft: str


class Candidates:
    """The replies that could be sent in one conversation.

    Saved replies compete with each other, and so do free ones (in an operator's own words). How often either kind
    was sent in like situations decides between them.
    """

    def __init__(self, known: Knowledge, request: DeskRequest) -> None:
        self._book = known.book
        self._ranker = known.ranker
        self._placeholders = known.placeholders
        self._replies = known.replies
        self._turns = request.turns
        self._neighbours = request.neighbours
        self._articles = request.articles
        self._language = request.language
        self._draft = request.draft
        self._cases = {neighbour.case.id: neighbour for neighbour in request.neighbours}

    def ranked(self, without: Collection[str]) -> list[Scored]:
        """Every candidate with its probability, the likeliest first; an operator's edit in a like situation leads."""
        # A refused text is not offered under another id either.
        unwanted = {reply.text for reply in self._replies.values() if reply.id in without}
        saved = [
            ReplyCandidate(reply.id, reply.text)
            for reply in self._replies.values()
            if reply.text not in unwanted and (reply.language or "en") == self._language
        ]
        free: dict[str, ReplyCandidate] = {}
        for neighbour in self._neighbours:
            case = neighbour.case
            own = case.reply not in self._replies and case.id not in without
            if own and len(free) < FREE and self._of_language(case.language, case.text):
                free.setdefault(plain(case.text), ReplyCandidate(case.id, case.text, saved=False))
        share = sum(each.weight for each in self._neighbours if each.case.reply in self._replies)
        if not free or not self._neighbours:
            share = 1.0
        both = [
            replace(each, probability=each.probability * part)
            for candidates, part in ((saved, share), (list(free.values()), 1.0 - share))
            for each in self._ranker.rank(self._book, self._turns, candidates, self._neighbours, self._draft)
        ]
        said: dict[str, list[Scored]] = {}
        for each in both:
            said.setdefault(" ".join(each.candidate.text.split()), []).append(each)
        # The same words under several ids are one reply, as likely as all of them together.
        once = [
            replace(max(same, key=lambda each: each.probability), probability=sum(each.probability for each in same))
            for same in said.values()
        ]
        return sorted(once, key=lambda each: (-self._edit(each), -each.probability, each.candidate.id))

    def choose(self, scored: Sequence[Scored], k: int, record: StageRecord) -> Found:
        """The best k that can be sent and differ: past replies, an article's own words, a question.

        Fewer where no other reply is likely to be sent.
        """
        chosen: list[ReplySuggestion] = []
        spare: list[ReplySuggestion] = []
        best = 0.0  # probability of the likeliest that can be grounded; others do not count
        for each, suggestion in self._ready(scored[:TRIED], record):
            # A saved reply is offered at a lower share than what an operator once said to somebody else.
            if not self._edit(each) and each.probability < best * (_SAVED if each.candidate.saved else _FREE):
                continue
            best = max(best, each.probability)
            if self._says_the_same(suggestion, [*chosen, *spare]):
                record.removed["same"] = record.removed.get("same", 0) + 1
            else:
                (chosen if len(chosen) < k else spare).append(suggestion)
        quoted = self._quoted()
        if quoted is not None:
            first = not chosen or chosen[0].confidence < quoted.confidence
            chosen = [quoted, *chosen] if first else [chosen[0], quoted, *chosen[1:]]
            spare, chosen = [*chosen[k:], *spare], chosen[:k]
        question = next((each for each in spare if _only_asks(each)), None)
        if question is not None and k > 1 and not any(_only_asks(each) for each in chosen):
            chosen[-1] = replace(question, source="question")
        return Found(tuple(chosen), self._fits(chosen))

    # ---- inside ----

    def _fits(self, chosen: Sequence[ReplySuggestion]) -> bool:
        """Whether anything known comes near: a like case or an article, and a reply that is more than a guess."""
        now = situation(self._turns)
        # "41", "yes please": short answers are alike, so the threshold is that of the question before them.
        answers = bool(now.before) and len(words(now.asked)) <= _SHORT and not is_question(now.asked)
        answers = answers or self._looked_up(now.asked)
        likeness = max((each.similarity for each in self._neighbours), default=0.0)
        courteous = bool(now.asked) and all(classify(each) == "courtesy" for each in split(now.asked, self._language))
        near = bool(self._articles) or courteous or likeness >= (FITS_SHORT if answers else FITS)
        return near and (not chosen or chosen[0].confidence >= GUESS)

    def _looked_up(self, asked: str) -> bool:
        """Whether something that was looked up in this conversation is about what is asked: "cost: cheap"."""
        facts = [fact for turn in self._turns if turn.item for fact in facts_of(turn.item)]
        if not facts or not asked:
            return False
        last = (split(asked, self._language) or [asked])[-1]
        return bool((self._book.encode(facts) @ self._book.encode([last])[0]).max() >= FITS_FACT)

    def _of_language(self, language: str, text: str) -> bool:
        return (language or detect_language(text, "en")) == self._language

    def _edit(self, scored: Scored) -> float:
        """Similarity of the situation in which an operator replaced a suggestion by these words; else 0."""
        neighbour = self._cases.get(scored.candidate.id)
        if neighbour is None or not neighbour.case.edited:
            return 0.0
        return neighbour.similarity if neighbour.similarity >= EDITED else 0.0

    def _ready(self, scored: Sequence[Scored], record: StageRecord) -> Iterator[tuple[Scored, ReplySuggestion]]:
        for each in scored:
            suggestion = self._suggestion(each)
            if suggestion is None:
                record.removed["ungrounded"] = record.removed.get("ungrounded", 0) + 1
            else:
                yield each, suggestion

    def _suggestion(self, scored: Scored) -> ReplySuggestion | None:
        """The reply with its placeholders filled and every sentence cited; None when a part of it may not be said."""
        candidate = scored.candidate
        saved = self._replies.get(candidate.id)
        filled: Filled | None
        if saved is not None:
            filled = self._placeholders.fill(saved, self._turns)
            cases = [each.case for each in self._neighbours if each.case.reply == saved.id][:1]
        else:
            filled = templated(own_chips(candidate.text, self._turns), self._turns, self._book.frequency)
            cases = [self._cases[candidate.id].case] if candidate.id in self._cases else []
        if filled is None or (saved is None and len(filled.missing) > _MISSING):
            return None
        evidence = evidence_of(self._turns, cases, self._articles, saved)
        sentences = ground(filled.text, evidence, self._turns, self._language)
        text = " ".join(sentence.text for sentence in sentences)
        if not sentences or len(text) < 0.9 * len(" ".join(filled.text.split())):
            return None
        sentences = tuple(self._with(sentence, filled) for sentence in sentences)
        if any(sentence.kind in ("fact", "promise") and not sentence.citations for sentence in sentences):
            return None
        return ReplySuggestion(
            candidate.id, filled.text, "case" if saved is None else "saved", sentences,
            max(scored.probability, self._edit(scored)), filled.missing, self._language,
        )  # fmt: skip

    @staticmethod
    def _with(sentence: Sentence, filled: Filled) -> Sentence:
        """The citations of values that were filled in, beside those of the sentence."""
        spoken = sentence.text.casefold()
        more = [cite for cite in filled.citations if _value(cite).casefold() in spoken]
        return replace(sentence, citations=tuple(dict.fromkeys([*sentence.citations, *more])))

    def _says_the_same(self, suggestion: ReplySuggestion, chosen: Sequence[ReplySuggestion]) -> bool:
        if not chosen:
            return False
        vectors = self._book.encode([plain(suggestion.text), *(plain(each.text) for each in chosen)])
        return bool((vectors[1:] @ vectors[0]).max() >= ALIKE)

    def _quoted(self) -> ReplySuggestion | None:
        """The sentence of an article that is nearest to what was asked, word for word."""
        asked = situation(self._turns).asked
        asked = next((piece for piece in reversed(split(asked, self._language)) if is_question(piece)), asked)
        pieces = [(article, piece) for article in self._articles for piece in split(article.text, self._language)]
        if not pieces or not asked:
            return None
        texts = [piece for _, piece in pieces]
        likeness = self._book.encode(texts) @ self._book.encode([asked])[0]
        likeness += 0.5 * (self._book.bags(texts) @ self._book.bags([asked]).T).toarray()[:, 0]
        if _QUANTITY.search(asked):
            likeness += 0.25 * np.array([bool(_AMOUNT.search(text)) for text in texts], dtype=np.float32)
        article, piece = pieces[int(likeness.argmax())]
        sentences = ground(piece, evidence_of(self._turns, [], [article], None), self._turns, self._language)
        if likeness.max() < QUOTED or not sentences or all(each.kind == "courtesy" for each in sentences):
            return None
        return ReplySuggestion(
            f"article-{article.id}",
            piece,
            "article",
            sentences,
            min(float(likeness.max()) / 2, 0.5),
            (),
            self._language,
        )


def own_chips(text: str, turns: Sequence[DeskTurn]) -> str:
    """A past reply whose chips, which stood for another customer's data, stand for this one's, or are missing.

    "[name 1]" of another conversation is whoever was named first there. It is this customer's name only where this
    conversation knows no other name.
    """
    here: dict[str, set[str]] = {}
    for turn in turns:
        for match in CHIP.finditer(turn.text):
            here.setdefault(match["kind"], set()).add(match[0])

    def put(match: re.Match[str]) -> str:
        same = here.get(match["kind"], set())
        return next(iter(same)) if len(same) == 1 else "{" + match["kind"] + "}"

    return CHIP.sub(put, text)


def _value(citation: Citation) -> str:
    """What a filled value is: the quote of a look-up is "label: blue"."""
    return citation.quote.rpartition(": ")[2]


def _only_asks(suggestion: ReplySuggestion) -> bool:
    kinds = {sentence.kind for sentence in suggestion.sentences}
    return "question" in kinds and kinds <= {"question", "courtesy"}
