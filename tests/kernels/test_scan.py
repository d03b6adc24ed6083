"""Integer dots are exact up to the stated bound; their epilogue is float32 operations in one order."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference
from polarindex.kernels.limits import MAX_DIMS

INT32_MAX = 2**31 - 1


def dots_of(levels, queries):
    out = np.full((len(queries), len(levels)), 0x55555555, np.int32)
    kernels.dot(levels, queries, out)
    return out


def random_int8(rng, *shape):
    return rng.integers(-127, 128, shape).astype(np.int8)


@pytest.mark.parametrize("dim", [*range(1, 71), 127, 128, 129, 784, 1024, 1025])
def test_dot_is_exact_at_every_dim(dim):
    rng = np.random.default_rng(dim)
    levels, queries = random_int8(rng, 1 + dim % 35, dim), random_int8(rng, 1 + dim % 5, dim)
    assert_array_equal(dots_of(levels, queries), reference.dot(levels, queries))


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 31, 32, 33, 512])
@pytest.mark.parametrize("nq", [0, 1, 2, 5])
def test_dot_is_exact_for_every_number_of_rows(n, nq):
    rng = np.random.default_rng(n)
    levels, queries = random_int8(rng, n, 40), random_int8(rng, nq, 40)
    assert_array_equal(dots_of(levels, queries), reference.dot(levels, queries))


def test_each_vector_query_and_coordinate_counts_once():
    """One level of one vector, one coordinate of one query, set at a time."""
    dim, n = 37, 18
    for j in range(dim):
        queries = np.zeros((2, dim), np.int8)
        queries[1, j] = -3
        for i in range(n):
            levels = np.zeros((n, dim), np.int8)
            levels[i, j] = 5
            wanted = np.zeros((2, n), np.int32)
            wanted[1, i] = -15
            assert_array_equal(dots_of(levels, queries), wanted)


def test_max_dims_is_the_largest_bound_that_int32_holds():
    """133,144 * 127^2 = 2,147,479,576 <= 2^31 - 1 = 2,147,483,647 < 133,145 * 127^2 = 2,147,495,705."""
    assert MAX_DIMS == 133_144
    assert MAX_DIMS * 127**2 == 2_147_479_576 <= INT32_MAX
    assert (MAX_DIMS + 1) * 127**2 == 2_147_495_705 > INT32_MAX


@pytest.mark.parametrize("level", [-127, 127])
@pytest.mark.parametrize("query", [-127, 127])
def test_dot_is_exact_at_max_dims_with_every_product_extreme(level, query):
    levels = np.full((2, MAX_DIMS), level, np.int8)
    queries = np.full((1, MAX_DIMS), query, np.int8)
    assert dots_of(levels, queries).tolist() == [[MAX_DIMS * level * query] * 2]


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("nq", [0, 1, 3])
def test_add_scores_is_float32_in_the_stated_order(n, nq):
    rng = np.random.default_rng(n + nq)
    dots = rng.integers(-(2**31), 2**31, (nq, n)).astype(np.int32)
    gains, scales = rng.normal(size=nq).astype(np.float32), rng.normal(size=n).astype(np.float32)
    out = rng.normal(size=(nq, n)).astype(np.float32) * np.float32(1e9)
    wanted = reference.add_scores(dots, gains, scales, out)
    kernels.add_scores(dots, gains, scales, out)
    assert_array_equal(out, wanted)


def test_add_scores_rounds_after_every_operation():
    """Many random triples: an order other than (dot gain) scale, a fused add or float64 inside differs on some."""
    rng = np.random.default_rng(9)
    dots = rng.integers(-(2**24), 2**24, (4, 1000)).astype(np.int32)
    gains, scales = rng.normal(size=4).astype(np.float32), rng.normal(size=1000).astype(np.float32)
    shifts = (rng.normal(size=(4, 1000)) * 2.0**23).astype(np.float32)
    single = dots.astype(np.float32)
    right = shifts + (single * gains[:, None]) * scales
    other_order = shifts + (single * scales) * gains[:, None]
    fused = (shifts + ((single * gains[:, None]).astype(np.float64) * scales)).astype(np.float32)
    assert (right != other_order).any() and (right != fused).any()
    out = shifts.copy()
    kernels.add_scores(dots, gains, scales, out)
    assert_array_equal(out, right)


def test_stages_add_up():
    """Scores are added to what is there: the shift first, then one stage after the other."""
    out = np.array([[1.5]], np.float32)
    for dot in (3, 5):
        one = np.ones(1, np.float32)
        kernels.add_scores(np.array([[dot]], np.int32), one, one, out)
    assert out.tolist() == [[9.5]]
