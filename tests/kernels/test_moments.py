"""The pass over rows before they are coded."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, 7), (40, 129)])
def test_peak_and_moments_are_the_reference(shape):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) * 10.0 ** rng.integers(-30, 30, shape)).astype(np.float32)
    assert kernels.peak(x) == reference.peak(x)
    sums, squares = rng.normal(size=shape[1]), rng.random(shape[1])
    wanted = reference.add_moments(x, sums, squares)
    kernels.add_moments(x, sums, squares)
    assert_array_equal(sums, wanted[0])
    assert_array_equal(squares, wanted[1])


@pytest.mark.parametrize("value", [-3.4e38, 3.4e38, 1e-45, -0.0, np.inf, -np.inf])
def test_the_peak_is_found_at_every_place(value):
    for j in range(70):
        x = np.zeros((2, 35), np.float32)
        x.flat[j] = value
        assert kernels.peak(x) == np.float32(abs(value))


@pytest.mark.parametrize("dim", [1, 2, 15, 16, 17, 100])
def test_normalise_is_the_reference_to_the_bit(dim):
    rng = np.random.default_rng(dim)
    for n in (0, 1, 15, 16, 17, 40):
        x = (rng.normal(size=(n, dim)) * 10.0 ** rng.integers(-30, 30, (n, 1))).astype(np.float32)
        unit, norms2 = np.full_like(x, np.nan), np.full(n, np.nan)
        kernels.normalise(x, unit, norms2)
        wanted = reference.normalise(x)
        assert_array_equal(unit, wanted[0])
        assert_array_equal(norms2, wanted[1])
