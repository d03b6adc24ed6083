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

    from polarindex.sweep.journal import Journal
    from polarindex.sweep.plan import Plan
    from polarindex.sweep.results import Results, Row
    from polarindex.sweep.run import Step

_FOLDER = Path("polarindex-sweep")
_LATEST = 8  # rows shown above the bar
_FILES = "Names, HDF5 files as ann-benchmarks has them, or files of vectors; none: both samples."
_METRIC = "l2, ip or cosine, for files of vectors alone; not given: cosine."
_PLAN = "A .toml, .yaml or .json file with the plan, in place of all that says what is measured."
_OUT = "Folder for sweep.jsonl and the report."


def sweep(
    context: typer.Context,
    datasets: Annotated[list[str] | None, typer.Argument(metavar="DATASET-or-FILE", help=_FILES)] = None,
    bits: Annotated[str, typer.Option(help="Bits a coordinate, between commas.")] = "1,2,3,4,8",
    quantizers: Annotated[str | None, typer.Option(help="Names, between commas; not given: all.")] = None,
    index: Annotated[str, typer.Option(help="flat, ivf, or both between commas.")] = "flat",
    store: Annotated[str, typer.Option(help="Originals for re-ranking: none, float32, float16, int8.")] = "none",
    nlist: Annotated[int | None, typer.Option(help="Lists of an IVF; not given: by the number of rows.")] = None,
    nprobe: Annotated[str, typer.Option(help="Lists read, between commas; not given: 1 in 256 to all.")] = "",
    rerank: Annotated[str, typer.Option(help="Where originals are kept: re-rank so many times k.")] = "4",
    k: Annotated[int, typer.Option("--k", "-k", help="Recall is measured at 1 and at k.")] = 10,
    metric: Annotated[str | None, typer.Option(help=_METRIC)] = None,
    queries_from: Annotated[str | None, typer.Option(help="A file of queries; else some rows are held out.")] = None,
    queries: Annotated[int, typer.Option(help="At most so many; held out: at most a tenth of the rows.")] = 500,
    rows: Annotated[int | None, typer.Option(help="Use only so many first rows; not given: all.")] = None,
    plan: Annotated[Path | None, typer.Option(help=_PLAN)] = None,
    out: Annotated[Path, typer.Option("--report", "--out", help=_OUT)] = _FOLDER,
    threads: Annotated[int | None, typer.Option(help="For searches and FAISS; not given: all cores.")] = None,
    seed: Annotated[int, typer.Option(help="Of rotations, k-means and samples.")] = 0,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Measure FAISS too, if installed.")] = True,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again what the folder has.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, not as tables.")] = False,
) -> None:
    """Compress data sets with every quantizer, search them, and compare recall, error, bytes and time.

    Each measured row is kept at once in sweep.jsonl: the same command goes on where it was stopped. Leaves sweep.csv,
    sweep.md, pictures and a page, sweep.html. Ctrl-C (exit code 130) leaves a report of the rows measured so far; exit
    code 1: a cell failed.
    """
    from polarindex.sweep.dataset import SAMPLES
    from polarindex.sweep.plan import QUICK, Plan
    from polarindex.sweep.plan_files import read_plan

    if plan:
        _alone(context)
    wanted = read_plan(plan) if plan else Plan(
        datasets=tuple(datasets or SAMPLES),
        quantizers=QUICK if quantizers is None else _names(quantizers),
        bits=_numbers(bits, "bits"),
        indexes=_names(index),
        stores=_names(store),
        nlist=nlist,
        nprobe=_numbers(nprobe, "nprobe"),
        rerank=_numbers(rerank, "rerank"),
        k=tuple(sorted({1, k})),
        metric=metric,
        queries_from=queries_from,
        rows=rows,
        queries=queries,
        seed=seed,
        peers=peers,
        threads=threads,
    )  # fmt: skip
    raise typer.Exit(_swept(wanted, out, fresh, json))


def _alone(context: typer.Context) -> None:
    """Raise where --plan is not alone with what does not belong to a plan."""
    given = [name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"]  # type: ignore[union-attr]
    others = [name for name in given if name not in ("plan", "out", "fresh", "json")]
    if others:
        raise ValueError(f"a plan in a file says all of it: leave out {', '.join(others)}, or write it into the plan")


def _swept(plan: Plan, folder: Path, fresh: bool, json: bool) -> int:
    """Measure and report; the exit code. An error leaves a report of what was measured before it."""
    from polarindex.sweep.journal import Journal
    from polarindex.sweep.results import environment

    with Journal(folder, plan, environment(plan.threads), fresh=fresh) as journal:
        try:
            whole = _measure(journal)
        except Exception:
            if journal.results.rows:
                _report(journal.results, folder, False)
            raise
        _report(journal.results, folder, json and whole)
    return 130 if not whole else int(bool(journal.results.failures))


def _measure(journal: Journal) -> bool:
    """Run the plan, with what is done so far always on disk; False where Ctrl-C ended it."""
    from polarindex.cli.screen import log
    from polarindex.sweep.peers import faiss_installed
    from polarindex.sweep.run import run

    console, results = log(), journal.results
    if results.plan.peers and not faiss_installed():
        missing = "FAISS is not installed, so it is not compared; get it with: pip install 'polarindex[faiss]'"
        console.print(missing, markup=False)
    if results.rows:
        had = len(results.rows) - len(results.failures)
        console.print(f"{journal.path} has {had} cells of this plan, which are not measured again", markup=False)
    planned = 0
    try:
        with _live(console, max(results.plan.k)) as show:
            for step in run(results.plan, results):
                if step.cell and not planned:
                    _check_writable(journal.path.parent)
                planned = step.total
                if step.bound is not None:
                    journal.add_bound(step.bound)
                if step.row is not None:
                    journal.add(step.row)
                show(step)
        journal.end()
    except KeyboardInterrupt:
        done = f"{len(results.rows)} of {planned} cells in {journal.path}; the same command goes on"
        console.print(f"interrupted: {done if results.rows else 'nothing was measured'}", markup=False)
    if journal.kept and journal.kept.exists():
        console.print(f"an unfinished sweep of another plan is kept in {journal.kept}", markup=False)
    return results.complete


def _check_writable(folder: Path) -> None:
    """Raise OSError now rather than after the first cell."""
    from tempfile import TemporaryFile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write into {folder}, choose another folder with --out: {error.strerror}") from error


def _report(results: Results, folder: Path, json: bool) -> None:
    from polarindex.cli.screen import log, out
    from polarindex.sweep.report import write_report
    from polarindex.sweep.tables import grids, remarks, rich_table

    if json:
        from json import dumps

        typer.echo(dumps(results.as_dict(), indent=1))
    elif results.complete:
        for grid in grids(results):
            out().print(rich_table(grid), "")
    lines = remarks(results)
    if len(results.failures) < len(results.rows):
        written, missing = write_report(results, folder)
        lines += [*missing, f"written to {folder}: {', '.join(['sweep.jsonl', *written])}"]
    for line in lines:
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
        what = f"{step.dataset}, {step.cell or 'rows and neighbours'}"
        bar.update(task, description=what, completed=step.done, total=step.total)
        live.update(Group(Text("\n".join(latest), no_wrap=True), bar))

    with Live(bar, console=console, transient=True) as live:
        yield show


def _line(row: Row, k: int) -> str:
    what = f"{row.dataset}  {row!s:32}"
    if row.result is None:
        return f"{what}  failed: {row.error}"
    m = row.result
    return f"{what}  {m.bytes_per_vector:5.0f} bytes  recall@{k} {m.recall[k].mean:.3f}  {m.search_ms:.3g} ms"


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


def _numbers(text: str, name: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in _names(text))
    except ValueError:
        raise ValueError(f"{name} must be whole numbers between commas, got {text!r}") from None
