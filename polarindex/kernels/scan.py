"""The scan in plain Numba: exact integer dot products of int8 levels and int8 queries, and their float epilogue."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import kernel


@kernel
def dot(levels, queries, out):
    """out[q, i] = <levels[i], queries[q]>.

    levels (n, c) int8, queries (nq, c) int8, out (nq, n) int32; c <= limits.MAX_DIMS.

    One vector, one query at a time: LLVM turns this loop into vpmaddwd (27 G multiply-adds/s on one Zen 4 core at
    784 dimensions; four queries at a time, written out, gave 14).
    """
    for q in range(queries.shape[0]):
        for i in range(levels.shape[0]):
            total = np.int32(0)
            for j in range(levels.shape[1]):
                total += np.int32(np.int32(levels[i, j]) * np.int32(queries[q, j]))
            out[q, i] = total


@kernel
def add_scores(dots, gains, scales, out):
    """out[q, i] += (float32(dots[q, i]) * gains[q]) * scales[i], each operation rounded to float32, in this order.

    out (nq, n) float32; dots int32, at least as large; gains (nq,), scales (n,) float32.
    """
    for q in range(out.shape[0]):
        gain = gains[q]
        for i in range(out.shape[1]):
            out[q, i] += np.float32(np.float32(np.float32(dots[q, i]) * gain) * scales[i])
