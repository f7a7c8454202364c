"""whyfeed's ranking core: the parts that earn their place on this home's own interactions, and how they are combined.

What the core is made of is decided on a cut of the histories it is fitted on: the last liked post of every user is
taken out, the parts are fitted on the rest, and the blend and the forests learn to find what was taken out. Then
the parts are fitted again on everything. So nothing is combined by how well it knows what it has seen. Where posts are
asked about that nobody has seen, the cut is of that kind: a share of the posts, and who liked one of them.

`CorePair` is a core and another one, of the same parts and what is gained by adding those that know what a language
model read in each post. The second has the say where it found more of what was taken out, and else the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from whyfeed.finetune.evaluation.baselines import THREADS, Eligible, Ranker, Tools
from whyfeed.finetune.evaluation.histories import Flags, Histories
from whyfeed.finetune.evaluation.protocol import RankingTest, leave_one_out, unseen_posts
from whyfeed.finetune.ranking import stack
from whyfeed.finetune.ranking.parts import READING, WITHOUT_LLM
from whyfeed.finetune.ranking.stack import Blend, Context, Forest, Lists, Scores
from whyfeed.retrieval.arrays import Floats, Rows
from whyfeed.retrieval.errors import DataError, ModelError

Parts = Mapping[str, Callable[[Tools], Ranker]]
_ASKED = 12_000  # users whose last post the stack learns to find
_ENOUGH = 50  # of them; with fewer nothing is chosen
_BLOCK = 256
_PLACES = {"near": "near the top", "far": "from anywhere"}
_LIFT = 1000.0  # no correction of a forest is nearly as large


class _Cut:
    """What combining is learnt from: `histories` without what was taken out of them, and chance for what is drawn.

    Cores of the same parts draw the same lists, whatever else they know: so they can be compared.
    """

    def __init__(self, histories: Histories, inner: Histories, test: RankingTest, seed: int) -> None:
        self.histories, self.inner, self.test = histories, inner, test
        self._rng, self.hard = np.random.default_rng([seed, 3]), np.random.default_rng([seed, 4])
        self.order = self._rng.permutation(len(test.user))
        self.groups, self.fresh, self._asked = test.user, inner.fresh, inner.asked
        if inner.fresh is not None and histories.fresh is not None:
            # Posts that nobody liked even before the cut are no choice that anybody did not take; and trees, which
            # can tell each post from all others, must not be praised for knowing who liked the very post before.
            self.fresh, self.groups = inner.fresh & ~histories.fresh, np.concatenate(test.relevant)
            self._asked = np.flatnonzero(self.fresh)

    def own(self, user: int) -> Rows:
        """What a user has seen, with what was taken out."""
        seen = self.histories.seen
        return np.asarray(seen.indices[slice(*seen.indptr[user : user + 2])])

    def target(self, row: int) -> int:
        """What was taken out."""
        return int(self.test.relevant[row][0])

    def uniform(self, rows: Rows) -> Rows:
        """(len(rows), length) what was taken out, and posts of anywhere."""

        def drawn(row: int) -> Rows:
            own = self.own(int(self.test.user[row]))
            return stack.uniform_posts(self.target(row), own, self._asked, stack.UNIFORM, self._rng)

        return np.stack([drawn(row) for row in rows])


@dataclass(eq=False)  # one that was fitted is the key of what it ranked
class CoreRanker:
    """Blend and forests over `parts`, and those of `more` that gain beside what is chosen of them; see the module."""

    tools: Tools
    parts: Parts = field(default_factory=lambda: WITHOUT_LLM)
    more: Parts = field(default_factory=dict)

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""
        seed = self.tools.seed + 17  # another cut than the test's
        cut = leave_one_out if histories.fresh is None else unseen_posts
        inner, test = self.tools.made(("cut", histories), lambda: cut(histories, seed, _ASKED))
        self.forests: dict[str, tuple[float, float]] = {}  # nDCG@10 of the blend and with the forest, unseen lists
        self.held: dict[str, dict[int, float]] = {}  # by forest and user what of it is live would have reached there
        self.missing: dict[str, str] = {}  # what could not take part for want of a library
        self.near: Forest | None = None
        self.far: Forest | None = None
        if len(test.user) < _ENOUGH:
            self.blend = stack.plain_blend(list(self.parts))
            self.fitted = self._fit_parts(list(self.blend.weights), histories)
        else:
            taken_out = _Cut(histories, inner, test, self.tools.seed)
            base = self._choose(taken_out)
            # What is fitted on everything and the forests do not ask for each other.
            with ThreadPoolExecutor(1) as pool:
                fitted = pool.submit(self._fit_parts, list(self.blend.weights), histories)
                self._grow(taken_out, base)
                self.fitted = fitted.result()
        self._context = Context.of(histories)
        self._lengths, self._fresh = histories.lengths, histories.fresh

    @property
    def card(self) -> dict[str, Any]:
        """What the core is made of here, and what each part earned on likes that it had not seen.

        `gains` in nats of log-likelihood as parts were taken in; `forests`: nDCG@10 of the blend, and with the forest.
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
        """See `Ranker.score`: the blend; who has no history gets what is popular."""
        return self.blended(self.scores(users), users)

    def rerank(self, users: Rows, eligible: Eligible) -> list[tuple[Rows, Floats]]:
        """See `Reranker.rerank`: posts near the top of the blend's catalogue are above all others."""
        scores = self.scores(users)
        blended = self.blended(scores, users)

        def ranked(line: int) -> tuple[Rows, Floats]:
            posts = eligible(line, blended[line])
            return posts, self.final(scores, blended, users, line, posts)

        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(ranked, range(len(users))))

    def scores(self, users: Rows) -> Scores:
        """What the parts say."""
        return Scores.of({name: ranker.score for name, ranker in self.fitted.items()}, users)

    def blended(self, scores: Scores, users: Rows) -> Floats:
        """(users, posts) of the first stage."""
        found = _blended(self.blend, scores, self._fresh)
        found[self._lengths[users] == 0] = self._context.posts[:, 0]
        return found

    def final(self, scores: Scores, blended: Floats, users: Rows, line: int, posts: Rows) -> Floats:
        """(posts,) of the second stage for one line of a block of users."""
        own = blended[line, posts].astype(np.float64)
        if not self._lengths[users[line]]:
            return np.asarray(own)
        names = list(self.blend.weights)
        values = _values(scores, self._context, names, users, np.array([line]), posts[None])[0]
        high = own >= _edge(blended[line])
        if self.far is not None:
            own[~high] += self.far.correction(values[~high])
        if self.near is not None:
            own[high] += self.near.correction(values[high])
        # Each tier has a scale of its own: the upper one is lifted above anything the lower one can say.
        own[high] += _LIFT
        return np.asarray(own)

    # ---- learning what to combine ----

    def _fit_parts(self, names: Sequence[str], histories: Histories) -> dict[str, Ranker]:
        """Those that these data have, two at a time."""

        def fitted(name: str) -> Ranker | None:
            part = self.parts[name] if name in self.parts else self.more[name]

            def make() -> Ranker | DataError | ModelError:
                ranker = part(self.tools)
                try:
                    ranker.fit(histories)
                except (DataError, ModelError) as exc:
                    return exc
                return ranker

            found: Ranker | DataError | ModelError = self.tools.made((part, histories), make)
            if isinstance(found, ModelError):
                self.missing[name] = str(found)
            return None if isinstance(found, DataError | ModelError) else found

        with ThreadPoolExecutor(THREADS) as pool:
            found = zip(names, pool.map(fitted, names), strict=True)
            return {name: ranker for name, ranker in found if ranker is not None}

    def _choose(self, cut: _Cut) -> Blend:
        """Choose `blend`; that of a core of the same parts and no `more` is returned."""
        drawn = [(block, cut.uniform(block)) for block in _blocks(cut.order[: stack.FIRST])]
        users = cut.test.user[cut.order[: stack.FIRST]]

        def chosen(names: Sequence[str], start: Blend | None = None) -> Blend:
            scorers = {name: part.score for name, part in self._fit_parts(names, cut.inner).items()}
            values = []
            for block, posts in drawn:
                scores = Scores.of(scorers, cut.test.user[block])
                values.append(scores.of_pairs(list(scorers), np.arange(len(block)), posts)[:, :, len(scorers) :])
            return stack.choose_blend(_lists(users, users, values), list(scorers), self.tools.seed, start)

        self._fit_parts(list(self.more), cut.inner)  # while another core fits the others
        what = ("blend", tuple(self.parts.values()), cut.histories)
        base: Blend = self.tools.made(what, lambda: chosen(list(self.parts)))
        self.blend = chosen([*base.weights, *self.more], base) if self.more else base
        return base

    def _grow(self, cut: _Cut, base: Blend) -> None:
        """Grow `near` and `far` on lists of what `base` puts near the top, and of posts from anywhere."""
        context = Context.of(cut.inner)
        names = list(self.blend.weights)
        scorers = {name: part.score for name, part in self._fit_parts(names, cut.inner).items()}
        near: list[Floats] = []
        far: list[Floats] = []
        near_rows: list[Rows] = []
        for done, block in enumerate(_blocks(cut.order)):
            if self.tools.progress:
                self.tools.progress("learning to combine", done * _BLOCK, len(cut.order))
            users = cut.test.user[block]
            scores = Scores.of(scorers, users)
            blended = _blended(base, scores, cut.fresh)
            lines = np.arange(len(block))
            posts = cut.uniform(block)
            far.append(_values(scores, context, names, users, lines, posts))
            hard = []
            for line, row in enumerate(block):
                target = cut.target(row)
                own = cut.own(int(users[line]))
                if blended[line, target] < _edge(blended[line]):
                    continue
                top = np.argpartition(-blended[line], min(stack.TOP, blended.shape[1] - 1))[: stack.TOP]
                top = top[~np.isin(top, own) & (top != target) & np.isfinite(blended[line, top])]
                if len(top):
                    others = cut.hard.choice(top, stack.HARD, replace=len(top) < stack.HARD)
                    hard.append((line, np.concatenate([[target], others])))
            if hard:
                lines = np.array([line for line, _ in hard])
                near.append(_values(scores, context, names, users, lines, np.stack([posts for _, posts in hard])))
                near_rows.append(block[lines])
        weights = np.array(list(self.blend.weights.values()), dtype=np.float32)
        if find_spec("lightgbm") is None:
            self.missing["forests"] = "lightgbm is not installed: pip install 'whyfeed[eval]'"
            return
        with ThreadPoolExecutor(THREADS) as pool:
            lists = _lists(cut.test.user[cut.order], cut.groups[cut.order], far, weights)
            grown = pool.submit(self._earned, "far", lists)
            if near:
                rows = np.concatenate(near_rows)
                self.near = self._earned("near", _lists(cut.test.user[rows], cut.groups[rows], near, weights))
            self.far = grown.result()

    def _earned(self, name: str, lists: Lists) -> Forest | None:
        """A forest, if it is better than the blend, by however little, on lists that it has not seen (see LOG.md)."""
        halves = lists.split(0.5, self.tools.seed)
        if min(len(half.users) for half in halves) < _ENOUGH:
            return None
        users: list[int] = []
        before: list[float] = []
        after: list[float] = []
        for learn, choose in (halves, halves[::-1]):
            users += choose.users.tolist()
            before += stack.gains_at_ten(choose.blended).tolist()
            corrected = choose.blended + Forest(learn, seed=self.tools.seed).correction(choose.values)
            after += stack.gains_at_ten(corrected).tolist()
        self.forests[name] = (round(float(np.mean(before)), 4), round(float(np.mean(after)), 4))
        won = float(np.mean(after)) > float(np.mean(before))
        self.held[name] = dict(zip(users, after if won else before, strict=True))
        return Forest(lists, seed=self.tools.seed) if won else None


@dataclass
class CorePair:
    """A core without and one with the language model; see the module. `left_out` says why the second has no say."""

    tools: Tools

    def fit(self, histories: Histories) -> None:
        """See `Ranker.fit`."""

        def make(more: Parts) -> CoreRanker:
            core = CoreRanker(self.tools, more=more)
            core.fit(histories)
            return core

        # Most of what they are made of is fitted on one thread: both of them side by side.
        with ThreadPoolExecutor(THREADS) as pool:
            other = pool.submit(self.tools.made, ("core with llm", histories), lambda: make(READING))
            plain: CoreRanker = self.tools.made((CoreRanker, histories), lambda: make({}))
            self._second: CoreRanker = other.result()
        self.left_out = _no_better(plain, self._second)
        self.live = plain if self.left_out else self._second

    @property
    def card(self) -> dict[str, Any]:
        """Of the core with the language model, and whether it has the say."""
        return {**self._second.card, "left_out": self.left_out}

    def score(self, users: Rows) -> Floats:
        """See `Ranker.score`."""
        return self.live.score(users)

    def rerank(self, users: Rows, eligible: Eligible) -> list[tuple[Rows, Floats]]:
        """See `Reranker.rerank`."""
        return self.live.rerank(users, eligible)


def _no_better(plain: CoreRanker, other: CoreRanker) -> str:
    """Why the other core has no say. Empty where it found more of what was taken out of the histories by more than a
    standard error, near the top or anywhere, and nowhere so much less."""
    if not set(other.blend.weights) & set(READING):
        return "the blend has no use for what the language model reads"
    said: list[str] = []
    gained = False
    for name, found in other.held.items():
        users = sorted(found.keys() & plain.held.get(name, {}).keys())
        before, after = (np.array([held[user] for user in users]) for held in (plain.held.get(name, {}), found))
        gained |= stack.better(after, before)
        if len(users):
            said.append(f"{float((after - before).mean()):+.4f} nDCG@10 in lists of posts {_PLACES[name]}")
        if stack.better(before, after):
            return said[-1]
    return "" if gained else ", ".join(said) or "there is too little to tell whether the language model helps"


def _blended(blend: Blend, scores: Scores, fresh: Flags | None) -> Floats:
    found = blend.score(scores)
    if fresh is not None:
        found[:, ~fresh] = -np.inf  # what is near the top is so among the posts that are asked about
    return found


def _edge(blended: Floats) -> float:
    """The blend's score of the last post that is ranked as one of the best."""
    place = max(len(blended) - stack.TOP, 0)
    return float(np.partition(blended, place)[place])


def _blocks(rows: Rows) -> list[Rows]:
    return [rows[begin : begin + _BLOCK] for begin in range(0, len(rows), _BLOCK)]


def _values(scores: Scores, context: Context, names: Sequence[str], users: Rows, lines: Rows, posts: Rows) -> Floats:
    """(n, length, features) of posts (n, length) for the users at these lines of a block."""
    return np.concatenate([scores.of_pairs(names, lines, posts), context.of_pairs(users[lines], posts)], axis=2)


def _lists(users: Rows, groups: Rows, values: Sequence[Floats], weights: Floats | None = None) -> Lists:
    """`weights` are of the standardised scores, which stand after as many raw ones."""
    every = np.concatenate(values)
    blended = np.zeros(every.shape[:2], dtype=np.float32)
    if weights is not None:
        blended = every[:, :, len(weights) : 2 * len(weights)] @ weights
    return Lists(users, groups, every, blended)
