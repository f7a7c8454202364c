"""Metrics against numbers by hand and against the libraries, and intervals that resample users."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import log_loss, roc_auc_score

from whyfeed.finetune.evaluation.metrics import (
    CUTS,
    HISTORY,
    RANKING,
    TARGET,
    Catalogue,
    Resampling,
    beyond,
    bounds,
    buckets,
    calibrated,
    coverage,
    equal_mass,
    log_losses,
    ranking_values,
    top,
    user_aucs,
    weighted_auc,
    weighted_ece,
)

ONE = np.ones((1, 6))


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def keys(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**63, count).astype(np.uint64)


# ---- rankings


def test_numbers_that_were_counted_by_hand() -> None:
    ranked = [ints(4, 5, 6, 7), ints(4, 5, 6, 7), ints(9), ints()]
    relevant = [ints(6), ints(4, 7, 99), ints(5), ints(5)]
    found = ranking_values(ranked, relevant)
    assert set(found) == set(RANKING)
    assert found["hr@1"].tolist() == [0, 1, 0, 0]
    assert found["hr@5"].tolist() == [1, 1, 0, 0]
    assert found["recall@5"].tolist() == pytest.approx([1, 2 / 3, 0, 0])
    assert found["mrr@10"].tolist() == pytest.approx([1 / 3, 1, 0, 0])
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert found["ndcg@10"].tolist() == pytest.approx([0.5, (1 + 1 / np.log2(5)) / ideal, 0, 0])
    assert found["ndcg@1"].tolist() == [0, 1, 0, 0]


def by_formula(ranked: np.ndarray, relevant: set[int]) -> dict[str, float]:
    hits = [int(item in relevant) for item in ranked.tolist()]
    values = {}
    for cut in CUTS:
        found = hits[:cut]
        values[f"hr@{cut}"] = float(any(found))
        values[f"recall@{cut}"] = sum(found) / len(relevant)
        gain = sum(hit / np.log2(place + 2) for place, hit in enumerate(found))
        values[f"ndcg@{cut}"] = gain / sum(1 / np.log2(place + 2) for place in range(min(cut, len(relevant))))
        values[f"mrr@{cut}"] = next((1 / (place + 1) for place, hit in enumerate(found) if hit), 0.0)
    return values


@given(st.integers(0, 10_000))
def test_ranking_metrics_are_those_of_the_formulas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranked = [rng.permutation(300)[: rng.integers(1, 250)] for _ in range(3)]
    relevant = [rng.choice(300, rng.integers(1, 30), replace=False) for _ in range(3)]
    found = ranking_values(ranked, relevant)
    for row in range(3):
        expected = by_formula(ranked[row], set(relevant[row].tolist()))
        assert {name: found[name][row] for name in RANKING} == pytest.approx(expected)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, -np.inf]), min_size=1, max_size=40), st.integers(1, 12))
def test_ties_follow_the_keys_and_never_the_order(given_scores: Sequence[float], cut: int) -> None:
    scores, own = np.array(given_scores, dtype=np.float32), keys(len(given_scores))
    expected = [at for at in np.lexsort((own, -scores)) if scores[at] > -np.inf][:cut]
    assert top(scores, lambda places: own[places], cut).tolist() == expected
    order = np.random.default_rng(cut).permutation(len(scores))
    assert order[top(scores[order], lambda places: own[order][places], cut)].tolist() == expected


# ---- beyond accuracy


def context() -> Catalogue:
    liked = sparse.csr_matrix(np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=np.float32))
    vectors = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], dtype=np.float32)
    return Catalogue(liked, ints(3, 1, 0, 0), 3, vectors)


def test_what_accuracy_does_not_tell() -> None:
    found = beyond([ints(0, 1), ints(0, 2), ints(3), ints()], ints(0, 1, 3, 3), context())
    assert found["novelty"].tolist() == pytest.approx([0.5, 1, 2, np.nan], nan_ok=True)
    assert found["diversity"].tolist() == pytest.approx([1, 0, np.nan, np.nan], nan_ok=True)
    # Percentiles: 7/8 for post 0, 5/8 for post 1, 2/8 for the two that nobody liked.
    bias = [0, (7 / 8 + 2 / 8) / 2 - 7 / 8, np.nan, np.nan]
    assert found["popularity-bias"].tolist() == pytest.approx(bias, nan_ok=True)


def test_only_the_first_ten_are_shown() -> None:
    assert coverage([np.arange(30), np.arange(5, 12)], 24) == pytest.approx(12 / 24)
    assert coverage([], 24) == 0


# ---- clicks


@given(st.integers(0, 10_000))
def test_auc_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 2, 28), [0, 1])
    scores = rng.integers(0, 6, 30).astype(np.float32)
    weights = rng.integers(0, 4, (5, 30)).astype(np.float64)
    weights[:, -2:] = 1
    expected = [roc_auc_score(labels, scores, sample_weight=line) for line in weights]
    assert weighted_auc(labels, scores, weights).tolist() == pytest.approx(expected)


def test_one_class_has_no_auc() -> None:
    labels, scores = ints(1, 1, 1, 0, 0, 1), np.array([1, 2, 3, 1, 2, 1.5], dtype=np.float32)
    assert np.isnan(weighted_auc(ints(1, 1, 1, 1, 1, 1), scores, ONE)).all()
    users, aucs = user_aucs(labels, scores, ints(7, 7, 2, 3, 2, 3))
    assert users.tolist() == [2, 3]
    assert aucs.tolist() == [1, 1]
    users, aucs = user_aucs(labels[:3], scores[:3], ints(7, 7, 2))
    assert (len(users), len(aucs)) == (0, 0)


def test_losses_are_those_of_scikit_learn_and_never_endless() -> None:
    labels, probabilities = ints(1, 0, 1, 0), np.array([0.9, 0.2, 0.4, 0.5])
    assert log_losses(labels, probabilities).mean() == pytest.approx(log_loss(labels, probabilities))
    assert np.isfinite(log_losses(ints(1, 0), np.array([0.0, 1.0]))).all()


def test_calibration_error_by_hand() -> None:
    labels, probabilities = ints(0, 1, 1, 1, 0, 1), np.array([0.1, 0.3, 0.5, 0.6, 0.8, 0.9])
    bins = equal_mass(probabilities, keys(6), 3)
    assert bins.tolist() == [0, 0, 1, 1, 2, 2]
    # |1/2 - .2|, |1 - .55|, |1/2 - .85|, a third each
    assert weighted_ece(labels, probabilities, bins, ONE)[0] == pytest.approx((0.3 + 0.45 + 0.35) / 3)
    first = np.array([[1.0, 1, 0, 0, 0, 0]])
    assert weighted_ece(labels, probabilities, bins, first)[0] == pytest.approx(0.3)


def test_bins_hold_equally_many_rows_even_where_all_are_alike() -> None:
    assert np.bincount(equal_mass(np.full(60, 0.5), keys(60))).tolist() == [4] * 15


def test_scores_become_probabilities() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 100, 4000).astype(np.float32)
    labels = (rng.random(4000) < 1 / (1 + np.exp(-(0.02 * scores - 0.5)))).astype(np.int64)
    assert calibrated(labels, scores) == pytest.approx((0.02, -0.5), abs=0.1)
    slope, intercept = calibrated(ints(1, 1), np.array([1, 2], dtype=np.float32))
    assert (slope, intercept) == (0, pytest.approx(np.log(3)))


# ---- intervals


def test_intervals_are_the_same_twice_and_cover() -> None:
    values = np.random.default_rng(0).normal(1, 1, (400, 2))
    draws = [Resampling(np.arange(400), seed).means(values) for seed in (0, 0, 1)]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()
    low, high = bounds(draws[0][:, 0])
    assert low < values[:, 0].mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)


def test_rows_of_one_user_are_drawn_together() -> None:
    values = np.repeat(np.random.default_rng(0).normal(0, 1, (100, 1)), 9, axis=0)
    users = np.repeat(np.arange(100), 9)
    width = {name: np.ptp(bounds(Resampling(who).means(values)[:, 0])) for name, who in
             (("users", users), ("rows", np.arange(900)))}  # fmt: skip
    assert width["users"] == pytest.approx(2 * 1.96 / 10, rel=0.3)
    assert width["rows"] < width["users"] / 2


def test_values_that_are_not_there_count_for_nobody() -> None:
    values = np.array([[1.0], [np.nan], [1.0]])
    assert set(
        Resampling(np.arange(3)).means(values)[:, 0][~np.isnan(Resampling(np.arange(3)).means(values)[:, 0])]
    ) == {1}
    assert bounds(np.array([np.nan])) == [0, 0]


def test_a_statistic_of_weighted_rows_is_that_of_the_drawn_users() -> None:
    users, values = ints(5, 5, 8, 9), np.array([1.0, 2, 3, 4])
    resampling = Resampling(users, rounds=70)
    found = resampling.of(lambda weights: weights @ values / weights.sum(axis=1))
    assert found == pytest.approx(resampling.means(values[:, None])[:, 0])


def test_buckets_are_those_of_the_page() -> None:
    counts = ints(0, 1, 2, 4, 5, 50, 51, 1000)
    found = {name: rows.tolist() for name, rows in buckets(counts, HISTORY)}
    assert found == {"0": [0], "1-2": [1, 2], "3-4": [3], "5-10": [4], "11-50": [5], ">50": [6, 7]}
    assert [name for name, _ in buckets(ints(0, 3, 6, 21, 101, 1), TARGET)] == [
        "0",
        "1-2",
        "3-5",
        "6-20",
        "21-100",
        ">100",
    ]
