"""The pass that finds rows their second lists: which list's loss is the least, proposed by products.

Law:       loss_j = |x - c_j|^2 + weight * <r, x - c_j>^2 / |r|^2 with r = x - c_own, a row's own list left out; where r
           is 0, so is the second term. As in clusters.py products only say which lists *may* have the least loss; among
           those, sums in float64, added in one fixed order, choose, ties to the smaller number.
How:       with u_j = c_j - c_own and p_j = <r, u_j> / |r|, loss_j = |u_j|^2 - 2 (1 + weight) |r| p_j + weight p_j^2, up
           to what is the same for all lists: two products a row and list, <r, c_j> and <c_own, c_j>."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.clusters import GROUP
from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import LANES, choose, load, splat, store


@inlined
def _sums(x, i, centroids, own, j):
    """|x_i - c_j|^2 and <x_i - c_own, x_i - c_j> in float64, each in two sums side by side."""
    d = x.shape[1]
    a, b, c, e = 0.0, 0.0, 0.0, 0.0
    for m in range(0, d - 1, 2):
        u = np.float64(x[i, m]) - np.float64(centroids[j, m])
        v = np.float64(x[i, m + 1]) - np.float64(centroids[j, m + 1])
        a += u * u
        b += v * v
        c += u * (np.float64(x[i, m]) - np.float64(centroids[own, m]))
        e += v * (np.float64(x[i, m + 1]) - np.float64(centroids[own, m + 1]))
    if d % 2:
        u = np.float64(x[i, d - 1]) - np.float64(centroids[j, d - 1])
        a += u * u
        c += u * (np.float64(x[i, d - 1]) - np.float64(centroids[own, d - 1]))
    return a + b, c + e


@kernel
def second_rows(products, frames, slacks, x, centroids, own, first, weight, found):
    """Offer lists first, first + 1, ... to each row for its second: the one of the least loss so far.

    products = (along (n, w) float32, across (m, w) float32, of (n,) int64, squares (1, w) float32), w a multiple of
        LANES: <r_i, c_j> / |r_i|; <c, c_j> of the rows' own lists' centroids, row i's being across[of[i]], and -inf for
        the list itself; |c_j|^2, infinite where there is no list. The frame is any.
    frames (3, n) float32: |r_i|, <r_i, c_own> / |r_i|, |c_own|^2; |error of a loss| <= slacks[i] / 2, slacks (n,).
    x (n, d), centroids (nlist, d) float32; own (n,) int32, the rows' own lists.
    found = (best (n,) float32: the largest -loss so far, -inf at first; numbers (n,) int32; losses and distances (n,)
        float64: the loss, inf at first, and |x - c|^2 of the list found).
    """
    along, across, of, squares = products
    best, numbers, losses, distances = found
    n, w = along.shape
    lines = w // LANES
    groups = (lines + GROUP - 1) // GROUP
    projections, inner = along.reshape(n * lines, LANES), across.reshape(across.shape[0] * lines, LANES)
    square = squares.reshape(lines, LANES)
    keys, tops = np.empty((lines, LANES), np.float32), np.empty((groups, LANES), np.float32)
    weights = splat(np.float32(weight))
    for i in range(n):
        base, row = i * lines, of[i] * lines
        slope = splat(np.float32(2 * (1 + weight)) * frames[0, i])
        start, height = splat(frames[1, i]), splat(frames[2, i])
        for g in range(groups):
            top = splat(np.float32(-np.inf))
            for line in range(g * GROUP, min(lines, g * GROUP + GROUP)):
                p, c = load(projections, base + line) - start, load(inner, row + line)
                key = (slope - weights * p) * p - ((load(square, line) + height) - (c + c))
                store(keys, line, key)
                top = choose(key >= top, key, top)
            store(tops, g, top)
        largest = best[i]
        for g in range(groups):
            for v in range(LANES):
                largest = max(largest, tops[g, v])
        best[i] = largest
        least = largest - slacks[i]
        for g in range(groups):
            for v in range(LANES):
                if tops[g, v] >= least:
                    for line in range(g * GROUP, min(lines, g * GROUP + GROUP)):
                        j = first + line * LANES + v
                        if keys[line, v] >= least and j != own[i] and j < centroids.shape[0]:
                            distance, dot = _sums(x, i, centroids, own[i], j)
                            energy = _sums(x, i, centroids, own[i], own[i])[0]
                            loss = distance + (weight * dot * dot / energy if energy > 0 else 0.0)
                            if loss < losses[i] or (loss == losses[i] and j < numbers[i]):
                                losses[i], distances[i], numbers[i] = loss, distance, j
