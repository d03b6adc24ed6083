"""The staged scan: a bound from the first planes of every vector, and the whole code where the bound allows.

Law:       bound(q, v) = (sum of the first planes * step_q + lift_q) * scale_v + shift_v, larger is better; the answer
           is the k largest of rank = min(key, bound), ties by the smaller id. Since a rank is never above its bound,
           a vector whose bound is below the k-th rank so far cannot be in it: the answer is the same in whatever
           order the vectors come, however they are split.
Loses:     with all planes in the first pass and sums rounded up, bound >= key and nothing; else the vectors near the
           k-th whose key exceeds their bound, a share that the lift decides (codebooks.first_planes).
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lines import any_allowed
from polarindex.kernels.nibbles import (
    GROUP,
    TABLE,
    gather,
    group_add,
    group_hits,
    group_zero,
    load_some,
)
from polarindex.kernels.simd import (
    keep,
    lowest_bit,
    planes_of,
    prefetch,
    rows_of,
    start,
    tile_add,
    tile_dot,
    tile_total,
    tile_zero,
)
from polarindex.kernels.topk import ident_of, push
from polarindex.kernels.weave import AHEAD, PANEL, eight_levels, fetch, load_table, zeros

SLACK = 2.0**-20  # of the largest sum: what float32 may lose between a bound and a key
FETCH_FROM = 16  # queries
BLOCK = 32  # panels over which all queries pass before the next: 98 kB of a plane at d = 1536


@inlined
def row_tables(levels, q, column, words, weights, up, tables, line):
    """nibble_tables of query q alone, of 32 * words levels from `column` on, in lines from `line` on; step, offset."""
    rows, planes = tables.shape[2], weights.size
    tile, row = q // rows, q % rows
    sums = np.empty(16, np.float64)
    widest = 0.0
    offset = 0.0
    for j in range(column, column + 32 * words, 16):
        for t in range(4):
            total = 0.0
            for s in range(4):
                total += abs(np.float64(levels[q, j + 4 * s + t]))
            for p in range(planes):
                widest = max(widest, total * abs(weights[p]))
    step = widest / 127
    inverse = 1 / step if step > 0 else 0.0
    for p in range(planes):
        for g in range(words):
            for h in range(2):
                for t in range(4):
                    sums[0] = 0.0
                    lowest = 0.0
                    for s in range(4):
                        value = np.float64(levels[q, column + 32 * g + 16 * h + 4 * s + t]) * weights[p]
                        lowest += min(value, 0.0)
                        for i in range(1 << s):
                            sums[i + (1 << s)] = sums[i] + value
                    offset += lowest
                    table = tables[tile, line + p * words + g, row, h]
                    for i in range(16):
                        scaled = (sums[i] - lowest) * inverse
                        table[16 * t + i] = min(int(np.ceil(scaled) if up else scaled + 0.5), 127)
    return step, offset


@kernel
def nibble_tables(levels, weights, up, tables, steps, offsets):
    """Tables of the sums of four coordinates' weighted bits: sum = step_q * (sum of bytes) + offset_q.

    levels (nq, 32 w) int8, the queries; weights (planes,) float64, what a plane's bit adds to a coordinate's level.
    tables (tiles, planes * w, rows, 2, 64) uint8: at [.., line, row, h, 16 t + i] the sum for bits i of coordinates
    32 g + 16 h + 4 s + t, s = 0..3, in steps of a 127th of the query's widest sum; to the next whole step, or with
    `up` to the one not below. steps, offsets (nq,) float64. A query of zeros has step 0.
    """
    for q in range(levels.shape[0]):
        steps[q], offsets[q] = row_tables(levels, q, 0, levels.shape[1] // 32, weights, up, tables, 0)


@kernel
def stage_queries(levels, gains, estimate, bias, tables, steps, lifts, asked, starts):
    """Queries as scan_staged takes them.

    levels (nq, d) int8, gains (nq,) float32; estimate = (base, weights (planes,), margin) float64: a level is
    base + sum of weights * bits of the first planes, and margin times |q| is added to a bound; 0: tables are rounded
    up, and float32's rounding allowed for. tables (tiles, planes * w, rows, 2, 64) as of nibble_tables; steps, lifts
    (rows tiles,) float32; asked (rows tiles, 128 c) uint32, c registers of 16 words; starts (rows tiles,) int32.
    """
    nq, d = levels.shape
    base, weights, margin = estimate
    held = steps.size
    words = tables.shape[1] // weights.size
    padded = np.zeros((held, 32 * words), np.int8)
    for q in range(nq):
        for j in range(d):
            padded[q, j] = levels[q, j]
    exact_steps, offsets = np.empty(held), np.empty(held)
    nibble_tables(padded, weights, margin == 0, tables, exact_steps, offsets)
    widest = abs(base)
    for weight in weights:
        widest += abs(weight)
    for q in range(held):
        total, size, energy = 0, 0, 0
        for j in range(padded.shape[1]):
            level = np.int64(padded[q, j])
            total += level
            size += abs(level)
            energy += level * level
        lift = offsets[q] + base * total + margin * np.sqrt(np.float64(energy)) + SLACK * size * widest
        gain = np.float64(gains[q]) if q < nq else 0.0
        steps[q] = exact_steps[q] * gain
        lifts[q] = lift * gain
        starts[q] = -bias * total
        for i in range(asked.shape[1]):
            g, s = i // 128 * 16 + i % 16, i // 16 % 8  # of 16 words, first the bytes of s = 0, then of s = 1, ...
            quad = np.uint32(0)
            if g < words:
                for t in range(4):
                    quad |= np.uint32(np.uint8(padded[q, 32 * g + 4 * s + t])) << np.uint32(8 * t)
            asked[q, i] = quad


@inlined
def _dot_row(isa, codes, v, count, table, asked, q):
    """The sum of products of vector v's levels with query bytes from asked[q] on."""
    one, two = tile_zero(isa), tile_zero(isa)
    at, row = v // PANEL * count * PANEL + v % PANEL, v * (planes_of(isa) - 2) * count
    for g in range(0, count, PANEL):
        left = count - g
        a = gather(isa, codes[0], at + g * PANEL, left)
        b = gather(isa, codes[1], at + g * PANEL, left) if planes_of(isa) > 1 else zeros(isa)
        c = load_some(isa, codes[2], row + g, left) if planes_of(isa) > 2 else zeros(isa)
        d = load_some(isa, codes[2], row + count + g, left) if planes_of(isa) > 3 else zeros(isa)
        eight = eight_levels(isa, table, a, b, c, d)
        i = q + 8 * g
        one = tile_dot(isa, one, eight[0], asked, i)
        two = tile_dot(isa, two, eight[1], asked, i + PANEL)
        one = tile_dot(isa, one, eight[2], asked, i + 2 * PANEL)
        two = tile_dot(isa, two, eight[3], asked, i + 3 * PANEL)
        one = tile_dot(isa, one, eight[4], asked, i + 4 * PANEL)
        two = tile_dot(isa, two, eight[5], asked, i + 5 * PANEL)
        one = tile_dot(isa, one, eight[6], asked, i + 6 * PANEL)
        two = tile_dot(isa, two, eight[7], asked, i + 7 * PANEL)
    return tile_total(tile_add(one, two))


@inlined
def _fetch_row(isa, codes, v, count):
    """Ask for what _dot_row reads of vector v and the first pass does not."""
    if planes_of(isa) > 1:
        for g in range(count):
            prefetch(codes[1], (v // PANEL * count + g) * PANEL)
    stride = (planes_of(isa) - 2) * count
    for g in range(0, stride, PANEL):
        prefetch(codes[2], v * stride + g)


@inlined
def kth_largest(values, count, k, room):
    """The k-th largest of values[:count], 1 <= k <= count; by quickselect in room[:count]."""
    for i in range(count):
        room[i] = values[i]
    low, high = 0, count - 1
    while low < high:
        pivot = room[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while room[i] > pivot:
                i += 1
            while room[j] < pivot:
                j -= 1
            if i <= j:
                room[i], room[j] = room[j], room[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            break
    return room[k - 1]


@kernel
def scan_staged(isa, alone, planes, count, words, first_planes, table, first, queries, factors, names, allowed, heaps):
    """Offer every vector's rank to the k best of each query.

    isa, alone: tags of the tile of queries and of one query. planes, count, words, table, factors, names, allowed,
        heaps as in lines.scan_lines; first_planes, the planes that bounds are made of.
    first = (tables (tiles, first_planes * words, rows, 2, 64) uint8 on a cache line, steps, lifts (rows tiles,) f32)
    queries = (bytes (nq, 8 * words rounded up to 16) uint32, starts (nq,) int32, gains (nq,) float32): a query's bytes
        in the order of a row's levels, -bias times their sum, and its gain.
    """
    tables, steps, lifts = first
    asked, starts, gains = queries
    scales, shifts = factors
    rows, size = rows_of(isa), words * PANEL
    whole = first_planes == planes_of(isa)
    k = heaps[0].shape[1]
    group_bounds = np.empty((rows, GROUP * PANEL), np.float32)
    hits = np.empty(rows, np.uint64)
    found = np.empty((rows, BLOCK * PANEL), np.int64)  # vectors whose bound allows them, and the bounds
    bounds = np.empty((rows, BLOCK * PANEL), np.float32)
    room = np.empty(BLOCK * PANEL, np.float32)
    held = np.empty(rows, np.int64)
    thresholds = heaps[0][:, 0].copy()
    best, limits = (start(heaps[0]), start(heaps[1])), start(thresholds)
    register = load_table(alone, start(table))
    codes = (start(planes[0]), start(planes[1]), start(planes[2]))
    entries, bytes_, lane_bounds, masks = start(tables), start(asked), start(group_bounds), start(hits)
    per_query = start(steps), start(lifts), limits
    per_vector = start(scales), start(shifts)
    ahead = AHEAD // size + GROUP
    panels = planes[0].shape[0]
    # many queries read most of what the first pass does not: it is asked for with the rest, else row by row
    all_planes = tables.shape[0] * rows >= FETCH_FROM and first_planes == 1
    for block in range(0, panels, BLOCK):
        end = min(block + BLOCK, panels)
        for t in range(tables.shape[0]):
            held[:] = 0
            p = block
            while p < end:
                together = GROUP if p + GROUP <= end else 1
                v0, at = p * PANEL, p * size
                stop = min(v0 + together * PANEL, count)
                p += together
                if allowed.size and not any_allowed(allowed, v0, stop):
                    continue
                group = group_zero(isa)
                stride = size if together == GROUP else 0
                for plane in range(first_planes):
                    plane_lines = codes[0] if plane == 0 else codes[1]
                    for g in range(words):
                        if t == 0:
                            for panel in range(GROUP):
                                if all_planes:
                                    fetch(alone, codes, p + ahead + panel, words, g)
                                else:
                                    prefetch(plane_lines, (p + ahead + panel) * size + g * PANEL)
                        line = (t * first_planes + plane) * words + g
                        group = group_add(group, plane_lines, at + g * PANEL, stride, entries, line * rows * TABLE)
                if group_hits(
                    group, per_query[0], per_query[1], per_query[2], t * rows, per_vector[0], per_vector[1], v0,
                    stride // size, lane_bounds, masks,
                ):
                    for r in range(rows):
                        mask = masks[r] & (np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - (stop - v0)))
                        while mask:
                            lane = lowest_bit(mask)
                            mask &= mask - np.uint64(1)
                            if allowed.size == 0 or allowed[v0 + lane]:
                                found[r, held[r]] = v0 + lane
                                if not all_planes:
                                    _fetch_row(alone, codes, v0 + lane, words)
                                bounds[r, held[r]] = lane_bounds[r * GROUP * PANEL + lane]
                                held[r] += 1
            for r in range(rows):
                if held[r] == 0:
                    continue
                q = t * rows + r
                # the best bounds first, so that the k-th rank is high when the others' turn comes
                middle = kth_largest(bounds[r], held[r], k, room) if held[r] > 2 * k else np.float32(-np.inf)
                for turn in range(2):
                    for i in range(held[r]):
                        bound = bounds[r, i]
                        if (bound >= middle) == (turn == 1) or bound < limits[q]:
                            continue
                        v = found[r, i]
                        dot = starts[q] + _dot_row(
                            alone, codes, v, words, register, bytes_, q * asked.shape[1]
                        )
                        key = np.float32(np.float32(np.float32(dot) * gains[q]) * scales[v]) + shifts[v]
                        push(key if whole or key < bound else bound, ident_of(names, v), best[0], best[1], q * k, k)
                        limits[q] = best[0][q * k]
                    if middle == -np.inf:
                        break
    keep(group_bounds)
    keep(hits)
    keep(thresholds)
