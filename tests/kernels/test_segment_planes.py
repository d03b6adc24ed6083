"""Queries are asked about planes of segments as the formula says."""

import numpy as np
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference

PARTS = np.array([(8, 0, 8, 0, 8), (6, 8, 2, 8, 16), (3, 0, 1, 24, 8), (4, 3, 1, 32, 8)])  # the last is not read
PLANES = np.array([8, 3, 1])


def test_staged_segments_are_the_formula_to_the_bit(rng):
    """With no planes in the first, and a query of zeros."""
    levels = rng.integers(-127, 128, (3, 160)).astype(np.int8)
    levels[1] = 0
    gains, sums = rng.random((4, 3), np.float32), rng.integers(-900, 900, (4, 3), np.int32)
    estimates = np.abs(rng.normal(size=(3, 6)))
    estimates[0] = 0
    tables, steps, lifts = np.full((3, 7, 1, 2, 64), 255, np.uint8), *np.full((2, 3, 3), np.nan, np.float32)
    asked = levels.view(np.int32)
    kernels.stage_segments(asked, sums, gains, PARTS, PLANES, estimates, tables, steps, lifts)
    wanted = reference.stage_segments(asked, sums, gains, PARTS, PLANES, estimates)
    for got, right in zip((tables, steps, lifts), wanted, strict=True):
        assert_array_equal(got, right)
    assert lifts[1:, 0].all() and not lifts[0].any()
