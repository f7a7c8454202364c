"""Baselines, parts of the core and its click model against their formulas, and what they never learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.ranking_world import EMBED, bought, event, every, judged, read, tools, write_folder
from tests.world import Row
from whyfeed.finetune.evaluation.baselines import BASELINES, Ease, ItemKnn, Resources, Rp3Beta, ShrunkenMeans, UserKnn
from whyfeed.finetune.evaluation.histories import Histories, read_histories
from whyfeed.finetune.evaluation.protocol import leave_one_out, with_negatives
from whyfeed.finetune.ranking.click_model import GaussianProcessClicks
from whyfeed.finetune.ranking.core_ranker import CoreRanker
from whyfeed.finetune.ranking.parts import (
    PARTS,
    LikesOfFollowed,
    LinkedPosts,
    SmoothedCooccurrence,
    liked_sequences,
    word_neighbours,
)
from whyfeed.retrieval.arrays import Condenser, unit
from whyfeed.retrieval.community.cooccurrence import Cooccurrence, text_neighbours
from whyfeed.retrieval.errors import DataError

LIKED = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("b", "z"), ("c", "z"), ("c", "w")]


@pytest.fixture
def small(tmp_path: Path) -> Histories:
    return read(tmp_path / "small", [event(user, post) for user, post in LIKED])


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Histories:
    return read_histories(bought(tmp_path_factory.mktemp("ring") / "f"))


def cosines(matrix: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit = matrix / np.maximum(lengths, 1e-12)
    found = unit @ unit.T
    np.fill_diagonal(found, 0)
    return np.asarray(found)


def test_item_and_user_neighbours_are_those_of_dense_cosines(small: Histories) -> None:
    liked = small.liked.toarray()
    by_item, by_user = ItemKnn(tools(small)), UserKnn(tools(small))
    by_item.fit(small)
    by_user.fit(small)
    assert by_item.score(every(small)) == pytest.approx(liked @ cosines(liked.T), abs=1e-6)
    assert by_user.score(every(small)) == pytest.approx(cosines(liked) @ liked, abs=1e-6)


def test_only_the_nearest_users_vote(small: Histories) -> None:
    one = UserKnn(tools(small), neighbours=1)
    one.fit(small)
    liked = small.liked.toarray()
    nearest = cosines(liked)[0]
    assert one.score(np.array([0]))[0] == pytest.approx(nearest.max() * liked[nearest.argmax()], abs=1e-6)


def test_ease_is_the_closed_form(ring: Histories) -> None:
    ease = Ease(tools(ring), penalty=5.0)
    ease.fit(ring)
    liked = ring.liked.toarray().astype(np.float64)
    inverse = np.linalg.inv(liked.T @ liked + 5.0 * np.eye(liked.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    assert ease.score(every(ring)) == pytest.approx(liked @ weights, abs=1e-4)
    with pytest.raises(DataError, match="name other --rankers"):
        Ease(tools(ring), most=3).fit(ring)


def test_ease_is_whole_beyond_one_tile(tmp_path: Path) -> None:
    rows = [event(user, (user * 37 + step * step) % 1100) for user in range(500) for step in range(6)]
    found = read(tmp_path / "f", [*rows, *(event("all", post) for post in range(1100))])
    ease = Ease(tools(found))
    ease.fit(found)
    liked = found.liked.toarray().astype(np.float64)
    inverse = np.linalg.inv(liked.T @ liked + 100.0 * np.eye(liked.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    assert ease.score(every(found)) == pytest.approx(liked @ weights, abs=1e-3)


def test_rp3beta_walks_as_its_formula(small: Histories) -> None:
    walk = Rp3Beta(tools(small), beta=0.5)
    walk.fit(small)
    liked = small.liked.toarray()
    leave = liked / liked.sum(axis=1, keepdims=True)
    back = liked.T / liked.sum(axis=0)[:, None]
    assert walk.score(every(small)) == pytest.approx(leave @ (back @ leave) / liked.sum(axis=0) ** 0.5, abs=1e-6)


def test_bm25_is_that_of_its_library(ring: Histories) -> None:
    import bm25s

    from whyfeed.retrieval.words import content_words

    ranker = BASELINES["bm25"](tools(ring))
    ranker.fit(ring)
    corpus = [content_words(text) for text in ring.texts]
    index = bm25s.BM25()
    index.index(corpus, show_progress=False)
    query = [word for post in ring.liked[3].indices for word in corpus[post]]
    assert ranker.score(np.array([3]))[0] == pytest.approx(index.get_scores(query), rel=1e-4)


def test_means_by_hand(tmp_path: Path) -> None:
    rows = [event("a", "x", kind="like"), event("b", "x", kind="like"), event("a", "y", kind="dislike")]
    found = read(tmp_path / "f", [*rows, event("c", "y", kind="wave")])
    means, both = ShrunkenMeans(tools(found)), ShrunkenMeans(tools(found), by_user=True)
    means.fit(found)
    both.fit(found)
    x, y = 2 * (2 / 3) / 7, (-4 / 3) / 6
    assert means.score(every(found)) == pytest.approx(np.tile([x, y], (3, 1)), abs=1e-6)
    a, b = ((2 / 3 - x) + (-4 / 3 - y)) / 7, (2 / 3 - x) / 6
    assert both.score(every(found))[:, 0] == pytest.approx([x + a, x + b, x], abs=1e-6)


def test_means_rank_nothing_where_all_say_the_same(tmp_path: Path) -> None:
    found = read(tmp_path / "f", [event(user, post, kind="comment") for user in range(9) for post in range(user + 1)])
    means = ShrunkenMeans(tools(found))
    means.fit(found)
    assert set(means.score(every(found)).ravel().tolist()) == {0.0}


@pytest.mark.parametrize("name", BASELINES)
def test_a_ranker_is_the_same_twice_and_whatever_the_block(ring: Histories, name: str) -> None:
    rankers = [BASELINES[name](tools(ring)) for _ in range(2)]
    for ranker in rankers:
        ranker.fit(ring)
    whole = rankers[0].score(every(ring))
    assert whole.shape == (len(ring.users), len(ring.posts))
    assert np.isfinite(whole).all()
    assert (rankers[1].score(every(ring)) == whole).all()
    assert rankers[0].score(every(ring)[7:9]) == pytest.approx(whole[7:9], abs=1e-5)


@pytest.mark.parametrize("name", [*BASELINES, "core", "clicks"])
def test_who_and_what_is_unknown_is_no_trouble(tmp_path: Path, name: str) -> None:
    found = read(tmp_path / "f", [event("a", "x"), event("b", "x"), event("b", "y")]).with_ids(["new"], ["other"])
    ranker = {**BASELINES, "core": CoreRanker, "clicks": GaussianProcessClicks}[name](Resources(EMBED, found.texts))
    ranker.fit(found)
    scores = ranker.score(every(found))
    assert scores.shape == (3, 3)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_the_same_whatever_the_block(ring: Histories, name: str) -> None:
    if name in ("next", "friends", "linked"):
        with pytest.raises(DataError, match=r"too few|nobody|no post"):
            PARTS[name](tools(ring)).fit(ring)
        return
    part = PARTS[name](tools(ring))
    part.fit(ring)
    whole = part.score(every(ring))
    assert whole.shape == (len(ring.users), len(ring.posts))
    assert np.isfinite(whole).all()
    assert part.score(every(ring)[7:9]) == pytest.approx(whole[7:9], abs=1e-5)


# ---- parts of the core


def test_smoothed_scores_as_the_product_does(ring: Histories) -> None:
    places = ring.first_likes
    neighbours = text_neighbours(EMBED.encode(ring.texts))
    product = Cooccurrence(ring.user[places], ring.post[places], len(ring.posts), neighbours)
    part = SmoothedCooccurrence(tools(ring), "sequence", "vectors")
    part.fit(ring)
    for user in (0, 31):
        history = ring.recent(0.8)[user]
        expected = product.spread(product.reach(history.indices), history.data)
        assert part.score(np.array([user]))[0] == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_friends_count_what_those_on_either_side_liked(tmp_path: Path) -> None:
    follows: list[Row] = [{"from": "a", "to": "b"}, {"from": "c", "to": "a"}, {"from": "b", "to": "d"}]
    rows = [event("a", "w"), event("b", "x"), event("c", "x"), event("c", "y"), event("d", "z")]
    found = read(tmp_path / "f", [*rows, event("c", "z", kind="hide")], follows=follows)
    part = LikesOfFollowed(tools(found))
    part.fit(found)
    assert found.posts == ("w", "x", "y", "z")
    assert part.score(every(found)).tolist() == [[0, 2, 1, 0], [1, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]


def test_links_lead_from_the_history_over_one_post_at_half_the_weight(tmp_path: Path) -> None:
    links: list[Row] = [{"head": "w", "relation": "cites", "tail": "x"}, {"head": "y", "relation": "by", "tail": "x"}]
    found = read(tmp_path / "f", [event("a", "w"), event("b", "z"), event("b", "x"), event("b", "y")], links=links)
    part = LinkedPosts(tools(found))
    part.fit(found)
    # From w, of degree 1, to x; on from x, of degree 2, to y and back.
    on = 0.5 / np.sqrt(2)
    assert part.score(np.array([0]))[0] == pytest.approx([on, 1, on, 0], abs=1e-6)


def test_histories_of_the_transformer_are_the_liked_posts_in_order(tmp_path: Path) -> None:
    rows = [event("a", "y", 2), event("a", "x", 1), event("a", "y", 3, "comment"), event("a", "z", 4, "hide")]
    found = read(tmp_path / "f", [*rows, event("b", "x", 1, "hide"), event("c", "z", 1)]).with_ids(["new"], [])
    named = [[found.posts[post] for post in history] for history in liked_sequences(found)]
    assert named == [["x", "y"], [], ["z"], []]


@pytest.mark.parametrize(("count", "width", "size"), [(40, 12, 8), (5, 12, 8), (40, 6, 8), (2, 3, 2)])
def test_condensed_states_are_unit_rows_of_as_many_directions(count: int, width: int, size: int) -> None:
    states = np.random.default_rng(0).normal(3, 1, (count, width)).astype(np.float32)
    states[:, 0] *= 100
    found = Condenser.of(states, size)(states)
    assert found.shape == (count, min(size, width))
    assert found.dtype == np.float32
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(count), abs=1e-5)
    assert Condenser.of(states + 7, size)(states + 7) @ found.T == pytest.approx(
        found @ found.T, abs=0.05
    )  # signs are free


def test_condensed_states_are_not_ruled_by_the_strongest_direction() -> None:
    rng = np.random.default_rng(0)
    group = np.arange(60) % 3
    states = rng.normal(0, 0.1, (60, 10)).astype(np.float32)
    states[np.arange(60), group + 1] += 1
    states[:, 0] += 30 * rng.normal(size=60)  # says nothing of the group
    same = group[:, None] == group

    def apart(vectors: np.ndarray) -> float:
        cosines = vectors @ vectors.T
        return float(cosines[same].mean() - cosines[~same].mean())

    assert apart(Condenser.of(states, 10)(states)) > 2 * apart(unit(states - states.mean(axis=0)))


@pytest.mark.parametrize("states", [np.full((7, 5), 0.1), np.zeros((7, 5)), np.ones((1, 5)), np.full((7, 5), 1e4)])
def test_condensed_states_that_are_all_alike_are_finite(states: np.ndarray) -> None:
    found = Condenser.of(states.astype(np.float32), 3)(states.astype(np.float32))
    assert found.shape == (len(states), 3)
    assert np.isfinite(found).all()
    assert (found == found[0]).all()


def test_neighbours_by_words_share_words_and_sum_to_one() -> None:
    found = word_neighbours(("red apple", "apple red", "green pear", "", "green pear tree")).toarray()
    assert found[0, 1] == pytest.approx(1)
    assert found[2, 4] == pytest.approx(1)
    assert found[3].sum() == found[:, 3].sum() == 0
    assert np.diag(found).sum() == 0
    assert word_neighbours(("", "")).nnz == 0


def test_the_gaussian_process_is_its_dense_solution(tmp_path: Path) -> None:
    """With one user, both effects are one process: backfitting must come near the joint solution."""
    rows = [event("a", f"p{at}", at, "like" if at % 3 else "dislike") for at in range(8)]
    found = read_histories(
        write_folder(tmp_path / "f", rows, [{"id": f"p{at}", "title": f"t{at} red"} for at in range(9)])
    )
    clicks = GaussianProcessClicks(tools(found))
    clicks.fit(found)
    common, own = clicks._kernels(found)
    place = {int(post): at for at, post in enumerate(clicks._covered)}
    rated = [place[int(post)] for post in found.post]
    label = (found.weight > 0).astype(float)
    both = common + own
    alpha = np.linalg.solve(both[np.ix_(rated, rated)] + 0.3 * np.eye(8), label - label.mean())
    expected = label.mean() + both[:, rated] @ alpha
    scores = clicks.score(np.array([0]))[0][clicks._covered]
    assert np.corrcoef(scores, expected)[0, 1] > 0.98


def test_clicks_know_good_posts_and_glad_users(tmp_path: Path) -> None:
    found = read_histories(judged(tmp_path / "f"))
    clicks = GaussianProcessClicks(tools(found))
    clicks.fit(found)
    scores = clicks.score(every(found))
    good = np.array([int(id[1:]) < 15 for id in found.posts])
    glad = np.array([int(id[1:]) < 20 for id in found.users])
    assert scores[:, good].mean() - scores[:, ~good].mean() > 0.2
    assert scores[glad].mean() - scores[~glad].mean() > 0.15


# ---- leaks


@pytest.mark.parametrize("name", ["popularity", "item-knn", "user-knn", "rp3beta", "ease", "smoothed set by none"])
def test_the_target_teaches_nothing(tmp_path: Path, name: str) -> None:
    """The last purchase of two users is one that nobody else made: who finds it has seen the answer.

    Other posts are nobody's, so a leaked target shows in popularity as well.
    """
    rows = [event(u, f"common{(u + step) % 10}", step) for u in range(60) for step in range(3)]
    rows += [event(u, f"own{u // 2}", 3) for u in range(60)]
    posts = [{"id": id} for id in [*(f"common{at}" for at in range(10)), *(f"own{at}" for at in range(90))]]
    whole = read_histories(write_folder(tmp_path / "f", rows, posts))
    train, test = leave_one_out(whole)
    test = with_negatives(whole, test, 20)
    shares = {}
    for learnt, histories in (("leaky", whole), ("clean", train)):
        ranker = {**BASELINES, **PARTS}[name](tools(whole))
        ranker.fit(histories)
        wins = []
        for user, relevant, candidates in zip(test.user, test.relevant, test.candidates or (), strict=True):
            # Against those that share its lot: posts that no user has in the training part.
            scores = ranker.score(np.array([user]))[0]
            rivals = [post for post in candidates if train.popularity[post] == 0 and post != relevant[0]]
            wins.append(np.mean([scores[relevant[0]] > scores[post] for post in rivals]))
        shares[learnt] = np.mean(wins)
    assert shares["leaky"] > 0.4
    assert shares["clean"] == 0
