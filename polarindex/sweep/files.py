"""Vectors in files: NumPy, HDF5, Parquet, Arrow, safetensors and the raw formats of benchmarks.

    .npy .fbin .u8bin .i8bin                  mapped: only what is read is loaded
    .fvecs .bvecs                             mapped, after the length of every row was read
    .h5 .hdf5 .parquet .safetensors           read by slices
    .arrow .feather                           mapped, where they are not compressed
    .npz                                      read whole

Law:       rows[a:b] of what is opened are the rows a to b in the file's own type, and nothing in a file is executed.
Not here:  data sets with queries and neighbours (hdf5.py, dataset.py); values that are not finite (checks.py)."""

from __future__ import annotations

import mmap
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from polarindex.errors import FormatError, MissingDatasetError, MissingExtraError, first_line
from polarindex.memory import require

PART = "::"  # between a file's name and that of a matrix in it
_BLOCK = 1 << 24  # bytes
_KEPT = 1 << 26  # bytes of Parquet row groups that are kept, decoded, for the next slice


class Rows(Protocol):
    """What reads as a matrix by slices of rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


def open_vectors(path: str | os.PathLike[str], part: str | None = None) -> Rows:
    """The matrix (n, d) of real numbers in a file; the name's end says how it is written.

    Parameters
    ----------
    path : str or path
    part : str, optional
        Which one, where a file holds several: a key of .npz and .safetensors, a data set of HDF5, a column of Parquet
        and Arrow. A table without a column of lists is a matrix of its columns of floats.

    Raises
    ------
    MissingDatasetError
        There is no such file.
    FormatError
        It is damaged, of another kind, or `part` is not clear: the message names those that there are.
    MissingExtraError
        What reads it is not installed.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise MissingDatasetError(f"no file {path}")
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise FormatError(f"{path}: vectors are read from {', '.join(_READERS)}; got {path.suffix or 'no ending'!r}")
    try:
        rows = read(path, part)
    except (FormatError, MissingExtraError, MemoryError):
        raise
    except DAMAGE as error:
        raise FormatError(f"{path} is not a readable {path.suffix} file: {first_line(error)}") from error
    if len(rows.shape) != 2 or 0 in rows.shape or not _real(rows.dtype):
        raise FormatError(f"{path}: wanted a matrix (n, d) of real numbers that is not empty, {_found(rows)}")
    return rows


def held(rows: Rows, name: str, limit: int | None = None) -> NDArray[Any]:
    """The first rows, or all: a map of the file where they are one, else read into memory, if it has room."""
    if isinstance(rows, np.ndarray):
        return rows[:limit]
    n, d = min(rows.shape[0], limit or rows.shape[0]), rows.shape[1]
    require(n * d * rows.dtype.itemsize, f"{name}, {n:,} x {d} of {rows.dtype},")
    out = np.empty((n, d), rows.dtype)
    for start, part in blocks(rows, name, n):
        out[start : start + len(part)] = part
    return out


def blocks(rows: Rows, name: str, n: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """(start, part) of the first n rows, some megabytes at a time; FormatError names the file that is damaged."""
    step = max(1, _BLOCK // (rows.shape[1] * rows.dtype.itemsize))
    for start in range(0, n, step):
        yield start, read_slice(rows, name, start, min(n, start + step))


def read_slice(rows: Rows, name: str, start: int, stop: int) -> NDArray[Any]:
    """Rows start to stop as an array; FormatError names the file that is damaged."""
    try:
        return np.asarray(rows[start:stop])
    except FormatError:
        raise
    except DAMAGE as error:
        raise FormatError(f"{name} cannot be read from row {start} on: {first_line(error)}") from error


def let_go(rows: Rows) -> None:
    """Take what a mapped file has brought into this process's memory out of it again; nothing where none is mapped.

    Without it a file that is read once from end to end stays in memory as long as there is room.
    """
    base: Any = rows
    while isinstance(base, np.ndarray) and not isinstance(base.base, mmap.mmap):
        base = base.base
    # pages that somebody may write to are left alone: what was written to them would go
    if isinstance(base, np.memmap) and base.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
        base.base.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr]


def formats() -> tuple[str, ...]:
    """The endings of names that `open_vectors` reads."""
    return tuple(_READERS)


# --- NumPy


def _npy(path: Path, part: str | None) -> NDArray[Any]:
    _only_one(path, part)
    array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    return array


def _npz(path: Path, part: str | None) -> NDArray[Any]:
    shapes = npz_shapes(path)
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        shape, dtype = shapes[name := _choice(path, part, shapes)]
        require(int(np.prod(shape)) * dtype.itemsize, f"{path}: {name}, {' x '.join(map(str, shape))} of {dtype}")
        array: NDArray[Any] = arrays[name]
        return array


def npz_shapes(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of each array of an archive, without reading them."""
    shapes = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                shapes[name.removesuffix(".npy")] = _npy_header(file)
    return shapes


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


# --- raw files of the benchmarks


def _vecs(dtype: type) -> Callable[[Path, str | None], NDArray[Any]]:
    """TEXMEX's .fvecs and .bvecs: each row is its length, an int32, and its values."""
    width = np.dtype(dtype).itemsize

    def read(path: Path, part: str | None) -> NDArray[Any]:
        _only_one(path, part)
        size = path.stat().st_size
        dim = int(np.fromfile(path, "<i4", 1)[0]) if size >= 4 else 0
        if dim < 1 or size % (4 + dim * width):
            raise FormatError(f"{path}: {size} bytes are not rows of {dim} values, as its first four bytes say")
        whole = np.memmap(path, np.uint8, "r").reshape(-1, 4 + dim * width)
        for start in range(0, len(whole), step := max(1, _BLOCK // whole.shape[1])):
            lengths = whole[start : start + step, :4].copy().view("<i4")[:, 0]
            if (lengths != dim).any():
                row = int((lengths != dim).argmax())
                raise FormatError(f"{path}: row {start + row} has {lengths[row]} values, the first one has {dim}")
            let_go(whole)
        rows: NDArray[Any] = whole[:, 4:].view(np.dtype(dtype).newbyteorder("<"))
        return rows

    return read


def _bin(dtype: type) -> Callable[[Path, str | None], NDArray[Any]]:
    """.fbin, .u8bin and .i8bin of big-ann-benchmarks: n and d, each a uint32, and the values."""

    def read(path: Path, part: str | None) -> NDArray[Any]:
        _only_one(path, part)
        size = path.stat().st_size
        n, dim = map(int, np.fromfile(path, "<u4", 2)) if size >= 8 else (0, 0)
        wanted = 8 + n * dim * np.dtype(dtype).itemsize
        if size != wanted:
            raise FormatError(f"{path}: {n} x {dim} values, as its first bytes say, are {wanted} bytes; got {size}")
        if not n * dim:
            raise FormatError(f"{path} holds {n} x {dim} values")
        return np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r", offset=8, shape=(n, dim))

    return read


# --- HDF5


def _hdf5(path: Path, part: str | None) -> Rows:
    file = h5py.File(path, "r")  # stays open as long as its data set is used
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item.shape, item.dtype

    file.visititems(visit)
    rows: Rows = file[_choice(path, part, found)]
    return rows


# --- safetensors


class _TensorSlices:
    """A tensor of a safetensors file, read by slices."""

    def __init__(self, path: Path, part: str | None) -> None:
        library = optional_module("safetensors")
        try:
            self._file = library.safe_open(str(path), "numpy")
        except library.SafetensorError as error:
            raise FormatError(f"{path} is not a readable .safetensors file: {first_line(error)}") from error
        found: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
        for name in self._file.keys():  # noqa: SIM118  (not a dict)
            tensor = self._file.get_slice(name)
            kind = tensor.get_dtype()
            found[name] = tuple(tensor.get_shape()), _SAFE_TYPES.get(kind, np.dtype([(kind, "V1")]))
        name = _choice(path, part, found)
        self.shape, self.dtype = found[name]
        self._tensor = self._file.get_slice(name)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        part: NDArray[Any] = self._tensor[start:stop]
        return part


_SAFE_TYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32), "I16": np.dtype(np.int16), "I8": np.dtype(np.int8), "U8": np.dtype(np.uint8),
}  # fmt: skip


# --- Arrow and Parquet


class _TableSlices:
    """Lists of one length in a column of an Arrow table, or its columns of floats side by side."""

    def __init__(self, table: Any, columns: list[str], path: Path) -> None:
        self._table, self._columns = table, columns
        first = _as_matrix(table.slice(0, 1), columns, path)
        self.shape, self.dtype, self._path = (table.num_rows, first.shape[1]), first.dtype, path

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        return _as_matrix(self._table.slice(start, stop - start), self._columns, self._path, self.shape[1], start)


class _ParquetSlices:
    """The same of a Parquet file, whose row groups are decoded when a slice meets them."""

    def __init__(self, path: Path, part: str | None) -> None:
        self._file = optional_module("pyarrow.parquet").ParquetFile(path)
        self._columns, self._path = _columns(self._file.schema_arrow, part, path), path
        groups = range(self._file.num_row_groups)
        sizes = [self._file.metadata.row_group(group).num_rows for group in groups]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._decoded: dict[int, NDArray[Any]] = {}
        if not sum(sizes):
            raise FormatError(f"{path} has no rows")
        first = self._group(next(group for group in groups if sizes[group]), None)
        self.shape, self.dtype = (int(self._starts[-1]), first.shape[1]), first.dtype

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        out = np.empty((max(0, stop - start), self.shape[1]), self.dtype)
        while start < stop:
            group = int(np.searchsorted(self._starts, start, side="right")) - 1
            begin, end = int(self._starts[group]), min(stop, int(self._starts[group + 1]))
            some = self._group(group, self.shape[1])[start - begin : end - begin]
            filled = len(out) - (stop - start)
            out[filled : filled + len(some)] = some
            start = end
        return out

    def _group(self, group: int, dim: int | None) -> NDArray[Any]:
        if group not in self._decoded:
            while self._decoded and sum(part.nbytes for part in self._decoded.values()) > _KEPT:
                self._decoded.pop(next(iter(self._decoded)))
            table = self._file.read_row_group(group, columns=self._columns)
            self._decoded[group] = _as_matrix(table, self._columns, self._path, dim, int(self._starts[group]))
        return self._decoded[group]


def arrow_table(path: Path) -> Any:
    """The table of an Arrow file, mapped, or of a stream of batches, which is written with the same ending."""
    ipc, source = optional_module("pyarrow.ipc"), optional_module("pyarrow").memory_map(str(path))
    try:
        return ipc.open_file(source).read_all()
    except ValueError:
        source.seek(0)
        return ipc.open_stream(source).read_all()


def feather_table(path: Path) -> Any:
    """The table of a Feather file, mapped where it is not compressed."""
    return optional_module("pyarrow.feather").read_table(path, memory_map=True)


def _of_table(read: Callable[[Path], Any]) -> Callable[[Path, str | None], Rows]:
    def rows(path: Path, part: str | None) -> Rows:
        table = read(path)
        return _TableSlices(table, _columns(table.schema, part, path), path)

    return rows


def _columns(schema: Any, part: str | None, path: Path) -> list[str]:
    """The column that holds the vectors, or all columns of floats where there is none of lists."""
    types = optional_module("pyarrow.types")
    lists = {  # whose shape is not known before they are read: any two numbers say that it is a matrix
        field.name: ((0, 0), np.dtype(field.type.value_type.to_pandas_dtype()))
        for field in schema
        if types.is_list(field.type) or types.is_large_list(field.type) or types.is_fixed_size_list(field.type)
    }
    floats = [field.name for field in schema if types.is_floating(field.type)]
    if part is None and not lists and floats:
        return floats
    return [_choice(path, part, lists)]


def _as_matrix(table: Any, columns: list[str], path: Path, dim: int | None = None, start: int = 0) -> NDArray[Any]:
    """Rows of an Arrow table as an array (m, d); `start` is the number of the first, for messages."""
    parts = [table.column(name) for name in columns]
    for name, part in zip(columns, parts, strict=True):
        if part.null_count:
            row = start + int(np.asarray(part.is_null()).argmax())
            raise FormatError(f"{path}: row {row} of column {name!r} is null (first of {part.null_count})")
    if not hasattr(parts[0].type, "value_type"):
        return np.stack([part.to_numpy() for part in parts], axis=1)
    lengths = np.asarray(optional_module("pyarrow.compute").list_value_length(parts[0]))
    wanted = dim or (int(lengths[0]) if len(lengths) else 0)
    if (lengths != wanted).any():
        row = int((lengths != wanted).argmax())
        raise FormatError(f"{path}: row {start + row} of column {columns[0]!r} has {lengths[row]} values, not {wanted}")
    values = optional_module("pyarrow.compute").list_flatten(parts[0])
    if values.null_count:
        raise FormatError(f"{path}: column {columns[0]!r} has values that are null, from row {start} on")
    array: NDArray[Any] = values.to_numpy().reshape(len(lengths), wanted)
    return array


# --- what all have in common


def _choice(path: Path, part: str | None, found: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]) -> str:
    """Which of the named arrays (shape and type) is meant: `part`, else the only matrix of real numbers."""
    matrices = [name for name, (shape, dtype) in found.items() if len(shape) == 2 and _real(dtype)]
    if part is not None:
        if part not in found:
            raise FormatError(f"{path} has no part {part!r}; it has {', '.join(map(repr, matrices)) or 'no matrix'}")
        return part
    if len(matrices) != 1:
        names = ", ".join(map(repr, matrices))
        others = ", ".join(f"{name!r} {shape} of {dtype}" for name, (shape, dtype) in list(found.items())[:9])
        what = f"{len(matrices)} matrices, {names}: name one, as {path.name}{PART}{matrices[0]}" if matrices else (
            f"no matrix of numbers that NumPy knows{': ' * bool(others)}{others}"
        )
        raise FormatError(f"{path} holds {what}")
    return matrices[0]


def _only_one(path: Path, part: str | None) -> None:
    if part is not None:
        raise FormatError(f"{path} holds one matrix, without a name; got part {part!r}")


def _real(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "fiu"


def _found(rows: Rows) -> str:
    return f"got {rows.shape} of {rows.dtype}"


def optional_module(name: str) -> Any:
    """A module of the extra `files`; MissingExtraError says how to get it."""
    try:
        return import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise MissingExtraError(f"{package} is not installed; get it with: pip install 'polarindex[files]'") from error


# what NumPy, h5py, pyarrow (whose errors are ValueError, OSError and KeyError) and safetensors raise for damage
DAMAGE = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)

_READERS: dict[str, Callable[[Path, str | None], Rows]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".parquet": _ParquetSlices,
    ".arrow": _of_table(arrow_table),
    ".feather": _of_table(feather_table),
    ".fvecs": _vecs(np.float32),
    ".bvecs": _vecs(np.uint8),
    ".fbin": _bin(np.float32),
    ".u8bin": _bin(np.uint8),
    ".i8bin": _bin(np.int8),
    ".safetensors": _TensorSlices,
}
