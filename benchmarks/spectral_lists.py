"""Spectral codes beside plain ones of the same bits in an inverted file: recall with every list probed, and times.

    python -m benchmarks.spectral_lists FILE.hdf5 ... [--rows 60000] [--queries 1000] [--nlist 256] [--bits 1,2,4]

Writes spectral-lists.json of this machine. Both indexes have the same centroids and no originals; the seed is 0, and
neighbours are exact among the rows that are used. Times are ratios, spectral to plain, of CPU seconds on one thread, in
one process and in turn: of all queries in a batch with every list probed, and of single ones with the default nprobe.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

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
