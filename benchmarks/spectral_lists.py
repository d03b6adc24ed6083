"""Spectral codes beside plain ones of the same bits in an inverted file: recall with every list probed, and times.

    python -m benchmarks.spectral_lists FILE.hdf5 ... [--rows 60000] [--queries 1000] [--nlist 256] [--bits 1,2,4]

Writes spectral-lists.json of this machine. Both indexes have the same centroids and no originals; the seed is 0, and
neighbours are exact among the rows that are used. Times are ratios, spectral to plain, of CPU seconds on one thread, in
one process and in turn: of all queries in a batch with every list probed, and of single ones with the default nprobe;
and of spectral codes a search whose bounds leave rows out to the full scan, of single queries, of batches of 64 and of
all, with the default nprobe, four times as many lists, and every list. That both find the same is checked.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import polarindex as pi
from benchmarks.kept import keep
from benchmarks.timing import alternating
from polarindex.sweep.dataset import Dataset, load_dataset
from polarindex.sweep.metrics import overlap_at
from polarindex.sweep.results import environment

_SINGLES = 100
_REPEATS = 5


def rows(data: Dataset, nlist: int, all_bits: list[float]) -> list[dict[str, Any]]:
    dim, found = data.train.shape[1], []
    centroids = pi.IVFIndex(dim, data.metric, nlist=nlist).fit(data.train).centroids
    for bits in all_bits:
        row: dict[str, Any] = {"bits": bits}
        made = {}
        for codes in ("plain", "spectral") if bits == int(bits) else ("spectral",):
            index = pi.IVFIndex(dim, data.metric, bits, nlist=nlist, codes=codes)
            index.fit(data.train, centroids=centroids).add(data.train)
            ids = index.search(data.test, 10, nprobe=nlist)[1]
            row[codes] = round(float(overlap_at(ids, data.neighbors, 10)), 4)
            row[f"{codes}_bytes"] = index.bytes_per_vector
            made[codes] = index
        row["segments"] = made["spectral"].info()["spectral"]["segments"]
        if len(made) == 2:
            row |= ratios(made, data, nlist)
        row["pruned"] = pruned(made["spectral"], data)
        print(row, flush=True)
        found.append(row)
    return found


def ratios(made: dict[str, Any], data: Dataset, nlist: int) -> dict[str, float]:
    """CPU seconds of spectral codes to those of plain ones."""

    def batch(index: pi.IVFIndex) -> None:
        index.search(data.test, 10, nprobe=nlist, num_threads=1)

    def single(index: pi.IVFIndex) -> None:
        for query in data.test[:_SINGLES]:
            index.search(query, 10, num_threads=1)

    found = {}
    for name, work in (("batch_ratio", batch), ("single_ratio", single)):
        times = alternating({codes: lambda i=index, f=work: f(i) for codes, index in made.items()}, _REPEATS)
        medians = {codes: statistics.median(mine) for codes, mine in times.items()}
        found[name] = round(medians["spectral"] / medians["plain"], 2)
    return found


def pruned(index: pi.IVFIndex, data: Dataset) -> list[dict[str, float]]:
    """CPU seconds to those of the full scan of the same codes, by lists that are probed and queries at a time."""
    found, default = [], index.info()["nprobe"]
    for nprobe in (default, 4 * default, index.nlist):

        def search(exact: bool, size: int, count: int, nprobe: int = nprobe) -> list[Any]:
            parts = (data.test[at : min(at + size, count)] for at in range(0, count, size))
            how: dict[str, Any] = {"nprobe": nprobe, "num_threads": 1, "exact_scan": exact}
            return [index.search(part, 10, **how) for part in parts]

        row: dict[str, float] = {"nprobe": nprobe}
        for name, size, most in (("single", 1, _SINGLES), ("batch_of_64", 64, 192), ("batch", len(data.test), 10**6)):
            count = min(most, len(data.test))
            one, other = (
                [array for part in search(exact, size, count) for array in part] for exact in (False, True)
            )
            if not all(map(np.array_equal, one, other)):
                raise SystemExit(f"nprobe={nprobe}, {name}: the full scan finds something else")
            ways: dict[str, Callable[[], object]] = {
                str(exact): lambda e=exact, s=size, c=count: search(e, s, c)  # type: ignore[misc]
                for exact in (False, True)
            }
            times = alternating(ways, _REPEATS, time.thread_time)
            row[name] = round(statistics.median(times["False"]) / statistics.median(times["True"]), 3)
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--nlist", type=int, default=256)
    parser.add_argument("--bits", default="1,2,4")
    options = parser.parse_args()
    all_bits = [float(bits) if "." in bits else int(bits) for bits in options.bits.split(",")]
    sets = []
    for file in options.files:
        print(file)
        data = load_dataset(file, rows=options.rows, queries=options.queries)
        facts = {"name": Path(file).stem, "metric": data.metric, "rows": len(data.train), "dim": data.train.shape[1]}
        sets.append(facts | {"results": rows(data, options.nlist, all_bits)})
    names = " ".join(Path(file).name for file in options.files)
    arguments = f"--rows {options.rows} --queries {options.queries} --nlist {options.nlist} --bits {options.bits}"
    result = {
        "nlist": options.nlist,
        "queries": options.queries,
        "command": f"python -m benchmarks.spectral_lists {names} {arguments}",
        "environment": environment(threads=1),
        "sets": sets,
    }
    keep("spectral-lists", result)


if __name__ == "__main__":
    main()
