"""Registers of 16 values, of sixteen rows or of one, that mean the same on every instruction set.

LLVM's own vectors: one register of AVX-512, two of AVX2, four of 128 bits. Only whole loads and stores, + - * /, sqrt,
comparisons and bit operations, each rounded as IEEE says, so a lane computes what a scalar loop over its row would.
Unlike simd.py, nothing here names an instruction, and there is no Isa to pass.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.core.errors import TypingError
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic

LANES = 16
I32, I64 = ir.IntType(32), ir.IntType(64)


class Lanes(types.Type):
    """LANES values of one type."""

    def __init__(self, name: str, element: ir.Type) -> None:
        self.vector = ir.VectorType(element, LANES)
        super().__init__(name=f"{name}x{LANES}")


FLOATS = Lanes("float32", ir.FloatType())
DOUBLES = Lanes("float64", ir.DoubleType())
WORDS = Lanes("uint32", I32)
MASK = Lanes("bool", ir.IntType(1))
OF = {types.float32: FLOATS, types.float64: DOUBLES, types.uint32: WORDS}


@register_default(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, kind.vector)


# --- operators


def _operator(function: Any, result: Lanes | None, kinds: tuple[Lanes, ...], emit: Any) -> None:
    """`function(a, b)` of two registers of a kind; `emit(builder, a, b)` writes the instruction."""
    signatures = [signature(result or kind, kind, kind) for kind in kinds]
    infer_global(function)(type("_Lanes", (ConcreteTemplate,), {"cases": signatures}))
    for kind in kinds:
        lower_builtin(function, kind, kind)(lambda context, builder, sig, args: emit(builder, *args))


_FLOATING, _BITS = (FLOATS, DOUBLES), (WORDS,)
_operator(operator.add, None, _FLOATING, lambda builder, a, b: builder.fadd(a, b))
_operator(operator.sub, None, _FLOATING, lambda builder, a, b: builder.fsub(a, b))
_operator(operator.mul, None, _FLOATING, lambda builder, a, b: builder.fmul(a, b))
_operator(operator.truediv, None, _FLOATING, lambda builder, a, b: builder.fdiv(a, b))
_operator(operator.ge, MASK, _FLOATING, lambda builder, a, b: builder.fcmp_ordered(">=", a, b))
_operator(operator.and_, None, (MASK,), lambda builder, a, b: builder.and_(a, b))
_operator(operator.add, None, _BITS, lambda builder, a, b: builder.add(a, b))
_operator(operator.or_, None, _BITS, lambda builder, a, b: builder.or_(a, b))
_operator(operator.and_, None, _BITS, lambda builder, a, b: builder.and_(a, b))
_operator(operator.lshift, None, _BITS, lambda builder, a, b: builder.shl(a, b))
_operator(operator.rshift, None, _BITS, lambda builder, a, b: builder.lshr(a, b))


def _splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    vector = ir.VectorType(value.type, LANES)
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))


def _pointer(context: Any, builder: ir.IRBuilder, kind: Any, array: ir.Value, at: ir.Value) -> ir.Value:
    """Where element `at` of a C-contiguous array is, as a pointer to a register."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), OF[kind.dtype].vector.as_pointer())


def _line(context: Any, builder: ir.IRBuilder, kind: Any, array: ir.Value, row: ir.Value) -> ir.Value:
    return _pointer(context, builder, kind, array, builder.mul(row, ir.Constant(I64, LANES)))


def _element(array: Any) -> Any:
    """The element type of a C-contiguous array, which is all that is addressed here."""
    if not isinstance(array, types.Array) or array.layout != "C":
        raise TypingError(f"a C-contiguous array is wanted, got {array}")
    return array.dtype


# --- what kernels call; a block is an (m, 16) array, its lines are registers


@intrinsic
def splat(typing, value):
    """The value in every lane."""

    def code(context, builder, sig, args):
        return _splat(builder, args[0])

    return OF[value](value), code


@intrinsic
def load(typing, block, row):
    """Line `row` of a block."""

    def code(context, builder, sig, args):
        return builder.load(_line(context, builder, sig.args[0], *args), align=4)

    return OF[_element(block)](block, types.intp), code


@intrinsic
def store(typing, block, row, lanes):
    """block[row] = lanes."""
    _element(block)

    def code(context, builder, sig, args):
        array, at, value = args
        builder.store(value, _line(context, builder, sig.args[0], array, at), align=4)
        return context.get_dummy_value()

    return types.void(block, types.intp, lanes), code


@intrinsic
def widen(typing, lanes):
    """float32 as float64, exactly."""

    def code(context, builder, sig, args):
        return builder.fpext(args[0], DOUBLES.vector)

    return DOUBLES(lanes), code


@intrinsic
def narrow(typing, lanes):
    """float64 rounded to float32."""

    def code(context, builder, sig, args):
        return builder.fptrunc(args[0], FLOATS.vector)

    return FLOATS(lanes), code


@intrinsic
def root(typing, lanes):
    """Square roots."""

    def code(context, builder, sig, args):
        kind = args[0].type
        name = "llvm.sqrt.v16f64" if lanes is DOUBLES else "llvm.sqrt.v16f32"
        function = builder.module.declare_intrinsic(name, fnty=ir.FunctionType(kind, [kind]))
        return builder.call(function, args)

    return lanes(lanes), code


@intrinsic
def choose(typing, mask, a, b):
    """a where the mask is set, else b."""

    def code(context, builder, sig, args):
        return builder.select(*args)

    return a(mask, a, b), code


@intrinsic
def ones(typing, mask):
    """1 where the mask is set, else 0."""

    def code(context, builder, sig, args):
        return builder.zext(args[0], WORDS.vector)

    return WORDS(mask), code


def _gathered(context: Any, builder: ir.IRBuilder, kind: Any, table: ir.Value, index: ir.Value) -> ir.Value:
    """Elements of a C-contiguous float32 array, lane by lane."""
    data = context.make_array(kind)(context, builder, table).data
    wide = ir.VectorType(I64, LANES)
    offsets = builder.shl(builder.zext(index, wide), ir.Constant(wide, [2] * LANES))
    addresses = builder.add(_splat(builder, builder.ptrtoint(data, I64)), offsets)
    pointers = builder.inttoptr(addresses, ir.VectorType(data.type, LANES))
    kind = ir.FunctionType(FLOATS.vector, [pointers.type, I32, MASK.vector, FLOATS.vector])
    function = builder.module.declare_intrinsic("llvm.masked.gather.v16f32.v16p0", fnty=kind)
    every, nothing = ir.Constant(MASK.vector, [1] * LANES), ir.Constant(FLOATS.vector, [0.0] * LANES)
    return builder.call(function, [pointers, ir.Constant(I32, 4), every, nothing])


@intrinsic
def lookup(typing, table, index):
    """table[index] lane by lane; table (m,) float32, index under m."""

    def code(context, builder, sig, args):
        return _gathered(context, builder, sig.args[0], *args)

    return OF[_element(table)](table, index), code


@intrinsic
def lookup16(typing, table, index):
    """table[0, index] lane by lane; table (1, 16) float32, index under 16.

    AVX-512 has one instruction for it, which LLVM finds behind sixteen; elsewhere a gather is faster than those.
    """

    def code(context, builder, sig, args):
        table_, wanted = args
        if "+avx512f" not in context.codegen().magic_tuple()[2]:
            return _gathered(context, builder, sig.args[0], table_, wanted)
        line = _line(context, builder, sig.args[0], table_, ir.Constant(I64, 0))
        values = builder.load(line, align=4)
        chosen = ir.Constant(values.type, ir.Undefined)
        for v in range(LANES):
            lane = ir.Constant(I32, v)
            value = builder.extract_element(values, builder.extract_element(wanted, lane))
            chosen = builder.insert_element(chosen, value, lane)
        return chosen

    return OF[_element(table)](table, index), code


@intrinsic
def transpose(typing, source, i, j, target, k, l):  # noqa: E741
    """target[k + b, l + a] = source[i + a, j + b] for a, b < 16; two C-contiguous matrices of 4-byte values."""
    _element(source), _element(target)

    def code(context, builder, sig, args):
        x, i_, j_, y, k_, l_ = args
        width = builder.extract_value(context.make_array(sig.args[0])(context, builder, x).shape, 1)
        stride = builder.extract_value(context.make_array(sig.args[3])(context, builder, y).shape, 1)

        def at(row: ir.Value, step: int, pitch: ir.Value, column: ir.Value) -> ir.Value:
            return builder.add(builder.mul(builder.add(row, ir.Constant(I64, step)), pitch), column)

        lines = [
            builder.load(_pointer(context, builder, sig.args[0], x, at(i_, a, width, j_)), align=4)
            for a in range(LANES)
        ]
        half = LANES // 2
        while half:  # swap blocks of half x half values across the diagonal of blocks twice as large
            for a in range(LANES):
                if a & half:
                    continue
                upper, lower = lines[a], lines[a + half]
                first = [b if not b & half else LANES + b - half for b in range(LANES)]
                second = [b + half if not b & half else LANES + b for b in range(LANES)]
                index = ir.VectorType(I32, LANES)
                lines[a] = builder.shuffle_vector(upper, lower, ir.Constant(index, first))
                lines[a + half] = builder.shuffle_vector(upper, lower, ir.Constant(index, second))
            half //= 2
        for b, line in enumerate(lines):
            builder.store(line, _pointer(context, builder, sig.args[3], y, at(k_, b, stride, l_)), align=4)
        return context.get_dummy_value()

    return types.void(source, types.intp, types.intp, target, types.intp, types.intp), code


# --- at addresses (simd.start, address_of), where rows lie as rows: a register is sixteen elements of one


@intrinsic
def address_of(typing, kind, address):
    """An integer as the address of elements of kind's dtype; kind is a dtype (np.float32) or an address."""

    def code(context, builder, sig, args):
        return builder.inttoptr(args[1], context.get_value_type(sig.return_type))

    return types.CPointer(kind.dtype)(kind, types.int64), code


@intrinsic
def moved(typing, address, count):
    """The address `count` elements further on."""

    def code(context, builder, sig, args):
        return builder.gep(args[0], [args[1]])

    return address(address, types.intp), code


@intrinsic
def prefetch(typing, address, offset):
    """Ask for the cache line of element `offset` into the first-level cache."""

    def code(context, builder, sig, args):
        at = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [at.type, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, near, data = (ir.Constant(I32, value) for value in (0, 3, 1))
        builder.call(function, [at, read, near, data])
        return context.get_dummy_value()

    return types.none(address, types.intp), code


def _halves(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """Finite float16 values, given as their bits, as float32.

    The bits of |x| in the places where float32 has exponent and fraction are |x| / 2^112, subnormal where x is, and
    the product by 2^112 is exact. Two conversions of a type that the machine lacks would be calls of a library.
    """

    def every(value: int) -> ir.Constant:
        return ir.Constant(WORDS.vector, [value] * LANES)

    words = builder.zext(bits, WORDS.vector)
    magnitude = builder.bitcast(builder.shl(builder.and_(words, every(0x7FFF)), every(13)), FLOATS.vector)
    magnitude = builder.fmul(magnitude, ir.Constant(FLOATS.vector, [2.0**112] * LANES))
    sign = builder.shl(builder.and_(words, every(0x8000)), every(16))
    return builder.bitcast(builder.or_(builder.bitcast(magnitude, WORDS.vector), sign), FLOATS.vector)


def _as_floats(builder: ir.IRBuilder, kind: Any, values: ir.Value) -> ir.Value:
    """Sixteen stored elements as float32, exactly."""
    if kind is types.uint16:
        return _halves(builder, values)
    return builder.sitofp(values, FLOATS.vector) if kind is types.int8 else values


def _stored(address: Any) -> Any:
    """The type of the elements at an address."""
    if not isinstance(address, types.CPointer) or address.dtype not in (types.float32, types.uint16, types.int8):
        raise TypingError(f"an address of float32, float16 (as uint16) or int8 is wanted, got {address}")
    return address.dtype


@intrinsic
def floats_at(typing, address, offset):
    """Elements offset .. offset + 15 as float32; at the address are float32, float16 (as uint16) or int8."""
    kind = _stored(address)

    def code(context, builder, sig, args):
        first = builder.gep(args[0], [args[1]])
        vector = ir.VectorType(context.get_value_type(kind), LANES)
        values = builder.load(builder.bitcast(first, vector.as_pointer()), align=kind.bitwidth // 8)
        return _as_floats(builder, kind, values)

    return FLOATS(address, types.intp), code


@intrinsic
def put_at(typing, address, offset, lanes):
    """Write 16 float32 at an address of float32, from element `offset` on."""

    def code(context, builder, sig, args):
        first = builder.gep(args[0], [args[1]])
        builder.store(args[2], builder.bitcast(first, FLOATS.vector.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.none(address, types.intp, lanes), code


@intrinsic
def words_at(typing, address, offset):
    """16 uint32 from element `offset` on of an address of 4-byte integers."""

    def code(context, builder, sig, args):
        first = builder.gep(args[0], [args[1]])
        return builder.load(builder.bitcast(first, WORDS.vector.as_pointer()), align=4)

    return WORDS(address, types.intp), code


@intrinsic
def halves_at(typing, address, offset):
    """The 16 uint16 from address[offset] on, as uint32."""

    def code(context, builder, sig, args):
        halves = ir.VectorType(ir.IntType(16), LANES)
        at = builder.bitcast(builder.gep(args[0], [args[1]]), halves.as_pointer())
        return builder.zext(builder.load(at, align=2), WORDS.vector)

    return WORDS(address, types.intp), code


@intrinsic
def put_halves_at(typing, address, offset, words):
    """address[offset ..] = the lower halves of words, uint16."""

    def code(context, builder, sig, args):
        halves = ir.VectorType(ir.IntType(16), LANES)
        at = builder.bitcast(builder.gep(args[0], [args[1]]), halves.as_pointer())
        builder.store(builder.trunc(args[2], halves), at, align=2)
        return context.get_dummy_value()

    return types.none(address, types.intp, words), code


@intrinsic
def upper_halves_at(typing, address, offset):
    """The float32 whose upper halves are the 16 uint16 from address[offset] on, the lower being 0."""

    def code(context, builder, sig, args):
        halves = ir.VectorType(ir.IntType(16), LANES)
        at = builder.bitcast(builder.gep(args[0], [args[1]]), halves.as_pointer())
        words = builder.zext(builder.load(at, align=2), WORDS.vector)
        return builder.bitcast(builder.shl(words, ir.Constant(WORDS.vector, [16] * LANES)), FLOATS.vector)

    return FLOATS(address, types.intp), code


@intrinsic
def bits_as_floats(typing, words):
    """The float32 whose bits are these words."""

    def code(context, builder, sig, args):
        return builder.bitcast(args[0], FLOATS.vector)

    return FLOATS(words), code


@intrinsic
def low_as_floats(typing, words, count):
    """The integers whose two's complement is the lowest `count` bits of words, as float32."""

    def code(context, builder, sig, args):
        words_, count_ = args
        unused = _splat(builder, builder.sub(ir.Constant(I32, 32), builder.trunc(count_, I32)))
        return builder.sitofp(builder.ashr(builder.shl(words_, unused), unused), FLOATS.vector)

    return FLOATS(words, types.intp), code


@intrinsic
def first_lanes(typing, count):
    """A mask of the lanes below `count`."""

    def code(context, builder, sig, args):
        steps = ir.Constant(WORDS.vector, list(range(LANES)))
        return builder.icmp_signed("<", steps, _splat(builder, builder.trunc(args[0], I32)))

    return MASK(types.intp), code


@intrinsic
def lanes_set(typing, mask):
    """How many lanes of a mask are set."""

    def code(context, builder, sig, args):
        bits = builder.zext(builder.bitcast(args[0], ir.IntType(LANES)), I64)
        return builder.call(builder.module.declare_intrinsic("llvm.ctpop", [I64]), [bits])

    return types.intp(mask), code


@intrinsic
def pack_at(typing, address, offset, lanes, mask):
    """Write the lanes that a mask has one after the other from element `offset` on; what follows them, up to 16
    elements from `offset` on, is overwritten too."""

    def code(context, builder, sig, args):
        where, at, values, chosen = args
        first = builder.gep(where, [at])
        if "+avx512f" in context.codegen().magic_tuple()[2]:
            name = f"llvm.x86.avx512.mask.compress.v16{'f32' if values.type == FLOATS.vector else 'i32'}"
            kind = ir.FunctionType(values.type, [values.type, values.type, chosen.type])
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            packed = builder.call(function, [values, ir.Constant(values.type, ir.Undefined), chosen])
            builder.store(packed, builder.bitcast(first, values.type.as_pointer()), align=4)
            return context.get_dummy_value()
        elements = builder.bitcast(first, values.type.element.as_pointer())
        count = ir.Constant(I64, 0)
        for v in range(LANES):
            lane = ir.Constant(I32, v)
            builder.store(builder.extract_element(values, lane), builder.gep(elements, [count]), align=4)
            count = builder.add(count, builder.zext(builder.extract_element(chosen, lane), I64))
        return context.get_dummy_value()

    return types.none(address, types.intp, lanes, mask), code


@intrinsic
def few_floats_at(typing, address, count):
    """Elements 0 .. count - 1, count < 16, in the last lanes, and 0 in those before; nothing else is read."""
    kind = _stored(address)

    def code(context, builder, sig, args):
        first, count_ = args
        element = context.get_value_type(kind)
        vector = ir.VectorType(element, LANES)
        room = cgutils.alloca_once(builder, vector)
        builder.store(ir.Constant(vector, None), room)
        lanes = builder.gep(builder.bitcast(room, element.as_pointer()), [builder.sub(ir.Constant(I64, LANES), count_)])
        with cgutils.for_range(builder, count_) as loop:
            builder.store(builder.load(builder.gep(first, [loop.index])), builder.gep(lanes, [loop.index]))
        return _as_floats(builder, kind, builder.load(room))

    return FLOATS(address, types.intp), code


@intrinsic
def last_lanes(typing, count):
    """A mask of the last `count` lanes."""

    def code(context, builder, sig, args):
        wide = ir.VectorType(I64, LANES)
        places = ir.Constant(wide, list(range(LANES, 0, -1)))
        return builder.icmp_signed("<=", places, _splat(builder, args[0]))

    return MASK(types.intp), code


@intrinsic
def add_products(typing, sums, one, other):
    """sums + one * other: float64 sums of products of float32, which float64 holds exactly.

    So the sum is rounded once whether or not the machine fuses the two, and is the same bits.
    """

    def code(context, builder, sig, args):
        a, b = (builder.fpext(part, DOUBLES.vector) for part in args[1:])
        kind = ir.FunctionType(DOUBLES.vector, [DOUBLES.vector] * 3)
        function = builder.module.declare_intrinsic("llvm.fmuladd.v16f64", fnty=kind)
        return builder.call(function, [a, b, args[0]])

    return sums(sums, FLOATS, FLOATS), code


@intrinsic
def total(typing, lanes):
    """The sum of all lanes: of the lower and the upper eight, then of the four sums of those two, and so on."""

    def code(context, builder, sig, args):
        (sums,) = args
        half = LANES // 2
        while half:
            index = ir.VectorType(I32, half)
            parts = [list(range(half)), list(range(half, 2 * half))]
            lower, upper = (builder.shuffle_vector(sums, sums, ir.Constant(index, part)) for part in parts)
            sums = builder.fadd(lower, upper)
            half //= 2
        return builder.extract_element(sums, ir.Constant(I32, 0))

    return types.float64(lanes), code


@intrinsic
def butterflies(typing, lanes):
    """The Walsh-Hadamard transform of a register's 16 lanes, levels 1, 2, 4 and 8: (a, b) -> (a + b, a - b)."""

    def code(context, builder, sig, args):
        x = args[0]
        for half in (1, 2, 4, 8):
            other = builder.shuffle_vector(
                x, x, ir.Constant(ir.VectorType(I32, LANES), [lane ^ half for lane in range(LANES)])
            )
            signs = ir.Constant(x.type, [-1.0 if lane & half else 1.0 for lane in range(LANES)])
            x = builder.fadd(other, builder.fmul(x, signs))
        return x

    return lanes(lanes), code
