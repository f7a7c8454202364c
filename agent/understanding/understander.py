"""From the text of a message to a `Request`: rules first, then the classifier, then the writer for hard topics.

The writer is optional. It only extracts topics from sentences that the rules do not know, and only words that occur in
the sentence are accepted. Instructions to the system itself ("ignore your instructions and ...") are out of scope,
whatever else the text asks for.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whyfeed import prompts
from whyfeed.agent.llm.engine import ChatRequest, Deadline
from whyfeed.agent.request import Intent, Request
from whyfeed.agent.understanding.classifier import Guess, IntentClassifier, frame_words, load_utterances
from whyfeed.agent.understanding.patterns import (
    AGREED,
    ASKED,
    COMMAND,
    COMPARE,
    DECLINED,
    ERASE,
    EXCEPT,
    EXCHANGE,
    LAST,
    LIKE,
    NOT_OTHERS,
    OTHERS,
    OUT,
    POINTED,
    RECOMMEND,
    SEARCH,
    SMALLTALK,
    STEER,
    TRADITIONAL,
    UNSURE,
    WHY_NOT_TAIL,
    first_match,
)
from whyfeed.agent.understanding.references import Context, References, find_numbers, find_references, title_by_words
from whyfeed.agent.understanding.topics import (
    cut_horizon,
    cut_kinds,
    find_count,
    split_topics,
    tidy_topic,
    tokenise,
)
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.errors import ModelError
from whyfeed.retrieval.language import detect_language
from whyfeed.retrieval.post import clean_text
from whyfeed.retrieval.words import HAN, content_words, words

if TYPE_CHECKING:
    from whyfeed.agent.llm.engine import Engine

__all__ = ["Context", "Understander", "agrees", "asks_erasure", "means_last", "wavers"]

MAX_TEXT = 2000  # characters of a message that are read
LONG, LONG_HAN = 250, 100  # characters; a longer text is used as a search query
PATIENCE = 10.0  # seconds that the writer may take to extract topics
QUERY = 200  # characters of a long text that become the query
# Between "the one about X" and the title that is meant, when no word agrees: unrelated pairs stay below 0.2.
TITLE_COSINE, TITLE_MARGIN = 0.28, 0.05
# Margins by which the classifier overrules a rule, chosen on leave-one-out predictions of the training sentences.
OVERRULE, OVERRULE_LOOSE = 0.4, 0.1
CERTAIN = 0.25  # margin by which the classifier overrules that a few bare words are a topic
MAX_TITLES = 10  # titles compared by their vectors, 3 ms each
_NOTHING = Context()
_SCHEMA = {
    "type": "object",
    "properties": {"topics": {"type": "array", "items": {"type": "string", "maxLength": 60}, "maxItems": 4}},
    "required": ["topics"],
    "additionalProperties": False,
}

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0x2019: 0x27, 0x2018: 0x27}
_FLOOD = re.compile(r"([^\d]{1,12}?)\1{3,}")  # 哈哈哈哈哈哈, "no no no no no"
_PREFIX = re.compile(
    r"^(?:(?:hi|hello|hey|ok|okay|so|and|but|well|oh|um+|also|actually|maybe|perhaps|just|please|"
    r"pls|kindly|then|sorry)\b[\s,!.:-]*"
    r"|(?:yes|no|thanks|thank you|great|nice|cool|hmm+)[,!.]+\s*|(?:can|could|would|will) (?:you|"
    r"we|u|I)\b(?: please| maybe| just)*\s+"
    r"|I(?:'d| would) (?:like|love|prefer|rather)(?: to)?(?: (?:see|read|have|get))?\s+|I (?:want|"
    r"need|wish)(?: to| for| that)?(?: (?:see|read|have|get))?\s+"
    r"|let'?s (?:have|see|get|read|go for)\s+|(?:do you think you could|is it possible to|how about|"
    r"I think|I guess|I feel like|I was wondering if you could|whyfeed)[\s,:]+"
    r"|(?:请问?|麻烦你?|帮我|帮忙|能不能|能否|可不可以|可以|你能|能|可否|那么?|嗯|就|先(?=跳|不|"
    r"别|少)|我(?:想要|希望|要)|你好|您好|嗨|以后|今后|另外|接下来|然后|而且|但是?|不过|所以|最好|"
    r"拜托)[，,、\s]*)",
    re.IGNORECASE,
)
_CLAUSE = re.compile(
    r"\s*[;；。!！?？\n]+\s*|\.\s+|\s*[,，]\s*|\s+(?:and|but|then|while|plus|yet)\s+(?=(?:less|fewer|"
    r"more|no|not|nothing|don'?t|stop|I|hide|mute|keep|please|show|give|add|skip|drop|avoid|cut|"
    r"never|a (?:bit|lot|little))\b)"
    r"|(?:但是?|不过|然后|并且|而且|同时)|(?<=[^\s，,更太再很你我想能请])(?=(?:多|少)(?:来|推|看|"
    r"给|一点|一些|点)[^，,]{3,})",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?<![\w.#])\d{1,2}(?:\s*(?:,|and|or|和|跟|与|、)\s*\d{1,2})*\W*$", re.IGNORECASE)

# Where a clause stops naming a topic and starts saying something about it: "jazz | is everywhere".
_PREDICATE = re.compile(
    r"\s+(?:is|are|was|were|has|have|seems?|looks?|gets?|keeps?)\b|太|很|真|都|已经|老是|到处|实在|是|被"
)


class Understander:
    """Understands one message at a time. Stateless, and safe to use from several threads."""

    def __init__(
        self, embedder: Embedder, writer: Callable[[], Engine | None] = lambda: None, file: Path | None = None
    ) -> None:
        """`writer` is called at each use, since a model may load later; `file` stores the trained classifier."""
        self._embedder = embedder
        self._writer = writer
        utterances = load_utterances()
        self._classifier = IntentClassifier(embedder, utterances, file)
        self._frame, self._edges = frame_words(utterances)

    def understand(self, text: str, context: Context = _NOTHING) -> Request:
        """The request in a text. Never raises, whatever the string; reads its first 2,000 characters.

        `query` also holds the topic of why, why_not, forget, people and groups, when there is one.
        """
        text = _normalised(text)
        request = self._trimmed(self._combined(text, context), text)
        return request.with_(language=detect_language(text, context.language))

    def prepare(self) -> None:
        """Train the classifier now (some seconds) instead of at the first message that needs it."""
        self._classifier.prepare()

    def by_rules(self, text: str, context: Context = _NOTHING) -> Request | None:
        """The result of the written rules alone; None when no rule matches."""
        text = _normalised(text)
        rule = self._obvious(text, context) or self._by_reliable_rules(text, context) or self._by_loose_rules(text)
        return rule and self._trimmed(rule, text)

    def by_classifier(self, text: str, context: Context = _NOTHING) -> Request:
        """The result of the classifier alone; a search or a plain wish when it is unsure."""
        text = _normalised(text)
        return self._trimmed(self._cut(text, context, self._guess(text)), text)

    def _combined(self, text: str, context: Context) -> Request:
        """Rules and classifier. The more reliable a rule, the larger the margin needed to overrule it."""
        if plain := self._obvious(text, context):
            return plain
        rule, bar = self._by_reliable_rules(text, context), OVERRULE
        if rule is None:
            rule, bar = self._by_loose_rules(text), OVERRULE_LOOSE
        guess = self._guess(text)
        if rule and (guess is None or guess.intent == rule.intent or guess.margin < bar):
            return rule
        return self._cut(text, context, guess)

    def _guess(self, text: str) -> Guess | None:
        try:
            return self._classifier.guess(text)
        except ModelError:  # the rules cover most sentences, and any text can be a search
            return None

    def _cut(self, text: str, context: Context, guess: Guess | None) -> Request:
        """The request for a classified intent, with the parts that belong to this intent."""
        content, topic = self._content_words(text), self._topic(text)
        references = find_references(text, context, self._by_title)
        # A few words that occur in no training sentence outside topics are a topic, unless the classifier is very sure.
        bare = len(words(text)) <= 6 and len(content) == len([word for word in words(text) if word not in "的of"])
        intent = guess.intent if guess and guess.sure else None
        if bare and not (guess and guess.margin >= CERTAIN):
            intent = None
        if intent in (None, "search", "recommend") and references.exact and references.posts:
            intent = "summarise"
        intent = intent or ("search" if content else "recommend")
        request = Request(intent, by="classifier")
        if intent == "search":
            loose = first_match(SEARCH, _without_courtesies(text))
            query = tidy_topic(text) if bare else tidy_topic(loose[1]) if loose else topic
            kinds = cut_kinds(text)[0]
            return request.with_(query=query or tidy_topic(text) or text[:QUERY], kinds=kinds, k=find_count(text))
        if intent == "recommend":
            return request.with_(kinds=cut_kinds(text)[0], k=find_count(text), others=bool(OTHERS.search(text)))
        if intent in ("smalltalk", "out_of_scope", "undo", "profile"):
            return request
        if references.exact or (references.spoken and not self._content_words(references.rest)):
            return request.with_(posts=references.posts)
        if intent in ("compare", "summarise", "why") and (posts := find_numbers(text, context)):
            return request.with_(posts=posts)
        if intent in ("people", "groups", "why_not", "forget", "why"):
            return self._with_writer_topics(text, request.with_(query=topic or None), topic)
        if intent in ("hide", "less_like", "more_like"):  # "hide" without a post means a topic
            horizon, text = cut_horizon(text)
            topic = self._topic(text)
            name = "include" if intent == "more_like" else "exclude"
            request = Request("less_like" if intent == "hide" else intent, horizon=horizon or "always", by="classifier")
            return self._with_writer_topics(text, request.with_(**{name: split_topics(topic)}), topic)
        return request

    # --- rules ------------------------------------------------------------------------------------

    def _obvious(self, text: str, context: Context) -> Request | None:
        """Texts that need no classifier: empty, small talk, a bare reference, orders to the system. Never overruled."""
        if not re.search(r"\w", text):
            return Request("smalltalk" if text else "recommend")
        if COMMAND.search(text):
            return Request("out_of_scope")
        if len(text) > (LONG_HAN if HAN.search(text) else LONG):
            return Request("search", query=text[:QUERY].strip())
        if SMALLTALK.fullmatch(text):
            return Request("smalltalk")
        if any(pattern.search(text) for intent, pattern in POINTED if intent != "summarise"):
            return None
        references = find_references(text, context, self._by_title)
        return Request("summarise", posts=references.posts) if references.only else None

    def _by_reliable_rules(self, text: str, context: Context) -> Request | None:
        """Rules that are nearly always right when they match."""
        bare = _without_courtesies(text)
        references = find_references(bare, context, self._by_title)
        return (
            self._question(bare, references, context)
            or self._other_posts(text)
            or self._about_posts(bare, references, context)
            or self._steering(text, context)
            or (Request("out_of_scope") if first_match(OUT, text) else None)
        )

    def _bare_topic(self, text: str) -> Request | None:
        """A clause that only names a topic, like the first in "beer, but nothing about hops"."""
        topic, tokens = tidy_topic(text), tokenise(text)
        named = topic and len(tokens) <= 4 and all(word.lower() not in self._frame for word, _, _ in tokens)
        return Request("search", query=topic) if named else None

    def _by_loose_rules(self, text: str) -> Request | None:
        """Rules for plain wishes and searches, which look like many other intents."""
        bare = _without_courtesies(text)
        if first_match(RECOMMEND, bare) and not self._content_words(bare):
            return Request("recommend", kinds=cut_kinds(bare)[0], k=find_count(bare))
        return self._search(bare)

    def _question(self, text: str, references: References, context: Context) -> Request | None:
        for intent, pattern in ASKED:
            match = pattern.search(text)
            if not match:
                continue
            topic = next((value for value in match.groups() if value), "")
            if intent in ("undo", "profile"):
                return Request(intent)
            if intent in ("people", "groups"):
                arguments = (first_match(((intent, other),), text) for name, other in ASKED if name == intent)
                topics = (tidy_topic(argument[1]) for argument in arguments if argument)
                return Request(intent, query=next(filter(self._content_words, topics), None), k=find_count(text))
            inner = find_references(topic, context, self._by_title)
            if references.spoken and (intent == "why" or inner.only or not self._content_words(topic)):
                return Request(intent, posts=references.posts)
            topic = tidy_topic(WHY_NOT_TAIL.sub("", topic) if intent == "why_not" else topic)
            if intent == "why" and not self._content_words(topic):
                posts = find_numbers(text, context) or ((context.focus,) if context.focus else ())
                return Request("why", posts=posts)
            if intent == "forget" and not content_words(topic):  # without a topic, forget would delete everything
                topic = self._topic(text)
            if content_words(topic) or intent == "forget":
                return Request(intent, query=topic or None)
        return None

    def _about_posts(self, text: str, references: References, context: Context) -> Request | None:
        if not references.spoken and _NUMBERED.search(text) and not self._content_words(text):  # "hide 2"
            references = References(find_numbers(text, context), spoken=True)
        for intent, pattern in POINTED:
            if not pattern.search(text):
                continue
            if intent == "compare":
                posts = references.posts if references.spoken else find_numbers(text, context)
                if len(posts) > 1 or COMPARE.search(text):
                    return Request("compare", posts=posts)
            elif references.spoken and (references.exact or not self._content_words(pattern.sub(" ", references.rest))):
                if intent == "hide" and LIKE.search(text):
                    continue
                horizon = cut_horizon(text)[0] if intent == "hide" else None
                return Request(intent, posts=references.posts, horizon=horizon or "always")
        return None

    def _other_posts(self, text: str) -> Request | None:
        if NOT_OTHERS.search(text):
            return None
        for clause in _CLAUSE.split(text):
            if clause and OTHERS.search(clause) and not self._content_words(OTHERS.sub(" ", clause)):
                return Request("recommend", others=True, k=find_count(text))
        return None

    def _steering(self, text: str, context: Context) -> Request | None:
        """Steering by clauses: "less beer, more whisky please". A clause of topics alone continues the last one."""
        horizon, text = cut_horizon(text)
        whole = find_references(text, context, self._by_title)
        topics: dict[Intent, list[str]] = {"more_like": [], "less_like": []}
        posts: list[str] = []
        first: Intent | None = None
        search: Request | None = None
        direction: Intent | None = None
        aside = ""  # an earlier clause that asks for nothing by itself
        for clause in (_without_courtesies(part) for part in _CLAUSE.split(text) if part and part.strip()):
            if match := EXCHANGE.search(clause):
                wanted, unwanted = (
                    next(value for name, value in match.groupdict().items() if name[0] == side and value)
                    for side in "wo"
                )
                topics["more_like"].extend(split_topics(wanted))
                topics["less_like"].extend(split_topics(unwanted))
                first = first or "less_like"
            elif step := first_match(STEER, clause):
                references = find_references(step[1], context, self._by_title)
                found = split_topics(step[1])
                if (
                    not references.exact
                    and (references.only or not found)
                    and (earlier := self._topic(_PREDICATE.split(aside)[0]))
                ):
                    found = split_topics(earlier)  # "jazz is everywhere, stop showing it"
                elif references.spoken and not self._content_words(references.rest):
                    found = ()  # "that one was superb, more of those": the post named earlier is meant
                    posts.extend((references if references.exact or not whole.exact else whole).posts)
                elif not found:
                    continue
                topics[step[0]].extend(found)
                direction = step[0]
                first = first or direction
            elif direction and len(words(clause)) <= 4 and not SMALLTALK.fullmatch(clause):
                topics[direction].extend(split_topics(clause))
            elif direction is None:
                search = search or self._search(clause) or self._bare_topic(clause)
                aside = clause
        if first is None:
            return None
        request = (search or Request(first)).with_(
            include=tuple(dict.fromkeys(topics["more_like"])),
            exclude=tuple(dict.fromkeys(topics["less_like"])),
            horizon=horizon or ("now" if search else "always"),
        )
        return request if search else request.with_(posts=tuple(dict.fromkeys(posts)))

    def _search(self, text: str) -> Request | None:
        step = first_match(SEARCH, text)
        if step is None:
            return None
        argument, *without = EXCEPT.split(step[1], maxsplit=1)
        kinds, _ = cut_kinds(text)
        topic = tidy_topic(argument)
        if kinds:
            topic = tidy_topic(cut_kinds(topic)[1])
        if not topic:
            return Request("recommend", kinds=kinds, k=find_count(text))
        exclude = split_topics(without[0]) if without else ()
        return Request(
            "search", topic, exclude=exclude, horizon="now" if exclude else "always", kinds=kinds, k=find_count(text)
        )

    # --- parts ------------------------------------------------------------------------------------

    def _by_title(self, topic: str, context: Context) -> str | None:
        """The shown post whose title is meant: by shared words, else by the nearest vector; see `find_references`."""
        if not topic or not any(word not in self._edges for word in words(topic)):
            return ""  # "the same post", 你选这个: nothing is named
        if post := title_by_words(topic, context):
            return post
        titles = [context.titles.get(post, "") for post in context.shown[:MAX_TITLES]]
        try:
            vectors = self._embedder.encode([topic, *titles])
        except ModelError:
            return None
        cosines = vectors[1:] @ vectors[0]
        second, best = np.sort([-1.0, *cosines])[-2:]
        return context.shown[int(np.argmax(cosines))] if best >= max(TITLE_COSINE, second + TITLE_MARGIN) else None

    def _trimmed(self, request: Request, text: str) -> Request:
        """The request with its topics cut to whole words and trimmed of words that are never part of a topic."""
        if len(text) > LONG:
            return request
        tokens = tokenise(text)

        def trim(topic: str) -> str:
            start = text.find(topic)
            end = start + len(topic)
            inside = [token for token in tokens if token[2] > start and token[1] < end]
            if start < 0 or not inside:
                return topic
            last = inside[-1]
            while inside and inside[0][0].lower() in self._edges:
                inside = inside[1:]
            while inside and inside[-1][0].lower() in self._edges:
                inside = inside[:-1]
            if not inside:
                return ""
            # Signs after the last word belong to it: C++, C#. A word that was cut in two stays cut.
            return tidy_topic(text[max(start, inside[0][1]) : end if inside[-1] == last else inside[-1][2]])

        include, exclude = (
            tuple(dict.fromkeys(filter(None, map(trim, topics)))) for topics in (request.include, request.exclude)
        )
        return request.with_(
            include=include, exclude=exclude, query=request.query and (trim(request.query) or request.query)
        )

    def _content_words(self, text: str) -> list[str]:
        """The words of the text that the training sentences use only in topics, or not at all."""
        return [word for word in words(text) if word not in self._frame and not word.isdigit()]

    def _topic(self, text: str) -> str:
        """The longest run of content words; a single word between two of them (of, the, 的) belongs to the run."""
        runs: list[list[tuple[int, int]]] = [[]]
        gap = 0
        for word, start, end in tokenise(text):
            if word.lower() in self._frame or word.isdigit():
                gap += 1
                continue
            if gap > 1 or (runs[-1] and not text[runs[-1][-1][1] : start].replace(" ", "").isalnum() and gap):
                runs.append([])
            runs[-1].append((start, end))
            gap = 0
        best = max(runs, key=lambda run: run[-1][1] - run[0][0] if run else 0)
        return text[best[0][0] : best[-1][1]] if best else ""

    def _with_writer_topics(self, text: str, request: Request, topic: str) -> Request:
        """The request with the topics that the writer extracts; unchanged when there are none or the writer fails."""
        writer = None if topic and len(words(topic)) <= 3 else self._writer()
        if writer is None:
            return request
        try:
            messages = prompts.load("understand", detect_language(text, "en")).render(text=text, intent=request.intent)
            deadline = Deadline(threading.Event(), PATIENCE)
            asked = ChatRequest(messages, max_tokens=60, schema=_SCHEMA, cancel=deadline)
            answer = json.loads(writer.complete(asked).text)
            copied = [tidy_topic(str(item)) for item in answer["topics"]]
        except Exception:  # any failure of the model or its answer: keep the result of the rules
            return request
        # Only words of the sentence: a small model also repeats the examples of its prompt.
        topics = tuple(dict.fromkeys(item for item in copied if item and item.casefold() in text.casefold()))
        if not topics:
            return request
        if request.intent == "more_like":
            return request.with_(include=topics, by="writer")
        if request.intent == "less_like":
            return request.with_(exclude=topics, by="writer")
        return request.with_(query=" ".join(topics), by="writer")


def asks_erasure(text: str) -> bool:
    """Whether the whole message asks to delete everything that is known about the user, the account too."""
    text = _ended(_without_courtesies(_normalised(text).translate(TRADITIONAL)))
    return len(text) <= LONG and ERASE.fullmatch(text) is not None


def agrees(text: str) -> bool | None:
    """Whether a message is a clear yes or a clear no to a question; None where it is neither."""
    text = _normalised(text).translate(TRADITIONAL)[:LONG]
    if DECLINED.fullmatch(_ended(text)):
        return False
    if "?" in text or (text.endswith("吧") and UNSURE.fullmatch(text)):
        return None
    return True if AGREED.fullmatch(_ended(text)) else None


def wavers(text: str) -> bool:
    """Whether a message is about a question but neither a clear yes nor a clear no."""
    return UNSURE.fullmatch(_normalised(text).translate(TRADITIONAL)) is not None


def means_last(text: str) -> bool:
    """Whether a wish to forget speaks of what was done last."""
    return LAST.search(_normalised(text)) is not None


def _ended(text: str) -> str:
    """The sentence without the signs at its end."""
    return text.strip().rstrip(" .!?~。！？…")


def _normalised(text: str) -> str:
    """At most 2,000 characters on one line, without control characters, full-width forms and long repetitions."""
    return _FLOOD.sub(r"\1\1", " ".join(clean_text(text, MAX_TEXT).translate(_FULL_WIDTH).split()))


def _without_courtesies(text: str) -> str:
    """The sentence without polite phrases at its start."""
    for _ in range(5):
        shorter = _PREFIX.sub("", text.strip(), count=1)
        if shorter in ("", text):
            break
        text = shorter
    return text.strip()
