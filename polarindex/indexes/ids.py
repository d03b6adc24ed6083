"""Ids and positions. Ids that count 0, 1, 2, ... in the order of positions are not stored: they are the positions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.checks import LARGEST_ID
from polarindex.indexes.arena import Arena, Column

Ids = NDArray[np.int64]
_COLUMN = Column(np.dtype(np.int64))
_PART = 65_536


class IdMap:
    """The ids of an arena's rows; `next_id` is 1 + the largest ever used, so that no id is used twice.

    The id -> position table is built when a stored id is first looked up; it then follows every change and counts in
    `nbytes` (16 bytes a slot, 2 to 4 slots an id).
    """

    def __init__(self, arena: Arena, next_id: int = 0) -> None:
        self._arena = arena
        self.next_id = next_id
        self._table: tuple[Ids, Ids] | None = None

    @property
    def stored(self) -> bool:
        return "ids" in self._arena.columns

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._table) if self._table else 0

    def all(self) -> Ids:
        """(n,) int64, in the order of positions."""
        return self._arena.whole("ids") if self.stored else np.arange(self._arena.n)

    def at(self, positions: Ids) -> Ids:
        return self._arena.take("ids", positions) if self.stored else positions.copy()

    def positions(self, ids: Ids) -> Ids:
        """The position of each id, -1 where there is none."""
        if not self.stored:
            return np.where((ids >= 0) & (ids < self._arena.n), ids, -1)
        keys, values = self._ready_table()
        out = np.empty(len(ids), np.int64)
        kernels.table_find(keys, values, ids, out)
        return out

    def following(self, count: int) -> Ids:
        """The next `count` ids."""
        if self.next_id + count > LARGEST_ID:
            raise ValueError(f"no {count} ids follow {self.next_id - 1}, the largest used; pass ids")
        return np.arange(self.next_id, self.next_id + count)

    # --- following the arena's changes

    def follow(self, arena: Arena) -> None:
        """The same rows are now in another arena, at the same positions."""
        self._arena = arena

    def store(self) -> None:
        """Begin to store ids, before the first change after which they are no longer the positions."""
        if not self.stored:
            self._arena.add_column("ids", _COLUMN, np.arange(self._arena.n))

    def appended(self, ids: Ids, first: int) -> None:
        """Rows with these ids were appended to the arena from position `first` on."""
        if self.next_id != first or any((part != places).any() for part, places in _parts(ids, first)):
            self.store()
        if len(ids):
            self.next_id = max(self.next_id, int(ids.max()) + 1)
        table = self._fitting_table()
        for part, places in _parts(ids, first) if self.stored or table else ():
            if self.stored:
                self._arena.put(places, {"ids": part})
            if table:
                kernels.table_insert(*table, part, places)

    def moved(self, removed: Ids, ids: Ids, positions: Ids) -> None:
        """Ids were removed, and others now stand at new positions."""
        if table := self._fitting_table():
            kernels.table_remove(*table, removed)
            kernels.table_insert(*table, ids, positions)

    def _fitting_table(self) -> tuple[Ids, Ids] | None:
        """The table to keep up, if any; one too small or far too large is dropped and built when next needed."""
        if self._table and not 2 * self._arena.n <= len(self._table[0]) <= max(64, 16 * self._arena.n):
            self._table = None
        return self._table

    def _ready_table(self) -> tuple[Ids, Ids]:
        if self._table is None:
            size = 1 << max(4, (2 * self._arena.n).bit_length())
            table = np.full(size, -1, np.int64), np.zeros(size, np.int64)
            kernels.table_insert(*table, self.all(), np.arange(self._arena.n))
            self._table = table
        return self._table


def _parts(ids: Ids, first: int) -> Iterator[tuple[Ids, Ids]]:
    """Ids and the positions from `first` on that they are at, a part at a time: no temporaries of all rows."""
    for start in range(0, len(ids), _PART):
        part = ids[start : start + _PART]
        yield part, np.arange(first + start, first + start + len(part))
