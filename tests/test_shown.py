"""What the judge learns from: the past is before the moment, and what is asked about is not in it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.ranking_world import event, read
from tests.world import Row, World
from whyfeed.agent.recommend.judge import post_line
from whyfeed.agent.recommend.snapshot import Snapshot
from whyfeed.finetune.evaluation.protocol import ClickTest
from whyfeed.finetune.llm.judge_examples import MOST, from_clicks, from_home, held_clicks, read_posts
from whyfeed.retrieval.errors import DataError


def clicks(count: int) -> list[Row]:
    return [event("u", f"p{n}", n, kind="like" if n % 3 else "dislike") for n in range(count)]


def titled(count: int) -> list[Row]:
    return [{"id": f"p{n}", "title": f"Title {n}", "text": ""} for n in range(count)]


def test_each_group_stands_behind_what_was_said_before_it(tmp_path: Path) -> None:
    histories = read(tmp_path / "f", clicks(50), posts=titled(50))
    groups = from_clicks(histories, read_posts(tmp_path / "f"))
    assert [len(group.labels) for group in groups] == [4, 4, 8, MOST, MOST, 2]
    assert groups[0].history == ()
    assert groups[1].history == ("dislike: Title 0", "like: Title 1", "like: Title 2", "dislike: Title 3")
    assert groups[2].posts[0] == "Title 8"
    assert [label for group in groups for label in group.labels] == [int(n % 3 > 0) for n in range(50)]
    for group in groups:
        numbers = [int(line.rsplit(" ", 1)[1]) for line in group.history]
        assert max(numbers, default=-1) < int(group.posts[0].rsplit(" ", 1)[1])


def test_what_was_said_in_the_same_second_is_not_known(tmp_path: Path) -> None:
    rows = [event("u", f"p{n}", 5 if 2 <= n < 8 else n, kind="like") for n in range(12)]
    groups = from_clicks(read(tmp_path / "f", rows, posts=titled(12)), read_posts(tmp_path / "f"))
    assert groups[1].time == 5
    assert groups[1].history == ("like: Title 0", "like: Title 1")


def test_held_out_rows_stand_behind_the_frozen_history_with_their_means(tmp_path: Path) -> None:
    histories = read(tmp_path / "f", clicks(6), posts=titled(30))
    user, post = np.zeros(20, dtype=np.int64), np.arange(6, 26)
    test = ClickTest(user, post, post % 2, "")
    means = (post / 100).astype(np.float32)
    groups = held_clicks(histories, test, read_posts(tmp_path / "f"), means)
    assert [len(group.labels) for group in groups] == [MOST, 4]
    assert groups[0].history == groups[1].history
    assert groups[0].history[-1] == "like: Title 5"
    assert math.isnan(groups[0].time)
    for group in groups:
        for line, label, mean in zip(group.posts, group.labels, group.plain, strict=True):
            number = int(line.rsplit(" ", 1)[1])
            assert (label, mean) == (number % 2, pytest.approx(number / 100))


def test_the_ledger_gives_acts_and_posts_that_were_passed_over(view: Snapshot, world: World) -> None:
    groups = from_home(view.store, view.embedder)
    events = [event for _, event in view.store.events() if event.time is not None]
    title = {post.id: post_line(post) for post in view.store.posts([row["id"] for row in world.posts]).values()}
    assert groups == from_home(view.store, view.embedder)
    assert [group.time for group in groups] == sorted(group.time for group in groups)
    for group in groups:
        assert 0 < sum(group.labels) < len(group.labels) <= MOST
        assert len(group.plain) == len(group.labels)
        before = {title[act.post] for act in events if act.user == group.user and (act.time or 0) <= group.time}
        after = {title[act.post] for act in events if act.user == group.user and (act.time or 0) > group.time}
        assert group.history
        for line in group.history:
            assert line.split(": ", 1)[1] in before
        for line, label in zip(group.posts, group.labels, strict=True):
            assert not label or line in after
            assert line not in before


def test_a_ledger_without_a_past_says_so(tmp_path: Path, view: Snapshot) -> None:
    from whyfeed.retrieval.store.store import Store

    store = Store(tmp_path / "other")
    with pytest.raises(DataError, match="too few acts"):
        from_home(store, view.embedder)
    store.close()
