"""Where an inverted file keeps its rows: lists of pages of 16 rows, in blocks that never move.

A row is 32-bit words: its code, its scales and its shift (or one word for both), and its id. A page is 16 rows side by
side, word by word (codes.PANEL), so that the scan reads codes, factors and ids of one page in one run of memory. Pages
belong to lists as kernels/pages.py says; a row's *place* is 16 page + lane. Originals, where kept, lie at the same
places.

Law:       new rows are written where nobody reads, free lanes and free pages, and become part of their lists in one
           step, `commit`; until then readers find everything where it was. A removal moves the last row of the list
           into the gap and frees pages; when an eighth of the pages is free, pages from the end move into free ones and
           memory is given back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codes import PANEL
from polarindex.indexes.arena import Arena, Column, block_rows
from polarindex.indexes.saved import Read, SavedArray, read_columns, whole

ROWS = "rows"  # the arena's column of pages
LARGE_ID = 2**32  # from which an id takes two words
_FREE_SHARE = 8  # pages move when one in so many is free
_PAGES_SAVED = 256  # written to a file at a time
MOST_PLACES = 2**31  # kernels hold a place in 32 bits
_REMOVAL_BYTES = 160  # a row that is removed, for what says where others moved
_MOVED = 4096  # rows that move, or are read for their ids, at a time

Store = tuple[NDArray[np.int64], int, int, int]
Ids = NDArray[np.int64]
Words = NDArray[np.uint32]


class Staged(NamedTuple):
    """Rows that have places and are not yet part of their lists."""

    places: Ids
    fresh: NDArray[np.int32]  # pages that become part of lists
    reused: int  # of these, how many were free
    wanted: Ids  # of these, for each list
    added: Ids  # rows, for each list


class Moves(NamedTuple):
    """Rows that moved, from places to places (m,), none of which is in both; `sources` ascend."""

    sources: Ids
    targets: Ids

    def follow(self, places: Ids) -> Ids:
        """Where the rows are that were at some places."""
        if not len(self.sources):
            return places
        at = np.minimum(np.searchsorted(self.sources, places), len(self.sources) - 1)
        return np.where(self.sources[at] == places, self.targets[at], places)


class Lists:
    """Rows in `nlist` lists.

    Parameters
    ----------
    nlist : int
    words, stages : int
        Words of a code and scales of a row.
    short : bool
        Whether a row's scale and shift are one word (factors.py).
    originals : columns that are kept beside, by name.

    Attributes
    ----------
    arena : pages and originals, whose positions are places.
    """

    def __init__(
        self, nlist: int, words: int, stages: int, originals: Mapping[str, Column], short: bool = False
    ) -> None:
        self.nlist = nlist
        self.words, self.stages, self.short = words, stages, short
        self.scale_word, self.shift_word = words, words if short else words + stages
        self.id_word = self.shift_word + 1
        self._originals = dict(originals)
        self.arena = self._new_arena(self.id_word + 1)
        self.heads = np.full(nlist, -1, np.int32)
        self.sizes = np.zeros(nlist, np.int64)
        self.following = np.empty(0, np.int32)
        self.owners = np.empty(0, np.int32)
        self._pages = 0  # in lists or free; beyond are those of a staging, and room
        self._free: list[int] = []  # free pages, the last to be used first
        self._store: Store | None = None
        self._target = self.arena  # where rows are staged: in one with room for a second word of ids, once it is needed
        self._writing: Store | None = None  # the store of staged rows

    def __getstate__(self) -> dict[str, Any]:
        """Without addresses, which in a copy would be those of other memory."""
        return {**self.__dict__, "_store": None, "_writing": None}

    def _new_arena(self, width: int) -> Arena:
        rows = {ROWS: Column(np.dtype(np.uint32), (width,), lined=True)}
        return Arena(rows | self._originals, block_rows(4 * width))

    @property
    def n(self) -> int:
        """Rows in all lists."""
        return int(self.sizes.sum())

    @property
    def width(self) -> int:
        """Words of a row."""
        return self.arena.columns[ROWS].shape[0]

    @property
    def places(self) -> int:
        """Places there are, used or not."""
        return self.arena.n

    @property
    def nbytes(self) -> int:
        tables = self.heads.nbytes + self.sizes.nbytes + self.following.nbytes + self.owners.nbytes
        return self.arena.nbytes + tables

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one more row, its share of a page's place in a chain (half a byte) left out."""
        return self.arena.bytes_per_row

    @property
    def store(self) -> Store:
        """Addresses of blocks, bits of a page number inside a block, words of a row, and the id's word: for kernels.

        The addresses hold until rows change.
        """
        if self._store is None:
            self._store = self._store_of(self.arena)
        return self._store

    def _store_of(self, arena: Arena, staged: bool = False) -> Store:
        page_bits = (arena.block_rows // PANEL).bit_length() - 1
        return arena.addresses(ROWS, staged=staged), page_bits, arena.columns[ROWS].shape[0], self.id_word

    @property
    def chains(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        return self.heads, self.following

    # --- writing

    def stage(self, lists: NDArray[np.int32], largest_id: int) -> Staged:
        """Places for rows of these lists (m,); they are written with `put` and taken with `commit`."""
        self.discard()
        added, wanted = np.zeros(self.nlist, np.int64), np.empty(self.nlist, np.int64)
        kernels.pages_wanted(lists, self.sizes, added, wanted)
        count = int(wanted.sum())
        reused = sorted(self._free[max(0, len(self._free) - count) :])
        more = count - len(reused)
        if (self._pages + more) * PANEL >= MOST_PLACES:
            raise ValueError(f"{len(lists)} more rows are too many for one index, which has {MOST_PLACES:,} places")
        self._make_room(more, largest_id >= LARGE_ID)
        fresh = np.concatenate([np.array(reused, np.int32), np.arange(self._pages, self._pages + more, dtype=np.int32)])
        places = np.empty(len(lists), np.int64)
        kernels.place_rows(lists, self.heads, self.sizes, fresh, wanted, places)
        return Staged(places, fresh, len(reused), wanted, added)

    def put(
        self, places: Ids, codes: Words, factors: NDArray[Any], ids: Ids, originals: Mapping[str, Any]
    ) -> None:
        """Write staged rows at places: codes (m, words), factors as of `factors_of`, ids (m,)."""
        factors = np.ascontiguousarray(factors).view(np.uint32)
        kernels.write_rows(self._writing, places, np.ascontiguousarray(codes), factors, ids)
        self.put_originals(places, originals)

    def put_originals(self, places: Ids, originals: Mapping[str, Any]) -> None:
        """Write what is kept beside the rows at places; nothing where nothing is."""
        if originals:
            self._target.put(places, originals)

    def commit(self, staged: Staged) -> None:
        """Make staged rows part of their lists."""
        kernels.link_pages(
            self.heads, self.following, self.owners, self.sizes, staged.fresh, staged.wanted, staged.added
        )
        del self._free[len(self._free) - staged.reused :]
        self._pages += len(staged.fresh) - staged.reused
        self._target.commit()
        self.arena, self._store, self._writing = self._target, None, None

    @contextmanager
    def staging(self) -> Iterator[None]:
        """Stage rows; what is not committed at the end is forgotten."""
        try:
            yield
        finally:
            self.discard()

    def discard(self) -> None:
        """Forget what was staged and not committed."""
        self.arena.discard()
        self._target, self._writing = self.arena, None

    def afford_removal(self, count: int) -> None:
        """MemoryError where there is none for removing so many rows, which must not stop half way."""
        np.empty(_REMOVAL_BYTES * count, np.uint8)
        np.empty(_MOVED * max(self.arena.bytes_per_row, 1), np.uint8)

    def remove(self, table: tuple[Ids, Ids], ids: Ids) -> Moves:
        """Remove the rows that the id table (kernels.idtable) has under some ids, all of which it has.

        It follows, but for rows it does not have where they are: those that were added under ids of rows to be
        removed. Where these are then, the moves tell. `tidy` gives memory back.
        """
        self.discard()
        moves, freed = np.empty((len(ids), 2), np.int64), np.empty(len(ids), np.int32)
        count = kernels.remove_rows(self.store, table, self._lists, ids, moves, freed)
        settled = _settled(moves[moves[:, 0] >= 0])
        for start in range(0, len(settled.targets) if self._originals else 0, _MOVED):
            part = slice(start, start + _MOVED)
            self.arena.put(settled.targets[part], self.originals(settled.sources[part]))
        self._free += freed[:count].tolist()
        return settled

    def rename(self, places: Ids, ids: Ids) -> None:
        """Give the rows at some places other ids, of one word where they are; the id table is the caller's affair."""
        nothing = np.empty((len(places), 0), np.uint32)
        kernels.write_rows(self.store, places, nothing, nothing, ids)

    def tidy(self, table: tuple[Ids, Ids] | None) -> Moves | None:
        """Give memory back where many pages are free. The id table, if there is one, has all rows and follows.

        Returns where rows moved to, if any did.
        """
        return self._give_back(table) if len(self._free) * _FREE_SHARE > self._pages else None

    # --- reading

    def used(self) -> Ids:
        """(n,) places in use, ascending: the order of `index.ids`."""
        filled = np.zeros(self._pages, np.int64)
        kernels.page_fill(self._lists, filled)
        lanes = np.arange(PANEL) < filled[:, None]
        return np.flatnonzero(lanes.reshape(-1))

    def places_of(self, number: int) -> Ids:
        """Places of one list's rows, in the order of its chain."""
        pages = np.empty(-(-int(self.sizes[number]) // PANEL), np.int32)
        kernels.list_pages(self.chains, np.array([number], np.int32), pages, np.empty(1, np.int64))
        places = _places_in(pages)
        spare = -int(self.sizes[number]) % PANEL
        return np.delete(places, slice(PANEL - spare, PANEL)) if spare else places

    def rows(self, places: Ids) -> Words:
        """(m, width) uint32 words of rows; zeros for negative places."""
        rows = np.empty((len(places), self.width), np.uint32)
        kernels.read_rows(self.store, places, rows)
        return rows

    def taken(self, places: Ids) -> tuple[Words, NDArray[Any], Ids, dict[str, NDArray[Any]]]:
        """Codes, factors, ids and originals of the rows at places, as `put` takes them."""
        rows = self.rows(places)
        return rows[:, : self.words], self.factors_of(rows), self.ids_of(rows), self.originals(places)

    def originals(self, places: Ids) -> dict[str, NDArray[Any]]:
        """What is kept beside the rows at places."""
        return {name: self.arena.take(name, places) for name in self._originals}

    def ids_at(self, places: Ids) -> Ids:
        """(m,) int64 ids of the rows at places."""
        out = np.empty(len(places), np.int64)
        for start in range(0, len(places), _MOVED):  # whole rows are read for their ids
            part = slice(start, start + _MOVED)
            out[part] = self.ids_of(self.rows(places[part]))
        return out

    def ids_of(self, rows: Words) -> Ids:
        """(m,) int64 ids of rows of words."""
        ids: Ids = rows[:, self.id_word].astype(np.int64)
        if self.wide:
            ids |= rows[:, self.id_word + 1].astype(np.int64) << 32
        return ids

    def factors_of(self, rows: Words) -> NDArray[Any]:
        """(m, stages + 1) float32, scales and shift, of rows of words; where these are one word (m, 1) uint32."""
        return np.ascontiguousarray(rows[:, self.scale_word : self.id_word]).view(self.factor_type)

    def read_factors(self, read: Read, name: str, rows: int) -> NDArray[Any]:
        """What `factors_of` told a file of, of so many rows."""
        return read(name, (rows, self.id_word - self.scale_word), self.factor_type)

    @property
    def factor_type(self) -> Any:
        return np.uint32 if self.short else np.float32

    def lists_of(self, places: Ids) -> NDArray[np.int32]:
        return self.owners[places // PANEL]

    # --- files

    @property
    def wide(self) -> bool:
        """Whether ids take two words."""
        return self.width > self.id_word + 1

    def pages_in_order(self) -> NDArray[np.int32]:
        """Pages in the order in which they are saved: list by list, each in the order of its chain."""
        pages = np.empty(int((-(-self.sizes // PANEL)).sum()), np.int32)
        kernels.list_pages(self.chains, np.arange(self.nlist, dtype=np.int32), pages, np.empty(self.nlist, np.int64))
        return pages

    def saved(self, renamed: Callable[[Words], Ids] | None = None) -> dict[str, SavedArray]:
        """Sizes, and the columns without free pages; ids of one word become what `renamed` says."""
        pages, filled = self.pages_in_order(), np.zeros(self._pages, np.int64)
        kernels.page_fill(self._lists, filled)
        arrays = {"sizes": whole(self.sizes)}
        for name, column in self.arena.columns.items():
            shape = column.shape_of(len(pages) * PANEL)
            arrays[name] = SavedArray(shape, column.dtype, self._saved_pages(name, pages, filled, renamed))
        return arrays

    def _saved_pages(
        self, name: str, pages: NDArray[np.int32], filled: Ids, renamed: Callable[[Words], Ids] | None
    ) -> Iterator[NDArray[Any]]:
        """A column's part of some pages, with zeros where no row is: what was removed leaves nothing in a file."""
        for start in range(0, len(pages), _PAGES_SAVED):
            part = pages[start : start + _PAGES_SAVED].astype(np.int64)
            unused = np.arange(PANEL) >= filled[part][:, None]
            if self.arena.columns[name].lined:
                array = self.arena.panels(name, part)
                if renamed:
                    array[:, self.id_word] = renamed(array[:, self.id_word])
                array.transpose(0, 2, 1)[unused] = 0
            else:
                array = self.arena.take(name, _places_in(part))
                array[unused.reshape(-1)] = 0
            yield array

    def adopt(self, sizes: Ids, rows: int, wide: bool, read: Read, file: str = "sizes.npy") -> None:
        """Become the lists that `saved` told of, of `sizes` rows, in all `rows`; mapped columns stay mapped.

        ValueError where sizes, those of `file`, are not that.
        """
        if (sizes < 0).any() or (sizes > rows).any() or rows >= MOST_PLACES or sizes.sum() != rows:
            raise ValueError(f"{file} holds {sizes.min()} to {sizes.max()}, wanted sizes of lists of {rows} rows")
        pages_of = -(-sizes // PANEL)
        pages = int(pages_of.sum())
        if pages * PANEL >= MOST_PLACES:
            raise ValueError(f"{file} asks for {pages} pages, wanted fewer than {MOST_PLACES // PANEL}")
        self.arena = self._target = self._new_arena(self.id_word + 1 + wide)
        self.arena.adopt(read_columns(self.arena, pages * PANEL, read), pages * PANEL)
        ends, some = np.cumsum(pages_of), pages_of > 0
        self.sizes, self.heads = sizes, np.where(some, ends - pages_of, -1).astype(np.int32)
        self.following = np.arange(1, pages + 1, dtype=np.int32)
        self.following[ends[some] - 1] = -1
        self.owners = np.repeat(np.arange(self.nlist, dtype=np.int32), pages_of)
        self._pages, self._free, self._store, self._writing = pages, [], None, None

    # --- pages

    @property
    def _lists(self) -> tuple[NDArray[Any], ...]:
        return self.heads, self.following, self.owners, self.sizes

    def _make_room(self, more: int, wide: bool) -> None:
        """Room to stage so many pages more, and ids of two words if need be; the tables of pages grow by halves."""
        self._target = self._widened() if wide and not self.wide else self.arena
        self._target.extend(more * PANEL)
        self._writing = self._store_of(self._target, staged=True)
        pages = self._pages + more
        if pages > len(self.owners):
            room = np.full(max(pages + pages // 2, 64) - len(self.owners), -1, np.int32)
            following, owners = np.concatenate([self.following, room]), np.concatenate([self.owners, room])
            self.following, self.owners = following, owners

    def _give_back(self, table: tuple[Ids, Ids] | None) -> Moves | None:
        """Move pages from the end into free ones, and drop what is then free at the end."""
        try:
            free = np.sort(np.array(self._free, np.int64))
            kept = self._pages - len(free)
            targets = free[free < kept].astype(np.int32)
            sources = np.flatnonzero(self.owners[kept : self._pages] >= 0).astype(np.int32) + np.int32(kept)
            filled = np.zeros(self._pages, np.int64)
            kernels.page_fill(self._lists, filled)
            used = (np.arange(PANEL) < filled[sources][:, None]).reshape(-1)
            old, new = _places_in(sources)[used], _places_in(targets)[used]
            for start in range(0, len(old), _MOVED):
                part = slice(start, start + _MOVED)
                self.arena.put(new[part], {name: self.arena.take(name, old[part]) for name in self.arena.columns})
            ids, following, owners = self.ids_at(old), np.empty(kept, np.int32), np.empty(kept, np.int32)
            np.empty(_REMOVAL_BYTES * len(old), np.uint8)  # for copies that follow
            kernels.relink(self._lists, sources, targets)
        except MemoryError:  # so far only free pages were written: they stay free until rows come or memory does
            return None
        following[:], owners[:] = self.following[:kept], self.owners[:kept]
        self.following, self.owners = following, owners
        self._free, self._pages, self._store = [], kept, None
        self.arena.truncate(kept * PANEL)
        if table:
            kernels.table_insert(*table, ids, new)
        return Moves(old, new)

    def _widened(self) -> Arena:
        """A copy of the arena with room for a second word of ids."""
        old, arena = self.arena, self._new_arena(self.id_word + 2)
        arena.extend(old.n)
        arena.commit()
        everyone = np.arange(old.n)
        for start in range(0, old.n, arena.block_rows):
            part = everyone[start : start + arena.block_rows]
            columns = {name: old.take(name, part) for name in old.columns}
            columns[ROWS] = np.pad(columns[ROWS], ((0, 0), (0, 1)))
            arena.put(part, columns)
        return arena


def _settled(moves: NDArray[np.int64]) -> Moves:
    """Where rows were and are after moves (m, 2), one after the other.

    A place that a row has left stays empty; one that a row has come to may be left again, or filled once more when that
    row is removed in its turn.
    """
    latest = len(moves) - 1 - np.unique(moves[::-1, 1], return_index=True)[1]
    sources, targets = moves[latest].T
    order = np.argsort(sources)
    sources, targets = sources[order], targets[order]
    first = ~np.isin(sources, targets)
    while len(sources):
        at = np.minimum(np.searchsorted(sources, targets), len(sources) - 1)
        on = sources[at] == targets
        if not on.any():
            break
        targets = np.where(on, targets[at], targets)
    return Moves(sources[first], targets[first])


def _places_in(pages: NDArray[Any]) -> Ids:
    """Places of whole pages, in order."""
    return (pages.astype(np.int64)[:, None] * PANEL + np.arange(PANEL)).reshape(-1)
