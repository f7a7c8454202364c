"""Why and why-not explanations, from the trace that was stored when the list was made."""

from __future__ import annotations

from typing import Any

from whyfeed.agent.answer import Answer, Claim, Evidence, Explanation, Reason
from whyfeed.agent.phrases import listed, say, share_of, signal_word, source_word
from whyfeed.agent.recommend.filters import FILTERS
from whyfeed.agent.recommend.pipeline import Ranking
from whyfeed.agent.recommend.snapshot import Snapshot
from whyfeed.retrieval.language import Language
from whyfeed.retrieval.post import Post

_TELLING = 0.01  # share of a score below which a signal is not mentioned
_SCORED = 200  # candidates whose scores the stored trace holds
_CHANGES = {each.name: each.change for each in FILTERS}


def trace_document(view: Snapshot, ranking: Ranking, answer: Answer) -> dict[str, Any]:
    """The document that is stored of a request, from which why and why-not are answered later, exactly."""
    scored = sorted(ranking.scored, key=lambda candidate: (-candidate.score, candidate.post))[:_SCORED]
    topics = {rule.id: rule.topic for rule in ranking.reader.rules} | {"request": ", ".join(answer.request.exclude)}
    return {
        **answer.trace.to_json(),
        "language": answer.request.language,
        "last_event": view.community.last_event,
        "shown": [
            {
                "id": item.post.id,
                "rank": item.rank,
                "score": item.score,
                "sources": list(item.sources),
                "contributions": dict(item.contributions),
                "reason": item.reason.to_json(),
                "because": [[reason.post, reason.share] for reason in candidate.because],
                "titles": {
                    id: post.label for id, post in view.store.posts([r.post for r in candidate.because]).items()
                },
            }
            for item, candidate in zip(answer.items, ranking.chosen, strict=True)
        ],
        "scored": [[candidate.post, candidate.score] for candidate in scored],
        "count": len(ranking.scored),
        "removed": {
            post: [stage, code, topics.get(code.removeprefix("rule:"), "")]
            for post, (stage, code) in answer.trace.removed.items()
        },
    }


def explain_presence(user: str, post: Post, document: dict[str, Any], language: Language | None = None) -> Explanation:
    """Why the post was shown; in the language of the answer when none is given."""
    language = language or document["language"]
    shown = next(shown for shown in document["shown"] if shown["id"] == post.id)
    contributions = {name: value for name, value in shown["contributions"].items() if value}
    total = sum(abs(value) for value in contributions.values()) or 1.0
    best = sorted(contributions.items(), key=lambda item: -item[1])[:3]
    text = say(
        "why.from", language, sources=listed([source_word(name, language) for name in shown["sources"]], language)
    )
    shares = [share_of(signal_word(name, language), value / total, language) for name, value in best]
    text += say("why.counted", language, signals=listed(shares, language))
    would_change = []
    if shown["because"]:
        id, share = shown["because"][0]
        if share / total >= _TELLING:
            title = shown["titles"].get(id, id)
            would_change.append(say("why.without", language, title=title, share=f"{share / total:.0%}"))
    topic = post.tags[0].replace("-", " ") if post.tags else post.label
    would_change.append(say("why.keep_out", language, topic=topic))
    return Explanation(
        user, post, True, shown["rank"], text, shown["score"], tuple(shown["sources"]), contributions,
        reason=reason_from_json(shown["reason"]), would_change=say("join.sentence", language).join(would_change),
    )  # fmt: skip


def explain_absence(user: str, post: Post, document: dict[str, Any], language: Language | None = None) -> Explanation:
    """Why the post is not in the list, and what would change that."""
    language = language or document["language"]
    stage, code, topic = document["removed"].get(post.id, ("", "", ""))
    scores = dict(document["scored"])
    score = scores.get(post.id)
    if not stage:
        text, change = say("why_not.unknown", language), say("change.like", language)
    elif code == "outranked":
        rank = list(scores).index(post.id) + 1 if score is not None else len(scores) + 1
        last = min((shown["score"] for shown in document["shown"]), default=0.0)
        # A post may outscore the last one shown and still repeat a better one: then diversity decided.
        gap = f"{max(last - (score if score is not None else min(scores.values())), 0):.2f}"
        text = say("why_not.outranked", language, rank=rank, count=document["count"], gap=gap)
        change = say("change.like", language)
    else:
        name = code.partition(":")[0]
        text = say(f"why_not.{name}", language, topic=topic)
        change = say(f"change.{_CHANGES.get(name, 'like')}", language)
    return Explanation(
        user, post, False, None, text, score,
        removed=(stage, code) if stage else ("retrieve", "not brought"), would_change=change,
    )  # fmt: skip


def reason_from_json(document: dict[str, Any]) -> Reason:
    """A reason from its JSON document."""
    return Reason(
        document["text"],
        document["language"],
        document["source"],
        tuple(
            Claim(claim["text"], tuple(Evidence(**evidence) for evidence in claim["evidence"]), claim["verified"])
            for claim in document["claims"]
        ),
    )
