"""The scan of dot lines, from codes to the k best in one pass: one text for every instruction set and every width.

Law:       keys and their order are those of codes_to_levels, dot, add_scores and select, bit for bit; nothing is
           written but the heaps. Tiles of queries pass over a block of panels that stays in the cache.
Speed:     d = 1536, 4 bits, 64 queries a batch, one Zen 4 core: 185 G multiply-adds/s in AVX-512 (the prototype of
           the bare loop 210), 65 in AVX2; decoding first and multiplying then, 27."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import kernel
from polarindex.kernels.simd import (
    field,
    grid_levels,
    load,
    load_table,
    lookup,
    stack,
    tile_dot4,
    tile_keys,
    tile_start,
)
from polarindex.kernels.topk import offer

PANEL = 16
BLOCK = 8  # panels: 98 kB of 4-bit codes at d = 1536, inside L2


@kernel
def _dot_line(isa, acc, line, width, levels, quads, at, rows):
    """Add the products of one line, width 1, 2 or 4."""
    for s in range(8 // width):
        acc = tile_dot4(isa, acc, lookup(isa, levels, field(line, width, s)), quads, at + s * rows)
    return acc


@kernel
def _dot_panel(isa, acc, words, at, planes, levels, quads, q, rows):
    """Add the products of a panel, or of the part of it that registers hold, from element `at` of words on."""
    high, width, low = planes
    if width == 8:
        for g in range(low):
            acc = tile_dot4(isa, acc, grid_levels(isa, load(isa, words, at + g * PANEL)), quads, q + g * rows)
    elif high == 0:
        step = 8 // width * rows
        for g in range(low):
            acc = _dot_line(isa, acc, load(isa, words, at + g * PANEL), width, levels, quads, q + g * step, rows)
    else:
        for g in range(low):
            top = load(isa, words, at + (g // 2) * PANEL)
            line = load(isa, words, at + (high + g) * PANEL)
            for s in range(4):
                codes = stack(field(top, 1, 4 * (g % 2) + s), field(line, 2, s), 2)
                acc = tile_dot4(isa, acc, lookup(isa, levels, codes), quads, q + (4 * g + s) * rows)
    return acc


@kernel
def _any_allowed(allowed, first, count):
    for v in range(first, first + count):
        if allowed[v]:
            return True
    return False


@kernel
def scan_lines(isa, shape, panels, planes, table, queries, factors, ids, allowed, best):
    """Offer the key of every vector to the k best of each query.

    shape = (rows, lanes, count): the Isa's own two numbers, and the vectors in the panels.
    panels (p, w, 16) uint32; planes = (high, width, low): words of a leading plane, width and words of the last:
        (0, b, w) for b = 1, 2, 4, 8 and (h, 2, w) for 3 bits, whose leading words hold the top bits of two words each.
    table (16,) int8, unused at 8 bits.
    queries = (quads (tiles, m, rows) int32, sums (rows tiles,) int32, gains (rows tiles,) float32): four coordinates
        of a query as bytes, the sum of all its bytes, and its gain.
    factors = (scales, shifts), each (16 p,) float32; ids (count,) int64; allowed (count,) uint8, or (0,) for all.
    best = (keys (rows tiles, k) float32, ids (rows tiles, k) int64), heaps as in topk.select.
    """
    rows, lanes, count = shape
    quads, sums, gains = queries
    scales, shifts = factors
    best_keys, best_ids = best
    n_words = panels.shape[1]
    words, flat = panels.reshape(-1), quads.reshape(-1)
    per_tile = quads.shape[1] * rows
    levels = load_table(isa, table)
    keys = np.empty((rows, lanes), np.float32)
    thresholds = best_keys[:, 0].copy()
    for first in range(0, panels.shape[0], BLOCK):
        last = min(first + BLOCK, panels.shape[0])
        for t in range(quads.shape[0]):
            for v in range(first * PANEL, min(last * PANEL, count), lanes):
                held = min(lanes, count - v)
                if allowed.size and not _any_allowed(allowed, v, held):
                    continue
                acc = tile_start(isa, sums, t * rows)
                at = v // PANEL * n_words * PANEL + v % PANEL
                acc = _dot_panel(isa, acc, words, at, planes, levels, flat, t * per_tile, rows)
                hits = tile_keys(acc, gains, thresholds, t * rows, scales, shifts, v, keys)
                r = 0
                while hits:
                    if hits & 1:
                        q = t * rows + r
                        offer(keys[r], held, v, ids, allowed, best_keys[q], best_ids[q])
                        thresholds[q] = best_keys[q, 0]
                    hits >>= 1
                    r += 1
