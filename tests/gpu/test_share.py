"""Stripes: every row on one device, devices equally full, no row ever on another."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from polarindex.gpu.share import STRIPE, Share

counts = st.integers(0, 10 * STRIPE)


def shares(of):
    return [Share(number, of) for number in range(of)]


@given(counts, st.integers(1, 5))
def test_every_position_is_one_row_of_one_device(n, of):
    positions = [share.positions(np.arange(share.count(n))) for share in shares(of)]
    np.testing.assert_array_equal(np.sort(np.concatenate(positions)), np.arange(n))
    assert all((np.diff(mine) > 0).all() for mine in positions)  # ties are broken alike
    sizes = [len(mine) for mine in positions]
    assert max(sizes) - min(sizes) <= STRIPE


@given(counts, st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_rows_and_positions_are_each_others_inverse(n, of, seed):
    some = np.unique(np.random.default_rng(seed).integers(0, n + 1, 50))
    there = [share.positions(share.rows(some)) for share in shares(of)]
    np.testing.assert_array_equal(np.sort(np.concatenate(there)), some)


@given(counts, st.integers(1, 5), st.data())
def test_ranges_are_the_rows_in_stretches_of_positions(n, of, data):
    for share in shares(of):
        count = share.count(n)
        start = data.draw(st.integers(0, count))
        found = share.ranges(start, count)
        rows = np.concatenate([np.empty(0, int), *(np.arange(row, row + c) for row, _, c in found)])
        positions = np.concatenate([np.empty(0, int), *(np.arange(at, at + c) for _, at, c in found)])
        np.testing.assert_array_equal(rows, np.arange(start, count))
        np.testing.assert_array_equal(positions, share.positions(rows))


@given(counts.filter(bool), st.integers(1, 3))
def test_a_mask_is_split_like_its_rows(n, of):
    mask = (np.arange(n) % 7).astype(np.uint8)
    for share in shares(of):
        if share.count(n):
            np.testing.assert_array_equal(share.of_mask(mask, n), mask[share.positions(np.arange(share.count(n)))])
