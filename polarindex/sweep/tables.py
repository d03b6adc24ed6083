"""A sweep's results as tables: on the screen and as Markdown.

Not here:  what the numbers mean (metrics.py, measure.py); all of them (the CSV of results.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from polarindex.sweep.panels import Measured, Panel, panels
from polarindex.sweep.results import Measurement, Results, Row

if TYPE_CHECKING:
    from rich.table import Table

# "\n" where a heading breaks on a screen of 80 columns
_RECALL, _TIMES = ("R1\n@1", "R{k}\n@{k}"), ("build\ns", "ms/\nquery")
_FLAT = ("method", "bits", "bytes", "bits/\ndim", *_RECALL, "vNMSE", "theory", *_TIMES)
_IVF = ("method", "bits", "store", "bytes", "lists\nread", "re-\nrank", *_RECALL, *_TIMES)


class Grid(NamedTuple):
    """A table before it is drawn. A recall that is the best of its width stands between asterisks, as in Markdown."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def grids(results: Results) -> list[Grid]:
    """Of each data set a table of its flat indexes and one of its inverted files, where it has such."""
    k = max(results.plan.k)
    found = []
    for panel in panels(results):
        if flat := panel.of_index("flat"):
            found.append(_flat_grid(panel, flat, k))
        if lists := panel.of_index("ivf"):
            found.append(_ivf_grid(panel, lists, k))
    return found


def rich_table(grid: Grid) -> Table:
    """For a console; every method's name is said once."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(grid.title), title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    for place, name in enumerate(grid.header):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    before = ""
    for method, *cells in grid.rows:
        shown = (f"[bold]{cell.strip('*')}[/]" if cell.startswith("*") else cell for cell in cells)
        table.add_row(method if method != before else "", *shown)
        before = method
    return table


def markdown(grid: Grid) -> str:
    """For a page: each line has its method's name."""
    lines = [[name.replace("-\n", "").replace("\n", " ").replace("/ ", "/") for name in grid.header]]
    lines.append(["---", *["---:"] * (len(grid.header) - 1)])
    lines += map(list, grid.rows)
    return "\n".join([f"**{grid.title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


def remarks(results: Results) -> list[str]:
    """What the tables cannot show: cells that failed, and notes on how a cell was measured."""
    said = []
    for row in results.rows:
        text = f"failed, {row.error}" if row.result is None else row.result.note
        if text:
            said.append(f"{row.dataset}, {row}: {text}")
    return list(dict.fromkeys(said))


def _flat_grid(panel: Panel, rows: list[Measured], k: int) -> Grid:
    best = _best(rows)
    lines = []
    for row, m in rows:
        theory = "" if m.expected_vnmse is None else _significant(m.expected_vnmse)
        name = row.method if row.store == "none" else f"{row.method}, {row.store} x {row.rerank}"
        lines.append((
            name, f"{row.bits:.3g}", f"{m.bytes_per_vector:.0f}", f"{m.bits_per_dim:.2f}", *_recalls(row, m, k, best),
            _significant(m.vnmse), theory, f"{m.build_seconds:.2f}", f"{m.search_ms:.3f}",
        ))  # fmt: skip
    return Grid(panel.heading, _named(_FLAT, k), lines)


def _ivf_grid(panel: Panel, rows: list[Measured], k: int) -> Grid:
    lines = [
        (
            row.method, f"{row.bits:.3g}", row.store, f"{m.bytes_per_vector:.0f}", str(row.nprobe), str(row.rerank),
            *_recalls(row, m, k, {}), f"{m.build_seconds:.2f}", f"{m.search_ms:.3f}",
        )
        for row, m in rows
    ]  # fmt: skip
    return Grid(f"{panel.heading}; {rows[0][0].nlist:,} lists", _named(_IVF, k), lines)


def _recalls(row: Row, m: Measurement, k: int, best: dict[tuple[int, int], float]) -> list[str]:
    shown = []
    for at in (1, k):
        recall = m.recall.get(at)
        if recall is None:
            shown.append("")
        else:
            mark = "**" * (row.store == "none" and recall.mean == best.get((round(row.bits), at)))
            shown.append(f"{mark}{recall.mean:.3f}{mark}")
    return shown


def _best(rows: list[Measured]) -> dict[tuple[int, int], float]:
    """The best recall of codes alone at (bits, k), rounded bits."""
    best: dict[tuple[int, int], float] = {}
    for row, m in rows:
        for at, recall in m.recall.items() if row.store == "none" else ():
            best[round(row.bits), at] = max(recall.mean, best.get((round(row.bits), at), 0.0))
    return best


def _named(header: tuple[str, ...], k: int) -> tuple[str, ...]:
    return tuple(name.format(k=k) for name in header)


def _significant(value: float) -> str:
    return f"{value:.4f}" if value >= 0.001 else f"{value:.1e}"
