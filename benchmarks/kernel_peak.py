"""What one core can do at most: multiply-adds in registers, and bytes read from memory.

Dots:      independent accumulators and constant operands, nothing loaded: VPDPBUSD of 512 or 256 bits, or for avx2
           VPMADDUBSW, VPMADDWD and VPADDD (the kernels' own avx2 dot also moves signs, so it cannot reach this).
Reads:     400 MB summed by 64-byte loads, four accumulators, in several variants; the fastest is the bandwidth.
Not here:  the kernels that are held against these (kernel_cells.py)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.extending import intrinsic

from polarindex import kernels
from polarindex.kernels.simd import (
    I16,
    I32,
    SETS,
    call,
    dot4,
    every,
    lanes_of,
    load,
    prefetch,
    start,
    store,
    tile_zero,
    vector,
)
from polarindex.memory import aligned_zeros

_STREAMS = 4
_kernel = numba.njit(nogil=True, boundscheck=False, error_model="numpy")


# --- dots


def _unknown(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The same register, of which the compiler no longer knows what it holds: products are not hoisted from the loop.

    Inline assembly without an instruction.
    """
    kind = ir.FunctionType(value.type, [value.type])
    return builder.asm(kind, "", "=v,0", [value], side_effect=True)


def _maddubs(builder: ir.IRBuilder, acc: ir.Value, levels: ir.Value, query: ir.Value) -> ir.Value:
    n = levels.type.count
    levels = _unknown(builder, levels)
    pairs = call(builder, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, n // 2), [levels, query])
    quads = call(builder, "llvm.x86.avx2.pmadd.wd", acc.type, [pairs, every(I16, n // 2, 1)])
    return builder.add(acc, quads)


@intrinsic
def tile_dots(typing: Any, isa: Any, tile: Any, levels: Any, query: Any) -> Any:
    """Every accumulator += the products of two registers, four to a lane."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, acc, values, quads = args
        for r in range(tile.rows):
            one = builder.extract_value(acc, r)
            more = dot4(isa, builder, one, values, quads) if isa.bias else _maddubs(builder, one, values, quads)
            acc = builder.insert_value(acc, more, r)
        return acc

    return tile(isa, tile, levels, query), code


@intrinsic
def tile_sum(typing: Any, tile: Any) -> Any:
    """The sum of all lanes of all rows, so that none is dead code."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        total = builder.extract_value(args[0], 0)
        for r in range(1, tile.rows):
            total = builder.add(total, builder.extract_value(args[0], r))
        return call(builder, f"llvm.vector.reduce.add.v{tile.lanes}i32", I32, [total])

    return types.int32(tile), code


@_kernel
def _dots(isa, operands, loops):
    first = start(operands)
    levels, query = load(isa, first, 0), load(isa, first, 16)
    acc = tile_zero(isa)
    for _ in range(loops):
        acc = tile_dots(isa, acc, levels, query)
    return tile_sum(acc)


def dot_call(isa: str, work: float) -> tuple[Callable[[], object], float]:
    """A call that does about `work` multiply-adds in registers of an instruction set, and how many it does."""
    binding.initialize_native_asmparser()
    rows = 16 if SETS[isa].nbytes == 64 else 12  # AVX2 has 16 registers, and the operands need some
    tag = kernels.Isa(isa, rows, 4)
    operands = aligned_zeros((32,), np.uint32)
    operands[:] = 0x03050307
    each = rows * SETS[isa].nbytes
    loops = max(1, int(work / each))
    return partial(_dots, tag, operands, loops), float(loops * each)


# --- reads


@intrinsic
def register_add(typing: Any, one: Any, other: Any) -> Any:
    """The bytewise sum of two registers."""

    def code(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.add(*args)

    return one(one, other), code


@_kernel
def _read(isa, words, step, count, out):
    """Add up `count` rounds of four registers, `step` words apart, each round a line (or register) further on."""
    at = start(words)
    a = b = c = d = load(isa, at, 0)
    lanes = lanes_of(isa)
    jump = lanes if step > lanes else 4 * lanes
    for i in range(count):
        here = i * jump
        a = register_add(a, load(isa, at, here))
        b = register_add(b, load(isa, at, here + step))
        c = register_add(c, load(isa, at, here + 2 * step))
        d = register_add(d, load(isa, at, here + 3 * step))
    store(register_add(register_add(a, b), register_add(c, d)), start(out), 0)


@_kernel
def _read_ahead(isa, words, ahead, count, out):
    """The same, register after register, asking for the lines `ahead` words further on."""
    at = start(words)
    a = b = c = d = load(isa, at, 0)
    lanes = lanes_of(isa)
    for i in range(count):
        here = 4 * i * lanes
        for line in range(0, 4 * lanes, 16):
            prefetch(at, here + ahead + line)
        a = register_add(a, load(isa, at, here))
        b = register_add(b, load(isa, at, here + lanes))
        c = register_add(c, load(isa, at, here + 2 * lanes))
        d = register_add(d, load(isa, at, here + 3 * lanes))
    store(register_add(register_add(a, b), register_add(c, d)), start(out), 0)


@_kernel
def _read_plain(words):
    total = np.uint64(0)
    for i in range(words.size):
        total += words[i]
    return total


def read_calls(isa: str, nbytes: int) -> tuple[dict[str, Callable[[], object]], int]:
    """Variants of reading about `nbytes` once, by name, and the exact number of bytes that each reads."""
    words = aligned_zeros((nbytes // 1024 * 256,), np.uint32)
    words[:] = 1  # pages that were never written are all one page
    calls: dict[str, Callable[[], object]] = {"a plain loop": partial(_read_plain, words.view(np.uint64))}
    if isa in SETS:
        tag, lanes = kernels.Isa(isa, 1, 4), SETS[isa].nbytes // 4
        out, count = aligned_zeros((lanes,), np.uint32), words.size // (4 * lanes)
        calls["registers in order"] = partial(_read, tag, words, lanes, count, out)
        calls["four streams"] = partial(_read, tag, words, words.size // _STREAMS, count, out)
        for ahead in (1, 4, 16):
            calls[f"registers, prefetch {ahead} kB ahead"] = partial(_read_ahead, tag, words, 256 * ahead, count, out)
    return calls, words.nbytes
