"""A search of an inverted file whose rows have codes in segments, in one call: `search.answer` for spectral codes.

    queries -> lists, by the centroids' codes -> products with the basis, rounded a segment at a time
            -> scan_segment_lists -> candidates -> the k best by codes, or by originals

Law:       key = (shift_v + the sum over segments of (dot * gain_q) * scale_v, one after the other) + offset_ql in
           float32; all else is as of probe.scan_lists and search.answer.
Layout:    a page has the words of all segments, then scales, two of 16 bits in a word, then shift and id.
How:       a page's segments are decoded one after the other into one buffer in the first-level cache. Tiles of queries
           pass over those of the head; the others are decoded while there is a query that they may matter to, a hit,
           and multiplied for hits alone. A query's bytes are those of all segments in a row, whole lines each.
Bound:     cascade.py's, of scales alone: the length of what follows is stored with no row. With 256 lists and 4 bits
           a stored one would leave .5 to .8 of the hits after the first segment, for 2 bytes of 76 to 412.
Head:      what counts of hits say is cheapest, all segments where bounds leave out too little; a page now and then is
           scanned with the least head to count them.
All:       with all segments in the head it is the full scan, in one pass."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.collect import keys_add, keys_collect, keys_reaching, keys_start
from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.copies import join_copies, raise_limits
from polarindex.kernels.dense import project
from polarindex.kernels.lanes import LANES, address_of, floats_at, moved, put_at, root
from polarindex.kernels.limits import L2, LEVELS
from polarindex.kernels.lines import dot_alone
from polarindex.kernels.probe import AHEAD, ALONE_UP_TO, list_pages, page_at, shrunk
from polarindex.kernels.reaches import SLACK, reach_after, squares_after
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
    lowest_bit,
    on_line,
    prefetch,
    row_starts,
    rows_of,
    start,
    store,
    tag_with,
    tile_dot4_of,
    tile_from,
)
from polarindex.kernels.weave import PANEL

PART = 7  # what `plan` says of a segment
BITS, FIRST_WORD, PLANE_WORDS, FIRST_LINE, LINES, BASIS, GROUPS = range(PART)
# Behind the side of second lists. HEAD: how many segments are multiplied for all rows of a list, at least.
SEGMENTS, PLAN, LEVEL_TABLES, LONGEST_LEVELS, SCALES, HEAD = range(ABOUT + SIDE, ABOUT + SIDE + 6)
# What follows is for queries of a list that are taken one at a time, and for those in tiles.
_HIT = 20, 60  # lines of levels that a query passes over in the time that a hit takes for a segment, beside its lines
_COUNTED = 4, 1  # pages whose hits are counted, with the least head, before a head is chosen
_LOOK, _LOOK_SELDOM = 8, 32  # pages for which it is: more where that is costly to find out, or where no head pays
# Queries a list, and lists a query, from which lists are scanned twice, first for those whose nearest they are. With
# fewer, to decode them again costs more than what good limits leave out from the start.
_TWICE_FROM, _TWICE_LISTS = 32, 16


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
def _end_of(plan, scale_word, t):
    """Words of a row up to the end of segment t."""
    return plan[t + 1, FIRST_WORD] if t + 1 < plan.shape[0] else scale_word


@inlined
def _ask_ahead(where, pages, j, words):
    """Ask for the first words of the page that follows AHEAD pages later, and for its scales and shifts."""
    blocks, page_bits, width, _, (scale_word, shift_word) = where
    page = np.int64(pages[j + AHEAD])
    block = address_of(np.uint32, blocks[page >> page_bits])
    at = (page & ((1 << page_bits) - 1)) * width * PANEL
    for g in range(words):
        prefetch(block, at + g * PANEL)
    for g in range(scale_word, shift_word + 1):
        prefetch(block, at + g * PANEL)


@inlined
def _near(isa, head, parts, page, queries, bounds, s, slots, half, heads):
    """A bit for each query of the tile from slot s on that half a page may have candidates for, whose keys of the first
    `head` segments are then at `heads`."""
    plan, lines, factors, length, valid = page
    asked, firsts, begin, gains = queries
    offsets, least, reaches = bounds
    quad_rows = row_starts(isa, firsts, s)
    keys = keys_start(isa, factors, parts * PANEL + half)
    for t in range(head):
        acc, line, many = tile_from(isa, begin, t * slots + s), plan[t * PART + FIRST_LINE], plan[t * PART + LINES]
        if rows_of(isa) == 1:
            acc = dot_alone(isa, acc, moved(lines, line * PANEL), half, many, asked, firsts[s] + line)
        else:
            for k in range(line, line + many):
                acc = tile_dot4_of(isa, acc, load(isa, lines, k * PANEL + half), asked, quad_rows, k)
        keys = keys_add(keys, acc, gains, t * slots + s, factors, t * PANEL + half)
    own = offsets, moved(reaches, (head - 1) * slots), least
    return keys_reaching(keys, own, s, length, half, valid >> np.uint64(half), heads, 0)


@inlined
def _hits_of(isa, alone, head, parts, page, queries, bounds, count, slots, filled, hits):
    """The queries and halves of a page that may have candidates, by the first `head` segments; how many there are."""
    keys, hit_slots, hit_halves = hits
    lanes, found, step = lanes_of(alone), 0, 1 if count <= ALONE_UP_TO else rows_of(isa)
    for s in range(0, count, step):
        for half in range(0, filled, lanes):
            tile = moved(keys, found * lanes)
            if count <= ALONE_UP_TO:
                near = _near(alone, head, parts, page, queries, bounds, s, slots, half, tile)
            else:
                near = _near(isa, head, parts, page, queries, bounds, s, slots, half, tile)
            while near:
                r = lowest_bit(near)
                near &= near - np.uint64(1)
                store(load(alone, tile, r * lanes), keys, found * lanes)
                hit_slots[found], hit_halves[found] = s + r, half
                found += 1
    return found


@inlined
def _still_near(alone, t, page, queries, bounds, slots, hits, found):
    """Add segment t to the keys of the hits, and leave those that may still be candidates; how many there are."""
    plan, lines, factors, length, valid = page
    asked, firsts, begin, gains = queries
    offsets, least, reaches = bounds
    keys, hit_slots, hit_halves = hits
    lanes, line, many, left = lanes_of(alone), plan[t * PART + FIRST_LINE], plan[t * PART + LINES], 0
    for h in range(found):
        s, half = hit_slots[h], hit_halves[h]
        acc, levels = tile_from(alone, begin, t * slots + s), moved(lines, line * PANEL)
        acc = dot_alone(alone, acc, levels, half, many, asked, firsts[s] + line)
        own = keys_start(alone, keys, h * lanes)
        own = keys_add(own, acc, gains, t * slots + s, factors, t * PANEL + half)
        there = offsets, moved(reaches, t * slots), least
        near = keys_reaching(own, there, s, length, half, valid >> np.uint64(half), keys, left * lanes)
        hit_slots[left], hit_halves[left] = s, half
        left += near != np.uint64(0)
    return left


@kernel
def best_head(plan, shares, hit):
    """How many segments it is cheapest to multiply for all queries of a list, where of queries and halves of pages
    shares[t] are hits after segment t; hit: of _HIT."""
    parts, best, lowest = plan.shape[0], plan.shape[0], np.inf
    for head in range(1, parts + 1):
        cost = 0.0
        for t in range(parts):
            cost += plan[t, LINES] if t < head else shares[t - 1] * (plan[t, LINES] + hit)
        if cost < lowest:
            best, lowest = head, cost
    return best


@inlined
def _least(limit, offset, slack):
    """What keys that come to a limit reach at least, before the offset is added and anything is rounded."""
    return limit - slack * (abs(limit) + abs(offset))


@kernel
def scan_segment_lists(isa, alone, store, code, chains, jobs, queries, allowed, found, keep_count):
    """Offer the rows of some lists to the candidates of the queries that probe them, as probe.scan_lists does.

    code = (least_head: how many segments are multiplied for all rows, at least; plan (s, PART) int64: of each segment
        its bits, its first word in a row, the words of a plane (all, at 8 bits), its first line of levels and how many,
        four coordinates each, as of cascade.scan_segments, whose tables (s, 256) int8 these are too; longest (s,)
        float32, at least |levels| of any row; the words where scales, two in each, and where shifts are)
    queries = (quads (nq, lines) int32, sums (nq, s) int32, gains (nq, s) float32, reaches (s, nq) float32 of
        cascade.reach_after)
    """
    blocks, page_bits, width, id_word = store
    least_head, plan, tables, longest, scale_word, shift_word = code
    lists, starts, members, offsets, sizes = jobs
    quads, sums, gains, reaches = queries
    floors, parts = found[3], plan.shape[0]
    names = blocks, page_bits, width, id_word
    rows, lanes, slack, pruned = rows_of(isa), lanes_of(isa), np.float32(parts * SLACK), least_head < parts

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
    floats = np.zeros((3, slots), np.float32)
    slot_offsets, limits, least = floats[0], floats[1], floats[2]
    per_part, starting = np.zeros((2, parts, slots), np.float32), np.zeros((parts, slots), np.int32)
    slot_gains, slot_reaches = per_part[0], per_part[1]
    level_room = np.empty(quads.shape[1] * PANEL + 16, np.uint32)
    words, bound_room = np.empty((parts + 1, PANEL), np.uint32), np.zeros((parts + 1, PANEL), np.float32)
    values = words.view(np.float32)
    lines, factors, levels = on_line(level_room), start(values), start(tables)
    squares, length, far = start(bound_room), moved(start(bound_room), parts * PANEL), start(longest)
    asking = start(quads), start(firsts), start(starting), start(slot_gains)
    bounds = start(slot_offsets), start(least), start(slot_reaches)
    per_slot = start(slot_offsets), start(limits), start(cursors), start(stops)
    key_room, hit_room = np.empty((slots + rows) * PANEL, np.float32), np.empty((2, slots * PANEL // lanes), np.int64)
    heads, hit_slots, hit_halves = start(key_room), start(hit_room), moved(start(hit_room), hit_room.shape[1])
    hits = heads, hit_slots, hit_halves
    kept, everyone = (start(found[0]), start(found[1])), start(allowed)
    room = (found[0].size - PANEL) // floors.size
    spare = floors.size * room
    enough = room - 2 * PANEL
    if pruned:  # good limits are worth a selection more often
        enough = min(enough, keep_count + keep_count // 4 + 4 + 2 * PANEL)
    where = blocks, page_bits, width, (0, 0), (scale_word, shift_word)

    tally, heads_now, ahead = np.zeros((2, parts), np.float32), np.full(2, least_head), np.array(_COUNTED)
    first_page, read = 0, _end_of(plan, scale_word, least_head - 1)
    for i in range(lists.size):
        count, size = starts[i + 1] - starts[i], sizes[lists[i]]
        for s in range((count + rows - 1) // rows * rows):
            if s < count:
                q = np.int64(members[starts[i] + s])
                numbers[s], firsts[s] = q, q * quads.shape[1]
                for t in range(parts):
                    slot_gains[t, s], starting[t, s] = gains[q, t], -bias_of(isa) * sums[q, t]
                    slot_reaches[t, s] = reaches[t, q]
                slot_offsets[s], limits[s] = offsets[starts[i] + s], floors[q]
                least[s] = _least(limits[s], slot_offsets[s], slack)
                cursors[s], stops[s] = q * room + found[2][q], q * room + enough
            else:
                firsts[s], limits[s], least[s] = 0, np.nan, np.nan  # that no key reaches
                cursors[s], stops[s] = spare, spare
        tiled = np.int64(count > ALONE_UP_TO)
        hit, counted = _HIT[tiled], _COUNTED[tiled]
        for j in range(first_page, ends[i]):
            filled = (size - 1) % PANEL + 1 if j == first_page else PANEL
            block, _, at, _, shift_at, first, valid = page_at(where, pages[j], filled, allowed, everyone)
            _ask_ahead(where, pages, j, read)
            if valid == 0:
                continue
            _factors(block, at, scale_word, shift_at, words)
            squares_after(factors, far, 0, parts, squares)
            page = start(plan), lines, factors, length, valid
            counting = pruned and ahead[tiled] <= counted
            head, held, last = least_head if counting else heads_now[tiled], 0, 0
            for t in range(parts):
                word, line = at + plan[t, FIRST_WORD] * PANEL, moved(lines, plan[t, FIRST_LINE] * PANEL)
                own = moved(levels, t * LEVELS)
                decoded_segment(isa, block, word, plan[t, PLANE_WORDS], plan[t, BITS], own, line)
                if t < head - 1:
                    continue
                put_at(length, 0, root(floats_at(squares, t * PANEL)))
                if t == head - 1:
                    held = _hits_of(isa, alone, head, parts, page, asking, bounds, count, slots, filled, hits)
                else:
                    held = _still_near(alone, t, page, asking, bounds, slots, hits, held)
                last = t
                if counting:
                    tally[tiled, t] += np.float32(held) / np.float32(count * ((filled + lanes - 1) // lanes) * counted)
                if held == 0:
                    break
            read = _end_of(plan, scale_word, last)
            ahead[tiled] -= 1
            if pruned and ahead[tiled] == 0:
                heads_now[tiled] = best_head(plan, tally[tiled], hit)
                tally[tiled] = 0
                ahead[tiled] = counted
                if heads_now[tiled] > least_head:
                    ahead[tiled] += _LOOK if tiled and heads_now[tiled] < parts else _LOOK_SELDOM
                elif tiled:
                    ahead[tiled] += _LOOK
            for h in range(held):
                s, half = hit_slots[h], hit_halves[h]
                keys = keys_start(alone, heads, h * lanes)
                if keys_collect(keys, per_slot, s, valid >> np.uint64(half), first + half, kept):
                    shrunk(s, numbers, cursors, stops, limits, found, keep_count, names)
                    least[s] = _least(limits[s], slot_offsets[s], slack)
        for s in range(count):
            found[2][numbers[s]] = cursors[s] - numbers[s] * room
        first_page = ends[i]
    keep(integers)
    keep(floats)
    keep(per_part)
    keep(starting)
    keep(level_room)
    keep(words)
    keep(bound_room)
    keep(key_room)
    keep(hit_room)


@kernel
def nearest_first(jobs, nq):
    """The same jobs, in which every query first meets the list that adds most to its keys: others meet a limit.

    jobs = (lists, starts, members, offsets) as of search.probing_jobs; a list may be there twice then.
    """
    lists, starts, members, offsets = jobs
    best = np.full(nq, -1, np.int64)
    for pair in range(members.size):
        q = members[pair]
        if best[q] < 0 or offsets[pair] > offsets[best[q]]:
            best[q] = pair
    numbers, begins = np.empty(2 * lists.size, np.int32), np.zeros(2 * lists.size + 1, np.int64)
    askers, added = np.empty_like(members), np.empty_like(offsets)
    made, at = 0, 0
    for turn in range(2):
        for i in range(lists.size):
            for pair in range(starts[i], starts[i + 1]):
                if (best[members[pair]] == pair) == (turn == 0):
                    askers[at], added[at] = members[pair], offsets[pair]
                    at += 1
            if at > begins[made]:
                numbers[made], begins[made + 1] = lists[i], at
                made += 1
    return numbers[:made], begins[: made + 1], askers, added


@kernel
def round_segments(about, centred, plan, quads, sums, gains, reaches):
    """Queries as scan_segment_lists takes them, each segment's as of search.round_queries; centred (nq, d) float32."""
    nq, d = centred.shape
    levels = quads.view(np.int8)
    factor = np.float32(2.0 / 127 if about[METRIC] == L2 else 1.0 / 127)
    energies = np.empty((plan.shape[0], nq))
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
            total, square = 0, 0
            for j in range(min(m, y.shape[1])):
                level = np.int8(np.rint(y[q, j] * gain))
                levels[q, first + j] = level
                total += level
                square += np.int32(level) * np.int32(level)
            for j in range(y.shape[1], m):
                levels[q, first + j] = 0
            sums[q, t] = total
            energies[t, q] = np.float64(square) * np.float64(gains[q, t]) * np.float64(gains[q, t])
    reach_after(energies, reaches)


@kernel
def answer_by_segments(isa, kind, about, given, nprobe, gap, keep_count, exact, allowed, out_distances, out_ids):
    """`search.answer` for codes in segments; whether all queries could be answered.

    about : behind the side of second lists, which is zeros where there are none: how many segments, the addresses of
        plan, tables and longest, see scan_segment_lists, the word where scales are, and the least head: 1, or all
        segments for a full scan. plan[t, BASIS] is the address of the segment's (GROUPS, d, 16) of dense.project.
    """
    nq, d = given.shape
    metric = about[METRIC]
    able, asked, constants = prepared(about, given)
    if not able:
        return False
    plan = view(about, np.int64, PLAN, (about[SEGMENTS], PART))
    tables = view(about, np.int8, LEVEL_TABLES, (about[SEGMENTS], LEVELS))
    longest = view(about, np.float32, LONGEST_LEVELS, (about[SEGMENTS],))
    lines = plan[about[SEGMENTS] - 1, FIRST_LINE] + plan[about[SEGMENTS] - 1, LINES]
    queries = (
        np.empty((nq, lines), np.int32),
        np.empty((nq, about[SEGMENTS]), np.int32),
        np.empty((nq, about[SEGMENTS]), np.float32),
        np.empty((about[SEGMENTS], nq), np.float32),
    )
    round_segments(about, asked[0], plan, queries[0], queries[1], queries[2], queries[3])
    settings = metric, nprobe, np.float32(gap)
    lists, starts, members, offsets = probing_jobs(tag_with(isa, 0, 8), coarse_side(about, d), asked, settings)
    if about[HEAD] < about[SEGMENTS] and members.size >= max(_TWICE_FROM * lists.size, _TWICE_LISTS * nq):
        lists, starts, members, offsets = nearest_first((lists, starts, members, offsets), nq)
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
            isa, tag_with(isa, 1, 0), store, (about[HEAD], plan, tables, longest, about[SCALES], code[3]), chains,
            (lists, starts, members, offsets, sizes), queries, allowed, into, keep_count,
        )
    if about[COPIED]:
        join_copies(found, into, own[0], store, keep_count)
    best_found(about, kind, own[0], found, keep_count, exact, given, constants, out_distances, out_ids)
    return True
