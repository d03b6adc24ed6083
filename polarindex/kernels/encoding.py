"""From rows to words in one pass: centre, rotate, quantize and pack 16 rows at a time, without leaving the cache.

Law:       codes, sums and words are those of rotate, quantize and pack_plane, bit for bit, whatever rows stand beside.
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import kernel
from polarindex.kernels.hadamard import ROWS, flips_of, load_rows, rotate_block, store_rows
from polarindex.kernels.lanes import choose, load, lookup, lookup16, narrow, root, splat, store, widen
from polarindex.kernels.pack import pack_block
from polarindex.kernels.scalar import quantize_block, sixteen_of

LARGEST = float(np.finfo(np.float32).max)


@kernel
def _centre(block, mu):
    """block[j] -= mu[j]; returns |r|^2 and <mu, r> of the rows r that remain."""
    norms2 = offsets = splat(0.0)
    for j in range(mu.size):
        r = load(block, j) - splat(mu[j])
        store(block, j, r)
        exact = widen(r)
        norms2 = norms2 + exact * exact
        offsets = offsets + exact * splat(np.float64(mu[j]))
    return norms2, offsets


@kernel
def _subtract(block, centres, d):
    """block[j] -= centres[j]; returns |r|^2 and <c, r> of the rows r that remain, c a centre for each."""
    norms2 = offsets = splat(0.0)
    for j in range(d):
        c = load(centres, j)
        r = load(block, j) - c
        store(block, j, r)
        exact = widen(r)
        norms2 = norms2 + exact * exact
        offsets = offsets + exact * widen(c)
    return norms2, offsets


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
    bit wide, most significant first, or bytes if bits is 8; sums (4, n) float64, in the order of coordinates.
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
    for i in range(0, n, ROWS):
        load_rows(x, i, before)
        norms2, offsets = _centre(before, mu)
        y = rotate_block(before, block, order, flips, starts, size, norm)
        dots, energies = quantize_block(y, d, _gains(norms2, d), thresholds, levels, quads)
        pack_block(quads, bits, packed)
        store_rows(packed, i, words)
        store(totals, 0, norms2)
        store(totals, 1, offsets)
        store(totals, 2, dots)
        store(totals, 3, energies)
        _store_sums(totals, i, sums)


@kernel
def _level_dots(quads, levels, vectors, d):
    """<level of the codes in quads, vectors>, lane by lane, one term after the other; vectors (>= d, 16)."""
    table = sixteen_of(levels)
    byte = splat(np.uint32(255))
    dots = splat(0.0)
    for j in range(d):
        code = (load(quads, j // 4) >> splat(np.uint32(8 * (j % 4)))) & byte
        level = lookup16(table, code) if levels.size <= ROWS else lookup(levels, code)
        dots = dots + widen(level) * widen(load(vectors, j))
    return dots


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
    for i in range(0, n, ROWS):
        load_rows(x, i, before)
        load_rows(centres, i, others)
        norms2, offsets = _subtract(before, others, d)
        y = rotate_block(before, block, order, flips, starts, size, norm)
        dots, energies = quantize_block(y, d, _gains(norms2, d), thresholds, levels, quads)
        pack_block(quads, bits, packed)
        store_rows(packed, i, words)
        load_rows(rotated, i, others)
        store(totals, 0, norms2)
        store(totals, 1, offsets)
        store(totals, 2, dots)
        store(totals, 3, energies)
        store(totals, 4, _level_dots(quads, levels, others, d))
        if coarse.size:
            store(totals, 5, _level_dots(quads, coarse, y, d))
            store(totals, 6, _level_dots(quads, coarse, others, d))
        _store_sums(totals, i, sums)
