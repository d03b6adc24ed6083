"""The passes of k-means over rows: the nearest centroid from products, and the means of clusters.

Law:       what BLAS rounds decides nothing. A product only says which centroids *may* be nearest; among those, sums of
           squares in float64, added in one fixed order, choose. The answer is that of `reference.nearest_rows`,
           whatever BLAS, block or machine made the products.
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import LANES, choose, load, splat, store

GROUP = 16  # lines a group: after one fast pass only groups with a maximum near the best are looked at again


@inlined
def _squared_distance(x, i, centroids, j):
    """|x_i - c_j|^2 in float64; four sums side by side, since one waits for each addition to end."""
    d = x.shape[1]
    a, b, c, e = 0.0, 0.0, 0.0, 0.0
    for m in range(0, d - 3, 4):
        u = np.float64(x[i, m]) - np.float64(centroids[j, m])
        v = np.float64(x[i, m + 1]) - np.float64(centroids[j, m + 1])
        w = np.float64(x[i, m + 2]) - np.float64(centroids[j, m + 2])
        z = np.float64(x[i, m + 3]) - np.float64(centroids[j, m + 3])
        a += u * u
        b += v * v
        c += w * w
        e += z * z
    for m in range(d - d % 4, d):
        u = np.float64(x[i, m]) - np.float64(centroids[j, m])
        a += u * u
    return (a + b) + (c + e)


@kernel
def nearest_rows(products, halves, slacks, x, centroids, first, best, numbers, distances):
    """Offer centroids first, first + 1, ... to each row: the nearest so far, ties to the smaller number.

    products (n, w) float32, w a multiple of LANES: <x_i, c_j> in any frame, key = products - halves, with
    halves (1, w) float32 = |c_j|^2 / 2, infinite where there is no centroid; |error of a key| <= slacks[i] / 2.
    slacks, best (n,) float32: the largest key so far, -inf at first; x (n, d), centroids (nlist, d) float32;
    numbers (n,) int32; distances (n,) float64, inf at first.
    """
    n, w = products.shape
    lines = w // LANES
    groups = (lines + GROUP - 1) // GROUP
    keys = products.reshape(n * lines, LANES)
    half = halves.reshape(lines, LANES)
    tops = np.empty((groups, LANES), np.float32)
    for i in range(n):
        base = i * lines
        highest = splat(np.float32(-np.inf))
        for g in range(groups):
            top = splat(np.float32(-np.inf))
            for line in range(g * GROUP, min(lines, g * GROUP + GROUP)):
                key = load(keys, base + line) - load(half, line)
                top = choose(key >= top, key, top)
            store(tops, g, top)
            highest = choose(top >= highest, top, highest)
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
                        if keys[base + line, v] - half[line, v] >= least:
                            j = first + line * LANES + v
                            distance = _squared_distance(x, i, centroids, j)
                            if distance < distances[i] or (distance == distances[i] and j < numbers[i]):
                                distances[i] = distance
                                numbers[i] = j


@kernel
def group_rows(numbers, starts, order):
    """Row numbers cluster by cluster, ascending in each: order[starts[j] : starts[j + 1]] are the rows of cluster j.

    numbers (n,) int32 under nlist; starts (nlist + 1,) int64; order (n,) int64.
    """
    starts[:] = 0
    for i in range(numbers.size):
        starts[numbers[i] + 1] += 1
    for j in range(starts.size - 1):
        starts[j + 1] += starts[j]
    places = starts.copy()
    for i in range(numbers.size):
        order[places[numbers[i]]] = i
        places[numbers[i]] += 1


@kernel
def mean_rows(x, starts, order, first, last, out):
    """out[j] = the mean of the rows order[starts[j] : starts[j + 1]] of x, for first <= j < last; kept where none is.

    Summed in float64, one row after the other. x (n, d), out (nlist, d) float32; starts, order as of `group_rows`.
    """
    d = x.shape[1]
    sums = np.empty(d, np.float64)
    for j in range(first, last):
        size = starts[j + 1] - starts[j]
        if size == 0:
            continue
        sums[:] = 0.0
        for r in range(starts[j], starts[j + 1]):
            i = order[r]
            for m in range(d):
                sums[m] += x[i, m]
        for m in range(d):
            out[j, m] = np.float32(sums[m] / size)
