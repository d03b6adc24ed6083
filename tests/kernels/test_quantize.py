"""Codes are counts of thresholds passed, ties upward; the two sums are float64 in the order of sums.py."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference

SIZES = (0, 1, 15, 16, 17, 31)
NONE = np.empty(0, np.float32)


def quantized(y, gains, thresholds, levels, multiples=NONE):
    codes = np.full(y.shape, 0xAA, np.uint8)
    dots, energies = np.full(len(y), np.nan), np.full(len(y), np.nan)
    kernels.quantize(y, gains, multiples, thresholds, levels, codes, dots, energies)
    return codes, dots, energies


def codebook(bits, rng):
    """Irregular thresholds and levels, so that no off-by-one maps the grid onto itself."""
    thresholds = np.sort(rng.normal(size=2**bits - 1)).astype(np.float32)
    return thresholds, np.sort(rng.normal(size=2**bits)).astype(np.float32)


def assert_equal_to_reference(y, gains, thresholds, levels, multiples=NONE):
    wanted = reference.quantize(y, gains, multiples, thresholds, levels)
    for got, expected in zip(quantized(y, gains, thresholds, levels, multiples), wanted, strict=True):
        assert_array_equal(got, expected)


@pytest.mark.parametrize("bits", range(1, 9))
def test_quantize_is_the_reference_at_every_size(bits):
    rng = np.random.default_rng(bits)
    book = codebook(bits, rng)
    for n in SIZES:
        for dim in (1, 2, 7, 33, 70):
            y = rng.normal(size=(n, dim)).astype(np.float32)
            assert_equal_to_reference(y, rng.uniform(0.5, 2, n).astype(np.float32), *book)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_value_on_a_threshold_gets_the_upper_code(bits):
    rng = np.random.default_rng(bits)
    thresholds, levels = codebook(bits, rng)
    below = np.nextafter(thresholds, np.float32(-np.inf))
    above = np.nextafter(thresholds, np.float32(np.inf))
    y = np.stack([below, thresholds, above])
    codes, _, _ = quantized(y, np.ones(3, np.float32), thresholds, levels)
    upper = np.arange(1, 2**bits)
    assert_array_equal(codes, np.stack([upper - 1, upper, upper]))


def test_the_product_with_the_gain_is_rounded_to_float32_before_the_comparison():
    """0.1f * 3f rounds to 0.3f + 1 ulp in float32; in float64 it lies below that."""
    y, gains = np.array([[0.1]], np.float32), np.array([3], np.float32)
    threshold = np.array([y[0, 0] * gains[0]], np.float32)
    assert np.float64(y[0, 0]) * 3 < threshold[0]
    codes, _, _ = quantized(y, gains, threshold, np.array([-1, 1], np.float32))
    assert codes[0, 0] == 1


def test_a_first_threshold_of_minus_infinity_leaves_code_0_unused():
    """The 8-bit grid: 255 steps of int8, -127 .. 127, code 0 being a second -127."""
    unit = 0.03
    thresholds = np.concatenate([[-np.inf], (np.arange(-127, 127) + 0.5) * unit]).astype(np.float32)
    levels = np.maximum(np.arange(-128, 128), -127).astype(np.float32)
    rng = np.random.default_rng(8)
    y = np.concatenate([rng.normal(size=500), [-1e30, -3.0e38, 1e30, 0.0, -0.0]]).astype(np.float32)[None, :]
    codes, _, _ = quantized(y, np.ones(1, np.float32), thresholds, levels)
    assert codes.min() == 1 and codes.max() == 255
    assert_array_equal(levels[codes[0, :500]], np.clip(np.rint(y[0, :500] / unit), -127, 127))
    assert_equal_to_reference(y, np.ones(1, np.float32), thresholds, levels)


def test_extremes_reach_the_first_and_the_last_code():
    thresholds, levels = codebook(5, np.random.default_rng(0))
    y = np.array([[-np.inf, -3.4e38, 3.4e38, np.inf]], np.float32)
    codes, _, _ = quantized(y, np.ones(1, np.float32), thresholds, levels)
    assert codes.tolist() == [[0, 0, 31, 31]]


def test_a_gain_of_zero_and_a_zero_row_give_the_code_of_zero():
    thresholds, levels = np.array([-0.5, 0, 0.5], np.float32), np.array([-1.5, -0.5, 0.5, 1.5], np.float32)
    y = np.array([[1, -1, 0], [0, 0, 0]], np.float32)
    codes, dots, energies = quantized(y, np.array([0, 1], np.float32), thresholds, levels)
    assert_array_equal(codes, np.full((2, 3), 2))
    assert_array_equal(dots, [0, 0])
    assert_array_equal(energies, [0.75, 0.75])


def test_each_row_has_its_own_gain_and_sums():
    """One row differs at a time."""
    rng = np.random.default_rng(2)
    thresholds, levels = codebook(4, rng)
    y = rng.normal(size=(18, 20)).astype(np.float32)
    gains = np.ones(18, np.float32)
    base = quantized(y, gains, thresholds, levels)
    for i in range(18):
        changed = gains.copy()
        changed[i] = 3
        alone = quantized(y[i : i + 1], changed[i : i + 1], thresholds, levels)
        for got, before, own in zip(quantized(y, changed, thresholds, levels), base, alone, strict=True):
            wanted = before.copy()
            wanted[i] = own[0]
            assert_array_equal(got, wanted)


@pytest.mark.parametrize("bits", range(1, 9))
def test_gains_are_chosen_by_the_cosine_of_levels_with_the_row(bits):
    """By the definition, among all that is offered; and to the bit as the reference does, rows without a direction and
    gains beyond float32 among them."""
    rng = np.random.default_rng(bits)
    thresholds, levels = codebook(bits, rng)
    y, gains = rng.normal(size=(35, 50)).astype(np.float32), rng.uniform(0.5, 2, 35).astype(np.float32)
    multiples = np.array([0.5, 0.8, 1.0, 1.3, 2.0], np.float32)
    codes, dots, energies = quantized(y, gains, thresholds, levels, multiples)
    offered = [quantized(y, gains * multiple, thresholds, levels) for multiple in multiples]
    cosines = np.array([dots / np.sqrt(energies) for _, dots, energies in offered])
    np.testing.assert_allclose(dots / np.sqrt(energies), np.maximum(cosines, 0).max(axis=0), rtol=1e-12)
    assert len(np.unique(cosines.argmax(axis=0))) > (bits > 1)
    y[1], y[2] = 0, 1e-38
    gains[2], gains[3] = 3e38, 0
    assert_equal_to_reference(y, gains, thresholds, levels, multiples)
