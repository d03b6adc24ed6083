"""From rows to words in one pass: centre, rotate, quantize and pack 16 rows at a time, without leaving the cache.

Law:       codes, sums and words are those of rotate, quantize and pack_plane, bit for bit, whatever rows stand beside.
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import kernel, spliced
from polarindex.kernels.hadamard import ROWS, flips_of, load_rows, rotate_block, store_rows
from polarindex.kernels.lanes import choose, load, lookup, lookup16, narrow, root, splat, store, widen
from polarindex.kernels.pack import pack_block
from polarindex.kernels.scalar import quantize_block, sixteen_of
from polarindex.kernels.sums import PARTS, QUADS, put_parts, total

LARGEST = float(np.finfo(np.float32).max)


@spliced
def _rest(block, j, c):
    """block[j] -= c; returns what remains, exactly."""
    r = load(block, j) - c
    store(block, j, r)
    return widen(r)


@kernel
def _centre(block, mu, norms2, offsets):
    """block[j] -= mu[j]; returns |r|^2 and <mu, r> of the rows r that remain.

    mu (d + 3,) and block (d + 3, 16) are 0 from d on; norms2, offsets (32, 16) float64 are room for parts.
    """
    count = block.shape[0] // 4
    for q in range(QUADS):
        n0 = n1 = n2 = n3 = o0 = o1 = o2 = o3 = splat(0.0)
        for j in range(4 * q, 4 * count, PARTS):
            r0, r1 = _rest(block, j, splat(mu[j])), _rest(block, j + 1, splat(mu[j + 1]))
            r2, r3 = _rest(block, j + 2, splat(mu[j + 2])), _rest(block, j + 3, splat(mu[j + 3]))
            n0, n1, n2, n3 = n0 + r0 * r0, n1 + r1 * r1, n2 + r2 * r2, n3 + r3 * r3
            o0, o1 = o0 + r0 * splat(np.float64(mu[j])), o1 + r1 * splat(np.float64(mu[j + 1]))
            o2, o3 = o2 + r2 * splat(np.float64(mu[j + 2])), o3 + r3 * splat(np.float64(mu[j + 3]))
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
            r0, r1 = _rest(block, j, c0), _rest(block, j + 1, c1)
            r2, r3 = _rest(block, j + 2, c2), _rest(block, j + 3, c3)
            n0, n1, n2, n3 = n0 + r0 * r0, n1 + r1 * r1, n2 + r2 * r2, n3 + r3 * r3
            o0, o1, o2, o3 = o0 + r0 * widen(c0), o1 + r1 * widen(c1), o2 + r2 * widen(c2), o3 + r3 * widen(c3)
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
    book = (bits, thresholds, levels) of scalar.quantize, for gains sqrt(d) / |r|; words (n, w) uint32, planes one
    bit wide, most significant first, or bytes if bits is 8; sums (4, n) float64, added in the order of sums.py.
    """
    n, d = x.shape
    order, signs, starts, size, norm = plan
    bits, thresholds, levels = book
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
        dots, energies = quantize_block(y, d, _gains(norms2, d), thresholds, levels, quads, parts, others)
        pack_block(quads, bits, packed)
        store_rows(packed, i, words)
        store(totals, 0, norms2)
        store(totals, 1, offsets)
        store(totals, 2, dots)
        store(totals, 3, energies)
        _store_sums(totals, i, sums)


@spliced
def _level_of(quad, t, table, levels):
    """Levels, exactly, of the codes in byte t of a register of codes."""
    code = (quad >> splat(np.uint32(8 * t))) & splat(np.uint32(255))
    return widen(lookup16(table, code) if levels.size <= ROWS else lookup(levels, code))


@kernel
def _level_dots(quads, levels, vectors, parts):
    """<level of the codes in quads, vectors>, lane by lane; vectors (d + 3, 16) are 0 from d on."""
    table = sixteen_of(levels)
    for q in range(QUADS):
        p0 = p1 = p2 = p3 = splat(0.0)
        for g in range(q, quads.shape[0], QUADS):
            quad, j = load(quads, g), 4 * g
            p0 = p0 + _level_of(quad, 0, table, levels) * widen(load(vectors, j))
            p1 = p1 + _level_of(quad, 1, table, levels) * widen(load(vectors, j + 1))
            p2 = p2 + _level_of(quad, 2, table, levels) * widen(load(vectors, j + 2))
            p3 = p3 + _level_of(quad, 3, table, levels) * widen(load(vectors, j + 3))
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
    bits, thresholds, levels = book
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
        dots, energies = quantize_block(y, d, _gains(norms2, d), thresholds, levels, quads, parts, rest)
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
