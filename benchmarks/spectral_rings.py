"""Plain and spectral codes, EDEN's and trellis', at equal bits in flat indexes: recall, bytes, and what searches take.

    python -m benchmarks.spectral_rings --data FOLDER [--rows 60000] [--queries 1000] [--bits 1,2,3,4] FILE.hdf5 ...

Files in FOLDER have train, test and the attribute distance, as ann-benchmarks' have. Writes spectral-rings.json of this
machine. Times are CPU milliseconds a query of one thread, medians of searches that take turns in one process, each by
the scan that the index chooses."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import polarindex as pi
from benchmarks.kept import keep
from benchmarks.trellis import recall, search_times
from polarindex.bench.data import Source, load
from polarindex.sweep.results import environment

KINDS = [(codes, name) for codes in ("plain", "spectral") for name in ("eden", "trellis")]


def measured(path: Path, rows: int, queries: int, bits: list[float], repeats: int) -> dict[str, Any]:
    data = load(Source(str(path), rows, queries))
    dim, cells, kept = data.x.shape[1], [], {}
    for width in bits:
        cell: dict[str, Any] = {"bits": width}
        for codes, name in KINDS:
            if codes == "plain" and width != int(width):
                continue
            index = pi.FlatIndex(dim, data.metric, width, name, codes=codes)
            index.add(data.x)
            found = cell[f"{codes} {name}"] = {"recall": recall(index, data), "bytes": index.bytes_per_vector}
            if codes == "spectral":
                found |= {"segments": index.info()["spectral"]["segments"], "plan": index.info()["scan"]}
                kept[f"{name} {width:g} chosen"] = index
        cells.append(cell)
        print(path.stem, cell, flush=True)
    times = search_times(kept, data.q, repeats)
    print(path.stem, times, flush=True)
    return {"set": path.stem, "rows": len(data.x), "queries": len(data.q), "dim": dim, "metric": data.metric,
            "cells": cells, "times": times}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--bits", default="1,1.5,2,3,4")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    bits = [float(width) for width in options.bits.split(",")]
    whole = [int(width) if width == int(width) else width for width in bits]
    sets = [
        measured(options.data / name, options.rows, options.queries, whole, options.repeats) for name in options.files
    ]
    command = "benchmarks.spectral_rings " + " ".join(options.files)
    command += f" --rows {options.rows} --queries {options.queries} --bits {options.bits}"
    keep("spectral-rings", {"environment": environment(threads=1), "command": command, "sets": sets})


if __name__ == "__main__":
    main()
