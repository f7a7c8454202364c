"""Checks whether a clause is true to its post, by words and vectors, and finds the supporting sentences.

The faults are those that a small writer makes on the demo's posts: it copies a worked example, answers what the post
only asks, adds names and numbers of its own, leaves English words in a Chinese sentence, runs on, or follows
instructions in the post. A check can only reject; a clause that passes is supported by the words of the post, which
does not prove it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from whyfeed.retrieval import formula
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.language import sentences as split_sentences
from whyfeed.retrieval.language import stem, stems
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.words import HAN as _HAN
from whyfeed.retrieval.words import STOPWORDS, content_words

OPENERS = {"en": "this post ", "zh": "这篇帖子"}
WORDS = (4, 28)  # of an English clause
HAN = (6, 46)  # characters of a Chinese clause after the opener
# Cosine of a clause with its post (title, or title and start of the text), within and across languages. Judged by hand
# on demo posts: correct Chinese clauses go down to .4 and wrong ones up to .6, so this only finds gross errors.
COSINE, COSINE_ACROSS = 0.30, 0.42
# Cosine of two clauses about one post. Of 85 Chinese clauses judged by hand, 9 of 17 wrong ones and 9 of 55 correct
# ones were below this.
COSINE_AGREE = 0.72
UNKNOWN = 0.25  # share of an English clause's content words that may be missing from the post

_LATIN = re.compile(r"(?:(?<![0-9])[0-9]++)?[A-Za-zÀ-ÖØ-öø-ÿ][A-Za-zÀ-ÖØ-öø-ÿ0-9+#'’-]*")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_URL = re.compile(r"(?:https?://|www\.)\S+")
_SPECIAL = re.compile(r"<\|[^|<>]*\|>|</?post>|<<<\w*>>>", re.IGNORECASE)
_MARKUP = re.compile(r"[<>{}\\`*|_^~\[\]=]|://|www\.|(?<!\w)#|\$\$")
# Where a formula was left out: "vectors are written as instead of as".
_GAP = re.compile(r"\b(?:as|of|with|by|than|into)\s+(?:instead of|rather than|and not)\b|\b(?:the|an?)$")
_PERSON = {
    "en": re.compile(r"\b(?:I|I'm|I've|me|my|our|us|you|your|yours|you're)\b"),  # "whether we can" is impersonal
    "zh": re.compile(r"[你您]|我(?!国)|咱"),
}
# A paragraph addressed to a model instead of to people. It is neither shown to the writer nor quoted.
_INSTRUCTION = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b[^.\n]{0,60}\b(?:instructions?|prompts?|rules|above|everything)\b"
    r"|\bsystem prompt\b|\bas an? (?:AI|language model)\b|\byou are (?:now )?an? (?:AI|assistant|language model)\b"
    r"|\b(?:reply|respond|output|write|print|repeat)\b[^.\n]{0,20}\b(?:only|exactly|the words?)\b[^.\n]{0,12}[\"“':]"
    r"|(?:忽略|无视|忘记|不要理会)[^。\n]{0,20}(?:指令|指示|要求|提示|规则|以上|之前)|系统提示",
    re.IGNORECASE,
)
# Every ASCII line that the pattern matches has one of these; searching for them first takes a tenth of the time.
_INSTRUCTION_HINTS = (
    "ignore", "disregard", "forget", "override", "system prompt", "as a ai", "as an ai", "language model", "you are",
    "reply", "respond", "output", "write", "print", "repeat",
)  # fmt: skip
_ASKING = re.compile(
    r"[?？]|\b(?:can(?:no|')t|couldn't|could not|trying to) (?:figure|find|understand)"
    r"|\bI(?:'m| am) (?:wondering|looking for|confused)"
    r"|\b(?:want|like|curious) to (?:know|ask|understand)|\b(?:please|can|could) (?:any|some)(?:one|body)\b"
    r"|\bany (?:advice|ideas?|suggestions?|help|tips|pointers)\b|\bwould we\b|\bis it (?:ok|okay|possible|safe|true)\b"
    r"|请问|求助|想知道|有没有|怎么办",
    re.IGNORECASE,
)
_VERBS = (
    "(?:explains?|tells?|provides?|shows?|suggests?|recommends?|answers?|states?|says?|claims?|gives?|offers?"
    "|clarifies|confirms?|concludes?|argues?|lists?)"
)
_TELLS = {  # a post that asks a question does none of this
    "en": re.compile(rf"^this post (?:{_VERBS}|compares?|finds?)\b"),
    "zh": re.compile(r"^这篇帖子(?:解释|介绍|提供|建议|指出|说明|推荐|回答|认为|发现|列出|证明|总结)了?"),
}
_TELLS_TOO = {
    "en": re.compile(rf",? and {_VERBS}\b(?!.* and ).*"),
    "zh": re.compile(r"[，,]\s*(?:并|还|而且)?(?:解释|提供|建议|指出|说明|推荐|回答|发现)了?.*"),
}
_QUESTION = {
    "en": re.compile(r"(?:what|how|why|who|when|where|which|whether|if)\b"),
    "zh": re.compile(r".*(?:什么|如何|怎么|怎样|为何|哪|是否)"),
}
# Words for what a post does, which need not occur in it.
_REPORTING = frozenset(
    """post ask wonder want look seek search tell explain describe discuss compare list show mention question request
    report say state give offer suggest recommend find share consider explore argue claim introduce present present
    summarize outline inquire concern difference different way way method example reason cause effect problem issue
    topic information detail advice help recommendation opinion experience idea possible possibility whether other
    specific particular certain various several between regarding related type kind people person user someone anyone
    work mean exist happen become need try best good better purpose process meaning definition characteristic feature
    role impact influence relationship role importance possible potential current existing common called
    """.split()
)
_NUMERALS = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
    "ten": "10", "eleven": "11", "twelve": "12", "hundred": "100", "thousand": "1000", "million": "1000000",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a clause: a code (empty: nothing), and the words concerned."""

    code: str
    words: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.code)


def plain(text: str) -> str:
    """A text as the writer may see it: one line, without links, formulae, chat markers and instructions to a model."""
    text = "\n".join("" if _instructs(line) else line for line in _SPECIAL.sub(" ", text).split("\n"))
    return " ".join(formula.replace(_URL.sub(" ", text), _left_out).split())


def tidy(text: str, post: Post, language: str) -> str:
    """A clause as it is stored: no full stop, no enclosing quotes, one space between Chinese and Latin words.

    Where the post asks a question, a small writer often claims that it also answers it; this is corrected here.
    """
    text = formula.replace(" ".join(text.split()), _left_out)
    if re.fullmatch(r"([\"'`“]).*[\"'`”]", text):
        text = text[1:-1]
    text = re.sub(r"[.。!！?？;；]+([\"”’']?)$", r"\1", text).strip()
    if language == "zh":
        text = re.sub(r"(?<=[\u4e00-\u9fff])\s*(?=[A-Za-z0-9])", " ", text)
        text = re.sub(r"(?<=[A-Za-z0-9])\s*(?=[\u4e00-\u9fff])", " ", text).replace("这篇帖子 ", "这篇帖子")
    else:
        text = re.sub(r"^This\b", "this", text)
    # One sentence is asked for; the ones after it are dropped.
    text = (
        re.sub(r"(?<=[a-z0-9)”]{2})[.?!]\s+[A-Z].*", "", text) if language == "en" else re.sub(r"[。？！].*", "", text)
    )
    if asks(post):
        head = len(OPENERS[language]) + 4
        text = text[:head] + _TELLS_TOO[language].sub("", text[head:])
        if told := _TELLS[language].match(text):
            rest = text[told.end() :].lstrip()
            if _QUESTION[language].match(rest):
                text = OPENERS[language] + ("asks " if language == "en" else "问") + rest
    return text


def asks(post: Post) -> bool:
    """Is the post a question, by a question mark anywhere or by typical wording without one?"""
    return bool(_ASKING.search(f"{post.title}\n{post.text}"))


def is_whole_question(title: str) -> bool:
    """Does the title alone state the post's question?"""
    return title.rstrip("\"'”’) ").endswith(("?", "？")) and len(content_words(title)) >= 3


def across(clause: str, post: Post) -> bool:
    """Are clause and post written in different scripts?"""
    text = f"{post.title} {post.text[:300]}"
    return (len(_HAN.findall(clause)) > len(_LATIN.findall(clause))) != (
        len(_HAN.findall(text)) > len(_LATIN.findall(text))
    )


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of every sentence in order, without lines addressed to a model."""
    return [
        (line.start() + start, line.start() + end)
        for line in re.finditer(r"[^\n]+", text)
        if not _instructs(line[0])
        for start, end in split_sentences(line[0])
    ]


def find_fault(
    clause: str, post: Post, language: str, complete: bool, examples: str, embedder: Embedder | None = None
) -> Fault:
    """The first fault of a clause, or a Fault that is false.

    `complete`: the writer ended by itself. `examples`: the text with the worked examples, which must not leak into the
    clause. `embedder`: a cross-lingual one.
    """
    opener = OPENERS[language]
    body = clause[len(opener) :].strip()
    source = f"{post.title}\n{post.text}\n{' '.join(tag.replace('-', ' ') for tag in post.tags)}"
    if not clause.startswith(opener) or not body:
        return Fault("form")
    if not complete:
        return Fault("long")
    if _MARKUP.search(clause):
        return Fault("markup")
    if _GAP.search(clause):
        return Fault("gap")
    if len(split_sentences(clause)) > 1 or re.search(r"[。！？；;]", clause):
        return Fault("long")
    if _PERSON[language].search(body):
        return Fault("person")
    if _squeezed(clause) in _squeezed(source) or _squeezed(body) == _squeezed(post.title):
        return Fault("dictated")
    shape = _shape(body, language)
    if shape:
        return shape
    if asks(post) and _TELLS[language].search(clause):
        return Fault("tells")
    if leaked := _leaked(body, source, examples):
        return Fault("example", leaked)
    if unknown := _unknown(body, source, post, language):
        return Fault("unknown", unknown)
    return _unrelated(body, post, embedder)


def agree(one: str, other: str, embedder: Embedder | None) -> bool:
    """Do two clauses say the same? Words for what a post does (asks, lists) are ignored."""
    if one == other:
        return True
    if embedder is None:
        return False
    vectors = embedder.encode([_subject(one), _subject(other)])
    return float(vectors[0] @ vectors[1]) >= COSINE_AGREE


def supporting_spans(clause: str, post: Post, embedder: Embedder | None = None) -> tuple[tuple[str, int, int], ...]:
    """The one or two sentences of the post (field, start, end) that support the clause best."""
    places = [("title", 0, len(post.title))] if post.title else []
    places += [("text", start, end) for start, end in sentences(post.text)[:20]]
    if not places:
        return ()
    texts = [(post.title if field == "title" else post.text)[start:end] for field, start, end in places]
    wanted = stems(clause)
    overlaps = [stems(text) & wanted for text in texts]
    if embedder is not None and across(clause, post):
        scores = (embedder.encode(texts) @ embedder.encode([clause])[0]).tolist()
        first = max(range(len(places)), key=lambda place: scores[place])
        return (places[first],)
    first = max(range(len(places)), key=lambda place: len(overlaps[place]))
    second = max(range(len(places)), key=lambda place: len(overlaps[place] - overlaps[first]))
    if len(overlaps[second] - overlaps[first]) >= 2:
        return (places[first], places[second])
    return (places[first],)


# ---- inside ----


def _instructs(line: str) -> bool:
    """Is a line addressed to a model instead of to people?"""
    if line.isascii():
        lowered = line.lower()
        if not any(hint in lowered for hint in _INSTRUCTION_HINTS):
            return False
    return _INSTRUCTION.search(line) is not None


def _left_out(tex: str) -> str:
    """The replacement of a formula in the writer's input, since the writer cannot describe formulae."""
    return " … "


def _squeezed(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).casefold()


def _shape(body: str, language: str) -> Fault:
    han, latin = len(_HAN.findall(body)), len(_LATIN.findall(body))
    if language == "zh":
        if han < 2 * latin or han < HAN[0]:
            return Fault("language")
        return Fault("long") if han + 2 * latin > HAN[1] else Fault("")
    if han:
        return Fault("language")
    count = len(body.split()) + 2
    if count > WORDS[1] or len(body) > 220:
        return Fault("long")
    return Fault("short") if count < WORDS[0] else Fault("")


_REPORTING_STEMS = frozenset(stem(word) for word in _REPORTING)


@lru_cache(maxsize=8)
def _example_words(examples: str) -> tuple[frozenset[str], ...]:
    """Stems of the words of each worked example's answer."""
    answers = [part.split("<<<", 1)[0] for part in examples.split("<<<assistant>>>")[1:]]
    return tuple(frozenset(stems(answer) - _REPORTING_STEMS) for answer in answers if answer.strip())


def _leaked(body: str, source: str, examples: str) -> tuple[str, ...]:
    """Words of the worked examples that the post lacks, if two come from one example."""
    mine, theirs = stems(body), stems(source)
    for example in _example_words(examples):
        common = (mine & example) - theirs
        if len({word for word in common if len(word) > 1}) >= 2:
            return tuple(sorted(common))
    return ()


def _unknown(body: str, source: str, post: Post, language: str) -> tuple[str, ...]:
    """Numbers, names, and (beyond a few ordinary ones) words that the post lacks."""
    numbers = set(_NUMBER.findall(source))
    spoken = source.casefold()
    missing = [number for number in _NUMBER.findall(body) if number not in numbers]
    if language == "zh":
        words = _LATIN.findall(body)
        return tuple(missing + [word for word in words if not _is_name(word, post)])
    for word in _LATIN.findall(body):
        digit = _NUMERALS.get(word.casefold())
        if digit and digit not in numbers and not re.search(rf"\b{word}\b", source, re.IGNORECASE):
            missing.append(word)
    known = stems(source) | _REPORTING_STEMS | {stem(word) for word in STOPWORDS}
    content = [word for word in _LATIN.findall(body) if word.casefold() not in STOPWORDS]
    strange = []
    for word in content:
        parts = [part for part in re.split(r"[-']", word) if len(part) > 1] or [word]
        if word.casefold() in spoken or all(stem(part) in known for part in parts) or word.casefold() in _NUMERALS:
            continue
        strange.append(word)
    # "Three carpets in Lyon": a word with a capital or a digit is a name, and unknown names are never accepted.
    missing += [word for word in strange if re.search(r"[A-Z0-9]", word)]
    if len(strange) > max(1.0, UNKNOWN * len(content)):
        missing += strange
    if across(body, post):
        return tuple(missing) if any(char.isdigit() for word in missing for char in word) else ()
    return tuple(dict.fromkeys(missing))


def _is_name(word: str, post: Post) -> bool:
    """May a Latin word stay in a Chinese clause? Names and abbreviations may, ordinary words may not."""
    pattern = rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])"
    source = f"{post.title}\n{post.text}"
    if not re.search(pattern, source, re.IGNORECASE):
        return False
    if len(word) == 1 or re.search(r"[A-Z0-9+#]", word[1:]):
        return True
    if word.islower() or re.search(pattern.replace(re.escape(word), re.escape(word.lower())), source):
        return False
    # Capitalised although neither a sentence start nor a title in Title Case explains it.
    return bool(re.search(rf"[a-z,] {re.escape(word)}(?![A-Za-z])", post.text)) or (
        not re.search(r"[A-Z]\w+ (?:\w{1,3} )?[A-Z]\w+ (?:\w{1,3} )?[A-Z]", post.title)
        and bool(re.search(rf"[a-z,] {re.escape(word)}(?![A-Za-z])", post.title))
    )


def _subject(clause: str) -> str:
    return re.sub(r"^(?:这篇帖子)?(?:问|询问|想知道|想了解|想找|讨论了?|比较了?)|^this post \w+ ", "", clause)


def _unrelated(body: str, post: Post, embedder: Embedder | None) -> Fault:
    foreign = across(body, post)
    if not foreign:
        mine = stems(body) - _REPORTING_STEMS
        theirs = stems(f"{post.title} {post.text} {' '.join(post.tags)}")
        if len(mine & theirs) < min(2, max(1, len(mine))):
            return Fault("unrelated")
    elif embedder is None:
        return Fault("unrelated")
    if embedder is None:
        return Fault("")
    vectors = embedder.encode([_subject(body), post.title or post.text[:300], f"{post.title} {post.text[:400]}"])
    cosine = float((vectors[1:] @ vectors[0]).max())
    return Fault("unrelated") if cosine < (COSINE_ACROSS if foreign else COSINE) else Fault("")
