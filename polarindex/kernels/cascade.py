"""The scan of codes in segments: the first of them for all rows, the others for rows that may still come to an answer.

    panels -> levels of the head -> tiles of queries: keys so far -> hits: the rest may bring them to an answer
    hits of some panels -> the next segment's levels, once for all queries that want them -> keys so far -> ...

Law:       a key is shift + sum over segments, in their order, of (dot * gain) * scale, each operation in float32, and
           the heaps are offered every key that reaches their worst: what is left out, ties included, is in no answer.
Bound:     what segments after s add is <x, q> of what a row and a query have there, at most |x| |q| (Cauchy-Schwarz).
           |q| is `reach`; |x| of all segments after the head is stored with the row, rounded up, and after others it
           is at most the root of the sum of (scale * longest levels)^2. `SLACK` is for what float32 rounds.
First:     where nothing is known yet, the hits with the best keys so far are finished before all others: from then on
           the limit is nearly the last one. Afterwards they come in their order, and share the levels of their panels.
All:       with all segments in the head it is the full scan, in one pass.
Not here:  queries alone (alone.py); what the bounds leave, and whether they pay (indexes/plan.py)."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import floats_at, moved, put_at, upper_halves_at
from polarindex.kernels.limits import EMPTY_ID, LEVELS
from polarindex.kernels.lines import any_allowed, dot_alone, dot_levels
from polarindex.kernels.reaches import SLACK, lengths_after, widened
from polarindex.kernels.segments import fetch_segment, segment_levels
from polarindex.kernels.simd import (
    bias_of,
    keep,
    lanes_of,
    load,
    lowest_bit,
    most_of,
    on_line,
    row_starts,
    rows_of,
    rows_reaching,
    start,
    store,
    tile_dot4_of,
    tile_from,
    tile_scores,
    tile_start,
)
from polarindex.kernels.topk import ident_of, push
from polarindex.kernels.weave import AHEAD, PANEL

_LOOK = 3  # panels with hits
_BEST = 3  # times k: hits that are finished before the others where nothing is known yet
_SAMPLED = 8  # one of so many says which these are


@inlined
def _levels_of(isa, codes, layout, tables, levels, p, s, known):
    """Where levels of segment s of panel p are: codes themselves, or its lines of `levels`, filled unless known."""
    _, whole, parts, sizes = layout
    source, size = (codes[0], sizes[0]) if s < whole else (codes[1], sizes[1])
    at, line = p * size + parts[s, 1] * PANEL, parts[s, 3] * PANEL
    if bias_of(isa) and parts[s, 0] == 8:
        return moved(source, at)
    found = moved(levels, line)
    if not known:
        segment_levels(isa, source, at, parts[s, 2], parts[s, 0], moved(tables, s * LEVELS), found)
    return found


@inlined
def _offer(found, v, lanes, q, limits, slack, names, allowed, best, k):
    """Offer what reaches a query's limit, of keys found[lane] of vectors v + lane, to its heap."""
    for lane in range(lanes):
        key = found[lane]
        if key >= limits[q] and (allowed.size == 0 or allowed[v + lane]):
            push(key, ident_of(names, v + lane), best[0], best[1], q * k, k)
            worst = best[0][q * k]
            limits[q] = worst - slack * abs(worst)


@kernel
def _heads(isa, alone, codes, rows, layout, tables, queries, factors, ends, allowed, limits, levels, hits):
    """The hits of panels `rows[0]` to rows[1] - 1 of rows[2] vectors: keys of their heads, places and queries.

    ends = (names, best, k, slack): where the head is all there is, keys are offered to the heaps, and no hit is left.
    """
    head, _, parts, sizes = layout
    tile_quads, _, per_query, tiles, m = queries
    stored, shift, tail = factors
    hit_keys, hit_places, hit_queries = hits
    lines, lanes, stages, held, found = rows_of(isa), lanes_of(isa), parts.shape[0], limits.size, 0
    names, best, k, slack = ends
    room, scale_room = np.empty((held + 1) * PANEL, np.float32), np.zeros((head + 1) * PANEL, np.float32)
    keys, scale, worsts, length = start(room), start(scale_room), start(limits), moved(start(scale_room), head * PANEL)
    reaches = moved(per_query[2], (head - 1) * held)
    ahead = 1 + AHEAD // (sizes[0] + (sizes[1] if head == stages else 0))  # panels
    for p in range(rows[0], rows[1]):
        first = p * PANEL
        stop = min(first + PANEL, rows[2])
        if allowed.size and not any_allowed(allowed, first, stop):
            continue
        if head < stages:
            widened(tail, first, 1, length)
        widened(stored, p * stages * PANEL, head, scale)
        for s in range(head):
            fetch_segment(codes, layout, p + ahead, s)
            own = _levels_of(alone, codes, layout, tables, levels, p, s, False)
            line, count = parts[s, 3], parts[s, 4]
            for t in range(tiles):
                for half in range(0, stop - first, lanes):
                    q = s * held + t * lines
                    acc, quads = tile_start(isa, per_query[0], q), (t * m + line) * lines
                    acc = dot_levels(isa, acc, own, half, count, tile_quads, quads)
                    own_keys = moved(keys, (t * PANEL + half) * lines)
                    if s == 0:
                        tile_scores(acc, per_query[1], q, scale, half, shift, first + half, 0, own_keys)
                    else:
                        tile_scores(acc, per_query[1], q, scale, s * PANEL + half, own_keys, 0, lanes, own_keys)
        for half in range(0, stop - first, lanes):
            for t in range(tiles):
                own_keys = moved(keys, (t * PANEL + half) * lines)
                reaching = rows_reaching(isa, own_keys, reaches, worsts, t * lines, length, half)
                while reaching:
                    r = lowest_bit(reaching)
                    reaching &= reaching - np.uint64(1)
                    q, v, row = t * lines + r, first + half, moved(own_keys, r * lanes)
                    if head == stages:
                        _offer(row, v, min(lanes, stop - v), q, limits, slack, names, allowed, best, k)
                    else:
                        put_at(hit_keys, found * lanes, floats_at(row, 0))
                        hit_places[found], hit_queries[found] = v, q
                        found += 1
    keep(room)
    keep(scale_room)
    return found


@kernel
def _best_first(alone, hits, found, tops, todo):
    """All hits in `todo`, first those with each query's largest keys, about _SAMPLED r for tops (nq, r); how many."""
    hit_keys, _, hit_queries = hits
    lanes, room, nq = lanes_of(alone), tops.shape[1], tops.shape[0]
    names, heaps = np.full(tops.size, EMPTY_ID), tops.reshape(-1)
    for p in range(0, found, nq * _SAMPLED):
        for i in range(p, min(p + nq, found)):
            push(most_of(alone, hit_keys, i * lanes), i, heaps, names, hit_queries[i] * room, room)
    nothing = np.zeros(max(nq, PANEL), np.float32)
    least = np.empty(nq, np.float32)
    for q in range(nq):
        least[q] = heaps[q * room]
    first, last = 0, found
    after = np.empty(found, np.int32)
    for i in range(found):
        near = rows_reaching(
            alone, moved(hit_keys, i * lanes), start(nothing), start(least), hit_queries[i], start(nothing), 0
        ) != np.uint64(0)
        todo[first] = i
        after[i - first] = i
        first += near
    last = found - first
    todo[first:found] = after[:last]
    keep(nothing)
    keep(least)
    return first


@kernel
def _still_near(alone, queries, factors, limits, last, hits, todo, first, found):
    """Keep of todo[first:found] what may come to the limits of now; where they end. last: the head's last segment."""
    hit_keys, hit_places, hit_queries = hits
    room, lanes, at = np.empty(PANEL, np.float32), lanes_of(alone), first
    length, reaches = start(room), moved(queries[2][2], last * limits.size)
    for j in range(first, found):
        i = todo[j]
        put_at(length, 0, upper_halves_at(factors[2], hit_places[i]))
        todo[at] = i
        found_key = moved(hit_keys, i * lanes)
        at += rows_reaching(alone, found_key, reaches, start(limits), hit_queries[i], length, 0) != np.uint64(0)
    keep(room)
    return at


@inlined
def _one_by_one(alone, own, place, s, queries, parts, factors, limits, hits, mine, first, kept):
    """Add segment s to the keys of the hits mine[first:] of a place; those that are still near go to mine[kept:]."""
    _, asked, per_query, _, m = queries
    hit_keys, _, hit_queries = hits
    scale, length = factors
    half, lanes, nq = place % PANEL, lanes_of(alone), limits.size
    at = s * PANEL + half
    for j in range(first, mine.size):
        i = mine[j]
        q, found = hit_queries[i], moved(hit_keys, i * lanes)
        acc = tile_start(alone, per_query[0], s * nq + q)
        acc = dot_alone(alone, acc, own, half, parts[s, 4], asked, q * m + parts[s, 3])
        tile_scores(acc, per_query[1], s * nq + q, scale, at, found, 0, 0, found)
        mine[kept] = i
        kept += rows_reaching(alone, found, moved(per_query[2], s * nq), start(limits), q, length, at) != np.uint64(0)
    return kept


@inlined
def _together(isa, own, place, s, queries, parts, factors, limits, hits, mine, first, kept, room):
    """The same of mine[first : first + rows of a tile], or as many as there are: levels are loaded once for all."""
    _, asked, per_query, _, m = queries
    hit_keys, _, hit_queries = hits
    scale, length = factors
    floats, numbers, begins = room
    rows, half, lanes, nq = rows_of(isa), place % PANEL, lanes_of(isa), limits.size
    keys = start(floats)
    gains, reaches, worsts = moved(keys, PANEL * rows), moved(keys, (PANEL + 1) * rows), moved(keys, (PANEL + 2) * rows)
    count = min(rows, mine.size - first)
    for r in range(rows):
        i = mine[first + min(r, count - 1)]
        q = hit_queries[i]
        numbers[r] = q * m + parts[s, 3]
        begins[r] = -bias_of(isa) * per_query[0][s * nq + q]
        gains[r], reaches[r], worsts[r] = per_query[1][s * nq + q], per_query[2][s * nq + q], limits[q]
        store(load(isa, hit_keys, i * lanes), keys, r * lanes)
    acc, firsts = tile_from(isa, start(begins), 0), row_starts(isa, start(numbers), 0)
    for line in range(parts[s, 4]):
        acc = tile_dot4_of(isa, acc, load(isa, own, line * PANEL + half), asked, firsts, line)
    tile_scores(acc, gains, 0, scale, s * PANEL + half, keys, 0, lanes, keys)
    near = rows_reaching(isa, keys, reaches, worsts, 0, length, s * PANEL + half)
    near &= (np.uint64(1) << np.uint64(count)) - np.uint64(1)
    while near:
        r = lowest_bit(near)
        near &= near - np.uint64(1)
        i = mine[first + r]
        store(load(isa, keys, r * lanes), hit_keys, i * lanes)
        mine[kept] = i
        kept += 1
    return kept


@kernel
def _finish(
    isa, alone, codes, layout, tables, longest, queries, factors, ends, allowed, limits, levels, hits, todo, count
):
    """Follow the hits `todo` through the segments behind the head, and offer what is left; their keys are used up.

    Hits of one place are neighbours, and share a segment's levels; three and more share a tile of registers.
    """
    head, _, parts, _ = layout
    names, best, k, slack = ends
    hit_keys, hit_places, hit_queries = hits
    lanes, stages, rows = lanes_of(alone), parts.shape[0], rows_of(isa)
    room, group = np.zeros(2 * stages * PANEL, np.float32), np.empty(limits.size, np.int32)
    scale, length = start(room), moved(start(room), stages * PANEL)
    tile_room = np.empty(rows * (PANEL + 3), np.float32), np.empty(rows, np.int64), np.empty(rows, np.int32)
    done, ahead, waiting, current, decoded = 0, 0, 0, -1, head
    while done < todo.size:
        place, held = hit_places[todo[done]], 0
        while ahead < todo.size and waiting < _LOOK:
            p = hit_places[todo[ahead]] // PANEL
            if ahead == 0 or p != hit_places[todo[ahead - 1]] // PANEL:
                waiting += 1
                fetch_segment(codes, layout, p, head)
            ahead += 1
        while done < todo.size and hit_places[todo[done]] == place:
            group[held] = todo[done]
            held += 1
            done += 1
        p, s = place // PANEL, head
        if p != current:
            current, waiting, decoded = p, waiting - 1, head
            widened(factors[0], p * stages * PANEL, stages, scale)
            lengths_after(scale, longest, head, stages, length)
        while held and s < stages:
            if s >= decoded:
                fetch_segment(codes, layout, p, s + 1)
            mine, first, kept = group[:held], 0, 0
            own = _levels_of(alone, codes, layout, tables, levels, p, s, s < decoded)
            decoded = max(decoded, s + 1)
            while held - first > 2:
                kept = _together(
                    isa, own, place, s, queries, parts, (scale, length), limits, hits, mine, first, kept, tile_room
                )
                first += min(rows, held - first)
            held = _one_by_one(
                alone, own, place, s, queries, parts, (scale, length), limits, hits, mine, first, kept
            )
            s += 1
        for i in group[:held]:
            found = moved(hit_keys, i * lanes)
            _offer(found, place, min(lanes, count - place), hit_queries[i], limits, slack, names, allowed, best, k)
    keep(room)


@kernel
def scan_segments(isa, alone, panels, count, segments, tables, longest, queries, factors, names, allowed, heaps, room):
    """Offer the keys of all vectors that may be among the k best of each query.

    isa, alone: tags of a tile of queries and of one, of any width.
    panels = (head (p, w, 16), rest (p, w', 16)) uint32, `count` vectors; rest (0, 0, 16): there is none.
    segments = (head, whole, parts): how many are multiplied for all rows; how many lie in the first panels; (s, 5)
        int64, of each its bits (RING more of a ring), the first word in its panel, words of a plane (all of them at 8
        bits and of a ring), its first line of levels, four coordinates each as of `queries`, and how many lines.
    tables (s, LEVELS) int8, as those of dot_segment, of rings the levels by window; longest (s,) float32, at least
        the length of the levels of any row.
    queries = (quads (tiles, m, rows) int32, of tile_queries; asked (rows tiles, m) int32, the same of one query each;
        sums (s, rows tiles) int32, of a query's bytes in a segment; gains (s, rows tiles) float32; reaches (s, rows
        tiles) float32, at least what a query has after a segment).
    factors = (scales (p, s, 16) uint16, shifts (16 p,) float32, tails (16 p,) uint16: upper halves of float32); names,
        allowed, heaps as in lines.scan_lines.
    room = (keys (16 r,) float32, numbers (3, r) int32): for r hits, of a query and a register of vectors each, and at
        least for those of a panel.
    """
    head, whole, parts = segments
    quads, asked, sums, gains, reaches = queries
    scales, shifts, tails = factors
    lanes, stages, held, (tiles, m) = lanes_of(isa), parts.shape[0], sums.shape[1], quads.shape[:2]
    all_panels, k = panels[0].shape[0], heaps[0].shape[1]
    slack, limits = np.float32(stages * SLACK), np.empty(held, np.float32)
    for q in range(held):
        worst = heaps[0][q, 0]
        limits[q] = worst - slack * abs(worst)
    level_room, hit_room = np.empty(m * PANEL + 16, np.uint32), room[0]
    hit_places, hit_queries, todo = room[1][0], room[1][1], room[1][2]
    together = max(1, hit_places.size // (held * (PANEL // lanes))) if head < stages else all_panels
    sizes = panels[0].shape[1] * PANEL, panels[1].shape[1] * PANEL
    codes, layout = (start(panels[0]), start(panels[1])), (head, whole, parts, sizes)
    asking = start(quads), start(asked), (start(sums), start(gains), start(reaches)), tiles, m
    known = start(scales), start(shifts), start(tails)
    ends = names, (start(heaps[0]), start(heaps[1])), k, slack
    hits, levels, table = (start(hit_room), hit_places, hit_queries), on_line(level_room), start(tables)
    block = 0
    while block < all_panels:
        fresh = limits[0] == -np.inf
        begun, block = block, min(block + together, all_panels)
        found = _heads(
            isa, alone, codes, (begun, block, count), layout, table, asking, known, ends, allowed, limits, levels, hits
        )
        if found == 0:
            continue
        best = 0
        if fresh:
            tops = np.full((held, 1 + _BEST * k // _SAMPLED), -np.inf, np.float32)
            best = _best_first(alone, hits, found, tops, todo)
            _finish(
                isa, alone, codes, layout, table, start(longest), asking, known, ends, allowed, limits, levels, hits,
                todo[:best], count,
            )
            found = _still_near(alone, asking, known, limits, head - 1, hits, todo, best, found)
        else:
            for i in range(found):
                todo[i] = i
        _finish(
            isa, alone, codes, layout, table, start(longest), asking, known, ends, allowed, limits, levels, hits,
            todo[best:found], count,
        )
    keep(level_room)
