"""Randomized Hadamard rounds on blocks of 16 rows held transposed, so that every butterfly is one vector operation.

One round: permute and flip signs; then, window by window, apply a normalised Walsh-Hadamard transform (a fixed order
of additions) to `size` coordinates. What a window shares with the one before has its signs flipped in between: a
second transform of the same coordinates would else undo the first (a single spike came back as one at d = 1536).
Bit-identical on every machine: only gathers, +, - and one product by a constant.
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import kernel

ROWS = 16  # one AVX-512 register of float32; a (d, 16) block of d = 784 is 50 kB, inside L2


@kernel
def _transform_window(block, first, size, norm):
    half = 1
    while half < size:
        for low in range(first, first + size, 2 * half):
            for i in range(low, low + half):
                for v in range(ROWS):
                    a = block[i, v]
                    b = block[i + half, v]
                    block[i, v] = a + b
                    block[i + half, v] = a - b
        half *= 2
    for i in range(first, first + size):
        for v in range(ROWS):
            block[i, v] *= norm


@kernel
def _flip(block, signs, first, stop):
    for j in range(first, stop):
        for v in range(ROWS):
            block[j, v] *= signs[j]


@kernel
def rotate(x, order, signs, starts, size, norm, out):
    """out[i] = R x[i].

    x (n, d) float32; order (rounds, d) int64, signs (rounds, w, d) float32: coordinate j of a round's input is
    signs[0, j] * previous[order[j]], and what windows i - 1 and i share is multiplied by signs[i] between them;
    starts (w,) int64, windows of `size` coordinates; norm = 1 / sqrt(size) float32.
    """
    n, d = x.shape
    before = np.zeros((d, ROWS), np.float32)
    block = np.empty((d, ROWS), np.float32)
    for i in range(0, n, ROWS):
        m = min(ROWS, n - i)
        for v in range(m):
            for j in range(d):
                before[j, v] = x[i + v, j]
        for r in range(order.shape[0]):
            for j in range(d):
                source = order[r, j]
                sign = signs[r, 0, j]
                for v in range(ROWS):
                    block[j, v] = sign * before[source, v]
            for w in range(starts.size):
                if w > 0:
                    _flip(block, signs[r, w], starts[w], starts[w - 1] + size)
                _transform_window(block, starts[w], size, norm)
            before, block = block, before
        for v in range(m):
            for j in range(d):
                out[i + v, j] = before[j, v]


@kernel
def rotate_back(y, order, signs, starts, size, norm, out):
    """out[i] = R^T y[i]: the same rounds undone in reverse."""
    n, d = y.shape
    before = np.zeros((d, ROWS), np.float32)
    block = np.zeros((d, ROWS), np.float32)
    for i in range(0, n, ROWS):
        m = min(ROWS, n - i)
        for v in range(m):
            for j in range(d):
                block[j, v] = y[i + v, j]
        for r in range(order.shape[0] - 1, -1, -1):
            for w in range(starts.size - 1, -1, -1):
                _transform_window(block, starts[w], size, norm)
                if w > 0:
                    _flip(block, signs[r, w], starts[w], starts[w - 1] + size)
            for j in range(d):
                target = order[r, j]
                sign = signs[r, 0, j]
                for v in range(ROWS):
                    before[target, v] = sign * block[j, v]
            before, block = block, before
        for v in range(m):
            for j in range(d):
                out[i + v, j] = block[j, v]
