"""Norms, unit rows and means: float64 sums of float32 rows."""

from __future__ import annotations

import numpy as np
import pytest

from polarindex.vectors import bounded_rows, mean_and_energy, squared_norms, unit_rows


def test_squared_norms_are_summed_in_float64():
    x = np.array([[4096.0, 1.0, 1.0], [1e30, 1e30, 0.0], [1e-30, 0.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    norms2 = squared_norms(x)
    assert norms2.dtype == np.float64
    np.testing.assert_allclose(norms2, (x.astype(np.float64) ** 2).sum(axis=1), rtol=1e-15)
    assert norms2[0] == 4096.0**2 + 2  # float32 would lose the 2


def test_unit_rows_have_length_one_from_the_shortest_to_the_longest_row():
    rng = np.random.default_rng(0)
    scales = np.array([1e-30, 1e-10, 1.0, 1e10, 1e30])
    x = (rng.standard_normal((5, 50)) * scales[:, None]).astype(np.float32)
    before = x.copy()
    unit = unit_rows(x, "x")
    assert unit.dtype == np.float32 and (x == before).all()
    np.testing.assert_allclose(np.linalg.norm(unit.astype(np.float64), axis=1), 1.0, atol=1e-7)
    np.testing.assert_allclose(unit * np.linalg.norm(x.astype(np.float64), axis=1)[:, None], x, rtol=1e-6)


def test_a_zero_row_has_no_direction_and_is_named_by_its_number_in_the_whole_set():
    x = np.ones((3, 2), np.float32)
    x[1] = 0
    with pytest.raises(ValueError, match=r"^queries\[4097\] is a zero vector.*cosine") as caught:
        unit_rows(x, "queries", start=4096)
    assert "\n" not in str(caught.value)


def test_rows_whose_distances_would_overflow_float32_are_named():
    x = np.ones((3, 4), np.float32)
    assert bounded_rows(x, "x") is x
    x[2] = 1e19
    with pytest.raises(ValueError, match=r"^x\[12\] is too long: its length 2e\+19"):
        bounded_rows(x, "x", start=10)


def test_mean_and_energy_of_chunks_are_those_of_all_rows():
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((1000, 7)) + 1e4).astype(np.float32)
    mean, energy = mean_and_energy((x[i : i + 300] for i in range(0, 1000, 300)), 7)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=6e-8)  # one rounding to float32
    assert energy == pytest.approx((x.astype(np.float64) ** 2).sum(axis=1).mean(), rel=1e-12)


def test_the_mean_of_no_rows_is_zero():
    mean, energy = mean_and_energy(iter([]), 3)
    assert mean.tolist() == [0.0, 0.0, 0.0] and energy == 0.0
