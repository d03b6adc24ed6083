"""A search of an inverted file whose rows have codes in segments, in one call: `search.answer` for spectral codes.

    queries -> lists, by the centroids' codes -> products with the basis, rounded a segment at a time
            -> scan_segment_lists -> candidates -> the k best by codes, or by originals

Law:       key = (shift_v + the sum over segments of (dot * gain_q) * scale_v, one after the other) + offset_ql in
           float32; all else is as of probe.scan_lists and search.answer.
Layout:    a page has the words of all segments, then scales, two of 16 bits in a word, then shift and id.
How:       a page's segments are decoded one after the other into one buffer in the first-level cache, over which tiles
           of queries pass; a query's bytes are those of all segments in a row, whole lines each."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.collect import keys_add, keys_collect, keys_start
from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.copies import join_copies, raise_limits
from polarindex.kernels.dense import project
from polarindex.kernels.lanes import LANES, moved
from polarindex.kernels.limits import L2
from polarindex.kernels.probe import AHEAD, ALONE_UP_TO, ask_ahead, list_pages, page_at, shrunk
from polarindex.kernels.search import (
    ABOUT,
    COPIED,
    METRIC,
    SIDE,
    best_found,
    coarse_side,
    empty_candidates,
    prepared,
    probing_jobs,
    side_at,
    view,
)
from polarindex.kernels.segments import decoded_segment
from polarindex.kernels.simd import (
    bias_of,
    keep,
    lanes_of,
    load,
    on_line,
    row_starts,
    rows_of,
    start,
    tag_with,
    tile_dot4_of,
    tile_from,
)
from polarindex.kernels.weave import PANEL

PART = 7  # what `plan` says of a segment
BITS, FIRST_WORD, PLANE_WORDS, FIRST_LINE, LINES, BASIS, GROUPS = range(PART)
TABLES = 8  # of 16 levels, what a code of 7 bits needs
SEGMENTS, PLAN, LEVEL_TABLES, SCALES = range(ABOUT + SIDE, ABOUT + SIDE + 4)  # behind the side of second lists


@inlined
def _decoded(isa, block, at, plan, tables, lines):
    """Levels of a page, segment by segment, in `lines`."""
    for t in range(plan.shape[0]):
        first, own = at + plan[t, FIRST_WORD] * PANEL, moved(tables, t * TABLES * LANES)
        line = moved(lines, plan[t, FIRST_LINE] * PANEL)
        decoded_segment(isa, block, first, plan[t, PLANE_WORDS], plan[t, BITS], own, line)


@inlined
def _factors(block, at, scale_word, shift_at, factors):
    """factors (s + 1, 16) uint32: a page's scales as float32, and its shifts."""
    last = factors.shape[0] - 1
    for t in range(last):
        word = at + (scale_word + t // 2) * PANEL
        for lane in range(PANEL):
            if t % 2:
                factors[t, lane] = block[word + lane] & np.uint32(0xFFFF0000)
            else:
                factors[t, lane] = block[word + lane] << np.uint32(16)
    for lane in range(PANEL):
        factors[last, lane] = block[shift_at + lane]


@inlined
def _offer(isa, plan, lines, factors, asked, firsts, begin, gains, per_slot, s, slots, half, valid, place, kept):
    """Offer half a page's keys to the tile of queries from slot s on; whether one has too many candidates."""
    quad_rows = row_starts(isa, firsts, s)
    keys = keys_start(isa, factors, plan.shape[0] * PANEL + half)
    for t in range(plan.shape[0]):
        acc = tile_from(isa, begin, t * slots + s)
        line, last = plan[t, FIRST_LINE], plan[t, FIRST_LINE] + plan[t, LINES]
        for k in range(line, last):
            acc = tile_dot4_of(isa, acc, load(isa, lines, k * PANEL + half), asked, quad_rows, k)
        keys = keys_add(keys, acc, gains, t * slots + s, factors, t * PANEL + half)
    return keys_collect(keys, per_slot, s, valid >> np.uint64(half), place + half, kept)


@kernel
def scan_segment_lists(isa, alone, store, code, chains, jobs, queries, allowed, found, keep_count):
    """Offer the rows of some lists to the candidates of the queries that probe them, as probe.scan_lists does.

    code = (plan (s, PART) int64: of each segment its bits, its first word in a row, the words of a plane (all, at 8
        bits), its first line of levels and how many, four coordinates each; tables (s, 8, 16) int8 as of
        segments.dot_segment; the words where scales, two in each, and where shifts are)
    queries = (quads (nq, lines) int32, sums (nq, s) int32, gains (nq, s) float32)
    """
    blocks, page_bits, width, id_word = store
    plan, tables, scale_word, shift_word = code
    lists, starts, members, offsets, sizes = jobs
    quads, sums, gains = queries
    floors, parts = found[3], plan.shape[0]
    names = blocks, page_bits, width, id_word
    rows, lanes = rows_of(isa), lanes_of(isa)

    most, total = 1, 0
    for i in range(lists.size):
        most = max(most, starts[i + 1] - starts[i])
        total += (sizes[lists[i]] + PANEL - 1) // PANEL
    slots = (most + rows - 1) // rows * rows
    pages, ends = np.empty(total + AHEAD, np.int32), np.empty(lists.size, np.int64)
    list_pages(chains, lists, pages, ends)
    pages[total:] = pages[total - 1] if total else 0

    integers = np.zeros((4, slots), np.int64)
    numbers, firsts, cursors, stops = integers[0], integers[1], integers[2], integers[3]
    floats = np.zeros((2, slots), np.float32)
    slot_offsets, limits = floats[0], floats[1]
    slot_gains, starting = np.zeros((parts, slots), np.float32), np.zeros((parts, slots), np.int32)
    level_room, words = np.empty(quads.shape[1] * PANEL + 16, np.uint32), np.empty((parts + 1, PANEL), np.uint32)
    values = words.view(np.float32)
    lines, factors, levels = on_line(level_room), start(values), start(tables)
    asked, first_quads, begin, all_gains = start(quads), start(firsts), start(starting), start(slot_gains)
    per_slot = start(slot_offsets), start(limits), start(cursors), start(stops)
    kept, everyone = (start(found[0]), start(found[1])), start(allowed)
    room = (found[0].size - PANEL) // floors.size
    spare = floors.size * room
    where = blocks, page_bits, width, (0, shift_word + 1), (scale_word, shift_word)

    first_page = 0
    for i in range(lists.size):
        count, size = starts[i + 1] - starts[i], sizes[lists[i]]
        for s in range((count + rows - 1) // rows * rows):
            if s < count:
                q = np.int64(members[starts[i] + s])
                numbers[s], firsts[s] = q, q * quads.shape[1]
                for t in range(parts):
                    slot_gains[t, s], starting[t, s] = gains[q, t], -bias_of(isa) * sums[q, t]
                slot_offsets[s], limits[s] = offsets[starts[i] + s], floors[q]
                cursors[s], stops[s] = q * room + found[2][q], (q + 1) * room - 2 * PANEL
            else:
                firsts[s], limits[s] = 0, np.nan  # that no key reaches
                cursors[s], stops[s] = spare, spare
        for j in range(first_page, ends[i]):
            filled = (size - 1) % PANEL + 1 if j == first_page else PANEL
            block, _, at, _, shift_at, first, valid = page_at(where, pages[j], filled, allowed, everyone)
            ask_ahead(where, pages, j)
            if valid == 0:
                continue
            _decoded(isa, block, at, plan, levels, lines)
            _factors(block, at, scale_word, shift_at, words)
            step = 1 if count <= ALONE_UP_TO else rows
            for s in range(0, count, step):
                past = False
                for half in range(0, filled, lanes):
                    if count <= ALONE_UP_TO:
                        past |= _offer(
                            alone, plan, lines, factors, asked, first_quads, begin, all_gains, per_slot, s, slots,
                            half, valid, first, kept,
                        )
                    else:
                        past |= _offer(
                            isa, plan, lines, factors, asked, first_quads, begin, all_gains, per_slot, s, slots,
                            half, valid, first, kept,
                        )
                if past:
                    for r in range(s, min(s + step, count)):
                        if cursors[r] > stops[r]:
                            shrunk(r, numbers, cursors, stops, limits, found, keep_count, names)
        for s in range(count):
            found[2][numbers[s]] = cursors[s] - numbers[s] * room
        first_page = ends[i]
    keep(integers)
    keep(floats)
    keep(slot_gains)
    keep(starting)
    keep(level_room)
    keep(words)


@kernel
def round_segments(about, centred, plan, quads, sums, gains):
    """Queries as scan_segment_lists takes them, each segment's as of search.round_queries; centred (nq, d) float32."""
    nq, d = centred.shape
    levels = quads.view(np.int8)
    factor = np.float32(2.0 / 127 if about[METRIC] == L2 else 1.0 / 127)
    for t in range(plan.shape[0]):
        groups, first, m = plan[t, GROUPS], 4 * plan[t, FIRST_LINE], 4 * plan[t, LINES]
        y = np.empty((nq, groups * LANES), np.float32)
        project(centred, view(plan[t], np.float32, BASIS, (groups, d, LANES)), y)
        for q in range(nq):
            peak = np.float32(0)
            for j in range(y.shape[1]):
                peak = max(peak, abs(y[q, j]))
            gains[q, t] = peak * factor
            gain = 127.0 / np.float64(peak) if peak > 0 else 0.0
            total = 0
            for j in range(min(m, y.shape[1])):
                level = np.int8(np.rint(y[q, j] * gain))
                levels[q, first + j] = level
                total += level
            for j in range(y.shape[1], m):
                levels[q, first + j] = 0
            sums[q, t] = total


@kernel
def answer_by_segments(isa, kind, about, given, nprobe, gap, keep_count, exact, allowed, out_distances, out_ids):
    """`search.answer` for codes in segments; whether all queries could be answered.

    about : behind the side of second lists, which is zeros where there are none: how many segments, the addresses of
        plan and tables, see scan_segment_lists, and the word where scales are. plan[t, BASIS] is the address of the
        segment's (GROUPS, d, 16) of dense.project.
    """
    nq, d = given.shape
    metric = about[METRIC]
    able, asked, constants = prepared(about, given)
    if not able:
        return False
    plan = view(about, np.int64, PLAN, (about[SEGMENTS], PART))
    tables = view(about, np.int8, LEVEL_TABLES, (about[SEGMENTS], TABLES, LANES))
    lines = plan[about[SEGMENTS] - 1, FIRST_LINE] + plan[about[SEGMENTS] - 1, LINES]
    queries = (
        np.empty((nq, lines), np.int32),
        np.empty((nq, about[SEGMENTS]), np.int32),
        np.empty((nq, about[SEGMENTS]), np.float32),
    )
    round_segments(about, asked[0], plan, queries[0], queries[1], queries[2])
    settings = metric, nprobe, np.float32(gap)
    lists, starts, members, offsets = probing_jobs(tag_with(isa, 0, 8), coarse_side(about, d), asked, settings)
    found = empty_candidates(nq, keep_count)
    store, code, chains, sizes = own = side_at(about, 0)
    into = found
    for turn in range(2 if about[COPIED] else 1):
        if turn:
            raise_limits(found, keep_count, store)
            store, code, chains, sizes = side_at(about, ABOUT)
            allowed, into = allowed[min(about[COPIED], allowed.size) :], empty_candidates(nq, keep_count)
            into[3][:] = found[3]
        scan_segment_lists(
            isa, tag_with(isa, 1, 0), store, (plan, tables, about[SCALES], code[3]), chains,
            (lists, starts, members, offsets, sizes), queries, allowed, into, keep_count,
        )
    if about[COPIED]:
        join_copies(found, into, own[0], store, keep_count)
    best_found(about, kind, own[0], found, keep_count, exact, given, constants, out_distances, out_ids)
    return True
