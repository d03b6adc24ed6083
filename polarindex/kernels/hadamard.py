"""Randomized Hadamard rounds on blocks of 16 rows held transposed, so that every butterfly is one vector operation.

One round: permute and flip signs; then, window by window, apply a normalised Walsh-Hadamard transform (a fixed order
of additions) to `size` coordinates. What a window shares with the one before has its signs flipped in between: a
second transform of the same coordinates would else undo the first (a single spike came back as one at d = 1536).
Bit-identical on every machine: only gathers, +, - and one product by a constant.
Speed:     butterflies of up to four levels are done in registers, and those of 256 lines (16 kB, half of L1) at a time,
           so that a window of 1,024 coordinates makes one trip to L2 for the first eight levels and one for the rest.
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import butterflies, floats_at, load, moved, put_at, splat, store, transpose
from polarindex.kernels.simd import keep, start

ROWS = 16  # lanes; a (d, 16) block of d = 1536 is 98 kB, and two of them are inside L2
NEAR = 256  # lines


@kernel
def load_rows(x, i, block):
    """block[j, v] = x[i + v, j]; 0 for rows beyond the last. x (n, d) 4-byte values, block (>= d, 16)."""
    n, d = x.shape
    tiles = d - d % ROWS if i + ROWS <= n else 0
    for j in range(0, tiles, ROWS):
        transpose(x, i, j, block, j, 0)
    for v in range(ROWS):
        for j in range(tiles, d):
            block[j, v] = x[i + v, j] if i + v < n else 0


@kernel
def store_rows(block, i, out):
    """out[i + v, j] = block[j, v], for the rows that out (n, d) has."""
    n, d = out.shape
    tiles = d - d % ROWS if i + ROWS <= n else 0
    for j in range(0, tiles, ROWS):
        transpose(block, j, 0, out, i, j)
    for v in range(min(ROWS, n - i)):
        for j in range(tiles, d):
            out[i + v, j] = block[j, v]


# --- butterflies: (a, b) -> (a + b, a - b) at distance 1, 2, 4, ... of their 2, 4, 8 or 16 arguments


@kernel
def _two(a, b):
    return a + b, a - b


@kernel
def _four(a, b, c, d):
    a, b = _two(a, b)
    c, d = _two(c, d)
    return a + c, b + d, a - c, b - d


@kernel
def _eight(a, b, c, d, e, f, g, h):
    a, b, c, d = _four(a, b, c, d)
    e, f, g, h = _four(e, f, g, h)
    return a + e, b + f, c + g, d + h, a - e, b - f, c - g, d - h


@kernel
def _sixteen(a, b):
    a0, a1, a2, a3, a4, a5, a6, a7 = _eight(*a)
    b0, b1, b2, b3, b4, b5, b6, b7 = _eight(*b)
    sums = a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5, a6 + b6, a7 + b7
    return sums, (a0 - b0, a1 - b1, a2 - b2, a3 - b3, a4 - b4, a5 - b5, a6 - b6, a7 - b7)


@kernel
def _load_eight(block, i, step):
    return (
        load(block, i),
        load(block, i + step),
        load(block, i + 2 * step),
        load(block, i + 3 * step),
        load(block, i + 4 * step),
        load(block, i + 5 * step),
        load(block, i + 6 * step),
        load(block, i + 7 * step),
    )


@kernel
def _store_eight(block, i, step, lines, scale):
    a, b, c, d, e, f, g, h = lines
    store(block, i, a * scale)
    store(block, i + step, b * scale)
    store(block, i + 2 * step, c * scale)
    store(block, i + 3 * step, d * scale)
    store(block, i + 4 * step, e * scale)
    store(block, i + 5 * step, f * scale)
    store(block, i + 6 * step, g * scale)
    store(block, i + 7 * step, h * scale)


@kernel
def _signed(before, order, signs, j):
    return load(before, order[j]) * splat(signs[j])


@kernel
def _signed_eight(before, order, signs, j):
    return (
        _signed(before, order, signs, j),
        _signed(before, order, signs, j + 1),
        _signed(before, order, signs, j + 2),
        _signed(before, order, signs, j + 3),
        _signed(before, order, signs, j + 4),
        _signed(before, order, signs, j + 5),
        _signed(before, order, signs, j + 6),
        _signed(before, order, signs, j + 7),
    )


# --- windows


@kernel
def _gather(before, order, signs, block, first, stop, scale):
    """block[j] = signs[j] * before[order[j]] for first <= j < stop, and the first levels of its transform.

    Returns how far apart the next level's pairs are: 16 if stop - first is a multiple of 16, else 1.
    """
    if (stop - first) % 16:
        for j in range(first, stop):
            store(block, j, _signed(before, order, signs, j))
        return 1
    for j in range(first, stop, 16):
        low, high = _sixteen(_signed_eight(before, order, signs, j), _signed_eight(before, order, signs, j + 8))
        _store_eight(block, j, 1, low, scale)
        _store_eight(block, j + 8, 1, high, scale)
    return 16


@kernel
def _levels(block, first, stop, half, count, scale):
    """The levels of distance half, 2 half, ... count / 2 half on all lines; count 2, 4, 8 or 16."""
    for low in range(first, stop, count * half):
        for i in range(low, low + half):
            if count == 16:
                lines, others = _sixteen(_load_eight(block, i, half), _load_eight(block, i + 8 * half, half))
                _store_eight(block, i, half, lines, scale)
                _store_eight(block, i + 8 * half, half, others, scale)
            elif count == 8:
                _store_eight(block, i, half, _eight(*_load_eight(block, i, half)), scale)
            elif count == 4:
                a, b, c, d = _four(
                    load(block, i), load(block, i + half), load(block, i + 2 * half), load(block, i + 3 * half)
                )
                store(block, i, a * scale)
                store(block, i + half, b * scale)
                store(block, i + 2 * half, c * scale)
                store(block, i + 3 * half, d * scale)
            else:
                a, b = _two(load(block, i), load(block, i + half))
                store(block, i, a * scale)
                store(block, i + half, b * scale)


@kernel
def _transform(before, order, signs, block, first, size, norm):
    """Lines first .. first + size - 1 of block: H / sqrt(size) of signs[j] * before[order[j]].

    `before` may be block itself where order[j] = j.
    """
    if size == 1:
        store(block, first, _signed(before, order, signs, first) * splat(norm))
        return
    one, last = splat(np.float32(1)), splat(norm)
    near = min(size, NEAR)
    half = 1
    for low in range(first, first + size, near):
        half = _gather(before, order, signs, block, low, low + near, last if size == 16 else one)
        while half < near:
            count = min(16, near // half)
            _levels(block, low, low + near, half, count, last if half * count == size else one)
            half *= count
    while half < size:
        count = min(16, size // half)
        _levels(block, first, first + size, half, count, last if half * count == size else one)
        half *= count


@kernel
def flips_of(signs, starts, size):
    """signs (rounds, w, d) with 1 where window i shares nothing with window i - 1."""
    rounds, windows, d = signs.shape
    flips = np.empty((rounds, windows, d), np.float32)
    for r in range(rounds):
        for w in range(windows):
            for j in range(d):
                shared = w == 0 or starts[w] <= j < starts[w - 1] + size
                flips[r, w, j] = signs[r, w, j] if shared else np.float32(1)
    return flips


@kernel
def rotate_block(before, block, order, flips, starts, size, norm):
    """All rounds of the rotation of a block (d, 16); returns that of the two in which the result is."""
    d = order.shape[1]
    same = np.arange(d)
    for r in range(order.shape[0]):
        for j in range(starts[0] + size, d):
            store(block, j, _signed(before, order[r], flips[r, 0], j))
        _transform(before, order[r], flips[r, 0], block, starts[0], size, norm)
        for w in range(1, starts.size):
            _transform(block, same, flips[r, w], block, starts[w], size, norm)
        before, block = block, before
    return before


@inlined
def _transform_row(at, size, norm):
    """H / sqrt(size) of the row of size >= 16 elements at an address; the sums of _transform, in its order."""
    scale = splat(norm)
    if size == ROWS:
        put_at(at, 0, butterflies(floats_at(at, 0)) * scale)
        return
    for j in range(0, size, ROWS):
        put_at(at, j, butterflies(floats_at(at, j)))
    half = ROWS
    while half < size:
        last = 2 * half == size
        for low in range(0, size, 2 * half):
            for j in range(low, low + half, ROWS):
                a, b = floats_at(at, j), floats_at(at, j + half)
                total, difference = a + b, a - b
                put_at(at, j, total * scale if last else total)
                put_at(at, j + half, difference * scale if last else difference)
        half *= 2


@kernel
def rotate_rows(x, order, flips, starts, size, norm, out):
    """`rotate`, bit for bit, along each row: for fewer rows than there are lanes. size >= 16; flips from flips_of."""
    n, d = x.shape
    rounds, windows = flips.shape[:2]
    room = np.empty(2 * d, np.float32)
    signs, rows, results = start(flips), start(x), start(out)
    for i in range(n):
        before = moved(rows, i * d)
        for r in range(rounds):
            after = moved(results, i * d) if r == rounds - 1 else moved(start(room), r % 2 * d)
            for j in range(d):
                after[j] = signs[r * windows * d + j] * before[order[r, j]]
            _transform_row(moved(after, starts[0]), size, norm)
            for w in range(1, windows):
                window, flip = moved(after, starts[w]), moved(signs, (r * windows + w) * d + starts[w])
                for j in range(0, size, ROWS):
                    put_at(window, j, floats_at(window, j) * floats_at(flip, j))
                _transform_row(window, size, norm)
            before = after
        if rounds == 0:
            for j in range(d):
                out[i, j] = x[i, j]
    keep(room)


@kernel
def rotate(x, order, signs, starts, size, norm, out):
    """out[i] = R x[i].

    x (n, d) float32; order (rounds, d) int64, signs (rounds, w, d) float32: coordinate j of a round's input is
    signs[0, j] * previous[order[j]], and what windows i - 1 and i share is multiplied by signs[i] between them;
    starts (w,) int64, windows of `size` coordinates; norm = 1 / sqrt(size) float32.
    """
    n, d = x.shape
    before = np.empty((d, ROWS), np.float32)
    block = np.empty((d, ROWS), np.float32)
    flips = flips_of(signs, starts, size)
    for i in range(0, n, ROWS):
        load_rows(x, i, before)
        store_rows(rotate_block(before, block, order, flips, starts, size, norm), i, out)


@kernel
def rotate_back(y, order, signs, starts, size, norm, out):
    """out[i] = R^T y[i]: the same rounds undone in reverse."""
    n, d = y.shape
    before = np.empty((d, ROWS), np.float32)
    block = np.empty((d, ROWS), np.float32)
    same, plain = np.arange(d), np.ones(d, np.float32)
    flips = flips_of(signs, starts, size)
    for i in range(0, n, ROWS):
        load_rows(y, i, block)
        for r in range(order.shape[0] - 1, -1, -1):
            for w in range(starts.size - 1, -1, -1):
                _transform(block, same, plain, block, starts[w], size, norm)
                if w > 0:
                    for j in range(starts[w], starts[w - 1] + size):
                        store(block, j, load(block, j) * splat(flips[r, w, j]))
            for j in range(d):
                store(before, order[r, j], load(block, j) * splat(flips[r, 0, j]))
            before, block = block, before
        store_rows(block, i, out)
