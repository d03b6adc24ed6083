"""The encoder of trellis codes: of all rings of bits, the one whose windows' levels are nearest to a row.

Coordinate j's level is that of a window of 8 bits, which begins `bits` further on in the ring than that of coordinate
j - 1. Viterbi's algorithm goes from the last coordinate to the first: the cost of a window is the least squared error
of the coordinates from its own on. A window's successors share its upper bits, so that a step takes the least of
2^bits costs, which is `bits` rounds of the lesser of two halves, and gives it to 2^bits windows.

Law:       the rings of reference.encode_trellis, bit for bit, on every machine; ties go to the lower half, in each
           round. Costs are float32, each operation rounded.
Ring:      where the last window reaches over the end of the ring, its last bits are the first window's first. These
           are chosen as the best for SPAN coordinates on both sides of the seam, and then given: the error is the
           least among rings that have them. Of rows of 128 coordinates at 1 bit the error is .3 % above that of a seam
           chosen by all coordinates; with bits that are always the same it would be 4 % above.
How:       costs are 16 registers of 16 (costs.py), which stay registers from step to step; what a step chose is a bit
           a pair."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.costs import bits_of, choices_of, first_costs, next_costs, put_costs, window_of
from polarindex.kernels.simd import keep, start

SPAN = 48  # coordinates on each side of the seam
_NEVER = np.float32(1e30)


@inlined
def _mirrored(window, bits):
    """The window's bits in the opposite order."""
    found = 0
    for bit in range(bits):
        found |= (window >> bit & 1) << (bits - 1 - bit)
    return found


@inlined
def _agreed(step, overlap, z, d, book, backwards, mirror, choices, room):
    """The `overlap` bits that the first and the last window share: the best for the SPAN coordinates on both sides.

    book, backwards: addresses of the levels by window, and by the window's bits in the opposite order, mirror[window],
    for a step from the first coordinate to the last is one from the last to the first of the ring read backwards.
    room (2, 2 states) float32.
    """
    after, before = room[0], room[1]
    after[:] = 0
    before[:] = 0
    states, span, first, last = len(mirror), min(SPAN, d), start(after), start(before)
    costs = first_costs(step, first, z[span - 1], book)
    for j in range(span - 2, -1, -1):
        costs = next_costs(step, costs, choices, 0, z[j], book)
    put_costs(step, costs, first)
    costs = first_costs(step, last, z[d - span], backwards)
    for j in range(d - span + 1, d):
        costs = next_costs(step, costs, choices, 0, z[j], backwards)
    put_costs(step, costs, last)
    shared, above = 1 << overlap, window_of(step) - overlap
    best, agreed = np.float32(np.inf), 0
    for bits in range(shared):
        low = high = np.float32(np.inf)
        for other in range(states >> overlap):
            low = min(low, after[other << overlap | bits])
            high = min(high, before[mirror[bits << above | other]])
        if low + high < best:
            best, agreed = low + high, bits
    return agreed


@inlined
def _put_field(words, i, at, value, count):
    """Bits at, at + 1, ... of row i of words become the lowest `count` bits of value; they were 0."""
    word, shift = at // 32, at % 32
    field = np.uint64(value & ((1 << count) - 1)) << np.uint64(shift)
    words[i, word] |= np.uint32(field & np.uint64(0xFFFFFFFF))
    if shift + count > 32 and word + 1 < words.shape[1]:
        words[i, word + 1] |= np.uint32(field >> np.uint64(32))


@kernel
def encode_trellis(step, y, gains, levels, words, dots):
    """words[i] = the ring for gains[i] * y[i] and the levels of windows; dots[i] = <y[i], levels>.

    step: a tag, the bits of a coordinate, 1 to 4, and of a window; y (n, d) float32; gains (n,) float64, for those of
    subnormal rows are beyond float32; levels (2^window,) float32; words (n, w) uint32, w = ceil(d bits / 32): bit t of
    the ring is bit t % 32 of word t // 32; dots (n,) float64, added in the order of coordinates.
    """
    n, d = y.shape
    bits, length, width = bits_of(step), window_of(step), choices_of(step)
    states, ring = 1 << length, 32 * words.shape[1]
    overlap = max(0, length - bits - (ring - d * bits))
    mirror, opposite = np.empty(states, np.uint16), np.empty(states, np.float32)
    for window in range(states):
        mirror[window] = _mirrored(window, length)
        opposite[mirror[window]] = levels[window]
    z, chosen = np.empty(d, np.float32), np.empty((d, width), np.uint16)
    room, costs_room = np.empty((2, 2 * states), np.float32), np.empty(2 * states, np.float32)
    book, backwards, choices, held = start(levels), start(opposite), start(chosen), start(costs_room)
    for i in range(n):
        for j in range(d):
            z[j] = np.float32(gains[i] * np.float64(y[i, j]))
        agreed = _agreed(step, overlap, z, d, book, backwards, mirror, choices, room) if overlap else 0
        for window in range(states):
            costs_room[window] = 0 if window >> (length - overlap) == agreed else _NEVER
        costs = first_costs(step, held, z[d - 1], book)
        for j in range(d - 2, -1, -1):
            costs = next_costs(step, costs, choices, j * width, z[j], book)
        put_costs(step, costs, held)
        window = agreed
        for other in range(agreed, states, 1 << overlap):
            if costs_room[other] < costs_room[window]:
                window = other
        words[i] = 0
        dot = 0.0
        for j in range(d):
            dot += np.float64(y[i, j]) * np.float64(levels[window])
            if j == d - 1:
                break
            _put_field(words, i, j * bits, window, bits)
            window >>= bits
            for r in range(bits - 1, -1, -1):
                word = width - (width >> r) + window // 16
                window += (np.int64(chosen[j, word]) >> window % 16 & 1) << (length - 1 - r)
        _put_field(words, i, (d - 1) * bits, window, min(length, ring - (d - 1) * bits))
        dots[i] = dot
    keep(opposite)
    keep(chosen)
    keep(costs_room)
    keep(room)
