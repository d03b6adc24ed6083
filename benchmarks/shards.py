"""What it costs to search shards by actors: batches and single queries beside one process, and a shard's latencies.

    python -m benchmarks.shards sift-photos-128-euclidean.hdf5 [--repeats 15] [--store none]

One index of all rows, searched with two threads, and the same rows in two shards of the same lists, each searched by an
actor of one thread; then in four shards, whose answers must be the one index's to the bit. Times are wall clock, and
contenders take turns. Needs two cores and nothing else on them. Keeps the results with those of this machine, and the
latencies of single queries, by the shard itself, for benchmarks/scale_sim.py."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import polarindex as pi
from benchmarks.kept import keep
from benchmarks.timing import alternating, machine
from polarindex.distributed import ShardedIndex
from polarindex.indexes import halves
from polarindex.sweep.dataset import load_dataset

K, BATCH = 10, 1_000
SINGLES = 300  # single queries a round
PROBES = (32, 128, 512)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("dataset", help="a file, or the name of a data set")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--store", default="none", choices=("none", "float32", "float16", "int8"))
    parser.add_argument("--rows", type=int, help="the first so many rows")
    options = parser.parse_args()
    data = load_dataset(options.dataset)
    rows, queries = np.asarray(data.train[: options.rows]), np.asarray(data.test[:BATCH])
    with tempfile.TemporaryDirectory() as folder:
        result = measured(rows, queries, data.metric, options, Path(folder))
    result["dataset"] = {"name": Path(str(options.dataset)).stem, "rows": len(rows), "dim": rows.shape[1]}
    result["environment"] = machine()
    result["command"] = f"python -m benchmarks.shards {Path(str(options.dataset)).name} --repeats {options.repeats}"
    if options.rows is None:
        keep("shards", result)
    for cell in result["cells"]:
        print(cell["what"], cell["nprobe"], f"one {cell['one']:.2f} ms, shards {cell['shards']:.2f} ms")
    return 0


def measured(rows: Any, queries: Any, metric: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import ray

    two = folder / "index"
    ShardedIndex.build(rows, two, num_shards=2, metric=metric, store=options.store, nlist=nlist_of(rows))
    frame = pi.load(two / "frame")
    whole = frame.empty_like()
    whole.add(rows)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    cells: list[dict[str, Any]] = []
    try:
        with ShardedIndex.open(two) as index:
            for nprobe in PROBES:
                cells.append(batches(whole, index, queries, nprobe, options.repeats))
                cells.append(singles(whole, index, queries, nprobe, options.repeats))
        shard = pi.load(two / "shard-00000")
        latencies = {str(nprobe): alone(frame, shard, queries, nprobe) for nprobe in PROBES}
        ShardedIndex.reshard(two, 4)
        with ShardedIndex.open(two) as index:
            same = equal(whole, index, queries)
    finally:
        ray.shutdown()
    info = whole.info()
    facts = {name: info[name] for name in ("metric", "bits", "store", "nlist", "bytes_per_vector")}
    return {**facts, "k": K, "batch": BATCH, "cells": cells, "four_shards_equal": same, "shard_ms": latencies}


def nlist_of(rows: Any) -> int:
    """As one index of all rows has them: 4 sqrt(n)."""
    return round(4 * len(rows) ** 0.5)


def batches(whole: Any, index: ShardedIndex, queries: Any, nprobe: int, repeats: int) -> dict[str, Any]:
    calls = {
        "one": lambda: whole.search(queries, K, nprobe=nprobe, num_threads=2),
        "shards": lambda: index.search(queries, K, nprobe=nprobe),
    }
    return cell("batch", nprobe, alternating(calls, repeats, time.perf_counter))


def singles(whole: Any, index: ShardedIndex, queries: Any, nprobe: int, repeats: int) -> dict[str, Any]:
    """Medians of single queries, in rounds that take turns."""
    one: list[float] = []
    shards: list[float] = []
    for number in range(repeats + 1):
        for name, found in ((whole, one), (index, shards)):
            times = []
            for query in queries[: SINGLES // repeats + 1]:
                start = time.perf_counter()
                name.search(query, K, nprobe=nprobe)
                times.append(time.perf_counter() - start)
            if number:  # the first round does not count
                found += times
    return cell("single", nprobe, {"one": one, "shards": shards})


def cell(what: str, nprobe: int, times: dict[str, list[float]]) -> dict[str, Any]:
    """Medians in milliseconds, the median of the ratios or differences of a round, and all times."""
    one, shards = (np.array(times[name]) * 1e3 for name in ("one", "shards"))
    return {
        "what": what,
        "nprobe": nprobe,
        "one": float(np.median(one)),
        "shards": float(np.median(shards)),
        "ratio": float(np.median(shards / one)),
        "more_ms": float(np.median(shards - one)),
        "p99_shards": float(np.percentile(shards, 99)),
        "times": {"one": one.round(4).tolist(), "shards": shards.round(4).tolist()},
    }


def alone(frame: Any, shard: Any, queries: Any, nprobe: int) -> list[float]:
    """Milliseconds of a shard's own part of single queries, in this process."""
    times = []
    for query in queries:
        question, _ = halves.asked(frame, query[None], frame._probes(nprobe, None), 8, halves.in_registers(frame))
        start = time.perf_counter()
        halves.candidates(shard, question, None, K, None, True)
        times.append(1e3 * (time.perf_counter() - start))
    return [round(value, 5) for value in times]


def equal(whole: Any, index: ShardedIndex, queries: Any) -> bool:
    """Whether all answers are those of one index, to the bit."""
    for nprobe in (*PROBES, whole.nlist):
        got = index.search(queries, K, nprobe=nprobe, exact_scan=True)
        wanted = whole.search(queries, K, nprobe=nprobe, exact_scan=True)
        if not all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True)):
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
