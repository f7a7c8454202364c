"""Which reply comes next: the ranker and its network, when a fit goes live, and how rankers are measured."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import desk_world as world
from tests.desk_world import EMBEDDER, OPENINGS, PARKING, REPLIES, customer, until
from tests.world import Row, write_rows
from whyfeed import Agent
from whyfeed.agent.desk.network import ReplyNetwork, bucket
from whyfeed.agent.desk.ranker import (
    HAND_SET,
    MODEL,
    NET_FILE,
    RANKER_FILE,
    SIGNALS,
    ReplyCandidate,
    ReplyRanker,
    pairs,
)
from whyfeed.agent.registry import Registry
from whyfeed.finetune.desk import fit as replies
from whyfeed.finetune.desk import network
from whyfeed.finetune.desk.reply_measure import CUTS, RANKERS, Bench, Evaluation, evaluate_replies, opened, read_trials
from whyfeed.retrieval.community.embedder import HashEmbedder
from whyfeed.retrieval.desk.situation import features, situation
from whyfeed.retrieval.desk.types import DeskConversation, DeskTurn
from whyfeed.retrieval.errors import DataError
from whyfeed.retrieval.files import keep_arrays, kept_arrays

EMBED = HashEmbedder(64)
FEW = 8  # conversations a topic: too few answers to fit on
QUICK = ("popularity", "bm25", "text", "nearest", "whyfeed-no-llm")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The whole desk, with its cases in memory; tests leave it as it is."""
    with opened(world.folder_of(tmp_path_factory), EMBED) as found:
        found.book.refresh()
        yield found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A desk with too few answers to fit on, as an exchange folder."""
    return world.make_desk(per_topic=FEW).write(tmp_path_factory.mktemp("small") / "desk")


def turns_of(rows: Sequence[Row]) -> tuple[DeskTurn, ...]:
    return tuple(DeskTurn.from_row(row) for row in rows)


# ---- the ranker


@settings(max_examples=20)
@given(
    order=st.permutations(list(REPLIES.items())),
    topic=st.sampled_from(list(OPENINGS)),
    draft=st.sampled_from(("", "On")),
    saved=st.booleans(),
)
def test_the_order_in_which_candidates_are_given_changes_nothing(
    bench: Bench, order: list[tuple[str, str]], topic: str, draft: str, saved: bool
) -> None:
    turns = turns_of(until(topic, "date"))
    neighbours = bench.book.like(situation(turns, draft))
    one, other = (
        ReplyRanker().rank(bench.book, turns, [ReplyCandidate(*each, saved) for each in given], neighbours, draft)
        for given in (list(REPLIES.items()), order)
    )
    assert [each.candidate for each in one] == [each.candidate for each in other]
    assert [each.score for each in one] == pytest.approx([each.score for each in other], rel=1e-5, abs=1e-5)


@settings(max_examples=20)
@given(order=st.permutations([("b", "Two"), ("a", "Two"), ("c", "One"), ("d", "Two"), ("e", "Three")]))
def test_a_tie_is_broken_by_text_and_id(bench: Bench, order: list[tuple[str, str]]) -> None:
    ranked = ReplyRanker().rank(bench.book, turns_of([customer("?")]), [ReplyCandidate(*each) for each in order], [])
    assert [each.candidate.id for each in ranked] == ["c", "e", "a", "b", "d"]
    assert len({each.probability for each in ranked}) == 1


def test_twins_among_others_are_in_the_order_of_their_ids(bench: Bench) -> None:
    turns = turns_of(until("hotel", "date"))
    neighbours = bench.book.like(situation(turns))
    twins = [ReplyCandidate(id, "On which day do you come?", saved=False) for id in "abcdef"]
    others = [ReplyCandidate(id, text, saved=False) for id, text in REPLIES.items()]
    for seed in range(20):
        given = random.Random(seed).sample([*twins, *others], len(twins) + len(others))
        ranked = ReplyRanker().rank(bench.book, turns, given, neighbours)
        assert [each.candidate.id for each in ranked if each.candidate in twins] == list("abcdef")


def test_every_candidate_comes_back_with_its_signals_and_a_probability(bench: Bench) -> None:
    turns = turns_of(until("hotel", "inform"))
    ranked = ReplyRanker().rank(bench.book, turns, bench.saved, bench.book.like(situation(turns)))
    assert sorted(each.candidate.id for each in ranked) == sorted(REPLIES)
    assert sum(each.probability for each in ranked) == pytest.approx(1)
    assert [each.score for each in ranked] == sorted((each.score for each in ranked), reverse=True)
    assert all(set(each.signals) == set(SIGNALS) for each in ranked)
    best = ranked[0]
    assert best.candidate.id == "hotel-inform"
    assert best.score == pytest.approx(sum(HAND_SET["saved"][name] * best.signals[name] for name in SIGNALS), rel=1e-4)
    assert ReplyRanker().rank(bench.book, turns, [], []) == []


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def _change(path: Path, **more: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


@pytest.mark.parametrize(
    "damage",
    [
        lambda home: _cut(home / RANKER_FILE),
        lambda home: (home / RANKER_FILE).write_text("[]"),
        lambda home: (home / RANKER_FILE).write_bytes(b"\xff\xfe"),
        lambda home: _change(home / RANKER_FILE, weights={"saved": {}, "free": {}}),
        lambda home: _change(home / RANKER_FILE, weights=[1, 2]),
        lambda home: _change(home / RANKER_FILE, digest="of another network"),
        lambda home: _cut(home / NET_FILE),
        lambda home: _flip(home / NET_FILE),
        lambda home: (home / NET_FILE).write_bytes(b""),
        lambda home: (home / NET_FILE).unlink(),
    ],
)
def test_damaged_files_count_as_none(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, damage: Any) -> None:
    """Whether they are a version, or those of a home of before the registry."""
    fitted, _ = world.fitted_of(tmp_path_factory)
    version = Path(shutil.copytree(fitted / "models", tmp_path / "new" / "models")) / MODEL / "1"
    (tmp_path / "old").mkdir()
    for name in (RANKER_FILE, NET_FILE):
        shutil.copy(version / name, tmp_path / "old" / name)
    for home, place in ((tmp_path / "new", version), (tmp_path / "old", tmp_path / "old")):
        assert ReplyRanker.load(home).origin.startswith("fitted on")
        damage(place)
        found = ReplyRanker.load(home)
        assert (found.net, found.weights) == (None, HAND_SET)
        assert found.origin.startswith("set by hand (")
        assert "damaged" in found.origin


# ---- the network


def test_the_network_learns_the_desk_and_survives_a_file(bench: Bench, tmp_path: Path) -> None:
    steps = replies.operator_answers(list(bench.desk.all()))
    lessons = replies.ReplyExamples.of(bench.book, steps, bench.saved)
    held = {step.conversation for step in steps if step.conversation.endswith("7")}
    with world.one_core():
        net = lessons.train({step.conversation for step in steps} - held, None, 0)
    assert net is not None
    arrays = net.arrays()
    keep_arrays(tmp_path / NET_FILE, "d", arrays)
    kept = kept_arrays(tmp_path / NET_FILE, "d")
    assert kept is not None
    read = ReplyNetwork.from_arrays(kept)
    assert read.replies == net.replies == tuple(sorted(REPLIES))
    hits = []
    for step in steps:
        if step.conversation in held and step.sent.reply:
            vector = pairs(bench.book, [situation(step.turns)])[0]
            both = [each.log_probabilities(bucket(features(step.turns)), vector) for each in (net, read)]
            assert np.exp(both[1]).sum() == pytest.approx(1, abs=1e-3)
            assert both[1] == pytest.approx(both[0], abs=0.05)
            hits.append(read.replies[int(both[1].argmax())] == step.sent.reply)
    assert len(hits) > 30
    assert np.mean(hits) > 0.9


def test_the_same_lessons_give_the_same_network(bench: Bench) -> None:
    steps = replies.operator_answers(list(bench.desk.all())[:40])
    lessons = replies.ReplyExamples.of(bench.book, steps, bench.saved)
    with world.one_core():
        one, same, other = (
            network.train(lessons.examples, lessons.replies, epochs=2, seed=seed).arrays() for seed in (0, 0, 1)
        )
    assert all(one[name].tobytes() == same[name].tobytes() for name in one)
    assert one["out"].tobytes() != other["out"].tobytes()


def test_too_few_answers_teach_no_network(bench: Bench) -> None:
    lessons = replies.ReplyExamples.of(bench.book, replies.operator_answers(list(bench.desk.all())[:10]), bench.saved)
    assert lessons.train(None, None, 0) is None


# ---- fitting


def test_a_fit_that_wins_goes_live(tmp_path_factory: pytest.TempPathFactory) -> None:
    home, outcome = world.fitted_of(tmp_path_factory)
    assert outcome.live
    assert outcome.card["r@1"]["fitted"] > 0.9 > outcome.card["r@1"]["hand-set"]
    gate = outcome.card["gate"]
    low, high = gate["ci95"]
    assert 0 < low <= gate["difference"] <= high
    ranker = ReplyRanker.load(home)
    assert ranker.origin == f"fitted on {outcome.card['answers']} answers"
    assert ranker.net is not None
    assert ranker.net.replies == tuple(sorted(REPLIES))
    assert ranker.weights["saved"]["passed"] <= 0


@pytest.mark.parametrize("topic", OPENINGS)
def test_a_fitted_desk_knows_what_a_name_was_given_for(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, topic: str
) -> None:
    fitted, _ = world.fitted_of(tmp_path_factory)
    with world.desk_of(Path(shutil.copytree(fitted, tmp_path / "home"))) as desk:
        assert world.last(desk, f"w-{topic}-date").suggestions[0].id == world.right(topic, "date")


def test_a_fit_on_replies_that_were_taken_at_random_does_not(tmp_path: Path) -> None:
    desk = world.make_desk(per_topic=27)
    taken = [turn for row in desk.closed() for turn in row["turns"] if turn.get("reply")]
    drawn = [turn["reply"] for turn in taken]
    random.Random(0).shuffle(drawn)
    for turn, reply in zip(taken, drawn, strict=True):
        turn["reply"] = reply
    with opened(desk.write(tmp_path / "in"), EMBED) as bench, world.one_core():
        bench.book.refresh()
        (tmp_path / RANKER_FILE).write_text("{}")  # one that went live once
        outcome = replies.fit(bench.book, list(bench.desk.all()), bench.saved, tmp_path)
    assert not outcome.live
    assert outcome.card["r@1"]["fitted"] < 0.4
    assert "hand-set stays" in outcome.why
    assert ReplyRanker.load(tmp_path).origin == "set by hand"
    assert [(record.version, record.live) for record in Registry(tmp_path).versions(MODEL)] == [(0, False)]


def test_too_few_answers_fit_nothing(small: Path, tmp_path: Path) -> None:
    with opened(small, EMBED) as bench:
        bench.book.refresh()
        outcome = replies.fit(bench.book, list(bench.desk.all()), bench.saved, tmp_path)
    assert not outcome.live
    assert "200 needed" in outcome.why
    assert list(tmp_path.iterdir()) == []


def planted(folder: Path, *, there: bool) -> tuple[dict[str, float], list[str]]:
    """Signals of a reply that was taken once, with its conversation in the desk or not, and who its neighbours are."""
    desk = world.make_desk(per_topic=FEW)
    desk.replies.append({"id": "rare", "text": "Violins are tuned by the zebra."})
    row = {"id": "planted", "turns": [customer("Who tunes violins?"), world.agent(desk.replies[-1]["text"], "rare")]}
    desk.conversations += [row] if there else []
    with opened(desk.write(folder), EMBED) as bench:
        bench.book.refresh()
        (step,) = replies.operator_answers([DeskConversation.from_row(row)])
        (choice,) = replies.build_choices(bench.book, None, [step], bench.saved, {}, 0)
        neighbours = bench.book.like(situation(step.turns), "planted")
    values = dict(zip(SIGNALS, choice.values[choice.chosen][0].tolist(), strict=True))
    return values, [each.case.conversation for each in neighbours]


def test_a_conversation_is_no_neighbour_of_itself(tmp_path: Path) -> None:
    values, neighbours = planted(tmp_path / "there", there=True)
    assert neighbours
    assert "planted" not in neighbours
    assert values["taken"] == values["passed"] == 0
    without, _ = planted(tmp_path / "gone", there=False)
    for name in SIGNALS:
        if name != "habit":  # the words that the case adds make other words a little more or less telling
            assert values[name] == pytest.approx(without[name], abs=0.05), name


def test_nothing_is_gained_by_being_rare_or_passed_over(tmp_path_factory: pytest.TempPathFactory) -> None:
    _, outcome = world.fitted_of(tmp_path_factory)
    # Where all replies are equally frequent, the one that is held out is the rarest of the rest.
    for weights in outcome.card["weights"].values():
        assert weights["habit"] >= 0
        assert weights["passed"] <= 0


def test_a_fit_is_due_when_a_fifth_more_has_come(small: Path, tmp_path: Path) -> None:
    # Without saved replies there is no network to train, so that this is quick.
    desk = world.make_desk(per_topic=13)
    desk.replies = []
    with Agent.open(tmp_path / "home", embedder=EMBEDDER, no_llm=True) as agent, world.one_core():
        agent.import_folder(small)
        assert replies.fit_when_due(agent) is None  # fewer than 200 answers
        agent.import_folder(desk.write(tmp_path / "in"))
        assert replies.fit_when_due(agent) is not None
        assert replies.fit_when_due(agent) is None
        for number in range(60):
            id = agent.desk.store.start("en", id=f"more-{number}")
            agent.desk.receive(id, "Where is it?")
            agent.desk.send(id, f"It is in room {number}")
        assert replies.fit_when_due(agent) is not None


# ---- measuring


def rows_of(found: Evaluation) -> list[Row]:
    return [{key: value for key, value in row.items() if key != "ms_per_user"} for row in found.rows]


def trial(topic: str, state: str, **more: Any) -> Row:
    return {"conversation": {"turns": until(topic, state)}, "relevant": [world.right(topic, state)], **more}


TRIALS = [trial(topic, state) for topic in OPENINGS for state in ("name", "date", "inform", "bye")]


def measured(folder: Path, place: Path, rows: Sequence[Any], rankers: Sequence[str] = QUICK) -> Evaluation:
    test = write_rows(place / "test.jsonl", rows)
    return evaluate_replies(folder, EMBED, test, rankers)


def test_the_rows_are_those_of_the_contract(small: Path) -> None:
    found = evaluate_replies(small, EMBED)
    document = json.loads(json.dumps(found.to_json()))
    assert set(document) == {"data", "protocol", "rows", "fitted"}
    assert document["data"] == "desk"
    assert "held out" in document["protocol"]
    assert document["fitted"]["live"] is False
    assert [row["ranker"] for row in document["rows"]] == list(RANKERS)
    metrics = [*(f"hr@{cut}" for cut in CUTS), "mrr@10"]
    for row in document["rows"]:
        assert set(row) == {"ranker", "metrics", "ci95", "ms_per_user"}
        assert list(row["metrics"]) == list(row["ci95"]) == metrics
        for name in metrics:
            low, high = row["ci95"][name]
            assert 0 <= low <= row["metrics"][name] <= high <= 1
        assert row["metrics"]["hr@1"] <= row["metrics"]["mrr@10"] <= row["metrics"]["hr@10"]
    best = {row["ranker"]: row["metrics"]["hr@1"] for row in document["rows"]}
    assert best["whyfeed"] == best["whyfeed-no-llm"] > max(best["random"], best["popularity"])
    again = evaluate_replies(small, EMBED)
    assert rows_of(again) == rows_of(found)


def test_the_ranker_beats_the_baselines_on_rows_of_a_file(small: Path, tmp_path: Path) -> None:
    found = measured(small, tmp_path, TRIALS, ("popularity", "whyfeed"))
    assert found.protocol == f"{len(TRIALS)} rows of test.jsonl"
    popular, ours = (row["metrics"]["hr@1"] for row in found.rows)
    assert ours >= 0.75 > popular


@pytest.mark.parametrize(
    "rankers",
    [
        QUICK,
        ("random",),
    ],
)
def test_the_order_of_candidates_changes_nothing(small: Path, tmp_path: Path, rankers: Sequence[str]) -> None:
    ids = list(REPLIES)
    one = measured(small, tmp_path, [{**row, "candidates": ids} for row in TRIALS], rankers)
    rng = random.Random(0)
    shuffled = [{**row, "candidates": rng.sample(ids, len(ids))} for row in TRIALS]
    assert rows_of(measured(small, tmp_path, shuffled, rankers)) == rows_of(one)


def test_without_candidates_every_saved_reply_is_one(small: Path, tmp_path: Path) -> None:
    rankers = ("bm25", "whyfeed-no-llm")
    bare = rows_of(measured(small, tmp_path, TRIALS, rankers))
    for candidates in (
        list(REPLIES), [{"id": id} for id in REPLIES], [*REPLIES, *REPLIES],
        [{"id": id, "text": "what stands beside the id of a saved reply"} for id in REPLIES],
    ):  # fmt: skip
        assert (
            rows_of(measured(small, tmp_path, [{**row, "candidates": candidates} for row in TRIALS], rankers)) == bare
        )
    alone = [{**row, "candidates": row["relevant"]} for row in TRIALS]
    assert measured(small, tmp_path, alone, ("popularity",)).rows[0]["metrics"]["hr@1"] == 1.0


def test_free_candidates_are_ranked_by_their_text(small: Path, tmp_path: Path) -> None:
    ours: Row = {"id": 7, "text": "There is a car park behind the building"}
    row = {
        "conversation": [customer("Where can I park my car near you?")],
        "relevant": [7],
        "candidates": [{"id": 8, "text": "Bananas are yellow."}, ours, {"id": 9, "text": "Our cat sleeps."}],
    }
    found = measured(small, tmp_path, [row], ("nearest", "whyfeed-no-llm"))
    assert [each["metrics"]["hr@1"] for each in found.rows] == [1.0, 1.0]
    assert PARKING.startswith(ours["text"])


def test_bad_rows_are_counted_and_left_out(small: Path, tmp_path: Path) -> None:
    bad: list[Any] = [
        {"conversation": {"turns": until("hotel", "name")}},
        {"conversation": {"turns": until("hotel", "name")}, "relevant": []},
        {"conversation": {"turns": "none"}, "relevant": ["ask-name"]},
        {"conversation": 5, "relevant": ["ask-name"]},
        {"relevant": ["ask-name"]},
        {**TRIALS[0], "candidates": [{"text": "no id"}]},
        {"conversation": [{"role": "robot", "text": "x"}], "relevant": ["ask-name"]},
    ]
    test = write_rows(tmp_path / "test.jsonl", [*TRIALS, *bad])
    test.write_bytes(test.read_bytes() + b"{not json\n")
    found = evaluate_replies(small, EMBED, test, ("popularity",))
    assert found.skipped == len(bad) + 1
    assert found.protocol == f"{len(TRIALS)} rows of test.jsonl"
    assert rows_of(found) == rows_of(measured(small, tmp_path, TRIALS, ("popularity",)))


def test_a_row_may_be_written_in_several_ways(tmp_path: Path) -> None:
    turns = until("hotel", "date")
    typing = {"role": "agent", "draft": "On which day"}
    rows: list[Row] = [
        {"conversation": {"turns": turns}, "relevant": ["r"], "draft": "On which day"},
        {"conversation": turns, "relevant": ["r"], "draft": "On which day"},
        {"conversation": {"turns": turns, "draft": "On which day"}, "relevant": ["r"]},
        {"conversation": [*turns, typing], "relevant": ["r"]},
        {"conversation": {"id": "c", "turns": [*turns, typing]}, "relevant": ["r"]},
    ]
    trials, skipped = read_trials(write_rows(tmp_path / "test.jsonl.gz", rows))
    assert skipped == 0
    assert len({(trial.turns, trial.draft, trial.relevant, trial.candidates) for trial in map(_hashable, trials)}) == 1
    assert trials[0].draft == "On which day"
    assert trials[-1].conversation == "c"
    assert world.NAMES["en"][0] not in repr(trials)


def _hashable(trial: Any) -> Any:
    return type(trial)(trial.conversation, tuple(map(repr, trial.turns)), trial.draft, trial.relevant, trial.candidates)


def test_what_cannot_be_measured_is_said(small: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'.*none\.jsonl' is no file"):
        evaluate_replies(small, EMBED, tmp_path / "none.jsonl")
    other = write_rows(tmp_path / "other.jsonl", [{"user": "u", "relevant": ["p"]}])
    with pytest.raises(DataError, match=r"other\.jsonl, line 1: .*conversation and relevant"):
        evaluate_replies(small, EMBED, other)
    with pytest.raises(DataError, match="has no conversation with a reply to rank"):
        evaluate_replies(small, EMBED, write_rows(tmp_path / "empty.jsonl", []))
    bare = world.DeskWorld(conversations=world.make_desk(per_topic=2).conversations)
    with pytest.raises(DataError, match="has no conversation with a reply to rank"):
        evaluate_replies(bare.write(tmp_path / "bare"), EMBED)
    with pytest.raises(DataError, match="nowhere"):
        evaluate_replies(tmp_path / "nowhere", EMBED)
    with pytest.raises(ValueError, match="'best' is none of random"):
        evaluate_replies(small, EMBED, None, ["best"])
