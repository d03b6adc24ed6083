"""Trellis codes beside EDEN's at equal bits: error, recall, and what coding and searching take.

    python -m benchmarks.trellis --data FOLDER [--rows 60000] [--queries 1000] [--seeds 3] [--repeats 7] FILE.hdf5 ...

Files in FOLDER have train, test and the attribute distance, as ann-benchmarks' have. Writes trellis.json of this
machine. Times are CPU seconds of one thread, medians of searches that take turns in one process; EDEN's are those of
its full scan at 4 bits, and of the scan that its plan chooses."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import polarindex as pi
from benchmarks.kept import keep
from benchmarks.timing import alternating
from polarindex.bench.data import Data, Floats, K, Source, load
from polarindex.indexes.threads import limited
from polarindex.quantizers import make_quantizer
from polarindex.sweep.metrics import overlap_at
from polarindex.sweep.results import environment

BITS, NAMES = (1, 2, 3, 4), ("eden", "trellis", "trellis-12")
BATCH, SINGLES = 64, 20
CODED = 4096  # rows by which the encoder's rate is known
DIMS = (128, 384, 784)


def errors(bits: int, dim: int) -> dict[str, Any]:
    """vNMSE of normal rows with the scale of least error, which is the distortion, and vectors coded a second."""
    x = np.random.default_rng((bits, dim)).standard_normal((CODED, dim)).astype(np.float32)
    found: dict[str, Any] = {"bits": bits, "dim": dim}
    for name in NAMES:
        quantizer = make_quantizer(name, dim, bits)
        y = quantizer.decode(quantizer.encode(x)).astype(np.float64)
        along = np.einsum("ij,ij->i", x, y) ** 2 / (np.einsum("ij,ij->i", y, y) * np.einsum("ij,ij->i", x, x))
        found[f"{name}_distortion"] = float(np.mean(1 - along))
        with limited(1):
            times = alternating({name: lambda: quantizer.encode(x)}, 5, time.thread_time)[name]  # noqa: B023  # at once
        found[f"{name}_coded_per_second"] = CODED / min(times)
    return found


def recall(index: pi.FlatIndex, data: Data) -> float:
    return overlap_at(index.search(data.q, K, exact_scan=True, num_threads=1)[1], data.true, K)


def search_times(indexes: dict[str, pi.FlatIndex], q: Floats, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds a query, in a batch and alone."""
    calls = {}
    for name, index in indexes.items():
        exact = not name.endswith("chosen")
        calls[name, "batch"] = lambda index=index, exact=exact: index.search(
            q[:BATCH], K, num_threads=1, exact_scan=exact
        )
        calls[name, "single"] = lambda index=index, exact=exact: [
            index.search(q[i : i + 1], K, num_threads=1, exact_scan=exact) for i in range(SINGLES)
        ]
    times = alternating({" ".join(key): call for key, call in calls.items()}, repeats, time.thread_time)
    counts = {"batch": BATCH, "single": SINGLES}
    return {
        name: {way: 1e3 * float(np.median(times[f"{name} {way}"])) / count for way, count in counts.items()}
        for name in indexes
    }


def measured(path: Path, rows: int, queries: int, seeds: int, repeats: int) -> dict[str, Any]:
    data = load(Source(str(path), rows, queries))
    metric, dim = data.metric, data.x.shape[1]
    kept, cells = {}, []
    for bits in BITS:
        cell: dict[str, Any] = {"bits": bits}
        for name in NAMES:
            found = []
            for seed in range(seeds):
                index = pi.FlatIndex(dim, metric, bits, name, seed)
                index.add(data.x)
                found.append(recall(index, data))
                if seed == 0 and (name != "eden" or bits == 4):
                    kept[f"{name} {bits}"] = index
            cell |= {f"{name}_recall": float(np.mean(found)), f"{name}_deviation": float(np.std(found, ddof=1))}
            cell[f"{name}_bytes"] = index.bytes_per_vector
        cells.append(cell)
        print(path.stem, cell, flush=True)
    kept["eden 4 chosen"] = kept["eden 4"]
    times = search_times(kept, data.q, repeats)
    print(path.stem, times, flush=True)
    return {"set": path.stem, "rows": len(data.x), "queries": len(data.q), "dim": dim, "metric": metric, "seeds": seeds,
            "cells": cells, "times": times}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    codes = [errors(bits, dim) for dim in DIMS for bits in BITS]
    print("\n".join(map(str, codes)), flush=True)
    sets = [
        measured(options.data / name, options.rows, options.queries, options.seeds, options.repeats)
        for name in options.files
    ]
    command = "benchmarks.trellis " + " ".join(options.files)
    command += f" --rows {options.rows} --queries {options.queries} --seeds {options.seeds}"
    keep("trellis", {"environment": environment(threads=1), "command": command, "codes": codes, "sets": sets})


if __name__ == "__main__":
    main()
