"""The rate-distortion bound of Gaussian rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from polarindex.sweep.theory import gaussian_bound, spectrum

variances = some.lists(some.floats(1e-6, 1e6), min_size=1, max_size=40)
rates = some.floats(0, 10)


@pytest.mark.parametrize("bits", [0, 0.3, 1, 2, 7.5])
@pytest.mark.parametrize("dim", [1, 2, 100])
def test_equal_variances_give_shannons_bound(dim, bits):
    assert gaussian_bound(np.full(dim, 0.37), bits) == pytest.approx(4.0**-bits)


@given(variances, rates)
def test_the_bound_is_that_of_a_water_level_found_by_bisection(lam, bits):
    values = np.array(lam)
    low, high = 1e-30, values.max()
    for _ in range(300):
        level = np.sqrt(low * high)
        spent = np.maximum(0.0, 0.5 * np.log2(values / level)).mean()
        low, high = (level, high) if spent > bits else (low, level)
    assert gaussian_bound(values, bits) == pytest.approx(np.minimum(values, level).sum() / values.sum(), rel=1e-6)


@given(variances, rates, rates)
def test_more_bits_err_no_more_and_never_more_than_flat_data(lam, fewer, more):
    fewer, more = sorted((fewer, more))
    assert gaussian_bound(lam, more) <= gaussian_bound(lam, fewer) * (1 + 1e-12)
    assert gaussian_bound(lam, more) <= 4.0**-more * (1 + 1e-9)


def test_dead_coordinates_cost_nothing():
    assert gaussian_bound([1.0, 1.0, 0.0, 0.0], 1) == pytest.approx(gaussian_bound([1.0, 1.0], 2))


def test_a_spectrum_is_the_eigenvalues_of_unit_rows():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((500, 12)) * np.arange(1, 13)).astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    wanted = np.sort(np.linalg.svd(unit / np.sqrt(500), compute_uv=False) ** 2)[::-1]
    found = spectrum([x[:100], np.zeros((3, 12), np.float32), x[100:]], 12)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert found.sum() == pytest.approx(1)


def test_a_rotation_changes_no_spectrum():
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((400, 8)) * [9, 5, 3, 1, 1, 0.5, 0.1, 0]).astype(np.float32)
    turn, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    np.testing.assert_allclose(spectrum([x], 8), spectrum([(x @ turn).astype(np.float32)], 8), atol=1e-6)


@pytest.mark.parametrize("bad", [[], [-1.0, 1.0], [0.0, 0.0], [[1.0]]])
def test_bad_variances_are_an_error(bad):
    with pytest.raises(ValueError, match="variances must be"):
        gaussian_bound(bad, 1)


@pytest.mark.parametrize("bits", [-1, float("nan")])
def test_bad_bits_are_an_error(bits):
    with pytest.raises(ValueError, match="bits must be at least 0"):
        gaussian_bound([1.0], bits)


def test_rows_of_zeros_have_no_spectrum():
    with pytest.raises(ValueError, match="at least one that is not zero"):
        spectrum([np.zeros((3, 2), np.float32)], 2)
