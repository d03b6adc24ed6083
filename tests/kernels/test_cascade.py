"""Segments are scanned as the formula says, bit for bit, on every instruction set, whatever the bounds leave out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference
from polarindex.kernels.limits import RING

SETS = [name for name in kernels.available() if name != kernels.GENERIC]
NAMED = [pytest.param(name, marks=[] if name in (SETS[0], "avx2") else pytest.mark.isa) for name in SETS]
ROWS = 8  # of a tile
WIDTHS = [
    ((32, 8), (32, 6), (40, 5)),
    ((64, 7), (32, 4), (32, 3), (20, 2)),
    ((32, 3), (7, 1)),
    ((32, 6), (32, 5), (64, 1)),
    ((32, 6), (64, RING + 4), (32, RING + 3), (20, RING + 1)),
    ((64, RING + 2), (9, RING + 1)),
]


def found(name, given, hits=64):
    isa, alone = kernels.Isa(name, ROWS, 8), kernels.Isa(name, 1, 8)
    room = np.zeros(16 * hits * ROWS * 16 + 16, np.float32), np.empty((3, hits * ROWS * 16), np.int32)
    best = tuple(part.copy() for part in given["best"])
    kernels.scan_segments(isa, alone, *list(given.values())[:-1], best, room)
    kernels.sort_rows(*best)
    return best


def wanted(given):
    return reference.scan_segments(None, None, *given.values(), None)


def cases():
    """Every cut into segments with every tail of rows; filters, ids, k, queries and the head take turns."""
    for number, (widths, n) in enumerate(itertools.product(WIDTHS, (1, 15, 16, 33, 500, 1300))):
        yield number, widths, n, (3, 8, 9, 17)[number % 4], (1, 10, n + 3)[number // 2 % 3], number % 5 == 0


@pytest.mark.parametrize("name", NAMED)
def test_scan_segments_is_the_reference_to_the_bit(segment_scene, name):
    for number, widths, n, nq, k, full in cases():
        head = len(widths) if full else max(1, len(widths) - 2)
        given = segment_scene(widths, n, nq, k, head, number, ROWS)
        rng = np.random.default_rng(number)
        if number % 3 == 1:
            given["allowed"] = (rng.random(n) < 0.3).astype(np.uint8)
        if number % 3 == 2:
            given["names"] = (rng.permutation(10 * n)[:n], 0)
        for hits in (1, 100):
            for got, right in zip(found(name, given, hits), wanted(given), strict=True):
                assert_array_equal(got[:nq], right[:nq])


@pytest.mark.parametrize("name", NAMED)
def test_ties_are_kept_whatever_is_left_out(segment_scene, name):
    """A few rows many times over, so that keys are equal: the smaller ids win."""
    given = segment_scene(WIDTHS[1], 640, 9, 30, 2, 5, ROWS)
    for part in (*given["panels"], given["factors"][0]):
        part[1:] = part[0]
    for part in given["factors"][1:]:
        part.reshape(-1, 16)[1:] = part.reshape(-1, 16)[0]
    given["names"] = (np.random.default_rng(0).permutation(640), 0)
    for got, right in zip(found(name, given), wanted(given), strict=True):
        assert_array_equal(got[:9], right[:9])


def test_rows_are_left_out_that_their_tails_length_rules_out(segment_scene):
    """Told that all tails are nothing, it finds other rows: so it goes by them."""
    given = segment_scene(WIDTHS[1], 1300, 9, 10, 1, 3, ROWS, decay=1.0)
    right = wanted(given)
    assert_array_equal(found(SETS[0], given, 1)[1][:9], right[1][:9])
    given["factors"][2][:] = 0
    assert (found(SETS[0], given, 1)[1][:9] != right[1][:9]).any()
