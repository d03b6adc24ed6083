"""The k best of a stream of scores, ties broken by the smaller id, so that the order of the stream does not matter.

Heaps lie one after the other in flat arrays, or behind addresses (simd.start): a heap is its first element `base` and
its size. Handing on slices of arrays would count references, 50 ns a hit.
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.limits import EMPTY_ID


@inlined
def _sift(scores, ids, base, at, size, score, ident):
    """Put (score, ident) at place `at` of a heap whose root is its worst entry, and restore the heap below it."""
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            scores[base + other] < scores[base + child]
            or (scores[base + other] == scores[base + child] and ids[base + other] > ids[base + child])
        ):
            child = other
        if scores[base + child] < score or (scores[base + child] == score and ids[base + child] > ident):
            scores[base + at] = scores[base + child]
            ids[base + at] = ids[base + child]
            at = child
        else:
            break
    scores[base + at] = score
    ids[base + at] = ident


@inlined
def push(score, ident, scores, ids, base, k):
    """Offer one score to a heap."""
    if score > scores[base] or (score == scores[base] and ident < ids[base]):
        _sift(scores, ids, base, 0, k, score, ident)


@inlined
def ident_of(names, v):
    """The id of vector v; names = (ids int64, or (0,) where they count from base; base)."""
    return names[0][v] if names[0].size else names[1] + v


@kernel
def select(scores, ids, allowed, best_scores, best_ids):
    """Offer scores[q, i] (larger is better) of ids[i] to the k best of each query, where allowed[i] is not 0.

    scores (nq, n) float32; ids (n,) int64; allowed (n,) uint8, or (0,) for all; best_scores (nq, k) float32 and
    best_ids (nq, k) int64 are heaps with the worst entry first, empty places being -inf and the largest id.
    """
    k = best_ids.shape[1]
    keys, names = best_scores.reshape(-1), best_ids.reshape(-1)
    for q in range(scores.shape[0]):
        worst = keys[q * k]
        for i in range(scores.shape[1]):
            if scores[q, i] >= worst and (allowed.size == 0 or allowed[i]):
                push(scores[q, i], ids[i], keys, names, q * k, k)
                worst = keys[q * k]


@inlined
def sort_heap(scores, ids, base, k):
    """Turn a heap into a list, best first (heap sort, in place)."""
    for size in range(k - 1, 0, -1):
        score, ident = scores[base + size], ids[base + size]
        scores[base + size], ids[base + size] = scores[base], ids[base]
        _sift(scores, ids, base, 0, size, score, ident)


@kernel
def sort_rows(best_scores, best_ids):
    """Turn each heap, a row of (nq, k) float32 and int64, into a list, best first."""
    k = best_ids.shape[1]
    for q in range(best_scores.shape[0]):
        sort_heap(best_scores.reshape(-1), best_ids.reshape(-1), q * k, k)


@kernel
def merge_lists(lists, names, best_scores, best_ids):
    """The k best of each query's lists, best first: lists (m, nq, k) float32 and names (m, nq, k) int64 are so too.

    Empty places are -inf and the largest id; best_scores and best_ids (nq, k) are filled.
    """
    k = best_ids.shape[1]
    keys, idents = best_scores.reshape(-1), best_ids.reshape(-1)
    for q in range(best_ids.shape[0]):
        base = q * k
        for i in range(k):  # a list backwards is a heap
            keys[base + i], idents[base + i] = lists[0, q, k - 1 - i], names[0, q, k - 1 - i]
        for m in range(1, lists.shape[0]):
            for i in range(k):
                score, ident = lists[m, q, i], names[m, q, i]
                if score < keys[base] or (score == keys[base] and ident >= idents[base]):
                    break
                push(score, ident, keys, idents, base, k)
        sort_heap(keys, idents, base, k)


@kernel
def settle(keys, ids, constants, negate, distances):
    """distances[q, i] = keys[q, i] + constants[q], or constants[q] - keys[q, i] with `negate`, in float64, rounded.

    Rows are put in order of (distance, id), ascending with `negate` and else descending; ids (nq, k) int64 follow,
    -1 where there were none. keys, distances (nq, k) float32; keys are used up.
    """
    k = keys.shape[1]
    scores, names = keys.reshape(-1), ids.reshape(-1)
    sign = -1.0 if negate else 1.0
    for q in range(keys.shape[0]):
        base = q * k
        for i in range(base, base + k):
            scores[i] = np.float32(scores[i] + sign * constants[q])
        for at in range(k // 2 - 1, -1, -1):  # a heap again: rounding may have made ties, whose order is by id
            _sift(scores, names, base, at, k, scores[base + at], names[base + at])
        sort_heap(scores, names, base, k)
        for i in range(k):
            distances[q, i] = -keys[q, i] if negate else keys[q, i]
            if ids[q, i] == EMPTY_ID:
                ids[q, i] = -1


@kernel
def best_of(keys, ids, scores, keep, best_scores, best_ids):
    """The k best by (score, id) of each query's `keep` best candidates by (key, id), best first.

    keys, scores (nq, m) float32, larger is better; ids (nq, m) int64, EMPTY_ID at key -inf where there is none;
    best_scores (nq, k) float32, best_ids (nq, k) int64: where there are fewer, -inf and EMPTY_ID.
    """
    k = best_ids.shape[1]
    limits, names = np.empty(keep, np.float32), np.empty(keep, np.int64)
    found, idents = best_scores.reshape(-1), best_ids.reshape(-1)
    for q in range(keys.shape[0]):
        limits[:], names[:] = -np.inf, EMPTY_ID
        for i in range(keys.shape[1] if keep < keys.shape[1] else 0):
            push(keys[q, i], ids[q, i], limits, names, 0, keep)
        for i in range(q * k, q * k + k):
            found[i], idents[i] = -np.inf, EMPTY_ID
        for i in range(keys.shape[1]):
            if keys[q, i] > limits[0] or (keys[q, i] == limits[0] and ids[q, i] <= names[0]):
                push(scores[q, i], ids[q, i], found, idents, q * k, k)
        sort_heap(found, idents, q * k, k)
