"""All rows of the lists that are probed whose score reaches a bound: a range search in one call.

    queries -> lists and offsets (search.py) -> some lists at a time: scan_lists with a limit that does not move
            -> candidates whose rounded score reaches the bound -> each query's in the order of their scores
    (-> the same of rows' second lists, where they lie in such)

Law:       what a step-by-step search finds: score = key + constant in float64, rounded to float32; a hit is
           score >= bound in float64; hits are sorted by (score descending, id ascending). A row that is found in
           both its lists is two hits.
How:       the limit of keys is a few roundings below what the bound means, and there is room for every row of the
           lists that are scanned together, so nothing is lost or chosen from on the way. Memory without a candidate
           in it is never touched."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.candidates import name_at
from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.limits import EMPTY_ID, L2
from polarindex.kernels.pack import PANEL
from polarindex.kernels.probe import scan_lists
from polarindex.kernels.search import ABOUT, COPIED, METRIC, coarse_side, prepared, probing_jobs, side_at
from polarindex.kernels.simd import tag_with
from polarindex.kernels.topk import push, sort_heap

_FIRST = 256  # hits that there is room for at first


@inlined
def _limit(bound, constant):
    """A key that is reached by all whose score reaches the bound: four times what rounding can be lies between."""
    return np.float32(bound - constant - 2.0**-22 * (abs(bound) + abs(constant)) - 1e-40)


@inlined
def _lists_together(lists, sizes, first, most):
    """The end of the lists from number `first` on that hold `most` rows together, or one list."""
    last, rows = first + 1, sizes[lists[first]]
    while last < lists.size and rows + sizes[lists[last]] <= most:
        rows += sizes[lists[last]]
        last += 1
    return last


@inlined
def _with_room(array, held, more):
    """The array, or one twice as long and longer that begins with its `held` elements."""
    if held + more <= array.size:
        return array
    longer = np.empty(2 * array.size + more, array.dtype)
    longer[:held] = array[:held]
    return longer


@kernel
def within(isa, about, given, nprobe, gap, radius, together, allowed):
    """Hits of every query: whether all could be answered, lims (nq + 1,) int64, distances (hits,) float32 and ids
    (hits,) int64, query i's at lims[i] : lims[i + 1], best first.

    isa, about, given, nprobe, gap, allowed as in search.answer; radius: the largest squared distance for L2, else the
    least similarity; together: candidates that there is room for, but at least the rows of the largest list for each
    query.
    """
    nq, d = given.shape
    metric = about[METRIC]
    lims = np.zeros(nq + 1, np.int64)
    able, queries, constants = prepared(about, given)
    if not able or nq == 0:
        return able, lims, np.empty(0, np.float32), np.empty(0, np.int64)
    sign = np.float32(-1 if metric == L2 else 1)
    bound = sign * np.float64(radius)
    lists, starts, members, offsets = probing_jobs(
        tag_with(isa, 0, 8), coarse_side(about, d), queries, (metric, nprobe, np.float32(gap))
    )
    sizes = side_at(about, 0)[3]  # and then the larger ones of first and second lists
    if about[COPIED]:
        sizes = np.maximum(sizes, side_at(about, ABOUT)[3])
    largest, total = 0, 0
    for i in range(lists.size):
        largest, total = max(largest, sizes[lists[i]]), total + sizes[lists[i]]
    most = min(max(together // nq, largest), total)
    room = most + 2 * PANEL
    scores, places = np.empty(nq * room + PANEL, np.float32), np.empty(nq * room + PANEL, np.int32)
    held, floors = np.zeros(nq, np.int64), np.empty(nq, np.float32)
    for q in range(nq):
        floors[q] = _limit(bound, constants[q])
    hit_scores, hit_ids = np.empty(_FIRST, np.float32), np.empty(_FIRST, np.int64)
    hit_queries, hits, first = np.empty(_FIRST, np.int32), 0, 0
    while first < lists.size:
        last = _lists_together(lists, sizes, first, most)
        jobs = lists[first:last], starts[first : last + 1], members, offsets
        first = last
        for second in range(2 if about[COPIED] else 1):
            store, code, chains, own_sizes = side_at(about, ABOUT if second else 0)
            mine = allowed[min(about[COPIED], allowed.size) if second else 0 :]
            scan_lists(
                isa, tag_with(isa, 1, 0), store, code, chains, (jobs[0], jobs[1], jobs[2], jobs[3], own_sizes),
                queries[1:], mine, (scores, places, held, floors), room,
            )
            for q in range(nq):
                hit_scores = _with_room(hit_scores, hits, held[q])
                hit_ids = _with_room(hit_ids, hits, held[q])
                hit_queries = _with_room(hit_queries, hits, held[q])
                before = hits
                for i in range(q * room, q * room + held[q]):
                    score = np.float32(np.float64(scores[i]) + constants[q])
                    if np.float64(score) >= bound:
                        hit_scores[hits], hit_queries[hits] = score, q
                        hit_ids[hits] = name_at(store, places[i])
                        hits += hit_ids[hits] != EMPTY_ID  # a copy of nothing, in a damaged file
                lims[q + 1] += hits - before
                held[q] = 0
    for q in range(nq):
        lims[q + 1] += lims[q]
    distances, ids = np.full(hits, -np.inf, np.float32), np.full(hits, EMPTY_ID, np.int64)
    for i in range(hits):
        base = lims[hit_queries[i]]
        push(hit_scores[i], hit_ids[i], distances, ids, base, lims[hit_queries[i] + 1] - base)
    for q in range(nq):
        sort_heap(distances, ids, lims[q], lims[q + 1] - lims[q])
    for i in range(hits):
        distances[i] *= sign
    return able, lims, distances, ids
