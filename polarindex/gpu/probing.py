"""One search of lists on the device: which lists, their largest keys page by page, and the best rows of the best pages.

    queries     centred, rotated, rounded to int8; on the host where the device has no kernel for the rotation
    choose      scores of all coded centroids, the best groups', the nprobe best lists, the gap
    place       offsets of queries and lists; queries are counted list by list
    scan        work items, some queries of a list times some of its pages: the largest key of every page and query
    best        the keep-th largest of a query's maxima bounds its keep-th best key from below, so only pages that
                reach it are scored again, row by row; sorted by key and id, then by originals where that is asked for

Law:       lists, keys, distances and ids are those of the CPU (indexes/probing.py, kernels/search.py), bit for bit.
Why:       a list's codes are read once for all its queries, and what is written is a number for 16 rows and a query.
           Lists of hits that threads append to would need room for the worst query, or a second pass.
Not here:  where rows lie (lists.py); the kernels (source/lists*.cu); the same in NumPy (lists_reference.py)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.codes import PANEL
from polarindex.gpu.device import Device, raw
from polarindex.gpu.encode import Coder
from polarindex.gpu.layout import Layout
from polarindex.gpu.lists import Listed, pointer
from polarindex.gpu.shapes import Card
from polarindex.gpu.source import lists_source
from polarindex.indexes.lines import StageQueries
from polarindex.indexes.originals import METRIC_NUMBERS

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

ITEM_PAGES = 32  # pages of a work item: each of a block's warps has two at a time
# A block's warps, and blocks a multiprocessor, by the registers they may have: small blocks hide what an item's first
# loads wait for. Milliseconds of 3,334 queries and 24 of 1,024 lists of 300,000 rows of 128 coordinates, on an H200:
# .186, and .197 as 8 warps and 2 blocks. 64 queries a block gain nothing: .182.
_WARPS, _BLOCKS = 4, 4
_NARROW = (1, 2)  # bits with many decoded operands, for which 16 queries and more need the registers of a fourth block
_MMA = (8, 16, 32)  # queries a block
_DP4A = (1, 2, 4)
_SHARED_KEYS = 48 << 10  # bytes of a query's centroid scores that are looked through in shared memory
_SHARED_ROOM = 2048  # candidates of a query that are held there
_LEAST_ROOM = 512  # enough for some rounds between two looks at how much is held
_FINDERS = 128  # threads of a query's block, FINDERS of source/lists_best.cu
_ROUND = 128  # candidates that a round may add, and more
_HIT_BYTES, _PICK_BYTES = 16, 16
_ALIGNED = 256
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_BATCH_BYTES = 1 << 29  # of what is worked out for the queries that are searched together
_TOGETHER = 4096  # of these: while the device has some, the host copies the next

_POINTERS = """codes scales shifts ids allowed pages firsts centres constants mu order originals original_scales given
    rows levels gains added scores numbers counts picks used tally pair_starts item_starts pairs maxima hit_keys
    hit_ids hit_places distances found""".split()
_NUMBERS = "nq dim stride nlist nprobe coarse centres_at groups group_size look width keep k room metric kind".split()
_LISTS = np.dtype(  # struct Lists of source/lists.cuh
    [(name, np.uint64) for name in _POINTERS]
    + [("table", np.uint32, 4)]
    + [(name, np.int32) for name in _NUMBERS]
    + [("gap", np.float32)],
    align=True,
)
_KINDS = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.int8): 2}


class Probed(NamedTuple):
    """Lists that the host chose: numbers (nq, nprobe) int32, of which counts (nq,) int32 a query."""

    numbers: NDArray[np.int32]
    counts: NDArray[np.int32]


class Asked(NamedTuple):
    """Queries of a search, and what is asked of them.

    given, rows : (nq, dim) as they were given, and as they are coded
    integers : their int8 levels, where the host makes them
    probed : their lists, where the host chooses them
    look : groups of centroids that a query looks into
    exact : whether originals decide among the best `keep`
    allowed : (words,) uint32 on the device, a bit a place; None for all
    """

    given: Floats
    rows: Floats
    integers: StageQueries | None
    probed: Probed | None
    nprobe: int
    gap: float
    look: int
    keep: int
    k: int
    exact: bool
    allowed: Any


class ScanShape(NamedTuple):
    """How lists are scanned: queries a block, by mma.sync or dp4a, its shared bytes, and blocks a multiprocessor."""

    queries: int
    mma: bool
    shared: int
    blocks: int

    def macros(self, layout: Layout) -> dict[str, int]:
        shape = {"MMA": int(self.mma), "WARPS": _WARPS, "BLOCKS": self.blocks, "ITEM_PAGES": ITEM_PAGES}
        return {"BITS": layout.bits, "DIM": layout.padded, **shape}


def scan_shape(card: Card, layout: Layout, queries: float, mma: bool | None = None) -> ScanShape:
    """For so many queries a list; `mma` only for tests. ValueError: rows are too long."""
    for with_mma in (True, False) if mma is None else (mma,):
        if with_mma and card.capability < (8, 0):
            continue
        fitting = [count for count in (_MMA if with_mma else _DP4A) if count * layout.padded <= card.shared - 4096]
        if fitting:
            found = next((count for count in fitting if count >= queries), fitting[-1])
            blocks = _BLOCKS - (layout.bits in _NARROW and found >= 16)
            return ScanShape(found, with_mma, found * layout.padded, blocks)
    raise ValueError(f"rows of {layout.padded} coordinates do not fit in the {card.shared} bytes of a block")


def room_of(keep: int) -> int:
    """Candidates that a query holds, a power of two: those that are kept, and those of a round at least."""
    return max(_LEAST_ROOM, 1 << (2 * keep + _ROUND - 1).bit_length())


def most_queries(nlist: int, width: int, keep: int, nprobe: int, dim: int) -> int:
    """Queries that are searched together, by what they need on the device."""
    hits = _HIT_BYTES * room_of(keep) if room_of(keep) > _SHARED_ROOM else 0
    each = 4 * nlist + nlist // 2 + 4 * width + hits + (4 + 2 * _PICK_BYTES) * nprobe + 16 * dim
    return int(max(1, min(_BATCH_BYTES // each, (2**31 - 1) // nprobe, _TOGETHER)))


class ListSearch:
    """Some queries against lists; the device is the current one. `run` it, then ask for its `results`."""

    def __init__(
        self, device: Device, cp: Any, listed: Listed, coder: Coder | None, metric: str, asked: Asked
    ) -> None:
        self._device, self._cp, self._listed, self._asked = device, cp, listed, asked
        self._coder, self._metric = coder, metric
        self.nq = len(asked.rows)
        self._nlist = len(listed.most) - 1
        self.shape = scan_shape(device.card, listed.layout, self.nq * asked.nprobe / self._nlist)
        self._stride = max(listed.layout.padded, listed.coarse_layout.padded)
        self._twice = metric == "cosine" and asked.exact  # queries are wanted as given, and of unit length
        self._sizes = self._room()
        starts = np.cumsum([0, *(-(-size // _ALIGNED) * _ALIGNED for size in self._sizes.values())])
        self._work: Any = cp.empty(int(starts[-1]), np.uint8)
        self._starts = dict(zip(self._sizes, starts.tolist(), strict=False))
        self._stream = cp.cuda.get_current_stream()
        self._going: list[Any] = []  # pinned memory until it was read
        self._levels: Any = None
        self._out = cp.cuda.alloc_pinned_memory(self._sizes["out"])
        self._done = cp.cuda.Event(disable_timing=True)
        self.arguments = self._told()
        self._raw = raw(self.arguments)

    def _room(self) -> dict[str, int]:
        """Bytes of what is worked out, by name."""
        asked, nq, nlist, room = self._asked, self.nq, self._nlist, room_of(self._asked.keep)
        pairs, queries, coarse = nq * asked.nprobe, 4 * nq * asked.rows.shape[1], self._listed.coarse
        sizes = {"rows": queries, "numbers": 4 * pairs, "counts": 4 * nq, "picks": _PICK_BYTES * pairs, "used": 4 * nq}
        sizes |= {"tally": 4 * nlist, "pair_starts": 4 * nlist + 4, "item_starts": 4 * nlist + 4}
        sizes |= {"pairs": _PICK_BYTES * pairs, "maxima": 4 * nq * int(self._listed.most[asked.nprobe])}
        sizes["out"] = 12 * nq * asked.k  # ids, then distances
        if self._twice:
            sizes["given"] = queries
        if asked.probed is None and coarse is not None:
            sizes["scores"] = 4 * nq * coarse.size
        if room > _SHARED_ROOM:
            sizes |= {"hit_keys": 4 * nq * room, "hit_ids": 8 * nq * room, "hit_places": 4 * nq * room}
        if self._metric != "l2" and not asked.exact:
            sizes["added"] = 8 * nq
        if asked.integers is not None:
            sizes |= {"levels": nq * self._stride, "gains": 4 * nq}
        return sizes

    def _told(self) -> NDArray[Any]:
        """What all kernels are told but for the queries' levels."""
        listed, asked, nq = self._listed, self._asked, self.nq
        pages, coarse, told = listed.pages, listed.coarse, np.zeros(1, _LISTS)
        for name in self._sizes:
            if name != "out":
                told[name] = self._at(name)
        told["found"], told["distances"] = self._at("out"), self._at("out") + 8 * nq * asked.k
        if not self._twice:
            told["given"] = told["rows"]
        for name in ("codes", "scales", "shifts", "ids"):
            told[name] = pointer(getattr(pages, name))
        for name in ("firsts", "centres", "constants", "mu"):
            told[name] = pointer(getattr(listed, name))
        told["pages"], told["allowed"] = pointer(listed.numbers), pointer(asked.allowed)
        if asked.exact:
            told["originals"], told["original_scales"] = pointer(pages.originals), pointer(pages.original_scales)
            told["kind"] = _KINDS[pages.originals.dtype]
        if coarse is not None:
            told["order"], told["coarse"], told["centres_at"] = pointer(coarse.order), coarse.size, coarse.centres_at
            told["groups"], told["group_size"] = coarse.groups, coarse.group_size
        told["table"], told["nq"], told["dim"], told["stride"] = listed.table, nq, asked.rows.shape[1], self._stride
        told["nlist"], told["nprobe"], told["look"], told["gap"] = self._nlist, asked.nprobe, asked.look, asked.gap
        told["width"], told["metric"] = listed.most[asked.nprobe], METRIC_NUMBERS[self._metric]
        told["keep"], told["k"], told["room"] = asked.keep, asked.k, room_of(asked.keep)
        return told

    def _at(self, name: str) -> int:
        """Where something is on the device."""
        return int(self._work.data.ptr) + self._starts[name]

    def _send(self, name: str, array: NDArray[Any]) -> None:
        """Copy an array there; nothing waits."""
        memory = self._cp.cuda.alloc_pinned_memory(array.nbytes)
        np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)[...] = array
        self._cp.cuda.runtime.memcpyAsync(self._at(name), memory.ptr, array.nbytes, _TO_DEVICE, self._stream.ptr)
        self._going.append(memory)

    # --- the steps

    def prepare(self) -> None:
        """Queries, and their levels, on the device."""
        asked, integers = self._asked, self._asked.integers
        self._send("rows", asked.rows)
        if self._twice:
            self._send("given", asked.given)
        if integers is not None:
            levels = np.zeros((self.nq, self._stride), np.int8)
            levels[:, : integers.levels.shape[1]] = integers.levels
            self._send("levels", levels)
            self._send("gains", integers.gains)
            return
        if self._coder is None:
            raise RuntimeError("nobody rounds the queries")
        start = self._starts["rows"]
        rows = self._work[start : start + self._sizes["rows"]].view(np.float32).reshape(asked.rows.shape)
        factor = 2.0 if self._metric == "l2" else 1.0
        made = self._coder.queries(self._cp, rows, self._listed.mu, factor, self._stride, self.nq)
        self.arguments["levels"], self.arguments["gains"] = map(pointer, made)
        self._levels = made

    def choose(self) -> None:
        """The lists of every query."""
        asked, coarse = self._asked, self._listed.coarse
        if asked.probed is not None:
            self._send("numbers", asked.probed.numbers)
            self._send("counts", asked.probed.counts)
            return
        if coarse is None:
            raise RuntimeError("nobody chooses the lists")
        told = self.arguments.copy()
        told["codes"], told["scales"], told["shifts"] = map(pointer, (coarse.codes, coarse.scales, coarse.shifts))
        layout = self._listed.coarse_layout
        form = scan_shape(self._device.card, layout, self.nq)
        grid = -(-self.nq // form.queries), -(-coarse.size // (PANEL * ITEM_PAGES))
        self._scan(form, layout, "scan_centroids")(grid, (32 * _WARPS,), (raw(told),), shared_mem=form.shared)
        seen, keys = 4 * -(-coarse.groups // 32), 4 * self._nlist
        fits = seen + keys <= _SHARED_KEYS
        self._probe("choose_lists")(
            (self.nq,), (256,), (self._raw, np.int32(fits)), shared_mem=seen + keys if fits else seen
        )

    def place(self) -> None:
        """Offsets, and the queries of every list."""
        if "added" in self._sizes:
            self._probe("add_constants")((-(-self.nq // 64),), (64,), (self._raw, np.uint64(self._at("added"))))
        self._cp.cuda.runtime.memsetAsync(self._at("tally"), 0, self._sizes["tally"], self._stream.ptr)
        self._probe("place_picks")((self.nq,), (128,), (self._raw,))
        numbers = np.int32(self.shape.queries), np.int32(ITEM_PAGES)
        self._probe("start_lists")((1,), (1024,), (self._raw, *numbers))
        self._probe("pair_queries")((-(-self.nq * self._asked.nprobe // 256),), (256,), (self._raw,))

    def scan(self) -> None:
        """The largest key of every page and query."""
        blocks = self._device.card.processors * self.shape.blocks
        self._scan(self.shape, self._listed.layout, "scan_lists")(
            (blocks,), (32 * _WARPS,), (self._raw,), shared_mem=self.shape.shared
        )

    def best(self) -> None:
        """The best rows."""
        layout, room = self._listed.layout, int(self.arguments["room"][0])
        shared = layout.padded + (_HIT_BYTES * room if room <= _SHARED_ROOM else 0)
        macros = {"BITS": layout.bits, "DIM": layout.padded}
        self._device.kernel(lists_source("best"), macros, "best_rows", shared)(
            (self.nq,), (_FINDERS,), (self._raw,), shared_mem=shared
        )

    def run(self) -> None:
        """All of it; nothing waits."""
        self.prepare()
        self.choose()
        self.place()
        self.scan()
        self.best()
        size = self._sizes["out"]
        self._cp.cuda.runtime.memcpyAsync(self._out.ptr, self._at("out"), size, _TO_HOST, self._stream.ptr)
        self._done.record(self._stream)
        self._work = self._levels = None  # what comes next on this stream may use the memory

    def results(self) -> tuple[Floats, Ids]:
        """Distances and ids (nq, k) after `run`, on the host; where there are no more rows, +-inf and -1."""
        self._done.synchronize()
        self._going.clear()
        shape = self.nq, self._asked.k
        ids = np.frombuffer(self._out, np.int64, self.nq * self._asked.k).reshape(shape)
        return np.frombuffer(self._out, np.float32, ids.size, offset=ids.nbytes).reshape(shape), ids

    def _scan(self, form: ScanShape, layout: Layout, name: str) -> Any:
        return self._device.kernel(lists_source("scan", form.queries), form.macros(layout), name, form.shared)

    def _probe(self, name: str) -> Any:
        return self._device.kernel(lists_source("probe"), {"BITS": 8, "DIM": 128}, name)
