"""An exchange folder as arrays: the order of events, what they say, and what is left out."""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ranking_world import bought, event, pairs, read, write_folder
from tests.world import Row
from whyfeed.finetune.evaluation.histories import read_histories
from whyfeed.retrieval.errors import DataError


@pytest.mark.parametrize(
    ("times", "ordered", "clock"),
    [
        (["2020-01-01T00:00:00Z", "2020-01-02", "2020-01-03T10:00:00+02:00"], True, True),
        ([1_500_000_000, 1_500_000_001.5, 1_500_000_002], True, True),
        ([0, 1, 2], True, False),
        ([None, None, None], False, False),
    ],
)
def test_events_stand_in_each_users_order(tmp_path: Path, times: list[object], ordered: bool, clock: bool) -> None:
    rows = [event(user, post, time) for user in "ab" for post, time in zip("xyz", times, strict=True)]
    if ordered:
        random.Random(3).shuffle(rows)
    found = read(tmp_path / "f", rows)
    assert (found.ordered, found.clock) == (ordered, clock)
    for user in "ab":
        assert [post for who, post in pairs(found) if who == user] == ["x", "y", "z"]
    assert found.starts.tolist() == [0, 3, 6]


def test_an_event_without_a_time_is_older_than_those_with_one(tmp_path: Path) -> None:
    found = read(tmp_path / "f", [event("a", "x", 5), event("a", "y", 4), event("a", "z")])
    assert [post for _, post in pairs(found)] == ["z", "y", "x"]


def test_bad_rows_are_counted_and_left_out(tmp_path: Path) -> None:
    bad: list[Row] = [
        {"post": "x", "kind": "buy"},
        {"user": "a", "kind": "buy"},
        {"user": "a", "post": "x"},
        event("a", "nowhere"),
        event("a", "x", "soon"),
        event("a", "x", value="many"),
        event(["a"], "x") | {"user": ["a"]},
    ]
    steering: list[Row] = [{"user": "a", "kind": "exclude", "text": "chess"}]
    folder = write_folder(
        tmp_path / "f", [event("a", "x"), *bad, *steering], [{"id": "x"}, {"id": ""}, {"id": "y", "kind": "planet"}]
    )
    data = (folder / "interactions.jsonl").read_bytes() + b"{not json\n[]\n"
    (folder / "interactions.jsonl").unlink()
    (folder / "interactions.jsonl.gz").write_bytes(gzip.compress(data))
    found = read_histories(folder)
    assert pairs(found) == [("a", "x")]
    assert found.posts == ("x",)
    assert found.skipped == len(bad) + 2 + 2


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        read_histories(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"interactions\.jsonl"):
        read_histories(tmp_path)


def test_without_posts_those_of_the_events_are_there(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "f", [event("a", "x"), event("a", 7)])
    (folder / "posts.jsonl").unlink()
    found = read_histories(folder)
    assert (found.posts, found.texts, found.skipped) == (("x", "7"), ("", ""), 0)


def test_what_an_act_says_decides_what_is_liked(tmp_path: Path) -> None:
    rows = [
        event("a", "x", 1), event("a", "x", 2, "comment"), event("a", "y", 3, "dislike"), event("a", "z", 4, "wave"),
        event("b", "x", 1, "rate", value=5), event("b", "y", 2, "rate", value=1), event("b", "z", 3, "hide"),
    ]  # fmt: skip
    found = read(tmp_path / "f", rows)
    assert found.liked.toarray().tolist() == [[1, 0, 0], [1, 0, 0]]
    assert found.seen.toarray().tolist() == [[1, 1, 1], [1, 1, 1]]
    assert found.popularity.tolist() == [2, 0, 0]
    assert found.lengths.tolist() == [1, 1]
    assert found.weight.tolist() == pytest.approx([1, 0.8, -1, 0, 1, -0.6, -1])


def test_the_newest_liked_post_weighs_most(tmp_path: Path) -> None:
    rows = [event("a", post, time) for time, post in enumerate("xyz")]
    assert read(tmp_path / "f", rows).recent(0.5).toarray().tolist() == [[0.25, 0.5, 1.0]]
    rows = [event("a", post) for post in "xyz"]
    assert read(tmp_path / "g", rows).recent(0.5).toarray().tolist() == [[1.0, 1.0, 1.0]]


def test_years_come_from_titles_or_from_when_it_was_posted(tmp_path: Path) -> None:
    posts: list[Row] = [
        {"id": "x", "title": "Sting, The (1973)"},
        {"id": "y", "created_at": "2015-06-01T00:00:00Z"},
        {"id": "z"},
    ]
    found = read_histories(write_folder(tmp_path / "f", [event("a", "x")], posts))
    np.testing.assert_array_equal(found.years, np.array([1973, 2015, np.nan], dtype=np.float32))


def test_users_and_posts_of_a_test_have_no_history(tmp_path: Path) -> None:
    found = read(tmp_path / "f", [event("a", "x"), event("b", "x")])
    more = found.with_ids(["b", "new", "new"], ["other", "x"])
    assert (more.users, more.posts) == (("a", "b", "new"), ("other", "x")[::-1])
    assert more.lengths.tolist() == [1, 1, 0]
    assert more.popularity.tolist() == [2, 0]
    assert len(more.texts) == len(more.years) == 2
    assert found.with_ids(["a"], ["x"]) is found


BAD_ROWS: list[Any] = [
    {}, [], 5, "row", None, {"from": "a"}, {"from": "a", "to": None}, {"from": 1, "to": "b"}, {"from": "", "to": "b"},
    {"from": ["a"], "to": "b"}, {"head": "x"}, {"head": "x", "relation": "r"},
    {"head": "x", "relation": 3, "tail": "y"}, {"head": None, "relation": "r", "tail": "y"},
]  # fmt: skip


def test_friends_are_those_who_follow_or_are_followed(tmp_path: Path) -> None:
    follows = [
        {"from": "a", "to": "b"}, {"from": "b", "to": "a"}, {"from": "a", "to": "b"}, {"from": "c", "to": "b"},
        {"from": "a", "to": "a"}, {"from": "a", "to": "stranger"}, *BAD_ROWS,
    ]  # fmt: skip
    folder = write_folder(tmp_path / "f", [event(user, "x") for user in "abcd"], follows=follows)
    with (folder / "follows.jsonl").open("a", encoding="utf-8") as file:
        file.write('not json\n\n{"from": "a", "to": \n')
    found = read_histories(folder)
    assert found.friends.toarray().tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert found.linked.nnz == 0
    more = found.with_ids(["stranger"], [])
    assert more.friends.toarray()[4].tolist() == [1, 0, 0, 0, 0]
    assert found.keep(found.user == 0).friends.nnz == found.friends.nnz  # who follows whom is no event


def test_posts_are_linked_whatever_the_relation(tmp_path: Path) -> None:
    links = [
        {"head": "x", "relation": "cites", "tail": "y"}, {"head": "x", "relation": "by", "tail": "y"},
        {"head": "z", "relation": "by", "tail": "somebody"}, {"head": "z", "relation": "is", "tail": "z"}, *BAD_ROWS,
    ]  # fmt: skip
    found = read(tmp_path / "f", [event("a", post) for post in "xyz"], links=links)
    assert found.linked.toarray().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert found.friends.shape == (1, 1)
    assert found.friends.nnz == 0


def test_without_files_of_them_nobody_is_a_friend_and_nothing_is_linked(tmp_path: Path) -> None:
    found = read(tmp_path / "f", [event("a", "x"), event("b", "y")])
    assert (found.friends.shape, found.friends.nnz) == ((2, 2), 0)
    assert (found.linked.shape, found.linked.nnz) == ((2, 2), 0)


def test_progress_is_told_while_a_large_file_is_read(tmp_path: Path) -> None:
    rows = [event(number % 50, number % 40, number) for number in range(20_001)]
    told: list[str] = []
    found = read_histories(write_folder(tmp_path / "f", rows), lambda what, done, total: told.append(what))
    assert told == ["reading interactions"]
    assert len(found.user) == 20_001


def test_the_folder_of_the_tests_is_as_it_is_described(tmp_path: Path) -> None:
    found = read_histories(bought(tmp_path / "f"))
    assert (len(found.users), len(found.posts), found.ordered, found.clock) == (60, 40, True, False)
