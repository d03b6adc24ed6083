"""What lies beside vectors in a file: columns of ids, keys, texts and metadata.

    .parquet .arrow .feather      the columns of the table
    .npz .h5 .hdf5                the arrays of one dimension
    .npy                          one column, of integers or strings
    .txt                          one column, a string a line

Law:       columns are read a block of rows at a time. A value that is missing, or of another kind than is wanted, is an
           error that names the file, the column and the row; nothing is turned into something near it.
Not here:  the vectors (files.py); what the values mean to an index (cli/labels.py)."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.errors import FormatError, MissingDatasetError, MissingExtraError, first_line
from polarindex.sweep.files import DAMAGE, arrow_table, feather_table, npz_shapes, optional_module

_BLOCK = 8192  # rows
_OF_THEIR_OWN = "give ids and keys in a file of their own: .npy, .txt or .parquet"


class Columns(Protocol):
    """The columns of a file."""

    @property
    def lengths(self) -> Mapping[str, int]:
        """The rows of each column."""

    def blocks(self, name: str) -> Iterator[Any]:
        """The values of a column, some at a time: arrays of NumPy or Arrow."""


class Block(NamedTuple):
    """Some values of a column, as NumPy or Arrow has them; `where` names file and column, `start` is the first row."""

    where: str
    start: int
    values: Any

    @property
    def is_text(self) -> bool:
        """Whether they are strings."""
        if isinstance(self.values, np.ndarray):
            return self.values.dtype.kind in "UST"
        kind = self.values.type
        if optional_module("pyarrow.types").is_dictionary(kind):
            kind = kind.value_type
        return str(kind) in ("string", "large_string", "string_view")

    def integers(self) -> NDArray[np.int64]:
        """Ids (m,)."""
        values = self._complete()
        if isinstance(values, np.ndarray):
            return checks.id_array(values, self.where)
        if not optional_module("pyarrow.types").is_integer(values.type):
            raise ValueError(f"{self.where} must hold whole numbers, got {values.type}")
        return checks.id_array(values.to_numpy(zero_copy_only=False), self.where)

    def texts(self, optional: bool = False) -> list[Any]:
        """Strings; where they are optional, None for what is missing."""
        values = self.values if optional else self._complete()
        if not self.is_text:
            kind = values.dtype if isinstance(values, np.ndarray) else values.type
            raise ValueError(f"{self.where} must hold strings, got {kind}")
        if not isinstance(values, np.ndarray):
            return list(values.to_pylist())
        return [text.decode() for text in values.tolist()] if values.dtype.kind == "S" else list(values.tolist())

    def jsonable(self) -> list[Any]:
        """Values as JSON has them; dates and times become strings as ISO 8601 has them."""
        out = self.values.tolist() if isinstance(self.values, np.ndarray) else self.values.to_pylist()
        try:
            return [_jsonable(value) for value in out]
        except TypeError as error:
            raise ValueError(f"{self.where} cannot be kept as metadata, which is JSON: it has {error}") from None

    def _complete(self) -> Any:
        values = self.values
        if not isinstance(values, np.ndarray) and values.null_count:
            row = self.start + int(np.asarray(values.is_null()).argmax())
            raise ValueError(f"{self.where} has no value in row {row}; every row needs one")
        return values


class Column:
    """One column of a file."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        """Open it; without a name, the only one that there is.

        Raises MissingDatasetError, FormatError (damaged, of a kind that has no columns, or there is no such column: the
        message names those that there are) and MissingExtraError.
        """
        columns = _opened(path)
        names = list(columns.lengths)
        if name is None and len(names) == 1:
            name = names[0]
        if name is None or name not in names:
            what = "several columns: name one, as FILE::NAME," if name is None else f"no column {name!r}; it has"
            raise FormatError(f"{path} has {what} {', '.join(map(repr, names[:20])) or 'none at all'}")
        self.n, self._columns, self._name = columns.lengths[name], columns, name
        self._where = str(path) if name == path.name else f"column {name!r} of {path}"

    def blocks(self) -> Iterator[Block]:
        """The values, some at a time."""
        start = 0
        values = self._columns.blocks(self._name)
        while True:
            try:
                some = next(values, None)
            except FormatError:
                raise
            except DAMAGE as error:
                raise FormatError(f"{self._where} cannot be read from row {start} on: {first_line(error)}") from error
            if some is None:
                return
            yield Block(self._where, start, some)
            start += len(some)


def _jsonable(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _jsonable(item) for name, item in value.items()}
    raise TypeError(f"values of type {type(value).__name__}")


# --- files


def _opened(path: Path) -> Columns:
    if not path.is_file():
        raise MissingDatasetError(f"no file {path}")
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise FormatError(f"{path} has no columns beside its vectors; {_OF_THEIR_OWN}")
    try:
        return read(path)
    except (FormatError, MissingExtraError):
        raise
    except DAMAGE as error:
        raise FormatError(f"{path} is not a readable {path.suffix} file: {first_line(error)}") from error


class _Arrays:
    """Arrays of one dimension, in memory or read by slices."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = arrays
        self.lengths = {name: len(array) for name, array in arrays.items()}

    def blocks(self, name: str) -> Iterator[Any]:
        for start in range(0, self.lengths[name], _BLOCK):
            yield np.asarray(self._arrays[name][start : start + _BLOCK])


class _Table:
    """Columns of an Arrow table, mapped where the file allows it."""

    def __init__(self, table: Any) -> None:
        self._table, self.lengths = table, dict.fromkeys(table.column_names, table.num_rows)

    def blocks(self, name: str) -> Iterator[Any]:
        for batch in self._table.select([name]).to_batches(max_chunksize=_BLOCK):
            yield batch.column(0)


class _Parquet:
    """Columns of a Parquet file, whose row groups are read one after another."""

    def __init__(self, path: Path) -> None:
        self._file = optional_module("pyarrow.parquet").ParquetFile(path)
        self.lengths = dict.fromkeys(self._file.schema_arrow.names, self._file.metadata.num_rows)

    def blocks(self, name: str) -> Iterator[Any]:
        for batch in self._file.iter_batches(_BLOCK, columns=[name]):
            yield batch.column(0)


class _Lines:
    """Lines of a text file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with open(path, encoding="utf-8") as file:
            self.lengths = {path.name: sum(1 for _ in file)}

    def blocks(self, name: str) -> Iterator[Any]:
        with open(self._path, encoding="utf-8") as file:
            while lines := list(islice(file, _BLOCK)):
                yield np.array([line.rstrip("\r\n") for line in lines], dtype=np.str_)


class _Strings:
    """Strings of an HDF5 data set by slices."""

    def __init__(self, dataset: Any) -> None:
        self._strings = dataset.asstr()

    def __len__(self) -> int:
        return len(self._strings)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return np.array(self._strings[rows], dtype=np.str_)


def _hdf5(path: Path) -> Columns:
    import h5py

    file = h5py.File(path, "r")  # stays open as long as its data sets are used
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 1:
            found[name] = _Strings(item) if h5py.check_string_dtype(item.dtype) else item

    file.visititems(visit)
    return _Arrays(found)


def _npz(path: Path) -> Columns:
    flat = [name for name, (shape, _) in npz_shapes(path).items() if len(shape) == 1]
    with np.load(path, allow_pickle=False) as arrays:
        return _Arrays({name: arrays[name] for name in flat})


def _npy(path: Path) -> Columns:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 1:
        raise FormatError(f"{path} has no columns: it holds an array of shape {array.shape}; {_OF_THEIR_OWN}")
    return _Arrays({path.name: array})


_READERS: dict[str, Any] = {
    ".parquet": _Parquet,
    ".arrow": lambda path: _Table(arrow_table(path)),
    ".feather": lambda path: _Table(feather_table(path)),
    ".npz": _npz,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".npy": _npy,
    ".txt": _Lines,
}
