"""Codes of `width` bits in 32-bit words, so laid that one shift and mask gives the codes of four coordinates.

A word holds 32 / width coordinates: byte t, field s (bits width*s ...) is coordinate 4 s + t of the word. Word g of
sixteen vectors side by side is a 64-byte *line*; a *panel* is the lines of 16 vectors.
"""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import kernel

PANEL = 16


@kernel
def pack_plane(codes, shift, width, first, words):
    """words[i, first + g] = bits shift .. shift + width - 1 of the codes of coordinates g * 32 / width and on.

    codes (n, d) uint8; words (n, w) uint32. Missing coordinates of the last word are 0.
    """
    n, d = codes.shape
    per_word = 32 // width
    fields = 8 // width
    mask = (1 << width) - 1
    for i in range(n):
        for g in range((d + per_word - 1) // per_word):
            word = np.uint32(0)
            for s in range(fields):
                for t in range(4):
                    j = g * per_word + 4 * s + t
                    if j < d:
                        field = np.uint32((codes[i, j] >> shift) & mask)
                        word |= np.uint32(field << np.uint32(8 * t + width * s))
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
    """Store rows words (n, w) uint32 as vectors start, start + 1, ... of panels (p, w, 16) uint32."""
    for i in range(words.shape[0]):
        p = (start + i) // PANEL
        v = (start + i) % PANEL
        for g in range(words.shape[1]):
            panels[p, g, v] = words[i, g]
