"""Registers of 16 values do the same on this machine and on one without SIMD."""

from __future__ import annotations

import hashlib
import sys

import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex.kernels.candidates import shrink, tighten
from polarindex.kernels.lanes import (
    butterflies,
    first_lanes,
    floats_at,
    lanes_set,
    pack_at,
    put_at,
    splat,
    words_at,
)
from polarindex.kernels.simd import start


@numba.njit
def packed(values, numbers, first, limit, count, out, out_numbers, at):
    """The first `count` of values[first : first + 16] that reach a limit, and their numbers, from out[at] on."""
    lanes = floats_at(start(values), first)
    chosen = (lanes >= splat(limit)) & first_lanes(count)
    pack_at(start(out), at, lanes, chosen)
    pack_at(start(out_numbers), at, words_at(start(numbers), first), chosen)
    return lanes_set(chosen)


@numba.njit
def transformed(values, first, out, at):
    put_at(start(out), at, butterflies(floats_at(start(values), first)))


def pack_cases():
    """Every count with every share of lanes that are chosen: what was packed, and what the formula has."""
    rng = np.random.default_rng(0)
    for count in range(-1, 18):
        for share in (0, 0.1, 0.5, 1):
            values, numbers = rng.random(40).astype(np.float32), rng.integers(-(2**31), 2**31, 40).astype(np.int32)
            first, at = rng.integers(0, 24), rng.integers(0, 16)
            out, out_numbers = np.full(48, -7, np.float32), np.full(48, -77, np.int32)
            held = packed(values, numbers, first, np.float32(1 - share), count, out, out_numbers, at)
            chosen = np.flatnonzero(values[first : first + 16] >= np.float32(1 - share)) + first
            chosen = chosen[chosen < first + count]
            assert (out[:at] == -7).all() and (out[at + 16 :] == -7).all(), "written outside of a register"
            yield held, out[at : at + held], out_numbers[at : at + held], values[chosen], numbers[chosen]


def test_chosen_lanes_are_packed_in_their_order():
    for held, out, out_numbers, values, numbers in pack_cases():
        assert held == len(values)
        assert_array_equal(out, values)
        assert_array_equal(out_numbers, numbers)


def test_each_lane_is_packed_from_its_own_place():
    """One lane at a time, then all but one."""
    values, numbers = np.arange(16, dtype=np.float32), np.arange(100, 116, dtype=np.int32)
    for lane in range(16):
        for others in (False, True):
            marked = np.where((np.arange(16) == lane) != others, values, -1).astype(np.float32)
            out, out_numbers = np.zeros(16, np.float32), np.zeros(16, np.int32)
            held = packed(marked, numbers, 0, np.float32(0), 16, out, out_numbers, 0)
            assert_array_equal(out[:held], marked[marked >= 0])
            assert_array_equal(out_numbers[:held], numbers[marked >= 0])


def test_butterflies_are_the_transform_of_sixteen(rng):
    """Whole numbers, so that every sum is exact, then the order of the sums, to the bit."""
    unit = np.eye(16, dtype=np.float32)
    rows = np.full((16, 16), np.nan, np.float32)
    for j in range(16):
        transformed(unit[j], 0, rows[j], 0)
    assert_array_equal(rows, [[(-1) ** (i & j).bit_count() for i in range(16)] for j in range(16)])
    x, out = rng.normal(size=40).astype(np.float32), np.full(50, -7, np.float32)
    transformed(x, 5, out, 3)
    y, half = x[5:21].copy(), 1
    while half < 16:
        pairs = y.reshape(-1, 2, half)
        y = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).ravel()
        half *= 2
    assert_array_equal(out[3:19], y)
    assert (out[:3] == -7).all() and (out[19:] == -7).all()


def digest():
    """Of what is packed, and of candidates that were thinned out."""
    bits = hashlib.sha256()
    for held, *parts in pack_cases():
        bits.update(b"".join(part.tobytes() for part in (np.int64(held), *parts)))
    rng = np.random.default_rng(1)
    names = np.empty(0, np.int64), 0, 0, -1
    for keep in (1, 5, 40):
        for turn in range(20):
            held = rng.integers(keep + 1, 2 * keep + 65)
            scores, places = np.zeros(2 * keep + 96, np.float32), np.zeros(2 * keep + 96, np.int32)
            scores[7 : 7 + held] = rng.normal(size=held) if turn % 2 else rng.integers(0, 4, held)
            places[7 : 7 + held] = rng.permutation(held)
            limit, left = tighten(scores, places, 7, held, keep)
            if left > keep:
                limit, left = shrink(scores, places, 7, left, keep, names), keep
            order = np.lexsort((places[7 : 7 + left], -scores[7 : 7 + left]))
            for part in (scores[7 : 7 + left][order], places[7 : 7 + left][order], np.array([limit, left])):
                bits.update(part.tobytes())
    return bits.hexdigest()


@pytest.mark.isa
def test_a_machine_without_simd_packs_the_same(told_without_simd):
    assert told_without_simd("test_lanes") == digest()


def told():
    for held, out, out_numbers, values, numbers in pack_cases():
        assert held == len(values) and (out == values).all() and (out_numbers == numbers).all()
    sys.stdout.write(digest())
