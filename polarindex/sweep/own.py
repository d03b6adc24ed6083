"""A data set from vectors alone: queries from another file, or rows held out, and neighbours that are computed.

Law:       the same file, seed and numbers give the same rows and queries, in the order of the file.
Why held:  a row that is in the index finds itself; queries must be vectors that it has not seen.
Memory:    with queries from a file, rows stay where open_vectors has them (mapped); to hold some out the others are
           copied, in their own type, a slice at a time.
Not here:  how vectors lie in files (files.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.errors import FormatError
from polarindex.memory import require
from polarindex.sweep.files import PART, Rows, blocks, held, open_vectors
from polarindex.sweep.groundtruth import Progress, cached_neighbors
from polarindex.sweep.hdf5 import NEIGHBORS, Dataset
from polarindex.vectors import unit_rows

_HELD_OUT = 1000  # rows, but at most one in _SHARE
_SHARE = 10


def own_dataset(
    name: str,
    *,
    metric: str,
    queries_from: str | None = None,
    rows: int | None = None,
    queries: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Dataset:
    """The vectors of a file, with queries and their exact neighbours (at most 100 each).

    name, queries_from   FILE, or FILE::PART where a file holds several matrices
    rows, queries        the first so many rows, and queries: of a file the first, else so many held out at random, at
                         most a tenth of the rows (default 1,000)

    Raises what `open_vectors` raises, FormatError where queries have another dimension, ValueError for rows that are
    not finite (or zero, for cosine), MemoryError where rows have no room.
    """
    source, asked = opened(name, queries_from)
    if asked is None:
        train, test = _split(source, rows, queries, seed, name, metric)
    else:
        train, test = held(source, name, rows), held(asked, str(queries_from), queries)
        _check(train, name, metric)
        _check(test, str(queries_from), metric)
    neighbors, distances = cached_neighbors(train, test, min(NEIGHBORS, len(train)), metric, progress=progress)
    path, _, part = name.partition(PART)
    return Dataset(Path(path).stem + (PART + part) * bool(part), metric, train, test, neighbors, distances, source=path)


def opened(name: str, queries_from: str | None = None) -> tuple[Rows, Rows | None]:
    """The files of such a data set, seen to fit each other; their values are not read."""
    source = _open(name)
    asked = None if queries_from is None else _open(queries_from)
    if asked is not None and asked.shape[1] != source.shape[1]:
        raise FormatError(f"{queries_from} has {asked.shape[1]} columns but {name} has {source.shape[1]}")
    return source, asked


def _open(name: str) -> Rows:
    path, _, part = name.partition(PART)
    return open_vectors(path, part or None)


def _split(
    source: Rows, rows: int | None, queries: int | None, seed: int, name: str, metric: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The first rows but some that are held out at random, and those; each was checked where it stands in the file."""
    count = min(queries or _HELD_OUT, max(1, source.shape[0] // _SHARE))
    n = source.shape[0] if rows is None else min(source.shape[0], rows + count)
    if n <= count:
        raise ValueError(f"{name} has {n} row, too few to hold out a query; give a file of queries")
    chosen = np.zeros(n, bool)
    chosen[np.random.default_rng(seed).permutation(n)[:count]] = True
    dim, dtype = source.shape[1], source.dtype
    require(n * dim * dtype.itemsize, f"{name}: {n:,} x {dim} of {dtype}, copied to hold out queries,")
    parts = {True: np.empty((count, dim), dtype), False: np.empty((n - count, dim), dtype)}
    filled = {True: 0, False: 0}
    for start, block in blocks(source, name, n):
        _check(block, name, metric, start)
        for kind, out in parts.items():
            some = block[chosen[start : start + len(block)] == kind]
            out[filled[kind] : filled[kind] + len(some)] = some
            filled[kind] += len(some)
    return parts[False], parts[True]


def _check(x: NDArray[Any], name: str, metric: str, first: int = 0) -> None:
    """Read rows once, so that a bad one is named before anything is measured; `first` is the number of the first."""
    for start, rows in checks.vectors(x, name, first=first).chunks():
        if metric == "cosine":
            unit_rows(rows, name, first + start)
