"""A language model reads each post of a home once, where its transformer was trained with what was read."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_next_posts import by_hand
from tests.world import DAY, START, write_rows
from whyfeed.agent.recommend.ranker import HAND_SET, Ranker
from whyfeed.agent.recommend.snapshot import Snapshots
from whyfeed.finetune.ranking.fit import fit
from whyfeed.retrieval.arrays import Condenser, Vectors
from whyfeed.retrieval.community.embedder import HashEmbedder
from whyfeed.retrieval.community.next_item import NextItem
from whyfeed.retrieval.community.post_vectors import readings
from whyfeed.retrieval.errors import ModelError
from whyfeed.retrieval.store.exchange import import_folder
from whyfeed.retrieval.store.store import Store

WIDTH, KINDS = 12, 6
COLOURS = ("red", "green", "blue", "grey", "pink", "gold")


class Reading:
    """Reads the colour of a post, which stands in its text and which no word of it is like; remembers what it read."""

    name, dimension = "colours", WIDTH

    def __init__(self, broken: bool = False) -> None:
        self.read: list[str] = []
        self._broken = broken

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See `PostEncoder.encode`."""
        if self._broken:
            raise ModelError("the model fell asleep; wake it")
        self.read += texts
        found = np.zeros((len(texts), WIDTH), dtype=np.float32)
        for row, text in enumerate(texts):
            colour = next((place for place, word in enumerate(COLOURS) if word in text), 0)
            found[row, colour], found[row, KINDS:] = 5, np.random.default_rng(len(text)).normal(0, 0.1, WIDTH - KINDS)
        return found


def a_home(folder: Path, posts: list[dict[str, Any]], acts: list[dict[str, Any]]) -> Store:
    write_rows(folder / "in" / "posts.jsonl", posts)
    write_rows(folder / "in" / "interactions.jsonl", acts)
    store = Store(folder / "home")
    import_folder(store, folder / "in")
    return store


def coloured(number: int, rng: random.Random) -> dict[str, Any]:
    words = [f"word{rng.randrange(5000)}" for _ in range(4)]
    title = " ".join([*words, f"xx{COLOURS[number % KINDS]}{number}"])  # one word, which is like no other
    return {"id": f"p{number}", "title": title, "created_at": START + number, "community": "one"}


def reads_colours(store: Store, posts: int) -> NextItem:
    """A transformer of chance weights that was trained with the readings."""
    plain = by_hand(16 + WIDTH, tuple(f"p{number}" for number in range(posts)))
    states = Reading().encode([COLOURS[number % KINDS] for number in range(posts)])
    condenser = Condenser.of(states)
    arrays = {**plain.arrays, "centre": condenser.centre, "directions": condenser.directions}
    model = NextItem(arrays, plain.heads, plain.longest, plain.posts, "colours")
    Ranker({**HAND_SET, "next": 1.0}, 0.0, True, "fitted by hand", model).save(store.home, {})
    return model


@pytest.fixture
def store(tmp_path: Path) -> Any:
    rng = random.Random(0)
    acts = [
        {"user": f"u{user}", "post": f"p{post}", "kind": "like", "time": START + DAY + post}
        for user in range(3)
        for post in rng.sample(range(20), 6)
    ]
    store = a_home(tmp_path, [coloured(number, rng) for number in range(20)], acts)
    yield store
    store.close()


def test_each_post_is_read_once_when_it_arrives(store: Store, tmp_path: Path) -> None:
    reads_colours(store, 20)
    encoder = Reading()
    views = Snapshots(store, HashEmbedder(16), "IDMap2,Flat", lambda: encoder)
    assert views.current().ranker.origin == "fitted by hand"
    assert len(encoder.read) == 20
    write_rows(tmp_path / "more" / "posts.jsonl", [coloured(20, random.Random(1))])
    import_folder(store, tmp_path / "more")
    community = views.current().community
    assert len(encoder.read) == 21
    Snapshots(store, HashEmbedder(16), "IDMap2,Flat", lambda: encoder).current()
    assert len(encoder.read) == 21
    assert community.next_posts is not None
    assert community.next_posts.score(np.array([0, 1])).shape == (21,)


@pytest.mark.parametrize("why", ["off", "the model fell asleep", "another language model is live, others"])
def test_what_cannot_be_read_stands_by_its_sentences_and_the_trace_says_so(store: Store, why: str) -> None:
    model = reads_colours(store, 20)
    encoder = None if why == "off" else Reading(broken=True)
    if encoder is not None and "another" in why:
        encoder.name = "others"
    view = Snapshots(store, HashEmbedder(16), "IDMap2,Flat", lambda: encoder).current()
    assert view.ranker.origin.startswith("fitted by hand; 20 posts not read by colours (")
    assert why in view.ranker.origin
    posts = view.community.next_posts
    assert posts is not None
    centre = np.tile(model.arrays["centre"], (20, 1))
    view.community.set_next_item(model, centre)
    assert posts.score(np.array([3, 4])).tobytes() == view.community.next_posts.score(np.array([3, 4])).tobytes()


def test_readings_of_posts_that_changed_are_not_used(store: Store, tmp_path: Path) -> None:
    nums = np.array([num for num, _, _ in store.texts("reading")])
    assert np.isnan(readings(store, "colours", nums, WIDTH, None)).all()
    assert not np.isnan(readings(store, "colours", nums, WIDTH, Reading())).any()
    write_rows(tmp_path / "more" / "posts.jsonl", [{**coloured(3, random.Random(1)), "title": "gold of another kind"}])
    import_folder(store, tmp_path / "more")
    unread = np.isnan(readings(store, "colours", nums, WIDTH, None)).all(axis=1)
    assert unread.tolist() == [number == 3 for number in range(20)]


def test_with_readings_a_transformer_comes_back_from_a_file(store: Store) -> None:
    model = reads_colours(store, 20)
    back = NextItem.from_bytes(model.to_bytes())
    assert back.encoder == "colours"
    assert all(np.array_equal(back.arrays[name], model.arrays[name]) for name in model.arrays)


@pytest.mark.slow
def test_where_only_the_reading_tells_what_comes_next_it_is_chosen_and_goes_live(tmp_path: Path) -> None:
    rng = random.Random(3)
    posts = [coloured(number, rng) for number in range(600)]
    acts = []
    for user in range(250):
        colour = rng.randrange(KINDS)
        for step in range(16):  # who liked red likes green next, and each post has few likes
            post = rng.randrange(100) * KINDS + (colour + step) % KINDS
            acts.append(
                {"user": f"u{user}", "post": f"p{post}", "kind": "like", "time": START + DAY * (1 + step) + user}
            )
    store = a_home(tmp_path, posts, acts)
    encoder = Reading()
    outcome = fit(store, HashEmbedder(16), store.home, encoder=encoder, enough=500)
    assert outcome.live, outcome.why
    assert outcome.card["reads"] == "colours"
    assert len(encoder.read) == 600
    view = Snapshots(store, HashEmbedder(16), "IDMap2,Flat", lambda: encoder).current()
    assert view.ranker.next_item is not None
    assert view.ranker.next_item.encoder == "colours"
    assert view.ranker.weights["next"] > 0
    store.close()
