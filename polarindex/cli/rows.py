"""The vectors that a command is given: files, parts of files, and stdin, as one matrix that is read by slices.

Stdin:     .npy, or for queries also JSON; kept in a temporary file, as rows are read more than once.
Not here:  several matrices as one (sweep/stacked.py); how vectors lie in files (sweep/files.py); columns beside them
           (sweep/columns.py)."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polarindex import checks
from polarindex.errors import FormatError
from polarindex.indexes.flat import CENTRE_ROWS, FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.sweep.files import PART, Rows, open_vectors
from polarindex.sweep.stacked import Stacked

STDIN = "-"
_MAGIC = b"\x93NUMPY"


def passes(index: FlatIndex | IVFIndex, count: int) -> tuple[str, ...]:
    """What an index does in each pass over so many rows that it is given."""
    if index.kind == "ivf":
        return "finding lists", "coding"
    learned = index.info()["center_frozen"] or len(index) + count < CENTRE_ROWS
    return ("coding",) if learned else ("learning the centre", "coding")


@contextmanager
def opened(names: Sequence[str], json_too: bool = False) -> Iterator[Stacked]:
    """The rows of files, FILE::PART where one holds several matrices, and of stdin, "-".

    json_too   whether stdin may hold JSON: a list of numbers, or lists of numbers, or one of these a line.
    """
    with tempfile.TemporaryDirectory(prefix="polarindex-", ignore_cleanup_errors=True) as folder:
        parts = [_opened(name, Path(folder), json_too) for name in names]
        yield Stacked(parts)


def path_of(name: str) -> Path:
    """The file of FILE::PART."""
    return Path(name.partition(PART)[0]).expanduser()


def _opened(name: str, folder: Path, json_too: bool) -> tuple[str, Rows]:
    if name == STDIN:
        return "stdin", _of_stdin(folder, json_too)
    path, _, part = name.partition(PART)
    if Path(path).expanduser().is_dir():
        raise FormatError(f"{path} is a directory; give a file of vectors")
    return path, open_vectors(path, part or None)


def _of_stdin(folder: Path, json_too: bool) -> Rows:
    source = sys.stdin.buffer
    start = source.read(len(_MAGIC))
    if not start:
        raise FormatError(f"stdin is empty; it should hold a .npy file{' or lists of numbers' * json_too}")
    if start != _MAGIC:
        if json_too:
            return _of_json(start + source.read())
        raise FormatError("stdin must hold a .npy file, as numpy.save writes; got something else")
    path = folder / "stdin.npy"
    with open(path, "wb") as kept:
        kept.write(start)
        shutil.copyfileobj(source, kept)
    try:
        return open_vectors(path)
    except FormatError as error:
        raise FormatError(str(error).replace(str(path), "stdin")) from error


def _of_json(text: bytes) -> Rows:
    """A list of numbers, or of such lists, or one of these a line."""
    try:
        values = [json.loads(text)]
    except ValueError:
        values = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                values += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                raise FormatError(f"stdin, line {number}: wanted a list of numbers in JSON ({error})") from None
    rows: list[Any] = []
    for number, value in enumerate(values, 1):
        if not isinstance(value, list) or not value:
            raise FormatError(f"stdin, line {number}: wanted a list of numbers, got {json.dumps(value):.60}")
        rows += value if isinstance(value[0], list) else [value]
    if not rows:
        raise FormatError("stdin holds no query")
    return checks.vectors(rows, "stdin").array()
