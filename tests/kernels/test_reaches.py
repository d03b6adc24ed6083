"""What queries may still add to a key is as the reference says."""

import numpy as np
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference


def test_queries_are_asked_as_the_reference_says():
    rng = np.random.default_rng(0)
    sizes, parts = np.array((32, 64, 5)), np.array([(2, 0, 1, 0, 8), (3, 2, 2, 8, 16), (1, 8, 1, 24, 8)])
    for nq, held in ((1, 1), (9, 16)):
        levels, gains = rng.integers(-127, 128, nq * 101).astype(np.int8), np.zeros((3, held), np.float32)
        gains[:, :nq] = rng.random((3, nq))
        asked, sums = np.full((held, 32), 7, np.int32), np.full((3, held), 7, np.int32)
        reaches = np.full((3, held), np.nan, np.float32)
        kernels.ask_segments(levels, sizes, gains, parts, asked, sums, reaches)
        right = reference.ask_segments(levels, sizes, gains, parts, 32)
        for got, one in zip((asked, sums, reaches), right, strict=True):
            assert_array_equal(got, one)
