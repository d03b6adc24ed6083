"""Scales and shifts of 16 bits beside those of 32: what they cost of the recall, and the bytes that they save.

    python -m benchmarks.factors [--rows 60000] [--queries 1000] FILE.hdf5 ...

Files have train and test, as ann-benchmarks' have; each is searched by every metric. Of lists all are probed. Writes
factors.json of this machine; nothing is timed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import polarindex as pi
from benchmarks.kept import keep
from polarindex.sweep.results import environment

METRICS = ("l2", "ip", "cosine")
FLAT = (("eden", 1), ("eden", 2), ("eden", 4), ("trellis", 2))
LISTS = (("eden", 4),)
NLIST, K = 100, 10
Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


def nearest(x: Floats, q: Floats, metric: str) -> Ids:
    """The K nearest of each query, by products in float32."""
    if metric == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    halves = (x.astype(np.float64) ** 2).sum(axis=1) / 2 if metric == "l2" else np.zeros(len(x))
    found = [
        np.argpartition(halves.astype(np.float32) - part @ x.T, K, axis=1)[:, :K]
        for part in np.array_split(q, max(1, len(q) // 100))
    ]
    return np.concatenate(found)


def recall(found: Ids, truth: Ids) -> float:
    return float(np.mean([len(set(one) & set(other)) / K for one, other in zip(truth, found, strict=True)]))


def cell(x: Floats, q: Floats, truth: Ids, metric: str, kind: str, code: tuple[str, int]) -> dict[str, Any]:
    """Recall and bytes a vector of one code, with factors of 32 and of 16 bits."""
    name, bits = code
    row: dict[str, Any] = {"metric": metric, "kind": kind, "quantizer": name, "bits": bits}
    for factor_bits in (32, 16):
        if kind == "flat":
            flat = pi.FlatIndex(x.shape[1], metric, bits, name, factor_bits=factor_bits)
            flat.add(x)
            found = flat.search(q, K, exact_scan=True)[1]
            row[f"bytes_{factor_bits}"] = flat.bytes_per_vector
        else:
            lists = pi.IVFIndex(x.shape[1], metric, bits, name, nlist=NLIST, factor_bits=factor_bits).fit(x)
            lists.add(x)
            found = lists.search(q, K, nprobe=NLIST)[1]
            row[f"bytes_{factor_bits}"] = lists.bytes_per_vector
        row[f"recall_{factor_bits}"] = recall(found, truth)
    return row


def measured(path: Path, rows: int, queries: int) -> dict[str, Any]:
    with h5py.File(path) as file:
        x, q = file["train"][:rows].astype(np.float32), file["test"][:queries].astype(np.float32)
    cells = []
    for metric in METRICS:
        truth = nearest(x, q, metric)
        for kind, codes in (("flat", FLAT), ("lists", LISTS)):
            for code in codes:
                cells.append(cell(x, q, truth, metric, kind, code))
                print(path.stem, cells[-1], flush=True)
    return {"set": path.stem, "rows": len(x), "queries": len(q), "dim": x.shape[1], "cells": cells}


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
