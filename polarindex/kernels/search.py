"""A search of an inverted file in one call: which lists to probe, their scan, and the candidates' order.

    queries -> (nearest groups of centroids) -> their scan (8-bit codes) -> nprobe nearest lists, those within the gap
            -> exact offsets -> queries grouped by list -> scan_lists -> candidates -> the k best by codes, or by
               originals                  (-> scan_lists of rows' second lists -> each row once: copies.py)

Law:       what a query finds depends on the query and the index alone: lists are chosen by integer scores of its own,
           and candidates are a set that has no order (candidates.py). So batches, single queries and threads agree.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from polarindex.kernels.candidates import candidate_room, id_at, name_at, shrink
from polarindex.kernels.compile import inlined, kernel, spliced
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
TOGETHER = 64  # queries that are rotated, or pass over the centres, at a time: they stay in the first-level cache
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
def empty_candidates(nq, keep_count):
    """Empty candidates, as scan_lists fills them."""
    room = nq * candidate_room(keep_count) + PANEL
    return (
        np.empty(room, np.float32),
        np.empty(room, np.int32),
        np.zeros(nq, np.int64),
        np.full(nq, -np.inf, np.float32),
    )


@inlined
def _jobs_of_all(nq):
    """Jobs of scan_lists, without the sizes, for which all queries meet the only list, TOGETHER at a time."""
    blocks = (nq + TOGETHER - 1) // TOGETHER
    starts = np.empty(blocks + 1, np.int64)
    for i in range(blocks + 1):
        starts[i] = min(i * TOGETHER, nq)
    return np.zeros(blocks, np.int32), starts, np.arange(nq).astype(np.int32), np.zeros(nq, np.float32)


@inlined
def _chain(following, first, last, after):
    """Pages first .. last - 1, one after the other, and then `after`."""
    for page in range(first, last - 1):
        following[page] = page + 1
    following[last - 1] = after


@kernel
def _jobs_of_groups(pages, group_pages, found, look, store):
    """Chains, sizes and jobs of scan_lists for which queries meet the centroids of their `look` best groups.

    pages, group_pages : of all centroids, and of a group; found, store : candidates whose places are groups, and names
    """
    scores, places, counts, _ = found
    nq, room = counts.size, candidate_room(look)
    for q in range(nq):
        if counts[q] > look:
            shrink(scores, places, q * room, counts[q], look, store)
            counts[q] = look
    following = np.empty(pages, np.int32)
    if nq == 1:  # their pages as one list
        head, total = -1, 0
        for i in range(counts[0]):
            first = np.int64(places[i]) * group_pages
            last = min(first + group_pages, pages)
            _chain(following, first, last, head)
            head, total = first, total + (last - first)
        heads, rows = np.full(1, head, np.int32), np.full(1, total * PANEL)
        lists, starts, members = np.zeros(1, np.int32), np.arange(2), np.zeros(1, np.int32)
    else:
        made = (pages + group_pages - 1) // group_pages
        heads, rows = np.empty(made, np.int32), np.empty(made, np.int64)
        starts = np.zeros(made + 1, np.int64)
        for g in range(made):
            first, last = g * group_pages, min((g + 1) * group_pages, pages)
            _chain(following, first, last, -1)
            heads[g], rows[g] = first, (last - first) * PANEL
        for q in range(nq):
            for i in range(counts[q]):
                starts[places[q * room + i] + 1] += 1
        for g in range(made):
            starts[g + 1] += starts[g]
        lists, members, ends = np.arange(made).astype(np.int32), np.empty(starts[made], np.int32), starts.copy()
        for q in range(nq):
            for i in range(counts[q]):
                g = places[q * room + i]
                members[ends[g]] = q
                ends[g] += 1
    return (heads, following), rows, (lists, starts, members, np.zeros(members.size, np.float32))


@inlined
def _groups_looked(looks, nprobe):
    """Groups that a query looks into: looks[level] where nprobe is up to 2^level."""
    level = 0
    while 1 << level < nprobe:
        level += 1
    return np.int64(looks[level])


@kernel
def nearest_lists(isa, alone, coarse, queries, nprobe, gap, picked):
    """The lists that each query probes: the near ones first, so that the others meet a limit.

    coarse = (store, code, chains, sizes, groups, group_pages, looks): centroids as one list of 8-bit codes in whole
        pages, whose ids are list numbers; groups the first four of the groups' centres, whose ids are their places,
        the numbers of groups; pages of a group, the last of which may have fewer; looks (levels,) int32, how many
        groups a query of up to 2^level lists looks into.
    queries = (quads, sums, gains) for those codes. gap: a list whose score is more than that below the best one's is
        left out. picked = (lists (nq, nprobe) int32, counts (nq,) int64)
    """
    store, code, chains, sizes, groups, group_pages, looks = coarse
    blocks, page_bits, width, id_word = store
    lists, counts = picked
    nq, pages, look = lists.shape[0], sizes[0] // PANEL, _groups_looked(looks, nprobe)
    grouped = look * group_pages < pages
    keep_count = look if grouped else nprobe
    met, met_code, met_chains, met_sizes = groups if grouped else coarse[:4]
    found, jobs = empty_candidates(nq, keep_count), _jobs_of_all(nq)
    for turn in range(2 if grouped else 1):  # one call of scan_lists: each more takes seconds to compile
        if turn:
            met_chains, met_sizes, jobs = _jobs_of_groups(pages, group_pages, found, look, met)
            met, met_code, keep_count = store, code, nprobe
            found = empty_candidates(nq, keep_count)
        scan_lists(
            isa, alone, met, met_code, met_chains, (jobs[0], jobs[1], jobs[2], jobs[3], met_sizes), queries,
            np.empty(0, np.uint8), found, keep_count,
        )
    scores, places, held, _ = found
    room = candidate_room(nprobe)
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
            lists[q, i] = id_at(blocks, page_bits, width, id_word, some[i])


@inlined
def list_offset(metric, centre, query, constant, d):
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
            offsets[i] = list_offset(metric, moved(rows, l * d), where, constants[l], d)
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
            offsets[at] = list_offset(metric, moved(rows, l * d), query, constants[l], d)
    return jobs_made


@spliced
def probing_jobs(coarse_isa, coarse, queries, settings):
    """The jobs of scan_lists, without the sizes: which queries probe which lists.

    coarse = (as of nearest_lists, centres, constants), the last two as of group_by_list.
    queries = (centred (nq, d) float32, quads, sums, gains); settings = (metric, nprobe, gap).
    """
    centred, quads, sums, gains = queries
    metric, nprobe, gap = settings
    nq = centred.shape[0]
    picked = np.empty((nq, nprobe), np.int32), np.empty(nq, np.int64)
    nearest_lists(coarse_isa, tag_with(coarse_isa, 1, 0), coarse[0], (quads, sums, gains), nprobe, gap, picked)
    pairs = picked[1].sum()
    lists, starts = np.empty(pairs, np.int32), np.empty(pairs + 1, np.int64)
    members, offsets = np.empty(pairs, np.int32), np.empty(pairs, np.float32)
    made = group_by_list(metric, coarse[1], coarse[2], centred, picked, (lists, starts, members, offsets))
    return lists[:made], starts[: made + 1], members, offsets


@spliced
def scan_jobs(isa, about, side, queries, jobs, keep_count, allowed, found):
    """The best candidates of each query from the lists of jobs, and from the second lists of the same numbers.

    about : see `answer`; side = (store, code, chains, sizes) of the index's lists; queries = (quads, sums, gains), jobs
    as of probing_jobs; found as in scan_lists.
    """
    lists, starts, members, offsets = jobs
    store, code, chains, sizes = side
    into = found
    for turn in range(2 if about[COPIED] else 1):  # one call: with two, scan_lists is .5 us a search slower
        if turn:
            raise_limits(found, keep_count, store)
            store, code, chains, sizes = side_at(about, ABOUT)
            allowed, into = allowed[min(about[COPIED], allowed.size) :], empty_candidates(found[2].size, keep_count)
            into[3][:] = found[3]
        scan_lists(
            isa, tag_with(isa, 1, 0), store, code, chains, (lists, starts, members, offsets, sizes), queries,
            allowed, into, keep_count,
        )
    if about[COPIED]:
        join_copies(found, into, side[0], store, keep_count)


@spliced
def scan_probed(isa, about, coarse, side, queries, settings, keep_count, allowed, found):
    """`scan_jobs` for the lists that each query probes; coarse, queries, settings as in probing_jobs."""
    jobs = probing_jobs(tag_with(isa, 0, 8), coarse, queries, settings)
    scan_jobs(isa, about, side, queries[1:], jobs, keep_count, allowed, found)


# --- one call for a search. A kernel's arrays cost .2 us each where they come from Python, so an index is told as one
# array of addresses and numbers: three sides (SIDE values each: the lists, then the centroids' one, then that of their
# groups' centres), what follows them, and COPIED: how many places there are before those of second lists, or 0 without
# these, of which a side follows.

SIDE = 16
(BLOCKS, BLOCK_COUNT, PAGE_BITS, WIDTH, ID_WORD, WORDS, TABLE, SCALE_WORD, SHIFT_WORD, CODE_WORD, LAW, HEADS, LISTS,
 FOLLOWING, PAGES, SIZES) = range(SIDE)
(METRIC, UNIT, CENTRES, CONSTANTS, MU, QUADS, ORDER, SIGNS, FLIPS, ROUNDS, STARTS, WINDOWS, WINDOW, ORIGINALS,
 ORIGINAL_COUNT, ORIGINAL_SCALES, SCALE_COUNT, ORIGINAL_BITS, GROUP_PAGES, LOOKS, LEVELS,
 COPIED) = range(3 * SIDE, 3 * SIDE + 22)
ABOUT = 3 * SIDE + 22  # beyond is the second lists' side, if there is one, or what prefix.py says


@inlined
def view(about, kind, at, shape):
    """The array at the address about[at]."""
    return carray(address_of(kind, about[at]), shape)


@inlined
def side_at(about, first):
    """store, code, chains and sizes of one side."""
    nlist = about[first + LISTS]
    return (
        (
            view(about, np.int64, first + BLOCKS, (about[first + BLOCK_COUNT],)),
            about[first + PAGE_BITS],
            about[first + WIDTH],
            about[first + ID_WORD],
        ),
        (
            about[first + WORDS],
            view(about, np.int8, first + TABLE, (16,)),
            about[first + SCALE_WORD],
            about[first + SHIFT_WORD],
            about[first + CODE_WORD],
            view(about, np.float32, first + LAW, (3,)),
        ),
        (
            view(about, np.int32, first + HEADS, (nlist,)),
            view(about, np.int32, first + FOLLOWING, (about[first + PAGES],)),
        ),
        view(about, np.int64, first + SIZES, (nlist,)),
    )


@inlined
def coarse_side(about, d):
    """The centroids as probing_jobs takes them: their side and their groups', and relative to the index's centre."""
    store, code, chains, sizes = side_at(about, SIDE)
    groups, looks = side_at(about, 2 * SIDE), view(about, np.int32, LOOKS, (about[LEVELS],))
    nlist = about[LISTS]
    centres = view(about, np.float32, CENTRES, (nlist, d))
    constants = view(about, np.float32, CONSTANTS, (nlist,))
    return (store, code, chains, sizes, groups, about[GROUP_PAGES], looks), centres, constants


@spliced
def _centred(about, given, rows, constants):
    """rows = the queries, of unit length in a cosine index, less the centre; constants = <q, mu> but for L2.

    False where a query is not finite, too long, or zero in a cosine index.
    """
    nq, d = given.shape
    mu = view(about, np.float32, MU, (d,))
    norms2 = np.empty(nq, np.float64)
    if about[UNIT] and nq >= FEW:
        normalise(given, rows, norms2)
    elif about[UNIT]:
        for q in range(nq):
            total = 0.0
            for j in range(d):
                total += np.float64(given[q, j]) * np.float64(given[q, j])
            norms2[q] = total
            length = np.sqrt(total)
            for j in range(d):
                rows[q, j] = np.float32(np.float64(given[q, j]) / length)
    else:  # only whether they are too long is asked; sixteen sums at a time: .9 us less for 784 dimensions
        asked = start(given)
        for q in range(nq):
            query = moved(asked, q * d)
            norms2[q] = inner_product(query, np.float32(1), query, d)
            for j in range(d):
                rows[q, j] = given[q, j]
    for q in range(nq):
        if not norms2[q] < (np.inf if about[UNIT] else LONGEST2) or (about[UNIT] and norms2[q] == 0):
            return False
        if about[METRIC] != L2:
            for j in range(d):
                constants[q] += np.float64(rows[q, j]) * np.float64(mu[j])
        for j in range(d):
            rows[q, j] -= mu[j]
    return True


@spliced
def _rotated(about, rows, y):
    """y = R rows."""
    nq, d = rows.shape
    rounds, windows, size = about[ROUNDS], about[WINDOWS], about[WINDOW]
    order, starts = view(about, np.int64, ORDER, (rounds, d)), view(about, np.int64, STARTS, (windows,))
    norm = np.float32(1.0 / np.sqrt(np.float64(size)))
    if nq < FEW and size >= PANEL:
        rotate_rows(rows, order, view(about, np.float32, FLIPS, (rounds, windows, d)), starts, size, norm, y)
    else:
        rotate(rows, order, view(about, np.float32, SIGNS, (rounds, windows, d)), starts, size, norm, y)


@kernel
def _prepared(about, given, rows, constants, quads, sums, gains):
    """Fill the arrays of `prepared`; False where a query cannot be answered, see `answer`."""
    if not _centred(about, given, rows, constants):
        return False
    nq, d = given.shape
    y = np.empty((min(nq, TOGETHER), d), np.float32)  # of all queries it would be new memory for every large batch
    for first in range(0, nq, TOGETHER):
        some = slice(first, min(first + TOGETHER, nq))
        turned = y[: some.stop - first]
        _rotated(about, rows[some], turned)
        round_queries(turned, quads[some], sums[some], gains[some])
    factor = np.float32(2.0 / 127 if about[METRIC] == L2 else 1.0 / 127)
    for q in range(gains.size):
        gains[q] *= factor
    return True


@spliced
def prepared(about, given):
    """Whether all queries can be answered, the queries as probing_jobs takes them, and their constants (nq,)."""
    nq, d = given.shape
    rows, constants = np.empty((nq, d), np.float32), np.zeros(nq, np.float64)
    quads, sums, gains = np.empty((nq, about[QUADS]), np.int32), np.empty(nq, np.int32), np.empty(nq, np.float32)
    able = _prepared(about, given, rows, constants, quads, sums, gains)
    return able, (rows, quads, sums, gains), constants


@spliced
def best_found(about, kind, store, found, keep_count, exact, given, constants, out_distances, out_ids):
    """The k best of the candidates, by their originals where `exact`, else by their codes."""
    metric = about[METRIC]
    sign = np.float32(-1 if metric == L2 else 1)
    if exact:
        originals = (
            view(about, np.int64, ORIGINALS, (about[ORIGINAL_COUNT],)),
            view(about, np.int64, ORIGINAL_SCALES, (about[SCALE_COUNT],)),
            about[ORIGINAL_BITS],
        )
        by = COSINE if about[UNIT] else metric
        best_by_originals(kind, originals, by, store, found, keep_count, given, sign, out_distances, out_ids)
    else:
        best_by_codes(store, found, constants, sign, out_distances, out_ids)


@kernel
def answer(isa, kind, about, given, nprobe, gap, keep_count, exact, allowed, out_distances, out_ids):
    """The k best of every query in the lists that it probes; whether all queries could be answered.

    isa : a tag for tiles of the lists' planes. kind (0,) as of rescore_rows. about (ABOUT,) int64, (ABOUT + SIDE,)
        where rows lie in second lists.
    given (nq, d) float32: False is returned where one is not finite, or longer than LONGEST, or zero in a cosine
        index, and nothing is written.
    exact : whether the keep_count best by codes are scored by their originals. allowed (places,) uint8, after them the
        places of second lists; (0,) for all.
    out_distances (nq, k) float32, out_ids (nq, k) int64.
    """
    nq, d = given.shape
    metric = about[METRIC]
    able, queries, constants = prepared(about, given)
    if not able:
        return False
    side, found = side_at(about, 0), empty_candidates(nq, keep_count)
    settings = metric, nprobe, np.float32(gap)
    scan_probed(isa, about, coarse_side(about, d), side, queries, settings, keep_count, allowed, found)
    best_found(about, kind, side[0], found, keep_count, exact, given, constants, out_distances, out_ids)
    return True


# --- the same in two calls, for rows that lie in several indexes with the same lists: one of these, with or without
# rows, says which lists a query meets, and each scans its own rows of them.


@kernel
def asked_lists(isa, about, given, nprobe, gap):
    """Whether all queries can be answered; queries and jobs as `candidates_of` takes them, and constants (nq,)
    float64 that are added to keys. Arguments as of `answer`.
    """
    able, queries, constants = prepared(about, given)
    if not able:
        none = np.empty(0, np.int32)
        return able, queries[1:], (none, np.zeros(1, np.int64), none, np.empty(0, np.float32)), constants
    settings = about[METRIC], nprobe, np.float32(gap)
    jobs = probing_jobs(tag_with(isa, 0, 8), coarse_side(about, given.shape[1]), queries, settings)
    return able, queries[1:], jobs, constants


@kernel
def join_jobs(parts, jobs):
    """Jobs of queries that were asked apart, one part after another; returns how many lists there are.

    parts (p, 6) int64, of each its first query, how many lists it has, and where its lists, starts, members and offsets
        begin, as of group_by_list; jobs as there, lists (nlist,) and starts (nlist + 1,).
    """
    lists, starts, members, offsets = jobs
    nlist = lists.size
    tally = np.zeros(nlist + 1, np.int64)
    for p in range(parts.shape[0]):
        numbers, begins = address_of(np.int32, parts[p, 2]), address_of(np.int64, parts[p, 3])
        for i in range(parts[p, 1]):
            tally[numbers[i] + 1] += begins[i + 1] - begins[i]
    made = 0
    for l in range(nlist):  # noqa: E741
        if tally[l + 1]:
            lists[made], starts[made] = l, tally[l]
            made += 1
        tally[l + 1] += tally[l]
    starts[made] = tally[nlist]
    for p in range(parts.shape[0]):
        first, numbers, begins = parts[p, 0], address_of(np.int32, parts[p, 2]), address_of(np.int64, parts[p, 3])
        askers, added = address_of(np.int32, parts[p, 4]), address_of(np.float32, parts[p, 5])
        for i in range(parts[p, 1]):
            at = tally[numbers[i]]
            for pair in range(begins[i], begins[i + 1]):
                members[at], offsets[at] = first + askers[pair], added[pair]
                at += 1
            tally[numbers[i]] = at
    return made


@kernel
def candidates_of(isa, about, queries, jobs, keep_count, allowed, out_keys, out_ids, out_places):
    """The keep_count best rows of each query by (key, id), in no order: keys, ids and places (nq, keep_count).

    isa, about, allowed as in `answer`, of which the centroids are not read; queries, jobs as of `asked_lists`. What
    there is not is -inf, EMPTY_ID and -1.
    """
    side = side_at(about, 0)
    found = empty_candidates(queries[1].size, keep_count)
    scan_jobs(isa, about, side, queries, jobs, keep_count, allowed, found)
    scores, places, held, _ = found
    room = candidate_room(keep_count)
    out_keys[:], out_ids[:], out_places[:] = -np.inf, EMPTY_ID, -1
    for q in range(held.size):
        first, count = q * room, held[q]
        if count > keep_count:
            shrink(scores, places, first, count, keep_count, side[0])
            count = keep_count
        for i in range(count):
            out_keys[q, i], out_places[q, i] = scores[first + i], places[first + i]
            out_ids[q, i] = name_at(side[0], places[first + i])


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
        energy = inner_product(query, np.float32(1), query, d) if metric == COSINE else 0.0
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
