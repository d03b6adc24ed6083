"""The encoder of trellis codes finds the ring that the formula finds, and that is the nearest one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference

BITS = (1, 2, 3, 4)
# no seam, one of some bits, one of all; fewer coordinates than are tried around it, and more
NONE = np.empty(0, np.uint8)
DIMS = (1, 2, 7, 9, 28, 30, 31, 32, 33, 64, 100, 160)


def encoded(bits, y, gains, levels):
    words, dots = np.full((len(y), -(-y.shape[1] * bits // 32)), 0xDEADBEEF, np.uint32), np.full(len(y), np.nan)
    kernels.encode_trellis(kernels.Step(bits), y, gains, levels, words, dots)
    return words, dots


def random_levels(rng):
    return rng.permutation(np.arange(-127, 128).repeat(2)[:256]).astype(np.float32)


@pytest.mark.parametrize("bits", BITS)
def test_rings_are_those_of_the_formula(bits):
    for d in DIMS:
        rng = np.random.default_rng([bits, d])
        y, gains = rng.standard_normal((3, d)).astype(np.float32), rng.uniform(20, 60, 3)
        case = bits, y, gains, random_levels(rng)
        for got, wanted in zip(encoded(*case), reference.encode_trellis(*case), strict=True):
            assert_array_equal(got, wanted)


@pytest.mark.parametrize("bits", BITS)
def test_equal_costs_go_to_the_same_half_as_in_the_formula(bits):
    """Few distinct levels and values: ties at nearly every step."""
    for d in (3, 32, 65):
        rng = np.random.default_rng([bits, d])
        levels, y = rng.integers(-1, 2, 256).astype(np.float32), rng.integers(-1, 2, (4, d)).astype(np.float32)
        case = bits, y, np.ones(4), levels
        assert_array_equal(encoded(*case)[0], reference.encode_trellis(*case)[0])


@pytest.mark.parametrize(("bits", "d"), [(1, 7), (2, 4), (3, 3), (4, 2)])
def test_no_ring_is_nearer(bits, d):
    """Of all there are, where the last window does not reach the first."""
    rng = np.random.default_rng(d)
    levels, y = random_levels(rng), (60 * rng.standard_normal((20, d))).astype(np.float32)
    words, dots = encoded(bits, y, np.ones(20), levels)
    every = np.arange(2 ** (bits * (d - 1) + 8), dtype=np.uint32)[:, None]
    decoded = levels[reference.unpack_ring(every, bits, NONE, d)].astype(np.float64)
    for row, word, dot in zip(y, words, dots, strict=True):
        errors = ((row - decoded) ** 2).sum(axis=1)
        assert errors[word[0]] <= errors.min() * (1 + 1e-6)
        assert dot == pytest.approx(decoded[word[0]] @ row)


@pytest.mark.parametrize("bits", BITS)
def test_no_other_ring_with_the_same_seam_is_nearer(bits):
    """Bits other than the shared ones are changed, one and two at a time."""
    d = 32
    rng = np.random.default_rng(bits)
    levels, y = random_levels(rng), (50 * rng.standard_normal((2, d))).astype(np.float32)
    for row, ring in zip(y, encoded(bits, y, np.ones(2), levels)[0], strict=True):
        free = range(8 - bits, d * bits)
        flips = [[a, b] for a, b in itertools.combinations_with_replacement(free, 2)]
        others = np.unpackbits(np.tile(ring.view(np.uint8), (len(flips), 1)), axis=1, bitorder="little")
        np.put_along_axis(others, np.array(flips), 1 - np.take_along_axis(others, np.array(flips), 1), 1)
        rings = np.packbits(others, axis=1, bitorder="little").view(np.uint32)
        errors = [((row - levels[reference.unpack_ring(r, bits, NONE, d)]) ** 2).sum(axis=1) for r in (ring[None], rings)]
        assert errors[0].min() <= errors[1].min() * (1 + 1e-6)


def test_a_code_does_not_depend_on_other_rows():
    rng = np.random.default_rng(0)
    y, gains, levels = rng.standard_normal((5, 40)).astype(np.float32), np.full(5, 40.0), random_levels(rng)
    words, dots = encoded(2, y, gains, levels)
    for i in (0, 4):
        alone = encoded(2, y[i : i + 1], gains[i : i + 1], levels)
        assert (alone[0][0] == words[i]).all() and alone[1][0] == dots[i]
    assert encoded(2, y[:0], gains[:0], levels)[0].shape == (0, 3)
