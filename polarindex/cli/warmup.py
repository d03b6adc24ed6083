"""polarindex warmup: compile every kernel ahead of the first search."""

from __future__ import annotations

from typing import Annotated

import typer

from polarindex.cli import options


def warmup(
    all_isas: Annotated[
        bool, typer.Option("--all-isas", help="For every instruction set that can run here, not only the one in use.")
    ] = False,
    bits: Annotated[
        list[int] | None, typer.Option("--bits", min=1, max=8, help="Only for codes of so many bits; may be repeated.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Compile the kernels for this machine now, so that no later call waits for them: some minutes, or one with --bits.

    Run it again after an update of polarindex or Numba. Exit code 1: there is no folder to keep them in.
    """
    from polarindex import kernels
    from polarindex.cli.screen import bar, print_json, remark, tell
    from polarindex.indexes.warmup import warmup as compile_all

    done = None
    if kernels.cache_folder():
        with bar() as show:
            isas = kernels.available() if all_isas else None
            done = compile_all(isas, lambda at, total, what: show(at, total, what, ""), bits or None)
    if done is None or done.folder is None:
        remark("kernels cannot be kept: set NUMBA_CACHE_DIR to a folder that can be written")
        raise typer.Exit(1)
    if json:
        print_json({"compiled": done.compiled, "seconds": done.seconds, "folder": str(done.folder)})
        return
    what = f"compiled {len(done.compiled)} kernels" if done.compiled else "all kernels were there"
    tell(f"{what} in {done.seconds:.0f} s; they are in {done.folder}")
