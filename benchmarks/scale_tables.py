"""Tables of shards and of what scale costs, for docs/scale.md, of the results of shards.py and scale_sim.py."""

from __future__ import annotations

from typing import Any

from benchmarks.kernel_tables import markdown
from polarindex.bench.tables import number

NOT_YET = "Not measured yet: `python -m benchmarks.{}`."
_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))


def shards_table(result: dict[str, Any] | None) -> list[str]:
    """Batches and single queries: one process, and two shards."""
    if result is None:
        return [NOT_YET.format("shards FILE")]
    rows = []
    for cell in result["cells"]:
        what = f"{result['batch']:,} queries at once" if cell["what"] == "batch" else "one query"
        ratio = f"{cell['ratio']:.2f}" if cell["what"] == "batch" else ""
        one, shards = number(cell["one"]), number(cell["shards"])
        rows.append([what, str(cell["nprobe"]), one, shards, ratio, number(cell["more_ms"])])
    data, facts = result["dataset"], result["environment"]
    equal = "equal to the bit" if result["four_shards_equal"] else "**not equal**"
    head = ["", "nprobe", "one process, ms", "two shards, ms", "ratio", "more, ms"]
    return [
        *markdown(head, rows),
        "",
        f"{data['name']}, {data['rows']:,} × {data['dim']}, {result['bits']} bits, store={result['store']!r}, "
        f"{result['nlist']:,} lists, k = {result['k']}; medians, and medians of the ratios and differences of calls "
        "that took turns. One process has two threads, each shard one, on the same two cores, where the driver and Ray "
        f"run too. Four shards' answers: {equal}. {_machine(facts)} Reproduce: `{result['command']}`",
    ]


def costs_table(result: dict[str, Any] | None) -> list[str]:
    """Bytes, core hours and a query's costs for each size."""
    if result is None:
        return [NOT_YET.format("scale_sim")]
    models = result["modelled"]
    lines: list[tuple[str, Any]] = [
        ("codes and ids", lambda row: size(row["bytes"])),
        ("shards of 8 GiB", lambda row: f"{row['shards']:,}"),
        ("lists (4 √n)", lambda row: f"{row['nlist']:,}"),
        ("centroids, in every process", lambda row: size(row["centroid_bytes"])),
        ("learning lists, core hours at most", lambda row: number(row["learn_core_hours_at_most"])),
        ("coding all rows, core hours", lambda row: number(row["code_core_hours"])),
        ("rows that a query reads", lambda row: f"{row['rows_read']:,.0f}"),
        ("a shard's part of a query, ms", lambda row: number(row["shard_ms"])),
        ("all shards' parts, core ms", lambda row: number(row["core_ms"])),
        ("a query's bytes to all shards", lambda row: size(row["sent_bytes"])),
        ("and back", lambda row: size(row["received_bytes"])),
    ]
    head = ["", *(f"{row['rows']:,} vectors" for row in models)]
    checked = result["checked"]
    said = ", ".join(
        f"{what} {1e6 * said:.1f} µs where {1e6 * seen:.1f} were measured" for what, (said, seen) in checked.items()
    )
    return [
        *markdown(head, [[name, *map(cell, models)] for name, cell in lines]),
        "",
        f"{result['dim']} dimensions, {result['bits']} bits, no originals, nprobe = {result['assumed']['nprobe']}. "
        f"Fitted to {result['rows']:,} rows: a row is coded in {1e6 * result['code_s']:.1f} µs and "
        f"{1e9 * result['assign_s']:.2f} ns a list, a shard answers in {1e6 * result['fixed_s']:.0f} µs and "
        f"{1e9 * result['scan_s']:.2f} ns a row. Of what the fits have not seen they say: {said}. "
        f"{_machine(result['environment'])} Reproduce: `{result['command']}`",
    ]


def tails_table(result: dict[str, Any] | None) -> list[str]:
    """How long queries wait for the slowest of their shards."""
    if result is None:
        return [NOT_YET.format("scale_sim")]
    names = {"one": "one copy", "hedged": "a second when late", "both": "two at once"}
    head = ["shards", *(f"{title}: median, 99 %" for title in names.values())]
    rows = [
        [f"{row['shards']:,}", *(f"{row[f'{name}_p50']:.2f}, {row[f'{name}_p99']:.2f}" for name in names)]
        for row in result["tails"]
    ]
    assumed = result["assumed"]
    return [
        *markdown(head, rows),
        "",
        f"Milliseconds. A shard takes one of the {len(result['call_ms'])} times measured for nprobe = "
        f"{assumed['nprobe']} of {result['rows']:,} rows, and {100 * assumed['late']:g} % of calls "
        f"{assumed['slower']:g} times that. A call is late when it takes longer than {assumed['hedge_percentile']} % "
        "of them do.",
    ]


def size(count: float) -> str:
    """Bytes as people say them."""
    unit, name = next(entry for entry in _UNITS if count >= entry[0] or entry[0] == 1)
    return f"{number(count / unit)} {name}"


def _machine(facts: dict[str, Any]) -> str:
    return f"{facts['cpu']}, {facts['cores']} cores; {facts['date'][:10]}."
