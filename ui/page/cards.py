"""Data for the page's cards, with the evidence of every claim looked up.

The browser fills the templates of page.html through `textContent`, so nothing is escaped here. Only links could run
something; only http and https ones are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from whyfeed.agent.answer import Explanation
from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.formula import readable
from whyfeed.retrieval.post import Post

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent

EVENTS_READ = 5000  # events of one user, to look up the evidence of claims
_SHORT = 160  # characters of a title in a list
_QUOTE = 600  # characters of a quoted passage
_MOMENT = 31_536_000  # a smaller time is an order number, not a date


def safe_url(url: str) -> str:
    """The address when a browser may open it, else an empty string (`javascript:` and the like)."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return ""
    return url.strip() if parts.scheme in ("http", "https") and parts.netloc else ""


def short(text: str, limit: int = _SHORT) -> str:
    """The text on one line, cut at `limit` characters."""
    words = " ".join(text[: limit * 4].split())
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


def moment(time: float | None) -> float | None:
    """Unix seconds, or None for an unknown time or an order number."""
    return time if time is not None and time >= _MOMENT else None


def said(event: Event) -> str:
    """The topic of a steering event, or its text where it holds no topic."""
    try:
        document = json.loads(event.text)
    except ValueError:
        return event.text
    return str(document.get("topic", "")) if isinstance(document, dict) else event.text


def link(post: Post) -> dict[str, Any]:
    """A post as one line."""
    return {"id": post.id, "title": short(post.label), "url": safe_url(post.url)}


def explanation(found: Explanation) -> dict[str, Any]:
    """What the fold "why" shows. `bars` are shares of the score, the largest first."""
    bars = [{"signal": name, "share": round(share, 4)} for name, share in found.contributions.items() if share]
    return {
        "text": found.text,
        "sources": list(found.sources),
        "bars": sorted(bars, key=lambda bar: -abs(bar["share"])),
        "removed": list(found.removed or ()),
        "other": found.would_change,
    }


class Cards:
    """Makes cards for one user; caches what it has looked up."""

    def __init__(self, agent: Agent, user: str) -> None:
        self._agent = agent
        self._user = user
        self._events: dict[str, Event] = {}
        self._names: dict[str, str] = {}

    def card(self, item: Mapping[str, Any], *, waiting: bool = False) -> dict[str, Any]:
        """One item of an answer (the contract's JSON) as a card."""
        named = item["post"]
        post = self._post(named["id"]) or Post(id=named["id"], title=named.get("title", ""))
        return {
            **link(post),
            "title": post.label[:1000],
            "rank": item["rank"],
            "kind": post.kind,
            "community": post.community,
            "author": self._name(post.author),
            "time": moment(post.created_at),
            "tags": [short(tag, 40) for tag in post.tags[:4]],
            "reason": self.reason(item["reason"]),
            "waiting": waiting,
        }

    def reason(self, reason: Mapping[str, Any]) -> dict[str, Any]:
        """A reason as parts of its text; a part that is a verified claim carries its evidence."""
        text, parts, at = reason["text"], [], 0
        for claim in reason["claims"]:
            start = text.find(claim["text"], at) if claim["verified"] and claim["text"] else -1
            if start < 0:
                continue
            if start > at:
                parts.append({"text": text[at:start]})
            at = start + len(claim["text"])
            evidence = [self._evidence(each) for each in claim["evidence"]]
            parts.append({"text": claim["text"], "evidence": evidence} if evidence else {"text": claim["text"]})
        if at < len(text):
            parts.append({"text": text[at:]})
        return {"parts": parts, "source": reason["source"], "language": reason["language"]}

    def _evidence(self, evidence: Mapping[str, Any]) -> dict[str, Any]:
        if evidence["type"] == "event":
            event = self._event(evidence["id"])
            post = self._post(evidence.get("post", "") or (event.post if event else ""))
            return {
                "type": "event",
                "did": event.kind if event else "",
                "time": moment(event.time) if event else None,
                "text": short(said(event)) if event and not post else "",
                "post": link(post) if post else None,
            }
        if evidence["type"] == "span":
            post = self._post(evidence["post"])
            field = evidence.get("field", "text")
            quote = "" if post is None else post.words_of(field)[evidence["start"] : evidence["end"]]
            return {"type": "span", "quote": short(readable(quote), _QUOTE), "field": field}
        if evidence["type"] == "signal":
            return {"type": "signal", "signal": evidence["id"], "value": evidence.get("value")}
        return {"type": "link", "text": short(str(evidence["id"]))}

    def _event(self, id: str) -> Event | None:
        if id not in self._events:
            self._events = {event.id: event for event in self._agent.events(self._user, EVENTS_READ)}
        return self._events.get(id)

    def _post(self, id: str) -> Post | None:
        try:
            return self._agent.post(id) if id else None
        except DataError:  # the post was erased; the card shows what the answer holds
            return None

    def _name(self, author: str) -> str:
        if author and author not in self._names:
            try:
                self._names[author] = short(self._agent.user(author).label, 60)
            except DataError:  # an author who is no member: only the id is known
                self._names[author] = short(author, 60)
        return self._names.get(author, "")
