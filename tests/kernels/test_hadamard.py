"""The rotation kernels, to the bit: the butterfly's order of additions is part of the format."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from polarindex import kernels
from polarindex.kernels import reference

ROUNDS = 3
POISON = np.float32(np.nan)


def plan(dim, rng, rounds=ROUNDS):
    """order, signs, starts, size, norm: two windows unless dim is a power of two."""
    order = np.argsort(rng.random((rounds, dim)), axis=1).astype(np.int64)
    size = 1 << (dim.bit_length() - 1)
    starts = np.unique([0, dim - size]).astype(np.int64)
    signs = np.where(rng.random((rounds, len(starts), dim)) < 0.5, np.float32(-1), np.float32(1))
    return order, signs, starts, size, np.float32(1 / np.sqrt(size))


def rotated(x, order, signs, starts, size, norm):
    out = np.full_like(x, POISON)
    kernels.rotate(x, order, signs, starts, size, norm, out)
    return out


def rotated_back(y, order, signs, starts, size, norm):
    out = np.full_like(y, POISON)
    kernels.rotate_back(y, order, signs, starts, size, norm, out)
    return out


@pytest.mark.parametrize("dim", [*range(1, 71), 96, 127, 128, 129, 200, 784])
def test_rotate_is_the_reference_to_the_bit(dim):
    rng = np.random.default_rng(dim)
    steps = plan(dim, rng)
    x = rng.normal(size=(17 + dim % 16, dim)).astype(np.float32)  # 17 .. 32 rows: every tail of a block of 16
    y = rotated(x, *steps)
    assert_array_equal(y, reference.rotate(x, *steps))
    back = rotated_back(y, *steps)
    assert_array_equal(back, reference.rotate_back(y, *steps))


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49])
def test_every_number_of_rows(n):
    rng = np.random.default_rng(n)
    steps = plan(37, rng)
    x = rng.normal(size=(n, 37)).astype(np.float32)
    assert_array_equal(rotated(x, *steps), reference.rotate(x, *steps))


def test_a_row_is_rotated_alike_wherever_it_stands():
    """One row among 33 differs at a time, and only its own result does."""
    rng = np.random.default_rng(0)
    steps = plan(24, rng)
    x = rng.normal(size=(33, 24)).astype(np.float32)
    y, other = rotated(x, *steps), rng.normal(size=(1, 24)).astype(np.float32)
    alone = rotated(other, *steps)
    for i in range(len(x)):
        changed = x.copy()
        changed[i] = other
        wanted = y.copy()
        wanted[i] = alone
        assert_array_equal(rotated(changed, *steps), wanted)


@pytest.mark.parametrize("dim", [1, 2, 3, 16, 61, 784, 1000])
def test_rotate_back_is_the_inverse_and_lengths_are_kept(dim):
    """Error per round and level at most one rounding, so 1e-6 of the length is ample at these sizes."""
    rng = np.random.default_rng(dim)
    steps = plan(dim, rng)
    x = rng.normal(size=(5, dim)).astype(np.float32)
    y = rotated(x, *steps)
    lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    assert_allclose(np.linalg.norm(y.astype(np.float64), axis=1), lengths, rtol=1e-6)
    assert (np.linalg.norm(rotated_back(y, *steps) - x, axis=1) < 1e-6 * lengths).all()


def test_rotate_back_is_the_transpose():
    """<R x, y> = <x, R^T y> for every pair of unit vectors: the matrices themselves."""
    steps = plan(21, np.random.default_rng(3))
    forward = rotated(np.eye(21, dtype=np.float32), *steps)
    backward = rotated_back(np.eye(21, dtype=np.float32), *steps)
    assert_allclose(forward, backward.T, atol=1e-6)


@pytest.mark.parametrize("rounds", [0, 1, 2, 4])
def test_any_number_of_rounds(rounds):
    """An even number of rounds ends in the other buffer than an odd one."""
    rng = np.random.default_rng(rounds)
    steps = plan(19, rng, rounds)
    x = rng.normal(size=(18, 19)).astype(np.float32)
    assert_array_equal(rotated(x, *steps), reference.rotate(x, *steps))
    assert_array_equal(rotated_back(x, *steps), reference.rotate_back(x, *steps))


def test_the_arguments_are_not_changed():
    rng = np.random.default_rng(5)
    steps = plan(10, rng)
    x = rng.normal(size=(20, 10)).astype(np.float32)
    before = [np.copy(part) for part in (x, *steps)]
    rotated(x, *steps)
    rotated_back(x, *steps)
    for part, copy in zip((x, *steps), before, strict=True):
        assert_array_equal(part, copy)


# --- along rows


def rotated_rows(x, order, signs, starts, size, norm):
    flips = kernels.flips_of(signs, starts, size)
    assert_array_equal(flips, reference.flips_of(signs, starts, size))
    out = np.full_like(x, POISON)
    kernels.rotate_rows(x, order, flips, starts, size, norm, out)
    return out


@pytest.mark.parametrize("dim", [*range(16, 41), 63, 64, 65, 100, 128, 200, 784])
def test_few_rows_are_rotated_to_the_bits_of_many(dim):
    """Signs of zeros too."""
    rng = np.random.default_rng(dim)
    steps = plan(dim, rng)
    x = rng.normal(size=(5, dim)).astype(np.float32)
    x[2], x[3] = 0, np.eye(dim, dtype=np.float32)[dim // 3]
    for n in (1, 2, 5):
        assert_array_equal(rotated_rows(x[:n], *steps).view(np.int32), rotated(x[:n], *steps).view(np.int32))


@pytest.mark.parametrize("rounds", [0, 1, 2, 4])
def test_few_rows_are_rotated_by_any_number_of_rounds(rounds):
    rng = np.random.default_rng(rounds)
    steps, x = plan(37, rng, rounds), rng.normal(size=(3, 37)).astype(np.float32)
    before = [np.copy(part) for part in (x, *steps)]
    assert_array_equal(rotated_rows(x, *steps), rotated(x, *steps))
    for part, copy in zip((x, *steps), before, strict=True):
        assert_array_equal(part, copy)
    assert rotated_rows(x[:0], *steps).shape == (0, 37)


def test_flips_of_three_windows():
    """More than two windows, which share much, little and nothing with the one before."""
    signs = np.where(np.random.default_rng(1).random((2, 3, 20)) < 0.5, np.float32(-1), np.float32(1))
    starts = np.array([0, 3, 11])
    flips = kernels.flips_of(signs, starts, 8)
    assert_array_equal(flips, reference.flips_of(signs, starts, 8))
    assert_array_equal(flips[:, 0], signs[:, 0])
    assert_array_equal(flips[:, 1, 3:8], signs[:, 1, 3:8])
    assert (np.delete(flips[:, 1], np.s_[3:8], axis=1) == 1).all() and (flips[:, 2] == 1).all()
