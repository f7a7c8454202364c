"""Evaluate reply rankers on a folder in the exchange format, with simple baselines on the same rows.

A test row is a conversation so far, the ids of the correct replies, and optionally the candidates; without candidates
all saved replies of the folder are candidates. Everything is fitted on the folder's conversations alone, in a temporary
home.
"""

from __future__ import annotations

import hashlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from whyfeed.agent.desk.ranker import ReplyCandidate, ReplyRanker, plain
from whyfeed.finetune.desk.fit import fit
from whyfeed.finetune.evaluation.metrics import Resampling, bounds
from whyfeed.finetune.gate import Outcome
from whyfeed.retrieval.arrays import Floats
from whyfeed.retrieval.community.embedder import Embedder
from whyfeed.retrieval.desk.cases import CaseBook
from whyfeed.retrieval.desk.situation import situation
from whyfeed.retrieval.desk.store import DeskStore, masked
from whyfeed.retrieval.desk.types import DeskConversation, DeskTurn
from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.post import clean_text
from whyfeed.retrieval.privacy.vault import Vault
from whyfeed.retrieval.progress import Progress
from whyfeed.retrieval.store.exchange import find_file, import_folder, read_rows
from whyfeed.retrieval.store.store import Store

CUTS = (1, 5, 10)
RANKERS = ("random", "popularity", "bm25", "text", "nearest", "whyfeed-no-llm", "whyfeed")
_HELD_OUT = 10  # without a test file, one in this many conversations is held out


@dataclass(frozen=True, slots=True)
class Trial:
    """One test row. `candidates` is empty when all saved replies are candidates."""

    conversation: str
    turns: tuple[DeskTurn, ...]
    draft: str
    relevant: frozenset[str]
    candidates: tuple[ReplyCandidate, ...] = ()


@dataclass(slots=True)
class Evaluation:
    """The document of `evaluate --json`, and the number of invalid rows that were skipped."""

    data: str
    protocol: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    outcome: Outcome | None = None
    skipped: int = 0

    def to_json(self) -> dict[str, Any]:
        """As in the contract."""
        document: dict[str, Any] = {"data": self.data, "protocol": self.protocol, "rows": self.rows}
        if self.outcome is not None:
            document["fitted"] = {"live": self.outcome.live, "why": self.outcome.why}
        return document


@dataclass(slots=True)
class Bench:
    """A folder's desk in a temporary home, and what was fitted on its conversations."""

    desk: DeskStore
    book: CaseBook
    saved: Sequence[ReplyCandidate]
    progress: Progress | None
    seed: int
    outcome: Outcome | None = None
    ranker: ReplyRanker = field(default_factory=ReplyRanker)

    def fit(self) -> None:
        """Fit the ranker on all conversations of the home."""
        conversations = list(self.desk.all())
        self.outcome = fit(self.book, conversations, self.saved, self.desk.home, self.progress, self.seed)
        self.ranker = ReplyRanker.load(self.desk.home)

    def rows(self, trials: Sequence[Trial], rankers: Sequence[str]) -> list[dict[str, Any]]:
        """One row of `evaluate --json` for each ranker."""
        rows: list[dict[str, Any]] = []
        for name in rankers:
            if name == "whyfeed" and rows and rows[-1]["ranker"] == "whyfeed-no-llm":
                # Replies are ranked without a language model, so both rows have the same numbers.
                rows.append({**rows[-1], "ranker": name})
                continue
            scorer = _scorer(name, self.book, self.desk, self.ranker)
            rows.append(_row(name, trials, self.saved, scorer, self.progress, self.seed))
        return rows


@contextmanager
def opened(folder: Path, embedder: Embedder, progress: Progress | None = None, seed: int = 0) -> Iterator[Bench]:
    """Import a folder's conversations and saved replies, with personal data masked; nothing is fitted yet."""
    with tempfile.TemporaryDirectory(prefix="whyfeed-evaluate-") as place:
        store = Store(Path(place))
        try:
            import_folder(store, folder, None if progress is None else _counting(progress))
            desk = DeskStore(store)
            saved = [ReplyCandidate(reply.id, reply.text) for reply in desk.replies()]
            yield Bench(desk, CaseBook(desk, embedder), saved, progress, seed)
        finally:
            store.close()


def evaluate_replies(
    folder: Path, embedder: Embedder, test: Path | None = None, rankers: Sequence[str] = RANKERS,
    progress: Progress | None = None,
) -> Evaluation:  # fmt: skip
    """Fit on a folder's conversations and rank the test rows. Raises DataError when there are no test rows."""
    if unknown := [name for name in rankers if name not in RANKERS]:
        raise ValueError(f"ranker {unknown[0]!r} is none of {', '.join(RANKERS)}")
    if not any(find_file(folder, name) for name in ("conversations", "replies")):
        raise DataError(
            f"{str(folder)!r} has no interactions.jsonl, conversations.jsonl or replies.jsonl to measure on"
        )
    skipped = 0
    if test is not None:
        trials, skipped = read_trials(test)
        protocol = f"{len(trials)} rows of {test.name}"
    with opened(folder, embedder, progress) as bench:
        if test is None:
            held = [each for each in bench.desk.all() if _fold(each.id) == 0]
            trials = cut_trials(held, {candidate.id for candidate in bench.saved})
            for each in held:
                bench.desk.remove(each.id)
            protocol = f"{len(trials)} answers of {len(held)} conversations that were held out"
        if not trials:
            raise DataError(
                f"{str(test or folder)!r} has no conversation with a reply to rank; see README, Service desk"
            )
        bench.book.refresh(progress)
        if any(name.startswith("whyfeed") for name in rankers):
            bench.fit()
        return Evaluation(folder.name, protocol, bench.rows(trials, rankers), bench.outcome, skipped)


# ---- test rows ----


def read_trials(path: Path) -> tuple[list[Trial], int]:
    """The trials of a test file, and the number of invalid rows that were skipped."""
    if not path.is_file():
        raise DataError(f"{str(path)!r} is no file; name a file of test rows")
    trials, skipped = [], 0
    for line, row, cause in read_rows(path):
        try:
            if row is None:
                raise ValueError(cause)
            trials.append(_trial(row, line))
        except (ValueError, TypeError) as exc:
            skipped += 1
            if skipped == 1 and not trials and line == 1 and row is not None and "conversation" not in row:
                raise DataError(f"{path.name}, line 1: {exc}; a reply test has conversation and relevant") from exc
    return trials, skipped


def _trial(row: Mapping[str, Any], line: int) -> Trial:
    given = row.get("conversation")
    if isinstance(given, list | tuple):
        given = {"turns": given}
    if not isinstance(given, Mapping):
        raise ValueError("conversation is missing")
    relevant = row.get("relevant")
    if not isinstance(relevant, list | tuple) or not relevant:
        raise ValueError("relevant is missing")
    vault = Vault()
    conversation = masked(DeskConversation.from_row({"id": f"line {line}", **given}), vault)
    turns, draft = conversation.turns, clean_text(row.get("draft") or given.get("draft"), 10_000)
    # The operator's draft may also be given as their last turn, which has no text yet.
    if turns and turns[-1].role == "agent" and not turns[-1].text and not turns[-1].query:
        turns, draft = turns[:-1], draft or turns[-1].draft
    candidates = [_candidate(each) for each in row.get("candidates") or ()]
    return Trial(
        conversation.id, turns, vault.mask_known(draft), frozenset(str(id) for id in relevant),
        tuple({each.id: each for each in candidates}.values()),
    )  # fmt: skip


def _candidate(row: Any) -> ReplyCandidate:
    if isinstance(row, str | int):
        return ReplyCandidate(str(row), "")
    if not isinstance(row, Mapping) or row.get("id") is None:
        raise ValueError(f"candidate {row!r} has no id")
    return ReplyCandidate(str(row["id"]), clean_text(row.get("text"), 10_000))


def cut_trials(held: Sequence[DeskConversation], known: set[str]) -> list[Trial]:
    """One trial for each saved reply that was taken in these conversations."""
    return [
        Trial(each.id, each.turns[:place], "", frozenset([turn.reply]))
        for each in held
        for place, turn in enumerate(each.turns)
        if turn.role == "agent" and turn.reply in known and place
    ]


# ---- rankers ----

Scorer = Callable[[Trial, Sequence[ReplyCandidate]], Floats]


def _scorer(name: str, book: CaseBook, desk: DeskStore, ranker: ReplyRanker) -> Scorer:
    if name == "random":
        return lambda trial, candidates: np.array(
            [random.Random(f"{trial.turns}|{each.id}").random() for each in candidates], dtype=np.float32
        )
    if name == "popularity":
        return lambda trial, candidates: np.array([book.habits[each.id] for each in candidates], dtype=np.float32)
    if name == "text":
        return lambda trial, candidates: (
            book.encode([plain(each.text) for each in candidates]) @ book.encode([_heard(trial)])[0]
        )
    if name == "bm25":

        def by_words(trial: Trial, candidates: Sequence[ReplyCandidate]) -> Floats:
            found = dict(desk.search(_heard(trial), 50))
            cases = desk.cases_by_num(list(found))
            return _voted(book, candidates, [(cases[num].reply, cases[num].text, found[num]) for num in cases])

        return by_words
    if name == "nearest":

        def by_sense(trial: Trial, candidates: Sequence[ReplyCandidate]) -> Floats:
            found = book.nearest(situation(trial.turns, trial.draft), 50)
            return _voted(book, candidates, [(case.reply, case.text, cosine) for case, cosine in found])

        return by_sense

    def ours(trial: Trial, candidates: Sequence[ReplyCandidate]) -> Floats:
        neighbours = book.like(situation(trial.turns, trial.draft), trial.conversation)
        ranked = ranker.rank(book, trial.turns, candidates, neighbours, trial.draft)
        scores = {each.candidate.id: each.score for each in ranked}
        return np.array([scores[each.id] for each in candidates], dtype=np.float32)

    return ours


def _heard(trial: Trial) -> str:
    now = situation(trial.turns, trial.draft)
    return f"{now.before} {now.asked} {now.draft}".strip()


def _voted(book: CaseBook, candidates: Sequence[ReplyCandidate], cases: Sequence[tuple[str, str, float]]) -> Floats:
    """A saved reply scores as the best case in which it was taken, a free reply as the most similar answer."""
    scores = np.zeros(len(candidates), dtype=np.float32)
    if not cases:
        return scores
    taken: dict[str, float] = {}
    for reply, _, score in cases:
        taken[reply] = max(taken.get(reply, 0.0), score)
    if any(each.id in taken for each in candidates) or all(each.saved and not each.text for each in candidates):
        return np.array([taken.get(each.id, 0.0) for each in candidates], dtype=np.float32)
    alike = (
        book.encode([plain(text) for _, text, _ in cases]) @ book.encode([plain(each.text) for each in candidates]).T
    )
    weights = np.array([score for _, _, score in cases])
    return np.asarray((weights[:, None] * alike).max(axis=0))


def _row(
    name: str, trials: Sequence[Trial], saved: Sequence[ReplyCandidate], scorer: Scorer, progress: Progress | None,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    texts = {each.id: each for each in saved}
    metrics = [*(f"hr@{cut}" for cut in CUTS), "mrr@10"]
    values = np.zeros((len(trials), len(metrics)))
    begun = time.perf_counter()
    for place, trial in enumerate(trials):
        if progress and place % 20 == 0:
            progress(f"evaluating {name}", place, len(trials))
        # A candidate that is a saved reply is treated as that reply, whatever text is given with it.
        candidates = [
            texts.get(each.id, ReplyCandidate(each.id, each.text, saved=False)) for each in trial.candidates
        ] or list(saved)
        scores = scorer(trial, candidates)
        order = sorted(range(len(candidates)), key=lambda at: (-scores[at], _shuffled(candidates[at].id)))
        rank = next((n for n, at in enumerate(order, 1) if candidates[at].id in trial.relevant), 0)
        values[place] = [*(0 < rank <= cut for cut in CUTS), 1 / rank if 0 < rank <= 10 else 0.0]
    elapsed = time.perf_counter() - begun
    if progress:
        progress(f"evaluating {name}", len(trials), len(trials))
    _, groups = np.unique([trial.conversation for trial in trials], return_inverse=True)
    draws = Resampling(groups, seed).means(values)
    return {
        "ranker": name,
        "metrics": {metric: round(float(values[:, at].mean()), 4) for at, metric in enumerate(metrics)},
        "ci95": {metric: bounds(draws[:, at]) for at, metric in enumerate(metrics)},
        "ms_per_user": round(1000 * elapsed / len(trials), 2),
    }


def _shuffled(id: str) -> str:
    """A hash of the id, to break ties independently of the order."""
    return hashlib.sha256(id.encode()).hexdigest()


def _fold(id: str) -> int:
    return int(hashlib.sha256(f"held out {id}".encode()).hexdigest(), 16) % _HELD_OUT


def _counting(progress: Progress) -> Callable[[str, int], None]:
    return lambda name, count: progress(f"importing {name}", count, count)
