"""Scalar quantization of rotated rows, with the two sums from which every scale of the family is made.

Law:       a code is how many thresholds are <= gain * y, in float32; the sums are float64, in the order of sums.py.
Speed:     16 rows at a time, four coordinates together: the thresholds that split the codes into 16 are all compared,
           the others are searched.
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.hadamard import ROWS, load_rows, store_rows
from polarindex.kernels.lanes import choose, load, lookup, lookup16, splat, store, widen
from polarindex.kernels.simd import start
from polarindex.kernels.sums import PARTS, QUADS, put_parts, total

ZERO, BYTE = np.uint32(0), np.uint32(8)
LARGEST = float(np.finfo(np.float32).max)


@kernel
def _refined(z, code, step, thresholds):
    """The code, known to be in code .. code + step - 1, by binary search."""
    while step > 1:
        step //= 2
        upper = code + splat(np.uint32(step))
        code = choose(z >= lookup(thresholds, code + splat(np.uint32(step - 1))), upper, code)
    return code


@inlined
def _codes(a, b, c, d, step, thresholds, count):
    """How many thresholds each value has passed, of every step-th of those at an address."""
    i = j = k = l = splat(ZERO)  # noqa: E741
    for t in range(step - 1, count, step):
        threshold, code = splat(thresholds[t]), splat(np.uint32(t + 1))
        i = choose(a >= threshold, code, i)
        j = choose(b >= threshold, code, j)
        k = choose(c >= threshold, code, k)
        l = choose(d >= threshold, code, l)  # noqa: E741
    return i, j, k, l


@inlined
def _summed(dot, energy, y, level):
    exact = widen(level)
    return dot + widen(y) * exact, energy + exact * exact


@kernel
def sixteen_of(levels):
    """The first 16 levels as a block of one line."""
    table = np.zeros((1, ROWS), np.float32)
    for k in range(min(ROWS, levels.size)):
        table[0, k] = levels[k]
    return table


@kernel
def quantize_block(block, d, gains, thresholds, levels, quads, dots, energies):
    """Byte t of quads[g, v] = the code of block[4 g + t, v], 0 from d on; returns the rows' dots and energies.

    block (>= d rounded up to 4, 16) float32, gains a register; thresholds, levels as in `quantize`;
    quads (>= ceil(d / 4), 16) uint32; dots, energies (32, 16) float64 are room for parts.
    """
    zero, none = splat(np.float32(0)), splat(ZERO)
    first, at, step = sixteen_of(levels), start(thresholds), max(1, (thresholds.size + 1) // 16)
    for q in range(QUADS):
        d0 = d1 = d2 = d3 = e0 = e1 = e2 = e3 = splat(0.0)
        for g in range(q, (d + 3) // 4, QUADS):
            y0, y1, y2, y3 = load(block, 4 * g), load(block, 4 * g + 1), load(block, 4 * g + 2), load(block, 4 * g + 3)
            z0, z1, z2, z3 = y0 * gains, y1 * gains, y2 * gains, y3 * gains
            c0, c1, c2, c3 = _codes(z0, z1, z2, z3, step, at, thresholds.size)
            if step > 1:
                c0, c1 = _refined(z0, c0, step, thresholds), _refined(z1, c1, step, thresholds)
                c2, c3 = _refined(z2, c2, step, thresholds), _refined(z3, c3, step, thresholds)
            if levels.size <= ROWS:
                l0, l1, l2, l3 = lookup16(first, c0), lookup16(first, c1), lookup16(first, c2), lookup16(first, c3)
            else:
                l0, l1, l2, l3 = lookup(levels, c0), lookup(levels, c1), lookup(levels, c2), lookup(levels, c3)
            if 4 * g + 3 >= d:
                c3, l3 = none, zero
                if 4 * g + 2 >= d:
                    c2, l2 = none, zero
                if 4 * g + 1 >= d:
                    c1, l1 = none, zero
            d0, e0 = _summed(d0, e0, y0, l0)
            d1, e1 = _summed(d1, e1, y1, l1)
            d2, e2 = _summed(d2, e2, y2, l2)
            d3, e3 = _summed(d3, e3, y3, l3)
            byte = splat(BYTE)
            store(quads, g, c0 | ((c1 | ((c2 | (c3 << byte)) << byte)) << byte))
        put_parts(dots, q, d0, d1, d2, d3)
        put_parts(energies, q, e0, e1, e2, e3)
    return total(dots), total(energies)


@kernel
def best_gains(block, d, gains, multiples, thresholds, levels, quads, dots, energies):
    """Of each row's gain times each of the multiples (t,) float32, that whose levels have the largest cosine with the
    row, the last of equals; the gain itself without multiples. All else as of quantize_block."""
    found, largest_cosine, most = gains, splat(0.0), splat(np.float32(LARGEST))
    for t in range(multiples.size):
        tried = gains * splat(multiples[t])
        tried = choose(tried >= most, most, tried)
        row_dots, row_energies = quantize_block(block, d, tried, thresholds, levels, quads, dots, energies)
        cosine = row_dots * row_dots / row_energies
        better = cosine >= largest_cosine
        found, largest_cosine = choose(better, tried, found), choose(better, cosine, largest_cosine)
    return found


@kernel
def quantize(y, gains, multiples, thresholds, levels, codes, dots, energies):
    """codes[i, j] = how many thresholds are <= gains[i] * y[i, j]; dots = <y, levels>, energies = |levels|^2.

    y (n, d) float32; gains (n,) float32, first taken times the best of `multiples`; thresholds (2^b - 1,) float32
    ascending; levels (2^b,) float32; codes (n, d) uint8; dots, energies (n,) float64, added in the order of sums.py.
    """
    n, d = y.shape
    block = np.zeros((d + 3, ROWS), np.float32)
    quads = np.empty(((d + 3) // 4, ROWS), np.uint32)
    factors = np.zeros((1, ROWS), np.float32)
    rows = np.empty((ROWS, quads.shape[0]), np.uint32)
    row_bytes = rows.view(np.uint8)
    sums = np.empty((2, ROWS), np.float64)
    parts, others = np.empty((PARTS, ROWS), np.float64), np.empty((PARTS, ROWS), np.float64)
    for i in range(0, n, ROWS):
        m = min(ROWS, n - i)
        load_rows(y, i, block)
        for v in range(m):
            factors[0, v] = gains[i + v]
        best = best_gains(block, d, load(factors, 0), multiples, thresholds, levels, quads, parts, others)
        row_dots, row_energies = quantize_block(block, d, best, thresholds, levels, quads, parts, others)
        store(sums, 0, row_dots)
        store(sums, 1, row_energies)
        store_rows(quads, 0, rows)
        for v in range(m):
            dots[i + v], energies[i + v] = sums[0, v], sums[1, v]
            for j in range(d):
                codes[i + v, j] = row_bytes[v, j]
