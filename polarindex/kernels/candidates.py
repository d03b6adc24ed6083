"""The best of a stream of scores without a heap: what reaches a limit is appended, and now and then the worst go.

Law:       after `shrink`, the first `keep` places hold the keep best by (score descending, id ascending) of all that
           was offered, whatever the order. A limit is never above the keep-th best score so far, and scores equal to
           it are let in, so that ids decide. NaN is never let in.
Why:       a query meets thousands of scores and keeps 40-100 of them; appending costs 2 ns where a heap's sift costs
           20-40, and a selection from 2-3 times as many every so often costs less than what was saved.
Where:     query q's are at q * room .. of flat arrays scores (float32) and places (int32); `held` counts them."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import (
    LANES,
    address_of,
    choose,
    first_lanes,
    floats_at,
    lanes_set,
    moved,
    pack_at,
    splat,
    store,
    words_at,
)
from polarindex.kernels.limits import BEHIND, EMPTY_ID, THROUGH
from polarindex.kernels.pages import at_place, id_of, own_place
from polarindex.kernels.simd import start

LARGEST = np.float32(np.finfo(np.float32).max)
SPARE = 32  # appended between two looks at `held`: a page of 16 for each of two halves, and then some


@inlined
def candidate_room(keep):
    """Candidates that a query has room for: the limit lags behind by what is held, the selection costs by it.

    Whole registers: `_pack` writes the last one in full, and what follows is another query's.
    """
    return (2 * keep + 2 * SPARE + LANES - 1) // LANES * LANES


@kernel
def id_at(blocks, page_bits, width, id_word, place):
    """The id of the row at a place: a word of its page, or two where ids are large (id_word < 0: the place is it)."""
    if id_word < 0:
        return np.int64(place)
    block, at = at_place(blocks, page_bits, width, place)
    return id_of(block, at, width, id_word)


@kernel
def name_at(names, place):
    """`id_at`, and for a copy the id of the row itself (see pages.py), or EMPTY_ID where there is no such row."""
    blocks, page_bits, width, id_word = names
    if id_word < THROUGH:
        return id_at(blocks, page_bits, width, id_word, place)
    own = own_place(names, place)
    if own < 0:
        return EMPTY_ID
    behind = blocks.size - BEHIND
    block, at = at_place(address_of(np.int64, blocks[behind]), blocks[behind + 1], blocks[behind + 2], own)
    return id_of(block, at, blocks[behind + 2], blocks[behind + 3])


@inlined
def _extremes(at, held):
    """The least and the largest of scores."""
    low, high = splat(np.float32(np.inf)), splat(np.float32(-np.inf))
    for j in range(0, held, LANES):
        values, here = floats_at(at, j), first_lanes(held - j)
        least, most = choose(here, values, low), choose(here, values, high)
        low, high = choose(least >= low, low, least), choose(most >= high, most, high)
    room = np.empty((2, LANES), np.float32)
    store(room, 0, low)
    store(room, 1, high)
    least, most = np.float32(np.inf), np.float32(-np.inf)
    for v in range(LANES):
        least, most = min(least, room[0, v]), max(most, room[1, v])
    return least, most


@inlined
def _reaching(at, held, limit):
    """How many scores reach a limit."""
    count, limits = 0, splat(limit)
    for j in range(0, held, LANES):
        count += lanes_set((floats_at(at, j) >= limits) & first_lanes(held - j))
    return count


@inlined
def _limit(at, held, keep, enough):
    """A limit that `keep` of the scores reach, or more, but no more than `enough` if equal scores allow; and how many.

    By halving: counting what reaches a limit is a few comparisons of whole registers, where a selection is a branch
    that cannot be foreseen for every candidate.
    """
    low, high = _extremes(at, held)
    left = held
    if low < -LARGEST:  # there is nothing in the middle between an infinity and a number
        count = _reaching(at, held, -LARGEST)
        if count < keep:
            return low, left
        low, left = -LARGEST, count
    if high > LARGEST:
        count = _reaching(at, held, high)
        if count >= keep:
            return high, count
        high = LARGEST
    while left > enough:
        middle = np.float32(np.float32(0.5) * low + np.float32(0.5) * high)
        if not low < middle < high:
            count = _reaching(at, held, high)
            return (high, count) if count >= keep else (low, left)
        count = _reaching(at, held, middle)
        if count >= keep:
            low, left = middle, count
        else:
            high = middle
    return low, left


@inlined
def _pack(at, numbers, held, limit):
    """Move the candidates that reach a limit to the front, in their order; returns how many."""
    count, limits = 0, splat(limit)
    for j in range(0, held, LANES):
        values, places = floats_at(at, j), words_at(numbers, j)
        here = (values >= limits) & first_lanes(held - j)
        pack_at(at, count, values, here)
        pack_at(numbers, count, places, here)
        count += lanes_set(here)
    return count


@kernel
def _order_ties(scores, places, first, last, worst, names):
    """Put the entries of score `worst` behind the others, in the order of their ids."""
    at = first
    for i in range(first, last):
        if scores[i] > worst:
            scores[at], scores[i] = scores[i], scores[at]
            places[at], places[i] = places[i], places[at]
            at += 1
    idents = np.empty(last - at, np.int64)
    for i in range(idents.size):
        idents[i] = name_at(names, places[at + i])
    order = np.argsort(idents)
    held = places[at:last].copy()
    for i in range(idents.size):
        places[at + i] = held[order[i]]


@kernel
def tighten(scores, places, first, held, keep):
    """Leave `keep` or somewhat more of the best of `held` > keep candidates, many more only where many are equal.

    Returns the limit that all that are left reach, and how many are left.
    """
    at, numbers = moved(start(scores), first), moved(start(places), first)
    limit, _ = _limit(at, held, keep, keep + keep // 4 + 4)
    return limit, _pack(at, numbers, held, limit)


@kernel
def shrink(scores, places, first, held, keep, names):
    """Leave the `keep` best of `held` > keep candidates from `first` on; returns the worst score that is left.

    names = (blocks, page_bits, width, id_word): where ids are, see name_at.
    """
    at, numbers = moved(start(scores), first), moved(start(places), first)
    limit, _ = _limit(at, held, keep, keep)
    left = _pack(at, numbers, held, limit)
    worst, _ = _extremes(at, left)
    if left > keep:  # the last of them are equal
        _order_ties(scores, places, first, first + left, worst, names)
    return worst
