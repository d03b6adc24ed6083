"""The scan of codes in segments for a query alone, whose levels stay in registers: there is none to share them with.

    some panels -> what is read of all rows, segment after segment, keys in between -> bounds -> hits, the best first
    hits -> their panels, segment after segment, as long as the bound reaches the limit -> keys

Law:       where all that is read of all rows is whole segments, the heaps are offered what cascade.py offers them, to
           the bit. With planes, bound(q, v) = shift_v + sum over the first segments of (sum * step_q + lift_q) *
           scale_v, and what others may add, |q| |x|; the answer is the k largest of rank = min(key, bound), ties by the
           smaller id. A vector whose bound is below the k-th rank so far cannot be in it: the answer is the same in
           whatever order the vectors come, however they are split.
Loses:     with planes, vectors near the k-th whose key exceeds their bound, a share that the lift decides: what is
           behind the planes of a segment, which is rotated at random, adds to a sum as noise would.
First:     of the hits of some panels those with the best keys so far are read; all others wait until all rows are
           scanned, when few of them are still needed.
Not here:  what is read of all rows, and the lift (indexes/segment_planes.py); many queries (cascade.py)."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import floats_at, moved, put_at, upper_halves_at
from polarindex.kernels.limits import LEVELS, RING
from polarindex.kernels.lines import any_allowed
from polarindex.kernels.nibbles import TABLE
from polarindex.kernels.reaches import SLACK, length_from, lengths_after, widened
from polarindex.kernels.ring_segments import score_rings
from polarindex.kernels.segment_planes import add_planes
from polarindex.kernels.segments import fetch_segment
from polarindex.kernels.simd import (
    keep,
    lanes_of,
    load,
    most_of,
    planes_of,
    prefetch,
    rows_reaching,
    start,
    store,
    tag_with,
    tile_scores,
    tile_start,
)
from polarindex.kernels.staged import kth_largest
from polarindex.kernels.topk import ident_of, push
from polarindex.kernels.weave import AHEAD, PANEL, dot_page, dot_wide, load_table

RUN = 32  # panels that a query passes over before the next segment
_LOOK = 4  # hits
_BEST = 1  # times k: hits that are read before the others
_GROWTH = 4  # of the panels between such readings


@inlined
def _score_panels(tag, source, part, tables, query, stored, base, panels, keys):
    """_score_whole for a width that is known."""
    codes, at, size, ahead = source
    count = part[1]
    quads, q, per_query, own = query
    scale, lines = stored[2], count if planes_of(tag) == 8 else count * planes_of(tag)
    for p in range(panels[0]):
        for line in range(lines if ahead else 0):
            prefetch(codes, at + ahead + line * PANEL)
        put_at(scale, 0, upper_halves_at(stored[0], p * stored[1]))
        for half in range(panels[1], panels[2], lanes_of(tag)):
            acc = tile_start(tag, per_query[0], own)
            if 4 < planes_of(tag) < 8:
                acc = dot_wide(tag, acc, codes, at, count, tables, half, quads, q)
            else:
                acc = dot_page(tag, acc, codes, at, count, load_table(tag, tables), half, quads, q)
            v = p * PANEL + half
            tile_scores(acc, per_query[1], own, scale, half, base, v, 0, moved(keys, v))
        at += size


@kernel
def _score_whole(alone, source, part, tables, query, stored, base, panels, keys):
    """Keys with one segment more than those of `base`, of panels and one query: levels stay in registers.

    source = (codes; where the segment begins in the first panel; words from panel to panel, and to one that is asked
        for ahead, 0: none); part = (bits, words of a plane), as of scan_segments; tables: the segment's.
    query = (quads, the first of the query's in the segment, what is known of queries, the query's place in that)
    stored = (scales of the first panel, upper halves; how many from panel to panel; room for 16)
    panels = (how many; the parts of their 16 vectors from and to)
    """
    bits, rest = part[0], (source, part, tables, query, stored, base, panels, keys)
    if bits > RING:
        score_rings(tag_with(alone, 0, 8), *rest)
    elif bits == 8:
        _score_panels(tag_with(alone, 0, 8), *rest)
    elif bits == 7:
        _score_panels(tag_with(alone, 0, 7), *rest)
    elif bits == 6:
        _score_panels(tag_with(alone, 0, 6), *rest)
    elif bits == 5:
        _score_panels(tag_with(alone, 0, 5), *rest)
    elif bits == 4:
        _score_panels(tag_with(alone, 0, 4), *rest)
    elif bits == 3:
        _score_panels(tag_with(alone, 0, 3), *rest)
    elif bits == 2:
        _score_panels(tag_with(alone, 0, 2), *rest)
    else:
        _score_panels(tag_with(alone, 0, 1), *rest)


@inlined
def _add_segment(alone, codes, layout, tables, queries, stored, s, q, p, panels, ahead, scale, base, keys):
    """Add segment s, all of it, to the keys of panels from p on, for query q; panels, ahead as of _score_whole."""
    _, whole, parts, sizes = layout
    asked, per_query, held, m = queries
    own, size = (codes[0], sizes[0]) if s < whole else (codes[1], sizes[1])
    stages = parts.shape[0]
    source = own, p * size + parts[s, 1] * PANEL, size, ahead * size
    query = asked, q * m + parts[s, 3], per_query, s * held + q
    scales = moved(stored, (p * stages + s) * PANEL), stages * PANEL, scale
    part, table = (parts[s, 0], parts[s, 2]), moved(tables, s * LEVELS)
    _score_whole(tag_with(alone, 0, 8), source, part, table, query, scales, base, panels, keys)


@inlined
def _estimates(alone, codes, layout, tables, first, queries, factors, q, block, count, keys):
    """Put what the first segments say of `count` panels in `keys`, behind which is room for 16 floats."""
    _, whole, parts, sizes = layout
    planes, nibbles, lines, steps, lifts = first
    stored, shift, _ = factors
    stages, line = parts.shape[0], q * lines
    for s in range(planes.size):
        own, size = (codes[0], sizes[0]) if s < whole else (codes[1], sizes[1])
        ahead, base = 1 + AHEAD // size, keys
        if s == 0:
            base = moved(shift, block * PANEL)
        if planes_of(alone) < 8 and planes[s] < parts[s, 0]:
            many = planes[s] * parts[s, 2]
            source = own, block * size + parts[s, 1] * PANEL, size, ahead * size
            scales = moved(stored, (block * stages + s) * PANEL), stages * PANEL
            per_query, index = (steps, lifts), s * queries[2] + q
            add_planes(alone, source, many, moved(nibbles, line * TABLE), per_query, index, scales, base, count, keys)
            line += many
        else:
            panels, room = (count, np.int64(0), np.int64(PANEL)), moved(keys, RUN * PANEL)
            _add_segment(alone, codes, layout, tables, queries, stored, s, q, block, panels, ahead, room, base, keys)


@inlined
def _length(longest, first, factors, layout, v, length):
    """Put what is known of the lengths behind the first segments, of 16 vectors from v on."""
    head, _, parts, _ = layout
    stages = parts.shape[0]
    if first == head and head < stages:
        put_at(length, 0, upper_halves_at(factors[2], v))
    elif first < stages:
        put_at(length, 0, length_from(factors[0], v * stages, longest, first, stages))


@kernel
def _collect(alone, codes, layout, tables, longest, first, queries, factors, rows, allowed, limits, q, hits, found):
    """Add to the hits registers of panels rows[0] to rows[1] - 1, of rows[2] vectors, with a bound that reaches the
    limit; how many hits there are then.

    hits = (what is known of their keys, where they begin (r,) int32, the most of each register (r,) float32)
    """
    keys_room, places, most = hits
    room, lanes, read = np.zeros((RUN + 2) * PANEL, np.float32), lanes_of(alone), first[0].size
    keys, length = start(room), moved(start(room), (RUN + 1) * PANEL)
    reaches, worsts = moved(queries[1][2], (read - 1) * queries[2]), start(limits)
    for block in range(rows[0], rows[1], RUN):
        count, v0 = min(RUN, rows[1] - block), block * PANEL
        stop = min(v0 + count * PANEL, rows[2])
        if allowed.size and not any_allowed(allowed, v0, stop):
            continue
        _estimates(alone, codes, layout, tables, first, queries, factors, q, block, count, keys)
        for v in range(v0, stop, lanes):
            if v % PANEL == 0:
                _length(longest, read, factors, layout, v, length)
            own = moved(keys, v - v0)
            if rows_reaching(alone, own, reaches, worsts, q, length, v % PANEL) == np.uint64(0):
                continue
            if allowed.size and not any_allowed(allowed, v, min(v + lanes, stop)):
                continue
            store(load(alone, own, 0), keys_room, found * lanes)
            places[found], most[found] = v, most_of(alone, own, 0)
            found += 1
    keep(room)
    return found


@inlined
def _follow(alone, codes, layout, tables, longest, begin, queries, factors, limits, q, place, keys):
    """Add segments from `begin` on to the keys of a panel, as long as the rest may bring one of a register's, which are
    those from `place` on, to the limit; whether it may. Behind the keys is room for scales and lengths of segments."""
    head, _, parts, _ = layout
    stages, p, half, zero = parts.shape[0], place // PANEL, place % PANEL, np.int64(0)
    scale, length = moved(keys, PANEL), moved(keys, (1 + stages) * PANEL)
    widened(factors[0], p * stages * PANEL, stages, scale)
    lengths_after(scale, longest, begin, stages, length)
    if begin < head < stages:
        put_at(length, (head - 1) * PANEL, upper_halves_at(factors[2], p * PANEL))
    panels, own = (np.int64(1), half, half + lanes_of(alone)), moved(keys, half)
    for s in range(begin, stages):
        fetch_segment(codes, layout, p, s + 1)
        _add_segment(alone, codes, layout, tables, queries, factors[0], s, q, p, panels, zero, scale, keys, keys)
        reaches = moved(queries[1][2], s * queries[2])
        if rows_reaching(alone, own, reaches, start(limits), q, length, s * PANEL + half) == np.uint64(0):
            return False
    return True


@kernel
def _read(alone, codes, layout, tables, longest, first, queries, factors, ends, allowed, limits, q, hits, found, least):
    """Offer what the hits with a key of at least `least` so far come to; the others stay hits; how many.

    ends = (names, heaps, k, slack, how many vectors there are)
    """
    names, best, k, slack, count = ends
    keys_room, places, most = hits
    parts, lanes, read = layout[2], lanes_of(alone), first[0].size
    left, ahead, begin = 0, 0, 0 if first[2] else read  # after planes all is read
    room = np.zeros((3 + 2 * parts.shape[0]) * PANEL, np.float32)
    bounds, length, keys = start(room), moved(start(room), PANEL), moved(start(room), 2 * PANEL)
    for i in range(found):
        place, known = np.int64(places[i]), moved(keys_room, i * lanes)
        if most[i] < least:
            store(load(alone, known, 0), keys_room, left * lanes)
            places[left], most[left] = place, most[i]
            left += 1
            continue
        p, half = place // PANEL, place % PANEL
        _length(longest, read, factors, layout, p * PANEL, length)
        reaches = moved(queries[1][2], (read - 1) * queries[2])
        if rows_reaching(alone, known, reaches, start(limits), q, length, half) == np.uint64(0):
            continue
        ahead = max(ahead, i + 1)
        while ahead < min(i + _LOOK, found):
            for s in range(begin, max(begin + 1, layout[0])):
                fetch_segment(codes, layout, places[ahead] // PANEL, s)
            ahead += 1
        own = moved(keys, half)
        store(load(alone, known, 0), own, 0)
        if begin < read:
            for lane in range(lanes):
                bounds[lane] = known[lane] + reaches[q] * length[half + lane]
            put_at(keys, 0, floats_at(factors[1], p * PANEL))
        if not _follow(alone, codes, layout, tables, longest, begin, queries, factors, limits, q, place, keys):
            continue
        for lane in range(min(lanes, count - place)):
            key = own[lane]
            if begin < read and bounds[lane] < key:
                key = bounds[lane]
            if key >= limits[q] and (allowed.size == 0 or allowed[place + lane]):
                push(key, ident_of(names, place + lane), best[0], best[1], q * k, k)
                worst = best[0][q * k]
                limits[q] = worst - slack * abs(worst)
    keep(room)
    return left


@kernel
def scan_alone(
    alone, panels, count, segments, tables, longest, first, queries, factors, names, allowed, heaps, room
):
    """Offer every vector that may be among the k best of each query: its key, or its rank where planes are read.

    alone : a tag of one query; of 8 planes where tables cannot be, so that there is no code for them
    panels, count, segments, tables, longest, factors, names, allowed, heaps, room as in cascade.scan_segments; the head
        is that of `tails`. queries = (asked, sums, gains, reaches) of those there, of which one has a tile.
    first = (planes (f,) int64, what is read of the first segments for all vectors: all bits, or some planes; tables
        (held, lines, 1, 2, 64) uint8 on a cache line, steps, lifts (f, held) float32: of stage_segments)
    """
    head, whole, parts = segments
    planes, nibbles, steps, lifts = first
    asked, sums, gains, reaches = queries
    scales, shifts, tails = factors
    lanes, all_panels, k, stages = lanes_of(alone), panels[0].shape[0], heaps[0].shape[1], parts.shape[0]
    held, registers = sums.shape[1], PANEL // lanes
    slack, limits, counts = np.float32(stages * SLACK), np.empty(held, np.float32), np.zeros(held, np.int64)
    for q in range(held):
        worst = heaps[0][q, 0]
        limits[q] = worst - slack * abs(worst)
    most = room[1].shape[1] // held
    all_most, several = np.empty(held * most, np.float32), np.empty(most, np.float32)
    codes, sizes = (start(panels[0]), start(panels[1])), (panels[0].shape[1] * PANEL, panels[1].shape[1] * PANEL)
    layout, table, far = (head, whole, parts, sizes), start(tables), start(longest)
    asking = start(asked), (start(sums), start(gains), start(reaches)), held, asked.shape[1]
    known = start(scales), start(shifts), start(tails)
    passed = planes, start(nibbles), nibbles.shape[1], start(steps), start(lifts)
    ends = names, (start(heaps[0]), start(heaps[1])), k, slack, count
    block, size = 0, RUN
    while block < all_panels:
        free = (most - counts.max()) // registers
        end = min(block + min(size, free), all_panels)
        rows, last = (block, end, count), end == all_panels or free - (end - block) < RUN
        for q in range(held):
            mine = slice(q * most, (q + 1) * most)
            hits = moved(start(room[0]), q * most * lanes), room[1][0][mine], all_most[mine]
            found = _collect(
                alone, codes, layout, table, far, passed, asking, known, rows, allowed, limits, q, hits, counts[q]
            )
            for turn in range(2 if last else 1):
                least = np.float32(-np.inf)
                if turn == 0:
                    best = _BEST * k
                    least = kth_largest(hits[2], found, best, several) if found > 2 * best else np.float32(np.inf)
                found = _read(
                    alone, codes, layout, table, far, passed, asking, known, ends, allowed, limits, q, hits, found,
                    least,
                )
            counts[q] = found
        block, size = end, _GROWTH * size
    keep(limits)
