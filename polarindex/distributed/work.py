"""What a process does for a build: codes ranges of rows into runs, and writes runs' rows as shards.

    rows of a range -> frame: lists, codes -> run            one read of the source, each row coded once
    runs of all ranges -> indexes/streamed.py -> a shard     one pass over codes, without the vectors

Law:       a step depends on the plan, the frame and the source alone: any process may take it, in any order, twice.
           What it writes appears whole.
Memory:    `Job.memory` is what a process may have resident, interpreter and compiled kernels included.
Not here:  who takes which step (engines.py); the plan (plan.py) and the frame (frame.py)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.distributed import layout, plan, runs
from polarindex.distributed.routing import shards_of
from polarindex.distributed.source import IDS, opened_files
from polarindex.indexes import durable, manifest, segment, storage
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.lock import turn_at
from polarindex.indexes.originals import original_columns
from polarindex.indexes.streamed import saved_rows
from polarindex.indexes.threads import available_cores, limited
from polarindex.sweep.stacked import Stacked, named

RUNS = "runs"  # in the folder of a build

# Resident bytes. An interpreter that has learned lists and coded rows, with the kernels that this takes, has 180 to 200
# MB beside them (Python 3.11, Numba .68); a thread that codes, 11 times its chunk of 2 MB at most.
_INTERPRETER = 224 << 20
_THREAD = 24 << 20
_CENTROIDS = 8  # times the centroids: as given, relative, rotated, in tiles
_LEAST = 32 << 20  # for rows
_FACTORS = 3  # words of a row beside code and scales, at most: a shift, and scale and shift of the first planes
_INDEXING = 64  # bytes a row of a range for its id, its shard and its place among others
RANGE_ROWS = 1 << 18  # at most: a range takes some seconds, which is what a kill can cost


@dataclass(frozen=True)
class Job:
    """What every process of a build is told.

    folder : of the index
    files : of the source, as any process opens them; None where the rows are in this process's memory alone
    memory : bytes
    threads : of each process
    """

    folder: Path
    files: tuple[str, ...] | None
    memory: int
    threads: int | None


def room(memory: int, threads: int | None, dim: int, nlist: int) -> int:
    """Bytes of `memory` that are left for rows; ValueError where they are too few."""
    cores = threads or available_cores()
    fixed = _INTERPRETER + _THREAD * cores + _CENTROIDS * 4 * dim * nlist
    if memory < fixed + _LEAST:
        raise ValueError(
            f"memory={memory:,} bytes are too few: {nlist:,} lists of {dim} dimensions and {cores} threads need "
            f"{fixed + _LEAST:,}; give more memory, fewer threads or a smaller nlist"
        )
    return memory - fixed


def coded_bytes(index: FlatIndex | IVFIndex) -> int:
    """Bytes of a coded row in a run, and for its place there while the run is made."""
    originals = sum(column.row_bytes for column in original_columns(index.store, index.dim).values())
    return 4 * (index.quantizer.words + len(index.quantizer.stages) + _FACTORS) + originals + _INDEXING


class Work:
    """A build as one process sees it."""

    def __init__(self, job: Job, rows: Stacked) -> None:
        found = plan.read(plan.building(job.folder))
        if found is None:
            raise FileNotFoundError(f"{job.folder} has no build that was begun")
        self.job, self.rows, self.plan = job, rows, found
        self.frame = storage.load(job.folder / layout.FRAME)
        self.runs = plan.building(job.folder) / RUNS
        nlist = len(self.frame.centroids) if isinstance(self.frame, IVFIndex) else 0
        self.room = room(job.memory, job.threads, self.frame.dim, nlist)
        needed = coded_bytes(self.frame) * found.range_rows
        if needed > self.room:
            raise ValueError(
                f"the build in {job.folder} was begun with more memory: its ranges of {found.range_rows:,} rows need "
                f"{job.memory - self.room + needed:,} bytes, and memory={job.memory:,}"
            )

    @property
    def num_shards(self) -> int:
        return int(self.plan.asked["num_shards"])

    def code(self, number: int) -> int:
        """Code a range, write its run; returns how many rows it has."""
        span = self.plan.range(number)
        n, at = span.stop - span.start, 0
        columns: dict[str, NDArray[Any]] = {}
        with named(self.rows, span.start):
            for part in self.frame._coded_parts(checks.vectors(_Slice(self.rows, span), "x")):
                for name, values in part.items():
                    if name not in columns:
                        columns[name] = np.empty((n, *values.shape[1:]), values.dtype)
                    columns[name][at : at + len(values)] = values
                at += len(values)
        columns["ids"] = self._ids(span)
        runs.write(self.runs, number, shards_of(columns["ids"], self.num_shards), self.num_shards, columns)
        return n

    def write(self, shard: int) -> int:
        """Write a shard; returns how many rows it has."""
        folder = self.job.folder / layout.shard_name(shard)
        with turn_at(folder):  # after a process of a build that was killed, should it still be there
            if is_written(self.job.folder, shard):
                return rows_of(self.job.folder, shard)
            mine = [runs.Run(self.runs, number, shard) for number in range(self.plan.ranges)]
            manifest.sweep(folder, segment.replace(self.frame, folder, saved_rows(self.frame, mine, self.room)))
        durable.sync_directory(self.job.folder)
        return rows_of(self.job.folder, shard)

    def _ids(self, span: slice) -> NDArray[np.int64]:
        given = plan.building(self.job.folder) / IDS
        if self.plan.asked["ids"] is None:
            return np.arange(span.start, span.stop)
        return np.array(np.load(given, mmap_mode="r")[span])


class _Slice:
    """Some of a source's rows, as an index takes them."""

    dtype = np.dtype(np.float32)

    def __init__(self, rows: Stacked, span: slice) -> None:
        self._rows, self._start = rows, span.start
        self.shape = span.stop - span.start, rows.shape[1]

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        start, stop, _ = rows.indices(self.shape[0])
        return self._rows[self._start + start : self._start + stop]


def is_written(folder: Path, shard: int) -> bool:
    """Whether a shard is there."""
    return (folder / layout.shard_name(shard) / manifest.MANIFEST).exists()


def rows_of(folder: Path, shard: int) -> int:
    """The rows of a shard that is there."""
    return int(manifest.segment(manifest.read(folder / layout.shard_name(shard)))["rows"])


# --- steps that other processes take


def code_range(job: Job, number: int) -> int:
    """Code a range of a build's rows."""
    with limited(job.threads):
        return _work(job).code(number)


def write_shard(job: Job, shard: int) -> int:
    """Write a shard of a build."""
    with limited(job.threads):
        return _work(job).write(shard)


@lru_cache(maxsize=1)
def _work(job: Job) -> Work:
    if job.files is None:
        raise RuntimeError("these rows are in the memory of another process")
    return Work(job, opened_files(job.files))
