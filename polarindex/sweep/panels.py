"""A sweep's rows as they are shown: one panel a data set, and how each method is drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from polarindex.sweep.results import Bound, Measurement, Results, Row

_BLUE, _RED, _ORANGE, _GREEN, _PURPLE, _BROWN = "#0072b2", "#c8401e", "#d99000", "#00875f", "#8e4a9e", "#7a4a1f"
GREY, DARK = "#8c8c8c", "#4d4d4d"

Measured = tuple[Row, Measurement]


class Style(NamedTuple):
    """How one method is drawn, in matplotlib's words. A family shares its colour; open markers are its variants."""

    colour: str
    marker: str
    line: str = "-"
    open: bool = False


STYLES = {
    "eden": Style(_BLUE, "o"),
    "eden-biased": Style(_BLUE, "o", ":", True),
    "eden-refined": Style(_BLUE, "s", "-.", True),
    "drive": Style("#000000", "*", ""),
    "drive-biased": Style("#000000", "*", "", True),
    "turboquant": Style(_RED, "s"),
    "turboquant-prod": Style(_ORANGE, "s", ":", True),
    "polarquant": Style(_GREEN, "^"),
    "polarquant-published": Style(_GREEN, "v", "", True),
    "qjl": Style(_PURPLE, "D"),
    "trellis": Style(_BROWN, "h"),
    "trellis-12": Style(_BROWN, "H", ":", True),
    "spectral": Style(_BLUE, "P", "--"),
    "spectral-trellis": Style(_BROWN, "P", "--"),
    "faiss-pq": Style(GREY, "x", "--"),
    "faiss-pq-rotated": Style(DARK, "+", "-."),
}
OTHER = Style(DARK, "p")


class Panel(NamedTuple):
    """One data set's measured rows, its heading, and the least error that theory allows on it."""

    name: str
    heading: str
    rows: list[Measured]
    bound: Bound | None

    def of_index(self, index: str) -> list[Measured]:
        return [(row, m) for row, m in self.rows if row.index == index]

    @property
    def codes(self) -> list[Measured]:
        """Rows that show what codes find by themselves, without originals: of flat indexes, else of all lists.

        Where there are none, those that read the most.
        """
        bare = [(row, m) for row, m in self.rows if row.store == "none"] or self.rows
        flat = [(row, m) for row, m in bare if row.index == "flat"]
        most = max(row.nprobe for row, _ in bare)
        return flat or [(row, m) for row, m in bare if row.nprobe == most]

    @property
    def alone(self) -> bool:
        """Whether `codes` are what they should be."""
        return all(row.store == "none" and row.nprobe == row.nlist for row, _ in self.codes)


def panels(results: Results) -> list[Panel]:
    """One a data set that has a measured row, in the plan's order."""
    found = []
    for name in dict.fromkeys(row.dataset for row in results.rows):
        mine = [row for row in results.rows if row.dataset == name]
        first = mine[0]
        heading = f"{name}: {first.rows:,} × {first.dim}, {first.metric}, {first.queries:,} queries"
        measured = [(row, row.result) for row in mine if row.result is not None]
        if measured:
            found.append(Panel(name, heading, measured, results.bounds.get(name)))
    return found


def front(rows: Iterable[Measured], k: int) -> list[Measured]:
    """Those that no other one beats in both recall and speed, by rising recall."""
    best: list[Measured] = []
    for row, m in sorted(rows, key=lambda both: (-both[1].recall[k].mean, both[1].search_ms)):
        if not best or m.search_ms < best[-1][1].search_ms:
            best.append((row, m))
    return best[::-1]


def footer(results: Results) -> list[str]:
    """The machine, and the versions and seed."""
    at = results.environment
    versions = ", ".join(f"{name} {version}" for name, version in at["versions"].items())
    machine = f"{at['cpu']}, {at['cores']} cores, {at['threads']} threads, {at['system']}"
    return [machine, f"{versions}; seed {results.plan.seed}"]
