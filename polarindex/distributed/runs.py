"""Runs: the coded rows of a range of a source, sorted by shard and then by list, on disk until shards are written.

    runs/00000012/starts.npy       (num_shards + 1,) where each shard's rows begin
    runs/00000012/ids.npy ...      the columns of `Index._coded_parts`, and the ids

Law:       a run that is there is whole: it is written under another name, synced, and renamed. To code a range again
           gives the same run.
Not here:  what is made of them (indexes/streamed.py)."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex.indexes import durable

_RUN = re.compile("[0-9]{8}")
_STARTS = "starts"


def written(folder: Path) -> set[int]:
    """The numbers of the runs that are there."""
    return {int(entry.name) for entry in folder.iterdir() if _RUN.fullmatch(entry.name)}


def sweep(folder: Path) -> None:
    """Remove what processes that were killed have left of runs. The one builder may.

    One that outlived its build may still write: what it writes goes at once and whole, so it becomes no run in part.
    """
    for entry in list(folder.iterdir()):
        if _RUN.fullmatch(entry.name):
            continue
        gone = folder / f".gone-{uuid.uuid4().hex}"
        try:
            os.rename(entry, gone)
        except OSError:  # it has become a run
            continue
        shutil.rmtree(gone, ignore_errors=True)


def write(
    folder: Path, number: int, shards: NDArray[np.int32], num_shards: int, columns: Mapping[str, NDArray[Any]]
) -> None:
    """Write rows, of which these are the shards (m,), as the run of this number."""
    order = np.lexsort((columns["lists"], shards)) if "lists" in columns else np.argsort(shards, kind="stable")
    starts = np.searchsorted(shards[order], np.arange(num_shards + 1))
    draft = folder / f".{number:08}-{uuid.uuid4().hex[:8]}"
    try:
        draft.mkdir()
        for name, column in columns.items():
            _write_array(draft / f"{name}.npy", column[order])
        _write_array(draft / f"{_STARTS}.npy", starts)
        durable.sync_directory(draft)
        try:
            os.rename(draft, folder / f"{number:08}")
        except OSError:
            if number not in written(folder):
                raise  # else a process that outlived a killed build has written the same
        durable.sync_directory(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_array(path: Path, array: NDArray[Any]) -> None:
    with durable.naming(path), open(path, "xb") as out:
        np.lib.format.write_array(out, array, version=(1, 0), allow_pickle=False)
        durable.sync(out)


class Run:
    """The rows of one shard in a run: see streamed.Run. Nothing is mapped, as mapped pages count as memory."""

    def __init__(self, folder: Path, number: int, shard: int) -> None:
        self._folder = folder / f"{number:08}"
        self._kinds: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}
        self._first = 0
        self._first, end = self._read(_STARTS, shard, 2).tolist()
        self.n = end - self._first

    def __call__(self, name: str, start: int, stop: int) -> NDArray[Any]:
        return self._read(name, self._first + start, stop - start)

    def _read(self, name: str, first: int, count: int) -> NDArray[Any]:
        path = self._folder / f"{name}.npy"
        with durable.naming(path), open(path, "rb") as file:
            if name not in self._kinds:
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                self._kinds[name] = file.tell(), dtype, shape[1:]
            begin, dtype, row = self._kinds[name]
            out = np.empty((count, *row), dtype)
            file.seek(begin + first * (out[:1].nbytes if count else 0))
            if count and file.readinto(out.reshape(-1).view(np.uint8).data) != out.nbytes:
                raise OSError(f"{path} is shorter than it was written")
        return out
