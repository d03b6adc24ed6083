"""Building a sharded index out of core: from vectors of any number to shards, in the memory that is given.

    source -> sample -> frame             lists and centre, learned once           frame/
    source -> ranges of rows -> runs      coded once, sorted by shard and list     building/runs/
    runs -> shards                        written once, part by part               shard-00000/ ...
    all there -> sharded.json             and building/ goes

Law:       a shard is to the byte what the frame would be on the disk if that shard's rows had been added to it, in the
           order of the source, at once. Neither memory, processes, engine nor interruptions change it.
Killed:    whatever is there is whole, so the same call goes on where it was: it learns, codes and writes what is not
           there yet. What a kill costs is the step that was going on: a range of rows, a shard.
Disk:      beside the shards the runs, which take what they take and 12 bytes a row more; and the rows themselves, where
           they must be written down (source.py).
Not here:  each step (frame.py, work.py); who takes it (engines.py)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from polarindex import checks
from polarindex.distributed import engines, frame, layout, plan, runs
from polarindex.distributed.layout import Layout
from polarindex.distributed.plan import Plan
from polarindex.distributed.routing import MOST_SHARDS
from polarindex.distributed.source import IDS, fingerprint, given, opened, write_ids, written_down
from polarindex.distributed.work import RANGE_ROWS, RUNS, Job, Work, coded_bytes, is_written, room
from polarindex.errors import FormatError
from polarindex.indexes import durable, manifest
from polarindex.indexes.lock import LOCK_FILES, WriterLock
from polarindex.indexes.threads import available_cores, limited
from polarindex.sweep.stacked import Show, Stacked

MEMORY = 2 << 30

Progress = Callable[[int, int, str], None]


def build(
    source: Any,
    path: str | os.PathLike[str],
    *,
    num_shards: int,
    kind: str = "ivf",
    metric: str = "l2",
    bits: float = 4,
    quantizer: str = "eden",
    nlist: int | str = "auto",
    seed: int = 0,
    center: bool = True,
    store: str = "none",
    scan_bits: int | None = None,
    codes: str = "plain",
    factor_bits: int = 32,
    ids: Any = None,
    column: str | None = None,
    memory: int = MEMORY,
    processes: int | None = None,
    threads: int | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
) -> Layout:
    """Code vectors, as many as there are, into shards that share lists, centre and rotation.

    A build that was killed, interrupted or ended by an error goes on where it was when it is given again.

    Parameters
    ----------
    source : path, array-like, iterator or Ray Dataset
        A file of vectors (.npy, .hdf5, .parquet, .fvecs, ...; FILE::PART for one matrix of several), a folder of such
        files, in the order of their names, or a list of them; a matrix (n, dim), as an index takes it; an iterator of
        such matrices, or a Ray Dataset. The last two are read once, and their rows written down in `path` first: a
        build that goes on after that does not look at them again.
    path : the directory to make
    num_shards : int
        Directories, which may be 1. Rows lie in them by their ids (distributed/routing.py).
    kind : {"ivf", "flat"}
    metric, bits, quantizer, nlist, seed, center, store, scan_bits, codes, factor_bits
        As of IVFIndex and FlatIndex. nlist="auto" is chosen by the rows of one shard, which is searched alone. The
        centre of a flat index is the mean of a sample, and spectral codes' axes are those of the sample.
    ids : (n,) array-like of int, or str, optional
        Unique, >= 0; of a Ray Dataset the column that holds them. Default: the numbers of the rows in the source, which
        of a Ray Dataset are in the order in which it gives them. Ids are held in memory, 8 bytes a row beside `memory`,
        and 16 more while they are checked unless they ascend.
    column : str, optional
        Of a Ray Dataset: which column holds the vectors. Default: the only one that does.
    memory : int
        Bytes that a process of the build may have resident, interpreter and compiled kernels included (240 MB), what
        the caller's process held before the call not. Lists are learned from fewer rows where it is small; nothing
        else depends on it. A Parquet file takes a row group beside it, an Arrow file what the system maps.
    processes : int, optional
        Default: this process takes all steps. More: so many new processes, which import the caller's main module, so
        that must be guarded by `if __name__ == "__main__"`. With Ray: tasks at a time, by default as many as it has
        cores for.
    threads : int, optional
        Of each process. Default: all cores, divided among processes; with Ray 1.
    engine : {"auto", "local", "ray"}
        Ray's tasks may run on other machines, which must reach `path` and the source's files under the same names.
        auto: Ray where the caller has connected to it.
    progress : callable, optional
        Called with (done, total, what): rows written down, sampled, coded and written, and iterations of k-means.

    Returns
    -------
    Layout
        What sharded.json says.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, or the file and its first bad row; where a build was begun in `path`, also that it was
        begun with other arguments or that its source has changed.
    FileExistsError, FormatError
        There is an index at `path` already, or something else.
    LockedError
        Another process is building there.
    ChildProcessError
        A process of the build was killed, but not the one that called.
    MissingExtraError
        Ray is asked for and not installed.
    """
    num_shards = checks.integer(num_shards, "num_shards", low=1, high=MOST_SHARDS)
    checks.choice(kind, "kind", manifest.KINDS)
    memory = checks.integer(memory, "memory", low=1)
    count = None if processes is None else checks.integer(processes, "processes", low=1)
    cores = None if threads is None else checks.integer(threads, "threads", low=1)
    engine = engines.chosen(checks.choice(engine, "engine", engines.ENGINES))
    if engine == "ray":
        engines.imported_ray()
    if kind == "flat" and (nlist != "auto" or scan_bits is not None):
        raise ValueError("nlist and scan_bits are of an inverted file; give kind='ivf' too, or leave them out")
    parameters = {"metric": metric, "bits": bits, "quantizer": quantizer, "seed": seed, "center": center}
    parameters |= {"store": store, "codes": codes, "factor_bits": factor_bits}
    if kind == "ivf":
        parameters["scan_bits"] = scan_bits
    name = ids if isinstance(ids, str) else None
    looked = given(source, column, name)
    if ids is not None and name is None:
        ids = checks.id_array(ids, "ids")
        checks.unique_ids(ids, "ids")
    show: Show = (lambda done, total, what, unit: progress(done, total, what)) if progress else _nothing
    folder = Path(os.path.realpath(path))
    shared = engine == "ray" or (count or 1) > 1
    if shared and cores is None:
        cores = 1 if engine == "ray" else max(1, available_cores() // (count or 1))
    with _begun(folder, path) as building, limited(cores):
        begun = plan.read(building)
        rows, files = opened(looked, building, begun is not None, show)
        if looked.own_ids:
            ids = np.load(building / IDS)
            checks.unique_ids(ids, "ids")
        elif ids is not None and len(ids) != len(rows):
            raise ValueError(f"ids must have {len(rows)} entries, one a row of source, got {len(ids)}")
        index = frame.empty(kind, rows.shape[1], nlist, len(rows), num_shards, **parameters)
        asked = {**index.parameters(), "num_shards": num_shards, "kind": kind, "ids": plan.digest(ids)}
        if nlist == "auto" and kind == "ivf":
            asked["nlist"] = nlist  # what it comes to is not asked for
        source_now = fingerprint(looked, rows)
        if begun is None:
            left = room(memory, cores, index.dim, frame.lists_of(index))
            cut = min(RANGE_ROWS, left // (2 * coded_bytes(index)))
            begun = Plan(asked, source_now, cut, frame.most_sampled(index, left))
            _note(begun, ids, building)
        else:
            plan.check_same(begun, asked, source_now, folder)
        if os.path.lexists(folder / layout.SHARDED):  # it was killed when all was done, and may have changed since
            found = layout.read(folder)
        else:
            if shared and files is None:
                rows, files = written_down(looked, building, show)
            job = Job(folder, files, memory, cores)
            _learn(job, index, rows, begun, show)
            found = _filled(job, rows, begun, engine, count if shared else None, show)
        shutil.rmtree(building)
        durable.sync_directory(folder)
        return found


@contextmanager
def _begun(folder: Path, path: str | os.PathLike[str]) -> Iterator[Path]:
    """Hold the lock of a folder in which there is nothing, or a build that was begun; yields where the build is.

    What was made goes again where an error comes before there is a plan.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise FormatError(f"{path} is a file; a sharded index is a directory")
    made = not folder.exists()
    if not made:
        there = {entry.name for entry in folder.iterdir()} - set(LOCK_FILES)
        if layout.SHARDED in there and layout.BUILDING not in there:
            raise FileExistsError(f"{path} is a sharded index already; remove it, or choose another place")
        if there and layout.BUILDING not in there:
            raise FormatError(f"{path} has something else in it; choose another place")
    folder.mkdir(parents=True, exist_ok=True)
    lock = WriterLock(folder)
    building = plan.building(folder)
    try:
        building.mkdir(exist_ok=True)
        try:
            yield building
        except BaseException:
            if not (building / plan.PLAN).exists():
                shutil.rmtree(building, ignore_errors=True)
                if made:
                    shutil.rmtree(folder, ignore_errors=True)
            raise
    finally:
        lock.release()


def _note(begun: Plan, ids: Any, building: Path) -> None:
    """Put a new plan, when all that it stands for is there."""
    if ids is not None:
        write_ids(building / IDS, ids)
    (building / RUNS).mkdir(exist_ok=True)
    plan.put(building, begun)


def _learn(job: Job, index: Any, rows: Stacked, noted: Plan, show: Show) -> None:
    """Make the frame, if it is not there."""
    if not (job.folder / layout.FRAME / manifest.MANIFEST).exists():
        frame.learn(index, rows, noted.sample_rows, show)
        index.save(job.folder / layout.FRAME)


def _filled(job: Job, rows: Stacked, noted: Plan, engine: str, count: int | None, show: Show) -> Layout:
    """Take the steps that are left, and make the folder a sharded index."""
    work = Work(job, rows)
    taker = _engine(work, engine, count)
    runs.sweep(work.runs)
    there = runs.written(work.runs)
    done = sum(noted.range(number).stop - noted.range(number).start for number in there)
    show(done, noted.rows, "coding", "rows")
    for n in taker.code([number for number in range(noted.ranges) if number not in there]):
        show(done := done + n, noted.rows, "coding", "rows")
    shards = range(work.num_shards)
    left = [shard for shard in shards if not is_written(job.folder, shard)]
    done = noted.rows if not left else 0
    for n in taker.write(left):
        show(done := min(noted.rows, done + n), noted.rows, "writing", "rows")
    entries = manifest.read(job.folder / layout.FRAME)
    next_id = max(_next_id(job.folder, shard) for shard in shards)
    names = tuple(map(layout.shard_name, shards))
    found = Layout(manifest.kind(entries), entries["parameters"], names, next_id)
    layout.put(job.folder, found)
    return found


def _engine(work: Work, engine: str, count: int | None) -> engines.Engine:
    if engine == "ray":
        return engines.RayTasks(work.job, count)
    return engines.Processes(work.job, count) if count else engines.Here(work)


def _next_id(folder: Path, shard: int) -> int:
    return int(manifest.read(folder / layout.shard_name(shard))["state"]["next_id"])


def _nothing(done: int, total: int, what: str, unit: str) -> None:
    pass
