"""The one-pass scan: which codes the register kernel can read, and what it wants to be given.

Read:      codes of one table stage at 1, 2, 3, 4 or 8 bits, where the machine has one of kernels.simd's sets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codes import PANEL
from polarindex.indexes.arena import BLOCK_ROWS, Arena
from polarindex.indexes.filters import Allowed
from polarindex.kernels.limits import EMPTY_ID
from polarindex.quantizers import Quantizer
from polarindex.quantizers.base import TableStage

_BITS = (1, 8)
_TILE = 8  # queries that share a tile of registers
_TILE_FROM = 4  # queries from which a whole tile is faster than one at a time

Floats = NDArray[np.float32]


class StageQueries(NamedTuple):
    """Queries as one stage's integers: levels (nq, dims) int8, gains (nq,) float32 with value = gain * level."""

    levels: NDArray[np.int8]
    gains: Floats

    def rows(self, chosen: NDArray[np.int64] | slice) -> StageQueries:
        return StageQueries(self.levels[chosen], self.gains[chosen])


class LinePlan(NamedTuple):
    """kernels.scan_lines' instruction set, planes (high, width, low) and table (16,) int8 for one code."""

    isa: str
    planes: tuple[int, int, int]
    table: NDArray[np.int8]


def line_plan(quantizer: Quantizer) -> LinePlan | None:
    """How to scan the quantizer's codes in one pass, or None where that cannot be."""
    isa, stage = kernels.selected(), quantizer.stages[0]
    if isa == "generic" or len(quantizer.stages) > 1:
        return None
    if not isinstance(stage, TableStage) or stage.layout.bits not in _BITS:
        return None
    last = stage.layout.planes[-1]
    table = np.zeros(16, np.int8)
    if stage.layout.bits < 8:
        table[: len(stage.table)] = stage.table
    return LinePlan(isa, (stage.layout.words - last.words, last.width, last.words), table)


def best_by_lines(
    arena: Arena, plan: LinePlan, queries: StageQueries, k: int, allowed: Allowed, start: int, stop: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Keys (nq, k) float32, best first, and ids (nq, k), of rows [start, stop)."""
    nq = len(queries.levels)
    isa = kernels.Isa(plan.isa, 1 if nq < _TILE_FROM else _TILE)
    held = -(-nq // isa.rows) * isa.rows
    keys = np.full((held, k), -np.inf, np.float32)
    keys[nq:] = np.inf  # nothing enters the heaps of the queries that fill up the last tile
    ids = np.full(keys.shape, EMPTY_ID, np.int64)
    prepared = _tiles(plan, queries, isa.rows)
    for span in arena.spans(BLOCK_ROWS, start, stop, whole_panels=True):
        arrays = span.arrays
        mine = np.empty(0, np.uint8) if allowed is None else allowed[span.start : span.start + span.rows]
        if allowed is not None and not mine.any():
            continue
        shifts = arrays["shifts"] if "shifts" in arrays else np.zeros(len(arrays["codes"]) * PANEL, np.float32)
        kernels.scan_lines(
            isa,
            (isa.rows, isa.lanes, span.rows),
            arrays["codes"],
            plan.planes,
            plan.table,
            prepared,
            (arrays["scales"].reshape(-1), shifts),
            arrays["ids"] if "ids" in arrays else np.arange(span.start, span.start + span.rows),
            mine,
            (keys, ids),
        )
    kernels.sort_rows(keys, ids)
    return keys[:nq], ids[:nq]


def _tiles(plan: LinePlan, queries: StageQueries, rows: int) -> tuple[NDArray[np.int32], NDArray[np.int32], Floats]:
    """Query bytes four at a time (tiles, m, rows) int32, their sums and the gains, (rows tiles,) each; zeros beyond."""
    nq, dims = queries.levels.shape
    _, width, low = plan.planes
    held = -(-nq // rows) * rows
    padded = np.zeros((held, low * (32 // width)), np.int8)
    padded[:nq, :dims] = queries.levels
    quads = np.ascontiguousarray(padded.view(np.int32).reshape(held // rows, rows, -1).transpose(0, 2, 1))
    gains = np.zeros(held, np.float32)
    gains[:nq] = queries.gains
    return quads, padded.sum(axis=1, dtype=np.int32), gains
