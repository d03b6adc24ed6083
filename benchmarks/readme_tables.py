"""Write the results in README.md and docs/benchmarks.md from benchmarks/results/*.json.

    python benchmarks/readme_tables.py [--check]

With --check nothing is written, and the exit code says whether both show what the results hold.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from kernel_tables import block

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
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


def footer(result: dict[str, Any]) -> str:
    facts = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"FAISS is trained on rows of the base set. {facts['cpu']}, {facts['threads']} thread; {versions}. Times and "
        "all rows are in `benchmarks/results/`; `datasets/README.md` says how to get the files."
    )


def readme() -> list[str]:
    """Recall against bytes."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("recall-*.json"))]
    return [*(line for result in results for line in (*table(result), "")), footer(results[0])]


def filled(text: str) -> str:
    """A page with every block between its marks as the results have it.

    A block's mark names a table of kernel_tables, or this program: then it is the README's.
    """
    path = RESULTS / "kernels.json"
    kernels = json.loads(path.read_text()) if path.exists() else None

    def lines(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        held = readme() if name.startswith("benchmarks/readme_tables.py") else block(name, kernels)
        return begin + "\n".join([*held, end])

    return BLOCK.sub(lines, text)


def main() -> int:
    pages = {path: path.read_text() for path in (ROOT / "README.md", ROOT / "docs" / "benchmarks.md")}
    wanted = {path: filled(text) for path, text in pages.items()}
    if "--check" in sys.argv[1:]:
        return int(wanted != pages)
    for path, text in wanted.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
