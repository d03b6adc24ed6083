"""Write the README's results from benchmarks/results/*.json: python benchmarks/readme_tables.py [--check]

With --check nothing is written, and the exit code says whether the README shows what the results hold.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results:", "<!-- end of results -->"
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


def main() -> int:
    results = [json.loads(path.read_text()) for path in sorted((ROOT / "benchmarks" / "results").glob("recall-*.json"))]
    blocks = [line for result in results for line in (*table(result), "")]
    readme = ROOT / "README.md"
    text = readme.read_text()
    head, rest = text.split(BEGIN, 1)
    note, rest = rest.split("\n", 1)
    tail = rest.split(END, 1)[1]
    wanted = "\n".join([f"{head}{BEGIN}{note}", *blocks, footer(results[0]), f"{END}{tail}"])
    if "--check" in sys.argv[1:]:
        return int(wanted != text)
    readme.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
