"""The encoder of trellis codes finds the ring that the formula finds, and that is the nearest one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.codebooks import folded
from polarindex.kernels import reference

BITS = (1, 2, 3, 4)
STEPS = [pytest.param(bits, window, id=f"{bits} of {window}") for window in (8, 12) for bits in BITS]
NO_MIX = np.empty(0, np.uint8)
# no seam, one of some bits, one of all; fewer coordinates than are tried around it, and more
DIMS = {8: (1, 2, 7, 9, 28, 30, 31, 32, 33, 64, 100, 160), 12: (1, 3, 7, 30, 32, 33, 100)}


def encoded(bits, y, gains, levels):
    words, dots = np.full((len(y), -(-y.shape[1] * bits // 32)), 0xDEADBEEF, np.uint32), np.full(len(y), np.nan)
    kernels.encode_trellis(kernels.Step(bits, len(levels).bit_length() - 1), y, gains, levels, words, dots)
    return words, dots


def random_mix(rng, window):
    return NO_MIX if window == 8 else rng.integers(0, 256, 64).astype(np.uint8)


def random_levels(rng):
    """By a window's byte."""
    return rng.permutation(np.arange(-127, 128).repeat(2)[:256]).astype(np.float32)


def by_window(levels, mix):
    return levels[folded(tuple(mix.tolist()))] if mix.size else levels


@pytest.mark.parametrize(("bits", "window"), STEPS)
def test_rings_are_those_of_the_formula(bits, window):
    for d in DIMS[window]:
        rng = np.random.default_rng([bits, d])
        y, gains = rng.standard_normal((3, d)).astype(np.float32), rng.uniform(20, 60, 3)
        case = bits, y, gains, rng.integers(-127, 128, 1 << window).astype(np.float32)
        for got, wanted in zip(encoded(*case), reference.encode_trellis(*case), strict=True):
            assert_array_equal(got, wanted)


@pytest.mark.parametrize(("bits", "window"), STEPS)
def test_equal_costs_go_to_the_same_half_as_in_the_formula(bits, window):
    """Few distinct levels and values: ties at nearly every step."""
    for d in (3, 32, 65):
        rng = np.random.default_rng([bits, d])
        levels, y = rng.integers(-1, 2, 1 << window).astype(np.float32), rng.integers(-1, 2, (4, d)).astype(np.float32)
        case = bits, y, np.ones(4), levels
        assert_array_equal(encoded(*case)[0], reference.encode_trellis(*case)[0])


@pytest.mark.parametrize(("bits", "window", "d"), [(1, 8, 7), (2, 8, 4), (3, 8, 3), (4, 8, 2), (1, 12, 5), (4, 12, 2)])
def test_no_ring_is_nearer(bits, window, d):
    """Of all there are, where the last window does not reach the first."""
    rng = np.random.default_rng(d)
    levels, y, mix = random_levels(rng), (60 * rng.standard_normal((20, d))).astype(np.float32), random_mix(rng, window)
    words, dots = encoded(bits, y, np.ones(20), by_window(levels, mix))
    every = np.arange(2 ** (bits * (d - 1) + window), dtype=np.uint32)[:, None]
    decoded = levels[reference.unpack_ring(every, bits, mix, d)].astype(np.float64)
    for row, word, dot in zip(y, words, dots, strict=True):
        errors = ((row - decoded) ** 2).sum(axis=1)
        assert errors[word[0]] <= errors.min() * (1 + 1e-6)
        assert dot == pytest.approx(decoded[word[0]] @ row)


@pytest.mark.parametrize(("bits", "window"), STEPS)
def test_no_other_ring_with_the_same_seam_is_nearer(bits, window):
    """Bits other than the shared ones are changed, one and two at a time."""
    d = 32
    rng = np.random.default_rng(bits)
    levels, y, mix = random_levels(rng), (50 * rng.standard_normal((2, d))).astype(np.float32), random_mix(rng, window)
    for row, ring in zip(y, encoded(bits, y, np.ones(2), by_window(levels, mix))[0], strict=True):
        free = range(window - bits, d * bits)
        flips = [[a, b] for a, b in itertools.combinations_with_replacement(free, 2)]
        others = np.unpackbits(np.tile(ring.view(np.uint8), (len(flips), 1)), axis=1, bitorder="little")
        np.put_along_axis(others, np.array(flips), 1 - np.take_along_axis(others, np.array(flips), 1), 1)
        rings = np.packbits(others, axis=1, bitorder="little").view(np.uint32)
        found, other = (levels[reference.unpack_ring(some, bits, mix, d)] for some in (ring[None], rings))
        assert ((row - found) ** 2).sum() <= ((row - other) ** 2).sum(axis=1).min() * (1 + 1e-6)


def test_a_code_does_not_depend_on_other_rows():
    rng = np.random.default_rng(0)
    y, gains, levels = rng.standard_normal((5, 40)).astype(np.float32), np.full(5, 40.0), random_levels(rng)
    words, dots = encoded(2, y, gains, levels)
    for i in (0, 4):
        alone = encoded(2, y[i : i + 1], gains[i : i + 1], levels)
        assert (alone[0][0] == words[i]).all() and alone[1][0] == dots[i]
    assert encoded(2, y[:0], gains[:0], levels)[0].shape == (0, 3)
