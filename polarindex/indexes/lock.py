"""Who may write to an index's directory: saves take turns, and one that is opened for writing keeps all others out.

    a turn      a lock on the directory itself, waited for: a save for as long as it lasts, an opening for a moment
    WriterLock  a lock on its file `lock`, refused to a second one: whoever has the index open, and a save in its turn

Why:       a save ends by removing what older ones left. Two at a time would remove each other's segments, and the
           manifest that is replaced last might name one that is gone.
Why two:   a save waits for another one, which ends by itself. An opened index may be open for days: to wait for it
           would look like hanging. Who holds the lock when a turn has come has it open, and does not save.
Not here:  readers, who need no lock: files that a manifest names do not change, and it is replaced in one step."""

from __future__ import annotations

import errno
import gc
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from polarindex.errors import FormatError, LockedError
from polarindex.indexes import reading

if sys.platform != "win32":  # which has no locks on directories
    import fcntl

_NO_LOCKS = {getattr(errno, name, errno.ENOSYS) for name in ("ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK")}
_LOCK, _HOLDER = LOCK_FILES = "lock", "lock-holder"
_MOST_HOLDER = 400  # bytes


# --- turns


@contextmanager
def turn_at(folder: Path) -> Iterator[bool]:
    """Make the directory if need be (True: it was), wait until nobody else is in this block with it, keep others out.

    Where platform or file system has no such locks (Windows, some network file systems), nobody is kept out. A
    directory that was made for a block that fails goes again, unless something is in it.
    """
    made, handle = False, None
    try:
        while handle is None:
            before, made = made, True  # first: Ctrl-C may come when it is made
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                made = before
                if not folder.is_dir():
                    if os.path.lexists(folder):
                        raise
                    continue  # it was there a moment ago: who made it has removed it
            if sys.platform == "win32":
                break
            handle = _locked(folder)
        yield made
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise
    finally:
        if handle is not None:
            _let_go(handle)


def _locked(folder: Path) -> int | None:
    """An open directory that holds the lock on `folder`; None where who had the lock before has removed it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        with suppress(OSError):  # no locks on this file system
            fcntl.flock(handle, fcntl.LOCK_EX)
        if _same(handle, folder):
            return handle
    except BaseException:
        _let_go(handle)
        raise
    _let_go(handle)
    return None


def _let_go(handle: int) -> None:
    try:
        with suppress(OSError):  # also where a fork has the directory open: it keeps no turn
            fcntl.flock(handle, fcntl.LOCK_UN)
    finally:
        os.close(handle)


def _same(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(folder))
    except FileNotFoundError:
        return False


# --- the one writer


class WriterLock:
    """Held from the beginning until `release`, or until the process ends, when the system lets it go.

    The library filelock locks (flock, or LockFileEx on Windows); the file stays when the lock is gone. Beside it is a
    text that tells who holds it, or who did last.

    Raises
    ------
    LockedError
        Somebody else holds it; the message names who.
    FormatError
        The file is a link, a pipe, ...
    OSError
        The directory cannot be written, or its file system has no locks.
    """

    def __init__(self, folder: Path) -> None:
        from filelock import FileLock, Timeout  # 50 ms, for those who write

        path = folder / _LOCK
        if os.path.lexists(path):
            reading.check_regular(path)
        # no marker files where the file system has no locks: they would outlive a process that is killed
        self._lock = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
        mine = f"process {os.getpid()} on {platform.node()}"
        try:
            try:
                self._lock.acquire()
            except Timeout:
                if _holder(folder) != mine:
                    raise
                # An index that was dropped and not closed may wait for the collector, and its lock with it: where its
                # call compiled a kernel, Numba's exceptions hold the call's frames in cycles.
                gc.collect()
                self._lock.acquire()
            with suppress(OSError):
                _tell(folder / _HOLDER, mine)
        except Timeout:
            who = _holder(folder)
            raise LockedError(
                f"{folder} is being written by {who}; wait, close it there, or open it with read_only=True"
            ) from None
        except BaseException:
            self._lock.release()
            raise

    def release(self) -> None:
        self._lock.release()


@contextmanager
def nobody_has_open(folder: Path) -> Iterator[None]:
    """Keep everybody out who would open the index in a directory for writing; errors are those of WriterLock.

    Where the file system has no locks nobody can have it open.
    """
    lock = None
    try:
        lock = WriterLock(folder)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _tell(path: Path, text: str) -> None:
    """Write a new file in the place of whatever has this name, and through no link."""
    path.unlink(missing_ok=True)
    with open(path, "x", encoding="utf-8") as out:
        out.write(text)


def _holder(folder: Path) -> str:
    """Who holds the lock, as far as it can be read."""
    try:
        text = reading.read_all(folder / _HOLDER, _MOST_HOLDER).decode()
    except (FormatError, OSError, ValueError):
        return "another writer"
    return text if text.isprintable() and text else "another writer"
