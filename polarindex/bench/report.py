"""What a comparison leaves beside its results: bench.md, with every table, and a picture of the frontiers.

    codes.json, lists.json    every number of every row
    bench.md                  tables
    frontier-SET.png          queries a second over recall"""

from __future__ import annotations

from pathlib import Path

from polarindex.bench.picture import image, plot
from polarindex.bench.result import Result
from polarindex.bench.tables import builds, codes, footers, sets, skipped, speeds
from polarindex.errors import MissingExtraError
from polarindex.sweep.cache import written_whole
from polarindex.sweep.tables import Grid, markdown

CODES, LISTS = "codes.json", "lists.json"


def write_report(found: dict[str, Result], folder: Path) -> tuple[list[str], list[str]]:
    """Write bench.md and the pictures; the names of what is there, and what could not be made.

    found   results by CODES and LISTS, either or both
    """
    written, missing = ["bench.md"], []
    if LISTS in found:
        try:
            written += plot(found[LISTS], folder)
        except MissingExtraError as error:
            missing.append(str(error))
    parts = ["# Side by side"]
    if CODES in found:
        parts += ["## Codes alone, all rows scanned", *code_lines(found[CODES])]
    if LISTS in found:
        parts += ["## Inverted files and graphs", *list_lines(found[LISTS], "" if written[1:] else None)]
    with written_whole(folder / "bench.md") as path:
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return written, missing


def code_lines(result: Result) -> list[str]:
    """Paragraphs of Markdown of codes alone."""
    found = []
    for run in sets(result):
        found += [*_drawn(codes(result, run)), *_remarks(result, run)]
    return found


def list_lines(result: Result, images: str | None) -> list[str]:
    """Paragraphs of Markdown of inverted files; `images` is the folder of the pictures, None where there are none."""
    found = []
    for run in sets(result):
        found += _drawn(speeds(result, run))
        if images is not None:
            found.append(f"![{run['set']}: recall and queries a second]({images}{image(run['set'])})")
        found += [*_drawn(builds(result, run)), *_remarks(result, run)]
    return found


def grids(found: dict[str, Result]) -> list[Grid]:
    """The tables that a screen has room for."""
    shown = [codes(found[CODES], run) for run in sets(found[CODES])] if CODES in found else []
    return shown + ([speeds(found[LISTS], run, short=True) for run in sets(found[LISTS])] if LISTS in found else [])


def _drawn(grid: Grid) -> list[str]:
    return [markdown(grid)] if grid.rows else []


def _remarks(result: Result, run: Result) -> list[str]:
    left = skipped(result, run["set"])
    return [*([left] if left else []), *footers(result, run["set"])]
