"""Tests of rankers: what is asked, and that nothing that is asked about was seen before."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ranking_world import bought, event, judged, pairs, read, write_folder
from tests.world import Row, write_rows
from whyfeed.finetune.evaluation.histories import Histories, read_histories
from whyfeed.finetune.evaluation.protocol import (
    ClickTest,
    RankingTest,
    about_posts,
    leave_one_out,
    pair_keys,
    prepare,
    unseen_posts,
)
from whyfeed.retrieval.errors import DataError

CLOCK = 1_500_000_000


def asked(histories: Histories, test: RankingTest) -> dict[str, list[str]]:
    return {
        histories.users[user]: [histories.posts[post] for post in relevant]
        for user, relevant in zip(test.user, test.relevant, strict=True)
    }


def prepared(histories: Histories, folder: Path, rows: list[Any], **more: Any) -> tuple[Histories, Any]:
    return prepare(histories, folder, write_rows(folder / "test.jsonl", rows), **more)


# ---- cut from the folder


def test_the_last_post_is_asked_and_is_out_of_all_statistics(tmp_path: Path) -> None:
    rows = [
        event("a", "x", 1), event("a", "y", 2), event("a", "z", 3), event("a", "z", 4, "comment"),
        event("b", "z", 1), event("b", "x", 2),
        event("c", "y", 1),  # one post: nothing would be left to know them by
        event("d", "x", 1), event("d", "y", 2), event("d", "x", 9, "comment"),  # met again, later
    ]  # fmt: skip
    whole = read(tmp_path / "f", rows)
    train, test = leave_one_out(whole)
    assert asked(whole, test) == {"a": ["z"], "b": ["x"], "d": ["y"]}
    assert pairs(train) == [("a", "x"), ("a", "y"), ("b", "z"), ("c", "y"), ("d", "x")]
    assert dict(zip(train.posts, train.popularity.tolist(), strict=True)) == {"x": 2, "y": 2, "z": 1}


def test_posts_that_nobody_has_seen_are_in_no_history(tmp_path: Path) -> None:
    rows = [event(user, (user * 7 + at * 13) % 200, at) for user in range(100) for at in range(30)]
    whole = read(tmp_path / "f", rows)
    train, test = unseen_posts(whole)
    assert train.fresh is not None
    assert test.candidates is not None
    assert 10 < train.fresh.sum() < 40
    assert not train.popularity[train.fresh].any()
    assert len(test.user) > 50
    for user, (target,), candidates in zip(test.user, test.relevant, test.candidates, strict=True):
        had = set(whole.seen[user].indices.tolist())
        assert train.fresh[target]
        assert train.fresh[candidates].all()
        assert had & set(candidates.tolist()) == {target}  # what they had of the others is not asked beside it
        own = whole.user == user
        until = whole.time[own & (whole.post == target)][0]
        assert (train.time[train.user == user] < until).all()
        assert not train.fresh[[post for post in had if whole.time[own & (whole.post == post)][0] > until]].any()
    inner, again = unseen_posts(train, 17)
    assert inner.fresh is not None
    assert (inner.fresh & train.fresh).sum() == train.fresh.sum() < inner.fresh.sum()
    assert not train.fresh[[post for (post,) in again.relevant]].any()  # of those, only what these histories know
    few = prepare(whole, tmp_path / "f", candidates=5, unseen=True)[1]
    assert isinstance(few, RankingTest)
    assert few.candidates is not None
    for target, candidates in zip(few.relevant, few.candidates, strict=True):
        assert len(candidates) <= 6
        assert np.isin(target, candidates).all()
        assert train.fresh[candidates].all()


def test_posts_that_nobody_has_seen_are_asked_about_in_rankings_cut_here(tmp_path: Path) -> None:
    whole = read(tmp_path / "f", [event("a", "x", 1), event("a", "y", 2)])
    with pytest.raises(ValueError, match="--unseen cuts its own test"):
        prepare(whole, tmp_path / "f", tmp_path / "test.jsonl", unseen=True)
    clicks = read(tmp_path / "g", [event("a", "x", 1, "like"), event("a", "y", 2, "dislike")])
    with pytest.raises(ValueError, match="--unseen is for rankings"):
        prepare(clicks, tmp_path / "g", unseen=True)


def test_dislikes_are_never_asked_for_and_never_ranked(tmp_path: Path) -> None:
    rows = [event("a", "x", 1), event("a", "y", 2), event("a", "z", 3, "dislike"), event("a", "v", 0, "hide")]
    whole = read(tmp_path / "f", [*rows, event("b", "w")])
    train, test = prepare(whole, tmp_path / "f", candidates=9)
    assert asked(whole, test) == {"a": ["y"]}  # type: ignore[arg-type]
    assert {train.posts[post] for post in test.candidates[0]} == {"w", "y"}  # type: ignore[union-attr, index]


def test_without_times_one_at_random_is_asked_for_by_ids_alone(tmp_path: Path) -> None:
    rows = [event(user, post) for user in range(40) for post in range(user % 7, 12)]
    whole = read(tmp_path / "f", rows)
    one = asked(whole, leave_one_out(whole)[1])
    shuffled = list(rows)
    random.Random(1).shuffle(shuffled)
    other = read(tmp_path / "g", shuffled)
    assert asked(other, leave_one_out(other)[1]) == one
    assert asked(whole, leave_one_out(whole, seed=1)[1]) != one
    assert len({post for (post,) in one.values()}) > 5
    some = asked(whole, leave_one_out(whole, most=10)[1])
    assert len(some) == 10
    assert some.items() <= one.items()


def test_events_of_one_moment_are_drawn_among(tmp_path: Path) -> None:
    rows = [event(user, post, 7) for user in range(60) for post in "xyz"]
    whole = read(tmp_path / "f", rows)
    assert {post for (post,) in asked(whole, leave_one_out(whole)[1]).values()} == {"x", "y", "z"}


def test_negatives_are_outside_the_whole_history_and_the_same_twice(tmp_path: Path) -> None:
    folder = bought(tmp_path / "f")
    whole = read_histories(folder)
    drawn = [prepare(whole, folder, candidates=5)[1] for _ in range(2)]
    other = prepare(whole, folder, candidates=5, seed=1)[1]
    had = set(pairs(whole))
    for user, relevant, one, two in zip(
        drawn[0].user, drawn[0].relevant, drawn[0].candidates, drawn[1].candidates, strict=True
    ):  # type: ignore[union-attr, arg-type]  # fmt: skip
        assert one.tolist() == two.tolist()
        assert len(one) == 6
        names = {(whole.users[user], whole.posts[post]) for post in one}
        assert names & had == {(whole.users[user], whole.posts[relevant[0]])}
    assert any(a.tolist() != b.tolist() for a, b in zip(drawn[0].candidates, other.candidates, strict=True))  # type: ignore[union-attr, arg-type]
    with pytest.raises(ValueError, match="candidates is 0"):
        prepare(whole, folder, candidates=0)


def test_the_target_is_drawn_by_other_chances_than_ties(tmp_path: Path) -> None:
    """A target that is its user's largest number would lose every tie that is broken by the same numbers."""
    rows = [event(user, post) for user in range(300) for post in range(20)]
    whole = read(tmp_path / "f", rows)
    test = leave_one_out(whole)[1]
    keys = pair_keys(whole, "ties", 0)
    places = [
        int((keys(np.array([user]), np.arange(20)) < keys(np.array([user]), relevant)).sum())
        for user, relevant in zip(test.user, test.relevant, strict=True)
    ]
    assert 8 < np.mean(places) < 11


# ---- read from a file


def test_what_a_test_asks_for_is_taken_out_of_the_folder(tmp_path: Path) -> None:
    """Its own target, planted: the folder holds the purchase that the test asks for."""
    rows = [event("a", "x", 1), event("a", "y", 2), event("b", "y", 1), event("b", "x", 2)]
    whole = read(tmp_path / "f", rows)
    train, test = prepared(whole, tmp_path / "f", [{"user": "a", "relevant": ["y"], "candidates": ["x", "y", "z"]}])
    assert pairs(train) == [("a", "x"), ("b", "y"), ("b", "x")]
    assert "1 events of the folder" in test.protocol
    clean, test = prepared(whole, tmp_path / "f", [{"user": "a", "relevant": ["z"]}])
    assert pairs(clean) == pairs(whole)
    assert "events of the folder" not in test.protocol


def test_a_users_own_future_is_taken_out_where_a_row_has_a_time(tmp_path: Path) -> None:
    rows = [event("a", post, CLOCK + time) for time, post in enumerate("uvwxyz")]
    whole = read(tmp_path / "f", [*rows, event("b", "z", CLOCK + 9)])
    train, _ = prepared(whole, tmp_path / "f", [{"user": "a", "relevant": ["new"], "time": CLOCK + 3}])
    assert pairs(train) == [("a", "u"), ("a", "v"), ("a", "w"), ("b", "z")]


def test_candidates_are_as_given_with_the_right_ones_among_them(tmp_path: Path) -> None:
    whole = read(tmp_path / "f", [event("a", "x", 1), event("b", "y", 1)])
    row = {"user": 7, "relevant": [5], "candidates": ["y", "x", "y", "unknown"]}
    train, test = prepared(whole, tmp_path / "f", [row])
    assert {train.posts[post] for post in test.candidates[0]} == {"x", "y", "unknown", "5"}
    assert train.users[test.user[0]] == "7"
    assert train.lengths[test.user[0]] == 0
    train, test = prepared(whole, tmp_path / "f", [{"user": "a", "relevant": ["y"]}], candidates=3)
    assert {train.posts[post] for post in test.candidates[0]} == {"y"}


def test_bad_test_rows_are_counted(tmp_path: Path) -> None:
    whole = read(tmp_path / "f", [event("a", "x", 1), event("b", "y", 1)])
    good: Row = {"user": "a", "relevant": ["y"]}
    bad: list[Any] = [
        {"relevant": ["y"]}, {"user": "a"}, {"user": "a", "relevant": []}, {"user": "a", "relevant": "y"},
        {"user": "a", "relevant": [None]}, {"user": "a", "relevant": ["y"], "candidates": "y"},
        {"user": "a", "post": "x", "label": 2}, {"user": "a", "post": "x", "label": 1}, [], 5,
    ]  # fmt: skip
    _, test = prepared(whole, tmp_path / "f", [good, *bad, good])
    assert (len(test.user), test.skipped) == (2, len(bad))


def test_what_cannot_be_asked_is_said(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", [event("a", "x", 1)])
    whole = read_histories(folder)
    with pytest.raises(DataError, match=r"none\.jsonl' is no file"):
        prepare(whole, folder, tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="has no test row; a row has user and relevant"):
        prepared(whole, folder, [{"user": "a"}])
    with pytest.raises(DataError, match="candidates in some rows only"):
        prepared(whole, folder, [{"user": "a", "relevant": ["x"]}, {"user": "a", "relevant": ["x"], "candidates": []}])
    with pytest.raises(DataError, match="has nothing to test on"):
        prepare(whole, folder)


# ---- clicks


def test_later_labels_are_asked_and_the_statistics_end_before_them(tmp_path: Path) -> None:
    folder = judged(tmp_path / "f")
    whole = read_histories(folder)
    train, test = prepare(whole, folder)
    assert isinstance(test, ClickTest)
    assert len(test.user) == 200
    assert 0 < test.label.sum() < len(test.label)
    questions = {(whole.users[u], whole.posts[p]) for u, p in zip(test.user, test.post, strict=True)}
    assert not questions & set(pairs(train))
    assert train.time.max() < np.quantile(whole.time, 0.8) + 1
    assert "statistics frozen" in test.protocol


@pytest.mark.parametrize("time", [lambda at: at, lambda at: None])
def test_without_a_clock_a_fifth_of_each_users_labels_is_asked(tmp_path: Path, time: Any) -> None:
    rows = [event(u, at, time(at), "like" if (u + at) % 2 else "dislike") for u in range(5) for at in range(10)]
    folder = write_folder(tmp_path / "f", rows)
    whole = read_histories(folder)
    train, test = prepare(whole, folder)
    assert np.bincount(test.user).tolist() == [2] * 5
    assert len(train.user) == 40
    if time(1) is not None:
        assert {whole.posts[post] for post in test.post} == {"8", "9"}
    again = prepare(read_histories(folder), folder)[1]
    assert again.post.tolist() == test.post.tolist()  # type: ignore[union-attr]


def test_future_events_and_own_labels_are_taken_out(tmp_path: Path) -> None:
    """Planted: the folder goes on after the first row of its test, and holds one of the asked labels."""
    past = [event(u, p, CLOCK + u + p, "like" if p % 2 else "dislike") for u in range(4) for p in range(6)]
    future = [event(3, 9, CLOCK + 500, "like"), event(2, 9, CLOCK + 200, "dislike")]
    valid = [event(1, 9, CLOCK + 200, "like"), event(2, 5, CLOCK + 300, "dislike")]
    folder = write_folder(tmp_path / "f", [*past, *future], valid=valid)
    train, test = prepare(read_histories(folder), folder)
    assert isinstance(test, ClickTest)
    assert test.label.tolist() == [1, 0]
    assert "2 rows of valid.jsonl" in test.protocol
    assert "3 events of the folder" in test.protocol
    assert set(pairs(train)) == {(str(u), str(p)) for u in range(4) for p in range(6)} - {("2", "5")}
    rows: list[Row] = [{"user": "1", "post": "9", "label": 1, "time": CLOCK + 200}]
    assert prepared(read_histories(folder), folder, rows)[1].label.tolist() == [1]


def test_a_test_that_is_not_cut_by_time_says_so(tmp_path: Path) -> None:
    rows = [event(u, p, CLOCK + u + p, "like" if p % 2 else "dislike") for u in range(4) for p in range(6)]
    folder = write_folder(tmp_path / "f", rows)
    whole = read_histories(folder)
    train, test = prepared(whole, folder, [{"user": "1", "post": "2", "label": 0, "time": CLOCK}])
    assert "not cut by time" in test.protocol
    assert len(train.user) == len(whole.user) - 1


def test_few_likes_among_other_acts_make_no_click_test(tmp_path: Path) -> None:
    rows = [event(u, p, u + p, "view") for u in range(4) for p in range(6)]
    folder = write_folder(tmp_path / "f", [*rows, event(1, 2, 9, "like"), event(1, 3, 9, "dislike")])
    assert isinstance(prepare(read_histories(folder), folder)[1], RankingTest)


# ---- posts or replies


def test_the_rows_of_the_test_say_what_it_is_about(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", [event("a", "x")])
    assert about_posts(folder, None)
    assert about_posts(folder, write_rows(tmp_path / "p.jsonl", [5, {}, {"user": "a", "relevant": ["x"]}]))
    replies = write_rows(tmp_path / "r.jsonl", [{"conversation": [], "relevant": ["x"]}])
    assert not about_posts(folder, replies)
    desk = write_folder(tmp_path / "d", [event("a", "x")], conversations=[{"id": "c", "turns": []}])
    assert not about_posts(desk, None)
    assert not about_posts(tmp_path / "nowhere", None)
