"""The half of a reason that is about the reader, made by code from their own acts, and the joining of both.

A language model invents acts ("you saved" for what was commented on); code cannot. The wording
varies by many hand-written forms, chosen by a hash, so that a list does not read like a form letter
and the same card always says the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from whyfeed.agent.answer import Claim, Evidence, Reason
from whyfeed.agent.reasons.checks import plain
from whyfeed.agent.reasons.clauses import Clause, shorten
from whyfeed.retrieval.community.candidate import Because
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.words import content_words

T = TypeVar("T")
Own = tuple[Because, Event, Post]  # an act of the reader's with the post that it was on
Words = tuple[str, ...]
Part = tuple[str, tuple[Evidence, ...]]  # words and what they rest on; nothing for words that claim nothing

LONGEST = 320  # characters of a reason
CLAUSE = 190  # of its half about the post
JOINED = 0.7  # share of the weightiest past post that a second one needs to be named too
WHOLE = 48  # characters of a title that two of them may have side by side
SIGNAL = 0.5  # of a signal that is strong enough to be spoken of


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that may be said about this reader and this post.

    because: the reader's own acts that raised the score, each checked by leaving it out, best first;
    interests: topics that the reader named, with the events, relevant ones first; query: what was
    asked for in words; person: the public handle of the post's author, when the reader has replied
    to them; signals and sources: those of the candidate.
    """

    post: Post
    because: tuple[tuple[Because, Event, Post | None], ...] = ()
    interests: tuple[tuple[Event, str], ...] = ()
    query: str | None = None
    person: str | None = None
    signals: Mapping[str, float] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


# The order in which acts on one post are named: what took more doing says more.
_ORDER = (
    "ask", "answer", "buy", "rate", "save", "comment", "reply", "share", "like", "listen", "read", "open", "click",
    "view",
)  # fmt: skip
_ACTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ask": (("asked {}", "brought up {}"), ("问过{}", "提出过{}")),
    "post": (("posted {}", "asked about {}", "brought up {}"), ("发过{}", "问过{}")),  # asked, but no question
    "answer": (("answered {}", "wrote an answer to {}", "replied to {}"), ("回答过{}", "给{}写过回答")),
    "comment": (("commented on {}", "joined in on {}", "left a comment on {}"), ("评论过{}", "参与过{}的讨论")),
    "reply": (("replied to {}", "wrote a reply to {}"), ("回复过{}",)),
    "save": (("saved {}", "kept {} for later", "bookmarked {}"), ("收藏过{}", "把{}存了下来")),
    "like": (("liked {}", "gave {} a like"), ("赞过{}", "喜欢过{}")),
    "share": (("shared {}", "passed {} on"), ("分享过{}", "转发过{}")),
    "buy": (("bought {}",), ("买过{}",)),
    "listen": (("listened to {}",), ("听过{}",)),
    "read": (("read {}", "have read {}"), ("读过{}", "看完了{}")),
    "open": (("opened {}",), ("打开过{}",)),
    "click": (("opened {}", "clicked on {}"), ("点开过{}",)),
    "view": (("looked at {}", "had a look at {}"), ("看过{}", "浏览过{}")),
    "rate": (("rated {}",), ("给{}打过分",)),
}  # fmt: skip
_OTHER_ACT = (("took part in {}", "were active on {}"), ("参与过{}",))

# {a} the reader's act, {T} what both posts share, {c} the clause; {A} and {C} begin a sentence.
_JOINS = (
    (
        "{A}{T}; {c}.",
        "{A}{T}, and {c}.",
        "Because {a}{T}: {c}.",
        "{C}; {a}{T}.",
        "{C}. {A}{T}.",
        "Since {a}{T}, try this: {c}.",
    ),
    (
        "{a}{T}；{c}。",
        "{a}{T}，而{c}。",
        "因为{a}{T}：{c}。",
        "{c}；{a}{T}。",
        "{c}。{a}{T}。",
        "{a}{T}，不妨看看：{c}。",
    ),
)
_NEAR = (  # only where the texts are alike, or share a topic
    ("{A}{T}. Along those lines, {c}.", "{A}{T}. Close to that, {c}.", "{A}{T}; in the same vein, {c}."),
    ("{a}{T}。相近的是，{c}。", "{a}{T}。与此相近，{c}。"),
)
_ALONE = (
    ("{A}{T}.", "Here because {a}{T}.", "This is for you because {a}{T}."),
    ("{a}{T}。", "因为{a}{T}。", "推荐它是因为{a}{T}。"),
)
_TOPICS = (
    (", also on {}", ", also about {}", ", which is about {} as well"),
    ("，也和{}有关", "，也讲到{}", "，同样谈{}"),
)
_TAGGED = (", also tagged “{}”", ", which has the tag “{}” too", ", with the same tag “{}”")
_AUTHORS = ((", also by {}", ", from {} as well"), ("，作者也是{}", "，同样出自{}"))
_QUERIES = (
    ("You asked for {}: {c}.", "You asked about {}; {c}.", "{C}, which is near your words {}.", "For {}: {c}."),
    ("你想找{}：{c}。", "你问到{}；{c}。", "{c}，和你说的{}相近。"),
)
_INTERESTS = (
    ("You named {} as an interest; {c}.", "You care about {}, you said: {c}.", "{C}, and you named {} as an interest."),
    ("你说过对{}感兴趣；{c}。", "你提到过兴趣是{}：{c}。", "{c}，而你说过对{}感兴趣。"),
)  # fmt: skip
_SIGNALS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "popular": (
        ("Much talked about here: {c}.", "People here talk about it a lot; {c}.", "{C}. It is popular here."),
        ("这里最近讨论很多：{c}。", "它在这里很热门；{c}。", "{c}，最近很受关注。"),
    ),
    "fresh": (
        ("New here: {c}.", "One of the newest here; {c}.", "{C}. It is among the latest."),
        ("刚发布不久：{c}。", "这里的新内容：{c}。", "{c}，是最近才发的。"),
    ),
    "community": (
        ("From a community that you take part in: {c}.", "It is from a community of yours; {c}."),
        ("来自你参与的社区：{c}。", "在你常去的社区里，{c}。"),
    ),
    "include": (("It is on what you want to see more of; {c}.",), ("是你想多看的内容：{c}。",)),
}  # fmt: skip
_NOTHING = (("Something for a change: {c}.", "To try something else: {c}."), ("换换口味：{c}。", "看点不一样的：{c}。"))


def explain(facts: Facts, clause: Clause | None, language: str) -> Reason:
    """A reason of at most 320 characters whose every claim has evidence.

    `language` is "en" or "zh". Without a clause (or with one that nothing in the post bears out) the
    half about the reader stands alone, and the source is "template".
    """
    told = clause if clause is not None and clause.spans else None
    parts: list[Part] = []
    for parts in _drafts(facts, told, language):
        if sum(len(words) for words, _ in parts) <= LONGEST:
            break
    text = "".join(words for words, _ in parts)
    claims = tuple(Claim(words.strip(" ,，;；"), evidence) for words, evidence in parts if evidence)
    return Reason(text, "zh" if language == "zh" else "en", told.source if told is not None else "template", claims)


# ---- inside ----


def _drafts(facts: Facts, clause: Clause | None, language: str) -> Iterator[list[Part]]:
    """Drafts of a reason, each shorter than the one before."""
    zh = language == "zh"
    said = _clause_part(facts.post, clause)
    own = _own_posts(facts.because)
    if not own:
        for limit in (60, 30):
            yield _without_history(facts, said, zh, limit)
        return
    joined = len(own) > 1 and own[1][0].share >= JOINED * own[0][0].share
    joined = joined and all(len(_line(past.label)) <= WHOLE for _, _, past in own[:2])
    for many, limit in ((joined, 70), (False, 70), (False, 40), (False, 20)):
        named = own[:2] if many else own[:1]
        key = f"{named[0][1].id}|{facts.post.id}"
        # Behind two titles, "also on" would not say which of them is meant.
        shared = _shared(facts, named[0], zh, key) if not many and limit > 20 else ("", ())
        parts = {"a": _act_part(named, facts.post, limit, zh, key), "T": shared, "c": said}
        near = bool(shared[0]) or all(found.via == "text" for found, _, _ in named)
        forms = (_JOINS[zh] + (_NEAR[zh] if near else ())) if said[0] else _ALONE[zh]
        yield _fill(_pick(forms, key + "|join"), parts)


def _without_history(facts: Facts, said: Part, zh: bool, limit: int) -> list[Part]:
    key = facts.post.id
    if facts.query and facts.query.strip():
        evidence = Evidence("signal", id="query", value=facts.signals.get("query"))
        return _fill(_form(_QUERIES, key, zh, said), {"": (_quoted(facts.query, limit), (evidence,)), "c": said})
    for event, topic in facts.interests:
        if topic.strip():
            words = _quoted(topic, limit) if zh else shorten(_line(topic), limit)
            part = (words, (Evidence("event", id=event.id, post=event.post),))
            return _fill(_form(_INTERESTS, key, zh, said), {"": part, "c": said})
    strong = [name for name in ("include", "popular", "fresh") if facts.signals.get(name, 0.0) >= SIGNAL]
    strong.sort(key=lambda name: -facts.signals[name])
    if not strong and facts.signals.get("community", 0.0) > 0:
        strong = ["community"]
    if strong:
        form = _form(_SIGNALS[strong[0]], key, zh, said)
        evidence = Evidence("signal", id=strong[0], value=facts.signals[strong[0]])
        return _fill(form, {"c": said}, head=(evidence,))
    return _fill(_form(_NOTHING, key, zh, said), {"c": said})


def _form(forms: tuple[tuple[str, ...], tuple[str, ...]], key: str, zh: bool, said: Part) -> str:
    """One of the forms; without a clause the first, which ends with the clause, cut short of it."""
    return _pick(forms[zh], key) if said[0] else re.sub(r"[:：;；] ?\{c\}", "", forms[zh][0])


def _fill(form: str, parts: Mapping[str, Part], head: tuple[Evidence, ...] = ()) -> list[Part]:
    """The form with its places filled. `head` is the evidence of the form's own words."""
    filled: list[Part] = []
    for piece in re.split(r"(\{\w?\})", form):
        if not piece:
            continue
        if piece.startswith("{"):
            name = piece[1:-1]
            words, evidence = parts[name if name in parts else name.lower()]
            if name in "AC" and name:
                words = words[:1].upper() + words[1:]
            if words:
                filled.append((words, evidence))
        else:
            # “… exist?”. would end twice.
            if filled and piece[0] in ".。" and re.search(r"[?？!！…。.]”$", filled[-1][0]):
                piece = piece[1:]
            if piece:
                filled.append((piece, head if re.search(r"\w", piece) else ()))
    return filled


def _own_posts(because: Sequence[tuple[Because, Event, Post | None]]) -> list[Own]:
    """The weightiest act on each past post that can be named, best post first."""
    by_post: dict[str, list[Own]] = {}
    for found, event, past in because:
        if past is not None and _line(past.label):
            by_post.setdefault(past.id, []).append((found, event, past))
    return [
        min(acts, key=lambda own: _ORDER.index(own[1].kind) if own[1].kind in _ORDER else 99)
        for acts in by_post.values()
    ]


def _act_part(named: Sequence[Own], post: Post, limit: int, zh: bool, key: str) -> Part:
    evidence = tuple(Evidence("event", id=event.id, post=event.post) for _, event, _ in named)
    titles = [_title(past, limit, zh) for _, _, past in named]
    kinds = [event.kind for _, event, _ in named]
    year = None if len(named) == 2 else _year(named[0][1], post)
    if len(named) == 2 and kinds[0] == kinds[1] != "rate":
        both = f"{titles[0]}和{titles[1]}" if zh else f"{titles[0]} and {titles[1]}"
        said = _verb(named[0][1], named[0][2], key, zh).replace("{}", both)
    else:
        acts = [_verb(own[1], own[2], key, zh).replace("{}", title) for own, title in zip(named, titles, strict=True)]
        said = ("，也" if zh else " and ").join(acts)
    if zh:
        return (f"你在 {year} 年{said}" if year else f"你{said}"), evidence
    return (f"in {year} you {said}" if year else f"you {said}"), evidence


def _verb(event: Event, past: Post, key: str, zh: bool) -> str:
    if event.kind == "rate" and event.value is not None:
        return f"给{{}}打过 {event.value:g} 分" if zh else f"gave {{}} a {event.value:g}"
    kind = "post" if event.kind == "ask" and not past.title.rstrip("\"'”’ )").endswith(("?", "？")) else event.kind
    return _pick(_ACTS.get(kind, _OTHER_ACT)[zh], key + "|act")


def _year(event: Event, post: Post) -> int | None:
    """The year of an act, where it lies so far before the post that the reader may wonder."""
    if event.time is None or post.created_at is None or not 3e7 < event.time < post.created_at - 2 * 365 * 86_400:
        return None
    try:
        return datetime.fromtimestamp(event.time, UTC).year
    except (OverflowError, OSError, ValueError):
        return None


def _shared(facts: Facts, own: Own, zh: bool, key: str) -> Part:
    """What both posts have in common: their author, when the reader has replied to them, else a topic."""
    found, event, past = own
    act = Evidence("event", id=event.id, post=event.post)
    if found.via == "people" and facts.person and facts.post.author and facts.post.author == past.author:
        author = Evidence("span", post=facts.post.id, field="author", start=0, end=len(facts.post.author))
        name = shorten(_line(facts.person), 30)
        return _pick(_AUTHORS[zh], key + "|author").replace("{}", f" {name}" if zh else name), (act, author)
    topic = _topic(past, facts.post)
    if topic is None:
        return "", ()
    words, span = topic
    spaced = f" {words} " if zh and words.isascii() else words
    forms = _TAGGED if span.field == "tags" and not zh else _TOPICS[zh]
    return _pick(forms, key + "|topic").replace("{}", spaced).rstrip(), (act, span)


def _topic(past: Post, post: Post) -> tuple[str, Evidence] | None:
    """A tag of both posts (rather one that the past title lacks), or a word of both titles, and its place in `post`."""
    theirs = {tag.casefold() for tag in past.tags}
    common = [tag for tag in post.tags if tag.casefold() in theirs and not _is_everywhere(tag, post.community)]
    common.sort(key=lambda tag: tag.replace("-", " ").casefold() in past.title.casefold())
    for tag in common:
        words = _line(tag.replace("-", " "))
        # A text may be about "quantum gates", not about "quantum gate".
        spoken = words if not words.isascii() or re.search(r"[^s]s$|ing$", words) else f"{words}s"
        for name, text in (("title", post.title), ("text", post.text)):
            if match := re.search(rf"(?<!\w){re.escape(spoken)}(?!\w)", text, re.IGNORECASE):
                return spoken, Evidence("span", post=post.id, field=name, start=match.start(), end=match.end())
        start = len(", ".join((*post.tags[: post.tags.index(tag)], "")))
        return words, Evidence("span", post=post.id, field="tags", start=start, end=start + len(tag))
    # A word of both titles is a topic when it is a tag too ("state" is none for "quantum-state"), or nobody gave tags.
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
    """Does a topic only say which community this is ("quantum computer" in quantumcomputing)? Absurd ones go too."""
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


def _title(post: Post, limit: int, zh: bool) -> str:
    title = shorten(plain(post.label) or _line(post.label), limit)
    if zh:
        return f"《{title.translate(_BOOK)}》"
    return f"“{title.translate(_INNER)}”"


def _quoted(text: str, limit: int) -> str:
    return f"“{shorten(_line(text), limit).translate(_INNER)}”"


_INNER = str.maketrans({'"': "'", "“": "‘", "”": "’", "„": "‘", "«": "‘", "»": "’"})
_BOOK = str.maketrans({"《": "〈", "》": "〉"})


def _line(text: str) -> str:
    return " ".join(text.split())


def _pick(forms: Sequence[T], key: str) -> T:
    """One of the forms, always the same for a key."""
    return forms[
        int.from_bytes(hashlib.blake2b(key.encode(errors="replace"), digest_size=4).digest(), "big") % len(forms)
    ]
