"""A sweep's results as one picture: recall per byte, distortion per bit beside theory, recall per speed.

Not here:  what the numbers mean (metrics.py, measure.py, theory.py); the interactive page (page.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polarindex.codebooks import normal_codebook
from polarindex.errors import MissingExtraError
from polarindex.sweep.cache import written_whole
from polarindex.sweep.panels import DARK, GREY, OTHER, STYLES, Measured, Panel, footer, front, panels
from polarindex.sweep.results import Measurement, Results, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(results: Results, path: Path) -> None:
    """Write a picture, .png or .svg: recall by bytes, distortion by bits, and by speed where there are inverted files.

    MissingExtraError where matplotlib is not installed; ValueError where no cell was measured.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("no plot without matplotlib; get it with: pip install 'polarindex[plot]'")
    with written_whole(path) as temporary:
        figure(results).savefig(temporary, dpi=150)


def figure(results: Results) -> Figure:
    """The picture as a matplotlib figure: two or three rows of axes, one column a data set."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = panels(results)
    if not shown:
        raise ValueError("no plot without a measured cell")
    k = max(results.plan.k)
    draw: list[Callable[[Any, Panel, int], None]] = [_draw_recall, _draw_distortion]
    if any(panel.of_index("ivf") for panel in shown):
        draw.append(_draw_speed)
    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        spaced = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.08)
        picture = Figure(figsize=(5.0 * len(shown) + 2.6, 4.0 * len(draw)), layout=spaced)
        axes = picture.subplots(len(draw), len(shown), squeeze=False)
        for panel, column in zip(shown, axes.T, strict=True):
            for place, draw_one in zip(column, draw, strict=True):
                draw_one(place, panel, k)
        _draw_legend(picture, shown)
        title = f"Compressed vectors: recall@{k} by bytes, distortion by bits" + ", recall by speed" * (len(draw) > 2)
        picture.suptitle(title, fontsize=13 if len(shown) > 1 else 10, weight="bold")
        picture.supxlabel("\n".join(footer(results)), fontsize=7, color=DARK)
    return picture


def _draw_recall(axes: Any, panel: Panel, k: int) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    _draw_methods(axes, panel.codes, lambda row, m: (m.bytes_per_vector, m.recall[k].mean))
    axes.set_xscale("log", base=2)
    sizes = _spread(sorted({m.bytes_per_vector for _, m in panel.codes}), 1.3)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axes.set_ylim(top=1.01)
    axes.grid(alpha=0.25)
    axes.set_title(panel.heading, fontsize=10, parse_math=False)
    alone = "" if panel.alone else "; not of codes alone in all lists"
    axes.set_xlabel(f"bytes a vector, all overhead counted (log scale){alone}")
    axes.set_ylabel(f"recall@{k}: share of the {k} true neighbours found")


def _draw_distortion(axes: Any, panel: Panel, _: int) -> None:
    widths = range(1, 9)
    lloyd_max = [normal_codebook(bits).distortion for bits in widths]
    axes.plot(widths, lloyd_max, color="black", lw=0.8, zorder=1)
    axes.plot([0, 8], [1, 4.0**-8], color="black", lw=0.8, ls=(0, (1, 2)), zorder=1)
    if panel.bound:
        axes.plot(*zip(*panel.bound.points, strict=True), color=GREY, lw=1.6, zorder=1)
    _draw_methods(axes, panel.codes, lambda row, m: (m.bits_per_dim, m.vnmse))
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=min(4.0**-8, *(m.vnmse for _, m in panel.codes)) / 2)
    axes.grid(alpha=0.25)
    axes.set_xlabel("bits a coordinate, all overhead counted")
    axes.set_ylabel("vNMSE: mean |x − x̂|² / |x|² of centred rows")


def _draw_speed(axes: Any, panel: Panel, k: int) -> None:
    """Of each method the settings, flat or inverted, at any bits, that no other of its settings beats."""
    fronts = [
        both for method in dict.fromkeys(row.method for row, _ in panel.rows)
        for both in front(((row, m) for row, m in panel.rows if row.method == method), k)
    ]  # fmt: skip
    _draw_methods(axes, fronts, lambda row, m: (m.recall[k].mean, 1000 / m.search_ms))
    axes.set_yscale("log")
    axes.grid(alpha=0.25)
    axes.set_xlabel(f"recall@{k}, the best settings of any bits")
    axes.set_ylabel("queries a second, in one call")


def _draw_methods(
    axes: Any, rows: Iterable[Measured], point: Callable[[Row, Measurement], tuple[float, float]]
) -> None:
    series: dict[str, list[tuple[float, float]]] = {}
    for row, m in rows:
        series.setdefault(row.method, []).append(point(row, m))
    for method, points in reversed(series.items()):  # what the plan names first lies on top
        axes.plot(*zip(*sorted(points), strict=True), **_line(method))


def _draw_legend(picture: Figure, shown: list[Panel]) -> None:
    from matplotlib.lines import Line2D

    methods = dict.fromkeys(row.method for panel in shown for row, _ in panel.rows)
    handles = [Line2D([], [], label=method, **_line(method)) for method in methods]
    handles.append(Line2D([], [], color="black", lw=0.8, label="Lloyd-Max, Gaussian rows"))
    handles.append(Line2D([], [], color="black", lw=0.8, ls=(0, (1, 2)), label="Shannon $4^{-b}$, Gaussian rows"))
    if any(panel.bound for panel in shown):
        handles.append(Line2D([], [], color=GREY, lw=1.6, label="Shannon, these rows' spectrum"))
    picture.legend(handles=handles, loc="outside right center", frameon=False, handlelength=3)


def _line(method: str) -> dict[str, Any]:
    style = STYLES.get(method, OTHER)
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


def _spread(values: list[float], factor: float) -> list[float]:
    """The values, ascending, but none within `factor` of the one kept before it."""
    kept: list[float] = []
    for value in values:
        if not kept or value >= factor * kept[-1]:
            kept.append(value)
    return kept
