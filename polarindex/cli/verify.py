"""polarindex verify: check every block of a saved index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(path: Annotated[Path, typer.Argument(help="The directory of an index.")]) -> None:
    """Check a saved index: its manifest, and every block of every file against its checksum.

    Names all that is damaged, a line each. Exit code 1: something is.
    """
    from polarindex.cli.screen import log, out
    from polarindex.indexes.storage import load
    from polarindex.indexes.storage import verify as found_in

    findings = found_in(path)
    for finding in findings:
        out().print(finding.problem, markup=False, soft_wrap=True)
    if findings:
        files = len({finding.path for finding in findings})
        log().print(f"damaged: {len(findings)} findings in {files} files of {path}", markup=False)
        raise typer.Exit(1)
    index = load(path, mmap=True)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    out().print(f"{path} is whole: {index!r}, {size / 1e6:,.1f} MB", markup=False, soft_wrap=True)
