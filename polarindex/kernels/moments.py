"""One pass over rows before they are coded: how large they are, and the sums of which a centre is made."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import kernel
from polarindex.kernels.hadamard import ROWS, load_rows, store_rows
from polarindex.kernels.lanes import load, narrow, root, splat, store, widen

MAGNITUDE = np.uint32(0x7FFFFFFF)  # all bits but the sign: as integers they are ordered like absolute values


@kernel
def peak(x):
    """The largest |x[i, j]|; x (n, d) float32 without NaN; 0 without rows."""
    bits = x.reshape(-1).view(np.uint32)
    largest = np.zeros(1, np.uint32)
    for j in range(bits.size):
        largest[0] = max(largest[0], bits[j] & MAGNITUDE)
    return largest.view(np.float32)[0]


@kernel
def add_moments(x, sums, squares):
    """sums[j] += sum_i x[i, j], squares[j] += sum_i x[i, j]^2, in float64 and row by row.

    x (n, d) float32; sums, squares (d,) float64.
    """
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            value = np.float64(x[i, j])
            sums[j] += value
            squares[j] += value * value


@kernel
def normalise(x, out, norms2):
    """norms2[i] = |x_i|^2 in float64, one term after the other; out[i] = x_i / |x_i|, rounded to float32 once.

    x, out (n, d) float32; norms2 (n,) float64.
    """
    n, d = x.shape
    block = np.empty((d, ROWS), np.float32)
    totals = np.empty((1, ROWS), np.float64)
    for i in range(0, n, ROWS):
        load_rows(x, i, block)
        squares = splat(0.0)
        for j in range(d):
            value = widen(load(block, j))
            squares = squares + value * value
        norms = root(squares)
        for j in range(d):
            store(block, j, narrow(widen(load(block, j)) / norms))
        store_rows(block, i, out)
        store(totals, 0, squares)
        for v in range(min(ROWS, n - i)):
            norms2[i + v] = totals[0, v]
