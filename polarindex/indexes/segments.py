"""The scan of spectral codes in registers: what a quantizer's segments are to kernels, and what these want of queries.

Read:      codes of several segments, in panels, where the machine has one of kernels.simd's sets.
Not here:  the bounds and their law (kernels/cascade.py); whether rows are left out (plan.py); lists (probing.py)."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codebooks import longest_levels
from polarindex.codes import PANEL
from polarindex.indexes.lines import NO_LINES, NO_SHIFTS, StageQueries, rows_of_a_call
from polarindex.kernels.limits import LEVELS, RING
from polarindex.memory import aligned_zeros
from polarindex.quantizers import Quantizer
from polarindex.quantizers.base import TableStage
from polarindex.quantizers.spectral import Spectral, multiples
from polarindex.quantizers.trellis import TrellisStage

_TILE = 8  # queries that share a tile of registers
_HITS = 1 << 13  # that a scan has room for

Floats = NDArray[np.float32]


class SegmentCode(NamedTuple):
    """How the register kernel sees codes in segments.

    isa : the instruction set
    head : segments that are multiplied for all rows
    parts : (s, 5) int64, tables (s, 256) int8, longest (s,) float32, as scan_segments wants them
    sizes : (s,) int64, coordinates
    lines : of all segments
    """

    isa: str
    head: int
    parts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    tables: NDArray[np.int8]
    longest: Floats
    lines: int

    @property
    def stages(self) -> int:
        return len(self.parts)

    @property
    def planes(self) -> bool:
        """Whether planes can be read first, by nibble tables."""
        return self.isa == "avx512"

    @property
    def dims(self) -> int:
        """Coordinates of all segments, with the padding of their last words."""
        return 4 * self.lines

    @property
    def head_dims(self) -> int:
        return self.dims if self.head == self.stages else 4 * int(self.parts[self.head, 3])


def segment_words(quantizer: Quantizer) -> list[list[int]]:
    """Of each part of the codes, where its segments begin in a row of the part."""
    firsts: list[list[int]] = [[] for _ in quantizer.parts]
    number, at = 0, 0
    for stage in quantizer.stages:
        if at == quantizer.parts[number].words:
            number, at = number + 1, 0
        firsts[number].append(at)
        at += stage.layout.words
    return firsts


def table_stages(quantizer: Quantizer) -> list[TableStage] | None:
    """The quantizer's stages, where the code of each coordinate picks a level; None where some are rings."""
    stages = [stage for stage in quantizer.stages if isinstance(stage, TableStage)]
    return stages if len(stages) == len(quantizer.stages) else None


def segment_code(quantizer: Quantizer, isa: str) -> SegmentCode | None:
    """How an instruction set scans the quantizer's codes, or None where that cannot be."""
    if isa == kernels.GENERIC or not quantizer.segmented:
        return None
    stages = _stages(quantizer)
    parts = _parts(stages, [first for part in segment_words(quantizer) for first in part])
    lines = int(parts[-1, 3] + parts[-1, 4])
    sizes = np.array([stage.map.dims for stage in stages], np.int64)
    return SegmentCode(isa, quantizer.head, parts, sizes, _tables(stages), _longest(stages), lines)


def _stages(quantizer: Quantizer) -> list[TableStage | TrellisStage]:
    return [stage for stage in quantizer.stages if isinstance(stage, TableStage | TrellisStage)]


def _tables(stages: Sequence[TableStage | TrellisStage]) -> NDArray[np.int8]:
    """(s, 256), of each segment what its levels are looked up by."""
    tables = np.zeros((len(stages), LEVELS), np.int8)
    for table, stage in zip(tables, stages, strict=True):
        own = stage.table if isinstance(stage, TrellisStage) else level_table(stage).reshape(-1)
        table[: len(own)] = own
    return tables


def _parts(stages: Sequence[TableStage | TrellisStage], firsts: Sequence[int]) -> NDArray[np.int64]:
    """(s, 5): of each segment its bits, its first word, the words of a plane, its first line of levels and how many;
    of a ring, of which all words are one plane, RING more bits."""
    parts, line = [], 0
    for stage, first in zip(stages, firsts, strict=True):
        if isinstance(stage, TrellisStage):
            bits, words = RING + stage.layout.bits, stage.layout.words
            lines = stage.layout.begun // 4
        else:
            bits, words, lines = stage.layout.bits, stage.layout.planes[0].words, stage.layout.padded // 4
        parts.append((bits, first, words, line, lines))
        line += lines
    return np.array(parts, np.int64)


class ListSegments:
    """What kernels.answer_by_segments is told of a quantizer, whose arrays the addresses are of.

    plan : (s, 7) int64: bits, first word, words of a plane, first line of levels, lines, address and size of the basis
    tables, longest : as of SegmentCode
    """

    def __init__(self, quantizer: Spectral) -> None:
        self._quantizer, stages = quantizer, _stages(quantizer)
        firsts = itertools.accumulate((stage.layout.words for stage in stages[:-1]), initial=0)
        bases = [(own.groups.__array_interface__["data"][0], len(own.groups)) for own in quantizer.maps]
        self.plan = np.concatenate([_parts(stages, list(firsts)), np.array(bases, np.int64)], axis=1)
        self.tables = _tables(stages)
        self.longest = _longest(stages)


def _longest(stages: Sequence[TableStage | TrellisStage]) -> Floats:
    """At least |levels| of any row, in each segment; with a gain of g they are at most g times as long."""
    found = [
        stage.longest * (1 + 1e-6)  # float32 rounds
        if isinstance(stage, TrellisStage)
        else longest_levels(stage.table, stage.thresholds, stage.map.dims) * multiples(stage.layout.bits).max(initial=1)
        for stage in stages
    ]
    return np.array(found, np.float32)


def level_table(stage: TableStage) -> NDArray[np.int8]:
    """A stage's levels as kernels.dot_segment looks them up, (8, 16)."""
    table = np.zeros((8, PANEL), np.int8)
    if stage.layout.bits < 8:
        table.reshape(-1)[: max(PANEL, len(stage.table)) : max(1, PANEL // len(stage.table))] = stage.table
    return table


class SegmentQueries:
    """Queries as kernels.ask_segments makes them, `held` with those that fill up the last tile of `rows`."""

    def __init__(self, code: SegmentCode, queries: list[StageQueries], rows: int) -> None:
        self.nq = len(queries[0].levels)
        self.held = -(-self.nq // rows) * rows
        self.code = code
        self.gains = np.zeros((code.stages, self.held), np.float32)
        for s, piece in enumerate(queries):
            self.gains[s, : self.nq] = piece.gains
        levels = np.concatenate([piece.levels.reshape(-1) for piece in queries])
        self.asked, self.sums = np.empty((self.held, code.lines), np.int32), np.empty(self.gains.shape, np.int32)
        self.reaches = np.empty_like(self.gains)
        kernels.ask_segments(levels, code.sizes, self.gains, code.parts, self.asked, self.sums, self.reaches)

    @property
    def rows_at_once(self) -> int:
        return rows_of_a_call(self.held * self.code.dims)


class SegmentScan(SegmentQueries):
    """kernels.scan_segments with its queries; `pruned`: rows are left out that bounds rule out."""

    def __init__(self, code: SegmentCode, pruned: bool, queries: list[StageQueries]) -> None:
        super().__init__(code, queries, _TILE)
        self._segments = code.head if pruned else code.stages, code.head, code.parts
        self._isa, self._alone = kernels.Isa(code.isa, _TILE, 8), kernels.Isa(code.isa, 1, 8)
        quads = np.ascontiguousarray(self.asked.reshape(-1, _TILE, code.lines).transpose(0, 2, 1))
        self._queries = quads, self.asked, self.sums, self.gains, self.reaches

    def __call__(self, arrays: Any, count: int, names: Any, allowed: Any, best: Any) -> None:
        panels, factors = stored(arrays)
        kernels.scan_segments(
            self._isa,
            self._alone,
            panels,
            count,
            self._segments,
            self.code.tables,
            self.code.longest,
            self._queries,
            factors,
            names,
            allowed,
            best,
            room_for(self.held),
        )


_NO_TAILS = np.empty(0, np.uint16)
_rooms = threading.local()


def stored(arrays: Any) -> tuple[Any, Any]:
    """Panels and factors of an arena's arrays, as scan_segments takes them."""
    panels = arrays["codes0"], arrays.get("codes1", NO_LINES)
    return panels, (arrays["scales"], arrays.get("shifts", NO_SHIFTS), arrays.get("tails", _NO_TAILS))


def room_for(held: int) -> tuple[Floats, NDArray[np.int32]]:
    """Where this thread's scans keep hits: held on to, for new memory is cleared first, 75 us for a query alone."""
    wanted = max(_HITS, held * PANEL)
    if getattr(_rooms, "hits", 0) < wanted:
        keys = aligned_zeros((PANEL * (wanted + 1),), np.float32)
        _rooms.arrays, _rooms.hits = (keys, np.empty((3, wanted), np.int32)), wanted
    arrays: tuple[Floats, NDArray[np.int32]] = _rooms.arrays
    return arrays
