"""Codes of unlike widths, one row a vector: field after field in a little-endian stream of bits, 32-bit words."""

from __future__ import annotations

import numpy as np

from polarindex.kernels.compile import kernel


@kernel
def pack_fields(codes, widths, words):
    """Row i of words is the concatenation of the low widths[j] bits of codes[i, j], lowest bit first.

    codes (n, f) uint16; widths (f,) int64 in 0 .. 16; words (n, ceil(sum(widths) / 32)) uint32.
    """
    for i in range(codes.shape[0]):
        word = np.uint64(0)
        filled = 0
        at = 0
        for j in range(codes.shape[1]):
            code = np.uint64(codes[i, j]) & np.uint64((1 << widths[j]) - 1)
            word |= code << np.uint64(filled)
            filled += widths[j]
            if filled >= 32:
                words[i, at] = np.uint32(word & np.uint64(0xFFFFFFFF))
                word >>= np.uint64(32)
                filled -= 32
                at += 1
        if filled > 0:
            words[i, at] = np.uint32(word)


@kernel
def unpack_fields(words, widths, codes):
    """The inverse of pack_fields: codes (n, f) uint16."""
    for i in range(words.shape[0]):
        word = np.uint64(0)
        held = 0
        at = 0
        for j in range(codes.shape[1]):
            width = widths[j]
            if held < width:
                word |= np.uint64(words[i, at]) << np.uint64(held)
                held += 32
                at += 1
            codes[i, j] = np.uint16(word & np.uint64((1 << width) - 1))
            word >>= np.uint64(width)
            held -= width
