"""What a build reads: files of vectors, a matrix, or chunks as they come.

    files       a path, FILE::PART, a folder of files, or a list of these: any process opens them, nothing is copied
    a matrix    whatever an index takes: an array or a map of a file, an h5py data set, a tensor
    chunks      an iterator of matrices, or a Ray Dataset (known by `iter_batches`): read once

Law:       a build reads rows more than once, and a resumed one reads on. So chunks are written down first, to a file of
           float32 in the build's folder, and so is a matrix that other processes have to read. A build that was begun
           with chunks does not ask for them again.
Change:    `fingerprint` tells a source that has become another one: of files name, length and time of change, of a
           matrix some of its rows.
Not here:  how vectors lie in files (sweep/files.py)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from polarindex import checks
from polarindex.errors import FormatError, MissingDatasetError
from polarindex.indexes import durable
from polarindex.indexes.reading import header
from polarindex.sweep.files import PART, formats, open_vectors
from polarindex.sweep.stacked import Show, Stacked

SPOOL, IDS = "rows.npy", "ids.npy"  # in the folder of a build: rows that were written down, ids that are given
_SAMPLED = 256  # rows of a matrix by which it is known again
_ROWS = 4096  # that are written down at a time
_MOST_ROWS = 2**62


class Given(NamedTuple):
    """A source, looked at and not yet read; one of the first three is there.

    files : absolute names, FILE::PART where they are such
    chunks : matrices, each with the ids of its rows or None
    own_ids : whether chunks have ids
    """

    files: tuple[str, ...] | None = None
    matrix: checks.VectorSource | None = None
    chunks: Iterable[tuple[Any, Any]] | None = None
    own_ids: bool = False


def given(source: Any, column: str | None = None, ids: str | None = None) -> Given:
    """What a caller has passed; column and ids are names of a Ray Dataset's columns.

    Raises
    ------
    TypeError
        It is none of what a build reads.
    FormatError, MissingDatasetError
        A folder has no file of vectors in it, or there is no such file.
    """
    if isinstance(source, (str, os.PathLike)):
        return Given(files=tuple(_files(source)))
    named = isinstance(source, (list, tuple)) and source and all(isinstance(one, (str, os.PathLike)) for one in source)
    if named:
        return Given(files=tuple(file for one in source for file in _files(one)))
    if hasattr(source, "iter_batches"):
        return Given(chunks=_batches(source, column, ids), own_ids=ids is not None)
    for name, value in (("column", column), ("ids", ids)):
        if value is not None:
            kind = type(source).__name__
            raise TypeError(f"{name}={value!r} names a column of a Ray Dataset, and source is a {kind}")
    if isinstance(source, Iterator):
        return Given(chunks=((chunk, None) for chunk in source))
    return Given(matrix=checks.vectors(source, "source"))


def opened_files(names: Iterable[str]) -> Stacked:
    """The rows of files, one after another."""
    parts = []
    for name in names:
        path, _, part = name.partition(PART)
        parts.append((name, open_vectors(path, part or None)))
    return Stacked(parts)


def opened(source: Given, folder: Path, begun: bool, show: Show) -> tuple[Stacked, tuple[str, ...] | None]:
    """The rows of a source, and the files by which another process opens them; None for a matrix of this process.

    Chunks are written down in the folder of a build; if that was begun, by the same call, they are there.
    """
    if source.files is not None:
        return opened_files(source.files), source.files
    if source.matrix is not None:
        return Stacked([(source.matrix.name, source.matrix.rows)]), None
    if not begun:
        (folder / SPOOL).unlink(missing_ok=True)  # of a call that was killed before it knew what it was to do
    return written_down(source, folder, show)


def written_down(source: Given, folder: Path, show: Show) -> tuple[Stacked, tuple[str, ...]]:
    """The rows of a matrix or of chunks in a file, made if it is not there, and its name."""
    spool = folder / SPOOL
    if not spool.exists():
        draft, ids = folder / f"{SPOOL}.part", list[np.ndarray]()  # the build's lock is held: nobody else writes it
        _write_down(draft, _checked(source, ids), source.matrix.n if source.matrix else 0, show)
        if source.own_ids:
            write_ids(folder / IDS, np.concatenate(ids))
        os.replace(draft, spool)
        durable.sync_directory(folder)
    return opened_files([str(spool)]), (str(spool),)


def fingerprint(source: Given, rows: Stacked) -> dict[str, Any]:
    """What a build notes of its source, to know it again."""
    found: dict[str, Any] = {"rows": len(rows), "dim": rows.shape[1]}
    if source.files is not None:
        states = [os.stat(name.partition(PART)[0]) for name in source.files]
        found["files"] = [
            [name, state.st_size, state.st_mtime_ns] for name, state in zip(source.files, states, strict=True)
        ]
    elif source.matrix is not None:
        matrix = Stacked([(source.matrix.name, source.matrix.rows)])
        some = matrix.take(np.unique(np.linspace(0, len(matrix) - 1, _SAMPLED).astype(np.int64)))
        found["some_rows"] = xxhash.xxh3_64_hexdigest(some.data)
    return found


def _files(name: str | os.PathLike[str]) -> Iterator[str]:
    path, sign, part = os.fspath(name).partition(PART)
    place = Path(path).expanduser().absolute()
    if not place.is_dir():
        if not place.is_file():
            raise MissingDatasetError(f"no file {path}")
        yield f"{place}{sign}{part}"
        return
    inside = sorted(file for file in place.iterdir() if file.suffix.lower() in formats() and file.is_file())
    if not inside:
        raise FormatError(f"{path} has no file of vectors in it: none that ends in {', '.join(formats())}")
    yield from (f"{file}{sign}{part}" for file in inside)


def _batches(dataset: Any, column: str | None, ids: str | None) -> Iterator[tuple[Any, Any]]:
    """The matrices of a Ray Dataset's batches, which are columns by name, and ids where their column is named."""
    for batch in dataset.iter_batches(batch_size=_ROWS, batch_format="numpy"):
        names = [name for name, values in batch.items() if _is_matrix(values)]
        if column is None and len(names) != 1:
            raise ValueError(f"the data set has {len(names)} columns of vectors, {names}: name one with column=")
        for name in (column, ids):
            if name is not None and name not in batch:
                raise ValueError(f"the data set has no column {name!r}; it has {', '.join(map(repr, batch))}")
        yield batch[column or names[0]], None if ids is None else batch[ids]


def _is_matrix(values: Any) -> bool:
    array = np.asarray(values)
    return array.ndim == 2 or (array.dtype == object and len(array) > 0 and np.ndim(array[0]) == 1)


def _checked(source: Given, ids: list[np.ndarray]) -> Iterator[np.ndarray]:
    """The rows of a matrix or of chunks, float32, some at a time; ids of chunks are appended to `ids`."""
    if source.matrix is not None:
        yield from (x for _, x in source.matrix.chunks(_ROWS))
        return
    dim = None
    for number, (chunk, names) in enumerate(source.chunks or ()):
        part = checks.vectors(chunk, f"source, chunk {number},", dim)
        dim = part.dim
        if names is not None:
            ids.append(checks.id_array(names, f"ids, chunk {number},", part.n))
        yield from (x for _, x in part.chunks(_ROWS))


def write_ids(path: Path, ids: np.ndarray) -> None:
    """Write ids to a .npy file, durably."""
    with durable.naming(path), open(path, "wb") as out:
        np.save(out, ids)
        durable.sync(out)


def _write_down(path: Path, parts: Iterator[np.ndarray], total: int, show: Show) -> None:
    """Write rows to a .npy file, durably."""
    n = dim = 0
    with durable.naming(path), open(path, "wb") as out:
        for x in parts:
            if not n:
                dim = x.shape[1]
                start = out.write(header((_MOST_ROWS, dim), x.dtype))
            out.write(np.ascontiguousarray(x).data)
            n += len(x)
            show(n, max(n, total), "writing down", "rows")
        if not n:
            raise ValueError("source holds no rows")
        beginning = header((n, dim), np.dtype(np.float32))
        out.seek(0)
        out.write(beginning[:-1].ljust(start - 1) + b"\n")
        durable.sync(out)
