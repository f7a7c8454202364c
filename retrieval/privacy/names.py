"""Rules for names of people: introductions, salutations, signatures, Chinese names, and names known already."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from whyfeed.retrieval.privacy.addresses import CAPITALISED
from whyfeed.retrieval.privacy.numbers import USER_NAME
from whyfeed.retrieval.privacy.rules import HAN, WORD_LISTS, Rule, Span, fold, spans, whole
from whyfeed.retrieval.words import STOPWORDS

GIVEN = WORD_LISTS["given"]
# Given names that are also words, places or brands: alone in the middle of a text they do not count as names.
_AMBIGUOUS = WORD_LISTS["ambiguous"]
# Words that are never names, even after an introduction: "I'm Sorry", "my name is not important".
_NOT_NAMES = (STOPWORDS - {"may", "will"}) | WORD_LISTS["not_names"]
ORDINARY = STOPWORDS | _AMBIGUOUS | _NOT_NAMES
SURNAME = f"(?:{'|'.join(sorted(WORD_LISTS['compound_surnames']))}|[{''.join(sorted(WORD_LISTS['surnames']))}])"
# Lower-case particles within a name, before a capital: "van der Berg", "al-Farsi".
_PARTICLE = re.compile(
    r"\s(?:van der|van den|van de|van|von der|von|de la|de los|della|dos|del|de|da|di|el|al|bin|ibn|ter|zu)"
    r"[\s-](?=[A-Z\u00c0-\u00de])"
)

WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_SOUND = re.compile(r"(?:h+m+|u+g+h*|a+h+|o+h+|h+u+h|u+h+|u+m+|w+o+w+|a+w+)$", re.I)
_MY_NAME = re.compile(
    r"(?<![a-z])(?:my (?:full |first |last |real )?name(?:'s| is|s)"
    r"|name(?: (?:of|on) (?:the|my|our) \w{2,12})?(?:'s| is| was|:)|named?:"
    r"|i go by|call me|i'm called|i am called)\s{1,2}(?:is\s)?",
    re.I,
)
# "book it for …", "under the name …", "my wife …": a capitalised name must follow, then `_SOMEBODY_ENDS`.
_SOMEBODY = re.compile(
    r"\b(?:(?:[Uu]nder|[Ii]n)\s(?:the|my)\s(?:last\s|first\s)?name(?:\sof|\sis)?|[Uu]nder"
    r"|(?:[Bb]ook|[Rr]eserve|[Pp]ut|[Ss]ave|[Hh]old)(?:\s(?:it|them|that|this|one|a\s\w+|the\s\w+))?\sfor"
    r"|(?:[Bb]ooking|[Rr]eservation|[Tt]icket)\s(?:is\s)?for"
    r"|(?:holder|guest|passenger|recipient|patient|traveller|traveler|tenant)(?:\s(?:is|was|named|called)|:)"
    r"|[Mm]y\s(?:wife|husband|son|daughter|mother|father|mom|dad|sister|brother|partner|friend|colleague|boss|girlfriend"
    r"|boyfriend|neighbou?r)(?:\sis)?|\b[Pp]ut|\b[Aa]dd)\s(?=[A-Z\u00c0-\u00de])"
)
_SOMEBODY_ENDS = re.compile(
    r"(?:[.,!?;)\n]|$|'s\b|\s(?:and|as|down|please|for|from|to|on|with|will|is|was|has|who|at|in|here|instead|thanks)\b)"
)
_I_AM = re.compile(r"\b(?:I'?m|I am|[Tt]his is|[Ii]t's|[Ii]ts)\s{1,2}(?=[A-Z\u00c0-\u00de])")
# For lower-case names: contexts where only a name can follow, and contexts where a known given name may follow.
_SOMEBODY_SMALL = re.compile(
    r"\b(?:(?:card|account)\s?holder(?:'s name)? is|in the name of|under the name(?: of)?)\s(?=[a-z\u00df-\u024f])",
    re.I,
)
_GIVEN_SMALL = re.compile(
    r"\b(?:i'?m|i am|this is|under|booked for|book it for|my (?:wife|husband|son|daughter|mother|father|friend))"
    r"\s(?=[a-z\u00df-\u024f])",
    re.I,
)
_SPEAKING = re.compile(r"\bthis is ([^\W\d_]{2,20}(?:[ -][^\W\d_]{2,20})?)\s(?:speaking|calling)\b", re.I)
_SENTENCE = re.compile(r"(?:^|[.,!?]\s)(?=[A-Z\u00c0-\u00de])")
_HERE = re.compile(r"\s(?:here|speaking)\b")
_DEAR = re.compile(rf"\b(?:Dear|Hi|Hello|Hey|Thanks|Thank you|Cheers),?\s({CAPITALISED}(?:\s{CAPITALISED})?)")
_TITLE = re.compile(rf"\b(?:Mr|Mrs|Ms|Miss|Mx|Mister)\b\.?\s((?:{CAPITALISED})(?:\s{CAPITALISED})?)")
# A signature at the end of the text: after a closing phrase on the same line or the line before, or after a dash.
_SIGNED = re.compile(
    r"(?:\b(?:regards|sincerely|respectfully|yours truly|faithfully|thanks a lot,|many thanks,),?\s{0,3}"
    r"|\b(?:best(?: wishes)?|thanks(?: a lot)?|thank you|many thanks|cheers|love)[,!.]?[ ]{0,2}\n\s{0,3}"
    rf"|\n\s{{0,3}}[-]{{1,2}}\s?)((?-i:{CAPITALISED}(?:\s[A-Z]\.|\s(?:van|von|der|den|de|la|bin)){{0,2}}(?:\s{CAPITALISED}){{0,2}}))[.!]?\s{{0,3}}$",
    re.I,
)
# A lower-case signature, which must begin with a known given name.
_SIGNED_SMALL = re.compile(
    r"\b(?:regards|sincerely|thanks(?: a lot)?|thank you|cheers),?\s{0,3}"
    r"([^\W\d_]{2,20}(?:[ '-][^\W\d_]{2,20}){0,2})[.!]?\s*$",
    re.I,
)
_NO_CUSTOMER = re.compile(r"(?:\bDr\.?|\b(?i:san)|\b[Dd]octor|\bProf\.?|\b[Pp]rofessor|\bSt\.?|\bSanta) $")

# --- Chinese

NO_NAME_ZH = re.compile(r"[了车的什吗呢]|外卖|出租|代驾|滴滴|客服|什么|怎么")
_CALLED_ZH = (
    r"(?:我叫|我名叫|名字叫|名字是|我的名字是|姓名|收件人|"
    r"收货人|联系人|预订人|预定人|入住人|乘客|本人)\s?(?:是|叫|为|:)?\s?"
)
_NAMES_ZH = re.compile(
    # after an introduction: up to the end of the Chinese run, or up to a particle
    rf"{_CALLED_ZH}({SURNAME}(?:[{HAN}]{{1,2}}|某{{1,2}})(?![{HAN}])|{SURNAME}[{HAN}]{{1,2}}?(?=[的想要,。的是在有和]))"
    rf"|我叫\s?([{HAN}]{{2,3}})(?=[,。!;\s]|$)|(?:我|免贵|本人)姓\s?({SURNAME})"
    rf"|(?:我是|这里是)\s?({SURNAME}[{HAN}]{{1,2}})(?<![员人户生级的了家客])(?=[,。!;\s]|$)"
    rf"|(?<![上下每本这那])({SURNAME}[{HAN}]{{0,2}}?(?:女士|先生|小姐|太太))"
    rf"|(?:用|以)\s?({SURNAME}[{HAN}]{{1,2}}?)(?=的?名[字义])"
)
# "玛丽亚·冈萨雷斯": names of restaurants and hotels have the dot too, so an introduction is required.
_TRANSLITERATED = re.compile(
    rf"(?:{_CALLED_ZH}|我是\s?|[用以]\s?)([{HAN}]{{1,6}}(?:·[{HAN}]{{1,7}}?)+)(?=的|[^{HAN}·]|$)"
)
_NO_PERSON_ZH = re.compile(r"[店馆园楼餐]")
CHINESE = (
    Rule("name", _TRANSLITERATED, "·", lambda value: "" if _NO_PERSON_ZH.search(value) else value),
    Rule("name", _NAMES_ZH, "", lambda value: "" if NO_NAME_ZH.search(value) else value),
)


def is_name(word: str) -> bool:
    """Whether a word can be a name after an introduction."""
    return not _SOUND.match(word) and word.lower() not in _NOT_NAMES and 1 < len(word) < 30


def take_name(plain: str, start: int, capital: bool, most: int = 3) -> int:
    """The end of the name that starts at `start`, of at most `most` words; `start` when there is none.

    With `capital` every word must be capitalised, particles aside.
    """
    end, first = start, ""
    for _ in range(most):
        particle = _PARTICLE.match(plain, end) if first else None
        at = particle.end() if particle else end + bool(first)
        word = WORD.match(plain, at)
        if not word or (first and not plain.startswith(" ", end)):
            break
        initial = bool(first) and len(word[0]) == 1 and word[0].isupper() and plain.startswith(".", word.end())
        unlike = word[0][0].islower() if capital or first[:1].isupper() else False
        if unlike and _PARTICLE.match(" " + word[0]) and "-" in word[0]:
            unlike = False  # al-Farsi is one word
        if unlike or not (initial or is_name(word[0])) or (first.istitle() and word[0].isupper() and not initial):
            break
        first, end = first or word[0], word.end() + initial
    return end - 2 if plain[start:end].endswith("'s") else end


def introduced(plain: str) -> Iterator[Span]:
    """Names after an introduction, a salutation or a closing: "my name is …", "I'm …", "Dear …", "Regards, …"."""
    for match in _MY_NAME.finditer(plain):
        capital = not match[0].lower().startswith(("my", "name:", "i am called", "i'm called"))
        yield "name", match.end(), take_name(plain, match.end(), capital)
    for match in _I_AM.finditer(plain):
        end = take_name(plain, match.end(), capital=True)
        first = plain[match.end() : end].partition(" ")[0]
        # A word that is no known given name must be followed as a name is: "I'm Kylo, …", but not "I'm Canadian born".
        stands = (
            r"\s?(?:[.,!;]|$|and\b|from\b|calling\b|here\b)" if match[0][1] in "'m " else r"\s(?:calling|speaking)\b"
        )
        unknown = first.istitle() and not first.endswith(("ian", "ish", "ese", "ing", "ed"))
        given = first.lower() in GIVEN and not re.match(r" \d", plain[end : end + 2])
        if given or (unknown and re.match(stands, plain[end : end + 10])):
            yield "name", match.end(), end
    yield from _somebody(plain)
    for match in _DEAR.finditer(plain):
        first = match[1].partition(" ")[0]
        if first.lower() in GIVEN or (match[0].startswith("Dear") and is_name(first)):
            yield "name", match.start(1), take_name(plain, match.start(1), capital=True, most=2)
    if small := _SIGNED_SMALL.search(plain):
        words = small[1].split()
        if words[0].lower() in GIVEN and all(map(is_name, words)):
            yield "name", *small.span(1)
    yield from spans(_LED, plain)


def _somebody(plain: str) -> Iterator[Span]:
    """Names of third persons ("book it for …", "my wife …") and of the speaker ("Ann Park here")."""
    for match in _SOMEBODY.finditer(plain):
        end = take_name(plain, match.end(), capital=True)
        # "Under Lincoln Square" is a place, "my wife Ann Park" is not.
        place = match[0][:2].lower() != "my" and WORD_LISTS["places"] & set(plain[match.end() : end].lower().split())
        if end > match.end() and not place and _SOMEBODY_ENDS.match(plain, end):
            yield "name", match.end(), end
    for match in _SENTENCE.finditer(plain):
        end = take_name(plain, match.end(), capital=True, most=4)
        words = plain[match.end() : end].split()
        if (len(words) > 1 or (words and words[0].lower() in GIVEN)) and _HERE.match(plain, end):
            yield "name", match.end(), end
    for match in _SPEAKING.finditer(plain):
        if all(map(is_name, re.split("[ -]", match[1]))):
            yield "name", *match.span(1)
    for rule in (_SOMEBODY_SMALL, _GIVEN_SMALL):
        for match in rule.finditer(plain):
            first = WORD.match(plain, match.end())
            known = first and first[0] in GIVEN and first[0] not in ORDINARY
            end = take_name(plain, match.end(), capital=False)
            if end > match.end() and (known or rule is _SOMEBODY_SMALL):
                more = " " in plain[match.end() : end]
                # In lower case "john smith" looks like "john needs": two words count only before punctuation.
                if re.match(r"[.,!?;)\n]|$", plain[end:]) if more and known else _SOMEBODY_ENDS.match(plain, end):
                    yield "name", match.end(), end
                elif known and first:
                    yield "name", *first.span()


def _signature(value: str) -> str:
    return value if all(len(word) < 3 or is_name(word) for word in value.split()) else ""


_LED = (
    USER_NAME,
    Rule("name", _TITLE, "m"),
    Rule("name", _SIGNED, "", _signature),
)


def given_names(plain: str) -> Iterator[Span]:
    """Given names, alone or with a surname; not those of doctors or places, and no ordinary words."""
    for word in WORD.finditer(plain):
        name = word[0].removesuffix("'s")
        if not name.istitle() or name.lower() not in GIVEN or _NO_CUSTOMER.search(plain[: word.start()][-12:]):
            continue
        following = WORD.match(plain, word.end() + 1) if plain.startswith(" ", word.end()) else None
        after = WORD.match(plain, following.end() + 1) if following else None
        places = WORD_LISTS["places"]
        if any(one and one[0].lower() in places and one[0][0].isupper() for one in (following, after)):
            continue
        end = take_name(plain, word.start(), capital=True)
        if name == word[0] not in ("Will", "May") and end > word.end():
            yield "name", word.start(), end
        elif name.lower() not in _AMBIGUOUS:
            yield "name", word.start(), word.start() + len(name)


def known_names(plain: str, names: Iterable[str]) -> Iterator[Span]:
    """Occurrences of known names: the whole name in upper or lower case, and its capitalised parts."""
    folded = plain.casefold()
    for wanted, needle, flags in dict.fromkeys(form for name in names for form in _forms(name)):
        # Looked for first, because a pattern costs much more, and most names of a long conversation are not here.
        if needle in folded:
            yield from spans([Rule("name", re.compile(whole(wanted), flags))], plain)


def name_starts(name: str) -> set[str]:
    """The first two characters, without case, of each form in which `known_names` finds a name."""
    return {needle[:2] for _, needle, _ in _forms(name)}


@lru_cache(maxsize=10_000)
def _forms(name: str) -> tuple[tuple[str, str, int], ...]:
    """(text, the same without case, flags of its pattern) of each form in which a name is recognised."""
    name = fold(name)[0].strip()
    parts = [part for part in name.split() if len(part) > 2 and part[0].isupper()]
    return tuple(
        (wanted, wanted.casefold(), 0 if wanted.lower() in ORDINARY or wanted != name else re.I)
        for wanted in dict.fromkeys((name, *parts))
        if len(wanted) > 1 and not (wanted.islower() and wanted in ORDINARY)
    )
