"""What the first planes of a segment say of keys: sums by nibble tables, of panels and one query.

Law:       keys[v] = base[v] + (sum of the tables' bytes * step + lift) * scale_v, in float32, where with a margin of 0
           sum * step + lift is the inner product with base + weights * bits, but for the tables' steps.
Not here:  the scan that reads on where such bounds allow (alone.py); planes of whole codes (staged.py)."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import moved
from polarindex.kernels.nibbles import GROUP, TABLE, group_add, group_scores, group_zero
from polarindex.kernels.simd import prefetch
from polarindex.kernels.staged import row_tables
from polarindex.kernels.weave import PANEL


@kernel
def stage_segments(asked, sums, gains, parts, planes, estimates, tables, steps, lifts):
    """Queries as the first pass of scan_alone takes them.

    asked, sums, gains, parts as in scan_segments; planes (f,) int64, of each of the first segments; all its bits: it is
        taken as it is.
    estimates (f, 6) float64, of each: the base and the weights of three planes, whose sum over bits is a level; the
        margin, what is added to a bound for each |q| of the segment were it the only one that errs; and a row's usual
        scale, by which the segments share one margin.
    tables (held, lines, 1, 2, 64) uint8, of the planes of all segments, one after the other; steps, lifts (f, held)
        float32.
    """
    levels = asked.view(np.int8)
    errors = np.zeros(planes.size)
    for q in range(asked.shape[0]):
        spread, first_line = 0.0, 0
        for s in range(planes.size):
            square = 0
            for j in range(4 * parts[s, 3], 4 * (parts[s, 3] + parts[s, 4])):
                square += np.int64(levels[q, j]) * np.int64(levels[q, j])
            errors[s] = estimates[s, 4] * np.sqrt(np.float64(square)) * np.float64(gains[s, q])
            spread += (errors[s] * estimates[s, 5]) ** 2
        spread = np.sqrt(spread)
        for s in range(planes.size):
            steps[s, q], lifts[s, q] = 0, 0
            if planes[s] < parts[s, 0]:
                gain, words = np.float64(gains[s, q]), parts[s, 2]
                weights = estimates[s, 1 : 1 + planes[s]]
                step, offset = row_tables(levels, q, 4 * parts[s, 3], words, weights, False, tables, first_line)
                share = errors[s] * estimates[s, 5] / spread if spread > 0 else 0.0
                steps[s, q] = step * gain
                lifts[s, q] = (offset + estimates[s, 0] * sums[s, q]) * gain + errors[s] * share
                first_line += planes[s] * words


@inlined
def add_planes(alone, source, lines, tables, per_query, index, halves, base, count, keys):
    """Add to the keys of `count` panels what the first `lines` lines of each say by tables.

    source = (codes; where they begin in the first panel; words from panel to panel, and to one that is asked for ahead)
    per_query = (steps, lifts), the query's at `index`; halves = (scales of the first panel, upper halves; how many from
    panel to panel); base, keys: 16 floats a panel
    """
    codes, at, size, ahead = source
    p = 0
    while p < count:
        many = 1 if p + GROUP <= count else 0  # 0: all panels of the group are one
        group = group_zero(alone)
        for line in range(lines):
            for panel in range(GROUP * many):
                prefetch(codes, at + (p + panel) * size + ahead + line * PANEL)
            group = group_add(group, codes, at + p * size + line * PANEL, many * size, tables, line * TABLE)
        own, before, after = moved(halves[0], p * halves[1]), moved(base, p * PANEL), moved(keys, p * PANEL)
        group_scores(
            group, per_query[0], per_query[1], index, own, many * halves[1], before, after, many * PANEL
        )
        p += GROUP if many else 1
