"""SIMD registers for kernels, chosen by a tag: the only file that names LLVM.

An `Isa` value is a kernel's first argument. Its Numba *type* names the instruction set, so one kernel text compiles
for every set, several can run in one process, and Numba's disk cache keeps them apart.

Law:       registers hold whole 128-bit lanes; a dot accumulator has one int32 a vector, so a 64-byte dot line (16
           vectors x 4 bytes) is one register of 512 bits or two of 256.
Exact:     every set computes the same integers. avx512 multiplies unsigned levels (level + 128) and starts its
           accumulators at -128 sum(q); avx2 multiplies |level| <= 127 by sign-corrected queries, whose pair sums,
           at most 2 * 127 * 127 = 32,258, cannot saturate 16 bits."""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from llvmlite.binding import llvm_version_info
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.extending import NativeValue, intrinsic, typeof_impl, unbox

I8, I16, I32, I64, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


class Instructions(NamedTuple):
    """What differs between instruction sets."""

    nbytes: int  # of a register
    bias: int  # added to signed levels before they are multiplied
    features: frozenset[str]  # what LLVM's target must have


SETS = {  # best first
    "avx512": Instructions(64, 128, frozenset({"avx512bw", "avx512vnni"})),
    "avx2": Instructions(32, 0, frozenset({"avx2"})),
}


class Isa:
    """A tag: the instruction set a kernel is compiled for, and the queries that share a tile of registers."""

    __slots__ = ("lanes", "name", "rows")

    def __init__(self, name: str, rows: int) -> None:
        self.name, self.rows = name, rows
        self.lanes = SETS[name].nbytes // 4  # vectors a register holds one int32 of


class IsaType(types.Type):
    def __init__(self, isa: str, rows: int) -> None:
        self.isa, self.rows = isa, rows
        self.nbytes, self.bias, _ = SETS[isa]
        super().__init__(name=f"Isa({isa}, {rows})")


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


def _vector(element: ir.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(element, lanes)


register_default(IsaType)(models.OpaqueModel)


@register_default(Register)
class _RegisterModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Register) -> None:
        super().__init__(manager, kind, _vector(I8, kind.nbytes))


@register_default(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Tile) -> None:
        super().__init__(manager, kind, ir.ArrayType(_vector(I32, kind.lanes), kind.rows))


@typeof_impl.register(Isa)
def _typeof_isa(value: Isa, context: Any) -> IsaType:
    return IsaType(value.name, value.rows)


@unbox(IsaType)
def _unbox_isa(kind: IsaType, value: Any, c: Any) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


# --- building blocks


def _splat(builder: ir.IRBuilder, value: ir.Value, lanes: int) -> ir.Value:
    undefined = ir.Constant(_vector(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(_vector(I32, lanes), [0] * lanes))


def _all(element: ir.Type, lanes: int, value: int) -> ir.Constant:
    return ir.Constant(_vector(element, lanes), [value] * lanes)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _pointer(
    context: Any, builder: ir.IRBuilder, kind: Any, array: ir.Value, offset: ir.Value, to: ir.Type
) -> ir.Value:
    """The address of element `offset` of a C-contiguous array, as a pointer to `to`."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), to.as_pointer())


def _dot4(isa: IsaType, builder: ir.IRBuilder, acc: ir.Value, levels: ir.Value, query: ir.Value) -> ir.Value:
    """acc[lane] += the four products of the lane's levels and the query's four bytes."""
    n = isa.nbytes
    if isa.isa == "avx512":
        if llvm_version_info < (22,):
            levels, query = (builder.bitcast(part, acc.type) for part in (levels, query))
        return _call(builder, f"llvm.x86.avx512.vpdpbusd.{8 * n}", acc.type, [acc, levels, query])
    # maddubs multiplies unsigned by signed: |level| by the query's byte with the level's sign
    magnitude = _call(builder, "llvm.x86.avx2.psign.b", levels.type, [levels, levels])
    signed = _call(builder, "llvm.x86.avx2.psign.b", levels.type, [query, levels])
    pairs = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", _vector(I16, n // 2), [magnitude, signed])
    quads = _call(builder, "llvm.x86.avx2.pmadd.wd", acc.type, [pairs, _all(I16, n // 2, 1)])
    return builder.add(acc, quads)


# --- what kernels call


@intrinsic
def load(typing, isa, words, offset):
    """The register of bytes at element `offset` of a uint32 array."""
    register = Register(isa.nbytes)

    def code(context, builder, sig, args):
        return builder.load(_pointer(context, builder, sig.args[1], args[1], args[2], _vector(I8, isa.nbytes)), align=4)

    return register(isa, words, types.intp), code


@intrinsic
def load_table(typing, isa, table):
    """The 16 levels of an int8 table, biased, repeated in every 128-bit lane."""
    n = isa.nbytes

    def code(context, builder, sig, args):
        start = ir.Constant(I64, 0)
        x = builder.load(_pointer(context, builder, sig.args[1], args[1], start, _vector(I8, 16)), align=1)
        if isa.bias:
            x = builder.xor(x, _all(I8, 16, isa.bias))
        return builder.shuffle_vector(x, x, ir.Constant(_vector(I32, n), [i % 16 for i in range(n)]))

    return Register(n)(isa, table), code


@intrinsic
def field(typing, line, width, index):
    """Code number `index` of every byte: (byte >> width * index) & (2^width - 1); width and index may be run-time."""
    n = line.nbytes

    def code(context, builder, sig, args):
        x, width_, index_ = args
        shift = builder.trunc(builder.mul(width_, index_), I16)
        mask = builder.sub(builder.shl(ir.Constant(I8, 1), builder.trunc(width_, I8)), ir.Constant(I8, 1))
        words = builder.bitcast(x, _vector(I16, n // 2))
        shifted = builder.lshr(words, _splat(builder, shift, n // 2))
        return builder.and_(builder.bitcast(shifted, x.type), _splat(builder, mask, n))

    return line(line, types.intp, types.intp), code


@intrinsic
def stack(typing, high, low, width):
    """(high << width) | low, byte by byte; no bit leaves its byte."""
    n = high.nbytes

    def code(context, builder, sig, args):
        a, b, width_ = args
        words = builder.bitcast(a, _vector(I16, n // 2))
        shifted = builder.shl(words, _splat(builder, builder.trunc(width_, I16), n // 2))
        return builder.or_(builder.bitcast(shifted, a.type), b)

    return high(high, low, types.intp), code


@intrinsic
def lookup(typing, isa, table, codes):
    """table[code] for every byte, codes under 16."""
    names = {"avx512": "llvm.x86.avx512.pshuf.b.512", "avx2": "llvm.x86.avx2.pshuf.b"}

    def code(context, builder, sig, args):
        return _call(builder, names[isa.isa], args[1].type, list(args[1:]))

    return table(isa, table, codes), code


@intrinsic
def grid_levels(typing, isa, codes):
    """Levels of an 8-bit line, whose code is its level + 128."""

    def code(context, builder, sig, args):
        return args[1] if isa.bias else builder.xor(args[1], _all(I8, isa.nbytes, 128))

    return codes(isa, codes), code


@intrinsic
def tile_start(typing, isa, sums, offset):
    """An accumulator a row at -bias * sums[offset + row], sums (nq,) int32 the sums of the queries' bytes."""
    tile = Tile(isa.rows, isa.nbytes // 4)

    def code(context, builder, sig, args):
        acc = ir.Constant(context.get_value_type(tile), ir.Undefined)
        pointer = _pointer(context, builder, sig.args[1], args[1], args[2], I32)
        for r in range(tile.rows):
            total = builder.load(builder.gep(pointer, [ir.Constant(I64, r)]), align=4)
            start = builder.mul(total, ir.Constant(I32, -isa.bias))
            acc = builder.insert_value(acc, _splat(builder, start, tile.lanes), r)
        return acc

    return tile(isa, sums, types.intp), code


@intrinsic
def tile_dot4(typing, isa, tile, levels, queries, offset):
    """tile[row] += dot4(levels, the query quad at queries[offset + row]) for every row; queries is int32 quads."""

    def code(context, builder, sig, args):
        _, acc, values, quads, start = args
        pointer = _pointer(context, builder, sig.args[3], quads, start, I32)
        for r in range(tile.rows):
            quad = builder.load(builder.gep(pointer, [ir.Constant(I64, r)]), align=4)
            query = builder.bitcast(_splat(builder, quad, tile.lanes), values.type)
            acc = builder.insert_value(acc, _dot4(isa, builder, builder.extract_value(acc, r), values, query), r)
        return acc

    return tile(isa, tile, levels, queries, types.intp), code


@intrinsic
def tile_keys(typing, tile, gains, thresholds, first_query, scales, shifts, first_vector, out):
    """out[row, lane] = (tile * gain_row) * scale_lane + shift_lane in float32; returns a bit for each row with a key
    at or above its threshold."""
    lanes = tile.lanes

    def code(context, builder, sig, args):
        acc, gains_, thresholds_, q, scales_, shifts_, v, out_ = args
        vector = _vector(F32, lanes)
        gain = _pointer(context, builder, sig.args[1], gains_, q, F32)
        threshold = _pointer(context, builder, sig.args[2], thresholds_, q, F32)
        scale = builder.load(_pointer(context, builder, sig.args[4], scales_, v, vector), align=4)
        shift = builder.load(_pointer(context, builder, sig.args[5], shifts_, v, vector), align=4)
        target = _pointer(context, builder, sig.args[7], out_, ir.Constant(I64, 0), vector)
        hits = ir.Constant(I64, 0)
        for r in range(tile.rows):
            row = ir.Constant(I64, r)
            key = builder.sitofp(builder.extract_value(acc, r), vector)
            key = builder.fmul(key, _splat(builder, builder.load(builder.gep(gain, [row]), align=4), lanes))
            key = builder.fadd(builder.fmul(key, scale), shift)
            builder.store(key, builder.gep(target, [row]), align=4)
            limit = _splat(builder, builder.load(builder.gep(threshold, [row]), align=4), lanes)
            above = builder.bitcast(builder.fcmp_ordered(">=", key, limit), ir.IntType(lanes))
            hit = builder.icmp_unsigned("!=", above, ir.Constant(ir.IntType(lanes), 0))
            hits = builder.or_(hits, builder.shl(builder.zext(hit, I64), row))
        return hits

    return types.uint64(tile, gains, thresholds, types.intp, scales, shifts, types.intp, out), code
