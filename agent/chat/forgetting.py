"""What a user wishes to have deleted: some events, or everything.

The wish to be forgotten altogether is asked back once, and carried out after a clear yes in the next turn. Both are
read by rules before anything else, so that no model can delete an account or answer the question for the user.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from whyfeed.agent.phrases import languages, say
from whyfeed.agent.recommend.snapshot import Snapshot
from whyfeed.agent.request import Request
from whyfeed.agent.understanding.understander import agrees, asks_erasure, means_last, wavers
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.store.conversations import Turn

UNDOABLE = frozenset({"like", "dislike", "hide", "save", "include", "exclude", "rule-on", "rule-off", "interest"})
Step = Literal["ask", "erase", "keep"]


def step(text: str, turns: Sequence[Turn]) -> Step | None:
    """What a message after these turns means: to ask back, to erase, to keep everything; None: none of these."""
    asked = bool(turns) and turns[-1].text in [say("chat.erase.ask", each) for each in languages()]
    if asked:
        if (agreed := agrees(text)) is not None:
            return "erase" if agreed else "keep"
        if wavers(text):
            return "ask"
    return "ask" if asks_erasure(text) else None


def to_forget(request: Request, text: str, events: Sequence[Event], view: Snapshot) -> list[Event] | None:
    """The events, newest first, that a wish to forget means; None where it names nothing and must be asked about.

    Without a topic or a post the newest event is meant only where the text says so ("forget that"): after "forget {" or
    a bare "forget" it would be a guess.
    """
    named = (*request.exclude, *((request.query,) if request.query else ()), *request.include)
    topics = [topic for topic in named if any(map(str.isalnum, topic))]
    posts = set(request.posts)
    if topics:
        posts |= {view.community.ids[row] for topic in topics for row in view.topics.match(topic)}
        return [
            event
            for event in events
            if event.post in posts or (not event.post and any(_names(event.text, topic) for topic in topics))
        ]
    if posts:
        return [event for event in events if event.post in posts]
    if named or not means_last(text):
        return None
    return [event for event in events if event.kind in UNDOABLE][:1]


def _names(rule: str, topic: str) -> bool:
    """Whether the text of a rule has the topic as a word, or as the start of one; Chinese anywhere."""
    start = r"(?<!\w)" if topic[0].isascii() and topic[0].isalnum() else ""
    end = r"(?!\w)" if start and len(topic) < 3 else ""
    return re.search(start + re.escape(topic.casefold()) + end, rule.casefold()) is not None
