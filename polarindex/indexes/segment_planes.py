"""A first pass over codes in segments, for a query alone: which planes of which segments, and the scan that follows.

Read:      one to three planes of a segment by nibble tables, or all of it; of none but the first segments, for what is
           not read at all is bounded by its length, and the last are the shortest.
Bound:     what is behind the first planes of a segment errs like noise, for a segment is rotated at random. LIFT
           standard deviations are added, of all segments together: deviations of a row of usual scales.
Not here:  whether it pays (plan.py); the law of the scan (kernels/alone.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codebooks import first_planes
from polarindex.indexes.lines import StageQueries
from polarindex.indexes.segments import Floats, SegmentCode, SegmentQueries, room_for, stored
from polarindex.memory import aligned_zeros
from polarindex.quantizers.base import TableStage

LIFT = 5.0  # with 3.4 three of 40,000 results were lost, with 4 none, but 7 distances of near copies were others
_MOST = 3  # planes that tables add up; with more it is cheaper to unpack the segment
_BYTES = 8  # bits of codes that have no planes
_LEAST = 1e-30  # share of energy: of what is all zeros too


class SegmentPlanes(NamedTuple):
    """What is read of all rows.

    planes : (f,) int64, of each of the first segments; its bits where all of it is read
    estimates : (f, 6) float64, as kernels.stage_segments wants them
    lines : of planes, in a panel; 0: whole segments alone, and bounds are true
    """

    planes: NDArray[np.int64]
    estimates: NDArray[np.float64]
    lines: int

    def margins(self, queries: Sequence[Floats], scales: Floats) -> Floats:
        """What bounds allow for, (nq, n), of queries in each segment (nq, dims) and scales (n, stages)."""
        errors = np.array([np.linalg.norm(q, axis=1) * row[4] for q, row in zip(queries, self.estimates, strict=False)])
        usual = errors * self.estimates[:, 5:]
        spread = np.sqrt((usual**2).sum(axis=0))
        lifts = errors * np.divide(usual, spread, out=np.zeros_like(usual), where=spread > 0)
        margins: Floats = (lifts.T @ scales[:, : len(usual)].T).astype(np.float32)
        return margins

    def estimated(self, s: int, bits: int, codes: NDArray[Any]) -> Floats:
        """Levels of segment s as its planes say, of codes (n, dims) of so many bits."""
        count, row = int(self.planes[s]), self.estimates[s]
        planes = codes[:, :, None] >> (bits - 1 - np.arange(count)) & 1
        return (row[0] + planes @ row[1 : 1 + count]).astype(np.float32)

    def describe(self, bits: Sequence[int]) -> str:
        """In words, of a code whose segments have these bits."""
        read = " + ".join(f"{p} of {b}" for p, b in zip(self.planes, bits, strict=False))
        return f"{read} planes of {len(self.planes)} of {len(bits)} segments"


def segment_planes(stages: Sequence[TableStage], shares: Sequence[float], planes: Sequence[int]) -> SegmentPlanes:
    """A first pass over so many planes of the first segments; shares: of energy, of each segment."""
    estimates, lines = np.zeros((len(planes), 6)), 0
    for row, stage, share, count in zip(estimates, stages, shares, planes, strict=False):
        layout, words = stage.layout, stage.layout.planes[0].words
        if count < layout.bits:
            lines += words * count
            first = first_planes(stage.table, stage.thresholds, count, LIFT)
            row[0], row[1 : 1 + count] = first.base, first.weights
            row[4] = first.lift * first.deviation
            # a row's scale is about its length in the segment by that of its levels
            row[5] = np.sqrt(share / stage.map.dims) / np.abs(stage.table.astype(np.float64)).max()
    return SegmentPlanes(np.array(planes, np.int64), estimates, lines)


def whole_segments(code: SegmentCode, count: int) -> SegmentPlanes:
    """All planes of the first `count` segments."""
    return SegmentPlanes(code.parts[:count, 0].copy(), np.zeros((count, 6)), 0)


def passes(stages: Sequence[TableStage], shares: Sequence[float]) -> list[tuple[int, ...]]:
    """Planes of first passes that may pay, coarse ones first: segments leave about alike of a coordinate."""
    bits = [stage.layout.bits for stage in stages]
    energies = [max(share, _LEAST) / stage.map.dims for share, stage in zip(shares, stages, strict=False)]
    found: dict[tuple[int, ...], None] = {}
    for level in sorted({energy * 4.0**-p for energy in energies for p in range(_MOST + 1)}, reverse=True):
        wanted = [max(0, math.ceil(math.log(energy / level, 4) - 1e-9)) for energy in energies]
        count = max((s + 1 for s, p in enumerate(wanted) if p), default=1)
        for more in (0, 1):  # planes of the first segment, which has the largest part of a key
            wanted[0] += more
            planes = tuple(
                b if b == _BYTES or p > _MOST else min(max(p, 1), b)
                for p, b in zip(wanted[:count], bits, strict=False)
            )
            if any(p < b for p, b in zip(planes, bits, strict=False)):
                found[planes] = None
    return list(found)


class AloneScan(SegmentQueries):
    """kernels.scan_alone with its queries, one or two; `first`: what is read of all rows."""

    def __init__(self, code: SegmentCode, first: SegmentPlanes, queries: list[StageQueries]) -> None:
        super().__init__(code, queries, 1)
        self._alone = kernels.Isa(code.isa, 1, 1 if code.planes else 8)
        planes = first.planes
        tables = aligned_zeros((self.held, first.lines, 1, 2, 64), np.uint8)
        steps, lifts = np.zeros((2, len(planes), self.held), np.float32)
        if first.lines:
            kernels.stage_segments(
                self.asked, self.sums, self.gains, code.parts, planes, first.estimates, tables, steps, lifts
            )
        self._first = planes, tables, steps, lifts
        self._segments = code.head, code.head, code.parts
        self._queries = self.asked, self.sums, self.gains, self.reaches

    def __call__(self, arrays: Any, count: int, names: Any, allowed: Any, best: Any) -> None:
        panels, factors = stored(arrays)
        kernels.scan_alone(
            self._alone,
            panels,
            count,
            self._segments,
            self.code.tables,
            self.code.longest,
            self._first,
            self._queries,
            factors,
            names,
            allowed,
            best,
            room_for(self.held),
        )
