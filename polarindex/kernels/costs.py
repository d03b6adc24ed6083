"""Costs of a trellis' states, which the encoder (viterbi.py) hands from step to step, and a tag that tells the trellis.

Of windows of 8 bits they are 16 registers of 16 float32; of longer ones two rooms in memory that take turns. Like
lanes.py, nothing here names an instruction: every operation is rounded as IEEE says, on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.extending import NativeValue, intrinsic, typeof_impl, unbox

from polarindex.kernels.lanes import FLOATS, I32, I64, LANES

_HELD = 8  # bits of the longest window whose costs stay in registers


class Step:
    """A tag: the bits of a coordinate, 1 to 4, by which states are shifted, and of a state, which is a window of the
    code; a kernel is compiled for it."""

    __slots__ = ("bits", "window")

    def __init__(self, bits: int, window: int = 8) -> None:
        self.bits, self.window = bits, window


class StepType(types.Type):
    def __init__(self, bits: int, window: int) -> None:
        self.bits, self.window = bits, window
        self.registers = (1 << window) // LANES
        super().__init__(name=f"Step({bits}, {window})")


class Costs(types.Type):
    """A float32 for every window: registers, or the addresses of where they are and of as much room."""

    def __init__(self, window: int) -> None:
        self.window = window
        super().__init__(name=f"costs{window}")


register_default(StepType)(models.OpaqueModel)


@register_default(Costs)
class _CostsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Costs) -> None:
        if kind.window <= _HELD:
            held = ir.ArrayType(FLOATS.vector, (1 << kind.window) // LANES)
        else:
            held = ir.ArrayType(ir.FloatType().as_pointer(), 2)
        super().__init__(manager, kind, held)


@typeof_impl.register(Step)
def _typeof_step(value: Step, context: Any) -> StepType:
    return _step_type(value.bits, value.window)


@lru_cache(maxsize=8)
def _step_type(bits: int, window: int) -> StepType:
    return StepType(bits, window)


@unbox(StepType)
def _unbox_step(kind: StepType, value: Any, c: Any) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


def _known(choose: Callable[[StepType], int]) -> Any:
    """An intrinsic of the tag alone, known at compile time."""

    @intrinsic
    def value(typing, step):
        def code(context, builder, sig, args):
            return context.get_constant(types.intp, choose(step))

        return types.intp(step), code

    return value


bits_of = _known(lambda step: step.bits)
window_of = _known(lambda step: step.window)
choices_of = _known(lambda step: step.registers)  # room for what a step chose, of which 2^-bits are left over


def _register(builder: ir.IRBuilder, address: ir.Value, number: ir.Value) -> ir.Value:
    """Where register `number` of an address of float32 is."""
    return builder.bitcast(builder.gep(address, [builder.mul(number, _number(LANES))]), FLOATS.vector.as_pointer())


def _number(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


def _load(builder: ir.IRBuilder, address: ir.Value, number: ir.Value) -> ir.Value:
    return builder.load(_register(builder, address, number), align=4)


def _with_error(builder: ir.IRBuilder, cost: ir.Value, every: ir.Value, levels: ir.Value, number: ir.Value) -> ir.Value:
    """cost + (value - level)^2 of register `number`."""
    error = builder.fsub(every, _load(builder, levels, number))
    return builder.fadd(cost, builder.fmul(error, error))


def _splat(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    undefined = ir.Constant(FLOATS.vector, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))


@contextmanager
def _every(builder: ir.IRBuilder, count: int) -> Iterator[ir.Value]:
    """The body of a loop over 0 .. count - 1."""
    with cgutils.for_range(builder, _number(count)) as loop:
        yield loop.index


@intrinsic
def first_costs(typing, step, room, value, levels):
    """The costs at an address of float32, which are written there, with (value - levels)^2 added to each.

    room: of windows of more than 8 bits costs move between there and as much room behind; levels: an address, too.
    """
    costs = Costs(step.window)

    def code(context, builder, sig, args):
        _, at, one, book = args
        every, found = _splat(builder, one), ir.Constant(context.get_value_type(costs), ir.Undefined)
        if step.window <= _HELD:
            for r in range(step.registers):
                cost = _with_error(builder, _load(builder, at, _number(r)), every, book, _number(r))
                found = builder.insert_value(found, cost, r)
            return found
        with _every(builder, step.registers) as r:
            builder.store(
                _with_error(builder, _load(builder, at, r), every, book, r), _register(builder, at, r), align=4
            )
        found = builder.insert_value(found, at, 0)
        return builder.insert_value(found, builder.gep(at, [_number(1 << step.window)]), 1)

    return costs(step, room, types.float32, levels), code


@intrinsic
def put_costs(typing, step, costs, room):
    """Write costs at an address: of windows of more than 8 bits, that which `first_costs` had."""

    def code(context, builder, sig, args):
        _, given, at = args
        if step.window <= _HELD:
            for r in range(step.registers):
                builder.store(builder.extract_value(given, r), _register(builder, at, _number(r)), align=4)
        else:
            source = builder.extract_value(given, 0)
            with _every(builder, step.registers) as r:  # onto themselves, where the number of steps was even
                builder.store(_load(builder, source, r), _register(builder, at, r), align=4)
        return context.get_dummy_value()

    return types.none(step, costs, room), code


def _least(builder: ir.IRBuilder, step: StepType, followers: list[ir.Value], words: ir.Value, at: ir.Value) -> ir.Value:
    """Lane by lane the least of 2^bits registers, in rounds of the lesser of two halves, whose masks are written."""
    start, apart = 0, step.registers >> step.bits  # words between two registers' masks
    while len(followers) > 1:
        half = len(followers) // 2
        for m in range(half):
            less = builder.fcmp_ordered("<", followers[half + m], followers[m])
            followers[m] = builder.select(less, followers[half + m], followers[m])
            word = builder.gep(words, [builder.add(at, _number(start + m * apart))])
            builder.store(builder.bitcast(less, ir.IntType(LANES)), word, align=2)
        followers, start = followers[:half], start + half * apart
    return followers[0]


def _spread(
    builder: ir.IRBuilder, step: StepType, least: ir.Value, place: ir.Value, every: ir.Value, levels: ir.Value
) -> Iterator[ir.Value]:
    """The costs of registers place .. place + 2^bits - 1: each of 16 is that of 2^bits windows, with their errors."""
    for e in range(1 << step.bits):
        order = [(LANES * e + lane) >> step.bits for lane in range(LANES)]
        cost = builder.shuffle_vector(least, least, ir.Constant(ir.VectorType(I32, LANES), order))
        yield _with_error(builder, cost, every, levels, builder.add(place, _number(e)))


@intrinsic
def next_costs(typing, step, costs, choices, at, value, levels):
    """Of each state, the least cost of the 2^bits states that may follow it, s of (s >> bits) + m (states >> bits), and
    (value - levels)^2.

    Round r, r = 0 .. bits - 1, takes the lesser of state i and state i + (states / 2 >> r) for i < states / 2 >> r; bit
    i of the words from choices[at + c - (c >> r)] on, c = choices_of(step), says that it was the second. choices: an
    address of uint16.
    """
    many = 1 << step.bits
    apart = step.registers >> step.bits

    def code(context, builder, sig, args):
        _, given, words, first, one, book = args
        every = _splat(builder, one)
        found = ir.Constant(context.get_value_type(costs), ir.Undefined)
        if step.window <= _HELD:
            for g in range(apart):
                followers = [builder.extract_value(given, m * apart + g) for m in range(many)]
                least = _least(builder, step, followers, words, builder.add(first, _number(g)))
                for e, cost in enumerate(_spread(builder, step, least, _number(g * many), every, book)):
                    found = builder.insert_value(found, cost, g * many + e)
            return found
        source, target = (builder.extract_value(given, part) for part in (0, 1))
        with _every(builder, apart) as g:
            followers = [_load(builder, source, builder.add(g, _number(m * apart))) for m in range(many)]
            least = _least(builder, step, followers, words, builder.add(first, g))
            place = builder.mul(g, _number(many))
            for e, cost in enumerate(_spread(builder, step, least, place, every, book)):
                builder.store(cost, _register(builder, target, builder.add(place, _number(e))), align=4)
        found = builder.insert_value(found, target, 0)
        return builder.insert_value(found, source, 1)

    return costs(step, costs, choices, types.intp, types.float32, levels), code
