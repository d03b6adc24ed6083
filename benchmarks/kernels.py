"""The speed of the kernels: against the machine's own limits, against turbovec and FAISS, and against themselves.

    python -m benchmarks.kernels [--quick] [--only NAME,...] [--data FILE.hdf5 ...] [--out FILE.json]

Writes kernels.json of this machine, or kernels-partial.json if only a part is measured. One thread, CPU time, medians;
docs/benchmarks.md says what is measured, and benchmarks/report.py writes its tables.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from polarindex.bench.threads import one_thread

FORMAT = "polarindex-kernels-1"


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


def main() -> None:
    options = arguments()
    one_thread()  # before any of these is imported
    from benchmarks.kept import place
    from benchmarks.kernel_cells import SUITES, Setup
    from benchmarks.timing import Cell, machine, rounded
    from polarindex.bench.result import lines
    from polarindex.kernels import selected

    setup = Setup(options.quick, tuple(options.data))
    names = chosen(options.only, list(SUITES))
    whole = not options.quick and names == list(SUITES)
    out = options.out or place("kernels" if whole else "kernels-partial")
    out.parent.mkdir(parents=True, exist_ok=True)
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
        out.write_text(lines(result))  # after every suite: a later one that fails costs only itself
    print(f"wrote {out}")


def command(options: argparse.Namespace) -> str:
    """What was called, without the folders of this machine."""
    parts = ["python -m benchmarks.kernels", *["--quick"] * options.quick]
    if options.only:
        parts.append(f"--only {options.only}")
    if options.data:
        parts.append("--data " + " ".join(path.name for path in options.data))
    return " ".join(parts)


if __name__ == "__main__":
    main()
