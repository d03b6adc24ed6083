"""The full scan, from codes to the k best in one pass: one text for every instruction set and every width.

A panel's codes become int8 levels once, in a buffer that stays in the first-level cache, and tiles of queries pass
over it; one query alone takes them from the registers.

Law:       keys and their order are those of codes_to_levels, dot, add_scores and select, bit for bit; nothing is
           written but the heaps."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.simd import (
    biased,
    keep,
    lanes_of,
    load,
    lowest_bit,
    on_line,
    rows_of,
    start,
    store,
    tile_add,
    tile_dot4,
    tile_keys,
    tile_start,
    tile_store,
    tile_zero,
)
from polarindex.kernels.topk import ident_of, push
from polarindex.kernels.weave import AHEAD, PANEL, dot_panel, fetch, load_table, transpose4, weave_panel


@kernel
def tile_queries(levels, rows, quads, sums):
    """Queries as scan_lines takes them: quads[t, i, r] = coordinates 4 i .. 4 i + 3 of query rows t + r, a byte each.

    levels (nq, d) int8; quads (tiles, m, rows) int32, zeros beyond d and nq; sums (rows tiles,) int32.
    """
    nq, d = levels.shape
    for t in range(quads.shape[0]):
        for r in range(rows):
            q = t * rows + r
            total = 0
            for i in range(quads.shape[1]):
                quad = np.uint32(0)
                if q < nq:
                    for j in range(4 * i, min(4 * i + 4, d)):
                        total += levels[q, j]
                        quad |= np.uint32(np.uint8(levels[q, j])) << np.uint32(8 * (j - 4 * i))
                quads[t, i, r] = np.int32(quad)
            sums[q] = total


@inlined
def dot_levels(isa, acc, levels, half, m, quads, q):
    """Add the products of m lines of levels, of the part of each that starts at element `half`, and m query quads."""
    for i in range(m):
        acc = tile_dot4(isa, acc, load(isa, levels, i * PANEL + half), quads, q + i * rows_of(isa))
    return acc


@kernel
def dot_lines(isa, levels, queries, out):
    """out[q, i] = <levels[i], query q>: levels that were decoded elsewhere, at the speed of the dot instruction.

    levels (n, c / 4) uint32, four int8 levels a word; queries = (quads (tiles, c / 4, rows) int32, sums (rows tiles,)
    int32); out (rows tiles, 16 p) int32, p = ceil(n / 16); what is beyond n means nothing.
    """
    quads, sums = queries
    n, m = levels.shape
    rows, lanes = rows_of(isa), lanes_of(isa)
    room = np.empty(m * PANEL + 16, np.uint32)
    codes, lines, asked, totals, found = start(levels), on_line(room), start(quads), start(sums), start(out)
    for first in range(0, n, PANEL):
        whole = m - m % 4 if first + PANEL <= n else 0
        for g in range(0, whole, 4):
            transpose4(codes, first * m + g, m, lines, g * PANEL)
        for g in range(whole, m):
            for v in range(min(PANEL, n - first)):
                lines[g * PANEL + v] = codes[(first + v) * m + g]
        for i in range(0, m * PANEL, lanes):
            store(biased(isa, load(isa, lines, i)), lines, i)
        for t in range(quads.shape[0]):
            for half in range(0, PANEL, lanes):
                acc = dot_levels(isa, tile_start(isa, totals, t * rows), lines, half, m, asked, t * m * rows)
                tile_store(acc, found, t * rows * out.shape[1] + first + half, out.shape[1])
    keep(room)


@inlined
def dot_alone(isa, acc, levels, half, m, quads, q):
    """dot_levels for a tile of one query: four accumulators, for the dot instruction's result is ready after four."""
    second, third, fourth = tile_zero(isa), tile_zero(isa), tile_zero(isa)
    for i in range(0, m - 3, 4):
        at = i * PANEL + half
        acc = tile_dot4(isa, acc, load(isa, levels, at), quads, q + i)
        second = tile_dot4(isa, second, load(isa, levels, at + PANEL), quads, q + i + 1)
        third = tile_dot4(isa, third, load(isa, levels, at + 2 * PANEL), quads, q + i + 2)
        fourth = tile_dot4(isa, fourth, load(isa, levels, at + 3 * PANEL), quads, q + i + 3)
    for i in range(m - m % 4, m):
        acc = tile_dot4(isa, acc, load(isa, levels, i * PANEL + half), quads, q + i)
    return tile_add(tile_add(acc, second), tile_add(third, fourth))


@inlined
def any_allowed(allowed, first, stop):
    for v in range(first, stop):
        if allowed[v]:
            return True
    return False


@inlined
def offer_keys(isa, acc, first, v, stop, per_query, per_vector, names, allowed, best):
    """Offer the keys of vectors v, v + 1, ... below stop to the k best of queries first, first + 1, ....

    per_query = (sums, gains, limits: the k-th best keys), per_vector = (scales, shifts, room for keys), best = (keys,
    ids, k) of heaps: addresses; acc is a tile of the queries' products.
    """
    lanes, (_, gains, limits), (scales, shifts, out), (keys, ids, k) = lanes_of(isa), per_query, per_vector, best
    hits = tile_keys(acc, gains, limits, first, scales, shifts, v, out)
    while hits:
        r = lowest_bit(hits)
        hits &= hits - np.uint64(1)
        q = first + r
        for lane in range(min(lanes, stop - v)):
            key = out[r * lanes + lane]
            if key >= limits[q] and (allowed.size == 0 or allowed[v + lane]):
                push(key, ident_of(names, v + lane), keys, ids, q * k, k)
                limits[q] = keys[q * k]


@kernel
def scan_lines(isa, planes, count, words, table, queries, factors, names, allowed, heaps):
    """Offer the key of every vector to the k best of each query.

    planes = (first (p, words, 16), second (p, words, 16), rest (16 p, r)) uint32: codes of `count` vectors, the lines
        of two planes and the rows of the others, or the lines of 8-bit codes; what a code lacks is empty.
    table (16,) int8: the level of code c of b bits at c << (4 - b); unused at 8 bits.
    queries = (quads (tiles, m, rows) int32, sums (rows tiles,) int32, gains (rows tiles,) float32): four coordinates
        of a query as bytes, the sum of all its bytes, and its gain.
    factors = (scales, shifts), each (16 p,) float32; names as in topk.ident_of; allowed (count,) uint8, (0,) for all.
    heaps = (keys (rows tiles, k) float32, ids (rows tiles, k) int64), heaps as in topk.select.
    """
    quads, sums, gains = queries
    scales, shifts = factors
    rows, lanes = rows_of(isa), lanes_of(isa)
    tiles, m = quads.shape[:2]
    keys = np.empty((rows, lanes), np.float32)
    thresholds, k = heaps[0][:, 0].copy(), heaps[0].shape[1]
    best = start(heaps[0]), start(heaps[1]), k
    register = load_table(isa, start(table))
    codes = (start(planes[0]), start(planes[1]), start(planes[2]))
    row_room, level_room = np.empty(128 + 16, np.uint32), np.empty(m * PANEL + 16 if rows > 1 else 16, np.uint32)
    asked, lines, held = start(quads), on_line(level_room), on_line(row_room)
    per_query = start(sums), start(gains), start(thresholds)
    per_vector = start(scales), start(shifts), start(keys)
    ahead = 1 + AHEAD // (words * PANEL)
    for p in range(planes[0].shape[0]):
        first = p * PANEL
        stop = min(first + PANEL, count)
        if allowed.size and not any_allowed(allowed, first, stop):
            continue
        if rows > 1:
            weave_panel(isa, codes, p, words, register, held, lines)
        for t in range(tiles):
            if rows > 1:  # bit by bit, for memory is idle while tiles are multiplied
                for g in range(t * words // tiles, (t + 1) * words // tiles):
                    fetch(isa, codes, p + 1, words, g)
            for v in range(first, stop, lanes):
                acc = tile_start(isa, per_query[0], t * rows)
                if rows > 1:
                    acc = dot_levels(isa, acc, lines, v - first, m, asked, t * m * rows)
                else:
                    acc = dot_panel(isa, acc, codes, p, ahead, words, register, held, v - first, asked, t * m)
                offer_keys(isa, acc, t * rows, v, stop, per_query, per_vector, names, allowed, best)
    keep(keys)
    keep(thresholds)
    keep(row_room)
    keep(level_room)
