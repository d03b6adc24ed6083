"""The staged scan keeps the k largest of min(key, bound), whatever the order, the split and the tile; its tables are
the formula's."""

import itertools
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest

from polarindex import kernels
from polarindex.codebooks import FirstPlanes, first_planes, integer_codebook, normal_codebook
from polarindex.kernels import reference
from polarindex.memory import aligned_zeros

ISA = "avx512"
pytestmark = pytest.mark.skipif(ISA not in kernels.available(), reason="needs byte lookups in 64-byte registers")
DIMS = (1, 3, 31, 32, 33, 70, 100, 127, 129, 513)
COUNTS = (1, 15, 16, 17, 33, 200)
ALL = np.empty(0, np.uint8)
COUNTED = np.empty(0, np.int64)


# --- tables


def tables_of(levels, weights, up, rows=1):
    tiles, lines = -(-len(levels) // rows), len(weights) * levels.shape[1] // 32
    tables = np.full((tiles, lines, rows, 2, 64), 255, np.uint8)
    steps, offsets = np.full(len(levels), np.nan), np.full(len(levels), np.nan)
    kernels.nibble_tables(levels, np.array(weights, np.float64), up, tables, steps, offsets)
    return tables, steps, offsets


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("weights", [(1.0,), (-3.7,), (150.3, 72.1), (8.0, 0.0)])
@pytest.mark.parametrize("words", [1, 2, 5, 17])
@pytest.mark.parametrize("rows", [1, 4])
def test_tables_are_the_formula_to_the_bit(rng, rows, words, weights, up):
    levels = rng.integers(-127, 128, (8, 32 * words)).astype(np.int8)
    levels[3] = 0
    levels[4, : 32 * words - 1] = 0  # one coordinate alone
    tables, steps, offsets = tables_of(levels, weights, up, rows)
    wanted = reference.nibble_tables(levels, np.array(weights), up)
    np.testing.assert_array_equal(tables.transpose(0, 2, 1, 3, 4).reshape(wanted[0].shape), wanted[0])
    np.testing.assert_array_equal(steps, wanted[1])
    np.testing.assert_array_equal(offsets, wanted[2])
    assert tables.max() == 127


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("dims", [32, 96, 544])
def test_looked_up_sums_are_the_weighted_bits_within_half_a_step_a_nibble(rng, dims, planes, up):
    """The bits are those of codes, each coordinate's own; the tables are read by the law in their docstring."""
    weights = rng.normal(size=planes)
    levels = rng.integers(-127, 128, (3, dims)).astype(np.int8)
    codes = rng.integers(0, 1 << planes, (50, dims))
    bits = codes[:, None] >> (planes - 1 - np.arange(planes))[:, None] & 1  # code, plane, coordinate
    true = np.einsum("np,cpj,nj->nc", np.tile(weights, (3, 1)), bits, levels.astype(np.float64))
    tables, steps, offsets = tables_of(levels, weights, up)
    sums = np.zeros((3, 50))
    for p, g, h, t in itertools.product(range(planes), range(dims // 32), range(2), range(4)):
        i = sum(bits[:, p, 32 * g + 16 * h + 4 * s + t] << s for s in range(4))
        sums += tables[:, p * (dims // 32) + g, 0, h][:, 16 * t + i]
    nibbles = planes * dims / 4
    error = steps[:, None] * sums + offsets[:, None] - true
    dust = 1e-12 * np.abs(true).max()
    if up:
        assert (error >= -dust).all() and (error <= steps[:, None] * nibbles + dust).all()
    else:
        assert (np.abs(error) <= steps[:, None] * nibbles / 2 + dust).all()


def test_a_query_of_zeros_has_tables_of_zeros():
    tables, steps, offsets = tables_of(np.zeros((4, 64), np.int8), (3.0, 1.0), True, 4)
    assert not tables.any() and not steps.any() and not offsets.any()


# --- queries


def staged(levels, gains, estimate, bias, rows):
    nq, dims = levels.shape
    tiles, words = -(-nq // rows), -(-dims // 32)
    tables = aligned_zeros((tiles, len(estimate[1]) * words, rows, 2, 64), np.uint8)
    steps, lifts = np.full((2, tiles * rows), np.nan, np.float32)
    asked = np.full((tiles * rows, -(-words // 16) * 128), 0xDEADBEEF, np.uint32)
    starts = np.full(tiles * rows, 77, np.int32)
    kernels.stage_queries(levels, gains, estimate, bias, tables, steps, lifts, asked, starts)
    return tables, steps, lifts, asked, starts


@pytest.mark.parametrize("margin", [0.0, 150.5])
@pytest.mark.parametrize("weights", [(-3.7,), (150.3, 72.1)])
@pytest.mark.parametrize(("nq", "rows"), [(1, 1), (4, 4), (7, 4)])
def test_staged_queries_are_the_formula_to_the_bit(rng, nq, rows, weights, margin):
    """What fills up the last tile is zero."""
    for dims in (1, 31, 32, 33, 100, 512, 513):
        levels = rng.integers(-127, 128, (nq, dims)).astype(np.int8)
        gains, estimate = rng.random(nq, np.float32), (-61.3, np.array(weights), margin)
        got = staged(levels, gains, estimate, 128, rows)
        tables = got[0].transpose(0, 2, 1, 3, 4).reshape(-1, got[0].shape[1], 2, 64)
        for one, two in zip((tables, *got[1:]), reference.stage_queries(levels, gains, estimate, 128), strict=True):
            np.testing.assert_array_equal(one[:nq], two)
            assert not one[nq:].any()


# --- scans


class Case(NamedTuple):
    bits: int
    first: FirstPlanes
    table: np.ndarray  # (16,) int8
    codes: np.ndarray
    queries: np.ndarray
    gains: np.ndarray
    scales: np.ndarray
    shifts: np.ndarray
    ids: np.ndarray
    allowed: np.ndarray
    k: int

    def subset(self, rows):
        """Some vectors, with their ids."""
        parts = {name: getattr(self, name)[rows] for name in ("codes", "scales", "shifts")}
        ids = self.ids if len(self.ids) else 5 + np.arange(len(self.codes))
        return self._replace(**parts, ids=ids[rows], allowed=self.allowed[rows] if len(self.allowed) else ALL)


@pytest.fixture(scope="module")
def scan(lay_planes, padded_factors, empty_heaps):
    """The k best keys and ids by kernels.scan_staged, or by the oracle; `best` are heaps to go on with."""

    def best_of(case, rows, oracle=False, best=None):
        isa, alone = kernels.Isa(ISA, rows, case.bits), kernels.Isa(ISA, 1, case.bits)
        nq, dims = case.queries.shape
        words = -(-dims // 32)
        estimate = case.first.base, case.first.weights, case.first.lift * case.first.deviation
        *first, asked, starts = staged(case.queries, case.gains, estimate, alone.bias, rows)
        gains = np.concatenate([case.gains, np.zeros(len(starts) - nq, np.float32)])
        best = empty_heaps(len(starts), case.k) if best is None else best
        given = (
            isa, alone, lay_planes(case.codes, case.bits), len(case.codes), words, len(case.first.weights), case.table,
            tuple(first), (asked, starts, gains), padded_factors(case.scales, case.shifts),
            (case.ids, 5), case.allowed, best,
        )  # fmt: skip
        if oracle:
            best = reference.scan_staged(*given)
        else:
            kernels.scan_staged(*given)
            kernels.sort_rows(*best)
        return best[0][:nq], best[1][:nq]

    return best_of


@pytest.fixture(scope="module")
def full_scan(lay_planes, padded_factors, empty_heaps):
    """The k best keys and ids by kernels.scan_lines."""

    def best_of(case):
        nq, dims = case.queries.shape
        words = -(-dims // 32)
        quads, sums = np.empty((nq, 8 * words, 1), np.int32), np.empty(nq, np.int32)
        kernels.tile_queries(case.queries, 1, quads, sums)
        best = empty_heaps(nq, case.k)
        kernels.scan_lines(
            kernels.Isa(ISA, 1, case.bits), lay_planes(case.codes, case.bits), len(case.codes), words, case.table,
            (quads, sums, case.gains), padded_factors(case.scales, case.shifts), (case.ids, 5), case.allowed, best,
        )  # fmt: skip
        kernels.sort_rows(*best)
        return best

    return best_of


def random_case(seed, bits, planes, dims, n, nq, k, filtered=False, named=True, lift=2.8):
    rng = np.random.default_rng([seed, bits, planes])
    grid = integer_codebook(normal_codebook(bits))
    first = first_planes(grid.table, grid.thresholds, planes)
    table = np.zeros(16, np.int8)
    table[:: 16 >> bits] = grid.table
    return Case(
        bits,
        replace(first, lift=lift),
        table,
        rng.integers(0, 2**bits, (n, dims), dtype=np.uint8),
        rng.integers(-127, 128, (nq, dims)).astype(np.int8),
        rng.random(nq, np.float32),
        rng.random(n, np.float32),
        np.float32(1e4) * rng.standard_normal(n, np.float32),
        rng.permutation(10 * n)[:n] if named else COUNTED,
        (rng.random(n) < 0.3).astype(np.uint8) if filtered else ALL,
        k,
    )


CODES = [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (4, 2)]  # bits, planes in the bound


@pytest.fixture(scope="module")
def wanted(scan):
    """Cases of a code, each with what the oracle finds; filters, ids, k and the number of queries take turns.

    Lossy bounds are lifted as an index does, and lowered, so that many are below their keys.
    """

    @lru_cache
    def answered(bits, planes):
        given = []
        for number, (dims, n) in enumerate(itertools.product(DIMS, (*COUNTS, 1200))):
            turn = number + number // 7
            if n == 1200 and dims not in (32, 100):
                continue
            nq, k = (1, 2, 4, 9)[turn % 4], (1, 3, n, n + 5)[turn // 2 % 4] if n < 1000 else 20
            lift = (2.8, 0.6, -1.5)[turn % 3]
            given.append(random_case(number, bits, planes, dims, n, nq, k, turn % 2, turn // 4 % 2, lift))
        return [(case, scan(case, 1, oracle=True)) for case in given]

    return answered


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(("bits", "planes"), CODES)
def test_every_code_size_and_tail_equals_the_formula(scan, wanted, bits, planes, rows):
    for case, (keys, ids) in wanted(bits, planes):
        got_keys, got_ids = scan(case, rows)
        np.testing.assert_array_equal(got_ids, ids)
        np.testing.assert_array_equal(got_keys, keys)


@pytest.mark.parametrize(("bits", "planes"), CODES)
def test_bounds_below_the_key_and_above_both_count(wanted, bits, planes, full_scan):
    """The cases above would notice a rank that is always the key, and one that is always the bound."""
    differ = [not np.array_equal(full_scan(case)[0], keys) for case, (keys, _) in wanted(bits, planes)]
    if bits == planes:
        assert not any(differ)
    else:
        assert any(differ) and not all(differ)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(("bits", "planes"), [(1, 1), (2, 2)])
def test_with_all_planes_in_the_bound_it_is_the_full_scan(scan, full_scan, bits, planes, rows):
    for seed, (dims, n, k) in enumerate([(70, 1200, 10), (513, 600, 1), (129, 33, 40)]):
        for filtered in (False, True):
            case = random_case(seed, bits, planes, dims, n, 6, k, filtered)
            case = case._replace(shifts=case.shifts / 100)  # so that codes decide
            for one, two in zip(scan(case, rows), full_scan(case), strict=True):
                np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("bits", "planes"), [(2, 2), (4, 1), (4, 2)])
def test_vectors_in_any_order_have_the_same_best(scan, rng, bits, planes):
    """Also where many ranks are equal."""
    for lift, filtered in itertools.product((2.8, 0.3), (False, True)):
        case = random_case(1, bits, planes, 100, 700, 5, 30, filtered, lift=lift)
        case = case._replace(scales=np.round(2 * case.scales) / 2, shifts=np.round(case.shifts / 1e4) * np.float32(100))
        before = scan(case, 4)
        for _ in range(3):
            for one, two in zip(before, scan(case.subset(rng.permutation(700)), 4), strict=True):
                np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(("bits", "planes"), [(1, 1), (4, 1), (4, 2)])
def test_two_calls_with_the_same_heaps_are_one(scan, empty_heaps, bits, planes):
    case = random_case(2, bits, planes, 100, 900, 8, 25)
    whole = scan(case, 4)
    for cut in (1, 16, 50, 512, 880):
        best = empty_heaps(8, 25)
        for part in (slice(0, cut), slice(cut, 900)):
            scan(case.subset(part), 4, best=best)
            for heap in best:
                heap[:] = heap[:, ::-1].copy()  # a list sorted worst first is a heap
        for one, two in zip(whole, best, strict=True):
            np.testing.assert_array_equal(one, two[:, ::-1])


@pytest.mark.parametrize(("bits", "planes"), [(1, 1), (4, 2)])
def test_a_query_alone_has_the_answers_of_a_tile(scan, bits, planes):
    case = random_case(3, bits, planes, 129, 700, 7, 10)
    tiles = scan(case, 4)
    for q in range(7):
        one = scan(case._replace(queries=case.queries[q : q + 1], gains=case.gains[q : q + 1]), 1)
        for part, other in zip(one, tiles, strict=True):
            np.testing.assert_array_equal(part[0], other[q])


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_whole_code_is_read_coordinate_by_coordinate(scan, bits):
    """One code and one query byte are not zero at a time, so that swapped lanes cannot cancel."""
    dims = 600  # words in two registers
    table = np.zeros(16, np.int8)
    table[15 >> (4 - bits) << (4 - bits)] = 100
    codes = np.zeros((dims, dims), np.uint8)
    codes[np.arange(dims), np.arange(dims)] = 2**bits - 1
    ones, none = np.ones(dims, np.float32), np.zeros(dims, np.float32)
    far = FirstPlanes(0.0, np.ones(1), 1.0, 1e6)  # every bound allows
    case = Case(bits, far, table, codes, np.eye(dims, dtype=np.int8), ones, ones, none, np.arange(dims), ALL, 1)
    keys, ids = scan(case, 1)
    assert (keys == 100).all()
    assert ids[:, 0].tolist() == list(range(dims))
