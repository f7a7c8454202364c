from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whyfeed.agent.answer import Evidence, Reason
from whyfeed.agent.reasons.clauses import Clause
from whyfeed.agent.reasons.reader_half import LONGEST, Facts, explain
from whyfeed.retrieval.community.candidate import Because
from whyfeed.retrieval.event import INTEREST, Event
from whyfeed.retrieval.post import Post

BARS = Post(
    "bars",
    title="Craft beer bars",
    text="Brewerkz and Jungle Beer are in Singapore. All of them care for taste.",
    author="u9",
    community="alcohol",
    tags=("bars", "taste"),
    created_at=datetime(2017, 5, 1, tzinfo=UTC).timestamp(),
)
CLAUSE = Clause("bars", "en", "this post lists craft beer bars in Singapore", "llm", (("text", 0, 42),))
ZH = Clause("bars", "zh", "这篇帖子列出了新加坡的精酿酒吧", "llm", (("text", 0, 42),))
BLENDS = Post("blends", title="Do beer blends exist?", community="alcohol", tags=("taste", "blends"), author="u7")
ICE = Post("ice", title="Why do stouts foam over ice cream?", community="alcohol", tags=("foam",))


def act(
    past: Post | None, kind: str, share: float = 1.0, via: str = "text", id: str = "e1", **more: object
) -> tuple[Because, Event, Post | None]:
    post = "gone" if past is None else past.id
    return Because(id, post, share, via), Event(id, "me", post, kind, **more), past  # type: ignore[arg-type]


def evidence(reason: Reason) -> list[Evidence]:
    return [item for claim in reason.claims for item in claim.evidence]


def reasons(facts: Facts, clause: Clause | None, language: str, count: int = 60) -> list[Reason]:
    """The same facts about many posts, so that many forms are seen."""
    out = []
    for number in range(count):
        post = Post.from_row({**facts.post.to_row(), "id": f"{facts.post.id}{number}"})
        varied = Facts(post, facts.because, facts.interests, facts.query, facts.person, facts.signals, facts.sources)
        out.append(explain(varied, clause, language))
    return out


# ---- what is said ----


def test_a_reason_names_the_own_act_the_shared_topic_and_what_the_post_says() -> None:
    reason = explain(Facts(BARS, (act(BLENDS, "answer"),)), CLAUSE, "en")
    assert "“Do beer blends exist?”" in reason.text
    assert "taste" in reason.text
    assert "this post lists craft beer bars in Singapore" in reason.text.lower().replace("singapore", "Singapore")
    assert (reason.source, reason.language) == ("llm", "en")
    assert Evidence("event", id="e1", post="blends") in evidence(reason)
    assert Evidence("span", post="bars", field="text", start=0, end=42) in evidence(reason)
    shared = next(claim for claim in reason.claims if "taste" in claim.text)
    span = next(item for item in shared.evidence if item.type == "span")
    assert BARS.words_of(span.field)[span.start : span.end] == "taste"


def test_the_same_in_chinese() -> None:
    reason = explain(Facts(BARS, (act(BLENDS, "answer"),)), ZH, "zh")
    assert "《Do beer blends exist?》" in reason.text
    assert "taste" in reason.text
    assert "这篇帖子列出了新加坡的精酿酒吧" in reason.text
    assert reason.text.startswith(("你", "因", "这"))


TRUE_WORDS = {
    "ask": ("asked", "brought up"),
    "answer": ("answered", "answer to", "replied to"),
    "comment": ("commented", "joined in on", "comment on"),
    "save": ("saved", "kept", "bookmarked"),
    "like": ("liked", "a like"),
    "buy": ("bought",),
    "listen": ("listened",),
    "read": ("read",),
}


@pytest.mark.parametrize("kind", TRUE_WORDS)
def test_the_act_is_named_truly(kind: str) -> None:
    said = {reason.text for reason in reasons(Facts(BARS, (act(BLENDS, kind),)), CLAUSE, "en")}
    assert all(any(word in text for word in TRUE_WORDS[kind]) for text in said)
    others = [word for other, words in TRUE_WORDS.items() if other != kind for word in words if word != "read"]
    if kind != "answer":  # "replied to" and "answer" are told apart by nobody
        assert not any(word in text for text in said for word in others)


def test_a_rating_is_said_with_its_value() -> None:
    assert (
        "gave “Do beer blends exist?” a 4.5"
        in explain(Facts(BARS, (act(BLENDS, "rate", value=4.5),)), CLAUSE, "en").text
    )
    assert (
        "给《Do beer blends exist?》打过 4.5 分"
        in explain(Facts(BARS, (act(BLENDS, "rate", value=4.5),)), ZH, "zh").text
    )


def test_a_statement_is_not_asked() -> None:
    past = Post("past", title="Crash course to serving keg beer")
    said = [reason.text for reason in reasons(Facts(BARS, (act(past, "ask"),)), CLAUSE, "en")]
    assert not any("asked “" in text for text in said)


def test_two_acts_on_one_post_are_one_mention_of_the_greater() -> None:
    facts = Facts(BARS, (act(BLENDS, "comment", id="e1"), act(BLENDS, "ask", id="e2")))
    for reason in reasons(facts, CLAUSE, "en"):
        assert reason.text.count("Do beer blends exist?") == 1
        assert {item.id for item in evidence(reason) if item.type == "event"} == {"e2"}


def test_two_past_posts_are_joined_when_both_matter() -> None:
    both = Facts(BARS, (act(BLENDS, "answer", 1.0), act(ICE, "ask", 0.9, id="e2")))
    one = Facts(BARS, (act(BLENDS, "answer", 1.0), act(ICE, "ask", 0.2, id="e2")))
    for reason in reasons(both, CLAUSE, "en"):
        assert BLENDS.title in reason.text
        assert ICE.title in reason.text
        assert {item.id for item in evidence(reason) if item.type == "event"} == {"e1", "e2"}
    assert all(ICE.title not in reason.text for reason in reasons(one, CLAUSE, "en"))


def test_a_topic_is_only_claimed_where_both_posts_have_it() -> None:
    past = Post("past", title="Do kosher beers exist?", tags=("kosher",), community="alcohol")
    for reason in reasons(Facts(BARS, (act(past, "answer"),)), CLAUSE, "en"):
        assert len(reason.claims) == 2
        assert "also" not in reason.text
        assert "as well" not in reason.text


@pytest.mark.parametrize(("tags", "named"), [(("qubit-state",), False), (("qubit-state", "state"), True), ((), True)])
def test_a_word_of_both_titles_is_a_topic_where_it_is_a_tag_of_its_own(tags: tuple[str, ...], named: bool) -> None:
    past = Post("past", title="The state of a cluster", tags=tags[:1], community="qc")
    post = Post("new", title="What is a mixed state?", tags=tags[1:], community="qc")
    clause = Clause("new", "en", "this post asks what a mixed one is", "llm", (("title", 0, 22),))
    for reason in reasons(Facts(post, (act(past, "answer"),)), clause, "en"):
        assert any(words in reason.text for words in ("also on state", "also about state", "about state")) == named


@pytest.mark.parametrize(
    ("tag", "title", "said", "field"),
    [
        ("quantum-gate", "Which quantum gates are universal?", "quantum gates", "title"),
        ("quantum-gate", "What is a quantum gate?", "“quantum gate”", "tags"),
        ("home-brewing", "Is home brewing hard?", "home brewing", "title"),
        ("chemistry", "Is chemistry hard?", "“chemistry”", "tags"),
    ],
)
def test_a_topic_is_said_in_words_that_a_sentence_can_hold_else_as_the_tag_it_is(
    tag: str, title: str, said: str, field: str
) -> None:
    past = Post("past", title="Something else", tags=(tag,), community="qc")
    clause = Clause("new", "en", "this post asks a question", "llm", (("title", 0, 5),))
    for reason in reasons(Facts(Post("new", title=title, tags=("x", tag)), (act(past, "answer"),)), clause, "en"):
        assert said in reason.text
        assert {item.field for item in evidence(reason) if item.type == "span"} == {"title", field}


def test_the_name_of_the_community_is_no_topic() -> None:
    past = Post("a", title="Shor's algorithm", tags=("quantum-computer",), community="quantumcomputing")
    post = Post(
        "b",
        title="Grover",
        text="A quantum computer searches.",
        tags=("quantum-computer",),
        community="quantumcomputing",
    )
    clause = Clause("b", "en", "this post is on Grover", "llm", (("title", 0, 6),))
    assert "quantum computer" not in explain(Facts(post, (act(past, "answer"),)), clause, "en").text


def test_the_author_is_named_only_from_the_reader_s_own_replies() -> None:
    past = Post("past", title="Do kosher beers exist?", author="u9")
    named = explain(Facts(BARS, (act(past, "comment", via="people"),), person="Ada"), CLAUSE, "en")
    assert "Ada" in named.text
    claim = next(claim for claim in named.claims if "Ada" in claim.text)
    assert {item.type for item in claim.evidence} == {"event", "span"}
    stranger = explain(Facts(BARS, (act(BLENDS, "comment", via="people"),), person="Ada"), CLAUSE, "en")
    assert "Ada" not in stranger.text


def test_a_year_is_said_when_the_act_is_long_past() -> None:
    old = datetime(2014, 3, 1, tzinfo=UTC).timestamp()
    assert "2014" in explain(Facts(BARS, (act(BLENDS, "answer", time=old),)), CLAUSE, "en").text
    assert "2014 年" in explain(Facts(BARS, (act(BLENDS, "answer", time=old),)), ZH, "zh").text
    assert "201" not in explain(Facts(BARS, (act(BLENDS, "answer", time=BARS.created_at),)), CLAUSE, "en").text
    assert "19" not in explain(Facts(BARS, (act(BLENDS, "answer", time=3.0),)), CLAUSE, "en").text


# ---- without a history ----


def test_without_history_the_words_that_were_asked_count() -> None:
    reason = explain(Facts(BARS, query='craft "beer"', signals={"query": 0.8, "popular": 0.9}), CLAUSE, "en")
    assert "“craft 'beer'”" in reason.text
    assert Evidence("signal", id="query", value=0.8) in evidence(reason)


def test_then_a_named_interest() -> None:
    event = Event("e5", "me", "", "interest", text="craft beer")
    facts = Facts(BARS, interests=((event, "craft beer"),), signals={"popular": 0.9})
    assert Evidence("event", id="e5") in evidence(explain(facts, CLAUSE, "en"))
    assert "craft beer" in explain(facts, ZH, "zh").text


@pytest.mark.parametrize("name", ["fresh", "popular", "include"])
def test_then_what_is_known_of_the_post(name: str) -> None:
    facts = Facts(BARS, signals={"fresh": 0.1, "popular": 0.1, "include": 0.0, name: 0.9})
    for language, clause in (("en", CLAUSE), ("zh", ZH)):
        assert Evidence("signal", id=name, value=0.9) in evidence(explain(facts, clause, language))


def test_where_nothing_is_known_nothing_is_claimed_about_the_reader() -> None:
    reason = explain(Facts(BARS), CLAUSE, "en")
    assert [claim.evidence[0].type for claim in reason.claims] == ["span"]


def test_a_past_post_that_is_gone_is_not_named() -> None:
    reason = explain(Facts(BARS, (act(None, "answer"),), signals={"popular": 0.8}), CLAUSE, "en")
    assert all(item.type != "event" for item in evidence(reason))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(
    "clause", [None, Clause("bars", "en", "this post has no words of its own to quote", "extract", ())]
)
def test_without_a_clause_the_reader_s_half_stands_alone(language: str, clause: Clause | None) -> None:
    event = Event("e5", "me", "", "interest", text="tea")
    for facts in (
        Facts(BARS, (act(BLENDS, "answer"),)),
        Facts(BARS, query="tea"),
        Facts(BARS, interests=((event, "tea"),)),
        Facts(BARS, signals={"popular": 0.9}),
        Facts(BARS),
    ):
        for reason in reasons(facts, clause, language, 12):
            assert reason.source == "template"
            assert "{" not in reason.text
            assert "this post" not in reason.text
            assert reason.text.endswith((".", "。", "”"))


# ---- how it is said ----


@pytest.mark.parametrize(("clause", "language"), [(CLAUSE, "en"), (ZH, "zh")])
def test_five_cards_do_not_read_the_same_and_a_card_always_does(clause: Clause, language: str) -> None:
    said = [reason.text for reason in reasons(Facts(BARS, (act(BLENDS, "answer"),)), clause, language, 20)]
    assert len(set(said)) >= 10
    assert said == [reason.text for reason in reasons(Facts(BARS, (act(BLENDS, "answer"),)), clause, language, 20)]


@pytest.mark.parametrize(
    "title",
    [
        "What? Why…",
        'He said "no" to “beer”',
        "<b>bold</b> & <script>",
        "如何酿造《世涛》啤酒？",
        "x" * 300,
        "word " * 60,
        "Ends in a dot.",
    ],
)
@pytest.mark.parametrize(("clause", "language"), [(CLAUSE, "en"), (ZH, "zh")])
def test_any_title_makes_a_sentence(title: str, clause: Clause, language: str) -> None:
    past = Post("past", title=title)
    for reason in reasons(Facts(BARS, (act(past, "answer"),)), clause, language, 20):
        for pair in ("“”", "《》"):
            assert reason.text.count(pair[0]) == reason.text.count(pair[1]) <= 1
        assert not any(
            twice in reason.text for twice in ("..", "。。", "??", ",,", "，，", " ,", " ;", "  ", "?”.", "？”。")
        )
        assert reason.text[-1] in ".。”"
        assert len(reason.text) <= LONGEST


def test_an_extract_ends_once() -> None:
    clause = Clause("bars", "en", "this post asks, “Where are the bars?”", "extract", (("text", 0, 5),))
    said = reasons(Facts(BARS, (act(BLENDS, "answer"),)), clause, "en")
    assert all("?”." not in reason.text for reason in said)
    assert all(reason.source == "extract" for reason in said)


words = st.text(max_size=400)
pasts = st.builds(
    Post,
    id=st.sampled_from(["a", "b", "c"]),
    title=words,
    text=words,
    tags=st.lists(st.text(min_size=1, max_size=60), max_size=3).map(tuple),
    author=st.sampled_from(["", "u1", "u2"]),
    community=st.sampled_from(["", "alcohol"]),
    created_at=st.none() | st.floats(0, 4e9),
)
acts = st.tuples(
    pasts | st.none(),
    st.sampled_from([*INTEREST, "juggle"]),
    st.floats(0, 5),
    st.sampled_from(["text", "cooccurrence", "people", "community"]),
    st.none() | st.floats(-1e12, 1e12),
    st.none() | st.floats(0, 5),
)


@given(
    post=pasts,
    history=st.lists(acts, max_size=4),
    query=st.none() | words,
    named=st.lists(words, max_size=2),
    person=st.none() | words,
    signals=st.dictionaries(st.sampled_from(["fresh", "popular", "community", "query", "include"]), st.floats(0, 1)),
    said=st.none() | words,
    language=st.sampled_from(["en", "zh"]),
)
def test_every_claim_is_in_the_text_and_rests_on_this_reader_and_this_post(
    post: Post,
    history: list[tuple[Post | None, str, float, str, float | None, float | None]],
    query: str | None,
    named: list[str],
    person: str | None,
    signals: dict[str, float],
    said: str | None,
    language: str,
) -> None:
    because = tuple(
        (Because(f"e{place}", "" if past is None else past.id, share, via), Event(
            f"e{place}", "me", "" if past is None else past.id, kind, time, value), past)
        for place, (past, kind, share, via, time, value) in enumerate(history)
    )  # fmt: skip
    interests = tuple(
        (Event(f"i{place}", "me", "", "interest", text=topic), topic) for place, topic in enumerate(named)
    )
    clause = None if said is None else Clause(post.id, language, said, "llm", (("title", 0, len(post.title)),))
    reason = explain(Facts(post, because, interests, query, person, signals), clause, language)
    assert 0 < len(reason.text) <= LONGEST
    own = {event.id: event.post for _, event, _ in because} | {event.id: "" for event, _ in interests}
    for claim in reason.claims:
        assert claim.text
        assert claim.text in reason.text
        assert claim.evidence
        for item in claim.evidence:
            if item.type == "event":
                assert own[item.id] == item.post
            elif item.type == "span":
                assert item.post == post.id
                whole = ", ".join(post.tags) if item.field == "tags" else getattr(post, item.field)
                assert 0 <= item.start <= item.end <= len(whole)
            else:
                assert item.id in signals or item.id == "query"
    if any(past is not None and past.label.strip() for past, *_ in history):
        assert any(item.type == "event" and item.id.startswith("e") for item in evidence(reason))
