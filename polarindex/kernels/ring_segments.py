"""Rings among segments: levels of a segment whose code is a trellis', for many queries and for one.

In the plan of a scan the width of such a segment is RING more than the bits of a coordinate, and its table has the
levels of 256 windows.

Law:       levels are those of reference.unpack_ring and the table, keys those of a segment of any other code with them,
           bit for bit, on every instruction set."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined
from polarindex.kernels.lanes import moved, put_at, upper_halves_at
from polarindex.kernels.limits import RING
from polarindex.kernels.lines import dot_levels
from polarindex.kernels.ring import dot_ring, load_levels, two_lines
from polarindex.kernels.simd import bias_of, keep, lanes_of, on_line, prefetch, store, tile_scores, tile_start
from polarindex.kernels.weave import PANEL, wide_tables

_BYTE = np.uint32(255)


@inlined
def ring_lines(count, bits):
    """Lines of levels, four coordinates each, of rings of `count` words: all windows that begin in them, in eights."""
    return 2 * (-(-4 * count // bits))


@inlined
def ring_levels(isa, codes, at, count, bits, table, levels):
    """Fill the ring_lines of a panel's segment at element `at`; codes, table (256,) int8, levels: addresses."""
    m = ring_lines(count, bits)
    if wide_tables(isa):
        book = load_levels(isa, table)
        for step in range(m // 2):
            low, high = two_lines(isa, codes, at, count, bits, book, step)
            store(low, levels, 2 * step * PANEL)
            store(high, levels, (2 * step + 1) * PANEL)
        return
    bias = bias_of(isa)
    for line in range(m):
        word, shift = 4 * line * bits // 32, np.uint64(4 * line * bits % 32)
        after = word + 1 if word + 1 < count else 0
        low, high = at + word * PANEL, at + after * PANEL
        for v in range(PANEL):
            field = (np.uint64(codes[high + v]) << np.uint64(32) | np.uint64(codes[low + v])) >> shift
            four = np.uint32(0)
            for j in range(4):
                level = table[np.int64(field >> np.uint64(bits * j) & np.uint64(255))]
                four |= (np.uint32(np.int64(level) + bias) & _BYTE) << np.uint32(8 * j)
            levels[line * PANEL + v] = four


@inlined
def score_rings(alone, source, part, table, query, stored, base, panels, keys):
    """Keys with one segment more, of panels and one query, as alone._score_whole says; levels stay in registers, where
    there are instructions that look them up in these."""
    codes, at, size, ahead = source
    bits, count = part[0] - RING, part[1]
    quads, q, per_query, own = query
    scale, m = stored[2], ring_lines(count, bits)
    room = np.empty(16 if wide_tables(alone) else m * PANEL + 16, np.uint32)
    book, levels = load_levels(alone, table), on_line(room)
    for p in range(panels[0]):
        for line in range(count if ahead else 0):
            prefetch(codes, at + ahead + line * PANEL)
        put_at(scale, 0, upper_halves_at(stored[0], p * stored[1]))
        if not wide_tables(alone):
            ring_levels(alone, codes, at, count, bits, table, levels)
        for half in range(panels[1], panels[2], lanes_of(alone)):
            acc = tile_start(alone, per_query[0], own)
            if wide_tables(alone):
                acc = dot_ring(alone, acc, codes, at, count, bits, book, m, quads, q)
            else:
                acc = dot_levels(alone, acc, levels, half, m, quads, q)
            v = p * PANEL + half
            tile_scores(acc, per_query[1], own, scale, half, base, v, 0, moved(keys, v))
        at += size
    keep(room)
