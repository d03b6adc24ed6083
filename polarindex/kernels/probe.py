"""The scan of an inverted file: each list's pages against the queries that probe it, the best candidates kept.

A page is 16 rows side by side: lines of 16 words of 32 bits, first those of the code, one plane after the other, then
the scale's, the shift's and the id's. Pages lie in blocks; a list is a chain of pages, the first of which may be part
empty and all others full (pages.py).

Law:       key = ((dot * gain_q) * scale_v + shift_v) + offset_ql in float32, in this order, larger is better; query q
           keeps its best candidates by (key, id), see candidates.py. The result does not depend on the order of
           lists, queries or pages, nor on the instruction set.
How:       a list with several queries is decoded once into a buffer in the first-level cache, and tiles of queries
           pass over it; one or two queries take the levels from the registers."""

from __future__ import annotations

import numpy as np
from numba import types

from polarindex.kernels.candidates import shrink, tighten
from polarindex.kernels.collect import allowed_lanes, tile_collect
from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.factors import put_factors
from polarindex.kernels.lanes import address_of
from polarindex.kernels.page_levels import decoded_first, dot_levels_of, level_source, lines_of_page, page_levels
from polarindex.kernels.simd import (
    bias_of,
    constant,
    keep,
    lanes_of,
    load,
    on_line,
    planes_of,
    prefetch,
    row_starts,
    rows_of,
    start,
    tile_dot4_of,
    tile_from,
)
from polarindex.kernels.weave import PANEL

ALONE_UP_TO = 2  # queries of a list that are faster one at a time than as a tile
AHEAD = 2  # pages asked for ahead of the one that is scanned
# Pages whose dot products share the loads of queries and fill the pipeline of the dot instruction: two, where there are
# registers for twice eight accumulators.
pages_together = constant(lambda isa: 1 if isa.nbytes == 32 else 2, types.intp)  # AVX2 has 16, the others 32


@kernel
def list_pages(chains, lists, pages, ends):
    """The pages of some lists, one list after the other: pages[ends[i - 1] : ends[i]] are those of lists[i].

    chains = (heads (nlist,) int32, following (p,) int32): a list's first page and the page after each, -1 at the end.
    """
    heads, following = chains
    at = 0
    for i in range(lists.size):
        page = heads[lists[i]]
        while page >= 0:
            pages[at] = page
            at += 1
            page = following[page]
        ends[i] = at


@inlined
def shrunk(slot, members, cursors, ends, limits, found, keep_count, names):
    """Leave the best candidates of the query in a slot whose cursor has passed its end."""
    scores, places, _, floors = found
    q = members[slot]
    room = (scores.size - PANEL) // floors.size
    first = q * room
    held = cursors[slot] - first
    floors[q], held = tighten(scores, places, first, held, keep_count)
    if held > room - 2 * PANEL:  # most are equal
        floors[q], held = shrink(scores, places, first, held, keep_count, names), keep_count
    limits[slot] = floors[q]
    cursors[slot] = first + held


@inlined
def page_at(where, page, filled, allowed, everyone):
    """A page's block as words and as factors, where it, its scales and its shifts begin, the place of its first row,
    and a bit for each of its first `filled` rows that is allowed."""
    blocks, page_bits, width, _, (scale_word, shift_word) = where
    number = np.int64(page)
    block = address_of(np.uint32, blocks[number >> page_bits])
    factors = address_of(np.float32, blocks[number >> page_bits])
    at = (number & ((1 << page_bits) - 1)) * width * PANEL
    valid = (np.uint64(1) << np.uint64(filled)) - np.uint64(1)
    if allowed.size:
        valid &= allowed_lanes(everyone, number * PANEL)
    return block, factors, at, at + scale_word * PANEL, at + shift_word * PANEL, number * PANEL, valid


@inlined
def ask_ahead(where, pages, j):
    """Ask for the page that follows AHEAD pages later. Left to the processor, a batch took 1.4 times as long."""
    blocks, page_bits, width, (first_word, last_word), _ = where
    page = np.int64(pages[j + AHEAD])
    block = address_of(np.uint32, blocks[page >> page_bits])
    at = (page & ((1 << page_bits) - 1)) * width * PANEL
    for g in range(first_word, last_word):  # ids are not read
        prefetch(block, at + g * PANEL)


@kernel
def scan_lists(isa, alone, store, code, chains, jobs, queries, allowed, found, keep_count):
    """Offer the rows of some lists to the candidates of the queries that probe them.

    isa, alone : tags of a tile of queries and of one.
    store = (blocks (b,) int64 addresses, page_bits: 1 << page_bits pages a block, width: words a row, id_word)
    code = (words of a plane (of a row at 8 bits), table (16,) int8, scale_word, shift_word, code_word, law (3,)
        float32): where scales and shifts are, and where the planes begin that are scanned; one word for both is as
        factors.py says, by the law. Of rings, all words of which are one plane, the table is a book (ring.py).
    chains as in list_pages
    jobs = (lists (m,) int32, starts (m + 1,) int64, members (pairs,) int32, offsets (pairs,) float32, sizes (nlist,)):
        the queries of lists[i], no one twice, are members[starts[i] : starts[i + 1]]; sizes are the rows in every list
    queries = (quads (nq, at least a row's quads, of rings just these, an even number) int32, sums (nq,) int32, gains
        (nq,) float32)
    allowed (places,) uint8, or (0,) for all
    found = (scores (nq room + 16,) float32, places (nq room + 16,) int32, held (nq,) int64, floors (nq,) float32): each
        query has room = candidate_room(keep_count), and there is a place to write nothing to
    """
    blocks, page_bits, width, id_word = store
    words, table, scale_word, shift_word, code_word, law = code
    lists, starts, members, offsets, sizes = jobs
    quads, sums, gains = queries
    floors = found[3]
    names = blocks, page_bits, width, id_word
    rows, lanes = rows_of(isa), lanes_of(isa)
    m = lines_of_page(isa, words, quads.shape[1])

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
    slot_gains, slot_offsets, limits = floats[0], floats[1], floats[2]
    starting = np.zeros(slots, np.int32)
    level_room = np.empty(2 * m * PANEL + 16, np.uint32)
    lines = on_line(level_room)
    shared = scale_word == shift_word  # one word, which becomes two floats a page at a time
    factor_room = np.empty(4 * PANEL, np.float32)
    expanded, numbers_of_law = start(factor_room), start(law)
    source, source_alone = level_source(isa, start(table)), level_source(alone, start(table))
    asked, first_quads, begin = start(quads), start(firsts), start(starting)
    per_slot = start(slot_gains), start(slot_offsets), start(limits), start(cursors), start(stops)
    kept = start(found[0]), start(found[1])
    room = (found[0].size - PANEL) // floors.size
    spare = floors.size * room
    everyone = start(allowed)
    read = min(code_word, scale_word), max(code_word + planes_of(isa) * words, shift_word + 1)
    where = blocks, page_bits, width, read, (scale_word, shift_word)
    skipped = code_word * PANEL

    first_page = 0
    for i in range(lists.size):
        count, size = starts[i + 1] - starts[i], sizes[lists[i]]
        for s in range((count + rows - 1) // rows * rows):
            if s < count:
                q = np.int64(members[starts[i] + s])
                numbers[s], firsts[s], slot_gains[s] = q, q * quads.shape[1], gains[q]
                starting[s] = -bias_of(isa) * sums[q]
                slot_offsets[s], limits[s] = offsets[starts[i] + s], floors[q]
                cursors[s], stops[s] = q * room + found[2][q], (q + 1) * room - 2 * PANEL
            else:
                firsts[s], limits[s] = 0, np.nan  # that no key reaches
                cursors[s], stops[s] = spare, spare
        last_filled = (size - 1) % PANEL + 1  # of the list's first page, the only one that may be part empty
        together = 1 if count <= ALONE_UP_TO else pages_together(isa)
        for j in range(first_page, ends[i], together):
            filled = last_filled if j == first_page else PANEL
            block, factors, at, scale_at, shift_at, first, valid = page_at(where, pages[j], filled, allowed, everyone)
            if shared:
                put_factors(block, scale_at, numbers_of_law, expanded, 0, PANEL)
                factors, scale_at, shift_at = expanded, 0, PANEL
            if planes_of(isa) < 8:  # bytes are read in order; the centroids' are in the second-level cache
                ask_ahead(where, pages, j)
            if count <= ALONE_UP_TO:
                if valid == 0:
                    continue
                if decoded_first(alone):
                    page_levels(alone, block, at + skipped, words, source_alone, m, lines, 0)
                for s in range(count):
                    for half in range(0, filled, lanes):
                        acc = tile_from(alone, begin, s)
                        page = block, at + skipped, words, m, lines, half
                        acc = dot_levels_of(alone, acc, page, source_alone, asked, firsts[s])
                        if tile_collect(
                            acc, per_slot, s, factors, scale_at + half, shift_at + half,
                            valid >> np.uint64(half), first + half, kept,
                        ):
                            shrunk(s, numbers, cursors, stops, limits, found, keep_count, names)
                continue
            second = pages_together(isa) == 2 and j + 1 < ends[i]
            block2, factors2, at2, scale_at2, shift_at2, first2, valid2 = page_at(
                where, pages[j + 1] if second else pages[j], PANEL if second else 0, allowed, everyone
            )
            if shared:
                put_factors(block2, scale_at2, numbers_of_law, expanded, 2 * PANEL, 3 * PANEL)
                factors2, scale_at2, shift_at2 = expanded, 2 * PANEL, 3 * PANEL
            if valid | valid2 == 0:
                continue
            page_levels(isa, block, at + skipped, words, source, m, lines, 0)
            if second:
                if planes_of(isa) < 8:
                    ask_ahead(where, pages, j + 1)
                page_levels(isa, block2, at2 + skipped, words, source, m, lines, m * PANEL)
            for s in range(0, count, rows):
                quad_rows = row_starts(isa, first_quads, s)
                for half in range(0, PANEL, lanes):
                    acc = other = tile_from(isa, begin, s)
                    if second:
                        for k in range(m):
                            line = k * PANEL + half
                            acc = tile_dot4_of(isa, acc, load(isa, lines, line), asked, quad_rows, k)
                            other = tile_dot4_of(
                                isa, other, load(isa, lines, line + m * PANEL), asked, quad_rows, k
                            )
                    else:
                        for k in range(m):
                            acc = tile_dot4_of(isa, acc, load(isa, lines, k * PANEL + half), asked, quad_rows, k)
                    past = tile_collect(
                        acc, per_slot, s, factors, scale_at + half, shift_at + half,
                        valid >> np.uint64(half), first + half, kept,
                    )
                    if second:
                        past |= tile_collect(
                            other, per_slot, s, factors2, scale_at2 + half, shift_at2 + half,
                            valid2 >> np.uint64(half), first2 + half, kept,
                        )
                    if past:
                        for r in range(s, min(s + rows, count)):
                            if cursors[r] > stops[r]:
                                shrunk(r, numbers, cursors, stops, limits, found, keep_count, names)
        for s in range(count):
            found[2][numbers[s]] = cursors[s] - numbers[s] * room
        first_page = ends[i]
    keep(integers)
    keep(floats)
    keep(starting)
    keep(level_room)
    keep(factor_room)
