"""An index that stays with its directory: the writer syncs what it changes, readers take that over.

Law:       what was synced is there after a crash, whole; what was not is not. There is one writer, which holds the
           directory's lock; readers hold nothing, write nothing, and see the index as it was when they looked.
How:       a sync appends one record to the log and replaces the manifest, which names the log's length. A sync that
           fails after that leaves it open which of the two manifests is there: the next one looks. It writes its
           changes again in any case, as a record is a state of rows and may be taken twice.
Not here:  files (storage.py, log.py); which rows have changed (changes.py)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from polarindex import checks
from polarindex.errors import FormatError
from polarindex.indexes import log, manifest, segment, storage
from polarindex.indexes.base import Index
from polarindex.indexes.changes import Changes
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.lock import WriterLock, turn_at
from polarindex.indexes.log import Log
from polarindex.indexes.manifest import Manifest
from polarindex.indexes.storage import Loaded

_FEW = 4096  # changed rows that go to the log however small the index is


def open(
    path: str | os.PathLike[str], read_only: bool = False, mmap: bool = False, verify: bool | None = None
) -> FlatIndex | IVFIndex:
    """Read an index that stays with its directory: its changes become durable with `sync`.

    Make one with `save(path)` first. `index.close()`, or `with polarindex.open(path) as index:`, ends it.

    Parameters
    ----------
    path, mmap, verify
        As of `load`.
    read_only : bool
        Only search: no lock is taken and nothing is written, so the directory may be read-only and any number of
        processes may do so while one writes. `refresh` takes over what that one has synced.

    Raises
    ------
    LockedError
        Another writer has it open.
    FileNotFoundError, FormatError
        As of `load`.
    OSError
        The directory cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> import polarindex as pi
    >>> index = pi.FlatIndex(16, bits=4)
    >>> ids = index.add(np.eye(3, 16))
    >>> index.save("my-index")
    >>> with pi.open("my-index") as opened:
    ...     opened.remove([0])
    ...     opened.sync()
    1
    >>> len(pi.load("my-index"))
    2
    """
    checks.flag(read_only, "read_only")
    source, mmap, verify = storage.checked_source(path, mmap, verify)
    folder = Path(os.path.realpath(source))
    if read_only:
        loaded = storage.read(folder, mmap, verify)
        loaded.index._attachment = Reader(folder, loaded, mmap, verify)
        return loaded.index
    manifest.read(folder)  # what is not an index gets no lock file
    with turn_at(folder):  # after a save that goes on there
        lock = WriterLock(folder)
    try:
        loaded = storage.read(folder, mmap, verify)
        manifest.sweep(folder, loaded.manifest)
        loaded.index._attachment = writer = Writer(folder, loaded, lock)
        loaded.index._changes = writer.changes
    except BaseException:
        lock.release()
        raise
    return loaded.index


class _Durable(NamedTuple):
    """What a directory holds. Replaced whole, as `info` may ask meanwhile."""

    manifest: Manifest
    log: Log


class Writer:
    """The one that may change a directory; see attached.Attachment."""

    def __init__(self, folder: Path, loaded: Loaded, lock: WriterLock) -> None:
        self.folder, self.changes = folder, Changes()
        self._lock, self._process = lock, os.getpid()
        self._held = _Durable(loaded.manifest, loaded.log)
        self._next: _Durable | None = None  # what an attempt that failed may have put in their place
        self._state = loaded.index._state()  # as it is durable

    def check_change(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError(f"{self.folder} was opened for writing by process {self._process}; this is a fork of it")

    def sync(self, index: Index) -> None:
        self.check_change()
        rows, state = self.changes.numbers(), index._state()
        if not self._changed(state):
            return
        with self._durable(state):
            if self.changes.everything or len(rows) > max(_FEW, len(index) // 2):
                self._rewrite(index)
            else:
                self._put(log.append(self.folder, self._held.log, index._saved_changes(rows)))

    def refresh(self, index: Index) -> bool:
        return False

    def compact(self, index: Index) -> None:
        self.check_change()
        state = index._state()
        with self._durable(state):
            if self._held.log.bytes or self._changed(state):
                self._rewrite(index)

    def close(self, index: Index, sync: bool) -> None:
        if sync:
            self.sync(index)
        index._attachment, index._changes = Closed(self.folder), None
        self._lock.release()

    def info(self) -> dict[str, Any]:
        return _info(self.folder, False, self._held)

    def _changed(self, state: dict[str, Any]) -> bool:
        return self.changes.everything or len(self.changes.numbers()) > 0 or state != self._state

    @contextmanager
    def _durable(self, state: dict[str, Any]) -> Iterator[None]:
        """Inside, the index is written as it is, in this state; where that succeeds nothing is left to sync."""
        try:
            self._settle()
            yield
        except OSError as error:
            why = f"{error.strerror or error}; what changed since the last sync of {self.folder} is in memory only"
            raise OSError(error.errno, f"{why}: sync again", error.filename) from error
        self.changes.clear()
        self._state = state

    def _put(self, appended: Log) -> None:
        """Let the log be this one."""
        entries = {**self._held.manifest, "version": manifest.VERSION, "log": appended.entry}
        self._swap(manifest.sealed(entries), appended, manifest.put)

    def _rewrite(self, index: Index) -> None:
        """A new segment, and no log."""
        self._swap(segment.write(index, self.folder), log.empty(), segment.put)
        manifest.sweep(self.folder, self._held.manifest)

    def _swap(self, written: Manifest, at: Log, put: Callable[[Path, Manifest], None]) -> None:
        """Put a manifest, which has the log at that length, in the place of the one before."""
        self._next = _Durable(written, at)
        put(self.folder, written)
        self._held, self._next = self._next, None

    def _settle(self) -> None:
        """Know what the directory holds, also after a sync that failed."""
        if self._next is not None and manifest.holds(self.folder, self._next.manifest):
            self._held = self._next
        elif not manifest.holds(self.folder, self._held.manifest):
            raise FormatError(f"{self.folder} was changed by another program while it was open for writing here")
        self._next = None


class Reader:
    """One of many that only search; see attached.Attachment."""

    def __init__(self, folder: Path, loaded: Loaded, mmap: bool, verify: bool | None) -> None:
        self.folder = folder
        self._held = _Durable(loaded.manifest, loaded.log)
        self._mmap, self._verify = mmap, verify

    def check_change(self) -> None:
        raise RuntimeError(f"{self.folder} was opened with read_only=True: this index cannot be changed")

    def sync(self, index: Index) -> None:
        self.check_change()

    def refresh(self, index: Index) -> bool:
        wanted = manifest.read(self.folder)
        while wanted != self._held.manifest:
            try:
                at = self._followed(index, wanted)
            except (FormatError, FileNotFoundError):
                before, wanted = wanted, manifest.read(self.folder)
                if wanted == before:  # else its files went because another took its place
                    raise
            else:
                self._held = _Durable(wanted, at)
                return True
        return False

    def compact(self, index: Index) -> None:
        self.check_change()

    def close(self, index: Index, sync: bool) -> None:
        index._attachment = Closed(self.folder)

    def info(self) -> dict[str, Any]:
        return _info(self.folder, True, self._held)

    def _followed(self, index: Index, wanted: Manifest) -> Log:
        """Make the index what a manifest says; returns the log that it is then at."""
        entry = wanted.get("log")
        goes_on = entry is not None and entry["bytes"] >= self._held.log.bytes
        if goes_on and manifest.segment(wanted) == manifest.segment(self._held.manifest):
            return storage.replay(index, self.folder, wanted, self._held.log)
        fresh = storage.read_as(self.folder, wanted, self._mmap, self._verify)
        if fresh.index._common_parameters() != index._common_parameters() or fresh.index.kind != index.kind:
            raise FormatError(f"{self.folder} holds another index now: {fresh.index!r}; open it again")
        index._become(fresh.index)
        return fresh.log


class Closed:
    """What is left of an attachment; see attached.Attachment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def check_change(self) -> None:
        raise RuntimeError(f"this index of {self.folder} is closed; open it again with polarindex.open")

    def sync(self, index: Index) -> None:
        self.check_change()

    def refresh(self, index: Index) -> bool:
        self.check_change()
        return False

    def compact(self, index: Index) -> None:
        self.check_change()

    def close(self, index: Index, sync: bool) -> None:
        pass

    def info(self) -> dict[str, Any]:
        return {}


def _info(folder: Path, read_only: bool, held: _Durable) -> dict[str, Any]:
    return {
        "path": str(folder),
        "read_only": read_only,
        "log_bytes": held.log.bytes,
        "log_records": held.log.records,
        "compact_advised": held.log.bytes > manifest.segment_bytes(held.manifest),
    }
