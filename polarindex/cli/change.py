"""polarindex add, upsert and remove: change an index where it lies, durably, or not at all.

Law:       when a command ends its changes are on the disk; where it fails the index is as it was. Another writer gets
           one line. Keys: records.py says in which order a table and its index are written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polarindex.cli import options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from polarindex.cli.labels import Labels
    from polarindex.indexes.flat import FlatIndex
    from polarindex.indexes.ivf import IVFIndex
    from polarindex.records import Records
    from polarindex.sweep.stacked import Stacked

_REMOVED = "A file of ids or keys, one a line, or a .npy of ids; - is stdin."


def add(
    index: options.Index,
    files: options.Files,
    ids: options.Ids = None,
    keys: options.Keys = None,
    text: options.Text = None,
    metadata: options.Metadata = "",
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Add vectors to an index. Ids count on where none are given; an index with keys wants one for every row."""
    from polarindex.cli.labels import writing
    from polarindex.cli.rows import passes
    from polarindex.cli.screen import bar
    from polarindex.sweep.stacked import named

    with _given(index, files, ids, keys, text, metadata, threads) as (rows, labels), writing(index) as (held, records):
        rows.check_dim(held.dim, index)
        if labels.keyed and records is None and len(held):
            raise ValueError(f"{index} holds rows without keys; leave out the keys, or build an index with --keys")
        if records is not None and not labels.keyed:
            raise ValueError(f"{index} has keys; name the column of keys with --keys")
        with bar() as show, named(rows):
            rows.watch(show, *passes(held, len(rows)))
            new = held.add(rows, labels.ids)
            if labels.keyed:
                with _first_keys(index) if records is None else nullcontext(records) as table:
                    labels.record(table, new, str(index), show)
                    held.sync()
    _tell(index, held, "added", len(rows), json)


def upsert(
    index: options.Index,
    files: options.Files,
    ids: options.Ids = None,
    keys: options.Keys = None,
    text: options.Text = None,
    metadata: options.Metadata = "",
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Replace the vectors of ids or keys that an index has, and add the others. A key's new row has a new id."""
    import numpy as np

    from polarindex.cli.labels import writing
    from polarindex.cli.rows import passes
    from polarindex.cli.screen import bar
    from polarindex.records import WITHOUT_VECTOR
    from polarindex.sweep.stacked import named

    with _given(index, files, ids, keys, text, metadata, threads) as (rows, labels), writing(index) as (held, records):
        rows.check_dim(held.dim, index)
        if records is None:
            if labels.keyed or labels.ids is None:
                raise ValueError(f"{index} has no keys; name the column of ids with --ids")
            before = len(held)
            with bar() as show, named(rows):
                rows.watch(show, *passes(held, len(rows)))
                held.upsert(labels.ids, rows)
            replaced = len(rows) - (len(held) - before)
        else:
            if not labels.keyed or labels.ids is not None:
                raise ValueError(f"{index} has keys; name the column of keys with --keys, and no ids")
            with bar() as show, named(rows):
                rows.watch(show, *passes(held, len(rows)))
                new = held.add(rows)
                old = np.unique(labels.record(records, new, str(index), show, replace=True))
            held.remove(old[old < WITHOUT_VECTOR])
            held.sync()
            records.remove(old)
            replaced = len(old)
    _tell(index, held, "upserted", len(rows), json, replaced=replaced)


def remove(
    index: options.Index,
    ids: Annotated[str | None, typer.Option("--ids", help="Ids, between commas.")] = None,
    keys: Annotated[str | None, typer.Option("--keys", help="Keys, between commas.")] = None,
    file: Annotated[str | None, typer.Option("--from", metavar="FILE", help=_REMOVED)] = None,
    missing: Annotated[bool, typer.Option("--ignore-missing", help="Let ids and keys be that are not there.")] = False,
    json: options.Json = False,
) -> None:
    """Remove vectors from an index by id or key. One that is not there is an error, and then nothing is removed."""
    import numpy as np

    from polarindex.cli.labels import writing
    from polarindex.cli.selection import Selection

    selection = Selection(ids, keys, file)
    with writing(index) as (held, records):
        try:
            wanted = selection.ids(index, records, missing)
            bare = _without_vector(records, wanted)
            vectors = np.setdiff1d(wanted, bare)
            count = held.remove(vectors, missing="ignore" if missing else "raise") + len(bare)
        except KeyError as error:
            raise KeyError(f"{error.args[0]}; with --ignore-missing it is passed over") from None
        held.sync()
        if records is not None:
            records.remove(wanted)
    _tell(index, held, "removed", count, json)


def _without_vector(records: Records | None, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of some ids that only records have: documents that were put without a vector from Python."""
    import numpy as np

    from polarindex.records import WITHOUT_VECTOR

    bare = ids[ids >= WITHOUT_VECTOR]
    return bare[np.isin(bare, records.all_ids())] if records is not None and len(bare) else bare[:0]


@contextmanager
def _given(
    index: Path,
    files: list[str],
    ids: str | None,
    keys: str | None,
    text: str | None,
    metadata: str,
    threads: int | None,
) -> Iterator[tuple[Stacked, Labels]]:
    """The rows of a command, and what they are called."""
    from polarindex.cli.labels import Labels
    from polarindex.cli.rows import opened
    from polarindex.indexes import manifest
    from polarindex.indexes.storage import checked_source
    from polarindex.indexes.threads import limited

    manifest.read(checked_source(index, False, None)[0])  # before anything is read from stdin
    with limited(threads), opened(files) as rows, _in_step(index):
        yield rows, Labels(files, rows, ids, keys, text, metadata)


@contextmanager
def _in_step(index: Path) -> Iterator[None]:
    """Where the block fails, let the keys be those of the rows that the index has; a crash leaves that to the next one.

    The directory is looked at anew, for a sync that fails may have been durable already.
    """
    from polarindex.cli.labels import writing
    from polarindex.records import FILE

    try:
        yield
    except BaseException:
        if (index / FILE).exists():
            with suppress(OSError, ValueError), writing(index):
                pass
        raise


@contextmanager
def _first_keys(index: Path) -> Iterator[Records]:
    """A new table for an index that is empty and open for writing; where the block fails there is none again."""
    from polarindex.records import FILE, Records

    try:
        with Records(index / FILE) as records:
            yield records
    except BaseException:
        (index / FILE).unlink(missing_ok=True)
        raise


def _tell(index: Path, held: FlatIndex | IVFIndex, what: str, count: int, json: bool, **more: int) -> None:
    from polarindex.cli.screen import print_json, tell

    if json:
        print_json({"path": str(index), what: count, **more, "n": len(held)})
    else:
        of_them = f" ({', '.join(f'{name} {number:,}' for name, number in more.items())})" if more else ""
        tell(f"{index}: {what} {count:,} rows{of_them}, now {len(held):,}")
