"""Scale and shift of a row in one word, as the two float32 that scans take.

    a word     level t in its lowest LEVEL_BITS bits, two's complement; s in the 18 others
    scale      the float32 whose sign is 0, whose next 18 bits are s and whose others are 0
    shift      scale * ((across + own * scale) * (t |t|) + core * scale)

Law:       each operation is rounded to float32, in this order: the same bits on every machine.
Why here:  a block of words becomes floats before the scan that reads them, so no scan knows of words.
Not here:  how words are chosen, and the three numbers of the law (indexes/factors.py)."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import LANES, bits_as_floats, choose, low_as_floats, put_at, splat, words_at
from polarindex.kernels.limits import LEVEL_BITS
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
