"""The speed of the kernels: against the machine's own limits, against turbovec and FAISS, and against themselves.

    python benchmarks/kernels.py [--quick] [--only NAME,...] [--data FILE.hdf5 ...] [--out FILE.json]

Writes benchmarks/results/kernels.json, or kernels-partial.json beside it if only a part is measured. One thread, CPU
time, medians; docs/benchmarks.md says what is measured, and benchmarks/readme_tables.py writes its tables.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FORMAT = "polarindex-kernels-1"
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little data and three repeats, to see that it runs")
    parser.add_argument("--only", default="", help="names of suites, with commas between")
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="files in the ann-benchmarks layout")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def chosen(only: str, suites: list[str]) -> list[str]:
    names = only.split(",") if only else suites
    for name in names:
        if name not in suites:
            raise SystemExit(f"--only must name some of {', '.join(suites)}; got {name!r}")
    return names


def written(result: dict[str, Any]) -> str:
    """JSON with one cell a line."""
    head = json.dumps({key: value for key, value in result.items() if not isinstance(value, list)}, indent=1)
    lists = [
        f' "{key}": [\n' + ",\n".join("  " + json.dumps(row) for row in value) + "\n ]"
        for key, value in result.items()
        if isinstance(value, list)
    ]
    return ",\n".join([head.removesuffix("\n}"), *lists]) + "\n}\n"


def main() -> None:
    options = arguments()
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))  # NumPy's BLAS, FAISS and turbovec read them when imported
    from kernel_cells import SUITES, Setup
    from timing import Cell, machine, rounded

    from polarindex.kernels import selected

    setup = Setup(options.quick, tuple(options.data))
    names = chosen(options.only, list(SUITES))
    out = options.out or default_out(whole=not options.quick and names == list(SUITES))
    out.parent.mkdir(exist_ok=True)
    cells: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    result = {
        "format": FORMAT,
        "command": command(options),
        "quick": options.quick,
        "repeats": setup.repeats,
        "environment": {**machine(), "isa": selected()},
        "cells": cells,
        "skipped": skipped,
    }
    for name in names:
        for found in SUITES[name](setup):
            if isinstance(found, Cell):
                cells.append(found.as_dict())
                setting = " ".join(f"{key} {value}" for key, value in found.what.items())
                facts = " ".join(f"{key} {rounded(value)}" for key, value in found.facts.items())
                print(f"{name:8} {found.who:24} {setting}: {found.median:.5g} {found.unit}  {facts}", flush=True)
            else:
                skipped.append(vars(found))
                print(f"{name:8} {found.who:24} skipped: {found.why}", flush=True)
        out.write_text(written(result))  # after every suite: a later one that fails costs only itself
    print(f"wrote {out}")


def default_out(whole: bool) -> Path:
    return RESULTS / ("kernels.json" if whole else "kernels-partial.json")


def command(options: argparse.Namespace) -> str:
    """What was called, without the folders of this machine."""
    parts = ["python benchmarks/kernels.py", *["--quick"] * options.quick]
    if options.only:
        parts.append(f"--only {options.only}")
    if options.data:
        parts.append("--data " + " ".join(path.name for path in options.data))
    return " ".join(parts)


if __name__ == "__main__":
    main()
