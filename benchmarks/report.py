"""Write the results in README.md and the pages of docs/ that show some, and the pictures of the frontiers.

    python -m benchmarks.report [--check]

With --check nothing is written, and the exit code says whether all show what the results hold.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.equal_tables import equal_claims, equal_table
from benchmarks.kept import names, newest
from benchmarks.kernel_tables import block, markdown
from benchmarks.published import in_order
from benchmarks.scale_tables import costs_table, shards_table, tails_table
from polarindex.bench.picture import plot
from polarindex.bench.report import code_lines, list_lines
from polarindex.bench.tables import machine_line, number, sets, standing

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
NOT_YET = "Not measured yet: `python -m benchmarks.{}`."
BLOCK = re.compile(r"(<!-- results: ([^\n]*?) -->\n).*?(<!-- end of results -->)", re.DOTALL)
METHODS = (
    "EDEN",
    "EDEN, no centre",
    "EDEN biased",
    "TurboQuant (S = 1)",
    "TurboQuant prod",
    "PolarQuant",
    "QJL",
    "FAISS PQ, 4-bit",
    "FAISS rotated PQ, 4-bit",
    "FAISS PQ, 8-bit",
)


def versions(facts: dict[str, Any]) -> str:
    """Of Python and every library that was measured."""
    return ", ".join(f"{name} {version}" for name, version in facts["versions"].items())


def table(result: dict[str, Any]) -> list[str]:
    """A Markdown table: methods down, bits across, each cell R10@10 and bytes a vector."""
    data, cells = result["dataset"], {(row["method"], row["bits"]): row for row in result["rows"]}
    bits = (1, 2, 3, 4)
    lines = [
        f"**{data['name']}**, {data['rows']:,} × {data['dim']}, {data['metric']}, {result['queries']:,} queries: "
        "R10@10 (bytes a vector, everything stored)",
        "",
        "| | " + " | ".join(f"{b} bit{'s' * (b > 1)}" for b in bits) + " |",
        "|---|" + "---|" * len(bits),
    ]
    for method in METHODS:
        shown = []
        for b in bits:
            row = cells.get((method, b))
            shown.append(f"{row['recall_10']:.3f} ({row['bytes_per_vector']:.0f})" if row else "")
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    return [*lines, "", f"Means over {result['seeds']} rotation seeds. Reproduce: `{result['command']}`"]


def lists_table(result: dict[str, Any] | None) -> list[str]:
    """R10@10 of codes relative to centroids: sets down, bits across."""
    if result is None:
        return ["Not measured yet."]
    bits = [row["bits"] for row in result["sets"][0]["results"]]
    lines = [
        "| | " + " | ".join(f"{b} bit{'s' * (b > 1)}" for b in bits) + " |",
        "|---|" + "---|" * len(bits),
    ]
    for data in result["sets"]:
        cells = [f"{row['lists']:.3f}, {row['flat']:.3f} ({row['bytes_per_vector']})" for row in data["results"]]
        lines.append(f"| {data['name']}, {data['rows']:,} × {data['dim']}, {data['metric']} | {' | '.join(cells)} |")
    facts = result["environment"]
    what = f"{facts['cpu']}; {versions(facts)}. Reproduce: `{result['command']}`"
    return [*lines, "", f"{result['queries']:,} queries. {what}"]


def spectral_lists_table(result: dict[str, Any] | None) -> list[str]:
    """R10@10 of plain and of spectral codes in lists, and how much longer their searches take."""
    if result is None:
        return [NOT_YET.format("spectral_lists")]
    rows = []
    for data in result["sets"]:
        head = f"{data['name']}, {data['rows']:,} × {data['dim']}, {data['metric']}"
        for row in data["results"]:
            plain = f"{row['plain']:.3f} ({row['plain_bytes']})" if "plain" in row else ""
            segments = ", ".join(f"{dims} × {bits}" for dims, bits in row["segments"] or [])
            ratios = [f"{row[name]:.2f}" if name in row else "" for name in ("batch_ratio", "single_ratio")]
            spectral = f"{row['spectral']:.3f} ({row['spectral_bytes']})"
            rows.append([head, f"{row['bits']:g}", plain, spectral, segments or "plain", *ratios])
            head = ""
    facts = result["environment"]
    return [
        *markdown(["", "bits", "plain", "spectral", "axes × bits", "batch", "query"], rows),
        "",
        f"R10@10 (bytes a vector, all stored), {result['nlist']} lists, all probed, {result['queries']:,} queries. The "
        "last columns are CPU time, spectral to plain, of all queries at once with all lists probed and alone with the "
        f"default nprobe. {facts['cpu']}; {versions(facts)}. Reproduce: `{result['command']}`",
    ]


_CODES = {"eden": "EDEN", "trellis": "trellis", "trellis-12": "trellis-12"}  # results may be older than the last


def spectral_rings_table(result: dict[str, Any] | None) -> list[str]:
    """R10@10 of plain and spectral codes, EDEN's and trellis', and what rings take beside EDEN's segments."""
    if result is None:
        return [NOT_YET.format("spectral_rings")]
    kinds = {"plain eden": "EDEN", "plain trellis": "trellis", "spectral eden": "spectral", "spectral trellis": "both"}
    rows = []
    for data in result["sets"]:
        head = f"{data['set']}, {data['rows']:,} × {data['dim']}, {data['metric']}"
        for cell in data["cells"]:
            found = [f"{cell[kind]['recall']:.3f} ({cell[kind]['bytes']})" if kind in cell else "" for kind in kinds]
            cut = ", ".join(f"{m} × {bits}" for m, bits in cell["spectral trellis"]["segments"] or [])
            eden, rings = (data["times"][f"{name} {cell['bits']:g} chosen"] for name in ("eden", "trellis"))
            ratios = [f"{rings[way] / eden[way]:.2f}" for way in ("batch", "single")]
            rows.append([head, f"{cell['bits']:g}", *found, cut or "plain", *ratios])
            head = ""
    facts = result["environment"]
    return [
        *markdown(["", "bits", *kinds.values(), "axes × bits", "batch", "query"], rows),
        "",
        f"R10@10 (bytes a vector, all stored) of flat indexes, {result['sets'][0]['queries']:,} queries. The last "
        "columns are CPU time with segments that are rings, to that with EDEN's, of a batch of 64 queries and of "
        f"queries alone. {facts['cpu']}; {versions(facts)}. Reproduce: `python -m {result['command']}`",
    ]


def trellis_errors_table(result: dict[str, Any] | None) -> list[str]:
    """Distortions and coded vectors a second, of normal rows."""
    if result is None:
        return [NOT_YET.format("trellis")]
    longest = max(row["dim"] for row in result["codes"])
    names = [name for name in _CODES if f"{name}_distortion" in result["codes"][0]]
    rows = []
    for row in result["codes"]:
        if row["dim"] == longest:
            errors = [number(row[f"{name}_distortion"]) for name in names]
            rates = [f"{row[f'{name}_coded_per_second']:,.0f}" for name in names]
            rows.append([str(row["bits"]), *errors, number(4.0 ** -row["bits"]), *rates])
    heads = [_CODES[name] for name in names]
    head = ["bits", *heads, "bound", *(f"{one}, vectors/s" for one in heads)]
    facts = result["environment"]
    return [
        *markdown(head, rows),
        "",
        f"Distortion of normal rows of {longest} coordinates, Shannon's bound $4^{{-b}}$, and rows that one core codes "
        f"in a second of CPU time. {facts['cpu']}; {versions(facts)}.",
    ]


def trellis_table(result: dict[str, Any] | None) -> list[str]:
    """R10@10 of EDEN's and of trellis codes, and how long searches take."""
    if result is None:
        return [NOT_YET.format("trellis")]
    names = [name for name in _CODES if f"{name}_recall" in result["sets"][0]["cells"][0]]
    rows = []
    for data in result["sets"]:
        head = f"{data['set']}, {data['rows']:,} × {data['dim']}, {data['metric']}"
        full = data["times"]["eden 4"]
        for cell in data["cells"]:
            found = [f"{cell[f'{name}_recall']:.3f} ({cell[f'{name}_bytes']})" for name in names]
            times = [data["times"][f"{name} {cell['bits']}"] for name in names[1:]]
            ratios = [f"{one[way] / full[way]:.2f}" for one in times for way in ("batch", "single")]
            rows.append([head, str(cell["bits"]), *found, *ratios])
            head = ""
        chosen = data["times"]["eden 4 chosen"]
        ratios = [f"{chosen[way] / full[way]:.2f}" for way in ("batch", "single")]
        rows.append(["", "4, first pass", *("" for _ in names), *ratios, *("" for _ in names[2:] for _ in ratios)])
    heads = [f"{way}{of}" for of in ("", ", 12")[: len(names) - 1] for way in ("batch", "query")]
    facts = result["environment"]
    return [
        *markdown(["", "bits", *(_CODES[name] for name in names), *heads], rows),
        "",
        f"R10@10 (bytes a vector, all stored) of flat indexes, {result['sets'][0]['queries']:,} queries, means of "
        f"{result['sets'][0]['seeds']} rotations. The last columns are the CPU time of a batch of 64 queries and of "
        "queries alone, divided by that of EDEN's full scan at 4 bits; the last line of a set is EDEN's scan that an "
        f"index chooses by itself. {facts['cpu']}; {versions(facts)}. Reproduce: `python -m {result['command']}`",
    ]


def factors_table(result: dict[str, Any] | None) -> list[str]:
    """R10@10 and bytes with scales and shifts of 32 and of 16 bits: sets and codes down, metrics across."""
    if result is None:
        return [NOT_YET.format("factors")]
    rows: list[list[str]] = []
    changes: list[float] = []
    for data in result["sets"]:
        head = f"{data['set']}, {data['rows']:,} × {data['dim']}"
        cells: dict[tuple[str, str, int], dict[str, Any]] = {}
        for cell in data["cells"]:
            cells.setdefault((cell["kind"], cell["quantizer"], cell["bits"]), {})[cell["metric"]] = cell
        for (kind, name, bits), by_metric in cells.items():
            some = by_metric["l2"]
            found = [f"{cell['recall_32']:.4f}, {cell['recall_16']:.4f}" for cell in by_metric.values()]
            changes += [cell["recall_16"] - cell["recall_32"] for cell in by_metric.values()]
            rows.append([head, f"{kind}, {name} {bits}", f"{some['bytes_32']:g}, {some['bytes_16']:g}", *found])
            head = ""
    facts = result["environment"]
    return [
        *markdown(["", "", "bytes", *by_metric], rows),
        "",
        f"Bytes a vector, all stored, and R10@10, `factor_bits` 32 and 16, {result['sets'][0]['queries']:,} queries; "
        f"{result['nlist']} lists, all probed. Of {len(changes)} differences the least is {min(changes):+.4f}, the "
        f"largest {max(changes):+.4f}, the mean {sum(changes) / len(changes):+.5f}. "
        f"{facts['cpu']}; {versions(facts)}. Reproduce: `python -m {result['command']}`",
    ]


def storage_table(result: dict[str, Any] | None) -> list[str]:
    """Milliseconds of what is done with files: acts and libraries down, indexes across."""
    if result is None:
        return ["Not measured yet: `python -m benchmarks.storage` measures it."]
    indexes = list(dict.fromkeys((cell["kind"], cell["rows"]) for cell in result["cells"]))
    found = {(cell["suite"], cell["who"], cell["kind"], cell["rows"]): cell for cell in result["cells"]}
    head = ["", "", *(f"{'IVF' if kind == 'ivf' else kind}, {n:,} rows" for kind, n in indexes)]
    rows = []
    for act, who in dict.fromkeys((cell["suite"], cell["who"]) for cell in result["cells"]):
        cells = [found.get((act, who, *index)) for index in indexes]
        rows.append([act, who, *(number(cell["median"]) if cell else "" for cell in cells)])
        if act == "sync":
            rows.append(["", "one fsync, beside it", *(number(cell["bare"]) if cell else "" for cell in cells)])
    skipped = "".join(f" Not measured: {name}, {why}." for name, why in result["skipped"].items())
    facts = result["environment"]
    return [
        *markdown(head, rows),
        "",
        f"Milliseconds, medians of {result['repeats']}, of a sync of five times as many.{skipped} {facts['cpu']}, "
        f"{facts['cores']} cores; {versions(facts)}. {facts['date']}. Reproduce: `{result['command']}`",
    ]


def out_of_core_table(result: dict[str, Any] | None) -> list[str]:
    """Time and peak memory of a build at once, and of one that was killed; stages across."""
    if result is None:
        return [NOT_YET.format("out_of_core")]
    stages = list(result["whole"]["stages"])
    rows = []
    names = ["at once", "begun", *["gone on with"] * (len(result["killed"]) - 1)]
    for name, run in zip(names, [result["whole"], *result["killed"]], strict=True):
        what = f"{name}, killed" if run["killed"] else name
        times = [number(run["stages"][stage]) if stage in run["stages"] else "" for stage in stages]
        rows.append([what, number(run["seconds"]), *times, f"{run['peak_bytes'] / 1e6:.0f}"])
    facts = result["environment"]
    return [
        *markdown(["build", "s", *(f"{stage}, s" for stage in stages), "peak, MB"], rows),
        "",
        f"{result['rows']:,} rows, {result['source_bytes'] / 1e9:.2f} GB, into {result['num_shards']} shards, "
        f"{result['index_bytes'] / 1e6:.0f} MB, with memory={result['memory']:,}. Both indexes are equal to the byte. "
        f"{facts['cpu']}, {facts['cores']} cores, {result['threads'] or 'all'} used, the machine's load before it "
        f"{result['load']:.1f}; {versions(facts)}. {facts['date']}. Reproduce: `{result['command']}`",
    ]


def claims_table(result: dict[str, Any] | None) -> list[str]:
    """The papers' claims: printed and measured figures, and whether they agree."""
    if result is None:
        return ["Not tried yet: `python -m benchmarks.claims` tries them."]
    signs, rows = {"=": "", "<=": "≤ ", ">=": "≥ "}, []
    for claim in result["claims"]:
        head = [claim["source"], claim["says"]]
        for figure, agrees in zip(claim["figures"], claim["reproduced"], strict=True):
            printed, ours = f"{signs[figure['relation']]}{figure['printed']:.4g}", f"{figure['ours']:.4g}"
            rows.append([*head, figure["what"], printed, ours, "yes" if agrees else "**no**"])
            head = ["", ""]
        if not claim["figures"]:
            rows.append([*head, "", "", "", f"not tried: {claim['not_tried']}"])
        rows.append(["", f"*{claim['setup']}*" + (f". {claim['remark']}" if claim["remark"] else ""), "", "", "", ""])
    facts = result["environment"]
    return [
        *markdown(["paper", "claim", "figure", "printed", "here", "reproduced"], rows),
        "",
        f"{facts['cpu']}; {versions(facts)}. {facts['date']}. Reproduce: `{result['command']}`",
    ]


def gpu_table(result: dict[str, Any] | None) -> list[str]:
    """Milliseconds of a search on a card: its scan, all of it, and PyTorch's brute force beside it."""
    if result is None:
        return [NOT_YET.format("gpu")]
    brute = {(row["dim"], row["nq"]): row["ms"] for row in result["torch"] if "nq" in row}
    int8 = next((row["int8_tops"] for row in result["torch"] if "int8_tops" in row), None)
    rows = []
    for row in result["scans"]:
        beside = brute.get((row["dim"], row["nq"]))
        rows.append([
            f"{row['dim']:,}", f"{row['bits']}", f"{row['nq']:,}", f"{row['steps']['filter']:.3f}", f"{row['run']:.3f}",
            f"{row['graph']:.3f}", f"{row['of_copy_rate']:.0%}", f"{row['tops']:,.0f}",
            "" if beside is None else f"{beside:.2f}", "" if beside is None else f"{beside / row['run']:.1f}×",
        ])  # fmt: skip
    coded = ", ".join(f"{row['device_rows_s'] / 1e6:,.0f} million of {row['dim']:,}" for row in result["coding"])
    added = ", ".join(
        f"{row['add_rows_s'] / 1e6:.2g} million of {row['dim']:,} (without a GPU {row['add_on_host_rows_s'] / 1e6:.2g})"
        for row in result["coding"]
    )
    pinned = ", ".join(
        f"{row['pinned_rows_s'] / 1e6:.2g} million of {row['dim']:,} ({row['pinned_of_pcie']:.0%} of a copy)"
        for row in result["coding"]
        if "pinned_rows_s" in row
    )
    head = ["d", "bits", "queries", "scan", "search", "graph", "copy", "TOP/s", "torch", ""]
    return [
        *markdown(head, rows),
        "",
        f"Rows coded a second from the device's memory: {coded} coordinates; "
        + (f"from pinned memory of the host, and back: {pinned}; " if pinned else "")
        + f"by `add` from NumPy: {added}. "
        f"{result['card']}: copies {result['copy_bytes_s'] / 1e12:.2f} TB/s (read and written)"
        + (f", `torch._int_mm` of 8,192 cubed {int8:,.0f} TOP/s" if int8 else "")
        + f". {machine_line({'caches': {}} | result['environment'])} Reproduce: `python -m benchmarks.gpu`",
    ]


def streamed_table(result: dict[str, Any] | None) -> list[str]:
    """Milliseconds of searches by what the device holds and by filters, beside the rate of plain copies."""
    if result is None:
        return [NOT_YET.format("gpu_streamed")]
    held = list(dict.fromkeys(row["resident"] for row in result["streams"]))
    found = {(row["resident"], row["nq"]): row for row in result["streams"]}
    rows = [
        [f"{nq:,}", *(_streamed(found[name, nq]) for name in held)]
        for nq in dict.fromkeys(row["nq"] for row in result["streams"])
    ]
    filters = [[row["filter"], f"{row['sent'] / 1e6:,.0f}", _streamed(row)] for row in result["filters"]]
    rates = [row["copy_bytes_s"] / 1e9 for row in result["streams"] if row["sent"]]
    codes = result["rows"] * result["dim"] * result["bits"] / 8e9
    return [
        *markdown(["queries", *(f"holds {name}" for name in held)], rows),
        "",
        *markdown(["filter", "MB sent", "holds a tenth, 1 query"], filters),
        "",
        f"{result['rows']:,} rows of {result['dim']:,} coordinates, {result['bits']} bits, {codes:.1f} GB of codes, "
        f"k = {result['k']}: milliseconds, and bytes sent a second in parts of the rate of a plain copy from the same "
        f"pinned memory, {min(rates):.1f} to {max(rates):.1f} GB/s. {result['card']}. "
        f"{machine_line({'caches': {}} | result['environment'])} Reproduce: `python -m benchmarks.gpu_streamed`",
    ]


def _streamed(row: dict[str, Any]) -> str:
    return f"{row['ms']:.2f}" + (f" ({row['of_copy_rate']:.0%})" if row["of_copy_rate"] else "")


def several_table(result: dict[str, Any] | None) -> list[str]:
    """Milliseconds of `search` on some GPUs, and how many times as fast as on one."""
    if result is None or not result["several"]:
        return [NOT_YET.format("gpu_streamed")]
    counts = list(dict.fromkeys(row["gpus"] for row in result["several"]))
    rows = []
    for streamed in (False, True):
        found = {(row["gpus"], row["nq"]): row["ms"] for row in result["several"] if (row["streamed"] > 0) == streamed}
        for nq in dict.fromkeys(nq for _, nq in found):
            alone = found[1, nq]
            cells = (f"{found[count, nq]:.2f} ({alone / found[count, nq]:.2f}×)" for count in counts if count > 1)
            rows.append(["a quarter" if streamed else "everything", f"{nq:,}", f"{alone:.2f}", *cells])
    head = ["GPUs hold", "queries", "one GPU", *(f"{count} GPUs" for count in counts if count > 1)]
    return [
        *markdown(head, rows),
        "",
        f"`search` from NumPy to NumPy, {result['several_rows']:,} rows of {result['several_dim']:,} coordinates, "
        f"{result['bits']} bits, k = {result['k']}, milliseconds; the same answers. {result['card']}. "
        f"{machine_line({'caches': {}} | result['environment'])} Reproduce: `python -m benchmarks.gpu_streamed`",
    ]


def gpu_lists_table(result: dict[str, Any] | None) -> list[str]:
    """Queries a second of an inverted file on a card and on the CPU, batches down."""
    if result is None:
        return [NOT_YET.format("gpu_lists")]
    cpus = [result["cpu_one_thread"], result["cpu_all_threads"]]
    rows = []
    for nq, rate in result["gpu"].items():
        beside = [cell for cpu in cpus for cell in _beside(rate, cpu.get(nq))]
        rows.append([f"{int(nq):,}", f"{rate:,.0f}", *beside])
    own, facts = result.get("own"), result["environment"] | {"threads": result["threads"]}
    also = ""
    if own:
        most = max(own["gpu"], key=int)
        also = (
            f" With {_setting(own['setting'])}, recall {own['recall']:.4f}: {own['gpu'][most]:,.0f} in batches of "
            f"{int(most):,}."
        )
    same = "the same distances and ids on both" if result["equal"] else "**the answers differ**"
    return [
        *markdown(["queries", "GPU", "CPU, one thread", "", f"CPU, {result['threads']} threads", ""], rows),
        "",
        f"{result['data']}, {result['n']:,} × {result['dim']}, {result['metric']}; {result['nlist']:,} lists, "
        f"{result['bits']} bits, {result['store']} originals, {_setting(result['setting'])}: recall@{result['k']} "
        f"{result['recall']:.4f} of {result['queries']:,} queries, {same}.{also} {result['card']}, "
        f"{result['device']['nbytes'] / 1e6:,.0f} MB of its memory. {machine_line(facts)} "
        f"Reproduce: `{result['command']}`",
    ]


def _beside(rate: float, other: float | None) -> list[str]:
    """Another's rate, and how many times it `rate` is."""
    return ["", ""] if other is None else [f"{other:,.0f}", f"{rate / other:.1f}×"]


def _setting(setting: dict[str, Any]) -> str:
    gap = "" if setting["gap"] is None else f", gap {setting['gap']:,.0f}"
    return f"nprobe {setting['nprobe']}{gap}, rerank {setting['rerank']}"


def standing_table(result: dict[str, Any] | None) -> list[str]:
    """polarindex to the best other library, a set a row."""
    if result is None:
        return ["Not measured yet."]
    grid = standing(result)
    dates = sorted({run["environment"]["date"][:10] for run in sets(result)})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    rows = [list(row) for row in grid.rows]
    return [*markdown(list(grid.header), rows), "", f"Measured {when}, one thread."]


def footer(result: dict[str, Any]) -> str:
    facts = result["environment"]
    return (
        f"FAISS is trained on rows of the base set. {facts['cpu']}, {facts['threads']} thread; {versions(facts)}. "
        "Times and all rows are in `benchmarks/results/`; `datasets/README.md` says how to get the files."
    )


def readme() -> list[str]:
    """Recall against bytes."""
    results = [result for name in names("recall-*") if (result := newest(name))]
    return [*(line for result in results for line in (*table(result), "")), footer(results[0])]


def paragraphs(parts: list[str]) -> list[str]:
    return "\n\n".join(parts).splitlines()


def made(name: str) -> list[str]:
    """The lines of a block: the README's, where its mark names this program, or that of a benchmark or kernel table."""
    match name:
        case "lists":
            return lists_table(newest("lists-recall"))
        case "spectral-lists":
            return spectral_lists_table(newest("spectral-lists"))
        case "spectral-rings":
            return spectral_rings_table(newest("spectral-rings"))
        case "trellis-errors":
            return trellis_errors_table(newest("trellis"))
        case "trellis":
            return trellis_table(newest("trellis"))
        case "factors":
            return factors_table(newest("factors"))
        case "equal-bytes":
            return equal_table(newest("equal-bytes"))
        case "equal-bytes-claims":
            return equal_claims(newest("equal-bytes"))
        case "storage":
            return storage_table(newest("storage"))
        case "out-of-core":
            return out_of_core_table(newest("out-of-core"))
        case "claims":
            return claims_table(newest("claims"))
        case "flat":
            return paragraphs(code_lines(in_order(found))) if (found := newest("flat")) else [NOT_YET.format("flat")]
        case "frontier":
            found = newest("frontier")
            return paragraphs(list_lines(in_order(found), "images/")) if found else [NOT_YET.format("frontier")]
        case "gpu":
            return gpu_table(newest("gpu"))
        case "gpu-streamed":
            return streamed_table(newest("gpu_streamed"))
        case "gpu-several":
            return several_table(newest("gpu_streamed"))
        case "gpu_lists":
            return gpu_lists_table(newest("gpu_lists"))
        case "standing":
            return standing_table(newest("frontier"))
        case "shards":
            return shards_table(newest("shards"))
        case "scale":
            return costs_table(newest("scale"))
        case "tails":
            return tails_table(newest("scale"))
    return readme() if name.startswith("benchmarks/report.py") else block(name, newest("kernels"))


def filled(text: str) -> str:
    """A page with every block between its marks as the results have it."""
    return BLOCK.sub(lambda found: found[1] + "\n".join([*made(found[2]), found[3]]), text)


def pages() -> dict[Path, str]:
    shown = "benchmarks", "claims", "comparison", "gpu", "guide/choosing", "scale"
    how = "how/codes", "how/spectral", "how/trellis"
    names = ("README.md", *(f"docs/{page}.md" for page in (*shown, *how)))
    return {ROOT / name: (ROOT / name).read_text() for name in names}


def write() -> None:
    """All pages and pictures as the results have them."""
    if frontier := newest("frontier"):
        plot(frontier, IMAGES)
    for path, text in pages().items():
        path.write_text(filled(text))


def main() -> int:
    if "--check" in sys.argv[1:]:
        return int(any(filled(text) != text for text in pages().values()))
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
