"""The encoder of trellis codes: of all rings of bits, the one whose windows' levels are nearest to a row.

Coordinate j's level is that of a window of 8 bits, which begins `bits` further on in the ring than that of coordinate
j - 1. Viterbi's algorithm goes from the last coordinate to the first: the cost of a window is the least squared error
of the coordinates from its own on. A window's successors share its upper bits, so that a step takes the least of
2^bits costs, which is `bits` rounds of the lesser of two halves, and gives it to 2^bits windows.

Law:       the windows of reference.trellis_windows, bit for bit, on every machine; ties go to the lower half, in each
           round. Costs are float32, each operation rounded.
Ring:      where the last window reaches over the end of the ring, its last bits are the first window's first. These
           are chosen as the best for SPAN coordinates on both sides of the seam, and then given: the error is the
           least among rings that have them. Of rows of 128 coordinates at 1 bit that costs .3 % of the error, where
           fixed bits would cost 4 %.
How:       256 costs are 16 registers of 16 (lanes.py), which stay registers from step to step; what a step chose is a
           bit a pair."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.datamodel import models, register_default
from numba.extending import NativeValue, intrinsic, typeof_impl, unbox

from polarindex.kernels.compile import inlined, kernel
from polarindex.kernels.lanes import FLOATS, I32, I64, LANES, MASK
from polarindex.kernels.simd import keep, start

WINDOW = 8  # bits
STATES = 1 << WINDOW
SPAN = 48  # coordinates on each side of the seam: 64 would take .1 % off the error of 128 coordinates at 1 bit
CHOICES = 16  # 16-bit words a step, of which bits rounds take 8, 12, 14 or 15
_REGISTERS = STATES // LANES
_NEVER = np.float32(1e30)


class Step:
    """A tag: how many bits a window is further on than the one before; a kernel is compiled for it."""

    __slots__ = ("bits",)

    def __init__(self, bits: int) -> None:
        self.bits = bits


class StepType(types.Type):
    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__(name=f"Step({bits})")


class Costs(types.Type):
    """STATES float32, one a window."""

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
    return StepType(value.bits)


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
    """Of each window, the least cost of the 2^bits windows that may follow it.

    Bit i of round r, from word choices[at + 16 - (16 >> r)] on, says that window i + (STATES >> r + 1) was less than
    window i.
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


assert MASK.vector.count == LANES == 16, "a choice is a bit of a 16-bit word"


@inlined
def _mirrored(window):
    """The window's bits in the opposite order."""
    found = 0
    for bit in range(WINDOW):
        found |= (window >> bit & 1) << (WINDOW - 1 - bit)
    return found


@inlined
def _agreed(step, overlap, z, d, book, backwards, choices, room):
    """The `overlap` bits that the first and the last window share: the best for the SPAN coordinates on both sides.

    book, backwards: addresses of the levels by window, and by the window's bits in the opposite order, for a step from
    the first coordinate to the last is one from the last to the first of the ring read backwards. room (3, STATES).
    """
    room[:] = 0
    after, before, best = room[0], room[1], room[2]
    span, first, last = min(SPAN, d), start(after), start(before)
    costs = add_errors(costs_at(first), z[span - 1], book)
    for j in range(span - 2, -1, -1):
        costs = add_errors(shifted(step, costs, choices, 0), z[j], book)
    put_costs(first, costs)
    costs = add_errors(costs_at(last), z[d - span], backwards)
    for j in range(d - span + 1, d):
        costs = add_errors(shifted(step, costs, choices, 0), z[j], backwards)
    put_costs(last, costs)
    shared = 1 << overlap
    best[: 2 * shared if overlap < WINDOW - 1 else STATES] = np.inf
    for window in range(STATES):
        low, high = window & (shared - 1), window >> (WINDOW - overlap)
        best[low] = min(best[low], after[window])
        best[shared + high] = min(best[shared + high], before[_mirrored(window)])
    agreed = 0
    for bits in range(1, shared):
        if best[bits] + best[shared + bits] < best[agreed] + best[shared + agreed]:
            agreed = bits
    return agreed


@inlined
def _put_field(words, i, at, value, count):
    """Bits at, at + 1, ... of row i of words become the lowest `count` bits of value; they were 0."""
    word, shift = at // 32, at % 32
    field = np.uint64(value & ((1 << count) - 1)) << np.uint64(shift)
    words[i, word] |= np.uint32(field & np.uint64(0xFFFFFFFF))
    if shift + count > 32 and word + 1 < words.shape[1]:
        words[i, word + 1] |= np.uint32(field >> np.uint64(32))


@kernel
def encode_trellis(step, y, gains, levels, words, dots):
    """words[i] = the ring for gains[i] * y[i] and the levels of windows; dots[i] = <y[i], levels>.

    step: a tag, the bits of a coordinate, 1 to 4; y (n, d) float32; gains (n,) float32; levels (256,) float32;
    words (n, w) uint32, w = ceil(d bits / 32): bit t of the ring is bit t % 32 of word t // 32; dots (n,) float64, added
    in the order of coordinates.
    """
    n, d = y.shape
    bits = bits_of(step)
    ring = 32 * words.shape[1]
    overlap = max(0, WINDOW - bits - (ring - d * bits))
    opposite = np.empty(STATES, np.float32)
    for window in range(STATES):
        opposite[_mirrored(window)] = levels[window]
    z, room, costs_room = np.empty(d, np.float32), np.empty((3, STATES), np.float32), np.empty(STATES, np.float32)
    chosen = np.empty((d, CHOICES), np.uint16)
    book, backwards, choices, held = start(levels), start(opposite), start(chosen), start(costs_room)
    for i in range(n):
        for j in range(d):
            z[j] = gains[i] * y[i, j]
        agreed = _agreed(step, overlap, z, d, book, backwards, choices, room) if overlap else 0
        for window in range(STATES):
            costs_room[window] = 0 if window >> (WINDOW - overlap) == agreed else _NEVER
        costs = add_errors(costs_at(held), z[d - 1], book)
        for j in range(d - 2, -1, -1):
            costs = add_errors(shifted(step, costs, choices, j * CHOICES), z[j], book)
        put_costs(held, costs)
        window = agreed
        for other in range(agreed, STATES, 1 << overlap):
            if costs_room[other] < costs_room[window]:
                window = other
        words[i] = 0
        dot = 0.0
        for j in range(d):
            dot += np.float64(y[i, j]) * np.float64(levels[window])
            if j == d - 1:
                break
            _put_field(words, i, j * bits, window, bits)
            at, place = window >> bits, CHOICES - (CHOICES >> (bits - 1))
            for r in range(bits - 1, -1, -1):
                place = CHOICES - (CHOICES >> r)
                at += (np.int64(chosen[j, place + (at >> 4)]) >> (at & 15) & 1) << (WINDOW - 1 - r)
            window = at
        _put_field(words, i, (d - 1) * bits, window, min(WINDOW, ring - (d - 1) * bits))
        dots[i] = dot
    keep(opposite)
    keep(chosen)
    keep(costs_room)
    keep(room)
