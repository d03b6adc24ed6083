"""The first pass of a staged search: which planes it reads, and the bound it makes of them.

Law:       with r the error that the remaining planes explain, <q, levels> = <q, estimate> + r, and r has mean 0 and
           deviation |q| * FirstPlanes.deviation over random rotations (papers: EDEN's and RaBitQ's error law for
           nested codes). The bound is the estimate plus FirstPlanes.lift deviations; where the planes are the whole code, r = 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codebooks import FirstPlanes
from polarindex.memory import aligned_zeros

_SLACK = 2.0**-20  # of the largest sum: what float32 may lose between a bound and a key

Floats = NDArray[np.float32]


class StageQueries(NamedTuple):
    """Queries as one stage's integers: levels (nq, dims) int8, gains (nq,) float32 with value = gain * level."""

    levels: NDArray[np.int8]
    gains: Floats

    def rows(self, chosen: NDArray[np.int64] | slice) -> StageQueries:
        return StageQueries(self.levels[chosen], self.gains[chosen])

    def padded(self, rows: int, dims: int) -> StageQueries:
        """With zeros up to a multiple of `rows` queries and to `dims` coordinates."""
        held = -(-len(self.levels) // rows) * rows
        levels, gains = np.zeros((held, dims), np.int8), np.zeros(held, np.float32)
        levels[: len(self.levels), : self.levels.shape[1]] = self.levels
        gains[: len(self.gains)] = self.gains
        return StageQueries(levels, gains)


class Bounds(NamedTuple):
    """kernels.scan_staged's tables (tiles, lines, rows, 2, 64) uint8, steps and lifts, (rows tiles,) float32 each."""

    tables: NDArray[np.uint8]
    steps: Floats
    lifts: Floats


def bounds(planes: FirstPlanes, queries: StageQueries, rows: int) -> Bounds:
    """Tables of padded queries, `rows` a tile."""
    held, dims = queries.levels.shape
    tables = aligned_zeros((held // rows, len(planes.weights) * dims // 32, rows, 2, 64), np.uint8)
    steps, offsets = np.empty(held), np.empty(held)
    exact = planes.deviation == 0
    kernels.nibble_tables(queries.levels, planes.weights, exact, tables, steps, offsets)
    levels = queries.levels.astype(np.float64)
    sums = np.abs(levels).sum(axis=1) * (np.abs(planes.weights).sum() + abs(planes.base))
    lifts = offsets + planes.base * levels.sum(axis=1) + _SLACK * sums
    lifts += planes.lift * planes.deviation * np.sqrt((levels**2).sum(axis=1))
    return Bounds(tables, (steps * queries.gains).astype(np.float32), (lifts * queries.gains).astype(np.float32))
