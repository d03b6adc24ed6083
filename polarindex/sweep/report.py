"""A sweep's results as tables on the screen and as one picture: recall per byte, distortion per bit.

Not here:  what the numbers mean (metrics.py, run.py); the files with all of them (results.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from polarindex.codebooks import normal_codebook
from polarindex.errors import MissingExtraError
from polarindex.sweep.cache import written_whole
from polarindex.sweep.results import Measurement, Results, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_BLUE, _RED, _ORANGE, _GREEN, _PURPLE = "#0072b2", "#c8401e", "#d99000", "#00875f", "#8e4a9e"
_GREY, _DARK = "#8c8c8c", "#4d4d4d"


class Style(NamedTuple):
    """How one method is drawn. A family shares its colour; open markers are its variants."""

    colour: str
    marker: str
    line: str = "-"
    open: bool = False


_STYLES = {
    "eden": Style(_BLUE, "o"),
    "eden-biased": Style(_BLUE, "o", ":", True),
    "drive": Style("black", "*", ""),
    "drive-biased": Style("black", "*", "", True),
    "turboquant": Style(_RED, "s"),
    "turboquant-prod": Style(_ORANGE, "s", ":", True),
    "polarquant": Style(_GREEN, "^"),
    "polarquant-published": Style(_GREEN, "v", "", True),
    "qjl": Style(_PURPLE, "D"),
    "faiss-pq": Style(_GREY, "x", "--"),
    "faiss-pq-rotated": Style(_DARK, "+", "-."),
}
_OTHER = Style(_DARK, "p")


class Panel(NamedTuple):
    """One data set's measured rows, and its heading."""

    name: str
    heading: str
    rows: list[tuple[Row, Measurement]]


# --- the table


def tables(results: Results) -> list[Table]:
    """One rich table a data set, methods in the plan's order; the best recall at each width is bold."""
    return [_table(panel, max(results.plan.k)) for panel in _panels(results)]


def remarks(results: Results) -> list[str]:
    """What the tables cannot show: cells that failed, and notes on how a cell was measured."""
    said = []
    for row in results.rows:
        text = f"failed, {row.error}" if row.result is None else row.result.note
        if text:
            said.append(f"{row.dataset}, {row.method} {row.bits:.3g} bit: {text}")
    return said


def _table(panel: Panel, k: int) -> Table:
    from rich.table import Table

    table = Table(title=panel.heading, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    columns = ("bits", "bytes", "bits/\ndim", "R1\n@1", f"R{k}\n@{k}", "vNMSE", "theory", "build\ns", "ms/\nquery")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    best: dict[tuple[int, int], float] = {}  # (bits, k) -> recall
    for row, m in panel.rows:
        for at, recall in m.recall.items():
            best[round(row.bits), at] = max(recall, best.get((round(row.bits), at), 0.0))
    before = ""
    for row, m in panel.rows:
        recalls = [_recall(m.recall.get(at), best.get((round(row.bits), at))) for at in (1, k)]
        theory = "" if m.expected_vnmse is None else _significant(m.expected_vnmse)
        table.add_row(
            row.method if row.method != before else "",
            f"{row.bits:.3g}", str(m.bytes_per_vector), f"{m.bits_per_dim:.2f}", *recalls,
            _significant(m.vnmse), theory, f"{m.build_seconds:.2f}", f"{m.search_ms:.3f}",
        )  # fmt: skip
        before = row.method
    return table


def _recall(value: float | None, best: float | None) -> str:
    if value is None:
        return ""
    return f"[bold]{value:.3f}[/]" if value == best else f"{value:.3f}"


def _panels(results: Results) -> list[Panel]:
    panels = []
    for name in dict.fromkeys(row.dataset for row in results.rows):
        mine = [row for row in results.rows if row.dataset == name]
        first = mine[0]
        heading = f"{name}: {first.rows:,} × {first.dim}, {first.metric}, {first.queries:,} queries"
        measured = [(row, row.result) for row in mine if row.result is not None]
        if measured:
            panels.append(Panel(name, heading, measured))
    return panels


def _significant(value: float) -> str:
    return f"{value:.4f}" if value >= 0.001 else f"{value:.1e}"


# --- the picture


def plot(results: Results, path: Path) -> None:
    """Write a PNG: above, recall against bytes a vector; below, distortion against bits a coordinate and theory.

    MissingExtraError where matplotlib is not installed; ValueError where no cell was measured.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("no plot without matplotlib; get it with: pip install 'polarindex[plot]'")
    with written_whole(path) as temporary:
        figure(results).savefig(temporary, dpi=150)


def figure(results: Results) -> Figure:
    """The picture as a matplotlib figure: two rows of axes, one column a data set."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = _panels(results)
    if not panels:
        raise ValueError("no plot without a measured cell")
    k = max(results.plan.k)
    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        spaced = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.08)
        picture = Figure(figsize=(5.0 * len(panels) + 2.2, 8.0), layout=spaced)
        axes = picture.subplots(2, len(panels), squeeze=False)
        for panel, (above, below) in zip(panels, axes.T, strict=True):
            _draw_recall(above, panel, k)
            _draw_distortion(below, panel)
        _draw_legend(picture, panels)
        title = f"Compressed vectors: recall@{k} by bytes, distortion by bits"
        picture.suptitle(title, fontsize=13, weight="bold")
        picture.supxlabel(_footer(results), fontsize=7, color=_DARK)
    return picture


def _draw_recall(axes: Any, panel: Panel, k: int) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    _draw_methods(axes, panel.rows, lambda row, m: (m.bytes_per_vector, m.recall[k]))
    axes.set_xscale("log", base=2)
    sizes = _spread(sorted({m.bytes_per_vector for _, m in panel.rows}), 1.3)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axes.set_ylim(top=1.01)
    axes.grid(alpha=0.25)
    axes.set_title(panel.heading, fontsize=10)
    axes.set_xlabel("bytes a vector, all overhead counted (log scale)")
    axes.set_ylabel(f"recall@{k}: share of the {k} true neighbours found")


def _draw_distortion(axes: Any, panel: Panel) -> None:
    widths = range(1, 9)
    lloyd_max = [normal_codebook(bits).distortion for bits in widths]
    axes.plot(widths, lloyd_max, color="black", lw=0.8, zorder=1)
    axes.plot([0, 8], [1, 4.0**-8], color="black", lw=0.8, ls=(0, (1, 2)), zorder=1)
    _draw_methods(axes, panel.rows, lambda row, m: (m.bits_per_dim, m.vnmse))
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.set_xlabel("bits a coordinate, all overhead counted")
    axes.set_ylabel("vNMSE: mean |x − x̂|² / |x|² of centred rows")


def _draw_methods(
    axes: Any, rows: Iterable[tuple[Row, Measurement]], point: Callable[[Row, Measurement], tuple[float, float]]
) -> None:
    series: dict[str, list[tuple[float, float]]] = {}
    for row, m in rows:
        series.setdefault(row.method, []).append(point(row, m))
    for method, points in reversed(series.items()):  # what the plan names first lies on top
        axes.plot(*zip(*sorted(points), strict=True), **_line(method))


def _draw_legend(picture: Figure, panels: list[Panel]) -> None:
    from matplotlib.lines import Line2D

    methods = dict.fromkeys(row.method for panel in panels for row, _ in panel.rows)
    handles = [Line2D([], [], label=method, **_line(method)) for method in methods]
    handles.append(Line2D([], [], color="black", lw=0.8, label="Lloyd-Max, Gaussian rows"))
    handles.append(Line2D([], [], color="black", lw=0.8, ls=(0, (1, 2)), label="Shannon $4^{-b}$, Gaussian rows"))
    picture.legend(handles=handles, loc="outside right center", frameon=False, handlelength=3)


def _line(method: str) -> dict[str, Any]:
    style = _STYLES.get(method, _OTHER)
    peer = style.line in ("--", "-.")
    return {
        "color": style.colour,
        "marker": style.marker,
        "linestyle": style.line,
        "markerfacecolor": "white" if style.open else style.colour,
        "markersize": 9 if style.marker == "*" else 5.5,
        "linewidth": 1.4,
        "zorder": 2 if peer else 3,
    }


def _footer(results: Results) -> str:
    at = results.environment
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    machine = f"{at['cpu']}, {at['cores']} cores, {at['threads']} threads, {at['system']}"
    return f"{machine}\n{versions}; seed {results.plan.seed}"


def _spread(values: list[int], factor: float) -> list[int]:
    """The values, ascending, but none within `factor` of the one kept before it."""
    kept: list[int] = []
    for value in values:
        if not kept or value >= factor * kept[-1]:
            kept.append(value)
    return kept
