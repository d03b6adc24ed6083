"""Costs of the 256 states of a trellis as registers, and a tag that says how far a step of it goes.

16 registers of 16 float32, which the encoder (viterbi.py) hands from step to step. Like lanes.py, nothing here names an
instruction: every operation is rounded as IEEE says, on every machine.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.datamodel import models, register_default
from numba.extending import NativeValue, intrinsic, typeof_impl, unbox

from polarindex.kernels.lanes import FLOATS, I32, I64, LANES

STATES = 256
CHOICES = 16  # 16-bit words of what a step chose; 1 to 4 bits take 8, 12, 14 or 15
_REGISTERS = STATES // LANES


class Step:
    """A tag: the bits of a coordinate, 1 to 4, by which states are shifted; a kernel is compiled for it."""

    __slots__ = ("bits",)

    def __init__(self, bits: int) -> None:
        self.bits = bits


class StepType(types.Type):
    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__(name=f"Step({bits})")


class Costs(types.Type):
    """STATES float32."""

    def __init__(self) -> None:
        super().__init__(name="costs")


COSTS = Costs()
register_default(StepType)(models.OpaqueModel)


@register_default(Costs)
class _CostsModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Costs) -> None:
        super().__init__(manager, kind, ir.ArrayType(FLOATS.vector, _REGISTERS))


@typeof_impl.register(Step)
def _typeof_step(value: Step, context: Any) -> StepType:
    return _step_type(value.bits)


@lru_cache(maxsize=4)
def _step_type(bits: int) -> StepType:
    return StepType(bits)


@unbox(StepType)
def _unbox_step(kind: StepType, value: Any, c: Any) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


@intrinsic
def bits_of(typing, step):
    """Known at compile time."""

    def code(context, builder, sig, args):
        return context.get_constant(types.intp, step.bits)

    return types.intp(step), code


def _register(builder: ir.IRBuilder, address: ir.Value, number: int) -> ir.Value:
    """Where 16 float32 of an address are, as a pointer to a register."""
    return builder.bitcast(builder.gep(address, [ir.Constant(I64, LANES * number)]), FLOATS.vector.as_pointer())


@intrinsic
def costs_at(typing, address):
    """STATES float32 from an address."""

    def code(context, builder, sig, args):
        costs = ir.Constant(context.get_value_type(COSTS), ir.Undefined)
        for r in range(_REGISTERS):
            costs = builder.insert_value(costs, builder.load(_register(builder, args[0], r), align=4), r)
        return costs

    return COSTS(address), code


@intrinsic
def put_costs(typing, address, costs):
    """Write STATES float32 at an address."""

    def code(context, builder, sig, args):
        for r in range(_REGISTERS):
            builder.store(builder.extract_value(args[1], r), _register(builder, args[0], r), align=4)
        return context.get_dummy_value()

    return types.none(address, costs), code


@intrinsic
def add_errors(typing, costs, value, levels):
    """costs + (value - levels)^2; levels: the address of STATES float32."""

    def code(context, builder, sig, args):
        total, one, address = args
        undefined = ir.Constant(FLOATS.vector, ir.Undefined)
        every = builder.insert_element(undefined, one, ir.Constant(I32, 0))
        every = builder.shuffle_vector(every, undefined, ir.Constant(ir.VectorType(I32, LANES), [0] * LANES))
        for r in range(_REGISTERS):
            error = builder.fsub(every, builder.load(_register(builder, address, r), align=4))
            cost = builder.fadd(builder.extract_value(total, r), builder.fmul(error, error))
            total = builder.insert_value(total, cost, r)
        return total

    return costs(costs, types.float32, levels), code


@intrinsic
def shifted(typing, step, costs, choices, at):
    """Of each state, the least cost of the 2^bits states that may follow it, s of (s >> bits) + m (256 >> bits).

    Round r, r = 0 .. bits - 1, takes the lesser of state i and state i + (128 >> r) for i < 128 >> r; bit i of the
    words from choices[at + 16 - (16 >> r)] on says that it was the second. choices: an address of uint16.
    """

    def code(context, builder, sig, args):
        _, given, words, first = args
        registers = [builder.extract_value(given, r) for r in range(_REGISTERS)]
        place = 0
        for _ in range(step.bits):
            half = len(registers) // 2
            for r in range(half):
                less = builder.fcmp_ordered("<", registers[half + r], registers[r])
                registers[r] = builder.select(less, registers[half + r], registers[r])
                word = builder.gep(words, [builder.add(first, ir.Constant(I64, place))])
                builder.store(builder.bitcast(less, ir.IntType(LANES)), word, align=2)
                place += 1
            registers = registers[:half]
        found = ir.Constant(context.get_value_type(COSTS), ir.Undefined)
        for r in range(_REGISTERS):
            source = registers[r >> step.bits]
            lanes = [(LANES * (r % (1 << step.bits)) + lane) >> step.bits for lane in range(LANES)]
            order = ir.Constant(ir.VectorType(I32, LANES), lanes)
            found = builder.insert_value(found, builder.shuffle_vector(source, source, order), r)
        return found

    return costs(step, costs, choices, types.intp), code
