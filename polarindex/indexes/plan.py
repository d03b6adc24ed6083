"""Which scan a search uses: the full code of every vector, or a first pass over one or two planes.

The choice is made here alone, from measured speeds and from what a sample of the index says of how many vectors a
first pass would leave. It depends on the index, k and the number of queries, not on threads or on earlier searches.

Costs:     nanoseconds on one Zen 4 core; only their ratios matter.
Sample:    2,048 rows spread over the index. Some of them, decoded, are taken as queries, for queries mostly resemble
           what they look for; the share of rows whose bound reaches the rank that k has in the sample is the share
           that a first pass leaves. It is taken again when the index has doubled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codebooks import FirstPlanes, first_planes
from polarindex.indexes.arena import Arena
from polarindex.indexes.coding import Coding
from polarindex.indexes.firstpass import LIFT
from polarindex.indexes.lines import LineCode, line_code
from polarindex.quantizers.base import TableStage

SAMPLE_ROWS = 2048
_SAMPLE_QUERIES = 16
_STAGED_FROM = 1 << 22  # rows x dimensions from which a first pass pays for its tables
_FEW_DIMS = 64  # below, rotated coordinates are not Gaussian enough for the statistical bound
_FULL, _FIRST = 1 / 210, 1 / 600  # a coordinate in a batch: VPDPBUSD, and nibble tables by the plane
_READ = 1 / 20  # a byte of code from memory, which is what a query alone waits for
_ROW, _ROW_DIM, _ROW_ALONE = 15.0, 0.035, 60.0  # the whole code of one row: fixed, a coordinate, out of cache

Floats = NDArray[np.float32]


class Plan(NamedTuple):
    """first: what a first pass reads, or None for a full scan; survivors: the share of rows it is expected to leave."""

    code: LineCode | None
    first: FirstPlanes | None
    survivors: float

    def describe(self) -> str:
        if self.code is None:
            return "full scan in steps"
        if self.first is None:
            return f"full scan ({self.code.isa})"
        planes = len(self.first.weights)
        if self.first.deviation == 0:
            return f"lossless first pass over all {planes} planes ({self.code.isa})"
        left = f"{self.survivors:.1%} read in full"
        return f"first pass over {planes} of {self.code.bits} planes ({self.code.isa}), {left}"


IN_STEPS = Plan(None, None, 1.0)


class Planner:
    """The plans of one index."""

    def __init__(self, arena: Arena, coding: Coding) -> None:
        self._arena, self._coding = arena, coding
        self._codes: dict[str, LineCode | None] = {}  # instruction set -> how it sees the code
        self._firsts: dict[int, FirstPlanes] = {}  # planes -> what they say
        self._sampled_at = 0
        self._errors: dict[int, tuple[Floats, Floats]] = {}  # planes -> (keys, bounds), each (queries, rows)

    def plan(self, nq: int, k: int, exact: bool) -> Plan:
        """The plan for nq queries; `exact`: only one whose answers are the full scan's, whatever the data."""
        code = self._code(kernels.selected())
        full = Plan(code, None, 1.0)
        n = self._arena.n
        if code is None or not code.tables or n * code.dims < _STAGED_FROM:
            return full
        options = []
        for planes in (1, 2)[: code.bits]:
            first = self._first(code, planes)
            if first.deviation == 0:
                options.append((self._cost(code, nq, planes, k / n), Plan(code, first, k / n)))
            elif not exact and self._coding.quantizer.dim >= _FEW_DIMS:
                survivors = self._survivors(code.stage, first, k)
                options.append((self._cost(code, nq, planes, survivors), Plan(code, first, survivors)))
        best = min(options, key=lambda option: option[0], default=None)
        return best[1] if best and best[0] < self._full_cost(code, nq) else full

    def _code(self, isa: str) -> LineCode | None:
        if isa not in self._codes:
            self._codes[isa] = line_code(self._coding.quantizer, isa)
        return self._codes[isa]

    def _first(self, code: LineCode, planes: int) -> FirstPlanes:
        if planes not in self._firsts:
            self._firsts[planes] = first_planes(code.stage.table, code.stage.thresholds, planes)
        return self._firsts[planes]

    def _full_cost(self, code: LineCode, nq: int) -> float:
        """Nanoseconds a row."""
        return max(code.dims * _FULL, code.dims * code.bits / 8 * _READ / nq)

    def _cost(self, code: LineCode, nq: int, planes: int, survivors: float) -> float:
        alone = _ROW_ALONE / nq
        first = max(code.dims * planes * _FIRST, code.dims * planes / 8 * _READ / nq)
        return first + survivors * (_ROW + alone + _ROW_DIM * code.dims)

    # --- the sample

    def _survivors(self, stage: TableStage, first: FirstPlanes, k: int) -> float:
        n = self._arena.n
        if not self._sampled_at <= n < 2 * self._sampled_at:
            self._sampled_at, self._errors = n, {}
        planes = len(first.weights)
        if planes not in self._errors:
            self._errors[planes] = self._keys_and_bounds(stage, first)
        keys, bounds = self._errors[planes]
        rank = min(max(round(k / n * keys.shape[1]), 2), keys.shape[1])
        thresholds = -np.partition(-keys, rank - 1, axis=1)[:, rank - 1]
        return float((bounds >= thresholds[:, None]).mean())

    def _keys_and_bounds(self, stage: TableStage, first: FirstPlanes) -> tuple[Floats, Floats]:
        """Of sample rows for sample queries; a query's own row is out of the running."""
        coding, n = self._coding, self._arena.n
        positions = np.unique(np.linspace(0, n - 1, min(SAMPLE_ROWS, n)).astype(np.int64))
        words, scales = coding.words(self._arena, positions), self._arena.take("scales", positions)[:, 0]
        chosen = np.linspace(0, len(positions) - 1, _SAMPLE_QUERIES).astype(np.int64)
        queries = stage.map.forward(coding.decoded(words[chosen], scales[chosen, None]))
        codes = stage.layout.unpack(words)[:, : stage.map.dims]
        bits, planes = stage.layout.bits, len(first.weights)
        estimates = first.base + (codes[:, :, None] >> (bits - 1 - np.arange(planes)) & 1) @ first.weights
        shifts = self._arena.take("shifts", positions) if "shifts" in self._arena.columns else np.float32(0)
        factor = coding.factor * scales
        keys = (queries @ stage.table[codes].astype(np.float32).T) * factor + shifts
        lifts = LIFT * first.deviation * np.linalg.norm(queries, axis=1)
        bounds = (queries @ estimates.astype(np.float32).T + lifts[:, None]) * factor + shifts
        keys[np.arange(len(chosen)), chosen] = bounds[np.arange(len(chosen)), chosen] = -np.inf
        return keys.astype(np.float32), bounds.astype(np.float32)
