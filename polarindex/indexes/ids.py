"""Ids and positions. Ids that count 0, 1, 2, ... in the order of positions are not stored: they are the positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.checks import LARGEST_ID
from polarindex.indexes.arena import Arena, Column
from polarindex.indexes.lists import Lists
from polarindex.memory import require

if TYPE_CHECKING:
    from polarindex.indexes.copies import Copies

Ids = NDArray[np.int64]
_COLUMN = Column(np.dtype(np.int64))
_PART = 65_536
_INSERTED = 1 << 20  # ids at a time: .1 s


class IdTable:
    """A hash table id -> place that is built when first asked for and then follows every change.

    It counts in `nbytes`: 16 bytes a slot, 2 to 4 slots an id.
    """

    def __init__(self) -> None:
        self._table: tuple[Ids, Ids] | None = None

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._table) if self._table else 0

    def fitting(self, n: int) -> tuple[Ids, Ids] | None:
        """The table to keep up for n ids, if any; one too small or far too large is dropped."""
        if self._table and not 2 * n <= len(self._table[0]) <= max(64, 16 * n):
            self._table = None
        return self._table

    def ready(self, n: int, entries: Callable[[], tuple[Ids, Ids]]) -> tuple[Ids, Ids]:
        """The table of the n `entries`, ids and places, which are asked for where it must be built."""
        if self._table is None:
            size = 1 << max(4, (2 * n).bit_length())
            require(16 * size, f"the id table of {n:,} rows")
            table = np.full(size, -1, np.int64), np.zeros(size, np.int64)
            ids, places = entries()
            for start in range(0, len(ids), _INSERTED):  # Ctrl-C comes between calls
                part = slice(start, start + _INSERTED)
                kernels.table_insert(*table, ids[part], places[part])
            self._table = table
            return table  # another thread may have made its own, and the next change drops both
        return self._table


class IdMap:
    """The ids of an arena's rows; `next_id` is 1 + the largest ever used, so that no id is used twice.

    The id -> position table is built when a stored id is first looked up; it then follows every change and counts in
    `nbytes` (16 bytes a slot, 2 to 4 slots an id).
    """

    def __init__(self, arena: Arena, next_id: int = 0) -> None:
        self._arena = arena
        self.next_id = next_id
        self._table = IdTable()

    @property
    def stored(self) -> bool:
        return "ids" in self._arena.columns

    @property
    def nbytes(self) -> int:
        return self._table.nbytes

    @property
    def places(self) -> int:
        """Positions there are; a row mask of a filter has one entry for each."""
        return self._arena.n

    def aligned(self, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """A mask over `all()` as one over positions."""
        return mask.astype(np.uint8)

    def mask(self, positions: Ids) -> NDArray[np.uint8]:
        """(places,) 1 at some positions."""
        mask = np.zeros(self.places, np.uint8)
        mask[positions] = 1
        return mask

    def all(self) -> Ids:
        """(n,) int64, in the order of positions."""
        return self._arena.whole("ids") if self.stored else np.arange(self._arena.n)

    def at(self, positions: Ids) -> Ids:
        return self._arena.take("ids", positions) if self.stored else positions.copy()

    def positions(self, ids: Ids) -> Ids:
        """The position of each id, -1 where there is none."""
        if not self.stored:
            return np.where((ids >= 0) & (ids < self._arena.n), ids, -1)
        keys, values = self._table.ready(self._arena.n, lambda: (self.all(), np.arange(self._arena.n)))
        out = np.empty(len(ids), np.int64)
        kernels.table_find(keys, values, ids, out)
        return out

    def following(self, count: int) -> Ids:
        """The next `count` ids."""
        return following_ids(self.next_id, count)

    # --- following the arena's changes

    def follow(self, arena: Arena) -> None:
        """The same rows are now in another arena, at the same positions."""
        self._arena = arena

    def store(self) -> None:
        """Begin to store ids, before the first change after which they are no longer the positions."""
        if not self.stored:
            self._arena.add_column("ids", _COLUMN, np.arange(self._arena.n))

    def make_room(self, ids: Ids, arena: Arena) -> None:
        """Rows with these ids are staged in an arena that has the same rows: room for ids, if they have to be stored.

        What follows needs no memory.
        """
        first = arena.n
        if self.next_id != first or any((part != places).any() for part, places in _parts(ids, first)):
            if "ids" not in arena.columns:
                arena.add_column("ids", _COLUMN, np.arange(first))

    def appended(self, ids: Ids, first: int) -> None:
        """Rows with these ids, for which there is room, were appended to the arena from position `first` on."""
        if len(ids):
            self.next_id = max(self.next_id, int(ids.max()) + 1)
        table = self._table.fitting(self._arena.n)
        for part, places in _parts(ids, first) if self.stored or table else ():
            if self.stored:
                self._arena.put(places, {"ids": part})
            if table:
                kernels.table_insert(*table, part, places)

    def moved(self, removed: Ids, ids: Ids, positions: Ids) -> None:
        """Ids were removed, and others now stand at new positions."""
        if table := self._table.fitting(self._arena.n):
            kernels.table_remove(*table, removed)
            kernels.table_insert(*table, ids, positions)


class ListIds:
    """The ids of an inverted file's rows, which lie beside their codes; `next_id` as of IdMap.

    Where rows have copies (copies.py), a mask over places goes on with the copies' places.
    """

    def __init__(self, lists: Lists, next_id: int = 0, copies: Copies | None = None) -> None:
        self._lists, self._copies = lists, copies
        self.next_id = next_id
        self._table = IdTable()

    stored = True

    @property
    def nbytes(self) -> int:
        return self._table.nbytes

    @property
    def places(self) -> int:
        return self._lists.places

    def aligned(self, mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """A mask over `all()` as one over places."""
        return self.mask(self._lists.used()[mask])

    def mask(self, positions: Ids) -> NDArray[np.uint8]:
        """1 at some places, and at the places of their copies."""
        mask = np.zeros(self.places, np.uint8)
        mask[positions] = 1
        return mask if self._copies is None else np.concatenate([mask, self._copies.allowed(mask)])

    def all(self) -> Ids:
        """(n,) int64, in the order of places."""
        return self.at(self._lists.used())

    def at(self, places: Ids) -> Ids:
        return self._lists.ids_at(places)

    def positions(self, ids: Ids) -> Ids:
        """The place of each id, -1 where there is none."""
        out = np.empty(len(ids), np.int64)
        kernels.table_find(*self.table(), ids, out)
        return out

    def following(self, count: int) -> Ids:
        """The next `count` ids."""
        return following_ids(self.next_id, count)

    def table(self) -> tuple[Ids, Ids]:
        """The id table, built if need be; whoever removes rows keeps it up, and calls `tidy` then."""
        def entries() -> tuple[Ids, Ids]:
            used = self._lists.used()
            return self.at(used), used

        return self._table.ready(self._lists.n, entries)

    def appended(self, ids: Ids, places: Ids) -> None:
        """Rows with these ids now stand at these places."""
        if len(ids):
            self.next_id = max(self.next_id, int(ids.max()) + 1)
        if table := self._table.fitting(self._lists.n):
            kernels.table_insert(*table, ids, places)

    def renamed(self, old: Ids, new: Ids, places: Ids) -> None:
        """The rows at some places have other ids now."""
        table = self.table()
        kernels.table_remove(*table, old)
        kernels.table_insert(*table, new, places)

    def tidy(self) -> None:
        """Rows were removed: a table that has become far too large is dropped, and free pages may be given back."""
        moves = self._lists.tidy(self._table.fitting(self._lists.n))
        if moves is not None and self._copies is not None:
            self._copies.moved(moves)


def following_ids(next_id: int, count: int) -> Ids:
    """`count` ids from next_id on; ValueError where there are not so many."""
    if next_id + count > LARGEST_ID:
        raise ValueError(f"no {count} ids follow {next_id - 1}, the largest used; pass ids")
    return np.arange(next_id, next_id + count)


def _parts(ids: Ids, first: int) -> Iterator[tuple[Ids, Ids]]:
    """Ids and the positions from `first` on that they are at, a part at a time: no temporaries of all rows."""
    for start in range(0, len(ids), _PART):
        part = ids[start : start + _PART]
        yield part, np.arange(first + start, first + start + len(part))
