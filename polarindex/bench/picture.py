"""Pictures of the frontiers: a set each, queries a second over recall, of batches and of single queries.

Law:       a family has one colour, marker and dash in every picture, and is told apart without the colour."""

from __future__ import annotations

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from polarindex.bench.families import HNSWLIB, POLARINDEX, PQ, RABITQ, RABITQLIB, SCANN, USEARCH
from polarindex.bench.front import Point
from polarindex.bench.result import Result
from polarindex.bench.tables import MODES, Fronts, fronts, heading, sets
from polarindex.errors import MissingExtraError
from polarindex.sweep.cache import written_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOWEST = 0.7  # recall at the left
NEAREST = 5e-4  # 1 - recall at the right: better is drawn there
TICKS = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
PANELS = {"batch": "one call with {queries:,} queries", "single": "one query a call"}
_DARK = "#4d4d4d"


class Style(NamedTuple):
    """How a family is drawn; dashes as matplotlib takes them."""

    colour: str
    marker: str
    dashes: Any = "-"
    width: float = 1.3


STYLES = {
    POLARINDEX: Style("#0072b2", "o", "-", 2.4),
    PQ: Style("black", "s", "--"),
    RABITQ: Style("#8c8c8c", "D", "--"),
    RABITQLIB: Style("#c8401e", "^", "-"),
    SCANN: Style("#00875f", "v", "-."),
    HNSWLIB: Style("#d99000", "x", ":"),
    USEARCH: Style("#8a4fb0", "+", ":"),
}


def plot(result: Result, folder: Path) -> list[str]:
    """Write frontier-SET.png of every set that was measured; their names.

    Raises MissingExtraError where matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("no picture without matplotlib; get it with: pip install 'polarindex[plot]'")
    written = []
    for run in sets(result):
        found = {mode: fronts(result, run["set"], mode) for mode in MODES}
        if any(found.values()):
            written.append(image(run["set"]))
            with written_whole(folder / written[-1]) as path:
                _save(figure(run, found), path)
    return written


def image(name: str) -> str:
    """The file of a set's picture."""
    return f"frontier-{name.replace('::', '-').replace('/', '-')}.png"


def _save(picture: Figure, path: Path) -> None:
    """A PNG of few colours, a quarter as large as with all."""
    from PIL import Image  # matplotlib needs it, too

    held = BytesIO()
    picture.savefig(held, dpi=110)
    Image.open(held).convert("RGB").quantize(64).save(path, optimize=True)


def figure(run: Result, found: dict[str, Fronts]) -> Figure:
    """The picture of one set: a panel a mode, one legend."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        picture = Figure(figsize=(11.5, 4.4), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06))
        for axes, mode in zip(picture.subplots(1, len(MODES), sharey=True), MODES, strict=True):
            draw(axes, found[mode])
            axes.set_title(PANELS[mode].format(queries=run["queries"]), fontsize=10)
        picture.axes[0].set_ylabel("queries a CPU second, one thread (log scale)")
        families = dict.fromkeys(family for mode in MODES for family in found[mode])
        handles = [Line2D([], [], label=family, **line(family)) for family in families]
        picture.legend(handles=handles, loc="outside right center", frameon=False, handlelength=3.5)
        picture.suptitle(heading(run), fontsize=12, weight="bold")
    return picture


def draw(axes: Any, found: Fronts) -> None:
    """Fronts over 1 - recall, which shrinks to the right."""
    from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1 - LOWEST, 0.9 * NEAREST)
    for family, points in reversed(found.items()):  # the first lies on top
        if seen := shown(points):
            axes.plot([place(point) for point in seen], [point.speed for point in seen], **line(family))
    axes.xaxis.set_major_locator(FixedLocator([1 - tick for tick in TICKS]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{1 - value:.3g}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(alpha=0.3, which="major")
    axes.grid(alpha=0.12, which="minor")
    axes.set_xlabel("recall@10 (log scale of what is missed)")


def shown(points: list[Point]) -> list[Point]:
    """The part of a front that is in the picture; of those beyond its right edge the fastest, drawn there."""
    inside = [point for point in points if LOWEST <= point.recall <= 1 - NEAREST]
    return inside + [point for point in points if point.recall > 1 - NEAREST][:1]


def place(point: Point) -> float:
    return max(1 - point.recall, NEAREST)


def line(family: str) -> dict[str, Any]:
    style = STYLES.get(family, Style(_DARK, "p"))
    return {
        "color": style.colour,
        "marker": style.marker,
        "linestyle": style.dashes,
        "linewidth": style.width,
        "markersize": 4.5,
    }
