"""polarindex warmup: compile every kernel ahead of the first search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer


def warmup(
    all_isas: Annotated[
        bool, typer.Option("--all-isas", help="For every instruction set that can run here, not only the one in use.")
    ] = False,
    bits: Annotated[
        list[int] | None, typer.Option("--bits", min=1, max=8, help="Only for codes of so many bits; may be repeated.")
    ] = None,
) -> None:
    """Compile the kernels for this machine now, so that no later call waits for them: some minutes, or one with --bits.

    Run it again after an update of polarindex or Numba. Exit code 1: there is no folder to keep them in.
    """
    from polarindex import kernels
    from polarindex.cli.screen import log, out
    from polarindex.indexes.warmup import warmup as compile_all

    done = None
    if kernels.cache_folder():
        with _bar() as show:
            done = compile_all(kernels.available() if all_isas else None, show, bits or None)
    if done is None or done.folder is None:
        log().print("kernels cannot be kept: set NUMBA_CACHE_DIR to a folder that can be written", markup=False)
        raise typer.Exit(1)
    what = f"compiled {len(done.compiled)} kernels" if done.compiled else "all kernels were there"
    out().print(f"{what} in {done.seconds:.0f} s; they are in {done.folder}", markup=False, soft_wrap=True)


@contextmanager
def _bar() -> Iterator[Callable[[int, int, str], None] | None]:
    """A bar while the block runs; None where stderr is no terminal."""
    from polarindex.cli.screen import log

    console = log()
    if not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, description=what, completed=done, total=total)
