"""Consoles and bars: results on stdout, everything about the run on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console

if TYPE_CHECKING:
    from polarindex.sweep.stacked import Show

_WIDE = 160  # where output goes to a file nothing is cut to a screen's width


class _Results(Console):
    """A console that leaves it to the command to end quietly where nobody reads on."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def out() -> Console:
    """The console for results."""
    return _Results(width=None if sys.stdout.isatty() else _WIDE, highlight=False)


def log() -> Console:
    """The console for progress and remarks."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def tell(result: str) -> None:
    """Print a line of the results."""
    out().print(result, markup=False, soft_wrap=True)


def remark(text: str) -> None:
    """Print a line about the run."""
    log().print(text, markup=False)


def print_json(value: Any, indent: int | None = 1) -> None:
    """Print a result as JSON, NumPy's numbers as numbers."""
    typer.echo(json.dumps(value, indent=indent, ensure_ascii=False, default=lambda number: number.item()))


@contextmanager
def bar(beside_results: bool = False) -> Iterator[Show]:
    """A bar with speed and time left, while the block runs; nothing where stderr is no terminal.

    beside_results   whether results are printed meanwhile, among which it would stand where they go to a terminal too
    """
    console = log()
    if not console.is_terminal or (beside_results and sys.stdout.isatty()):
        yield lambda done, total, what, unit: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed
    from rich.progress import TimeRemainingColumn as Remaining

    what, speed = TextColumn("{task.description}"), TextColumn("{task.fields[speed]}")
    times = Remaining(), Elapsed()
    with Progress(what, BarColumn(), TaskProgressColumn(), speed, *times, console=console, transient=True) as bars:
        task = bars.add_task("", total=None, speed="")

        def show(done: int, total: int, what: str, unit: str) -> None:
            now = bars.tasks[0]
            if done < now.completed:  # something else has begun
                bars.reset(task)
            speed = f"{now.speed:,.0f} {unit}/s" if unit and now.speed else ""
            bars.update(task, description=what, completed=done, total=total, speed=speed)

        yield show
