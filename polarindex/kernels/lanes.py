"""Sixteen rows side by side, one a lane: registers of 16 values that mean the same on every instruction set.

LLVM's own vectors: one register of AVX-512, two of AVX2, four of 128 bits. Only whole loads and stores, + - * /, sqrt,
comparisons and bit operations, each rounded as IEEE says, so a lane computes what a scalar loop over its row would.
Unlike simd.py, nothing here names an instruction, and there is no Isa to pass.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
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
