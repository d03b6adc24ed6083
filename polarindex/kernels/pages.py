"""Inverted lists as chains of pages: where new rows go, and what moves when rows leave.

A page holds PANEL rows. A list's first page may be part empty, all others are full: `sizes` says how many rows there
are, so the rows of the first page are its lanes 0 .. (size - 1) % PANEL. A place is page * PANEL + lane.

    heads (nlist,) int32        the first page of each list, -1 for none
    following (p,) int32        the page after each, -1 at the end
    owners (p,) int32           the list of each page, -1 for a free one
    sizes (nlist,) int64        rows

Copies:    the lists of rows that lie in a second list too (copies.py) have each row's place in the first lists where
           others have ids. Their store is (blocks, page_bits, width, THROUGH + id_word), and BEHIND numbers at the end
           of `blocks` tell of the first lists: the address of their blocks, page_bits, width, id_word, places.
Law:       a row is found by its place until its own or a later row of its list is removed; adding moves nothing."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.idtable import table_find, table_insert, table_remove
from polarindex.kernels.lanes import address_of
from polarindex.kernels.limits import THROUGH
from polarindex.kernels.pack import PANEL


@inlined
def at_place(blocks, page_bits, width, place):
    """The block that a place is in, and the element of it where the row's first word is; the others follow by PANEL."""
    page = np.int64(place) // PANEL
    at = (page & ((1 << page_bits) - 1)) * width * PANEL + place % PANEL
    return address_of(np.uint32, blocks[page >> page_bits]), at


@inlined
def id_of(block, at, width, id_word):
    """The id of the row that begins at element `at` of a block: one word, or two where ids are large."""
    ident = np.int64(block[at + id_word * PANEL])
    if id_word + 1 < width:
        ident |= np.int64(block[at + (id_word + 1) * PANEL]) << 32
    return ident


@inlined
def own_place(store, place):
    """Where the row is of which the row at a place is a copy; -1 where a damaged file names a place that is none."""
    blocks, page_bits, width, id_word = store
    block, at = at_place(blocks, page_bits, width, place)
    own = np.int64(block[at + (id_word - THROUGH) * PANEL])
    return own if own < blocks[blocks.size - 1] else np.int64(-1)


@kernel
def pages_wanted(lists, sizes, added, wanted):
    """added[l] = how many of `lists` (m,) int32 are l; wanted[l] = the new pages that as many rows need."""
    for i in range(lists.size):
        added[lists[i]] += 1
    for l in range(sizes.size):  # noqa: E741
        spare = -sizes[l] % PANEL
        wanted[l] = max(0, added[l] - spare + PANEL - 1) // PANEL


@kernel
def place_rows(lists, heads, sizes, fresh, wanted, places):
    """Places (m,) int64 for new rows: first the spare lanes of their lists' first pages, then new pages.

    List l takes the next wanted[l] pages of `fresh`; the last of them is filled first and the first last, so that
    the one that may stay part empty is the first of the chain.
    """
    nlist = sizes.size
    firsts = np.zeros(nlist + 1, np.int64)
    for l in range(nlist):  # noqa: E741
        firsts[l + 1] = firsts[l] + wanted[l]
    taken = np.zeros(nlist, np.int64)
    for i in range(lists.size):
        l = lists[i]  # noqa: E741
        spare = -sizes[l] % PANEL
        t = taken[l]
        taken[l] = t + 1
        if t < spare:
            places[i] = np.int64(heads[l]) * PANEL + PANEL - spare + t
        else:
            page = fresh[firsts[l + 1] - 1 - (t - spare) // PANEL]
            places[i] = np.int64(page) * PANEL + (t - spare) % PANEL


@kernel
def link_pages(heads, following, owners, sizes, fresh, wanted, added):
    """Make placed rows part of their lists."""
    at = 0
    for l in range(sizes.size):  # noqa: E741
        for i in range(at + wanted[l] - 1, at - 1, -1):
            following[fresh[i]] = heads[l]
            owners[fresh[i]] = l
            heads[l] = fresh[i]
        at += wanted[l]
        sizes[l] += added[l]


@inlined
def _copy_row(blocks, page_bits, width, source, target):
    """Copy a row of `width` words from one place to another."""
    taken, at = at_place(blocks, page_bits, width, source)
    given, target_at = at_place(blocks, page_bits, width, target)
    for g in range(width):
        given[target_at + g * PANEL] = taken[at + g * PANEL]


@kernel
def remove_rows(store, table, lists, idents, moves, freed):
    """Remove rows by their ids, one after the other: the last row of the list takes the place of each.

    store = (blocks, page_bits, width, id_word) as in probe.scan_lists; table = (keys, values) of idtable;
    lists = (heads, following, owners, sizes); moves (m, 2) int64: from where to where a row moved, in this order, or
    -1, -1; freed (m,) int32, the pages that are free afterwards, whose number is returned. All idents (m,) are in
    the table, which follows the rows that it has: a new row under the id of one to be removed may be in a list already.
    """
    blocks, page_bits, width, id_word = store
    keys, values = table
    heads, following, owners, sizes = lists
    one, found = np.empty(1, np.int64), np.empty(1, np.int64)
    count = 0
    for i in range(idents.size):
        one[0] = idents[i]
        table_find(keys, values, one, found)
        place = found[0]
        table_remove(keys, values, one)
        l = owners[place // PANEL]  # noqa: E741
        head = heads[l]
        last = np.int64(head) * PANEL + (sizes[l] - 1) % PANEL
        moves[i, 0] = moves[i, 1] = -1
        if place != last:
            _copy_row(blocks, page_bits, width, last, place)
            block, at = at_place(blocks, page_bits, width, place)
            one[0] = id_of(block, at, width, id_word)
            table_find(keys, values, one, found)
            if found[0] == last:
                found[0] = place
                table_insert(keys, values, one, found)
            moves[i, 0], moves[i, 1] = last, place
        sizes[l] -= 1
        if sizes[l] % PANEL == 0:
            heads[l] = following[head]
            owners[head] = -1
            freed[count] = head
            count += 1
    return count


@kernel
def relink(lists, sources, targets):
    """Pages moved from `sources` to `targets` (free ones): their lists' chains follow."""
    heads, following, owners, sizes = lists
    moved = np.full(owners.size, -1, np.int32)
    for i in range(sources.size):
        moved[sources[i]] = targets[i]
        following[targets[i]] = following[sources[i]]
        owners[targets[i]] = owners[sources[i]]
        owners[sources[i]] = -1
    for l in range(heads.size):  # noqa: E741
        if heads[l] >= 0 and moved[heads[l]] >= 0:
            heads[l] = moved[heads[l]]
    for p in range(owners.size):
        if owners[p] >= 0 and following[p] >= 0 and moved[following[p]] >= 0:
            following[p] = moved[following[p]]


@kernel
def page_fill(lists, filled):
    """filled[p] = rows in page p: PANEL, fewer in a list's first page, 0 in a free one."""
    heads, following, owners, sizes = lists
    for p in range(filled.size):
        filled[p] = PANEL if owners[p] >= 0 else 0
    for l in range(heads.size):  # noqa: E741
        if heads[l] >= 0:
            filled[heads[l]] = (sizes[l] - 1) % PANEL + 1


@kernel
def write_rows(store, places, codes, factors, idents):
    """Put rows at places: code words, then factors as words, then ids.

    store = (blocks, page_bits, width, id_word); codes (n, w) and factors (n, f) uint32, idents (n,) int64.
    """
    blocks, page_bits, width, id_word = store
    words = codes.shape[1]
    for i in range(places.size):
        block, at = at_place(blocks, page_bits, width, places[i])
        for g in range(words):
            block[at + g * PANEL] = codes[i, g]
        for g in range(factors.shape[1]):
            block[at + (words + g) * PANEL] = factors[i, g]
        block[at + id_word * PANEL] = np.uint32(idents[i])
        if id_word + 1 < width:
            block[at + (id_word + 1) * PANEL] = np.uint32(idents[i] >> 32)


@kernel
def read_rows(store, places, rows):
    """rows[i] = the words of the row at places[i], or zeros where that is negative; rows (n, width) uint32."""
    blocks, page_bits, width, _ = store
    for i in range(places.size):
        if places[i] < 0:
            rows[i] = np.uint32(0)
            continue
        block, at = at_place(blocks, page_bits, width, places[i])
        for g in range(width):
            rows[i, g] = block[at + g * PANEL]
