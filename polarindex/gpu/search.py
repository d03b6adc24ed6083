"""One search on the device: a threshold from a sample, the hits of all rows, the k best of each list.

    sample        the largest keys of every 16 rows of some tiles
    thresholds    the k-th largest of a query's maxima: each is another row's key, so it bounds the k-th best from below
    filter        every row; those that reach the threshold are appended to the query's list. Of many rows an eighth
                  comes first, and its hits raise the threshold for the others: a third of the hits, which take time
    best          the list sorted by key and id
    overflow      a list was too short: the threshold becomes the k-th of what it holds, and all is filtered again

Law:       keys are those of the CPU's scan, bit for bit, so the k best by key and id are too: whatever the sample, the
           order in which hits arrive, and the kernel. An overflow costs time, not results (reference.py, its tests).
Not here:  where rows come from (mirror.py); keys to distances (indexes/coding.py)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from polarindex.gpu.device import Device, raw
from polarindex.gpu.layout import TILE, Layout
from polarindex.gpu.shapes import FEW_K, SORTED_K, Shape, room, sample, shape
from polarindex.gpu.source import scan_source, source
from polarindex.gpu.tiles import Tiles
from polarindex.indexes.lines import StageQueries
from polarindex.kernels.limits import EMPTY_ID

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

_POINTERS = """codes scales shifts allowed tiles queries gains taus tau_ids ids counts hits maxima dots queues
    queued""".split()
_NUMBERS = "n ntiles stride nqt room width raised skipped".split()
_SCAN = np.dtype(  # struct Scan of source/keys.cuh
    [(name, np.uint64) for name in _POINTERS] + [("table", np.uint32, 4)] + [(name, np.int32) for name in _NUMBERS],
    align=True,
)
FIRST = 8  # one tile in so many is filtered first, where the others are at least so many:
_FIRST_TILES = 512
_HIT_BYTES = 1 << 28  # of lists at a time
_SORT_THREADS = 256
_HELD = 16  # maxima a thread of `thresholds`
_QUEUE_PLACES = 512  # PLACES of source/keys.cuh


class Rows(NamedTuple):
    """An index's rows on the device; CuPy arrays.

    tiles uint8; scales, shifts (>= n,) float32, shifts None for 0; ids (>= n,) int64, None where they are positions;
    table (4,) uint32, on the host; beyond: where tiles are that the device does not hold, None where it holds all
    """

    layout: Layout
    n: int
    tiles: Any
    scales: Any
    shifts: Any
    ids: Any
    table: NDArray[np.uint32]
    beyond: Tiles | None = None


class Chosen(NamedTuple):
    """Rows that may be returned: bits, a uint32 for 32 rows, and the tiles that have any; None for all.

    numbers : `tiles` on the host
    """

    bits: Any
    tiles: Any
    tile_count: int
    numbers: NDArray[np.int32] | None = None


def chosen(cp: Any, allowed: NDArray[np.uint8] | None, n: int) -> Chosen:
    """What a mask (n,) says, on the device."""
    ntiles = -(-n // TILE)
    if allowed is None:
        return Chosen(None, None, ntiles)
    packed = np.zeros(ntiles * TILE // 8, np.uint8)
    bits = np.packbits(allowed[:n], bitorder="little")
    packed[: len(bits)] = bits
    tiles = np.flatnonzero(packed.view(np.uint64)).astype(np.int32)
    return Chosen(cp.asarray(packed.view(np.uint32)), cp.asarray(tiles), len(tiles), tiles)


# From how many queries are held, with those that fill up the last tile, to their levels (held, padded) int8 and gains
# (held,) float32 on the device; the others are 0.
Prepare = Callable[[int], tuple[Any, Any]]

T = TypeVar("T")
Turns = Generator[None, None, T]  # it pauses where it would wait for a device, and returns T


class Search:
    """Some queries against some rows; the device is the current one."""

    def __init__(
        self,
        device: Device,
        cp: Any,
        rows: Rows,
        prepare: Prepare,
        nq: int,
        k: int,
        which: Chosen,
        instruction: str | None = None,
    ) -> None:
        self._device, self._cp, self._rows, self.k, self._which = device, cp, rows, k, which
        self.nq = nq
        self.shape = shape(device.card, rows.layout, self.nq, instruction)
        self._nqt = -(-self.nq // self.shape.queries)
        held = self._nqt * self.shape.queries
        self._room, self._sample = room(k), sample(max(which.tile_count, 1), k)
        self._width = 4 * self._sample.tiles
        self.queries, self.gains = prepare(held)
        self._hold(held)
        self.arguments = np.zeros(1, _SCAN)
        self._raw = raw(self.arguments)
        self._fill()

    def _hold(self, held: int) -> None:
        """Room for what comes of the queries."""
        cp = self._cp
        self.taus, self.tau_ids = cp.empty(held, np.float32), cp.empty(held, np.int64)
        self.hits = cp.empty((held, self._room), np.uint64)
        self.maxima = cp.empty((held, self._width), np.float32)
        form = self.shape
        self._queues = self._groups(-(-self._rows.n // TILE)) * self._nqt * form.threads // 32 if form.queued else 0
        self.queues = cp.empty((self._queues, _QUEUE_PLACES, 4), np.uint32)
        self.queued = cp.empty(self._queues, np.int32)
        self._out = cp.empty(held * (12 * self.k + 4), np.uint8)  # ids, keys and counts: one copy to the host
        self.ids, self.keys, self.counts = self._split(self._out, held)

    def _split(self, out: Any, held: int) -> tuple[Any, Any, Any]:
        ids, keys = 8 * held * self.k, 12 * held * self.k
        return (
            out[:ids].view(np.int64).reshape(held, self.k),
            out[ids:keys].view(np.float32).reshape(held, self.k),
            out[keys:].view(np.int32),
        )

    def _fill(self) -> None:
        """What the kernels are told that is the same in every pass."""
        rows, which, told = self._rows, self._which, self.arguments
        pointers = {
            "codes": rows.tiles,
            "scales": rows.scales,
            "shifts": rows.shifts,
            "ids": rows.ids,
            "allowed": which.bits,
            "queries": self.queries,
            "gains": self.gains,
            "taus": self.taus,
            "tau_ids": self.tau_ids,
            "counts": self.counts,
            "hits": self.hits,
            "maxima": self.maxima,
            "queues": self.queues,
            "queued": self.queued,
        }
        for name, array in pointers.items():
            told[name] = 0 if array is None else array.data.ptr
        told["table"], told["n"], told["nqt"], told["room"] = rows.table, rows.n, self._nqt, self._room

    # --- the steps

    def sample(self) -> None:
        self._scan("scan_maxima", self._sample.tiles, self._sample.stride, self._width)

    def threshold(self) -> None:
        held = len(self.taus)
        numbers = [*map(np.int32, (self._width, self._width, self.k, self.nq))]
        found = self.taus, self.tau_ids, self.counts
        if self.k <= FEW_K:
            few = -(-held // 4)
            self._topk("thresholds_of_few")((few,), (128,), (self.maxima, *numbers, np.int32(held), *found))
        elif self._width <= _HELD * _SORT_THREADS:
            self._topk("thresholds")((held,), (_SORT_THREADS,), (self.maxima, *numbers, *found))
        else:
            self._topk("thresholds_of_many")((held,), (1024,), (self.maxima, *numbers, *found))

    def filter(self) -> None:
        tiles = self._which.tile_count
        if not self.shape.queued or self.k > FEW_K or tiles < FIRST * _FIRST_TILES:
            self._filter(tiles, 1, 0)
            return
        first = -(-tiles // FIRST)
        self._filter(first, FIRST, 0)
        numbers = map(np.int32, (self._room, self.k, self.nq))
        self._topk("tighten_thresholds")((-(-self.nq // 4),), (128,), (self.hits, self.counts, *numbers, self.taus))
        self._filter(tiles - first, 1, FIRST)

    def filter_again(self) -> None:
        """All rows, with thresholds that an overflow has raised."""
        self._filter(self._which.tile_count, 1, 0)

    def _filter(self, tiles: int, stride: int, skipped: int) -> None:
        self.arguments["skipped"] = skipped
        self._scan("scan_filter", tiles, stride, 0)
        self.arguments["skipped"] = 0
        if self.shape.queued:
            groups = self._groups(tiles)
            parts = max(1, min(groups, 2 * self._device.card.processors // self._nqt))
            numbers = map(np.int32, (groups, self._nqt, self.shape.threads // 32, self.shape.queries, self._room))
            self._topk("bin_hits")(
                (parts * self._nqt,), (256,), (self.queues, self.queued, *numbers, self.counts, self.hits)
            )

    def raise_thresholds(self, first: int = 0, stop: int | None = None) -> None:
        """To the k-th of each list that has k; hits below leave it, and those of rows first .. stop - 1."""
        lists = self.hits, self._ids, np.int32(self._room), np.int32(self.k)
        dropped = np.int32(first), np.int32(self._rows.n if stop is None else min(stop, self._rows.n))
        self._topk("raise_thresholds")(
            (self.nq,), (_SORT_THREADS,), (*lists, *dropped, self.taus, self.tau_ids, self.counts)
        )

    def best(self) -> None:
        lists = self.hits, self._ids, self.counts, np.int32(self._room), np.int32(self.k)
        if self.k <= FEW_K:
            self._topk("best_of_few")((-(-self.nq // 4),), (128,), (*lists, np.int32(self.nq), self.keys, self.ids))
            return
        self._topk("best_hits")(
            (self.nq,), (_SORT_THREADS,), (*lists, self.keys, self.ids), shared_mem=12 * self._room
        )

    def turns(self) -> Turns[None]:
        """`run`, and a pause before its results are waited for."""
        self.run()
        yield

    def run(self) -> None:
        """All of it but an overflow; nothing waits."""
        self.sample()
        self.threshold()
        self.filter()
        if self.k <= SORTED_K:
            self.best()

    def results(self) -> tuple[Floats, Ids]:
        """Keys and ids (nq, k) after `run`, best first, on the host; empty places are -inf and EMPTY_ID."""
        while True:
            ids, keys, counts = self._split(self._out.get(), len(self.taus))
            if counts[: self.nq].max(initial=0) <= self._room:
                break
            self.arguments["raised"] = 1
            self.raise_thresholds()
            self.filter_again()
            if self.k <= SORTED_K:
                self.best()
        if self.k <= SORTED_K:
            return keys[: self.nq], ids[: self.nq]
        return self._sorted_here(counts)

    def dots(self) -> NDArray[np.int32]:
        """All integer dots (nq, n): what tests compare."""
        out = self._cp.empty((len(self.taus), self._rows.n), np.int32)
        self.arguments["dots"] = out.data.ptr
        self._scan("scan_dots", -(-self._rows.n // TILE), 1, self._rows.n)
        return np.asarray(out.get()[: self.nq])

    # ---

    def _sorted_here(self, counts: NDArray[np.int32]) -> tuple[Floats, Ids]:
        """The k best of lists too long to be sorted in a block's shared memory."""
        keys, ids = np.full((self.nq, self.k), -np.inf, np.float32), np.full((self.nq, self.k), EMPTY_ID)
        named = None if self._rows.ids is None else self._rows.ids[: self._rows.n].get()
        for q, count in enumerate(counts[: self.nq]):
            hits = self.hits[q, :count].get()
            rows = (hits & np.uint64(0xFFFFFFFF)).astype(np.int64)
            found = rows if named is None else named[rows]
            order = np.lexsort((found, ~(hits >> np.uint64(32))))[: self.k]
            keys[q, : len(order)] = unordered((hits[order] >> np.uint64(32)).astype(np.uint32))
            ids[q, : len(order)] = found[order]
        return keys, ids

    @property
    def _ids(self) -> Any:
        return np.uint64(0) if self._rows.ids is None else self._rows.ids

    def _scan(self, name: str, ntiles: int, stride: int, width: int) -> None:
        told, form = self.arguments, self.shape
        told["ntiles"], told["stride"], told["width"] = ntiles, stride, width
        every = name == "scan_dots"
        told["tiles"] = 0 if every or self._which.tiles is None else self._which.tiles.data.ptr
        _kernel(self._device, self._rows.layout, form, name)(
            (self._groups(ntiles) * self._nqt,), (form.threads,), (self._raw,), shared_mem=form.shared
        )

    def _groups(self, ntiles: int) -> int:
        """Blocks that share a tile of queries."""
        most = self._device.card.processors * self.shape.blocks // self._nqt
        return max(1, min(most, -(-ntiles // self.shape.tiles)))

    def _topk(self, name: str) -> Any:
        return self._other("topk", name)

    def _other(self, text: str, name: str) -> Any:
        """A kernel that is not a scan."""
        layout = self._rows.layout
        return self._device.kernel(source(text), {"BITS": layout.bits, "DIM": layout.padded}, name)


def _kernel(device: Device, layout: Layout, form: Shape, name: str) -> Any:
    return device.kernel(scan_source(form.instruction, form.queries), form.macros(layout), name, form.shared)


def unordered(keys: NDArray[np.uint32]) -> Floats:
    """Floats of what `ordered` in source/keys.cuh made of them."""
    return np.where(keys >> 31, keys & np.uint32(0x7FFFFFFF), ~keys).astype(np.uint32).view(np.float32)


def sent(cp: Any, queries: StageQueries, padded: int) -> Prepare:
    """Queries that were prepared on the host."""

    def prepare(held: int) -> tuple[Any, Any]:
        levels, gains = np.zeros((held, padded), np.int8), np.zeros(held, np.float32)
        count, width = queries.levels.shape
        levels[:count, :width], gains[:count] = queries.levels, queries.gains
        return cp.asarray(levels), cp.asarray(gains)

    return prepare


def best_rows(
    device: Device,
    cp: Any,
    rows: Rows,
    prepared: Callable[[Any, slice], Prepare],
    nq: int,
    k: int,
    allowed: NDArray[np.uint8] | None,
    kind: type[Search] = Search,
) -> Turns[tuple[Floats, Ids]]:
    """Keys (nq, k) float32 and ids (nq, k), best first, of k >= 1; empty places are -inf and EMPTY_ID.

    The device is the current one whenever this goes on.

    prepared : of CuPy and some of the queries
    kind : the search that these rows want
    """
    keys, ids = np.full((nq, k), -np.inf, np.float32), np.full((nq, k), EMPTY_ID)
    step = max(1, _HIT_BYTES // (8 * room(k)))
    which = chosen(cp, allowed, rows.n)
    for start in range(0, nq if which.tile_count else 0, step):
        part = slice(start, min(start + step, nq))
        search = kind(device, cp, rows, prepared(cp, part), part.stop - part.start, k, which)
        yield from search.turns()
        keys[part], ids[part] = search.results()
    return keys, ids
