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
_MMA = (8, 16, 32)  # queries a block
_DP4A = (1, 2, 4)
_SHARED_KEYS = 48 << 10  # bytes of a query's centroid scores that are looked through in shared memory
_SHARED_ROOM = 2048  # candidates of a query that are held there
_LEAST_ROOM = 512  # enough for some rounds between two looks at how much is held
_ROUND = 128  # candidates that a round may add
_HIT_BYTES, _PICK_BYTES = 16, 16
_BATCH_BYTES = 1 << 29  # of what is worked out for the queries that are searched together

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
    """How lists are scanned: queries a block, by mma.sync or dp4a, and its bytes of shared memory."""

    queries: int
    mma: bool
    shared: int

    def macros(self, layout: Layout) -> dict[str, int]:
        macros = {"BITS": layout.bits, "DIM": layout.padded, "MMA": int(self.mma), "ITEM_PAGES": ITEM_PAGES}
        return macros | {"BLOCKS": 2 if 2 * self.shared <= 96 << 10 else 1}


def scan_shape(card: Card, layout: Layout, queries: float, mma: bool | None = None) -> ScanShape:
    """For so many queries a list; `mma` only for tests. ValueError: rows are too long."""
    for with_mma in (True, False) if mma is None else (mma,):
        if with_mma and card.capability < (8, 0):
            continue
        fitting = [count for count in (_MMA if with_mma else _DP4A) if count * layout.padded <= card.shared - 4096]
        if fitting:
            found = next((count for count in fitting if count >= queries), fitting[-1])
            return ScanShape(found, with_mma, found * layout.padded)
    raise ValueError(f"rows of {layout.padded} coordinates do not fit in the {card.shared} bytes of a block")


def room_of(keep: int) -> int:
    """Candidates that a query holds, a power of two: those that are kept, and those of a round at least."""
    return max(_LEAST_ROOM, 1 << (2 * keep + _ROUND - 1).bit_length())


def most_queries(nlist: int, width: int, keep: int, nprobe: int, dim: int) -> int:
    """Queries that are searched together, by what they need on the device."""
    hits = _HIT_BYTES * room_of(keep) if room_of(keep) > _SHARED_ROOM else 0
    each = 4 * nlist + nlist // 2 + 4 * width + hits + (4 + 2 * _PICK_BYTES) * nprobe + 16 * dim
    return int(max(1, min(_BATCH_BYTES // each, (2**31 - 1) // max(nprobe, 1), 1 << 20)))


class ListSearch:
    """Some queries against lists; the device is the current one."""

    def __init__(
        self, device: Device, cp: Any, listed: Listed, coder: Coder | None, metric: str, asked: Asked,
        mma: bool | None = None,
    ) -> None:  # fmt: skip
        self._device, self._cp, self._listed, self._asked = device, cp, listed, asked
        self.nq = len(asked.rows)
        self._mma = mma
        self._nlist = len(listed.most) - 1
        self.shape = scan_shape(device.card, listed.layout, self.nq * asked.nprobe / self._nlist, mma)
        self._held: dict[str, Any] = {}
        self._tell(coder, metric)

    def _tell(self, coder: Coder | None, metric: str) -> None:
        """What the kernels are told, with room for what comes of the queries."""
        cp, listed, asked, nq = self._cp, self._listed, self._asked, self.nq
        rows = cp.asarray(np.ascontiguousarray(asked.rows))
        given = rows if asked.given is asked.rows or not asked.exact else cp.asarray(np.ascontiguousarray(asked.given))
        self._stride = max(listed.layout.padded, listed.coarse_layout.padded)
        factor = 2.0 if metric == "l2" else 1.0
        levels, gains = self._integers(rows, coder, factor)
        pairs = nq * asked.nprobe
        width = int(listed.most[asked.nprobe])
        out = cp.empty(12 * nq * asked.k, np.uint8)  # ids and distances: one copy to the host
        self._out = out
        held = {"rows": rows, "given": given, "levels": levels, "gains": gains, "distances": out[8 * nq * asked.k :]}
        held |= {"found": out}
        room = room_of(asked.keep)
        sizes: dict[str, tuple[int, Any]] = {
            "numbers": (pairs, np.int32),
            "counts": (nq, np.int32),
            "picks": (_PICK_BYTES * pairs, np.uint8),
            "used": (nq, np.int32),
            "pair_starts": (self._nlist + 1, np.int32),
            "item_starts": (self._nlist + 1, np.int32),
            "pairs": (_PICK_BYTES * pairs, np.uint8),
            "maxima": (nq * width, np.float32),
        }
        coarse = listed.coarse
        if asked.probed is None and coarse is not None:
            sizes["scores"] = nq * coarse.size, np.float32
        if room > _SHARED_ROOM:
            sizes |= {"hit_keys": (nq * room, np.float32), "hit_ids": (nq * room, np.int64)}
            sizes["hit_places"] = nq * room, np.int32
        if metric != "l2" and not asked.exact:
            sizes["added"] = nq, np.float64
        held |= {name: cp.empty(size, dtype) for name, (size, dtype) in sizes.items()}
        held["tally"] = cp.zeros(self._nlist, np.int32)
        pages = listed.pages
        held |= {"codes": pages.codes, "scales": pages.scales, "shifts": pages.shifts, "ids": pages.ids}
        held |= {"pages": listed.numbers, "firsts": listed.firsts, "allowed": asked.allowed}
        held |= {"centres": listed.centres, "constants": listed.constants, "mu": listed.mu}
        told = self.arguments = np.zeros(1, _LISTS)
        if asked.exact:
            held |= {"originals": pages.originals, "original_scales": pages.original_scales}
            array = getattr(pages.originals, "array", pages.originals)
            told["kind"] = _KINDS[array.dtype]
        if coarse is not None:
            held["order"] = coarse.order
            told["coarse"], told["centres_at"] = coarse.size, coarse.centres_at
            told["groups"], told["group_size"] = coarse.groups, coarse.group_size
        self._held = held
        for name, array in held.items():
            told[name] = pointer(array)
        told["table"], told["nq"], told["dim"], told["stride"] = listed.table, nq, rows.shape[1], self._stride
        told["nlist"], told["nprobe"], told["look"], told["gap"] = self._nlist, asked.nprobe, asked.look, asked.gap
        told["width"], told["keep"], told["k"], told["room"] = width, asked.keep, asked.k, room
        told["metric"] = METRIC_NUMBERS[metric]
        self._raw = raw(told)

    def _integers(self, rows: Any, coder: Coder | None, factor: float) -> tuple[Any, Any]:
        """Levels (nq, stride) int8 and gains (nq,) float32."""
        cp, integers = self._cp, self._asked.integers
        if integers is None:
            if coder is None:
                raise RuntimeError("nobody prepares the queries")
            return coder.queries(cp, rows, self._listed.mu, factor, self._stride, self.nq)
        levels = np.zeros((self.nq, self._stride), np.int8)
        levels[:, : integers.levels.shape[1]] = integers.levels
        return cp.asarray(levels), cp.asarray(integers.gains)

    # --- the steps

    def choose(self) -> None:
        """The lists of every query."""
        asked, coarse = self._asked, self._listed.coarse
        if asked.probed is not None:
            self._held["numbers"].set(np.ascontiguousarray(asked.probed.numbers).reshape(-1))
            self._held["counts"].set(asked.probed.counts)
            return
        if coarse is None:
            raise RuntimeError("nobody chooses the lists")
        told = self.arguments.copy()
        told["codes"], told["scales"], told["shifts"] = map(pointer, (coarse.codes, coarse.scales, coarse.shifts))
        layout = self._listed.coarse_layout
        form = scan_shape(self._device.card, layout, self.nq, self._mma)
        grid = -(-self.nq // form.queries), -(-coarse.size // (PANEL * ITEM_PAGES))
        self._scan(form, layout, "scan_centroids")(grid, (256,), (raw(told),), shared_mem=form.shared)
        seen, keys = 4 * -(-coarse.groups // 32), 4 * self._nlist
        fits = seen + keys <= _SHARED_KEYS
        self._probe("choose_lists")(
            (self.nq,), (256,), (self._raw, np.int32(fits)), shared_mem=seen + keys if fits else seen
        )

    def place(self) -> None:
        """Offsets, and the queries of every list."""
        if "added" in self._held:
            self._probe("add_constants")((-(-self.nq // 64),), (64,), (self._raw, self._held["added"]))
        self._probe("place_picks")((self.nq,), (128,), (self._raw,))
        numbers = np.int32(self.shape.queries), np.int32(ITEM_PAGES)
        self._probe("start_lists")((1,), (1024,), (self._raw, *numbers))
        self._probe("pair_queries")((-(-self.nq * self._asked.nprobe // 256),), (256,), (self._raw,))

    def scan(self) -> None:
        """The largest key of every page and query."""
        blocks = self._device.card.processors * 4
        self._scan(self.shape, self._listed.layout, "scan_lists")(
            (blocks,), (256,), (self._raw,), shared_mem=self.shape.shared
        )

    def best(self) -> None:
        """The best rows."""
        layout, room = self._listed.layout, int(self.arguments["room"][0])
        shared = layout.padded + (_HIT_BYTES * room if room <= _SHARED_ROOM else 0)
        macros = {"BITS": layout.bits, "DIM": layout.padded}
        self._device.kernel(lists_source("best"), macros, "best_rows", shared)(
            (self.nq,), (256,), (self._raw,), shared_mem=shared
        )

    def run(self) -> None:
        """All of it; nothing waits."""
        self.choose()
        self.place()
        self.scan()
        self.best()

    def results(self) -> tuple[Floats, Ids]:
        """Distances and ids (nq, k) after `run`, on the host; where there are no more rows, +-inf and -1."""
        out = self._out.get()
        ids = 8 * self.nq * self._asked.k
        shape = self.nq, self._asked.k
        return out[ids:].view(np.float32).reshape(shape), out[:ids].view(np.int64).reshape(shape)

    def _scan(self, form: ScanShape, layout: Layout, name: str) -> Any:
        return self._device.kernel(lists_source("scan", form.queries), form.macros(layout), name, form.shared)

    def _probe(self, name: str) -> Any:
        return self._device.kernel(lists_source("probe"), {"BITS": 8, "DIM": 128}, name)
