"""The lists of an inverted file on the device: pages of 16 rows as on the host, which follow the host's changes.

    pages       numbered as on the host, so a row's place is the same there and here, and a filter's mask means the same
    lists       which pages each list has, in order
    centroids   relative to the centre; and coded, with the groups' centres behind them, as pages of their own
    originals   by place, in device memory, or where that is too small in pinned host memory that kernels read

Law:       before a search the copy is what the host has. A page is sent again where the ids of its rows are not those
           that were sent, or where a row changed that was noted before it did (changes.py).
Why ids:   rows move between places, and pages between lists, when others are removed. To compare costs a look at every
           id after a change, and no place of the host's code has to tell of what it moves.
Threads:   searches of one index take turns on the device; who changes it waits for them as for all readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.codes import PANEL
from polarindex.gpu.device import Device, device
from polarindex.gpu.encode import Coder, coder
from polarindex.gpu.layout import TILE, Layout, layout_of, packable, table_words
from polarindex.gpu.source import source
from polarindex.indexes.changes import Changes, Numbers
from polarindex.indexes.coarse import COARSE_BITS, Coarse
from polarindex.indexes.held import Held
from polarindex.indexes.lists import ROWS, Lists
from polarindex.indexes.residuals import Centroids, ResidualCoding
from polarindex.kernels.limits import EMPTY_ID
from polarindex.quantizers import EDEN
from polarindex.quantizers.base import Stage

_STEP = 1 << 13  # pages sent at a time
_SPARE = 8  # an eighth more room than pages
_LEFT = 1 << 30  # bytes of the device that originals leave for searches

Words = NDArray[np.uint32]
Ids = NDArray[np.int64]


class Pages(NamedTuple):
    """Rows on the device, 16 a page; CuPy arrays by place. Shift -inf: no row is there."""

    codes: Any  # uint8
    scales: Any
    shifts: Any
    ids: Any
    originals: Any  # None where none are kept; its pointer is what kernels take
    original_scales: Any


class CodedCentroids(NamedTuple):
    """Centroids as pages of 8-bit codes, in the order of their groups, and from place `centres_at` on the groups'.

    order : (nlist,) int32, the lists
    size : places, with those that fill up pages
    """

    codes: Any
    scales: Any
    shifts: Any
    order: Any
    size: int
    centres_at: int
    groups: int
    group_size: int


class Listed(NamedTuple):
    """All that a search of lists reads; CuPy arrays but for the last two.

    most : (nlist + 1,) the pages that so many lists have together at most
    """

    layout: Layout
    coarse_layout: Layout
    pages: Pages
    numbers: Any  # (pages in lists,) int32, list by list
    firsts: Any  # (nlist + 1,) int32, where each list's begin
    centres: Any  # (nlist, dim) float32, relative to mu
    constants: Any
    mu: Any
    coarse: CodedCentroids | None  # None where the host chooses lists
    table: NDArray[np.uint32]
    most: Ids


class ListMirror:
    """The device's copy of one index's lists. A copy of it, or what comes from a pickle, begins with none."""

    def __init__(self, coding: ResidualCoding, store: str, number: int) -> None:
        self._coding, self._store, self.number = coding, store, number
        stage = coding.quantizer.stages[0]
        self.layout, self.coarse_layout = layout_of(stage), Layout(COARSE_BITS, stage.map.dims)
        self._pages: Pages | None = None
        self._room = 0  # pages
        self._sent = np.empty(0, np.int64)  # ids by place, EMPTY_ID where no row is
        self._version = -1
        self._centroids: Centroids | None = None
        self._listed: Listed | None = None
        self._stale = Changes()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[ListMirror], tuple[ResidualCoding, str, int]]:
        return ListMirror, (self._coding, self._store, self.number)

    @property
    def device(self) -> Device:
        return device(self.number)

    @cached_property
    def coder(self) -> Coder | None:
        """What rounds queries on the device; None where the host does."""
        return coder(self.device, self._coding.quantizer)

    @property
    def originals_at(self) -> str | None:
        """Where originals are: "device", "host", or None where none are held."""
        originals = self._pages.originals if self._pages else None
        return None if originals is None else "host" if isinstance(originals, Pinned) else "device"

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        listed = self._listed
        arrays = [*(self._pages or ()), *((listed.numbers, listed.firsts, listed.centres) if listed else ())]
        if listed and listed.coarse:
            arrays += [listed.coarse.codes, listed.coarse.scales, listed.coarse.shifts, listed.coarse.order]
        return sum(array.nbytes for array in arrays if array is not None and not isinstance(array, Pinned))

    def note(self, ids: Numbers | range) -> None:
        """Rows of some ids are about to change."""
        self._stale.note(ids)

    def note_everything(self) -> None:
        self._stale.note_everything()

    @contextmanager
    def current(self, held: Held, version: int) -> Iterator[Listed]:
        """What the host holds, on the device; nobody else uses it meanwhile. `version` changes whenever rows do."""
        with self._lock:
            listed = self._listed
            if version != self._version or listed is None:
                self._listed = None  # an error leaves nothing that a later search might take for whole
                with self.device.use("copying rows to it") as cp:
                    self._listed = listed = self._followed(cp, held, listed)
                self._version = version
            yield listed

    # --- following

    def _followed(self, cp: Any, held: Held, before: Listed | None) -> Listed:
        rows, centroids = held.rows, held.centroids
        if before is None or self._stale.everything or self._centroids is not centroids:
            self._pages, self._room, self._sent, before = None, 0, np.empty(0, np.int64), None
        ids = _ids_by_place(rows)
        changed = self._changed_pages(ids)
        self._reserve(cp, rows.places // PANEL)
        for at in range(0, len(changed), _STEP):
            self._send(cp, rows, centroids, changed[at : at + _STEP], ids)
        self._sent, self._centroids = ids, centroids
        self._stale.clear()
        sizes = -(-rows.sizes // PANEL)
        firsts = cp.asarray(_sums(sizes).astype(np.int32))
        most = _sums(np.sort(sizes)[::-1])
        numbers = cp.asarray(rows.pages_in_order())
        if self._pages is None:
            raise RuntimeError("lists are searched where there are none")
        if before is not None:
            return before._replace(pages=self._pages, numbers=numbers, firsts=firsts, most=most)
        return Listed(
            self.layout,
            self.coarse_layout,
            self._pages,
            numbers,
            firsts,
            cp.asarray(centroids.relative),
            cp.asarray(centroids.constants),
            cp.asarray(centroids.mu),
            self._coded_centroids(cp, held.scan.coarse),
            table_words(self._stage, self.layout),
            most,
        )

    @property
    def _stage(self) -> Stage:
        return self._coding.quantizer.stages[0]

    def _changed_pages(self, ids: Ids) -> Ids:
        """Pages whose rows are not those that were sent, of `ids` by place."""
        known = min(len(self._sent), len(ids))
        differs = (ids[:known] != self._sent[:known]) | np.isin(ids[:known], self._stale.numbers())
        changed = np.flatnonzero(differs.reshape(-1, PANEL).any(axis=1))
        return np.concatenate([changed, np.arange(known // PANEL, len(ids) // PANEL)])

    def _reserve(self, cp: Any, pages: int) -> None:
        """Room for so many pages; those that there are stay."""
        if self._pages is not None and pages <= self._room:
            return
        before, kept = self._pages, self._room
        room = pages + pages // _SPARE + 1
        dims, store = self._coding.quantizer.dim, self._store
        fresh = [
            cp.empty(room * self._page_bytes, np.uint8),
            *(cp.empty(room * PANEL, kind) for kind in (np.float32, np.float32, np.int64)),
            *_room_for_originals(cp, room * PANEL, dims, store),
        ]
        for old, new in zip(before or (), fresh, strict=False):
            if old is not None:
                new[: kept * (len(new) // room)] = _on_the_same_side(cp, old, new)
        self._pages, self._room = Pages(*fresh), room

    @property
    def _page_bytes(self) -> int:
        return self.layout.tile_bytes * PANEL // TILE

    def _send(self, cp: Any, lists: Lists, centroids: Centroids, numbers: Ids, ids: Ids) -> None:
        pages = self._pages
        if pages is None:
            raise RuntimeError("pages are sent where there is no room")
        places = (numbers[:, None] * PANEL + np.arange(PANEL)).reshape(-1)
        words, mine = lists.rows(places), ids[places]
        there = mine != EMPTY_ID
        words[~there] = 0
        scales, shifts = self._coding.scales(words)[:, 0], self._coding.shifts(words, centroids)
        codes = packable(self._stage, self.layout, self._coding.code_words(words))
        where = cp.asarray(places)
        self._pack(cp, self.layout, codes, where, pages.codes)
        pages.scales[where] = cp.asarray(np.where(there, scales, np.float32(0)))
        pages.shifts[where] = cp.asarray(np.where(there, shifts, np.float32(-np.inf)))
        pages.ids[where] = cp.asarray(mine)
        if pages.originals is None:
            return
        held = lists.originals(places[there])
        for name, there_array in (("originals", pages.originals), ("original_scales", pages.original_scales)):
            if name in held:
                _put(cp, there_array, places[there], held[name])

    def _pack(self, cp: Any, layout: Layout, words: Words, places: Any, out: Any) -> None:
        """Write rows of words, at 8 bits of levels, to the pages of their places."""
        sent = cp.asarray(np.ascontiguousarray(words))
        count, width = sent.shape
        plane = width // layout.bits if layout.bits < 8 else 0
        threads = count * layout.tile_bytes // TILE // 4
        macros = {"BITS": layout.bits, "DIM": layout.padded, "UNIT_ROWS": PANEL}
        numbers = map(np.int32, (width, plane, layout.dims, count))
        self.device.kernel(source("pack"), macros, "pack_rows")(
            (-(-threads // 256),), (256,), (sent, *numbers, places, np.int64(0), out)
        )

    def _coded_centroids(self, cp: Any, coarse: Coarse) -> CodedCentroids | None:
        """The centroids and their groups' centres; None where they are not coded."""
        quantizer, groups = coarse.quantizer, coarse.groups
        if quantizer is None:
            return None
        parts = [_coded(quantizer, coarse.lists(quantizer), len(groups.order))]
        if groups.total > 1:
            parts.append(_coded(quantizer, coarse.centres(quantizer), groups.total))
        levels, scales, shifts = (np.concatenate(part) for part in zip(*parts, strict=True))
        codes = cp.empty(len(levels) // TILE * self.coarse_layout.tile_bytes + self.coarse_layout.tile_bytes, np.uint8)
        self._pack(cp, self.coarse_layout, levels, cp.arange(len(levels), dtype=np.int64), codes)
        factors = cp.asarray(scales), cp.asarray(shifts)
        order = cp.asarray(groups.order)
        return CodedCentroids(
            codes, *factors, order, len(levels), len(parts[0][0]) if len(parts) > 1 else 0, groups.total, groups.size
        )


class Pinned:
    """An array in pinned host memory, which kernels read at the address that it has here."""

    def __init__(self, cp: Any, shape: tuple[int, ...], dtype: Any) -> None:
        dtype = np.dtype(dtype)
        self.nbytes = int(np.prod(shape)) * dtype.itemsize
        self._memory = cp.cuda.alloc_pinned_memory(max(self.nbytes, 1))
        self.array = np.frombuffer(self._memory, dtype, int(np.prod(shape))).reshape(shape)
        self.dtype = dtype

    def __len__(self) -> int:
        return len(self.array)

    def __setitem__(self, where: Any, values: Any) -> None:
        self.array[where] = values

    @property
    def pointer(self) -> int:
        return int(self._memory.ptr)


def pointer(array: Any) -> int:
    """What a kernel is given for an array, 0 for None."""
    return 0 if array is None else array.pointer if isinstance(array, Pinned) else array.data.ptr


def _sums(sizes: Ids) -> Ids:
    """(n + 1,) the sums of the first 0, 1, ..., n."""
    return np.concatenate([[0], np.cumsum(sizes)])


def _ids_by_place(lists: Lists) -> Ids:
    """(places,) int64, EMPTY_ID where no row is."""
    ids = np.full(lists.places, EMPTY_ID)
    used = lists.used()
    for span in lists.arena.spans(lists.arena.block_rows):
        mine = lists.ids_of(span.arrays[ROWS]).reshape(-1)[: span.rows]
        ids[span.start : span.start + span.rows] = mine
    there = np.zeros(lists.places, bool)
    there[used] = True
    ids[~there] = EMPTY_ID
    return ids


def _coded(quantizer: EDEN, lists: Lists, count: int) -> tuple[Words, NDArray[np.float32], NDArray[np.float32]]:
    """Levels as words, scales and shifts of the first `count` places in whole pages, shift -inf beyond them."""
    held = -(-count // PANEL) * PANEL
    rows = lists.rows(np.arange(held))
    factors, stage = lists.factors_of(rows), quantizer.stages[0]
    factors[count:] = 0, -np.inf
    words = packable(stage, Layout(COARSE_BITS, stage.map.dims), np.ascontiguousarray(rows[:, : quantizer.words]))
    return words, np.ascontiguousarray(factors[:, 0]), np.ascontiguousarray(factors[:, 1])


def _room_for_originals(cp: Any, rows: int, dim: int, store: str) -> tuple[Any, Any]:
    """Room for originals and their scales: on the device, if that leaves enough for searches, else on the host."""
    if store == "none":
        return None, None
    scales = cp.empty(rows, np.float32) if store == "int8" else None
    dtype = np.dtype(store)
    free = cp.cuda.runtime.memGetInfo()[0] + cp.get_default_memory_pool().free_bytes()
    if rows * dim * dtype.itemsize + _LEFT <= free:
        try:
            return cp.empty((rows, dim), dtype), scales
        except cp.cuda.memory.OutOfMemoryError:  # there are other limits than the card's
            pass
    return Pinned(cp, (rows, dim), dtype), scales


def _on_the_same_side(cp: Any, old: Any, new: Any) -> Any:
    """What an array holds, as another can take it."""
    if isinstance(new, Pinned):
        return old.array if isinstance(old, Pinned) else cp.asnumpy(old)
    return cp.asarray(old.array) if isinstance(old, Pinned) else old


def _put(cp: Any, array: Any, places: Ids, values: NDArray[Any]) -> None:
    if isinstance(array, Pinned):
        array[places] = values
    else:
        array[cp.asarray(places)] = cp.asarray(values)
