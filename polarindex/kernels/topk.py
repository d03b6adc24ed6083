"""The k best of a stream of scores, ties broken by the smaller id, so that the order of the stream does not matter."""

from __future__ import annotations

from polarindex.kernels.compile import inlined, kernel


@kernel
def _sift_down(scores, ids, size, score, ident):
    """Put (score, ident) at the root of a heap whose root is its worst entry, and restore the heap."""
    at = 0
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
        _sift_down(best_scores, best_ids, best_ids.size, score, ident)


@kernel
def offer(scores, count, first, ids, allowed, best_scores, best_ids):
    """Offer scores[i] of ids[first + i], i < count, to one heap, where allowed[first + i] is not 0.

    scores (>= count,) float32; ids int64; allowed uint8, or (0,) for all; best_scores (k,), best_ids (k,).
    """
    k = best_ids.size
    filtered = allowed.size > 0
    worst = best_scores[0]
    worst_id = best_ids[0]
    for i in range(count):
        score = scores[i]
        if score < worst or (filtered and allowed[first + i] == 0):
            continue
        if score > worst or ids[first + i] < worst_id:
            _sift_down(best_scores, best_ids, k, score, ids[first + i])
            worst = best_scores[0]
            worst_id = best_ids[0]


@kernel
def select(scores, ids, allowed, best_scores, best_ids):
    """Offer scores[q, i] (larger is better) of ids[i] to the k best of each query, where allowed[i] is not 0.

    scores (nq, n) float32; ids (n,) int64; allowed (n,) uint8, or (0,) for all; best_scores (nq, k) float32 and
    best_ids (nq, k) int64 are heaps with the worst entry first, empty places being -inf and the largest id.
    """
    for q in range(scores.shape[0]):
        offer(scores[q], scores.shape[1], 0, ids, allowed, best_scores[q], best_ids[q])


@kernel
def sort_rows(best_scores, best_ids):
    """Turn each heap into a list, best first (heap sort, in place)."""
    for q in range(best_scores.shape[0]):
        for size in range(best_scores.shape[1] - 1, 0, -1):
            score = best_scores[q, size]
            ident = best_ids[q, size]
            best_scores[q, size] = best_scores[q, 0]
            best_ids[q, size] = best_ids[q, 0]
            _sift_down(best_scores[q], best_ids[q], size, score, ident)
