"""Which posts to ask about: what the answers teach, in a world whose readers are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from whyfeed.finetune.evaluation.baselines import Resources
from whyfeed.finetune.evaluation.histories import Histories
from whyfeed.finetune.ranking.click_model import NOISE_VARIANCE, GaussianProcessClicks
from whyfeed.finetune.ranking.questions import choose_posts, questions
from whyfeed.retrieval.community.embedder import HashEmbedder
from whyfeed.retrieval.errors import DataError

TOPICS = ("tomato soil compost", "keel mast rudder", "sonata violin tempo", "glacier ridge summit", "yeast rye crust")
SIZE = 12  # posts of a topic
NEW = 30  # readers of whom nothing is known, the last of all
EMBED = HashEmbedder(64)


class World:
    """Readers like some topics and dislike the others; the first topic is by far the most read."""

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        readers, posts = 120 + NEW, SIZE * len(TOPICS)
        self.topic = np.repeat(np.arange(len(TOPICS)), SIZE)
        self.likes = rng.random((readers, len(TOPICS))) < 0.5
        seen = rng.random((readers, posts)) < np.where(self.topic == 0, 0.6, 0.2) * rng.uniform(0.5, 1, posts)
        seen[-NEW:] = False
        user, post = np.nonzero(seen)
        self.histories = Histories(
            name="world", users=tuple(f"u{row}" for row in range(readers)),
            posts=tuple(f"p{row}" for row in range(posts)),
            texts=tuple(f"{TOPICS[topic]} n{row}" for row, topic in enumerate(self.topic)),
            years=np.full(posts, np.nan, dtype=np.float32), user=user, post=post,
            weight=self.weights(user, post), time=np.full(len(user), np.nan),
        )  # fmt: skip

    def weights(self, user: np.ndarray, post: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.where(self.likes[user, self.topic[post]], 1, -1).astype(np.float32)

    def error(self, asked: Sequence[str]) -> float:
        """Mean squared error on all other posts once the new readers have answered."""
        rows = [self.histories.post_rows[post] for post in asked]
        new = np.arange(len(self.likes) - NEW, len(self.likes))
        user, post = np.repeat(new, len(rows)), np.tile(rows, NEW)
        answered = replace(
            self.histories, user=np.append(self.histories.user, user), post=np.append(self.histories.post, post),
            weight=np.append(self.histories.weight, self.weights(user, post)),
            time=np.append(self.histories.time, np.full(len(user), np.nan)),
        )  # fmt: skip
        core = GaussianProcessClicks(Resources(EMBED, answered.texts))
        core.fit(answered)
        others = np.setdiff1d(np.arange(len(self.topic)), rows)
        return float(np.square(core.score(new)[:, others] - self.likes[new][:, self.topic[others]]).mean())


def test_answers_to_what_is_asked_teach_more_than_answers_about_popular_or_random_posts() -> None:
    world = World()
    ids = np.array(world.histories.posts)
    found = [each.post for each in questions(world.histories, EMBED, count=5)]
    popular = ids[np.argsort(-np.bincount(world.histories.post))][:5]
    rng = np.random.default_rng(0)
    by_chance = [world.error(rng.choice(ids, 5, replace=False).tolist()) for _ in range(10)]
    error = world.error(found)
    assert error < np.mean(by_chance) - 0.01
    assert error < world.error(popular.tolist()) - 0.02
    assert error < np.quantile(by_chance, 0.2)


def test_one_post_of_each_topic_is_asked_about_before_a_second_and_nothing_that_was_answered() -> None:
    world = World()
    topics = [int(world.topic[world.histories.post_rows[each.post]]) for each in questions(world.histories, EMBED)]
    assert sorted(topics[:5]) == [0, 1, 2, 3, 4]
    own = {world.histories.posts[post] for post in world.histories.post[world.histories.user == 3]}
    found = questions(world.histories, EMBED, "u3", 100)
    assert len(found) > 10
    assert not {each.post for each in found} & own
    assert all(each.lowers > 0 for each in found)


def test_what_is_known_of_a_reader_is_not_asked_again() -> None:
    """Who has said a lot about a topic is asked about the others first."""
    world = World()
    first = [row for row, topic in enumerate(world.topic) if topic == 1][:8]
    user = np.full(len(first), len(world.likes) - 1)
    said = replace(
        world.histories, user=np.append(world.histories.user, user), post=np.append(world.histories.post, first),
        weight=np.append(world.histories.weight, world.weights(user, np.array(first))),
        time=np.append(world.histories.time, np.full(len(first), np.nan)),
    )  # fmt: skip
    found = questions(said, EMBED, said.users[-1], 4)
    assert 1 not in {int(world.topic[said.post_rows[each.post]]) for each in found}


def test_the_share_that_is_said_is_what_an_answer_takes_from_the_variance() -> None:
    covariance = np.array([[1.0, 0.8, 0.0], [0.8, 0.9, 0.0], [0.0, 0.0, 0.95]])
    places, shares = choose_posts(covariance, np.array([True, True, True]), 3)
    assert places.tolist() == [0, 2, 1]  # the second is like the first
    assert shares[:2] == pytest.approx(
        [(1 + 0.64) / (1 + NOISE_VARIANCE) / 2.85, 0.95**2 / (0.95 + NOISE_VARIANCE) / 2.85]
    )
    left = 0.9 - 0.64 / (1 + NOISE_VARIANCE)  # of the second, and of what it says of the first
    both = left**2 + (0.8 - 0.8 / (1 + NOISE_VARIANCE)) ** 2
    assert shares[2] == pytest.approx(both / (left + NOISE_VARIANCE) / 2.85)
    assert choose_posts(covariance, np.array([False, True, False]), 3)[0].tolist() == [1]


def test_what_hardly_anybody_knows_is_not_asked_about() -> None:
    world = World()
    rare = {"p13", "p30"}
    names = np.array(world.histories.posts)[world.histories.post]
    seldom = world.histories.keep(~np.isin(names, list(rare)) | (world.histories.user < 3))
    assert not rare & {each.post for each in questions(seldom, EMBED, count=60)}


def test_what_cannot_be_asked_is_said() -> None:
    world = World()
    with pytest.raises(ValueError, match="count"):
        questions(world.histories, EMBED, count=0)
    with pytest.raises(DataError, match="nobody"):
        questions(world.histories, EMBED, "nobody")
    with pytest.raises(DataError, match="no events"):
        questions(world.histories.keep(np.zeros(len(world.histories.user), dtype=bool)), EMBED)
