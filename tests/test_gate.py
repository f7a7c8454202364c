"""The gate on values whose right answer is known: what is surely better goes live, chance and harm do not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from whyfeed.finetune.evaluation.metrics import Values
from whyfeed.finetune.gate import MIN_USERS, MIN_USERS_IN_BUCKET, Decision, decide
from whyfeed.retrieval.arrays import Rows

USERS = 300
LENGTHS = np.repeat([0, 2, 20], USERS // 3)  # three buckets


def gains(rng: np.random.Generator, count: int) -> Values:
    """As nDCG@10 of one post each: mostly nothing, else by its place."""
    return np.where(rng.random(count) < 0.4, 1 / np.log2(rng.integers(2, 12, count)), 0.0)


def gate(old: Values, new: Values, lengths: Rows | None = LENGTHS, users: Rows | None = None) -> Decision:
    users = np.arange(len(old)) if users is None else users
    return decide(old, new, users, lengths, metric="nDCG@10", names=("hand-set", "fitted"))


def verdicts(decision: Decision) -> list[tuple[str, str, bool]]:
    return [(bucket.history, bucket.verdict, bucket.live) for bucket in decision.buckets]


def test_the_same_is_not_live() -> None:
    values = gains(np.random.default_rng(0), USERS)
    decision = gate(values, values.copy())
    assert (decision.live, decision.verdict, decision.ci95) == (False, "same", (0.0, 0.0))
    assert verdicts(decision) == [(name, "same", False) for name in ("0", "1-2", "11-50")]
    assert "the same" in decision.why
    assert "hand-set stays" in decision.why


def test_what_is_better_everywhere_goes_live() -> None:
    rng = np.random.default_rng(0)
    old = gains(rng, USERS)
    decision = gate(old, old + rng.normal(0.1, 0.2, USERS))
    assert decision.live
    assert 0 < decision.ci95[0] < decision.difference < decision.ci95[1]
    assert verdicts(decision) == [(name, "better", True) for name in ("0", "1-2", "11-50")]
    assert "goes live" in decision.why


def test_what_is_better_on_the_whole_but_worse_for_one_length_of_history_does_not() -> None:
    rng = np.random.default_rng(0)
    old = gains(rng, USERS)
    new = old + rng.normal(0.2, 0.2, USERS) - 0.3 * (LENGTHS == 2)
    decision = gate(old, new)
    assert (decision.live, decision.verdict) == (False, "better")
    assert verdicts(decision) == [("0", "better", True), ("1-2", "worse", False), ("11-50", "better", True)]
    assert "histories of 1-2" in decision.why
    assert gate(old, new, None).live  # nobody told the lengths


def test_what_helps_one_length_of_history_may_be_used_there_alone() -> None:
    rng = np.random.default_rng(0)
    old = gains(rng, USERS)
    decision = gate(old, old + np.where(LENGTHS == 20, 0.2, -0.1) + rng.normal(0, 0.2, USERS))
    assert not decision.live
    assert verdicts(decision) == [("0", "worse", False), ("1-2", "worse", False), ("11-50", "better", True)]


def test_a_bucket_of_few_users_has_no_say() -> None:
    rng = np.random.default_rng(0)
    lengths = np.where(np.arange(USERS) < MIN_USERS_IN_BUCKET - 1, 0, 20)
    decision = gate(np.zeros(USERS), np.where(lengths == 0, -1.0, 1.0) + rng.normal(0, 0.1, USERS), lengths)
    assert decision.live
    assert verdicts(decision) == [("0", "few", False), ("11-50", "better", True)]


def test_many_cases_of_one_user_are_one_opinion() -> None:
    """One user who gains much, a hundred times, among nine who lose a little."""
    users = np.repeat(np.arange(MIN_USERS), [100] + [1] * (MIN_USERS - 1))
    new = np.where(users == 0, 0.5, -0.1)
    assert new.mean() > 0.4
    assert not gate(np.zeros(len(users)), new, None, users).live
    assert gate(np.zeros(len(users)), new, None, np.arange(len(users))).live


@pytest.mark.parametrize("count", [0, 1, MIN_USERS - 1])
def test_few_users_decide_nothing(count: int) -> None:
    decision = gate(np.zeros(count), np.ones(count), None)
    assert (decision.live, decision.verdict) == (False, "few")
    assert f"{MIN_USERS} needed" in decision.why


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_never_goes_live(bad: float) -> None:
    new = np.ones(USERS)
    new[7] = bad
    decision = gate(np.zeros(USERS), new)
    assert not decision.live
    assert "1 of 300 values are no numbers" in decision.why
    json.dumps(decision.to_json(), allow_nan=False)


def test_what_is_not_aligned_is_refused() -> None:
    with pytest.raises(ValueError, match="not aligned"):
        gate(np.zeros(5), np.zeros(6), None)
    with pytest.raises(ValueError, match="not aligned"):
        gate(np.zeros(5), np.zeros(5), np.zeros(6, dtype=np.int64))


@pytest.mark.parametrize("count", [12, 60])
def test_chance_goes_live_as_often_as_the_interval_says(count: int) -> None:
    """2.5 %, up to what a bootstrap of twelve costs; and worse as often as better."""
    rng = np.random.default_rng(11)
    found = [gate(gains(rng, count), gains(rng, count), None).verdict for _ in range(200)]
    assert found.count("better") <= 11  # of 200 at 2.5 %, 12 or more come up once in 120
    assert found.count("worse") <= 11
    assert found.count("better") + found.count("worse") > 0


@settings(max_examples=25, deadline=None)
@given(
    differences=arrays(np.float64, st.integers(0, 60), elements=st.floats(-1, 1, width=16)),
    seed=st.integers(0, 5),
)
def test_it_always_decides_and_the_order_of_models_turns_it_round(differences: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = len(differences)
    users, lengths = rng.integers(0, 40, count), rng.integers(0, 60, count)
    forth, back = gate(np.zeros(count), differences, lengths, users), gate(differences, np.zeros(count), lengths, users)
    turned = {"better": "worse", "worse": "better"}
    assert back.verdict == turned.get(forth.verdict, forth.verdict)
    assert back.ci95 == pytest.approx([-bound for bound in forth.ci95][::-1])
    assert [each.verdict for each in back.buckets] == [turned.get(each.verdict, each.verdict) for each in forth.buckets]
    assert sum(each.cases for each in forth.buckets) == (count if forth.verdict != "few" else 0)
    assert not (forth.live and back.live)
    json.dumps(forth.to_json(), allow_nan=False)
