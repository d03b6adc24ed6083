"""The table of codes at equal bytes, and what follows from it, for docs/comparison.md.

Law:       a code stands in a cell with the best of its ways that fit into the cell's bytes; one that leaves more than
           an eighth of them unused also with the best of the next size. The best that fits is bold. What is said of
           who is ahead is counted here, of the same rows.
Not here:  the measuring (equal_bytes.py)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.equal_plans import FAMILIES, LEAST, MOST, OURS, Cell, of_cell, plans
from benchmarks.kernel_tables import markdown
from polarindex.bench.tables import machine_line, number

NOT_YET = "Not measured yet: `python -m benchmarks.equal_bytes`."

Row = dict[str, Any]


def equal_table(result: Row | None) -> list[str]:
    """Sets one under another, codes down, bytes across."""
    if result is None:
        return [NOT_YET]
    lines: list[str] = []
    for data in result["sets"]:
        cells = data["cells"]
        head = [f"{bits} bit{'s' * (bits > 1)}: {size} bytes" for bits, size in cells]
        rows = [[family, *shown, build] for family, shown, build in _lines(result, data)]
        title = f"**{data['set']}**, {data['n']:,} × {data['dim']}, {data['metric']}"
        lines += [title, "", *markdown(["", *head, "build, s"], rows), ""]
    return [*lines, *_missing(result), _footer(result)]


def _lines(result: Row, data: Row) -> Iterator[tuple[str, list[str], str]]:
    """Every code that there is of a set: its cells, and what training and adding took those shown."""
    best = [max(row["recall"] for row in _rows(result, data) if row["bytes"] <= size) for size in _sizes(data)]
    for family in FAMILIES:
        chosen = [
            candidates(result, data, family, cell[1]) if family in _measured(result, data, cell, True) else []
            for cell in data["cells"]
        ]
        if not any(chosen):
            continue
        cells = []
        for rows, most, size in zip(chosen, best, _sizes(data), strict=True):
            marks = ["**" * (row["recall"] == most and row["bytes"] <= size) for row in rows]
            cells.append(
                ", ".join(f"{m}{row['recall']:.3f}{m} ({row['bytes']})" for m, row in zip(marks, rows, strict=True))
            )
        times = [row["train_s"] + row["add_s"] for rows in chosen for row in rows]
        low, high = (number(value) if value >= 1 else "0" for value in (min(times), max(times)))
        yield family, cells, low if low == high else f"{low} to {high}"


def _measured(result: Row, data: Row, cell: tuple[int, int], there: bool) -> set[str]:
    """The codes of which something that is meant for a cell was measured, or was not."""
    names = {(row["family"], row["name"]) for row in _rows(result, data)}
    meant = of_cell(Cell(*cell), data["dim"], data["metric"])
    return {plan.family for plan in meant if ((plan.family, plan.name) in names) == there}


def _sizes(data: Row) -> list[int]:
    return [size for _, size in data["cells"]]


def _rows(result: Row, data: Row) -> list[Row]:
    """What was measured of a set."""
    return [row for row in result["rows"] if row["set"] == data["set"] and "recall" in row]


def fitting(result: Row, data: Row, family: str, size: int) -> list[Row]:
    return [row for row in _rows(result, data) if row["family"] == family and row["bytes"] <= size]


def larger(result: Row, data: Row, family: str, size: int) -> list[Row]:
    """The rows of a code that take more than a cell's bytes and are compared with it none the less."""
    most = max((row["bytes"] for row in fitting(result, data, family, size)), default=0)
    if most >= LEAST * size:
        return []
    above = [row for row in _rows(result, data) if row["family"] == family and size < row["bytes"] <= MOST * size]
    return [row for row in above if row["bytes"] == min(row["bytes"] for row in above)]


def candidates(result: Row, data: Row, family: str, size: int) -> list[Row]:
    """What is shown of a code in a cell: the best that fits, and the best that is larger."""
    both = fitting(result, data, family, size), larger(result, data, family, size)
    return [max(rows, key=lambda row: (row["recall"], -row["bytes"])) for rows in both if rows]


class Standing(NamedTuple):
    """Of a cell our best code, the best of the others that fits, and the larger of the others that find more."""

    name: str  # of the set
    bits: int
    ours: Row
    peer: Row
    larger: list[Row]

    @property
    def ahead(self) -> float:
        return _recall(self.ours) - _recall(self.peer)


def standings(result: Row) -> Iterator[Standing]:
    """Of every cell that both ours and others were measured of."""
    peers = [family for family in FAMILIES if family not in OURS]
    for data in result["sets"]:
        for bits, size in data["cells"]:
            ours, others = (
                sorted((row for family in families for row in fitting(result, data, family, size)), key=_recall)
                for families in (OURS, peers)
            )
            if ours and others:
                above = [max(rows, key=_recall) for family in peers if (rows := larger(result, data, family, size))]
                more = [row for row in above if _recall(row) > _recall(ours[-1])]
                yield Standing(data["set"], bits, ours[-1], others[-1], more)


def _recall(row: Row) -> float:
    return float(row["recall"])


def equal_claims(result: Row | None) -> list[str]:
    """How far our best code is ahead of the best other in each cell, in how many it is, and what larger ones find."""
    if result is None:
        return [NOT_YET]
    found = {(one.name, one.bits): one for one in standings(result)}
    ahead = sum(one.ahead > 0 for one in found.values())
    open_cells = sum(bool(_measured(result, data, cell, False)) for data in result["sets"] for cell in data["cells"])
    rows = [
        [data["set"], *(_shown(found.get((data["set"], bits))) for bits, _ in data["cells"])] for data in result["sets"]
    ]
    head = ["", *(f"{bits} bit{'s' * (bits > 1)}" for bits, _ in result["sets"][0]["cells"])]
    larger_found = [
        f"{one.name} at {one.bits} bit{'s' * (one.bits > 1)} {row['family']} {row['recall']:.3f} ({row['bytes']})"
        for one in found.values()
        for row in one.larger
    ]
    return [
        f"A code of polarindex finds most in {ahead} of {len(found)} cells. Our best, the best other that fits, and "
        "how much more ours finds" + (f"; not every code of {open_cells} of them was measured:" if open_cells else ":"),
        "",
        *markdown(head, rows),
        *(["", f"With more bytes than the cell, and more found: {'; '.join(larger_found)}."] if larger_found else []),
    ]


def _shown(one: Standing | None) -> str:
    if one is None:
        return ""
    ours, peer = one.ours["family"].removeprefix("polarindex "), one.peer["family"]
    return f"{ours} {one.ours['recall']:.3f}, {peer} {one.peer['recall']:.3f}: {one.ahead:+.3f}"


def _missing(result: Row) -> list[str]:
    """What took too long, failed or was not measured yet; engines of a code with one reason are said together."""
    rows = {(row["set"], row["family"], row["name"]): row for row in result["rows"]}
    why: dict[tuple[str, str, str], list[str]] = {}
    for data in result["sets"]:
        for plan in plans(data["dim"], data["metric"]):
            row = rows.get((data["set"], plan.family, plan.name), {"why": "not yet"})
            if "recall" not in row:
                reason = row.get("why") or f"not trained in {row['minutes']} minutes"
                why.setdefault((data["set"], plan.family, reason), []).append(plan.name)
    said = [f"{family} of {name} ({', '.join(engines)}): {reason}" for (name, family, reason), engines in why.items()]
    return [f"Not measured: {'; '.join(said)}.", ""] if said else []


def _footer(result: Row) -> str:
    half = max((row["high"] - row["low"]) / 2 for row in result["rows"] if "recall" in row)
    return (
        f"R10@10 (bytes a row) of {result['queries']:,} queries; half the 95 % interval of a mean over queries is at "
        f"most {half:.3f}. {machine_line(result['environment'])} Reproduce: `{result['command']}`"
    )
