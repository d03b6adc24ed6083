"""The full scan of an arena: integer queries against integer levels, block by block, the k best kept.

Law:       key = shift_v + sum over stages of  scale_v * gain_q * <levels_v, query_q>     (larger is better)
           with gain_q folding in the query's int8 step and the 2 of the squared distance. The caller adds what is
           constant for a query and turns keys into distances.
Exact:     integer dots, one fixed order of float operations, ties by the smaller id: the result does not depend on
           threads, blocks, the order of rows or the instruction set.
Two ways:  codes that a register kernel reads are scanned in one pass (lines.py); all others, and ranges, are decoded
           a step at a time, multiplied, and then chosen from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codes import PANEL, Words, float_scales
from polarindex.indexes.arena import Arena, Span
from polarindex.indexes.filters import Allowed
from polarindex.indexes.lines import TILE_FROM, LineScan, StageQueries, best_by_lines, prepared_scan
from polarindex.indexes.plan import Plan
from polarindex.indexes.rings import RingCode, RingScan
from polarindex.indexes.segment_factors import Law
from polarindex.indexes.segment_planes import AloneScan, SegmentPlanes, whole_segments
from polarindex.indexes.segments import SegmentCode, SegmentScan, level_table, segment_words, table_stages
from polarindex.indexes.threads import available_cores, go_on, run_all
from polarindex.kernels.limits import EMPTY_ID
from polarindex.quantizers import Quantizer
from polarindex.quantizers.base import TableStage

STEP = 512  # rows decoded at a time: 400 kB of levels at d = 784, inside L2
TILE = 256  # queries that share a decoded step
TILE_ROWS = 8  # and of these a tile of registers
_PARALLEL_FROM = 1 << 25  # multiply-adds below which a second thread costs more than it brings

_KEYS = 1 << 17  # of one step where codes are decoded in registers: with fewer, calls cost more than scans

Floats = NDArray[np.float32]
_Dots = Callable[[Any], NDArray[np.int32]]


QUERY_BITS = (8, 16)
_FINE = 255  # a 16-bit level is 255 high + low, each in -127 .. 127


def integer_queries(quantizer: Quantizer, q: Floats, factor: float, bits: int = 8) -> list[list[StageQueries]]:
    """Each stage's integer form of centred queries q (nq, dim), `factor` folded into the gains.

    At 8 bits one level a coordinate; rounding to 255 steps of the largest adds about 6e-5 of the query's energy as
    noise: nothing beside the codes' .0096 at 4 bits (RaBitQ's 4-bit queries add .017). At 16 bits two levels, whose
    values add up, and 1e-9.
    """
    prepared = []
    for y in quantizer.mapped(q):
        levels, peaks = np.empty(y.shape, np.int8), np.empty(len(y), np.float32)
        kernels.round_rows(y, levels, peaks)
        if bits == 8:
            prepared.append([StageQueries(levels, peaks * np.float32(factor / 127))])
            continue
        step = np.divide(127 * _FINE + 127, peaks, out=np.zeros(len(y)), where=peaks > 0, dtype=np.float64)
        whole = np.rint(y * step[:, None])
        high = np.rint(whole / _FINE)
        gains = (peaks * np.float64(factor / (127 * _FINE + 127))).astype(np.float32)
        low = StageQueries((whole - _FINE * high).astype(np.int8), gains)
        prepared.append([StageQueries(high.astype(np.int8), gains * np.float32(_FINE)), low])
    return prepared


class Products:
    """Integer products of one set of queries with decoded levels, at the best speed there is here."""

    def __init__(self, queries: StageQueries) -> None:
        isa = kernels.selected()
        self._queries = queries
        self._isa = None if isa == kernels.GENERIC else kernels.Isa(isa, TILE_ROWS, 8)
        self._width = 0  # of the levels that the queries are laid out for

    def __call__(self, levels: NDArray[np.int8]) -> NDArray[np.int32]:
        """(at least nq, at least n) int32 for levels (n, c) int8; more rows and columns mean nothing."""
        n, width = levels.shape[0], -(-levels.shape[1] // 4) * 4
        if width != levels.shape[1]:
            levels = np.pad(levels, ((0, 0), (0, width - levels.shape[1])))
        if width != self._width:
            self._lay_out(width)
        if self._isa is None:
            out = np.empty((len(self._padded), n), np.int32)
            kernels.dot(levels, self._padded, out)
            return out
        out = np.empty((len(self._sums), -(-n // PANEL) * PANEL), np.int32)
        kernels.dot_lines(self._isa, levels.view(np.uint32), (self._quads, self._sums), out)
        return out

    def _lay_out(self, width: int) -> None:
        levels = self._queries.levels
        self._width = width
        if self._isa is None:
            self._padded = np.zeros((len(levels), width), np.int8)
            self._padded[:, : levels.shape[1]] = levels
            return
        tiles = -(-len(levels) // TILE_ROWS)
        self._quads = np.empty((tiles, width // 4, TILE_ROWS), np.int32)
        self._sums = np.empty(tiles * TILE_ROWS, np.int32)
        kernels.tile_queries(levels, TILE_ROWS, self._quads, self._sums)


class SegmentProducts:
    """Integer products of one set of queries with a stage's codes, in panels beside those of other stages."""

    def __init__(self, queries: StageQueries, stage: TableStage, first: int) -> None:
        rows, layout = 1 if len(queries.levels) < TILE_FROM else TILE_ROWS, stage.layout
        self._isa = kernels.Isa(kernels.selected(), rows, layout.bits)
        tiles = -(-len(queries.levels) // rows)
        quads, sums = np.empty((tiles, layout.padded // 4, rows), np.int32), np.empty(tiles * rows, np.int32)
        kernels.tile_queries(queries.levels, rows, quads, sums)
        self._queries = quads, sums
        self._first, self._count = first, layout.planes[0].words
        self._table = level_table(stage)

    def __call__(self, panels: Words) -> NDArray[np.int32]:
        """(at least nq, 16 p) int32 for panels (p, w, 16)."""
        out = np.empty((len(self._queries[1]), panels.shape[0] * PANEL), np.int32)
        kernels.dot_segment(self._isa, panels, self._first, self._count, self._table, self._queries, out)
        return out


def in_panels(quantizer: Quantizer) -> bool:
    """Whether codes of several stages lie in panels that dot_segment reads."""
    return quantizer.segmented and table_stages(quantizer) is not None and kernels.selected() != kernels.GENERIC


def span_words(quantizer: Quantizer, span: Span) -> Words:
    """Rows of words (rows, w) of a span's codes."""
    rows = []
    for i, part in enumerate(quantizer.parts):
        array = span.arrays[f"codes{i}"]
        rows.append((array.transpose(0, 2, 1).reshape(-1, part.words) if part.lined else array)[: span.rows])
    return np.concatenate(rows, axis=1)


def _scale_rows(quantizer: Quantizer, span: Span) -> NDArray[Any]:
    """A span's scales as they are stored, (rows, stages)."""
    stored = span.arrays["scales"]
    rows = stored.transpose(0, 2, 1).reshape(-1, stored.shape[1]) if quantizer.segmented else stored
    return rows[: span.rows]


class KeyBlock(NamedTuple):
    """Keys (nq, m) float32 of some rows, their ids (m,), and which are allowed: (m,), or (0,) for all."""

    keys: Floats
    ids: NDArray[np.int64]
    allowed: NDArray[np.uint8]


def key_blocks(
    arena: Arena,
    law: Law | None,
    quantizer: Quantizer,
    queries: list[list[StageQueries]],
    allowed: Allowed,
    start: int,
    stop: int,
) -> Iterator[KeyBlock]:
    """Keys of rows [start, stop) for some queries, a step at a time; steps with no allowed row are skipped."""
    nq = len(queries[0][0].levels)
    products = _products(quantizer, queries)
    step = STEP if not in_panels(quantizer) else max(STEP, _KEYS // nq // STEP * STEP)
    for span in arena.spans(step, start, stop):
        go_on()
        mine = np.empty(0, np.uint8) if allowed is None else allowed[span.start : span.start + span.rows]
        if allowed is not None and not mine.any():
            continue
        keys = np.empty((nq, span.rows), np.float32)
        if law is not None:
            span.arrays["scales"], span.arrays["shifts"] = law.opened(span.arrays["factors"])
        keys[:] = span.arrays["shifts"][: span.rows] if "shifts" in span.arrays else np.float32(0)
        all_scales = np.ascontiguousarray(float_scales(_scale_rows(quantizer, span)).T)
        for scales, codes, pieces in zip(all_scales, _stage_codes(quantizer, span), products, strict=True):
            for gains, dots in pieces:
                kernels.add_scores(dots(codes), gains, scales, keys)
        ids = span.arrays.get("ids")
        yield KeyBlock(keys, np.arange(span.start, span.start + span.rows) if ids is None else ids, mine)


def _products(quantizer: Quantizer, queries: list[list[StageQueries]]) -> list[list[tuple[Floats, _Dots]]]:
    """Each stage's gains and products, of what `_stage_codes` gives of a span."""
    if not in_panels(quantizer):
        return [[(piece.gains, Products(piece)) for piece in pieces] for pieces in queries]
    firsts = [first for part in segment_words(quantizer) for first in part]
    return [
        [(piece.gains, SegmentProducts(piece, stage, first)) for piece in pieces]
        for pieces, stage, first in zip(queries, quantizer.stages, firsts, strict=True)
        if isinstance(stage, TableStage)
    ]


def _stage_codes(quantizer: Quantizer, span: Span) -> Iterator[NDArray[Any]]:
    """Stage after stage, the levels (rows, c) int8; or the panels that it shares with others."""
    if in_panels(quantizer):
        firsts = segment_words(quantizer)
        return (span.arrays[f"codes{i}"] for i, part in enumerate(firsts) for _ in part)
    words = quantizer.split(span_words(quantizer, span))
    return (stage.levels(part) for stage, part in zip(quantizer.stages, words, strict=True))


def best_rows(
    arena: Arena,
    law: Law | None,
    quantizer: Quantizer,
    plan: Plan,
    queries: list[list[StageQueries]],
    k: int,
    allowed: Allowed,
    threads: int | None,
) -> tuple[Floats, NDArray[np.int64]]:
    """Keys (nq, k) float32, best first, and their ids (nq, k); empty places are -inf and EMPTY_ID.

    law : of words of factors; None where scales and shifts are columns
    """

    def task(part: _Part) -> tuple[Floats, NDArray[np.int64]]:
        mine = queries if part.whole else rows_of(queries, part.queries)
        if plan.code:
            scan = _prepared(plan, mine)
            return best_by_lines(arena, law, scan, k, allowed, part.start, part.stop)
        keys = np.full((len(mine[0][0].levels), k), -np.inf, np.float32)
        ids = np.full(keys.shape, EMPTY_ID, np.int64)
        for block in key_blocks(arena, law, quantizer, mine, allowed, part.start, part.stop):
            kernels.select(block.keys, block.ids, block.allowed, keys, ids)
        kernels.sort_rows(keys, ids)
        return keys, ids

    nq = len(queries[0][0].levels)
    if threads is None:
        work = arena.n * nq * sum(piece.levels.shape[1] for pieces in queries for piece in pieces)
        threads = available_cores() if work >= _PARALLEL_FROM else 1
    ranges, tiles = _parts(arena.n, nq, threads)
    if len(ranges) == len(tiles) == 1:
        return task(_Part(tiles[0], *ranges[0], whole=True))
    results = run_all(task, [_Part(tile, *bounds) for tile in tiles for bounds in ranges], threads)
    whole = [merged(results[i : i + len(ranges)]) for i in range(0, len(results), len(ranges))]
    return np.concatenate([keys for keys, _ in whole]), np.concatenate([ids for _, ids in whole])


def _prepared(plan: Plan, queries: list[list[StageQueries]]) -> LineScan:
    """The scan of a plan in registers, for 8-bit queries."""
    if isinstance(plan.code, SegmentCode):
        mine = [pieces[0] for pieces in queries]
        if len(mine[0].levels) >= TILE_FROM:
            return SegmentScan(plan.code, plan.pruned, mine)
        count = plan.code.head if plan.pruned else plan.code.stages
        first = plan.first if isinstance(plan.first, SegmentPlanes) else whole_segments(plan.code, count)
        return AloneScan(plan.code, first, mine)
    if isinstance(plan.code, RingCode):
        return RingScan(plan.code, queries[0][0])
    if plan.code is None:
        raise ValueError("codes that no register kernel reads")
    if isinstance(plan.first, SegmentPlanes):
        raise ValueError("planes of segments that there are none of")
    return prepared_scan(plan.code, plan.first, queries[0][0])


def rows_of(queries: list[list[StageQueries]], chosen: NDArray[np.int64] | slice) -> list[list[StageQueries]]:
    """Some of the queries."""
    return [[piece.rows(chosen) for piece in pieces] for pieces in queries]


class _Part(NamedTuple):
    """Some queries, or all of them, and rows start .. stop - 1."""

    queries: slice
    start: int
    stop: int
    whole: bool = False


def _parts(n: int, nq: int, threads: int) -> tuple[list[tuple[int, int]], list[slice]]:
    """Ranges of rows and tiles of queries: tiles, and where these are fewer than the threads, ranges."""
    tile = min(TILE, -(-nq // (8 * threads)) * 8) if nq >= 4 * threads else TILE  # whole register tiles of 8
    tiles = [slice(at, min(at + tile, nq)) for at in range(0, nq, tile)]
    ranges = 1 if len(tiles) >= threads else threads
    step = -(-max(n, 1) // (ranges * STEP)) * STEP
    return [(at, min(at + step, n)) for at in range(0, max(n, 1), step)], tiles


def merged(results: list[tuple[Floats, NDArray[np.int64]]]) -> tuple[Floats, NDArray[np.int64]]:
    """The k best of several lists of k, best first, of the same queries."""
    keys, ids = np.empty_like(results[0][0]), np.empty_like(results[0][1])
    kernels.merge_lists(np.stack([keys for keys, _ in results]), np.stack([ids for _, ids in results]), keys, ids)
    return keys, ids
