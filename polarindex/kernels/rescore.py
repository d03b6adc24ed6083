"""Scores of single rows as they were given, float32, float16 or int8 with a scale: a second look at a scan's best.

Law:       a value is its float32 one, scale * level rounded; differences are float32; products are exact and summed in
           float64, in an order that only d decides. The same bits on every machine.
Why so:    rows lie anywhere in memory, so waiting for them is the cost. Each is asked for some rows ahead, and what is
           computed of it fits into the time that the next ones take to come.
Addresses: rows are in blocks of 2^shift, and a kernel gets the address of each block as an integer, for it cannot take
           arrays in any number. The caller holds the arrays for as long as a kernel runs.
"""

from __future__ import annotations

import numpy as np
from numba import types

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import (
    LANES,
    add_products,
    address_of,
    choose,
    few_floats_at,
    floats_at,
    last_lanes,
    moved,
    prefetch,
    splat,
    total,
)
from polarindex.kernels.limits import COSINE, INNER_PRODUCT, L2
from polarindex.kernels.simd import constant, start

LINE = 64  # bytes
# So far ahead are rows asked for: the first of the two that is reached. Microseconds for 1,000 random rows of
# 200,000 x 128 float32, 60,000 x 784 float32 and 300,000 x 100 float16, on a core of a Zen 5 that reads 34 GB/s in
# order: 72, 304, 89 with none ahead; 37, 182, 37 with 4; 26, 178, 25 with 8; 17, 177, 16 with 16; 14, 175, 13 with 32.
# More than 32 gain nothing. Into the second-level cache only, 16 ahead: 18, 192, 17.
AHEAD, AHEAD_BYTES = 32, 32_768
NEAR = 64 * LINE  # of a row; with 8, 16 and 32 lines in place of 64 the rows of 49 lines took 242, 209 and 177

_item_bytes = constant(lambda row: row.dtype.bitwidth // 8, types.intp)
_has_scale = constant(lambda row: row.dtype is types.int8, types.boolean)


# --- where a row is; rows = (kind, blocks, scales, shift, d): kind an address of what the rows are of, float32, uint16
# (the bits of float16) or int8; blocks and scales addresses of arrays of addresses, int64. Row p is row p % 2^shift of
# block p >> shift.


@inlined
def _within(rows, position):
    return position & ((np.int64(1) << rows[3]) - 1)


@inlined
def row_at(rows, position):
    """The address of a row's first element."""
    return moved(address_of(rows[0], rows[1][position >> rows[3]]), _within(rows, position) * rows[4])


@inlined
def _scales(rows, position):
    """The address of the scales of the block that has the row."""
    return address_of(np.float32, rows[2][position >> rows[3]])


@inlined
def scale_at(rows, position):
    """What a row's elements are multiplied by; 1, at no cost, for all but int8."""
    return _scales(rows, position)[_within(rows, position)] if _has_scale(rows[0]) else np.float32(1)


@inlined
def rows_ahead(rows):
    """How many rows before its turn a row is best asked for."""
    return max(1, min(AHEAD, AHEAD_BYTES // (rows[4] * _item_bytes(rows[0]))))


@inlined
def fetch(rows, position):
    """Ask for a row; of a long one for its beginning, after which the processor foresees what comes."""
    row = row_at(rows, position)
    for at in range(0, min(rows[4] * _item_bytes(row), NEAR), LINE):
        prefetch(row, at // _item_bytes(row))
    if _has_scale(row):
        prefetch(_scales(rows, position), _within(rows, position))


# --- what a row and a query are to each other: the address of the row and its scale, and the address of a float32 query


@inlined
def _tail(row, d):
    """The last d % 16 elements in the last lanes, 0 before; never a byte beyond the row is read."""
    if d < LANES:
        return few_floats_at(row, d)
    return choose(last_lanes(d % LANES), floats_at(row, d - LANES), splat(np.float32(0)))


@inlined
def squared_distance(row, scale, query, d):
    """|scale row - query|^2."""
    even, odd, scales = splat(0.0), splat(0.0), splat(scale)
    for j in range(0, d - d % LANES, LANES):
        difference = floats_at(row, j) * scales - floats_at(query, j)
        even, odd = odd, add_products(even, difference, difference)
    if d % LANES:
        difference = _tail(row, d) * scales - _tail(query, d)
        even = add_products(even, difference, difference)
    return total(even + odd)


@inlined
def inner_product(row, scale, query, d):
    """<scale row, query>."""
    even, odd, scales = splat(0.0), splat(0.0), splat(scale)
    for j in range(0, d - d % LANES, LANES):
        even, odd = odd, add_products(even, floats_at(row, j) * scales, floats_at(query, j))
    if d % LANES:
        even = add_products(even, _tail(row, d) * scales, _tail(query, d))
    return total(even + odd)


@inlined
def inner_product_and_norm(row, scale, query, d):
    """<scale row, query> and |scale row|^2, with one reading of the row."""
    even, odd, scales = splat(0.0), splat(0.0), splat(scale)
    even_norm, odd_norm = splat(0.0), splat(0.0)
    for j in range(0, d - d % LANES, LANES):
        values = floats_at(row, j) * scales
        even, odd = odd, add_products(even, values, floats_at(query, j))
        even_norm, odd_norm = odd_norm, add_products(even_norm, values, values)
    if d % LANES:
        values = _tail(row, d) * scales
        even = add_products(even, values, _tail(query, d))
        even_norm = add_products(even_norm, values, values)
    return total(even + odd), total(even_norm + odd_norm)


@inlined
def score(metric, row, scale, query, energy, d):
    """The row's score for a query whose squared norm is `energy`, which only COSINE asks for."""
    if metric == L2:
        return squared_distance(row, scale, query, d)
    if metric == INNER_PRODUCT:
        return inner_product(row, scale, query, d)
    dot, norm2 = inner_product_and_norm(row, scale, query, d)
    length = np.sqrt(norm2 * energy)
    return dot / length if length > 0 else 0.0  # a store may round to 0


@kernel
def rescore_rows(kind, blocks, scales, shift, metric, positions, queries, out):
    """out[q, i] = the score of the row at positions[q, i] for queries[q]; where that is -1, +inf for L2 and else -inf.

    kind (0,) float32, uint16 (float16 as its bits) or int8: what the rows are of.
    blocks (number,) int64: addresses of (2^shift, d) rows each; scales the same of (2^shift,) float32, or (0,) where
        rows are not int8.
    metric: L2, INNER_PRODUCT or COSINE of limits.py; COSINE is 0 where either vector is.
    positions (nq, m) int64; queries (nq, d) float32; out (nq, m) float64.
    """
    nq, m = positions.shape
    d = queries.shape[1]
    rows = (start(kind), start(blocks), start(scales), shift, d)
    asked, wanted, found = start(queries), start(positions), start(out)
    ahead, skipped = rows_ahead(rows), np.inf if metric == L2 else -np.inf
    for at in range(min(ahead, nq * m)):
        if wanted[at] >= 0:
            fetch(rows, wanted[at])
    for q in range(nq):
        query = moved(asked, q * d)
        energy = inner_product(query, np.float32(1), query, d) if metric == COSINE else 0.0
        for at in range(q * m, (q + 1) * m):
            if at + ahead < nq * m and wanted[at + ahead] >= 0:
                fetch(rows, wanted[at + ahead])
            position = wanted[at]
            if position >= 0:
                found[at] = score(metric, row_at(rows, position), scale_at(rows, position), query, energy, d)
            else:
                found[at] = skipped
