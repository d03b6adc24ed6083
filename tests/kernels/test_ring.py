"""Rings are unpacked bit by bit as the formula says, and the scan of them equals the plain one on every set."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polarindex import kernels
from polarindex.codebooks import folded
from polarindex.codes import RingLayout
from polarindex.indexes.rings import ring_book
from polarindex.kernels import reference
from polarindex.kernels.limits import MAX_DIMS

SETS = [name for name in kernels.available() if name != kernels.GENERIC]
EVERYDAY = [name for name in SETS if name in (SETS[0], "avx2")]
NAMED = [pytest.param(name, marks=[] if name in EVERYDAY else pytest.mark.isa) for name in SETS]
needs_registers = pytest.mark.skipif(not SETS, reason="only plain loops can run here")
ALL = np.empty(0, np.uint8)
WINDOWS = (8, 12)
COUNTED = np.empty(0, np.int64), 0


def random_mix(rng, window):
    return () if window == 8 else tuple(rng.integers(0, 256, 64).tolist())


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 4), st.sampled_from(WINDOWS), st.integers(1, 200), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_windows_are_those_of_the_formula(bits, window, dims, n, seed):
    rng = np.random.default_rng(seed)
    mix = random_mix(rng, window)
    layout = RingLayout(dims, bits, mix)
    words = rng.integers(0, 2**32, (n, layout.words), dtype=np.uint32)
    assert (layout.unpack(words) == reference.unpack_ring(words, bits, np.array(mix, np.uint8), layout.padded)).all()


def test_a_ring_lies_as_drawn():
    """At 4 bits in one word: window j is hexadecimal digits j and j + 1 from the lowest, the last digit's next is the
    first."""
    windows = RingLayout(8, 4).unpack(np.array([[0x87654321]], np.uint32))
    assert [hex(window) for window in windows[0]] == "0x21 0x32 0x43 0x54 0x65 0x76 0x87 0x18".split()


def test_a_longer_window_is_folded_as_drawn():
    """Window 0 is 0x321, whose lowest 8 bits are 0x21 and whose highest 6 are 12."""
    mix = tuple(range(64))
    found = [int(code) for code in RingLayout(8, 4, mix).unpack(np.array([[0x87654321]], np.uint32))[0]]
    windows = [0x321, 0x432, 0x543, 0x654, 0x765, 0x876, 0x187, 0x218]
    assert found == [window % 256 ^ window // 64 for window in windows] == folded(mix)[windows].tolist()


@pytest.fixture(scope="module")
def scan(padded_factors, empty_heaps):
    """The k best keys and ids of rings by kernels.scan_ring, or by the oracle; book = (levels, mix)."""

    def best_of(isa, bits, book, words, queries, factors, names=COUNTED, allowed=ALL, oracle=False):
        (nq, dims), n = queries.shape, len(words)
        layout, tiles = RingLayout(dims, bits), -(-nq // isa.rows)
        quads = np.empty((tiles, layout.padded // 4, isa.rows), np.int32)
        sums, gains = np.empty(tiles * isa.rows, np.int32), np.zeros(tiles * isa.rows, np.float32)
        kernels.tile_queries(queries, isa.rows, quads, sums)
        gains[:nq] = 1 / np.arange(1, nq + 1)
        panels = np.full((-(-n // 16), layout.words, 16), 0xDEADBEEF, np.uint32)
        kernels.to_panels(words, 0, panels)
        best = empty_heaps(len(sums), 7)
        best[0][nq:] = np.inf
        whole = ring_book(isa.name, bits, *book)
        case = isa, panels, n, whole, (quads, sums, gains), padded_factors(*factors), names, allowed, best
        if oracle:
            best = reference.scan_ring(*case)
        else:
            kernels.scan_ring(*case)
            kernels.sort_rows(*best)
        return best[0][:nq], best[1][:nq]

    return best_of


def random_book(rng, window):
    levels = rng.permutation(np.arange(-127, 128).repeat(2)[:256]).astype(np.int8)
    return levels, random_mix(rng, window)


def cases(window):
    for number, (bits, dims) in enumerate(itertools.product((1, 2, 3, 4), (1, 8, 9, 31, 32, 33, 64, 100, 129))):
        rng = np.random.default_rng([bits, dims])
        n, nq = (1, 15, 16, 17, 70)[number % 5], (1, 2, 9, 17)[number % 4]
        yield {
            "bits": bits,
            "book": random_book(rng, window),
            "words": rng.integers(0, 2**32, (n, RingLayout(dims, bits).words), dtype=np.uint32),
            "queries": rng.integers(-127, 128, (nq, dims)).astype(np.int8),
            "factors": (rng.random(n, np.float32), np.float32(1e4) * rng.standard_normal(n, np.float32)),
            "names": (rng.permutation(10 * n)[:n] if number % 2 else np.empty(0, np.int64), number),
            "allowed": (rng.random(n) < 0.4).astype(np.uint8) if number % 3 == 0 else ALL,
        }


@needs_registers
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", NAMED)
def test_every_width_size_and_tail_equals_the_formula(scan, name, window, rows):
    isa = kernels.Isa(name, rows, 1, window)
    for case in cases(window):
        for got, wanted in zip(scan(isa, **case), scan(isa, **case, oracle=True), strict=True):
            np.testing.assert_array_equal(got, wanted)


@needs_registers
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", NAMED)
def test_each_coordinate_meets_its_own_query_byte(scan, name, window, rows):
    """One query byte is not zero at a time: its key is the level there of the best row."""
    dims, n = 70, 40
    for bits in (1, 2, 3, 4):
        rng = np.random.default_rng(bits)
        table, mix = random_book(rng, window)
        words = rng.integers(0, 2**32, (n, RingLayout(dims, bits).words), dtype=np.uint32)
        levels = table[reference.unpack_ring(words, bits, np.array(mix, np.uint8), dims)]
        factors = np.ones(n, np.float32), np.zeros(n, np.float32)
        case = bits, (table, mix), words, np.eye(dims, dtype=np.int8), factors
        keys, _ = scan(kernels.Isa(name, rows, 1, window), *case)
        best = np.sort(levels, axis=0)[::-1][:7].T.astype(np.float32)
        np.testing.assert_array_equal(keys, best * (1 / np.arange(1, dims + 1)).astype(np.float32)[:, None])


@needs_registers
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("sign", [-1, 1])
def test_sums_are_exact_at_the_largest_dimension(scan, name, sign, rows):
    """Every product is 127 * 127 at MAX_DIMS dimensions: nothing wraps or saturates."""
    words, one = np.zeros((1, RingLayout(MAX_DIMS, 1).words), np.uint32), np.ones(1, np.float32)
    table, queries = np.full(256, 127 * sign, np.int8), np.full((1, MAX_DIMS), 127, np.int8)
    keys, _ = scan(kernels.Isa(name, rows, 1, 8), 1, (table, ()), words, queries, (one, 0 * one))
    assert keys[0, 0] == np.float32(sign * 127 * 127 * MAX_DIMS)
