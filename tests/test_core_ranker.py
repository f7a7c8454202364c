"""The ranking core: what it takes in, what it never looks at, and that no post moves another."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests.ranking_world import bought, event, every, read, tools
from whyfeed.finetune.evaluation.baselines import Ranker, Resources
from whyfeed.finetune.evaluation.histories import Histories, read_histories
from whyfeed.finetune.evaluation.protocol import RankingTest, leave_one_out, pair_keys, unseen_posts
from whyfeed.finetune.ranking.core_ranker import CoreRanker, CoreWithLlm
from whyfeed.finetune.ranking.parts import PARTS, NextItemPart
from whyfeed.finetune.ranking.stack import ndcg_at_ten
from whyfeed.retrieval.arrays import Floats, Rows

USERS, POSTS, TASTES = 160, 80, 4
Parts = Mapping[str, Callable[[Resources], Ranker]]


@dataclass
class Chance:
    """Knows nothing, differently for each name."""

    name: str

    def fit(self, histories: Histories) -> None:
        self._keys, self._posts = pair_keys(histories, self.name, 0), np.arange(len(histories.posts))

    def score(self, users: Rows) -> Floats:
        return np.asarray(self._keys(users[:, None], self._posts) / 2.0**64, dtype=np.float32)


@dataclass
class Taste(Chance):
    """Knows which posts are to a user's taste, by their ids, and nothing of which of them they took."""

    name: str = "taste"

    def fit(self, histories: Histories) -> None:
        super().fit(histories)
        self._users = np.array([int(id[1:]) % TASTES if id[1:].isdigit() else -1 for id in histories.users])
        self._tastes = np.array([int(id[1:]) % TASTES if id[1:].isdigit() else -2 for id in histories.posts])

    def score(self, users: Rows) -> Floats:
        return np.float32(2) * (self._users[users][:, None] == self._tastes) + super().score(users)


@dataclass
class Memory:
    """Knows the pairs that it has seen and nothing else; with `peek` it sees more than it is fitted on."""

    peek: Histories | None = None
    acts: str = "liked"  # or "seen": anything

    def fit(self, histories: Histories) -> None:
        self._known = getattr(self.peek or histories, self.acts)

    def score(self, users: Rows) -> Floats:
        return np.asarray(self._known[users].toarray(), dtype=np.float32)


@dataclass
class After(Memory):
    """Knows a post by what its readers hide after it: "after7" by who took p7."""

    acts: str = "seen"

    def fit(self, histories: Histories) -> None:
        super().fit(histories)
        rows = histories.post_rows
        self._marks = np.array([rows.get(f"after{id[1:]}", rows["nothing"]) for id in histories.posts])

    def score(self, users: Rows) -> Floats:
        return super().score(users)[:, self._marks]


def tasteful(folder: Path, timed: bool = True, posts: int = POSTS, marks: bool = False) -> Histories:
    """Each user takes five of the posts to their taste; with `marks` they then hide what stands for the last one."""
    rng, events = random.Random(0), []
    for user in range(USERS):
        taken = rng.sample(range(user % TASTES, posts, TASTES), 5)
        events += [event(f"u{user}", f"p{post}", at if timed else None) for at, post in enumerate(taken)]
        if marks:
            events.append(event(f"u{user}", f"after{taken[-1]}", 9, "hide"))
    ids = [f"p{at}" for at in range(posts)]
    if marks:
        ids += [f"after{at}" for at in range(posts)] + ["nothing"]
    return read(folder, events, [{"id": id} for id in ids])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Histories:
    return tasteful(tmp_path_factory.mktemp("tasteful") / "f")


def fitted(histories: Histories, parts: Parts, shared: Resources | None = None) -> CoreRanker:
    core = CoreRanker(shared or tools(histories), parts)
    core.fit(histories)
    return core


def quality(core: CoreRanker, train: Histories, test: RankingTest) -> float:
    """nDCG@10 among all that a user has not seen."""
    found = []
    for user, relevant, scores in zip(test.user, test.relevant, core.score(test.user), strict=True):
        others = np.setdiff1d(np.arange(len(train.posts)), [*train.seen[user].indices, *relevant])
        found.append(float(ndcg_at_ten(scores[[relevant[0], *others]][None])[0]))
    return float(np.mean(found))


# ---- what is taken in


@pytest.mark.parametrize("timed", [True, False])
def test_what_informs_is_taken_in_and_noise_is_not(tmp_path: Path, timed: bool) -> None:
    noise: Parts = {f"noise {at}": lambda _, at=at: Chance(f"noise {at}") for at in range(4)}  # type: ignore[misc]
    histories = tasteful(tmp_path / "f", timed)
    train, test = leave_one_out(histories)
    core = fitted(train, {**noise, "taste": lambda _: Taste()})
    assert next(iter(core.blend.gains)) == "taste"
    assert core.blend.gains["taste"] > 0.8  # of log 4, about
    for name in noise:
        assert core.blend.gains.get(name, 0) < 0.05
        assert core.blend.weights.get(name, 0) < 0.2 * core.blend.weights["taste"]
    assert quality(core, train, test) > 2 * quality(fitted(train, dict(list(noise.items())[:1])), train, test)


def test_the_parts_that_suit_these_data_are_taken_in(tmp_path: Path) -> None:
    """Along a ring in order it is the sequence that informs; without times no part that needs an order is tried."""
    quick = {name: make for name, make in PARTS.items() if name not in ("next", "ease")}
    in_order = fitted(read_histories(bought(tmp_path / "a")), quick)
    assert next(iter(in_order.blend.gains)).startswith("smoothed sequence")
    in_no_order = fitted(read_histories(bought(tmp_path / "b", timed=False)), quick)
    assert not any("sequence" in name or "recent" in name for name in in_no_order.blend.weights)
    assert in_no_order.blend.gains


def test_what_nobody_has_seen_stands_by_its_text(tmp_path: Path) -> None:
    """People like what has the colour that they like; of a new post only its words tell the colour."""
    rng = random.Random(0)
    colours = "red green blue white black brown".split()
    posts = [{"id": f"p{at}", "title": f"{colours[at % 6]} thing"} for at in range(600)]
    rows = [event(f"u{u}", f"p{rng.randrange(100) * 6 + u % 6}", at) for u in range(600) for at in range(12)]
    train, test = unseen_posts(read(tmp_path / "f", rows, posts))
    parts: Parts = {"popularity": PARTS["popularity"], "next": lambda shared: NextItemPart(shared, min_likes=1000)}
    core = fitted(train, parts)
    assert next(iter(core.blend.gains)) == "next"
    assert test.candidates is not None
    lists = core.rerank(test.user, lambda line, scores: test.candidates[line])  # type: ignore[index]
    for (found, scores), user in list(zip(lists, test.user, strict=True))[:50]:
        best = found[np.argsort(-scores)[:5]]
        assert {int(train.posts[post][1:]) % 6 for post in best} == {int(train.users[user][1:]) % 6}


@dataclass
class Reads:
    """A post encoder that reads the last word of a title as a number: its rest by `kinds`, and noise."""

    kinds: int
    name: str = "reads"
    dimension: int = 16

    def encode(self, texts: Sequence[str]) -> Floats:
        rows = [np.random.default_rng(int(text.split()[-1])).normal(0, 0.3, self.dimension) for text in texts]
        for row, text in zip(rows, texts, strict=True):
            row[int(text.split()[-1]) % self.kinds] += 2
        return np.array(rows, dtype=np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [6, 1])
def test_what_a_language_model_reads_counts_where_it_tells_of_posts_that_nobody_has_seen(
    tmp_path: Path, kinds: int
) -> None:
    """People like one of six colours, of which no word tells; with one kind of reading, that does not tell either."""
    rng = random.Random(0)
    posts = [{"id": f"p{at}", "title": f"thing {at}"} for at in range(600)]
    rows = [event(f"u{u}", f"p{rng.randrange(100) * 6 + u % 6}", at) for u in range(2600) for at in range(12)]
    train, test = unseen_posts(read(tmp_path / "f", rows, posts))
    shared = tools(train)
    shared.encoder = Reads(kinds)
    plain, pair = CoreRanker(shared), CoreWithLlm(shared)
    for ranker in (plain, pair):
        ranker.fit(train)

    def found(ranker: CoreRanker | CoreWithLlm) -> float:
        assert test.candidates is not None
        lists = ranker.rerank(test.user, lambda line, scores: test.candidates[line])  # type: ignore[index]
        hits = [
            (posts[np.argsort(-scores)[:5]] % 6 == int(train.users[user][1:]) % 6).mean()
            for (posts, scores), user in zip(lists, test.user, strict=True)
        ]
        return float(np.mean(hits))

    assert [train.posts[post] for post in range(3)] == ["p0", "p1", "p2"]
    assert found(plain) < 0.4
    if kinds == 6:
        assert not pair.left_out
        assert found(pair) > 0.9
    else:
        assert found(pair) < 0.4


def test_where_no_part_informs_the_core_is_that_of_a_small_home(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [event(f"u{user}", f"p{rng.randrange(200)}", at) for user in range(60) for at in range(3)]
    parts = {"noise": lambda _: Chance("noise"), "smoothed set by vectors": PARTS["smoothed set by vectors"]}
    core = fitted(read(tmp_path / "f", rows), parts)
    assert not core.blend.gains
    assert list(core.blend.weights) == ["smoothed set by vectors"]


# ---- small and empty homes


@pytest.mark.parametrize("users", [1, 3, 49])
def test_a_small_home_falls_back_and_works(tmp_path: Path, users: int) -> None:
    rows = [event(f"u{user}", f"p{(user + at) % 9}", at) for user in range(users) for at in range(3)]
    found = read(tmp_path / "f", rows)
    core = fitted(found, PARTS)
    assert list(core.blend.weights) == ["smoothed set by vectors"]
    assert not core.blend.gains
    scores = core.score(every(found))
    assert scores.shape == (users, len(found.posts))
    assert np.isfinite(scores).all()
    assert len(core.rerank(every(found), lambda line, scores: np.arange(2))) == users


def test_a_small_home_falls_back_on_a_part_that_is_there(tmp_path: Path) -> None:
    found = read(tmp_path / "f", [event("u1", "p1", 1), event("u2", "p2", 1)])
    assert np.isfinite(fitted(found, {"taste": lambda _: Taste()}).score(every(found))).all()


def test_no_likes_at_all_are_no_trouble(tmp_path: Path) -> None:
    found = read(tmp_path / "f", [event(user, post, post, "hide") for user in range(60) for post in range(3)])
    core = fitted(found, PARTS)
    assert not core.score(every(found)).any()
    ((posts, scores),) = core.rerank(np.array([0]), lambda line, scores: np.array([2, 0]))
    assert posts.tolist() == [2, 0]
    assert scores.tolist() == [0, 0]


def test_who_has_no_history_gets_what_is_popular(world: Histories) -> None:
    more = world.with_ids(["new"], ["unread"])
    new = len(world.users)
    core = fitted(more, {"taste": lambda _: Taste()})
    assert core.score(np.array([0, new]))[1].argsort(kind="stable").tolist() == (
        more.popularity.argsort(kind="stable").tolist()
    )
    posts, scores = core.rerank(np.array([new]), lambda line, scores: np.arange(len(more.posts)))[0]
    assert scores.argsort(kind="stable").tolist() == more.popularity[posts].argsort(kind="stable").tolist()


def test_without_torch_the_transformer_alone_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    rows = [event(f"u{user}", f"p{(user + at * at) % 50}", at) for user in range(420) for at in range(6)]
    core = fitted(
        read(tmp_path / "f", rows),
        {"next": lambda tools: NextItemPart(tools, min_likes=1000), "taste": lambda _: Taste()},
    )
    assert list(core.blend.weights) == ["taste"]
    assert core.missing == {"next": "torch is not installed: pip install 'whyfeed[train]'"}


# ---- one post and the others


@dataclass
class Middle(Chance):
    """Users take what it scores from .7 to .8: a weight finds half of that, trees the rest."""

    name: str = "middle"


@pytest.fixture(scope="module")
def forested(tmp_path_factory: pytest.TempPathFactory) -> CoreRanker:
    """A core with both forests, over more posts than are ranked as the best."""
    ids = [f"p{at}" for at in range(900)]
    users = [f"u{at}" for at in range(400)]
    folder = tmp_path_factory.mktemp("middle") / "f"
    blank = read(folder, [event(user, ids[at], 0) for at, user in enumerate(users)], [{"id": id} for id in ids])
    middle = Middle()
    middle.fit(blank)
    rng, rows = np.random.default_rng(0), []
    for user, scores in zip(users, middle.score(every(blank)), strict=True):
        high = np.flatnonzero((scores > 0.7) & (scores < 0.8))
        low = np.flatnonzero((scores > 0.3) & (scores < 0.35))
        rows += [event(user, ids[post], at) for at, post in enumerate(rng.choice(high, 4, replace=False))]
        if int(user[1:]) % 3 == 0:
            rows.append(event(user, ids[int(rng.choice(low))], 9))
    histories = read(folder, rows, [{"id": id} for id in ids])
    core = fitted(histories, {"middle": lambda _: Middle()})
    assert core.near is not None
    assert core.far is not None
    return core


def test_forests_earn_their_place_where_a_weight_does_not_say_all(forested: CoreRanker) -> None:
    assert set(forested.forests) == {"near", "far"}
    for before, after in forested.forests.values():
        assert after > before


def test_the_score_of_a_post_is_the_same_to_the_bit_whatever_else_may_be_shown(forested: CoreRanker) -> None:
    users, size = np.array([5, 17, 300]), 900
    whole = [scores for _, scores in forested.rerank(users, lambda line, scores: np.arange(size))]
    rng = np.random.default_rng(1)
    for count in (1, 2, 10, 100, 400, 899):
        drawn = [rng.choice(size, count, replace=False) for _ in users]
        for line, (posts, scores) in enumerate(forested.rerank(users, lambda line, scores: drawn[line])):  # noqa: B023
            assert posts.tolist() == drawn[line].tolist()  # none is lost, invented or moved
            assert scores.tolist() == whole[line][posts].tolist()
    ((posts, scores),) = forested.rerank(users[:1], lambda line, scores: np.zeros(0, dtype=np.int64))
    assert len(posts) == len(scores) == 0


def test_the_best_of_the_blend_stand_above_all_others(forested: CoreRanker) -> None:
    users = np.array([5, 17])
    blended = forested.score(users)
    for line, (posts, scores) in enumerate(forested.rerank(users, lambda line, scores: np.arange(900))):
        best = np.argsort(-blended[line], kind="stable")[:400]
        assert scores[best].min() > scores[np.setdiff1d(posts, best)].max()
        assert len(set(scores.tolist())) > 100


def test_what_may_be_shown_is_asked_with_the_scores_of_the_first_stage(forested: CoreRanker) -> None:
    users, told = np.array([3, 9]), []
    forested.rerank(users, lambda line, scores: told.append((line, scores.tolist())) or np.arange(3))  # type: ignore[func-returns-value]
    assert told == list(enumerate(forested.score(users).tolist()))


def test_the_same_seed_gives_the_same_ranking(tmp_path: Path) -> None:
    histories = read_histories(bought(tmp_path / "f"))
    parts = {name: PARTS[name] for name in ("item-knn", "text", "smoothed sequence by words")}
    one, two = (fitted(histories, parts) for _ in range(2))
    assert one.blend == two.blend
    assert np.array_equal(one.score(every(histories)), two.score(every(histories)))
    listed = [[scores.tolist() for _, scores in core.rerank(every(histories), lambda line, scores: np.arange(40))]
              for core in (one, two)]  # fmt: skip
    assert listed[0] == listed[1]


# ---- leaks, planted


@dataclass
class Leaky:
    """A world, the parts that are honest in it, and what the honest core comes to."""

    train: Histories
    test: RankingTest
    honest: CoreRanker = field(init=False)

    def __post_init__(self) -> None:
        self.honest = fitted(self.train, {"taste": lambda _: Taste()})

    def blamed(self, core: CoreRanker) -> list[str]:
        """Why a core must have seen what it is asked for."""
        found = [name for name, gain in core.blend.gains.items() if name != "taste" and gain > 0.05]
        found += [name for name, weight in core.blend.weights.items() if name != "taste" and weight > 0.1]
        before, after = (quality(each, self.train, self.test) for each in (self.honest, core))
        # What is learnt from a leak is worth nothing where the answer is not there to be looked up.
        return found + [f"{before:.3f} -> {after:.3f}"] * (abs(after - before) > 0.02)


@pytest.fixture(scope="module")
def target(world: Histories) -> Leaky:
    return Leaky(*leave_one_out(world))


def test_a_part_that_remembers_its_targets_gains_nothing(target: Leaky) -> None:
    """Targets stay in nobody's statistics: to a part that knows pairs by heart, none of the answers is known."""
    parts: Parts = {"taste": lambda _: Taste(), "memory": lambda _: Memory(), "any act": lambda _: Memory(acts="seen")}
    assert target.blamed(fitted(target.train, parts)) == []


def test_a_part_that_peeks_at_targets_would_be_caught(target: Leaky) -> None:
    blamed = target.blamed(fitted(target.train, {"taste": lambda _: Taste(), "memory": lambda _: Memory(target.train)}))
    assert blamed[0] == "memory"
    assert len(blamed) > 2  # quality as well: the core gave its weight to what says nothing of the future


def test_statistics_that_hold_the_targets_would_be_caught(target: Leaky) -> None:
    """The same honest parts, over a cut that takes nothing out."""
    shared = tools(target.train)
    core = CoreRanker(shared, {"taste": lambda _: Taste(), "memory": lambda _: Memory()})
    _, asked = leave_one_out(target.train, 17)
    shared.cached(("cut", target.train), lambda: (target.train, asked))
    core.fit(target.train)
    assert "memory" in target.blamed(core)


@pytest.fixture(scope="module")
def future(tmp_path_factory: pytest.TempPathFactory) -> Leaky:
    """Everyone acts once more after what the core is asked for, and that gives it away."""
    whole = tasteful(tmp_path_factory.mktemp("marks") / "f", marks=True)
    return Leaky(whole, leave_one_out(whole)[1])


def test_what_a_user_did_later_teaches_nothing(future: Leaky) -> None:
    core = fitted(future.train, {"taste": lambda _: Taste(), "after": lambda _: After()})
    assert "after" not in core.blend.weights


def test_a_part_that_peeks_at_the_future_would_be_caught(future: Leaky) -> None:
    core = fitted(future.train, {"taste": lambda _: Taste(), "after": lambda _: After(future.train)})
    assert core.blend.gains["after"] > 0.3


def test_statistics_that_hold_the_future_would_be_caught(future: Leaky) -> None:
    shared = tools(future.train)
    inner, asked = leave_one_out(future.train, 17)
    target = np.full(len(future.train.users), -1)
    target[asked.user] = [relevant[0] for relevant in asked.relevant]
    late = future.train.keep(future.train.post != target[future.train.user])
    assert len(late.user) == len(inner.user) + USERS
    core = CoreRanker(shared, {"taste": lambda _: Taste(), "after": lambda _: After()})
    shared.cached(("cut", future.train), lambda: (late, asked))
    core.fit(future.train)
    assert core.blend.gains["after"] > 0.3
