"""whyfeed's ranking core: base rankers selected on a home's own interactions, and their combination.

The combination is learnt on an inner split of the training histories: the last liked post of every user is held out,
the base rankers are fitted on the rest, and the blend and the forests learn to find the held-out posts. Then the base
rankers are fitted again on everything. So no base ranker gets weight for remembering what it was trained on. For tests
about unseen posts the inner split is of that kind too: a share of the posts is held out.

`CoreWithLlm` fits this core, and a second one that also has base rankers over the vectors of a language model. The
second is used if it found the held-out posts better, otherwise the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from whyfeed.finetune.evaluation.baselines import THREADS, Eligible, Ranker, Resources
from whyfeed.finetune.evaluation.histories import Flags, Histories
from whyfeed.finetune.evaluation.protocol import RankingTest, leave_one_out, unseen_posts
from whyfeed.finetune.ranking import stack
from whyfeed.finetune.ranking.parts import LLM_PARTS, PARTS
from whyfeed.finetune.ranking.stack import Blend, BoostedTrees, PartScores, StaticFeatures, TrainingLists
from whyfeed.retrieval.arrays import Floats, Rows
from whyfeed.retrieval.errors import DataError, ModelError

Parts = Mapping[str, Callable[[Resources], Ranker]]
_MAX_USERS = 12_000  # whose last post is held out in the inner split
_MIN_USERS = 50  # with fewer nothing is selected
_BLOCK = 256
_PLACES = {"near": "near the top", "far": "from anywhere"}
_TOP_OFFSET = 1000.0  # far larger than any correction of a forest


class _InnerSplit:
    """The split that the combination is learnt on: `inner` histories, held-out posts, and seeded random numbers.

    Two cores on the same split draw the same lists, so that they can be compared.
    """

    def __init__(self, histories: Histories, inner: Histories, test: RankingTest, seed: int) -> None:
        self.histories, self.inner, self.test = histories, inner, test
        self._rng, self.hard = np.random.default_rng([seed, 3]), np.random.default_rng([seed, 4])
        self.order = self._rng.permutation(len(test.user))
        self.groups, self.fresh, self._asked = test.user, inner.fresh, inner.asked
        if inner.fresh is not None and histories.fresh is not None:
            # Posts without any like even before this split are not used as negatives. Lists are grouped by the
            # held-out post, because trees could otherwise learn who liked exactly that post.
            self.fresh, self.groups = inner.fresh & ~histories.fresh, np.concatenate(test.relevant)
            self._asked = np.flatnonzero(self.fresh)

    def own(self, user: int) -> Rows:
        """Rows of the posts a user has seen, with the held-out one."""
        seen = self.histories.seen
        return np.asarray(seen.indices[slice(*seen.indptr[user : user + 2])])

    def target(self, row: int) -> int:
        """The held-out post of a row."""
        return int(self.test.relevant[row][0])

    def uniform(self, rows: Rows) -> Rows:
        """(len(rows), length) the held-out post, then uniform negatives."""

        def drawn(row: int) -> Rows:
            own = self.own(int(self.test.user[row]))
            return stack.uniform_posts(self.target(row), own, self._asked, stack.UNIFORM_NEGATIVES, self._rng)

        return np.stack([drawn(row) for row in rows])


@dataclass(eq=False)  # compared by identity: it serves as a key of cached results
class CoreRanker:
    """Blend and forests over `parts`, and over those of `more` that improve the blend of `parts`; see the module."""

    resources: Resources
    parts: Parts = field(default_factory=lambda: PARTS)
    more: Parts = field(default_factory=dict)

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""
        seed = self.resources.seed + 17  # another split than the test's
        cut = leave_one_out if histories.fresh is None else unseen_posts
        inner, test = self.resources.cached(("cut", histories), lambda: cut(histories, seed, _MAX_USERS))
        self.forests: dict[str, tuple[float, float]] = {}  # held-out nDCG@10 without and with it
        self.held_out: dict[str, dict[int, float]] = {}  # by forest and user: held-out nDCG@10
        self.missing: dict[str, str] = {}  # base rankers and forests whose library is missing, and why
        self.near: BoostedTrees | None = None
        self.far: BoostedTrees | None = None
        if len(test.user) < _MIN_USERS:
            self.blend = stack.fallback_blend(list(self.parts))
            self.fitted = self._fit_parts(list(self.blend.weights), histories)
        else:
            taken_out = _InnerSplit(histories, inner, test, self.resources.seed)
            base = self._choose_blend(taken_out)
            # Fitting on everything and growing the forests are independent.
            with ThreadPoolExecutor(1) as pool:
                fitted = pool.submit(self._fit_parts, list(self.blend.weights), histories)
                self._fit_forests(taken_out, base)
                self.fitted = fitted.result()
        self._context = StaticFeatures.of(histories)
        self._lengths, self._fresh = histories.lengths, histories.fresh

    @property
    def card(self) -> dict[str, Any]:
        """The selected base rankers with weights, and what each gained on held-out likes (JSON values).

        `gains`: nats of log-likelihood, in the order of selection; `forests`: nDCG@10 without and with the forest.
        """
        return {
            "blend": {name: round(weight, 4) for name, weight in self.blend.weights.items()},
            "gains": dict(self.blend.gains),
            "forests": {
                name: {"blend": before, "with": after, "live": getattr(self, name) is not None}
                for name, (before, after) in self.forests.items()
            },
        }  # fmt: skip

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`: the blend; users without a history get the popularity."""
        return self.blended(self.scores(users), users)

    def rerank(self, users: Rows, eligible: Eligible) -> list[tuple[Rows, Floats]]:
        """See `Reranker.rerank`: the best posts of the blend stay above all others."""
        scores = self.scores(users)
        blended = self.blended(scores, users)

        def ranked(line: int) -> tuple[Rows, Floats]:
            posts = eligible(line, blended[line])
            return posts, self.final(scores, blended, users, line, posts)

        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(ranked, range(len(users))))

    def scores(self, users: Rows) -> PartScores:
        """Scores of the base rankers for a block of users."""
        return PartScores.of({name: ranker.score for name, ranker in self.fitted.items()}, users)

    def blended(self, scores: PartScores, users: Rows) -> Floats:
        """(users, posts) scores of the first stage."""
        found = _blend_scores(self.blend, scores, self._fresh)
        found[self._lengths[users] == 0] = self._context.posts[:, 0]
        return found

    def final(self, scores: PartScores, blended: Floats, users: Rows, line: int, posts: Rows) -> Floats:
        """(posts,) scores of the second stage, for the user at one line of a block."""
        own = blended[line, posts].astype(np.float64)
        if not self._lengths[users[line]]:
            return np.asarray(own)
        names = list(self.blend.weights)
        values = _features(scores, self._context, names, users, np.array([line]), posts[None])[0]
        high = own >= _top_threshold(blended[line])
        if self.far is not None:
            own[~high] += self.far.correction(values[~high])
        if self.near is not None:
            own[high] += self.near.correction(values[high])
        # The two forests have different scales: the offset keeps the best posts above the others.
        own[high] += _TOP_OFFSET
        return np.asarray(own)

    # ---- learning what to combine ----

    def _fit_parts(self, names: Sequence[str], histories: Histories) -> dict[str, Ranker]:
        """Fit base rankers, two at a time; those that these data or libraries do not allow are left out."""

        def fitted(name: str) -> Ranker | None:
            part = self.parts[name] if name in self.parts else self.more[name]

            def make() -> Ranker | DataError | ModelError:
                ranker = part(self.resources)
                try:
                    ranker.fit(histories)
                except (DataError, ModelError) as exc:
                    return exc
                return ranker

            found: Ranker | DataError | ModelError = self.resources.cached((part, histories), make)
            if isinstance(found, ModelError):
                self.missing[name] = str(found)
            return None if isinstance(found, DataError | ModelError) else found

        with ThreadPoolExecutor(THREADS) as pool:
            found = zip(names, pool.map(fitted, names), strict=True)
            return {name: ranker for name, ranker in found if ranker is not None}

    def _choose_blend(self, cut: _InnerSplit) -> Blend:
        """Select `blend`; returns the blend without `more`."""
        drawn = [(block, cut.uniform(block)) for block in _blocks(cut.order[: stack.BLEND_USERS])]
        users = cut.test.user[cut.order[: stack.BLEND_USERS]]

        def chosen(names: Sequence[str], start: Blend | None = None) -> Blend:
            scorers = {name: part.score for name, part in self._fit_parts(names, cut.inner).items()}
            values = []
            for block, posts in drawn:
                scores = PartScores.of(scorers, cut.test.user[block])
                values.append(scores.of_pairs(list(scorers), np.arange(len(block)), posts)[:, :, len(scorers) :])
            return stack.choose_blend(_training_lists(users, users, values), list(scorers), self.resources.seed, start)

        self._fit_parts(list(self.more), cut.inner)  # while the other core fits those of `parts`
        what = ("blend", tuple(self.parts.values()), cut.histories)
        base: Blend = self.resources.cached(what, lambda: chosen(list(self.parts)))
        self.blend = chosen([*base.weights, *self.more], base) if self.more else base
        return base

    def _fit_forests(self, cut: _InnerSplit, base: Blend) -> None:
        """Fit `near` on lists with negatives from the top of `base`, and `far` on lists with uniform negatives."""
        context = StaticFeatures.of(cut.inner)
        names = list(self.blend.weights)
        scorers = {name: part.score for name, part in self._fit_parts(names, cut.inner).items()}
        near: list[Floats] = []
        far: list[Floats] = []
        near_rows: list[Rows] = []
        for done, block in enumerate(_blocks(cut.order)):
            if self.resources.progress:
                self.resources.progress("learning to combine", done * _BLOCK, len(cut.order))
            users = cut.test.user[block]
            scores = PartScores.of(scorers, users)
            blended = _blend_scores(base, scores, cut.fresh)
            lines = np.arange(len(block))
            posts = cut.uniform(block)
            far.append(_features(scores, context, names, users, lines, posts))
            hard = []
            for line, row in enumerate(block):
                target = cut.target(row)
                own = cut.own(int(users[line]))
                if blended[line, target] < _top_threshold(blended[line]):
                    continue
                top = np.argpartition(-blended[line], min(stack.RERANKED, blended.shape[1] - 1))[: stack.RERANKED]
                top = top[~np.isin(top, own) & (top != target) & np.isfinite(blended[line, top])]
                if len(top):
                    others = cut.hard.choice(top, stack.HARD_NEGATIVES, replace=len(top) < stack.HARD_NEGATIVES)
                    hard.append((line, np.concatenate([[target], others])))
            if hard:
                lines = np.array([line for line, _ in hard])
                near.append(_features(scores, context, names, users, lines, np.stack([posts for _, posts in hard])))
                near_rows.append(block[lines])
        weights = np.array(list(self.blend.weights.values()), dtype=np.float32)
        if find_spec("lightgbm") is None:
            self.missing["forests"] = "lightgbm is not installed: pip install 'whyfeed[eval]'"
            return
        with ThreadPoolExecutor(THREADS) as pool:
            lists = _training_lists(cut.test.user[cut.order], cut.groups[cut.order], far, weights)
            grown = pool.submit(self._fit_if_better, "far", lists)
            if near:
                rows = np.concatenate(near_rows)
                self.near = self._fit_if_better(
                    "near", _training_lists(cut.test.user[rows], cut.groups[rows], near, weights)
                )
            self.far = grown.result()

    def _fit_if_better(self, name: str, lists: TrainingLists) -> BoostedTrees | None:
        """A forest if its held-out nDCG@10 is higher than the blend's, otherwise None (see LOG.md)."""
        halves = lists.split(0.5, self.resources.seed)
        if min(len(half.users) for half in halves) < _MIN_USERS:
            return None
        users: list[int] = []
        before: list[float] = []
        after: list[float] = []
        for learn, choose in (halves, halves[::-1]):
            users += choose.users.tolist()
            before += stack.ndcg_at_ten(choose.blended).tolist()
            corrected = choose.blended + BoostedTrees(learn, seed=self.resources.seed).correction(choose.values)
            after += stack.ndcg_at_ten(corrected).tolist()
        self.forests[name] = (round(float(np.mean(before)), 4), round(float(np.mean(after)), 4))
        won = float(np.mean(after)) > float(np.mean(before))
        self.held_out[name] = dict(zip(users, after if won else before, strict=True))
        return BoostedTrees(lists, seed=self.resources.seed) if won else None


@dataclass
class CoreWithLlm:
    """A core without and one with the language model; see the module.

    `left_out`: why the second is not used; empty if it is. `live` is the core in use.
    """

    resources: Resources

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""

        def make(more: Parts) -> CoreRanker:
            core = CoreRanker(self.resources, more=more)
            core.fit(histories)
            return core

        # Most base rankers are fitted on one thread, so both cores are fitted side by side.
        with ThreadPoolExecutor(THREADS) as pool:
            other = pool.submit(self.resources.cached, ("core with llm", histories), lambda: make(LLM_PARTS))
            plain: CoreRanker = self.resources.cached((CoreRanker, histories), lambda: make({}))
            self._second: CoreRanker = other.result()
        self.left_out = _why_left_out(plain, self._second)
        self.live = plain if self.left_out else self._second

    @property
    def card(self) -> dict[str, Any]:
        """Card of the core with the language model, and why it is left out, if it is."""
        return {**self._second.card, "left_out": self.left_out}

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        return self.live.score(users)

    def rerank(self, users: Rows, eligible: Eligible) -> list[tuple[Rows, Floats]]:
        """See `Reranker.rerank`."""
        return self.live.rerank(users, eligible)


def _why_left_out(plain: CoreRanker, other: CoreRanker) -> str:
    """Why the other core is not used; empty if it is.

    It is used if its held-out nDCG@10 is higher by more than a standard error on one kind of lists and not lower by as
    much on the other.
    """
    if not set(other.blend.weights) & set(LLM_PARTS):
        return "the blend has no use for what the language model reads"
    said: list[str] = []
    gained = False
    for name, found in other.held_out.items():
        users = sorted(found.keys() & plain.held_out.get(name, {}).keys())
        before, after = (np.array([held[user] for user in users]) for held in (plain.held_out.get(name, {}), found))
        gained |= stack.beats_by_standard_error(after, before)
        if len(users):
            said.append(f"{float((after - before).mean()):+.4f} nDCG@10 in lists of posts {_PLACES[name]}")
        if stack.beats_by_standard_error(before, after):
            return said[-1]
    return "" if gained else ", ".join(said) or "there is too little to tell whether the language model helps"


def _blend_scores(blend: Blend, scores: PartScores, fresh: Flags | None) -> Floats:
    found = blend.score(scores)
    if fresh is not None:
        found[:, ~fresh] = -np.inf  # the top is that of the posts that the test asks about
    return found


def _top_threshold(blended: Floats) -> float:
    """The blend's score of the last of its best posts."""
    place = max(len(blended) - stack.RERANKED, 0)
    return float(np.partition(blended, place)[place])


def _blocks(rows: Rows) -> list[Rows]:
    return [rows[begin : begin + _BLOCK] for begin in range(0, len(rows), _BLOCK)]


def _features(
    scores: PartScores, context: StaticFeatures, names: Sequence[str], users: Rows, lines: Rows, posts: Rows
) -> Floats:
    """(n, length, features) of posts (n, length) for the users at these lines of a block."""
    return np.concatenate([scores.of_pairs(names, lines, posts), context.of_pairs(users[lines], posts)], axis=2)


def _training_lists(
    users: Rows, groups: Rows, values: Sequence[Floats], weights: Floats | None = None
) -> TrainingLists:
    """Stack the features. `weights` apply to the standardised scores, which follow as many raw ones."""
    every = np.concatenate(values)
    blended = np.zeros(every.shape[:2], dtype=np.float32)
    if weights is not None:
        blended = every[:, :, len(weights) : 2 * len(weights)] @ weights
    return TrainingLists(users, groups, every, blended)
