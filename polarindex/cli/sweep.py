"""polarindex sweep: quantizers and FAISS on data sets, side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from polarindex.sweep.results import Results, Row
    from polarindex.sweep.run import Step

_FOLDER = Path("polarindex-sweep")
_LATEST = 8  # rows shown above the bar
_FILES = "Names, or HDF5 files as ann-benchmarks has them; none: both samples."


def sweep(
    datasets: Annotated[list[str] | None, typer.Argument(metavar="DATASET-or-FILE", help=_FILES)] = None,
    bits: Annotated[str, typer.Option(help="Bits a coordinate, between commas.")] = "1,2,3,4,8",
    quantizers: Annotated[str | None, typer.Option(help="Names, between commas; not given: all.")] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Recall is measured at 1 and at k.")] = 10,
    queries: Annotated[int, typer.Option(help="Use at most so many queries.")] = 500,
    rows: Annotated[int | None, typer.Option(help="Use only so many first rows; not given: all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for sweep.json, sweep.csv and sweep.png.")] = _FOLDER,
    threads: Annotated[int | None, typer.Option(help="For searches and FAISS; not given: all cores.")] = None,
    seed: Annotated[int, typer.Option(help="Of rotations and samples.")] = 0,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Measure FAISS too, if installed.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, not as tables.")] = False,
) -> None:
    """Compress data sets with every quantizer, search them, and compare recall, error, bytes and time.

    Leaves sweep.json, sweep.csv and a plot, sweep.png.
    Ctrl-C (exit code 130) leaves the rows measured so far; exit code 1: a cell failed.
    """
    from polarindex.quantizers import CELLS
    from polarindex.sweep.dataset import SAMPLES
    from polarindex.sweep.plan import Plan
    from polarindex.sweep.results import Results, environment

    plan = Plan(
        datasets=tuple(datasets or SAMPLES),
        quantizers=tuple(CELLS) if quantizers is None else _names(quantizers),
        bits=_numbers(bits),
        k=tuple(sorted({1, k})),
        rows=rows,
        queries=queries,
        seed=seed,
        peers=peers,
        threads=threads,
    )
    results = Results(plan, environment(threads))
    _measure(results, out)
    _report(results, out, json)
    if results.failures:
        raise typer.Exit(1)


def _measure(results: Results, folder: Path) -> None:
    """Run the plan, with what is done so far always on disk."""
    from polarindex.cli.screen import log
    from polarindex.sweep.peers import faiss_installed
    from polarindex.sweep.run import run

    console = log()
    if results.plan.peers and not faiss_installed():
        missing = "FAISS is not installed, so it is not compared; get it with: pip install 'polarindex[faiss]'"
        console.print(missing, markup=False)
    planned = 0
    try:
        with _live(console, max(results.plan.k)) as show:
            for step in run(results.plan):
                planned = step.total
                if step.row is not None:
                    if not results.rows:
                        (folder / "sweep.png").unlink(missing_ok=True)  # an older sweep's
                    results.rows.append(step.row)
                    results.write(folder)
                elif step.done == 0:
                    _check_writable(folder)
                show(step)
        results.complete = True
        results.write(folder)
    except KeyboardInterrupt:
        done = f"{len(results.rows)} of {planned} cells in {folder / 'sweep.json'} and sweep.csv"
        console.print(f"interrupted: {done if results.rows else 'nothing measured, nothing written'}", markup=False)
        raise typer.Exit(130) from None


def _check_writable(folder: Path) -> None:
    """Raise OSError now rather than after the first cell; what an older sweep left stays until there is a new row."""
    from tempfile import TemporaryFile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write into {folder}, choose another folder with --out: {error.strerror}") from error


def _report(results: Results, folder: Path, json: bool) -> None:
    from polarindex.cli.screen import log, out
    from polarindex.errors import MissingExtraError
    from polarindex.sweep.report import plot, remarks, tables

    if json:
        from json import dumps

        typer.echo(dumps(results.as_dict(), indent=1))
    else:
        for table in tables(results):
            out().print(table, "")
    written = ["sweep.json", "sweep.csv"]
    lines = remarks(results)
    if len(results.failures) < len(results.rows):
        try:
            plot(results, folder / "sweep.png")
            written.append("sweep.png")
        except MissingExtraError as error:
            lines.append(str(error))
    for line in [*lines, f"written to {folder}: {', '.join(written)}"]:
        log().print(line, markup=False)


@contextmanager
def _live(console: Console, k: int) -> Iterator[Callable[[Step], None]]:
    """The latest rows and a bar with the time left, while the block runs; nothing where stderr is no terminal."""
    if not console.is_terminal:
        yield lambda step: None
        return
    from rich.console import Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    latest: deque[str] = deque(maxlen=_LATEST)
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    task = bar.add_task("opening data sets", total=None)

    def show(step: Step) -> None:
        if step.row is not None:
            latest.append(_line(step.row, k))
        bar.update(task, description=f"{step.dataset}, {step.cell}", completed=step.done, total=step.total)
        live.update(Group(Text("\n".join(latest), no_wrap=True), bar))

    with Live(bar, console=console, transient=True) as live:
        yield show


def _line(row: Row, k: int) -> str:
    what = f"{row.dataset}  {row.method:20} {row.bits:4.3g} bit"
    if row.result is None:
        return f"{what}  failed: {row.error}"
    m = row.result
    return f"{what}  {m.bytes_per_vector:5} bytes  recall@{k} {m.recall[k]:.3f}  vNMSE {m.vnmse:.2g}"


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _names(text))
    except ValueError:
        raise ValueError(f"bits must be whole numbers between commas, got {text!r}") from None
