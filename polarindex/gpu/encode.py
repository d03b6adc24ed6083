"""Rows to codes on the device: what kernels.encode does on the CPU, with its words and sums to the bit.

Law:       words, and the four float64 sums from which scales and energies are made, are those of the CPU's kernel; what
           is made of them is made by the quantizer, on the host, in one place.
From host: rows go through two pinned buffers, one being filled while the other is copied, coded and read back.
Here:      scalar codes after a Hadamard rotation of at most 8,192 coordinates. All else is coded on the host, and
           GpuFlatIndex.info() says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.gpu.device import Device, raw
from polarindex.gpu.source import source
from polarindex.quantizers import Quantizer
from polarindex.quantizers.scalar import ScalarQuantizer
from polarindex.rotations import HadamardRotation

LONGEST = 8192  # coordinates: a row and its registers
_THREADS = 256
_BLOCKS = 4  # a multiprocessor: registers for 32 coordinates a thread
_BLOCK = 8192  # coordinates of a block's rows together
_STEP_BYTES = 1 << 25  # of rows at a time

Floats = NDArray[np.float32]
_MAP = np.dtype([("order", np.uint64), ("flips", np.uint64), ("second", np.int32), ("norm", np.float32)], align=True)
_BOOK = np.dtype([("thresholds", np.uint64), ("levels", np.uint64)], align=True)


class Coded(NamedTuple):
    """words (n, w) uint32; sums (4, n) float64: |r|^2, <mu, r>, <R r, levels>, |levels|^2."""

    words: Any
    sums: Any


def coder(device: Device, quantizer: Quantizer) -> Coder | None:
    """The device's coder for a quantizer, or None where rows are coded on the host."""
    if not isinstance(quantizer, ScalarQuantizer) or quantizer.dim > LONGEST:
        return None
    return Coder(device, quantizer) if isinstance(quantizer.stage.map, HadamardRotation) else None


class Part(NamedTuple):
    """Rows to code, row `start` and on: as they were given, x (n, dim), and as they are coded, `rows`."""

    start: int
    x: Floats
    rows: Floats


class Coder:
    """The tables of one quantizer on the device."""

    def __init__(self, device: Device, quantizer: ScalarQuantizer) -> None:
        self._device, self._quantizer = device, quantizer
        self._dim = quantizer.dim
        self._rows = 1 << max(0, min(5, (_BLOCK // self._dim).bit_length() - 1))
        self._macros = _macros(self._dim, quantizer.bits, self._rows)
        slots = (self._dim + (self._dim >> self._macros["Q0"]) + 1) * self._rows
        self._shared = 4 * slots, 5 * slots
        order, _, starts, _, norm = quantizer.stage.map.plan  # type: ignore[attr-defined]
        with device.use("coding rows") as cp:
            book = quantizer.integer_book
            self._tables = [
                cp.asarray(order.astype(np.int32)),
                cp.asarray(quantizer.stage.map.flips),  # type: ignore[attr-defined]
                cp.asarray(book.thresholds),
                cp.asarray(book.levels),
            ]
        pointers = [table.data.ptr for table in self._tables]
        self._map = raw(np.array([(*pointers[:2], starts[-1], norm)], _MAP))
        self._book = raw(np.array([tuple(pointers[2:])], _BOOK))

    def code(self, cp: Any, x: Any, mu: Any) -> Coded:
        """Codes of rows x (n, dim) float32 on the device against a centre mu (dim,) there; nothing waits."""
        n = len(x)
        words = cp.empty((n, self._quantizer.words), np.uint32)
        sums = cp.empty((4, n), np.float64)
        root = np.float64(np.sqrt(np.float64(self._dim)))
        kernel = self._device.kernel(source("encode"), self._macros, "encode_rows", self._shared[1])
        kernel(
            (-(-n // self._rows),),
            (_THREADS,),
            (x, np.int32(n), mu, mu.astype(np.float64), self._map, self._book, root, words, sums),
            shared_mem=self._shared[1],
        )
        return Coded(words, sums)

    def queries(self, cp: Any, q: Any, mu: Any, factor: float, width: int, held: int) -> tuple[Any, Any]:
        """Levels (held, width) int8 and gains (held,) float32 of queries q (nq, dim) on the device; the rest is 0."""
        levels, gains = cp.zeros((held, width), np.int8), cp.zeros(held, np.float32)
        kernel = self._device.kernel(source("encode"), self._macros, "prepare_queries", self._shared[0])
        kernel(
            (-(-len(q) // self._rows),),
            (_THREADS,),
            (q, np.int32(len(q)), mu, self._map, np.float32(factor / 127), np.int32(width), levels, gains),
            shared_mem=self._shared[0],
        )
        return levels, gains

    def coded(self, parts: Iterator[Part], mu: Floats) -> Iterator[tuple[Part, Coded]]:
        """Parts with their codes, on the host: one is copied while another is coded."""
        with self._device.use("coding rows") as cp:
            centre = cp.asarray(mu)
            lanes = [_Lane(cp), _Lane(cp)]
            cp.cuda.Stream.null.synchronize()
            waiting: list[tuple[Part, _Lane]] = []
            for number, part in enumerate(parts):
                if len(waiting) == 2:
                    before, done = waiting.pop(0)
                    yield before, done.result()
                lanes[number % 2].send(cp, self, part.rows, centre)
                waiting.append((part, lanes[number % 2]))
            for before, done in waiting:
                yield before, done.result()


class _Lane:
    """A stream with pinned memory for what goes and what comes."""

    def __init__(self, cp: Any) -> None:
        self._stream = cp.cuda.Stream(non_blocking=True)
        self._going: Any = None
        self._coming: Any = None
        self._shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((0,), (0,))

    def send(self, cp: Any, coder: Coder, rows: Floats, mu: Any) -> None:
        """Copy, code and read back; nothing waits."""
        self._going = _pinned(cp, self._going, rows.nbytes)
        there = np.frombuffer(self._going, np.float32, rows.size).reshape(rows.shape)
        there[...] = rows
        with self._stream:
            x = cp.empty(rows.shape, np.float32)
            x.set(there, stream=self._stream)
            words, sums = coder.code(cp, x, mu)
            self._coming = _pinned(cp, self._coming, words.nbytes + sums.nbytes)
            self._shapes = words.shape, sums.shape
            for part, out in zip((sums, words), self._parts(), strict=True):
                part.get(stream=self._stream, out=out, blocking=False)

    def result(self) -> Coded:
        self._stream.synchronize()
        sums, words = self._parts()
        return Coded(words.copy(), sums.copy())

    def _parts(self) -> tuple[NDArray[np.float64], NDArray[np.uint32]]:
        (n, width), (count, _) = self._shapes[0], self._shapes[1]
        sums = np.frombuffer(self._coming, np.float64, count * n).reshape(count, n)
        words = np.frombuffer(self._coming, np.uint32, n * width, offset=sums.nbytes).reshape(n, width)
        return sums, words


def _pinned(cp: Any, held: Any, nbytes: int) -> Any:
    """The pinned memory itself where it is large enough, else other."""
    return held if held is not None and held.size() >= nbytes else cp.cuda.alloc_pinned_memory(nbytes)


def steps(chunks: Iterator[tuple[int, Floats]], dim: int) -> Iterator[tuple[int, Floats]]:
    """Chunks of at most _STEP_BYTES."""
    step = max(1, _STEP_BYTES // (4 * dim))
    for start, rows in chunks:
        for at in range(0, len(rows), step):
            yield start + at, rows[at : at + step]


def _macros(dim: int, bits: int, rows: int) -> dict[str, int]:
    levels = dim.bit_length() - 1
    size = 1 << levels
    first = levels if levels <= 5 else (levels + 1) // 2 if levels <= 8 else 5 if levels <= 10 else 4  # as `passes`
    return {
        "D": dim,
        "P": size,
        "M": levels,
        "WINDOWS": 1 if size == dim else 2,
        "ROUNDS": 3,
        "CODE": bits,
        "R": rows,
        "THREADS": _THREADS,
        "BLOCKS": _BLOCKS,
        "Q0": first,
    }
