"""What segments that are not read yet may add to a key: of a query, and of a row.

Law:       what segments after s add is <x, q> of what a row and a query have there, at most |x| |q| (Cauchy-Schwarz).
           |q| is `reach`, of a query's integers; |x| is at most the root of the sum of (scale * longest levels)^2.
Rounding:  `SLACK` is for what float32 rounds: bounds are of exactly what scans compute."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import floats_at, put_at, root, splat, upper_halves_at
from polarindex.kernels.weave import PANEL

SLACK = 2.0**-21  # of a limit and of what the rest can add, for each segment: twice what sums of float32 lose
_LEAST = np.float32(1e-36)  # added to squared lengths: what squares of less than 1e-19 lose to 0


@inlined
def widened(halves, first, count, floats):
    """floats[i] of 16 `count` upper halves from halves[first] on."""
    for i in range(0, count * PANEL, PANEL):
        put_at(floats, i, upper_halves_at(halves, first + i))


@inlined
def squares_after(scales, longest, first, count, squares):
    """At least what rows have of |x|^2 in all segments after each from `first` on, squares[s * PANEL + v]; what is at
    the last is left as it is: 0."""
    sums = splat(np.float32(0))
    for s in range(count - 2, first - 1, -1):
        own = floats_at(scales, (s + 1) * PANEL) * splat(longest[s + 1])
        sums = sums + (own * own + splat(_LEAST))
        put_at(squares, s * PANEL, sums)


@inlined
def lengths_after(scales, longest, head, count, lengths):
    """What rows' segments after each behind the head have at most, lengths[s * PANEL + v]; 0 after the last."""
    squares_after(scales, longest, head, count, lengths)
    for s in range(head, count - 1):
        put_at(lengths, s * PANEL, root(floats_at(lengths, s * PANEL)))


@inlined
def length_from(halves, at, longest, first, count):
    """At least what 16 rows have of |x| in segments `first` to count - 1; halves: of scales, from `at` on."""
    sums = splat(np.float32(0))
    for s in range(first, count):
        own = upper_halves_at(halves, at + s * PANEL) * splat(longest[s])
        sums = sums + (own * own + splat(_LEAST))
    return root(sums)


@inlined
def reach_after(energies, reaches):
    """reaches[s, q] float32 >= the root of what energies (s, nq) float64 have after s; 0 after the last."""
    stages, nq = energies.shape
    for q in range(nq):
        after = 0.0
        for s in range(stages - 1, -1, -1):
            reaches[s, q] = np.sqrt(after) * (1 + 4 * stages * SLACK)
            after += energies[s, q]


@kernel
def ask_segments(levels, sizes, gains, parts, asked, sums, reaches):
    """Queries as scan_segments takes them; those that fill up the last tile are zeros.

    levels (nq sum(sizes),) int8, segment after segment (nq, size); gains (s, held) float32; parts as in scan_segments.
    asked (held, m) int32, a quad a line; sums (s, held) int32, of a query's bytes; reaches (s, held) float32, at least
        the root of the sum of (gain |levels|)^2 of all segments after s; 0 after the last.
    """
    stages, held = gains.shape
    width, first, total_size = 4 * asked.shape[1], 0, 0
    for s in range(stages):
        total_size += sizes[s]
    nq = levels.size // total_size
    quads, energies = asked.view(np.int8).reshape(-1), np.zeros((stages, held))
    quads[:] = 0
    sums[:] = 0
    for s in range(stages):
        for q in range(nq):
            at, total, square = q * width + 4 * parts[s, 3], 0, 0
            for j in range(sizes[s]):
                level = np.int32(levels[first + j])
                quads[at + j] = levels[first + j]
                total += level
                square += level * level
            sums[s, q] = total
            energies[s, q] = np.float64(square) * np.float64(gains[s, q]) * np.float64(gains[s, q])
            first += sizes[s]
    reach_after(energies, reaches)
