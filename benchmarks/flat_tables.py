"""The tables of codes alone in docs/benchmarks.md, from what flat.py measured; readme_tables.py puts them there."""

from __future__ import annotations

from typing import Any

from frontier_families import FLAT_FAMILIES
from frontier_tables import footer, skipped
from kernel_tables import markdown, number

Lines = list[str]
Result = dict[str, Any]


def block(result: Result | None) -> Lines:
    """Everything between the marks of the section."""
    if result is None or not result["runs"]:
        return ["Not measured yet: `python benchmarks/flat.py` writes `benchmarks/results/flat.json`."]
    lines: Lines = []
    for run in result["runs"]:
        lines += [f"**{run['set']}**, {run['n']:,} × {run['dim']}, {run['metric']}", ""]
        lines += [*codes(result, run["set"]), "", *skipped(result, run["set"]), footer(run), ""]
    return lines[:-1]


def codes(result: Result, name: str) -> Lines:
    """Families and their bits down; the best recall of a width is bold."""
    cells = {
        (cell["family"], cell["engine"], cell["mode"]): cell for cell in result["cells"] if cell["set"] == name
    }
    builds = [row for row in result["builds"] if row["set"] == name]
    order = [*FLAT_FAMILIES, *dict.fromkeys(row["family"] for row in builds)]
    found: dict[str, list[float]] = {}
    for (_, engine, mode), cell in cells.items():
        if mode == "batch":
            found.setdefault(engine, []).append(cell["recall"])
    best = {engine: max(recalls) for engine, recalls in found.items() if len(recalls) > 1}
    rows, before = [], ""
    for build in sorted(builds, key=lambda row: order.index(row["family"])):
        key = build["family"], build["engine"]
        if (*key, "batch") not in cells:
            continue
        many, single = (cells[(*key, mode)] for mode in ("batch", "single"))
        recall = f"{many['recall']:.3f}"
        rows.append([
            build["family"] if build["family"] != before else "",
            build["engine"],
            number(build["bytes_per_vector"]),
            f"**{recall}**" if many["recall"] == best.get(build["engine"]) else recall,
            number(many["queries_per_s"]),
            number(single["queries_per_s"]),
            number(build["add_s"] + (build["train_s"] or 0)),
        ])  # fmt: skip
        before = build["family"]
    return markdown(["", "codes", "bytes", "recall@10", "queries/s", "one by one", "build: CPU s"], rows)
