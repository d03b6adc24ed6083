"""Segments are scanned as the formula says, bit for bit, on every instruction set, whatever the bounds leave out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from polarindex import kernels
from polarindex.codes import LineLayout, RingLayout, upper_halves, upper_halves_above
from polarindex.kernels import reference
from polarindex.kernels.limits import RING, TABLE

SETS = [name for name in kernels.available() if name != kernels.GENERIC]
NAMED = [pytest.param(name, marks=[] if name in (SETS[0], "avx2") else pytest.mark.isa) for name in SETS]
ALL = np.empty(0, np.uint8)
COUNTED = np.empty(0, np.int64)
WIDTHS = [
    ((32, 8), (32, 6), (40, 5)),
    ((64, 7), (32, 4), (32, 3), (20, 2)),
    ((32, 3), (7, 1)),
    ((32, 6), (32, 5), (64, 1)),
    ((32, 6), (64, RING + 4), (32, RING + 3), (20, RING + 1)),
    ((64, RING + 2), (9, RING + 1)),
]


def panels_of(rows):
    """Rows of words as panels, and rubbish beyond them."""
    padded = np.random.default_rng(1).integers(0, 2**32, (-(-len(rows) // 16) * 16, rows.shape[1]), np.uint32)
    padded[: len(rows)] = rows
    return np.ascontiguousarray(padded.reshape(-1, 16, rows.shape[1]).transpose(0, 2, 1))


def scalar_codes(rng, n, dims, bits, table):
    """Rows of words of codes each for itself, the words of a plane, coordinates, and the levels; table is filled."""
    layout = LineLayout(dims, bits)
    codes = rng.integers(1 if bits == 8 else 0, 2**bits, (n, dims), dtype=np.uint8)
    if bits < 8:
        levels = np.sort(rng.permutation(np.arange(-127, 128))[: 2**bits]).astype(np.int8)
        table[:128][: max(16, 2**bits) : max(1, 16 >> bits)] = levels
        own = levels[codes].astype(np.float64)
    else:
        own = codes.astype(np.float64) - 128
    return layout.pack(codes), layout.planes[0].words, layout.padded, own


def scene(widths, n, nq, k, head, seed, rows, decay=8.0):
    """Arguments of scan_segments from panels on: rows whose segments are each `decay` times shorter than the last."""
    rng = np.random.default_rng(seed)
    stages, parts, words, tables, longest, line = len(widths), [], [], np.zeros((len(widths), TABLE), np.int8), [], 0
    scales, tails, shifts = [], np.zeros(n), rng.standard_normal(n).astype(np.float32)
    whole, levels, first = max(1, stages - 2), [], 0
    for s, (dims, bits) in enumerate(widths):
        if bits > RING:
            ring = RingLayout(dims, bits - RING)
            packed, plane_words, padded = rng.integers(0, 2**32, (n, ring.words), np.uint32), ring.words, ring.begun
            tables[s] = rng.integers(-127, 128, TABLE)
            own = tables[s][ring.unpack(packed)][:, :dims].astype(np.float64)
        else:
            packed, plane_words, padded, own = scalar_codes(rng, n, dims, bits, tables[s])
        first = 0 if s == whole else first
        parts.append((bits, first, plane_words, line, padded // 4))
        first, line = first + packed.shape[1], line + padded // 4
        words.append(packed)
        longest.append(np.sqrt((own**2).sum(axis=1).max()) * 1.001)
        halves = upper_halves(rng.random(n).astype(np.float32) * np.float32(decay**-s))
        exact = (halves.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
        scales.append(halves)
        tails += (exact**2 * (own**2).sum(axis=1)) if s >= head else 0
        levels.append((rng.standard_normal((nq, dims)) * 40).clip(-127, 127).astype(np.int8))
    tiles = -(-nq // rows)
    held = tiles * rows
    gains = np.zeros((stages, held), np.float32)
    gains[:, :nq] = (rng.random(nq) * 1e-3).astype(np.float32)
    asked, sums, reaches = reference.ask_segments(
        np.concatenate([own.reshape(-1) for own in levels]),
        np.array([dims for dims, _ in widths]),
        gains,
        np.array(parts),
        line,
    )
    quads = np.ascontiguousarray(asked.reshape(tiles, rows, line).transpose(0, 2, 1))
    lanes = np.full((-(-n // 16) * 16, stages), 0x7FC0, np.uint16)  # NaN
    lanes[:n] = np.stack(scales, axis=1)
    beyond = np.full(len(lanes) - n, np.nan, np.float32)
    factors = (
        np.ascontiguousarray(lanes.reshape(-1, 16, stages).transpose(0, 2, 1)),
        np.concatenate([shifts, beyond]),
        np.concatenate([upper_halves_above(np.sqrt(tails)), np.full(len(beyond), 0x7FC0, np.uint16)]),
    )
    both = np.concatenate(words[:whole], axis=1), np.concatenate(words[whole:], axis=1)
    keys, ids = np.full((held, k), -np.inf, np.float32), np.full((held, k), 2**63 - 1)
    keys[nq:] = np.inf
    return {
        "panels": (panels_of(both[0]), panels_of(both[1])),
        "count": n,
        "segments": (head, whole, np.array(parts)),
        "tables": tables,
        "longest": np.array(longest, np.float32),
        "queries": (quads, asked, sums, gains, reaches),
        "factors": factors,
        "names": (COUNTED, 7),
        "allowed": ALL,
        "best": (keys, ids),
    }


def found(name, rows, given, hits=64):
    isa, alone = kernels.Isa(name, rows, 8), kernels.Isa(name, 1, 8)
    room = np.zeros(16 * hits * rows * 16 + 16, np.float32), np.empty((3, hits * rows * 16), np.int32)
    best = tuple(part.copy() for part in given["best"])
    kernels.scan_segments(isa, alone, *list(given.values())[:-1], best, room)
    kernels.sort_rows(*best)
    return best


def wanted(given):
    return reference.scan_segments(None, None, *given.values(), None)


def cases():
    """Every cut into segments with every tail of rows; filters, ids, k, queries and the head take turns."""
    for number, (widths, n) in enumerate(itertools.product(WIDTHS, (1, 15, 16, 33, 500, 1300))):
        yield number, widths, n, (1, 2, 9, 17)[number % 4], (1, 10, n + 3)[number // 2 % 3], number % 5 == 0


@pytest.mark.parametrize("name", NAMED)
def test_scan_segments_is_the_reference_to_the_bit(name):
    for number, widths, n, nq, k, full in cases():
        rows = 1 if nq < 3 else 8
        head = len(widths) if full else max(1, len(widths) - 2)
        given = scene(widths, n, nq, k, head, number, rows)
        rng = np.random.default_rng(number)
        if number % 3 == 1:
            given["allowed"] = (rng.random(n) < 0.3).astype(np.uint8)
        if number % 3 == 2:
            given["names"] = (rng.permutation(10 * n)[:n], 0)
        for hits in (1, 100):
            for got, right in zip(found(name, rows, given, hits), wanted(given), strict=True):
                assert_array_equal(got[:nq], right[:nq])


@pytest.mark.parametrize("name", NAMED)
def test_ties_are_kept_whatever_is_left_out(name):
    """A few rows many times over, so that keys are equal: the smaller ids win."""
    given = scene(WIDTHS[1], 640, 9, 30, 2, 5, 8)
    for part in (*given["panels"], given["factors"][0]):
        part[1:] = part[0]
    for part in given["factors"][1:]:
        part.reshape(-1, 16)[1:] = part.reshape(-1, 16)[0]
    given["names"] = (np.random.default_rng(0).permutation(640), 0)
    for got, right in zip(found(name, 8, given), wanted(given), strict=True):
        assert_array_equal(got[:9], right[:9])


@pytest.mark.parametrize("rows", [1, 8])
def test_rows_are_left_out_that_their_tails_length_rules_out(rows):
    """Told that all tails are nothing, it finds other rows: so it goes by them."""
    nq = 2 if rows == 1 else 9
    given = scene(WIDTHS[1], 1300, nq, 10, 1, 3, rows, decay=1.0)
    right = wanted(given)
    assert_array_equal(found(SETS[0], rows, given, 1)[1][:nq], right[1][:nq])
    given["factors"][2][:] = 0
    assert (found(SETS[0], rows, given, 1)[1][:nq] != right[1][:nq]).any()


def test_queries_are_asked_as_the_reference_says():
    rng = np.random.default_rng(0)
    sizes, parts = np.array((32, 64, 5)), np.array([(2, 0, 1, 0, 8), (3, 2, 2, 8, 16), (1, 8, 1, 24, 8)])
    for nq, held in ((1, 1), (9, 16)):
        levels, gains = rng.integers(-127, 128, nq * 101).astype(np.int8), np.zeros((3, held), np.float32)
        gains[:, :nq] = rng.random((3, nq))
        asked, sums = np.full((held, 32), 7, np.int32), np.full((3, held), 7, np.int32)
        reaches = np.full((3, held), np.nan, np.float32)
        kernels.ask_segments(levels, sizes, gains, parts, asked, sums, reaches)
        right = reference.ask_segments(levels, sizes, gains, parts, 32)
        for got, one in zip((asked, sums, reaches), right, strict=True):
            assert_array_equal(got, one)
