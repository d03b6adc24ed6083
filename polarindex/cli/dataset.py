"""polarindex dataset: which data sets there are, how to get them, and how to make one of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from polarindex.cli import options

app = typer.Typer(help="List, download and make data sets.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def dataset(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list")
def list_datasets(json: options.Json = False) -> None:
    """List the data sets that are known by name."""
    from rich.table import Table

    from polarindex.cli.screen import out, print_json, remark
    from polarindex.sweep.dataset import downloads_folder

    known = _known()
    if json:
        print_json(known)
        return
    table = Table("name", "metric", box=None, padding=(0, 2, 0, 0))
    for column in ("rows", "dim", "queries", "MB"):
        table.add_column(column, justify="right")
    table.add_column("where")
    for one in known:
        size = "" if one["bytes"] is None else f"{one['bytes'] / 1e6:,.0f}"
        sizes = (f"{one['rows']:,}", str(one["dim"]), f"{one['queries']:,}", size)
        table.add_row(one["name"], one["metric"], *sizes, one["where"])
    out().print(table)
    remark(f"\nDownload one with: polarindex dataset get NAME, into {downloads_folder()}")


def _known() -> list[dict[str, Any]]:
    """Every data set with a name; "where" is empty for one that is not on this machine."""
    from polarindex.sweep.dataset import SAMPLES, downloads_folder, load_dataset
    from polarindex.sweep.registry import REGISTRY

    known = []
    for sample in map(load_dataset, SAMPLES):
        facts = {"rows": len(sample.train), "dim": sample.dim, "queries": len(sample.test), "bytes": None}
        known.append({"name": sample.name, "metric": sample.metric, **facts, "where": "comes with polarindex"})
    for name, remote in REGISTRY.items():
        here = (downloads_folder() / remote.filename).exists()
        facts = {"rows": remote.rows, "dim": remote.dim, "queries": remote.queries, "bytes": remote.size}
        known.append({"name": name, "metric": remote.metric, **facts, "where": "on this machine" if here else ""})
    return known


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="A name from: polarindex dataset list.")],
    force: Annotated[bool, typer.Option("--force", help="Download again what is there.")] = False,
    json: options.Json = False,
) -> None:
    """Download a data set, or check the one that is there; an interrupted download goes on where it was."""
    import sys
    from contextlib import nullcontext

    from polarindex.cli.screen import print_json, tell
    from polarindex.sweep.dataset import SAMPLES, dataset_path
    from polarindex.sweep.download import download, progress_bar

    if name in SAMPLES:
        if json:
            print_json({"path": str(dataset_path(name)), "sha256": None, "trust": "comes with polarindex"})
        else:
            tell(f"{name} comes with polarindex: there is nothing to download")
        return
    with progress_bar(name) if sys.stderr.isatty() else nullcontext() as progress:
        found = download(name, force=force, progress=progress)
    if json:
        print_json({"path": str(found.path), "sha256": found.sha256, "trust": found.trust})
    else:
        tell(f"{found.path}\nsha256 {found.sha256}: {found.trust}")


@app.command("make")
def make(
    vectors: Annotated[str, typer.Argument(metavar="FILE", help="Vectors as of build, FILE or FILE::PART.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.hdf5", help="The file to write.")],
    metric: Annotated[str, typer.Option(help="l2, ip or cosine.", autocompletion=options.metrics)] = "cosine",
    queries: Annotated[int | None, typer.Option(help="At most so many; not given: 1,000, a tenth at most.")] = None,
    queries_from: Annotated[str | None, typer.Option(help="A file of queries; else some rows are held out.")] = None,
    rows: Annotated[int | None, typer.Option(help="Use only so many first rows; not given: all.")] = None,
    seed: Annotated[int, typer.Option(help="By which rows are held out.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    json: options.Json = False,
) -> None:
    """Make a data set of vectors: rows, queries that are held out, and their 100 exact neighbours.

    An HDF5 file as ann-benchmarks has them, which polarindex sweep and other programs read.
    """
    from polarindex import checks
    from polarindex.cli.screen import bar, print_json, tell
    from polarindex.errors import FormatError
    from polarindex.indexes.coding import METRICS
    from polarindex.sweep.hdf5 import write_dataset
    from polarindex.sweep.own import own_dataset

    checks.choice(metric, "metric", METRICS)
    for value, name in ((queries, "queries"), (rows, "rows")):
        if value is not None:
            checks.integer(value, name, low=1)
    if out.suffix.lower() not in (".hdf5", ".h5"):
        raise FormatError(f"{out}: a data set is an HDF5 file; give it a name that ends in .hdf5")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} is there already; --overwrite replaces it")
    with bar() as show:
        made = own_dataset(
            vectors, metric=metric, queries_from=queries_from, rows=rows, queries=queries, seed=seed,
            progress=lambda done, total: show(done, total, "finding neighbours", "pairs"),
        )  # fmt: skip
        show(0, 1, "writing", "")
        write_dataset(made, out)
    sizes = {"rows": len(made.train), "dim": made.dim, "queries": len(made.test), "neighbors": made.neighbors.shape[1]}
    if json:
        print_json({"path": str(out), "metric": metric, **sizes})
    else:
        held = f"{sizes['queries']:,} queries with {sizes['neighbors']} exact neighbours each"
        tell(f"{out}: {sizes['rows']:,} rows of {made.dim} dimensions, {metric}, {held}")
