"""Rows to codes on the device: what kernels.encode does on the CPU, with its words and sums to the bit.

Law:       words, and the four float64 sums from which scales and energies are made, are those of the CPU's kernel; what
           is made of them is made by the quantizer, on the host, in one place.
Rows:      those on the device are coded where they are, those in pinned memory are copied from there; all others go
           through pinned buffers first. Parts overlap: one is copied, one coded, and the caller has a third.
Here:      scalar codes that are not refined, after a Hadamard rotation of at most 8,192 coordinates. All else is coded
           on the host, and GpuFlatIndex.info() says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.gpu.device import Device, raw
from polarindex.gpu.places import Form, Tables, tables
from polarindex.gpu.source import source
from polarindex.indexes.threads import available_cores, run_all
from polarindex.quantizers import Quantizer
from polarindex.quantizers.scalar import ScalarQuantizer
from polarindex.rotations import HadamardRotation

LONGEST = 8192  # coordinates: 15 bits for a slot
_STEP_BYTES = 1 << 24  # of rows at a time: at 2 MiB the launches cost half of the rate from pinned memory
_COPIED_BYTES = 1 << 21  # by one core at a time
_LANES = 3  # parts under way: one copied, one coded, one read by the caller
_PINNED = 1  # cudaMemoryTypeHost

Floats = NDArray[np.float32]
_MAP = np.dtype([(name, np.uint64) for name in Tables._fields] + [("norm", np.float32)], align=True)
_BOOK = np.dtype([("thresholds", np.uint64), ("levels", np.uint64)], align=True)


class Coded(NamedTuple):
    """words (n, w) uint32; sums (4, n) float64: |r|^2, <mu, r>, <R r, levels>, |levels|^2."""

    words: Any
    sums: Any


def coder(device: Device, quantizer: Quantizer) -> Coder | None:
    """The device's coder for a quantizer, or None where rows are coded on the host."""
    if not isinstance(quantizer, ScalarQuantizer) or quantizer.refined or quantizer.dim > LONGEST:
        return None
    rotation = quantizer.stage.map
    form = Form.of(quantizer.dim, device.card)
    if not isinstance(rotation, HadamardRotation) or not form.fits(device.card):
        return None
    return Coder(device, quantizer, rotation, form)


class Part(NamedTuple):
    """Rows start .. stop - 1.

    pieces : as they are coded, float32, one after the other: of the host, or one that lies on the device
    given : makes them as they were given, on the host
    """

    start: int
    stop: int
    pieces: list[Any]
    given: Callable[[], Floats]


class Coder:
    """The tables of one quantizer on the device."""

    def __init__(self, device: Device, quantizer: ScalarQuantizer, rotation: HadamardRotation, form: Form) -> None:
        self._device, self._quantizer, self._form = device, quantizer, form
        self._macros = self._form.macros(device.card, quantizer.bits)
        book = quantizer.integer_book
        with device.use("coding rows") as cp:
            self._tables = [cp.asarray(table) for table in tables(self._form, rotation)]
            self._levels = [cp.asarray(values) for values in (book.thresholds, book.levels)]
        self._map = raw(np.array([(*(table.data.ptr for table in self._tables), rotation.plan[4])], _MAP))
        self._book = raw(np.array([tuple(values.data.ptr for values in self._levels)], _BOOK))

    @property
    def step(self) -> int:
        """Rows of a part."""
        return max(1, _STEP_BYTES // (4 * self._quantizer.dim))

    def code(self, cp: Any, x: Any, mu: Any) -> Coded:
        """Codes of rows x (n, dim) float32 on the device against a centre mu (dim,) there; nothing waits."""
        n = len(x)
        words = cp.empty((n, self._quantizer.words), np.uint32)
        sums = cp.empty((4, n), np.float64)
        root = np.float64(np.sqrt(np.float64(self._quantizer.dim)))
        most = self._macros["BLOCKS"] * self._device.card.processors  # a block goes on to other rows
        self._launch("encode_rows", n, most, (x, np.int32(n), mu, self._map, self._book, root, words, sums))
        return Coded(words, sums)

    def queries(self, cp: Any, q: Any, mu: Any, factor: float, width: int, held: int) -> tuple[Any, Any]:
        """Levels (held, width) int8 and gains (held,) float32 of queries q (nq, dim) on the device; the rest is 0."""
        levels, gains = cp.zeros((held, width), np.int8), cp.zeros(held, np.float32)
        n, scale = len(q), np.float32(factor / 127)
        self._launch("prepare_queries", n, n, (q, np.int32(n), mu, self._map, scale, np.int32(width), levels, gains))
        return levels, gains

    def _launch(self, name: str, n: int, most: int, arguments: tuple[Any, ...]) -> None:
        """For n rows, in at most so many blocks."""
        if n == 0:
            return
        form = self._form
        kernel = self._device.kernel(source("encode"), self._macros, name, form.shared)
        blocks = min(-(-n // (form.rows * form.warps)), most)
        kernel((blocks,), (32 * form.warps,), arguments, shared_mem=form.shared)

    def coded(self, parts: Iterator[Part], mu: Floats) -> Iterator[tuple[Part, Coded]]:
        """Parts with their codes, on the host: one is copied while another is coded.

        The codes lie in memory that is used again: they are the caller's until it asks for the next.
        """
        with self._device.use("coding rows") as cp:
            centre = cp.asarray(mu)
            lanes = [_Lane(cp) for _ in range(_LANES)]
            cp.cuda.Stream.null.synchronize()
            waiting: list[tuple[Part, _Lane]] = []
            try:
                for number, part in enumerate(parts):
                    if len(waiting) == _LANES:
                        before, done = waiting.pop(0)
                        yield before, done.result()
                    lanes[number % _LANES].send(cp, self, part.pieces, centre)
                    waiting.append((part, lanes[number % _LANES]))
                for before, done in waiting:
                    yield before, done.result()
            finally:
                for lane in lanes:  # which may read the caller's memory
                    lane.finish()


class _Lane:
    """A stream with pinned memory for what goes and what comes."""

    def __init__(self, cp: Any) -> None:
        self._stream = cp.cuda.Stream(non_blocking=True)
        self._going: Any = None
        self._coming: Any = None
        self._coded = Coded(None, None)

    def send(self, cp: Any, coder: Coder, pieces: list[Any], mu: Any) -> None:
        """Copy, code and read back; nothing waits. Rows on the device, or in pinned memory, are taken from there."""
        there = pieces[0]
        if isinstance(there, np.ndarray) and not (len(pieces) == 1 and _is_pinned(cp, there)):
            there = self._gathered(cp, pieces)
        with self._stream:
            x = there
            if isinstance(there, np.ndarray):
                x = cp.empty(there.shape, np.float32)
                x.set(there, stream=self._stream)
            words, sums = coder.code(cp, x, mu)
            self._coming = _pinned(cp, self._coming, words.nbytes + sums.nbytes)
            there_sums = np.frombuffer(self._coming, np.float64, sums.size).reshape(sums.shape)
            there_words = np.frombuffer(self._coming, np.uint32, words.size, offset=sums.nbytes).reshape(words.shape)
            self._coded = Coded(there_words, there_sums)
            for part, out in ((words, there_words), (sums, there_sums)):
                part.get(stream=self._stream, out=out, blocking=False)

    def _gathered(self, cp: Any, pieces: list[Floats]) -> Floats:
        """Pieces one after the other in pinned memory, copied by all cores."""
        shape = sum(map(len, pieces)), pieces[0].shape[1]
        nbytes = sum(piece.nbytes for piece in pieces)
        self._going = _pinned(cp, self._going, nbytes)
        there = np.frombuffer(self._going, np.float32, nbytes // 4).reshape(shape)
        step, copies, at = max(1, _COPIED_BYTES // (4 * shape[1])), [], 0
        for piece in pieces:
            copies += [(there[at + i : at + i + step], piece[i : i + step]) for i in range(0, len(piece), step)]
            at += len(piece)
        run_all(lambda pair: np.copyto(*pair), copies, available_cores())
        return there

    def result(self) -> Coded:
        self.finish()
        return self._coded

    def finish(self) -> None:
        self._stream.synchronize()


def _is_pinned(cp: Any, rows: Floats) -> bool:
    return bool(cp.cuda.runtime.pointerGetAttributes(rows.ctypes.data).type == _PINNED)


def _pinned(cp: Any, held: Any, nbytes: int) -> Any:
    """The pinned memory itself where it is large enough, else other."""
    return held if held is not None and held.size() >= nbytes else cp.cuda.alloc_pinned_memory(nbytes)


def whole(pieces: list[Any]) -> Floats:
    """Pieces of rows as one array on the host."""
    on_host = [piece if isinstance(piece, np.ndarray) else piece.get() for piece in pieces]
    return on_host[0] if len(on_host) == 1 else np.concatenate(on_host)
