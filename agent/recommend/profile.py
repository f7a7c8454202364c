"""The profile of a user: what whyfeed has inferred, in words that the user can check and correct."""

from __future__ import annotations

from collections import defaultdict

from whyfeed.agent.answer import Interest, Profile, Rule
from whyfeed.agent.recommend.rules import in_force
from whyfeed.agent.recommend.snapshot import Snapshot
from whyfeed.retrieval.community.reader import InterestGroup, Reader
from whyfeed.retrieval.words import content_words

SHOWN_POSTS = 5
_COMMON = 0.25  # of a community's posts: a more frequent tag says nothing about one user


def describe(view: Snapshot, reader: Reader, now: float | None = None) -> Profile:
    """The profile of one user: interests with the posts they come from, rules, hidden posts."""
    community = view.community
    wanted = [community.ids[row] for group in reader.groups for row in group.rows[:SHOWN_POSTS]]
    hidden = [community.ids[row] for row in reader.hidden]
    posts = view.store.posts([*wanted, *hidden])
    taken: set[str] = set()
    interests = []
    for group in reader.groups:
        label = label_of(group, view, taken)
        ids = [community.ids[row] for row in group.rows[:SHOWN_POSTS]]
        interests.append(Interest(label, group.weight, tuple(posts[id] for id in ids if id in posts)))
    running = {rule.id for rule in in_force(reader.rules, "", now)}
    return Profile(
        user=reader.user,
        name=view.store.user(reader.user).label,
        interests=tuple(interests),
        rules=tuple(
            Rule(rule.id, rule.kind, rule.topic, rule.id in running, rule.until)
            for rule in reader.rules
            if rule.horizon != "session" and not _over(rule.until, now)
        ),
        hidden=tuple(posts[id] for id in hidden if id in posts),
        events=len(reader.events),
    )


def label_of(group: InterestGroup, view: Snapshot, taken: set[str]) -> str:
    """One or two tags (else words of titles) that distinguish this group from the others, none of them `taken`.

    The words used are added to `taken`, so that no two interests get the same name.
    """
    if group.topic:
        return group.topic
    community = view.community
    scores: dict[str, float] = defaultdict(float)
    for row in group.rows:
        for tag in community.tags[row]:
            if community.tag_counts[tag] <= _COMMON * len(community):
                scores[tag.replace("-", " ")] += community.idf(tag)
    if not scores:
        titles = view.store.posts([community.ids[row] for row in group.rows[:20]])
        for post in titles.values():
            for word in set(content_words(post.label)):
                scores[word] += 1
    best = [name for name, _ in sorted(scores.items(), key=lambda item: (-item[1], item[0])) if name not in taken]
    taken.update(best[:2])
    return ", ".join(best[:2]) or view.store.post(community.ids[group.rows[0]]).label[:40]


def _over(until: float | None, now: float | None) -> bool:
    return until is not None and now is not None and now >= until
