"""The scan of trellis codes in registers: what the kernel is told of a code, and what it wants of queries.

Read:      codes of one stage that are rings of bits, of a trellis or a spectral code of one segment, where the machine
           has one of kernels.simd's sets."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codes import float_scales
from polarindex.indexes.lines import NO_SHIFTS, TILE_FROM, StageQueries, rows_of_a_call, tiled
from polarindex.quantizers import Quantizer
from polarindex.quantizers.trellis import TrellisStage

_TILE = 8  # queries that share a tile of registers


class RingCode(NamedTuple):
    """How the register kernel sees a trellis code.

    isa : the instruction set
    bits : of a coordinate
    dims : coordinates that are decoded
    book : (256,) int8, levels by the windows' bytes, and (64,) uint8 that fold windows to such, or None
    """

    isa: str
    bits: int
    dims: int
    book: tuple[NDArray[np.int8], NDArray[np.uint8] | None]


def ring_code(quantizer: Quantizer, isa: str) -> RingCode | None:
    """How an instruction set scans the quantizer's codes, or None where that cannot be."""
    stage = quantizer.stages[0]
    if isa == kernels.GENERIC or len(quantizer.stages) > 1 or not isinstance(stage, TrellisStage):
        return None
    mix = np.array(stage.layout.mix, np.uint8) if stage.layout.mix else None
    return RingCode(isa, stage.layout.bits, stage.layout.padded, (stage.table, mix))


class RingScan:
    """kernels.scan_ring with its queries."""

    def __init__(self, code: RingCode, queries: StageQueries) -> None:
        self.nq = len(queries.levels)
        rows = 1 if self.nq < TILE_FROM else _TILE
        self._code = code
        self._isa = kernels.Isa(code.isa, rows, 8)
        self._queries = tiled(queries, code.dims, rows)
        self.held = len(self._queries[1])

    @property
    def rows_at_once(self) -> int:
        return rows_of_a_call(self.held * self._code.dims)

    def __call__(self, arrays: Any, count: int, names: Any, allowed: Any, best: Any) -> None:
        code = self._code
        factors = float_scales(arrays["scales"]).reshape(-1), arrays.get("shifts", NO_SHIFTS)
        kernels.scan_ring(
            self._isa, arrays["codes0"], count, code.bits, code.book, self._queries, factors, names, allowed, best
        )
