"""One writer at a time: a lock on a file in an index's directory, which the system lets go when its process ends.

The library filelock locks (flock, or LockFileEx on Windows); the file stays when the lock is gone. Beside it is a text
that tells who holds it, or who did last."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

from polarindex.errors import LockedError

_LOCK, _HOLDER = LOCK_FILES = "lock", "lock-holder"


class WriterLock:
    """Held from the beginning until `release`, or until the process ends.

    Raises
    ------
    LockedError
        Somebody else holds it; the message names who.
    OSError
        The directory cannot be written, or its file system has no locks.
    """

    def __init__(self, folder: Path) -> None:
        from filelock import FileLock, Timeout  # 50 ms, for those who write

        # no marker files where the file system has no locks: they would outlive a process that is killed
        self._lock = FileLock(folder / _LOCK, timeout=0, thread_local=False, fallback_to_soft=False)
        try:
            self._lock.acquire()
        except Timeout:
            who = _holder(folder)
            raise LockedError(
                f"{folder} is being written by {who}; wait, close it there, or open it with read_only=True"
            ) from None
        with suppress(OSError):
            (folder / _HOLDER).write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> WriterLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _holder(folder: Path) -> str:
    try:
        return (folder / _HOLDER).read_text(encoding="utf-8")[:200]
    except (OSError, ValueError):
        return "another writer"
