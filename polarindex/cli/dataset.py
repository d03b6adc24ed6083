"""polarindex dataset: which data sets there are, and how to get them."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(help="List and download data sets.", no_args_is_help=False)


@app.callback(invoke_without_command=True)
def dataset(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list")
def list_datasets() -> None:
    """List the data sets that are known by name."""
    from rich.table import Table

    from polarindex.cli.screen import out
    from polarindex.sweep.dataset import SAMPLES, downloads_folder, load_dataset
    from polarindex.sweep.registry import REGISTRY

    table = Table("name", "metric", box=None, padding=(0, 2, 0, 0))
    for column in ("rows", "dim", "queries", "MB"):
        table.add_column(column, justify="right")
    table.add_column("where")
    for name in SAMPLES:
        sample = load_dataset(name)
        sizes = (f"{len(sample.train):,}", str(sample.dim), f"{len(sample.test):,}", "")
        table.add_row(name, sample.metric, *sizes, "comes with polarindex")
    for name, remote in REGISTRY.items():
        size = "" if remote.size is None else f"{remote.size / 1e6:,.0f}"
        here = (downloads_folder() / remote.filename).exists()
        sizes = (f"{remote.rows:,}", str(remote.dim), f"{remote.queries:,}", size)
        table.add_row(name, remote.metric, *sizes, "on this machine" if here else "")
    console = out()
    console.print(table)
    console.print(f"\nDownload one with: polarindex dataset get NAME, into {downloads_folder()}", highlight=False)


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="A name from: polarindex dataset list.")],
    force: Annotated[bool, typer.Option("--force", help="Download again what is there.")] = False,
) -> None:
    """Download a data set, or check the one that is there; an interrupted download goes on where it was."""
    import sys
    from contextlib import nullcontext

    from polarindex.sweep.dataset import SAMPLES
    from polarindex.sweep.download import download, progress_bar

    if name in SAMPLES:
        typer.echo(f"{name} comes with polarindex: there is nothing to download")
        return
    with progress_bar(name) if sys.stderr.isatty() else nullcontext() as progress:
        found = download(name, force=force, progress=progress)
    typer.echo(f"{found.path}\nsha256 {found.sha256}: {found.trust}")
