"""Between an index and its files: what an index says of itself, and how it asks for it again.

Law:       what `Index._saved` gives `Index._restore` can take: the state, and arrays by name, shape and type.
Not here:  files and their damage (reading.py, log.py); what the arrays mean (each index)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from polarindex.codes import PANEL
from polarindex.indexes.arena import Arena
from polarindex.kernels.limits import LONGEST
from polarindex.vectors import squared_norms


class SavedArray(NamedTuple):
    """An array in parts, in order: an index's rows are in blocks, and need not be put together to be written."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    parts: Iterable[NDArray[Any]]


class Saved(NamedTuple):
    """What an index is beside its constructor's arguments.

    rows : vectors in it
    state : what JSON can hold
    arrays : by name
    """

    rows: int
    state: dict[str, Any]
    arrays: dict[str, SavedArray]


class Read(Protocol):
    """Saved arrays again.

    mapped : whether they are mapped copy-on-write, so that reading all of one is worth avoiding
    """

    @property
    def mapped(self) -> bool: ...

    def __call__(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, in_memory: bool = False) -> NDArray[Any]:
        """The array of this name; FormatError where there is none, or one of another shape or type."""


def whole(array: NDArray[Any]) -> SavedArray:
    """An array in one part."""
    return SavedArray(array.shape, array.dtype, [array])


def saved_columns(arena: Arena) -> dict[str, SavedArray]:
    """An arena's columns."""
    return {
        name: SavedArray(column.shape_of(arena.n), column.dtype, _parts(arena, name))
        for name, column in arena.columns.items()
    }


def read_columns(arena: Arena, n: int, read: Read) -> dict[str, NDArray[Any]]:
    """The columns of n rows, as `arena.adopt` takes them."""
    return {name: read(name, column.shape_of(n), column.dtype) for name, column in arena.columns.items()}


def check_ids(ids: NDArray[np.int64], file: str, next_id: int) -> None:
    """ValueError where a file holds an id that has not been given out."""
    if len(ids) and not 0 <= ids.min() <= ids.max() < next_id:
        raise ValueError(f"{file} holds ids {ids.min()} to {ids.max()}, wanted from 0 to below next_id={next_id}")


def check_ascending(numbers: NDArray[np.int64], name: str, end: int) -> NDArray[np.int64]:
    """The numbers (m,), if they ascend, each once, from 0 to below `end`; else ValueError."""
    if len(numbers) and not (0 <= numbers[0] and numbers[-1] < end and (numbers[1:] > numbers[:-1]).all()):
        raise ValueError(f"{name} must ascend from 0 or more to below {end}")
    return numbers


def check_points(points: NDArray[np.float32], file: str) -> None:
    """ValueError where a file holds a row, of (n, dim), that is not finite, or too long for float32 distances."""
    if not (squared_norms(points) < LONGEST**2).all():  # nor of NaN
        raise ValueError(f"{file} holds a row that is not finite, or not shorter than {LONGEST:.3g}")


def _parts(arena: Arena, name: str) -> Iterator[NDArray[Any]]:
    for span in arena.spans(arena.block_rows):
        array = span.arrays[name]
        beyond = span.rows % PANEL
        if arena.columns[name].lined and beyond:
            array = array.copy()
            array[-1, :, beyond:] = 0  # lanes of removed rows
        yield array
