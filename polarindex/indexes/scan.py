"""The full scan of an arena: integer queries against integer levels, block by block, the k best kept.

Law:       key = shift_v + sum over stages of  scale_v * gain_q * <levels_v, query_q>     (larger is better)
           with gain_q folding in the query's int8 step and the 2 of the squared distance. The caller adds what is
           constant for a query and turns keys into distances.
Exact:     integer dots, one fixed order of float operations, ties by the smaller id: the result does not depend on
           threads, blocks, the order of rows or the instruction set.
Two ways:  codes that a register kernel reads are scanned in one pass (lines.py); all others, and ranges, are decoded
           a step at a time, multiplied, and then chosen from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codes import Words
from polarindex.indexes.arena import Arena, Span
from polarindex.indexes.filters import Allowed
from polarindex.indexes.firstpass import StageQueries
from polarindex.indexes.lines import best_by_lines
from polarindex.indexes.plan import Plan
from polarindex.indexes.threads import available_cores, run_all
from polarindex.kernels.limits import EMPTY_ID
from polarindex.quantizers import Quantizer

STEP = 512  # rows decoded at a time: 400 kB of levels at d = 784, inside L2
TILE = 256  # queries that share a decoded step
_PARALLEL_FROM = 1 << 25  # multiply-adds below which a second thread costs more than it brings

Floats = NDArray[np.float32]


def integer_queries(quantizer: Quantizer, q: Floats, factor: float) -> list[StageQueries]:
    """Each stage's integer form of centred queries q (nq, dim), `factor` folded into the gains.

    Rounding to 255 steps of the largest coordinate adds about 6e-5 of the query's energy as noise: nothing beside
    the codes' .0096 at 4 bits (RaBitQ's 4-bit queries add .017).
    """
    prepared = []
    for stage in quantizer.stages:
        y = stage.map.forward(q)
        levels, peaks = np.empty(y.shape, np.int8), np.empty(len(y), np.float32)
        kernels.round_rows(y, levels, peaks)
        prepared.append(StageQueries(levels, peaks * np.float32(factor / 127)))
    return prepared


def span_words(quantizer: Quantizer, span: Span) -> Words:
    """Rows of words (rows, w) of a span's codes."""
    rows = []
    for i, part in enumerate(quantizer.parts):
        array = span.arrays[f"codes{i}"]
        rows.append((array.transpose(0, 2, 1).reshape(-1, part.words) if part.lined else array)[: span.rows])
    return np.concatenate(rows, axis=1)


class KeyBlock(NamedTuple):
    """Keys (nq, m) float32 of some rows, their ids (m,), and which are allowed: (m,), or (0,) for all."""

    keys: Floats
    ids: NDArray[np.int64]
    allowed: NDArray[np.uint8]


def key_blocks(
    arena: Arena, quantizer: Quantizer, queries: list[StageQueries], allowed: Allowed, start: int, stop: int
) -> Iterator[KeyBlock]:
    """Keys of rows [start, stop) for some queries, STEP rows at a time; steps with no allowed row are skipped."""
    padded: list[NDArray[np.int8]] = []
    for span in arena.spans(STEP, start, stop):
        mine = np.empty(0, np.uint8) if allowed is None else allowed[span.start : span.start + span.rows]
        if allowed is not None and not mine.any():
            continue
        keys = np.empty((len(queries[0].levels), span.rows), np.float32)
        keys[:] = span.arrays["shifts"] if "shifts" in span.arrays else np.float32(0)
        dots = np.empty(keys.shape, np.int32)
        words = span_words(quantizer, span)
        for s, (stage, part) in enumerate(zip(quantizer.stages, quantizer.split(words), strict=True)):
            levels = stage.levels(part)
            if len(padded) == s:
                padded.append(_padded(queries[s].levels, levels.shape[1]))
            kernels.dot(levels, padded[s], dots)
            kernels.add_scores(dots, queries[s].gains, np.ascontiguousarray(span.arrays["scales"][:, s]), keys)
        ids = span.arrays.get("ids")
        yield KeyBlock(keys, np.arange(span.start, span.start + span.rows) if ids is None else ids, mine)


def best_rows(
    arena: Arena,
    quantizer: Quantizer,
    plan: Plan,
    queries: list[StageQueries],
    k: int,
    allowed: Allowed,
    threads: int | None,
) -> tuple[Floats, NDArray[np.int64]]:
    """Keys (nq, k) float32, best first, and their ids (nq, k); empty places are -inf and EMPTY_ID."""

    def task(part: _Part) -> tuple[Floats, NDArray[np.int64]]:
        mine = [stage.rows(part.queries) for stage in queries]
        if plan.code:
            return best_by_lines(arena, plan.code, plan.first, mine[0], k, allowed, part.start, part.stop)
        keys = np.full((len(mine[0].levels), k), -np.inf, np.float32)
        ids = np.full(keys.shape, EMPTY_ID, np.int64)
        for block in key_blocks(arena, quantizer, mine, allowed, part.start, part.stop):
            kernels.select(block.keys, block.ids, block.allowed, keys, ids)
        kernels.sort_rows(keys, ids)
        return keys, ids

    nq = len(queries[0].levels)
    if threads is None:
        work = arena.n * nq * sum(stage.levels.shape[1] for stage in queries)
        threads = available_cores() if work >= _PARALLEL_FROM else 1
    ranges, tiles = _parts(arena.n, nq, threads)
    if len(ranges) == len(tiles) == 1:
        return task(_Part(tiles[0], *ranges[0]))
    results = run_all(task, [_Part(tile, *bounds) for tile in tiles for bounds in ranges], threads)
    merged = [_merge(results[i : i + len(ranges)], k) for i in range(0, len(results), len(ranges))]
    return np.concatenate([keys for keys, _ in merged]), np.concatenate([ids for _, ids in merged])


class _Part(NamedTuple):
    """Some queries, and rows start .. stop - 1."""

    queries: slice
    start: int
    stop: int


def _parts(n: int, nq: int, threads: int) -> tuple[list[tuple[int, int]], list[slice]]:
    """Ranges of rows and tiles of queries: tiles, and where these are fewer than the threads, ranges."""
    tile = min(TILE, -(-nq // (8 * threads)) * 8) if nq >= 4 * threads else TILE  # whole register tiles of 8
    tiles = [slice(at, min(at + tile, nq)) for at in range(0, nq, tile)]
    ranges = 1 if len(tiles) >= threads else threads
    step = -(-max(n, 1) // (ranges * STEP)) * STEP
    return [(at, min(at + step, n)) for at in range(0, max(n, 1), step)], tiles


def _merge(
    results: list[tuple[Floats, NDArray[np.int64]]], k: int
) -> tuple[Floats, NDArray[np.int64]]:
    """The k best of several sorted lists of the same queries."""
    keys = np.concatenate([keys for keys, _ in results], axis=1)
    ids = np.concatenate([ids for _, ids in results], axis=1)
    order = np.lexsort((ids, -keys))[:, :k]
    return np.take_along_axis(keys, order, 1), np.take_along_axis(ids, order, 1)


def _padded(levels: NDArray[np.int8], width: int) -> NDArray[np.int8]:
    """Queries padded with zeros to the width of unpacked codes, whose padding then does not count."""
    out = np.zeros((len(levels), width), np.int8)
    out[:, : levels.shape[1]] = levels
    return out
