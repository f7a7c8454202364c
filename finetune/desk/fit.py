"""Fit the reply ranker on a home's past conversations; it goes live only if it passes the gate.

The network (situation -> saved reply) is trained on five sixths of the conversations. On one half of the last sixth,
the weights of all signals are fitted by a conditional logit over the replies that could have been sent; the gate is
decided on the other half. In a small home this is repeated with further sixths. The network that goes live is then
trained on all conversations. The neighbours of a situation never include cases of its own conversation.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from whyfeed.agent.desk.network import ReplyNetwork, bucket
from whyfeed.agent.desk.ranker import HAND_SET, MODEL, SIGNALS, ReplyCandidate, ReplyRanker, measure, pairs
from whyfeed.agent.registry import Registry
from whyfeed.finetune.desk import network
from whyfeed.finetune.gate import Outcome, decide
from whyfeed.finetune.ranking.fit import conditional_logit
from whyfeed.retrieval.arrays import Floats
from whyfeed.retrieval.desk.cases import CaseBook
from whyfeed.retrieval.desk.situation import features, situation
from whyfeed.retrieval.desk.types import DeskConversation, DeskTurn
from whyfeed.retrieval.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from whyfeed.agent.agent import Agent

Weights = Mapping[str, Mapping[str, float]]
MIN_ANSWERS = 200  # situations; with fewer the hand-set weights stay
PENALTIES = (0.001, 0.01, 0.1)
FOLDS = 6
_MEASURED = 400  # situations of each kind on which the weights are fitted, and on which the gate is decided
_ALTERNATIVES = 300  # largest number of saved replies in one choice
# Sign constraints. A reply that was offered and not taken must not gain by that, even where a log only ever offered
# good replies. A reply must not gain by being rare: where all are equally frequent, the held-out one is the rarest.
_BOUND: Mapping[str, tuple[float | None, float | None]] = {"passed": (None, 0.0), "habit": (0.0, None)}
_BOUNDS = [_BOUND.get(name, (None, None)) for name in SIGNALS]
_DUE = 1.2
_MARK = "answers that the reply ranker was fitted on"
_BATCH = 512
_OTHERS = 9  # other free replies among which a free reply must be found


@dataclass(frozen=True, slots=True)
class OperatorAnswer:
    """One answer of an operator: the turns before it and the text sent."""

    conversation: str
    language: str
    turns: tuple[DeskTurn, ...]
    sent: DeskTurn


@dataclass(frozen=True, slots=True)
class Choice:
    """Signals (n, SIGNALS) of the possible replies, and the index of the one sent. `kind`: saved or free."""

    conversation: str
    kind: str
    values: Floats
    chosen: npt.NDArray[np.bool_]


def operator_answers(conversations: Sequence[DeskConversation]) -> list[OperatorAnswer]:
    """All answers of operators in closed conversations."""
    return [
        OperatorAnswer(conversation.id, conversation.language, conversation.turns[:place], turn)
        for conversation in conversations
        for place, turn in enumerate(conversation.turns)
        if turn.role == "agent" and turn.text and place and conversation.status == "closed"
    ]


def fit(
    book: CaseBook, conversations: Sequence[DeskConversation], saved: Sequence[ReplyCandidate], home: Path,
    progress: Progress | None = None, seed: int = 0,
) -> Outcome:  # fmt: skip
    """Fit, compare with the hand-set weights, and make the better one live in the home.

    An earlier fit was trained on the conversations that are held out now, so a comparison with it would be biased. It
    came from the same method on fewer conversations, so it is replaced in both cases: by the new fit if that wins, by
    the hand-set weights if it loses.
    """
    found = operator_answers(conversations)
    if len(found) < MIN_ANSWERS:
        why = f"{len(found)} answers of agents, {MIN_ANSWERS} needed: the hand-set weights stay"
        return Outcome(False, why, {"answers": len(found)})
    lessons = ReplyExamples.of(book, found, saved, progress)
    choices: list[Choice] = []
    test: list[Choice] = []
    for fold in range(FOLDS):
        # A network that has not seen this part; in a small home every part is needed for the gate.
        net = lessons.train({step.conversation for step in found if _fold(step.conversation) != fold}, progress, seed)
        held = [step for step in found if _fold(step.conversation) == fold]
        habits = Counter(step.sent.reply for step in found if _fold(step.conversation) != fold)
        for half, into in ((1, choices), (0, test)):
            part = [step for step in held if _half(step.conversation) == half]
            into += build_choices(book, net, part, saved, habits, seed, progress)
        if len(test) >= _MEASURED:
            break
    if not choices or not test:
        return Outcome(False, "too few conversations to compare on: the hand-set weights stay", {"answers": len(found)})
    weights = {kind: _fitted([choice for choice in choices if choice.kind == kind], kind) for kind in HAND_SET}
    by_hand = {kind: {**given, "net": 0.0} for kind, given in HAND_SET.items()}
    before, after = hits_at_one(by_hand, test), hits_at_one(weights, test)
    decision = decide(
        before, after, [choice.conversation for choice in test], metric="R@1", names=("hand-set", "fitted"), seed=seed
    )
    card: dict[str, Any] = {
        "answers": len(found), "tested": len(test), "seed": seed,
        "r@1": {"hand-set": float(before.mean()), "fitted": float(after.mean())},
        "r@1 by kind": {
            kind: [float(each[[choice.kind == kind for choice in test]].mean()) for each in (before, after)]
            for kind in {choice.kind for choice in test}
        },
        "gate": decision.to_json(), "weights": weights,
    }  # fmt: skip
    if not decision.live:
        Registry(home).promote(MODEL, None)  # an earlier fit on fewer conversations is replaced as well
        return Outcome(False, decision.why, card)
    final = lessons.train(None, progress, seed)
    ReplyRanker(weights, final, f"fitted on {len(found)} answers").save(home, card)
    return Outcome(True, decision.why, card)


def fit_agent(agent: Agent, progress: Progress | None = None) -> Outcome:
    """Fit on an agent's home; its desk uses the new live version from the next request on."""
    desk = agent.desk
    desk.build(progress)
    saved = [ReplyCandidate(reply.id, reply.text) for reply in desk.store.replies()]
    return fit(desk.book, list(desk.store.all()), saved, agent.home, progress)


def fit_when_due(agent: Agent, progress: Progress | None = None) -> Outcome | None:
    """Fit on an agent's home if the answers grew by a fifth since the last fit; None when no fit was due."""
    answers = agent.desk.store.counts()["cases"]
    last = int(agent.marked(_MARK) or 0)
    if answers < MIN_ANSWERS or answers < _DUE * last:
        return None
    outcome = fit_agent(agent, progress)
    agent.mark(_MARK, str(answers))
    return outcome


@dataclass(frozen=True, slots=True)
class ReplyExamples:
    """Training data of the network: an example for each saved reply that was taken, and its conversation."""

    replies: tuple[str, ...]
    examples: tuple[network.Example, ...]
    conversations: tuple[str, ...]

    @classmethod
    def of(
        cls,
        book: CaseBook,
        found: Sequence[OperatorAnswer],
        saved: Sequence[ReplyCandidate],
        progress: Progress | None = None,
    ) -> ReplyExamples:
        """Read the answers. Answers in an operator's own words are no examples for the network."""
        known = {candidate.id for candidate in saved}
        taken = [step for step in found if step.sent.reply in known]
        replies = sorted({step.sent.reply for step in taken})
        places = {id: place for place, id in enumerate(replies)}
        examples: list[network.Example] = []
        for start in range(0, len(taken), _BATCH):
            part = taken[start : start + _BATCH]
            vectors = pairs(book, [situation(step.turns) for step in part])
            examples += [_example(step, vector, places) for step, vector in zip(part, vectors, strict=True)]
            if progress:
                progress("reading answers", len(examples), len(taken))
        return cls(tuple(replies), tuple(examples), tuple(step.conversation for step in taken))

    def train(self, only: Collection[str] | None, progress: Progress | None, seed: int) -> ReplyNetwork | None:
        """The network trained on these conversations only; None when there is too little data."""
        examples = [
            example
            for example, conversation in zip(self.examples, self.conversations, strict=True)
            if only is None or conversation in only
        ]
        if len(examples) < MIN_ANSWERS or len(self.replies) < 2:
            return None
        return network.train(examples, self.replies, seed=seed, progress=progress)


def build_choices(
    book: CaseBook, net: ReplyNetwork | None, found: Sequence[OperatorAnswer], saved: Sequence[ReplyCandidate],
    habits: Mapping[str, int], seed: int, progress: Progress | None = None,
) -> Iterator[Choice]:  # fmt: skip
    """The choices of the situations: among saved replies where one was taken, else among free replies."""
    rng = random.Random(seed)
    known = {candidate.id for candidate in saved}
    of_saved = [step for step in found if step.sent.reply in known]
    free = [step for step in found if step.sent.reply not in known]
    chosen = _some(of_saved, rng) + _some(free, rng)
    texts: dict[str, list[str]] = {}
    for step in free:
        texts.setdefault(step.language, []).append(step.sent.text)
    for place, step in enumerate(chosen):
        if progress and place % 20 == 0:
            progress("weighing signals", place, len(chosen))
        if step.sent.reply in known:
            candidates = [candidate for candidate in saved if candidate.id == step.sent.reply]
            candidates += rng.sample(list(saved), min(len(saved), _ALTERNATIVES))
        else:
            candidates = [ReplyCandidate("sent", step.sent.text, saved=False)]
            others = rng.sample(texts[step.language], min(len(texts[step.language]), _OTHERS))
            candidates += [ReplyCandidate(f"other {n}", text, saved=False) for n, text in enumerate(others)]
        apart: dict[str, ReplyCandidate] = {}
        for candidate in candidates:  # the reply that was sent comes first, and is kept when another one is identical
            apart.setdefault(candidate.id if candidate.saved else candidate.text, candidate)
        candidates = list(apart.values())
        if len(candidates) < 2:
            continue
        draft = step.sent.draft if rng.random() < 0.5 else ""
        neighbours = book.like(situation(step.turns, draft), step.conversation)
        values = measure(book, net, step.turns, candidates, neighbours, draft, habits)
        right = step.sent.reply if step.sent.reply in known else "sent"
        kind = "saved" if step.sent.reply in known else "free"
        yield Choice(step.conversation, kind, values, np.array([candidate.id == right for candidate in candidates]))


def hits_at_one(weights: Weights, choices: Sequence[Choice]) -> Floats:
    """(choices,) 1 where the candidate with the highest score is the one that was sent; a tie counts as wrong."""
    right = []
    for choice in choices:
        scores = choice.values.astype(np.float64) @ np.array([weights[choice.kind][name] for name in SIGNALS])
        best = scores.max()
        right.append(bool(choice.chosen[scores >= best].all()))
    return np.array(right, dtype=np.float64)


def _fitted(choices: Sequence[Choice], kind: str) -> Mapping[str, float]:
    """Weights for one kind; the penalty is chosen on a held-out half of the conversations."""
    one = [choice for choice in choices if _fold(choice.conversation + "/") % 2]
    other = [choice for choice in choices if not _fold(choice.conversation + "/") % 2]
    if len(choices) < MIN_ANSWERS or not one or not other:
        return HAND_SET[kind]
    penalty = max(PENALTIES, key=lambda value: float(hits_at_one({kind: _solve(one, value)}, other).mean()))
    return _solve(choices, penalty)


def _solve(choices: Sequence[Choice], penalty: float) -> Mapping[str, float]:
    pairs = [(choice.values, choice.chosen) for choice in choices]
    found = conditional_logit(pairs, penalty, _BOUNDS)
    return dict(zip(SIGNALS, map(float, found), strict=True))


def _example(step: OperatorAnswer, vector: Floats, places: dict[str, int]) -> network.Example:
    named = features(step.turns, step.sent.draft)
    drafted = [name for name in named if name.startswith("draft:")]
    return network.Example(
        bucket([name for name in named if not name.startswith("draft:")]),
        bucket(drafted) if drafted else np.zeros(0, dtype=np.int32),
        vector,
        places[step.sent.reply],
    )


def _some(found: Sequence[OperatorAnswer], rng: random.Random) -> list[OperatorAnswer]:
    return rng.sample(list(found), min(len(found), _MEASURED))


def _fold(conversation: str) -> int:
    return int(hashlib.sha256(conversation.encode()).hexdigest(), 16) % FOLDS


def _half(conversation: str) -> int:
    return int(hashlib.sha256(conversation.encode()).hexdigest(), 16) // FOLDS % 2
