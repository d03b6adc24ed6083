"""The recursive polar transform, its inverse by table, and rows rounded to int8."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference

DEPTHS = [(2, 1), (6, 1), (4, 2), (12, 2), (16, 4), (48, 4), (64, 6), (128, 3)]
# atan2 of two libraries may differ by an ulp of float64, which can move the rounding to float32 by one ulp.
ONE_ULP = 2.0**-22
TWO_PI = np.float32(2 * np.pi)  # 6.2831855, above 2 pi: what an angle just under 2 pi rounds to


def angles_of(y, depth):
    n, dim = y.shape
    angles = np.full((n, dim - (dim >> depth)), np.nan, np.float32)
    radii = np.full((n, dim >> depth), np.nan)
    kernels.polar_angles(y, depth, angles, radii)
    return angles, radii


def vectors_of(codes, radii, depth, offsets, cosines, sines):
    out = np.full((len(codes), radii.shape[1] << depth), np.nan, np.float32)
    kernels.polar_vectors(codes, radii, depth, offsets, cosines, sines, out)
    return out


def tables(rng, depth):
    """Angle tables of unlike lengths, one a level, one after the other."""
    sizes = rng.integers(1, 17, depth)
    angles = rng.uniform(0, 2 * np.pi, sizes.sum())
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    return sizes, offsets, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


@pytest.mark.parametrize("dim, depth", DEPTHS)
@pytest.mark.parametrize("n", [0, 1, 17])
def test_angles_and_radii_are_those_of_the_reference(dim, depth, n):
    y = np.random.default_rng(dim + n).normal(size=(n, dim)).astype(np.float32)
    angles, radii = angles_of(y, depth)
    wanted_angles, wanted_radii = reference.polar_angles(y, depth)
    assert_allclose(angles, wanted_angles, rtol=ONE_ULP, atol=0)
    assert_array_equal(radii, wanted_radii)  # products, sums and roots of float64 in one order: the same bits
    assert (angles >= 0).all() and (angles <= TWO_PI).all()
    assert (angles[:, dim // 2 :] <= np.float32(np.pi / 2)).all()


@pytest.mark.parametrize("dim, depth", DEPTHS)
@pytest.mark.parametrize("n", [0, 1, 17])
def test_vectors_are_those_of_the_reference_to_the_bit(dim, depth, n):
    rng = np.random.default_rng(dim + n)
    sizes, offsets, cosines, sines = tables(rng, depth)
    counts = [dim >> level for level in range(1, depth + 1)]
    codes = np.concatenate(
        [rng.integers(0, size, (n, count)) for size, count in zip(sizes, counts, strict=True)], axis=1
    ).astype(np.uint16)
    radii = rng.uniform(0, 3, (n, dim >> depth)).astype(np.float32)
    got = vectors_of(codes, radii, depth, offsets, cosines, sines)
    assert_array_equal(got, reference.polar_vectors(codes, radii, depth, offsets, cosines, sines))


@pytest.mark.parametrize("dim, depth", DEPTHS)
def test_vectors_undo_angles_up_to_their_rounding(dim, depth):
    """A table with one entry an angle: the error is float32 rounding, a few ulp a level."""
    y = np.random.default_rng(dim).normal(size=(1, dim)).astype(np.float32)
    angles, radii = angles_of(y, depth)
    counts = np.array([dim >> level for level in range(1, depth + 1)])
    offsets = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    codes = np.concatenate([np.arange(count) for count in counts])[None, :].astype(np.uint16)
    table = angles[0].astype(np.float64)
    cosines, sines = np.cos(table).astype(np.float32), np.sin(table).astype(np.float32)
    back = vectors_of(codes, radii.astype(np.float32), depth, offsets, cosines, sines)
    assert_allclose(back, y, atol=depth * 4 * 2.0**-23 * np.linalg.norm(y))


def test_the_eight_compass_points():
    points = np.array([[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]], np.float32)
    angles, radii = angles_of(points, 1)
    assert_allclose(angles[:, 0], np.arange(8) * np.pi / 4, rtol=ONE_ULP)
    assert_allclose(radii[:, 0], np.linalg.norm(points.astype(np.float64), axis=1), rtol=1e-15)


def test_zero_and_signed_zero_have_an_angle():
    y = np.array([[0, 0], [0, -0.0], [-0.0, 0.0], [-0.0, -0.0]], np.float32)
    angles, radii = angles_of(y, 1)
    assert np.isfinite(angles).all() and (angles >= 0).all() and not radii.any()


def test_no_overflow_and_no_underflow_at_the_ends_of_float32():
    y = np.array([[3e38, -3e38, 3e38, 3e38], [1e-45, 1e-45, 0, 1e-45]], np.float32)
    _, radii = angles_of(y, 2)
    assert_allclose(radii[:, 0], np.linalg.norm(y.astype(np.float64), axis=1), rtol=1e-14)


def rounded(values):
    levels, peaks = np.full(values.shape, 77, np.int8), np.full(len(values), np.nan, np.float32)
    kernels.round_rows(values, levels, peaks)
    return levels, peaks


@pytest.mark.parametrize("dim", [*range(1, 71), 200])
def test_rows_are_rounded_as_the_reference(dim):
    rng = np.random.default_rng(dim)
    scales = np.float32(10) ** rng.integers(-20, 20, (dim % 18, 1)).astype(np.float32)
    values = rng.normal(size=(dim % 18, dim)).astype(np.float32) * scales
    for got, wanted in zip(rounded(values), reference.round_rows(values), strict=True):
        assert_array_equal(got, wanted)


def test_a_row_reaches_127_of_its_own_sign_and_a_zero_row_gives_zeros():
    values = np.array([[-2, 1, 0], [0.25, -0.125, 0.25], [0, 0, -0.0]], np.float32)
    levels, peaks = rounded(values)
    assert levels.tolist() == [[-127, 64, 0], [127, -64, 127], [0, 0, 0]]  # 63.5 to even
    assert peaks.tolist() == [2, 0.25, 0]


def test_no_peak_rounds_past_127():
    """127 / peak is itself rounded: over 10,000 peaks of all magnitudes the product must stay at 127."""
    rng = np.random.default_rng(0)
    peaks = (rng.uniform(1, 2, 10_000) * 2.0 ** rng.integers(-100, 100, 10_000)).astype(np.float32)
    levels, _ = rounded(np.stack([peaks, -peaks], axis=1))
    assert (levels == [127, -127]).all()


def test_a_row_of_the_smallest_numbers_is_rounded_like_any_other():
    values = np.float32(1e-40) * np.array([[127, -127, 64, 0]], np.float32)
    levels, _ = rounded(values)
    assert levels.tolist() == [[127, -127, 64, 0]]
