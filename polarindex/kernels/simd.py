"""SIMD registers for kernels, chosen by a tag: with weave.py, ring.py, nibbles.py and neon.py those that name LLVM's.

An `Isa` value is a kernel's first argument. Its Numba *type* names the instruction set, so one kernel text compiles
for every set, several can run in one process, and Numba's disk cache keeps them apart.

Law:       registers hold whole 128-bit lanes; a dot accumulator has one int32 a vector, so a 64-byte line of levels
           (16 vectors x 4 bytes) is one register of 512 bits, two of 256 or four of 128.
Exact:     every set computes the same integers. The sets with VPDPBUSD multiply unsigned levels (level + 128) and
           start their accumulators at -128 sum(q); avx2 multiplies |level| <= 127 by sign-corrected queries, whose
           pair sums, at most 2 * 127 * 127 = 32,258, cannot saturate 16 bits; neon multiplies signed by signed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from llvmlite import ir
from llvmlite.binding import llvm_version_info
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.extending import NativeValue, intrinsic, typeof_impl, unbox

from polarindex.kernels import neon

I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


class Instructions(NamedTuple):
    """What differs between instruction sets."""

    nbytes: int  # of a register
    bias: int  # added to signed levels before they are multiplied
    features: tuple[frozenset[str], ...]  # what LLVM's target must have: all of one of these
    tables: bool = False  # VPERMB: one lookup in 64 bytes, and a first pass by nibble tables


SETS = {  # best first
    "avx512": Instructions(64, 128, (frozenset({"avx512bw", "avx512vnni", "avx512vbmi"}),), tables=True),
    "avx512vnni": Instructions(64, 128, (frozenset({"avx512bw", "avx512vnni"}),)),  # Cascade Lake: no VBMI
    "avxvnni": Instructions(32, 128, (frozenset({"avx2", "avxvnni"}), frozenset({"avx512vl", "avx512vnni"}))),
    "avx2": Instructions(32, 0, (frozenset({"avx2"}),)),
    "neon": Instructions(neon.NBYTES, 0, (frozenset({"neon", "dotprod"}),)),  # ARM64 from Armv8.2 on, Apple M1
}


class Isa:
    """A tag: what a kernel is compiled for.

    name : the instruction set
    rows : queries that share a tile of registers
    planes : one-bit planes of a code, 1 to 7, or 8 for codes of one byte; scans of whole rows take up to 4
    window : of codes that are rings, all of whose words are one plane: bits by which a level is picked, 8 or 12; else 0
    """

    __slots__ = ("bias", "lanes", "name", "planes", "rows", "tables", "window")

    def __init__(self, name: str, rows: int, planes: int, window: int = 0) -> None:
        self.name, self.rows, self.planes, self.window = name, rows, planes, window
        self.lanes = SETS[name].nbytes // 4  # vectors a register holds one int32 of
        self.bias, self.tables = SETS[name].bias, SETS[name].tables


class IsaType(types.Type):
    def __init__(self, isa: str, rows: int, planes: int, window: int = 0) -> None:
        self.isa, self.rows, self.planes, self.window = isa, rows, planes, window
        self.nbytes, self.bias, _, self.tables = SETS[isa]
        super().__init__(name=f"Isa({isa}, {rows}, {planes}, {window})")


class Register(types.Type):
    """`nbytes` int8 lanes."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        super().__init__(name=f"i8x{nbytes}")


class Tile(types.Type):
    """`rows` accumulators, one a query, of `lanes` int32, one a vector."""

    def __init__(self, rows: int, lanes: int) -> None:
        self.rows, self.lanes = rows, lanes
        super().__init__(name=f"tile{rows}x{lanes}")


register_default(IsaType)(models.OpaqueModel)


@register_default(Register)
class _RegisterModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Register) -> None:
        super().__init__(manager, kind, vector(I8, kind.nbytes))


@register_default(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Tile) -> None:
        super().__init__(manager, kind, ir.ArrayType(vector(I32, kind.lanes), kind.rows))


@typeof_impl.register(Isa)
def _typeof_isa(value: Isa, context: Any) -> IsaType:
    return _isa_type(value.name, value.rows, value.planes, value.window)


@lru_cache(maxsize=256)
def _isa_type(name: str, rows: int, planes: int, window: int) -> IsaType:
    return IsaType(name, rows, planes, window)  # 1.5 us when made anew, and every call of a kernel asks


@unbox(IsaType)
def _unbox_isa(kind: IsaType, value: Any, c: Any) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


# --- building blocks


def vector(element: ir.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(element, lanes)


def splat(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    undefined = ir.Constant(vector(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(vector(I32, lanes), [0] * lanes))


def every(element: ir.Type, lanes: int, value: int) -> ir.Constant:
    return ir.Constant(vector(element, lanes), [value] * lanes)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def pointer(builder: ir.IRBuilder, data: ir.Value, offset: ir.Value | int, to: ir.Type) -> ir.Value:
    """The address of element `offset` from a pointer on, as a pointer to `to`."""
    at = ir.Constant(I64, offset) if isinstance(offset, int) else offset
    return builder.bitcast(builder.gep(data, [at]), to.as_pointer())


def dot4(isa: IsaType, builder: ir.IRBuilder, acc: ir.Value, levels: ir.Value, query: ir.Value) -> ir.Value:
    """acc[lane] += the four products of the lane's levels and the query's four bytes."""
    n = isa.nbytes
    if n == neon.NBYTES:
        return neon.sdot(builder, acc, levels, query)
    if isa.bias:
        if llvm_version_info < (22,):
            levels, query = (builder.bitcast(part, acc.type) for part in (levels, query))
        return call(builder, f"llvm.x86.avx512.vpdpbusd.{8 * n}", acc.type, [acc, levels, query])
    # maddubs multiplies unsigned by signed: |level| by the query's byte with the level's sign
    magnitude = call(builder, "llvm.x86.avx2.psign.b", levels.type, [levels, levels])
    signed = call(builder, "llvm.x86.avx2.psign.b", levels.type, [query, levels])
    pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, n // 2), [magnitude, signed])
    quads = call(builder, "llvm.x86.avx2.pmadd.wd", acc.type, [pairs, every(I16, n // 2, 1)])
    return builder.add(acc, quads)


# --- arrays and constants


@intrinsic
def start(typing, array):
    """The address of a C-contiguous array's first element.

    Kernels hand addresses to their parts: an array handed on in a loop is counted as a new reference, in an atomic
    step, every time. An array that the kernel made itself must be kept (`keep`) until the address is used no more.
    """

    def code(context, builder, sig, args):
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), code


@intrinsic
def keep(typing, array):
    """Nothing, at the end of a kernel: an array of which only the address is used is freed after its last mention."""

    def code(context, builder, sig, args):
        return context.get_dummy_value()

    return types.none(array), code


@intrinsic
def on_line(typing, array):
    """The first address in an array of uint32 at a multiple of 64 bytes: for room of 16 elements more than is used."""

    def code(context, builder, sig, args):
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        at = builder.add(builder.ptrtoint(data, I64), ir.Constant(I64, 63))
        return builder.inttoptr(builder.and_(at, ir.Constant(I64, -64)), data.type)

    return types.CPointer(array.dtype)(array), code


def constant(choose: Any, kind: Any) -> Any:
    """An intrinsic of the tag alone, known at compile time, so that branches not taken are not compiled."""

    @intrinsic
    def value(typing, isa):
        def code(context, builder, sig, args):
            return context.get_constant(kind, choose(isa))

        return kind(isa), code

    return value


rows_of = constant(lambda isa: isa.rows, types.intp)
lanes_of = constant(lambda isa: isa.nbytes // 4, types.intp)
planes_of = constant(lambda isa: isa.planes, types.intp)
window_of = constant(lambda isa: isa.window, types.intp)
bias_of = constant(lambda isa: isa.bias, types.intp)


@intrinsic(prefer_literal=True)
def tag_with(typing, isa, rows, planes):
    """The tag of the same set for other rows and planes, literal numbers; 0 for those, or the ring, of `isa`."""
    window = 0 if planes.literal_value else isa.window
    tag = IsaType(isa.isa, rows.literal_value or isa.rows, planes.literal_value or isa.planes, window)

    def code(context, builder, sig, args):
        return context.get_dummy_value()

    return tag(isa, rows, planes), code


@intrinsic
def lowest_bit(typing, mask):
    """The number of the lowest bit that is set."""

    def code(context, builder, sig, args):
        return call(builder, "llvm.cttz.i64", I64, [args[0], ir.Constant(ir.IntType(1), 1)])

    return types.intp(types.uint64), code


# --- registers


@intrinsic
def load(typing, isa, words, offset):
    """The register of bytes at element `offset` of uint32 words."""
    n = isa.nbytes

    def code(context, builder, sig, args):
        return builder.load(pointer(builder, args[1], args[2], vector(I8, n)), align=4)

    return Register(n)(isa, words, types.intp), code


@intrinsic
def store(typing, register, words, offset):
    """Write a register at element `offset` of uint32 words."""

    def code(context, builder, sig, args):
        value, words_, at = args
        builder.store(value, pointer(builder, words_, at, value.type), align=4)
        return context.get_dummy_value()

    return types.none(register, words, types.intp), code


@intrinsic
def prefetch(typing, words, offset):
    """Ask for the cache line of element `offset`, which may lie beyond the array's end, into the second-level cache."""

    def code(context, builder, sig, args):
        at = pointer(builder, args[0], args[1], I8)
        kind = ir.FunctionType(ir.VoidType(), [at.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [at, ir.Constant(I32, 0), ir.Constant(I32, 2), ir.Constant(I32, 1)])
        return context.get_dummy_value()

    return types.none(words, types.intp), code


@intrinsic
def grid_levels(typing, isa, codes):
    """Levels of an 8-bit line, whose code is its level + 128."""

    def code(context, builder, sig, args):
        return args[1] if isa.bias else builder.xor(args[1], every(I8, isa.nbytes, 128))

    return codes(isa, codes), code


@intrinsic
def biased(typing, isa, levels):
    """Signed levels as the set's dot instruction takes them."""

    def code(context, builder, sig, args):
        return builder.xor(args[1], every(I8, isa.nbytes, isa.bias)) if isa.bias else args[1]

    return levels(isa, levels), code


# --- tiles


@intrinsic
def tile_start(typing, isa, sums, offset):
    """An accumulator a row at -bias * sums[offset + row], sums int32 those of the queries' bytes."""
    tile = Tile(isa.rows, isa.nbytes // 4)

    def code(context, builder, sig, args):
        acc = ir.Constant(context.get_value_type(tile), ir.Undefined)
        at = pointer(builder, args[1], args[2], I32)
        for r in range(tile.rows):
            total = builder.load(pointer(builder, at, r, I32), align=4)
            begin = builder.mul(total, ir.Constant(I32, -isa.bias))
            acc = builder.insert_value(acc, splat(builder, begin, tile.lanes), r)
        return acc

    return tile(isa, sums, types.intp), code


@intrinsic
def tile_from(typing, isa, values, offset):
    """An accumulator a row at values[offset + row], int32."""
    tile = Tile(isa.rows, isa.nbytes // 4)

    def code(context, builder, sig, args):
        acc = ir.Constant(context.get_value_type(tile), ir.Undefined)
        at = pointer(builder, args[1], args[2], I32)
        for r in range(tile.rows):
            value = builder.load(pointer(builder, at, r, I32), align=4)
            acc = builder.insert_value(acc, splat(builder, value, tile.lanes), r)
        return acc

    return tile(isa, values, types.intp), code


@intrinsic
def tile_zero(typing, isa):
    """Accumulators at 0."""
    tile = Tile(isa.rows, isa.nbytes // 4)

    def code(context, builder, sig, args):
        return ir.Constant(context.get_value_type(tile), [every(I32, tile.lanes, 0)] * tile.rows)

    return tile(isa), code


@intrinsic
def tile_add(typing, one, other):
    """The sums of two tiles."""

    def code(context, builder, sig, args):
        acc, more = args
        for r in range(one.rows):
            total = builder.add(builder.extract_value(acc, r), builder.extract_value(more, r))
            acc = builder.insert_value(acc, total, r)
        return acc

    return one(one, one), code


def _repeated(builder: ir.IRBuilder, quads: ir.Value, isa: IsaType) -> Iterator[ir.Value]:
    """A register for each row, that has the row's quad in every lane."""
    lanes = isa.nbytes // 4
    for r in range(isa.rows):
        if isa.nbytes == neon.NBYTES and isa.rows % 4 == 0:  # sdot multiplies by one lane: four rows share a load
            if r % 4 == 0:
                four = builder.load(pointer(builder, quads, r, vector(I32, 4)), align=4)
            yield builder.shuffle_vector(four, four, every(I32, lanes, r % 4))
        else:
            yield splat(builder, builder.load(pointer(builder, quads, r, I32), align=4), lanes)


@intrinsic
def tile_dot4(typing, isa, tile, levels, queries, offset):
    """tile[row] += dot4(levels, the query quad at queries[offset + row]) for every row; queries is int32 quads."""

    def code(context, builder, sig, args):
        _, acc, values, quads, first = args
        at = pointer(builder, quads, first, I32)
        for r, repeated in enumerate(_repeated(builder, at, isa)):
            query = builder.bitcast(repeated, values.type)
            acc = builder.insert_value(acc, dot4(isa, builder, builder.extract_value(acc, r), values, query), r)
        return acc

    return tile(isa, tile, levels, queries, types.intp), code


@intrinsic
def tile_dot4_of(typing, isa, tile, levels, queries, firsts, offset):
    """tile[row] += dot4(levels, the query quad at queries[firsts[row] + offset]): queries that lie anywhere.

    firsts: from row_starts. A broadcast from memory is part of the multiplication, so rows need no common layout.
    """

    def code(context, builder, sig, args):
        _, acc, values, quads, firsts_, at = args
        for r in range(isa.rows):
            place = builder.add(builder.extract_value(firsts_, r), at)
            quad = builder.load(pointer(builder, quads, place, I32), align=4)
            query = builder.bitcast(splat(builder, quad, tile.lanes), values.type)
            acc = builder.insert_value(acc, dot4(isa, builder, builder.extract_value(acc, r), values, query), r)
        return acc

    return tile(isa, tile, levels, queries, firsts, types.intp), code


@intrinsic
def row_starts(typing, isa, starts, offset):
    """The numbers starts[offset + row], int64, in registers."""
    rows = types.UniTuple(types.int64, isa.rows)

    def code(context, builder, sig, args):
        at = pointer(builder, args[1], args[2], I64)
        found = ir.Constant(context.get_value_type(rows), ir.Undefined)
        for r in range(isa.rows):
            found = builder.insert_value(found, builder.load(pointer(builder, at, r, I64), align=8), r)
        return found

    return rows(isa, starts, types.intp), code


@intrinsic
def tile_dot(typing, isa, tile, levels, queries, offset):
    """tile[0] += dot4(levels, the register of query bytes at queries[offset]), lane by lane."""

    def code(context, builder, sig, args):
        _, acc, values, quads, at = args
        query = builder.load(pointer(builder, quads, at, values.type), align=4)
        return builder.insert_value(acc, dot4(isa, builder, builder.extract_value(acc, 0), values, query), 0)

    return tile(isa, tile, levels, queries, types.intp), code


@intrinsic
def tile_total(typing, tile):
    """The sum of all lanes of row 0, int32."""

    def code(context, builder, sig, args):
        lanes = builder.extract_value(args[0], 0)
        return call(builder, f"llvm.vector.reduce.add.v{tile.lanes}i32", I32, [lanes])

    return types.int32(tile), code


@intrinsic
def tile_store(typing, tile, out, offset, stride):
    """out[offset + row * stride + lane] = tile, int32."""

    def code(context, builder, sig, args):
        acc, out_, at, step = args
        for r in range(tile.rows):
            value = builder.extract_value(acc, r)
            builder.store(value, pointer(builder, out_, at, value.type), align=4)
            at = builder.add(at, step)
        return context.get_dummy_value()

    return types.none(tile, out, types.intp, types.intp), code


@intrinsic
def tile_keys(typing, tile, gains, thresholds, first_query, scales, shifts, first_vector, out):
    """A bit for each row that has a key, (tile * gain_row) * scale_lane + shift_lane in float32, at or above its
    threshold; if any has, out[row, lane] are the keys."""
    lanes = tile.lanes

    def code(context, builder, sig, args):
        acc, gains_, thresholds_, q, scales_, shifts_, v, out_ = args
        floats = vector(F32, lanes)
        gain, threshold = pointer(builder, gains_, q, F32), pointer(builder, thresholds_, q, F32)
        scale = builder.load(pointer(builder, scales_, v, floats), align=4)
        shift = builder.load(pointer(builder, shifts_, v, floats), align=4)
        hits, keys = ir.Constant(I64, 0), []
        for r in range(tile.rows):
            key = builder.sitofp(builder.extract_value(acc, r), floats)
            key = builder.fmul(key, splat(builder, builder.load(pointer(builder, gain, r, F32), align=4), lanes))
            key = builder.fadd(builder.fmul(key, scale), shift)
            limit = splat(builder, builder.load(pointer(builder, threshold, r, F32), align=4), lanes)
            above = builder.bitcast(builder.fcmp_ordered(">=", key, limit), ir.IntType(lanes))
            hit = builder.icmp_unsigned("!=", above, ir.Constant(ir.IntType(lanes), 0))
            hits = builder.or_(hits, builder.shl(builder.zext(hit, I64), ir.Constant(I64, r)))
            keys.append(key)
        with builder.if_then(builder.icmp_unsigned("!=", hits, ir.Constant(I64, 0)), likely=False):
            for r, key in enumerate(keys):
                builder.store(key, pointer(builder, out_, r * lanes, floats), align=4)
        return hits

    return types.uint64(tile, gains, thresholds, types.intp, scales, shifts, types.intp, out), code



@intrinsic
def tile_scores(typing, tile, gains, first_query, scales, lane, base, first, stride, keys):
    """keys[row, lane] = base[first + row * stride + lane] + (tile * gain_row) * scales[lane ..], in float32."""
    lanes = tile.lanes

    def code(context, builder, sig, args):
        acc, gains_, q, scales_, at, base_, first_, step, keys_ = args
        floats = vector(F32, lanes)
        gain = pointer(builder, gains_, q, F32)
        scale = builder.load(pointer(builder, scales_, at, floats), align=4)
        for r in range(tile.rows):
            before = builder.load(pointer(builder, base_, first_, floats), align=4)
            first_ = builder.add(first_, step)
            score = builder.sitofp(builder.extract_value(acc, r), floats)
            score = builder.fmul(score, splat(builder, builder.load(pointer(builder, gain, r, F32), align=4), lanes))
            key = builder.fadd(before, builder.fmul(score, scale))
            builder.store(key, pointer(builder, keys_, r * lanes, floats), align=4)
        return context.get_dummy_value()

    signature = types.none(
        tile, gains, types.intp, scales, types.intp, base, types.intp, types.intp, keys
    )
    return signature, code


@intrinsic
def rows_reaching(typing, isa, keys, reaches, limits, first_query, lengths, lane):
    """A bit for each row with a key that may reach its limit: keys[row, lane] + reach_row * lengths[lane ..] >= it."""
    lanes = isa.nbytes // 4

    def code(context, builder, sig, args):
        _, keys_, reaches_, limits_, q, lengths_, at = args
        floats = vector(F32, lanes)
        reach, limit = pointer(builder, reaches_, q, F32), pointer(builder, limits_, q, F32)
        length = builder.load(pointer(builder, lengths_, at, floats), align=4)
        hits = ir.Constant(I64, 0)
        for r in range(isa.rows):
            key = builder.load(pointer(builder, keys_, r * lanes, floats), align=4)
            far = splat(builder, builder.load(pointer(builder, reach, r, F32), align=4), lanes)
            least = splat(builder, builder.load(pointer(builder, limit, r, F32), align=4), lanes)
            bound = builder.fadd(key, builder.fmul(far, length))
            above = builder.bitcast(builder.fcmp_ordered(">=", bound, least), ir.IntType(lanes))
            hit = builder.icmp_unsigned("!=", above, ir.Constant(ir.IntType(lanes), 0))
            hits = builder.or_(hits, builder.shl(builder.zext(hit, I64), ir.Constant(I64, r)))
        return hits

    return types.uint64(isa, keys, reaches, limits, types.intp, lengths, types.intp), code


@intrinsic
def most_of(typing, isa, keys, at):
    """The largest of keys[at + lane], a register; anything where some are NaN."""
    lanes = isa.nbytes // 4

    def code(context, builder, sig, args):
        _, keys_, at_ = args
        found = builder.load(pointer(builder, keys_, at_, vector(F32, lanes)), align=4)
        return call(builder, f"llvm.vector.reduce.fmax.v{lanes}f32", F32, [found])

    return types.float32(isa, keys, types.intp), code
