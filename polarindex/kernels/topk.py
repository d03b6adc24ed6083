"""The k best of a stream of scores, ties broken by the smaller id, so that the order of the stream does not matter."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.limits import EMPTY_ID


@kernel
def _sift(scores, ids, at, size, score, ident):
    """Put (score, ident) at place `at` of a heap whose root is its worst entry, and restore the heap below it."""
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            scores[other] < scores[child] or (scores[other] == scores[child] and ids[other] > ids[child])
        ):
            child = other
        if scores[child] < score or (scores[child] == score and ids[child] > ident):
            scores[at] = scores[child]
            ids[at] = ids[child]
            at = child
        else:
            break
    scores[at] = score
    ids[at] = ident


@inlined
def push(score, ident, best_scores, best_ids):
    """Offer one score to a heap."""
    if score > best_scores[0] or (score == best_scores[0] and ident < best_ids[0]):
        _sift(best_scores, best_ids, 0, best_ids.size, score, ident)


@inlined
def ident_of(names, v):
    """The id of vector v; names = (ids int64, or (0,) where they count from base; base)."""
    return names[0][v] if names[0].size else names[1] + v


@kernel
def offer(scores, count, first, names, allowed, best_scores, best_ids):
    """Offer scores[i] of vector first + i, i < count, to one heap, where allowed[first + i] is not 0.

    scores (>= count,) float32; names as in ident_of; allowed uint8, or (0,) for all; best_scores, best_ids (k,).
    """
    k = best_ids.size
    filtered = allowed.size > 0
    worst = best_scores[0]
    worst_id = best_ids[0]
    for i in range(count):
        score = scores[i]
        if score < worst or (filtered and allowed[first + i] == 0):
            continue
        ident = ident_of(names, first + i)
        if score > worst or ident < worst_id:
            _sift(best_scores, best_ids, 0, k, score, ident)
            worst = best_scores[0]
            worst_id = best_ids[0]


@kernel
def select(scores, ids, allowed, best_scores, best_ids):
    """Offer scores[q, i] (larger is better) of ids[i] to the k best of each query, where allowed[i] is not 0.

    scores (nq, n) float32; ids (n,) int64; allowed (n,) uint8, or (0,) for all; best_scores (nq, k) float32 and
    best_ids (nq, k) int64 are heaps with the worst entry first, empty places being -inf and the largest id.
    """
    for q in range(scores.shape[0]):
        offer(scores[q], scores.shape[1], 0, (ids, 0), allowed, best_scores[q], best_ids[q])


@kernel
def sort_rows(best_scores, best_ids):
    """Turn each heap into a list, best first (heap sort, in place)."""
    for q in range(best_scores.shape[0]):
        for size in range(best_scores.shape[1] - 1, 0, -1):
            score = best_scores[q, size]
            ident = best_ids[q, size]
            best_scores[q, size] = best_scores[q, 0]
            best_ids[q, size] = best_ids[q, 0]
            _sift(best_scores[q], best_ids[q], 0, size, score, ident)


@kernel
def settle(keys, ids, constants, negate, distances):
    """distances[q, i] = keys[q, i] + constants[q], or constants[q] - keys[q, i] with `negate`, in float64, rounded.

    Rows are put in order of (distance, id), ascending with `negate` and else descending; ids (nq, k) int64 follow,
    -1 where there were none. keys, distances (nq, k) float32; keys are used up.
    """
    k = keys.shape[1]
    for q in range(keys.shape[0]):
        sign = -1.0 if negate else 1.0
        for i in range(k):
            keys[q, i] = np.float32(keys[q, i] + sign * constants[q])
        for at in range(k // 2 - 1, -1, -1):  # a heap again: rounding may have made ties, whose order is by id
            _sift(keys[q], ids[q], at, k, keys[q, at], ids[q, at])
    sort_rows(keys, ids)
    for q in range(keys.shape[0]):
        for i in range(k):
            distances[q, i] = -keys[q, i] if negate else keys[q, i]
            if ids[q, i] == EMPTY_ID:
                ids[q, i] = -1
