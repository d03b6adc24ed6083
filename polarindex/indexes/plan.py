"""Which scan a search uses: the full code of every vector, or a first pass over one or two planes, or over a head.

The choice is made here alone, from measured speeds and from what a sample of the index says of how many vectors a
first pass would leave. It depends on the index, k and the number of queries, not on threads; on earlier searches only
where rows of the sample were removed or replaced since.

Costs:     nanoseconds on one Zen 4 core; only their ratios matter.
Sample:    2,048 rows spread over the first 2^m, taken again when m grows. Some of them, decoded, are taken as
           queries, for queries mostly resemble what they look for; the share of rows whose bound reaches the k-th
           best key (extrapolated from the sample's) is what a first pass leaves.
Segments:  of spectral codes a head is scanned, and the bound of the rest is true: answers are the full scan's. For a
           query alone it may be planes of the first segments, whose bound is not.
Rings:     a trellis code has no planes and so no first pass: all of it is scanned."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codebooks import FirstPlanes, first_planes
from polarindex.codes import PANEL, float_scales
from polarindex.indexes.arena import Arena
from polarindex.indexes.coding import Coding
from polarindex.indexes.lines import TILE_FROM, LineCode, line_code
from polarindex.indexes.rings import RingCode, ring_code
from polarindex.indexes.segment_planes import LIFT, SegmentPlanes, passes, segment_planes, whole_segments
from polarindex.indexes.segments import SegmentCode, segment_code, table_stages
from polarindex.quantizers.base import TableStage
from polarindex.quantizers.spectral import Spectral
from polarindex.vectors import squared_norms

SAMPLE_ROWS = 2048
_SAMPLE_QUERIES = 16
_PLANS = 64  # that are remembered
_STAGED_FROM = 1 << 22  # rows x dimensions from which a first pass pays for its tables
_FEW_DIMS = 64  # below, rotated coordinates are not Gaussian enough for the statistical bound
_FULL, _FIRST = 1 / 210, 1 / 600  # a coordinate in a batch: VPDPBUSD, and nibble tables by the plane
_FULL_ALONE, _FIRST_ALONE = 1 / 100, 1 / 350  # and for one query, which shares its work with none
_READ = 1 / 20  # a byte of code from memory, which is what a query alone waits for
_ROW, _ROW_DIM, _ROW_ALONE = 45.0, 0.01, 10.0  # the whole code of one row: fixed, a coordinate, for one query
_HIT, _HIT_DIM = 30.0, 0.03  # a panel and query behind the head: fixed, a coordinate
_HIT_ALONE = 250.0  # and for one query
_SEGMENT = 0.1  # of a segment of each row in a batch: its scale and sum
_DECODED, _LINE = 1 / 50, 0.12  # a coordinate of segments for one query, and a line of planes
_LINE_BEHIND = 0.25  # and one behind the head, where most of a panel is passed over
_WORTH = 0.86  # of the time of a scan with true bounds: what one takes at most whose bounds are not
_EARLY, _EARLY_ALONE = 4, 1.5  # times the share of rows that are wanted: what the k-th best so far is among, on average
_KEY_COLUMNS = "scales", "shifts", "tails", "factors"  # and codes: what a key is made of
_RAMP = 0.5  # times log(n / k): rows read in full for each that would be, were the k-th rank known from the start

Floats = NDArray[np.float32]
_Code = LineCode | SegmentCode | RingCode | None


class Plan(NamedTuple):
    """How to scan.

    code : how registers see the codes; None: they are decoded in steps
    first : what a first pass reads; None: there is none
    survivors : the share of rows that the first pass, or the head of segments, is expected to leave
    pruned : of segments: whether what is behind the head is read only of rows that may still be among the best
    """

    code: _Code
    first: FirstPlanes | SegmentPlanes | None = None
    survivors: float = 1.0
    pruned: bool = False

    def describe(self) -> str:
        if self.code is None:
            return "full scan in steps"
        if isinstance(self.code, SegmentCode) and self.pruned:
            segments = f"{self.code.head} of {self.code.stages} segments"
            return f"first {segments} ({self.code.isa}), {self.survivors:.1%} read further"
        if self.first is None:
            return f"full scan ({self.code.isa})"
        if isinstance(self.first, SegmentPlanes):
            bits = self.code.parts[:, 0].tolist()  # type: ignore[union-attr]  # of segments
            return f"first pass over {self.first.describe(bits)} ({self.code.isa}), {self.survivors:.1%} read further"
        planes, bits = len(self.first.weights), self.code.stage.layout.bits  # type: ignore[union-attr]  # of planes
        if self.first.deviation == 0:
            return f"lossless first pass over the whole code ({self.code.isa})"
        left = f"{self.survivors:.1%} read in full"
        return f"first pass over {planes} of {bits} planes ({self.code.isa}), {left}"


IN_STEPS = Plan(None)


class Planner:
    """The plans of one index."""

    def __init__(self, coding: Coding) -> None:
        self._coding = coding
        self._codes: dict[str, _Code] = {}  # instruction set -> how it sees the code
        self._firsts: dict[int, FirstPlanes] = {}  # planes -> what they say
        self._plans: dict[tuple[str, int, int, int, bool], Plan] = {}
        self._sample: _Sample | None = None

    def plan(self, arena: Arena, nq: int, k: int, exact: bool) -> Plan:
        """The plan for nq queries; `exact`: only one whose answers are the full scan's, whatever the data."""
        isa = kernels.selected()
        case = isa, arena.n, nq, k, exact
        plan = self._plans.get(case)
        if plan is None:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            plan = self._plans[case] = self._made(self._code(isa), arena, nq, k, exact)
        return plan

    @property
    def nbytes(self) -> int:
        """Of the sample."""
        return self._sample.nbytes if self._sample else 0

    def _made(self, code: _Code, arena: Arena, nq: int, k: int, exact: bool) -> Plan:
        n = arena.n
        if isinstance(code, SegmentCode):
            return self._of_segments(code, arena, nq, k, exact)
        if code is None or isinstance(code, RingCode) or not code.tables or n * code.dims < _STAGED_FROM:
            return Plan(code)
        best, lowest = Plan(code), self._full_cost(code, nq)
        sample = self._sampled(arena)
        for planes in (1, 2)[: code.bits]:
            first = self._first(code, planes)
            if first.deviation > 0 and (exact or self._coding.quantizer.dim < _FEW_DIMS):
                continue
            survivors = sample.survivors(code.stage, first, k / n)
            cost = self._cost(code, nq, planes, _RAMP * np.log(max(n / k, np.e)) * survivors)
            if cost < lowest:
                best, lowest = Plan(code, first, survivors), cost
        return best

    def _of_segments(self, code: SegmentCode, arena: Arena, nq: int, k: int, exact: bool) -> Plan:
        if exact or arena.n * code.dims < _STAGED_FROM:
            return Plan(code)
        if nq < TILE_FROM:
            return self._of_segments_alone(code, arena, k)
        if code.head == code.stages:
            return Plan(code)
        sample = self._sampled(arena)
        survivors = sample.near(code, whole_segments(code, code.head), min(0.5, _EARLY * k / arena.n))
        sample.settle()
        saved = (code.dims - code.head_dims) * _FULL + (code.stages - code.head) * _SEGMENT
        cost = _panels(survivors) * (_HIT + _HIT_DIM * (code.dims - code.head_dims))
        return Plan(code, None, survivors, True) if cost < saved else Plan(code)

    def _of_segments_alone(self, code: SegmentCode, arena: Arena, k: int) -> Plan:
        sample, share, quantizer = self._sampled(arena), min(0.5, _EARLY_ALONE * k / arena.n), self._coding.quantizer
        best, lowest = Plan(code), self._alone_cost(code, whole_segments(code, code.stages), 0.0)
        firsts = [whole_segments(code, code.head)] if code.head < code.stages else []
        stages = table_stages(quantizer)
        if code.planes and stages is not None and isinstance(quantizer, Spectral):
            given = stages, quantizer.shares
            firsts += [segment_planes(*given, planes) for planes in passes(*given)]
        for first in firsts:
            worth = _WORTH if first.lines else 1.0
            if self._alone_cost(code, first, 0.0) < worth * lowest:
                survivors = sample.near(code, first, share)
                cost = self._alone_cost(code, first, survivors) / worth
                if cost < lowest:
                    best = Plan(code, first if first.lines else None, survivors, not first.lines)
                    lowest = cost
        sample.settle()
        return best

    def _code(self, isa: str) -> _Code:
        if isa not in self._codes:
            quantizer = self._coding.quantizer
            seen = line_code(quantizer, isa) or segment_code(quantizer, isa)
            self._codes[isa] = seen or ring_code(quantizer, isa)
        return self._codes[isa]

    def _first(self, code: LineCode, planes: int) -> FirstPlanes:
        if planes not in self._firsts:
            lift = LIFT if isinstance(self._coding.quantizer, Spectral) else None  # a code of one segment, too
            self._firsts[planes] = first_planes(code.stage.table, code.stage.thresholds, planes, lift)
        return self._firsts[planes]

    def _sampled(self, arena: Arena) -> _Sample:
        held = self._sample
        if held is None or held.arena is not arena or held.n != _whole(arena.n):
            held = self._sample = _Sample(self._coding, arena)
        return held

    # --- nanoseconds a row

    def _alone_cost(self, code: SegmentCode, first: SegmentPlanes, survivors: float) -> float:
        count = len(first.planes)
        read = first.planes == code.parts[:count, 0]
        whole = 4 * float(code.parts[:count, 4][read].sum()) * _DECODED
        lines = np.where(read, 0, first.planes * code.parts[:count, 2])
        planes = float(lines[: code.head].sum()) * _LINE + float(lines[code.head :].sum()) * _LINE_BEHIND
        return whole + planes + count * _SEGMENT + _panels(survivors) * _HIT_ALONE

    def _full_cost(self, code: LineCode, nq: int) -> float:
        work = _FULL if nq >= TILE_FROM else _FULL_ALONE
        return code.dims * max(work, code.bits / 8 * _READ / nq)

    def _cost(self, code: LineCode, nq: int, planes: int, survivors: float) -> float:
        alone = _ROW_ALONE / nq
        work = _FIRST if nq >= TILE_FROM else _FIRST_ALONE
        first = code.dims * planes * max(work, _READ / 8 / nq)
        return first + survivors * (_ROW + alone + _ROW_DIM * code.dims)


def _whole(n: int) -> int:
    """The largest power of two that is at most n."""
    return 1 << (n.bit_length() - 1) if n else 0


def _panels(share: float) -> float:
    """Panels with one of a share of the rows, for each row."""
    return (1 - (1 - share) ** PANEL) / PANEL


def _ranked(keys: Floats, bounds: Floats) -> tuple[Floats, Floats]:
    """Keys of each query, best first, and bounds."""
    return -np.sort(-keys, axis=1), bounds


class _Sample:
    """SAMPLE_ROWS of an index's first n rows, n a power of two: the same whenever it is taken as rows are added."""

    def __init__(self, coding: Coding, arena: Arena) -> None:
        self.arena, self.n = arena, _whole(arena.n)
        self._coding = coding
        self._segments: _SegmentSample | None = None
        self._ranked: dict[int | tuple[int, ...], tuple[Floats, Floats]] = {}  # planes -> keys, best first, and bounds
        positions = np.unique(np.linspace(0, self.n - 1, min(SAMPLE_ROWS, self.n)).astype(np.int64))
        names = [name for name in arena.columns if name in _KEY_COLUMNS or name.startswith("codes")]
        self.rows = Arena({name: arena.columns[name] for name in names})
        self.rows.append({name: arena.take(name, positions) for name in names})

    @property
    def nbytes(self) -> int:
        """Of the rows, and of what was found of them."""
        found = {id(array): array for pair in tuple(self._ranked.values()) for array in pair}
        return self.rows.nbytes + sum(array.nbytes for array in found.values())

    def survivors(self, stage: TableStage, first: FirstPlanes, share: float) -> float:
        """The share of rows whose bound reaches the key that a `share` of rows reaches."""
        planes = len(first.weights)
        if planes not in self._ranked:
            self._ranked[planes] = _ranked(*self._keys_and_bounds(stage, first))
        return self._reaching(planes, share)

    def near(self, code: SegmentCode, first: SegmentPlanes, share: float) -> float:
        """The same of rows whose key by what is read of segments, with all that others may add, reaches it."""
        planes = tuple(first.planes.tolist())
        if planes not in self._ranked:
            segments = self._segments or _SegmentSample(self._coding, self.rows, self._chosen())
            self._segments = segments
            keys, bounds = segments.keys(), segments.bounds(code, first)
            own = np.arange(len(keys)), self._chosen()  # a query's own row is out of the running
            keys[own] = bounds[own] = -np.inf
            ranked = next((held[0] for held in tuple(self._ranked.values())), None)
            self._ranked[planes] = (-np.sort(-keys, axis=1) if ranked is None else ranked), bounds
        return self._reaching(planes, share)

    def settle(self) -> None:
        """Let go of what is only needed while passes are compared."""
        self._segments = None

    def _reaching(self, planes: int | tuple[int, ...], share: float) -> float:
        ranked, bounds = self._ranked[planes]
        rows = ranked.shape[1]
        near, far = min(2, rows), min(max(32, round(share * rows)), rows)
        low, high = ranked[:, far - 1], ranked[:, near - 1]
        depth = [np.sqrt(-2 * np.log(part)) for part in (min(share, 1.0), near / rows, far / rows)]  # a normal tail
        slope = (high - low) / (depth[1] - depth[2]) if far > near else 0
        return float((bounds >= (low + slope * (depth[0] - depth[2]))[:, None]).mean())

    def _chosen(self) -> NDArray[np.int64]:
        """The rows that are queries."""
        return np.linspace(0, self.rows.n - 1, _SAMPLE_QUERIES).astype(np.int64)

    def _keys_and_bounds(self, stage: TableStage, first: FirstPlanes) -> tuple[Floats, Floats]:
        """Of all rows for some of them as queries; a query's own row is out of the running."""
        coding, every, chosen = self._coding, np.arange(self.rows.n), self._chosen()
        queries = stage.map.forward(coding.decoded_at(self.rows, chosen))
        codes = stage.layout.unpack(coding.words(self.rows, every))[:, : stage.map.dims]
        bits, planes = stage.layout.bits, len(first.weights)
        estimates = first.base + (codes[:, :, None] >> (bits - 1 - np.arange(planes)) & 1) @ first.weights
        shifts = coding.shifts(self.rows, every)
        factors = coding.factor * coding.scales(self.rows, every)[:, 0]
        lifts = first.lift * first.deviation * np.linalg.norm(queries, axis=1)
        if first.deviation == 0:  # sums of four are rounded up to whole 127ths of the widest
            fours = np.abs(queries[:, : queries.shape[1] // 4 * 4]).reshape(len(queries), -1, 4).sum(axis=2)
            lifts = fours.max(axis=1) * np.abs(first.weights).max() / 127 / 2 * fours.shape[1] * planes
        keys = (queries @ stage.table[codes].astype(np.float32).T) * factors + shifts
        bounds = (queries @ estimates.astype(np.float32).T + lifts[:, None]) * factors + shifts
        keys[np.arange(len(chosen)), chosen] = bounds[np.arange(len(chosen)), chosen] = -np.inf
        return keys.astype(np.float32), bounds.astype(np.float32)


class _SegmentSample:
    """Decoded segments of a sample's rows, some of which are queries, as long as first passes are compared."""

    def __init__(self, coding: Coding, rows: Arena, chosen: NDArray[np.int64]) -> None:
        every = np.arange(rows.n)
        self._stages = coding.quantizer.stages
        self._rows = coding.quantizer.mapped(coding.decoded_at(rows, every))
        self._queries = [np.float32(coding.factor) * y[chosen] for y in self._rows]
        self._words = coding.quantizer.split(coding.words(rows, every))
        self._scales, self._shifts = coding.scales(rows, every), coding.shifts(rows, every)
        self._tails = float_scales(rows.take("tails", every)) if "tails" in rows.columns else None
        self._products: dict[tuple[int, int], Floats] = {}  # segment and planes

    def keys(self) -> Floats:
        """(nq, n)."""
        products = [self._whole(s) for s in range(len(self._rows))]
        return self._shifts + np.sum(products, axis=0, dtype=np.float32)

    def bounds(self, code: SegmentCode, first: SegmentPlanes) -> Floats:
        """(nq, n)."""
        count = len(first.planes)
        bounds = self._shifts + first.margins(self._queries, self._scales)
        for s, (planes, bits) in enumerate(zip(first.planes.tolist(), code.parts[:, 0].tolist(), strict=False)):
            bounds += self._whole(s) if planes == bits else self._by_planes(s, planes, bits, first)
        energies = np.zeros(len(bounds)) + sum(squared_norms(q) for q in self._queries[count:])
        lengths: NDArray[Any] = np.sqrt(np.square(self._scales[:, count:] * code.longest[count:]).sum(axis=1))
        if count == code.head and self._tails is not None:
            lengths = self._tails
        found: Floats = (bounds + np.sqrt(energies)[:, None] * lengths).astype(np.float32)
        return found

    def _whole(self, s: int) -> Floats:
        if (s, 0) not in self._products:
            self._products[s, 0] = (self._queries[s] @ self._rows[s].T).astype(np.float32)
        return self._products[s, 0]

    def _by_planes(self, s: int, planes: int, bits: int, first: SegmentPlanes) -> Floats:
        if (s, planes) not in self._products:
            dims = self._rows[s].shape[1]
            codes = self._stages[s].layout.unpack(self._words[s])[:, :dims]
            levels = first.estimated(s, bits, codes) * self._scales[:, s : s + 1]
            self._products[s, planes] = (self._queries[s] @ levels.T).astype(np.float32)
        return self._products[s, planes]
