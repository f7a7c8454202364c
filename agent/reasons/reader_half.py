"""The half of a reason about the user, built by code from their own events, and the joining with the clause.

A language model invents events ("you saved" for a post that was commented on); code does not. The wording is one of
many hand-written variants, chosen by a hash: a list does not read like a form letter, and the same card always has the
same text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

from whyfeed.agent.answer import Claim, Evidence, Reason
from whyfeed.agent.phrases import forms, quoted, say
from whyfeed.agent.reasons.checks import plain
from whyfeed.agent.reasons.clauses import Clause, shorten
from whyfeed.retrieval.community.candidate import Because
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.language import Language
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.words import content_words

Own = tuple[Because, Event, Post]  # one of the user's own events with its post
Words = tuple[str, ...]
Part = tuple[str, tuple[Evidence, ...]]  # words and their evidence; no evidence for words that claim nothing

LONGEST = 320  # characters of a reason
CLAUSE = 190  # characters of its clause
JOINED = 0.7  # a second past post is named when its share is at least this part of the largest
WHOLE = 48  # characters of a title of which two may be named side by side
SIGNAL = 0.5  # least value of a signal that is mentioned


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that may be said about this user and this post.

    because: the user's own events that raised the score, each checked by leaving it out, best first; interests: topics
    that the user named, with the events, relevant ones first; query: the request in words; person: the public name of
    the post's author, when the user has replied to them; signals and sources: those of the candidate.
    """

    post: Post
    because: tuple[tuple[Because, Event, Post | None], ...] = ()
    interests: tuple[tuple[Event, str], ...] = ()
    query: str | None = None
    person: str | None = None
    signals: Mapping[str, float] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


# The order in which events on one post are named: the more effort, the earlier.
_ORDER = (
    "ask", "answer", "buy", "rate", "save", "comment", "reply", "share", "like", "listen", "read", "open", "click",
    "view",
)  # fmt: skip


def explain(facts: Facts, clause: Clause | None, language: str) -> Reason:
    """A reason of at most 320 characters in which every claim has evidence.

    `language` is "en" or "zh". Without a clause, or with one without supporting spans, the half about the user stands
    alone and the source is "template".
    """
    told = clause if clause is not None and clause.spans else None
    parts: list[Part] = []
    for parts in _drafts(facts, told, language):
        if sum(len(words) for words, _ in parts) <= LONGEST:
            break
    text = "".join(words for words, _ in parts)
    claims = tuple(Claim(words.strip(" ,，;；"), evidence) for words, evidence in parts if evidence)
    return Reason(text, cast(Language, language), told.source if told is not None else "template", claims)


# ---- inside ----


def _drafts(facts: Facts, clause: Clause | None, language: str) -> Iterator[list[Part]]:
    """Variants of a reason, each shorter than the one before."""
    said = _clause_part(facts.post, clause)
    own = _own_posts(facts.because)
    if not own:
        for limit in (60, 30):
            yield _without_history(facts, said, language, limit)
        return
    joined = len(own) > 1 and own[1][0].share >= JOINED * own[0][0].share
    joined = joined and all(len(_line(past.label)) <= WHOLE for _, _, past in own[:2])
    for many, limit in ((joined, 70), (False, 70), (False, 40), (False, 20)):
        named = own[:2] if many else own[:1]
        key = f"{named[0][1].id}|{facts.post.id}"
        # After two titles, "also on" would be ambiguous.
        shared = _shared(facts, named[0], language, key) if not many and limit > 20 else ("", ())
        parts = {"act": _act_part(named, facts.post, limit, language, key), "shared": shared, "clause": said}
        ways = forms("reason.join" if said[0] else "reason.alone", language)
        if said[0] and (shared[0] or all(found.via == "text" for found, _, _ in named)):
            ways += forms("reason.near", language)  # only where the texts are alike, or share a topic
        yield _fill(_pick(ways, key + "|join"), parts)


def _without_history(facts: Facts, said: Part, language: str, limit: int) -> list[Part]:
    key = facts.post.id
    if facts.query and facts.query.strip():
        evidence = Evidence("signal", id="query", value=facts.signals.get("query"))
        asked = (quoted(shorten(_line(facts.query), limit), language), (evidence,))
        return _fill(_form("reason.query", key, language, said), {"words": asked, "clause": said})
    for event, topic in facts.interests:
        if topic.strip():
            named = quoted(shorten(_line(topic), limit), language, "interest")
            part = (named, (Evidence("event", id=event.id, post=event.post),))
            return _fill(_form("reason.interest", key, language, said), {"words": part, "clause": said})
    strong = [name for name in ("include", "popular", "fresh") if facts.signals.get(name, 0.0) >= SIGNAL]
    strong.sort(key=lambda name: -facts.signals[name])
    if not strong and facts.signals.get("community", 0.0) > 0:
        strong = ["community"]
    if strong:
        form = _form(f"reason.signal.{strong[0]}", key, language, said)
        evidence = Evidence("signal", id=strong[0], value=facts.signals[strong[0]])
        return _fill(form, {"clause": said}, head=(evidence,))
    return _fill(_form("reason.nothing", key, language, said), {"clause": said})


def _form(text: str, key: str, language: str, said: Part) -> str:
    """One of the variants; without a clause the first, whose clause is at the end and is cut off."""
    ways = forms(text, language)
    return _pick(ways, key) if said[0] else re.sub(r"[^\w\s{}]\s?\{clause\}", "", ways[0])


def _fill(form: str, parts: Mapping[str, Part], head: tuple[Evidence, ...] = ()) -> list[Part]:
    """The variant with its placeholders filled. `head` is the evidence for the variant's own words."""
    filled: list[Part] = []
    for piece in re.split(r"(\{\w+\})", form):
        if not piece:
            continue
        if piece.startswith("{"):
            name = piece[1:-1]
            words, evidence = parts[name.lower()]
            if name[0].isupper():
                words = words[:1].upper() + words[1:]
            if words:
                filled.append((words, evidence))
        else:
            # “… exist?”. would have two end marks.
            if filled and piece[0] in ".。" and re.search(r"[?？!！…。.]”$", filled[-1][0]):
                piece = piece[1:]
            if piece:
                filled.append((piece, head if re.search(r"\w", piece) else ()))
    return filled


def _own_posts(because: Sequence[tuple[Because, Event, Post | None]]) -> list[Own]:
    """The most telling event on each past post that can be named, best post first."""
    by_post: dict[str, list[Own]] = {}
    for found, event, past in because:
        if past is not None and _line(past.label):
            by_post.setdefault(past.id, []).append((found, event, past))
    return [
        min(acts, key=lambda own: _ORDER.index(own[1].kind) if own[1].kind in _ORDER else 99)
        for acts in by_post.values()
    ]


def _act_part(named: Sequence[Own], post: Post, limit: int, language: str, key: str) -> Part:
    evidence = tuple(Evidence("event", id=event.id, post=event.post) for _, event, _ in named)
    titles = [_title(past, limit, language) for _, _, past in named]
    kinds = [event.kind for _, event, _ in named]
    year = None if len(named) == 2 else _year(named[0][1], post)
    if len(named) == 2 and kinds[0] == kinds[1] != "rate":
        both = say("reason.titles", language, first=titles[0], second=titles[1])
        said = _act(named[0][1], named[0][2], both, key, language)
    else:
        acts = [_act(own[1], own[2], title, key, language) for own, title in zip(named, titles, strict=True)]
        said = acts[0] if len(acts) == 1 else say("reason.acts", language, first=acts[0], second=acts[1])
    whole = say("reason.you.year", language, year=year, act=said) if year else say("reason.you", language, act=said)
    return whole, evidence


def _act(event: Event, past: Post, title: str, key: str, language: str) -> str:
    """The words for what the user did with a past post; `title` names that post, or two of them."""
    if event.kind == "rate" and event.value is not None:
        return say("reason.rated", language, title=title, value=f"{event.value:g}")
    kind = "post" if event.kind == "ask" and not past.title.rstrip("\"'”’ )").endswith(("?", "？")) else event.kind
    ways = forms(f"act.{kind}", language) or forms("act.other", language)
    return _pick(ways, key + "|act").format(title=title)


def _year(event: Event, post: Post) -> int | None:
    """The year of an event that lies more than two years before the post; None for others."""
    if event.time is None or post.created_at is None or not 3e7 < event.time < post.created_at - 2 * 365 * 86_400:
        return None
    try:
        return datetime.fromtimestamp(event.time, UTC).year
    except (OverflowError, OSError, ValueError):
        return None


def _shared(facts: Facts, own: Own, language: str, key: str) -> Part:
    """What both posts have in common: their author, when the user has replied to them, else a topic."""
    found, event, past = own
    act = Evidence("event", id=event.id, post=event.post)
    if found.via == "people" and facts.person and facts.post.author and facts.post.author == past.author:
        author = Evidence("span", post=facts.post.id, field="author", start=0, end=len(facts.post.author))
        name = shorten(_line(facts.person), 30)
        return _pick(forms("reason.author", language), key + "|author").format(author=name), (act, author)
    topic = _topic(past, facts.post)
    if topic is None:
        return "", ()
    words, span = topic
    spaced = say("join.latin", language, words=words) if words.isascii() else words
    ways = forms("reason.tag" if span.field == "tags" else "reason.topic", language)
    return _pick(ways, key + "|topic").format(topic=spaced).rstrip(), (act, span)


def _topic(past: Post, post: Post) -> tuple[str, Evidence] | None:
    """A tag of both posts (preferably not in the past title) or a word of both titles, with its place in `post`."""
    theirs = {tag.casefold() for tag in past.tags}
    common = [tag for tag in post.tags if tag.casefold() in theirs and not _is_everywhere(tag, post.community)]
    common.sort(key=lambda tag: tag.replace("-", " ").casefold() in past.title.casefold())
    for tag in common:
        words = _line(tag.replace("-", " "))
        # People write about "quantum gates", not about "quantum gate".
        spoken = words if not words.isascii() or re.search(r"[^s]s$|ing$", words) else f"{words}s"
        for name, text in (("title", post.title), ("text", post.text)):
            if match := re.search(rf"(?<!\w){re.escape(spoken)}(?!\w)", text, re.IGNORECASE):
                return spoken, Evidence("span", post=post.id, field=name, start=match.start(), end=match.end())
        start = len(", ".join((*post.tags[: post.tags.index(tag)], "")))
        return words, Evidence("span", post=post.id, field="tags", start=start, end=start + len(tag))
    # A word of both titles is a topic when it is also a tag ("state" is not, "quantum-state" is), or without any tags.
    tags = [content_words(tag) for tag in post.tags + past.tags]
    topical = {tag[0] for tag in tags if len(tag) == 1}
    for word in sorted(set(content_words(past.title)) & set(content_words(post.title)), key=lambda w: (-len(w), w)):
        if (tags and word not in topical) or _is_everywhere(word, post.community) or len(word) < 2 + 3 * word.isascii():
            continue
        pattern = rf"(?<![^\W_]){re.escape(word)}(?![^\W_])" if word.isascii() else re.escape(word)
        if match := re.search(pattern, post.title, re.IGNORECASE):
            return word, Evidence("span", post=post.id, field="title", start=match.start(), end=match.end())
    return None


def _is_everywhere(topic: str, community: str) -> bool:
    """Does a topic only name the community ("quantum computer" in quantumcomputing)? Also true for unusable topics."""
    letters = re.sub(r"[\W_]+", "", topic).casefold()
    whole = re.sub(r"[\W_]+", "", community).casefold()
    return not letters or len(topic) > 30 or (bool(whole) and whole.startswith(letters[: max(4, len(letters) - 2)]))


def _clause_part(post: Post, clause: Clause | None) -> Part:
    if clause is None:
        return "", ()
    spans = tuple(
        Evidence("span", post=post.id, field=field, start=start, end=end) for field, start, end in clause.spans
    )
    return shorten(_line(clause.text), CLAUSE), spans


def _title(post: Post, limit: int, language: str) -> str:
    return quoted(shorten(plain(post.label) or _line(post.label), limit), language, "title")


def _line(text: str) -> str:
    return " ".join(text.split())


def _pick(forms: Sequence[str], key: str) -> str:
    """One of the variants, always the same for a key."""
    return forms[
        int.from_bytes(hashlib.blake2b(key.encode(errors="replace"), digest_size=4).digest(), "big") % len(forms)
    ]
