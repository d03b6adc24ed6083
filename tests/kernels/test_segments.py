"""A segment of a row is decoded and multiplied as the formula says, to the bit, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference

SETS = [name for name in kernels.available() if name != kernels.GENERIC]
NAMED = [pytest.param(name, marks=[] if name in (SETS[0], "avx2") else pytest.mark.isa) for name in SETS]
CASES = [(bits, name) for name in SETS for bits in (range(1, 9) if name == SETS[0] else (1, 4, 6, 8))]


def asked(levels, rows, m):
    tiles = -(-len(levels) // rows)
    quads, sums = np.empty((tiles, m, rows), np.int32), np.empty(tiles * rows, np.int32)
    kernels.tile_queries(levels, rows, quads, sums)
    return quads, sums


@pytest.mark.parametrize(
    ("bits", "name"),
    [pytest.param(*case, marks=[] if case[1] in (SETS[0], "avx2") else pytest.mark.isa) for case in CASES],
)
def test_dot_segment_is_the_reference_to_the_bit(bits, name):
    rng = np.random.default_rng(bits)
    count = 5
    dims = count * 4 if bits == 8 else count * 32
    words = count if bits == 8 else count * bits
    for rows, nq in ((1, 2), (8, 11)):
        isa = kernels.Isa(name, rows, bits)
        panels = rng.integers(0, 2**32, (3, words + 9, 16), np.uint32)
        if bits == 8:
            panels.view(np.uint8)[panels.view(np.uint8) == 0] = 1  # a code that no row has
        table = rng.integers(-127, 128, (8, 16)).astype(np.int8)
        queries = asked(rng.integers(-127, 128, (nq, dims - 3)).astype(np.int8), rows, dims // 4)
        for first in (0, 4, 9):
            out = np.full((len(queries[1]), 48), -7, np.int32)
            kernels.dot_segment(isa, panels, first, count, table, queries, out)
            assert_array_equal(out, reference.dot_segment(isa, panels, first, count, table, queries))


@pytest.mark.parametrize("name", NAMED)
def test_the_largest_sums_fit(name):
    """All levels and queries as large as they can be."""
    isa, panels = kernels.Isa(name, 8, 7), np.full((1, 7 * 64, 16), 0xFFFFFFFF, np.uint32)
    table = np.full((8, 16), 127, np.int8)
    out = np.empty((8, 16), np.int32)
    kernels.dot_segment(isa, panels, 0, 64, table, asked(np.full((8, 2048), -127, np.int8), 8, 512), out)
    assert_array_equal(out, -127 * 127 * 2048)
