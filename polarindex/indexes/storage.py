"""An index on disk: a directory of one manifest, a segment of plain NumPy files, and a log of what changed since.

    manifest.json              format, version, kind ("flat" where it is missing, or "ivf"), parameters, state, and the
                               segment's rows and files with length and checksum; its own "checksum" is the xxh3 of
                               the rest, as JSON with sorted keys and no spaces. Version 1 has no log; version 2 has
                               "log": its name, records, bytes, and the xxh3 of all these bytes
    segment-<random>/
        *.npy                  the arrays of the index
        checksums.npy          (blocks,) uint64: xxh3_64 of every MiB of the files above, in the manifest's order
    log-<random>               records (log.py), in order: each has the rows that differ from those before, as they are
                               stored, and the number of rows and the state after it
    lock, lock-holder          whoever writes holds a lock on the one; the other tells who (lock.py)

A flat index of n rows; state: next_id, stores_ids, center_frozen, energy_removed
        codes0.npy, ...        uint32, see codes.py: lines (panels, words, 16), 0 in rows beyond n, or rows (n, words)
        scales.npy             (n, stages) float32
        centre.npy             (dim,) float32
        shifts.npy, held.npy, originals.npy, original_scales.npy, ids.npy          (n, ...) where the index has them
    A record's state has "changed" too, its arrays "positions" (changed,) int64, ascending, and the same columns of the
    rows at these positions. Rows beyond the record's number of rows are gone.

An inverted file; state: fitted, and if it is: next_id, wide_ids, spread (mean |x - c|^2 of what was learned from),
default (null, or the nprobe and gap that searches use; a gap of null is none). Unfitted it has no arrays, else
        centroids.npy          (nlist, dim) float32, c
        centre.npy             (dim,) float32, mu: zero without one
        sizes.npy              (nlist,) int64: rows of each list
        rows.npy               (pages, width, 16) uint32: list after list, each of ceil(size / 16) pages of 16 rows, all
                               full but its first, whose last lanes are zeros. The words of a row: code (codes.py),
                               a float32 scale a stage, the float32 shift (residuals.py), the id: its low word and,
                               with wide_ids, its high word
        originals.npy          (16 pages, dim) of the store's type, where kept: row 16 p + l is that of page p's lane l
        original_scales.npy    (16 pages,) float32, for store="int8"
    A record's state: next_id, default, "changed" and "removed"; its arrays: ids (changed,) int64, ascending; lists
    (changed,) int32; codes (changed, words) and factors (changed, stages + 1), scales and shift; originals as above;
    removed (removed,) int64, ascending, ids that are gone.

Law:       a save writes a new segment, syncs it, then replaces the manifest by rename; a sync does so with the log's
           end. At every moment the directory holds the old index or the new one. Reading executes nothing (no
           pickles). A directory that is not an index is neither read nor written. What is derived (id tables, rotated
           centroids) is in no file. A flat index's rows come back in their order; lists are written without free
           pages, so the order of `ids` may be another one in a loaded inverted file.
Not here:  what an index saves of itself (its `_saved` and `_restore`, `_saved_changes` and `_restore_changes`); one
           that stays with its directory (opened.py)."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from polarindex import checks
from polarindex.errors import FormatError
from polarindex.indexes import durable, log, manifest, segment
from polarindex.indexes.base import Index
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.lock import WriterLock
from polarindex.indexes.log import Log
from polarindex.indexes.manifest import KINDS, Manifest


def save(index: Index, path: str | os.PathLike[str]) -> None:
    """Write `index` to the directory `path`, replacing an index that is there.

    Raises
    ------
    FormatError
        `path` is a file, or a directory with something else in it; nothing is touched.
    LockedError
        Somebody has the index that is there open for writing.
    OSError
        The disk is full, read-only, ...; what was at `path` is as before.
    """
    target = Path(os.path.realpath(path))
    if index._attachment is not None and index._attachment.folder == target:
        index._attachment.compact(index)
        return
    if target.exists() and not target.is_dir():
        raise FormatError(f"{target} is a file; an index is saved as a directory")
    if target.is_dir():
        if manifest.is_foreign(target):
            manifest.read(target)  # refuses a directory that is not an index
        with WriterLock(target):
            manifest.sweep(target, segment.replace(index, target))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        draft.mkdir()
        segment.replace(index, draft)
        draft.rename(target)
        durable.sync_directory(target.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def load(path: str | os.PathLike[str], mmap: bool = False, verify: bool | None = None) -> FlatIndex | IVFIndex:
    """Read an index.

    Parameters
    ----------
    path : path of a directory written by `save`
    mmap : bool
        Map the arrays instead of reading them: opens at once, pages are shared between processes, and changes stay
        in memory.
    verify : bool, optional
        Check every block against its checksum; default True unless mmap, which would read the whole file. What was
        synced since the last compaction is read and checked in any case.

    Raises
    ------
    FileNotFoundError
    FormatError
        Not an index, of a newer version, or damaged; the message names the file.
    """
    return read(*checked_source(path, mmap, verify)).index


@dataclass(frozen=True)
class Loaded:
    """An index and what of its directory it is."""

    index: FlatIndex | IVFIndex
    manifest: Manifest
    log: Log


def checked_source(path: str | os.PathLike[str], mmap: bool, verify: bool | None) -> tuple[Path, bool, bool]:
    """The directory, mmap and verify of `load`."""
    source = Path(path)
    checks.flag(mmap, "mmap")
    verify = not mmap if verify is None else checks.flag(verify, "verify")
    if not source.exists():
        raise FileNotFoundError(errno.ENOENT, "no index here", str(source))
    return source, mmap, verify


def read(source: Path, mmap: bool, verify: bool) -> Loaded:
    """The index that a directory holds now."""
    wanted = manifest.read(source)
    while True:
        try:
            return read_as(source, wanted, mmap, verify)
        except (FormatError, FileNotFoundError):
            before, wanted = wanted, manifest.read(source)
            if wanted == before:  # else a writer replaced the index while it was read: read the new one
                raise


def read_as(source: Path, wanted: Manifest, mmap: bool, verify: bool) -> Loaded:
    """The index of a manifest; FormatError or FileNotFoundError where its files are no longer there."""
    entry = manifest.segment(wanted)
    folder = source / entry["name"]
    if verify:
        segment.verify(folder, entry)
    try:
        index = KINDS[manifest.kind(wanted)](**wanted["parameters"])
        index._restore(wanted["state"], entry["rows"], segment.Reader(folder, entry, mmap))
    except FormatError:
        raise
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{folder} does not hold an index that this version can make: {error!r}") from error
    return Loaded(index, wanted, replay(index, source, wanted, log.empty()))


def replay(index: Index, source: Path, wanted: Manifest, held: Log) -> Log:
    """Bring an index, which is as after the log `held`, to what a manifest says; returns the log that it is then at.

    FormatError where the log is damaged or does not fit the index: some of its records may have been taken, which are
    no harm when they are taken again.
    """
    entry = wanted.get("log")
    if entry is None:
        return held
    if not held.bytes:
        held = held._replace(name=entry["name"])
    at = log.checked(source, entry, held)
    for record in log.records(source, held, at):
        try:
            index._restore_changes(record.state, record.rows, record)
        except FormatError:
            raise
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{record.where} does not fit the index before it: {error!r}") from error
    return at
