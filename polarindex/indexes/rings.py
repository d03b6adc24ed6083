"""The scan of trellis codes in registers: what kernels are told of a code, and what a flat scan wants of queries.

Read:      codes of one stage that are rings of bits, of a trellis or a spectral code of one segment, where the machine
           has one of kernels.simd's sets."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codebooks import folded
from polarindex.codes import float_scales
from polarindex.indexes.lines import NO_SHIFTS, TILE_FROM, StageQueries, rows_of_a_call, tiled
from polarindex.kernels.limits import BOOK_BITS, BOOK_MIX, BOOK_PAIRS, LEVELS
from polarindex.quantizers import Quantizer
from polarindex.quantizers.trellis import TrellisStage

_TILE = 8  # queries that share a tile of registers


class RingCode(NamedTuple):
    """How the register kernel sees a trellis code.

    isa : the instruction set
    window : bits by which a level is picked
    words : of a row
    dims : coordinates that are decoded
    table : int8, the book of kernels/ring.py
    """

    isa: str
    window: int
    words: int
    dims: int
    table: NDArray[np.int8]

    def tag(self, rows: int) -> kernels.Isa:
        """The kernels' tag for so many queries side by side."""
        return kernels.Isa(self.isa, rows, 1, self.window)


def ring_stage(quantizer: Quantizer) -> TrellisStage | None:
    """The stage whose codes are rings and all there is of a row, or None where rows have others."""
    stage = quantizer.stages[0]
    return stage if len(quantizer.stages) == 1 and isinstance(stage, TrellisStage) else None


def ring_code(quantizer: Quantizer, isa: str) -> RingCode | None:
    """How an instruction set scans the quantizer's codes, or None where that cannot be."""
    stage = ring_stage(quantizer)
    if isa == kernels.GENERIC or stage is None:
        return None
    layout = stage.layout
    book = ring_book(isa, layout.bits, stage.table, layout.mix)
    return RingCode(isa, layout.window, layout.words, layout.padded, book)


def ring_book(isa: str, bits: int, levels: NDArray[np.int8], mix: tuple[int, ...]) -> NDArray[np.int8]:
    """What an instruction set looks levels (256,) up by, see kernels/ring.py; mix : as of RingLayout."""
    book, tag = np.zeros(BOOK_PAIRS, np.int8), kernels.Isa(isa, 1, 1)
    book[:LEVELS], book[BOOK_BITS] = levels, bits
    book[BOOK_MIX : BOOK_MIX + len(mix)] = np.array(mix, np.uint8).view(np.int8)
    if tag.tables:
        return book
    by_window = levels[folded(mix)] if mix else levels
    biased = (by_window.astype(np.int64) + tag.bias) & 255
    both = np.arange(len(biased) << bits)
    pairs = biased[both & (len(biased) - 1)] | biased[both >> bits] << 8
    return np.concatenate([book, pairs.astype(np.uint16).view(np.int8)])


class RingScan:
    """kernels.scan_ring with its queries."""

    def __init__(self, code: RingCode, queries: StageQueries) -> None:
        self.nq = len(queries.levels)
        rows = 1 if self.nq < TILE_FROM else _TILE
        self._code = code
        self._isa = code.tag(rows)
        self._queries = tiled(queries, code.dims, rows)
        self.held = len(self._queries[1])

    @property
    def rows_at_once(self) -> int:
        return rows_of_a_call(self.held * self._code.dims)

    def __call__(self, arrays: Any, count: int, names: Any, allowed: Any, best: Any) -> None:
        code = self._code
        factors = float_scales(arrays["scales"]).reshape(-1), arrays.get("shifts", NO_SHIFTS)
        kernels.scan_ring(
            self._isa, arrays["codes0"], count, code.table, self._queries, factors, names, allowed, best
        )
