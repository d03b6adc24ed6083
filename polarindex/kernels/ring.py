"""Trellis codes in the scan: a row is a ring of bits, and the level of coordinate j that of its window, by one byte.

A window of 8 bits is its own byte; one of 12, w, is folded: (w & 255) ^ mix[w >> 6]. The tag says which. What levels
are looked up by is a book, int8:

    [0]             256 levels, by windows' bytes
    [BOOK_MIX]      64 bytes by which windows of 12 bits are folded
    [BOOK_BITS]     bits of a coordinate
    [BOOK_PAIRS]    of sets without wide_tables two biased levels, the second in the upper byte of 16 bits, for every
                    window and the bits of a coordinate after it

Law:       bytes are those of reference.unpack_ring; keys and their order those of codes_to_levels, dot, add_scores
           and select, bit for bit, on every instruction set.
How:       with VPMULTISHIFTQB a word and the next make eight windows of one vector in one instruction, and two
           VPERMI2B and a choice look up 64 of 256 levels: 7 instructions a line, where planes of 4 bits take 4.4; to
           fold takes 3 more, of which VPERMB is one, for it looks 64 bytes up by the lowest 6 bits of each. Other sets
           look up two levels at a time in memory, by windows. A batch decodes a panel once."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.limits import BOOK_BITS, BOOK_MIX, BOOK_PAIRS
from polarindex.kernels.lines import any_allowed, dot_levels, offer_keys
from polarindex.kernels.simd import (
    I16,
    I32,
    I64,
    Register,
    call,
    every,
    keep,
    lanes_of,
    on_line,
    pointer,
    rows_of,
    start,
    store,
    tile_add,
    tile_dot4,
    tile_start,
    tile_zero,
    vector,
    window_of,
)
from polarindex.kernels.weave import PANEL, wide_tables

I8 = ir.IntType(8)
BYTE = np.uint64(0xFF)
_LEVELS = 4  # registers


@kernel
def unpack_ring(words, bits, mix, codes):
    """codes[i, j] = the byte of the window from bit `bits` j on of the ring words[i], the first lowest.

    words (n, w) uint32; mix (64,) uint8, or (0,) of windows of 8 bits; codes (n, c) uint8, c a multiple of 8 with
    (c - 8) bits < 32 w.
    """
    count = words.shape[1]
    for i in range(words.shape[0]):
        for first in range(0, codes.shape[1], 8):
            word, shift = first * bits // 32, first * bits % 32
            after = word + 1 if word + 1 < count else 0
            field = (np.uint64(words[i, after]) << np.uint64(32) | np.uint64(words[i, word])) >> np.uint64(shift)
            for j in range(8):
                codes[i, first + j] = np.uint8(field >> np.uint64(bits * j) & BYTE)
            if mix.size:
                for j in range(8):
                    codes[i, first + j] ^= mix[field >> np.uint64(bits * j + 6) & np.uint64(63)]


@intrinsic
def wide_windows(typing, isa, panels, line, after, shift, bits, table):
    """Two registers of windows' bytes, of coordinates 0 .. 3 and 4 .. 7: from bit `shift` on of the words of two lines.

    table: from load_levels.
    """
    words, n = vector(I32, 16), isa.nbytes

    def code(context, builder, sig, args):
        _, data, first, second, by, step, parts = args
        pair = types.UniTuple(Register(n), 2)
        if not isa.tables:  # a branch that is not taken
            return context.get_constant_null(pair)
        low, high = (builder.load(pointer(builder, data, at, words), align=4) for at in (first, second))
        steps = builder.mul(step, ir.Constant(I64, 0x0706050403020100))
        one = builder.add(steps, builder.mul(by, ir.Constant(I64, 0x0101010101010101)))  # byte t: bits t + shift
        undefined = ir.Constant(vector(I64, 8), ir.Undefined)
        places = builder.insert_element(undefined, one, ir.Constant(I32, 0))
        places = builder.shuffle_vector(places, undefined, ir.Constant(vector(I32, 8), [0] * 8))
        places = builder.bitcast(places, vector(I8, 64))
        above = builder.add(places, every(I8, 64, 6))
        eights = []
        for half in (0, 2):  # of every four vectors the first two, or the others: a word and the next, side by side
            order = [four + half + i + word for four in range(0, 16, 4) for i in (0, 1) for word in (0, 16)]
            both = builder.shuffle_vector(low, high, ir.Constant(words, order))
            both = builder.bitcast(both, vector(I8, 64))
            eight = call(builder, "llvm.x86.avx512.pmultishift.qb.512", both.type, [places, both])
            if len(table) > _LEVELS:
                upper = call(builder, "llvm.x86.avx512.pmultishift.qb.512", both.type, [above, both])
                mix = builder.extract_value(parts, _LEVELS)
                mixed = call(builder, "llvm.x86.avx512.permvar.qi.512", both.type, [mix, upper])
                eight = builder.xor(eight, mixed)
            eights.append(builder.bitcast(eight, words))
        found = []
        for odd in (0, 1):
            order = [four + odd + i for four in range(0, 16, 4) for i in (0, 2, 16, 18)]
            line_ = builder.shuffle_vector(*eights, ir.Constant(words, order))
            found.append(builder.bitcast(line_, vector(I8, 64)))
        return context.make_tuple(builder, pair, found)

    places = types.intp, types.intp, types.intp, types.intp
    return types.UniTuple(Register(n), 2)(isa, panels, *places, table), code


@intrinsic
def load_levels(typing, isa, book):
    """256 int8 levels as four registers, biased, and the bytes by which windows are folded, if they are, as a fifth.

    book: an address; of windows that are not folded, it is enough that levels are there.
    """
    folded = isa.window == 12
    registers = types.UniTuple(Register(isa.nbytes), _LEVELS + folded)

    def code(context, builder, sig, args):
        if not isa.tables:  # a branch that is not taken
            return context.get_constant_null(registers)
        found = []
        for part in range(_LEVELS):
            x = builder.load(pointer(builder, args[1], 64 * part, vector(I8, 64)), align=1)
            found.append(builder.xor(x, every(I8, 64, isa.bias)))
        if folded:
            found.append(builder.load(pointer(builder, args[1], BOOK_MIX, vector(I8, 64)), align=1))
        return context.make_tuple(builder, registers, found)

    return registers(isa, book), code


@intrinsic
def _pairs_in(typing, book):
    """The address of a book's pairs of levels."""

    def code(context, builder, sig, args):
        return pointer(builder, args[0], BOOK_PAIRS, I16)

    return types.CPointer(types.uint16)(book), code


@inlined
def open_book(isa, book):
    """What ring_panel looks levels up by: bits of a coordinate, registers, the address of pairs, of which sets with
    registers for 256 levels have none, and the mask of their number."""
    bits = np.int64(book[BOOK_BITS])
    mask = (np.uint64(1) << np.uint64(window_of(isa) + bits)) - np.uint64(1)
    return bits, load_levels(isa, book), _pairs_in(book), mask


@intrinsic
def window_levels(typing, isa, table, windows):
    """The level of every window's byte; table: from load_levels."""

    def code(context, builder, sig, args):
        _, parts, x = args
        if not isa.tables:  # a branch that is not taken
            return x
        halves = []
        for first in (0, 2):
            one, two = (builder.extract_value(parts, first + i) for i in (0, 1))
            halves.append(call(builder, "llvm.x86.avx512.vpermi2var.qi.512", x.type, [one, x, two]))
        upper = builder.icmp_signed("<", x, every(I8, 64, 0))
        return builder.select(upper, halves[1], halves[0])

    return windows(isa, table, windows), code


@inlined
def two_lines(isa, panels, at, count, bits, table, step):
    """Registers of levels of coordinates 8 step .. 8 step + 3 and the four after them, of a panel at element `at`."""
    word, shift = 8 * step * bits // 32, 8 * step * bits % 32
    after = word + 1 if word + 1 < count else 0
    low, high = wide_windows(isa, panels, at + word * PANEL, at + after * PANEL, shift, bits, table)
    return window_levels(isa, table, low), window_levels(isa, table, high)


@inlined
def ring_panel(isa, panels, at, count, opened, m, lines):
    """m lines of levels of a panel of `count` words a row, m even, as dot_levels wants them.

    panels, lines: addresses; opened: from open_book.
    """
    bits, table, pairs, mask = opened
    if wide_tables(isa):
        for step in range(m // 2):
            low, high = two_lines(isa, panels, at, count, bits, table, step)
            store(low, lines, 2 * step * PANEL)
            store(high, lines, (2 * step + 1) * PANEL)
        return
    step = np.uint64(2 * bits)
    for line in range(m):
        word, shift = 4 * line * bits // 32, np.uint64(4 * line * bits % 32)
        after = word + 1 if word + 1 < count else 0
        low, high, first = at + word * PANEL, at + after * PANEL, line * PANEL
        for v in range(PANEL):
            field = (np.uint64(panels[high + v]) << np.uint64(32) | np.uint64(panels[low + v])) >> shift
            lines[first + v] = np.uint32(pairs[field & mask]) | np.uint32(pairs[field >> step & mask]) << np.uint32(16)


@inlined
def dot_ring(isa, acc, panels, at, count, bits, table, m, quads, q):
    """Add the products of a panel with one query's m quads: levels go from register to register."""
    second = tile_zero(isa)
    for step in range(m // 2):
        low, high = two_lines(isa, panels, at, count, bits, table, step)
        acc = tile_dot4(isa, acc, low, quads, q + 2 * step)
        second = tile_dot4(isa, second, high, quads, q + 2 * step + 1)
    return tile_add(acc, second)


@kernel
def scan_ring(isa, panels, count, book, queries, factors, names, allowed, heaps):
    """scan_lines of rings: offer the key of every vector to the k best of each query.

    isa: a tag with a window. panels (p, w, 16) uint32: the rings of `count` vectors; book int8, see above.
    queries, factors, names, allowed, heaps as of scan_lines, with an even number of quads that the ring has words for.
    """
    quads, sums, gains = queries
    scales, shifts = factors
    rows, lanes = rows_of(isa), lanes_of(isa)
    tiles, m = quads.shape[:2]
    words = panels.shape[1]
    keys = np.empty((rows, lanes), np.float32)
    thresholds, k = heaps[0][:, 0].copy(), heaps[0].shape[1]
    room = np.empty(m * PANEL + 16, np.uint32)
    lines, asked, codes = on_line(room), start(quads), start(panels)
    opened = open_book(isa, start(book))
    per_query = start(sums), start(gains), start(thresholds)
    per_vector = start(scales), start(shifts), start(keys)
    best = start(heaps[0]), start(heaps[1]), k
    for p in range(panels.shape[0]):
        first, at = p * PANEL, p * words * PANEL
        stop = min(first + PANEL, count)
        if allowed.size and not any_allowed(allowed, first, stop):
            continue
        alone = rows == 1 and wide_tables(isa)
        if not alone:
            ring_panel(isa, codes, at, words, opened, m, lines)
        for t in range(tiles):
            for v in range(first, stop, lanes):
                acc = tile_start(isa, per_query[0], t * rows)
                if alone:
                    acc = dot_ring(isa, acc, codes, at, words, opened[0], opened[1], m, asked, t * m)
                else:
                    acc = dot_levels(isa, acc, lines, v - first, m, asked, t * m * rows)
                offer_keys(isa, acc, t * rows, v, stop, per_query, per_vector, names, allowed, best)
    keep(keys)
    keep(thresholds)
    keep(room)
