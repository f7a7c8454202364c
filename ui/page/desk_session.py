"""The desk's half of a session: who waits, the open conversation, and what could be sent in it.

The desk's work runs outside the session's lock; its results are stored under it. What is shown is masked; the value
behind a chip is sent only when that chip was asked for.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, assert_never

from whyfeed.agent.desk.actions import Pending
from whyfeed.agent.desk.suggestion import Proposal, Suggestions
from whyfeed.retrieval.desk.types import PLACEHOLDER, DeskConversation, language_of, since_answer
from whyfeed.retrieval.errors import WhyfeedError
from whyfeed.retrieval.privacy.vault import CHIP
from whyfeed.ui.page import messages
from whyfeed.ui.page.cards import Cards, link, moment, short
from whyfeed.ui.page.desk_cards import (
    action,
    arguments,
    card_of,
    first_words,
    line_of,
    proposed,
    turn_of,
    words_of,
)
from whyfeed.ui.page.views import Draft, Help, How, Sent

if TYPE_CHECKING:
    from whyfeed.agent.agent import Agent

_LOG = logging.getLogger(__name__)
_K = 3
_LISTED = 50
_TURNS = 120  # of the open conversation that are shown
_EVERY = 0.12  # seconds between two updates of a draft that is being written


@dataclass(slots=True)
class _Run:
    """One search for suggestions. `noted`: ids that are in the ledger as shown, once the search has ended."""

    talk: str
    wanted: str = ""
    draft: str = ""
    write: bool = True
    keep: bool = False  # a card that stays keeps its place
    cancel: threading.Event = field(default_factory=threading.Event)
    noted: frozenset[str] = frozenset()


class DeskSession:
    """The service desk in one tab. `lock` is the session's; no method may be called with it held."""

    def __init__(self, agent: Agent, lock: AbstractContextManager[bool]) -> None:
        self._agent = agent
        self._lock = lock
        self._lists: dict[str, list[dict[str, Any]]] | None = None
        self._read: dict[str, int] = {}  # conversation -> how many of its turns have been on the screen
        self._talk: dict[str, Any] | None = None
        self._turns: list[dict[str, Any]] = []
        self._revealed: dict[str, str] = {}
        self._run: _Run | None = None
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()  # of the running search
        self._sending = False
        self._doubted = ""
        self._numbers = 0
        self._sent: Sent | None = None
        self._clear()

    def _clear(self) -> None:
        self._help: Help = {"state": "idle", "cards": [], "posts": [], "handover": None, "wanted": ""}
        self._draft: Draft = {"state": "none"}
        self._actions: list[dict[str, Any]] = []

    def view(self) -> dict[str, Any]:
        """Parts of the page. Each turn is a part, so that only new turns of a long conversation are sent."""
        return {
            "desk": self._lists,
            "desk_talk": None if self._talk is None else {**self._talk, "turns": len(self._turns)},
            "desk_help": self._help,
            "desk_draft": self._draft,
            "desk_actions": self._actions,
            "desk_chips": self._revealed,
            "desk_sent": self._sent,
            "desk_doubt": PLACEHOLDER.findall(self._doubted),
            **{f"desk turn {place}": turn for place, turn in enumerate(self._turns)},
        }

    @property
    def watches(self) -> bool:
        """Whether the desk is open in this tab, so that new conversations must be looked for."""
        return self._lists is not None

    def look(self) -> bool:
        """Read again who waits; True when that has changed."""
        store = self._agent.desk.store
        lists = {"waiting": store.waiting(_LISTED), "answered": store.recent(_LISTED)}
        with self._lock:
            before = (self._lists, self._talk)
            for talk in (each for found in lists.values() for each in found):
                if self._talk is not None and self._talk["id"] == talk.id:
                    self._talk = {**self._talk, "stale": len(talk.turns) > self._read[talk.id]}
            self._lists = {
                name: [line_of(each, len(each.turns) > self._read.get(each.id, 0)) for each in found]
                for name, found in lists.items()
            }
            return before != (self._lists, self._talk)

    def do(self, message: messages.DeskMessage) -> Iterator[None]:
        """Do one thing; yields whenever the view has changed. Raises WhyfeedError and ValueError."""
        talk = message.talk
        with self._lock:
            open_now = None if self._talk is None else self._talk["id"]
        if talk and talk != open_now:  # opened now, or the server has been restarted under an open tab
            self._load(talk, anew=True)
        run = self._begin(message)
        self.look()
        if run is not None:
            with self._lock:
                self._run, before = run, self._run
            if before is not None:
                before.cancel.set()
        yield
        if run is not None:
            yield from self._follow(run)

    def break_off(self, why: WhyfeedError) -> None:
        """End a running search with an error."""
        with self._lock:
            if self._run is not None:
                self._run.cancel.set()
        self._events.put(why)
        self._events.put(None)

    # ---- one search for suggestions ----

    def _follow(self, run: _Run) -> Iterator[None]:
        events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._events = events
        threading.Thread(target=self._work, args=(run, events), name="whyfeed-desk", daemon=True).start()
        try:
            while (event := events.get()) is not None:
                with self._lock:
                    if self._run is run:
                        self._apply(run, event)
                yield
        finally:
            run.cancel.set()  # the tab was closed: nobody waits for the rest

    def _work(self, run: _Run, events: queue.SimpleQueue[Any]) -> None:
        shown, helper = 0.0, None

        def on_text(text: str) -> None:
            nonlocal shown
            if time.monotonic() - shown >= _EVERY:
                shown = time.monotonic()
                events.put(text)

        try:
            for found in self._agent.desk.suggest(
                run.talk, _K, draft=run.draft, wanted=run.wanted, write=run.write, cancel=run.cancel, on_text=on_text
            ):
                events.put(found)
                if helper is None:  # in parallel with the writer, because the first proposal takes seconds
                    given = (run.talk, found.proposals, events)
                    helper = threading.Thread(target=self._propose, args=given, name="whyfeed-desk-acts")
                    helper.start()
        except Exception as exc:
            events.put(exc)
        if helper is not None:
            helper.join()
        events.put(None)

    def _propose(self, talk: str, proposals: Sequence[Proposal], events: queue.SimpleQueue[Any]) -> None:
        try:
            actions = self._agent.desk.actions
            started = [actions.start(talk, proposal) for proposal in proposals]
            waiting = actions.pending(talk)
            events.put(list({each.id: each for each in (*started, *waiting)}.values()))
        except Exception as exc:
            events.put(exc)

    def _apply(self, run: _Run, event: Any) -> None:
        if isinstance(event, str):
            self._draft = {"state": "writing", "text": event}
        elif isinstance(event, Suggestions):
            self._apply_suggestions(run, event)
        elif isinstance(event, list):
            self._show_actions(event)
        else:
            if not isinstance(event, WhyfeedError | ValueError):
                _LOG.error("the desk failed", exc_info=event)
            self._help = {**self._help, "state": "failed", "error": short(str(event), 300)}

    def _apply_suggestions(self, run: _Run, found: Suggestions) -> None:
        if not found.drafting:
            run.noted = frozenset(each.id for each in found.suggestions)
        written = next((each for each in found.suggestions if each.source == "draft"), None)
        if self._help["state"] == "drafting":  # the past replies are shown already and do not change
            self._help = {**self._help, "state": "ready"}
        else:
            new = [card_of(each, self._agent) for each in found.suggestions if each.source != "draft"]
            given = found.handover
            cards = Cards(self._agent, "")
            self._help = {
                "state": "drafting" if found.drafting else "ready",
                "cards": _placed(self._help["cards"], new) if run.keep else new,
                "posts": [
                    {**link(item.post), "reason": cards.reason(item.reason.to_json())["parts"]} for item in found.posts
                ],
                "handover": None if given is None else {"reason": given.reason, "summary": words_of(given.summary)},
                "wanted": run.wanted,
            }
            if not run.keep:
                self._actions = [proposed(each, self._agent) for each in found.proposals]
        if found.drafting:
            self._draft = {"state": "writing", "text": ""}
        elif written is not None:
            self._draft = {"state": "done", "card": card_of(written, self._agent)}
        elif self._draft["state"] == "writing":
            self._draft = {"state": "dropped"}

    # ---- what an operator does; each gives a new search where one is needed ----

    def _begin(self, message: messages.DeskMessage) -> _Run | None:
        match message:
            case messages.ListWaiting():
                pass
            case messages.OpenTalk():
                return self._open(message)
            case messages.Wish():
                return self._search(_Run(message.talk, message.wanted, message.draft))
            case messages.Refuse():
                return self._refuse(message)
            case messages.Send():
                self._send(message)
            case messages.Receive():
                self._agent.desk.receive(message.talk, message.text)
                self._load(message.talk)
                return self._search(_Run(message.talk))
            case messages.CloseTalk():
                self._agent.desk.close(message.talk)
                self._ended(message.talk)
            case messages.RevealChip():
                self._reveal(message)
            case messages.Decide():
                self._decide(message)
            case _:
                assert_never(message)
        return None

    def _open(self, message: messages.OpenTalk) -> _Run | None:
        id = message.talk
        talk = self._load(id)
        if talk.status == "waiting" and talk.asked:
            return self._search(_Run(id, draft=message.draft))
        waiting = self._agent.desk.actions.pending(id)
        with self._lock:
            self._clear()
            self._show_actions(waiting)
        return None

    def _refuse(self, message: messages.Refuse) -> _Run | None:
        talk, id = message.talk, message.suggestion
        self._agent.desk.refuse(talk, id)
        with self._lock:
            if (self._draft.get("card") or {}).get("id") == id:
                self._draft = {"state": "refused"}
                return None
            cards = [{**card, "refused": card["refused"] or card["id"] == id} for card in self._help["cards"]]
            self._help = {**self._help, "cards": cards, "state": "loading"}
            before = self._run
            return _Run(
                talk,
                before.wanted if before else "",
                before.draft if before else "",
                write=self._draft["state"] == "writing",
                keep=True,
            )

    def _send(self, message: messages.Send) -> None:
        id, text, taken = message.talk, message.text, message.suggestion
        desk = self._agent.desk
        with self._lock:
            if self._sending:
                return
            if PLACEHOLDER.search(text) and text != self._doubted:
                self._doubted = text
                return
            self._sending, run = True, self._run
            cards = [*self._help["cards"], self._draft.get("card") or {}]
            card = next((each for each in cards if taken and each.get("id") == taken), None)
        try:
            if run is not None and card is not None and taken not in run.noted:
                # Suggestions are in the ledger once their search has ended, and only those are learnt from. While the
                # search still writes its draft, it is repeated here without one.
                run.cancel.set()
                for _ in desk.suggest(id, _K, draft=run.draft, wanted=run.wanted, write=False):
                    pass
            said = desk.send(id, text, taken if card else "")
        finally:
            with self._lock:
                self._sending = False
        if run is not None:
            run.cancel.set()
        how: How = "own" if card is None else "same" if card["text"].split() == text.split() else "edit"
        chips = len({chip[0] for chip in CHIP.finditer(text)} - {chip[0] for chip in CHIP.finditer(said)})
        self._load(id)
        with self._lock:
            self._run, self._doubted, self._numbers = None, "", self._numbers + 1
            self._clear()
            words = words_of(short(card["text"], 70)) if card else []
            self._sent = {"number": self._numbers, "talk": id, "how": how, "of": words, "values": chips}

    def _reveal(self, message: messages.RevealChip) -> None:
        value = self._agent.desk.store.chips(message.talk).get(message.chip)
        with self._lock:
            if value is not None:
                self._revealed = {**self._revealed, message.chip: value}

    def _decide(self, message: messages.Decide) -> None:
        id, name, decision = message.talk, message.action, message.decision
        actions = self._agent.desk.actions
        waiting = actions.pending(id)
        pending = next((each for each in waiting if each.id == name), None)
        with self._lock:
            given = self._help["handover"]
        if pending is None and name == "hand_over":
            # The hand-over is also offered where nobody proposed it, because nothing known fits.
            pending = next((each for each in waiting if each.proposal.name == name), None)
            if pending is None and given is not None:
                pending = actions.start(id, Proposal(name, {"reason": given["reason"]}, given["reason"]))
        if pending is None:
            raise ValueError("this proposal is not waiting any more; open the conversation again")
        typed = arguments(pending, message.arguments) if decision == "edit" else None
        self._agent.desk.decide(id, pending, decision, typed)
        with self._lock:
            shown = {each["id"]: each for each in self._actions} | {pending.id: action(pending, self._agent)}
            shown[pending.id] = {**shown[pending.id], "state": decision}
            self._actions = list(shown.values())
        if pending.proposal.name == "close" and decision != "reject":
            self._ended(id)

    # ---- helpers ----

    def _search(self, run: _Run) -> _Run:
        with self._lock:
            self._help = {**self._help, "state": "loading", "cards": [], "posts": [], "handover": None}
            self._help["wanted"] = run.wanted
            self._draft, self._doubted = {"state": "none"}, ""
        return run

    def _load(self, id: str, *, anew: bool = False) -> DeskConversation:
        """Read a conversation. With `anew` it was not open before, so suggestions and revealed chips are reset."""
        store = self._agent.desk.store
        talk, chips = store.conversation(id), store.chips(id)
        asked = [turn.time for turn in since_answer(talk.turns) if turn.role == "customer"]
        with self._lock:
            if anew:
                if self._run is not None:
                    self._run.cancel.set()
                self._run, self._revealed, self._sent, self._doubted = None, {}, None, ""
                self._clear()
            self._read[id] = len(talk.turns)
            self._talk = {
                "id": id,
                "words": first_words(talk),
                "language": language_of(talk),
                "since": moment(asked[0]) if asked else None,
                "waits": bool(talk.asked) and talk.status == "waiting",
                "closed": talk.status != "waiting",
                "chips": list(chips),
                "stale": False,
            }
            self._turns = [turn_of(turn) for turn in talk.turns[-_TURNS:] if turn.text or turn.item or turn.query]
        return talk

    def _ended(self, id: str) -> None:
        self._load(id)
        with self._lock:
            if self._run is not None:
                self._run.cancel.set()
            self._run, self._revealed = None, {}
            self._help = {"state": "idle", "cards": [], "posts": [], "handover": None, "wanted": ""}
            self._draft = {"state": "none"}

    def _show_actions(self, found: Sequence[Pending]) -> None:
        self._actions = [action(each, self._agent) for each in found if each.state != "reject"]


def _placed(old: Sequence[Mapping[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The new cards; known ones keep their places, and a refused one stays where no new card replaces it."""
    coming = [card for card in new if card["id"] not in {each["id"] for each in old}]
    known = {card["id"]: card for card in new}
    placed = [
        known.pop(each["id"], None) or (coming.pop(0) if coming else dict(each) if each["refused"] else None)
        for each in old
    ]
    return [card for card in (*placed, *coming) if card is not None]
