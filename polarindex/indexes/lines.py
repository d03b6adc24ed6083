"""The one-pass scans: which codes the register kernels can read, and what they want to be given.

Read:      codes of one table stage at 1, 2, 3, 4 or 8 bits, where the machine has one of kernels.simd's sets."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codebooks import FirstPlanes
from polarindex.codes import PANEL, float_scales
from polarindex.indexes.arena import Arena
from polarindex.indexes.filters import Allowed
from polarindex.indexes.segment_factors import Law
from polarindex.indexes.threads import go_on
from polarindex.kernels.limits import EMPTY_ID
from polarindex.memory import aligned_zeros
from polarindex.quantizers import Quantizer
from polarindex.quantizers.base import TableStage

READ_BITS = (1, 2, 3, 4, 8)
_TILE = 8  # queries that share a tile of registers in the full scan
TILE_FROM = 3  # queries from which a whole tile is faster than one at a time
_WORK = 1 << 33  # multiply-adds of one call: .04 s with AVX-512, .2 s with AVX2
_GROUP = 4  # queries that share a tile in the first pass

Floats = NDArray[np.float32]


class StageQueries(NamedTuple):
    """Queries as one stage's integers: levels (nq, dims) int8, gains (nq,) float32 with value = gain * level."""

    levels: NDArray[np.int8]
    gains: Floats

    def rows(self, chosen: NDArray[np.int64] | slice) -> StageQueries:
        return StageQueries(self.levels[chosen], self.gains[chosen])


class LineCode(NamedTuple):
    """How the register kernels see one code.

    isa : the instruction set
    stage : whose codes they are
    bits, words : of a code, and of one of its planes (of a row, at 8 bits)
    table : (16,) int8, the level of code c at c << (4 - bits)
    """

    isa: str
    stage: TableStage
    bits: int
    words: int
    table: NDArray[np.int8]

    def tag(self, rows: int) -> kernels.Isa:
        """The kernels' tag for so many queries side by side."""
        return kernels.Isa(self.isa, rows, self.bits)

    @property
    def dims(self) -> int:
        """Coordinates with the padding of the last word."""
        return self.words * (4 if self.bits == 8 else 32)

    @property
    def tables(self) -> bool:
        """Whether a first pass by nibble tables can be."""
        return self.isa == "avx512" and self.bits < 8


def lined_stage(quantizer: Quantizer) -> TableStage | None:
    """The stage whose codes register kernels read, on machines that have such, or None where none reads them."""
    stage = quantizer.stages[0]
    alone = len(quantizer.stages) == 1
    return stage if alone and isinstance(stage, TableStage) and stage.layout.bits in READ_BITS else None


def line_code(quantizer: Quantizer, isa: str) -> LineCode | None:
    """How an instruction set scans the quantizer's codes in registers, or None where that cannot be."""
    stage = lined_stage(quantizer)
    if isa == "generic" or stage is None:
        return None
    bits = stage.layout.bits
    table = np.zeros(16, np.int8)
    if bits < 8:
        table[:: 1 << (4 - bits)] = stage.table
    return LineCode(isa, stage, bits, stage.layout.planes[0].words, table)


def prefix_code(code: LineCode, levels: NDArray[np.int8]) -> LineCode:
    """How the first planes of a code are scanned as a code of their own, with levels (2^planes,)."""
    bits = len(levels).bit_length() - 1
    table = np.zeros(16, np.int8)
    table[:: 1 << (4 - bits)] = levels
    return code._replace(bits=bits, table=table)


def prepared_scan(code: LineCode, first: FirstPlanes | None, queries: StageQueries) -> LineScan:
    """A scan of some queries: full, or after a first pass."""
    return _StagedScan(code, first, queries) if first else _FullScan(code, queries)


def best_by_lines(
    arena: Arena, law: Law | None, scan: LineScan, k: int, allowed: Allowed, start: int, stop: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Keys (nq, k) float32, best first, and ids (nq, k), of rows [start, stop); law : of their factors, if words."""
    keys = np.full((scan.held, k), -np.inf, np.float32)
    keys[scan.nq :] = np.inf  # nothing enters the heaps of the queries that fill up the last tile
    ids = np.full(keys.shape, EMPTY_ID, np.int64)
    step, room = min(scan.rows_at_once, arena.block_rows), None
    if law is not None:  # for a whole call: in parts of 2^14 rows a query alone took 1.3 times as long, so 1.15
        room = law.room(min(step, max(stop - start, 0)))
    for span in arena.spans(step, start, stop, whole_panels=True):
        go_on()
        arrays = span.arrays
        mine = _ALL if allowed is None else allowed[span.start : span.start + span.rows]
        if allowed is not None and not mine.any():
            continue
        if law is not None:
            arrays["scales"], arrays["shifts"] = law.opened(arrays["factors"], room)
        scan(arrays, span.rows, (arrays.get("ids", _NO_IDS), span.start), mine, (keys, ids))
    kernels.sort_rows(keys, ids)
    return keys[: scan.nq], ids[: scan.nq]


class LineScan(Protocol):
    """A kernel with its queries: nq of them, in tiles that hold `held`."""

    nq: int
    held: int

    @property
    def rows_at_once(self) -> int:
        """Rows of one call: a multiple of whole panels."""

    def __call__(
        self,
        arrays: dict[str, NDArray[Any]],
        count: int,
        names: tuple[NDArray[np.int64], int],
        allowed: NDArray[np.uint8],
        best: tuple[Floats, NDArray[np.int64]],
    ) -> None:
        """Offer the `count` vectors of an arena's arrays to the k best, as kernels.scan_lines says."""


_ALL = np.empty(0, np.uint8)
_NO_IDS = np.empty(0, np.int64)
NO_SHIFTS = np.zeros(1 << 18, np.float32)  # as many as a block's rows at most
NO_LINES = np.empty((0, 0, PANEL), np.uint32)
_NO_ROWS = np.empty((0, 0), np.uint32)


def rows_of_a_call(work: int) -> int:
    """Rows of one call where each is so many multiply-adds."""
    return max(_WORK // work // PANEL * PANEL, 1024)


def _planes(arrays: dict[str, NDArray[Any]]) -> tuple[NDArray[np.uint32], ...]:
    """The two planes that are lines and the rows of the others, as kernels want them."""
    return arrays["codes0"], arrays.get("codes1", NO_LINES), arrays.get("codes2", _NO_ROWS)


def _factors(arrays: dict[str, NDArray[Any]]) -> tuple[Floats, Floats]:
    """Scales and shifts of one stage."""
    return float_scales(arrays["scales"]).reshape(-1), arrays.get("shifts", NO_SHIFTS)


def filled(gains: Floats, held: int) -> Floats:
    """Gains with zeros for the places of the last tile that no query has."""
    return gains if len(gains) == held else np.concatenate([gains, np.zeros(held - len(gains), np.float32)])


def tiled(queries: StageQueries, dims: int, rows: int) -> tuple[NDArray[np.int32], NDArray[np.int32], Floats]:
    """Quads (tiles, dims / 4, rows), sums and gains (tiles rows,) of queries, as scan_lines and scan_ring take them."""
    tiles = -(-len(queries.levels) // rows)
    quads, sums = np.empty((tiles, dims // 4, rows), np.int32), np.empty(tiles * rows, np.int32)
    kernels.tile_queries(queries.levels, rows, quads, sums)
    return quads, sums, filled(queries.gains, len(sums))


class _FullScan:
    """kernels.scan_lines with its queries."""

    def __init__(self, code: LineCode, queries: StageQueries) -> None:
        rows = 1 if len(queries.levels) < TILE_FROM else _GROUP if len(queries.levels) <= _GROUP else _TILE
        self.nq = len(queries.levels)
        self._code = code
        self._isa = code.tag(rows)
        self._queries = tiled(queries, code.dims, rows)
        self.held = len(self._queries[1])

    @property
    def rows_at_once(self) -> int:
        return rows_of_a_call(self.held * self._code.dims)

    def __call__(self, arrays: Any, count: int, names: Any, allowed: Any, best: Any) -> None:
        code, planes, factors = self._code, _planes(arrays), _factors(arrays)
        kernels.scan_lines(
            self._isa, planes, count, code.words, code.table, self._queries, factors, names, allowed, best
        )


class _StagedScan:
    """kernels.scan_staged with its queries.

    The bound: with r the share of a sum that the remaining planes explain, r has mean 0 and deviation
    |q| * FirstPlanes.deviation over random rotations; FirstPlanes.lift deviations are added to the estimate.
    """

    def __init__(self, code: LineCode, first: FirstPlanes, queries: StageQueries) -> None:
        rows = 1 if len(queries.levels) < TILE_FROM else _GROUP
        self.nq = len(queries.levels)
        tiles = -(-self.nq // rows)
        self.held = tiles * rows
        self._code = code
        self._planes = len(first.weights)
        self._isa, self._alone = code.tag(rows), code.tag(1)
        tables = aligned_zeros((tiles, self._planes * code.words, rows, 2, 64), np.uint8)
        steps, lifts = np.empty(self.held, np.float32), np.empty(self.held, np.float32)
        starts = np.empty(self.held, np.int32)
        asked = np.empty((self.held, -(-code.words // PANEL) * 8 * PANEL), np.uint32)
        estimate = first.base, first.weights, first.lift * first.deviation
        kernels.stage_queries(
            queries.levels, queries.gains, estimate, self._alone.bias, tables, steps, lifts, asked, starts
        )
        self._first, self._queries = (tables, steps, lifts), (asked, starts, filled(queries.gains, self.held))

    @property
    def rows_at_once(self) -> int:
        return rows_of_a_call(self.held * self._code.dims)

    def __call__(self, arrays: Any, count: int, names: Any, allowed: Any, best: Any) -> None:
        code, planes, factors = self._code, _planes(arrays), _factors(arrays)
        kernels.scan_staged(
            self._isa,
            self._alone,
            planes,
            count,
            code.words,
            self._planes,
            code.table,
            self._first,
            self._queries,
            factors,
            names,
            allowed,
            best,
        )
