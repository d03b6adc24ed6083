"""Writing that outlives a crash: bytes are on the disk before anything names them.

Law:       when `replace` returns, the file holds the new text and will after a crash; before, it holds the old one."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError say which path it is about: a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def sync(file: IO[Any]) -> None:
    """Put what was written to a file onto the disk, and its length; not the times of its last change."""
    file.flush()
    getattr(os, "fdatasync", os.fsync)(file.fileno())


def sync_directory(folder: Path) -> None:
    """Make what was created and renamed in a folder durable, where the platform lets a folder be opened."""
    if os.name == "nt":
        return
    with naming(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace(path: Path, text: str) -> None:
    """Give a file a new text by writing another one (draft_prefix) and renaming it."""
    draft = path.with_name(f"{draft_prefix(path.name)}{uuid.uuid4().hex[:8]}")
    try:
        with naming(draft), open(draft, "x", encoding="utf-8") as out:
            out.write(text)
            sync(out)
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def replace_directory(draft: Path, target: Path) -> None:
    """Put a directory in the place of another one, if any, whole, by renaming both; then the old one is removed.

    A crash in between leaves both, one of them under the draft's name, or that with -old.
    """
    old = target.with_name(f"{draft.name}-old")
    there = target.exists()
    if there:
        target.rename(old)
    try:
        draft.rename(target)
    except BaseException:
        if there:
            old.rename(target)
        raise
    sync_directory(target.parent)
    if there:
        shutil.rmtree(old)


def draft_prefix(name: str) -> str:
    """How the names of files begin that may be left by a crash inside `replace` of this one."""
    return f".{name}."
