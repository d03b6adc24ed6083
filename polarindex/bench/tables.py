"""Tables of a comparison: codes alone, speeds at a recall, and what building cost.

Law:       a speed at a recall is read off a family's front (front.py); a ratio above 1 is in polarindex's favour.
Not here:  how tables are drawn (polarindex/sweep/tables.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from polarindex.bench.families import FAMILIES, FLAT_FAMILIES, POLARINDEX, is_faiss, is_peer
from polarindex.bench.front import Point, Speed, front, speed_at
from polarindex.bench.measure import speed_interval
from polarindex.bench.result import Result
from polarindex.sweep.tables import Grid

RECALLS = (0.90, 0.95, 0.99)
MODES = ("batch", "single")
COLUMNS = tuple(f"{mode}, {recall:.2f}" for mode in MODES for recall in RECALLS)
NOT_REACHED = "-"

Fronts = dict[str, list[Point]]  # family -> its front
Speeds = dict[str, list[Speed | None]]  # family -> a speed a column


def number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def sets(result: Result) -> list[Result]:
    """The run of each set: its first, which later ones of some engines only belong to."""
    return list({run["set"]: run for run in reversed(result["runs"])}.values())[::-1]


def heading(run: Result) -> str:
    quick = "; a quick run, nothing to go by" * run["quick"]
    return f"{run['set']}, {run['n']:,} × {run['dim']}, {run['metric']}{quick}"


# --- codes alone


def codes(result: Result, run: Result) -> Grid:
    """Families and their bits down; the best recall of a width is bold."""
    name = run["set"]
    cells = {(row["family"], row["engine"], row["mode"]): row for row in result["cells"] if row["set"] == name}
    builds = [row for row in result["builds"] if row["set"] == name]
    order = [*FLAT_FAMILIES, *dict.fromkeys(row["family"] for row in builds)]
    best = _best(cells)
    rows = []
    for build in sorted(builds, key=lambda row: order.index(row["family"])):
        key = build["family"], build["engine"]
        if (*key, "batch") not in cells:
            continue
        many, single = (cells[(*key, mode)] for mode in MODES)
        mark = "**" * (many["recall"] == best.get(build["engine"]))
        rows.append((
            *key,
            number(build["bytes_per_vector"]),
            f"{mark}{many['recall']:.3f}{mark}",
            f"{many['recall_low']:.3f}-{many['recall_high']:.3f}",
            _with_interval(many),
            _with_interval(single),
            number(build["add_s"] + (build["train_s"] or 0)),
        ))  # fmt: skip
    head = ("", "codes", "bytes", "recall@10", "95 %", "queries/s", "one by one", "build: CPU s")
    return Grid(heading(run), head, rows)


def _best(cells: dict[tuple[str, str, str], Result]) -> dict[str, float]:
    """The best recall of each width that several families have."""
    found: dict[str, list[float]] = {}
    for (_, engine, mode), cell in cells.items():
        if mode == "batch":
            found.setdefault(engine, []).append(cell["recall"])
    return {engine: max(recalls) for engine, recalls in found.items() if len(recalls) > 1}


def _with_interval(cell: Result) -> str:
    low, high = speed_interval(cell)
    return f"{number(cell['queries_per_s'])} ({number(low)}-{number(high)})"


# --- speeds at a recall


def fronts(result: Result, name: str, mode: str) -> Fronts:
    """The front of every family that was measured on a set, in the order of FAMILIES."""
    points: dict[str, list[Point]] = {}
    for cell in result["cells"]:
        if (cell["set"], cell["mode"]) == (name, mode):
            setting = ", ".join(f"{key} {value}" for key, value in cell["setting"].items())
            label = f"{cell['engine']}; {setting}" if setting else cell["engine"]
            points.setdefault(cell["family"], []).append(Point(cell["recall"], cell["queries_per_s"], label))
    order = [*FAMILIES, *points]
    return {family: front(points[family]) for family in dict.fromkeys(order) if family in points}


def speeds(result: Result, run: Result, *, short: bool = False) -> Grid:
    """Families down; recalls across, of batches and of single queries; then what polarindex is to the best others.

    short   for a screen: without the settings that did it, and without the best others' names
    """
    found = _speeds(result, run)
    middle = RECALLS.index(0.95)
    rows = [
        (family, *map(_shown, speeds_of), at.label if (at := speeds_of[middle]) else NOT_REACHED)
        for family, speeds_of in found.items()
    ]
    for title, counts in (("polarindex to the best peer", is_peer), ("polarindex to the best FAISS", is_faiss)):
        rows.append((title, *_ratios(found, counts), ""))
    head = ("", *COLUMNS, "batch, 0.95: which")
    title = f"{heading(run)}: queries a second at a recall@10"
    if not short:
        return Grid(title, head, rows)
    fitting = [tuple(cell.partition(" (")[0] for cell in row[:-1]) for row in rows]
    return Grid(title, tuple(name.replace(", ", "\n") for name in head[:-1]), fitting)


def standing(result: Result) -> Grid:
    """How many times the fastest other library polarindex is, a set a row."""
    rows = [(run["set"], *_ratios(_speeds(result, run), is_peer)) for run in sets(result)]
    return Grid("polarindex to the best peer", ("", *COLUMNS), rows)


def _speeds(result: Result, run: Result) -> Speeds:
    by_mode = {mode: fronts(result, run["set"], mode) for mode in MODES}
    families = dict.fromkeys(family for found in by_mode.values() for family in found)
    return {
        family: [speed_at(recall, by_mode[mode].get(family, [])) for mode in MODES for recall in RECALLS]
        for family in families
    }


def _ratios(found: Speeds, counts: Callable[[str], bool]) -> list[str]:
    """A cell a column: polarindex to the best of the families that count."""
    ours = found.get(POLARINDEX, [None] * len(COLUMNS))
    others = [{family: found[family][at] for family in found if counts(family)} for at in range(len(ours))]
    return [_ratio(*pair) for pair in zip(ours, others, strict=True)]


def _shown(speed: Speed | None) -> str:
    return NOT_REACHED if speed is None else ("≥ " if speed.at_least else "") + number(speed.value)


def _ratio(ours: Speed | None, others: dict[str, Speed | None]) -> str:
    """How many times the fastest of the others we are, and which that is."""
    best = max(((speed.value, family) for family, speed in others.items() if speed), default=None)
    if ours is None or best is None:
        return NOT_REACHED
    return f"{ours.value / best[0]:.2f}× ({best[1]})"


def builds(result: Result, run: Result) -> Grid:
    """What every index cost to build and holds."""
    rows = []
    for row in result["builds"]:
        if row["set"] == run["set"]:
            train = row["train_s"]
            rows.append((
                row["family"],
                row["engine"],
                number(row["add_s"] + (train or 0)),
                "" if train is None else number(train),
                number(row["add_wall_s"] + (row["train_wall_s"] or 0)),
                _megabytes(row["peak_bytes"]),
                _megabytes(row["held_bytes"]),
                f"{row['bytes_per_vector']:,.0f} ({row['bytes_counted']})",
            ))  # fmt: skip
    head = ("", "engine", "build: CPU s", "training", "wall s", "peak MB", "held MB", "bytes a vector")
    return Grid(f"{heading(run)}: what building cost", head, rows)


def _megabytes(value: float | None) -> str:
    return "" if value is None else number(value / 1e6)


# --- what belongs to every table


def skipped(result: Result, name: str) -> str:
    """What was not measured, and why; engines of a family with one reason are said together. Empty if nothing."""
    why: dict[tuple[str, str], list[str]] = {}
    for row in result["skipped"]:
        if row["set"] == name:
            why.setdefault((row["family"], row["why"]), []).append(row["engine"])
    said = "; ".join(_left_out(family, engines, reason) for (family, reason), engines in why.items())
    return f"Not measured: {said}." if said else ""


def _left_out(family: str, engines: list[str], reason: str) -> str:
    which = {1: "" if engines[0] == "all" else f" ({engines[0]})"}.get(len(engines), f" ({len(engines)} engines)")
    return f"{family}{which}: {reason}"


def footers(result: Result, name: str) -> Iterator[str]:
    """How a set was measured; a line each run."""
    for run in result["runs"]:
        if run["set"] == name:
            what = f"{run['only']}: " if run.get("only") else ""
            asked = f"{run['queries']:,} queries in one call and {run['singles']:,} one by one"
            yield f"{what}{machine_line(run['environment'])} Medians of {run['repeats']}, {asked}, `{run['command']}`."


def machine_line(facts: dict[str, Any]) -> str:
    """Processor, versions and date."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    caches = ", ".join(f"{name} {size}" for name, size in facts["caches"].items()) or "caches unknown"
    cores = f"{facts['cores']} core{'s' * (facts['cores'] > 1)}, {facts['threads']} used"
    return f"{facts['cpu']}, {cores}; {caches}. {versions}. {facts['date']}."
