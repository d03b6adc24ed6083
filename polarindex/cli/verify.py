"""polarindex verify: check every block of a saved index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    path: Annotated[Path, typer.Argument(metavar="INDEX", help="The directory of an index.")],
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check a saved index: its manifest, and every block of every file against its checksum.

    Names all that is damaged, a line each; of records.sqlite also where keys and rows do not belong together. Exit
    code 1: something is.
    """
    from polarindex.cli.screen import print_json, remark, tell
    from polarindex.indexes.storage import verify as found_in

    findings = found_in(path)
    whole = None if findings else _whole(path)
    problems = [finding.problem for finding in findings] + (_of_records(path) if whole else [])
    if json:
        found = [{"path": str(f.path), "block": f.block, "problem": f.problem} for f in findings]
        others = [{"path": str(path), "block": None, "problem": problem} for problem in problems[len(findings) :]]
        print_json({"path": str(path), "whole": not problems, "findings": found + others})
    elif problems:
        for problem in problems:
            tell(problem)
    else:
        tell(f"{path} is whole: {whole}")
    if problems:
        files = len({finding.path for finding in findings}) + (len(problems) > len(findings))
        remark(f"damaged: {len(problems)} findings in {files} files of {path}")
        raise typer.Exit(1)


def _whole(path: Path) -> str:
    from polarindex.cli.places import bytes_on_disk
    from polarindex.indexes.storage import load

    return f"{load(path, mmap=True)!r}, {bytes_on_disk(path) / 1e6:,.1f} MB"


def _of_records(path: Path) -> list[str]:
    """What is wrong with the keys of an index that is whole itself."""
    import numpy as np

    from polarindex.cli.labels import records_at
    from polarindex.errors import FormatError
    from polarindex.indexes.storage import load

    try:
        records = records_at(path)
        if records is None:
            return []
        with records:
            count = sum(1 for _ in records.scan())
            without = np.setdiff1d(load(path, mmap=True).ids, records.all_ids())
    except FormatError as error:
        return [str(error)]
    if len(without):
        return [f"{path} has no key for id {without[0]} (first of {len(without)}; {count} records)"]
    return []
