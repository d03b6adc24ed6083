"""From rows to words in one pass: centre, rotate, quantize and pack 16 rows at a time, without leaving the cache.

Rows that a dense matrix rotates are centred before and coded after it (`centre_rows`, `encode_rotated`).

Law:       codes, sums and words are those of rotate, quantize and pack_plane, bit for bit, whatever rows stand beside.
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.hadamard import ROWS, flips_of, load_rows, rotate_block, store_rows
from polarindex.kernels.lanes import choose, load, lookup, lookup16, narrow, root, splat, store, widen
from polarindex.kernels.pack import pack_block
from polarindex.kernels.scalar import LARGEST, best_gains, quantize_block, sixteen_of
from polarindex.kernels.sums import PARTS, QUADS, put_parts, total


@inlined
def _added(norms2, offsets, r, c):
    return norms2 + r * r, offsets + r * c


@kernel
def _centre(block, mu, norms2, offsets):
    """block[j] -= mu[j]; returns |r|^2 and <mu, r> of the rows r that remain.

    mu (d + 3,) and block (d + 3, 16) are 0 from d on; norms2, offsets (32, 16) float64 are room for parts.
    """
    count = block.shape[0] // 4
    for q in range(QUADS):
        n0 = n1 = n2 = n3 = o0 = o1 = o2 = o3 = splat(0.0)
        for j in range(4 * q, 4 * count, PARTS):
            r0, r1 = load(block, j) - splat(mu[j]), load(block, j + 1) - splat(mu[j + 1])
            r2, r3 = load(block, j + 2) - splat(mu[j + 2]), load(block, j + 3) - splat(mu[j + 3])
            store(block, j, r0)
            store(block, j + 1, r1)
            store(block, j + 2, r2)
            store(block, j + 3, r3)
            n0, o0 = _added(n0, o0, widen(r0), splat(np.float64(mu[j])))
            n1, o1 = _added(n1, o1, widen(r1), splat(np.float64(mu[j + 1])))
            n2, o2 = _added(n2, o2, widen(r2), splat(np.float64(mu[j + 2])))
            n3, o3 = _added(n3, o3, widen(r3), splat(np.float64(mu[j + 3])))
        put_parts(norms2, q, n0, n1, n2, n3)
        put_parts(offsets, q, o0, o1, o2, o3)
    return total(norms2), total(offsets)


@kernel
def _subtract(block, centres, norms2, offsets):
    """block[j] -= centres[j]; returns |r|^2 and <c, r> of the rows r that remain, c a centre for each; else _centre."""
    count = block.shape[0] // 4
    for q in range(QUADS):
        n0 = n1 = n2 = n3 = o0 = o1 = o2 = o3 = splat(0.0)
        for j in range(4 * q, 4 * count, PARTS):
            c0, c1, c2, c3 = load(centres, j), load(centres, j + 1), load(centres, j + 2), load(centres, j + 3)
            r0, r1, r2 = load(block, j) - c0, load(block, j + 1) - c1, load(block, j + 2) - c2
            r3 = load(block, j + 3) - c3
            store(block, j, r0)
            store(block, j + 1, r1)
            store(block, j + 2, r2)
            store(block, j + 3, r3)
            n0, o0 = _added(n0, o0, widen(r0), widen(c0))
            n1, o1 = _added(n1, o1, widen(r1), widen(c1))
            n2, o2 = _added(n2, o2, widen(r2), widen(c2))
            n3, o3 = _added(n3, o3, widen(r3), widen(c3))
        put_parts(norms2, q, n0, n1, n2, n3)
        put_parts(offsets, q, o0, o1, o2, o3)
    return total(norms2), total(offsets)


@kernel
def _gains(norms2, d):
    """sqrt(d) / |r| as float32, 0 for a zero row and finite for every other."""
    gains = splat(np.sqrt(np.float64(d))) / root(norms2)
    gains = choose(gains >= splat(LARGEST), splat(LARGEST), gains)
    return narrow(choose(splat(0.0) >= norms2, splat(0.0), gains))


@kernel
def _store_sums(totals, i, sums):
    """sums[:, i + v] = totals[:, v], for the rows that sums (s, n) has."""
    for s in range(sums.shape[0]):
        for v in range(min(ROWS, sums.shape[1] - i)):
            sums[s, i + v] = totals[s, v]


@kernel
def encode(x, mu, plan, book, words, sums):
    """words[i] = packed codes of R r_i, r_i = x_i - mu; sums[:, i] = |r|^2, <mu, r>, <R r, levels>, |levels|^2.

    x (n, d) float32; mu (d,) float32; plan = (order, signs, starts, size, norm) of hadamard.rotate;
    book = (bits, multiples, thresholds, levels) of scalar.quantize, for gains sqrt(d) / |r|; words (n, w) uint32,
    planes one bit wide, most significant first, or bytes if bits is 8; sums (4, n) float64, added in the order of
    sums.py.
    """
    n, d = x.shape
    order, signs, starts, size, norm = plan
    bits, multiples, thresholds, levels = book
    flips = flips_of(signs, starts, size)
    before = np.zeros((d + 3, ROWS), np.float32)
    block = np.zeros((d + 3, ROWS), np.float32)
    quads = np.empty(((d + 3) // 4, ROWS), np.uint32)
    packed = np.empty((words.shape[1], ROWS), np.uint32)
    totals = np.empty((4, ROWS), np.float64)
    parts, others = np.empty((PARTS, ROWS), np.float64), np.empty((PARTS, ROWS), np.float64)
    centre = np.zeros(d + 3, np.float32)
    centre[:d] = mu
    for i in range(0, n, ROWS):
        load_rows(x, i, before)
        norms2, offsets = _centre(before, centre, parts, others)
        y = rotate_block(before, block, order, flips, starts, size, norm)
        gains = best_gains(y, d, _gains(norms2, d), multiples, thresholds, levels, quads, parts, others)
        dots, energies = quantize_block(y, d, gains, thresholds, levels, quads, parts, others)
        pack_block(quads, bits, packed)
        store_rows(packed, i, words)
        store(totals, 0, norms2)
        store(totals, 1, offsets)
        store(totals, 2, dots)
        store(totals, 3, energies)
        _store_sums(totals, i, sums)


@kernel
def _level_dots(quads, levels, vectors, parts):
    """<level of the codes in quads, vectors>, lane by lane; vectors (d + 3, 16) are 0 from d on."""
    table = sixteen_of(levels)
    byte, one, two, three = splat(np.uint32(255)), splat(np.uint32(8)), splat(np.uint32(16)), splat(np.uint32(24))
    for q in range(QUADS):
        p0 = p1 = p2 = p3 = splat(0.0)
        for g in range(q, quads.shape[0], QUADS):
            quad = load(quads, g)
            c0, c1, c2, c3 = quad & byte, (quad >> one) & byte, (quad >> two) & byte, quad >> three
            if levels.size <= ROWS:
                l0, l1, l2, l3 = lookup16(table, c0), lookup16(table, c1), lookup16(table, c2), lookup16(table, c3)
            else:
                l0, l1, l2, l3 = lookup(levels, c0), lookup(levels, c1), lookup(levels, c2), lookup(levels, c3)
            p0 = p0 + widen(l0) * widen(load(vectors, 4 * g))
            p1 = p1 + widen(l1) * widen(load(vectors, 4 * g + 1))
            p2 = p2 + widen(l2) * widen(load(vectors, 4 * g + 2))
            p3 = p3 + widen(l3) * widen(load(vectors, 4 * g + 3))
        put_parts(parts, q, p0, p1, p2, p3)
    return total(parts)


@kernel
def encode_residuals(x, centres, rotated, plan, book, coarse, words, sums):
    """words[i] = packed codes of R r_i, r_i = x_i - centres[i], as `encode` makes them of rows with one centre.

    x, centres, rotated (n, d) float32, rotated[i] any vector in the coordinates of R r (a rotated centre); plan, book,
    words as of encode; sums[:, i] = |r|^2, <c, r>, <R r, levels>, |levels|^2, <rotated, levels>; (5, n) float64, or
    (7, n) where coarse (2^bits,) float32 has other levels of the same codes: then <R r, coarse>, <rotated, coarse>.
    """
    n, d = x.shape
    order, signs, starts, size, norm = plan
    bits, multiples, thresholds, levels = book
    flips = flips_of(signs, starts, size)
    before = np.zeros((d + 3, ROWS), np.float32)
    block = np.zeros((d + 3, ROWS), np.float32)
    others = np.zeros((d + 3, ROWS), np.float32)
    quads = np.empty(((d + 3) // 4, ROWS), np.uint32)
    packed = np.empty((words.shape[1], ROWS), np.uint32)
    totals = np.empty((sums.shape[0], ROWS), np.float64)
    parts, rest = np.empty((PARTS, ROWS), np.float64), np.empty((PARTS, ROWS), np.float64)
    for i in range(0, n, ROWS):
        load_rows(x, i, before)
        load_rows(centres, i, others)
        norms2, offsets = _subtract(before, others, parts, rest)
        y = rotate_block(before, block, order, flips, starts, size, norm)
        gains = best_gains(y, d, _gains(norms2, d), multiples, thresholds, levels, quads, parts, rest)
        dots, energies = quantize_block(y, d, gains, thresholds, levels, quads, parts, rest)
        pack_block(quads, bits, packed)
        store_rows(packed, i, words)
        load_rows(rotated, i, others)
        store(totals, 0, norms2)
        store(totals, 1, offsets)
        store(totals, 2, dots)
        store(totals, 3, energies)
        store(totals, 4, _level_dots(quads, levels, others, parts))
        if coarse.size:
            store(totals, 5, _level_dots(quads, coarse, y, parts))
            store(totals, 6, _level_dots(quads, coarse, others, parts))
        _store_sums(totals, i, sums)


@kernel
def centre_rows(x, mu, r, sums):
    """r[i] = x[i] - mu; sums[:, i] = |r_i|^2, <mu, r_i>, added in the order of sums.py.

    x, r (n, d) float32; mu (d,) float32; sums (2, n) float64.
    """
    n, d = x.shape
    block = np.zeros((d + 3, ROWS), np.float32)
    totals = np.empty((2, ROWS), np.float64)
    parts, others = np.empty((PARTS, ROWS), np.float64), np.empty((PARTS, ROWS), np.float64)
    centre = np.zeros(d + 3, np.float32)
    centre[:d] = mu
    for i in range(0, n, ROWS):
        load_rows(x, i, block)
        norms2, offsets = _centre(block, centre, parts, others)
        store_rows(block, i, r)
        store(totals, 0, norms2)
        store(totals, 1, offsets)
        _store_sums(totals, i, sums)


@kernel
def _within(gains, block, d, limit):
    """Gains that take no coordinate of a row beyond limit."""
    peaks = splat(np.float32(0))
    for j in range(d):
        y = load(block, j)
        negative = splat(np.float32(0)) - y
        peaks = choose(y >= peaks, y, peaks)
        peaks = choose(negative >= peaks, negative, peaks)
    most = splat(np.float32(limit)) / peaks
    return choose(gains >= most, most, gains)


@kernel
def encode_rotated(y, d, limit, book, words, sums):
    """words[i] = packed codes of rows that are rotated; sums[:, i] = |y_i|^2, <y_i, levels>, |levels|^2.

    y (n, c >= d) float32, of which d coordinates count; book, words as of encode, with gains sqrt(d) / |y_i| but at
    most limit / max |y_i|, unless limit is 0: only then may there be multiples; sums (3, n) float64, |y_i|^2 added in
    the order of coordinates.
    """
    n = y.shape[0]
    bits, multiples, thresholds, levels = book
    block = np.zeros((y.shape[1] + 3, ROWS), np.float32)
    quads = np.empty(((d + 3) // 4, ROWS), np.uint32)
    packed = np.empty((words.shape[1], ROWS), np.uint32)
    totals = np.empty((3, ROWS), np.float64)
    parts, others = np.empty((PARTS, ROWS), np.float64), np.empty((PARTS, ROWS), np.float64)
    for i in range(0, n, ROWS):
        load_rows(y, i, block)
        norms2 = splat(0.0)
        for j in range(d):
            exact = widen(load(block, j))
            norms2 = norms2 + exact * exact
        gains = _gains(norms2, d)
        if limit > 0:
            gains = _within(gains, block, d, limit)
        gains = best_gains(block, d, gains, multiples, thresholds, levels, quads, parts, others)
        dots, energies = quantize_block(block, d, gains, thresholds, levels, quads, parts, others)
        pack_block(quads, bits, packed)
        store_rows(packed, i, words)
        store(totals, 0, norms2)
        store(totals, 1, dots)
        store(totals, 2, energies)
        _store_sums(totals, i, sums)
