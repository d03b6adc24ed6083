"""Directories of indexes: made whole beside their place, and how much of the disk they take.

Law:       at a place there is nothing, or a whole index with its records: a new one is built in a hidden directory
           beside it, and renamed. An error or Ctrl-C leaves what was there before.
Crash:     a process that is killed while it builds leaves that hidden directory; killed between the two renames that
           replace an index it leaves both in there, as `index` and `before`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from polarindex.errors import FormatError
from polarindex.indexes import durable, manifest
from polarindex.indexes.interrupts import uninterrupted
from polarindex.indexes.lock import nobody_has_open


def bytes_on_disk(path: Path) -> int:
    """Of everything in a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@contextmanager
def built_beside(place: Path, overwrite: bool) -> Iterator[Path]:
    """Yield the path of a directory to make; when the block ends it is moved to `place`, which then has nothing else.

    Raises
    ------
    FileExistsError
        There is something, and `overwrite` is false.
    FormatError
        What would be overwritten is no index; it is not touched.
    LockedError
        Somebody has it open for writing.
    """
    target = Path(os.path.realpath(place))
    _check(target, place, overwrite)
    made = [folder for folder in target.parents if not folder.exists()]  # the deepest first
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=".building", dir=target.parent))
        try:
            yield draft / "index"
            _check(target, place, overwrite)
            with uninterrupted():
                _move(draft / "index", target, draft / "before")
            durable.sync_directory(target.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _check(target: Path, place: Path, overwrite: bool) -> None:
    there = next(folder for folder in target.parents if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is a file, in which there is no place for an index; choose another name")
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not target.is_dir():
        raise FormatError(f"{place} is a file; an index is a directory, choose another name for it")
    if not (target / manifest.MANIFEST).is_file():
        raise FormatError(f"{place} is not a polarindex index and is not replaced; choose another name")
    if not overwrite:
        raise FileExistsError(f"{place} is there already; --overwrite replaces it")
    manifest.read(target)
    with nobody_has_open(target):
        pass


def _move(made: Path, target: Path, before: Path) -> None:
    """Let a directory take its place; where that fails, what was there is there again."""
    if not os.path.lexists(target):
        os.rename(made, target)
        return
    if not any(target.iterdir()):
        target.rmdir()
        os.rename(made, target)
        return
    with nobody_has_open(target):
        os.rename(target, before)
        try:
            os.rename(made, target)
        except BaseException:
            os.rename(before, target)
            raise
