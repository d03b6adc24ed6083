"""An index on disk: a directory of one manifest, a segment of plain NumPy files, and a log of what changed since.

    manifest.json              what the index is, and its files with length and checksum; itself checksummed
    segment-<random>/*.npy     the arrays of the index, and checksums.npy, of every MiB of them
    log-<random>               a record for every sync: the rows that differ from those before, as they are stored
    lock, lock-holder          of whoever has the index open for writing

docs/file-format.md specifies every array and field, docs/durability.md what is promised.

Law:       a save writes a new segment, syncs it, then replaces the manifest by rename; a sync does so with the log's
           end. At every moment the directory holds the old index or the new one. Reading executes nothing (no
           pickles). A directory that is not an index is neither read nor written. What is derived (id tables, rotated
           centroids) is in no file. A flat index's rows come back in their order; lists are written without free
           pages, so the order of `ids` may be another one in a loaded inverted file.
Not here:  what an index saves of itself (its `_saved` and `_restore`, `_saved_changes` and `_restore_changes`); files
           without trust (reading.py); an index that stays with its directory (opened.py)."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polarindex import checks
from polarindex.errors import FormatError
from polarindex.indexes import durable, log, manifest, reading, segment
from polarindex.indexes.base import Index
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.lock import nobody_has_open, turn_at
from polarindex.indexes.log import Log
from polarindex.indexes.manifest import KINDS, MANIFEST, Manifest
from polarindex.indexes.reading import Finding

_MISFITS = (ArithmeticError, LookupError, TypeError, ValueError)  # what an index raises of entries that it cannot have


def save(index: Index, path: str | os.PathLike[str]) -> None:
    """Write `index` to the directory `path`, replacing an index that is there.

    Saves to one path take turns. Where somebody has the index there open for writing, there is none to wait for.

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
    if target.exists() and not target.is_dir():
        raise FormatError(f"{target} is a file; an index is saved as a directory")
    with turn_at(target) as made:
        if manifest.is_foreign(target):
            manifest.read(target)  # refuses a directory that is not an index
        # what has no manifest nobody can have opened
        with nobody_has_open(target) if os.path.lexists(target / MANIFEST) else nullcontext():
            manifest.sweep(target, segment.replace(index, target))
        if made:
            durable.sync_directory(target.parent)


def load(path: str | os.PathLike[str], mmap: bool = False, verify: bool | None = None) -> FlatIndex | IVFIndex:
    """Read an index.

    Parameters
    ----------
    path : path of a directory written by `save`
    mmap : bool
        Map the arrays instead of reading them: opens at once, pages are shared between processes, and changes stay
        in memory.
    verify : bool, optional
        True: compare every block with its checksum, which reads all files. False: none. Default: those of the arrays
        that are read, which is all of them unless mmap. Of an index that is mapped these are the small ones (centre,
        centroids, sizes of lists); a damaged row is then not noticed and gives wrong answers. What was synced since
        the last compaction is read and checked in any case.

    Raises
    ------
    FileNotFoundError
    PermissionError
    FormatError
        Not an index, of a newer version, or damaged; the message names the file and what is wrong with it.

    Notes
    -----
    Nothing in a file is executed, links are not followed, and memory is not asked for beyond the files' size, whoever
    made them: see `reading`. A file that is mapped must not be cut short while the index is in use.
    """
    return read(*checked_source(path, mmap, verify)).index


def verify(path: str | os.PathLike[str]) -> list[Finding]:
    """Everything that is wrong with a saved index: none where `load` would read it and every block is as written.

    Parameters
    ----------
    path : path of a directory written by `save`

    Returns
    -------
    list of Finding
        Path, block (a number of a MiB, or None) and problem, a line that names both.

    Raises
    ------
    FileNotFoundError
    PermissionError
    """
    source, mmap, everything = checked_source(path, mmap=True, verify=True)
    try:
        read(source, mmap, everything)
    except FormatError as error:
        try:
            entries = manifest.read(source)
        except FormatError as unread:
            return [Finding(source / MANIFEST, None, str(unread))]
        return _findings(source, entries) or [Finding(source, None, str(error))]
    return []


def _findings(source: Path, entries: Manifest) -> list[Finding]:
    """What is wrong with the bytes of an index."""
    entry = manifest.segment(entries)
    found = [*reading.findings(source / entry["name"], entry["files"])]
    return [*found, *(log.findings(source, entries["log"]) if "log" in entries else ())]


@dataclass(frozen=True)
class Loaded:
    """An index and what of its directory it is."""

    index: FlatIndex | IVFIndex
    manifest: Manifest
    log: Log


def checked_source(path: str | os.PathLike[str], mmap: bool, verify: bool | None) -> tuple[Path, bool, bool | None]:
    """The directory, mmap and verify of `load`."""
    source = Path(path)
    checks.flag(mmap, "mmap")
    if verify is not None:
        checks.flag(verify, "verify")
    if not source.exists():
        raise FileNotFoundError(errno.ENOENT, "no index here", str(source))
    return source, mmap, verify


def read(source: Path, mmap: bool, verify: bool | None) -> Loaded:
    """The index that a directory holds now."""
    wanted = manifest.read(source)
    while True:
        try:
            return read_as(source, wanted, mmap, verify)
        except (FormatError, FileNotFoundError):
            before, wanted = wanted, manifest.read(source)
            if wanted == before:  # else a writer replaced the index while it was read: read the new one
                raise


def read_as(source: Path, wanted: Manifest, mmap: bool, verify: bool | None) -> Loaded:
    """The index of a manifest; FormatError or FileNotFoundError where its files are no longer there."""
    entry = manifest.segment(wanted)
    folder = source / entry["name"]
    try:
        segment_read = reading.Segment(folder, entry["files"], mmap, verify)
        if "centre.npy" in entry["files"]:  # dimensions that are not there cost no time and memory of a quantizer
            dim = checks.integer(wanted["parameters"]["dim"], "dim", low=1)
            segment_read("centre", (dim,), np.float32, in_memory=True)
        index = KINDS[manifest.kind(wanted)](**wanted["parameters"])
        index._restore(wanted["state"], entry["rows"], segment_read)
        segment_read.check_all_read()
    except FormatError:
        raise
    except _MISFITS as error:
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
    at, sums = log.checked(source, entry, held)
    for record in log.records(source, held, at, sums):
        try:
            index._restore_changes(record.state, record.rows, record)
            record.check_all_read()
        except FormatError:
            raise
        except _MISFITS as error:
            raise FormatError(f"{record.where} does not fit the index before it: {error!r}") from error
    return at
