"""What a file holds of an index whose rows are too many for memory: they come in runs, and go as they are written.

    runs of coded rows (of an inverted file: each sorted by list) -> saved.Saved, whose arrays are made part by part

Law:       a file made so is to the byte that of an index without rows to which the rows of all runs were added in their
           order, at once: so how they are cut into runs makes no difference, nor does `memory`.
Memory:    `memory` bytes, beside what a list, of all rows in all, takes in `sizes`.
Not here:  how rows are coded (`Index._coded_parts`); where runs lie (distributed/runs.py); the files (segment.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from polarindex.codes import PANEL
from polarindex.indexes.arena import Column
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.lists import LARGE_ID, MOST_PLACES, ROWS
from polarindex.indexes.saved import Saved, SavedArray, whole

_LEAST = 4096  # rows at a time, however little memory there is
_READ = 65_536  # lists or ids that are read at a time to be counted
_INDEXING = 64  # bytes a row for the numbers by which it is put in its place

Ids = NDArray[np.int64]


class Run(Protocol):
    """Rows coded together: what `Index._coded_parts` tells of them, and their "ids"."""

    @property
    def n(self) -> int: ...

    def __call__(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows start to stop of a column."""


def saved_rows(frame: FlatIndex | IVFIndex, runs: Sequence[Run], memory: int) -> Saved:
    """What a file holds of an index like `frame`, which has no rows, with the rows of all runs."""
    if isinstance(frame, IVFIndex):
        return _Streamed(frame, runs, memory).saved()
    return _flat(frame, runs, memory)


def next_id(runs: Sequence[Run]) -> int:
    """1 + the largest id; 0 where there is none."""
    return max((int(ids.max(initial=-1)) + 1 for run in runs for ids in _pieces(run, "ids", _READ)), default=0)


def _pieces(run: Run, name: str, step: int) -> Iterator[NDArray[Any]]:
    for start in range(0, run.n, step):
        yield run(name, start, min(run.n, start + step))


# --- a flat index


def _flat(frame: FlatIndex, runs: Sequence[Run], memory: int) -> Saved:
    n, arena = sum(run.n for run in runs), frame._arena
    step = max(_LEAST, memory // (3 * max(arena.bytes_per_row, 8)))
    columns = dict(arena.columns)
    stored, first = False, 0
    for ids in (ids for run in runs for ids in _pieces(run, "ids", step)):
        stored = stored or bool((ids != np.arange(first, first + len(ids))).any())
        first += len(ids)
    if stored:
        columns["ids"] = Column(np.dtype(np.int64))
    state = {**frame._state(), "next_id": next_id(runs), "stores_ids": stored}

    def parts(name: str, column: Column) -> Iterator[NDArray[Any]]:
        rows = (rows for run in runs for rows in _pieces(run, name, step))
        return _panels(rows, column) if column.lined else rows

    arrays = {
        name: SavedArray(column.shape_of(n), column.dtype, parts(name, column)) for name, column in columns.items()
    }
    known = {name: array for name, array in frame._saved().arrays.items() if name not in arrays}
    return Saved(n, state, {**arrays, **known})


def _panels(parts: Iterator[NDArray[Any]], column: Column) -> Iterator[NDArray[Any]]:
    """Rows of words as panels, PANEL rows side by side; what the last has too few are zeros."""
    left = np.empty((0, *column.shape), column.dtype)
    for rows in parts:
        rows = np.concatenate([left, rows])
        whole_panels = len(rows) // PANEL * PANEL
        left = rows[whole_panels:].copy()
        yield rows[:whole_panels].reshape(-1, PANEL, *column.shape).transpose(0, 2, 1)
    if len(left):
        last = np.zeros((PANEL, *column.shape), column.dtype)
        last[: len(left)] = left
        yield last[None].transpose(0, 2, 1)


# --- an inverted file


class _Batch(NamedTuple):
    """Lists first .. end - 1; of a single one that is long, its rows from number low to high - 1, multiples of PANEL.

    number : of the bounds between lists, those at which it begins
    """

    number: int
    first: int
    end: int
    low: int
    high: int


class _Streamed:
    """Lists made of runs. A list's rows are ranked as they come; its pages are filled from the last one on."""

    def __init__(self, frame: IVFIndex, runs: Sequence[Run], memory: int) -> None:
        self._frame, self._runs = frame, runs
        lists = frame._held.rows
        self._nlist = lists.nlist
        self.sizes = np.zeros(lists.nlist, np.int64)
        for run in runs:
            for numbers in _pieces(run, "lists", _READ):
                self.sizes += np.bincount(numbers, minlength=lists.nlist)
        self.pages_of = -(-self.sizes // PANEL)
        self.pages = int(self.pages_of.sum())
        if self.pages * PANEL >= MOST_PLACES:
            raise ValueError(f"{self.sizes.sum():,} rows are too many for one shard; make more of them")
        self.next_id = next_id(runs)
        self.wide = self.next_id > LARGE_ID
        self._columns = {**lists.arena.columns, ROWS: Column(np.dtype(np.uint32), (lists.width + self.wide,), True)}
        row_bytes = max(column.row_bytes for column in self._columns.values())
        self._limit = max(_LEAST, memory // (3 * row_bytes + _INDEXING)) // PANEL * PANEL
        self._batches = list(self._cut())
        bounds = sorted({batch.first for batch in self._batches} | {lists.nlist})
        self._offsets = [np.searchsorted(run("lists", 0, run.n), bounds) for run in runs]

    def saved(self) -> Saved:
        told = self._frame._saved()
        state = {**told.state, "next_id": self.next_id, "wide_ids": self.wide}
        arrays = {
            name: SavedArray(column.shape_of(self.pages * PANEL), column.dtype, self._parts(name, column))
            for name, column in self._columns.items()
        }
        return Saved(int(self.sizes.sum()), state, {**told.arrays, "sizes": whole(self.sizes), **arrays})

    def _cut(self) -> Iterator[_Batch]:
        """Batches of at most so many places, in the order of pages."""
        ends, first, number = np.cumsum(self.pages_of) * PANEL, 0, 0
        while first < self._nlist:
            done = ends[first - 1] if first else 0
            end = int(np.searchsorted(ends, done + self._limit, side="right"))
            if end > first:
                yield _Batch(number, first, end, 0, MOST_PLACES)
            else:  # a single list is longer
                end = first + 1
                for high in range(int(self.pages_of[first]) * PANEL, 0, -self._limit):
                    yield _Batch(number, first, end, max(0, high - self._limit), high)
            first, number = end, number + 1

    def _parts(self, name: str, column: Column) -> Iterator[NDArray[Any]]:
        """An array's part of every batch."""
        for batch in self._batches:
            places_of = np.minimum(self.pages_of[batch.first : batch.end] * PANEL, batch.high) - batch.low
            last, seen = np.cumsum(places_of) // PANEL - 1, np.zeros(len(places_of), np.int64)
            out = np.zeros(column.shape_of(int(places_of.sum())), column.dtype)
            for run, offsets in zip(self._runs, self._offsets, strict=True):
                start, stop = offsets[batch.number : batch.number + 2].tolist()
                skipped, end = np.clip([batch.low - seen[0], batch.high - seen[0]], 0, stop - start).tolist()
                lists = run("lists", start + skipped, start + end) - batch.first
                counts = np.bincount(lists, minlength=len(seen))
                ranks = (seen - np.cumsum(counts) + counts)[lists] + np.arange(len(lists)) + (skipped - batch.low)
                places = (last[lists] - ranks // PANEL) * PANEL + ranks % PANEL
                self._put(out, places, run, name, start + skipped, start + end)
                seen += counts
                seen[0] += stop - start - len(lists)
            yield out

    def _put(self, out: NDArray[Any], places: Ids, run: Run, name: str, start: int, stop: int) -> None:
        if name != ROWS:
            out[places] = run(name, start, stop)
            return
        ids = run("ids", start, stop)
        words = [run("codes", start, stop), run("factors", start, stop).view(np.uint32), *_id_words(ids, self.wide)]
        out[places // PANEL, :, places % PANEL] = np.concatenate(words, axis=1)


def _id_words(ids: Ids, wide: bool) -> list[NDArray[np.uint32]]:
    """Ids (m,) as columns (m, 1) of their low words, and the high ones where there are such."""
    shifts = (0, 32) if wide else (0,)
    return [((ids >> shift) & 0xFFFFFFFF).astype(np.uint32)[:, None] for shift in shifts]
