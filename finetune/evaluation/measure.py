"""Measure rankers of posts on an exchange folder: every ranker on the same test, with intervals over users."""

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

from whyfeed.finetune.evaluation.baselines import BASELINES, Eligible, Ranker, Reranker, Resources
from whyfeed.finetune.evaluation.histories import Histories, read_histories
from whyfeed.finetune.evaluation.metrics import (
    CLICK,
    HISTORY,
    RANKING,
    TARGET,
    Catalogue,
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
from whyfeed.finetune.ranking.click_model import GaussianProcessClicks
from whyfeed.finetune.ranking.core_ranker import CoreRanker, CoreWithLlm
from whyfeed.finetune.ranking.parts import enough_likes
from whyfeed.retrieval.arrays import Floats, Rows
from whyfeed.retrieval.community.embedder import Embedder, Opener
from whyfeed.retrieval.errors import DataError, ModelError, WeightsError, WhyfeedError
from whyfeed.retrieval.progress import Progress

OURS = ("whyfeed-no-llm", "whyfeed")
RANKERS = (*BASELINES, *OURS)
RANKING_MODELS: Mapping[str, Callable[[Resources], Ranker]] = {
    **BASELINES, "whyfeed-no-llm": CoreRanker, "whyfeed": CoreWithLlm,
}  # fmt: skip
CLICK_MODELS: Mapping[str, Callable[[Resources], Ranker]] = {**BASELINES, **dict.fromkeys(OURS, GaussianProcessClicks)}
# The first metric selects the best baseline; these are compared in pairs and plotted.
MAIN = {RankingTest: ("ndcg@10", "hr@10"), ClickTest: ("auc", "uauc")}
SHORT = {RankingTest: ("ndcg@10", "hr@10", "recall@20", "recall@200"), ClickTest: CLICK}
_MANY_THREADED = ("faiss", "lightgbm", "scipy.linalg", "sklearn", "torch")
_BLOCK = 256  # users at a time
_RETRIEVED = 1000  # posts of the whole catalogue that the second stage of a ranker reranks
_INNER = 0.25  # share of the training labels that probabilities are calibrated on


@dataclass(slots=True)
class Measurement:
    """The document of `evaluate --json` for posts; `main` names the most important metrics.

    `gate`: the decision between the two rankers of whyfeed, also by length of history; None unless both were measured.
    `skipped`: unreadable rows of folder and test. `left_out`: skipped rankers and why. `reader`: the language model
    that read the posts, or None.
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
        """The document as JSON values."""
        return {
            "data": self.data, "protocol": self.protocol, "rows": self.rows, "gate": self.gate,
            "left_out": self.left_out, "reader": self.reader,
            "skipped": self.skipped, "seconds": round(self.seconds, 1),
        }  # fmt: skip


@dataclass(slots=True)
class RankerResult:
    """Results of one ranker: metrics, bootstrap draws of them, the values the gate compares per row, and times."""

    metrics: dict[str, float]
    draws: dict[str, Values]
    beyond: dict[str, Any]
    buckets: dict[str, list[dict[str, Any]]]
    fit_seconds: float
    ms_per_user: float
    gated: Values  # (rows,), more is better
    parts: dict[str, Any] | None = None  # of a ranking core, see `CoreRanker.card`


def measure(
    folder: Path, embedder: Embedder, test: Path | None = None, rankers: Sequence[str] = (),
    candidates: int | None = None, progress: Progress | None = None, seed: int = 0,
    encoder: Opener | None = None, unseen: bool = False,
) -> Measurement:  # fmt: skip
    """Fit each ranker on a folder and measure it on the test. DataError when there is nothing to test on.

    `encoder` opens the language model that reads the posts for "whyfeed". Without one, or when its weights are missing
    (see `left_out`), "whyfeed" equals "whyfeed-no-llm". `candidates`, `unseen`: as in `protocol.prepare`. Without
    `rankers` all are measured, and rankers whose library is missing are skipped and listed; ModelError if such a ranker
    is named, ValueError for a name that is none.
    """
    if unknown := [name for name in rankers if name not in RANKERS]:
        raise ValueError(f"ranker {unknown[0]!r} is none of {', '.join(RANKERS)}")
    for library in _MANY_THREADED:  # the thread limit does not apply to libraries loaded later
        with suppress(ImportError):
            import_module(library)
    # Rankers are fitted in parallel with one thread of BLAS each; with more, sums would depend on their number.
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
    # A language model does not help on clicks (LOG.md); on rankings only the transformer uses its vectors.
    useful = (
        "whyfeed" in names and isinstance(asked, RankingTest) and enough_likes(train) and find_spec("torch") is not None
    )
    found = Measurement(whole.name, asked.protocol, SHORT[type(asked)])
    found.skipped = whole.skipped + asked.skipped
    reader = None
    if encoder is not None and useful:
        try:
            reader = encoder(train.texts)
            found.reader = reader.name
        except WeightsError as exc:
            found.left_out["reading of whyfeed"] = str(exc)
    resources = Resources(embedder, train.texts, progress, seed, reader)
    bench = Bench(train, asked, resources)
    if reader is not None:
        resources.read_in_background()
    same = reader is None
    done: dict[str, RankerResult | WhyfeedError] = {}
    ours = [name for name in names if name in OURS]
    # The cores are fitted in parallel to each other and to the baselines.
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
    answers: dict[str, RankerResult] = {}
    for name in names:
        result = done[name]
        if isinstance(result, RankerResult):
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


def _rows(answers: Mapping[str, RankerResult], main: Sequence[str]) -> list[dict[str, Any]]:
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


def _gate(answers: Mapping[str, RankerResult], test: Test, train: Histories, seed: int) -> dict[str, Any] | None:
    """The gate's decision whether the language model improves the ranking, on the rows of this test."""
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
    """One test, and the histories that may be learnt from."""

    train: Histories
    test: Test
    resources: Resources

    def __post_init__(self) -> None:
        self.keys = pair_keys(self.train, "ties", self.resources.seed)
        self.resampling = Resampling(self.test.user, self.resources.seed)

    @property
    def missing(self) -> dict[str, str]:
        """Base rankers of the cores that were skipped because a library is missing, and why."""
        return {
            f"{name} of whyfeed": why
            for ranker in self.resources.cached_of(CoreRanker)
            for name, why in ranker.missing.items()
        }  # fmt: skip

    def attempt(self, name: str) -> RankerResult | DataError | ModelError:
        """`answers`, or the error that prevents them."""
        try:
            return self.answers(name)
        except (DataError, ModelError) as exc:
            return exc

    def answers(self, name: str) -> RankerResult:
        """Fit a ranker and measure it."""
        if isinstance(self.test, RankingTest):
            return self._ranked(name, self.test)
        return self._clicked(name, self.test)

    def _fitted(self, make: Callable[[Resources], Ranker], histories: Histories) -> tuple[Ranker, float]:
        def fitted() -> Ranker:
            ranker = make(self.resources)
            ranker.fit(histories)
            return ranker

        begun = time.perf_counter()
        # The core fits some of the baselines too: each is fitted once.
        return self.resources.cached((make, histories), fitted), time.perf_counter() - begun

    # ---- rankings ----

    def _ranked(self, name: str, test: RankingTest) -> RankerResult:
        ranker, fit_seconds = self._fitted(RANKING_MODELS[name], self.train)
        core = ranker.live if isinstance(ranker, CoreWithLlm) else ranker
        ask = partial(self._orders, name, core, test)
        # If the core without the language model is used, its rankings are computed once.
        ranked, seconds = self.resources.cached(("ranked", core), ask) if isinstance(core, CoreRanker) else ask()
        values = ranking_values(ranked, test.relevant)
        table = np.column_stack([values[metric] for metric in RANKING])
        draws = self.resampling.means(table)
        context = Catalogue(
            self.train.liked, self.train.popularity, int(np.count_nonzero(self.train.lengths)), self.resources.vectors
        )
        return RankerResult(
            dict(zip(RANKING, map(float, table.mean(axis=0)), strict=True)),
            {metric: draws[:, at] for at, metric in enumerate(RANKING)},
            self._beyond(ranked, test, context),
            self._buckets(test, values),
            fit_seconds,
            1000 * seconds / len(np.unique(test.user)),
            values["ndcg@10"],
            ranker.card if isinstance(ranker, CoreRanker | CoreWithLlm) else None,
        )

    def _orders(self, name: str, ranker: Ranker, test: RankingTest) -> tuple[list[Rows], float]:
        """Ranked posts of each row, best first, and the seconds that it took."""
        ranked: list[Rows] = []
        seconds = 0.0
        for begin in range(0, len(test.user), _BLOCK):
            if self.resources.progress:
                self.resources.progress(f"ranking by {name}", begin, len(test.user))
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
        """The candidates of a row, or the best of the whole catalogue without the posts the user has seen."""
        row = begin + line
        if test.candidates is not None:
            return test.candidates[row]
        user, relevant = test.user[row : row + 1], test.relevant[row]
        scores, kept = scores.copy(), scores[relevant]
        scores[self.train.seen.indices[slice(*self.train.seen.indptr[user[0] : user[0] + 2])]] = -np.inf
        scores[relevant] = kept
        return top(scores, lambda places: self.keys(user, places), _RETRIEVED)

    def _beyond(self, ranked: Sequence[Rows], test: RankingTest, context: Catalogue) -> dict[str, Any]:
        values = beyond(ranked, test.user, context)
        found: dict[str, Any] = {"coverage": {"value": round(coverage(ranked, len(self.train.posts)), 4)}}
        draws = self.resampling.means(np.column_stack(list(values.values())))
        for at, (name, each) in enumerate(values.items()):
            there = each[~np.isnan(each)]
            if len(there):
                found[name] = {"value": round(float(there.mean()), 4), "ci95": bounds(draws[:, at])}
        return found

    def _buckets(self, test: RankingTest, values: Mapping[str, Values]) -> dict[str, list[dict[str, Any]]]:
        # A row with several relevant posts is counted by the rarest of them.
        counts = np.array([self.train.popularity[relevant].min() for relevant in test.relevant])
        main = MAIN[RankingTest]

        def part(name: str, rows: Rows) -> dict[str, Any]:
            resampling = Resampling(test.user[rows], self.resources.seed)
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

    def _clicked(self, name: str, test: ClickTest) -> RankerResult:
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
        return RankerResult(metrics, draws, {}, parts, fit_seconds, 1000 * seconds / len(np.unique(test.user)), gated)

    def _calibration(self, name: str) -> tuple[float, float]:
        """Platt scaling, on a later part of the training events, because in-sample scores contain the labels."""
        inner, later = self.resources.cached(
            ("later", self.train), lambda: later_clicks(self.train, self.resources.seed, _INNER)
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
            draws["uauc"] = Resampling(users, self.resources.seed).means(aucs[:, None])[:, 0]
        else:
            values["uauc"], draws["uauc"] = 0.5, np.full(self.resampling.rounds, 0.5)
        values["logloss"] = float(losses.mean())
        draws["logloss"] = self.resampling.means(losses[:, None])[:, 0]
        values["ece"] = float(weighted_ece(test.label, probabilities, bins, one)[0])
        # Absolute gaps are biased upwards in resamples, so the draws are shifted to the measured value.
        gaps = self.resampling.of(lambda weights: weighted_ece(test.label, probabilities, bins, weights))
        draws["ece"] = np.maximum(gaps - gaps.mean() + values["ece"], 0.0)
        if np.isnan(values["auc"]):  # one class only
            values["auc"] = 0.5
        return values, draws

    def _click_part(self, name: str, test: ClickTest, scores: Floats, rows: Rows) -> dict[str, Any]:
        labels, part = test.label[rows], scores[rows]
        found: dict[str, Any] = {"bucket": name, "rows": len(rows), "metrics": {}, "ci95": {}}
        if 0 < labels.sum() < len(labels):
            found["metrics"]["auc"] = round(float(weighted_auc(labels, part, np.ones((1, len(rows))))[0]), 4)
            resampling = Resampling(test.user[rows], self.resources.seed)
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
