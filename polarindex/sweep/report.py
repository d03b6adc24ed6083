"""What a sweep leaves beside its journal: a table, pages and pictures.

    sweep.csv    every number of every cell
    sweep.md     tables, with the picture
    sweep.png    and sweep.svg, the picture
    sweep.html   one page with everything in it, to look closer: it needs no network

Law:       each is whole or not there, and none is older than the rows: what cannot be made is removed, and said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from polarindex.errors import MissingExtraError
from polarindex.sweep.cache import written_whole
from polarindex.sweep.page import write_page
from polarindex.sweep.panels import footer
from polarindex.sweep.picture import plot
from polarindex.sweep.results import Results
from polarindex.sweep.tables import grids, markdown, remarks


def write_report(results: Results, folder: Path) -> tuple[list[str], list[str]]:
    """Write all of it into the folder; the names of what is there, and what could not be made.

    results   with at least one measured row
    """
    makers: dict[str, Callable[[Results, Path], None]] = {
        "sweep.csv": Results.write_csv, "sweep.png": plot, "sweep.svg": plot, "sweep.md": _write_markdown,
        "sweep.html": write_page,
    }  # fmt: skip
    written, missing = [], []
    for name, make in makers.items():
        try:
            (folder / name).unlink(missing_ok=True)
            make(results, folder / name)
            written.append(name)
        except (MissingExtraError, OSError) as error:  # on Windows nobody may remove what a program has open
            missing.append(str(error))
    return written, list(dict.fromkeys(missing))


def _write_markdown(results: Results, path: Path) -> None:
    parts = ["# Sweep", *footer(results)]
    if path.with_name("sweep.png").exists():
        parts.append("![recall and distortion](sweep.png)")
    parts += [markdown(grid) for grid in grids(results)]
    if said := remarks(results):
        parts.append("\n".join(f"* {line}" for line in said))
    with written_whole(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
