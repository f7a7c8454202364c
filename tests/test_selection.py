"""From scored candidates to the list: what must not be shown, what would repeat, and that every removal is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.world import NOW
from whyfeed.agent.recommend.filters import FILTERS, Filter, FilterContext, Limits, keep_allowed
from whyfeed.agent.recommend.pipeline import Task, run
from whyfeed.agent.recommend.selection import DUPLICATE_COSINE, PER_AUTHOR, choose
from whyfeed.agent.recommend.snapshot import Snapshot
from whyfeed.agent.request import Request
from whyfeed.agent.trace import StageRecord, Trace
from whyfeed.retrieval.arrays import Vectors, unit
from whyfeed.retrieval.community.candidate import Candidate
from whyfeed.retrieval.community.community import Community
from whyfeed.retrieval.community.reader import Reader, read
from whyfeed.retrieval.event import Event
from whyfeed.retrieval.post import Post
from whyfeed.retrieval.store.store import Store

DIMENSION = 40


class Placed:
    """An embedder that puts each title where it was told to, and all else nowhere."""

    dimension = DIMENSION

    def __init__(self, places: dict[str, Vectors]) -> None:
        self._places = places
        self.name = f"placed-{hash(tuple((id, vector.tobytes()) for id, vector in places.items()))}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        nowhere = np.zeros(DIMENSION, dtype=np.float32)
        return np.array([self._places.get(text, nowhere) for text in texts], dtype=np.float32).reshape(-1, DIMENSION)


@dataclass
class Shelf:
    """Posts at known places, and a reader."""

    community: Community
    reader: Reader

    def candidates(self, scores: dict[str, float], **signals: dict[str, float]) -> list[Candidate]:
        return [
            Candidate(id, self.community.row_of[id], score=score, signals=signals.get(id, {}))
            for id, score in scores.items()
        ]

    def choose(self, candidates: Sequence[Candidate], k: int, pool: int = 200) -> tuple[list[str], dict[str, str]]:
        """The chosen ids in order, and the reason code of every other."""
        trace, record = Trace(), StageRecord("select")
        chosen = choose(candidates, k, self.reader, self.community, trace, record, pool)
        reasons = {post: reason for post, (stage, reason) in trace.removed.items() if stage == "select"}
        assert Counter(reasons.values()) == Counter(record.removed)
        return [candidate.post for candidate in chosen], reasons


Make = Callable[..., Shelf]


def axis(place: int, towards: int = 0, cosine: float = 0.0) -> Vectors:
    """The unit vector of one axis, turned towards another until they have that cosine."""
    vector = np.zeros(DIMENSION, dtype=np.float32)
    vector[place] = (1 - cosine**2) ** 0.5
    vector[towards] += cosine
    return unit(vector)


@pytest.fixture
def shelf(empty_store: Store) -> Make:
    def make(
        places: dict[str, Vectors], authors: dict[str, str] | None = None, likes: Sequence[str] = (),
        hides: Sequence[str] = (), kinds: dict[str, str] | None = None,
    ) -> Shelf:  # fmt: skip
        empty_store.remove_posts([row[1] for row in empty_store.post_rows()])
        empty_store.put_posts(
            Post(id, title=id, author=(authors or {}).get(id, ""), kind=(kinds or {}).get(id, "post")) for id in places
        )
        events = [
            Event(f"e-{id}", "me", id, kind, NOW) for kind, ids in (("like", likes), ("hide", hides)) for id in ids
        ]
        embedder = Placed(places)
        community = Community.load(empty_store, embedder)
        return Shelf(community, read("me", events, community, embedder))

    return make


def far_apart(count: int) -> dict[str, Vectors]:
    return {f"p{place:02}": axis(place) for place in range(count)}


# ---- choosing


def test_the_best_come_first_and_the_rest_is_outranked(shelf: Make) -> None:
    scores = {f"p{place:02}": float(place % 7) + place / 100 for place in range(20)}
    here = shelf(far_apart(20))
    chosen, reasons = here.choose(here.candidates(scores), 5)
    assert chosen == sorted(scores, key=lambda id: -scores[id])[:5]
    assert reasons == {id: "outranked" for id in scores if id not in chosen}


def test_nobody_has_more_than_two_posts_while_others_are_left(shelf: Make) -> None:
    authors = {f"p{place:02}": "ann" if place < 6 else f"a{place}" for place in range(10)}
    scores = {id: 10.0 - place for place, id in enumerate(authors)}
    here = shelf(far_apart(10), authors)
    chosen, reasons = here.choose(here.candidates(scores), 5)
    assert chosen == ["p00", "p01", "p06", "p07", "p08"]
    assert {id for id, reason in reasons.items() if reason == "author"} == {"p02", "p03", "p04", "p05"}
    assert reasons["p09"] == "outranked"


def test_the_limit_on_authors_gives_way_when_nothing_else_is_left(shelf: Make) -> None:
    authors = {f"p{place:02}": "ann" if place < 6 else "bob" for place in range(7)}
    here = shelf(far_apart(7), authors)
    chosen, _ = here.choose(here.candidates({id: 10.0 - place for place, id in enumerate(authors)}), 5)
    assert chosen == ["p00", "p01", "p06", "p02", "p03"]


def test_posts_without_an_author_are_not_of_one_author(shelf: Make) -> None:
    here = shelf(far_apart(6))
    chosen, _ = here.choose(here.candidates(dict.fromkeys(far_apart(6), 1.0)), 5)
    assert len(chosen) == 5


def test_a_near_duplicate_is_never_shown_even_when_a_place_stays_empty(shelf: Make) -> None:
    places = {"a": axis(1), "b": axis(2, 1, DUPLICATE_COSINE + 0.01), "c": axis(3, 1, DUPLICATE_COSINE - 0.02)}
    here = shelf(places)
    chosen, reasons = here.choose(here.candidates({"a": 3.0, "b": 2.9, "c": 1.0}), 5)
    assert chosen == ["a", "c"]
    assert reasons == {"b": "duplicate"}


def test_what_resembles_a_better_post_makes_room_for_something_else(shelf: Make) -> None:
    places = {"a": axis(1), "like-a": axis(2, 1, 0.85), "other": axis(3)}
    here = shelf(places)
    assert here.choose(here.candidates({"a": 3.0, "like-a": 2.9, "other": 2.5}), 2)[0] == ["a", "other"]
    assert here.choose(here.candidates({"a": 3.0, "like-a": 2.9, "other": 1.0}), 2)[0] == ["a", "like-a"]


def test_two_interests_share_a_list(shelf: Make) -> None:
    places: dict[str, Vectors] = {}
    for place, name in ((0, "sea"), (20, "clock")):
        for number in range(1, 9):
            places[f"{name}-{number}"] = axis(place + number, place, 0.7)
    likes = ["sea-7", "sea-8", "clock-7", "clock-8"]
    here = shelf(places, likes=likes)
    assert len(here.reader.groups) == 2
    scores = {id: 3.0 if id.startswith("sea") else 2.0 for id in places if id not in likes}
    chosen, _ = here.choose(here.candidates(scores), 6)
    assert Counter(id.split("-")[0] for id in chosen) == {"sea": 3, "clock": 3}


def test_what_the_reader_asked_for_more_of_gets_its_places(shelf: Make) -> None:
    here = shelf(far_apart(12))
    scores = {f"p{place:02}": 12.0 - place for place in range(12)}
    wanted = {id: {"include": 1.0} for id in ("p09", "p10", "p11")}
    chosen, _ = here.choose(here.candidates(scores, **wanted), 5)
    assert len(set(chosen) & set(wanted)) == 2
    assert "p00" in chosen


def test_beyond_the_pool_nobody_is_compared_but_everybody_is_told(shelf: Make) -> None:
    here = shelf(far_apart(20))
    chosen, reasons = here.choose(here.candidates({id: float(id[1:]) for id in far_apart(20)}), 3, pool=5)
    assert chosen == ["p19", "p18", "p17"]
    assert len(reasons) == 17


def test_nothing_in_nothing_out(shelf: Make) -> None:
    here = shelf(far_apart(2))
    assert here.choose([], 5) == ([], {})


@given(st.data())
@settings(max_examples=50)
def test_whatever_comes_the_list_keeps_its_promises(shelf: Make, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 14))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    # Few dimensions, so that some are near duplicates of others.
    vectors = np.zeros((count, DIMENSION), dtype=np.float32)
    vectors[:, :3] = rng.standard_normal((count, 3))
    places = {f"p{place:02}": unit(vector) for place, vector in enumerate(vectors)}
    authors = {id: data.draw(st.sampled_from(["", "ann", "bob"])) for id in places}
    here = shelf(places, authors, likes=[id for id in places if data.draw(st.booleans())])
    # Few different scores, so that there are ties.
    scores = {id: float(data.draw(st.integers(0, 3))) for id in places}
    k = data.draw(st.integers(1, 6))
    candidates = here.candidates(scores)
    chosen, reasons = here.choose(candidates, k)

    shuffled = data.draw(st.permutations(candidates))
    assert here.choose(shuffled, k) == (chosen, reasons)
    assert set(chosen) | set(reasons) == set(places)
    assert len(chosen) == len(set(chosen)) <= k
    assert set(chosen).isdisjoint(reasons)
    for place, id in enumerate(chosen):
        assert all(float(places[id] @ places[other]) < DUPLICATE_COSINE + 1e-3 for other in chosen[:place])
    if len(chosen) < k:
        assert set(reasons.values()) <= {"duplicate"}
    by_author = Counter(authors[id] for id in chosen if authors[id])
    if max(by_author.values(), default=0) > PER_AUTHOR:
        assert "outranked" not in reasons.values()


# ---- filtering


def filtered(here: Shelf, limits: Limits | None = None, filters: Sequence[Filter] = FILTERS) -> dict[str, str]:
    trace, record = Trace(), StageRecord("filter")
    candidates = here.candidates(dict.fromkeys(here.community.ids, 0.0))
    rows = np.array([candidate.row for candidate in candidates], dtype=np.int64)
    given = FilterContext(rows, here.reader, here.community, limits or Limits())
    kept = keep_allowed(candidates, given, trace, record, filters)
    codes = {post: reason for post, (_, reason) in trace.removed.items()}
    assert Counter(codes.values()) == Counter(record.removed)
    assert {candidate.post for candidate in kept} == set(here.community.ids) - set(codes)
    assert [candidate.post for candidate in kept] == [id for id in here.community.ids if id not in codes]
    return codes


def test_each_filter_says_its_own_code(shelf: Make) -> None:
    places = {**far_apart(9), "twin": axis(20, 3, 0.9)}
    here = shelf(places, {"p01": "me"}, likes=["p02"], hides=["p03"], kinds={"p04": "video"})
    row = here.community.row_of
    limits = Limits(
        kinds=("post",), excluded={row["p05"]: "e9"}, shown=frozenset({row["p06"]}), unrelated=frozenset({row["p07"]})
    )
    assert filtered(here, limits) == {
        "p01": "own", "p02": "seen", "p03": "hidden", "p04": "kind", "twin": "twin",
        "p05": "rule:e9", "p06": "shown", "p07": "unrelated",
    }  # fmt: skip
    assert set(filtered(here)) == {"p01", "p02", "p03", "twin"}


def test_the_first_filter_that_fits_is_the_one_that_is_said(shelf: Make) -> None:
    here = shelf(far_apart(3), {"p00": "me"}, likes=["p00"], hides=["p01"])
    limits = Limits(excluded=dict.fromkeys(range(3), "e1"), shown=frozenset(range(3)), unrelated=frozenset(range(3)))
    assert filtered(here, limits) == {"p00": "own", "p01": "hidden", "p02": "rule:e1"}


def test_one_entry_and_one_function_are_a_filter(shelf: Make) -> None:
    def late(given: FilterContext) -> list[int]:
        return [row for row in given.rows.tolist() if given.community.ids[row] > "p02"]

    here = shelf(far_apart(6), {"p04": "me"}, hides=["p05"])
    toy = Filter("late", "what comes late", late, detail=lambda given, row: given.community.ids[row])
    assert filtered(here, filters=(*FILTERS, toy)) == {"p03": "late:p03", "p04": "own", "p05": "hidden"}
    assert filtered(here, filters=(toy, *FILTERS)) == {id: f"late:{id}" for id in ("p03", "p04", "p05")}


@pytest.mark.parametrize("user", ["u1", "u7", "u20", "newcomer"])
@pytest.mark.parametrize("request_", [Request(), Request("search", query="rudder mast"), Request(kinds=("product",))])
def test_every_candidate_is_shown_or_its_removal_is_in_the_trace(view: Snapshot, user: str, request_: Request) -> None:
    ranking = run(view, view.reader(user), Task(request_, 5))
    stages = {stage.name: stage for stage in ranking.trace.stages}
    chosen = {candidate.post for candidate in ranking.chosen}
    assert set(stages) == {"retrieve", "filter", "rank", "select"}
    assert all(stage.status == "ok" for stage in stages.values())
    assert len(chosen) + len(ranking.trace.removed) == stages["retrieve"].left
    assert chosen.isdisjoint(ranking.trace.removed)
    for name in ("filter", "select"):
        assert stages[name].entered - stages[name].left == sum(stages[name].removed.values())
    kinds = {view.community.kinds[candidate.row] for candidate in ranking.chosen}
    assert kinds <= set(request_.kinds or kinds)
    for candidate in ranking.chosen:
        parts = view.ranker.contributions(candidate.signals)
        assert sum(parts.values()) + view.ranker.bias == pytest.approx(candidate.score, abs=1e-4)
        assert candidate.sources
