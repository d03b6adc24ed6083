"""Axes are orthonormal, energies honest, and a few rows far off change neither."""

from __future__ import annotations

import numpy as np
import pytest

from polarindex.spectra import capped, rotated_segments, spectrum


def rows(n, dim, seed=0, power=1.0):
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(7).standard_normal((dim, dim)))[0]
    return (rng.standard_normal((n, dim)) * np.arange(1, dim + 1.0) ** -power @ axes).astype(np.float32)


@pytest.mark.parametrize("dim", [1, 5, 100])
def test_axes_are_orthonormal_and_energies_sum_to_one(dim):
    found = spectrum(rows(2000, dim))
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(dim), atol=1e-5)
    assert found.energies.sum() == pytest.approx(1)


def test_energies_are_those_of_the_law():
    energies = np.arange(1, 51.0) ** -2
    found = spectrum(rows(20_000, 50))
    np.testing.assert_allclose(found.energies, energies / energies.sum(), rtol=0.12)


def test_rows_without_structure_show_none_however_few():
    """The axes' own rows would give the first axis twice the energy of the mean."""
    found = spectrum(rows(800, 200, power=0))
    assert found.energies[:20].sum() < 0.12


def test_rows_far_off_choose_no_axes():
    x = rows(4000, 50)
    far = x.copy()
    far[::200] *= 1e6
    a, b = spectrum(x), spectrum(far)
    np.testing.assert_allclose(a.energies, b.energies, atol=0.03)
    assert abs(float(a.axes[0] @ b.axes[0])) > 0.99


@pytest.mark.parametrize("x", [np.zeros((100, 8), np.float32), rows(3, 8)])
def test_rows_without_energy_and_too_few_rows_have_no_spectrum(x):
    assert spectrum(x) is None


@pytest.mark.parametrize("factor", [1e-18, 1e18])
def test_units_do_not_matter(factor):
    x = rows(1000, 20)
    np.testing.assert_allclose(spectrum(x * np.float32(factor)).energies, spectrum(x).energies, rtol=1e-3)


def test_a_segment_spans_its_axes_and_is_rotated_in_itself():
    found = spectrum(rows(2000, 60))
    basis = rotated_segments(found.axes, (20, 30), seed=3)
    np.testing.assert_allclose(basis @ basis.T, np.eye(50), atol=1e-5)
    for part in (slice(0, 20), slice(20, 50)):
        inside = basis[part] @ found.axes[part].T
        np.testing.assert_allclose(inside @ inside.T, np.eye(part.stop - part.start), atol=1e-5)
        assert np.abs(inside).max() < 0.9
    assert not np.allclose(basis, rotated_segments(found.axes, (20, 30), seed=4))


def test_lengths_are_capped_at_twice_the_median():
    lengths = np.array([0, 1, 1, 1, 100.0])
    np.testing.assert_allclose(capped(lengths) * lengths, [0, 1, 1, 1, 2])
    np.testing.assert_array_equal(capped(np.zeros(3)), 1)
