"""polarindex query: the nearest rows of an index."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polarindex.cli import options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from polarindex.cli.answers import Answers
    from polarindex.cli.reached import Reached
    from polarindex.records import Records
    from polarindex.sweep.stacked import Show, Stacked

    Blocks = Iterator[tuple[list[Any], NDArray[Any]]]

_TOGETHER = 4096  # queries that are searched at a time
_INDEX = "The directory of an index; or ray:///NAME or ray://HOST:PORT/NAME, which a Ray cluster serves."
_QUERIES = "Vectors as of build; - is stdin: .npy, or lists of numbers in JSON, one a line."
_ROW = "Search with the stored rows of these ids, between commas."
_KEY = "Search with the stored row of a key; may be repeated."
_FILTER = "Find only these: a file of ids, or of keys where the index has some, one a line; or a .npy of ids or a mask."
_OUT = "Write into a file: .npz (ids, distances, keys), .npy (ids), .csv or .jsonl; - is stdout, see --format."


def query(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help=_INDEX)],
    queries: Annotated[str | None, typer.Argument(metavar="QUERIES", help=_QUERIES)] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Results a query.")] = 10,
    row: Annotated[str | None, typer.Option("--row", "--id", metavar="IDS", help=_ROW)] = None,
    key: Annotated[list[str] | None, typer.Option("--key", help=_KEY)] = None,
    nprobe: Annotated[int | None, typer.Option(help="Of an ivf: lists to read.")] = None,
    rerank: Annotated[int | None, typer.Option(help="Score so many times k again by stored vectors.")] = None,
    filter: Annotated[str | None, typer.Option("--filter", metavar="FILE", help=_FILTER)] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Leave out no list and no code.")] = False,
    mmap: Annotated[bool, typer.Option("--mmap", help="Map the files: opens at once; rows are not checked.")] = False,
    threads: options.Threads = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help=_OUT)] = None,
    format: Annotated[str | None, typer.Option("--format", help="table, jsonl, csv, npz or npy.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each query.")] = False,
) -> None:
    """Find the k nearest rows for each query.

    On a terminal the results are a table. Distances are squared for l2; for ip and cosine they are similarities.
    """
    from polarindex.cli.answers import chosen_format, print_table, write
    from polarindex.cli.labels import records_at
    from polarindex.cli.reached import reached
    from polarindex.cli.screen import bar

    wanted = chosen_format(format, out, json)
    records = records_at(index)
    with reached(index, mmap) as held, nullcontext() if records is None else closing(records):
        options_of_search = _search_options(held, index, nprobe, rerank, exact, threads)
        if filter is not None:
            options_of_search["filter"] = _filter(filter, held, index, records)
        with (
            _questions(held, index, records, queries, row, key) as (count, blocks, rows),
            bar(beside_results=out in (None, "-")) as show,
        ):
            answers = _answers(held, index, records, blocks, rows, k, options_of_search)
            answers = _shown(answers, count, show)
            if wanted == "table":
                print_table(answers, count, held.metric)
            else:
                write(answers, wanted, out)


def _shown(answers: Iterator[Answers], count: int, show: Show) -> Iterator[Answers]:
    done = 0
    for some in answers:
        done += len(some.names)
        show(done, count, "searching", "queries")
        yield some


def _search_options(
    held: Reached, index: Path, nprobe: int | None, rerank: int | None, exact: bool, threads: int | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"num_threads": threads, "rerank": rerank, "exact_scan": exact}
    nlist = getattr(held, "nlist", None)
    if nlist is not None:
        return {**found, "nprobe": nlist if exact and nprobe is None else nprobe}
    if nprobe is not None:
        raise ValueError(f"--nprobe is of an inverted file, and {index} is a flat index: leave it out")
    return found


def _filter(file: str, held: Reached, index: Path, records: Records | None) -> Any:
    """What may be found, once; a file that names no row of the index is an error."""
    import numpy as np

    from polarindex.cli.screen import remark
    from polarindex.cli.selection import ids_in
    from polarindex.indexes.filters import IdFilter

    what = "ids" if records is None else "keys"
    named = ids_in(file, index, records, held.ids, ignore_missing=True)
    there = int(np.isin(named.ids, held.ids).sum())
    if not there:
        raise ValueError(f"{file} names no row of {index}; it is to hold {what}, one a line")
    if there < named.entries:
        remark(f"{file}: {named.entries - there:,} of {named.entries:,} {what} are not in {index}")
    return IdFilter(named.ids)


@contextmanager
def _questions(
    held: Reached,
    index: Path,
    records: Records | None,
    queries: str | None,
    row: str | None,
    key: list[str] | None,
) -> Iterator[tuple[int, Blocks, Stacked | None]]:
    """How many queries there are; these, some at a time: what each is called (its number in the file, its id, or its
    key), and the vectors; and the file's rows, if they are."""
    from polarindex.cli.rows import opened
    from polarindex.cli.selection import ids_of_keys, whole_numbers
    from polarindex.records import WITHOUT_VECTOR

    given = [name for name, value in (("QUERIES", queries), ("--row", row), ("--key", key)) if value]
    if len(given) != 1:
        raise ValueError(f"give one of QUERIES, --row and --key, got {' and '.join(given) or 'none of them'}")
    if queries is None:
        if row is not None:
            ids = whole_numbers([part.strip() for part in row.split(",")], "--row")
            names: list[Any] = ids.tolist()
        else:
            names = list(key or ())
            ids = ids_of_keys(names, index, records)
            if (ids >= WITHOUT_VECTOR).any():
                raise ValueError(f"key {names[(ids >= WITHOUT_VECTOR).argmax()]!r} has no vector in {index}")
        yield len(names), iter([(names, _stored(held, index, ids))]), None
        return
    with opened([queries], json_too=True) as rows:
        rows.check_dim(held.dim, index)
        numbers = range(len(rows))
        slices = (slice(start, start + _TOGETHER) for start in numbers[::_TOGETHER])
        yield len(rows), ((list(numbers[some]), rows[some]) for some in slices), rows


def _stored(held: Reached, index: Path, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    try:
        return held.reconstruct(ids)
    except KeyError as error:
        raise KeyError(f"{error.args[0]}: {index}") from None


def _answers(
    held: Reached,
    index: Path,
    records: Records | None,
    blocks: Blocks,
    rows: Stacked | None,
    k: int,
    search_options: dict[str, Any],
) -> Iterator[Answers]:
    from polarindex.cli.answers import Answers
    from polarindex.errors import FormatError
    from polarindex.sweep.stacked import named

    for names, vectors in blocks:
        with nullcontext() if rows is None else named(rows, names[0]):
            distances, ids = held.search(vectors, k, **search_options)
        if records is None:
            yield Answers(names, ids, distances, None)
            continue
        try:
            found = records.rows(sorted({*ids.ravel().tolist()} - {-1}))
        except KeyError as error:
            why = f"it was changed meanwhile (run the command again), or damaged (polarindex verify {index} tells)"
            raise FormatError(f"{index} has no key for a row, {error.args[0]}: {why}") from None
        yield Answers(names, ids, distances, {record.id: record for record in found})
