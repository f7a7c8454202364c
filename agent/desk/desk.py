"""The service desk: suggests what an operator could send next, each sentence cited, and learns from what is sent.

One request is handled like one for posts: mask, find like situations, rank every reply that could be sent, fill and
ground the best, choose a few that differ. Past replies come at once; a draft by the writer follows. Nothing here
acts or sends by itself.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whyfeed.agent.desk import handover, wishes
from whyfeed.agent.desk.actions import Actions, Decision, Pending
from whyfeed.agent.desk.articles import Articles
from whyfeed.agent.desk.candidates import Candidates, DeskRequest, Knowledge, own_chips
from whyfeed.agent.desk.drafter import Drafter
from whyfeed.agent.desk.placeholders import Placeholders
from whyfeed.agent.desk.proposals import propose
from whyfeed.agent.desk.ranker import MODEL, ReplyRanker
from whyfeed.agent.desk.suggestion import Handover, Proposal, ReplySuggestion, Suggestions
from whyfeed.agent.phrases import say
from whyfeed.agent.registry import Registry
from whyfeed.agent.runtime import Runtime
from whyfeed.agent.trace import Status, Trace
from whyfeed.retrieval.desk.cases import CaseBook, Neighbour
from whyfeed.retrieval.desk.situation import Situation, situation
from whyfeed.retrieval.desk.store import DeskStore, masked, masked_value
from whyfeed.retrieval.desk.types import DeskConversation, DeskTurn, SavedReply, language_of, since_answer
from whyfeed.retrieval.errors import ModelError
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.post import Post, clean_text
from whyfeed.retrieval.privacy.vault import Vault
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.user import desk_user

MOST = 10  # suggestions at once
SURE = 0.6  # of the best reply; a draft is worth its seconds below it, or where there are facts to write from
_LEARNT_FROM = 3_000  # latest conversations from which the filling of placeholders is learnt
READ = 50_000  # characters of a conversation that one request reads, the newest turns first
Ask = str | DeskConversation | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Search:
    """One request for suggestions, with everything in it masked, and what is known for it.

    `wanted` are the operator's words and `wish` what was understood of them.
    """

    conversation: DeskConversation
    draft: str
    wanted: str
    wish: wishes.Wish
    language: str
    now: Situation
    neighbours: Sequence[Neighbour]
    articles: Sequence[Post]
    trace: Trace


class Desk:
    """Suggests replies for a conversation of the home (by id) or one that is given; learns from what is sent."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.store = DeskStore(runtime.store)
        self.book = CaseBook(self.store, runtime.embedder)
        self._articles = Articles(runtime)
        self._drafter = Drafter(runtime.models.writer)
        self._lock = threading.Lock()
        self._registry = Registry(runtime.store.home)
        self._ranker: ReplyRanker | None = None
        self._stamp: object = None
        self._replies: dict[str, SavedReply] = {}
        self._placeholders = Placeholders()
        self._known = (-1, -1)
        self._actions: Actions | None = None

    def build(self, progress: Progress | None = None) -> None:
        """Bring everything in memory in step with the store; cheap when nothing has changed."""
        with self._lock:
            self.book.refresh(progress)
            replies = {reply.id: reply for reply in self.store.replies()}
            known = (self.store.generation(), self.store.counts()["conversations"] // 200)
            if known != self._known or replies != self._replies:
                self._replies = replies
                self._placeholders = Placeholders.learn(self.store.latest(_LEARNT_FROM), self._replies)
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

        `draft` is what the operator has typed so far, `wanted` what they ask for in words ("shorter", "in Chinese",
        "offer a replacement"). What is suggested in a conversation of the home becomes a ledger event
        (`remember`). A `vault` that is given for a conversation that is not of the home holds its personal values
        afterwards. Raises UnknownConversation, and ValueError for a k outside 1 to 10.
        """
        if not 1 <= k <= MOST:
            raise ValueError(f"k={k!r} is not between 1 and {MOST}")
        search = self._search(ask, k, draft, wanted, vault)
        found, fits = self._past(search, k)
        noting = remember and isinstance(ask, str)
        if write and self._needs_draft(search, found, fits):
            # Noted before it is shown: an operator may send one while the draft is still being written.
            if noting:
                self._note_shown(found)
            yield replace(found, drafting=True)
            written = self._written(search, cancel, on_text)
            if written is not None:
                found = replace(found, suggestions=_with_draft(found.suggestions, written, k))
        if not found.suggestions and found.handover is None:
            turns, language = search.conversation.turns, search.language
            found = replace(
                found, handover=Handover(say("desk.nothing_grounded", language), handover.summary(turns, language))
            )
        if noting and not (cancel is not None and cancel.is_set()):
            self._note_shown(found)
        yield found

    def _search(self, ask: Ask, k: int, draft: str, wanted: str, vault: Vault | None) -> _Search:
        """Mask what is given, and look up like cases and articles."""
        trace = Trace()
        with trace.stage("mask") as record:
            conversation, vault, left_out = self._masked(ask, vault)
            draft, wanted = vault.mask_known(clean_text(draft, 2000)), vault.mask_known(clean_text(wanted, 300))
            wish = wishes.Wish.parse(wanted)
            record.note = f"{len(vault)} personal values masked"
            if left_out:
                record.note += f"; {left_out} older turns left out, as only the newest {READ:,} characters are read"
        self.build()
        language = wish.language or language_of(conversation)
        now = situation(conversation.turns, " ".join(part for part in (draft, wish.offer) if part))
        trace.request = {"conversation": conversation.id, "language": language, "k": k, "wish": wanted}
        with trace.stage("like") as record:
            neighbours = self.book.like(now, conversation.id)
            record.left = len(neighbours)
        with trace.stage("articles") as record:
            articles = [article for article, _ in self._articles.articles(now.asked)] if now.asked else []
            record.left = len(articles)
        return _Search(conversation, draft, wanted, wish, language, now, neighbours, articles, trace)

    def _past(self, search: _Search, k: int) -> tuple[Suggestions, bool]:
        """What can be suggested without a writer, and whether anything known comes near."""
        trace, now, language = search.trace, search.now, search.language
        conversation = search.conversation
        ranker = self._ranker or ReplyRanker()
        candidates = Candidates(
            Knowledge(self.book, ranker, self._placeholders, self._replies),
            DeskRequest(conversation.turns, search.neighbours, search.articles, language, search.draft),
        )
        with trace.stage("rank") as record:
            scored = candidates.ranked(self._refused(conversation.id))
            record.left, record.note = len(scored), ranker.origin
        with trace.stage("ground", len(scored)) as record:
            chosen = candidates.choose(scored, k, record)
            record.left = len(chosen.suggestions)
        proposals = tuple(propose(conversation.turns, search.articles, language))
        given = _handover(conversation.turns, language, chosen.fits, proposals)
        suggestions = tuple(_as_wanted(each, search.wish) for each in chosen.suggestions) if chosen.fits else ()
        with trace.stage("posts") as record:
            posts = self._articles.helpful(now.asked, conversation.customer, language) if now.asked else ()
            record.left = len(posts)
        return Suggestions(conversation.id, suggestions, given, posts, proposals, False, trace), chosen.fits

    def _needs_draft(self, search: _Search, found: Suggestions, fits: bool) -> bool:
        """Whether a draft is worth its seconds, and there is a writer."""
        facts = any(turn.item for turn in since_answer(search.conversation.turns))
        sure = bool(found.suggestions) and found.suggestions[0].confidence >= SURE
        wanted = bool(search.wanted) or bool(search.articles) or facts or not sure
        return bool(search.now.asked) and wanted and fits and self._runtime.models.writer() is not None

    def _written(
        self, search: _Search, cancel: threading.Event | None, on_text: Callable[[str], None] | None
    ) -> ReplySuggestion | None:  # fmt: skip
        """The writer's draft; the trace says when it fails."""
        turns = search.conversation.turns
        cases = [replace(each.case, text=own_chips(each.case.text, turns)) for each in search.neighbours[:2]]
        with search.trace.stage("draft") as record:
            try:
                written = self._drafter.draft(
                    turns, cases, search.articles[:2], search.language, search.wanted, cancel, on_text
                )
            except ModelError as exc:
                record.end(Status.FAILED, exc)
                return None
            record.left = int(written is not None)
            return written

    # ---- learning ----

    def send(self, id: str, text: str, suggestion: str = "") -> str:
        """Send the operator's text; returns it as the customer gets it, with personal values put back.

        `suggestion` is the id of the suggestion that the text began with. The answer becomes a case, and a ledger
        event says whether the suggestion was sent unchanged or edited.
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
        """Refuse a suggestion: it is not offered in this conversation again, and less often in like ones."""
        self.store.conversation(id)
        self._note(id, "refuse", {"suggestion": suggestion})

    def receive(self, id: str, text: str) -> int:
        """The customer wrote; returns the number of the turn."""
        text = clean_text(text)
        if not text:
            raise ValueError("the message is empty")
        return self.store.add_turn(id, DeskTurn("customer", text, self._runtime.clock()))

    def close(self, id: str) -> None:
        """End a conversation: its personal values are deleted; what was said stays as cases."""
        self.store.close(id)

    def forget(self, id: str) -> None:
        """Delete a conversation, everything that was learnt from it, and its ledger events."""
        self.forget_all([id])

    def forget_all(self, ids: Sequence[str]) -> None:
        """`forget` for several conversations. UnknownConversation, with nothing deleted, where one does not exist."""
        self.store.remove(*ids)
        for id in ids:
            self.actions.forget(id)

    # ---- actions: proposed here, decided by the operator ----

    @property
    def actions(self) -> Actions:
        """Proposals that wait for an operator."""
        with self._lock:
            if self._actions is None:
                self._actions = Actions(self._runtime.store.home, self._perform)
            return self._actions

    def decide(
        self, id: str, pending: Pending, decision: Decision, arguments: Mapping[str, Any] | None = None, note: str = ""
    ) -> str:
        """Carry out what the operator decided about a proposal; returns what was done."""
        return self.actions.decide(id, pending.id, decision, arguments, note)

    def shut(self) -> None:
        """Close what was opened."""
        if self._actions is not None:
            self._actions.close()

    # ---- inside ----

    def _masked(self, ask: Ask, vault: Vault | None) -> tuple[DeskConversation, Vault, int]:
        """The newest turns with personal data masked, the vault, and the number of older turns that are not read."""
        if isinstance(ask, str):
            conversation, left_out = _newest(self.store.conversation(ask))
            return conversation, Vault(self.store.chips(ask)), left_out
        given = ask if isinstance(ask, DeskConversation) else DeskConversation.from_row({"id": "given", **ask})
        conversation, left_out = _newest(given)
        vault = Vault() if vault is None else vault
        return masked(conversation, vault), vault, left_out

    def _perform(self, id: str, name: str, arguments: Mapping[str, Any]) -> str:
        """Note an approved action in the ledger. whyfeed moves no money: the shop's own system reads it there."""
        conversation = self.store.conversation(id)
        done = {"action": name, "arguments": masked_value(dict(arguments), Vault(self.store.chips(id)))}
        if name == "hand_over":
            done["summary"] = handover.summary(conversation.turns, language_of(conversation))
        self._note(id, "act", done)
        if name == "close":
            self.close(id)
        return f"{name} noted for {id}"

    def _note_shown(self, found: Suggestions) -> None:
        shown = [{"id": each.id, "text": each.text, "source": each.source} for each in found.suggestions]
        self._note(found.conversation, "suggest", {"shown": shown, "handover": found.handover is not None})

    def _note(self, id: str, kind: str, document: Mapping[str, Any]) -> None:
        self._runtime.recommender.append(
            Event("", desk_user(id), "", kind, text=json.dumps(document, ensure_ascii=False))
        )

    def _events(self, id: str, kind: str) -> list[dict[str, Any]]:
        return [
            json.loads(event.text) for _, event in self._runtime.store.events(user=desk_user(id)) if event.kind == kind
        ]

    def _shown(self, id: str) -> list[dict[str, Any]]:
        noted = self._events(id, "suggest")
        return noted[-1]["shown"] if noted else []

    def _refused(self, id: str) -> set[str]:
        return {str(each["suggestion"]) for each in self._events(id, "refuse")} if id else set()


def _newest(conversation: DeskConversation) -> tuple[DeskConversation, int]:
    """The newest turns of at most `READ` characters together, at least one, and how many older ones are left out.

    Attributes are left out as well, because no suggestion reads them.
    """
    kept, room = list[DeskTurn](), READ
    for turn in reversed(conversation.turns):
        given = [json.dumps(value, ensure_ascii=False) for value in (turn.item, turn.query) if value]
        room -= len(turn.text) + len(turn.draft) + sum(map(len, given))
        if room < 0:
            if not kept:
                kept.append(replace(turn, item=None, query=None))  # a text alone is never that long
            break
        kept.append(turn)
    left_out = len(conversation.turns) - len(kept)
    return replace(conversation, turns=tuple(reversed(kept)), attributes={}), left_out


def _handover(turns: Sequence[DeskTurn], language: str, fits: bool, proposals: Sequence[Proposal]) -> Handover | None:
    """A hand-over where the customer asks for a person, or where nothing known comes near; else None."""
    asked = next((proposal.why for proposal in proposals if proposal.name == "hand_over"), "")
    reason = asked or ("" if fits else say("desk.nothing_fits", language))
    return Handover(reason, handover.summary(turns, language)) if reason else None


def _as_wanted(suggestion: ReplySuggestion, wanted: wishes.Wish) -> ReplySuggestion:
    """The suggestion in the tone that was asked for; sentences that are left out lose their citations."""
    text = wishes.apply(suggestion.text, wanted, suggestion.language)
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
