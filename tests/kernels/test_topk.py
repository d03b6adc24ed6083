"""The k best, ties by the smaller id: a function of the set of candidates, not of their order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference
from polarindex.kernels.limits import EMPTY_ID

ALL = np.empty(0, np.uint8)


def empty(nq, k):
    return np.full((nq, k), -np.inf, np.float32), np.full((nq, k), EMPTY_ID, np.int64)


def best(scores, ids, k, allowed=ALL, pieces=1):
    """The k best through the kernels, the stream cut into pieces."""
    best_scores, best_ids = empty(len(scores), k)
    for part in np.array_split(np.arange(len(ids)), pieces):
        mine = allowed[part] if len(allowed) else ALL
        if len(part):
            kernels.select(np.ascontiguousarray(scores[:, part]), ids[part], mine, best_scores, best_ids)
    kernels.sort_rows(best_scores, best_ids)
    return best_scores, best_ids


def assert_is_reference(scores, ids, k, allowed=ALL, pieces=1):
    got = best(scores, ids, k, allowed, pieces)
    wanted = reference.select(scores, ids, allowed, *empty(len(scores), k))
    assert_array_equal(got[1], wanted[1])
    assert_array_equal(got[0], wanted[0])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_order_of_the_stream_gives_the_same_best(data):
    """Few distinct scores, so that most comparisons are ties; ids up to 2^63 - 2."""
    n = data.draw(st.integers(1, 40))
    ids = data.draw(st.lists(st.integers(0, 2**63 - 2), min_size=n, max_size=n, unique=True))
    values = data.draw(st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n + 3))
    order = np.array(data.draw(st.permutations(range(n))))
    allowed = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), np.uint8)
    allowed = allowed if data.draw(st.booleans()) else ALL
    ids, scores = np.array(ids, np.int64), np.array([values], np.float32)
    sorted_pairs = reference.select(scores, ids, allowed, *empty(1, k))
    shuffled = best(
        scores[:, order], ids[order], k, allowed[order] if len(allowed) else ALL, data.draw(st.integers(1, 4))
    )
    assert_array_equal(shuffled[1], sorted_pairs[1])
    assert_array_equal(shuffled[0], sorted_pairs[0])


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 31, 33, 300])
@pytest.mark.parametrize("k", [1, 2, 3, 10, 31])
def test_the_k_best_at_every_size(n, k):
    rng = np.random.default_rng(n + k)
    scores = rng.normal(size=(3, n)).astype(np.float32)
    assert_is_reference(scores, rng.permutation(n).astype(np.int64), k)


def test_k_equal_to_n_is_a_full_sort():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 9, (2, 100)).astype(np.float32)
    assert_is_reference(scores, rng.permutation(100).astype(np.int64), 100)


def test_places_beyond_n_stay_empty_and_last():
    scores = np.array([[1, 3, 2]], np.float32)
    best_scores, best_ids = best(scores, np.array([7, 8, 9]), 5)
    assert best_scores.tolist() == [[3, 2, 1, -np.inf, -np.inf]]
    assert best_ids.tolist() == [[8, 9, 7, EMPTY_ID, EMPTY_ID]]


def test_equal_scores_give_the_smallest_ids_in_order():
    ids = np.array([5, 1, 9, 0, 7, 3], np.int64)
    _, best_ids = best(np.zeros((1, 6), np.float32), ids, 4)
    assert best_ids.tolist() == [[0, 1, 3, 5]]


def test_signed_zeros_tie():
    _, best_ids = best(np.array([[0.0, -0.0, 0.0]], np.float32), np.array([2, 0, 1]), 2)
    assert best_ids.tolist() == [[0, 1]]


def test_a_score_of_minus_infinity_takes_a_place_before_an_empty_one():
    best_scores, best_ids = best(np.array([[-np.inf, 1.0]], np.float32), np.array([4, 5]), 3)
    assert best_ids.tolist() == [[5, 4, EMPTY_ID]]


def test_only_allowed_candidates_are_taken():
    rng = np.random.default_rng(1)
    scores, ids = rng.normal(size=(4, 50)).astype(np.float32), rng.permutation(50).astype(np.int64)
    for share in (0, 0.05, 0.5, 1):
        allowed = (rng.random(50) < share).astype(np.uint8)
        assert_is_reference(scores, ids, 7, allowed)
        assert_is_reference(scores, ids, 7, allowed * np.uint8(255), pieces=3)  # any value but 0 allows


def test_each_candidate_is_seen():
    """One candidate is the best at a time."""
    for i in range(33):
        scores = np.zeros((2, 33), np.float32)
        scores[1, i] = 1
        best_scores, best_ids = best(scores, np.arange(100, 133), 1)
        assert best_ids.tolist() == [[100], [100 + i]]
        assert best_scores.tolist() == [[0], [1]]


def test_queries_do_not_mix():
    rng = np.random.default_rng(3)
    scores, ids = rng.normal(size=(6, 40)).astype(np.float32), np.arange(40)
    together = best(scores, ids, 5)
    for q in range(6):
        alone = best(scores[q : q + 1], ids, 5)
        assert_array_equal(together[1][q], alone[1][0])


def test_offers_continue_from_what_was_kept():
    rng = np.random.default_rng(4)
    scores, ids = rng.integers(0, 5, (2, 60)).astype(np.float32), rng.permutation(60).astype(np.int64)
    for pieces in (2, 7, 60):
        assert_is_reference(scores, ids, 9, pieces=pieces)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 8, 9, 64, 100])
def test_sort_rows_sorts_any_heap(k):
    """A list sorted worst first is a heap whose root is the worst."""
    rng = np.random.default_rng(k)
    scores, ids = reference.sort_rows(rng.integers(0, 6, (3, k)).astype(np.float32), rng.permuted(
        np.tile(np.arange(k), (3, 1)), axis=1))
    heap_scores, heap_ids = scores[:, ::-1].copy(), ids[:, ::-1].copy()
    kernels.sort_rows(heap_scores, heap_ids)
    assert_array_equal(heap_scores, scores)
    assert_array_equal(heap_ids, ids)
