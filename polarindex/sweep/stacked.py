"""Several matrices as one that is read by slices: the files that a command or a build is given.

Law:       rows are read as float32 and checked where they lie, so an error names the file and its row. What an index
           finds wrong with them is said of the file as well (`named`). What a mapped file has brought into memory is
           given back after every slice: reading on costs no more memory than a slice.
Not here:  how vectors lie in files (files.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.sweep.files import Rows, let_go, read_slice

_TAKEN = 4096  # rows that are read at a time to take some of them
_OF_X = re.compile(r"(?:x|q|queries)\[(\d+)\] (.*)", re.DOTALL)

Floats = NDArray[np.float32]
Show = Callable[[int, int, str, str], None]  # done, total, what is done, and of what: the unit of the speed, or ""


class Located(Protocol):
    """Rows of which it is known where they are from."""

    def where(self, row: int) -> str:
        """As FILE[row]."""


class Stacked:
    """Rows of several matrices, one after another: (n, d) float32 by slices, as an index takes them."""

    dtype = np.dtype(np.float32)

    def __init__(self, parts: Sequence[tuple[str, Rows]]) -> None:
        first, rows = parts[0]
        for name, other in parts[1:]:
            if other.shape[1] != rows.shape[1]:
                raise ValueError(f"{name} has {other.shape[1]} columns but {first} has {rows.shape[1]}")
        self._parts = parts
        self._starts = np.concatenate([[0], np.cumsum([rows.shape[0] for _, rows in parts])]).astype(np.int64)
        self.shape = int(self._starts[-1]), int(rows.shape[1])
        self._show: Show | None = None
        self._passes: Iterator[str] = iter(())
        self._pass = ""

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def name(self) -> str:
        """Of the first matrix."""
        return self._parts[0][0]

    @property
    def counts(self) -> list[int]:
        """Rows of each matrix."""
        return np.diff(self._starts).tolist()

    def __getitem__(self, rows: slice) -> Floats:
        start, stop, _ = rows.indices(len(self))
        pieces = [
            self._piece(name, part, max(start, begin) - begin, min(stop, end) - begin)
            for (name, part), (begin, end) in zip(self._parts, pairwise(self._starts.tolist()), strict=True)
            if start < end and begin < stop
        ]
        if self._show:
            if start == 0 or not self._pass:
                self._pass = next(self._passes, self._pass)
            self._show(stop, len(self), self._pass, "rows")
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty((0, self.shape[1]), np.float32), *pieces])

    def check_dim(self, dim: int, index: object) -> None:
        """ValueError where vectors of an index have another dimension."""
        if self.shape[1] != dim:
            raise ValueError(f"{self.name} has {self.shape[1]} columns, but vectors of {index} have {dim}")

    def watch(self, show: Show | None, *passes: str) -> None:
        """Show how far rows are read, each time they are read from the first on, under these names; None: no more."""
        self._show, self._passes, self._pass = show, iter(passes), ""

    def take(self, numbers: NDArray[np.int64]) -> Floats:
        """The rows of these numbers, which ascend."""
        out, done = np.empty((len(numbers), self.shape[1]), np.float32), 0
        while done < len(numbers):
            start = int(numbers[done])
            inside = numbers[done : int(np.searchsorted(numbers, start + _TAKEN))]
            out[done : done + len(inside)] = self[start : int(inside[-1]) + 1][inside - start]
            done += len(inside)
        return out

    def where(self, row: int) -> str:
        """The file and the row in it, as FILE[row]."""
        part = int(np.searchsorted(self._starts, row, side="right")) - 1
        return f"{self._parts[part][0]}[{row - int(self._starts[part])}]"

    def _piece(self, name: str, rows: Rows, start: int, stop: int) -> Floats:
        piece = read_slice(rows, name, start, stop)
        try:
            return checks.vectors(piece, name, first=start).array()
        except ValueError:
            for _ in checks.vectors(rows, name).chunks():  # counts the bad rows of the whole file
                pass
            raise
        finally:
            let_go(rows)


@contextmanager
def named(rows: Located, first: int = 0) -> Iterator[None]:
    """Let what an index says of rows it was given, the first of them row `first`, be said of their file."""
    try:
        yield
    except ValueError as error:
        found = _OF_X.match(str(error))
        if found is None:
            raise
        raise ValueError(f"{rows.where(first + int(found[1]))} {found[2]}") from error
