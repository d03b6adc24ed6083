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


# --- from keys to distances


def settled(keys, ids, constants, negate):
    keys, ids = keys.copy(), ids.copy()
    distances = np.full(keys.shape, 77, np.float32)
    kernels.settle(keys, ids, constants, negate, distances)
    return ids, distances


def best_first(rng, nq, k, scale=1.0):
    """Lists as sort_rows leaves them, with a few ties."""
    keys = (rng.integers(0, 4 * k, (nq, k)) * np.float32(scale)).astype(np.float32)
    return reference.sort_rows(keys, rng.permuted(np.tile(np.arange(k), (nq, 1)), axis=1))


@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("constant", [0.0, -3.3, 2.0**26, -(2.0**26), 2.0**40])
@pytest.mark.parametrize("k", [1, 2, 3, 10, 33])
def test_distances_are_settled_as_the_formula_says(k, constant, negate):
    """Huge constants round unlike keys to one distance, of which the smaller id then comes first."""
    rng = np.random.default_rng(k)
    for scale in (0.25, 1.0, 1e6):
        keys, ids = best_first(rng, 5, k, scale)
        constants = constant * rng.uniform(0.5, 1, 5)
        got_ids, distances = settled(keys, ids, constants, negate)
        wanted_ids, wanted = reference.settle(keys, ids, constants, negate)
        assert_array_equal(got_ids, wanted_ids)
        assert_array_equal(distances, wanted)
        assert (np.diff(distances) >= 0).all() if negate else (np.diff(distances) <= 0).all()


@pytest.mark.parametrize(("negate", "distance"), [(False, 2.0**30), (True, 2.0**30)])
def test_keys_that_round_to_one_distance_are_in_the_order_of_ids(negate, distance):
    keys = np.array([[3, 2, 1, 0]], np.float32)
    ids, distances = settled(keys, np.array([[9, 2, 7, 4]]), np.array([2.0**30]), negate)
    assert ids.tolist() == [[2, 4, 7, 9]] and distances.tolist() == [[distance] * 4]


@pytest.mark.parametrize(("negate", "worst"), [(False, -np.inf), (True, np.inf)])
def test_empty_places_are_last_with_id_minus_one(negate, worst):
    keys = np.array([[2, 1, -np.inf, -np.inf]], np.float32)
    ids, distances = settled(keys, np.array([[8, 3, EMPTY_ID, EMPTY_ID]]), np.array([10.0]), negate)
    assert ids.tolist() == [[8, 3, -1, -1]]
    assert distances.tolist() == [[*((8, 9) if negate else (12, 11)), worst, worst]]


def test_distances_are_rounded_once():
    """In float64: 2^24 + 1 is kept until the one addition."""
    ids, distances = settled(np.array([[-1.0]], np.float32), np.array([[0]]), np.array([2.0**24 + 1]), True)
    assert distances.tolist() == [[2.0**24 + 2]]


@pytest.mark.parametrize("k", [1, 2, 7, 64])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_lists_are_merged_by_score_and_then_by_id(m, k, rng):
    """With many ties, and empty places where a list is short."""
    nq = 9
    scores = rng.integers(0, 6, (m, nq, k)).astype(np.float32)
    ids = rng.permuted(np.tile(np.arange(m * k), (nq, 1)), axis=1).reshape(nq, m, k).transpose(1, 0, 2).copy()
    empty = np.arange(k) >= rng.integers(0, k + 1, (m, nq, 1))
    scores[empty], ids[empty] = -np.inf, EMPTY_ID
    lists = [reference.sort_rows(*one) for one in zip(scores, ids, strict=True)]
    keys, names = (np.stack(parts) for parts in zip(*lists, strict=True))
    found_scores, found_ids = np.empty((nq, k), np.float32), np.empty((nq, k), np.int64)
    kernels.merge_lists(keys, names, found_scores, found_ids)
    expected = reference.merge_lists(keys, names)
    np.testing.assert_array_equal(found_scores, expected[0])
    np.testing.assert_array_equal(found_ids, expected[1])


# --- candidates of several parts


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("keep", [1, 5, 12, 40, 60])
def test_the_best_of_candidates_are_chosen_by_key_and_ordered_by_score(k, keep):
    """Few kinds of keys and scores, so that ids decide who is kept and who comes first; the last query has none."""
    rng = np.random.default_rng([k, keep])
    for kinds in (1, 4, 1000):
        keys, scores = (rng.integers(0, kinds, (6, 40)).astype(np.float32) for _ in range(2))
        ids = rng.permuted(np.tile(np.arange(40), (6, 1)), axis=1)
        gone = rng.random((6, 40)) < 0.3
        gone[-1] = True
        keys[gone], scores[gone], ids[gone] = -np.inf, -np.inf, EMPTY_ID
        got = np.full((6, k), 77, np.float32), np.full((6, k), 77)
        kernels.best_of(keys, ids, scores, keep, *got)
        wanted = reference.best_of(keys, ids, scores, keep, k)
        assert_array_equal(got[1], wanted[1])
        assert_array_equal(got[0], wanted[0])
