"""Recall counts what it says it counts, and the error measures are those of their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from polarindex.sweep.groundtruth import exact_distances, exact_neighbors
from polarindex.sweep.metrics import (
    inner_product_error,
    overlap_at,
    overlap_with_interval,
    recall_at,
    top1_at,
    vnmse,
)


def test_overlap_counts_shared_ids_in_any_order():
    neighbors = [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert overlap_at([[4, 3, 2, 1], [5, 0, 9, 8]], neighbors, 4) == 6 / 8
    assert overlap_at([[4, 3, 2, 1], [5, 0, 9, 8]], neighbors, 2) == 1 / 4


def test_top1_asks_only_for_the_nearest():
    assert top1_at([[9, 1, 0], [2, 1, 0]], [[1], [7]], 3) == 0.5
    assert top1_at([[9, 1, 0], [2, 1, 0]], [[1], [7]], 1) == 0.0


@pytest.mark.parametrize(
    "ids, share", [([[-1, -1]], 0.0), ([[3, -1]], 0.5), ([[3, 3]], 0.5), ([[3, 4]], 1.0)]
)
def test_missing_ids_are_misses_and_repeated_ids_count_once(ids, share):
    missing = np.where(np.array(ids) < 0, np.inf, 0.0)
    assert overlap_at(ids, [[3, 4]], 2) == share
    assert recall_at(ids, missing, [[0.0, 0.0]], 2, metric="l2") == share
    assert recall_at(ids, -missing, [[0.0, 0.0]], 2, metric="ip") == share


def test_a_missing_id_is_a_miss_even_if_a_distance_is_given_for_it():
    assert recall_at([[-1]], [[0.0]], [[1.0]], 1, metric="l2") == 0.0
    assert overlap_at([[-1]], [[-1]], 1) == 0.0


def test_a_tie_with_the_kth_neighbour_is_a_hit_for_recall_and_a_miss_for_overlap():
    ids, id_distances = [[0, 9]], [[1.0, 4.0]]
    assert recall_at(ids, id_distances, [[1.0, 4.0]], 2, metric="l2", epsilon=0.0) == 1.0
    assert overlap_at(ids, [[0, 1]], 2) == 0.5


@pytest.mark.parametrize(
    "metric, kth, inside, outside",
    [
        ("l2", 100.0, (10 + 0.9e-3) ** 2, (10 + 1.1e-3) ** 2),  # 1e-3 of the unsquared distance
        ("cosine", 0.8, 0.8 - 0.9e-3, 0.8 - 1.1e-3),
        ("ip", 5.0, 5.0 - 0.9e-3, 5.0 - 1.1e-3),
    ],
)
def test_recalls_tolerance_is_that_of_ann_benchmarks(metric, kth, inside, outside):
    assert recall_at([[7]], [[inside]], [[kth]], 1, metric=metric) == 1.0
    assert recall_at([[7]], [[outside]], [[kth]], 1, metric=metric) == 0.0


def test_only_the_first_k_ids_and_the_kth_distance_count():
    ids, id_distances, distances = [[5, 6, 7]], [[9.0, 1.0, 1.0]], [[1.0, 1.0, 9.0]]
    assert recall_at(ids, id_distances, distances, 1, metric="l2") == 0.0
    assert recall_at(ids, id_distances, distances, 2, metric="l2") == 0.5
    assert recall_at(ids, id_distances, distances, 3, metric="l2") == 1.0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.sampled_from(["l2", "ip", "cosine"]))
def test_recall_is_never_below_overlap_and_both_are_one_for_the_truth(seed, k, metric):
    rng = np.random.default_rng(seed)
    train, test = rng.integers(-2, 3, (30, 3)), rng.integers(-2, 3, (4, 3))
    neighbors, distances = exact_neighbors(train, test, 12, metric)
    ids = np.array([rng.permutation(30)[:k] for _ in test])
    recall = recall_at(ids, exact_distances(train, test, ids, metric), distances, k, metric=metric)
    assert overlap_at(ids, neighbors, k) <= recall <= 1.0
    assert recall_at(neighbors, distances, distances, k, metric=metric) == 1.0
    assert overlap_at(neighbors, neighbors, k) == top1_at(neighbors, neighbors, k) == 1.0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: overlap_at([[1, 2]], [[1, 2]], 3), "ids.*k=3"),
        (lambda: overlap_at([[1, 2]], [[1]], 2), "neighbors.*k=2"),
        (lambda: overlap_at([[1, 2]], [[1, 2], [3, 4]], 2), "same queries"),
        (lambda: overlap_at([[1, 2]], [[1, 2]], 0), "k must be at least 1"),
        (lambda: recall_at([[1]], [[1.0]], [[1.0]], 1, metric="l1"), "'l1'"),
        (lambda: vnmse(np.ones((2, 3)), np.ones((3, 2))), "x_hat"),
        (lambda: vnmse(np.zeros((2, 3)), np.ones((2, 3))), "not zero"),
        (lambda: inner_product_error(np.ones((1, 2)), np.ones((3, 2)), np.ones((3, 1))), "scores"),
        (lambda: inner_product_error(np.ones((1, 2)), np.ones((3, 4)), np.ones((1, 3))), "queries and x"),
    ],
)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_vnmse_is_the_mean_of_relative_errors_not_the_error_of_means():
    x, x_hat = np.array([[2.0, 0.0], [0.0, 100.0]]), np.array([[1.0, 0.0], [0.0, 100.0]])
    assert vnmse(x, x_hat) == 0.125
    assert vnmse(x * 1e-3, x_hat * 1e-3) == pytest.approx(0.125)


def test_vnmse_leaves_zero_rows_out():
    assert vnmse([[2.0], [0.0]], [[1.0], [5.0]]) == 0.25


def test_vnmse_of_integer_rows_does_not_wrap():
    assert vnmse(np.array([[200, 0]], np.uint8), np.array([[250.0, 0]], np.float32)) == 0.0625


def test_vnmse_goes_through_all_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(101, 7)), rng.normal(size=(101, 7))
    wanted = ((noise**2).sum(axis=1) / (x**2).sum(axis=1)).mean()
    monkeypatch.setattr("polarindex.sweep.metrics._BLOCK", 70)
    assert_allclose(vnmse(x, x + noise), wanted)


def test_inner_product_error_of_the_truth_is_nothing():
    rng = np.random.default_rng(0)
    queries, x = rng.normal(size=(5, 8)), rng.normal(size=(20, 8))
    assert_allclose(inner_product_error(queries, x, queries @ x.T), (0, 0, 1), atol=1e-12)


def test_a_constant_offset_is_bias_and_a_shrinkage_is_slope(monkeypatch):
    rng = np.random.default_rng(0)
    queries, x = rng.normal(size=(50, 8)), rng.normal(size=(300, 8))
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(x, axis=1)
    monkeypatch.setattr("polarindex.sweep.metrics._BLOCK", 1000)
    shifted = inner_product_error(queries, x, queries @ x.T + 0.1 * norms)
    assert_allclose((shifted.rmse, shifted.bias), (0.1, 0.1))
    shrunk = inner_product_error(queries, x, 0.6 * queries @ x.T)
    assert_allclose(shrunk.slope, 0.6)
    assert abs(shrunk.bias) < 0.01, "which the mean error hides"


def test_zero_rows_have_no_inner_product_error():
    queries, x = np.eye(2), np.array([[0.0, 0.0], [3.0, 0.0]])
    assert_allclose(inner_product_error(queries, x, [[9.0, 3.0], [9.0, 0.0]]), (0, 0, 1))


# --- intervals


def test_an_interval_is_wilsons_where_a_query_has_one_neighbour():
    """Of 8 hits in 10, whose variance, by n - 1, is that of 9 trials."""
    ids, true = np.arange(10)[:, None], np.arange(10)[:, None].copy()
    true[8:] = 99
    found = overlap_with_interval(ids, true, 1)
    assert found.mean == pytest.approx(0.8)
    p, n, z = 0.8, 9, 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (found.low, found.high) == (pytest.approx(middle - half), pytest.approx(middle + half))


@pytest.mark.parametrize(("hits", "low", "high"), [(500, 0.99238, 1.0), (0, 0.0, 0.00762)])
def test_queries_that_agree_leave_room_for_those_that_will_not(hits, low, high):
    ids = np.zeros((500, 1), int)
    true = np.where(np.arange(500)[:, None] < hits, 0, 1)
    found = overlap_with_interval(ids, true, 1)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-5), pytest.approx(high, abs=1e-5))


@pytest.mark.parametrize(("share", "spread"), [(0.5, 0.3), (0.9, 0.1), (0.99, 0.01)])
def test_intervals_hold_the_mean_of_all_queries_in_95_of_100_samples(share, spread):
    """Queries whose shares scatter: neither all alike nor independent trials."""
    rng, k, nq, trials = np.random.default_rng(0), 10, 100, 600
    held = 0
    for _ in range(trials):
        each = np.clip(rng.normal(share, spread, nq), 0, 1)
        hits = rng.binomial(k, each)
        ids = np.where(np.arange(k) < hits[:, None], np.arange(k), -1)
        found = overlap_with_interval(ids, np.tile(np.arange(k), (nq, 1)), k)
        held += found.low <= np.clip(rng.normal(share, spread, 4000), 0, 1).mean() <= found.high
    assert 0.92 < held / trials < 0.985
