"""From planes to levels: sixteen vectors' one-bit planes become lines of int8 levels that dot instructions take.

Law:       line 8 g + s of a panel's levels has, at byte 4 v + t, the level of vector v, coordinate 32 g + 4 s + t.
How:       two planes are woven into pairs of bits, two lines of pairs into nibbles, and a nibble picks its level by a
           byte shuffle: 3.5 instructions a line in AVX-512, where taking each bit by itself takes 9. Fewer than four
           planes are woven with zeros, so a code c of b bits looks up entry c << (4 - b) of the table."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from polarindex.kernels import neon
from polarindex.kernels.compile import inlined
from polarindex.kernels.simd import (
    I16,
    I32,
    I64,
    Register,
    call,
    every,
    grid_levels,
    lanes_of,
    load,
    planes_of,
    pointer,
    prefetch,
    store,
    tile_add,
    tile_dot4,
    tile_zero,
    vector,
)

PANEL = 16
AHEAD = 2048  # words of a plane, 8 kB: rows are too many streams for the hardware's own prefetcher


@intrinsic
def load_table(typing, isa, table):
    """The 16 levels of an int8 table, biased, repeated in every 128-bit lane."""
    n = isa.nbytes
    bytes16 = vector(ir.IntType(8), 16)

    def code(context, builder, sig, args):
        x = builder.load(pointer(builder, args[1], 0, bytes16), align=1)
        if isa.bias:
            x = builder.xor(x, every(ir.IntType(8), 16, isa.bias))
        return builder.shuffle_vector(x, x, ir.Constant(vector(I32, n), [i % 16 for i in range(n)]))

    return Register(n)(isa, table), code


@intrinsic
def zeros(typing, isa):
    """A register of zeros."""

    def code(context, builder, sig, args):
        return every(ir.IntType(8), isa.nbytes, 0)

    return Register(isa.nbytes)(isa), code


@intrinsic(prefer_literal=True)
def weave(typing, high, low, width, odd):
    """Fields of `width` bits of two registers side by side, high's above low's: the odd fields of each, or the even."""
    n = high.nbytes
    mask = {1: 0xAA, 2: 0xCC}[width.literal_value]
    upper, w = bool(odd.literal_value), width.literal_value

    def code(context, builder, sig, args):
        a, b = args[:2]
        words = vector(I16, n // 2)
        kept = every(ir.IntType(8), n, mask if upper else mask ^ 0xFF)
        a, b = builder.and_(a, kept), builder.and_(b, kept)
        if upper:
            b = builder.bitcast(builder.lshr(builder.bitcast(b, words), every(I16, n // 2, w)), b.type)
        else:
            a = builder.bitcast(builder.shl(builder.bitcast(a, words), every(I16, n // 2, w)), a.type)
        return builder.or_(a, b)

    return high(high, low, width, odd), code


@intrinsic(prefer_literal=True)
def nibble_levels(typing, isa, table, nibbles, upper):
    """table[nibble] for every byte's upper or lower nibble."""
    n = isa.nbytes
    shuffles = {64: "llvm.x86.avx512.pshuf.b.512", 32: "llvm.x86.avx2.pshuf.b"}

    def code(context, builder, sig, args):
        levels, x = args[1:3]
        if upper.literal_value:
            x = builder.bitcast(builder.lshr(builder.bitcast(x, vector(I16, n // 2)), every(I16, n // 2, 4)), x.type)
        if isa.tables:  # looks at six bits; the table repeats every four
            return call(builder, "llvm.x86.avx512.permvar.qi.512", x.type, [levels, x])
        x = builder.and_(x, every(ir.IntType(8), n, 15))
        if n == neon.NBYTES:
            return neon.tbl(builder, levels, x)
        return call(builder, shuffles[n], x.type, [levels, x])

    return table(isa, table, nibbles, upper), code


@intrinsic
def transpose4(typing, words, first, stride, out, line):
    """out[line + 16 i + v] = words[first + v * stride + i] for i < 4, v < 16."""
    quad, row16 = vector(I32, 4), vector(I32, 16)

    def code(context, builder, sig, args):
        source, start, step, target, at = args

        def shuffled(a, b, order):
            return builder.shuffle_vector(a, b, ir.Constant(vector(I32, len(order)), order))

        mixed = []  # mixed[i] has in its four lanes rows i, 4 + i, 8 + i, 12 + i
        for i in range(4):
            rows = []
            for v in range(i, 16, 4):
                offset = builder.add(start, builder.mul(step, ir.Constant(I64, v)))
                rows.append(builder.load(pointer(builder, source, offset, quad), align=4))
            halves = [shuffled(rows[j], rows[j + 1], list(range(8))) for j in (0, 2)]
            mixed.append(shuffled(halves[0], halves[1], list(range(16))))
        low = [0, 16, 1, 17]
        high = [2, 18, 3, 19]
        pairs = [
            shuffled(mixed[i], mixed[i + 1], [4 * lane + j for lane in range(4) for j in order])
            for i in (0, 2)
            for order in (low, high)
        ]
        for i, (one, two) in enumerate(((0, 2), (0, 2), (1, 3), (1, 3))):
            order = [2, 3, 18, 19] if i % 2 else [0, 1, 16, 17]
            column = shuffled(pairs[one], pairs[two], [4 * lane + j for lane in range(4) for j in order])
            builder.store(column, pointer(builder, target, at, row16), align=4)
            at = builder.add(at, ir.Constant(I64, 16))
        return context.get_dummy_value()

    return types.none(words, types.intp, types.intp, out, types.intp), code


@inlined
def lines_of_rows(isa, rest, p, count, g, out):
    """out[64 j + 16 i + v] = word g + i, i < 4, of plane 2 + j of vector 16 p + v: rows become lines."""
    stride = (planes_of(isa) - 2) * count
    for j in range(planes_of(isa) - 2):
        first = p * PANEL * stride + j * count + g
        if g + 4 <= count:
            transpose4(rest, first, stride, out, 64 * j)
        else:
            for i in range(count - g):
                for v in range(PANEL):
                    out[64 * j + 16 * i + v] = rest[first + v * stride + i]


@inlined
def fetch(isa, codes, p, count, g):
    """Ask for what is read of panel p with word g."""
    line = (p * count + g) * PANEL
    prefetch(codes[0], line)
    if planes_of(isa) < 8:
        if planes_of(isa) > 1:
            prefetch(codes[1], line)
        for plane in range(2, planes_of(isa)):
            prefetch(codes[2], (planes_of(isa) - 2) * line + (plane - 2) * PANEL)


@inlined
def four_lines(a, b, c, d):
    """Planes a (most significant) to d as four registers of nibbles: coordinates 4 s + t of s = 0 and 4 (lower and
    upper nibble), 1 and 5, 2 and 6, 3 and 7."""
    even_high, odd_high = weave(a, b, 1, 0), weave(a, b, 1, 1)
    even_low, odd_low = weave(c, d, 1, 0), weave(c, d, 1, 1)
    return (
        weave(even_high, even_low, 2, 0),
        weave(odd_high, odd_low, 2, 0),
        weave(even_high, even_low, 2, 1),
        weave(odd_high, odd_low, 2, 1),
    )


@inlined
def nibble_lines(isa, codes, p, count, g, half, rows):
    """four_lines of word g of panel p, the part that starts at vector `half`; `rows` as lines_of_rows left it."""
    line, i = (p * count + g) * PANEL + half, 16 * (g % 4) + half
    a = load(isa, codes[0], line)
    b = load(isa, codes[1], line) if planes_of(isa) > 1 else zeros(isa)
    c = load(isa, rows, i) if planes_of(isa) > 2 else zeros(isa)
    d = load(isa, rows, 64 + i) if planes_of(isa) > 3 else zeros(isa)
    return four_lines(a, b, c, d)


@inlined
def weave_panel(isa, codes, p, ahead, count, table, rows, levels):
    """Levels of panel p, line by line, and a request for panel p + ahead.

    codes: addresses of the first plane's lines, the second's, and the rows of the others, uint32; count: words of a
    plane, or of a row at 8 bits. table: a register from load_table; rows (128,) uint32 is room for the planes that
    are rows; levels (16 m,) uint32.
    """
    if planes_of(isa) == 8:
        for g in range(count):
            fetch(isa, codes, p + ahead, count, g)
            for half in range(0, PANEL, lanes_of(isa)):
                line = load(isa, codes[0], (p * count + g) * PANEL + half)
                store(grid_levels(isa, line), levels, g * PANEL + half)
        return
    for g in range(count):
        fetch(isa, codes, p + ahead, count, g)
        if g % 4 == 0:
            lines_of_rows(isa, codes[2], p, count, g, rows)
        for half in range(0, PANEL, lanes_of(isa)):
            first, second, third, fourth = nibble_lines(isa, codes, p, count, g, half, rows)
            line = 8 * g * PANEL + half
            store(nibble_levels(isa, table, first, 0), levels, line)
            store(nibble_levels(isa, table, second, 0), levels, line + PANEL)
            store(nibble_levels(isa, table, third, 0), levels, line + 2 * PANEL)
            store(nibble_levels(isa, table, fourth, 0), levels, line + 3 * PANEL)
            store(nibble_levels(isa, table, first, 1), levels, line + 4 * PANEL)
            store(nibble_levels(isa, table, second, 1), levels, line + 5 * PANEL)
            store(nibble_levels(isa, table, third, 1), levels, line + 6 * PANEL)
            store(nibble_levels(isa, table, fourth, 1), levels, line + 7 * PANEL)


@inlined
def dot_panel(isa, acc, codes, p, ahead, count, table, rows, half, quads, q):
    """Add the products of panel p, of the part that starts at vector `half`, with the quads of one query.

    For one query alone: levels go from register to register. Four accumulators, for the dot instruction's result is
    ready after four cycles.
    """
    second, third, fourth = tile_zero(isa), tile_zero(isa), tile_zero(isa)
    for g in range(count):
        fetch(isa, codes, p + ahead, count, g)
        if planes_of(isa) == 8:
            line = load(isa, codes[0], (p * count + g) * PANEL + half)
            acc = tile_dot4(isa, acc, grid_levels(isa, line), quads, q + g)
            acc, second, third, fourth = second, third, fourth, acc
        else:
            if g % 4 == 0:
                lines_of_rows(isa, codes[2], p, count, g, rows)
            one, two, three, four = nibble_lines(isa, codes, p, count, g, half, rows)
            i = q + 8 * g
            acc = tile_dot4(isa, acc, nibble_levels(isa, table, one, 0), quads, i)
            second = tile_dot4(isa, second, nibble_levels(isa, table, two, 0), quads, i + 1)
            third = tile_dot4(isa, third, nibble_levels(isa, table, three, 0), quads, i + 2)
            fourth = tile_dot4(isa, fourth, nibble_levels(isa, table, four, 0), quads, i + 3)
            acc = tile_dot4(isa, acc, nibble_levels(isa, table, one, 1), quads, i + 4)
            second = tile_dot4(isa, second, nibble_levels(isa, table, two, 1), quads, i + 5)
            third = tile_dot4(isa, third, nibble_levels(isa, table, three, 1), quads, i + 6)
            fourth = tile_dot4(isa, fourth, nibble_levels(isa, table, four, 1), quads, i + 7)
    return tile_add(tile_add(acc, second), tile_add(third, fourth))
