"""Products of queries with a segment of codes that lie in panels with others: decoded and multiplied, panel by panel.

A row's words are those of its segments, one after the other, and a panel has 16 rows side by side, word by word: within
it a segment is like a page.

Law:       out is that of codes_to_levels and dot, bit for bit, on every instruction set."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.limits import RING
from polarindex.kernels.lines import dot_levels
from polarindex.kernels.ring_segments import ring_levels
from polarindex.kernels.simd import (
    keep,
    lanes_of,
    planes_of,
    prefetch,
    rows_of,
    start,
    tag_with,
    tile_start,
    tile_store,
)
from polarindex.kernels.weave import PANEL, load_table, unwoven_page, unwoven_wide


@inlined
def decoded_segment(isa, codes, at, count, bits, tables, levels):
    """segment_levels for where it is in the innermost loop: a call a page costs a search of lists 10 to 25 %."""
    if bits > RING:
        ring_levels(isa, codes, at, count, bits - RING, tables, levels)
    elif bits == 8:
        tag = tag_with(isa, 0, 8)
        unwoven_page(tag, codes, at, count, load_table(tag, tables), levels, 0)
    elif bits == 7:
        unwoven_wide(tag_with(isa, 0, 7), codes, at, count, tables, levels)
    elif bits == 6:
        unwoven_wide(tag_with(isa, 0, 6), codes, at, count, tables, levels)
    elif bits == 5:
        unwoven_wide(tag_with(isa, 0, 5), codes, at, count, tables, levels)
    elif bits == 4:
        tag = tag_with(isa, 0, 4)
        unwoven_page(tag, codes, at, count, load_table(tag, tables), levels, 0)
    elif bits == 3:
        tag = tag_with(isa, 0, 3)
        unwoven_page(tag, codes, at, count, load_table(tag, tables), levels, 0)
    elif bits == 2:
        tag = tag_with(isa, 0, 2)
        unwoven_page(tag, codes, at, count, load_table(tag, tables), levels, 0)
    else:
        tag = tag_with(isa, 0, 1)
        unwoven_page(tag, codes, at, count, load_table(tag, tables), levels, 0)


@kernel
def segment_levels(isa, codes, at, count, bits, tables, levels):
    """Levels of a segment of a panel whose width is known only now: lines of int8 at `levels`, as `dot_levels` takes
    them. codes, tables, levels: addresses; the others as of dot_segment, or of a ring, see ring_segments."""
    decoded_segment(isa, codes, at, count, bits, tables, levels)


@kernel
def dot_segment(isa, panels, first, count, table, queries, out):
    """out[q, i] = <levels of row i in a segment, query q>.

    panels (p, w, 16) uint32; first: the segment's first word in a row; count: words of one of its planes, of which
    there are planes_of(isa), or all its words where that is 8 (codes of a byte).
    table (8, 16) int8: the level of code c of b bits at c << (4 - b) of the first line; with more bits, in order;
    unused at 8 bits.
    queries = (quads (tiles, m, rows) int32, sums (rows tiles,) int32), of tile_queries, with m lines a panel;
    out (rows tiles, 16 p) int32.
    """
    quads, sums = queries
    m, rows, width = quads.shape[1], rows_of(isa), lanes_of(isa)
    lines = np.empty(m * PANEL, np.uint32)
    codes, held, asked, totals, found = start(panels), start(lines), start(quads), start(sums), start(out)
    levels = start(table)
    register = load_table(isa, levels)
    for p in range(panels.shape[0]):
        at = (p * panels.shape[1] + first) * PANEL
        if 4 < planes_of(isa) < 8:
            unwoven_wide(isa, codes, at, count, levels, held)
        else:
            unwoven_page(isa, codes, at, count, register, held, 0)
        for t in range(quads.shape[0]):
            for half in range(0, PANEL, width):
                acc = dot_levels(isa, tile_start(isa, totals, t * rows), held, half, m, asked, t * m * rows)
                tile_store(acc, found, t * rows * out.shape[1] + p * PANEL + half, out.shape[1])
    keep(lines)


@inlined
def fetch_segment(codes, layout, p, s):
    """Ask for segment s of panel p, if there is one."""
    _, whole, parts, sizes = layout
    if s < parts.shape[0]:
        source, size = (codes[0], sizes[0]) if s < whole else (codes[1], sizes[1])
        first = p * size + parts[s, 1] * PANEL
        for line in range(parts[s, 2] * (parts[s, 0] if parts[s, 0] < 8 else 1)):
            prefetch(source, first + line * PANEL)
