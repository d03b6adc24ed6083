"""Scales and shift of a row that share words, as scans take them: one scale and its shift in a word of 32 bits, as
two float32; and those of segments.

    a word     level t in its lowest LEVEL_BITS bits, two's complement; s in the 18 others
    scale      the float32 whose sign is 0, whose next 18 bits are s and whose others are 0
    shift      scale * ((across + own * scale) * (t |t|) + core * scale)

    halves     of 16 bits, a stream of fields, the first lowest: level t in 8 bits, and 12 bits of each segment's scale
    scale      the float32 whose sign is 0, whose next 12 bits are those and whose others are 0; its upper half
    shift      base - factor * (energy * ratio),  energy the sum over segments, in their order, of
               energies_s * (scale_s * scale_s),  ratio = (1 + step |t|) + (|t| / KNEE)^16 or of t < 0 one over that

Law:       each operation is rounded to float32, in this order: the same bits on every machine.
Why here:  a block of words becomes floats before the scan that reads them, so no scan knows of words.
Not here:  how words are chosen, and the numbers of the laws (indexes/factors.py, indexes/segment_factors.py)."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import (
    LANES,
    bits_as_floats,
    choose,
    halves_at,
    low_as_floats,
    put_at,
    put_halves_at,
    splat,
    words_at,
)
from polarindex.kernels.limits import KNEE, LEVEL_BITS
from polarindex.kernels.simd import start

_SCALE = np.uint32(0x7FFFFFFF >> LEVEL_BITS - 1 << LEVEL_BITS - 1)  # of a word that is moved by one bit


@inlined
def put_factors(words, at, law, out, first, second):
    """Write the scales of 16 words from element `at` on to out[first ..], the shifts to out[second ..]; addresses."""
    word = words_at(words, at)
    scale = bits_as_floats(word >> splat(np.uint32(1)) & splat(_SCALE))
    level = low_as_floats(word, LEVEL_BITS)
    square, nothing = level * level, splat(np.float32(0))
    signed = choose(level >= nothing, square, nothing - square)
    steps = splat(law[0]) + splat(law[1]) * scale
    put_at(out, first, scale)
    put_at(out, second, scale * (steps * signed + splat(law[2]) * scale))


@kernel
def expand_factors(words, law, out):
    """out (2, n) float32: scales and shifts of words (n,) uint32, n a multiple of 16; law = (across, own, core)."""
    stored, numbers, where = start(words), start(law), start(out)
    for i in range(0, words.size, LANES):
        put_factors(stored, i, numbers, where, i, words.size + i)


@inlined
def put_segment_factors(halves, first, energies, law, scales, at, shifts, place):
    """Write the scales of 16 rows, whose halves begin at halves[first], from scales[at] on, and the shifts from
    shifts[place] on; addresses."""
    energy, one, nothing = splat(np.float32(0)), splat(np.float32(1)), splat(np.float32(0))
    for s in range(energies.size):
        half, low = divmod(8 + 12 * s, 16)
        field = halves_at(halves, first + LANES * half)
        if low > 4:
            field = field | halves_at(halves, first + LANES * (half + 1)) << splat(np.uint32(16))
        field = field >> splat(np.uint32(low)) & splat(np.uint32(0xFFF))
        put_halves_at(scales, at + LANES * s, field << splat(np.uint32(3)))
        scale = bits_as_floats(field << splat(np.uint32(19)))
        energy = energy + splat(energies[s]) * (scale * scale)
    level = low_as_floats(halves_at(halves, first), 8)
    size = choose(level >= nothing, level, nothing - level)
    far = size * splat(np.float32(1 / KNEE))
    for _ in range(4):
        far = far * far
    above = one + splat(law[0]) * size + far
    ratio = choose(level >= nothing, above, one / above)
    put_at(shifts, place, splat(law[1]) - splat(law[2]) * (energy * ratio))


@kernel
def expand_segment_factors(halves, energies, law, scales, shifts):
    """scales (p, s, 16) uint16, upper halves, and shifts (16 p,) float32 of panels halves (p, h, 16) uint16.

    energies (s,) and law = (step, base, factor) float32
    """
    stored, numbers, written, where = start(halves), start(law), start(scales), start(shifts)
    count, long = energies.size, LANES * halves.shape[1]
    for p in range(len(halves)):
        put_segment_factors(stored, long * p, energies, numbers, written, LANES * count * p, where, LANES * p)
