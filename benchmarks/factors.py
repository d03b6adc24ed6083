"""Scales and shifts of 16 bits beside those of 32: what they cost of the recall, and the bytes that they save.

    python -m benchmarks.factors [--rows 60000] [--queries 1000] FILE.hdf5 ...

Files have train and test, as ann-benchmarks' have; each is searched by every metric. Of lists all are probed. Writes
factors.json of this machine; nothing is timed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import polarindex as pi
from benchmarks.kept import keep
from polarindex.bench.data import Data, K, Source, load
from polarindex.sweep.groundtruth import exact_neighbors
from polarindex.sweep.metrics import overlap_at
from polarindex.sweep.results import environment

METRICS = ("l2", "ip", "cosine")
FLAT = (("eden", 1), ("eden", 2), ("eden", 4), ("trellis", 2))
LISTS = (("eden", 4),)
NLIST = 100


def cell(data: Data, truth: Any, metric: str, kind: str, code: tuple[str, int]) -> dict[str, Any]:
    """Recall and bytes a vector of one code, with factors of 32 and of 16 bits."""
    name, bits = code
    row: dict[str, Any] = {"metric": metric, "kind": kind, "quantizer": name, "bits": bits}
    for factor_bits in (32, 16):
        if kind == "flat":
            flat = pi.FlatIndex(data.x.shape[1], metric, bits, name, factor_bits=factor_bits)
            flat.add(data.x)
            found = flat.search(data.q, K, exact_scan=True)[1]
            row[f"bytes_{factor_bits}"] = flat.bytes_per_vector
        else:
            lists = pi.IVFIndex(data.x.shape[1], metric, bits, name, nlist=NLIST, factor_bits=factor_bits).fit(data.x)
            lists.add(data.x)
            found = lists.search(data.q, K, nprobe=NLIST)[1]
            row[f"bytes_{factor_bits}"] = lists.bytes_per_vector
        row[f"recall_{factor_bits}"] = overlap_at(found, truth, K)
    return row


def measured(path: Path, rows: int, queries: int) -> dict[str, Any]:
    data = load(Source(str(path), rows, queries))
    cells = []
    for metric in METRICS:
        truth = exact_neighbors(data.x, data.q, K, metric)[0]
        for kind, codes in (("flat", FLAT), ("lists", LISTS)):
            for code in codes:
                cells.append(cell(data, truth, metric, kind, code))
                print(path.stem, cells[-1], flush=True)
    return {"set": path.stem, "rows": len(data.x), "queries": len(data.q), "dim": data.x.shape[1], "cells": cells}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--queries", type=int, default=1000)
    options = parser.parse_args()
    sets = [measured(path, options.rows, options.queries) for path in options.files]
    command = f"benchmarks.factors {' '.join(path.name for path in options.files)}"
    command += f" --rows {options.rows} --queries {options.queries}"
    facts = {"environment": environment(threads=1), "command": command, "nlist": NLIST}
    keep("factors", {**facts, "sets": sets})


if __name__ == "__main__":
    main()
