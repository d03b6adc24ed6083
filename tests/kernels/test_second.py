"""The second list of a row is that of the least loss, however rough the products are that propose it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference

WEIGHT = 1.5


def offered(x, centroids, own, first, noise, rng):
    """What the kernel is handed for rows and the lists from `first` on: products wrong by up to `noise`."""
    tile = centroids[first:].astype(np.float64)
    width = -(-len(tile) // 16) * 16
    residuals = x.astype(np.float64) - centroids[own]
    lengths = np.linalg.norm(residuals, axis=1)
    directions = residuals / np.where(lengths > 0, lengths, 1)[:, None]
    lists, of = np.unique(own, return_inverse=True)
    along = rng.normal(size=(len(x), width)).astype(np.float32)
    along[:, : len(tile)] = directions @ tile.T + rng.uniform(-noise, noise, (len(x), len(tile)))
    across = np.zeros((len(lists), width), np.float32)
    across[:, : len(tile)] = centroids[lists].astype(np.float64) @ tile.T
    across[np.arange(len(lists))[lists >= first], lists[lists >= first] - first] = -np.inf
    squares = np.full((1, width), np.inf, np.float32)
    squares[0, : len(tile)] = (tile**2).sum(axis=1)
    mine = centroids[own].astype(np.float64)
    frames = np.stack([lengths, (directions * mine).sum(axis=1), (mine**2).sum(axis=1)]).astype(np.float32)
    reach = 2 * (1 + WEIGHT) * lengths + 2 * WEIGHT * (4 * np.abs(centroids).max() * x.shape[1] + noise)
    return (along, across, of, squares), frames, (2 * noise * reach + 1).astype(np.float32)


def nothing(n):
    best, losses = np.full(n, -np.inf, np.float32), np.full(n, np.inf)
    return best, np.full(n, -1, np.int32), losses, np.full(n, np.inf)


@pytest.mark.parametrize("noise", [0.0, 20.0])
@pytest.mark.parametrize(("dim", "nlist"), [(1, 2), (3, 16), (4, 15), (7, 300), (8, 530)])
def test_the_second_list_is_the_references_however_rough_the_products_are(dim, nlist, noise):
    """Whole numbers, so that sums are exact and losses tie; some lists were offered before, some rows are centroids."""
    rng = np.random.default_rng(nlist)
    centroids = rng.integers(-9, 10, (nlist, dim)).astype(np.float32)
    centroids[nlist // 2 :] = centroids[: nlist - nlist // 2]
    x = rng.integers(-9, 10, (60, dim)).astype(np.float32)
    x[:5] = centroids[rng.integers(0, nlist, 5)]
    own = ((x[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1).astype(np.int32)
    for first in {0, nlist // 3}:
        given = offered(x, centroids, own, first, noise, rng)
        found = nothing(60)
        if first:
            found[1][:30], found[2][:30], found[3][:30] = first - 1, rng.integers(0, 99, 30), 7.0
        wanted = reference.second_rows(*given, x, centroids, own, first, WEIGHT, found)
        kernels.second_rows(*given, x, centroids, own, first, WEIGHT, found)
        for got, want in zip(found, wanted, strict=True):
            assert_array_equal(got, want)
        assert not first or len({first - 1} & set(found[1].tolist())) == 1
        assert first or (found[1] != own).all()


def test_a_row_whose_own_list_is_the_only_one_has_no_second():
    x = np.ones((3, 4), np.float32)
    own = np.zeros(3, np.int32)
    found = nothing(3)
    given = offered(x, x[:1], own, 0, 0.0, np.random.default_rng(0))
    kernels.second_rows(*given, x, x[:1], own, 0, WEIGHT, found)
    assert found[1].tolist() == [-1] * 3 and np.isinf(found[2]).all()
