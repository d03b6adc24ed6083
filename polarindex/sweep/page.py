"""A sweep's results as one page to look closer: plots that zoom and tell, filters, and a table that sorts.

Law:       one file, with its data and the plotting library in it: it asks no network for anything.
Not here:  what stands on the page and how it moves (page.html)."""

from __future__ import annotations

import json
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from polarindex.codebooks import normal_codebook
from polarindex.errors import MissingExtraError
from polarindex.sweep.cache import written_whole
from polarindex.sweep.panels import OTHER, STYLES, Style, footer, panels
from polarindex.sweep.results import Results
from polarindex.sweep.tables import remarks

_SYMBOLS = {
    "o": "circle", "*": "star", "s": "square", "^": "triangle-up", "v": "triangle-down", "D": "diamond", "x": "x-thin",
    "+": "cross-thin", "p": "pentagon", "P": "cross", "h": "hexagon", "H": "hexagon2",
}  # fmt: skip
_DASHES = {"-": "solid", ":": "dot", "--": "dash", "-.": "dashdot", "": ""}


def write_page(results: Results, path: Path) -> None:
    """Write the page; MissingExtraError where plotly is not installed, ValueError where no cell was measured."""
    try:
        library = import_module("plotly.offline").get_plotlyjs()
    except ImportError as error:
        raise MissingExtraError("no page without plotly; get it with: pip install 'polarindex[plot]'") from error
    template = files("polarindex.sweep").joinpath("page.html").read_text(encoding="utf-8")
    data = json.dumps(_data(results)).replace("<", "\\u003c")  # no text of the data ends or opens a script
    page = template.replace("/*LIBRARY*/", library).replace("/*DATA*/null", data)
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _data(results: Results) -> dict[str, Any]:
    shown = panels(results)
    if not shown:
        raise ValueError("no page without a measured cell")
    rows = [row.flat() for panel in shown for row, _ in panel.rows]
    methods = dict.fromkeys(row["method"] for row in rows)
    return {
        "headings": {panel.name: panel.heading for panel in shown},
        "alone": {panel.name: panel.alone for panel in shown},
        "ks": sorted(set(results.plan.k)),
        "rows": rows,
        "bounds": {panel.name: panel.bound.points for panel in shown if panel.bound},
        "lloyd": [[bits, normal_codebook(bits).distortion] for bits in range(1, 9)],
        "styles": {method: _plotly_style(STYLES.get(method, OTHER)) for method in methods},
        "footer": footer(results),
        "remarks": remarks(results),
        "complete": results.complete,
    }


def _plotly_style(style: Style) -> dict[str, Any]:
    symbol = _SYMBOLS[style.marker] + ("-open" if style.open or style.marker in "x+" else "")
    return {"colour": style.colour, "symbol": symbol, "dash": _DASHES[style.line]}
