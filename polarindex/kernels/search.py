"""A search of an inverted file in one call: which lists to probe, their scan, and the candidates' order.

    queries -> centres' scan (8-bit codes) -> nprobe nearest lists, those within the gap -> exact offsets
            -> queries grouped by list -> scan_lists -> candidates -> the k best by codes, or by originals
                                            (-> scan_lists of rows' second lists -> each row once: copies.py)

Law:       what a query finds depends on the query and the index alone: lists are chosen by integer scores of its own,
           and candidates are a set that has no order (candidates.py). So batches, single queries and threads agree.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from polarindex.kernels.candidates import candidate_room, id_at, shrink
from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.copies import join_copies, raise_limits
from polarindex.kernels.hadamard import rotate, rotate_rows
from polarindex.kernels.lanes import address_of, moved
from polarindex.kernels.limits import COSINE, EMPTY_ID, L2, LONGEST
from polarindex.kernels.moments import normalise
from polarindex.kernels.pack import PANEL
from polarindex.kernels.probe import scan_lists
from polarindex.kernels.rescore import fetch, inner_product, row_at, rows_ahead, scale_at, score, squared_distance
from polarindex.kernels.simd import start, tag_with
from polarindex.kernels.topk import push, sort_heap

LONGEST2 = LONGEST**2
FEW = 8  # queries that are faster rotated, and made of unit length, one at a time than side by side
TOGETHER = 64  # queries that pass over the centres at a time: their levels stay in the first-level cache
NEAR = np.float32(0.25)  # a list is near whose score is in this upper part of those of the lists that are probed


@kernel
def round_queries(y, quads, sums, peaks):
    """Queries as scan_lists takes them: levels rint(127 y / peak) as bytes, four a quad, zeros beyond d.

    y (nq, d) float32; quads (nq, m) int32 with 4 m >= d; sums (nq,) int32, of the levels; peaks (nq,) float32.
    """
    nq, d = y.shape
    levels = quads.view(np.int8)
    for q in range(nq):
        peak = np.float32(0)
        for j in range(d):
            peak = max(peak, abs(y[q, j]))
        peaks[q] = peak
        gain = 127.0 / np.float64(peak) if peak > 0 else 0.0
        total = 0
        for j in range(d):
            level = np.int8(np.rint(y[q, j] * gain))
            levels[q, j] = level
            total += level
        for j in range(d, levels.shape[1]):
            levels[q, j] = 0
        sums[q] = total


@inlined
def _candidates(nq, keep_count):
    """Empty candidates, as scan_lists fills them."""
    room = nq * candidate_room(keep_count) + PANEL
    return (
        np.empty(room, np.float32),
        np.empty(room, np.int32),
        np.zeros(nq, np.int64),
        np.full(nq, -np.inf, np.float32),
    )


@kernel
def nearest_lists(isa, alone, coarse, queries, nprobe, gap, picked):
    """The lists that each query probes: the near ones first, so that the others meet a limit.

    coarse = (store, code, chains, sizes): centres as one list of 8-bit codes, whose places are list numbers.
    queries = (quads, sums, gains) for those codes. gap: a list whose score is more than that below the best one's is
        left out. picked = (lists (nq, nprobe) int32, counts (nq,) int64)
    """
    store, code, chains, sizes = coarse
    lists, counts = picked
    nq = lists.shape[0]
    blocks = (nq + TOGETHER - 1) // TOGETHER
    starts = np.empty(blocks + 1, np.int64)
    for i in range(blocks + 1):
        starts[i] = min(i * TOGETHER, nq)
    jobs = np.zeros(blocks, np.int32), starts, np.arange(nq).astype(np.int32), np.zeros(nq, np.float32), sizes
    found = _candidates(nq, nprobe)
    scan_lists(isa, alone, store, code, chains, jobs, queries, np.empty(0, np.uint8), found, nprobe)
    scores, places, held, _ = found
    room = (scores.size - PANEL) // nq
    some = np.empty(nprobe + 1, np.int32)
    for q in range(nq):
        first, count = q * room, held[q]
        if count > nprobe:
            shrink(scores, places, first, count, nprobe, store)
            count = nprobe
        best, worst = scores[first], scores[first]
        for i in range(first, first + count):
            best, worst = max(best, scores[i]), min(worst, scores[i])
        limit = best - gap
        nearer = max(limit, best - NEAR * (best - worst))
        at = 0
        for i in range(first, first + count):  # written whether it counts or not: what is near cannot be foreseen
            some[at] = places[i]
            at += scores[i] >= nearer
        for i in range(first, first + count):
            some[at] = places[i]
            at += (scores[i] >= limit) & (scores[i] < nearer)
        counts[q] = at
        for i in range(at):
            lists[q, i] = some[i]


@inlined
def _offset(metric, centre, query, constant, d):
    """What is added to the keys of a list: -|q - c|^2 for L2, else <q, c> + constant."""
    if metric == L2:
        return np.float32(-squared_distance(centre, np.float32(1), query, d))
    return np.float32(inner_product(centre, np.float32(1), query, d) + constant)


@kernel
def group_by_list(metric, centres, constants, queries, picked, jobs):
    """Jobs of scan_lists for queries that probe lists; one query's lists keep their order.

    centres (nlist, d) float32 relative to the index's, constants (nlist,) float32; queries (nq, d) float32 likewise.
    jobs = (lists (m,), starts (m + 1,), members (pairs,), offsets (pairs,)), m the number of pairs; returns how many
    lists there are.
    """
    probes, counts = picked
    lists, starts, members, offsets = jobs
    nlist, d = centres.shape
    nq = probes.shape[0]
    where, rows = start(queries), start(centres)
    if nq == 1:
        for i in range(counts[0]):
            l = np.int64(probes[0, i])  # noqa: E741
            lists[i], starts[i], members[i] = l, i, 0
            offsets[i] = _offset(metric, moved(rows, l * d), where, constants[l], d)
        starts[counts[0]] = counts[0]
        return counts[0]
    tally = np.zeros(nlist + 1, np.int64)
    for q in range(nq):
        for i in range(counts[q]):
            tally[probes[q, i] + 1] += 1
    jobs_made = 0
    for l in range(nlist):  # noqa: E741
        if tally[l + 1]:
            lists[jobs_made], starts[jobs_made] = l, tally[l]
            jobs_made += 1
        tally[l + 1] += tally[l]
    starts[jobs_made] = tally[nlist]
    for q in range(nq):
        query = moved(where, q * d)
        for i in range(counts[q]):
            l = np.int64(probes[q, i])  # noqa: E741
            at = tally[l]
            tally[l] = at + 1
            members[at] = q
            offsets[at] = _offset(metric, moved(rows, l * d), query, constants[l], d)
    return jobs_made


@inlined
def _probed(isa, coarse_isa, coarse, side, queries, settings, allowed, found, about):
    """The best candidates of each query from the lists it probes, and from the second lists of the same numbers.

    coarse = (store, code, chains, sizes, centres, constants): see nearest_lists and group_by_list; side the same of
    the index's lists, without the last two. queries = (centred (nq, d) float32, quads, sums, gains).
    settings = (metric, nprobe, gap, keep_count); found as in scan_lists; about: see `answer`.
    """
    centred, quads, sums, gains = queries
    metric, nprobe, gap, keep_count = settings
    nq = centred.shape[0]
    picked = np.empty((nq, nprobe), np.int32), np.empty(nq, np.int64)
    nearest_lists(
        coarse_isa, tag_with(coarse_isa, 1, 0), coarse[:4], (quads, sums, gains), nprobe, gap, picked
    )
    pairs = picked[1].sum()
    lists, starts = np.empty(pairs, np.int32), np.empty(pairs + 1, np.int64)
    members, offsets = np.empty(pairs, np.int32), np.empty(pairs, np.float32)
    made = group_by_list(metric, coarse[4], coarse[5], centred, picked, (lists, starts, members, offsets))
    store, code, chains, sizes = side
    into = found
    for turn in range(2 if about[COPIED] else 1):  # one call: with two, scan_lists is .5 us a search slower
        if turn:
            raise_limits(found, keep_count, store)
            store, code, chains, sizes = _side(about, COPIES)
            allowed, into = allowed[min(about[COPIED], allowed.size) :], _candidates(nq, keep_count)
            into[3][:] = found[3]
        scan_lists(
            isa, tag_with(isa, 1, 0), store, code, chains, (lists[:made], starts[: made + 1], members, offsets, sizes),
            (quads, sums, gains), allowed, into, keep_count,
        )
    if about[COPIED]:
        join_copies(found, into, side[0], store, keep_count)


# --- one call for a search. A kernel's arrays cost .2 us each where they come from Python, so an index is told as one
# array of addresses and numbers: two sides, (SIDE values each: the lists, then the centroids' one), what follows them,
# and COPIED: how many places there are before those of second lists, or 0 without these, of which a side follows.

SIDE = 14
(BLOCKS, BLOCK_COUNT, PAGE_BITS, WIDTH, ID_WORD, WORDS, TABLE, SCALE_WORD, SHIFT_WORD, HEADS, LISTS, FOLLOWING, PAGES,
 SIZES) = range(SIDE)
(METRIC, UNIT, CENTRES, CONSTANTS, MU, QUADS, ORDER, SIGNS, FLIPS, ROUNDS, STARTS, WINDOWS, WINDOW, ORIGINALS,
 ORIGINAL_COUNT, ORIGINAL_SCALES, SCALE_COUNT, ORIGINAL_BITS, COPIED) = range(2 * SIDE, 2 * SIDE + 19)
COPIES = 2 * SIDE + 19  # where the second lists' side begins, if there is one


@inlined
def _view(about, kind, at, shape):
    """The array at the address about[at]."""
    return carray(address_of(kind, about[at]), shape)


@inlined
def _side(about, first):
    """store, code, chains and sizes of one side."""
    nlist = about[first + LISTS]
    return (
        (
            _view(about, np.int64, first + BLOCKS, (about[first + BLOCK_COUNT],)),
            about[first + PAGE_BITS],
            about[first + WIDTH],
            about[first + ID_WORD],
        ),
        (
            about[first + WORDS],
            _view(about, np.int8, first + TABLE, (16,)),
            about[first + SCALE_WORD],
            about[first + SHIFT_WORD],
        ),
        (
            _view(about, np.int32, first + HEADS, (nlist,)),
            _view(about, np.int32, first + FOLLOWING, (about[first + PAGES],)),
        ),
        _view(about, np.int64, first + SIZES, (nlist,)),
    )


@kernel
def _centred(about, given, rows, constants):
    """rows = the queries, of unit length in a cosine index, less the centre; constants = <q, mu> but for L2.

    False where a query is not finite, too long, or zero in a cosine index.
    """
    nq, d = given.shape
    mu = _view(about, np.float32, MU, (d,))
    norms2 = np.empty(nq, np.float64)
    if about[UNIT] and nq >= FEW:
        normalise(given, rows, norms2)
    else:
        for q in range(nq):
            total = 0.0
            for j in range(d):
                total += np.float64(given[q, j]) * np.float64(given[q, j])
            norms2[q] = total
            length = np.sqrt(total) if about[UNIT] else 1.0
            for j in range(d):
                rows[q, j] = np.float32(np.float64(given[q, j]) / length)
    for q in range(nq):
        if not norms2[q] < (np.inf if about[UNIT] else LONGEST2) or (about[UNIT] and norms2[q] == 0):
            return False
        if about[METRIC] != L2:
            for j in range(d):
                constants[q] += np.float64(rows[q, j]) * np.float64(mu[j])
        for j in range(d):
            rows[q, j] -= mu[j]
    return True


@kernel
def _rotated(about, rows, y):
    """y = R rows."""
    nq, d = rows.shape
    rounds, windows, size = about[ROUNDS], about[WINDOWS], about[WINDOW]
    order, starts = _view(about, np.int64, ORDER, (rounds, d)), _view(about, np.int64, STARTS, (windows,))
    norm = np.float32(1.0 / np.sqrt(np.float64(size)))
    if nq < FEW and size >= PANEL:
        rotate_rows(rows, order, _view(about, np.float32, FLIPS, (rounds, windows, d)), starts, size, norm, y)
    else:
        rotate(rows, order, _view(about, np.float32, SIGNS, (rounds, windows, d)), starts, size, norm, y)


@kernel
def answer(isa, kind, about, given, nprobe, gap, keep_count, exact, allowed, out_distances, out_ids):
    """The k best of every query in the lists that it probes; whether all queries could be answered.

    isa : a tag for tiles of the lists' planes. kind (0,) as of rescore_rows. about (COPIES,) int64, (COPIES + SIDE,)
        where rows lie in second lists.
    given (nq, d) float32: False is returned where one is not finite, or longer than LONGEST, or zero in a cosine
        index, and nothing is written.
    exact : whether the keep_count best by codes are scored by their originals. allowed (places,) uint8, after them the
        places of second lists; (0,) for all.
    out_distances (nq, k) float32, out_ids (nq, k) int64.
    """
    nq, d = given.shape
    metric, m = about[METRIC], about[QUADS]
    rows, constants = np.empty((nq, d), np.float32), np.zeros(nq, np.float64)
    if not _centred(about, given, rows, constants):
        return False
    y = np.empty((nq, d), np.float32)
    _rotated(about, rows, y)
    quads, sums, gains = np.empty((nq, m), np.int32), np.empty(nq, np.int32), np.empty(nq, np.float32)
    round_queries(y, quads, sums, gains)
    factor = np.float32(2.0 / 127 if metric == L2 else 1.0 / 127)
    for q in range(nq):
        gains[q] *= factor
    side, coarse = _side(about, 0), _side(about, SIDE)
    nlist = about[LISTS]
    centres = _view(about, np.float32, CENTRES, (nlist, d))
    list_constants = _view(about, np.float32, CONSTANTS, (nlist,))
    found = _candidates(nq, keep_count)
    _probed(
        isa, tag_with(isa, 0, 8), (coarse[0], coarse[1], coarse[2], coarse[3], centres, list_constants), side,
        (rows, quads, sums, gains), (metric, nprobe, np.float32(gap), keep_count), allowed, found,
        about,
    )
    sign = np.float32(-1 if metric == L2 else 1)
    if exact:
        originals = (
            _view(about, np.int64, ORIGINALS, (about[ORIGINAL_COUNT],)),
            _view(about, np.int64, ORIGINAL_SCALES, (about[SCALE_COUNT],)),
            about[ORIGINAL_BITS],
        )
        by = COSINE if about[UNIT] else metric
        best_by_originals(kind, originals, by, side[0], found, keep_count, given, sign, out_distances, out_ids)
    else:
        best_by_codes(side[0], found, constants, sign, out_distances, out_ids)
    return True


@kernel
def best_by_codes(store, found, constants, sign, out_distances, out_ids):
    """The k best candidates of each query by (key, id): distances sign * (key + constant) and ids.

    constants (nq,) float64; out_distances (nq, k) float32, out_ids (nq, k) int64, -1 at sign * -inf where there are
    none.
    """
    scores, places, held, _ = found
    nq, k = out_ids.shape
    blocks, page_bits, width, id_word = store
    room = (scores.size - PANEL) // nq
    distances, ids = out_distances.reshape(-1), out_ids.reshape(-1)
    for q in range(nq):
        first, count = q * room, held[q]
        if count > k:
            shrink(scores, places, first, count, k, store)
            count = k
        base = q * k
        for i in range(k):
            distances[base + i], ids[base + i] = -np.inf, EMPTY_ID
        for i in range(count):  # rounding may make ties, whose order is by id
            distance = np.float32(np.float64(scores[first + i]) + constants[q])
            push(distance, id_at(blocks, page_bits, width, id_word, places[first + i]), distances, ids, base, k)
        _finish(distances, ids, base, k, sign)


@inlined
def _finish(distances, ids, base, k, sign):
    """A heap of scores, larger being better, as a list of distances."""
    sort_heap(distances, ids, base, k)
    for i in range(base, base + k):
        distances[i] *= sign
        if ids[i] == EMPTY_ID:
            ids[i] = -1


@kernel
def best_by_originals(kind, originals, metric, store, found, keep_count, queries, sign, out_distances, out_ids):
    """The k best of each query's keep_count best candidates by what their originals say.

    kind, originals = (blocks, scales, shift) as of rescore_rows, places being positions; queries (nq, d) float32 as
    given. out_distances (nq, k) float32, out_ids (nq, k) int64 as of best_by_codes.
    """
    scores, places, held, _ = found
    nq, k = out_ids.shape
    d = queries.shape[1]
    blocks, page_bits, width, id_word = store
    room = (scores.size - PANEL) // nq
    distances, ids = out_distances.reshape(-1), out_ids.reshape(-1)
    rows = (start(kind), start(originals[0]), start(originals[1]), originals[2], d)
    asked = start(queries)
    ahead = rows_ahead(rows)
    for q in range(nq):
        first, count = q * room, held[q]
        if count > keep_count:
            shrink(scores, places, first, count, keep_count, store)
            count = keep_count
        base = q * k
        query = moved(asked, q * d)
        energy = inner_product(query, np.float32(1), query, d)
        for i in range(k):
            distances[base + i], ids[base + i] = -np.inf, EMPTY_ID
        for i in range(min(ahead, count)):
            fetch(rows, np.int64(places[first + i]))
        for i in range(count):
            if i + ahead < count:
                fetch(rows, np.int64(places[first + i + ahead]))
            place = np.int64(places[first + i])
            exact = np.float32(sign * score(metric, row_at(rows, place), scale_at(rows, place), query, energy, d))
            if exact >= distances[base]:
                push(exact, id_at(blocks, page_bits, width, id_word, place), distances, ids, base, k)
        _finish(distances, ids, base, k, sign)
