"""Where an index keeps its rows: columns in blocks of fixed size, so that growing copies nothing that is full.

A position is a row number 0 .. n - 1. The block that is being filled grows by eighths up to its full size; what is
allocated but unused counts in `nbytes`. Code columns are panels (codes.py); all others have one entry a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import kernels
from polarindex.codes import PANEL
from polarindex.memory import aligned_zeros, on_a_line, require

BLOCK_ROWS = 16_384  # where nothing else is asked for
BLOCK_BYTES = 1 << 25  # of codes: a plane of it is then large enough for huge pages
_STEP = 64
_MOVED = 4096  # rows that fill gaps at a time

Array = NDArray[Any]
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """dtype and shape of one row; `lined`: a row is (w,) words, held as panels of 16 rows (codes.py)."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    lined: bool = False

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def allocate(self, rows: int) -> Array:
        return aligned_zeros(self.shape_of(rows), self.dtype)

    def shape_of(self, rows: int) -> tuple[int, ...]:
        """The shape of an array of so many rows; of panels, the last one may be part empty."""
        return (-(-rows // PANEL), *self.shape, PANEL) if self.lined else (rows, *self.shape)

    def rows_in(self, array: Array) -> int:
        return len(array) * PANEL if self.lined else len(array)


def allocated_rows(n: int, block_rows: int) -> int:
    """Rows that there is room for once n are added at once."""
    full, rest = divmod(n, block_rows)
    return full * block_rows + _rounded(rest, block_rows)


def block_rows(row_bytes: int) -> int:
    """A power of two rows, of at most BLOCK_BYTES: large, so that a scan is few calls, and small enough to copy."""
    return 1 << min(max((BLOCK_BYTES // max(row_bytes, 1)).bit_length() - 1, 10), 18)


class Span(NamedTuple):
    """Rows start .. start + rows - 1 of the arena; arrays hold them, panels possibly with rows beyond."""

    start: int
    rows: int
    arrays: dict[str, Array]


class Arena:
    """Rows of named columns.

    block_rows : rows of a block, a multiple of 64; a power of two where stored vectors are scored.

    Rows are first staged where nobody reads, beyond `n` or in blocks of their own, and become part of the arena at
    `commit`. Until then readers find `n`, `blocks` and what these hold as they were.
    """

    def __init__(self, columns: Mapping[str, Column], block_rows: int | None = None) -> None:
        self.columns = dict(columns)
        self.block_rows = block_rows or BLOCK_ROWS
        self.blocks: list[dict[str, Array]] = []
        self.n = 0
        self._making: dict[int, dict[str, Array]] = {}  # blocks to come, by number: new ones, a larger copy of the last
        self._staged = 0
        self._goal = 0  # rows that were announced

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrays of a copy, or from a pickle, begin anywhere; an arena's on a cache line."""
        self.__dict__.update(state)
        self.blocks = [{name: on_a_line(array) for name, array in block.items()} for block in self.blocks]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for block in self.blocks for array in block.values())

    @property
    def spare(self) -> int:
        """Rows that there is room for."""
        if not self.blocks:
            return 0
        return self.block_rows * (len(self.blocks) - 1) + self._capacity(self.blocks[-1]) - self.n

    @property
    def bytes_per_row(self) -> int:
        return sum(column.row_bytes for column in self.columns.values())

    # --- writing

    def expect(self, rows: int) -> None:
        """So many rows will be staged: a block is made in its full size at once, not grown by copies.

        MemoryError where there is not so much.
        """
        require((rows - self.spare) * self.bytes_per_row, f"{rows:,} more rows")
        self._goal = self.n + self._staged + rows

    def stage(self, rows: Mapping[str, Array]) -> None:
        """Write rows after those staged before them; panels come as rows of words. Absent columns are undefined."""
        count = len(next(iter(rows.values())))
        done = 0
        while done < count:
            number, offset = divmod(self.n + self._staged, self.block_rows)
            taken = min(count - done, self.block_rows - offset)
            self._reserve(number, max(offset + taken, min(self.block_rows, self._goal - number * self.block_rows)))
            for name in rows:
                self._write(self._block(number), name, slice(offset, offset + taken), rows[name][done : done + taken])
            done += taken
            self._staged += taken

    def extend(self, rows: int) -> None:
        """Stage so many rows; what they hold is undefined until it is put."""
        self.expect(rows)
        for number in range((self.n + self._staged) // self.block_rows, -(-self._goal // self.block_rows)):
            self._reserve(number, min(self.block_rows, self._goal - number * self.block_rows))
        self._staged, self._goal = self._staged + rows, 0

    def commit(self) -> int:
        """Make the staged rows part of the arena; returns the position of the first."""
        first = self.n
        self.blocks = self._all_blocks()
        self.n, self._making, self._staged, self._goal = self.n + self._staged, {}, 0, 0
        return first

    @contextmanager
    def staging(self) -> Iterator[None]:
        """Stage rows, beginning with none; what is not committed at the end is forgotten."""
        self.discard()
        try:
            yield
        finally:
            self.discard()

    def discard(self) -> None:
        """Forget the staged rows."""
        self._making, self._staged, self._goal = {}, 0, 0

    def append(self, rows: Mapping[str, Array]) -> None:
        """Stage and commit these rows alone."""
        self.discard()
        self.stage(rows)
        self.commit()

    def put(self, positions: Positions, rows: Mapping[str, Array]) -> None:
        """Overwrite the given columns of some rows, staged ones too."""
        for number, mine, local in self._by_block(positions):
            for name, values in rows.items():
                self._write(self._block(number), name, local, values[mine])

    def remove(self, positions: Positions) -> tuple[Positions, Positions]:
        """Drop rows: the last rows move into the gaps. Returns (old positions, new positions) of those that moved."""
        self.discard()
        n = self.n - len(positions)
        holes = np.sort(positions[positions < n])
        tail = np.ones(len(positions), bool)
        tail[positions[positions >= n] - n] = False
        movers = n + np.flatnonzero(tail)
        for start in range(0, len(holes), _MOVED):
            part = slice(start, start + _MOVED)
            self.put(holes[part], {name: self.take(name, movers[part]) for name in self.columns})
        self.truncate(n)
        return movers, holes

    def truncate(self, n: int) -> None:
        """Forget rows from n on. Empty blocks are given back, and a last block that is three quarters empty shrinks."""
        self.n = n
        del self.blocks[-(-n // self.block_rows) :]
        used = n - self.block_rows * (len(self.blocks) - 1)
        if self.blocks and self._capacity(self.blocks[-1]) >= 4 * _rounded(used, self.block_rows):
            with suppress(MemoryError):  # there is none for a smaller copy, so it stays large
                self.blocks[-1] = self._resized(self.blocks[-1], used)

    def add_column(self, name: str, column: Column, rows: Array) -> None:
        """A new column, not of panels, with a value for each of the n rows; staged rows have it, undefined."""
        arrays = []
        for number, block in enumerate(self._all_blocks()):
            array = column.allocate(self._capacity(block))
            part = rows[number * self.block_rows : (number + 1) * self.block_rows]
            array[: len(part)] = part
            arrays.append(array)
        self.columns[name] = column
        for blocks in (self.blocks, self._all_blocks()):  # the last block, and its larger copy
            for block, array in zip(blocks, arrays, strict=False):
                block[name] = array

    def drop_column(self, name: str) -> None:
        del self.columns[name]
        for block in self.blocks:
            del block[name]

    def adopt(self, arrays: Mapping[str, Array], n: int) -> None:
        """Become n rows held in whole arrays (panels as panels): what `load` does.

        Nothing is copied but a last block whose rows do not fill their panels, for kernels read these whole.
        """
        self.blocks = []
        for start in range(0, n, self.block_rows):
            panels = slice(start // PANEL, (start + self.block_rows) // PANEL)
            rows = slice(start, start + self.block_rows)
            block = {name: arrays[name][panels if column.lined else rows] for name, column in self.columns.items()}
            filled = n % PANEL == 0 or start + self.block_rows <= n
            self.blocks.append(block if filled else self._resized(block, n - start))
        self.n = n

    # --- reading

    def take(self, name: str, positions: Positions) -> Array:
        """Rows of one column at some positions: a copy, panels as rows of words."""
        column = self.columns[name]
        out = np.empty((len(positions), *column.shape), column.dtype)
        for block, mine, local in self._by_block(positions):
            array = self.blocks[block][name]
            out[mine] = array[local // PANEL, :, local % PANEL] if column.lined else array[local]
        return out

    def panels(self, name: str, numbers: Positions) -> Array:
        """Panels of a column of panels, by their numbers: a copy (len(numbers), *shape, PANEL)."""
        column = self.columns[name]
        out = np.empty((len(numbers), *column.shape, PANEL), column.dtype)
        for block, mine, local in self._by_block(numbers * PANEL):
            out[mine] = self.blocks[block][name][local // PANEL]
        return out

    def addresses(self, name: str, *, staged: bool = False) -> NDArray[np.int64]:
        """Where the column begins in each block, (blocks,), with those to come of staged rows if asked for.

        They are nothing once the arena changes or is let go.
        """
        blocks = self._all_blocks() if staged else self.blocks
        return np.array([block[name].__array_interface__["data"][0] for block in blocks], np.int64)

    def whole(self, name: str) -> Array:
        """All n rows of a column that is not panels: a copy."""
        parts = [span.arrays[name] for span in self.spans(self.block_rows)]
        column = self.columns[name]
        return np.concatenate(parts) if parts else np.empty((0, *column.shape), column.dtype)

    def spans(
        self, step: int, start: int = 0, stop: int | None = None, *, whole_panels: bool = False
    ) -> Iterator[Span]:
        """Views of at most `step` rows of [start, stop) inside one block; start and step are multiples of 16.

        With `whole_panels` every array reaches to the end of its last panel, beyond `rows`.
        """
        at, stop = start, self.n if stop is None else stop
        while at < stop:
            block, offset = divmod(at, self.block_rows)
            count = min(step, stop - at, self.block_rows - offset)
            panels = slice(offset // PANEL, -(-(offset + count) // PANEL))
            rows = slice(offset, panels.stop * PANEL if whole_panels else offset + count)
            arrays = {
                name: self.blocks[block][name][panels if column.lined else rows]
                for name, column in self.columns.items()
            }
            yield Span(at, count, arrays)
            at += count

    # --- blocks

    def _capacity(self, block: Mapping[str, Array]) -> int:
        return min(column.rows_in(block[name]) for name, column in self.columns.items())

    def _block(self, number: int) -> dict[str, Array]:
        """Where rows of a block are written: in its larger copy, where there is one."""
        making = self._making.get(number)
        return self.blocks[number] if making is None else making

    def _all_blocks(self) -> list[dict[str, Array]]:
        """The blocks that there will be at `commit`."""
        return [self._block(number) for number in range(max(len(self.blocks), max(self._making, default=-1) + 1))]

    def _reserve(self, number: int, rows: int) -> None:
        """Make room for `rows` rows in a block, by a larger copy of the last one where it is short."""
        if number >= len(self.blocks) and number not in self._making:
            room = _rounded(rows, self.block_rows)
            self._making[number] = {name: column.allocate(room) for name, column in self.columns.items()}
        elif self._capacity(self._block(number)) < rows:
            self._making[number] = self._resized(self._block(number), rows)

    def _resized(self, block: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """A copy of a block with room for `rows` rows and little more."""
        copy = {name: column.allocate(_rounded(rows, self.block_rows)) for name, column in self.columns.items()}
        for name, array in copy.items():
            common = min(len(array), len(block[name]))
            array[:common] = block[name][:common]
        return copy

    def _write(self, block: dict[str, Array], name: str, local: slice | Positions, rows: Array) -> None:
        """Write rows at row numbers inside the block."""
        if not self.columns[name].lined:
            block[name][local] = rows
        elif isinstance(local, slice):
            kernels.to_panels(np.ascontiguousarray(rows), local.start, block[name])
        else:
            block[name][local // PANEL, :, local % PANEL] = rows

    def _by_block(self, positions: Positions) -> Iterator[tuple[int, NDArray[np.int64], Positions]]:
        """(block, which of the positions, their rows inside the block)."""
        blocks = positions // self.block_rows
        for block in np.unique(blocks):
            mine = np.flatnonzero(blocks == block)
            yield int(block), mine, positions[mine] % self.block_rows


def _rounded(rows: int, most: int) -> int:
    """The capacity for `rows`: an eighth more in steps of 64, but no more than `most`; growth by it is amortised."""
    return min(most, -(-(rows + rows // 8) // _STEP) * _STEP)
