"""polarindex bench: every library that is installed on one data set, side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

_FOLDER = Path("polarindex-bench")
_DATA = "A name, an HDF5 file as ann-benchmarks has them, or a file of vectors."
_SUITES = "codes: all rows scanned, no originals. lists: inverted files and graphs, by recall. Or both between commas."
_ENGINES = "Parts of names of libraries or engines, between semicolons; not given: all."
_QUICK_ROWS, _QUICK_QUERIES, _QUICK_SINGLES = 10_000, 500, 100


def bench(
    data: Annotated[str, typer.Argument(metavar="DATASET-or-FILE", help=_DATA)],
    suites: Annotated[str, typer.Option(help=_SUITES)] = "codes,lists",
    engines: Annotated[str, typer.Option(help=_ENGINES)] = "",
    metric: Annotated[str | None, typer.Option(help="l2, ip or cosine, for files of vectors; default: cosine.")] = None,
    queries_from: Annotated[str | None, typer.Option(help="A file of queries; else some rows are held out.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Use only so many first rows; not given: all.")] = None,
    queries: Annotated[int, typer.Option(min=1, help="At most so many are asked.")] = 1000,
    singles: Annotated[int, typer.Option(min=1, help="So many of them are asked one by one, too.")] = 200,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; times are their medians.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Few rows and settings, to see that it runs.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the rows that are held out as queries.")] = 0,
    out: Annotated[Path, typer.Option("--report", "--out", help="Folder for the results and bench.md.")] = _FOLDER,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, not as tables.")] = False,
) -> None:
    """Compare polarindex with FAISS, rabitqlib, ScaNN, turbovec, hnswlib and usearch on your vectors.

    Each library in a process of its own, on one thread, with the same rows, queries and metric; CPU time. Libraries
    that are not installed are named. Leaves codes.json, lists.json, bench.md and a picture. Ctrl-C (exit
    code 130) leaves them with the rounds that were measured.
    """
    from polarindex.bench.data import Source

    named = [name for part in suites.split(",") if (name := part.strip())]
    if not named or not set(named) <= {"codes", "lists"}:
        raise ValueError(f"suites must be codes, lists or both between commas, got {suites!r}")
    if quick:
        rows, queries = min(rows or _QUICK_ROWS, _QUICK_ROWS), min(queries, _QUICK_QUERIES)
        singles = min(singles, _QUICK_SINGLES)
    source = Source(data, rows, queries, min(singles, queries), metric, queries_from, seed)
    parts = tuple(part for name in engines.split(";") if (part := name.strip()))
    whole = _compared(named, source, parts, 1 if quick else repeats, quick, out)
    _shown(out, json and whole)
    raise typer.Exit(0 if whole else 130)


def _compared(
    suites: list[str], source: Any, engines: tuple[str, ...], repeats: int, quick: bool, folder: Path
) -> bool:
    """Measure into the folder's files; False where Ctrl-C ended it."""
    from polarindex.bench import report
    from polarindex.bench.compare import compare_codes, compare_lists
    from polarindex.cli.screen import log

    console = log()
    asked: dict[str, Any] = {
        "repeats": repeats, "engines": engines,
        "facts": {"quick": quick, "command": shlex.join(["polarindex", *sys.argv[1:]])},
        "say": lambda line: console.print(line, markup=False),
    }  # fmt: skip
    try:
        if "codes" in suites:
            compare_codes(source, folder / report.CODES, **asked)
        if "lists" in suites:
            compare_lists(source, folder / report.LISTS, **asked)
    except KeyboardInterrupt:
        console.print("interrupted: what is shown is of the rounds before", markup=False)
        return False
    return True


def _shown(folder: Path, json: bool) -> None:
    """What the folder's files hold, of this set and of others."""
    from polarindex.bench.report import CODES, LISTS, grids, write_report
    from polarindex.bench.result import read
    from polarindex.cli.screen import log, out
    from polarindex.sweep.tables import rich_table

    found = {name: result for name in (CODES, LISTS) if (result := read(folder / name))["runs"]}
    if not found:
        return
    if json:
        from json import dumps

        typer.echo(dumps(found, indent=1))
    else:
        for grid in grids(found):
            out().print(rich_table(grid), "")
    written, missing = write_report(found, folder)
    for line in [*missing, f"written to {folder}: {', '.join([*found, *written])}"]:
        log().print(line, markup=False)
