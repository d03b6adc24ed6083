"""Second codes of rows that lie in two lists: lists beside the lists, whose rows know where the row itself is.

A copy is the code of a row relative to its second list's centroid, with its own scales and shift. Where a row has its
id (lists.py) a copy has the row's *place*, so ids, originals and what a filter says are those of the row.

Law:       a row with a second list has one copy there, which is added, moved and removed in one step with it; no other
           row has one.
Memory:    a row's words without originals. A table that finds copies by places is built when it is first needed, for
           removals and standard errors, and counted.
Not here:  which rows have second lists (spilling.py); copies that a search finds (kernels/copies.py)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from polarindex.codes import PANEL, Words
from polarindex.indexes.ids import Ids, ListIds
from polarindex.indexes.lists import ROWS, Lists, Moves, Staged
from polarindex.indexes.saved import Read, SavedArray
from polarindex.indexes.spilling import NOWHERE
from polarindex.kernels.limits import EMPTY_ID, THROUGH

_PREFIX = "spill_"  # of the arrays in files
_STEP = 65_536  # places that are looked at together

Floats = NDArray[np.float32]
Numbers = NDArray[np.int32]


class StagedCopies(NamedTuple):
    """Copies that have places and are not yet part of their lists; at (n,): of each row's copy, -1 for none."""

    staged: Staged
    at: Ids


class Copies:
    """Copies of the rows of `own`.

    Attributes
    ----------
    rows : Lists, whose ids are places of `own`
    """

    def __init__(self, own: Lists) -> None:
        self.own = own
        self.rows = Lists(own.nlist, own.words, own.stages, {}, own.short)
        self._places = ListIds(self.rows)

    def __len__(self) -> int:
        return self.rows.n

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self._places.nbytes

    # --- writing

    def stage(self, second: Numbers) -> StagedCopies:
        """Places for copies of rows with these second lists (n,), negative for none."""
        there = second >= 0
        staged, at = self.rows.stage(second[there], 0), np.full(len(second), -1)
        at[there] = staged.places
        return StagedCopies(staged, at)

    def put(self, at: Ids, words: Words, factors: NDArray[Any], own: Ids) -> None:
        """Write copies at places: codes (m, words), factors as of Lists, and the rows' own places (m,)."""
        self.rows.put(at, words, factors, own, {})

    def commit(self, copied: StagedCopies, own: Ids) -> None:
        """Make staged copies of the rows that now stand at the places own (n,) part of their lists."""
        self.rows.commit(copied.staged)
        there = copied.at >= 0
        self._places.appended(own[there], copied.at[there])

    def afford_removal(self, count: int) -> None:
        """MemoryError where there is none for removing the copies of so many rows, which must not stop half way."""
        self._places.table()
        self.rows.afford_removal(count)

    def removed(self, own: Ids, moves: Moves) -> None:
        """Rows were removed from these places, and others moved."""
        gone = own[self._places.positions(own) >= 0]
        if len(gone):
            self.rows.remove(self._places.table(), gone)
        self.moved(moves)
        self._places.tidy()

    def moved(self, moves: Moves) -> None:
        """Rows moved: their copies are told."""
        at = self._places.positions(moves.sources)
        there = at >= 0
        self._places.renamed(moves.sources[there], moves.targets[there], at[there])
        self.rows.rename(at[there], moves.targets[there])

    # --- reading

    def of(self, own: Ids) -> Ids:
        """The place of the copy of each row, -1 where it has none."""
        return self._places.positions(own)

    def owners(self) -> tuple[Ids, Ids]:
        """The places of all copies, ascending, and of their rows; those left out that a damaged file has of no row."""
        at = self.rows.used()
        own = self._places.at(at)
        there = own < self.own.places
        return at[there], own[there]

    def lists_of_rows(self) -> Numbers:
        """(places of own,) the second list of the row at each place, NOWHERE where there is none."""
        at, own = self.owners()
        lists = np.full(self.own.places, NOWHERE, np.int32)
        lists[own] = self.rows.lists_of(at)
        return lists

    def ids_of(self, rows: Words) -> Ids:
        """(m,) int64 ids of copies' words; EMPTY_ID where a damaged file names a place that is none."""
        own = self.rows.ids_of(rows)
        there = own < self.own.places
        return np.where(there, self.own.ids_of(self.own.rows(np.where(there, own, -1))), EMPTY_ID)

    def allowed(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A mask over the rows' places as one over copies' places."""
        if not len(mask):
            return mask[:0]
        parts = [mask[:0]]
        for span in self.rows.arena.spans(_STEP):
            own = self.rows.ids_of(span.arrays[ROWS]).reshape(-1)
            parts.append(mask[np.minimum(own, len(mask) - 1)])  # unused lanes hold anything
        return np.concatenate(parts)

    def taken(self, own: Ids) -> dict[str, NDArray[Any]]:
        """What a record of changes has of rows at places (n,): their second lists, and the codes of their copies."""
        at = self.of(own)
        there = at >= 0
        second = np.full(len(own), NOWHERE, np.int32)
        second[there] = self.rows.lists_of(at[there])
        codes, factors, _, _ = self.rows.taken(at[there])
        arrays = {"lists": second, "codes": codes, "factors": factors}
        return {_PREFIX + name: array for name, array in arrays.items()}

    def read_taken(self, n: int, read: Read) -> tuple[Numbers, tuple[Words, NDArray[Any]]]:
        """What `taken` told of n rows, second lists and codes; ValueError where a second list is none."""
        second = read(f"{_PREFIX}lists", (n,), np.int32)
        if (second < NOWHERE).any() or (second >= self.rows.nlist).any():
            raise ValueError(f"{_PREFIX}lists are not all of {self.rows.nlist}, or {NOWHERE} for none")
        count = int((second >= 0).sum())
        codes = read(f"{_PREFIX}codes", (count, self.rows.words), np.uint32)
        return second, (codes, self.rows.read_factors(read, f"{_PREFIX}factors", count))

    # --- what kernels are told

    def told(self, store: tuple[Any, ...], own: tuple[Any, ...]) -> tuple[NDArray[np.int64], int, int, int]:
        """The store of copies with what finds ids in that of rows, which the caller holds: see kernels/pages.py."""
        blocks, page_bits, width, id_word = store
        own_blocks, own_bits, own_width, own_word = own
        behind = own_blocks.__array_interface__["data"][0], own_bits, own_width, own_word, self.own.places
        return np.concatenate([blocks, np.array(behind, np.int64)]), page_bits, width, id_word + THROUGH

    # --- files

    def saved(self) -> dict[str, SavedArray]:
        """As of Lists; rows' places are those that they have in their saved lists."""
        pages = self.own.pages_in_order()
        new = np.zeros(max(1, self.own.places // PANEL), np.int64)
        new[pages] = np.arange(len(pages))

        def renamed(own: NDArray[np.uint32]) -> NDArray[np.int64]:
            page = np.minimum(own // PANEL, len(new) - 1)
            return new[page] * PANEL + own % PANEL

        return {_PREFIX + name: array for name, array in self.rows.saved(renamed).items()}

    def adopt(self, sizes: Ids, rows: int, read: Read) -> None:
        """Become what `saved` told of; ValueError where copies are not of different rows, unless they are mapped."""
        self.rows.adopt(sizes, rows, False, _Prefixed(read), f"{_PREFIX}sizes.npy")
        if read.mapped:
            return
        used, own = self.own.used(), np.sort(self._places.all())
        at = np.minimum(np.searchsorted(used, own), max(len(used) - 1, 0))
        if len(own) and (not len(used) or (used[at] != own).any() or (own[1:] == own[:-1]).any()):
            raise ValueError(f"{_PREFIX}rows.npy holds places of no row, or one twice; wanted a copy's own row's")


class _Prefixed(NamedTuple):
    """Reads the arrays of copies; see saved.Read."""

    read: Read

    @property
    def mapped(self) -> bool:
        return self.read.mapped

    def __call__(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, in_memory: bool = False) -> NDArray[Any]:
        return self.read(_PREFIX + name, shape, dtype, in_memory)


def once_each(lims: Ids, distances: Floats, ids: Ids) -> tuple[Ids, Floats, Ids]:
    """Hits as of range_search, each query's best first, without those of an id that the query has before."""
    query = np.repeat(np.arange(len(lims) - 1), np.diff(lims))
    order = np.lexsort((ids, query))  # stable: of an id's hits the better is first
    again = (ids[order][1:] == ids[order][:-1]) & (query[order][1:] == query[order][:-1])
    kept = np.ones(len(ids), bool)
    kept[order[1:][again]] = False
    counts = np.bincount(query[kept], minlength=len(lims) - 1)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]), distances[kept], ids[kept]
