"""The tables of frontiers in docs/benchmarks.md, from what frontier.py measured; readme_tables.py puts them there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from frontier_families import FAMILIES, POLARINDEX, is_faiss, is_peer
from frontier_front import Point, Speed, front, speed_at
from kernel_tables import markdown, number

RECALLS = (0.90, 0.95, 0.99)
MODES = ("batch", "single")
COLUMNS = [f"{mode}, {recall:.2f}" for mode in MODES for recall in RECALLS]
IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
NOT_REACHED = "-"

Lines = list[str]
Result = dict[str, Any]
Fronts = dict[str, list[Point]]  # family -> its front
Speeds = dict[str, list[Speed | None]]  # family -> a speed a column


def block(result: Result | None) -> Lines:
    """Everything between the marks of the section."""
    if result is None or not result["runs"]:
        return ["Not measured yet: `python benchmarks/frontier.py` writes `benchmarks/results/frontier.json`."]
    lines: Lines = []
    for run in result["runs"]:
        lines += [*heading(run), "", *speeds(result, run["set"]), "", *skipped(result, run["set"])]
        lines += [f"![{run['set']}: recall and queries a second](images/{image(run['set'])})", ""]
        lines += [*builds(result, run["set"]), "", footer(run), ""]
    return lines[:-1]


def image(name: str) -> str:
    """The file of a set's picture."""
    return f"frontier-{name}.png"


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


# --- one function a part of a set's section


def heading(run: Result) -> Lines:
    lines = [f"**{run['set']}**, {run['n']:,} × {run['dim']}, {run['metric']}: queries a second at a recall@10"]
    if run["quick"]:
        lines += ["", "**A quick run on little data: it shows that the program runs, and is nothing to go by.**"]
    return lines


def summary(result: Result | None) -> Lines:
    """For a page that compares: how many times the fastest other library polarindex is, a set a row."""
    if result is None or not result["runs"]:
        return ["Not measured yet: `python benchmarks/frontier.py` writes `benchmarks/results/frontier.json`."]
    rows = [[run["set"], *ratios(found_speeds(result, run["set"]), is_peer)] for run in result["runs"]]
    dates = sorted(run["environment"]["date"][:10] for run in result["runs"])
    measured = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return [*markdown(["", *COLUMNS], rows), "", f"Measured {measured}, one thread."]


def found_speeds(result: Result, name: str) -> Speeds:
    """Of every family on a set: speeds at each recall, of batches and then of single queries."""
    by_mode = {mode: fronts(result, name, mode) for mode in MODES}
    families = dict.fromkeys(family for found in by_mode.values() for family in found)
    return {
        family: [speed_at(recall, by_mode[mode].get(family, [])) for mode in MODES for recall in RECALLS]
        for family in families
    }


def speeds(result: Result, name: str) -> Lines:
    """Families down; recalls across, of batches and of single queries; then what polarindex is to the best others."""
    found = found_speeds(result, name)
    middle = RECALLS.index(0.95)
    rows = [
        [family, *map(shown, speeds_of), speeds_of[middle].label if speeds_of[middle] else NOT_REACHED]
        for family, speeds_of in found.items()
    ]
    for title, counts in (("polarindex to the best peer", is_peer), ("polarindex to the best FAISS", is_faiss)):
        rows.append([title, *ratios(found, counts), ""])
    return markdown(["", *COLUMNS, "batch, 0.95: which"], rows)


def ratios(found: Speeds, counts: Callable[[str], bool]) -> list[str]:
    """A cell a column: polarindex to the best of the families that count."""
    ours = found.get(POLARINDEX, [None] * len(COLUMNS))
    others = [{family: found[family][at] for family in found if counts(family)} for at in range(len(ours))]
    return [ratio(*pair) for pair in zip(ours, others, strict=True)]


def shown(speed: Speed | None) -> str:
    return NOT_REACHED if speed is None else ("≥ " if speed.at_least else "") + number(speed.value)


def ratio(ours: Speed | None, others: dict[str, Speed | None]) -> str:
    """How many times the fastest of the others we are, and which that is."""
    best = max(((speed.value, family) for family, speed in others.items() if speed), default=None)
    if ours is None or best is None:
        return NOT_REACHED
    return f"{ours.value / best[0]:.2f}× ({best[1]})"


def skipped(result: Result, name: str) -> Lines:
    """What was not measured, and why; engines of a family with one reason are said together."""
    why: dict[tuple[str, str], list[str]] = {}
    for row in result["skipped"]:
        if row["set"] == name:
            why.setdefault((row["family"], row["why"]), []).append(row["engine"])
    said = [
        f"{family} ({engines[0] if len(engines) == 1 else f'{len(engines)} engines'}): {reason}"
        for (family, reason), engines in why.items()
    ]
    return [f"Not measured: {'; '.join(said)}.", ""] if said else []


def builds(result: Result, name: str) -> Lines:
    rows = []
    for row in result["builds"]:
        if row["set"] == name:
            train = row["train_s"]
            rows.append([
                row["family"],
                row["engine"],
                number(row["add_s"] + (train or 0)),
                "" if train is None else number(train),
                number(row["add_wall_s"] + (row["train_wall_s"] or 0)),
                megabytes(row["peak_bytes"]),
                megabytes(row["held_bytes"]),
                f"{row['bytes_per_vector']:,.0f} ({row['bytes_counted']})",
            ])  # fmt: skip
    head = ["", "engine", "build: CPU s", "training", "wall s", "peak MB", "held MB", "bytes a vector"]
    return markdown(head, rows)


def megabytes(value: float | None) -> str:
    return "" if value is None else number(value / 1e6)


def footer(run: Result) -> str:
    facts = run["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    caches = ", ".join(f"{name} {size}" for name, size in facts["caches"].items())
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} used; {caches or 'caches unknown'}. {versions}. "
        f"{facts['date']}, medians of {run['repeats']}, {run['queries']:,} queries in one call and {run['singles']:,} "
        f"one by one, `{run['command']}`."
    )
