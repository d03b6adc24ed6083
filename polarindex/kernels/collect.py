"""From a tile of dot products to candidates: keys that reach a limit are appended, without a branch a query.

Law:       key = ((dot * gain_row) * scale_lane + shift_lane) + offset_row in float32, in this order; the keys at or
           above the row's limit, of lanes that count, go to scores[cursor_row ..] in the order of lanes, the lanes'
           places beside them, and the cursor moves on. Of several dot products (keys_start, keys_add, keys_collect)
           key = (shift_lane + the sum of (dot * gain_row) * scale_lane, one after the other) + offset_row.
Why:       which of eight queries has a hit is what a branch predictor cannot know; a test a row cost 80 ns a tile."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from polarindex.kernels.simd import F32, I8, I16, I32, I64, Tile, call, every, pointer, splat, vector


@intrinsic
def allowed_lanes(typing, allowed, place):
    """A bit for each of the 16 places from `place` on that is allowed: allowed[place] is not 0."""

    def code(context, builder, sig, args):
        bytes16 = vector(I8, 16)
        values = builder.load(pointer(builder, args[0], args[1], bytes16), align=1)
        set_ = builder.icmp_unsigned("!=", values, every(I8, 16, 0))
        return builder.zext(builder.bitcast(set_, I16), I64)

    return types.uint64(allowed, types.intp), code


def _append(
    builder: ir.IRBuilder, lanes: int, key: ir.Value, places: ir.Value, mask: ir.Value, targets: Any
) -> ir.Value:
    """Write the lanes of `mask` one after the other behind both targets; returns how many. Up to `lanes` elements
    beyond what is appended are overwritten."""
    scores, numbers, at = targets
    bits = builder.bitcast(mask, ir.IntType(lanes))
    if lanes == 16:
        for value, target in ((key, scores), (places, numbers)):
            name = "f32" if value is key else "i32"
            nothing = ir.Constant(value.type, ir.Undefined)
            packed = call(builder, f"llvm.x86.avx512.mask.compress.v16{name}", value.type, [value, nothing, mask])
            builder.store(packed, pointer(builder, target, at, value.type), align=4)
        wide = builder.zext(bits, I64)
        return call(builder, "llvm.ctpop.i64", I64, [wide])
    count = ir.Constant(I64, 0)
    for lane in range(lanes):
        here = builder.add(at, count)
        for value, target in ((key, scores), (places, numbers)):
            element = builder.extract_element(value, ir.Constant(I32, lane))
            builder.store(element, pointer(builder, target, here, element.type), align=4)
        count = builder.add(count, builder.zext(builder.extract_element(mask, ir.Constant(I32, lane)), I64))
    return count


@intrinsic
def tile_collect(typing, tile, slots, slot, factors, scale, shift, valid, place, found):
    """Append the keys of a tile that reach their rows' limits; whether a row's cursor has passed its end.

    slots = (gains, offsets, limits float32, cursors, ends int64), addresses, the tile's rows from number `slot` on;
    scales and shifts are factors[scale + lane] and factors[shift + lane]; `valid` has a bit for each lane that
    counts; the lanes are at places place + lane; found = (scores float32, places int32).
    """
    lanes = tile.lanes

    def code(context, builder, sig, args):
        acc, slots_, first, factors_, scale_, shift_, valid_, place_, found_ = args
        floats = vector(F32, lanes)
        gains, offsets, *ends = (builder.extract_value(slots_, i) for i in range(5))
        scales = builder.load(pointer(builder, factors_, scale_, floats), align=4)
        shifts = builder.load(pointer(builder, factors_, shift_, floats), align=4)
        keys = []
        for r in range(tile.rows):
            gain, offset = (_of_row(builder, part, first, r, lanes) for part in (gains, offsets))
            key = builder.fmul(builder.sitofp(builder.extract_value(acc, r), floats), gain)
            keys.append(builder.fadd(builder.fadd(builder.fmul(key, scales), shifts), offset))
        return _collected(builder, keys, ends, first, valid_, place_, found_)

    signature = types.boolean(
        tile, slots, types.intp, factors, types.intp, types.intp, types.uint64, types.intp, found
    )
    return signature, code


def _of_row(builder: ir.IRBuilder, values: ir.Value, first: ir.Value, row: int, lanes: int) -> ir.Value:
    """values[first + row], float32, in every lane."""
    at = builder.add(first, ir.Constant(I64, row))
    return splat(builder, builder.load(pointer(builder, values, at, F32), align=4), lanes)


def _collected(
    builder: ir.IRBuilder, keys: list[ir.Value], ends: list[ir.Value], first: ir.Value, valid: Any, place: Any, out: Any
) -> ir.Value:
    """Append the keys, a register a row, that reach their rows' limits; ends = (limits, cursors, ends) of the slots."""
    lanes = keys[0].type.count
    ints, bits = vector(I32, lanes), ir.IntType(lanes)
    limits, cursors, stops = ends
    scores, numbers = (builder.extract_value(out, i) for i in range(2))
    count_lanes = builder.bitcast(builder.trunc(valid, bits), vector(ir.IntType(1), lanes))
    masks, any_mask = [], None
    for r, key in enumerate(keys):
        limit = _of_row(builder, limits, first, r, lanes)
        mask = builder.and_(builder.fcmp_ordered(">=", key, limit), count_lanes)
        any_mask = mask if any_mask is None else builder.or_(any_mask, mask)
        masks.append(mask)
    hit = builder.icmp_unsigned("!=", builder.bitcast(any_mask, bits), ir.Constant(bits, 0))
    before = builder.block
    with builder.if_then(hit, likely=False):
        steps = ir.Constant(ints, list(range(lanes)))
        places = builder.add(splat(builder, builder.trunc(place, I32), lanes), steps)
        past = ir.Constant(ir.IntType(1), 0)
        for r, (key, mask) in enumerate(zip(keys, masks, strict=True)):
            at = builder.add(first, ir.Constant(I64, r))
            held = pointer(builder, cursors, at, I64)
            cursor = builder.load(held, align=8)
            after = builder.add(cursor, _append(builder, lanes, key, places, mask, (scores, numbers, cursor)))
            builder.store(after, held, align=8)
            end = builder.load(pointer(builder, stops, at, I64), align=8)
            past = builder.or_(past, builder.icmp_signed(">", after, end))
        inside = builder.block
    full = builder.phi(ir.IntType(1))
    full.add_incoming(ir.Constant(ir.IntType(1), 0), before)
    full.add_incoming(past, inside)
    return full


# --- keys that several dot products add up to: a tile whose int32 lanes hold float32


@intrinsic
def keys_start(typing, isa, factors, shift):
    """Keys with the shifts factors[shift + lane] in every row."""
    tile = Tile(isa.rows, isa.nbytes // 4)

    def code(context, builder, sig, args):
        shifts = builder.load(pointer(builder, args[1], args[2], vector(I32, tile.lanes)), align=4)
        keys = ir.Constant(context.get_value_type(tile), ir.Undefined)
        for r in range(tile.rows):
            keys = builder.insert_value(keys, shifts, r)
        return keys

    return tile(isa, factors, types.intp), code


@intrinsic
def keys_add(typing, keys, tile, gains, slot, factors, scale):
    """keys[row, lane] + (tile[row, lane] * gains[slot + row]) * factors[scale + lane] in float32, in this order."""

    def code(context, builder, sig, args):
        total, acc, gains_, first, factors_, scale_ = args
        ints, floats = vector(I32, tile.lanes), vector(F32, tile.lanes)
        scales = builder.load(pointer(builder, factors_, scale_, floats), align=4)
        for r in range(tile.rows):
            gain = _of_row(builder, gains_, first, r, tile.lanes)
            part = builder.fmul(builder.sitofp(builder.extract_value(acc, r), floats), gain)
            before = builder.bitcast(builder.extract_value(total, r), floats)
            after = builder.fadd(before, builder.fmul(part, scales))
            total = builder.insert_value(total, builder.bitcast(after, ints), r)
        return total

    return keys(keys, tile, gains, types.intp, factors, types.intp), code


@intrinsic
def keys_reaching(typing, keys, slots, slot, lengths, lane, valid, out, at):
    """A bit for each row with a key that may reach what it must, of lanes that count; if any has, out[at ..] are the
    keys, a register a row.

    slots = (offsets, reaches, least) float32, addresses: (key + offset_row) + reach_row * lengths[lane ..] >= least_row
    """
    lanes = keys.lanes

    def code(context, builder, sig, args):
        total, slots_, first, lengths_, lane_, valid_, out_, at_ = args
        floats, bits = vector(F32, lanes), ir.IntType(lanes)
        offsets, reaches, least = (builder.extract_value(slots_, i) for i in range(3))
        length = builder.load(pointer(builder, lengths_, lane_, floats), align=4)
        counted, hits, own = builder.trunc(valid_, bits), ir.Constant(I64, 0), []
        for r in range(keys.rows):
            key = builder.bitcast(builder.extract_value(total, r), floats)
            own.append(key)
            offset, reach, limit = (_of_row(builder, part, first, r, lanes) for part in (offsets, reaches, least))
            bound = builder.fadd(builder.fadd(key, offset), builder.fmul(reach, length))
            above = builder.and_(builder.bitcast(builder.fcmp_ordered(">=", bound, limit), bits), counted)
            hit = builder.icmp_unsigned("!=", above, ir.Constant(bits, 0))
            hits = builder.or_(hits, builder.shl(builder.zext(hit, I64), ir.Constant(I64, r)))
        with builder.if_then(builder.icmp_unsigned("!=", hits, ir.Constant(I64, 0)), likely=False):
            for r, key in enumerate(own):
                place = builder.add(at_, ir.Constant(I64, r * lanes))
                builder.store(key, pointer(builder, out_, place, floats), align=4)
        return hits

    signature = types.uint64(keys, slots, types.intp, lengths, types.intp, types.uint64, out, types.intp)
    return signature, code


@intrinsic
def keys_collect(typing, keys, slots, slot, valid, place, found):
    """tile_collect of keys, to which the rows' offsets are added last; slots without gains."""

    def code(context, builder, sig, args):
        total, slots_, first, valid_, place_, found_ = args
        offsets, *ends = (builder.extract_value(slots_, i) for i in range(4))
        floats = vector(F32, keys.lanes)
        added = [
            builder.fadd(
                builder.bitcast(builder.extract_value(total, r), floats),
                _of_row(builder, offsets, first, r, keys.lanes),
            )
            for r in range(keys.rows)
        ]
        return _collected(builder, added, ends, first, valid_, place_, found_)

    return types.boolean(keys, slots, types.intp, types.uint64, types.intp, found), code
