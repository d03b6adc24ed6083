"""Rows that a command is told of: by id, by key, or by a file of these.

Law:       lines of text are keys where the index has keys, else ids. A .npy holds ids, or a mask over the ids in
           ascending order, which for an index that was built without ids is the order of its file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polarindex import checks
from polarindex.errors import FormatError, MissingDatasetError, first_line

if TYPE_CHECKING:
    from polarindex.records import Records

Ids = NDArray[np.int64]
_STDIN = "-"


class Selection:
    """What --ids, --keys and a file say, of which one is to be given."""

    def __init__(self, ids: str | None, keys: str | None, file: str | None) -> None:
        given = [name for name, value in (("--ids", ids), ("--keys", keys), ("--from", file)) if value is not None]
        if len(given) != 1:
            raise ValueError(f"give one of --ids, --keys and --from, got {' and '.join(given) or 'none of them'}")
        self._ids = None if ids is None else whole_numbers(_parts(ids), "--ids")
        self._keys = None if keys is None else _parts(keys)
        self._file = file

    def ids(self, index: Path, records: Records | None, ignore_missing: bool) -> Ids:
        """The ids that are meant, each once; KeyError names a key that the index does not have."""
        if self._ids is not None:
            return np.unique(self._ids)
        if self._keys is not None:
            return np.unique(ids_of_keys(self._keys, index, records, ignore_missing))
        return ids_in(str(self._file), index, records, None, ignore_missing).ids


def ids_of_keys(keys: list[str], index: Path, records: Records | None, ignore_missing: bool = False) -> Ids:
    """The ids of some keys; KeyError names one that is not there."""
    if records is None:
        raise ValueError(f"{index} has no keys; name rows by id")
    try:
        return records.ids(keys, missing="ignore" if ignore_missing else "raise")
    except KeyError:
        unknown = next(key for key in keys if key not in records)
        raise KeyError(f"key {unknown!r} is not in {index}") from None


class Named(NamedTuple):
    """What a file names: how many ids or keys, and the ids, ascending."""

    entries: int
    ids: Ids


def ids_in(file: str, index: Path, records: Records | None, all_ids: Ids | None, ignore_missing: bool) -> Named:
    """What a file names, or stdin; a mask is over `all_ids`, where one is welcome."""
    if file != _STDIN and not Path(file).expanduser().is_file():
        raise MissingDatasetError(f"no file {file}")
    if Path(file).suffix == ".npy":
        ids = np.unique(_of_array(file, all_ids))
        return Named(len(ids), ids)
    try:
        text = sys.stdin.read() if file == _STDIN else Path(file).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is not a text file in UTF-8: {error.reason} at byte {error.start}") from None
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    name = "stdin" if file == _STDIN else file
    if not lines:
        raise FormatError(f"{name} names no row")
    if records is not None:
        return Named(len(lines), np.unique(ids_of_keys(lines, index, records, ignore_missing)))
    ids = np.unique(whole_numbers(lines, name))
    return Named(len(ids), ids)


def whole_numbers(texts: list[str], name: str) -> Ids:
    """Ids (m,) of texts; ValueError names the first that is none."""
    for at, text in enumerate(texts, 1):
        if not text.isascii() or not text.isdigit() or int(text) > checks.LARGEST_ID:
            raise ValueError(f"{name}, entry {at}: wanted an id, a whole number from 0 to 2**63 - 2, got {text!r:.60}")
    return np.array([int(text) for text in texts], np.int64)


def _of_array(file: str, all_ids: Ids | None) -> Ids:
    try:
        array = np.load(Path(file).expanduser(), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise FormatError(f"{file} is not a readable .npy file: {first_line(error)}") from error
    if array.dtype != bool:
        return checks.id_array(array, file)
    if all_ids is None:
        raise ValueError(f"{file} is a mask; give ids")
    if array.shape != all_ids.shape:
        raise ValueError(f"{file} is a mask of shape {array.shape}, but the index has {len(all_ids)} rows")
    return np.sort(all_ids)[array]


def _parts(text: str) -> list[str]:
    return [part for one in text.split(",") if (part := one.strip())]
