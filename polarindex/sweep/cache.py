"""Where downloads and computed neighbours are kept, under which name, and how a file gets there whole or not at all.

Law:       a reader of `target` sees the old file or the new one, never a part of either.
Not here:  what is kept (download.py, groundtruth.py)."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

_ROWS = 4096  # hashed at a time


def cache_folder() -> Path:
    """The folder for data that can be had again: `POLARINDEX_CACHE`, else where this platform keeps caches.

    Linux: $XDG_CACHE_HOME or ~/.cache; macOS: ~/Library/Caches; Windows: %LOCALAPPDATA%; in it, `polarindex`.
    The folder is not created here.
    """
    override = os.environ.get("POLARINDEX_CACHE")
    if override:
        return Path(override).expanduser()
    if sys.platform == "win32":
        parent = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Caches"
    else:
        parent = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(parent) / "polarindex"


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it becomes `target`, on any error it is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}-{secrets.token_hex(8)}{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def content_key(words: str, *arrays: NDArray[Any]) -> str:
    """A hash of some words and of the type, shape and values of arrays: 32 hexadecimal digits."""
    digest = xxhash.xxh3_128(words.encode())
    for array in arrays:
        digest.update(f" {array.dtype.str} {array.shape}".encode())
        for start in range(0, len(array), _ROWS):
            digest.update(np.ascontiguousarray(array[start : start + _ROWS]).data)
    return digest.hexdigest()
