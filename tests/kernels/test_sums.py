"""A row's float64 sums are added in 32 parts, and the parts in pairs."""

from __future__ import annotations

import numpy as np
import pytest

from polarindex import kernels
from polarindex.kernels import reference
from polarindex.rotations import HadamardRotation


def by_hand(terms):
    parts = [0.0] * 32
    for j, term in enumerate(terms):
        parts[j % 32] += float(term)
    while len(parts) > 1:
        half = len(parts) // 2
        parts = [parts[c] + parts[c + half] for c in range(half)]
    return parts[0]


@pytest.mark.parametrize("dim", [1, 3, 31, 32, 33, 100, 257, 1024])
def test_lengths_and_offsets_are_added_so(dim):
    """Of terms so unlike that another order has other bits."""
    rng = np.random.default_rng(dim)
    x = (rng.normal(size=(20, dim)) * 10.0 ** rng.uniform(-6, 6, dim)).astype(np.float32)
    mu = rng.normal(size=dim).astype(np.float32)
    words, sums = np.empty((20, -(-dim // 32)), np.uint32), np.empty((4, 20))
    book = 1, np.empty(0, np.float32), np.zeros(1, np.float32), np.array([-1, 1], np.float32)
    kernels.encode(x, mu, HadamardRotation(dim).plan, book, words, sums)
    r = (x - mu).astype(np.float64)
    assert sums[0].tolist() == [by_hand(row * row) for row in r]
    assert sums[1].tolist() == [by_hand(row * mu) for row in r]
    assert (sums[3] == dim).all()
    if dim > 100:
        assert (sums[0] != reference._in_order(r * r)).any()


def test_the_reference_adds_so():
    terms = np.random.default_rng(0).normal(size=(5, 77)) * 10.0 ** np.arange(-38, 39)
    assert reference._in_parts(terms).tolist() == [by_hand(row) for row in terms]
    assert reference._in_parts(terms[:0]).tolist() == []
