"""What a fitted inverted file has: its lists, the copies of rows in second lists, and how rows enter and leave both.

    coded rows -> staged, where nobody reads -> committed;  ids -> removed, and who moved into their places

Law:       a row and its copy come, move and go together. Places of staged rows hold until rows are removed.
Not here:  when that may happen (ivf.py, sharing.py); where rows lie (lists.py, copies.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex.indexes.copies import Copies, StagedCopies
from polarindex.indexes.ids import Ids, ListIds
from polarindex.indexes.lists import Lists, Moves, Staged
from polarindex.indexes.probing import ListScan
from polarindex.indexes.residuals import Centroids
from polarindex.indexes.spilling import Homes

Floats = NDArray[np.float32]


class StagedRows(NamedTuple):
    """Rows that have places and are not yet part of the index, and their copies in second lists, if there are such."""

    rows: Staged
    copies: StagedCopies | None


class CodedRows(NamedTuple):
    """Rows `of` a source: words and factors, originals, and of the rows that have copies these' words and factors."""

    of: slice
    words: NDArray[np.uint32]
    factors: NDArray[Any]
    originals: dict[str, Any]
    copies: tuple[NDArray[np.uint32], NDArray[Any]] | None


class Held(NamedTuple):
    """What an index has once it is fitted; copies is None where no row lies in a second list."""

    centroids: Centroids
    rows: Lists
    copies: Copies | None
    ids: ListIds
    scan: ListScan

    @property
    def nbytes(self) -> int:
        """Of rows, copies and ids, of what was learned of residuals, and of centroids: as given, and as searches and
        codes have asked for them."""
        parts = self.rows, self.copies, self.ids, self.scan, self.centroids, self.centroids.coding.quantizer
        return sum(part.nbytes for part in parts if part is not None)

    @property
    def largest(self) -> int:
        """Rows of the largest list of either kind."""
        sizes = self.rows.sizes if self.copies is None else np.maximum(self.rows.sizes, self.copies.rows.sizes)
        return int(sizes.max())

    def stage(self, lists: Homes, ids: Ids) -> StagedRows:
        """Places for rows of these lists and ids (n,)."""
        rows = self.rows.stage(lists.first, int(ids.max(initial=0)))
        if self.copies is None or lists.second is None:
            return StagedRows(rows, None)
        return StagedRows(rows, self.copies.stage(lists.second))

    def put(self, staged: StagedRows, ids: Ids, coded: CodedRows) -> None:
        """Write coded rows, and their copies, at their places; ids are those of all staged rows."""
        mine = coded.of
        places = staged.rows.places[mine]
        self.rows.put(places, coded.words, coded.factors, ids[mine], coded.originals)
        if self.copies is not None and staged.copies is not None and coded.copies is not None:
            at = staged.copies.at[mine]
            self.copies.put(at[at >= 0], *coded.copies, places[at >= 0])

    @contextmanager
    def staging(self) -> Iterator[None]:
        """Stage rows; what is not committed at the end is forgotten."""
        try:
            yield
        finally:
            self.rows.discard()
            if self.copies is not None:
                self.copies.rows.discard()

    def commit(self, staged: StagedRows) -> None:
        """Make staged rows and their copies part of their lists; the id table is the caller's affair."""
        self.rows.commit(staged.rows)
        if self.copies is not None and staged.copies is not None:
            self.copies.commit(staged.copies, staged.rows.places)

    def afford_removal(self, count: int) -> None:
        """MemoryError where there is none for removing so many rows, which must not stop half way."""
        self.rows.afford_removal(count)
        if self.copies is not None:
            self.copies.afford_removal(count)

    def remove(self, ids: Ids) -> Moves:
        """Remove the rows that the id table has under some ids, and their copies: see Lists.remove."""
        places = self.ids.positions(ids)
        moves = self.rows.remove(self.ids.table(), ids)
        if self.copies is not None:
            self.copies.removed(places, moves)
        return moves
