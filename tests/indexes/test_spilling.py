"""Second lists are those of SOAR's loss, whatever BLAS, chunks and scale; the limit lets the share asked for spill."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex.indexes import spilling
from polarindex.indexes.assign import nearest, nearest_exactly
from polarindex.indexes.spilling import NOWHERE, WEIGHT, homes, learned_limit, second_nearest


def by_formula(x, centroids, own):
    """Losses (n, nlist) and |x - c|^2, in float64."""
    x, centroids = x.astype(np.float64), centroids.astype(np.float64)
    away, residuals = x[:, None] - centroids, x - centroids[own]
    apart, energies = (away**2).sum(axis=2), (residuals**2).sum(axis=1)[:, None]
    dots = (away * residuals[:, None]).sum(axis=2)
    losses = apart + np.divide(WEIGHT * dots**2, energies, out=np.zeros(apart.shape), where=energies > 0)
    losses[np.arange(len(x)), own] = np.inf
    return losses, apart


def drawn(n, nlist, dim, scale=1.0, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return (((rng.normal(size=(m, dim)) + offset) * scale).astype(np.float32) for m in (n, nlist))


@pytest.mark.parametrize(
    ("dim", "nlist", "scale", "offset"),
    [(1, 9, 1.0, 0.0), (3, 2, 1.0, 0.0), (24, 2100, 1.0, 0.0), (33, 300, 1.0, 100.0), (8, 17, 1e-20, 0.0),
     (8, 17, 1e16, 0.0)],
)
def test_the_second_list_has_the_least_loss_of_all_others(dim, nlist, scale, offset):
    """Also of rows that are centroids, and of those far away from all."""
    x, centroids = drawn(400, nlist, dim, scale, offset)
    x[:2], x[5:8] = centroids[:2], x[5:8] * np.float32(50)
    x[8] = np.float32(1e18)  # 1e38 times as far as centroids are long
    own = nearest_exactly(x, centroids)[0]
    numbers, distances = second_nearest(x, centroids, own)
    losses, apart = by_formula(x, centroids, own)
    row = np.arange(len(x))
    np.testing.assert_allclose(losses[row, numbers], losses.min(axis=1), rtol=1e-13)
    np.testing.assert_allclose(distances, apart[row, numbers], rtol=1e-13)
    assert (numbers != own).all()
    differ = numbers != apart.argsort(axis=1)[:, 1]
    assert differ.any() or nlist == 2 or dim == 1, "the loss is not the distance"


def test_equal_losses_go_to_the_smaller_number():
    x = np.zeros((3, 2), np.float32)
    centroids = np.array([[4, 0], [0, 3], [3, 0], [-3, 0], [0, -3]], np.float32)
    own = np.array([1, 2, 4], np.int32)
    # |x - c|^2 = 9 and <r, x - c> = 0 for two of them, -9 for the one opposite
    assert second_nearest(x, centroids, own)[0].tolist() == [2, 1, 2]
    twins = np.concatenate([centroids, centroids])
    assert second_nearest(x, twins, own + 5)[0].tolist() == [2, 1, 2]


def test_a_single_list_has_no_second_and_no_row_none():
    x, centroids = drawn(5, 3, 4)
    numbers, distances = second_nearest(x, centroids[:1], np.zeros(5, np.int32))
    assert numbers.tolist() == [NOWHERE] * 5 and np.isinf(distances).all()
    assert homes(x, centroids[:1], np.inf).second.tolist() == [NOWHERE] * 5
    assert len(second_nearest(x[:0], centroids, np.empty(0, np.int32))[0]) == 0
    assert learned_limit(x, centroids[:1], 0.5) > 1e300


def test_second_lists_do_not_depend_on_parts_blocks_tiles_or_the_order_of_rows(monkeypatch):
    x, centroids = drawn(700, 200, 24, offset=3.0)
    own = nearest(x, centroids)[0]
    wanted = second_nearest(x, centroids, own)
    order = np.random.default_rng(1).permutation(700)
    for part, block, tile in ((64, 16, 48), (97, 7, 16)):
        monkeypatch.setattr(spilling, "_PART", part)
        monkeypatch.setattr(spilling, "_BLOCK", block)
        monkeypatch.setattr(spilling, "_TILE", tile)
        for got, want in zip(second_nearest(x[order], centroids, own[order]), wanted, strict=True):
            assert_array_equal(got, want[order])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_so_large_a_share_of_rows_like_the_sample_spills(share):
    x, centroids = drawn(9000, 40, 12)
    limit = learned_limit(x, centroids, share)
    first, second = homes(x, centroids, limit)
    assert_array_equal(first, nearest(x, centroids)[0])
    assert abs((second != NOWHERE).mean() - share) < 0.02
    numbers, distances = second_nearest(x, centroids, first)
    ratio = distances / ((x.astype(np.float64) - centroids[first]) ** 2).sum(axis=1)
    assert_array_equal(second == numbers, second != NOWHERE)
    assert ratio[second != NOWHERE].max() <= limit * (1 + 1e-12) and ratio[second == NOWHERE].min() > limit


def test_all_rows_spill_also_those_on_their_centroids_and_none_without_a_limit():
    x, centroids = drawn(50, 5, 4)
    x[:5] = centroids
    assert learned_limit(x, centroids, 1.0) == np.inf
    assert (homes(x, centroids, np.inf).second != NOWHERE).all()
    assert (homes(x, centroids, 1.5).second[:5] == NOWHERE).all()
    assert homes(x, centroids, None).second is None
