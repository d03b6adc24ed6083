"""Taking turns at a directory: of several processes and threads that save to it, one at a time does.

Why:       a save ends by removing what older ones left. Two at a time would remove each other's segments, and the
           manifest that is replaced last might name one that is gone.
Not here:  readers, who need no lock: files do not change, and a manifest is replaced in one step."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":  # which has no locks on directories
    import fcntl


@contextmanager
def turn_at(folder: Path) -> Iterator[bool]:
    """Make the directory if need be (True: it was), wait until nobody else is in this block with it, keep others out.

    Where platform or file system has no such locks (Windows, some network file systems), nobody is kept out. A
    directory that was made for a block that fails goes again, unless something is in it.
    """
    made, handle = False, None
    try:
        while handle is None:
            made = made or not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
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
            os.close(handle)  # which ends the lock


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
        os.close(handle)
        raise
    os.close(handle)
    return None


def _same(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(folder))
    except FileNotFoundError:
        return False
