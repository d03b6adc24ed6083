"""Codes of `width` bits in 32-bit words, so laid that one shift and mask gives the codes of four coordinates.

A word holds 32 / width coordinates: byte t, field s (bits width*s ...) is coordinate 4 s + t of the word. Word g of
sixteen vectors side by side is a 64-byte *line*; a *panel* is the lines of 16 vectors.
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import kernel
from polarindex.kernels.lanes import load, splat, store

PANEL = 16


@kernel
def pack_block(quads, bits, words):
    """Word p W + g of 16 vectors = bit bits - 1 - p of the codes of coordinates 32 g .. 32 g + 31; at 8 bits, quads.

    quads (q, 16) uint32, a byte a code; words (w, 16) uint32, w = bits W, W = ceil(q / 8).
    """
    if bits == 8:
        for g in range(words.shape[0]):
            store(words, g, load(quads, g))
        return
    count = words.shape[0] // bits
    lowest = splat(np.uint32(0x01010101))
    for p in range(bits):
        shift = splat(np.uint32(bits - 1 - p))
        for g in range(count):
            word = splat(np.uint32(0))
            for s in range(min(8, quads.shape[0] - 8 * g)):
                word = word | (((load(quads, 8 * g + s) >> shift) & lowest) << splat(np.uint32(s)))
            store(words, p * count + g, word)


@kernel
def pack_plane(codes, shift, width, first, words):
    """words[i, first + g] = bits shift .. shift + width - 1 of the codes of coordinates g * 32 / width and on.

    codes (n, d) uint8; words (n, w) uint32. Missing coordinates of the last word are 0.
    """
    n, d = codes.shape
    fields = 8 // width
    count = (d * width + 31) // 32
    mask = np.uint32(0x01010101 * ((1 << width) - 1))
    row = np.zeros(4 * fields * count, np.uint8)
    quads = row.view(np.uint32)
    for i in range(n):
        for j in range(d):
            row[j] = codes[i, j]
        for g in range(count):
            word = np.uint32(0)
            for s in range(fields):
                quad = np.uint32(quads[g * fields + s] >> np.uint32(shift)) & mask
                word |= np.uint32(quad << np.uint32(width * s))
            words[i, first + g] = word


@kernel
def unpack_plane(words, first, count, width, quads):
    """quads[i, q] = (quads[i, q] << width) | the plane's fields of coordinates 4 q .. 4 q + 3, one a byte.

    words (n, w) uint32; quads (n, c / 4) uint32 with c >= count * 32 / width.
    """
    fields = 8 // width
    mask = np.uint32(0x01010101 * ((1 << width) - 1))
    for i in range(words.shape[0]):
        for g in range(count):
            word = words[i, first + g]
            for s in range(fields):
                quad = np.uint32((word >> np.uint32(width * s)) & mask)
                quads[i, g * fields + s] = np.uint32(quads[i, g * fields + s] << np.uint32(width)) | quad


@kernel
def codes_to_levels(codes, table, levels):
    """levels[i, j] = table[codes[i, j]]; codes (n, c) uint8, table (2^b,) int8, levels (n, c) int8."""
    for i in range(codes.shape[0]):
        for j in range(codes.shape[1]):
            levels[i, j] = table[codes[i, j]]


@kernel
def to_panels(words, start, panels):
    """Store rows words (n, w), uint32 or uint16, as vectors start, start + 1, ... of panels (p, w, 16)."""
    for i in range(words.shape[0]):
        p = (start + i) // PANEL
        v = (start + i) % PANEL
        for g in range(words.shape[1]):
            panels[p, g, v] = words[i, g]
