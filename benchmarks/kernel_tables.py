"""The tables of docs/benchmarks.md, from what kernels.py measured; report.py puts them there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from polarindex.bench.tables import number

Row = dict[str, Any]
Lines = list[str]


class Cells:
    """The measured cells, by suite and setting."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result

    def where(self, suite: str, **setting: Any) -> list[Row]:
        return [
            cell
            for cell in self.result["cells"]
            if cell["suite"] == suite and all(cell.get(key) == value for key, value in setting.items())
        ]

    def one(self, suite: str, **setting: Any) -> Row | None:
        return next(iter(self.where(suite, **setting)), None)

    def values(self, suite: str, *keys: str) -> list[tuple[Any, ...]]:
        """The settings that a suite has, each once, in the order of measuring."""
        return list(dict.fromkeys(tuple(cell.get(key) for key in keys) for cell in self.where(suite)))


def markdown(head: list[str], rows: Iterable[list[str]]) -> Lines:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def against(ours: Row | None, theirs: Row | None) -> str:
    """Our median, theirs, and how many times faster we are."""
    if ours is None or theirs is None:
        return ""
    return f"{number(ours['median'])} / {number(theirs['median'])} ({theirs['our_speedup']:.2f}×)"


def batch_name(batch: int) -> str:
    return "single" if batch == 1 else f"batch {batch}"


# --- one function a block


def peak(cells: Cells) -> Lines:
    dots = [[cell["isa"], number(cell["median"])] for cell in cells.where("peak", who="dots")]
    reads = cells.where("peak", who="reads")
    best = max(cell["median"] for cell in reads)
    shown = [
        [cell["variant"], f"**{number(best)}**" if cell["median"] == best else number(cell["median"])] for cell in reads
    ]
    return [*markdown(["instruction set", "G multiply-adds/s"], dots), "", *markdown(["reading", "GB/s"], shown)]


def scan(cells: Cells) -> Lines:
    lines: Lines = []
    for n, d in cells.values("scan", "n", "d"):
        rows = []
        for bits, isa in cells.values("scan", "bits", "isa"):
            row = [str(bits), isa]
            for batch in (64, 8, 1):
                cell = cells.one("scan", n=n, d=d, bits=bits, isa=isa, batch=batch)
                if cell is None:
                    row += ["", "", ""] if batch == 1 else ["", ""]
                elif batch > 1:
                    row += [number(cell["median"]), with_share(cell["gmacs"], cell["of_peak"])]
                else:
                    row += [
                        number(cell["median"]),
                        number(cell["gmacs"]),
                        with_share(cell["code_gbs"], cell["of_read"]),
                    ]
            rows.append(row)
        head = ["bits", "instruction set", "batch 64: ms", "G/s (of peak)", "batch 8: ms", "G/s (of peak)"]
        head += ["single: ms", "G/s", "GB/s of codes (of reading)"]
        lines += [f"{n:,} × {d}:", "", *markdown(head, rows), ""]
    return lines[:-1]


def with_share(value: float, share: float | None) -> str:
    return number(value) + (f" ({percent(share)})" if share is not None else "")


def plan(cells: Cells) -> Lines:
    lines: Lines = []
    for n, d in cells.values("plan", "n", "d"):
        rows = []
        for bits, who in cells.values("plan", "bits", "who"):
            if who == "polarindex":
                continue
            theirs = cells.where("plan", n=n, d=d, bits=bits, who=who)
            best = min((cell for cell in theirs if 1 < cell["batch"] < 64), key=lambda c: c["median"], default=None)
            row = [str(bits), f"{who}, {theirs[0]['simd']}" if "simd" in theirs[0] else who]
            for cell in (by_batch(theirs, 64), best, by_batch(theirs, 1)):
                mine = cell and cells.one("plan", n=n, d=d, bits=bits, who="polarindex", batch=cell["batch"])
                name = f", batch {cell['batch']}" if cell and cell is best else ""
                row.append(against(mine, cell) + name)
            rows.append(row)
        lines += [
            f"{n:,} × {d}:",
            "",
            *markdown(["bits", "beside", "batch 64", "their best of 4-32", "single"], rows),
            "",
        ]
    return lines[:-1]


def by_batch(cells: list[Row], batch: int) -> Row | None:
    return next((cell for cell in cells if cell["batch"] == batch), None)


def avx2(cells: Cells) -> Lines:
    ours = cells.one("avx2", who="polarindex")
    rows = [
        [f"{cell['n']:,} × {cell['d']}", str(cell["bits"]), cell["who"], against(ours, cell)]
        for cell in cells.where("avx2")
        if cell["who"] != "polarindex"
    ]
    return markdown(["rows", "bits", "beside", "batch 64"], rows)


def data(cells: Cells) -> Lines:
    rows = []
    for name, n, d, bits in cells.values("data", "data", "n", "d", "bits"):
        held = {
            (who, batch): cells.one("data", data=name, bits=bits, who=who, batch=batch)
            for who in ("polarindex", "polarindex, full scan", "turbovec")
            for batch in (64, 1)
        }
        ours, theirs = held["polarindex", 64], held["turbovec", 64]
        if ours is None:
            continue
        row = [
            f"{name}, {n:,} × {d}",
            str(bits),
            f"{ours['recall_10']:.4f}",
            f"{ours['recall_10_less_full_scan']:+.4f}",
        ]
        row.append(f"{theirs['recall_10']:.4f}" if theirs else "")
        for batch in (64, 1):
            row.append(spent(held["polarindex", batch]))
            row.append(spent(held["polarindex, full scan", batch]))
            other = held["turbovec", batch]
            row.append(f"{spent(other)} ({other['our_speedup']:.2f}×)" if other else "")
        rows.append(row)
    head = ["set", "bits", "recall", "less full scan's", "turbovec's"]
    for batch in (64, 1):
        head += [f"{batch_name(batch)}: ms", "full scan", "turbovec"]
    return markdown(head, rows)


def spent(cell: Row | None) -> str:
    return number(cell["median"]) if cell else ""


def add(cells: Cells) -> Lines:
    rows = []
    for d, bits in cells.values("add", "d", "bits"):
        ours, theirs = (cells.one("add", d=d, bits=bits, who=who) for who in ("polarindex", "turbovec"))
        other = f"{number(theirs['median'])} ({theirs['our_speedup']:.2f}×)" if theirs else ""
        rows.append([str(d), str(bits), spent(ours), other])
    return markdown(["d", "bits", "vectors/s", "turbovec"], rows)


def call(cells: Cells) -> Lines:
    return markdown(["", "µs a call"], [[cell["who"], number(cell["median"])] for cell in cells.where("call")])


def threads(cells: Cells) -> Lines:
    rows = []
    for (plan,) in cells.values("threads", "plan"):
        times = [cell["median"] for cell in cells.where("threads", plan=plan)]
        rows.append([plan, *map(number, times), f"{times[0] / times[-1]:.2f}×"])
    return markdown(["plan", "1 thread: ms a query", "2 threads", "faster"], rows)


def k(cells: Cells) -> Lines:
    return against_first(cells, "k", ("bits", "plan"), "k", "k = {:,}")


def filters(cells: Cells) -> Lines:
    return against_first(cells, "filter", ("batch", "plan"), "filter", "{}")


def against_first(cells: Cells, suite: str, down: tuple[str, ...], across: str, title: str) -> Lines:
    """Settings down and across: milliseconds in the first column, times of it in the others."""
    columns = [value for (value,) in cells.values(suite, across)]
    rows = []
    for setting in cells.values(suite, *down):
        row = [str(value) for value in setting]
        for column in columns:
            cell = cells.one(suite, **dict(zip(down, setting, strict=True)), **{across: column})
            row.append(
                "" if cell is None else spent(cell) + (f" ({cell['relative']:.2f})" if column != columns[0] else "")
            )
        rows.append(row)
    return markdown([*down, *(title.format(column) for column in columns)], rows)


def machine(cells: Cells) -> Lines:
    """What all of it was measured with, and what was not measured."""
    result = cells.result
    facts = result["environment"]
    caches = ", ".join(f"{name} {size}" for name, size in facts["caches"].items())
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} used; {caches or 'caches unknown'}. {versions}. "
        f"{facts['date']}, medians of {result['repeats']}, `{result['command']}`.",
    ]
    if result["quick"]:
        lines += ["", "**A quick run on little data: it shows that the suite runs, and is nothing to go by.**"]
    if result["skipped"]:
        lines += [
            "",
            "Not measured: " + "; ".join(f"{s['suite']}, {s['who']}: {s['why']}" for s in result["skipped"]) + ".",
        ]
    return lines


TABLES: dict[str, Callable[[Cells], Lines]] = {
    "machine": machine,
    "peak": peak,
    "scan": scan,
    "plan": plan,
    "avx2": avx2,
    "data": data,
    "add": add,
    "call": call,
    "threads": threads,
    "k": k,
    "filter": filters,
}


def block(name: str, result: dict[str, Any] | None) -> Lines:
    """The lines of a block of docs/benchmarks.md; KeyError where there is none of that name."""
    write = TABLES[name]
    if result is None:
        return ["Not measured yet: `python -m benchmarks.kernels` writes its results."]
    cells = Cells(result)
    return write(cells) if name == "machine" or cells.where(name) else ["Not measured."]
