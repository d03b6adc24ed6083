"""From planes to levels: sixteen vectors' one-bit planes become lines of int8 levels that dot instructions take.

Law:       line 8 g + s of a panel's levels has, at byte 4 v + t, the level of vector v, coordinate 32 g + 4 s + t.
How:       two planes are woven into pairs of bits, two lines of pairs into nibbles, and a nibble picks its level by a
           byte shuffle: 3.5 instructions a line in AVX-512, where taking each bit by itself takes 9. Fewer than four
           planes are woven with zeros, so a code c of b bits looks up entry c << (4 - b) of the table."""

from __future__ import annotations

from typing import Any

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
    constant,
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


def _few(isa: Any) -> bool:
    """Whether codes are looked up as they lie: a table of 64 bytes repeats what the bits above a code do not change."""
    return bool(isa.tables) and isa.planes <= 2


few_planes = constant(_few, types.boolean)


@intrinsic
def load_table(typing, isa, table):
    """The levels of an int8 table of 16, code c of b bits at c << (4 - b), biased, as eight_levels looks them up:
    repeated in every 128-bit lane, or of one and two planes, where a lookup sees six bits, every 2^b bytes."""
    n = isa.nbytes
    period = 1 << isa.planes if _few(isa) else 16
    bytes16 = vector(ir.IntType(8), 16)

    def code(context, builder, sig, args):
        x = builder.load(pointer(builder, args[1], 0, bytes16), align=1)
        if isa.bias:
            x = builder.xor(x, every(ir.IntType(8), 16, isa.bias))
        order = [i % period * (16 // period) for i in range(n)]
        return builder.shuffle_vector(x, x, ir.Constant(vector(I32, n), order))

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


@intrinsic(prefer_literal=True)
def levels_at(typing, isa, table, words, shift):
    """The level of the code in the lowest bits of every byte, after a shift by `shift`: of few planes only."""

    def code(context, builder, sig, args):
        levels, x = args[1:3]
        if not _few(isa):  # a branch that is not taken
            return x
        if shift.literal_value:
            wide = vector(I16, isa.nbytes // 2)
            x = builder.lshr(builder.bitcast(x, wide), every(I16, isa.nbytes // 2, shift.literal_value))
            x = builder.bitcast(x, levels.type)
        return call(builder, "llvm.x86.avx512.permvar.qi.512", levels.type, [levels, x])

    return table(isa, table, words, shift), code


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
def eight_levels(isa, table, a, b, c, d):
    """Eight registers of levels, of coordinates 4 s + t for s = 0 .. 7, from a word of each plane, a the highest.

    Planes that a code lacks are zeros. 29 and 23 instructions and no more of two planes and one, which are looked up
    as they are; of three and four 35, by nibbles.
    """
    if few_planes(isa):
        if planes_of(isa) == 1:
            return (
                levels_at(isa, table, a, 0),
                levels_at(isa, table, a, 1),
                levels_at(isa, table, a, 2),
                levels_at(isa, table, a, 3),
                levels_at(isa, table, a, 4),
                levels_at(isa, table, a, 5),
                levels_at(isa, table, a, 6),
                levels_at(isa, table, a, 7),
            )
        even, odd = weave(a, b, 1, 0), weave(a, b, 1, 1)
        return (
            levels_at(isa, table, even, 0),
            levels_at(isa, table, odd, 0),
            levels_at(isa, table, even, 2),
            levels_at(isa, table, odd, 2),
            levels_at(isa, table, even, 4),
            levels_at(isa, table, odd, 4),
            levels_at(isa, table, even, 6),
            levels_at(isa, table, odd, 6),
        )
    even_high, odd_high = weave(a, b, 1, 0), weave(a, b, 1, 1)
    even_low, odd_low = weave(c, d, 1, 0), weave(c, d, 1, 1)
    first, second = weave(even_high, even_low, 2, 0), weave(odd_high, odd_low, 2, 0)
    third, fourth = weave(even_high, even_low, 2, 1), weave(odd_high, odd_low, 2, 1)
    return (
        nibble_levels(isa, table, first, 0),
        nibble_levels(isa, table, second, 0),
        nibble_levels(isa, table, third, 0),
        nibble_levels(isa, table, fourth, 0),
        nibble_levels(isa, table, first, 1),
        nibble_levels(isa, table, second, 1),
        nibble_levels(isa, table, third, 1),
        nibble_levels(isa, table, fourth, 1),
    )


@inlined
def _panel_levels(isa, codes, p, count, g, half, table, rows):
    """eight_levels of word g of panel p, the part that starts at vector `half`; `rows` as lines_of_rows left it."""
    line, i = (p * count + g) * PANEL + half, 16 * (g % 4) + half
    a = load(isa, codes[0], line)
    b = load(isa, codes[1], line) if planes_of(isa) > 1 else zeros(isa)
    c = load(isa, rows, i) if planes_of(isa) > 2 else zeros(isa)
    d = load(isa, rows, 64 + i) if planes_of(isa) > 3 else zeros(isa)
    return eight_levels(isa, table, a, b, c, d)


@inlined
def _store_levels(isa, eight, levels, line):
    """The lines of eight registers of levels, from levels[line] on."""
    store(eight[0], levels, line)
    store(eight[1], levels, line + PANEL)
    store(eight[2], levels, line + 2 * PANEL)
    store(eight[3], levels, line + 3 * PANEL)
    store(eight[4], levels, line + 4 * PANEL)
    store(eight[5], levels, line + 5 * PANEL)
    store(eight[6], levels, line + 6 * PANEL)
    store(eight[7], levels, line + 7 * PANEL)


@inlined
def weave_panel(isa, codes, p, count, table, rows, levels):
    """Levels of panel p, line by line.

    codes: addresses of the first plane's lines, the second's, and the rows of the others, uint32; count: words of a
    plane, or of a row at 8 bits. table: a register from load_table; rows (128,) uint32 is room for the planes that
    are rows; levels (16 m,) uint32.
    """
    if planes_of(isa) == 8:
        for g in range(count):
            for half in range(0, PANEL, lanes_of(isa)):
                line = load(isa, codes[0], (p * count + g) * PANEL + half)
                store(grid_levels(isa, line), levels, g * PANEL + half)
        return
    for g in range(count):
        if g % 4 == 0:
            lines_of_rows(isa, codes[2], p, count, g, rows)
        for half in range(0, PANEL, lanes_of(isa)):
            eight = _panel_levels(isa, codes, p, count, g, half, table, rows)
            _store_levels(isa, eight, levels, 8 * g * PANEL + half)


@inlined
def _dot_eight(isa, accs, eight, quads, i):
    """Add the products of eight registers of levels and one query's quads from i on to four accumulators in turn."""
    acc, second, third, fourth = accs
    acc = tile_dot4(isa, acc, eight[0], quads, i)
    second = tile_dot4(isa, second, eight[1], quads, i + 1)
    third = tile_dot4(isa, third, eight[2], quads, i + 2)
    fourth = tile_dot4(isa, fourth, eight[3], quads, i + 3)
    acc = tile_dot4(isa, acc, eight[4], quads, i + 4)
    second = tile_dot4(isa, second, eight[5], quads, i + 5)
    third = tile_dot4(isa, third, eight[6], quads, i + 6)
    fourth = tile_dot4(isa, fourth, eight[7], quads, i + 7)
    return acc, second, third, fourth


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
            eight = _panel_levels(isa, codes, p, count, g, half, table, rows)
            accs = acc, second, third, fourth
            acc, second, third, fourth = _dot_eight(isa, accs, eight, quads, q + 8 * g)
    return tile_add(tile_add(acc, second), tile_add(third, fourth))


# --- pages: all planes of 16 vectors as lines, one plane after the other


@inlined
def _page_levels(isa, page, at, count, g, half, table):
    """eight_levels of word g of the page that starts at element `at`, the part that starts at vector `half`."""
    line = at + g * PANEL + half
    a = load(isa, page, line)
    b = load(isa, page, line + count * PANEL) if planes_of(isa) > 1 else zeros(isa)
    c = load(isa, page, line + 2 * count * PANEL) if planes_of(isa) > 2 else zeros(isa)
    d = load(isa, page, line + 3 * count * PANEL) if planes_of(isa) > 3 else zeros(isa)
    return eight_levels(isa, table, a, b, c, d)


@inlined
def unwoven_page(isa, page, at, count, table, levels, first):
    """Levels of a page, line by line, from levels[first] on; count: words of a plane, or of a row at 8 bits."""
    for g in range(count):
        for half in range(0, PANEL, lanes_of(isa)):
            if planes_of(isa) == 8:
                line = load(isa, page, at + g * PANEL + half)
                store(grid_levels(isa, line), levels, first + g * PANEL + half)
                continue
            eight = _page_levels(isa, page, at, count, g, half, table)
            _store_levels(isa, eight, levels, first + 8 * g * PANEL + half)


@inlined
def dot_page(isa, acc, page, at, count, table, half, quads, q):
    """Add the products of a page, of the part that starts at vector `half`, with the quads of one query."""
    second, third, fourth = tile_zero(isa), tile_zero(isa), tile_zero(isa)
    for g in range(count):
        if planes_of(isa) == 8:
            acc = tile_dot4(isa, acc, grid_levels(isa, load(isa, page, at + g * PANEL + half)), quads, q + g)
            acc, second, third, fourth = second, third, fourth, acc
        else:
            eight = _page_levels(isa, page, at, count, g, half, table)
            accs = acc, second, third, fourth
            acc, second, third, fourth = _dot_eight(isa, accs, eight, quads, q + 8 * g)
    return tile_add(tile_add(acc, second), tile_add(third, fourth))


@intrinsic
def table_at(typing, isa, tables, line):
    """load_table of line `line` of int8 tables of 16."""
    n = isa.nbytes
    bytes16 = vector(ir.IntType(8), 16)

    def code(context, builder, sig, args):
        x = builder.load(pointer(builder, args[1], builder.mul(args[2], ir.Constant(I64, 16)), bytes16), align=1)
        if isa.bias:
            x = builder.xor(x, every(ir.IntType(8), 16, isa.bias))
        return builder.shuffle_vector(x, x, ir.Constant(vector(I32, n), [i % 16 for i in range(n)]))

    return Register(n)(isa, tables, types.intp), code


@intrinsic(prefer_literal=True)
def by_bit(typing, isa, word, bit, one, zero):
    """Byte by byte: of `one` where a bit of a plane's word is set, else of `zero`."""
    n = isa.nbytes

    def code(context, builder, sig, args):
        kept = builder.and_(args[1], every(ir.IntType(8), n, 1 << bit.literal_value))
        return builder.select(builder.icmp_unsigned("!=", kept, every(ir.IntType(8), n, 0)), args[3], args[4])

    return one(isa, word, bit, one, zero), code


@inlined
def _eight_by_bit(isa, word, one, zero):
    """One of two choices of eight_levels, by the plane above those that they are of."""
    return (
        by_bit(isa, word, 0, one[0], zero[0]),
        by_bit(isa, word, 1, one[1], zero[1]),
        by_bit(isa, word, 2, one[2], zero[2]),
        by_bit(isa, word, 3, one[3], zero[3]),
        by_bit(isa, word, 4, one[4], zero[4]),
        by_bit(isa, word, 5, one[5], zero[5]),
        by_bit(isa, word, 6, one[6], zero[6]),
        by_bit(isa, word, 7, one[7], zero[7]),
    )


@inlined
def _either(isa, tables, first, word, lower):
    """eight_levels by tables `first` and the next, by a plane above the four `lower` ones."""
    a, b, c, d = lower
    zero = eight_levels(isa, table_at(isa, tables, first), a, b, c, d)
    one = eight_levels(isa, table_at(isa, tables, first + 1), a, b, c, d)
    return _eight_by_bit(isa, word, one, zero)


wide_tables = constant(lambda isa: bool(isa.tables), types.boolean)


@intrinsic
def wide_table(typing, isa, tables):
    """Of 5 to 7 planes, all levels: a register of 64, or two; biased, and of 5 planes twice the same."""
    n = 2 if isa.planes == 7 else 1
    bytes64 = vector(ir.IntType(8), 64)

    def code(context, builder, sig, args):
        if not isa.tables:  # a branch that is not taken
            return context.get_constant_null(sig.return_type)
        found = []
        for half in range(2):
            x = builder.load(pointer(builder, args[1], 64 * half if n == 2 else 0, bytes64), align=1)
            if isa.planes == 5:
                x = builder.shuffle_vector(x, x, ir.Constant(vector(I32, 64), [i % 32 for i in range(64)]))
            found.append(builder.xor(x, every(ir.IntType(8), 64, isa.bias)))
        return context.make_tuple(builder, sig.return_type, found)

    return types.UniTuple(Register(64 if isa.tables else isa.nbytes), 2)(isa, tables), code


@intrinsic(prefer_literal=True)
def wide_levels(typing, isa, table, nibbles, upper, pairs, left, high, far):
    """The level of a code of 5 to 7 bits: its lowest four in every byte's upper or lower nibble of `nibbles`, the next
    two (one of 5) in `pairs` from bit 4 - left on, and of 7 the highest in bit 6 - far of `high`."""
    n = isa.nbytes
    words = vector(I16, n // 2)

    def shifted(builder, x, by):
        if not by:
            return x
        move = builder.shl if by > 0 else builder.lshr
        return builder.bitcast(move(builder.bitcast(x, words), every(I16, n // 2, abs(by))), x.type)

    def code(context, builder, sig, args):
        _, table_, x, _, y, _, z, _ = args
        if not isa.tables:  # a branch that is not taken
            return x
        low = builder.and_(shifted(builder, x, -4 if upper.literal_value else 0), every(ir.IntType(8), n, 15))
        index = builder.and_(shifted(builder, y, left.literal_value), every(ir.IntType(8), n, 0x30))
        index = builder.or_(index, low)
        one = builder.extract_value(table_, 0)
        if isa.planes < 7:
            return call(builder, "llvm.x86.avx512.permvar.qi.512", x.type, [one, index])
        top = builder.and_(shifted(builder, z, far.literal_value), every(ir.IntType(8), n, 0x40))
        index = builder.or_(index, top)
        two = builder.extract_value(table_, 1)
        return call(builder, "llvm.x86.avx512.vpermi2var.qi.512", x.type, [one, index, two])

    return nibbles(isa, table, nibbles, upper, pairs, left, high, far), code


@inlined
def _eight_wide(isa, table, high, lower):
    """eight_levels of 5 to 7 planes by one lookup each; high: the planes above the four `lower` ones, nearest first."""
    a, b, c, d = lower
    even_high, odd_high = weave(a, b, 1, 0), weave(a, b, 1, 1)
    even_low, odd_low = weave(c, d, 1, 0), weave(c, d, 1, 1)
    first, second = weave(even_high, even_low, 2, 0), weave(odd_high, odd_low, 2, 0)
    third, fourth = weave(even_high, even_low, 2, 1), weave(odd_high, odd_low, 2, 1)
    plane, above, top = high
    if planes_of(isa) == 5:
        return (  # bit s is at 4 after a shift by 4 - s, and what is at 5 does not matter
            wide_levels(isa, table, first, 0, plane, 4, top, 0),
            wide_levels(isa, table, second, 0, plane, 3, top, 0),
            wide_levels(isa, table, third, 0, plane, 2, top, 0),
            wide_levels(isa, table, fourth, 0, plane, 1, top, 0),
            wide_levels(isa, table, first, 1, plane, 0, top, 0),
            wide_levels(isa, table, second, 1, plane, -1, top, 0),
            wide_levels(isa, table, third, 1, plane, -2, top, 0),
            wide_levels(isa, table, fourth, 1, plane, -3, top, 0),
        )
    even, odd = weave(above, plane, 1, 0), weave(above, plane, 1, 1)
    return (
        wide_levels(isa, table, first, 0, even, 4, top, 6),
        wide_levels(isa, table, second, 0, odd, 4, top, 5),
        wide_levels(isa, table, third, 0, even, 2, top, 4),
        wide_levels(isa, table, fourth, 0, odd, 2, top, 3),
        wide_levels(isa, table, first, 1, even, 0, top, 2),
        wide_levels(isa, table, second, 1, odd, 0, top, 1),
        wide_levels(isa, table, third, 1, even, -2, top, 0),
        wide_levels(isa, table, fourth, 1, odd, -2, top, -1),
    )


@inlined
def _wide_eight(isa, page, at, count, g, half, tables):
    """_page_levels of 5 to 7 planes: one lookup in all levels where a set has such, else four planes are looked up as
    ever, in a table for each value of the planes above them.

    With a gather for each sixteen levels a query alone took 9.8 ms on 60,000 rows whose head of 32 axes has 6 bits, and
    2.0 ms so.
    """
    planes = planes_of(isa)
    line, step = at + g * PANEL + half, count * PANEL
    below = line + (planes - 4) * step
    lower = (
        load(isa, page, below),
        load(isa, page, below + step),
        load(isa, page, below + 2 * step),
        load(isa, page, below + 3 * step),
    )
    first = load(isa, page, below - step)  # of the planes above, the lowest
    if wide_tables(isa):
        second = load(isa, page, below - 2 * step) if planes > 5 else first
        third = load(isa, page, below - 3 * step) if planes > 6 else first
        return _eight_wide(isa, wide_table(isa, tables), (first, second, third), lower)
    eight = _either(isa, tables, 0, first, lower)
    if planes > 5:
        second = load(isa, page, below - 2 * step)
        eight = _eight_by_bit(isa, second, _either(isa, tables, 2, first, lower), eight)
        if planes > 6:
            upper = _either(isa, tables, 4, first, lower)
            upper = _eight_by_bit(isa, second, _either(isa, tables, 6, first, lower), upper)
            eight = _eight_by_bit(isa, load(isa, page, below - 3 * step), upper, eight)
    return eight


@inlined
def unwoven_wide(isa, page, at, count, tables, levels):
    """unwoven_page for 5 to 7 planes."""
    for g in range(count):
        for half in range(0, PANEL, lanes_of(isa)):
            _store_levels(isa, _wide_eight(isa, page, at, count, g, half, tables), levels, 8 * g * PANEL + half)


@inlined
def dot_wide(isa, acc, page, at, count, tables, half, quads, q):
    """dot_page for 5 to 7 planes."""
    second, third, fourth = tile_zero(isa), tile_zero(isa), tile_zero(isa)
    for g in range(count):
        eight = _wide_eight(isa, page, at, count, g, half, tables)
        accs = acc, second, third, fourth
        acc, second, third, fourth = _dot_eight(isa, accs, eight, quads, q + 8 * g)
    return tile_add(tile_add(acc, second), tile_add(third, fourth))
