"""What the rows that a command is given are called: ids, keys, texts and metadata, from columns beside the vectors.

    --ids COLUMN        whole numbers are the index's ids; strings are keys
    --keys COLUMN       strings: ids then count on, and records.sqlite in the index's directory has the keys
    COLUMN              of every file of vectors, or a file of its own with a row for each vector, FILE or FILE::COLUMN

Law:       an index has a key for every row or for none.
Not here:  how columns lie in files (sweep/columns.py); the table of keys (records.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polarindex import records as table
from polarindex.cli.rows import STDIN, path_of
from polarindex.errors import FormatError
from polarindex.indexes.flat import FlatIndex
from polarindex.indexes.ivf import IVFIndex
from polarindex.indexes.opened import open as open_index
from polarindex.records import Records
from polarindex.sweep.columns import Block, Column
from polarindex.sweep.files import PART
from polarindex.sweep.stacked import Show, Stacked

_TOGETHER = 8192  # records that are added in one transaction

Ids = NDArray[np.int64]


class Labels:
    """The columns that go with rows of some files; `ids` where they were given, `keyed` where keys were."""

    def __init__(
        self, files: Sequence[str], rows: Stacked, ids: str | None, keys: str | None, text: str | None, metadata: str
    ) -> None:
        self._files, self._counts, self._n = files, rows.counts, len(rows)
        self.ids: Ids | None = None
        given = self._columns(ids) if ids is not None else []
        if given and next(given[0].blocks()).is_text:
            if keys is not None:
                raise ValueError(f"--ids {ids} holds strings, which are keys, as is --keys {keys}; give one of them")
            keys, given = ids, []
        if given:
            self.ids = np.concatenate([block.integers() for block in _all_blocks(given)])
        self.keyed = keys is not None
        self._keys = self._columns(keys) if keys is not None else []
        self._text = self._columns(text) if text is not None else None
        self._metadata = {name: self._columns(name) for name in _names(metadata)}
        if not self.keyed and (self._text or self._metadata):
            raise ValueError("texts and metadata are kept by key; name the column of keys with --keys")

    def record(self, records: Records, ids: Ids, index: str, show: Show, replace: bool = False) -> Ids:
        """Add a record for every row; returns the ids of rows before them that have the same keys.

        ValueError names a key that comes twice, or that is there already, unless it is to be replaced.
        """
        replaced, done = [], 0
        texts = (text for block in _all_blocks(self._text or []) for text in block.texts(optional=True))
        rows = zip(self._all_keys(), texts if self._text else repeat(None), self._all_metadata(), strict=False)
        while some := list(islice(rows, _TOGETHER)):
            keys = [key for key, _, _ in some]
            there = records.ids(keys, missing="ignore")
            again = [*records.keys(there[np.isin(there, ids[:done])][:1]), *_repeated(keys)]
            if again:
                raise ValueError(f"key {again[0]!r} comes twice; keys must be unique")
            if len(there) and not replace:
                known = records.keys(there[:1])[0]
                raise ValueError(f"key {known!r} is in {index} already; polarindex upsert replaces it")
            replaced.append(there)
            new = ids[done : done + len(some)]
            records.add(new, keys, [text for _, text, _ in some], [metadata for _, _, metadata in some])
            done += len(some)
            show(done, self._n, "writing keys", "rows")
        return np.concatenate([np.empty(0, np.int64), *replaced])

    def _all_keys(self) -> Iterator[str]:
        return chain.from_iterable(block.texts() for block in _all_blocks(self._keys))

    def _all_metadata(self) -> Iterator[dict[str, Any] | None]:
        if not self._metadata:
            return repeat(None)
        columns = [
            chain.from_iterable(block.jsonable() for block in _all_blocks(column)) for column in self._metadata.values()
        ]
        return (dict(zip(self._metadata, values, strict=True)) for values in zip(*columns, strict=True))

    def _columns(self, name: str) -> list[Column]:
        """The column of this name, of each file of vectors, or the one of a file of its own."""
        path, _, part = name.partition(PART)
        if Path(path).expanduser().is_file():
            column = Column(Path(path).expanduser(), part or None)
            if column.n != self._n:
                raise ValueError(f"{name} has {column.n} rows, but there are {self._n} vectors")
            return [column]
        columns = []
        for file, count in zip(self._files, self._counts, strict=True):
            if file == STDIN:
                raise FormatError(f"stdin has no columns, and there is no file {name}")
            column = Column(path_of(file), name)
            if column.n != count:
                raise ValueError(f"{name!r} has {column.n} rows in {path_of(file)}, but there are {count} vectors")
            columns.append(column)
        return columns


def records_at(folder: Path, read_only: bool = True) -> Records | None:
    """The keys of an index; None where it has none."""
    path = folder / table.FILE
    return Records(path, read_only) if path.exists() else None


@contextmanager
def writing(folder: Path) -> Iterator[tuple[FlatIndex | IVFIndex, Records | None]]:
    """An index that is open for writing, and its keys. What changed is synced when the block ends without an error."""
    try:
        with open_index(folder) as index:
            records = records_at(folder, read_only=False)
            if records is None:
                yield index, None
            else:
                with records:
                    records.reconcile(index.ids)
                    yield index, records
            index.sync()
    except OSError as error:  # of a sync: what is in memory goes with the command
        raise error.__cause__ if isinstance(error.__cause__, OSError) else error from None


def _all_blocks(columns: Sequence[Column]) -> Iterator[Block]:
    return chain.from_iterable(column.blocks() for column in columns)


def _repeated(keys: list[str]) -> list[str]:
    """The first key that is there twice, if one is."""
    seen: set[str] = set()
    return next(([key] for key in keys if key in seen or seen.add(key)), [])  # type: ignore[func-returns-value]


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))
