"""Sums over bit planes by nibble tables, four coordinates a lookup: the registers of the first pass.

Law:       a plane's nibble is four coordinates' bits; its table has the 16 sums of their query values, as bytes. In a
           line, byte 4 v + t is vector v's, so a 64-byte table holds the four tables of t = 0..3 and one VPERMB looks
           up 64 nibbles; VPDPBUSD by ones adds the four bytes of a vector into its int32.
Speed:     a lookup does the work of four multiply-adds a byte: 560-620 G coordinates/s on one Zen 4 core, where
           VPDPBUSD's peak is 234 G multiply-adds/s."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from llvmlite.binding import llvm_version_info
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.extending import intrinsic

from polarindex.kernels.simd import F32, I8, I16, I32, I64, Register, call, every, pointer, splat, vector

GROUP = 4  # panels that share the loads of a table
TABLE = 128  # bytes of a line's two tables, for lower and upper nibbles


class Group(types.Type):
    """Accumulators of `rows` queries x GROUP panels, one int32 a vector."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        super().__init__(name=f"group{rows}")


@register_default(Group)
class _GroupModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Group) -> None:
        super().__init__(manager, kind, ir.ArrayType(vector(I32, 16), kind.rows * GROUP))


@intrinsic
def group_zero(typing, isa):
    """Accumulators at 0."""
    group = Group(isa.rows)

    def code(context, builder, sig, args):
        return ir.Constant(context.get_value_type(group), [every(I32, 16, 0)] * (group.rows * GROUP))

    return group(isa), code


def _add_bytes(builder: ir.IRBuilder, acc: ir.Value, values: ir.Value) -> ir.Value:
    """acc[lane] += the lane's four unsigned bytes."""
    ones = every(I8, 64, 1)
    if llvm_version_info < (22,):
        values, ones = builder.bitcast(values, acc.type), every(I32, 16, 0x01010101)
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", acc.type, [acc, values, ones])


@intrinsic
def group_add(typing, group, words, line, stride, tables, offset):
    """group[row, panel] += the sums of a line: words[line + panel * stride] on, by the row's tables, TABLE bytes each
    from tables[offset] on, every byte at most 127."""
    bytes64 = vector(I8, 64)

    def code(context, builder, sig, args):
        acc, words_, line_, stride_, tables_, offset_ = args
        which = ir.Constant(bytes64, [i % 4 * 16 for i in range(64)])
        low, high = [], []
        for panel in range(GROUP):
            at = builder.add(line_, builder.mul(stride_, ir.Constant(I64, panel)))
            x = builder.load(pointer(builder, words_, at, bytes64), align=4)
            y = builder.bitcast(builder.lshr(builder.bitcast(x, vector(I16, 32)), every(I16, 32, 4)), bytes64)
            low.append(builder.or_(builder.and_(x, every(I8, 64, 15)), which))
            high.append(builder.or_(builder.and_(y, every(I8, 64, 15)), which))
        table = pointer(builder, tables_, offset_, I8)
        for r in range(group.rows):
            lower = builder.load(pointer(builder, table, r * TABLE, bytes64), align=64)
            upper = builder.load(pointer(builder, table, r * TABLE + 64, bytes64), align=64)
            for panel in range(GROUP):
                i = r * GROUP + panel
                a = call(builder, "llvm.x86.avx512.permvar.qi.512", bytes64, [lower, low[panel]])
                b = call(builder, "llvm.x86.avx512.permvar.qi.512", bytes64, [upper, high[panel]])
                total = _add_bytes(builder, builder.extract_value(acc, i), builder.add(a, b))
                acc = builder.insert_value(acc, total, i)
        return acc

    return group(group, words, types.intp, types.intp, tables, types.intp), code


@intrinsic
def group_scores(typing, group, steps, lifts, q, halves, halves_stride, base, keys, panel_stride):
    """Of one query: keys[panel, lane] = base[panel, lane] + (group * step + lift) * scale[panel, lane], in float32.

    base, keys: panels `panel_stride` apart; halves: upper halves of the scales, `halves_stride` apart.
    """

    def code(context, builder, sig, args):
        acc, steps_, lifts_, q_, halves_, halves_stride_, base_, keys_, stride_ = args
        floats, words = vector(F32, 16), vector(I32, 16)
        step, lift = (splat(builder, builder.load(pointer(builder, part, q_, F32), align=4), 16) for part in args[1:3])
        found = []
        for panel in range(GROUP):
            at, own = (builder.mul(by, ir.Constant(I64, panel)) for by in (stride_, halves_stride_))
            half = builder.load(pointer(builder, halves_, own, vector(I16, 16)), align=2)
            scale = builder.bitcast(builder.shl(builder.zext(half, words), every(I32, 16, 16)), floats)
            x = builder.sitofp(builder.extract_value(acc, panel), floats)
            x = builder.fmul(builder.fadd(builder.fmul(x, step), lift), scale)
            found.append((at, builder.fadd(builder.load(pointer(builder, base_, at, floats), align=4), x)))
        for at, x in found:  # after all loads: panels may be the same one
            builder.store(x, pointer(builder, keys_, at, floats), align=4)
        return context.get_dummy_value()

    signature = types.none(
        group, steps, lifts, types.intp, halves, types.intp, base, keys, types.intp
    )
    return signature, code


def _lanes_below(builder: ir.IRBuilder, count: ir.Value) -> ir.Value:
    """A mask of the lanes i < count of 16."""
    held = splat(builder, builder.trunc(count, I32), 16)
    return builder.icmp_signed("<", ir.Constant(vector(I32, 16), list(range(16))), held)


@intrinsic
def gather(typing, isa, words, offset, count):
    """words[offset + 16 i] for i < min(count, 16), and zeros: one vector's words from the lines of a panel."""

    def code(context, builder, sig, args):
        whole = vector(I32, 16)
        at, mask = pointer(builder, args[1], args[2], I8), _lanes_below(builder, args[3])
        index = ir.Constant(whole, [16 * i for i in range(16)])
        found = call(
            builder,
            "llvm.x86.avx512.mask.gather.dpi.512",
            whole,
            [every(I32, 16, 0), at, index, mask, ir.Constant(I32, 4)],
        )
        return builder.bitcast(found, vector(I8, 64))

    return Register(64)(isa, words, types.intp, types.intp), code


@intrinsic
def load_some(typing, isa, words, offset, count):
    """words[offset + i] for i < min(count, 16), and zeros; nothing beyond is touched."""

    def code(context, builder, sig, args):
        whole = vector(I32, 16)
        at, mask = pointer(builder, args[1], args[2], whole), _lanes_below(builder, args[3])
        kind = ir.FunctionType(whole, [at.type, I32, mask.type, whole])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.masked.load.v16i32.p0")
        found = builder.call(function, [at, ir.Constant(I32, 4), mask, every(I32, 16, 0)])
        return builder.bitcast(found, vector(I8, 64))

    return Register(64)(isa, words, types.intp, types.intp), code


@intrinsic
def group_hits(typing, group, steps, lifts, thresholds, first_query, scales, shifts, first_vector, many, bounds, hits):
    """Bounds (group * step_row + lift_row) * scale_v + shift_v in float32 against thresholds.

    Whether any is at or above its row's; if so bounds[row, panel, lane] are the bounds and hits[row] has a bit for
    each (panel, lane) that is. many: 1, or 0 where all panels are one.
    """

    def code(context, builder, sig, args):
        acc, steps_, lifts_, thresholds_, q, scales_, shifts_, v, many_, bounds_, hits_ = args
        floats = vector(F32, 16)
        step, lift, threshold = (pointer(builder, part, q, F32) for part in (steps_, lifts_, thresholds_))
        per_vector = []
        for panel in range(GROUP):
            at = builder.add(v, builder.mul(many_, ir.Constant(I64, 16 * panel)))
            per_vector.append(
                [builder.load(pointer(builder, part, at, floats), align=4) for part in (scales_, shifts_)]
            )
        every_mask, found = [], ir.Constant(I16, 0)
        values = []
        for r in range(group.rows):
            a, b, limit = (
                splat(builder, builder.load(pointer(builder, part, r, F32), align=4), 16)
                for part in (step, lift, threshold)
            )
            for panel, (scale, shift) in enumerate(per_vector):
                x = builder.sitofp(builder.extract_value(acc, r * GROUP + panel), floats)
                x = builder.fadd(builder.fmul(x, a), b)
                x = builder.fadd(builder.fmul(x, scale), shift)
                mask = builder.bitcast(builder.fcmp_ordered(">=", x, limit), I16)
                found = builder.or_(found, mask)
                values.append(x)
                every_mask.append(mask)
        any_hit = builder.icmp_unsigned("!=", found, ir.Constant(I16, 0))
        bits = builder.bitcast(hits_, I16.as_pointer())
        with builder.if_then(any_hit, likely=False):
            for i, (value, mask) in enumerate(zip(values, every_mask, strict=True)):
                builder.store(value, pointer(builder, bounds_, 16 * i, floats), align=4)
                builder.store(mask, pointer(builder, bits, i, I16), align=2)
        return any_hit

    signature = types.boolean(
        group, steps, lifts, thresholds, types.intp, scales, shifts, types.intp, types.intp, bounds, hits
    )
    return signature, code
