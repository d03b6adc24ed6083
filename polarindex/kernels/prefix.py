"""A search of an inverted file by the first planes of its codes, whose best candidates are scored by the whole codes.

    queries -> scan_lists over the first planes, with a scale and a shift of their own -> the keep_count best
            -> the keys of their whole codes -> the k best

Law:       a candidate's key is that of scan_lists over all planes, to the bit: the same operations in the same order.
           Which candidates there are depends on the query and the index alone, as everywhere.
How:       a candidate's page is decoded as a whole, 16 rows for one, because its words lie in as many cache lines as
           the page has; candidates that stand beside each other share it. Pages are asked for some candidates ahead.
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.candidates import shrink
from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import address_of, moved
from polarindex.kernels.limits import L2
from polarindex.kernels.pages import at_place
from polarindex.kernels.search import (
    ABOUT,
    METRIC,
    PAGES,
    best_by_codes,
    coarse_side,
    empty_candidates,
    list_offset,
    prepared,
    scan_probed,
    side_at,
    view,
)
from polarindex.kernels.simd import (
    bias_of,
    keep,
    lanes_of,
    planes_of,
    prefetch,
    start,
    tag_with,
    tile_from,
    tile_store,
)
from polarindex.kernels.weave import PANEL, dot_page, load_table

AHEAD = 4  # candidates whose pages are asked for ahead: further ones gain nothing
# What an index with a prefix is told as, after what every one is: the prefix's levels, where its scale and shift are,
# and the list of each page.
PREFIX_TABLE, PREFIX_SCALE, PREFIX_SHIFT, OWNERS = range(ABOUT, ABOUT + 4)


@inlined
def _fetch(isa, store, code, place):
    """Ask for the whole code of the page that has a place, its scales and its shifts."""
    blocks, page_bits, width, _ = store
    words, _, _, shift_word, code_word, _ = code
    block, at = at_place(blocks, page_bits, width, place - place % PANEL)
    for g in range(code_word, max(code_word + planes_of(isa) * words, shift_word + 1)):
        prefetch(block, at + g * PANEL)


@kernel
def whole_keys(isa, store, code, owners, centroids, queries, found, keep_count):
    """Leave the keep_count best candidates of each query, and give them the keys of their whole codes.

    isa : a tag of one query and all planes. store, code as in scan_lists, of all planes; owners (p,) int32, the list
        of each page
    centroids = (metric, centres (nlist, d) float32, constants (nlist,) float32) as in group_by_list
    queries = (centred (nq, d) float32, quads, sums, gains) as in probing_jobs
    found as in scan_lists; a candidate whose key is NaN goes.
    """
    blocks, page_bits, width, _ = store
    words, table, scale_word, shift_word, code_word, _ = code
    metric, centres, constants = centroids
    centred, quads, sums, gains = queries
    scores, places, held, _ = found
    nq, d = centred.shape
    room = (scores.size - PANEL) // nq
    register, asked, rows = load_table(isa, start(table)), start(quads), start(centres)
    beginning, dots = np.empty(1, np.int32), np.empty(PANEL, np.int32)
    begin, products = start(beginning), start(dots)
    lanes = lanes_of(isa)
    for q in range(nq):
        first, count = q * room, held[q]
        if count > keep_count:
            shrink(scores, places, first, count, keep_count, store)
            count = keep_count
        last, kept = first + count, first
        beginning[0] = -bias_of(isa) * sums[q]
        query, gain = moved(start(centred), q * d), gains[q]
        decoded, owner, offset = np.int64(-1), np.int64(-1), np.float32(0)
        for i in range(first, min(first + AHEAD, last)):
            _fetch(isa, store, code, np.int64(places[i]))
        for i in range(first, last):
            if i + AHEAD < last:
                _fetch(isa, store, code, np.int64(places[i + AHEAD]))
            place = np.int64(places[i])
            lane = place % PANEL
            half = lane // lanes * lanes
            block, at = at_place(blocks, page_bits, width, place - lane)
            if place - lane + half != decoded:
                decoded = place - lane + half
                acc = tile_from(isa, begin, 0)
                acc = dot_page(
                    isa, acc, block, at + code_word * PANEL, words, register, half, asked, q * quads.shape[1]
                )
                tile_store(acc, products, 0, lanes)
            if np.int64(owners[place // PANEL]) != owner:
                owner = np.int64(owners[place // PANEL])
                offset = list_offset(metric, moved(rows, owner * d), query, constants[owner], d)
            factors = address_of(np.float32, blocks[place // PANEL >> page_bits])
            scale, shift = factors[at + scale_word * PANEL + lane], factors[at + shift_word * PANEL + lane]
            key = ((np.float32(dots[lane - half]) * gain) * scale + shift) + offset
            scores[kept], places[kept] = key, place
            kept += key == key
        held[q] = kept - first
    keep(beginning)
    keep(dots)


@kernel
def answer_by_planes(isa, whole, about, given, nprobe, gap, keep_count, exact, allowed, out_distances, out_ids):
    """`search.answer` by the first planes of the codes; whether all queries could be answered.

    isa : a tag for tiles of the planes that are scanned; whole : the same of all planes of a code
    exact : whether the keep_count best by the first planes are scored by their whole codes
    """
    nq, d = given.shape
    metric = about[METRIC]
    able, queries, constants = prepared(about, given)
    if not able:
        return False
    coarse = coarse_side(about, d)
    store, code, chains, sizes = side_at(about, 0)
    words, _, _, _, code_word, law = code
    prefix = words, view(about, np.int8, PREFIX_TABLE, (16,)), about[PREFIX_SCALE], about[PREFIX_SHIFT], code_word, law
    found = empty_candidates(nq, keep_count)
    settings = metric, nprobe, np.float32(gap)
    scan_probed(isa, about, coarse, (store, prefix, chains, sizes), queries, settings, keep_count, allowed, found)
    if exact:
        owners = view(about, np.int32, OWNERS, (about[PAGES],))
        centroids = metric, coarse[1], coarse[2]
        whole_keys(tag_with(whole, 1, 0), store, code, owners, centroids, queries, found, keep_count)
    best_by_codes(store, found, constants, np.float32(-1 if metric == L2 else 1), out_distances, out_ids)
    return True
