"""Measure rankers of posts on an exchange folder: one test, every ranker, intervals over users."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
from threadpoolctl import threadpool_limits

from whyfeed.finetune.evaluation.baselines import BASELINES, Eligible, Ranker, Reranker, Tools
from whyfeed.finetune.evaluation.histories import Histories, read_histories
from whyfeed.finetune.evaluation.metrics import (
    CLICK,
    HISTORY,
    RANKING,
    TARGET,
    Context,
    Resampling,
    Values,
    beyond,
    bounds,
    buckets,
    calibrated,
    coverage,
    equal_mass,
    log_losses,
    ranking_values,
    top,
    user_aucs,
    weighted_auc,
    weighted_ece,
)
from whyfeed.finetune.evaluation.protocol import ClickTest, Keys, RankingTest, Test, later_clicks, pair_keys, prepare
from whyfeed.finetune.gate import decide
from whyfeed.finetune.ranking.click_model import CoreClicks
from whyfeed.finetune.ranking.core_ranker import CorePair, CoreRanker
from whyfeed.finetune.ranking.parts import enough
from whyfeed.retrieval.arrays import Floats, Rows
from whyfeed.retrieval.community.embedder import Embedder, Opener
from whyfeed.retrieval.errors import DataError, ModelError, WeightsError, WhyfeedError
from whyfeed.retrieval.progress import Progress

OURS = ("whyfeed-no-llm", "whyfeed")
RANKERS = (*BASELINES, *OURS)
RANKING_MODELS: Mapping[str, Callable[[Tools], Ranker]] = {
    **BASELINES, "whyfeed-no-llm": CoreRanker, "whyfeed": CorePair,
}  # fmt: skip
CLICK_MODELS: Mapping[str, Callable[[Tools], Ranker]] = {**BASELINES, **dict.fromkeys(OURS, CoreClicks)}
# The first decides which baseline is best; these are paired and drawn.
MAIN = {RankingTest: ("ndcg@10", "hr@10"), ClickTest: ("auc", "uauc")}
SHORT = {RankingTest: ("ndcg@10", "hr@10", "recall@20", "recall@200"), ClickTest: CLICK}
_MANY_THREADED = ("faiss", "lightgbm", "scipy.linalg", "sklearn", "torch")
_BLOCK = 256  # users at a time
_RETRIEVED = 1000  # posts of the whole catalogue that a ranker's second stage sees
_INNER = 0.25  # share of a click test's training part that its probabilities are calibrated on


@dataclass(slots=True)
class Measurement:
    """The document of `evaluate --json` for posts; `main` names the metrics that say most.

    `gate` is the decision between both of ours, by length of history; None unless both were measured.
    `skipped` rows of the folder and the test were none; `left_out` says why a ranker could not take part.
    `reader` is the language model that read the posts, None where none would have been of use.
    """

    data: str
    protocol: str
    main: tuple[str, ...]
    rows: list[dict[str, Any]] = field(default_factory=list)
    gate: dict[str, Any] | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    reader: str | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As in the contract, with more beside it."""
        return {
            "data": self.data, "protocol": self.protocol, "rows": self.rows, "gate": self.gate,
            "left_out": self.left_out, "reader": self.reader,
            "skipped": self.skipped, "seconds": round(self.seconds, 1),
        }  # fmt: skip


@dataclass(slots=True)
class Answers:
    """What one ranker did: bootstrap draws of the metrics, what the gate compares of each test row, and the time."""

    metrics: dict[str, float]
    draws: dict[str, Values]
    beyond: dict[str, Any]
    buckets: dict[str, list[dict[str, Any]]]
    fit_seconds: float
    ms_per_user: float
    gated: Values  # (rows,), more is better
    parts: dict[str, Any] | None = None  # of a core that chose them, see `CoreRanker.card`


def measure(
    folder: Path, embedder: Embedder, test: Path | None = None, rankers: Sequence[str] = (),
    candidates: int | None = None, progress: Progress | None = None, seed: int = 0,
    encoder: Opener | None = None, unseen: bool = False,
) -> Measurement:  # fmt: skip
    """Fit each ranker on a folder and ask it the test. DataError when there is nothing to test on.

    `encoder` opens the language model that reads such posts for "whyfeed"; without one both of ours are the same,
    also when its weights cannot be had, which `left_out` then says.
    `candidates`, `unseen`: as in `protocol.prepare`. An empty `rankers` stands for all that can take part; ModelError
    when one that is named needs a library that is not there.
    """
    if unknown := [name for name in rankers if name not in RANKERS]:
        raise ValueError(f"ranker {unknown[0]!r} is none of {', '.join(RANKERS)}")
    for library in _MANY_THREADED:  # what is loaded later does not hear of the limit
        with suppress(ImportError):
            import_module(library)
    # One thread of BLAS for each of ours, which keep the cores busy: and what more of them add up hangs on how many.
    with threadpool_limits(1):
        return _measured(folder, embedder, test, rankers, candidates, progress, seed, encoder, unseen)


def _measured(
    folder: Path, embedder: Embedder, test: Path | None, rankers: Sequence[str], candidates: int | None,
    progress: Progress | None, seed: int, encoder: Opener | None, unseen: bool,
) -> Measurement:  # fmt: skip
    begun = time.perf_counter()
    whole = read_histories(folder, progress)
    train, asked = prepare(whole, folder, test, candidates, seed, unseen=unseen)
    names = tuple(dict.fromkeys(rankers)) or RANKERS
    # A language model has no place among clicks (LOG.md), nor where no transformer learns to use what it reads.
    useful = "whyfeed" in names and isinstance(asked, RankingTest) and enough(train) and find_spec("torch") is not None
    found = Measurement(whole.name, asked.protocol, SHORT[type(asked)])
    found.skipped = whole.skipped + asked.skipped
    reader = None
    if encoder is not None and useful:
        try:
            reader = encoder(train.texts)
            found.reader = reader.name
        except WeightsError as exc:
            found.left_out["reading of whyfeed"] = str(exc)
    tools = Tools(embedder, train.texts, progress, seed, reader)
    bench = Bench(train, asked, tools)
    if reader is not None:
        tools.read_ahead()
    same = reader is None
    done: dict[str, Answers | WhyfeedError] = {}
    ours = [name for name in names if name in OURS]
    # Most of what ours are made of is fitted on one thread: both of them side by side, and beside the baselines.
    with ThreadPoolExecutor(len(OURS)) as pool:
        running = {name: pool.submit(bench.attempt, name) for name in (ours[:1] if same else ours)}
        for place, name in enumerate(names):
            if progress:
                progress("measuring rankers", place, len(names))
            if name not in OURS:
                done[name] = bench.attempt(name)
        done |= {name: each.result() for name, each in running.items()}
    if same and ours:
        done |= dict.fromkeys(ours, done[ours[0]])
    if progress:
        progress("measuring rankers", len(names), len(names))
    answers: dict[str, Answers] = {}
    for name in names:
        result = done[name]
        if isinstance(result, Answers):
            answers[name] = result
        elif rankers:
            raise result
        else:
            found.left_out[name] = str(result)
    found.left_out |= bench.missing
    found.rows = _rows(answers, MAIN[type(asked)])
    found.gate = _gate(answers, asked, train, seed)
    found.seconds = time.perf_counter() - begun
    return found


def _rows(answers: Mapping[str, Answers], main: Sequence[str]) -> list[dict[str, Any]]:
    others = [name for name in answers if name not in OURS]
    best = max(others, key=lambda name: answers[name].metrics[main[0]], default=None)
    rows = []
    for name, each in answers.items():
        row: dict[str, Any] = {
            "ranker": name,
            "metrics": {metric: round(value, 4) for metric, value in each.metrics.items()},
            "ci95": {metric: bounds(draws) for metric, draws in each.draws.items()},
            "ms_per_user": round(each.ms_per_user, 3),
            "fit_seconds": round(each.fit_seconds, 1),
            "beyond": each.beyond,
            "buckets": each.buckets,
            "paired": None,
        }
        if each.parts is not None:
            row["parts"] = each.parts
        if best is not None and best != name:
            other = answers[best]
            row["paired"] = {
                "against": best,
                "difference": {metric: round(each.metrics[metric] - other.metrics[metric], 4) for metric in main},
                "ci95": {metric: bounds(each.draws[metric] - other.draws[metric]) for metric in main},
            }
        rows.append(row)
    return rows


def _gate(answers: Mapping[str, Answers], test: Test, train: Histories, seed: int) -> dict[str, Any] | None:
    """Whether what the language model adds would go live, on the rows of this test."""
    if not all(name in answers for name in OURS):
        return None
    ranking = isinstance(test, RankingTest)
    lengths = train.lengths if ranking else np.diff(train.starts)  # as the buckets of the rows
    metric = "nDCG@10" if ranking else "log-likelihood a row"
    old, new = (answers[name].gated for name in OURS)
    decision = decide(old, new, test.user, lengths[test.user], metric=metric, names=OURS, seed=seed)
    return {"in_place": OURS[0], "challenger": OURS[1], "metric": metric, **decision.to_json()}


@dataclass
class Bench:
    """One test over the histories that may be learnt from."""

    train: Histories
    test: Test
    tools: Tools

    def __post_init__(self) -> None:
        self.keys = pair_keys(self.train, "ties", self.tools.seed)
        self.resampling = Resampling(self.test.user, self.tools.seed)

    @property
    def missing(self) -> dict[str, str]:
        """Parts of our rankers that could not take part for want of a library, and why."""
        return {
            f"{name} of whyfeed": why
            for ranker in self.tools.every(CoreRanker)
            for name, why in ranker.missing.items()
        }  # fmt: skip

    def attempt(self, name: str) -> Answers | DataError | ModelError:
        """`answers`, or why there are none."""
        try:
            return self.answers(name)
        except (DataError, ModelError) as exc:
            return exc

    def answers(self, name: str) -> Answers:
        """Fit a ranker and ask it everything."""
        if isinstance(self.test, RankingTest):
            return self._ranked(name, self.test)
        return self._clicked(name, self.test)

    def _fitted(self, make: Callable[[Tools], Ranker], histories: Histories) -> tuple[Ranker, float]:
        def fitted() -> Ranker:
            ranker = make(self.tools)
            ranker.fit(histories)
            return ranker

        begun = time.perf_counter()
        # The core's parts have the names of baselines, and what is fitted once need not be fitted again.
        return self.tools.made((make, histories), fitted), time.perf_counter() - begun

    # ---- rankings ----

    def _ranked(self, name: str, test: RankingTest) -> Answers:
        ranker, fit_seconds = self._fitted(RANKING_MODELS[name], self.train)
        core = ranker.live if isinstance(ranker, CorePair) else ranker
        ask = partial(self._orders, name, core, test)
        # Where the core without the language model has the say, it need not be asked twice.
        ranked, seconds = self.tools.made(("ranked", core), ask) if isinstance(core, CoreRanker) else ask()
        values = ranking_values(ranked, test.relevant)
        table = np.column_stack([values[metric] for metric in RANKING])
        draws = self.resampling.means(table)
        context = Context(
            self.train.liked, self.train.popularity, int(np.count_nonzero(self.train.lengths)), self.tools.vectors
        )
        return Answers(
            dict(zip(RANKING, map(float, table.mean(axis=0)), strict=True)),
            {metric: draws[:, at] for at, metric in enumerate(RANKING)},
            self._beyond(ranked, test, context),
            self._buckets(test, values),
            fit_seconds,
            1000 * seconds / len(np.unique(test.user)),
            values["ndcg@10"],
            ranker.card if isinstance(ranker, CoreRanker | CorePair) else None,
        )

    def _orders(self, name: str, ranker: Ranker, test: RankingTest) -> tuple[list[Rows], float]:
        """What a ranker makes of each row, best first, and the seconds that it took."""
        ranked: list[Rows] = []
        seconds = 0.0
        for begin in range(0, len(test.user), _BLOCK):
            if self.tools.progress:
                self.tools.progress(f"ranking by {name}", begin, len(test.user))
            users = test.user[begin : begin + _BLOCK]
            now = time.perf_counter()
            lists = self._lists(ranker, users, partial(self._eligible, test, begin))
            seconds += time.perf_counter() - now
            ranked += [self._ordered(user, *each) for user, each in zip(users, lists, strict=True)]
        return ranked, seconds

    def _lists(self, ranker: Ranker, users: Rows, eligible: Eligible) -> list[tuple[Rows, Floats]]:
        """Posts and scores of each user's list, in any order."""
        if hasattr(ranker, "rerank"):
            return cast(Reranker, ranker).rerank(users, eligible)
        found = []
        for line, scores in enumerate(ranker.score(users)):
            posts = eligible(line, scores)
            found.append((posts, scores[posts]))
        return found

    def _ordered(self, user: int, posts: Rows, scores: Floats) -> Rows:
        return np.asarray(posts[top(scores, lambda places: self.keys(np.array([user]), posts[places]))])

    def _eligible(self, test: RankingTest, begin: int, line: int, scores: Floats) -> Rows:
        """The candidates of a row, or the best of the whole catalogue without what the user has seen."""
        row = begin + line
        if test.candidates is not None:
            return test.candidates[row]
        user, relevant = test.user[row : row + 1], test.relevant[row]
        scores, kept = scores.copy(), scores[relevant]
        scores[self.train.seen.indices[slice(*self.train.seen.indptr[user[0] : user[0] + 2])]] = -np.inf
        scores[relevant] = kept
        return top(scores, lambda places: self.keys(user, places), _RETRIEVED)

    def _beyond(self, ranked: Sequence[Rows], test: RankingTest, context: Context) -> dict[str, Any]:
        values = beyond(ranked, test.user, context)
        found: dict[str, Any] = {"coverage": {"value": round(coverage(ranked, len(self.train.posts)), 4)}}
        draws = self.resampling.means(np.column_stack(list(values.values())))
        for at, (name, each) in enumerate(values.items()):
            there = each[~np.isnan(each)]
            if len(there):
                found[name] = {"value": round(float(there.mean()), 4), "ci95": bounds(draws[:, at])}
        return found

    def _buckets(self, test: RankingTest, values: Mapping[str, Values]) -> dict[str, list[dict[str, Any]]]:
        # A row with several right posts is as hard as its rarest.
        counts = np.array([self.train.popularity[relevant].min() for relevant in test.relevant])
        main = MAIN[RankingTest]

        def part(name: str, rows: Rows) -> dict[str, Any]:
            resampling = Resampling(test.user[rows], self.tools.seed)
            draws = resampling.means(np.column_stack([values[metric][rows] for metric in main]))
            return {
                "bucket": name,
                "rows": len(rows),
                "metrics": {metric: round(float(values[metric][rows].mean()), 4) for metric in main},
                "ci95": {metric: bounds(draws[:, at]) for at, metric in enumerate(main)},
            }

        return {
            "history": [part(*each) for each in buckets(self.train.lengths[test.user], HISTORY)],
            "target": [part(*each) for each in buckets(counts, TARGET)],
        }

    # ---- clicks ----

    def _clicked(self, name: str, test: ClickTest) -> Answers:
        ranker, fit_seconds = self._fitted(CLICK_MODELS[name], self.train)
        now = time.perf_counter()
        scores = _asked(ranker, test)
        seconds = time.perf_counter() - now
        slope, intercept = self._calibration(name)
        probabilities = 1 / (1 + np.exp(-(slope * scores.astype(np.float64) + intercept)))
        keys = self.keys(test.user, test.post)
        metrics, draws = self._click_values(test, scores, probabilities, keys)
        counts = np.bincount(self.train.post, minlength=len(self.train.posts))[test.post]
        lengths = np.diff(self.train.starts)[test.user]
        parts = {
            kind: [self._click_part(name, test, scores, rows) for name, rows in buckets(each, edges)]
            for kind, each, edges in (("history", lengths, HISTORY), ("target", counts, TARGET))
        }
        gated = -log_losses(test.label, probabilities)
        return Answers(metrics, draws, {}, parts, fit_seconds, 1000 * seconds / len(np.unique(test.user)), gated)

    def _calibration(self, name: str) -> tuple[float, float]:
        """Scores become probabilities on a later part of the training part: in-sample means know their own labels."""
        inner, later = self.tools.made(
            ("later", self.train), lambda: later_clicks(self.train, self.tools.seed, _INNER)
        )  # fmt: skip
        if not len(later.user) or not len(inner.user):
            return calibrated(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
        ranker, _ = self._fitted(CLICK_MODELS[name], inner)
        return calibrated(later.label, _asked(ranker, later))

    def _click_values(
        self, test: ClickTest, scores: Floats, probabilities: Values, keys: Keys
    ) -> tuple[dict[str, float], dict[str, Values]]:
        losses = log_losses(test.label, probabilities)
        users, aucs = user_aucs(test.label, scores, test.user)
        bins = equal_mass(probabilities, keys)
        one = np.ones((1, len(test.label)))
        draws = {"auc": self.resampling.of(lambda weights: weighted_auc(test.label, scores, weights))}
        values = {"auc": float(weighted_auc(test.label, scores, one)[0])}
        if len(users):
            values["uauc"] = float(aucs.mean())
            draws["uauc"] = Resampling(users, self.tools.seed).means(aucs[:, None])[:, 0]
        else:
            values["uauc"], draws["uauc"] = 0.5, np.full(self.resampling.rounds, 0.5)
        values["logloss"] = float(losses.mean())
        draws["logloss"] = self.resampling.means(losses[:, None])[:, 0]
        values["ece"] = float(weighted_ece(test.label, probabilities, bins, one)[0])
        # Gaps are absolute, so noise only widens them and every draw lies too high: their middle is put right.
        gaps = self.resampling.of(lambda weights: weighted_ece(test.label, probabilities, bins, weights))
        draws["ece"] = np.maximum(gaps - gaps.mean() + values["ece"], 0.0)
        if np.isnan(values["auc"]):  # one class only: nothing can be told apart
            values["auc"] = 0.5
        return values, draws

    def _click_part(self, name: str, test: ClickTest, scores: Floats, rows: Rows) -> dict[str, Any]:
        labels, part = test.label[rows], scores[rows]
        found: dict[str, Any] = {"bucket": name, "rows": len(rows), "metrics": {}, "ci95": {}}
        if 0 < labels.sum() < len(labels):
            found["metrics"]["auc"] = round(float(weighted_auc(labels, part, np.ones((1, len(rows))))[0]), 4)
            resampling = Resampling(test.user[rows], self.tools.seed)
            found["ci95"]["auc"] = bounds(resampling.of(lambda weights: weighted_auc(labels, part, weights)))
        return found


def _asked(ranker: Ranker, test: ClickTest) -> Floats:
    """(rows,): the score of each row's post for its user."""
    names, codes = np.unique(test.user, return_inverse=True)
    found = np.zeros(len(test.user), dtype=np.float32)
    order = np.argsort(codes, kind="stable")
    for begin in range(0, len(names), _BLOCK):
        scores = ranker.score(names[begin : begin + _BLOCK])
        first, last = np.searchsorted(codes[order], [begin, begin + _BLOCK])
        rows = order[first:last]
        found[rows] = scores[codes[rows] - begin, test.post[rows]]
    return found
