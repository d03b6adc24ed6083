"""The passes of k-means: the nearest centroid, rows by cluster, means."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference


def offered(x, centroids, width, noise, rng):
    """What the kernel is handed for these rows: products that are wrong by up to `noise`, and slacks that say so."""
    exact = x.astype(np.float64) @ centroids.T.astype(np.float64)
    products = rng.normal(size=(len(x), width)).astype(np.float32)
    products[:, : len(centroids)] = exact + rng.uniform(-noise, noise, exact.shape)
    halves = np.full((1, width), np.inf, np.float32)
    halves[0, : len(centroids)] = (centroids.astype(np.float64) ** 2).sum(axis=1) / 2
    return products, halves, np.full(len(x), 2 * noise + 1e-3, np.float32)


SHAPES = [(1, 1, 16), (3, 16, 16), (4, 15, 32), (7, 300, 304), (9, 513, 528)]  # dim, nlist, width


@pytest.mark.parametrize("noise", [0.0, 30.0])
@pytest.mark.parametrize(("dim", "nlist", "width"), SHAPES)
def test_nearest_rows_is_the_reference_however_rough_the_products_are(dim, nlist, width, noise):
    rng = np.random.default_rng(nlist)
    x = rng.integers(-9, 10, (40, dim)).astype(np.float32)  # whole numbers: ties are many, and all sums exact
    centroids = rng.integers(-9, 10, (nlist + 5, dim)).astype(np.float32)
    centroids[-nlist // 2 :] = centroids[nlist // 2 :][: len(centroids[-nlist // 2 :])]
    products, halves, slacks = offered(x, centroids[5:], width, noise, rng)
    best, numbers, distances = np.full(40, -np.inf, np.float32), np.zeros(40, np.int32), np.full(40, np.inf)
    wanted = reference.nearest_rows(products, halves, slacks, x, centroids, 5, best, numbers, distances)
    kernels.nearest_rows(products, halves, slacks, x, centroids, 5, best, numbers, distances)
    for got, want in zip((best, numbers, distances), wanted, strict=True):
        assert_array_equal(got, want)


def test_each_centroid_can_be_the_nearest_and_a_later_tile_only_wins_if_nearer():
    centroids = np.eye(40, dtype=np.float32)
    x = centroids.copy()
    products, halves, slacks = offered(x, centroids, 48, 0.0, np.random.default_rng(0))
    best, numbers, distances = np.full(40, -np.inf, np.float32), np.zeros(40, np.int32), np.full(40, np.inf)
    kernels.nearest_rows(products, halves, slacks, x, centroids, 0, best, numbers, distances)
    assert numbers.tolist() == list(range(40)) and not distances.any()
    twice = np.concatenate([centroids, centroids])
    kernels.nearest_rows(products, halves, slacks, x, twice, 40, best, numbers, distances)
    assert numbers.tolist() == list(range(40))


@pytest.mark.parametrize(("n", "nlist"), [(0, 3), (1, 1), (50, 7), (50, 200)])
def test_group_rows_and_mean_rows_are_the_reference(n, nlist):
    rng = np.random.default_rng(n)
    numbers = rng.integers(0, nlist, n).astype(np.int32)
    starts, order = np.full(nlist + 1, -1, np.int64), np.full(n, -1, np.int64)
    wanted = reference.group_rows(numbers, starts)
    kernels.group_rows(numbers, starts, order)
    assert_array_equal(starts, wanted[0])
    assert_array_equal(order, wanted[1])
    x = (rng.normal(size=(n, 5)) * 10.0 ** rng.integers(-10, 10, (n, 1))).astype(np.float32)
    out = np.full((nlist, 5), 7, np.float32)
    means = reference.mean_rows(x, starts, order, nlist // 3, nlist, out)
    kernels.mean_rows(x, starts, order, nlist // 3, nlist, out)
    assert_array_equal(out, means)
