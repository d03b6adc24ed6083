"""The figures of "How it works" as SVG: letters are text, lines and letters take the colour of what is around them.

Law:       a figure shows the data that it is given, rounded as they are kept in figures.json, and says in its
           description which those are (`digest`).
Not here:  what is shown (data.py)."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import gamma

Data = dict[str, Any]
_INK = "#010203"  # stands for the colour of text until the file is written
BLUE, ORANGE, GREEN, VIOLET, GREY = "#3b82f6", "#f97316", "#16a34a", "#a855f7", "#888888"
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_STANDALONE = '<style id="standalone">svg{color:#222;background:#fff}</style>'


def digest(found: Data) -> str:
    """What names a figure's data."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def drawn(name: str, found: Data) -> str:
    """The text of a figure's SVG file."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        picture = Figure(figsize=(8, 3.3), layout="constrained")
        _DRAW[name](picture.subplots(1, 2), found)
        out = io.StringIO()
        picture.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Description": digest(found)})
    text = out.getvalue().replace(_INK, "currentColor")
    text = text[text.index("<svg") :]
    text = re.sub(r' id="(\w+)"', rf' id="{name}-\1"', text)  # several figures may be parts of one page
    text = re.sub(r'(url\(#|href="#)(\w+)', rf"\1{name}-\2", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return text.replace(">", f">\n {_STANDALONE}", 1)


def _bars(axes: Axes, edges: list[float], counts: list[float], count: int, label: str | None = None) -> None:
    widths = np.diff(edges)
    axes.bar(edges[:-1], np.array(counts) / count / widths, widths, align="edge", color=BLUE, alpha=0.55, label=label)


def _rotation(axes: Any, found: Data) -> None:
    v = np.linspace(-5, 5, 201)
    for place, key, title in zip(axes, ("before", "after"), ("as they are", "rotated"), strict=True):
        _bars(place, found["edges"], found[key], found["count"], "coordinates")
        place.plot(v, np.exp(-(v**2) / 2) / np.sqrt(2 * np.pi), color=ORANGE, label="N(0, 1)")
        place.set(title=f"Fashion-MNIST, {title}", xlabel="coordinate × √d / length", ylim=(0, 0.8), xlim=(-5, 5))
    axes[0].set_ylabel("density")
    axes[0].legend(loc="upper right")


def _lemma(axes: Any, found: Data) -> None:
    m = [row["m"] for row in found["rows"]]
    promised = [row["promised"] or np.nan for row in found["rows"]]
    axes[0].loglog(m, promised, "--", color=GREY, label="promised by the lemma")
    axes[0].loglog(m, [row["largest"] for row in found["rows"]], "o-", color=ORANGE, ms=4, label="worst pair, measured")
    axes[0].loglog(m, [row["median"] for row in found["rows"]], "o-", color=BLUE, ms=4, label="median pair, measured")
    axes[0].set(title=f"{found['pairs']:,} distances between images", xlabel="projections m")
    axes[0].set_ylabel("relative error of a squared distance")
    axes[0].set_xticks([32, 128, 512, 2048], ["32", "128", "512", "2048"])
    axes[0].legend(loc="lower left")
    axes[0].minorticks_off()


def _signs(axes: Axes, found: Data) -> None:
    c = np.linspace(-1, 1, 201)
    axes.plot(c, np.pi / 2 - c**2, color=ORANGE, label="signs and a length (QJL): π/2 − cos²")
    axes.plot(c, 1 + c**2, color=BLUE, label="floats (Johnson-Lindenstrauss): 1 + cos²")
    axes.plot(found["cosines"], found["signs"], "o", color=ORANGE, ms=5)
    axes.plot(found["cosines"], found["floats"], "o", color=BLUE, ms=5)
    axes.set(title="Variance of an inner product (dots: measured)", xlabel="cosine", ylim=(0, 2.9))
    axes.set_ylabel("m × variance")
    axes.legend(loc="upper center")


def _projections(axes: Any, found: Data) -> None:
    _lemma(axes, found["lemma"])
    _signs(axes[1], found["signs"])


def _polar(axes: Any, found: Data) -> None:
    first, *others = found["levels"]
    _bars(axes[0], first["edges"], first["counts"], first["count"], "measured")
    axes[0].axhline(1 / (2 * np.pi), color=ORANGE, label="law")
    axes[0].set(title="Level 1: pairs of coordinates", xlabel="angle", ylabel="density", ylim=(0, 0.25))
    axes[0].set_xticks([0, np.pi, 2 * np.pi], ["0", "π", "2π"])
    axes[0].legend(loc="upper right", ncols=2)
    angle = np.linspace(0, np.pi / 2, 201)
    for level, (one, colour) in enumerate(zip(others, (BLUE, GREEN, VIOLET), strict=True), start=2):
        edges = np.array(one["edges"])
        density = np.array(one["counts"]) / one["count"] / np.diff(edges)
        axes[1].stairs(density, edges, color=colour, label=f"level {level}")
        half = 2.0 ** (level - 1)
        peak = gamma(half) / (2 ** (half - 2) * gamma(half / 2) ** 2)
        axes[1].plot(angle, peak * np.sin(2 * angle) ** (half - 1), "--", color=colour, lw=1)
    axes[1].set(title="Later levels: pairs of radii (dashed: the law)", xlabel="angle")
    axes[1].set_xticks([0, np.pi / 4, np.pi / 2], ["0", "π/4", "π/2"])
    axes[1].legend(loc="upper right")


def _radius(axes: Any, found: Data) -> None:
    for place, key, colour in zip(axes, ("relative", "absolute"), (BLUE, ORANGE), strict=True):
        place.loglog(found["lengths"], found[key], "o", color=colour, ms=2.5, alpha=0.7)
        place.set(xlabel="length r of the vector")
    axes[0].set(title="Relative error |x − x̂|² / |x|²", ylim=(1e-3, 1e-1))
    axes[1].set(title="Absolute error |x − x̂|")


def _bounds(axes: Any, found: Data) -> None:
    bits, names = found["bits"], ("random directions", "fashion-mnist-sample", "glove-sample")
    shannon = [4.0**-b for b in bits]
    for place, scale in zip(axes, (np.ones(len(bits)), np.array([4.0**b for b in bits])), strict=True):
        place.plot(bits, np.array(found["law"]) * scale, color=GREY, label="Lloyd-Max, N(0, 1)")
        place.plot(bits, np.array(shannon) * scale, "--", color=GREY, label="Shannon: 4⁻ᵇ")
        sizes, colours = (11, 7, 3.5), (GREEN, ORANGE, BLUE)  # one inside the other, as they are nearly equal
        for name, size, colour in zip(names, sizes, colours, strict=True):
            measured = np.array(found["measured"][name]["eden-biased"])
            place.plot(bits, measured * scale, "o", color=colour, ms=size, mew=0, label=f"EDEN, {name}")
            if name in found["water-filling"]:
                bound = np.array(found["water-filling"][name])
                place.plot(bits, bound * scale, ":", color=colour, label=f"bound of {name}")
        place.set_xticks(bits)
        place.set(xlabel="bits a coordinate", yscale="log")
    axes[0].set(title="Relative error")
    axes[1].set(title="times 4ᵇ: 1 is Shannon's bound")
    axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _scales(axes: Any, found: Data) -> None:
    true = np.array(found["true"])
    for place, name, title in zip(
        axes, ("turboquant", "eden"), ("fixed scale (TurboQuant, S = 1)", "unbiased scale (DRIVE, EDEN)"), strict=True
    ):
        place.plot(true[::2], found[name][::2], "o", color=BLUE, ms=2.5, alpha=0.7, label="1-bit estimates")
        place.plot(true, true, color=GREY, label="truth")
        slope = found["slopes"][name][0]
        place.plot(true, slope * true, color=ORANGE, label=f"fitted slope {slope:.3f}")
        place.set(title=title, xlabel="inner product", ylim=(-1.2, 1.2))
        place.legend(loc="upper left")
    axes[0].set_ylabel("estimate")


_DRAW: dict[str, Callable[[Any, Data], None]] = {
    "rotation": _rotation,
    "projections": _projections,
    "polar": _polar,
    "radius": _radius,
    "bounds": _bounds,
    "scales": _scales,
}
