"""The service desk: what an agent could send next, each sentence cited, and what is learnt from what they send.

The way of one request is that of a post: mask, find like situations, rank every reply that could be sent,
fill and ground the best, choose a few that differ. Replies of the past come at once; a draft by the writer
follows. Nothing here acts or sends by itself.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from whyfeed.agent.desk import handover
from whyfeed.agent.desk import wishes as wish
from whyfeed.agent.desk.actions import Actions, Decision, Pending
from whyfeed.agent.desk.articles import DeskPosts
from whyfeed.agent.desk.candidates import DeskRequest, Knowledge, Pool, own_chips
from whyfeed.agent.desk.drafter import Drafter
from whyfeed.agent.desk.placeholders import SlotBook
from whyfeed.agent.desk.proposals import propose
from whyfeed.agent.desk.ranker import MODEL, ReplyRanker
from whyfeed.agent.desk.suggestion import Handover, Proposal, ReplySuggestion, Suggestions
from whyfeed.agent.phrases import say
from whyfeed.agent.registry import Registry
from whyfeed.agent.runtime import Runtime
from whyfeed.agent.trace import Status, Trace
from whyfeed.retrieval.desk.cases import CaseBook
from whyfeed.retrieval.desk.situation import situation
from whyfeed.retrieval.desk.store import DeskStore, masked, masked_value
from whyfeed.retrieval.desk.types import DeskConversation, DeskTurn, SavedReply, language_of, since_answer
from whyfeed.retrieval.errors import ModelError
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.post import clean_text
from whyfeed.retrieval.privacy.vault import Vault

MOST = 10  # suggestions at once
SURE = 0.6  # of the best reply; a draft is worth its seconds below it, or where there are facts to write from
_LEARNT_FROM = 3_000  # of the latest conversations, how placeholders were filled
Ask = str | DeskConversation | Mapping[str, Any]


class Desk:
    """Suggests replies for a conversation of the home (by id) or one that is given; learns from what is sent."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.store = DeskStore(runtime.store)
        self.book = CaseBook(self.store, runtime.embedder)
        self._posts = DeskPosts(runtime)
        self._drafter = Drafter(runtime.models.writer)
        self._lock = threading.Lock()
        self._registry = Registry(runtime.store.home)
        self._ranker: ReplyRanker | None = None
        self._stamp: object = None
        self._replies: dict[str, SavedReply] = {}
        self._slots = SlotBook()
        self._known = (-1, -1)
        self._actions: Actions | None = None

    def build(self, progress: Callable[[str, int, int], None] | None = None) -> None:
        """Bring everything in memory in step with the store; cheap when nothing has changed."""
        with self._lock:
            self.book.refresh(progress)
            replies = {reply.id: reply for reply in self.store.replies()}
            known = (self.store.generation(), self.store.counts()["conversations"] // 200)
            if known != self._known or replies != self._replies:
                self._replies = replies
                self._slots = SlotBook.learn(self.store.latest(_LEARNT_FROM), self._replies)
                self._known = known
            stamp = self._registry.stamp(MODEL)
            if self._ranker is None or stamp != self._stamp:
                self._ranker, self._stamp = ReplyRanker.load(self._runtime.store.home), stamp

    # ---- suggesting ----

    def suggest(
        self, ask: Ask, k: int = 3, *, draft: str = "", wanted: str = "", write: bool = True, remember: bool = True,
        cancel: threading.Event | None = None, on_text: Callable[[str], None] | None = None,
        vault: Vault | None = None,
    ) -> Iterator[Suggestions]:  # fmt: skip
        """What could be sent next: first from past replies, then once more with the writer's draft.

        `draft` is what the agent has typed so far, `wanted` what they ask for in words ("shorter", "in Chinese",
        "offer a replacement"). What is suggested in a conversation of the home becomes a ledger event
        (`remember`). A `vault` that is given for a conversation that is not of the home holds its personal values
        afterwards. Raises UnknownConversation, and ValueError for a k outside 1 to 10.
        """
        if not 1 <= k <= MOST:
            raise ValueError(f"k={k!r} is not between 1 and {MOST}")
        trace = Trace()
        with trace.stage("mask") as record:
            conversation, vault = self._masked(ask, vault)
            turns = conversation.turns
            draft, wanted = vault.mask_known(clean_text(draft, 2000)), vault.mask_known(clean_text(wanted, 300))
            asked_for = wish.Wish.parse(wanted)
            record.note = f"{len(vault.values())} personal values masked"
        self.build()
        language = asked_for.language or language_of(conversation)
        now = situation(turns, " ".join(part for part in (draft, asked_for.offer) if part))
        trace.request = {"conversation": conversation.id, "language": language, "k": k, "wish": wanted}

        with trace.stage("like") as record:
            neighbours = self.book.like(now, conversation.id)
            record.left = len(neighbours)
        with trace.stage("articles") as record:
            articles = [article for article, _ in self._posts.articles(now.asked)] if now.asked else []
            record.left = len(articles)
        refused = self._refused(conversation.id)
        known = Knowledge(self.book, self._ranker or ReplyRanker(), self._slots, self._replies)
        request = DeskRequest(turns, neighbours, articles, language, draft)
        pool = Pool(known, request)
        with trace.stage("rank") as record:
            scored = pool.ranked(refused)
            record.left, record.note = len(scored), known.ranker.origin
        with trace.stage("ground", len(scored)) as record:
            found = pool.choose(scored, k, record)
            record.left = len(found.suggestions)
        proposals = tuple(propose(turns, articles, language))
        given = _handover(turns, language, found.fits, proposals)
        suggestions = tuple(_as_wanted(each, asked_for) for each in found.suggestions) if found.fits else ()
        with trace.stage("posts") as record:
            posts = self._posts.helpful(now.asked, conversation.customer, language) if now.asked else ()
            record.left = len(posts)
        facts = any(turn.item for turn in since_answer(turns))
        sure = bool(suggestions) and suggestions[0].confidence >= SURE
        worth = bool(now.asked) and (bool(wanted) or bool(articles) or facts or not sure) and found.fits
        drafting = write and worth and self._runtime.models.writer() is not None
        noting = remember and isinstance(ask, str)
        if drafting:
            # Noted before it is shown: an agent may send one while the draft is still being written.
            if noting:
                self._note_shown(conversation.id, suggestions, given)
            yield Suggestions(conversation.id, suggestions, given, posts, proposals, True, trace)
            written = self._written(trace, request, wanted, cancel, on_text)
            if written is not None:
                suggestions = _with_draft(suggestions, written, k)
        if not suggestions and given is None:
            given = Handover(say("desk.nothing_grounded", language), handover.summary(turns, language))
        if noting and not (cancel is not None and cancel.is_set()):
            self._note_shown(conversation.id, suggestions, given)
        yield Suggestions(conversation.id, suggestions, given, posts, proposals, False, trace)

    def _written(
        self, trace: Trace, request: DeskRequest, wanted: str, cancel: threading.Event | None,
        on_text: Callable[[str], None] | None,
    ) -> ReplySuggestion | None:  # fmt: skip
        """The writer's draft; the trace says when it fails."""
        cases = [replace(each.case, text=own_chips(each.case.text, request.turns)) for each in request.neighbours[:2]]
        with trace.stage("draft") as record:
            try:
                written = self._drafter.draft(
                    request.turns, cases, request.articles[:2], request.language, wanted, cancel, on_text
                )
            except ModelError as exc:
                record.end(Status.FAILED, exc)
                return None
            record.left = int(written is not None)
            return written

    # ---- learning ----

    def send(self, id: str, text: str, suggestion: str = "") -> str:
        """Send what the agent has before them; returns the words for the customer, personal values put back.

        `suggestion` is the id of the one that was taken into the editor. The answer is a case from now on, and
        the ledger knows whether the suggestion was taken as it was or edited.
        """
        text = clean_text(text)
        if not text:
            raise ValueError("the reply is empty; write something, or take a suggestion")
        conversation = self.store.conversation(id)
        shown = self._shown(id)
        offered = tuple(dict.fromkeys([*(each["id"] for each in shown), *self._refused(id)]))
        taken = next((each for each in shown if each["id"] == suggestion), None)
        kept = taken is not None and " ".join(taken["text"].split()) == " ".join(text.split())
        reply = suggestion if kept and suggestion in {each.id for each in self.store.replies()} else ""
        turn = DeskTurn("agent", text, self._runtime.clock(), offered=offered, reply=reply)
        with self._runtime.store.database.write():
            place = self.store.add_turn(conversation.id, turn)
            said = self.store.conversation(id).turns[place].text
            if taken is not None:
                edit = {"suggestion": suggestion, "from": taken["text"], "to": said, "turn": place}
                self._note(id, "take" if kept else "edit", edit)
            self._note(id, "send", {"turn": place, "suggestion": suggestion, "text": said})
        return self.store.unmask(id, text)

    def refuse(self, id: str, suggestion: str) -> None:
        """The agent does not want this one: it goes from this conversation, and counts less in like ones."""
        self.store.conversation(id)
        self._note(id, "refuse", {"suggestion": suggestion})

    def receive(self, id: str, text: str) -> int:
        """The customer wrote; returns the number of the turn."""
        text = clean_text(text)
        if not text:
            raise ValueError("the message is empty")
        return self.store.add_turn(id, DeskTurn("customer", text, self._runtime.clock()))

    def close(self, id: str) -> None:
        """The conversation is over: its personal values are deleted, what was said stays as cases."""
        self.store.close(id)

    def forget(self, id: str) -> None:
        """Delete a conversation, everything that was learnt from it, and its lines in the ledger."""
        self.store.conversation(id)
        self.store.remove(id)
        self._runtime.store.erase(_desk(id))
        self.actions.forget(id)

    # ---- actions: proposed here, decided by a person ----

    @property
    def actions(self) -> Actions:
        """Proposals that wait for a person."""
        with self._lock:
            if self._actions is None:
                self._actions = Actions(self._runtime.store.home, self._perform)
            return self._actions

    def decide(
        self, id: str, pending: Pending, decision: Decision, arguments: Mapping[str, Any] | None = None, note: str = ""
    ) -> str:
        """Carry out what a person decided about a proposal; returns what was done."""
        return self.actions.decide(id, pending.id, decision, arguments, note)

    def shut(self) -> None:
        """Close what was opened."""
        if self._actions is not None:
            self._actions.close()

    # ---- inside ----

    def _masked(self, ask: Ask, vault: Vault | None) -> tuple[DeskConversation, Vault]:
        if isinstance(ask, str):
            return self.store.conversation(ask), Vault(self.store.chips(ask))
        conversation = ask if isinstance(ask, DeskConversation) else DeskConversation.from_row({"id": "given", **ask})
        vault = Vault() if vault is None else vault
        return masked(conversation, vault), vault

    def _perform(self, id: str, name: str, arguments: Mapping[str, Any]) -> str:
        """whyfeed moves no money: what was approved goes into the ledger, where the shop's own system finds it."""
        conversation = self.store.conversation(id)
        done = {"action": name, "arguments": masked_value(dict(arguments), Vault(self.store.chips(id)))}
        if name == "hand_over":
            done["summary"] = handover.summary(conversation.turns, language_of(conversation))
        self._note(id, "act", done)
        if name == "close":
            self.close(id)
        return f"{name} noted for {id}"

    def _note_shown(self, id: str, suggestions: Sequence[ReplySuggestion], given: Handover | None) -> None:
        shown = [{"id": each.id, "text": each.text, "source": each.source} for each in suggestions]
        self._note(id, "suggest", {"shown": shown, "handover": given is not None})

    def _note(self, id: str, kind: str, document: Mapping[str, Any]) -> None:
        self._runtime.recommender.append(Event("", _desk(id), "", kind, text=json.dumps(document, ensure_ascii=False)))

    def _events(self, id: str, kind: str) -> list[dict[str, Any]]:
        return [json.loads(event.text) for _, event in self._runtime.store.events(user=_desk(id)) if event.kind == kind]

    def _shown(self, id: str) -> list[dict[str, Any]]:
        noted = self._events(id, "suggest")
        return noted[-1]["shown"] if noted else []

    def _refused(self, id: str) -> set[str]:
        return {str(each["suggestion"]) for each in self._events(id, "refuse")} if id else set()


def _desk(id: str) -> str:
    return f"desk:{id}"


def _handover(turns: Sequence[DeskTurn], language: str, fits: bool, proposals: Sequence[Proposal]) -> Handover | None:
    """Where somebody else is asked for, or nothing that is known comes near."""
    asked = next((proposal.why for proposal in proposals if proposal.name == "hand_over"), "")
    reason = asked or ("" if fits else say("desk.nothing_fits", language))
    return Handover(reason, handover.summary(turns, language)) if reason else None


def _as_wanted(suggestion: ReplySuggestion, wanted: wish.Wish) -> ReplySuggestion:
    """The suggestion in the tone that was asked for; sentences that are gone take their citations with them."""
    text = wish.apply(suggestion.text, wanted, suggestion.language)
    if text == suggestion.text:
        return suggestion
    kept = tuple(sentence for sentence in suggestion.sentences if sentence.text in text)
    return replace(suggestion, text=text, sentences=kept or suggestion.sentences)


def _with_draft(suggestions: Sequence[ReplySuggestion], draft: ReplySuggestion, k: int) -> tuple[ReplySuggestion, ...]:
    """The best past reply stays first, a question that asks for what is missing stays last."""
    if any(each.text == draft.text for each in suggestions):
        return tuple(suggestions)
    kept = [suggestions[0], draft, *suggestions[1:]] if suggestions else [draft]
    if len(kept) > k and kept[-1].source == "question" and k > 2:
        kept = [*kept[: k - 1], kept[-1]]
    return tuple(kept[:k])
