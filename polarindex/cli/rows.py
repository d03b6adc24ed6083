"""The vectors that a command is given: files, parts of files, and stdin, as one matrix that is read by slices.

Law:       rows are read as float32 and checked where they lie, so an error names the file and its row. What an index
           finds wrong with them is said of the file as well (`named`).
Stdin:     .npy, or for queries also JSON; kept in a temporary file, as rows are read more than once.
Not here:  how vectors lie in files (sweep/files.py); columns beside them (sweep/columns.py)."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.cli.screen import Show
from polarindex.errors import FormatError
from polarindex.indexes.flat import CENTRE_ROWS, FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.sweep.files import PART, Rows, open_vectors, read_slice

STDIN = "-"
_TAKEN = 4096  # rows that are read at a time to take some of them
_MAGIC = b"\x93NUMPY"
_OF_X = re.compile(r"(?:x|q|queries)\[(\d+)\] (.*)", re.DOTALL)

Floats = NDArray[np.float32]


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
            if start == 0:
                self._pass = next(self._passes, self._pass)
            self._show(stop, len(self), self._pass, "rows")
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty((0, self.shape[1]), np.float32), *pieces])

    def check_dim(self, dim: int, index: Path) -> None:
        """ValueError where vectors of an index have another dimension."""
        if self.shape[1] != dim:
            raise ValueError(f"{self.name} has {self.shape[1]} columns, but vectors of {index} have {dim}")

    def watch(self, show: Show, *passes: str) -> None:
        """Show how far rows are read, each time they are read from the first on, under these names."""
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


def passes(index: FlatIndex | IVFIndex, count: int) -> tuple[str, ...]:
    """What an index does in each pass over so many rows that it is given."""
    if index.kind == "ivf":
        return "finding lists", "coding"
    learned = index.info()["center_frozen"] or len(index) + count < CENTRE_ROWS
    return ("coding",) if learned else ("learning the centre", "coding")


@contextmanager
def named(rows: Stacked, first: int = 0) -> Iterator[None]:
    """Let what an index says of rows it was given, the first of them row `first`, be said of their file."""
    try:
        yield
    except ValueError as error:
        found = _OF_X.match(str(error))
        if found is None:
            raise
        raise ValueError(f"{rows.where(first + int(found[1]))} {found[2]}") from error


@contextmanager
def opened(names: Sequence[str], json_too: bool = False) -> Iterator[Stacked]:
    """The rows of files, FILE::PART where one holds several matrices, and of stdin, "-".

    json_too   whether stdin may hold JSON: a list of numbers, or lists of numbers, or one of these a line.
    """
    with tempfile.TemporaryDirectory(prefix="polarindex-", ignore_cleanup_errors=True) as folder:
        parts = [_opened(name, Path(folder), json_too) for name in names]
        yield Stacked(parts)


def path_of(name: str) -> Path:
    """The file of FILE::PART."""
    return Path(name.partition(PART)[0]).expanduser()


def _opened(name: str, folder: Path, json_too: bool) -> tuple[str, Rows]:
    if name == STDIN:
        return "stdin", _of_stdin(folder, json_too)
    path, _, part = name.partition(PART)
    if Path(path).expanduser().is_dir():
        raise FormatError(f"{path} is a directory; give a file of vectors")
    return path, open_vectors(path, part or None)


def _of_stdin(folder: Path, json_too: bool) -> Rows:
    source = sys.stdin.buffer
    start = source.read(len(_MAGIC))
    if not start:
        raise FormatError(f"stdin is empty; it should hold a .npy file{' or lists of numbers' * json_too}")
    if start != _MAGIC:
        if json_too:
            return _of_json(start + source.read())
        raise FormatError("stdin must hold a .npy file, as numpy.save writes; got something else")
    path = folder / "stdin.npy"
    with open(path, "wb") as kept:
        kept.write(start)
        shutil.copyfileobj(source, kept)
    try:
        return open_vectors(path)
    except FormatError as error:
        raise FormatError(str(error).replace(str(path), "stdin")) from error


def _of_json(text: bytes) -> Rows:
    """A list of numbers, or of such lists, or one of these a line."""
    try:
        values = [json.loads(text)]
    except ValueError:
        values = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                values += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                raise FormatError(f"stdin, line {number}: wanted a list of numbers in JSON ({error})") from None
    rows: list[Any] = []
    for number, value in enumerate(values, 1):
        if not isinstance(value, list) or not value:
            raise FormatError(f"stdin, line {number}: wanted a list of numbers, got {json.dumps(value):.60}")
        rows += value if isinstance(value[0], list) else [value]
    if not rows:
        raise FormatError("stdin holds no query")
    return checks.vectors(rows, "stdin").array()
