"""An operator's wishes for a suggestion: shorter, warmer, more formal, in Chinese, with an offer; en and zh."""

# ruff: noqa: E501 - the tables of words are wide

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from whyfeed.agent.desk.grounding import classify, split
from whyfeed.agent.phrases import languages, say

_SHORTER = re.compile(
    r"\b(?:short(?:er)?|brief(?:er|ly)?|concise|less words|cut it)\b|短一?点|简短|简洁|精简|短些", re.I
)
_WARMER = re.compile(
    r"\b(?:warm(?:er|ly)?|friendl(?:y|ier)|kind(?:er)?|nicer|empath\w+|softer)\b|亲切|热情|温和|友好|暖一?点|客气", re.I
)
_FORMAL = re.compile(
    r"(?<!in)(?<!less )\b(?:formal(?:ly)?|polite(?:r|ly)?|professional(?:ly)?)\b|正式|专业一?点|礼貌|书面", re.I
)
_LANGUAGE = (
    ("zh", re.compile(r"\b(?:in|to|into) (?:chinese|mandarin)\b|(?:用|换成|翻成|译成|改成|说)中文|中文版", re.I)),
    ("en", re.compile(r"\b(?:in|to|into) english\b|(?:用|换成|翻成|译成|改成|说)英[文语]|英文版", re.I)),
)
_OFFER = re.compile(r"\b(?:offer|propose|suggest)(?:ing)? (?:them |him |her |the customer )?((?:a |an |the )?[\w' -]{3,60})|(?:提供|提议|建议|主动提出)(?:给?(?:客户|顾客))?([\u4e00-\u9fff]{2,20})", re.I)  # fmt: skip
_AND = re.compile(r"\s*(?:,| and (?=make|keep|write|be |in )|，|。|并且?).*$", re.I)
_FILLER = re.compile(r"\b(?:please|make|it|this|that|keep|write|reply|answer|a|bit|little|more|much|be|and|too|say)\b|请|把|它|写|得|再|更|一点|一些|点|些|的|要|并|改|帮我|回复|[,.!?，。！？]", re.I)  # fmt: skip
_CONTRACTIONS = (
    (r"\bcan['’]t\b", "cannot"), (r"\bwon['’]t\b", "will not"), (r"\bshan['’]t\b", "shall not"), (r"n['’]t\b", " not"),
    (r"\b(I)['’]m\b", r"\1 am"), (r"(?<=\w)['’]re\b", " are"), (r"(?<=\w)['’]ve\b", " have"), (r"(?<=\w)['’]ll\b", " will"),
    (r"\b(I|you|we|they|he|she)['’]d like\b", r"\1 would like"), (r"\b(it|that|there|what|here|how)['’]s\b(?! (?:been|got))", r"\1 is"),
    (r"\blet['’]s\b", "let us"),
)  # fmt: skip
_CASUAL = (
    (r"^(?:hi|hey)\b", "Hello"), (r"\b(?:yeah|yep)\b", "yes"), (r"\b(?:ok|okay),\s*(\w)", r"\1"), (r"\bthanks\b", "thank you"),
)  # fmt: skip
_TROUBLE = re.compile(
    r"\b(?:sorry|unfortunately|cannot|can['’]t|not|unable|no longer)\b|抱歉|无法|不能|没有|不好意思", re.I
)


@dataclass(frozen=True, slots=True)
class Wish:
    """A parsed wish. `offer` is what to offer; `words` is the rest, which only the writer can follow."""

    shorter: bool = False
    warmer: bool = False
    formal: bool = False
    language: str = ""
    offer: str = ""
    words: str = ""

    @classmethod
    def parse(cls, text: str) -> Wish:
        """Parse a wish in English or Chinese."""
        offer = _OFFER.search(text)
        rest = text[: offer.start()] + text[offer.end() :] if offer else text
        language = next((name for name, rule in _LANGUAGE if rule.search(text)), "")
        for rule in (_SHORTER, _WARMER, _FORMAL, *(rule for _, rule in _LANGUAGE)):
            rest = rule.sub(" ", rest)
        unknown = " ".join(rest.split()) if _FILLER.sub(" ", rest).strip() else ""
        return cls(
            bool(_SHORTER.search(text)),
            bool(_WARMER.search(text)),
            bool(_FORMAL.search(text)),
            language,
            _AND.sub("", offer[1] or offer[2]).strip() if offer else "",
            unknown,
        )


def apply(text: str, wish: Wish, language: str) -> str:
    """Make the text shorter, warmer or more formal by rules; only courtesy is ever added."""
    language = "zh" if language.startswith("zh") else "en"
    pieces = split(text, language)
    if wish.shorter:
        pieces = [
            piece for piece in pieces if classify(piece) != "courtesy" and piece not in _own_sentences()
        ] or pieces[:1]
    if wish.warmer:
        kinds = [classify(piece) for piece in pieces]
        if kinds and kinds[0] != "courtesy":
            pieces.insert(0, say("desk.opening.sorry" if _TROUBLE.search(text) else "desk.opening.thanks", language))
        # A reply that ends with a question should end there.
        if kinds and kinds[-1] not in ("courtesy", "question") and not wish.shorter:
            pieces.append(say("desk.closing", language))
    text = say("join.sentence", language).join(pieces)
    return _formal(text, language) if wish.formal else text


@cache
def _own_sentences() -> frozenset[str]:
    """What `apply` itself adds, in every language."""
    return frozenset(
        sentence
        for language in languages()
        for sentence in (
            say("desk.opening.sorry", language),
            say("desk.opening.thanks", language),
            say("desk.closing", language),
        )
    )


def _formal(text: str, language: str) -> str:
    if language == "zh":
        return re.sub(r"[！!]+", "。", re.sub(r"你(?!们)", "您", text)).replace("哦", "").replace("啦", "了")
    for rule, instead in (*_CONTRACTIONS, *_CASUAL):
        text = re.sub(rule, instead, text, flags=re.I)
    text = re.sub(r"!+", ".", text)
    return re.sub(r"(^|[.?] )([a-z])", lambda match: match[1] + match[2].upper(), text)
