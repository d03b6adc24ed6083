"""Rows that lie in two lists: a candidate that was found twice is one.

    candidates of the first lists -> their limits -> scan of the second lists -> rows' own places -> each row once

Law:       a row's key is the larger of those of its copies in the lists that a query probes, and the candidates that
           are kept are the keep_count best rows by (key, id). A row among them is among the keep_count best of the
           first lists or of the second, for fewer rows have larger keys in either.
Why:       the second lists meet limits that the first ones left, so little of them is appended and looked up."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.candidates import shrink, tighten
from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import address_of, prefetch
from polarindex.kernels.limits import THROUGH
from polarindex.kernels.pack import PANEL
from polarindex.kernels.pages import own_place


@kernel
def raise_limits(found, keep_count, store):
    """Make the candidates of each query few, and their limit what keep_count of them reach."""
    scores, places, held, floors = found
    room = (scores.size - PANEL) // held.size
    for q in range(held.size):
        if held[q] > keep_count:
            first = q * room
            floors[q], held[q] = tighten(scores, places, first, held[q], keep_count)
            if held[q] + keep_count > room:  # many are equal
                shrink(scores, places, first, held[q], keep_count, store)
                held[q] = keep_count


@inlined
def _slot(slots, places, first, place):
    """Where `place` is in a table of numbers of candidates, or the free slot where its search ends."""
    at = (np.uint32(place) * np.uint32(0x9E3779B9)) >> np.uint32(16) & np.uint32(slots.size - 1)
    while slots[at] >= 0 and places[first + slots[at]] != place:
        at = (at + np.uint32(1)) & np.uint32(slots.size - 1)
    return at


@kernel
def join_copies(found, copies, store, copies_store, keep_count):
    """Offer the candidates of the second lists to those of the first, under the rows' own places.

    found, copies as of probe.scan_lists, `found` with room for keep_count more; stores as of pages.py. A table of slots
    finds who is there already.
    """
    scores, places, held, _ = found
    copy_scores, copy_places, copies_held, _ = copies
    room = (scores.size - PANEL) // held.size
    blocks, page_bits, width, id_word = copies_store
    size = 64
    while size < 4 * keep_count:
        size *= 2
    slots = np.empty(size, np.int32)
    for q in range(held.size):
        first, count, more = q * room, held[q], copies_held[q]
        if more > keep_count:
            shrink(copy_scores, copy_places, first, more, keep_count, copies_store)
            more = keep_count
        for i in range(first, first + more):
            page = np.int64(copy_places[i]) // PANEL
            at = (page & ((1 << page_bits) - 1)) * width + id_word - THROUGH
            prefetch(address_of(np.uint32, blocks[page >> page_bits]), at * PANEL)
        slots[:] = -1
        for i in range(count):
            slots[_slot(slots, places, first, places[first + i])] = i
        for i in range(first, first + more):
            own = own_place(copies_store, copy_places[i])
            if own < 0:
                continue
            there = slots[_slot(slots, places, first, np.int32(own))]
            if there >= 0:
                scores[first + there] = max(scores[first + there], copy_scores[i])
            else:
                scores[first + count], places[first + count] = copy_scores[i], np.int32(own)
                count += 1
        held[q] = count
